"""A frozen column of UTF-8 texts in one buffer, as Arrow has it: bytes plus bounds.

Archives have up to one file per chunk, so the texts of locations are a column like any other. Decoding one text
is a slice; everything else is vectorised.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icechunk_virtual.model.columns import frozen, gather, owned
from icechunk_virtual.model.distinct import number_distinct


@dataclass(frozen=True, slots=True, eq=False)
class Strings:
    """`k` texts.

    Attributes
    ----------
    data : uint8 (total bytes,)
        All texts, one after the other, without separators.
    bounds : int64 (k + 1,)
        Text `i` is ``data[bounds[i]:bounds[i + 1]]``.

    Arrays that are writeable are copied.

    Raises
    ------
    ValueError
        Bounds that do not fit the data, or bytes that are not UTF-8.
    """

    data: NDArray[np.uint8]
    bounds: NDArray[np.int64]

    def __post_init__(self) -> None:
        data, bounds = np.asarray(self.data), np.asarray(self.bounds)
        if data.dtype != np.uint8 or bounds.dtype.kind not in "iu":
            raise ValueError(f"data must be uint8 and bounds integers, got {data.dtype} and {bounds.dtype}")
        data, bounds = np.ascontiguousarray(owned(data)), np.ascontiguousarray(owned(bounds), np.int64)
        if bounds.ndim != 1 or data.ndim != 1 or not len(bounds) or bounds[0] != 0 or bounds[-1] != len(data):
            raise ValueError("bounds must run from 0 to the number of bytes")
        if (bounds[1:] < bounds[:-1]).any():
            raise ValueError("bounds must not decrease")
        if len(data) and data.max() >= 0x80:
            _check_utf8(data, bounds)
        self._set(data, bounds)

    def _set(self, data: NDArray[np.uint8], bounds: NDArray[np.int64]) -> None:
        object.__setattr__(self, "data", frozen(data))
        object.__setattr__(self, "bounds", frozen(bounds))

    @classmethod
    def _trusted(cls, data: NDArray[np.uint8], bounds: NDArray[np.int64]) -> Strings:
        """Without the checks, for results of operations on valid columns."""
        self = object.__new__(cls)
        self._set(data, bounds)
        return self

    @classmethod
    def of(cls, texts: Iterable[str]) -> Strings:
        """From Python strings."""
        texts = list(texts)
        data = "".join(texts).encode("utf-8")
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        if len(data) != lengths.sum():  # characters are not bytes
            lengths = np.fromiter((len(text.encode("utf-8")) for text in texts), np.int64, len(texts))
        return cls._trusted(np.frombuffer(data, np.uint8), _bounds(lengths))

    @classmethod
    def factorize(cls, texts: Iterable[str]) -> tuple[Strings, NDArray[np.int64]]:
        """From Python strings that repeat: the distinct texts, and for each text its row, int64 (n,)."""
        numbers: dict[str, int] = {}
        rows = np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int64)
        return cls.of(numbers), rows

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
        if len(parts) == 1:
            return parts[0]
        lengths = [np.empty(0, np.int64), *(p.lengths for p in parts)]
        data = [np.empty(0, np.uint8), *(p.data for p in parts)]
        return cls._trusted(np.concatenate(data), _bounds(np.concatenate(lengths)))

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, i: int) -> str:
        i = range(len(self.bounds) - 1)[i]
        start, end = self.bounds.item(i), self.bounds.item(i + 1)
        return str(self.data.data[start:end], "utf-8") if start < end else ""

    def __iter__(self) -> Iterator[str]:
        raw, start = self.data.data, 0
        for end in self.bounds[1:].tolist():
            yield str(raw[start:end], "utf-8")
            start = end

    def __reduce__(self) -> tuple[Any, ...]:
        return Strings._trusted, (self.data, self.bounds)

    def __repr__(self) -> str:
        head = ", ".join(repr(self[i]) for i in range(min(3, len(self))))
        return f"Strings({len(self)}: {head}{', ...' if len(self) > 3 else ''})"

    def equals(self, other: Strings) -> bool:
        """The same texts in the same order."""
        return self is other or (np.array_equal(self.bounds, other.bounds) and np.array_equal(self.data, other.data))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Bytes of each text, int64 (k,)."""
        return np.diff(self.bounds)

    @property
    def nbytes(self) -> int:
        """Memory of the column in bytes."""
        return self.data.nbytes + self.bounds.nbytes

    def take(self, rows: ArrayLike) -> Strings:
        """The texts of the given rows, in that order; rows may repeat."""
        rows = np.asarray(rows, np.int64)
        lengths = self.lengths[rows]
        return Strings._trusted(gather(self.data, self.bounds[:-1][rows], lengths), _bounds(lengths))

    def unique(self) -> tuple[Strings, NDArray[np.int64]]:
        """Distinct texts in order of first appearance.

        Returns
        -------
        texts : Strings
        inverse : int64 (k,)
            ``texts.take(inverse)`` gives this column back.
        """
        first, inverse = number_distinct(self.data, self.bounds[:-1], self.lengths)
        return (self if len(first) == len(self) else self.take(first)), inverse


def _bounds(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    bounds = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=bounds[1:])
    return bounds


def _check_utf8(data: NDArray[np.uint8], bounds: NDArray[np.int64]) -> None:
    try:
        str(data.data, "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"a text is not UTF-8: {error}") from None
    inner = bounds[1:-1]
    inner = inner[inner < len(data)]
    if ((data[inner] & 0xC0) == 0x80).any():
        raise ValueError("a text starts inside a UTF-8 character")
