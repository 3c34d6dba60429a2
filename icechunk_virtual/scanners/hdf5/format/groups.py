"""All links of a group, whichever way it keeps them: symbol table, in its header, or in a fractal heap."""

from __future__ import annotations

from icechunk_virtual.scanners.hdf5.format.btree1 import GROUP, read_btree1
from icechunk_virtual.scanners.hdf5.format.btree2 import read_btree2
from icechunk_virtual.scanners.hdf5.format.columns import uint_column
from icechunk_virtual.scanners.hdf5.format.context import Context
from icechunk_virtual.scanners.hdf5.format.cursor import Cursor
from icechunk_virtual.scanners.hdf5.format.damage import Damaged
from icechunk_virtual.scanners.hdf5.format.fractal_heap import read_heap_objects
from icechunk_virtual.scanners.hdf5.format.header import Header, Kind, Message
from icechunk_virtual.scanners.hdf5.format.heaps import LocalHeap, read_local_heap
from icechunk_virtual.scanners.hdf5.format.links import Hard, Link, Soft, Storage, parse_link, parse_link_info
from icechunk_virtual.scanners.hdf5.format.steps import Step, both

_NODE = b"SNOD"
_NODE_PREFIX = 8  # bytes: signature, version, reserved, number of symbols (III.B)
_SCRATCH = 16  # bytes of a symbol table entry (III.C)
_SOFT_LINK = 2  # cache type of an entry
_NAME_RECORDS = 5  # type of B-tree records: hash of a name (4 bytes), id in the heap (7)
_HASH = 4


def read_links(context: Context, header: Header) -> Step[list[Link]]:
    """Links of a group in the order of their creation where it keeps that, otherwise by name.

    Raises
    ------
    Damaged
        Two links have one name.
    """
    table = header.first(Kind.SYMBOL_TABLE)
    if table is not None:
        links = yield from _read_symbol_table(context, table)
        ordered = False
    else:
        info = header.first(Kind.LINK_INFO)
        storage = Storage(False, False, None, None)
        if info is not None:
            storage = parse_link_info(context.cursor(info.data, info.address, "link info"))
        links = [parse_link(context.cursor(each.data, each.address, "link")) for each in header.all(Kind.LINK)]
        if storage.heap is not None and storage.names is not None:
            links += yield from _read_dense(context, storage.heap, storage.names)
        ordered = storage.tracked and storage.indexed
    if len({link.name for link in links}) < len(links):
        raise Damaged(context.place(header.address), "group: two links have the same name")
    return sorted(links, key=(lambda link: link.order or 0) if ordered else (lambda link: link.name))


def is_group(header: Header) -> bool:
    """Whether an object is a group."""
    return any(header.first(kind) is not None for kind in (Kind.SYMBOL_TABLE, Kind.LINK_INFO, Kind.GROUP_INFO))


def _read_dense(context: Context, heap: int, names: int) -> Step[list[Link]]:
    tree = yield from read_btree2(context, names)
    if tree.kind != _NAME_RECORDS:
        raise Damaged(context.place(names), f"links in a B-tree of type {tree.kind}")
    ids = [record.tobytes() for record in tree.records[:, _HASH:]]
    messages = yield from read_heap_objects(context, heap, ids)
    return [parse_link(context.cursor(message, heap, "link")) for message in messages]


def _read_symbol_table(context: Context, message: Message) -> Step[list[Link]]:
    """Symbol table message (IV.A.2.r): a B-tree of nodes, and a heap with the names."""
    cursor = context.cursor(message.data, message.address, "symbol table")
    tree_address, heap_address = cursor.address("the B-tree of a group"), cursor.address("the heap of a group")
    tree, heap = yield from both(
        read_btree1(context, tree_address, GROUP, context.superblock.group_internal_k, context.sizes.length),
        read_local_heap(context, heap_address),
    )
    sizes = context.sizes
    entry = 2 * sizes.offset + 4 + 4 + _SCRATCH
    length = _NODE_PREFIX + 2 * context.superblock.group_leaf_k * entry
    nodes = yield from context.read_rows(tree.children, length)
    counts = uint_column(nodes, _NODE_PREFIX - 2, 2)
    links = []
    for address, node, count in zip(tree.children.tolist(), nodes, counts.tolist(), strict=True):
        cursor = context.cursor(node.tobytes(), address, "symbol table node")
        cursor.expect(_NODE)
        cursor.version(1)
        cursor.skip(1 + 2)
        if count > 2 * context.superblock.group_leaf_k:
            cursor.fail(f"{count} symbols in a node")
        links += [_entry(cursor, heap) for _ in range(count)]
    return links


def _entry(cursor: Cursor, heap: LocalHeap) -> Link:
    name = heap.text(cursor.uint(cursor.sizes.offset))
    address = cursor.offset()
    kind = cursor.uint(4)
    cursor.skip(4)
    scratch = cursor.take(_SCRATCH)
    if kind == _SOFT_LINK:
        return Link(name, Soft(heap.text(int.from_bytes(scratch[:4], "little"))))
    if address is None or not name:
        cursor.fail("an entry without an address or a name")
    return Link(name, Hard(address))
