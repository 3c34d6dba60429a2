"""Manifests (section 4.4): the references of one or more arrays in a file.

Opening one costs little; its references are decoded all at once when they are asked for, and a single one can be
looked up before. Every layout that the format allows is read. How it is done is in the modules `manifest_*`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.model.chunk_refs import Chunk, ChunkRefs
from icechunk_virtual.model.ids import NODE_ID_SIZE, OBJECT_ID_SIZE, ManifestId, NodeId
from icechunk_virtual.repo.format.envelope import DEFAULT_LEVEL, FileType, unwrap, wrap
from icechunk_virtual.repo.format.flat import Buffer
from icechunk_virtual.repo.format.manifest_decode import arrays_in, columns_in
from icechunk_virtual.repo.format.manifest_encode import (
    MAX_APPARENT_SIZE,
    MAX_TABLES,
    apparent_size,
    encode_flatbuffer,
)
from icechunk_virtual.repo.format.manifest_few import FEW_TO_READ, FEW_TO_WRITE, decode_few, encode_few
from icechunk_virtual.repo.format.manifest_lookup import look_up

__all__ = [
    "MAX_APPARENT_SIZE",
    "MAX_TABLES",
    "Manifest",
    "apparent_size",
    "decode_manifest",
    "encode_manifest",
    "open_manifest",
]

_FEW_BYTES = 2**20  # of columns and tables: even if every reference used all of them, no limit would be reached
_REFS_PER_LOOKUP = 1000  # as many can be decoded in the time that one lookup takes


@dataclass(frozen=True, slots=True, eq=False)
class _File:
    """What an opened file is known to hold: per array where its vector of references begins, and their number."""

    buffer: Buffer
    nodes: Sequence[NodeId]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]


class Manifest:
    """A manifest in memory.

    Attributes
    ----------
    id : ManifestId
    nodes : tuple of NodeId
        The arrays, ascending.
    num_refs : int
        References of all arrays.
    """

    __slots__ = ("__weakref__", "_columns", "_file", "_lookups", "id", "nodes", "num_refs")

    def __init__(self, id: ManifestId, nodes: Sequence[NodeId], num_refs: int) -> None:
        self.id = id
        self.nodes = tuple(sorted(nodes))
        self.num_refs = num_refs
        self._file: _File | None = None
        self._columns: dict[NodeId, tuple[ChunkRefs, ...]] = {}
        self._lookups = 0

    @classmethod
    def of(cls, id: ManifestId, arrays: Sequence[tuple[NodeId, ChunkRefs]]) -> Manifest:
        """A manifest with these references, as decoding the file that `encode_manifest` makes of them gives it."""
        manifest = cls(id, [node for node, _ in arrays], sum(len(refs) for _, refs in arrays))
        manifest._columns = {node: (refs,) for node, refs in arrays if len(refs)}
        return manifest

    @classmethod
    def _opened(cls, id: ManifestId, file: _File) -> Manifest:
        manifest = cls(id, file.nodes, int(file.counts.sum()))
        manifest._file = file
        return manifest

    @property
    def decoded(self) -> bool:
        """Whether the references are in columns already; otherwise `refs` and `parts` decode them first."""
        return self._file is None

    def decode(self) -> None:
        """Decode all references. May be called from several threads; they then do the same work.

        Raises
        ------
        CorruptFile
        """
        file = self._file
        if file is not None:
            read = decode_few if self.num_refs <= FEW_TO_READ else columns_in
            columns = read(file.buffer, file.starts, file.counts)
            self._columns = {node: parts for node, parts in zip(file.nodes, columns, strict=True) if len(parts[0])}
            self._file = None

    def refs(self, node: NodeId, ndim: int | None = None) -> ChunkRefs | None:
        """References of one array; ``None`` when the manifest holds none.

        Parameters
        ----------
        ndim
            Dimensions of the array; references of another rank are left out. Not given: the first of `parts`.
        """
        for refs in self.parts(node):
            if ndim is None or refs.ndim == ndim:
                return refs
        return None

    def parts(self, node: NodeId) -> tuple[ChunkRefs, ...]:
        """All references of one array by their rank, most references first: icechunk stores some of the wrong rank."""
        self.decode()
        return self._columns.get(node, ())

    def look_up(self, node: NodeId, coord: Sequence[int]) -> Chunk | None:
        """One reference of a manifest that is not decoded, by bisection as other readers do it.

        ``None`` decides nothing: the reference may be missing, or out of order, or it is time to decode them all.

        Raises
        ------
        CorruptFile
        """
        file = self._file
        self._lookups += 1
        if file is None or self._lookups * _REFS_PER_LOOKUP > self.num_refs or node not in file.nodes:
            return None
        number = file.nodes.index(node)
        return look_up(file.buffer, int(file.starts[number]), int(file.counts[number]), tuple(coord))


def open_manifest(data: bytes, *, file: str) -> Manifest:
    """Read a manifest file as far as its list of arrays. Damage further on is found when it is decoded.

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
    return Manifest._opened(id, _File(buffer, *arrays_in(buffer, root)))


def decode_manifest(data: bytes, *, file: str) -> Manifest:
    """Read a whole manifest file; see `open_manifest`."""
    manifest = open_manifest(data, file=file)
    manifest.decode()
    return manifest


def encode_manifest(id: ManifestId, arrays: Sequence[tuple[NodeId, ChunkRefs]], *, level: int = DEFAULT_LEVEL) -> bytes:
    """A complete manifest file.

    Parameters
    ----------
    arrays
        Node id and references of each array, in any order.
    level
        zstd level.

    Raises
    ------
    ValueError
        An array is given twice, or an id has a wrong length.
    TooLargeForFormat
        More references or bytes than readers take in one manifest; see `apparent_size`.
    """
    arrays = sorted(arrays, key=itemgetter(0))
    nodes = [node for node, _ in arrays]
    if len(set(nodes)) != len(nodes):
        raise ValueError("an array is given twice")
    if len(id) != OBJECT_ID_SIZE or any(len(node) != NODE_ID_SIZE for node in nodes):
        raise ValueError("a manifest id has 12 bytes and a node id 8")
    columns = [refs for _, refs in arrays]
    few = sum(map(len, columns)) <= FEW_TO_WRITE and sum(refs.nbytes for refs in columns) <= _FEW_BYTES
    content = encode_few(id, arrays) if few else encode_flatbuffer(id, arrays).data
    return wrap(FileType.MANIFEST, content, level=level)
