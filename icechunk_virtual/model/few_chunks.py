"""Columns of chunks that are there one by one: a step per chunk, so for few of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from icechunk_virtual.model.chunk_refs import Chunk, ChunkKind, ChunkRefs, InlineChunk, NativeChunk
from icechunk_virtual.model.ids import OBJECT_ID_SIZE, ChunkId
from icechunk_virtual.model.locations import Locations


def columns_of(chunks: Sequence[tuple[tuple[int, ...], Chunk]], ndim: int) -> ChunkRefs:
    """Columns of chunks with their coordinates, which ascend."""
    if not chunks:
        return ChunkRefs.empty(ndim)
    rows: list[tuple[int, int, int, int]] = []  # kind, source, offset, length
    ids: list[ChunkId] = []
    heap: list[bytes] = []
    heap_end = 0
    places: dict[tuple[str, str | None, int | None], int] = {}
    for _, chunk in chunks:
        if isinstance(chunk, InlineChunk):
            rows.append((ChunkKind.INLINE, 0, heap_end, len(chunk.data)))
            heap.append(chunk.data)
            heap_end += len(chunk.data)
        elif isinstance(chunk, NativeChunk):
            rows.append((ChunkKind.NATIVE, len(ids), chunk.offset, chunk.length))
            ids.append(chunk.id)
        else:
            row = places.setdefault((chunk.url, chunk.etag, chunk.last_modified), len(places))
            rows.append((ChunkKind.VIRTUAL, row, chunk.offset, chunk.length))
    kind, source, offset, length = np.array(rows, np.uint64).T.copy()
    locations = ChunkRefs.empty(ndim).locations
    if places:
        urls, etags, seconds = zip(*places, strict=True)
        locations = Locations.of(urls, etags=etags, last_modified=seconds)
    return ChunkRefs._trusted(
        np.array([coord for coord, _ in chunks], np.uint32, order="F").reshape(len(chunks), ndim),
        kind.astype(np.uint8),
        source.astype(np.uint32),
        offset,
        length,
        locations,
        np.frombuffer(b"".join(ids), np.uint8).reshape(len(ids), OBJECT_ID_SIZE),
        b"".join(heap),
    )
