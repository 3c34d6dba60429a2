"""One chunk reference as a value: what `ChunkRefs` hands out when asked for a single row."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias

from icechunk_virtual.model.ids import ChunkId

MAX_INDEX = 2**32 - 1
"""Chunk grid coordinates are u32 in format version 1."""


class ChunkKind(enum.IntEnum):
    """Where the bytes of a chunk are."""

    NATIVE = 1  # an object of the repository
    INLINE = 2  # in the manifest itself
    VIRTUAL = 3  # a foreign object


@dataclass(frozen=True, slots=True)
class NativeChunk:
    """Bytes ``[offset, offset + length)`` of the repository's object `id`."""

    id: ChunkId
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class InlineChunk:
    """The bytes themselves."""

    data: bytes

    @property
    def length(self) -> int:
        """Number of bytes."""
        return len(self.data)


@dataclass(frozen=True, slots=True)
class VirtualChunk:
    """Bytes ``[offset, offset + length)`` of a foreign object; `etag` or `last_modified` (seconds) pin its state."""

    url: str
    offset: int
    length: int
    etag: str | None = None
    last_modified: int | None = None


Chunk: TypeAlias = NativeChunk | InlineChunk | VirtualChunk
Extents: TypeAlias = tuple[tuple[int, int], ...]
"""A box in the chunk grid: one half-open range per dimension."""
