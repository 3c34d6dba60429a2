"""The tables behind the columns of `ChunkRefs`: joining, pruning and comparing locations, chunk ids and heaps.

Functions over references that return columns; they construct no `ChunkRefs` and know nothing of coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.model.chunks import ChunkKind
from icechunk_virtual.model.columns import gather
from icechunk_virtual.model.distinct import number_distinct
from icechunk_virtual.model.ids import OBJECT_ID_SIZE
from icechunk_virtual.model.locations import Locations

if TYPE_CHECKING:
    from icechunk_virtual.model.chunk_refs import ChunkRefs

Tables: TypeAlias = tuple[Locations, NDArray[np.uint8], bytes]
"""Locations, chunk ids, heap."""
_Table = TypeVar("_Table", Locations, NDArray[np.uint8], bytes)


_VIRTUAL, _NATIVE, _INLINE = (np.uint8(kind) for kind in (ChunkKind.VIRTUAL, ChunkKind.NATIVE, ChunkKind.INLINE))


def masks(kind: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Which rows are virtual, native, inline."""
    return kind == _VIRTUAL, kind == _NATIVE, kind == _INLINE


def merge_tables(
    parts: Sequence[ChunkRefs],
) -> tuple[list[NDArray[np.uint32]], list[NDArray[np.uint64]], Tables]:
    """Every part's `source` and `offset` over one joined set of tables. Tables that parts share are kept once."""
    location_tables, location_starts = _stack([p.locations for p in parts])
    id_tables, id_starts = _stack([p.chunk_ids for p in parts])
    heaps, heap_starts = _stack([p.heap for p in parts])
    locations = location_tables[0]
    number: NDArray[np.uint32] | None = None
    if len(location_tables) > 1:
        locations, unique = Locations.concat(location_tables).unique()
        number = unique.astype(np.uint32)
    sources, offsets = [], []
    for part, location0, id0, heap0 in zip(parts, location_starts, id_starts, heap_starts, strict=True):
        source, offset = part.source, part.offset
        if number is not None and (virtual := part.kind == _VIRTUAL).any():
            rows = number[location0:]
            source = rows[source] if virtual.all() else _changed(source, virtual, rows[source[virtual]])
        if id0 and (native := part.kind == _NATIVE).any():
            source = _changed(source, native, source[native] + np.uint32(id0))
        if heap0 and (inline := part.kind == _INLINE).any():
            offset = _changed(offset, inline, offset[inline] + np.uint64(heap0))
        sources.append(source)
        offsets.append(offset)
    chunk_ids = id_tables[0] if len(id_tables) == 1 else np.concatenate(id_tables)
    return sources, offsets, (locations, chunk_ids, heaps[0] if len(heaps) == 1 else b"".join(heaps))


def compact_tables(refs: ChunkRefs) -> tuple[NDArray[np.uint32], NDArray[np.uint64], Tables]:
    """`source` and `offset` over tables without unused or repeated rows and a heap without holes."""
    virtual, native, inline = masks(refs.kind)
    source, offset = refs.source.copy(), refs.offset
    used, number = _used(refs.source[virtual], len(refs.locations))
    locations, merged = refs.locations.take(used).unique()
    source[virtual] = merged[number[refs.source[virtual]]]
    used, number = _used(refs.source[native], len(refs.chunk_ids))
    first, merged = _distinct_ids(refs.chunk_ids[used])
    source[native] = merged[number[refs.source[native]]]
    source[inline] = 0
    heap = refs.heap
    if heap:
        lengths = refs.length[inline]
        offset = _changed(offset, inline, np.cumsum(lengths, dtype=np.uint64) - lengths)
        if len(heap) != int(lengths.sum()) or not np.array_equal(offset, refs.offset):
            heap = _payload(heap, refs.offset[inline], lengths).tobytes()
    return source, offset, (locations, refs.chunk_ids[used[first]], heap)


def same_entries(a: ChunkRefs, b: ChunkRefs) -> bool:
    """Whether rows of equal kind and length point to equal locations, equal ids and equal inline bytes."""
    virtual, native, inline = masks(a.kind)
    if a.locations is not b.locations or not np.array_equal(a.source[virtual], b.source[virtual]):
        number = Locations.concat([a.locations, b.locations]).unique()[1]
        if not _same(number, len(a.locations), a.source[virtual], b.source[virtual]):
            return False
    if a.chunk_ids is not b.chunk_ids or not np.array_equal(a.source[native], b.source[native]):
        number = _distinct_ids(np.concatenate([a.chunk_ids, b.chunk_ids]))[1]
        if not _same(number, len(a.chunk_ids), a.source[native], b.source[native]):
            return False
    return np.array_equal(
        _payload(a.heap, a.offset[inline], a.length[inline]), _payload(b.heap, b.offset[inline], b.length[inline])
    )


def _same(number: NDArray[np.int64], start: int, a: NDArray[np.uint32], b: NDArray[np.uint32]) -> bool:
    return np.array_equal(number[:start][a], number[start:][b])


def _stack(tables: list[_Table]) -> tuple[list[_Table], list[int]]:
    """The tables to put on top of each other, each once and none empty, and the first row of each part's table."""
    kept: list[_Table] = []
    starts: dict[int, int] = {}
    end = 0
    for table in tables:
        if id(table) not in starts:
            starts[id(table)] = end if len(table) else 0
            if len(table):
                kept.append(table)
                end += len(table)
    return kept or tables[:1], [starts[id(table)] for table in tables]


def _changed(column: NDArray[Any], rows: NDArray[np.bool_], values: NDArray[Any]) -> NDArray[Any]:
    column = column.copy()
    column[rows] = values
    return column


def _used(source: NDArray[np.uint32], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of a table that are in use, and for each row of the table its number among those."""
    mask = np.zeros(size, bool)
    mask[source] = True
    return np.flatnonzero(mask), np.cumsum(mask) - 1


def _payload(heap: bytes, offset: NDArray[np.uint64], length: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Join byte ranges of a heap."""
    return gather(np.frombuffer(heap, np.uint8), offset.astype(np.int64), length.astype(np.int64))


def _distinct_ids(chunk_ids: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First row of each distinct chunk id, and for each id its number."""
    count = len(chunk_ids)
    return number_distinct(chunk_ids.reshape(-1), np.arange(count) * OBJECT_ID_SIZE, np.full(count, OBJECT_ID_SIZE))
