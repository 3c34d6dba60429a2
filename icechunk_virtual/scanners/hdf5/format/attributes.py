"""Attributes of an object (section IV.A.2.m, versions 1 to 3), in its header and in a fractal heap; committed types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from icechunk_virtual.scanners.hdf5.format.btree2 import read_btree2
from icechunk_virtual.scanners.hdf5.format.columns import uint_column
from icechunk_virtual.scanners.hdf5.format.context import Context
from icechunk_virtual.scanners.hdf5.format.cursor import Cursor
from icechunk_virtual.scanners.hdf5.format.damage import Damaged, NotHandled
from icechunk_virtual.scanners.hdf5.format.dataspace import Dataspace, parse_dataspace
from icechunk_virtual.scanners.hdf5.format.datatype import Datatype, parse_datatype
from icechunk_virtual.scanners.hdf5.format.elements import read_elements
from icechunk_virtual.scanners.hdf5.format.fractal_heap import read_heap_objects
from icechunk_virtual.scanners.hdf5.format.header import Header, Kind, Message, read_header
from icechunk_virtual.scanners.hdf5.format.links import parse_attribute_info
from icechunk_virtual.scanners.hdf5.format.steps import Step, together

_TYPE_SHARED, _SPACE_SHARED = 0x01, 0x02  # flags, from version 2 on
_NAME_RECORDS = 8  # type of B-tree records (III.A.2): id in the heap, flags, creation order, hash of the name
_RECORD_ID, _RECORD_FLAGS, _RECORD_ORDER = (0, 8), (8, 1), (9, 4)
_RECORD_SIZE = 17
_MESSAGE_SHARED = 0x02  # in these flags
_IN_HEAP = 1  # where a shared message is (IV.A.2, "Shared message"), in version 3


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute with its values.

    Attributes
    ----------
    name : bytes
    type : Datatype
    space : Dataspace
    values : array
        As `elements.read_elements` gives them, with the shape of the dataspace; empty if that is null.
    """

    name: bytes
    type: Datatype
    space: Dataspace
    values: NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Raw:
    """An attribute before its type is known, which may be a committed one (an address)."""

    name: bytes
    type: Datatype | int
    space: Dataspace
    data: bytes
    address: int
    order: int


def read_attributes(context: Context, header: Header) -> Step[list[Attribute]]:
    """Attributes of an object, in the order of their creation where it keeps that, otherwise by name.

    Raises
    ------
    Damaged
        Two attributes have one name.
    """
    found = [(each, each.order) for each in header.all(Kind.ATTRIBUTE)]
    info = header.first(Kind.ATTRIBUTE_INFO)
    ordered = False
    if info is not None:
        storage = parse_attribute_info(context.cursor(info.data, info.address, "attribute info"))
        ordered = storage.tracked
        if storage.heap is not None and storage.names is not None:
            found += yield from _read_dense(context, storage.heap, storage.names)
    raw = [_parse(context, message, order) for message, order in found]
    if len({each.name for each in raw}) < len(raw):
        raise Damaged(context.place(header.address), "object header: two attributes have the same name")
    raw.sort(key=(lambda each: each.order) if ordered else (lambda each: each.name))
    return (yield from together([_read_values(context, each) for each in raw]))


def read_type(context: Context, message: Message) -> Step[Datatype]:
    """The type that a datatype message says, or points to."""
    if not message.shared:
        return _type(context, message.data, message.address)
    cursor = context.cursor(message.data, message.address, "shared datatype")
    return (yield from read_committed(context, parse_shared(cursor)))


def read_committed(context: Context, address: int) -> Step[Datatype]:
    """A committed type, by the address of its header."""
    if address not in context.types:
        header = yield from read_header(context, address)
        message = header.first(Kind.DATATYPE)
        if message is None or message.shared:
            raise Damaged(context.place(address), "there is no committed type")
        context.types[address] = _type(context, message.data, message.address)
    return context.types[address]


def parse_shared(cursor: Cursor) -> int:
    """Address of the header that holds a shared message."""
    version = cursor.version(1, 2, 3)
    kind = cursor.uint(1)
    if version == 3 and kind == _IN_HEAP:
        raise NotHandled("messages that objects share through a heap")
    if version == 1:
        cursor.skip(6 + cursor.sizes.length)
    return cursor.address("a shared message")


def _read_dense(context: Context, heap: int, names: int) -> Step[list[tuple[Message, int]]]:
    tree = yield from read_btree2(context, names)
    if tree.kind != _NAME_RECORDS:
        raise Damaged(context.place(names), f"attributes in a B-tree of type {tree.kind}")
    if tree.records.shape[1] != _RECORD_SIZE:
        raise Damaged(context.place(names), f"attributes in records of {tree.records.shape[1]} bytes")
    if (uint_column(tree.records, *_RECORD_FLAGS) & _MESSAGE_SHARED).any():
        raise NotHandled("attributes that objects share through a heap")
    start, length = _RECORD_ID
    ids = [record.tobytes() for record in tree.records[:, start : start + length]]
    orders = uint_column(tree.records, *_RECORD_ORDER).tolist()
    messages = yield from read_heap_objects(context, heap, ids)
    return [(Message(Kind.ATTRIBUTE, False, data, heap), order) for data, order in zip(messages, orders, strict=True)]


def _parse(context: Context, message: Message, order: int) -> _Raw:
    if message.shared:
        raise NotHandled("attributes that objects share through a heap")
    cursor = context.cursor(message.data, message.address, "attribute")
    version = cursor.version(1, 2, 3)
    flags = cursor.uint(1)  # of version 1: reserved
    if version == 1:
        flags = 0
    name_size, type_size, space_size = cursor.uint(2), cursor.uint(2), cursor.uint(2)
    if version == 3:
        cursor.skip(1)  # encoding of the name
    unit = 8 if version == 1 else 1

    def part(size: int) -> tuple[bytes, int]:
        at = message.address + cursor.position
        data = cursor.take(size)
        cursor.skip(-size % unit)
        return data, at

    name = part(name_size)[0].split(b"\0")[0]
    raw_type, type_at = part(type_size)
    raw_space, space_at = part(space_size)
    if flags & _SPACE_SHARED:
        raise NotHandled("dataspaces that objects share")
    kind: Datatype | int
    if flags & _TYPE_SHARED:
        kind = parse_shared(context.cursor(raw_type, type_at, "datatype of an attribute"))
    else:
        kind = _type(context, raw_type, type_at)
    space = context.once(
        ("space", raw_space),
        lambda: parse_dataspace(context.cursor(raw_space, space_at, "dataspace of an attribute")),
    )
    return _Raw(name, kind, space, cursor.take(cursor.left), message.address, order)


def _type(context: Context, data: bytes, address: int) -> Datatype:
    return context.once(("type", data), lambda: parse_datatype(context.cursor(data, address, "datatype")))


def _read_values(context: Context, raw: _Raw) -> Step[Attribute]:
    kind = raw.type
    if isinstance(kind, int):
        kind = yield from read_committed(context, kind)
    count = raw.space.count
    needed = count * kind.size
    if needed > len(raw.data):
        raise Damaged(
            context.place(raw.address),
            f"attribute {raw.name!r} has {len(raw.data)} bytes instead of {needed}",
        )
    values = yield from read_elements(context, kind, raw.data[:needed], count)
    if raw.space.shape is not None:
        values = values.reshape(raw.space.shape + values.shape[1:])
    return Attribute(raw.name, kind, raw.space, values)


def named(attributes: Sequence[Attribute], name: bytes) -> Attribute | None:
    """The attribute with a name."""
    return next((each for each in attributes if each.name == name), None)
