"""Store keys: what they name, what is refused."""

from __future__ import annotations

import pytest

from icechunk_virtual.errors import InvalidKey
from icechunk_virtual.model.paths import child_path, is_below, parent_path
from icechunk_virtual.repo.keys import (
    ChunkKey,
    DocumentKey,
    V2Key,
    chunk_prefix,
    document_key,
    parse_key,
    parse_path,
)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("zarr.json", DocumentKey("/")),
        ("a/zarr.json", DocumentKey("/a")),
        ("/a/b/zarr.json", DocumentKey("/a/b")),
        ("zarr.json/zarr.json", DocumentKey("/zarr.json")),
        ("c", ChunkKey("/", ())),
        ("c/0/1", ChunkKey("/", (0, 1))),
        ("a/c", ChunkKey("/a", ())),
        ("a/c/00/7", ChunkKey("/a", (0, 7))),
        ("abc/c/0", ChunkKey("/abc", (0,))),
        ("a/c/c/0", ChunkKey("/a/c", (0,))),
        ("c/c", ChunkKey("/c", ())),
        ("a/0/c/1", ChunkKey("/a/0", (1,))),
        ("a/c/4294967295", ChunkKey("/a", (2**32 - 1,))),
        ("we ird/ñ x~#?%/c/3", ChunkKey("/we ird/ñ x~#?%", (3,))),
        (".zgroup", V2Key(".zgroup")),
        ("a/.zarray", V2Key("a/.zarray")),
    ],
)
def test_what_keys_name(key: str, expected: object) -> None:
    assert parse_key(key) == expected


@pytest.mark.parametrize(
    "key",
    [
        "",
        "a",
        "abc",
        "abc/0",
        "a/c/x",
        "a/c/-1",
        "a/c/+1",
        "a/c/0.0",
        "a/c/4294967296",
        "a/c/٣",
        "a//zarr.json",
        "a/../zarr.json",
        "./zarr.json",
        "a/c//0",
        "a/../c/0",
    ],
)
def test_what_is_refused(key: str) -> None:
    with pytest.raises(InvalidKey, match="invalid zarr key format") as caught:
        parse_key(key)
    assert caught.value.key == key  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", ["/", "/a", "/a/b c"])
def test_keys_of_nodes_lead_back(path: str) -> None:
    assert parse_key(document_key(path)) == DocumentKey(path)
    assert parse_key(chunk_prefix(path) + "/1/2") == ChunkKey(path, (1, 2))
    assert parse_path(path) == parse_path(path.strip("/")) == parse_path(path.strip("/") + "/") == path


def test_paths() -> None:
    assert child_path("/", "a") == "/a"
    assert child_path("/a", "b") == "/a/b"
    assert parent_path("/a/b") == "/a"
    assert parent_path("/a") == "/" == parent_path("/")
    assert is_below("/a/b", "/a")
    assert is_below("/a", "/")
    assert not is_below("/", "/")
    assert not is_below("/a", "/a")
    assert not is_below("/a-b", "/a")
    for bad in ("a//b", "a/./b", "..", "a/.."):
        with pytest.raises(InvalidKey):
            parse_path(bad)
