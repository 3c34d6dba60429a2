"""Small windows of a file, read once and kept: what is looked at of a GRIB file, by position.

Knows no GRIB. Reading a few bytes reads a window ahead, because the next few bytes are likely to be wanted.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.containers.source import Source

_LOCAL, _REMOTE = 292, 4096
"""Bytes of a window: the head of a usual message. A request for more costs the same."""


class Ahead:
    """The windows of one file."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.remote = source.local_path is None
        self.window = _REMOTE if self.remote else _LOCAL
        self._starts: list[int] = []
        self._data: dict[int, bytes] = {}
        self._columns: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]] | None = None

    def at(self, position: int, length: int) -> bytes:
        """Bytes at a position, fewer where the file ends."""
        have = self.known(position, length)
        if have is None:
            self.fetch([(position, max(length, self.window))])
            have = self._data[position][:length]
        return have

    def known(self, position: int, length: int) -> bytes | None:
        """As `at`, but ``None`` for bytes that were not read."""
        i = bisect_right(self._starts, position) - 1
        if i < 0:
            return None
        start = self._starts[i]
        data = self._data[start]
        if position + min(length, self.source.size - position) > start + len(data):
            return None
        return data[position - start : position - start + length]

    def fetch(self, spans: Iterable[tuple[int, int]]) -> None:
        """Read windows in one batch; those that reach beyond the end of the file are cut."""
        size = self.source.size
        wanted = [(start, min(length, size - start)) for start, length in spans if start < size]
        for (start, _), data in zip(wanted, self.source.read_many(wanted), strict=True):
            known = self._data.get(start)
            if known is None:
                insort(self._starts, start)
            if known is None or len(known) < len(data):
                self._data[start] = data
        self._columns = None

    def gather(self, positions: NDArray[np.int64], length: int) -> NDArray[np.uint8]:
        """The bytes at many positions, uint8 (n, length); what is not known yet is read in one batch.

        Positions must be at least `length` before the end of the file.
        """
        found, sure = self._place(positions, length)
        if not sure.all():
            missing = np.unique(positions[~sure]).tolist()
            self.fetch((position, max(length, self.window)) for position in missing)
            found, _ = self._place(positions, length)
        return np.asarray(self._table()[3][found[:, None] + np.arange(length)])

    def _place(self, positions: NDArray[np.int64], length: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Where positions are in the table's bytes, and whether they are with all they need."""
        starts, ends, places, _ = self._table()
        if not len(starts):
            return np.zeros(len(positions), np.int64), np.zeros(len(positions), bool)
        row = np.maximum(np.searchsorted(starts, positions, "right") - 1, 0)
        sure = (positions >= starts[row]) & (positions + length <= ends[row])
        return places[row] + positions - starts[row], sure

    def _table(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
        """Starts and ends of the windows, where each is in their joined bytes, and these."""
        if self._columns is None:
            parts = [self._data[start] for start in self._starts]
            starts = np.array(self._starts, np.int64)
            lengths = np.array([len(part) for part in parts], np.int64)
            blob = np.frombuffer(b"".join(parts), np.uint8)
            self._columns = starts, starts + lengths, np.cumsum(lengths) - lengths, blob
        return self._columns
