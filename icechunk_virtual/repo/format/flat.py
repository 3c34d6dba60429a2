"""Reading flatbuffers one table at a time, every offset checked (section 4.1).

What the slots mean is the business of the modules of the single files; many tables at once: `flat_columns`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.errors import CorruptFile

FILE_IDENTIFIER = b"Ichk"
MAX_FEW_TABLES = 2**20
"""In a vector of properties, of the manifests of one array, of its dimension names."""

_U8, _U16, _U32, _I32, _U64 = (struct.Struct(f"<{code}") for code in "BHIiQ")


class Buffer:
    """A decompressed file.

    Attributes
    ----------
    data : bytes
    file, kind : str
        For the messages of `CorruptFile`.
    size : int
        Bytes.
    """

    __slots__ = ("_views", "data", "file", "kind", "size")

    def __init__(self, data: bytes, *, file: str, kind: str) -> None:
        self.data, self.file, self.kind, self.size = data, file, kind, len(data)
        self._views: dict[str, NDArray[Any]] = {}

    def corrupt(self, reason: str, position: int | None = None) -> CorruptFile:
        """An error to raise."""
        return CorruptFile(reason, file=self.file, kind=self.kind, position=position)

    def view(self, dtype: str) -> NDArray[Any]:
        """The whole buffer as an array of a little-endian dtype (``<u4``, ...); an incomplete last item is left out."""
        found = self._views.get(dtype)
        if found is None:
            itemsize = np.dtype(dtype).itemsize
            found = np.frombuffer(self.data, dtype, count=self.size // itemsize)
            self._views[dtype] = found
        return found

    def check(self, position: int, size: int, what: str, align: int = 1) -> int:
        """`position`, if `size` bytes from there are inside the buffer and it is a multiple of `align`."""
        if position < 0 or position + size > self.size:
            raise self.corrupt(f"{what} reaches outside the {self.size} bytes of the file", position)
        if position % align:
            raise self.corrupt(f"{what} is not aligned to {align} bytes", position)
        return position

    def u32(self, position: int, what: str) -> int:
        """A u32 or offset at `position`."""
        value: int = _U32.unpack_from(self.data, self.check(position, 4, what, 4))[0]
        return value

    def root(self) -> Table:
        """The root table."""
        return self.table(self.u32(0, "the root offset"))

    def table(self, position: int) -> Table:
        """The table at `position`."""
        self.check(position, 4, "a table", 4)
        vtable = position - _I32.unpack_from(self.data, position)[0]
        self.check(vtable, 4, "a vtable", 2)
        length = _U16.unpack_from(self.data, vtable)[0]
        if length < 4 or length % 2:
            raise self.corrupt(f"a vtable of {length} bytes", vtable)
        self.check(vtable, length, "a vtable", 2)
        return Table(self, position, vtable, length)

    def vector(self, position: int, itemsize: int, align: int, what: str) -> tuple[int, int]:
        """Position of the first element and number of elements of the vector at `position`."""
        count = self.u32(position, what)
        start = position + 4
        if count:
            self.check(start, count * itemsize, what, align)
        return start, count

    def text(self, position: int, what: str) -> str:
        """The string at `position`."""
        start, count = self.vector(position, 1, 1, what)
        try:
            return self.data[start : start + count].decode("utf-8")
        except UnicodeDecodeError:
            raise self.corrupt(f"{what} is not UTF-8", start) from None


@dataclass(slots=True, eq=False)  # not frozen: those take three times as long to make, and a bisection makes many
class Table:
    """A table whose vtable is inside the buffer."""

    buffer: Buffer
    position: int
    vtable: int
    vtable_length: int

    def field(self, slot: int) -> int | None:
        """Position of a field, ``None`` when it is absent."""
        entry = 4 + 2 * slot
        if entry + 2 > self.vtable_length:
            return None
        offset: int = _U16.unpack_from(self.buffer.data, self.vtable + entry)[0]
        return self.position + offset if offset else None

    def required(self, slot: int, what: str) -> int:
        """Position of a field that must be there."""
        position = self.field(slot)
        if position is None:
            raise self.buffer.corrupt(f"{what} is missing", self.position)
        return position

    def scalar(self, slot: int, code: str, what: str, default: int = 0) -> int:
        """A number: `code` is ``B`` (u8), ``I`` (u32) or ``Q`` (u64)."""
        position = self.field(slot)
        if position is None:
            return default
        reader = {"B": _U8, "I": _U32, "Q": _U64}[code]
        value: int = reader.unpack_from(self.buffer.data, self.buffer.check(position, reader.size, what, reader.size))[
            0
        ]
        return value

    def struct(self, slot: int, size: int, what: str) -> bytes:
        """The bytes of a required struct of alignment 1 (an id)."""
        position = self.buffer.check(self.required(slot, what), size, what)
        return self.buffer.data[position : position + size]

    def follow(self, slot: int, what: str) -> int:
        """Position that a required offset points at."""
        position = self.required(slot, what)
        return position + self.buffer.u32(position, what)

    def vector(self, slot: int, itemsize: int, align: int, what: str) -> tuple[int, int]:
        """Position of the first element and number of elements of a required vector."""
        return self.buffer.vector(self.follow(slot, what), itemsize, align, what)

    def tables(self, slot: int, what: str) -> list[Table]:
        """The tables of a required vector of few tables, which are looked at one by one."""
        start, count = self.vector(slot, 4, 4, what)
        if count > MAX_FEW_TABLES:
            raise self.buffer.corrupt(f"{what}: {count} tables, at most {MAX_FEW_TABLES} are taken", start)
        offsets = self.buffer.view("<u4")[start // 4 : start // 4 + count].tolist()
        return [self.buffer.table(start + 4 * i + offset) for i, offset in enumerate(offsets)]

    def text(self, slot: int, what: str) -> str:
        """A required string."""
        return self.buffer.text(self.follow(slot, what), what)

    def bytes(self, slot: int, what: str) -> bytes:
        """A required vector of bytes."""
        start, count = self.vector(slot, 1, 1, what)
        return self.buffer.data[start : start + count]
