"""Finding one reference in a manifest without decoding the others: a bisection over the tables of the file."""

from __future__ import annotations

import struct

from icechunk_virtual.model.chunk_refs import Chunk, InlineChunk, NativeChunk, VirtualChunk
from icechunk_virtual.model.ids import OBJECT_ID_SIZE, ChunkId
from icechunk_virtual.repo.format.flat import Buffer, Table
from icechunk_virtual.repo.format.manifest_encode import (
    CHUNK_ID,
    ETAG,
    INDEX,
    INLINE,
    LAST_MODIFIED,
    LENGTH,
    LOCATION,
    OFFSET,
)


def look_up(buffer: Buffer, start: int, count: int, coord: tuple[int, ...]) -> Chunk | None:
    """The first reference with these coordinates in a vector of ascending references; ``None`` if it is not found.

    Parameters
    ----------
    start, count
        Position of the vector's first element, and number of elements.

    Raises
    ------
    CorruptFile
        A table on the way is damaged.
    """
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if index_of(_table(buffer, start + 4 * middle)) < coord:
            low = middle + 1
        else:
            high = middle
    if low == count:
        return None
    table = _table(buffer, start + 4 * low)
    return chunk_of(table) if index_of(table) == coord else None


def _table(buffer: Buffer, position: int) -> Table:
    return buffer.table(position + buffer.u32(position, "a chunk reference"))


def index_of(table: Table) -> tuple[int, ...]:
    """Chunk grid coordinates of a reference."""
    start, count = table.vector(INDEX, 4, 4, "a chunk's index")
    return struct.unpack_from(f"<{count}I", table.buffer.data, start)


def chunk_of(table: Table) -> Chunk:
    """What a reference says."""
    if table.field(CHUNK_ID) is not None:
        return NativeChunk(ChunkId(table.struct(CHUNK_ID, OBJECT_ID_SIZE, "a chunk's id")), *_range(table))
    if table.field(LOCATION) is None:
        if table.field(INLINE) is None:
            raise table.buffer.corrupt("a chunk reference is neither native nor virtual nor inline", table.position)
        return InlineChunk(table.bytes(INLINE, "an inline chunk"))
    url = table.text(LOCATION, "a location")
    if table.field(ETAG) is not None:  # the entity tag wins
        return VirtualChunk(url, *_range(table), table.text(ETAG, "an entity tag") or None, None)
    modified = table.scalar(LAST_MODIFIED, "I", "a location's last modification")
    return VirtualChunk(url, *_range(table), None, modified or None)


def _range(table: Table) -> tuple[int, int]:
    offset, length = table.scalar(OFFSET, "Q", "a chunk's offset"), table.scalar(LENGTH, "Q", "a chunk's length")
    if offset + length >= 2**64:
        raise table.buffer.corrupt("a chunk ends beyond 64 bits", table.position)
    return offset, length
