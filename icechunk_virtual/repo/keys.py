"""Store keys: which node's document, or which chunk of which array, a Zarr v3 key names.

Pure text work (format version 1, section 10); knows neither sessions nor whether a node exists.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from icechunk_virtual.errors import InvalidKey
from icechunk_virtual.model.chunk_refs import MAX_INDEX

DOCUMENT = "zarr.json"
CHUNKS = "c"
_V2_NAMES = frozenset({".zgroup", ".zarray", ".zattrs", ".zmetadata"})


@dataclass(frozen=True, slots=True)
class DocumentKey:
    """`zarr.json` of the node at `path`."""

    path: str


@dataclass(frozen=True, slots=True)
class ChunkKey:
    """The chunk at grid coordinates `coords` of the array at `path`."""

    path: str
    coords: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class V2Key:
    """A metadata key of Zarr format 2, which never exists here."""

    key: str


Key: TypeAlias = DocumentKey | ChunkKey | V2Key


@lru_cache(maxsize=1 << 14)
def parse_key(key: str) -> Key:
    """What a store key names.

    A chunk key is a path, the component ``c``, and the coordinates: the last component ``c`` with only decimal
    numbers after it separates them, so that nodes may be called ``c`` too.

    Raises
    ------
    InvalidKey
        Neither a metadata key nor a chunk key of the default encoding, or a path that is not canonical.
    """
    parts = key.strip("/").split("/")
    if parts[-1] == DOCUMENT:
        return DocumentKey(_join(parts[:-1], key))
    if parts[-1] in _V2_NAMES:
        return V2Key(key)
    at = len(parts)
    while at and parts[at - 1].isascii() and parts[at - 1].isdigit():
        at -= 1
    if not at or parts[at - 1] != CHUNKS:
        raise _invalid(key)
    coords = tuple(map(int, parts[at:]))
    if coords and max(coords) > MAX_INDEX:
        raise _invalid(key)
    return ChunkKey(_join(parts[: at - 1], key), coords)


def parse_path(text: str) -> str:
    """Canonical absolute path of a node (``/``, ``/a/b``) from a path with or without outer slashes.

    Raises
    ------
    InvalidKey
        Empty, ``.`` or ``..`` components.
    """
    inner = text.strip("/")
    return _join(inner.split("/") if inner else [], text)


def document_key(path: str) -> str:
    """Store key of a node's document."""
    return DOCUMENT if path == "/" else f"{path[1:]}/{DOCUMENT}"


def chunk_prefix(path: str) -> str:
    """What every chunk key of an array starts with, without the coordinates: ``c`` or ``a/b/c``."""
    return CHUNKS if path == "/" else f"{path[1:]}/{CHUNKS}"


def _join(parts: list[str], key: str) -> str:
    if any(part in ("", ".", "..") for part in parts):
        raise InvalidKey(
            f"invalid zarr key format `{key}`: empty, `.` and `..` components are not allowed in paths", key=key
        )
    return "/" + "/".join(parts)


def _invalid(key: str) -> InvalidKey:
    return InvalidKey(
        f"invalid zarr key format `{key}`: expected `<path>/zarr.json` or `<path>/c/<i>/<j>` (the default chunk key "
        "encoding with `/`, no other encoding can be stored)",
        key=key,
    )
