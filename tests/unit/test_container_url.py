"""What the text of a location means, and which texts are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from icechunk_virtual.containers.url import check_location, check_prefix, file_url, local_path
from icechunk_virtual.errors import InvalidLocation


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("file:///a/b", "file:///a/b"),
        ("file:/a/b", "file:///a/b"),
        ("FILE:///a/b", "file:///a/b"),
        ("file://localhost/a/b", "file:///a/b"),
        ("file://LocalHost/a/b", "file:///a/b"),
        ("file:////a//b/", "file:///a/b"),
        ("file:///a%20b", "file:///a b"),
        ("file:///a b", "file:///a b"),
        ("file:///a%2520b", "file:///a%20b"),  # once
        ("file:///100%.nc", "file:///100%.nc"),
        ("file:///%zz", "file:///%zz"),
        ("file:///what?.nc#1", "file:///what?.nc#1"),
        ("file:///a%5Cb", "file:///a\\b"),
        ("file:///.hidden/..a/b..", "file:///.hidden/..a/b.."),
        ("file:///%C3%A9/\u00e9", "file:///\u00e9/\u00e9"),
        ("file:///%FF", "file:///\udcff"),
        ("s3://Bucket_X.y/a", "s3://Bucket_X.y/a"),
        ("S3://bucket/A", "s3://bucket/A"),
        ("s3://bucket//a///b.nc", "s3://bucket//a///b.nc"),
        ("s3://bucket/a/", "s3://bucket/a/"),
        ("s3://bucket/a?versionId=1#f", "s3://bucket/a?versionId=1#f"),
        ("s3://bucket/a\\b", "s3://bucket/a\\b"),
        ("s3://bucket/a+b&c=d~e!f'(g)*,;:@$[]|^", "s3://bucket/a+b&c=d~e!f'(g)*,;:@$[]|^"),
        ("s3://bucket:9000/a", "s3://bucket:9000/a"),
        ("http://Host.COM:8080/a/b", "http://host.com:8080/a/b"),
        ("http://h:80/a", "http://h/a"),
        ("https://h:443/a", "https://h/a"),
        ("https://h:80/a", "https://h:80/a"),
        ("http://[::1]:8000/a", "http://[::1]:8000/a"),
        ("http://h/a?b=/c#d", "http://h/a"),
        ("ftp://h/a", "ftp://h/a"),
        ("memory://x/a", "memory://x/a"),
    ],
)
def test_meaning(text: str, canonical: str) -> None:
    location = check_location(text)
    assert location.canonical == canonical
    assert location.text == str(location) == text


def test_parts() -> None:
    location = check_location("http://H:8080/a%20b/c?d=%20#e")
    assert (location.scheme, location.host, location.port) == ("http", "h", 8080)
    assert (location.path, location.key, location.query) == ("/a b/c", "a b/c", "?d=%20")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'error parsing virtual ref URL: ""'),
        ("/a/b", 'error parsing virtual ref URL: "/a/b"'),
        ("a/b", "relative URL"),
        ("notaurl", "relative URL"),
        (" s3://b/a", "relative URL"),
        ("s3://bu cket/a", "error parsing virtual ref URL"),
        ("s3://bucket", "virtual reference has no path segments s3://bucket"),
        ("s3://bucket/", "no path segments"),
        ("s3://", "error parsing bucket name"),
        ("s3:bucket/a", "no path segments"),
        ("mailto:a@b", "no path segments"),
        ("file:a", "no path segments"),
        ("file:///", "no path segments"),
        ("file://", "no path segments"),
        ("s3:///a", "error parsing bucket name from virtual ref URL s3:///a"),
        ("http://:80/a", "error parsing bucket name"),
        ("http://?/a", "error parsing bucket name"),
        ("http://h:99999/a", "port"),
        ("http://h:8x/a", "port"),
        ("http://[::1/a", "port|host"),
        ("file://server/share", "three slashes"),
        ("file://localhost:80/a", "three slashes"),
        ("s3://b/%FF", "UTF-8"),
        ("file:///a%00b", "NUL"),
        ("s3://\u24d1ucket/a", "ASCII"),
        ("http://\uff45xample.com/a", "ASCII"),
        ("s3://b%2Fc/a", "host"),
        ("s3://../a", "host"),
        ("s3://./a", "host"),
        ("s3://user:password@bucket/a", "user info"),
        ("http://good@evil/a", "user info"),
        ("abfs://container@account.dfs.core.windows.net/a", "abfs://container/path, and name the account"),
        ("file:///a\\b", "backslash"),
        ("http://h\\@evil/a", "backslash"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidLocation, match=message) as caught:
        check_location(text)
    assert caught.value.location == text


def test_password_is_not_in_the_text_of_unrelated_parts() -> None:
    assert check_location("s3://bucket/a@b").key == "a@b"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("file:///data", None),
        ("file:///data/", "file:///data/"),
        ("file:/data//", "file:///data/"),
        ("file:///a%20b/", "file:///a b/"),
        ("file:///", None),
        ("file:////", None),
        ("s3://b/", "s3://b/"),
        ("s3://b", None),
        ("s3://b/p/", "s3://b/p/"),
        ("s3://b/p?/", "s3://b/p?/"),
        ("HTTP://H:80/p/", "http://h/p/"),
        ("http://h/p?/", None),
        ("http://h/p#/", None),
        ("http://h/p/../", None),
    ],
)
def test_prefixes(text: str, canonical: str | None) -> None:
    if canonical is None:
        with pytest.raises(InvalidLocation):
            check_prefix(text)
    else:
        assert check_prefix(text).canonical == canonical


@pytest.mark.parametrize(
    "name", ["plain.nc", "a b%20.nc", "q?.nc#1", "\u00e9\u65e5.nc", "[x]{y}.nc", 'q"<>|^`.nc', "n\nl"]
)
def test_url_of_a_file_means_that_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    url = file_url(path)
    assert url.isascii()
    assert url.startswith("file:///")
    assert local_path(check_location(url)) == str(path)


def test_url_of_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff\xfe"
    url = file_url(os.fsdecode(path))
    assert url.endswith("/%FF%FE")
    assert os.fsencode(local_path(check_location(url))) == path


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert file_url("a/../b.nc") == file_url(tmp_path / "b.nc")
