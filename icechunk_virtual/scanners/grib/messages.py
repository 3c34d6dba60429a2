"""Where the messages of a GRIB file are: from one to the next by their lengths, whatever lies between them.

Each message says how long it is, so finding them is a walk, one step per message; only the first bytes of each are
read. On files that take requests to read, walks start at many places at once: what they find is a guess that only
saves requests, because the walk from the first byte decides. Knows sections only as far as lengths need it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.codecs.grib_sections import END, MARK
from icechunk_virtual.containers.source import Source
from icechunk_virtual.errors import MalformedSource
from icechunk_virtual.scanners.grib.ahead import Ahead
from icechunk_virtual.scanners.spec import ScanOptions

_SEARCH = 1 << 16
"""Bytes that a search for the next message begins with; each further read is twice as long."""
_LONGEST_READ = 1 << 24
_INDICATOR = 16
_LARGE, _UNIT = 0x800000, 120


@dataclass(slots=True)
class Messages:
    """All messages of a file in its order, and what is no message.

    Attributes
    ----------
    offset, length : int64 (n,)
    edition : uint8 (n,)
        1 or 2.
    gaps : list of (offset, length)
        Bytes between, before and after messages.
    damaged : list of (offset, reason)
        Messages that were left out.
    """

    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    edition: NDArray[np.uint8]
    gaps: list[tuple[int, int]] = field(default_factory=list)
    damaged: list[tuple[int, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.offset)


def find_messages(source: Source, ahead: Ahead, options: ScanOptions) -> Messages:
    """Find every message of a file.

    Parameters
    ----------
    ahead
        Through which the file is read; it keeps the beginnings of messages.
    options
        `skip_unsupported` leaves out damaged messages instead of raising.

    Raises
    ------
    MalformedSource
        A message is cut off, or does not end where its length says; or there is none.
    """
    return _Walk(source, ahead, options).run()


class _Walk:
    """One walk over one file."""

    def __init__(self, source: Source, ahead: Ahead, options: ScanOptions) -> None:
        self.source, self.ahead, self.options = source, ahead, options
        self.found: list[tuple[int, int, int]] = []
        self.gaps: list[tuple[int, int]] = []
        self.damaged: list[tuple[int, str]] = []

    def run(self) -> Messages:
        position, gap = 0, 0
        while position < self.source.size:
            head = self.ahead.at(position, _INDICATOR)
            if not is_message(head):
                position = self.search(position)
                continue
            length, reason = self.judge(position, head)
            if reason:
                self.damage(position, reason)
                position = self.search(position + len(MARK))
                continue
            if position > gap:
                self.gaps.append((gap, position - gap))
            self.found.append((position, length, head[7]))
            position = gap = position + length
        if self.source.size > gap:
            self.gaps.append((gap, self.source.size - gap))
        if not self.found:
            raise self.error("there is no complete GRIB message in it")
        columns = np.array(self.found, np.int64).reshape(-1, 3)
        return Messages(columns[:, 0], columns[:, 1], columns[:, 2].astype(np.uint8), self.gaps, self.damaged)

    def judge(self, position: int, head: bytes) -> tuple[int, str]:
        """The length of the message at a position, and what is wrong with it."""
        if head[7] not in (1, 2):
            return 0, f"is of edition {head[7]}, only 1 and 2 are known"
        left = self.source.size - position
        length = message_length(lambda offset, n: self.ahead.at(position + offset, n))
        if length < _INDICATOR:
            return 0, f"claims {length} bytes"
        if length > left:
            return 0, f"claims {length} bytes, but only {left} follow: the file is cut off, or the length is wrong"
        if self.ahead.at(position + length - len(END), len(END)) != END:
            return 0, f"does not end after {length} bytes, as it claims"
        return length, ""

    def damage(self, position: int, reason: str) -> None:
        if not self.options.skip_unsupported:
            raise self.error(f"the message at byte {position} {reason}", position)
        self.damaged.append((position, reason))

    def error(self, reason: str, position: int | None = None) -> MalformedSource:
        return MalformedSource(
            f"{self.source.url} is not a sound GRIB file: {reason}. Get it again; skip_unsupported=True takes the "
            "messages that are complete.",
            source=self.source.url,
            position=position,
        )

    def search(self, position: int) -> int:
        """Where the next message begins, or the end of the file."""
        size, step = self.source.size, _SEARCH
        while position < size:
            data = self.source.peek(position, step)
            at = find_message(data)
            if at >= 0:
                return position + at
            if position + len(data) >= size:
                return size
            position += len(data) - 7  # an indicator may begin in the last bytes
            step = min(2 * step, _LONGEST_READ)
        return size


def find_message(data: bytes, mark: bytes = MARK) -> int:
    """Where in `data` a message begins, after bytes that end the one before if `mark` says so; -1: nowhere."""
    at = data.find(mark)
    while at >= 0:
        start = at + len(mark) - len(MARK)
        if is_message(data[start : start + 8]):
            return start
        at = data.find(mark, at + 1)
    return -1


def is_message(head: bytes) -> bool:
    """Whether these bytes are the indicator of a message, of one of the editions that say how long they are."""
    return len(head) >= 8 and head[:4] == MARK and 1 <= head[7] <= 3


def message_length(read: Callable[[int, int], bytes]) -> int:
    """Bytes that a message claims to have.

    Parameters
    ----------
    read
        ``read(offset, length)`` of the message. It may give fewer bytes where the file ends; then the result is more
        than the file has.

    Notes
    -----
    Edition 2 says it in 64 bits. Edition 1 has 24 bits; beyond 8 MiB writers set the highest, count in units of 120
    bytes, and put the excess (fewer than 120, where no real length is possible) in place of the length of the last
    section (ecCodes, ``grib_io.cc``).
    """
    head = read(0, _INDICATOR)
    if head[7] != 1:
        return int.from_bytes(head[8:16], "big")
    length = int.from_bytes(head[4:7], "big")
    if not length & _LARGE:
        return length
    position = 8
    flags = read(position, 8)[-1]
    position += int.from_bytes(read(position, 3), "big")
    for present in (flags & 0x80, flags & 0x40):  # section 2, the grid; section 3, the bitmap
        if present:
            position += int.from_bytes(read(position, 3), "big")
    excess = int.from_bytes(read(position, 3), "big")
    return length if excess >= _UNIT else (length & ~_LARGE) * _UNIT - excess + len(END)
