"""Version 2 B-trees (section III.A.2): fixed-size records of any type, read level by level, whole nodes at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.scanners.hdf5.format.columns import check_beginning, uint_column
from icechunk_virtual.scanners.hdf5.format.context import CHECKSUM, Context
from icechunk_virtual.scanners.hdf5.format.damage import Damaged
from icechunk_virtual.scanners.hdf5.format.steps import Step

_HEADER, _INTERNAL, _LEAF = b"BTHD", b"BTIN", b"BTLF"
_PREFIX = 6  # signature, version, type
_OVERHEAD = _PREFIX + CHECKSUM


@dataclass(frozen=True, slots=True, eq=False)
class BTree2:
    """A tree's records.

    Attributes
    ----------
    kind : int
        Type of the records.
    records : uint8 (n, record size)
        In the order of the tree only where it has one level.
    """

    kind: int
    records: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Shape:
    """How nodes are laid out: widths of the fields of child pointers, by depth of the node."""

    kind: int
    node_size: int
    record_size: int
    most: tuple[int, ...]  # records of a node, by depth
    count_width: int
    total_width: tuple[int, ...]  # of the field "total number of records" of a child, by depth of the node


def read_btree2(context: Context, address: int) -> Step[BTree2]:
    """Read all records of the tree at an address."""
    sizes = context.sizes
    length = 4 + 1 + 1 + 4 + 2 + 2 + 1 + 1 + sizes.offset + 2 + sizes.length + CHECKSUM
    block = yield from context.read(address, length)
    context.check(block, address, "version 2 B-tree")
    cursor = context.cursor(block, address, "version 2 B-tree")
    cursor.expect(_HEADER)
    cursor.version(0)
    kind, node_size, record_size, depth = cursor.uint(1), cursor.uint(4), cursor.uint(2), cursor.uint(2)
    cursor.skip(2)  # when to split and merge
    root, count, total = cursor.offset(), cursor.uint(2), cursor.length()
    if not record_size or node_size < _OVERHEAD + record_size or total * record_size > context.file_size:
        cursor.fail(f"{total} records of {record_size} bytes in nodes of {node_size}")
    if root is None:
        return BTree2(kind, np.empty((0, record_size), np.uint8))
    if depth > 8 * sizes.offset:
        cursor.fail(f"a tree of {depth + 1} levels")
    shape = _shape(context, kind, node_size, record_size, depth)
    if not all(shape.most):
        cursor.fail(f"records of {record_size} bytes in nodes of {node_size}")
    parts = []
    addresses, counts = np.array([root], np.uint64), np.array([count], np.uint64)
    for level in range(depth, -1, -1):
        nodes = yield from _read_nodes(context, shape, level, addresses, counts)
        if level:
            records, addresses, counts = _internal(context, shape, level, nodes, counts, addresses)
        else:
            records = _records(nodes, shape, counts)
        parts.append(records)
    found = np.concatenate(parts)
    if len(found) != total:
        cursor.fail(f"{len(found)} records instead of {total}")
    return BTree2(kind, found)


def _shape(context: Context, kind: int, node_size: int, record_size: int, depth: int) -> _Shape:
    """Capacities of nodes, which the widths of counters follow from (III.A.2, "Version 2 B-tree, internal node")."""
    most = [(node_size - _OVERHEAD) // record_size]
    count_width = _width(most[0])
    total, totals = most[0], [0]
    for level in range(1, depth + 1):
        totals.append(_width(total) if level > 1 else 0)
        pointer = context.sizes.offset + count_width + totals[level]
        most.append(max(0, node_size - _OVERHEAD - pointer) // (record_size + pointer))
        total = (most[level] + 1) * total + most[level]
    return _Shape(kind, node_size, record_size, tuple(most), count_width, tuple(totals))


def _width(limit: int) -> int:
    """Bytes of a counter up to a limit."""
    return (max(1, limit).bit_length() - 1) // 8 + 1


def _read_nodes(
    context: Context, shape: _Shape, level: int, addresses: NDArray[np.uint64], counts: NDArray[np.uint64]
) -> Step[NDArray[np.uint8]]:
    """Nodes of one level (n, node size)."""
    if (counts > shape.most[level]).any():
        worst = int(np.argmax(counts))
        raise Damaged(context.place(int(addresses[worst])), f"node of a B-tree: {counts[worst]} records")
    nodes = yield from context.read_rows(addresses, shape.node_size)
    beginning = (_INTERNAL if level else _LEAF) + bytes([0, shape.kind])
    check_beginning(context, nodes, addresses, beginning, "node of a B-tree")
    _check(context, shape, level, nodes, addresses, counts)
    return nodes


def _check(
    context: Context,
    shape: _Shape,
    level: int,
    nodes: NDArray[np.uint8],
    addresses: NDArray[np.uint64],
    counts: NDArray[np.uint64],
) -> None:
    """Judge checksums, which stand behind the last field in use: nodes of equal length go together."""
    pointer = context.sizes.offset + shape.count_width + shape.total_width[level] if level else 0
    for count in np.unique(counts).tolist():
        used = _PREFIX + count * shape.record_size + (count + 1) * pointer
        rows = counts == count
        context.check_rows(nodes[rows, : used + CHECKSUM], addresses[rows], "node of a B-tree")


def _records(nodes: NDArray[np.uint8], shape: _Shape, counts: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Records in use (n, record size)."""
    most = int(counts.max(initial=0))
    fields = nodes[:, _PREFIX : _PREFIX + most * shape.record_size].reshape(len(nodes), most, shape.record_size)
    return fields[np.arange(most) < counts[:, None]]


def _internal(
    context: Context,
    shape: _Shape,
    level: int,
    nodes: NDArray[np.uint8],
    counts: NDArray[np.uint64],
    addresses: NDArray[np.uint64],
) -> tuple[NDArray[np.uint8], NDArray[np.uint64], NDArray[np.uint64]]:
    """Records of inner nodes, and addresses and numbers of records of their children."""
    width = context.sizes.offset
    pointer = width + shape.count_width + shape.total_width[level]
    children = int(counts.max()) + 1
    used = np.arange(children) <= counts[:, None]
    # Pointers begin behind the last record, so at another place in every node.
    start = _PREFIX + counts.astype(np.intp) * shape.record_size
    fields = start[:, None] + np.arange(children) * pointer
    rows, places = np.nonzero(used)[0], fields[used]
    table = nodes[rows[:, None], places[:, None] + np.arange(pointer)]
    found = uint_column(table, 0, width)
    if (found == np.uint64(context.sizes.undefined)).any():
        raise Damaged(context.place(int(addresses[0])), "node of a B-tree: no address of a child")
    return _records(nodes, shape, counts), found, uint_column(table, width, shape.count_width)
