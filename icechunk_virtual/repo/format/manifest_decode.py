"""Decoding manifests (section 4.4): file -> columns of references, without a step per chunk, whatever the layout."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.model.chunk_refs import ChunkKind, ChunkRefs
from icechunk_virtual.model.ids import NODE_ID_SIZE, OBJECT_ID_SIZE, NodeId
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.model.strings import Strings
from icechunk_virtual.repo.format.envelope import MAX_FLATBUFFER
from icechunk_virtual.repo.format.flat import Buffer, Table
from icechunk_virtual.repo.format.flat_columns import Places, Tables
from icechunk_virtual.repo.format.flat_rows import coordinates, order_of, pointed_at
from icechunk_virtual.repo.format.flat_texts import texts_at
from icechunk_virtual.repo.format.manifest_encode import (
    CHUNK_ID,
    ETAG,
    INDEX,
    INLINE,
    LAST_MODIFIED,
    LENGTH,
    LOCATION,
    MAX_APPARENT_SIZE,
    MAX_TABLES,
    OFFSET,
)

_ROW_BYTES = 42  # least that a reference counts towards the readers' limit

_FEW_ARRAYS = 8  # mostly there is one; so few are read one by one

_Rows: TypeAlias = NDArray[np.bool_] | slice


def arrays_in(buffer: Buffer, root: Table) -> tuple[list[NodeId], NDArray[np.int64], NDArray[np.int64]]:
    """Node ids; position of the first element and number of elements of each vector of references."""
    start, count = root.vector(1, 4, 4, "the vector of arrays")
    if count > MAX_TABLES:
        raise buffer.corrupt(f"{count} arrays are more than any reader takes", start)
    nodes, starts, counts = (_few_arrays if count <= _FEW_ARRAYS else _many_arrays)(buffer, root, start, count)
    if len(set(nodes)) != len(nodes):
        raise buffer.corrupt("an array is listed twice", start)
    total = int(counts.sum())
    if total * _ROW_BYTES > MAX_APPARENT_SIZE:
        raise buffer.corrupt(f"{total} references are more than any reader takes", start)
    return nodes, starts, counts


def _few_arrays(
    _buffer: Buffer, root: Table, _start: int, _count: int
) -> tuple[list[NodeId], NDArray[np.int64], NDArray[np.int64]]:
    arrays = root.tables(1, "the vector of arrays")
    nodes = [NodeId(array.struct(0, NODE_ID_SIZE, "an array's node id")) for array in arrays]
    vectors = np.array([array.vector(1, 4, 4, "an array's references") for array in arrays], np.int64).reshape(-1, 2)
    return nodes, vectors[:, 0], vectors[:, 1]


def _many_arrays(
    buffer: Buffer, _root: Table, start: int, count: int
) -> tuple[list[NodeId], NDArray[np.int64], NDArray[np.int64]]:
    arrays = Tables.at(Places.pointed_at(buffer, start, count), 2, "an array")
    raw = arrays.field(0, "an array's node id").read_bytes(NODE_ID_SIZE, "an array's node id").tobytes()
    nodes = [NodeId(raw[i : i + NODE_ID_SIZE]) for i in range(0, len(raw), NODE_ID_SIZE)]
    return nodes, *arrays.vectors(1, 4, "an array's references")


def columns_in(buffer: Buffer, starts: NDArray[np.int64], counts: NDArray[np.int64]) -> list[tuple[ChunkRefs, ...]]:
    """The references of each array, in the parts of `coordinates`: `starts` and `counts` are those of `arrays_in`."""
    rows = Tables.at(pointed_at(buffer, starts, counts), 8, "a chunk reference")
    n = len(rows)
    coords = coordinates(rows, INDEX, counts, "a chunk's index")
    kinds = _kinds(rows)
    kind = rows.places.spread(kinds)
    offset = rows.numbers(OFFSET, "<u8", "a chunk's offset")
    length = rows.numbers(LENGTH, "<u8", "a chunk's length")
    source = np.zeros(n, np.uint32)
    locations = _locations(rows, kinds, source)
    chunk_ids = _chunk_ids(rows, kinds, source)
    heap = _payloads(rows, kinds, offset, length)
    if (offset + length < offset).any():
        raise buffer.corrupt("a chunk ends beyond 64 bits")

    return [
        tuple(
            _sorted(own, kind[piece], source[piece], offset[piece], length[piece], locations, chunk_ids, heap)
            for piece, own in parts
        )
        for parts in coords
    ]


def _sorted(
    coords: NDArray[np.uint32],
    kind: NDArray[np.uint8],
    source: NDArray[np.uint32],
    offset: NDArray[np.uint64],
    length: NDArray[np.uint64],
    locations: Locations,
    chunk_ids: NDArray[np.uint8],
    heap: bytes,
) -> ChunkRefs:
    """References with their coordinates in order; of repeated ones the first stands."""
    rows = order_of(coords)
    if rows is not None:
        coords, kind, source = coords[rows], kind[rows], source[rows]
        offset, length = offset[rows], length[rows]
    return ChunkRefs._trusted(coords, kind, source, offset, length, locations, chunk_ids, heap)


def _kinds(rows: Tables) -> NDArray[np.uint8]:
    """`ChunkKind` of each row of the pattern, uint8 (B,)."""
    native, virtual, inline = rows.has(CHUNK_ID), rows.has(LOCATION), rows.has(INLINE)
    known = native | virtual | inline
    if not known.all():
        bad = int(rows.places.first[np.argmin(known)])
        raise rows.places.buffer.corrupt("a chunk reference is neither native nor virtual nor inline", bad)
    kinds = np.full(native.shape, ChunkKind.INLINE, np.uint8)
    kinds[virtual] = ChunkKind.VIRTUAL
    kinds[native] = ChunkKind.NATIVE
    return kinds


def _chosen(rows: Tables, kinds: NDArray[np.uint8], wanted: ChunkKind) -> tuple[_Rows, Tables] | None:
    """Index of the rows of one kind, and their tables; ``None`` if there are none."""
    found = kinds == wanted
    if not found.any():
        return None
    if found.all():
        return slice(None), rows
    mask = rows.places.spread(found)
    return mask, rows.take(mask)


def _locations(rows: Tables, kinds: NDArray[np.uint8], source: NDArray[np.uint32]) -> Locations:
    """The table of locations; `source` of the virtual rows is filled in."""
    chosen = _chosen(rows, kinds, ChunkKind.VIRTUAL)
    if chosen is None:
        return Locations.of(())
    where, virtual = chosen
    buffer = rows.places.buffer
    urls, row = texts_at(buffer, virtual.follow_each(LOCATION, "a location"), "a location", MAX_FLATBUFFER)
    etags, seconds = Strings.repeated("", len(urls)), np.zeros(len(urls), np.int64)
    tagged = virtual.rows(ETAG)
    if tagged.any() or virtual.has(LAST_MODIFIED).any():
        modified = virtual.numbers(LAST_MODIFIED, "<u4", "a location's last modification")
        modified[tagged] = 0  # the entity tag wins
        tags, tag = Strings.of([""]), np.zeros(len(row), np.int64)
        if tagged.any():
            texts, number = texts_at(
                buffer, virtual.take(tagged).follow_each(ETAG, "an entity tag"), "an entity tag", MAX_FLATBUFFER
            )
            tags = Strings.concat([tags, texts])
            tag[tagged] = number + 1
        (url, tag, seconds), row = _distinct((row, tag, modified.astype(np.int64)))
        urls, etags = urls.take(url), tags.take(tag)
    source[where] = row
    return Locations(urls, etags, seconds.astype(np.uint32))


def _distinct(columns: tuple[NDArray[np.int64], ...]) -> tuple[tuple[NDArray[np.int64], ...], NDArray[np.int64]]:
    """Distinct rows of columns, and for each row its number among them; neighbours are compared before sorting."""
    n = len(columns[0])
    head = np.zeros(n, bool)
    head[0] = True
    for column in columns:
        head[1:] |= column[1:] != column[:-1]
    heads = tuple(column[head] for column in columns)
    key = heads[0]
    for column in heads[1:]:
        key = np.unique(key * (int(column.max()) + 1) + column, return_inverse=True)[1]
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    rows = np.repeat(inverse, np.diff(np.flatnonzero(head), append=n))
    return tuple(column[first] for column in heads), rows


def _chunk_ids(rows: Tables, kinds: NDArray[np.uint8], source: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """The ids of the native rows, one each; `source` is filled in."""
    chosen = _chosen(rows, kinds, ChunkKind.NATIVE)
    if chosen is None:
        return np.empty((0, OBJECT_ID_SIZE), np.uint8)
    where, native = chosen
    source[where] = np.arange(len(native), dtype=np.uint32)
    return native.field(CHUNK_ID, "a chunk's id").read_bytes(OBJECT_ID_SIZE, "a chunk's id")


def _payloads(rows: Tables, kinds: NDArray[np.uint8], offset: NDArray[np.uint64], length: NDArray[np.uint64]) -> bytes:
    """The heap that the inline rows point into, which is the file itself; their `offset` and `length` are filled in."""
    chosen = _chosen(rows, kinds, ChunkKind.INLINE)
    if chosen is None:
        return b""
    where, inline = chosen
    starts, lengths = inline.vectors(INLINE, 1, "an inline chunk")
    offset[where] = starts
    length[where] = lengths
    return rows.places.buffer.data
