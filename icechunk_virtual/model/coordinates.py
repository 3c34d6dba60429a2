"""Order of chunk grid coordinates: sorting, comparing and finding rows of uint32 (n, ndim) in bulk."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def increasing(coords: NDArray[np.uint32]) -> bool:
    """Whether rows are lexicographically sorted without repeats."""
    n, ndim = coords.shape
    if n < 2:
        return True
    tied: NDArray[np.bool_] | None = None  # equal in all axes so far; None: all rows
    for axis in range(ndim):
        before, after = coords[:-1, axis], coords[1:, axis]
        falling = after < before
        if (falling if tied is None else falling & tied).any():
            return False
        equal = after == before
        tied = equal if tied is None else tied & equal
        if not tied.any():
            return True
    return False


def grid_of(coords: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Smallest grid that holds all rows, uint64 (ndim,)."""
    ndim = coords.shape[1]
    if not len(coords):
        return np.zeros(ndim, np.uint64)
    return np.array([int(coords[:, axis].max()) + 1 for axis in range(ndim)], np.uint64)


def pack(coords: NDArray[np.uint32], grid: NDArray[np.uint64]) -> NDArray[Any]:
    """One sortable key per row, in the order of the rows' coordinates; comparable within one `grid`.

    Returns
    -------
    uint64 (n,)
        The row number in the grid; or bytes (n,) where the grid has more than 2**64 chunks.
    """
    n, ndim = coords.shape
    size = 1
    for length in grid.tolist():
        size *= max(length, 1)
    if size > 2**64:
        packed = np.ascontiguousarray(coords, ">u4")  # big-endian bytes compare as the numbers do
        return packed.view(f"S{4 * ndim}")[:, 0]
    keys = np.zeros(n, np.uint64)
    for axis in range(ndim):
        keys *= max(grid[axis], np.uint64(1))
        keys += coords[:, axis]
    return keys


def last_of_each(keys: NDArray[Any]) -> NDArray[np.int64]:
    """Rows in the order of their keys; of equal keys only the last row."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    last = np.ones(len(order), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=last[:-1])
    return order if last.all() else order[last]


def take_rows(coords: NDArray[np.uint32], rows: Any) -> NDArray[np.uint32]:
    """Rows by number, mask or slice, kept column by column in memory."""
    if isinstance(rows, slice):
        return coords[rows]
    if rows.dtype == bool:
        rows = np.flatnonzero(rows)
    taken = np.empty((len(rows), coords.shape[1]), np.uint32, order="F")
    for axis in range(coords.shape[1]):
        np.take(coords[:, axis], rows, out=taken[:, axis], mode="clip")
    return taken
