"""Parts of a file that were read, kept at hand, and what to read for those that are missing."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_KEPT = 256 << 20  # bytes that are kept at hand


class Extents:
    """Parts of a file, found by position."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._bodies: list[bytes] = []
        self._room = _KEPT

    def get(self, offset: int, length: int) -> bytes | None:
        """Bytes of the file, if they are there in one part."""
        number = bisect.bisect_right(self._starts, offset) - 1
        if number < 0:
            return None
        start, body = offset - self._starts[number], self._bodies[number]
        return body[start : start + length] if start + length <= len(body) else None

    def rows(self, offsets: NDArray[np.uint64], length: int) -> NDArray[np.uint8] | None:
        """Pieces of equal length, if all are there in one part."""
        first, last = int(offsets.min()), int(offsets.max())
        number = bisect.bisect_right(self._starts, first) - 1
        if number < 0 or last + length > self._starts[number] + len(self._bodies[number]):
            return None
        return _windows(self._bodies[number], offsets - np.uint64(self._starts[number]), length)

    def put(self, start: int, body: bytes) -> None:
        """Keep a part, while there is room."""
        if len(body) <= self._room:
            self._room -= len(body)
            number = bisect.bisect_right(self._starts, start)
            self._starts.insert(number, start)
            self._bodies.insert(number, body)

    def __bool__(self) -> bool:
        return bool(self._starts)


class Batch:
    """The parts of a file that are read at once: disjoint and in order.

    Parameters
    ----------
    offset, end
        Of ranges in any order.
    gap
        Bytes between two ranges that are read along.
    """

    def __init__(self, offset: NDArray[np.uint64], end: NDArray[np.uint64], gap: int) -> None:
        order = np.argsort(offset, kind="stable")
        offset, end = offset[order], np.maximum.accumulate(end[order])
        first = np.flatnonzero(np.concatenate(([True], offset[1:] > end[:-1] + np.uint64(gap))))
        self._starts = offset[first]
        self._ends = end[np.append(first[1:], len(end)) - 1]

    def spans(self) -> list[tuple[int, int]]:
        """Offset and length of what to read."""
        return list(zip(self._starts.tolist(), (self._ends - self._starts).tolist(), strict=True))

    def range(self, bodies: Sequence[bytes], offset: int, length: int) -> bytes:
        """One of the ranges, cut out of what was read."""
        number = int(np.searchsorted(self._starts, np.uint64(offset), side="right")) - 1
        start = offset - int(self._starts[number])
        return bodies[number][start : start + length]

    def rows(self, bodies: Sequence[bytes], offsets: NDArray[np.uint64], length: int) -> NDArray[np.uint8]:
        """Ranges of equal length, likewise."""
        number = np.searchsorted(self._starts, offsets, side="right") - 1
        lengths = self._ends - self._starts
        place = np.cumsum(lengths) - lengths  # of each span in all bodies together
        return _windows(b"".join(bodies), offsets - self._starts[number] + place[number], length)


def _windows(data: bytes, offsets: NDArray[np.uint64], length: int) -> NDArray[np.uint8]:
    windows = np.lib.stride_tricks.sliding_window_view(np.frombuffer(data, np.uint8), length)
    return windows[offsets.astype(np.intp)]
