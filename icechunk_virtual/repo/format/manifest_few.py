"""Manifests of a few references: written and read row by row, which costs less than setting up columns for them.

The results are those of `manifest_encode` and `manifest_decode`; only the layout of the files differs.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.model.chunk_refs import Chunk, ChunkRefs, InlineChunk, NativeChunk
from icechunk_virtual.model.few_chunks import columns_of
from icechunk_virtual.model.ids import ManifestId, NodeId
from icechunk_virtual.repo.format.flat import FILE_IDENTIFIER, Buffer
from icechunk_virtual.repo.format.manifest_lookup import chunk_of, index_of

FEW_TO_WRITE = 32
FEW_TO_READ = 24
"""References: of so many this is faster."""


class _Row(NamedTuple):
    coord: tuple[int, ...]
    chunk: Chunk
    vtable: bytes
    layout: struct.Struct


# vtable, and the fields behind the distance to it and the offset of the index (slots of ChunkRef: section 4.4)
_PLAIN = struct.pack("<8H", 16, 32, 4, 0, 8, 16, 0, 24), struct.Struct("<iIQQI4x")
_ETAG = struct.pack("<9H", 18, 32, 4, 0, 8, 16, 0, 24, 28), struct.Struct("<iIQQII")
_MODIFIED = struct.pack("<10H", 20, 32, 4, 0, 8, 16, 0, 24, 0, 28), struct.Struct("<iIQQII")
_NATIVE = struct.pack("<7H", 14, 36, 4, 0, 8, 16, 24), struct.Struct("<iIQQ12s4x")
_INLINE = struct.pack("<4H", 8, 12, 4, 8), struct.Struct("<iII4x")
_CLASSES = (_PLAIN, _ETAG, _MODIFIED, _NATIVE, _INLINE)

# Root offset and identifier, vtables of Manifest, ArrayManifest and all classes of rows, the Manifest table
_MANIFEST_VTABLE_AT, _ARRAY_VTABLE_AT, _CLASSES_AT = 8, 16, 24
_VTABLES = b"".join(vtable for vtable, _ in _CLASSES)
_TABLE_AT = _CLASSES_AT + len(_VTABLES)
_VTABLE_AT = {class_[0]: _CLASSES_AT + _VTABLES.index(class_[0]) for class_ in _CLASSES}
_HEAD = b"".join(
    (
        struct.pack("<I4s", _TABLE_AT, FILE_IDENTIFIER),
        struct.pack("<4H", 8, 20, 4, 16),
        struct.pack("<4H", 8, 16, 4, 12),
        _VTABLES,
    )
)
_ARRAY = struct.Struct("<i8sI")
_WORD = struct.Struct("<I")


class _Tail:
    """What rows point at: behind all tables, each text once."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.data = bytearray()
        self._texts: dict[str, int] = {}

    def put(self, count: int, content: bytes, end: bytes = b"") -> int:
        """Position of a new vector."""
        position = self.start + len(self.data)
        self.data += _WORD.pack(count) + content + end
        self.data += bytes(-len(self.data) % 4)
        return position

    def text(self, text: str) -> int:
        """Position of a string."""
        if text not in self._texts:
            encoded = text.encode("utf-8")
            self._texts[text] = self.put(len(encoded), encoded, b"\0")
        return self._texts[text]


def encode_few(id: ManifestId, arrays: Sequence[tuple[NodeId, ChunkRefs]]) -> bytearray:
    """The content of a manifest file before compression; arrays ascend by id."""
    count = len(arrays)
    out = bytearray(_HEAD)
    out += struct.pack("<i12sII", _TABLE_AT - _MANIFEST_VTABLE_AT, id, 4, count)
    out += struct.pack(f"<{count}I", *(4 * count + 12 * number for number in range(count)))
    rows = [_rows(refs) for _, refs in arrays]
    vector = len(out) + _ARRAY.size * count
    for (node, _), own in zip(arrays, rows, strict=True):
        out += _ARRAY.pack(len(out) - _ARRAY_VTABLE_AT, node, vector - len(out) - 12)
        vector += 4 + 4 * len(own)
    end = table = vector + -vector % 8
    for own in rows:
        out += _WORD.pack(len(own))
        for row in own:
            out += _WORD.pack(end - len(out))
            end += row.layout.size
    out += bytes(table - len(out))
    tail = _Tail(end)
    for own in rows:
        for coord, chunk, vtable, layout in own:
            index = tail.put(len(coord), struct.pack(f"<{len(coord)}I", *coord))
            here = len(out)
            out += layout.pack(here - _VTABLE_AT[vtable], index - here - 4, *_fields(chunk, here, tail))
    return out + tail.data


def _rows(refs: ChunkRefs) -> list[_Row]:
    chunks = [refs.row(number) for number in range(len(refs))]
    return [_Row(tuple(c), chunk, *_class_of(chunk)) for c, chunk in zip(refs.coords.tolist(), chunks, strict=True)]


def _class_of(chunk: Chunk) -> tuple[bytes, struct.Struct]:
    if isinstance(chunk, InlineChunk):
        return _INLINE
    if isinstance(chunk, NativeChunk):
        return _NATIVE
    return _ETAG if chunk.etag else _MODIFIED if chunk.last_modified else _PLAIN


def _fields(chunk: Chunk, here: int, tail: _Tail) -> tuple[int | bytes, ...]:
    """What follows the offset of the index in the table at `here`."""
    if isinstance(chunk, InlineChunk):
        return (tail.put(len(chunk.data), chunk.data) - here - 8,)
    if isinstance(chunk, NativeChunk):
        return chunk.offset, chunk.length, chunk.id
    location = tail.text(chunk.url) - here - 24
    if chunk.etag:
        return chunk.offset, chunk.length, location, tail.text(chunk.etag) - here - 28
    if chunk.last_modified:
        return chunk.offset, chunk.length, location, chunk.last_modified
    return chunk.offset, chunk.length, location


def decode_few(buffer: Buffer, starts: NDArray[np.int64], counts: NDArray[np.int64]) -> list[tuple[ChunkRefs, ...]]:
    """The references of each array as `manifest_decode.columns_in` gives them.

    Raises
    ------
    CorruptFile
    """
    return [_parts(buffer, start, count) for start, count in zip(starts.tolist(), counts.tolist(), strict=True)]


def _parts(buffer: Buffer, start: int, count: int) -> tuple[ChunkRefs, ...]:
    by_rank: dict[int, dict[tuple[int, ...], Chunk]] = {}
    for position in range(start, start + 4 * count, 4):
        table = buffer.table(position + buffer.u32(position, "a chunk reference"))
        coord = index_of(table)
        by_rank.setdefault(len(coord), {}).setdefault(coord, chunk_of(table))  # of equal ones the first stands
    ranks = sorted(by_rank, key=lambda rank: (-len(by_rank[rank]), rank)) or [0]
    return tuple(columns_of(sorted(by_rank.get(rank, {}).items()), rank) for rank in ranks)
