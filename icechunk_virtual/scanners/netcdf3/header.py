"""The header of a NetCDF-3 file: CDF-1 (classic), CDF-2 (64-bit offset), CDF-5 (64-bit data).

Bytes to values, after the "NetCDF Classic Format Specification" (Unidata) and the CDF-5 grammar of PnetCDF. Nothing
here knows Zarr. The file is not trusted: every count is judged by the bytes that are left before anything is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.errors import MalformedSource
from icechunk_virtual.scanners.netcdf_types import TYPES, NcType

MAGIC = b"CDF"
FORMATS = {1: "NetCDF-3 classic", 2: "NetCDF-3 64-bit offset", 5: "NetCDF-3 64-bit data"}

_TAG_ABSENT, _TAG_DIMENSION, _TAG_VARIABLE, _TAG_ATTRIBUTE = 0, 0x0A, 0x0B, 0x0C
_FIRST_READ = 1 << 16
_LARGEST_HEADER = 1 << 28
_LARGEST_RANK = 1024  # NC_MAX_VAR_DIMS


_TYPES = {kind.code: kind for kind in TYPES}
_CLASSIC_TYPES = 6  # CDF-1 and CDF-2 know only the first six

AttributeValue: TypeAlias = "bytes | NDArray[np.generic]"
"""Text as the bytes of the file, numbers as a one-dimensional big-endian array."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """A dimension; `size` is ``None`` for the record dimension."""

    name: str
    size: int | None


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable as declared: dimensions by number, where its data begin."""

    name: str
    dimensions: tuple[int, ...]
    attributes: dict[str, AttributeValue]
    type: NcType
    begin: int


@dataclass(frozen=True, slots=True)
class Header:
    """Everything before the data.

    Attributes
    ----------
    version : int
        1, 2 or 5.
    numrecs : int or None
        Number of records; ``None`` for a streamed file, whose length says it.
    size : int
        Bytes of the header.
    """

    version: int
    numrecs: int | None
    dimensions: tuple[Dimension, ...]
    attributes: dict[str, AttributeValue]
    variables: tuple[Variable, ...]
    size: int


def read_header(read: Callable[[int, int], bytes], file_size: int, url: str) -> Header:
    """Parse the header of a file.

    Parameters
    ----------
    read
        ``read(offset, length)`` of the file; called with growing lengths only as far as the header needs.
    file_size
        Bytes of the file.
    url
        For messages.

    Raises
    ------
    MalformedSource
        Cut off, contradictory, or not NetCDF-3; names the position.
    """
    return _Parser(read, file_size, url).header()


