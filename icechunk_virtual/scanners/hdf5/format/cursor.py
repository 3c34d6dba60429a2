"""A position in bytes of the file, moved on by reading fields. All fields are little-endian; nothing is trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from icechunk_virtual.scanners.hdf5.format.damage import Damaged


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of the fields "offset" and "length", which the superblock sets for the whole file."""

    offset: int = 8
    length: int = 8

    @property
    def undefined(self) -> int:
        """The address that says that there is nothing: all bits set."""
        return (1 << (8 * self.offset)) - 1


class Cursor:
    """Fields one after the other.

    Parameters
    ----------
    data
        A block of the file.
    at
        Position of the block in the file, for messages.
    sizes
        Of offsets and lengths.
    what
        Name of the block, for messages.
    """

    __slots__ = ("at", "data", "end", "position", "sizes", "what")

    def __init__(self, data: bytes, at: int, sizes: Sizes, what: str) -> None:
        self.data, self.at, self.sizes, self.what = data, at, sizes, what
        self.position, self.end = 0, len(data)

    def uint(self, nbytes: int) -> int:
        """An unsigned integer."""
        return int.from_bytes(self.take(nbytes), "little")

    def take(self, nbytes: int) -> bytes:
        """The next bytes as they are."""
        start = self.position
        stop = start + nbytes
        if stop > self.end or nbytes < 0:
            self.fail(f"it needs {nbytes} more bytes and has {self.end - start}")
        self.position = stop
        return self.data[start:stop]

    def skip(self, nbytes: int) -> None:
        """Pass over bytes that mean nothing here."""
        self.take(nbytes)

    def offset(self) -> int | None:
        """An address, relative to the base address; ``None`` where it is undefined."""
        value = self.uint(self.sizes.offset)
        return None if value == self.sizes.undefined else value

    def address(self, of: str) -> int:
        """An address that has to be there."""
        value = self.offset()
        if value is None:
            self.fail(f"no address of {of}")
        return value

    def length(self) -> int:
        """A field "length"."""
        return self.uint(self.sizes.length)

    def text(self) -> bytes:
        """Bytes up to a zero, which is passed over."""
        stop = self.data.find(b"\0", self.position, self.end)
        if stop < 0:
            self.fail("a text without an end")
        found = self.data[self.position : stop]
        self.position = stop + 1
        return found

    def align(self, start: int = 0) -> None:
        """Move on to the next multiple of eight bytes, counted from a position."""
        self.skip(-(self.position - start) % 8)

    def expect(self, signature: bytes) -> None:
        """Pass over a signature, or fail."""
        found = self.take(len(signature))
        if found != signature:
            self.position -= len(signature)
            self.fail(f"it begins with {found!r} instead of {signature!r}")

    def version(self, *known: int) -> int:
        """A version of one byte, or fail."""
        found = self.uint(1)
        if found not in known:
            self.position -= 1
            self.fail(f"version {found}, where only {', '.join(map(str, known))} are known")
        return found

    @property
    def left(self) -> int:
        """Bytes up to the end."""
        return self.end - self.position

    def fail(self, reason: str) -> NoReturn:
        """Raise `Damaged` at the present position."""
        raise Damaged(self.at + self.position, f"{self.what}: {reason}")
