"""Data layout messages: where the elements of a dataset are (section IV.A.2.i, versions 1 to 5)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from icechunk_virtual.scanners.hdf5.format.cursor import Cursor

_LARGEST = 1 << 63  # bytes of a chunk
_MOST_AXES = 33  # H5S_MAX_RANK and one for the size of an element
_PARTIAL_UNFILTERED, _SINGLE_FILTERED = 0x01, 0x02  # flags of chunked layouts from version 4 on


class LayoutClass(IntEnum):
    """Where elements may be."""

    COMPACT = 0
    CONTIGUOUS = 1
    CHUNKED = 2
    VIRTUAL = 3


class IndexKind(IntEnum):
    """How chunks are found."""

    BTREE_V1 = 0  # the only one up to version 3
    SINGLE = 1
    IMPLICIT = 2
    FIXED_ARRAY = 3
    EXTENSIBLE_ARRAY = 4
    BTREE_V2 = 5


@dataclass(frozen=True, slots=True)
class Compact:
    """The elements lie in the header."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Contiguous:
    """The elements lie in one piece; ``None``: never written, or in external files. `size` is ``None`` if not said."""

    address: int | None
    size: int | None


@dataclass(frozen=True, slots=True)
class Chunked:
    """The elements lie in chunks.

    Attributes
    ----------
    shape : tuple of int
        Of a chunk, in elements.
    itemsize : int
        Bytes of an element.
    index : IndexKind
    address : int or None
        Of the index, or of the only chunk; ``None``: no chunk was written.
    partial_unfiltered : bool
        Chunks that reach beyond the extent skip all filters.
    single : (int, int) or None
        Size and filter mask of the only chunk, if it is filtered.
    """

    shape: tuple[int, ...]
    itemsize: int
    index: IndexKind
    address: int | None
    partial_unfiltered: bool = False
    single: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Virtual:
    """The elements are those of other datasets; the global heap says of which."""

    heap: int | None
    number: int


Layout: TypeAlias = "Compact | Contiguous | Chunked | Virtual"


def parse_layout(cursor: Cursor) -> Layout:
    """Parse the message."""
    version = cursor.version(1, 2, 3, 4, 5)
    if version < 3:
        return _old(cursor)
    kind = cursor.uint(1)
    if kind == LayoutClass.COMPACT:
        return Compact(cursor.take(cursor.uint(2)))
    if kind == LayoutClass.CONTIGUOUS:
        return Contiguous(cursor.offset(), cursor.length())
    if kind == LayoutClass.CHUNKED:
        return _chunked_v3(cursor) if version == 3 else _chunked_v4(cursor)
    if kind != LayoutClass.VIRTUAL or version == 3:
        cursor.fail(f"a layout of class {kind}")
    return Virtual(cursor.offset(), cursor.uint(4))


def _old(cursor: Cursor) -> Layout:
    rank, kind = cursor.uint(1), cursor.uint(1)
    cursor.skip(5)
    if rank > _MOST_AXES:
        cursor.fail(f"{rank} axes")
    if kind not in (LayoutClass.COMPACT, LayoutClass.CONTIGUOUS, LayoutClass.CHUNKED):
        cursor.fail(f"a layout of class {kind}")
    address = None if kind == LayoutClass.COMPACT else cursor.offset()
    sizes = tuple(cursor.uint(4) for _ in range(rank))
    if kind == LayoutClass.COMPACT:
        return Compact(cursor.take(cursor.uint(4)))
    if kind == LayoutClass.CONTIGUOUS:
        return Contiguous(address, None)
    if rank < 2:
        cursor.fail(f"chunks with {rank - 1} axes")
    return _btree(cursor, sizes, address)


def _chunked_v3(cursor: Cursor) -> Chunked:
    rank = _rank(cursor)
    address = cursor.offset()
    return _btree(cursor, tuple(cursor.uint(4) for _ in range(rank)), address)


def _btree(cursor: Cursor, sizes: tuple[int, ...], address: int | None) -> Chunked:
    return Chunked(*_shape(cursor, sizes), IndexKind.BTREE_V1, address)


def _chunked_v4(cursor: Cursor) -> Chunked:
    flags, rank, width = cursor.uint(1), _rank(cursor), cursor.uint(1)
    if not 1 <= width <= 8:
        cursor.fail(f"sizes of chunks of {width} bytes")
    shape, itemsize = _shape(cursor, tuple(cursor.uint(width) for _ in range(rank)))
    kind = cursor.uint(1)
    if kind not in _INDEX_FIELDS:
        cursor.fail(f"a chunk index of type {kind}")
    index = IndexKind(kind)
    single = None
    if index == IndexKind.SINGLE and flags & _SINGLE_FILTERED:
        single = cursor.length(), cursor.uint(4)
    cursor.skip(_INDEX_FIELDS[index])
    partial = bool(flags & _PARTIAL_UNFILTERED)
    return Chunked(shape, itemsize, index, cursor.offset(), partial, single)


_INDEX_FIELDS = {  # bytes; what they say is repeated in the header of the index
    IndexKind.SINGLE: 0,
    IndexKind.IMPLICIT: 0,
    IndexKind.FIXED_ARRAY: 1,
    IndexKind.EXTENSIBLE_ARRAY: 5,
    IndexKind.BTREE_V2: 6,
}


def _rank(cursor: Cursor) -> int:
    rank = cursor.uint(1)
    if not 2 <= rank <= _MOST_AXES:
        cursor.fail(f"chunks with {rank - 1} axes")
    return rank


def _shape(cursor: Cursor, sizes: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """Shape of a chunk, and bytes of an element."""
    if not all(sizes):
        cursor.fail(f"chunks of {sizes} elements")
    if math.prod(sizes) >= _LARGEST:
        cursor.fail(f"chunks of {math.prod(sizes)} bytes")
    return sizes[:-1], sizes[-1]
