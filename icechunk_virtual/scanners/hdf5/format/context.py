"""What the parsers of one file share: its superblock, reading by address, and checksums that are still to be judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.scanners.hdf5.format.checksum import lookup3
from icechunk_virtual.scanners.hdf5.format.cursor import Cursor, Sizes
from icechunk_virtual.scanners.hdf5.format.damage import Damaged
from icechunk_virtual.scanners.hdf5.format.datatype import Datatype
from icechunk_virtual.scanners.hdf5.format.steps import Range, Rows, Step
from icechunk_virtual.scanners.hdf5.format.superblock import Superblock

T = TypeVar("T")

CHECKSUM = 4  # bytes at the end of blocks that have one
_BATCH = 64 << 20  # bytes of equal blocks that are read at a time
_MOST_UNCHECKED = 16 << 20  # bytes whose checksums are still to be judged


@dataclass(slots=True, eq=False)
class Context:
    """One file that is being parsed.

    Checksums of single blocks are gathered, because many at once cost hardly more than one; `verify` judges them, and
    nothing that was parsed is to be believed before.

    Attributes
    ----------
    collections
        Global heap collections that were read, by address.
    types
        Committed types that were read, by the address of their header.
    """

    superblock: Superblock
    file_size: int
    collections: dict[int, dict[int, bytes]] = field(default_factory=dict)
    types: dict[int, Datatype] = field(default_factory=dict)
    _checks: list[tuple[NDArray[np.uint8], NDArray[np.uint64], str]] = field(default_factory=list)
    _unchecked: int = 0
    _parsed: dict[Any, Any] = field(default_factory=dict)

    @property
    def sizes(self) -> Sizes:
        """Widths of offsets and lengths."""
        return self.superblock.sizes

    def cursor(self, data: bytes, address: int, what: str) -> Cursor:
        """Fields of a block that was read from an address."""
        return Cursor(data, self.superblock.base + address, self.sizes, what)

    def read(self, address: int, length: int) -> Step[bytes]:
        """Bytes at an address."""
        data: bytes = yield Range(self.superblock.base + address, length)
        return data

    def read_some(self, address: int, length: int) -> Step[bytes]:
        """Bytes at an address, fewer where the file ends: to look at the beginning of a block."""
        offset = self.superblock.base + address
        data: bytes = yield Range(offset, max(0, min(length, self.file_size - offset)))
        return data

    def read_rows(self, addresses: NDArray[np.uint64], length: int) -> Step[NDArray[np.uint8]]:
        """Blocks of equal length (n, length): distinct ones, so that they are no more than the file."""
        n = len(addresses)
        if not n:
            return np.empty((0, length), np.uint8)
        if n > 1 and (n * length > self.file_size or len(np.unique(addresses)) < n):
            raise Damaged(self.place(int(addresses[0])), f"{n} blocks of {length} bytes overlap each other")
        highest = int(addresses.max())
        if highest + length > self.file_size:
            raise Damaged(self.place(highest), f"the file refers to {length} bytes here, and ends at {self.file_size}")
        offsets = addresses + np.uint64(self.superblock.base)
        step = max(1, _BATCH // length)
        parts = []
        for start in range(0, n, step):
            rows: NDArray[np.uint8] = yield Rows(offsets[start : start + step], length)
            parts.append(rows)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def place(self, address: int) -> int:
        """Position in the file."""
        return self.superblock.base + address

    # -- checksums -------------------------------------------------------------------------------------------------

    def check(self, block: bytes, address: int, what: str) -> None:
        """Remember to judge the checksum with which a block ends."""
        self.check_rows(np.frombuffer(block, np.uint8)[None], np.array([address], np.uint64), what)

    def check_rows(self, rows: NDArray[np.uint8], addresses: NDArray[np.uint64], what: str) -> None:
        """Remember to judge the checksums with which blocks of equal length end."""
        if not len(rows):
            return
        self._checks.append((rows, addresses, what))
        self._unchecked += rows.size
        if self._unchecked > _MOST_UNCHECKED:
            self.verify()

    def verify(self) -> None:
        """Judge all checksums that were remembered."""
        checks, self._checks, self._unchecked = self._checks, [], 0
        if not checks:
            return
        stored = [np.ascontiguousarray(rows[:, -CHECKSUM:]).view("<u4")[:, 0] for rows, _, _ in checks]
        wrong = lookup3([rows[:, :-CHECKSUM] for rows, _, _ in checks]) != np.concatenate(stored)
        if wrong.any():
            worst = int(np.argmax(wrong))
            for rows, addresses, what in checks:
                if worst < len(rows):
                    raise Damaged(self.place(int(addresses[worst])), f"{what}: its checksum is wrong")
                worst -= len(rows)

    # -- what is parsed once ---------------------------------------------------------------------------------------

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """The result of a parser of values that occur often, made when it is first asked for."""
        if key not in self._parsed:
            self._parsed[key] = make()
        return cast("T", self._parsed[key])