class _Parser:
    """A cursor over the growing prefix of the file."""

    def __init__(self, read: Callable[[int, int], bytes], file_size: int, url: str) -> None:
        self.read, self.file_size, self.url = read, file_size, url
        self.buffer = b""
        self.position = 0
        self.version = 1

    # -- grammar -----------------------------------------------------------------------------------------------

    def header(self) -> Header:
        magic = self.take(4, "magic number")
        if magic[:3] != MAGIC or magic[3] not in FORMATS:
            self.position = 0
            self.fail(f"the file starts with {magic!r}, not with b'CDF' and format 1, 2 or 5")
        self.version = magic[3]
        streaming = 2 ** (64 if self.version == 5 else 32) - 1
        numrecs = self.unsigned(8 if self.version == 5 else 4, "number of records")
        if numrecs != streaming and numrecs >= 2**63:
            self.fail(f"{numrecs} records")
        dimensions = self.dimensions()
        attributes = self.attributes("global attributes")
        variables = self.variables(dimensions)
        return Header(
            self.version, None if numrecs == streaming else numrecs, dimensions, attributes, variables, self.position
        )

    def dimensions(self) -> tuple[Dimension, ...]:
        result: list[Dimension] = []
        names: set[str] = set()
        for _ in range(self.list_length(_TAG_DIMENSION, "dimensions")):
            name = self.name("dimension", names)
            size = self.count(f"length of dimension `{name}`")
            if size == 0 and any(d.size is None for d in result):
                self.fail(f"`{name}` is a second record dimension")
            result.append(Dimension(name, size or None))
        return tuple(result)

    def attributes(self, owner: str) -> dict[str, AttributeValue]:
        result: dict[str, AttributeValue] = {}
        names: set[str] = set()
        for _ in range(self.list_length(_TAG_ATTRIBUTE, owner)):
            name = self.name("attribute", names)
            what = f"attribute `{name}`"
            kind = self.type(what)
            length = self.count(f"length of {what}")
            nbytes = length * kind.dtype.itemsize
            value = self.take(nbytes, what)
            self.take(-nbytes % 4, f"padding of {what}")
            result[name] = value if kind.name == "char" else np.frombuffer(value, kind.dtype)
        return result

    def variables(self, dimensions: tuple[Dimension, ...]) -> tuple[Variable, ...]:
        result: list[Variable] = []
        names: set[str] = set()
        for _ in range(self.list_length(_TAG_VARIABLE, "variables")):
            name = self.name("variable", names)
            what = f"variable `{name}`"
            ids = self.dimension_ids(what, dimensions)
            attributes = self.attributes(f"attributes of {what}")
            kind = self.type(what)
            self.take(8 if self.version == 5 else 4, f"size of {what}")  # wrong beyond 4 GiB: the shape is the truth
            begin = self.unsigned(4 if self.version == 1 else 8, f"offset of {what}")
            result.append(Variable(name, ids, attributes, kind, begin))
        return tuple(result)

    def dimension_ids(self, what: str, dimensions: tuple[Dimension, ...]) -> tuple[int, ...]:
        rank = self.count(f"rank of {what}")
        if rank > _LARGEST_RANK:
            self.fail(f"{what} has {rank} dimensions")
        ids = tuple(self.count(f"dimensions of {what}") for _ in range(rank))
        for axis, number in enumerate(ids):
            if number >= len(dimensions):
                self.fail(f"{what} has dimension number {number} of {len(dimensions)}")
            if axis and dimensions[number].size is None:
                self.fail(f"{what} has the record dimension in place {axis}; only the first may be")
        return ids

    def list_length(self, expected: int, what: str) -> int:
        tag = self.unsigned(4, f"tag of the {what}")
        length = self.count(f"number of {what}")
        if tag not in (expected, _TAG_ABSENT) or (tag == _TAG_ABSENT and length):
            self.fail(f"tag {tag:#x} with {length} entries where the {what} should start")
        if length * 8 > self.file_size - self.position:  # an entry has 8 bytes and more
            self.fail(f"{length} {what} do not fit into the {self.file_size - self.position} bytes left")
        return length

    def type(self, what: str) -> NcType:
        code = self.unsigned(4, f"type of {what}")
        if code not in _TYPES or (self.version != 5 and code > _CLASSIC_TYPES):
            self.fail(f"{what} has type {code}, which {FORMATS[self.version]} does not know")
        return _TYPES[code]

    def name(self, what: str, taken: set[str]) -> str:
        length = self.count(f"length of a {what} name")
        raw = self.take(length, f"a {what} name")
        self.take(-length % 4, f"padding of a {what} name")
        raw = raw.rstrip(b"\0")
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            name = raw.decode("latin-1")
        if not name:
            self.fail(f"a {what} without a name")
        if name in taken:
            self.fail(f"two of the {what}s are called `{name}`")
        taken.add(name)
        return name

    # -- bytes -------------------------------------------------------------------------------------------------

    def count(self, what: str) -> int:
        """NON_NEG of the grammar."""
        if self.version == 5:
            value, limit = self.unsigned(8, what), 2**63
        else:
            value, limit = self.unsigned(4, what), 2**32
        if value >= limit:
            self.fail(f"{what} is negative")
        return value

    def unsigned(self, nbytes: int, what: str) -> int:
        return int.from_bytes(self.take(nbytes, what), "big")

    def take(self, nbytes: int, what: str) -> bytes:
        end = self.position + nbytes
        if end > len(self.buffer):
            self.grow(end, what)
        data = self.buffer[self.position : end]
        self.position = end
        return data

    def grow(self, end: int, what: str) -> None:
        if end > self.file_size:
            self.fail(f"{what} needs {end - self.position} bytes, the file has {self.file_size - self.position} left")
        if end > _LARGEST_HEADER:
            self.fail(f"{what} would make the header larger than {_LARGEST_HEADER >> 20} MiB")
        have = len(self.buffer)
        wanted = min(self.file_size, max(end, 2 * have, _FIRST_READ))
        self.buffer += self.read(have, wanted - have)

    def fail(self, reason: str) -> NoReturn:
        raise MalformedSource(
            f"{self.url} is not a sound NetCDF-3 file: at byte {self.position} of its header {reason}. Check the file "
            "with `ncdump -h`, and fetch or write it again.",
            source=self.url,
            position=self.position,
        )


def slab_elements(variable: Variable, dimensions: tuple[Dimension, ...]) -> int:
    """Elements of a fixed variable, or of one record of a record variable."""
    return math.prod(dimensions[d].size or 1 for d in variable.dimensions)
