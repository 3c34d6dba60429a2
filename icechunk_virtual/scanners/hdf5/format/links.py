"""Link messages (section IV.A.2.g) and what messages say about where a group keeps its links (IV.A.2.c, IV.A.2.r)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from icechunk_virtual.scanners.hdf5.format.cursor import Cursor

_NAME_WIDTH, _ORDERED, _TYPED, _CHARSET = 0x03, 0x04, 0x08, 0x10  # flags of a link
_HARD, _SOFT, _EXTERNAL = 0, 1, 64  # types of a link
_TRACKED, _INDEXED = 0x01, 0x02  # flags of "link info" and "attribute info": creation order


@dataclass(frozen=True, slots=True)
class Hard:
    """An object of the file, by the address of its header."""

    address: int


@dataclass(frozen=True, slots=True)
class Soft:
    """A path, from the group on or from the root if it begins with a slash."""

    path: bytes


@dataclass(frozen=True, slots=True)
class External:
    """A path in another file."""

    file: bytes
    path: bytes


@dataclass(frozen=True, slots=True)
class UserDefined:
    """A link that only the program knows which made it."""

    kind: int


Target: TypeAlias = "Hard | Soft | External | UserDefined"


@dataclass(frozen=True, slots=True)
class Link:
    """A name in a group.

    Attributes
    ----------
    name : bytes
    target : Target
    order : int or None
        When it was made, where the group keeps that.
    """

    name: bytes
    target: Target
    order: int | None = None


@dataclass(frozen=True, slots=True)
class Storage:
    """Where a group keeps links, or an object its attributes, if they are not all in the header.

    Attributes
    ----------
    tracked, indexed : bool
        Their order of creation is kept; there is an index by it.
    heap, names : int or None
        Addresses of a fractal heap, and of a version 2 B-tree that indexes it by name.
    """

    tracked: bool
    indexed: bool
    heap: int | None
    names: int | None


def parse_link(cursor: Cursor) -> Link:
    """Parse a link message."""
    cursor.version(1)
    flags = cursor.uint(1)
    kind = cursor.uint(1) if flags & _TYPED else _HARD
    order = cursor.uint(8) if flags & _ORDERED else None
    if flags & _CHARSET:
        cursor.skip(1)
    name = cursor.take(cursor.uint(1 << (flags & _NAME_WIDTH)))
    if not name:
        cursor.fail("a link without a name")
    return Link(name, _target(cursor, kind), order)


def _target(cursor: Cursor, kind: int) -> Target:
    if kind == _HARD:
        return Hard(cursor.address("the object of a link"))
    value = cursor.take(cursor.uint(2))
    if kind == _SOFT:
        return Soft(value)
    if kind != _EXTERNAL:
        return UserDefined(kind)
    file, zero, path = value[1:].partition(b"\0")  # the first byte is version and flags
    if not zero:
        cursor.fail("an external link without a path")
    return External(file, path.split(b"\0")[0])


def parse_link_info(cursor: Cursor) -> Storage:
    """Parse the message "link info"."""
    return _storage(cursor, order_width=8)


def parse_attribute_info(cursor: Cursor) -> Storage:
    """Parse the message "attribute info" (IV.A.2.v)."""
    return _storage(cursor, order_width=2)


def _storage(cursor: Cursor, order_width: int) -> Storage:
    cursor.version(0)
    flags = cursor.uint(1)
    if flags & _TRACKED:
        cursor.skip(order_width)  # the highest so far
    return Storage(bool(flags & _TRACKED), bool(flags & _INDEXED), cursor.offset(), cursor.offset())
