"""Extensible arrays (section VII.D of the specification): chunk indexes of datasets with one unlimited axis.

The first elements lie in the index block; the others in data blocks, which grow in pairs of super blocks. The first
data blocks are listed by the index block, further ones by secondary blocks. Large data blocks are cut into pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.scanners.hdf5.format.columns import check_beginning, uint_column
from icechunk_virtual.scanners.hdf5.format.context import CHECKSUM, Context
from icechunk_virtual.scanners.hdf5.format.cursor import Cursor
from icechunk_virtual.scanners.hdf5.format.paged import Elements, page_addresses, page_bits, read_pages
from icechunk_virtual.scanners.hdf5.format.steps import Step, together

_HEADER, _INDEX, _SECONDARY, _DATA = b"EAHD", b"EAIB", b"EASB", b"EADB"
_MOST_BITS = 64


@dataclass(frozen=True, slots=True)
class _Array:
    """The header."""

    address: int
    client: int
    size: int  # bytes of an element
    bits: int  # of element numbers
    in_index: int  # elements in the index block
    least: int  # elements of the smallest data block
    pointers: int  # data blocks of the first secondary block that is a block of its own
    page: int  # elements of a page
    index: int | None

    @property
    def offset_width(self) -> int:
        """Bytes of element numbers."""
        return -(-self.bits // 8)

    @property
    def super_blocks(self) -> int:
        """How many super blocks there may be."""
        return 1 + self.bits - (self.least.bit_length() - 1)

    @property
    def in_index_supers(self) -> int:
        """How many of these have their data blocks listed in the index block."""
        return min(self.super_blocks, 2 * (self.pointers.bit_length() - 1))


@dataclass(frozen=True, slots=True)
class _Super:
    """A super block: data blocks of equal size."""

    blocks: int
    elements: int  # of each of them
    first: int  # number of the first element


def read_extensible_array(context: Context, address: int, expected: int) -> Step[Elements]:
    """Elements of the array at an address.

    Parameters
    ----------
    expected
        Elements with a number below this one belong to the present extent of the dataset.
    """
    array = yield from _read_header(context, address)
    if array.index is None:
        return Elements.none(array.size)
    supers = list(_supers(array))
    listed = supers[: array.in_index_supers]
    width = context.sizes.offset
    prefix = 4 + 1 + 1 + width
    blocks = sum(each.blocks for each in listed)
    secondary = len(supers) - len(listed)
    length = prefix + array.in_index * array.size + (blocks + secondary) * width + CHECKSUM
    block = yield from context.read(array.index, length)
    context.check(block, array.index, "index block of an extensible array")
    cursor = context.cursor(block, array.index, "index block of an extensible array")
    _check_block(cursor, array, _INDEX)
    elements = np.frombuffer(cursor.take(array.in_index * array.size), np.uint8).reshape(array.in_index, array.size)
    parts = [Elements(np.arange(array.in_index, dtype=np.uint64), elements)]
    steps = []
    for each in listed:
        addresses = _addresses(context, cursor.take(each.blocks * width))
        steps.append(_read_data_blocks(context, array, each, addresses, None))
    for each in supers[len(listed) :]:
        place = cursor.offset()
        if place is not None:
            steps.append(_read_secondary(context, array, each, place))
    parts += yield from together(steps)
    return Elements.concat(parts, array.size).below(expected)


def _read_header(context: Context, address: int) -> Step[_Array]:
    sizes = context.sizes
    length = 4 + 1 + 1 + 6 + 6 * sizes.length + sizes.offset + CHECKSUM
    block = yield from context.read(address, length)
    context.check(block, address, "extensible array")
    cursor = context.cursor(block, address, "extensible array")
    cursor.expect(_HEADER)
    cursor.version(0)
    client, size, bits, in_index, least, pointers, page_power = (cursor.uint(1) for _ in range(7))
    for _ in range(6):  # numbers and sizes of blocks
        cursor.length()
    powers = all(n and not n & (n - 1) for n in (least, pointers))
    if not size or not powers or not least.bit_length() <= bits <= _MOST_BITS or page_power >= bits:
        cursor.fail(f"elements of {size} bytes, {bits} bits; {least} in a block, {pointers} blocks")
    return _Array(address, client, size, bits, in_index, least, pointers, 1 << page_power, cursor.offset())


def _supers(array: _Array) -> Iterator[_Super]:
    """All super blocks: number `u` has 2^(u/2) data blocks of 2^((u+1)/2) times the least number of elements."""
    first = array.in_index
    for number in range(array.super_blocks):
        blocks, elements = 1 << number // 2, array.least << (number + 1) // 2
        yield _Super(blocks, elements, first)
        first += blocks * elements


def _read_secondary(context: Context, array: _Array, each: _Super, address: int) -> Step[Elements]:
    """A secondary block, which lists the data blocks of one super block and their pages in use."""
    width = context.sizes.offset
    pages = each.elements // array.page if each.elements > array.page else 0
    bitmap = -(-pages // 8)
    prefix = 4 + 1 + 1 + width + array.offset_width
    length = prefix + each.blocks * bitmap + each.blocks * width + CHECKSUM
    block = yield from context.read(address, length)
    context.check(block, address, "secondary block of an extensible array")
    cursor = context.cursor(block, address, "secondary block of an extensible array")
    _check_block(cursor, array, _SECONDARY, each.first - array.in_index)
    bits = cursor.take(each.blocks * bitmap)
    used = None
    if pages:  # the bits of all blocks follow each other, although every block adds whole bytes
        used = page_bits(bits, each.blocks * pages).reshape(each.blocks, pages)
    addresses = _addresses(context, cursor.take(each.blocks * width))
    return (yield from _read_data_blocks(context, array, each, addresses, used))


def _read_data_blocks(
    context: Context,
    array: _Array,
    each: _Super,
    addresses: NDArray[np.uint64],
    used: NDArray[np.bool_] | None,
) -> Step[Elements]:
    """Data blocks of one super block.

    Parameters
    ----------
    addresses
        Undefined where there is no block.
    used : bool (blocks, pages) or None
        Pages that were written, if the blocks are cut into pages.
    """
    there = addresses != np.uint64(context.sizes.undefined)
    firsts = np.uint64(each.first) + np.arange(each.blocks, dtype=np.uint64) * np.uint64(each.elements)
    addresses, firsts = addresses[there], firsts[there]
    prefix = 4 + 1 + 1 + context.sizes.offset + array.offset_width
    if used is None:
        length = prefix + each.elements * array.size + CHECKSUM
        rows = yield from context.read_rows(addresses, length)
        _check_rows(context, array, rows, addresses)
        number = firsts[:, None] + page_addresses(0, each.elements, 1)
        data = rows[:, prefix : length - CHECKSUM].reshape(-1, array.size)
        return Elements(number.reshape(-1), data)
    used = used[there]
    _check_rows(context, array, (yield from context.read_rows(addresses, prefix + CHECKSUM)), addresses)
    pages, page_length = used.shape[1], array.page * array.size + CHECKSUM
    starts = addresses + np.uint64(prefix + CHECKSUM)
    places = starts[:, None] + page_addresses(0, pages, page_length)
    numbers = firsts[:, None] + page_addresses(0, pages, array.page)
    return (yield from read_pages(context, places[used], numbers[used], array.page, array.size))


def _check_rows(context: Context, array: _Array, rows: NDArray[np.uint8], addresses: NDArray[np.uint64]) -> None:
    owner = array.address.to_bytes(context.sizes.offset, "little")
    check_beginning(context, rows, addresses, _DATA + bytes([0, array.client]) + owner, "data block of an array")
    context.check_rows(rows, addresses, "data block of an extensible array")


def _check_block(cursor: Cursor, array: _Array, signature: bytes, first: int | None = None) -> None:
    cursor.expect(signature)
    cursor.version(0)
    if cursor.uint(1) != array.client or cursor.offset() != array.address:
        cursor.fail("it belongs to another array")
    if first is not None and cursor.uint(array.offset_width) != first:
        cursor.fail("it belongs to another place of the array")


def _addresses(context: Context, data: bytes) -> NDArray[np.uint64]:
    width = context.sizes.offset
    return uint_column(np.frombuffer(data, np.uint8).reshape(-1, width), 0, width)
