"""Fixed arrays (section VII.C of the specification): chunk indexes of datasets whose axes all have a limit."""

from __future__ import annotations

import numpy as np

from icechunk_virtual.scanners.hdf5.format.context import CHECKSUM, Context
from icechunk_virtual.scanners.hdf5.format.paged import Elements, page_addresses, page_bits, read_pages
from icechunk_virtual.scanners.hdf5.format.steps import Step

_HEADER, _DATA = b"FAHD", b"FADB"
_MOST_PAGE_BITS = 32


def read_fixed_array(context: Context, address: int, expected: int) -> Step[Elements]:
    """Elements of the array at an address.

    Parameters
    ----------
    expected
        Number of elements that the dataset has room for.
    """
    sizes = context.sizes
    length = 4 + 1 + 1 + 1 + 1 + sizes.length + sizes.offset + CHECKSUM
    block = yield from context.read(address, length)
    context.check(block, address, "fixed array")
    cursor = context.cursor(block, address, "fixed array")
    cursor.expect(_HEADER)
    cursor.version(0)
    client, size, bits, count = cursor.uint(1), cursor.uint(1), cursor.uint(1), cursor.length()
    data = cursor.offset()
    if count != expected or not 0 < bits <= _MOST_PAGE_BITS or (count * size > context.file_size and data is not None):
        cursor.fail(f"{count} elements of {size} bytes in pages of 2^{bits}, for {expected} chunks")
    if data is None or not size:
        return Elements.none(size)
    page = 1 << bits
    pages = -(-count // page)
    prefix = 4 + 1 + 1 + sizes.offset
    if count <= page:
        block = yield from context.read(data, prefix + count * size + CHECKSUM)
        _check_data(context, block, data, address, client)
        elements = np.frombuffer(block, np.uint8, count * size, prefix).reshape(count, size)
        return Elements(np.arange(count, dtype=np.uint64), elements)
    bitmap = -(-pages // 8)
    block = yield from context.read(data, prefix + bitmap + CHECKSUM)
    _check_data(context, block, data, address, client)
    used = page_bits(block[prefix : prefix + bitmap], pages)
    addresses = page_addresses(data + len(block), pages, page * size + CHECKSUM)
    firsts = np.arange(pages, dtype=np.uint64) * np.uint64(page)
    full = used.copy()
    full[-1] &= count % page == 0
    parts = [(yield from read_pages(context, addresses[full], firsts[full], page, size))]
    if used[-1] and not full[-1]:  # the last page has only the elements that are left
        parts.append((yield from read_pages(context, addresses[-1:], firsts[-1:], count % page, size)))
    return Elements.concat(parts, size)


def _check_data(context: Context, block: bytes, address: int, owner: int, client: int) -> None:
    context.check(block, address, "data block of a fixed array")
    cursor = context.cursor(block, address, "data block of a fixed array")
    cursor.expect(_DATA)
    cursor.version(0)
    if cursor.uint(1) != client or cursor.offset() != owner:
        cursor.fail("it belongs to another array")
