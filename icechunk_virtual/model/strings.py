"""A frozen column of UTF-8 texts in one buffer, as Arrow has it: bytes plus bounds.

Archives have up to one file per chunk, so the texts of locations are a column like any other. Decoding one text
is a slice; everything else is vectorised.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GATHER_BYTES = 1 << 22  # how many bytes one step of take() moves: bounds the memory of its index arrays


@dataclass(frozen=True, slots=True, eq=False)
class Strings:
    """`k` texts.

    Attributes
    ----------
    data : uint8 (total bytes,)
        All texts, one after the other, without separators.
    bounds : int64 (k + 1,)
        Text `i` is ``data[bounds[i]:bounds[i + 1]]``.

    Raises
    ------
    ValueError
        Bounds that do not fit the data, or bytes that are not UTF-8.
    """

    data: NDArray[np.uint8]
    bounds: NDArray[np.int64]

    def __post_init__(self) -> None:
        data = np.ascontiguousarray(self.data, np.uint8)
        bounds = np.ascontiguousarray(self.bounds, np.int64)
        if bounds.ndim != 1 or data.ndim != 1 or not len(bounds) or bounds[0] != 0 or bounds[-1] != len(data):
            raise ValueError("bounds must run from 0 to the number of bytes")
        if (np.diff(bounds) < 0).any():
            raise ValueError("bounds must not decrease")
        try:
            memoryview(data).tobytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"a text is not UTF-8: {error}") from None
        inner = bounds[1:-1]
        inner = inner[inner < len(data)]
        if ((data[inner] & 0xC0) == 0x80).any():
            raise ValueError("a text starts inside a UTF-8 character")
        self._set(data, bounds)

    def _set(self, data: NDArray[np.uint8], bounds: NDArray[np.int64]) -> None:
        for name, column in (("data", data), ("bounds", bounds)):
            column = column.view()
            column.flags.writeable = False
            object.__setattr__(self, name, column)

    @classmethod
    def _trusted(cls, data: NDArray[np.uint8], bounds: NDArray[np.int64]) -> Strings:
        """Without the checks, for results of operations on valid columns."""
        self = object.__new__(cls)
        self._set(data, bounds)
        return self

    @classmethod
    def of(cls, texts: Iterable[str]) -> Strings:
        """From Python strings."""
        encoded = [text.encode("utf-8") for text in texts]
        bounds = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(e) for e in encoded], out=bounds[1:])
        return cls._trusted(np.frombuffer(b"".join(encoded), np.uint8), bounds)

    @classmethod
    def repeated(cls, text: str, count: int) -> Strings:
        """The same text `count` times."""
        encoded = text.encode("utf-8")
        data = np.frombuffer(encoded * count, np.uint8)
        return cls._trusted(data, np.arange(count + 1, dtype=np.int64) * len(encoded))

    @classmethod
    def concat(cls, parts: Iterable[Strings]) -> Strings:
        """All texts of all parts."""
        parts = list(parts)
        if not parts:
            return cls.of(())
        data = np.concatenate([p.data for p in parts])
        starts = np.cumsum([0] + [len(p.data) for p in parts[:-1]])
        bounds = np.concatenate([np.zeros(1, np.int64), *(p.bounds[1:] + s for p, s in zip(parts, starts, strict=True))])
        return cls._trusted(data, bounds)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, i: int) -> str:
        i = range(len(self))[i]
        return self.data[self.bounds[i] : self.bounds[i + 1]].tobytes().decode("utf-8")

    def __iter__(self) -> Iterator[str]:
        raw, bounds = self.data.tobytes(), self.bounds.tolist()
        return (raw[a:b].decode("utf-8") for a, b in zip(bounds[:-1], bounds[1:], strict=True))

    def __reduce__(self) -> tuple[Any, ...]:
        return Strings, (np.array(self.data), np.array(self.bounds))

    def __repr__(self) -> str:
        head = ", ".join(repr(self[i]) for i in range(min(3, len(self))))
        return f"Strings({len(self)}: {head}{', ...' if len(self) > 3 else ''})"

    def equals(self, other: Strings) -> bool:
        """The same texts in the same order."""
        return np.array_equal(self.bounds, other.bounds) and np.array_equal(self.data, other.data)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Bytes of each text, int64 (k,)."""
        return np.diff(self.bounds)

    @property
    def nbytes(self) -> int:
        """Memory of the column in bytes."""
        return self.data.nbytes + self.bounds.nbytes

    def take(self, rows: NDArray[Any]) -> Strings:
        """The texts of the given rows, in that order; rows may repeat."""
        rows = np.asarray(rows, np.int64)
        starts, lengths = self.bounds[:-1][rows], self.lengths[rows]
        bounds = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=bounds[1:])
        data = np.empty(int(bounds[-1]), np.uint8)
        row = 0
        while row < len(rows):  # a step per _GATHER_BYTES, not per row
            end = int(np.searchsorted(bounds, bounds[row] + _GATHER_BYTES, "right")) - 1
            end = min(max(end, row + 1), len(rows))
            piece = slice(row, end)
            shift = np.repeat(starts[piece] - bounds[row:end], lengths[piece])
            data[bounds[row] : bounds[end]] = self.data[np.arange(bounds[row], bounds[end]) + shift]
            row = end
        return Strings._trusted(data, bounds)

    def unique(self) -> tuple[Strings, NDArray[np.int64]]:
        """Distinct texts in order of first appearance.

        Returns
        -------
        texts : Strings
        inverse : int64 (k,)
            ``texts.take(inverse)`` gives this column back.
        """
        k = len(self)
        group = np.zeros(k, np.int64)
        ngroups = 0
        lengths = self.lengths
        for length in np.unique(lengths):  # a step per distinct length, not per text
            rows = np.flatnonzero(lengths == length)
            if length == 0:
                group[rows] = ngroups
                ngroups += 1
                continue
            labels = _label_equal(self.data, self.bounds[:-1][rows], int(length))
            group[rows] = ngroups + labels
            ngroups += int(labels.max()) + 1
        first = np.full(ngroups, k, np.int64)
        np.minimum.at(first, group, np.arange(k))
        order = np.argsort(first, kind="stable")
        rank = np.empty(ngroups, np.int64)
        rank[order] = np.arange(ngroups)
        return self.take(first[order]), rank[group]


def _label_equal(data: NDArray[np.uint8], starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Number the distinct texts among those of one length: equal texts get equal numbers.

    Neighbours are compared first, since references of one file come in runs; only the heads of runs are sorted.
    """
    windows = np.lib.stride_tricks.sliding_window_view(data, length)
    head = np.ones(len(starts), bool)
    step = max(1, _GATHER_BYTES // length)
    for a in range(1, len(starts), step):
        b = min(a + step, len(starts))
        moved = starts[a:b] != starts[a - 1 : b - 1]
        rows = a + np.flatnonzero(moved)
        head[a:b] = False
        head[rows] = (windows[starts[rows]] != windows[starts[rows - 1]]).any(axis=1)
    heads = np.ascontiguousarray(windows[starts[head]]).view(f"V{length}")[:, 0]
    _, labels = np.unique(heads, return_inverse=True)
    return np.asarray(labels, np.int64)[np.cumsum(head) - 1]
