"""What a repository tells about itself: snapshots, manifests, differences. Plain values with readable reprs."""

from __future__ import annotations

import enum
import functools
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from icechunk_virtual.model.chunk_refs import Chunk, InlineChunk, NativeChunk, VirtualChunk
from icechunk_virtual.model.html import Html, card, lines
from icechunk_virtual.model.ids import encode_id
from icechunk_virtual.repo.format.snapshot import Snapshot
from icechunk_virtual.repo.format.snapshot_view import FILE

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SHOWN_CHUNKS = 10


def utc_from_us(microseconds: int) -> datetime:
    """Aware UTC datetime of microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=microseconds)


def us_from_utc(moment: object) -> int:
    """Microseconds since 1970 of an aware datetime.

    Raises
    ------
    TypeError
        A naive datetime, whose moment nobody knows.
    """
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise TypeError(f"a timezone-aware datetime is required, got {moment!r}; add tzinfo=datetime.UTC")
    return (moment - _EPOCH) // timedelta(microseconds=1)


class ChunkType(enum.Enum):
    """Where the bytes of a chunk are: nowhere, in an object of the repository, in a foreign one, in the manifest."""

    uninitialized = 0
    native = 1
    virtual = 2
    inline = 3


def type_of_chunk(chunk: Chunk | None) -> ChunkType:
    """Where the bytes of a chunk are; of one that does not exist (``None``), nowhere."""
    match chunk:
        case NativeChunk():
            return ChunkType.native
        case VirtualChunk():
            return ChunkType.virtual
        case InlineChunk():
            return ChunkType.inline
    return ChunkType.uninitialized


@dataclass(frozen=True, slots=True)
class ManifestFileInfo:
    """A manifest of a snapshot: id, size of the file in bytes, number of chunk references in it."""

    id: str
    size_bytes: int
    num_chunk_refs: int


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A version of the repository.

    Attributes
    ----------
    id : str
    parent_id : str or None
        ``None`` for the first snapshot.
    written_at : datetime
        Aware, UTC, microseconds.
    message : str
    metadata : dict
        Commit properties.
    manifests : list of ManifestFileInfo
    """

    id: str
    parent_id: str | None
    written_at: datetime
    message: str
    metadata: dict[str, Any]
    manifests: list[ManifestFileInfo]


@functools.lru_cache(maxsize=4096)
def _describe_manifest(row: bytes) -> ManifestFileInfo:
    """Of a row of a snapshot's table; most versions list most manifests of the version before."""
    id, size_bytes, num_chunk_refs = FILE.unpack(row)
    return ManifestFileInfo(encode_id(id), size_bytes, num_chunk_refs)


def describe_snapshot(snapshot: Snapshot) -> SnapshotInfo:
    """The public description of a snapshot file."""
    table = snapshot.manifest_table.tobytes()
    files = [_describe_manifest(table[at : at + FILE.size]) for at in range(0, len(table), FILE.size)]
    return SnapshotInfo(
        id=encode_id(snapshot.id),
        parent_id=None if snapshot.parent_id is None else encode_id(snapshot.parent_id),
        written_at=utc_from_us(snapshot.flushed_at_us),
        message=snapshot.message,
        metadata=snapshot.metadata,
        manifests=files,
    )


@dataclass(frozen=True, slots=True, repr=False)
class Diff:
    """What changed between two versions, or in a session.

    Attributes
    ----------
    new_groups, new_arrays, deleted_groups, deleted_arrays, updated_groups, updated_arrays : set of str
        Absolute paths; "updated" means that the metadata document was rewritten.
    updated_chunks : dict of str to list of list of int
        Chunk grid coordinates written or deleted, sorted, per array.
    """

    new_groups: set[str] = field(default_factory=set)
    new_arrays: set[str] = field(default_factory=set)
    deleted_groups: set[str] = field(default_factory=set)
    deleted_arrays: set[str] = field(default_factory=set)
    updated_groups: set[str] = field(default_factory=set)
    updated_arrays: set[str] = field(default_factory=set)
    updated_chunks: dict[str, list[list[int]]] = field(default_factory=dict)

    def _sections(self) -> tuple[tuple[str, set[str]], ...]:
        return (
            ("Groups created", self.new_groups),
            ("Arrays created", self.new_arrays),
            ("Group definitions updated", self.updated_groups),
            ("Array definitions updated", self.updated_arrays),
            ("Groups deleted", self.deleted_groups),
            ("Arrays deleted", self.deleted_arrays),
        )

    def __repr__(self) -> str:
        text: list[str] = []
        for title, paths in self._sections():
            if paths:
                text += [f"{title}:", *(f"    {path}" for path in sorted(paths)), ""]
        if self.updated_chunks:
            text.append("Chunks updated:")
            for path, coords in sorted(self.updated_chunks.items()):
                text.append(f"    {path}:")
                text += [f"        {coord}" for coord in coords[:_SHOWN_CHUNKS]]
                if len(coords) > _SHOWN_CHUNKS:
                    text.append(f"        ... {len(coords) - _SHOWN_CHUNKS} more")
            text.append("")
        return "\n".join(text)

    def _repr_html_(self) -> Html:
        rows: list[tuple[str, str]] = [(title, lines(sorted(paths))) for title, paths in self._sections()]
        chunks = [f"{path}: {_coords_text(coords)}" for path, coords in sorted(self.updated_chunks.items())]
        return card("Changes", [*rows, ("Chunks updated", lines(chunks))])


def _coords_text(coords: list[list[int]]) -> str:
    """The first coordinates, and how many more there are."""
    more = f" and {len(coords) - _SHOWN_CHUNKS:,} more" if len(coords) > _SHOWN_CHUNKS else ""
    return ", ".join(map(str, coords[:_SHOWN_CHUNKS])) + more
