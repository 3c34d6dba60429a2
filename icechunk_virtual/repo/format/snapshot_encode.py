"""Writing snapshots (section 4.3): from nodes, or from an earlier snapshot and the nodes that changed."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.errors import TooLargeForFormat
from icechunk_virtual.model.ids import OBJECT_ID_SIZE, ManifestId, SnapshotId
from icechunk_virtual.model.nodes import ArrayNode, Node
from icechunk_virtual.repo.format.envelope import DEFAULT_LEVEL, MAX_FLATBUFFER, FileType, wrap
from icechunk_virtual.repo.format.flat import FILE_IDENTIFIER
from icechunk_virtual.repo.format.metadata_values import pack
from icechunk_virtual.repo.format.snapshot_nodes import NODE_AT, encode_node
from icechunk_virtual.repo.format.snapshot_view import FILE, ManifestFile, Snapshot

MAX_TABLES = 50_000_000
"""Tables per snapshot that icechunk 1.1.15 and later read."""
MAX_TABLES_OLD = 500_000
"""Tables per snapshot that icechunk up to 1.1.14 reads; see `count_tables`."""

_TABLE = 32  # position of the root table, which begins with the distance to the vtable at 8
_VTABLE = struct.pack("<9H", 18, 52, 4, 16, 28, 32, 40, 44, 48)
_ROOT_VTABLE = struct.pack("<9H", 18, 52, 4, 0, 28, 32, 40, 44, 48)  # without a parent
_FIELDS = struct.Struct("<i12s12sIQIII")  # distance, id, parent, nodes, time, message, metadata, manifest files
_ITEM_VTABLE = struct.pack("<4H", 8, 12, 4, 8)


class EncodedSnapshot(NamedTuple):
    """A complete snapshot file, and what `Snapshot.blob_bounds` will find in it."""

    data: bytes
    blob_bounds: NDArray[np.int64]


def count_tables(nodes: Iterable[Node]) -> int:
    """Tables that nodes take in a snapshot: 2 each, 1 per reference to a manifest and per dimension name."""
    return sum(
        2 + (len(node.manifests) + len(node.layout.dimension_names or ()) if isinstance(node, ArrayNode) else 0)
        for node in nodes
    )


def encode_snapshot(
    *,
    id: SnapshotId,
    parent_id: SnapshotId | None,
    flushed_at_us: int,
    message: str,
    metadata: Mapping[str, Any],
    nodes: Iterable[Node],
    manifest_files: Iterable[ManifestFile],
    level: int = DEFAULT_LEVEL,
) -> bytes:
    """A complete snapshot file.

    Parameters
    ----------
    nodes
        In the order of the UTF-8 bytes of their paths.
    manifest_files
        Every manifest that a node refers to, once, in any order.
    metadata
        JSON values; others as in `metadata_values.normalise`.

    Raises
    ------
    ValueError
        Nodes out of order or repeated, an id of a wrong length.
    TypeError
        Metadata that JSON has no counterpart for.
    TooLargeForFormat
        More bytes than readers take.
    """
    head = _Head(id, parent_id, flushed_at_us, message, metadata, manifest_files)
    blobs = [encode_node(node) for node in _in_order(nodes)]
    return _assemble(head, blobs, np.array([len(blob) for blob in blobs], np.int64), level).data


def encode_changed_snapshot(
    base: Snapshot,
    *,
    id: SnapshotId,
    parent_id: SnapshotId | None,
    flushed_at_us: int,
    message: str,
    metadata: Mapping[str, Any],
    changed: Mapping[str, Node | None],
    manifest_files: Iterable[ManifestFile] | bytes,
    level: int = DEFAULT_LEVEL,
) -> EncodedSnapshot:
    """The nodes of `base` with some of them exchanged, added or (``None``) removed, as a complete snapshot file.

    The result is that of `encode_snapshot` for those nodes. Of a snapshot that this library wrote, the bytes of the
    other nodes are copied; the nodes of others are encoded anew. Parameters and errors as `encode_snapshot`;
    `manifest_files` may also come from `changed_files`.
    """
    head = _Head(id, parent_id, flushed_at_us, message, metadata, manifest_files)
    order = sorted(changed)  # texts sort as their UTF-8 bytes
    if any(node is not None and node.path != path for path, node in changed.items()):
        raise ValueError("a changed node has another path than its key")
    bounds = base.blob_bounds
    if bounds is None:
        blobs = [encode_node(node) for node in _in_order(_overlaid(base, changed, order))]
        return _assemble(head, blobs, np.array([len(blob) for blob in blobs], np.int64), level)
    pieces: list[bytes | memoryview] = []
    sizes: list[NDArray[np.int64]] = []
    new: list[int] = []  # sizes of the blobs since the last run of copied ones
    copied, following = 0, base.path_at(0)
    for path in [*order, None]:  # a step per changed node
        row, found = (copied, False) if path is not None else (base.num_nodes, False)
        if path is not None and following is not None and path.encode("utf-8") >= following:
            row, found = base.find_row(path)
        if row > copied:
            pieces.append(base.blob_bytes(copied, row))
            sizes += [np.array(new, np.int64), np.diff(bounds[copied : row + 1])]
            new = []
        if row + found > copied:
            copied, following = row + found, base.path_at(row + found)
        node = None if path is None else changed[path]
        if node is not None:
            blob = encode_node(node)
            pieces.append(blob)
            new.append(len(blob))
    return _assemble(head, pieces, np.concatenate([*sizes, np.array(new, np.int64)]), level)


def encode_adopted_snapshot(snapshot: Snapshot, parent_id: SnapshotId, *, level: int = DEFAULT_LEVEL) -> bytes:
    """The same snapshot with another parent, as a complete file; whoever wrote it, nothing else changes.

    Raises
    ------
    ValueError
        It has no parent.
    """
    return wrap(FileType.SNAPSHOT, snapshot.with_parent(parent_id), level=level)


def _in_order(nodes: Iterable[Node]) -> Iterator[Node]:
    last = b""
    for node in nodes:
        path = node.path.encode("utf-8")
        if path <= last:
            raise ValueError(f"node `{node.path}` is repeated or out of order")
        last = path
        yield node


def _overlaid(base: Snapshot, changed: Mapping[str, Node | None], order: list[str]) -> Iterator[Node]:
    """Nodes of a snapshot that was written by others, with changes, sorted even where `base` is not."""
    kept = (node for node in base.nodes() if node.path not in changed)
    new = (node for path in order if (node := changed[path]) is not None)
    return iter(sorted([*kept, *new], key=lambda node: node.path.encode("utf-8")))


def _files_of(files: Iterable[ManifestFile]) -> bytes:
    """The list of manifest files as it is in a snapshot: in the order of their ids."""
    rows = sorted(FILE.pack(file.id, file.size_bytes, file.num_chunk_refs) for file in files)
    if len({row[:OBJECT_ID_SIZE] for row in rows}) != len(rows):
        raise ValueError("a manifest is listed twice")
    return b"".join(rows)


def changed_files(base: Snapshot, dropped: Collection[ManifestId], added: Iterable[ManifestFile]) -> bytes:
    """The manifest files of a snapshot without some and with others, as they are in a snapshot."""
    old = base.manifest_table.tobytes()
    rows = {old[at : at + OBJECT_ID_SIZE]: old[at : at + FILE.size] for at in range(0, len(old), FILE.size)}
    for id in dropped:
        rows.pop(id, None)
    for file in added:
        rows[file.id] = FILE.pack(file.id, file.size_bytes, file.num_chunk_refs)
    return b"".join(rows[id] for id in sorted(rows))


class _Head:
    """Everything of a snapshot but its nodes."""

    def __init__(
        self,
        id: SnapshotId,
        parent_id: SnapshotId | None,
        flushed_at_us: int,
        message: str,
        metadata: Mapping[str, Any],
        manifest_files: Iterable[ManifestFile] | bytes,
    ) -> None:
        if len(id) != OBJECT_ID_SIZE or (parent_id is not None and len(parent_id) != OBJECT_ID_SIZE):
            raise ValueError(f"a snapshot id has {OBJECT_ID_SIZE} bytes")
        if not all(isinstance(name, str) for name in metadata):
            raise TypeError("names of metadata: object cannot be cast as 'str'")
        self.id, self.parent_id, self.flushed_at_us = id, parent_id, flushed_at_us
        self.message = message.encode("utf-8")
        self.items = sorted((name.encode("utf-8"), pack(value)) for name, value in metadata.items())
        self.files = manifest_files if isinstance(manifest_files, bytes) else _files_of(manifest_files)

    def encode(self, num_nodes: int) -> tuple[bytearray, int]:
        """The beginning of the file, to a multiple of 8; position of the first element of the vector of nodes."""
        files = _TABLE + _FIELDS.size  # 84: the structs behind the count are at a multiple of 8, as they must
        out = bytearray(files) + struct.pack("<I", len(self.files) // FILE.size) + self.files
        message = len(out)
        out += struct.pack("<I", len(self.message)) + self.message + b"\0"
        metadata = self._append_metadata(out)
        out += bytes(-len(out) % 4)
        nodes = len(out)
        out += struct.pack("<I", num_nodes)
        out += bytes(4 * num_nodes)
        out += bytes(-len(out) % 8)
        struct.pack_into("<I4s", out, 0, _TABLE, FILE_IDENTIFIER)
        out[8:26] = _VTABLE if self.parent_id is not None else _ROOT_VTABLE
        offsets = [
            target - _TABLE - field
            for target, field in zip((nodes, message, metadata, files), (28, 40, 44, 48), strict=True)
        ]
        parent = self.parent_id or bytes(OBJECT_ID_SIZE)
        _FIELDS.pack_into(out, _TABLE, _TABLE - 8, self.id, parent, offsets[0], self.flushed_at_us, *offsets[1:])
        return out, nodes + 4

    def _append_metadata(self, out: bytearray) -> int:
        """Append the vector of properties and their tables; returns its position."""
        out += bytes(-len(out) % 4)
        vector = len(out)
        out += struct.pack("<I", len(self.items)) + bytes(4 * len(self.items))
        vtable = len(out)
        out += _ITEM_VTABLE
        for i, (name, value) in enumerate(self.items):
            table = len(out)
            struct.pack_into("<I", out, vector + 4 + 4 * i, table - (vector + 4 + 4 * i))
            text = struct.pack("<I", len(name)) + name + b"\0"
            text += bytes(-len(text) % 4)
            out += struct.pack("<iII", table - vtable, 8, 4 + len(text)) + text + struct.pack("<I", len(value)) + value
            out += bytes(-len(out) % 4)
        return vector


def _assemble(
    head: _Head, pieces: Sequence[bytes | memoryview], sizes: NDArray[np.int64], level: int
) -> EncodedSnapshot:
    """The file: the head, and blobs of nodes of the given sizes."""
    out, elements = head.encode(len(sizes))
    bounds = np.empty(len(sizes) + 1, np.int64)
    bounds[0] = start = len(out)
    np.cumsum(sizes, out=bounds[1:])
    bounds[1:] += start
    total = int(bounds[-1])
    if total > MAX_FLATBUFFER:
        raise TooLargeForFormat(f"a snapshot of {total} bytes; readers take at most {MAX_FLATBUFFER}")
    own = np.arange(elements, elements + 4 * len(sizes), 4)
    out[elements : elements + 4 * len(sizes)] = (bounds[:-1] + (NODE_AT - own)).astype("<u4").tobytes()
    bounds.flags.writeable = False
    return EncodedSnapshot(wrap(FileType.SNAPSHOT, b"".join([out, *pieces]), level=level), bounds)
