"""Reading snapshots (section 4.3) as a view on the file: opening one costs nothing per node.

Nodes are sorted by the bytes of their paths, so looking one up is a bisection, and everything below a group is one
run of nodes. Writing is in `snapshot_encode`.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.model.ids import NODE_ID_SIZE, OBJECT_ID_SIZE, ManifestId, NodeId, SnapshotId
from icechunk_virtual.model.nodes import Node
from icechunk_virtual.repo.format.envelope import FileType, unwrap
from icechunk_virtual.repo.format.flat import Buffer, Table
from icechunk_virtual.repo.format.flat_columns import Places, Tables
from icechunk_virtual.repo.format.metadata_values import unpack
from icechunk_virtual.repo.format.snapshot_nodes import BLOB_MARK, ID, NODE_AT, PATH, decode_node, node_path

# Slots of Snapshot
SNAPSHOT_ID, PARENT_ID, NODES, FLUSHED_AT, MESSAGE, METADATA, MANIFEST_FILES = range(7)

MAX_NODES = 25_000_000
"""Readers take 50 million tables, a node has two at least."""

_HALVES = 4096
"""About as many paths are remembered: those that bisections compare with first, which most have in common."""

_KNOWN = 1000
"""As many nodes are remembered, of documents up to `_KNOWN_BYTES`."""
_KNOWN_BYTES = 1 << 14

MANIFEST_FILE = np.dtype(
    {
        "names": ["id", "size_bytes", "num_chunk_refs"],
        "formats": ["V12", "<u8", "<u4"],
        "offsets": [0, 16, 24],
        "itemsize": 32,
    }
)
"""ManifestFileInfo (section 4.2)."""
FILE = struct.Struct("<12s4xQI4x")
"""One of them."""


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """A manifest that some node of a snapshot refers to: id, bytes of the whole object, references in it."""

    id: ManifestId
    size_bytes: int
    num_chunk_refs: int


class Snapshot:
    """One version of a hierarchy.

    Attributes
    ----------
    id : SnapshotId
    parent_id : SnapshotId or None
        ``None`` for the root of a history.
    flushed_at_us : int
        Microseconds since 1970-01-01 UTC.
    message : str
    metadata : dict
        Commit properties, JSON values.
    num_nodes : int
    nbytes : int
        Memory in bytes.
    preloaded : bool
        Whether the manifests that are needed first have been fetched, or are just being fetched.
    """

    preloaded = False

    def __init__(self, buffer: Buffer) -> None:
        root = buffer.root()
        self._buffer = buffer
        self.id = SnapshotId(root.struct(SNAPSHOT_ID, OBJECT_ID_SIZE, "the snapshot's id"))
        has_parent = root.field(PARENT_ID) is not None
        self.parent_id = SnapshotId(root.struct(PARENT_ID, OBJECT_ID_SIZE, "the parent's id")) if has_parent else None
        self.flushed_at_us = root.scalar(FLUSHED_AT, "Q", "the time of the snapshot")
        self.message = root.text(MESSAGE, "the message")
        self.metadata = _metadata(root)
        self._nodes, self.num_nodes = _vector_of_nodes(root)
        self._halves: dict[int, bytes] = {}
        self._known: dict[str, Node] = {}
        self._files_at, count = root.vector(MANIFEST_FILES, FILE.size, 8, "the list of manifests")
        self._files = np.frombuffer(buffer.data, MANIFEST_FILE, count, self._files_at if count else 0)
        self.nbytes = buffer.size + 8 * self.num_nodes

    def __repr__(self) -> str:
        return f"Snapshot({self.num_nodes} nodes, {len(self._files)} manifests, {self.message!r})"

    # -- nodes ---------------------------------------------------------------------------------------------------

    def _table(self, row: int) -> Table:
        element = self._nodes + 4 * row
        return self._buffer.table(element + self._buffer.u32(element, "a node"))

    def _path(self, row: int) -> bytes:
        return node_path(self._table(row))

    def _path_text(self, row: int) -> str:
        return self._table(row).text(PATH, "a node's path")

    def _bisect(self, path: bytes) -> int:
        """First row whose path is not below `path`."""
        low, high = 0, self.num_nodes
        narrow = self.num_nodes // _HALVES
        while low < high:
            middle = (low + high) // 2
            found = self._halves.get(middle)
            if found is None:
                found = self._path(middle)
                if high - low > narrow:
                    self._halves[middle] = found
            if found < path:
                low = middle + 1
            else:
                high = middle
        return low

    def path_at(self, row: int) -> bytes | None:
        """UTF-8 bytes of the path of a row's node; ``None`` behind the last row."""
        return self._path(row) if row < self.num_nodes else None

    def find_row(self, path: str) -> tuple[int, bool]:
        """Where a path is or would be among the nodes, and whether it is there."""
        encoded = _encoded(path)
        row = self._bisect(encoded)
        return row, row < self.num_nodes and self._path(row) == encoded

    def find(self, path: str) -> Node | None:
        """The node at a path, ``None`` if there is none.

        Raises
        ------
        CorruptFile
            As all methods that look at nodes: the bytes of a node are damaged.
        """
        node = self._known.get(path)
        if node is None:
            row, found = self.find_row(path)
            if found:
                node = self.node_at(row)
                self.remember([node])
        return node

    def remember(self, nodes: Iterable[Node]) -> None:
        """Keep nodes of this snapshot for `find`: small ones, as long as they are few."""
        for node in nodes:
            if len(self._known) >= _KNOWN:
                break
            if len(node.document) <= _KNOWN_BYTES:
                self._known[node.path] = node

    def node_at(self, row: int) -> Node:
        """The node of a row."""
        return decode_node(self._table(row))

    def nodes(self) -> Iterator[Node]:
        """All nodes, in the order of the bytes of their paths."""
        return map(self.node_at, range(self.num_nodes))

    def subtree(self, path: str) -> Iterator[Node]:
        """The node at `path`, if there is one, and all nodes below it, in path order."""
        row, found = self.find_row(path)
        if found:
            yield self.node_at(row)
            row += 1
        inside = _inside(path)
        row = max(row, self._bisect(inside))  # between `/a` and `/a/b` there may be `/a-b`
        while row < self.num_nodes and self._path(row).startswith(inside):
            yield self.node_at(row)
            row += 1

    def children(self, path: str) -> Iterator[str]:
        """Names of the nodes directly below `path`, in path order; subtrees are skipped over."""
        inside = _inside(path)
        row = self._bisect(inside)
        while row < self.num_nodes:
            found = self._path(row)
            if not found.startswith(inside):
                return
            name, slash, _ = found[len(inside) :].partition(b"/")
            if slash:
                behind = self._bisect(inside + name + b"0")  # "0" follows "/": behind everything below `name`
                row = max(row + 1, behind)  # in a damaged file it may be anywhere
                continue
            if name:
                yield self._path_text(row).rpartition("/")[2]
            row += 1

    def paths_of(self, ids: Iterable[NodeId]) -> dict[NodeId, str]:
        """Paths of nodes by id; ids that are not in this snapshot are left out."""
        wanted = {int.from_bytes(id, "little"): id for id in ids}
        if not wanted or not self.num_nodes:
            return {}
        rows = np.flatnonzero(np.isin(self._ids, np.fromiter(wanted, np.uint64, len(wanted))))
        return {wanted[int(self._ids[row])]: self._path_text(row) for row in rows.tolist()}

    @functools.cached_property
    def _tables(self) -> NDArray[np.int64]:
        """Positions of all nodes' tables, int64 (num_nodes,), checked to be inside the file."""
        elements = Places.at(self._buffer, np.arange(self._nodes, self._nodes + 4 * self.num_nodes, 4, dtype=np.int64))
        tables: NDArray[np.int64] = elements.first + elements.read("<u4", "a node")
        Places.at(self._buffer, tables).read("<i4", "a node")
        return tables

    @functools.cached_property
    def _ids(self) -> NDArray[np.uint64]:
        """Ids of all nodes as numbers, uint64 (num_nodes,)."""
        tables = Tables.at(Places.at(self._buffer, self._tables), 1, "a node")
        ids = tables.field(ID, "a node's id").read_bytes(NODE_ID_SIZE, "a node's id")
        numbers: NDArray[np.uint64] = np.ascontiguousarray(ids).view("<u8")[:, 0]
        return numbers

    # -- manifests -----------------------------------------------------------------------------------------------

    @property
    def manifest_table(self) -> NDArray[Any]:
        """The same as `manifest_files` in columns ``id`` (12 bytes), ``size_bytes``, ``num_chunk_refs``."""
        return self._files

    @functools.cached_property
    def manifest_files(self) -> tuple[ManifestFile, ...]:
        """Every manifest that a node refers to."""
        return tuple(self._manifest_file(row) for row in range(len(self._files)))

    def _manifest_file(self, row: int) -> ManifestFile:
        id, size_bytes, num_chunk_refs = FILE.unpack_from(self._buffer.data, self._files_at + row * FILE.size)
        return ManifestFile(ManifestId(id), size_bytes, num_chunk_refs)

    def manifest_file(self, id: ManifestId) -> ManifestFile | None:
        """What is known about a manifest, ``None`` if it is not of this snapshot."""
        data, low, high = self._buffer.data, 0, len(self._files)
        while low < high:
            middle = (low + high) // 2
            at = self._files_at + middle * FILE.size
            if data[at : at + OBJECT_ID_SIZE] < id:
                low = middle + 1
            else:
                high = middle
        if low < len(self._files) and (found := self._manifest_file(low)).id == id:
            return found
        rows = (self._manifest_file(row) for row in range(len(self._files)))  # others may not have sorted them
        return next((file for file in rows if file.id == id), None)

    def occurrences(self, id: ManifestId) -> int:
        """How often the bytes of an id stand in the file: once in the list of manifests, and once per reference."""
        return self._buffer.data.count(id)

    # -- for other snapshots -----------------------------------------------------------------------------------

    @functools.cached_property
    def blob_bounds(self) -> NDArray[np.int64] | None:
        """Bounds of the nodes' blobs, int64 (num_nodes + 1,); ``None`` if the file is not laid out as we write it."""
        starts = self._tables - NODE_AT
        if not len(starts):
            return np.zeros(1, np.int64)
        if (starts < 0).any() or (starts % 8).any():
            return None
        words = self._buffer.view("<u4")
        ends = starts + words[starts // 4 + 1]
        marked = (words[starts // 4] == BLOB_MARK).all()
        if not marked or (ends[:-1] != starts[1:]).any() or ends[-1] > self._buffer.size:
            return None
        return np.append(starts, ends[-1:])

    def blob_bytes(self, first: int, last: int) -> memoryview:
        """The blobs of the nodes of rows `first` to `last` - 1."""
        bounds = self.blob_bounds
        if bounds is None:
            raise ValueError("this snapshot is not laid out in blobs")
        return memoryview(self._buffer.data)[bounds[first] : bounds[last]]

    def with_parent(self, parent_id: SnapshotId) -> bytes:
        """The flatbuffer with another parent; every other byte is the same.

        Raises
        ------
        ValueError
            This snapshot has no parent.
        """
        position = self._buffer.root().field(PARENT_ID)
        if position is None or len(parent_id) != OBJECT_ID_SIZE:
            raise ValueError(f"a snapshot without parent cannot get one, and an id has {OBJECT_ID_SIZE} bytes")
        data = self._buffer.data
        return data[:position] + parent_id + data[position + OBJECT_ID_SIZE :]


def decode_snapshot(data: bytes, *, file: str) -> Snapshot:
    """Read a snapshot file.

    Parameters
    ----------
    file
        Key in the repository, for messages.

    Raises
    ------
    CorruptFile
        Damaged or no snapshot. Damage inside a node is found when the node is looked at.
    UnsupportedFormat
        Another format version.
    """
    kind = FileType.SNAPSHOT
    return Snapshot(Buffer(unwrap(data, file_type=kind, file=file), file=file, kind=kind.label))


def _encoded(path: str) -> bytes:
    return path.encode("utf-8", "surrogatepass")


def _inside(path: str) -> bytes:
    """What the paths of all nodes below a path begin with."""
    encoded = _encoded(path)
    return encoded if encoded.endswith(b"/") else encoded + b"/"


def _metadata(root: Table) -> dict[str, Any]:
    metadata = {}
    for item in root.tables(METADATA, "the metadata"):
        name = item.text(0, "the name of a property")
        try:
            metadata[name] = unpack(item.bytes(1, "the value of a property"))
        except ValueError as error:
            raise root.buffer.corrupt(f"property `{name}`: {error}", item.position) from None
    return metadata


def _vector_of_nodes(root: Table) -> tuple[int, int]:
    """Position of the first offset to a node's table, and how many there are."""
    start, count = root.vector(NODES, 4, 4, "the vector of nodes")
    if count > MAX_NODES:
        raise root.buffer.corrupt(f"{count} nodes are more than any reader takes", start)
    return start, count
