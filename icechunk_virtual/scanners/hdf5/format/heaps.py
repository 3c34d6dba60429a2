"""Local heaps, which hold names (section III.D), and global heaps, which hold data of varying length (III.E)."""

from __future__ import annotations

from collections.abc import Iterable

from icechunk_virtual.scanners.hdf5.format.context import Context
from icechunk_virtual.scanners.hdf5.format.damage import Damaged
from icechunk_virtual.scanners.hdf5.format.steps import Step, together

_LOCAL, _GLOBAL = b"HEAP", b"GCOL"
_USUAL_COLLECTION = 4096  # bytes: the least that the library makes
_ALIGNMENT = 8  # of what is in a collection


class LocalHeap:
    """Texts by their offset in the heap."""

    def __init__(self, context: Context, address: int, data: bytes) -> None:
        self._context, self._address, self._data = context, address, data
        self._left = 4 * len(data)  # bytes of texts: sound files use every text about once

    def text(self, offset: int) -> bytes:
        """The text at an offset, up to its zero."""
        stop = self._data.find(b"\0", offset)
        if offset >= len(self._data) or stop < 0:
            raise Damaged(self._context.place(self._address), f"local heap: no text at its byte {offset}")
        self._left -= stop - offset
        if self._left < 0:
            raise Damaged(self._context.place(self._address), "local heap: its texts are used again and again")
        return self._data[offset:stop]


def read_local_heap(context: Context, address: int) -> Step[LocalHeap]:
    """Read the heap at an address."""
    prefix = 8 + 2 * context.sizes.length + context.sizes.offset
    cursor = context.cursor((yield from context.read(address, prefix)), address, "local heap")
    cursor.expect(_LOCAL)
    cursor.version(0)
    cursor.skip(3)
    size = cursor.length()
    cursor.skip(context.sizes.length)  # free space
    segment = cursor.address("the heap's data")
    return LocalHeap(context, segment, (yield from context.read(segment, size)))


Collection = dict[int, bytes]
"""Objects of a global heap collection by their number."""


def read_collections(context: Context, addresses: Iterable[int]) -> Step[dict[int, Collection]]:
    """Read the collections at some addresses, all at the same time."""
    wanted = sorted(set(addresses))
    missing = [address for address in wanted if address not in context.collections]
    found = yield from together([_read_collection(context, address) for address in missing])
    context.collections.update(zip(missing, found, strict=True))
    return {address: context.collections[address] for address in wanted}


def _read_collection(context: Context, address: int) -> Step[Collection]:
    data = yield from context.read_some(address, _USUAL_COLLECTION)
    cursor = context.cursor(data, address, "global heap collection")
    cursor.expect(_GLOBAL)
    cursor.version(1)
    cursor.skip(3)
    size = cursor.length()
    cursor.skip(-cursor.position % _ALIGNMENT)
    start = cursor.position
    if size > len(data):
        data = yield from context.read(address, size)
    cursor = context.cursor(data[:size], address, "global heap collection")
    cursor.skip(start)
    objects: Collection = {}
    padding = -context.sizes.length % _ALIGNMENT
    while cursor.left >= 8 + context.sizes.length + padding:
        number = cursor.uint(2)
        cursor.skip(2 + 4)  # reference count
        length = cursor.length()
        cursor.skip(padding)
        if not number:  # the rest is free
            break
        if number in objects:
            cursor.fail(f"two objects with number {number}")
        objects[number] = cursor.take(length)
        cursor.skip(min(cursor.left, -length % _ALIGNMENT))
    return objects
