"""Object headers: the messages of a group, dataset or committed type, wherever the header continues.

Section IV.A.1 of the specification: versions 1 and 2 of the prefix, continuation blocks, and the form of messages. What
a message says is parsed elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from icechunk_virtual.scanners.hdf5.format.context import CHECKSUM, Context
from icechunk_virtual.scanners.hdf5.format.cursor import Cursor
from icechunk_virtual.scanners.hdf5.format.damage import Damaged, NotHandled
from icechunk_virtual.scanners.hdf5.format.steps import Step

_V2_SIGNATURE, _V2_CONTINUATION = b"OHDR", b"OCHK"
_PREFIX = 64  # bytes: the longest prefix of version 2 has 34
_V1_PREFIX = 16

# Flags of version 2 (IV.A.1.b).
_CHUNK_WIDTH, _CREATION_ORDER, _PHASE_CHANGE, _TIMES = 0x03, 0x04, 0x10, 0x20
# Flags of a message (IV.A.1.a).
_SHARED, _FAIL_IF_UNKNOWN = 0x02, 0x80


class Kind(IntEnum):
    """Types of messages that are looked at (IV.A.2)."""

    NIL = 0x00
    DATASPACE = 0x01
    LINK_INFO = 0x02
    DATATYPE = 0x03
    OLD_FILL_VALUE = 0x04
    FILL_VALUE = 0x05
    LINK = 0x06
    EXTERNAL_FILES = 0x07
    LAYOUT = 0x08
    GROUP_INFO = 0x0A
    FILTERS = 0x0B
    ATTRIBUTE = 0x0C
    COMMENT = 0x0D
    OLD_MODIFICATION_TIME = 0x0E
    SHARED_MESSAGES = 0x0F
    CONTINUATION = 0x10
    SYMBOL_TABLE = 0x11
    MODIFICATION_TIME = 0x12
    BTREE_KS = 0x13
    DRIVER_INFO = 0x14
    ATTRIBUTE_INFO = 0x15
    REFERENCE_COUNT = 0x16
    FILE_SPACE_INFO = 0x17


_KNOWN = frozenset(Kind)


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it lies in the header.

    Attributes
    ----------
    kind : int
        One of `Kind`, or a type that is not looked at.
    shared : bool
        `data` says where the message is instead of what it says.
    data : bytes
    address : int
        Of `data`.
    order : int
        Creation order, 0 where it is not tracked.
    """

    kind: int
    shared: bool
    data: bytes
    address: int
    order: int = 0


@dataclass(frozen=True, slots=True)
class Header:
    """All messages of an object."""

    address: int
    version: int
    messages: tuple[Message, ...]

    def all(self, kind: Kind) -> Iterator[Message]:
        """Messages of one type."""
        return (message for message in self.messages if message.kind == kind)

    def first(self, kind: Kind) -> Message | None:
        """The message of a type that occurs once."""
        return next(self.all(kind), None)


def read_header(context: Context, address: int) -> Step[Header]:
    """Read the header at an address, with all its continuations."""
    start = yield from context.read_some(address, _PREFIX)
    if start[:4] == _V2_SIGNATURE:
        return (yield from _read_v2(context, address, start))
    return (yield from _read_v1(context, address, start))


def _read_v1(context: Context, address: int, start: bytes) -> Step[Header]:
    cursor = context.cursor(start, address, "object header")
    cursor.version(1)
    cursor.skip(1)
    count = cursor.uint(2)
    cursor.skip(4)  # reference count
    size = cursor.uint(4)
    messages: list[Message] = []
    todo, seen = [(address + _V1_PREFIX, size)], set[int]()
    while todo and len(messages) < count:
        place, length = todo.pop(0)
        _check_new(context, place, seen)
        cursor = context.cursor((yield from context.read(place, length)), place, "object header")
        found = list(_v1_messages(cursor, place, count - len(messages)))
        messages += found
        todo += [_continuation(context, message) for message in found if message.kind == Kind.CONTINUATION]
    return _header(context, address, 1, messages)


def _v1_messages(cursor: Cursor, place: int, count: int) -> Iterator[Message]:
    while cursor.left >= 8 and count:  # a gap smaller than the fields in front of a message
        kind, size, flags = cursor.uint(2), cursor.uint(2), cursor.uint(1)
        cursor.skip(3)
        at = place + cursor.position
        count -= 1
        yield _message(kind, flags, cursor.take(size), at, 0)


def _read_v2(context: Context, address: int, start: bytes) -> Step[Header]:
    cursor = context.cursor(start, address, "object header")
    cursor.expect(_V2_SIGNATURE)
    cursor.version(2)
    flags = cursor.uint(1)
    if flags & _TIMES:
        cursor.skip(4 * 4)  # access, modification, change, birth
    if flags & _PHASE_CHANGE:
        cursor.skip(2 * 2)  # when attributes go to a heap and back
    size = cursor.uint(1 << (flags & _CHUNK_WIDTH))
    prefix = cursor.position
    todo, seen, messages = [(address, prefix + size + CHECKSUM, prefix)], set[int](), list[Message]()
    while todo:
        place, length, prefix = todo.pop(0)
        _check_new(context, place, seen)
        block = yield from context.read(place, length)
        context.check(block, place, "object header")
        cursor = context.cursor(block, place, "object header")
        if prefix == len(_V2_CONTINUATION):
            cursor.expect(_V2_CONTINUATION)
        cursor.position = prefix
        cursor.end -= CHECKSUM
        found = list(_v2_messages(cursor, place, ordered=bool(flags & _CREATION_ORDER)))
        messages += found
        further = [_continuation(context, message) for message in found if message.kind == Kind.CONTINUATION]
        todo += [(place, length, len(_V2_CONTINUATION)) for place, length in further]
    return _header(context, address, 2, messages)


def _v2_messages(cursor: Cursor, place: int, *, ordered: bool) -> Iterator[Message]:
    shortest = 6 if ordered else 4
    while cursor.left >= shortest:
        kind, size, flags = cursor.uint(1), cursor.uint(2), cursor.uint(1)
        order = cursor.uint(2) if ordered else 0
        at = place + cursor.position
        yield _message(kind, flags, cursor.take(size), at, order)


def _message(kind: int, flags: int, data: bytes, address: int, order: int) -> Message:
    if kind not in _KNOWN and flags & _FAIL_IF_UNKNOWN:
        raise NotHandled(f"a header message of type {kind:#x}, of which the file says that readers have to know it")
    return Message(kind, bool(flags & _SHARED), data, address, order)


def _continuation(context: Context, message: Message) -> tuple[int, int]:
    """Address and length of the next block of a header (IV.A.2.q)."""
    cursor = context.cursor(message.data, message.address, "continuation message")
    place, length = cursor.address("the continuation"), cursor.length()
    if not length:
        cursor.fail("a continuation without bytes")
    return place, length


def _check_new(context: Context, place: int, seen: set[int]) -> None:
    if place in seen:
        raise Damaged(context.place(place), "object header: it continues where it was before")
    seen.add(place)


def _header(context: Context, address: int, version: int, messages: list[Message]) -> Header:
    if not messages:
        raise Damaged(context.place(address), "object header: it has no messages")
    return Header(address, version, tuple(message for message in messages if message.kind != Kind.NIL))
