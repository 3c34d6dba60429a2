"""Fractal heaps (section III.G), which hold the links and attributes of objects that have many.

Doubling tables of direct blocks; objects are managed (inside these), huge (on their own) or tiny (inside their id).
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from icechunk_virtual.scanners.hdf5.format.btree2 import read_btree2
from icechunk_virtual.scanners.hdf5.format.context import CHECKSUM, Context
from icechunk_virtual.scanners.hdf5.format.cursor import Cursor
from icechunk_virtual.scanners.hdf5.format.damage import Damaged, NotHandled
from icechunk_virtual.scanners.hdf5.format.steps import Step, together

_HEADER, _DIRECT, _INDIRECT = b"FRHP", b"FHDB", b"FHIB"
_CHECKSUMMED = 0x02  # flag: direct blocks have checksums
_KIND, _MANAGED, _HUGE, _TINY = 0x30, 0x00, 0x10, 0x20  # of an id, in its first byte
_VERSION = 0xC0
_LONG_TINY = 19  # ids of at least so many bytes say the length of tiny objects in 12 bits
_MOST_ROWS = 64  # of blocks that double: more than any address can count
_HUGE_RECORDS = 1  # type of the B-tree of huge objects without filters


@dataclass(frozen=True, slots=True)
class _Heap:
    """The header."""

    address: int
    id_length: int
    checksummed: bool
    largest_managed: int
    huge_index: int | None
    width: int  # blocks of a row
    first_block: int  # bytes
    largest_direct: int  # bytes
    offset_bits: int
    root: int | None
    root_rows: int  # 0: the root is a direct block

    @property
    def offset_width(self) -> int:
        """Bytes of positions in the heap."""
        return -(-self.offset_bits // 8)

    @property
    def length_width(self) -> int:
        """Bytes of lengths of managed objects."""
        direct = -(-(self.largest_direct.bit_length() - 1) // 8)
        return min(direct, (self.largest_managed.bit_length() - 1) // 8 + 1)

    @property
    def direct_rows(self) -> int:
        """Rows of an indirect block that hold direct blocks."""
        return self.largest_direct.bit_length() - self.first_block.bit_length() + 2

    def row_block(self, row: int) -> int:
        """Bytes of a block in a row; the first two rows are alike."""
        return self.first_block << max(0, row - 1)

    def rows_of(self, size: int) -> int:
        """Rows of an indirect block that stands for so many bytes."""
        return size.bit_length() - (self.first_block * self.width).bit_length() + 1


@dataclass(frozen=True, slots=True)
class _Block:
    """A direct block: its position in the heap and its bytes, prefix included."""

    offset: int
    data: bytes


def read_heap_objects(context: Context, address: int, ids: Sequence[bytes]) -> Step[list[bytes]]:
    """Objects of the heap at an address, by their ids."""
    if not ids:
        return []
    heap = yield from _read_header(context, address)
    blocks: list[_Block] = []
    kinds = {each[0] & _KIND for each in ids if each}
    if _MANAGED in kinds and heap.root is not None:
        blocks = yield from _read_blocks(context, heap)
    huge: dict[int, tuple[int, int]] = {}
    if _HUGE in kinds:
        huge = yield from _read_huge_index(context, heap)
    found: list[bytes] = []
    for each in ids:
        cursor = context.cursor(each, address, "id of a fractal heap")
        first = cursor.uint(1)
        kind = first & _KIND
        if first & _VERSION:
            cursor.fail(f"version {first >> 6} of an id")
        if kind == _MANAGED:
            offset, length = cursor.uint(heap.offset_width), cursor.uint(heap.length_width)
            found.append(_managed(context, heap, blocks, offset, length))
        elif kind == _TINY:
            length = (first & 0x0F) + 1
            if heap.id_length >= _LONG_TINY:
                length = ((first & 0x0F) << 8 | cursor.uint(1)) + 1
            found.append(cursor.take(length))
        elif kind == _HUGE:
            found.append((yield from _read_huge(context, heap, cursor, huge)))
        else:
            cursor.fail("an id of no known type")
    if sum(map(len, found)) > context.file_size:
        raise Damaged(context.place(address), "fractal heap: its objects overlap each other")
    return found


def _read_header(context: Context, address: int) -> Step[_Heap]:
    sizes = context.sizes
    length = 4 + 1 + 2 + 2 + 1 + 4 + 12 * sizes.length + 3 * sizes.offset + 2 + 2 + 2 + 2 + CHECKSUM
    block = yield from context.read(address, length)
    cursor = context.cursor(block, address, "fractal heap")
    cursor.expect(_HEADER)
    cursor.version(0)
    id_length, filters, flags = cursor.uint(2), cursor.uint(2), cursor.uint(1)
    if filters:
        raise NotHandled("a fractal heap with filters")
    context.check(block, address, "fractal heap")
    largest_managed = cursor.uint(4)
    cursor.length()  # next id of huge objects
    huge_index = cursor.offset()
    cursor.length()  # free space
    cursor.offset()
    for _ in range(8):  # sizes and numbers of objects
        cursor.length()
    width = cursor.uint(2)
    first, largest = cursor.length(), cursor.length()
    bits = cursor.uint(2)
    cursor.skip(2)
    root, rows = cursor.offset(), cursor.uint(2)
    powers = all(n and not n & (n - 1) for n in (width, first, largest))
    if not powers or first > largest or not largest_managed or not 0 < bits <= 64 or rows > _MOST_ROWS:
        cursor.fail(f"rows of {width} blocks of {first} to {largest} bytes, in a space of {bits} bits")
    checksummed = bool(flags & _CHECKSUMMED)
    return _Heap(address, id_length, checksummed, largest_managed, huge_index, width, first, largest, bits, root, rows)


def _read_blocks(context: Context, heap: _Heap) -> Step[list[_Block]]:
    """All direct blocks, in the order of the heap."""
    if heap.root is None:
        return []
    if not heap.root_rows:
        return [(yield from _read_direct(context, heap, heap.root, 0, heap.first_block))]
    seen: set[int] = set()
    found = yield from _read_indirect(context, heap, heap.root, 0, heap.root_rows, seen)
    return sorted(found, key=lambda block: block.offset)


def _read_indirect(
    context: Context, heap: _Heap, address: int, offset: int, rows: int, seen: set[int]
) -> Step[list[_Block]]:
    if address in seen:
        raise Damaged(context.place(address), "fractal heap: a block that holds itself")
    seen.add(address)
    prefix = 4 + 1 + context.sizes.offset + heap.offset_width
    length = prefix + rows * heap.width * context.sizes.offset + CHECKSUM
    block = yield from context.read(address, length)
    context.check(block, address, "indirect block of a fractal heap")
    cursor = context.cursor(block, address, "indirect block of a fractal heap")
    _check_block(cursor, heap, _INDIRECT, offset)
    steps: list[Step[list[_Block]]] = []
    for row in range(rows):
        size = heap.row_block(row)
        for _ in range(heap.width):
            child = cursor.offset()
            if child is not None and row < heap.direct_rows:
                steps.append(_listed(_read_direct(context, heap, child, offset, size)))
            elif child is not None:
                inner = heap.rows_of(size)
                if not 0 < inner < rows:
                    cursor.fail(f"a block of {inner} rows inside one of {rows}")
                steps.append(_read_indirect(context, heap, child, offset, inner, seen))
            offset += size
    return [block for blocks in (yield from together(steps)) for block in blocks]


def _listed(step: Step[_Block]) -> Step[list[_Block]]:
    return [(yield from step)]


def _read_direct(context: Context, heap: _Heap, address: int, offset: int, size: int) -> Step[_Block]:
    data = yield from context.read(address, size)
    cursor = context.cursor(data, address, "direct block of a fractal heap")
    _check_block(cursor, heap, _DIRECT, offset)
    if heap.checksummed:  # made with zeros in its own place
        start = cursor.position
        stored = cursor.take(CHECKSUM)
        context.check(data[:start] + bytes(CHECKSUM) + data[cursor.position :] + stored, address, cursor.what)
    return _Block(offset, data)


def _check_block(cursor: Cursor, heap: _Heap, signature: bytes, offset: int) -> None:
    cursor.expect(signature)
    cursor.version(0)
    owner = cursor.offset()
    found = cursor.uint(heap.offset_width)
    if owner != heap.address or found != offset:
        cursor.fail(f"it belongs to the heap at {owner}, byte {found}, instead of {heap.address}, byte {offset}")


def _managed(context: Context, heap: _Heap, blocks: Sequence[_Block], offset: int, length: int) -> bytes:
    number = bisect.bisect_right(blocks, offset, key=lambda block: block.offset) - 1
    if number >= 0:
        start, data = offset - blocks[number].offset, blocks[number].data
        if start + length <= len(data):
            return data[start : start + length]
    raise Damaged(context.place(heap.address), f"fractal heap: no {length} bytes at byte {offset}")


def _read_huge_index(context: Context, heap: _Heap) -> Step[dict[int, tuple[int, int]]]:
    """Address and length of huge objects by their number."""
    if heap.huge_index is None:
        return {}
    tree = yield from read_btree2(context, heap.huge_index)
    if tree.kind != _HUGE_RECORDS:
        raise NotHandled(f"huge objects of a fractal heap in a B-tree of type {tree.kind}")
    found = {}
    for record in tree.records:
        cursor = context.cursor(record.tobytes(), heap.huge_index, "huge object of a fractal heap")
        address, length = cursor.address("the object"), cursor.length()
        found[cursor.length()] = address, length
    return found


def _read_huge(context: Context, heap: _Heap, cursor: Cursor, index: dict[int, tuple[int, int]]) -> Step[bytes]:
    if heap.id_length > context.sizes.offset + context.sizes.length:  # the id says where it is
        return (yield from context.read(cursor.address("a huge object"), cursor.length()))
    number = cursor.uint(min(8, heap.id_length - 1))
    if number not in index:
        cursor.fail(f"no huge object {number}")
    return (yield from context.read(*index[number]))
