"""Small messages of datasets: fill value, filter pipeline, external files, modification time (section IV.A.2)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from icechunk_virtual.scanners.hdf5.format.cursor import Cursor

_UNNAMED = 256  # filters with a smaller number have no name from version 2 on
_UNLIMITED = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class FillValue:
    """What elements are that nobody wrote.

    Attributes
    ----------
    value : bytes or None
        In the form of the file; ``None``: the default, zeros.
    defined : bool
        The user chose it.
    undefined : bool
        The user chose that there is none: anything may be there.
    never : bool
        It is never put into what is allocated.
    """

    value: bytes | None = None
    defined: bool = False
    undefined: bool = False
    never: bool = False


_FILL_NEVER = 1  # value of the field "fill value write time"
_V3_TIME, _V3_UNDEFINED, _V3_DEFINED = 2, 0x10, 0x20  # of its flags: bits 2 and 3, 4, 5


def parse_old_fill_value(cursor: Cursor) -> FillValue:
    """Parse the message of the first versions of the library (IV.A.2.e)."""
    size = cursor.uint(4)
    return FillValue(cursor.take(size), defined=True) if size else FillValue()


def parse_fill_value(cursor: Cursor) -> FillValue:
    """Parse the message (IV.A.2.f, versions 1 to 3)."""
    version = cursor.version(1, 2, 3)
    if version == 3:
        flags = cursor.uint(1)
        never = flags >> _V3_TIME & 3 == _FILL_NEVER
        if flags & _V3_UNDEFINED:
            return FillValue(undefined=True, never=never)
        if not flags & _V3_DEFINED:
            return FillValue(never=never)
        return FillValue(cursor.take(cursor.uint(4)) or None, defined=True, never=never)
    cursor.skip(1)  # when space is allocated
    never = cursor.uint(1) == _FILL_NEVER
    defined = cursor.uint(1)
    if not defined:
        return FillValue(undefined=True, never=never)
    size = cursor.uint(4)
    # A size of 0 is the library's default; older versions say -1 for it.
    if size in (0, 0xFFFFFFFF):
        return FillValue(never=never)
    return FillValue(cursor.take(size), defined=True, never=never)


@dataclass(frozen=True, slots=True)
class FilterStep:
    """A filter: registered number, name in the file, whether chunks may skip it, client values."""

    code: int
    name: bytes
    optional: bool
    values: tuple[int, ...]


def parse_filters(cursor: Cursor) -> tuple[FilterStep, ...]:
    """Parse a pipeline, in the order of writing (IV.A.2.l, versions 1 and 2)."""
    version = cursor.version(1, 2)
    count = cursor.uint(1)
    if version == 1:
        cursor.skip(6)
    return tuple(_filter(cursor, version) for _ in range(count))


def _filter(cursor: Cursor, version: int) -> FilterStep:
    code = cursor.uint(2)
    named = version == 1 or code >= _UNNAMED
    length = cursor.uint(2) if named else 0
    flags, count = cursor.uint(2), cursor.uint(2)
    name = cursor.take(-(-length // 8) * 8 if version == 1 else length)
    values = tuple(cursor.uint(4) for _ in range(count))
    if version == 1 and count % 2:
        cursor.skip(4)
    return FilterStep(code, name.split(b"\0")[0], bool(flags & 1), values)


@dataclass(frozen=True, slots=True)
class ExternalFile:
    """A piece of an external file: where its name is in the local heap, its position, its bytes (``None``: all)."""

    name_offset: int
    offset: int
    size: int | None


def parse_external_files(cursor: Cursor) -> tuple[int, tuple[ExternalFile, ...]]:
    """Address of the local heap with the names, and the pieces in their order (IV.A.2.h)."""
    cursor.version(1)
    cursor.skip(3 + 2)  # slots that are allocated
    used = cursor.uint(2)
    heap = cursor.address("the heap of names")
    pieces = []
    for _ in range(used):
        name, offset, size = cursor.length(), cursor.length(), cursor.length()
        pieces.append(ExternalFile(name, offset, None if size == _UNLIMITED else size))
    return heap, tuple(pieces)


def parse_modification_time(cursor: Cursor) -> int:
    """Seconds since 1970-01-01 UTC (IV.A.2.s)."""
    cursor.version(1)
    cursor.skip(3)
    return cursor.uint(4)


def parse_old_modification_time(cursor: Cursor) -> int:
    """Seconds since 1970-01-01 UTC, from the text YYYYMMDDhhmmss (IV.A.2.o)."""
    digits = cursor.take(14)
    try:
        time = datetime.strptime(digits.decode("ascii"), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:  # letters, or month 13
        cursor.fail(f"{digits!r} is no time")
    return int(time.timestamp())


def parse_btree_ks(cursor: Cursor) -> tuple[int, int, int]:
    """Half of the entries of nodes: of groups' leaves and inner nodes, and of chunks (IV.A.2.t)."""
    cursor.version(0)
    chunk, internal, leaf = cursor.uint(2), cursor.uint(2), cursor.uint(2)
    if not (chunk and internal and leaf):
        cursor.fail("nodes of B-trees without room")
    return leaf, internal, chunk
