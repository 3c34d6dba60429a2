"""Transaction logs (section 8): what one commit changed, in columns."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.errors import TooLargeForFormat
from icechunk_virtual.model.ids import NODE_ID_SIZE, OBJECT_ID_SIZE, NodeId, SnapshotId
from icechunk_virtual.repo.format.envelope import DEFAULT_LEVEL, MAX_FLATBUFFER, FileType, unwrap, wrap
from icechunk_virtual.repo.format.flat import FILE_IDENTIFIER, Buffer, Table
from icechunk_virtual.repo.format.flat_blocks import BlockLayout, BlockWriter, align
from icechunk_virtual.repo.format.flat_columns import Places, Tables
from icechunk_virtual.repo.format.flat_rows import coordinates, order_of, pointed_at

MAX_TABLES = 50_000_000
"""Tables per transaction log that readers take: one per changed chunk and array."""
MAX_IDS = 25_000_000
"""Nodes per list; no reader takes a snapshot of more."""

_FEW = 64
"""Chunks and arrays of a small log, which are written and read one by one: columns would take longer to set up."""
_MOST_DIMENSIONS = 255
"""Of a chunk that is read on its own."""

# Slots 1 to 6 of TransactionLog, in this order
_ID_SLOTS = ("new_groups", "new_arrays", "deleted_groups", "deleted_arrays", "updated_arrays", "updated_groups")
_CHUNKS_SLOT = 7


@dataclass(frozen=True, eq=False)
class TransactionLog:
    """What the commit `id` changed.

    Attributes
    ----------
    updated_chunks : mapping of NodeId to uint32 (n, ndim)
        Chunks that were set or deleted, sorted, unique; `n` may be 0.
    other_ranks : mapping of NodeId to tuple of uint32 (n, ndim)
        icechunk stores chunks of the wrong rank (section 12, Q8). If they are not all of one rank, those of most are in
        `updated_chunks` and the others here. Only read, never written.
    """

    id: SnapshotId
    new_groups: frozenset[NodeId] = frozenset()
    new_arrays: frozenset[NodeId] = frozenset()
    deleted_groups: frozenset[NodeId] = frozenset()
    deleted_arrays: frozenset[NodeId] = frozenset()
    updated_groups: frozenset[NodeId] = frozenset()
    updated_arrays: frozenset[NodeId] = frozenset()
    updated_chunks: Mapping[NodeId, NDArray[np.uint32]] = field(default_factory=dict)
    other_ranks: Mapping[NodeId, tuple[NDArray[np.uint32], ...]] = field(default_factory=dict)

    def chunks(self, node: NodeId, ndim: int) -> NDArray[np.uint32] | None:
        """The changed chunks of an array that are of its rank, uint32 (n, ndim); ``None`` if there are none."""
        for coords in self.parts(node):
            if len(coords) and coords.shape[1] == ndim:
                return coords
        return None

    def parts(self, node: NodeId) -> tuple[NDArray[np.uint32], ...]:
        """All changed chunks of an array by rank."""
        main = self.updated_chunks.get(node)
        return () if main is None else (main, *self.other_ranks.get(node, ()))


def encode_transaction_log(log: TransactionLog, *, level: int = DEFAULT_LEVEL) -> bytes:
    """A complete transaction log file.

    Raises
    ------
    ValueError
        An id of a wrong length, or chunks of other ranks.
    TooLargeForFormat
        More changed chunks than readers take in one log.
    """
    return wrap(FileType.TRANSACTION_LOG, _encode_flatbuffer(log), level=level)


# The file: root offset, identifier, three vtables, the root table, vectors of ids, tables of ArrayUpdatedChunks
# (16 bytes each: distance, node id, chunks), vectors of ChunkIndices, blocks of ChunkIndices (see `flat_blocks`).
_TABLE = 44
_VTABLE = struct.pack("<10H", 20, 48, *(4, 16, 20, 24, 28, 32, 36, 40))
_UPDATED_VTABLE = struct.pack("<4H", 8, 16, 4, 12)
_UPDATED_VTABLE_AT, _VTABLE_AT = 8, 16
_ROOT_SIZE = 44
_UPDATED = np.dtype([("vtable", "<i4"), ("node", "V8"), ("chunks", "<u4")])


def _encode_flatbuffer(log: TransactionLog) -> memoryview:
    updated = sorted((id, _sorted_unique(coords)) for id, coords in log.updated_chunks.items())
    ids = [sorted(getattr(log, name)) for name in _ID_SLOTS]
    wrong = [id for group in [*ids, [id for id, _ in updated]] for id in group if len(id) != NODE_ID_SIZE]
    if len(log.id) != OBJECT_ID_SIZE or wrong:
        raise ValueError("a snapshot id has 12 bytes and a node id 8")
    if log.other_ranks:
        raise ValueError("chunks of one array are of different ranks")
    counts = np.array([len(coords) for _, coords in updated], np.int64)
    if 1 + len(updated) + int(counts.sum()) > MAX_TABLES:
        raise TooLargeForFormat(
            f"a transaction log of {int(counts.sum())} chunks; readers take {MAX_TABLES}. Commit in smaller steps."
        )
    head = bytearray(_TABLE + _ROOT_SIZE)
    struct.pack_into("<I4s", head, 0, _TABLE, FILE_IDENTIFIER)
    head[_UPDATED_VTABLE_AT : _UPDATED_VTABLE_AT + 8] = _UPDATED_VTABLE
    head[_VTABLE_AT : _VTABLE_AT + 20] = _VTABLE
    struct.pack_into("<i12s", head, _TABLE, _TABLE - _VTABLE_AT, log.id)
    for number, group in enumerate([*ids, updated]):
        field_at = _TABLE + 16 + 4 * number
        struct.pack_into("<I", head, field_at, len(head) - field_at)
        head += struct.pack("<I", len(group))
        if number < len(ids):
            head += b"".join(group)
    if len(updated) + int(counts.sum()) <= _FEW:
        return memoryview(_append_few(head, updated))
    return _append_updated(head, updated, counts).data


def _append_few(head: bytearray, updated: list[tuple[NodeId, NDArray[np.uint32]]]) -> bytearray:
    """As `_append_updated`, byte for byte."""
    first = len(head)
    tables = range(first + 4 * len(updated), first + 20 * len(updated), _UPDATED.itemsize)
    ends = itertools.accumulate((4 * (len(coords) + 1) for _, coords in updated), initial=first + 20 * len(updated))
    *vectors, end = ends
    places, blocks, position = [0] * len(updated), [], align(end, 8)
    for ndim in sorted({coords.shape[1] for _, coords in updated if len(coords)}):
        rows: list[list[int]] = []
        for i, (_, coords) in enumerate(updated):
            if len(coords) and coords.shape[1] == ndim:
                places[i] = position + 8 + 4 * len(rows)
                rows += coords.tolist()
        blocks.append(_small_block(rows, ndim))
        position += len(blocks[-1])
    head += struct.pack(f"<{len(updated)}I", *(table - first - 4 * i for i, table in enumerate(tables)))
    for (node, _), table, vector in zip(updated, tables, vectors, strict=True):
        head += struct.pack("<i8sI", table - _UPDATED_VTABLE_AT, node, vector - (table + 12))
    for (_, coords), place, vector in zip(updated, places, vectors, strict=True):
        count = len(coords)
        head += struct.pack(f"<{1 + count}I", count, *[place - (vector + 4)] * count)
    head += bytes(-len(head) % 8)
    return head + b"".join(blocks)


def _small_block(rows: list[list[int]], ndim: int) -> bytes:
    """One block of `flat_blocks` with all its rows."""
    n = len(rows)
    tables, vectors = (8 + 4 * k for k in range(n)), (4 * n + 4 * ndim * k for k in range(n))
    elements = itertools.chain.from_iterable((ndim, *row) for row in rows)
    block = struct.pack(f"<3H2x{n * (3 + ndim)}I", 6, 4, 4 * n, *tables, *vectors, *elements)
    return block + bytes(-len(block) % 8)


def _append_updated(
    head: bytearray, updated: list[tuple[NodeId, NDArray[np.uint32]]], counts: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """The file: `head` ends with the number of arrays, what is updated in them follows."""
    first = len(head)
    tables = first + 4 * len(updated) + _UPDATED.itemsize * np.arange(len(updated))
    vectors = first + 20 * len(updated) + np.concatenate([[0], np.cumsum(4 * (counts + 1))]).astype(np.int64)
    position = align(int(vectors[-1]), 8)
    plans = {}
    for ndim in sorted({coords.shape[1] for _, coords in updated if len(coords)}):
        members = [i for i, (_, coords) in enumerate(updated) if len(coords) and coords.shape[1] == ndim]
        layout = BlockLayout.of(int(counts[members].sum()), ndim, {0: 4}, ((0,),))
        plans[ndim] = members, layout, position
        position += layout.blocks * layout.tail
    if position > MAX_FLATBUFFER:
        raise TooLargeForFormat(f"a transaction log of {position} bytes; readers take {MAX_FLATBUFFER}.")
    out = np.zeros(position, np.uint8)
    words = out[: position // 4 * 4].view("<u4")
    out[:first] = np.frombuffer(head, np.uint8)
    words[first // 4 : first // 4 + len(updated)] = tables - (first + 4 * np.arange(len(updated)))
    records = out[first + 4 * len(updated) :][: 16 * len(updated)].view(_UPDATED)
    records["vtable"] = tables - _UPDATED_VTABLE_AT
    records["node"] = np.frombuffer(b"".join(id for id, _ in updated), "V8")
    records["chunks"] = vectors[:-1] - (tables + 12)
    words[vectors[:-1] // 4] = counts
    for members, layout, start in plans.values():
        writer = BlockWriter(out, layout, start, layout.tail)
        writer.tables(None)
        parts = [updated[i][1] for i in members]
        writer.vectors(parts[0] if len(parts) == 1 else np.concatenate(parts))
        positions, row = writer.table_positions(), 0
        for i in members:
            count, at = int(counts[i]), int(vectors[i]) + 4
            words[at // 4 : at // 4 + count] = positions[row : row + count] - np.arange(at, at + 4 * count, 4)
            row += count
    return out


def _sorted_unique(coords: NDArray[np.uint32]) -> NDArray[np.uint32]:
    rows = order_of(coords)
    return coords if rows is None else coords[rows]


def decode_transaction_log(data: bytes, *, file: str) -> TransactionLog:
    """Read a transaction log file; what is unsorted in it gets sorted.

    Parameters
    ----------
    file
        Key in the repository, for messages.

    Raises
    ------
    CorruptFile
        Damaged or no transaction log.
    UnsupportedFormat
        Another format version.
    """
    kind = FileType.TRANSACTION_LOG
    buffer = Buffer(unwrap(data, file_type=kind, file=file), file=file, kind=kind.label)
    root = buffer.root()
    id = SnapshotId(root.struct(0, OBJECT_ID_SIZE, "the log's id"))
    groups = {name: _ids(root, slot, name) for slot, name in enumerate(_ID_SLOTS, 1)}
    updated = _few_updated_chunks(root)
    if updated is None:
        updated = _updated_chunks(buffer, root)
    main = {node: parts[0] for node, parts in updated.items()}
    others = {node: parts[1:] for node, parts in updated.items() if len(parts) > 1}
    return TransactionLog(id, **groups, updated_chunks=main, other_ranks=others)


def _ids(root: Table, slot: int, name: str) -> frozenset[NodeId]:
    start, count = root.vector(slot, NODE_ID_SIZE, 1, f"the list of {name.replace('_', ' ')}")
    if count > MAX_IDS:
        raise root.buffer.corrupt(f"{count} ids in the list of {name.replace('_', ' ')}", start)
    data = root.buffer.data
    return frozenset(
        NodeId(data[at : at + NODE_ID_SIZE]) for at in range(start, start + count * NODE_ID_SIZE, NODE_ID_SIZE)
    )


def _few_updated_chunks(root: Table) -> dict[NodeId, tuple[NDArray[np.uint32], ...]] | None:
    """As `_updated_chunks`; ``None`` if there are too many to look at them one by one."""
    if root.vector(_CHUNKS_SLOT, 4, 4, "the updated chunks")[1] > _FEW:
        return None
    arrays = root.tables(_CHUNKS_SLOT, "an updated array")
    counts = [array.vector(1, 4, 4, "the updated chunks of an array")[1] for array in arrays]
    if len(arrays) + sum(counts) > _FEW:
        return None
    updated: dict[NodeId, tuple[NDArray[np.uint32], ...]] = {}
    for array in arrays:
        id = NodeId(array.struct(0, NODE_ID_SIZE, "an updated array's id"))
        if id in updated:
            raise root.buffer.corrupt("an updated array is listed twice", array.position)
        by_rank: dict[int, list[tuple[int, ...]]] = {}
        for chunk in array.tables(1, "the updated chunks of an array"):
            start, ndim = chunk.vector(0, 4, 4, "an updated chunk's index")
            if ndim > _MOST_DIMENSIONS:
                return None
            by_rank.setdefault(ndim, []).append(struct.unpack_from(f"<{ndim}I", root.buffer.data, start))
        parts = sorted(by_rank.items(), key=lambda part: (-len(part[1]), part[0])) or [(0, [])]
        updated[id] = tuple(_coordinates(sorted(set(rows)), ndim) for ndim, rows in parts)
    return updated


def _coordinates(rows: list[tuple[int, ...]], ndim: int) -> NDArray[np.uint32]:
    return np.array(rows, np.uint32, order="F").reshape(len(rows), ndim)


def _updated_chunks(buffer: Buffer, root: Table) -> dict[NodeId, tuple[NDArray[np.uint32], ...]]:
    """Chunks of each array by rank, in the parts of `coordinates`."""
    start, count = root.vector(_CHUNKS_SLOT, 4, 4, "the updated chunks")
    arrays = Tables.at(Places.pointed_at(buffer, start, count), 2, "an updated array")
    raw = arrays.field(0, "an updated array's id").read_bytes(NODE_ID_SIZE, "an updated array's id").tobytes()
    ids = [NodeId(raw[at : at + NODE_ID_SIZE]) for at in range(0, len(raw), NODE_ID_SIZE)]
    if len(set(ids)) != len(ids):
        raise buffer.corrupt("an updated array is listed twice", start)
    starts, counts = arrays.vectors(1, 4, "the updated chunks of an array")
    total = int(counts.sum())
    if total > MAX_TABLES:
        raise buffer.corrupt(f"{total} updated chunks are more than any reader takes", start)
    rows = Tables.at(pointed_at(buffer, starts, counts), 1, "an updated chunk")
    coords = coordinates(rows, 0, counts, "an updated chunk's index")
    return {id: tuple(_sorted_unique(own) for _, own in parts) for id, parts in zip(ids, coords, strict=True)}
