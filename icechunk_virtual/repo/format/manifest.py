"""Manifests (section 4.4): the references of one or more arrays in a file.

Reading accepts every layout that the format allows; writing is in `manifest_encode`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.model.chunk_refs import ChunkKind, ChunkRefs
from icechunk_virtual.model.ids import NODE_ID_SIZE, OBJECT_ID_SIZE, ManifestId, NodeId
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.model.strings import Strings
from icechunk_virtual.repo.format.envelope import MAX_FLATBUFFER, FileType, unwrap
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
    apparent_size,
    encode_manifest,
)

__all__ = ["MAX_APPARENT_SIZE", "MAX_TABLES", "Manifest", "apparent_size", "decode_manifest", "encode_manifest"]

_ROW_BYTES = 42  # least that a reference counts towards the readers' limit

_Rows: TypeAlias = NDArray[np.bool_] | slice


@dataclass(frozen=True, eq=False)
class Manifest:
    """A manifest in memory.

    Attributes
    ----------
    id : ManifestId
    nodes : tuple of NodeId
        The arrays, ascending.
    num_refs : int
        References of all arrays.
    nbytes : int
        Memory in bytes.
    """

    id: ManifestId
    nodes: tuple[NodeId, ...]
    num_refs: int
    nbytes: int
    _refs: dict[NodeId, tuple[ChunkRefs, ...]] = field(repr=False)

    def refs(self, node: NodeId, ndim: int | None = None) -> ChunkRefs | None:
        """References of one array; ``None`` when the manifest holds none.

        Parameters
        ----------
        ndim
            Dimensions of the array; references of another rank are left out. Not given: the first of `parts`.
        """
        for refs in self._refs.get(node, ()):
            if ndim is None or refs.ndim == ndim:
                return refs
        return None

    def parts(self, node: NodeId) -> tuple[ChunkRefs, ...]:
        """All references of one array by their rank, most references first: icechunk stores some of the wrong rank."""
        return self._refs.get(node, ())


def decode_manifest(data: bytes, *, file: str) -> Manifest:
    """Read a manifest file.

    Parameters
    ----------
    file
        Key in the repository, for messages.

    Raises
    ------
    CorruptFile
        Damaged or no manifest.
    UnsupportedFormat
        Another format version.
    """
    kind = FileType.MANIFEST
    buffer = Buffer(unwrap(data, file_type=kind, file=file), file=file, kind=kind.label)
    root = buffer.root()
    id = ManifestId(root.struct(0, OBJECT_ID_SIZE, "the manifest's id"))
    nodes, starts, counts = _arrays(buffer, root)
    refs = _decode(buffer, pointed_at(buffer, starts, counts), counts)
    parts = [part for array in refs for part in array]
    unique_tables = sum(r.nbytes - r.locations.nbytes - r.chunk_ids.nbytes - len(r.heap) for r in parts)
    shared = parts[0].locations.nbytes + parts[0].chunk_ids.nbytes + max(len(r.heap) for r in parts) if parts else 0
    order = sorted(range(len(nodes)), key=nodes.__getitem__)
    return Manifest(
        id,
        tuple(nodes[i] for i in order),
        sum(len(r) for r in parts),
        unique_tables + shared,
        {nodes[i]: refs[i] for i in order if len(refs[i][0])},
    )


def _arrays(buffer: Buffer, root: Table) -> tuple[list[NodeId], NDArray[np.int64], NDArray[np.int64]]:
    """Node ids; position of the first element and number of elements of each vector of references."""
    start, count = root.vector(1, 4, 4, "the vector of arrays")
    if count > MAX_TABLES:
        raise buffer.corrupt(f"{count} arrays are more than any reader takes", start)
    arrays = Tables.at(Places.pointed_at(buffer, start, count), 2, "an array")
    ids = arrays.field(0, "an array's node id").read_bytes(NODE_ID_SIZE, "an array's node id")
    raw = ids.tobytes()
    nodes = [NodeId(raw[i : i + NODE_ID_SIZE]) for i in range(0, len(raw), NODE_ID_SIZE)]
    if len(set(nodes)) != len(nodes):
        raise buffer.corrupt("an array is listed twice", start)
    starts, counts = arrays.vectors(1, 4, "an array's references")
    total = int(counts.sum())
    if total * _ROW_BYTES > MAX_APPARENT_SIZE:
        raise buffer.corrupt(f"{total} references are more than any reader takes", start)
    return nodes, starts, counts


def _decode(buffer: Buffer, places: Places, counts: NDArray[np.int64]) -> list[tuple[ChunkRefs, ...]]:
    """The references of each array, in the parts of `coordinates`."""
    rows = Tables.at(places, 8, "a chunk reference")
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
