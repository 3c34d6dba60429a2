"""Version 1 B-trees (section III.A.1): of chunks, read level by level with numpy, and of the names in a group.

Nodes have room for `2 k` children, between `2 k + 1` keys. Only children and their keys in front count here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.scanners.hdf5.format.columns import check_beginning, uint_column
from icechunk_virtual.scanners.hdf5.format.context import Context
from icechunk_virtual.scanners.hdf5.format.damage import Damaged
from icechunk_virtual.scanners.hdf5.format.steps import Step

GROUP, CHUNKS = 0, 1  # types of nodes
_SIGNATURE = b"TREE"
_TYPE, _LEVEL, _USED = 4, 5, 6  # places of fields of 1, 1 and 2 bytes, behind the signature
_FIXED = 8  # bytes of these; two addresses of siblings follow


@dataclass(frozen=True, slots=True, eq=False)
class BTree1:
    """What the leaves say.

    Attributes
    ----------
    keys : uint8 (n, key size)
        Of each child, the one in front of it.
    children : uint64 (n,)
        Addresses.
    """

    keys: NDArray[np.uint8]
    children: NDArray[np.uint64]


def read_btree1(context: Context, address: int, kind: int, k: int, key_size: int) -> Step[BTree1]:
    """Read the tree at an address.

    Parameters
    ----------
    kind
        `GROUP` or `CHUNKS`.
    k
        Half of the children that a node has room for.
    key_size
        Bytes of a key.
    """
    entry = key_size + context.sizes.offset
    length = _FIXED + 2 * context.sizes.offset + 2 * k * entry + key_size
    root = yield from context.read(address, _FIXED)
    level, addresses = root[_LEVEL], np.array([address], np.uint64)
    while True:
        nodes = yield from _read_nodes(context, addresses, length, kind, level)
        used = uint_column(nodes, _USED, 2).astype(np.int64)
        if (used > 2 * k).any():
            worst = int(np.argmax(used))
            raise Damaged(context.place(int(addresses[worst])), f"node of a B-tree: {used[worst]} children")
        start = _FIXED + 2 * context.sizes.offset
        entries = nodes[:, start : start + 2 * k * entry].reshape(len(nodes), 2 * k, entry)
        entries = entries[np.arange(2 * k) < used[:, None]]
        children = uint_column(entries, key_size, context.sizes.offset)
        if (children == np.uint64(context.sizes.undefined)).any():
            raise Damaged(context.place(int(addresses[0])), "node of a B-tree: no address of a child")
        if not level or not len(children):
            return BTree1(entries[:, :key_size], children)
        level, addresses = level - 1, children


def _read_nodes(
    context: Context, addresses: NDArray[np.uint64], length: int, kind: int, level: int
) -> Step[NDArray[np.uint8]]:
    """Nodes of one level (n, length)."""
    nodes = yield from context.read_rows(addresses, length)
    check_beginning(context, nodes, addresses, _SIGNATURE + bytes([kind, level]), "node of a B-tree")
    return nodes
