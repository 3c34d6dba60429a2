"""The superblock: where the file begins inside its bytes, how wide its addresses are, where the root group is.

Section II.A of the specification, versions 0 to 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from icechunk_virtual.scanners.hdf5.format.checksum import checksum
from icechunk_virtual.scanners.hdf5.format.cursor import Cursor, Sizes
from icechunk_virtual.scanners.hdf5.format.damage import Damaged
from icechunk_virtual.scanners.hdf5.format.steps import Range, Step

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_FIRST_USER_BLOCK = 512  # the signature is at 0, 512, 1024, 2048 ...
_LONGEST = 128  # bytes; version 1 with its symbol table entry has 100
_WIDTHS = (2, 4, 8)  # bytes of offsets and lengths; the format allows 16 and 32 too, the library makes none
_GROUP_LEAF_K, _GROUP_INTERNAL_K, _CHUNK_K = 4, 16, 32  # of files that do not say


@dataclass(frozen=True, slots=True)
class Superblock:
    """What holds for the whole file.

    Attributes
    ----------
    base : int
        Position of the superblock, which all addresses count from.
    root : int
        Address of the object header of the root group.
    extension : int or None
        Address of an object header with further facts.
    group_leaf_k, group_internal_k, chunk_k : int
        Half of the entries that nodes of version 1 B-trees have room for.
    """

    version: int
    base: int
    sizes: Sizes
    root: int
    extension: int | None = None
    group_leaf_k: int = _GROUP_LEAF_K
    group_internal_k: int = _GROUP_INTERNAL_K
    chunk_k: int = _CHUNK_K

    def with_ks(self, group_leaf: int, group_internal: int, chunk: int) -> Superblock:
        """The same with what the message "B-tree 'K' values" of the extension says (section IV.A.2.t)."""
        return replace(self, group_leaf_k=group_leaf, group_internal_k=group_internal, chunk_k=chunk)


def find_superblock(file_size: int) -> Step[Superblock]:
    """Look for the superblock and parse it."""
    base = 0
    while base + len(SIGNATURE) <= file_size:
        if (yield Range(base, len(SIGNATURE))) == SIGNATURE:
            data = yield Range(base, min(_LONGEST, file_size - base))
            return parse_superblock(data, base)
        base = max(_FIRST_USER_BLOCK, 2 * base)
    raise Damaged(0, "there is no superblock")


def parse_superblock(data: bytes, base: int) -> Superblock:
    """Parse a superblock that begins with its signature."""
    cursor = Cursor(data, base, Sizes(), "superblock")
    cursor.expect(SIGNATURE)
    version = cursor.version(0, 1, 2, 3)
    return _old(cursor, base, version) if version < 2 else _new(cursor, base, version)


def _old(cursor: Cursor, base: int, version: int) -> Superblock:
    cursor.skip(4)  # versions of the free space storage, the root entry, a reserved byte, shared header messages
    cursor.sizes = _sizes(cursor)
    cursor.skip(1)
    leaf, internal = cursor.uint(2), cursor.uint(2)
    cursor.skip(4)  # consistency flags
    chunk = _CHUNK_K
    if version == 1:
        chunk = cursor.uint(2)
        cursor.skip(2)
    cursor.offset()  # base address: what counts is where the superblock was found
    cursor.offset()  # free space
    cursor.offset()  # end of file
    cursor.offset()  # driver information
    cursor.skip(cursor.sizes.offset)  # symbol table entry (III.C): name of the root ...
    root = cursor.address("the root group")
    if not leaf or not internal or not chunk:
        cursor.fail("nodes of B-trees without room")
    return Superblock(version, base, cursor.sizes, root, None, leaf, internal, chunk)


def _new(cursor: Cursor, base: int, version: int) -> Superblock:
    cursor.sizes = _sizes(cursor)
    cursor.skip(1)  # consistency flags
    cursor.offset()
    extension = cursor.offset()
    cursor.offset()  # end of file
    root = cursor.address("the root group")
    body = cursor.data[: cursor.position]
    if cursor.uint(4) != checksum(body):
        cursor.fail("its checksum is wrong")
    return Superblock(version, base, cursor.sizes, root, extension)


def _sizes(cursor: Cursor) -> Sizes:
    offset, length = cursor.uint(1), cursor.uint(1)
    if offset not in _WIDTHS or length not in _WIDTHS:
        cursor.fail(f"offsets of {offset} and lengths of {length} bytes")
    return Sizes(offset, length)
