"""What fixed and extensible arrays share: elements with their numbers, and pages of elements with a checksum each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.scanners.hdf5.format.context import CHECKSUM, Context
from icechunk_virtual.scanners.hdf5.format.steps import Step


@dataclass(frozen=True, slots=True, eq=False)
class Elements:
    """Some elements of an array.

    Attributes
    ----------
    number : uint64 (n,)
    data : uint8 (n, size of an element)
    """

    number: NDArray[np.uint64]
    data: NDArray[np.uint8]

    @classmethod
    def none(cls, size: int) -> Elements:
        """No elements."""
        return cls(np.empty(0, np.uint64), np.empty((0, size), np.uint8))

    @classmethod
    def concat(cls, parts: Sequence[Elements], size: int) -> Elements:
        """All of them."""
        if not parts:
            return cls.none(size)
        return cls(np.concatenate([part.number for part in parts]), np.concatenate([part.data for part in parts]))

    def below(self, count: int) -> Elements:
        """Those with a number below a limit: arrays have room for more than there are."""
        rows = self.number < np.uint64(count)
        return self if rows.all() else Elements(self.number[rows], self.data[rows])


def page_bits(bitmap: bytes, count: int) -> NDArray[np.bool_]:
    """Which pages were written: a bit each, from the highest of the first byte on."""
    return np.unpackbits(np.frombuffer(bitmap, np.uint8), count=count).astype(bool)


def page_addresses(start: int, count: int, length: int) -> NDArray[np.uint64]:
    """Addresses of pages that follow each other."""
    places: NDArray[np.uint64] = np.arange(count, dtype=np.uint64) * np.uint64(length) + np.uint64(start)
    return places


def read_pages(
    context: Context, addresses: NDArray[np.uint64], firsts: NDArray[np.uint64], count: int, size: int
) -> Step[Elements]:
    """Elements of pages of equal length.

    Parameters
    ----------
    addresses, firsts
        Of each page, and the number of its first element.
    count, size
        Elements of a page, bytes of an element.
    """
    rows = yield from context.read_rows(addresses, count * size + CHECKSUM)
    context.check_rows(rows, addresses, "page of an array")
    number = firsts[:, None] + page_addresses(0, count, 1)
    return Elements(number.reshape(-1), rows[:, : count * size].reshape(-1, size))
