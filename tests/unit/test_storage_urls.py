"""Storages by URL: what is understood, what is refused, and a repository in a bucket by its URL alone."""

from __future__ import annotations

from urllib.parse import quote

import pytest

import icechunk_virtual as icv
from icechunk_virtual.cli import main
from icechunk_virtual.opening import open_repository
from icechunk_virtual.storage_urls import cloud_storage
from tests.support.clouds import KEYS, Bucket


@pytest.mark.parametrize(
    ("url", "storage"),
    [
        ("s3://b/p/q%20r/", icv.s3_storage(bucket="b", prefix="p/q r")),
        ("S3://Bucket", icv.s3_storage(bucket="Bucket", prefix="")),
        ("s3://b/p?region=x&anonymous", icv.s3_storage(bucket="b", prefix="p", region="x", anonymous=True)),
        (
            "s3://b/p?endpoint_url=http://h:1&force_path_style=true",
            icv.s3_storage(bucket="b", prefix="p", endpoint_url="http://h:1", allow_http=True, force_path_style=True),
        ),
        ("tigris://b/p?region=fra", icv.tigris_storage(bucket="b", prefix="p", region="fra")),
        ("r2://b/p?account_id=x", icv.r2_storage(bucket="b", prefix="p", account_id="x")),
        ("gs://b/p", icv.gcs_storage(bucket="b", prefix="p")),
        ("gcs://b/p?anonymous=true", icv.gcs_storage(bucket="b", prefix="p", anonymous=True)),
        ("az://c/p?account=me", icv.azure_storage(account="me", container="c", prefix="p")),
    ],
)
def test_urls(url: str, storage: icv.Storage) -> None:
    assert cloud_storage(url) == storage


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://me:hushhush@b/p?sig=hushhush", "no repositories at ftp:// URLs, only at paths, file://, s3://"),
        ("s3:///p", "name a bucket, s3://BUCKET/PREFIX"),
        ("s3://key:hushhush@b/p", "s3://b/p: leave out what is before the @"),
        ("s3://b/p#1?region=x", "a # in a name is written %23"),
        ("az://c/p", "az://c/p?account=NAME"),
        ("s3://b?secret_access_key=hushhush", "Credentials come from the environment"),
        ("s3://b?anonymous=perhaps", "anonymous=perhaps: true or false is needed"),
        ("s3://b?network_stream_timeout_seconds=x", "network_stream_timeout_seconds=x: invalid literal"),
    ],
)
def test_refused(url: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=reason.replace("?", r"\?")):
        cloud_storage(url)
    assert main(["log", url]) == 1
    assert "hushhush" not in capsys.readouterr().err


def test_a_repository_in_a_bucket(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS["access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS["secret_access_key"])
    url = f"s3://{bucket.name}/my/repo?region=us-east-1&endpoint_url={quote(bucket.proxy.url)}"
    assert main(["create", url]) == 0
    assert main(["branch", "create", url, "dev"]) == 0
    assert main(["log", url, "dev"]) == 0
    assert "Repository initialized" in capsys.readouterr().out
    assert open_repository(url).list_branches() == {"main", "dev"}
    assert main(["log", url.replace("my/repo", "nothing")]) == 1
    assert "there is no repository at s3://" in capsys.readouterr().err
    assert main(["log", url.replace(bucket.name, "no-such-bucket")]) == 1
    assert "NoSuchBucket" in capsys.readouterr().err
