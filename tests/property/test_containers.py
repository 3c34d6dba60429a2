"""Laws of locations, prefixes and ranges."""

from __future__ import annotations

import itertools
import os
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from icechunk_virtual.containers.authorize import Authorization
from icechunk_virtual.containers.container import VirtualChunkContainer, local_filesystem_store
from icechunk_virtual.containers.expand import natural_key
from icechunk_virtual.containers.prefixes import match_prefixes
from icechunk_virtual.containers.ranges import merge_ranges, slice_ranges
from icechunk_virtual.containers.url import check_location, check_prefix, file_url, local_path
from icechunk_virtual.errors import InvalidLocation, NoContainer
from icechunk_virtual.model.strings import Strings

PIECES = (
    "/", "//", "\\", ".", "..", "%", "%2e", "%2E", "%2f", "%2F", "%5c", "%00", "%25", "%20", "%C3%A9", "%FF", "?", "#",
    "@", ":", ":80", " ", "a", "b", "d", "data", "x.nc", ".hidden", "..a", "a..", "\u00e9", "\uff0e", "\u2028", "\x00",
    "\n", "\x7f", "\x85", "~", "*", ";", "localhost", "h", "H",
)  # fmt: skip
STARTS = (
    "file:///", "file:/", "file://localhost/", "FILE:///data/", "file:///data/", "file:///data/d/", "s3://b/",
    "s3://b/data/", "S3://b/", "http://h/", "http://H/data/", "http://h:80/data/", "http://h:81/", "", "x",
)  # fmt: skip

rest = st.lists(st.sampled_from(PIECES) | st.text(max_size=2), max_size=6).map("".join)
texts = st.builds(str.__add__, st.sampled_from(STARTS), rest).filter(lambda t: t.isprintable() or t.isascii())
PREFIXES = [
    check_prefix(p)
    for p in ("file:///data/", "file:///data/d/", "s3://b/data/", "http://h/data/", "file:///a b/", "file:///\u00e9/")
]


def plain_match(texts: list[str]) -> list[bool] | str:
    """The same, one by one; the text at fault if there is one."""
    found = []
    for text in texts:
        try:
            canonical = check_location(text).canonical
        except InvalidLocation:
            return text
        found.append(any(canonical.startswith(p.canonical) for p in PREFIXES))
    return found


@given(st.lists(texts, max_size=12))
@example(["file:///data/a", "file:///data/b", "file:////data/c", "file:///data//d", "file:///data/d/", "file:///data"])
@example([f"s{i}://h/x" for i in range(40)] + [f"s{i}://h/y" for i in range(40)])
def test_columns_judge_like_one_by_one(locations: list[str]) -> None:
    expected = plain_match(locations)
    if isinstance(expected, str):
        with pytest.raises(InvalidLocation) as caught:
            match_prefixes(Strings.of(locations), PREFIXES)
        assert caught.value.location == expected
    else:
        assert match_prefixes(Strings.of(locations), PREFIXES).tolist() == expected


@given(st.lists(texts.filter(lambda t: isinstance(plain_match([t]), list)), max_size=12))
def test_columns_judge_legal_locations_like_one_by_one(locations: list[str]) -> None:
    assert match_prefixes(Strings.of(locations), PREFIXES).tolist() == plain_match(locations)


@pytest.mark.parametrize(
    "rest",
    [
        ".",
        "..",
        "a/.",
        "a/..",
        "/",
        "a/",
        "a//b",
        "",
        "a.",
        "./a",
        "../a",
        ".a",
        "..a",
        "a/.b",
        "\u2028a",
        "\x85",
        "%2e%2e",
    ]
    + ["\x85", "%2e%2e", "%20", "a?", "a#", "\\", "\x7f", "\n", "\u00e9", "a:b@c"],
)
@pytest.mark.parametrize("start", ["file:///data/", "s3://b/data/", "http://h/data/"])
def test_columns_know_what_is_not_plain(start: str, rest: str) -> None:
    locations = [start + "a", start + rest, start + "b"]  # the first one is judged by itself
    try:
        expected = [True, check_location(start + rest).canonical.startswith(start), True]
    except InvalidLocation:
        with pytest.raises(InvalidLocation):
            match_prefixes(Strings.of(locations), PREFIXES)
    else:
        assert match_prefixes(Strings.of(locations), PREFIXES).tolist() == expected


def test_columns_longer_than_a_block() -> None:
    locations = [f"file:///{'data' if i % 3 else 'other'}/{i}" for i in range(70_000)]
    found = match_prefixes(Strings.of(locations), PREFIXES).tolist()
    assert found == [bool(i % 3) for i in range(70_000)]


@given(st.text())
def test_any_text_is_a_location_or_refused(text: str) -> None:
    try:
        location = check_location(text)
    except InvalidLocation:
        return
    assert location.text == text
    assert location.path.startswith("/")


@given(texts)
def test_nothing_leaves_the_prefix(text: str) -> None:
    container = VirtualChunkContainer("file:///data/", local_filesystem_store("/"))
    authorization = Authorization({"file:///data/": container}, {"file:///data/": None})
    try:
        authorization.readable(text)
    except (InvalidLocation, NoContainer):
        return
    path = local_path(check_location(text))
    assert os.path.normpath(path) == path
    assert path.startswith("/data/")
    assert "\x00" not in path


@given(st.lists(st.text(st.characters(exclude_characters="/\x00", exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_encoded_names_are_found_again(segments: list[str]) -> None:
    segments = [s for s in segments if s not in (".", "..")] or ["x"]
    path = "/" + "/".join(segments)
    for url in (file_url(path), "s3://b/" + quote(path[1:])):
        assert check_location(url).path == path


@given(st.binary(min_size=1).filter(lambda b: b"/" not in b and b"\0" not in b and b not in (b".", b"..")))
def test_file_names_may_be_any_bytes(name: bytes) -> None:
    path = os.fsdecode(b"/d/" + name)
    assert os.fsencode(local_path(check_location(file_url(path)))) == b"/d/" + name


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 50)), max_size=20), st.integers(0, 60))
def test_merged_ranges(ranges: list[tuple[int, int]], gap: int) -> None:
    data = bytes(i % 256 for i in range(400))
    merged = merge_ranges(ranges, gap)
    assert all(a[1] + gap < b[0] for a, b in itertools.pairwise(merged))
    pieces = slice_ranges(ranges, merged, [data[a:b] for a, b in merged])
    assert pieces == [data[a : a + n] for a, n in ranges]
    wanted = {i for a, n in ranges for i in range(a, a + n)}
    fetched = {i for a, b in merged for i in range(a, b)}
    assert wanted <= fetched
    assert gap or wanted == fetched


@given(st.text(), st.text())
def test_natural_order_is_total(a: str, b: str) -> None:
    assert (natural_key(a) < natural_key(b)) + (natural_key(b) < natural_key(a)) == (a != b)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_natural_order_counts(a: int, b: int) -> None:
    assert (natural_key(f"f{a}.nc") < natural_key(f"f{b}.nc")) == (a < b)
