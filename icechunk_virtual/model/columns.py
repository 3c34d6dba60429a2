"""Small tools for columns of numbers: taking them from callers, freezing them, moving byte ranges.

Knows nothing of chunks: what the columns mean is the business of `strings`, `locations` and `chunk_refs`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_COORDS_NDIM = 2
_LONG_RANGE = 64  # bytes: ranges of at least this length on average are copied one by one
_STEP_BYTES = 1 << 18  # how many bytes are gathered at a time: bounds the memory of index arrays


def as_unsigned(values: ArrayLike, dtype: type[np.unsignedinteger[Any]], name: str) -> NDArray[Any]:
    """Convert to an unsigned dtype; values outside its range are an error, never wrapped.

    Raises
    ------
    ValueError
        Not numbers, fractions, floats beyond the whole numbers they can hold (2**53), or out of range.
    """
    array = np.asarray(values)
    if array.dtype == dtype and array.dtype.isnative:
        return array
    if array.size == 0:
        return array.astype(dtype)
    if array.dtype.kind == "f" and not (np.isfinite(array) & (np.trunc(array) == array) & (abs(array) <= 2**53)).all():
        raise ValueError(f"{name} must be whole numbers")
    if array.dtype.kind not in "uif":
        raise ValueError(f"{name} must be integers, got dtype {array.dtype}")
    low, high, limit = int(array.min()), int(array.max()), int(np.iinfo(dtype).max)
    if low < 0 or high > limit:
        raise ValueError(f"{name} must be within 0 and {limit}, got {low if low < 0 else high}")
    return array.astype(dtype)


def rows_of(values: ArrayLike, dtype: type[np.unsignedinteger[Any]], name: str, n: int) -> NDArray[Any]:
    """A column of `n` rows, range-checked; one value stands for all rows."""
    column = as_unsigned(values, dtype, name)
    if column.ndim == 0:
        column = np.broadcast_to(column, (n,))
    if column.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},), got {column.shape}")
    return column


def owned(array: NDArray[Any]) -> NDArray[Any]:
    """The array if nobody can write to it, else a copy: what a caller does to his array later does not reach us.

    An array that is marked read-only is taken at its word, which is how large columns travel without a copy.
    """
    return array.copy(order="K") if array.flags.writeable else array


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only view."""
    if not array.flags.writeable:
        return array
    view = array.view()
    view.flags.writeable = False
    return view


def gather(data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Byte ranges of `data`, one after the other; ranges may repeat and overlap.

    Ranges that follow each other in `data` are moved as one.
    """
    present = lengths > 0
    if not present.all():
        starts, lengths = starts[present], lengths[present]
    total = int(lengths.sum())
    if len(starts):
        ends = starts + lengths
        heads = np.flatnonzero(np.concatenate(([True], starts[1:] != ends[:-1])))
        starts, ends = starts[heads], ends[np.append(heads[1:], len(ends)) - 1]
        lengths = ends - starts
        if len(starts) == 1 and total == len(data):
            return data
    out = np.empty(total, np.uint8)
    if total >= _LONG_RANGE * len(starts):
        at = 0
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
            out[at : at + length] = data[start : start + length]
            at += length
        return out
    bounds = np.concatenate(([0], np.cumsum(lengths)))
    row = 0
    while row < len(starts):
        end = int(np.searchsorted(bounds, bounds[row] + _STEP_BYTES, "right")) - 1
        end = max(end, row + 1)
        shift = np.repeat(starts[row:end] - bounds[row:end], lengths[row:end])
        out[bounds[row] : bounds[end]] = data[np.arange(bounds[row], bounds[end]) + shift]
        row = end
    return out


def take_columns(
    coords: ArrayLike, kind: ArrayLike, source: ArrayLike, offset: ArrayLike, length: ArrayLike
) -> tuple[NDArray[np.uint32], NDArray[np.uint8], NDArray[np.uint32], NDArray[np.uint64], NDArray[np.uint64]]:
    """The caller's columns in our dtypes and layout, out of his reach."""
    given = np.asarray(coords)
    if given.ndim != _COORDS_NDIM:
        raise ValueError(f"coords must have shape (n, ndim), got {given.shape}")
    taken = np.asfortranarray(as_unsigned(given, np.uint32, "coords"))
    n = len(taken)

    def take(values: ArrayLike, dtype: type[np.unsignedinteger[Any]], name: str) -> NDArray[Any]:
        given = np.asarray(values)
        taken = np.ascontiguousarray(rows_of(given, dtype, name, n))
        return frozen(owned(taken) if taken is given else taken)

    return (
        frozen(owned(taken) if taken is given else taken),
        take(kind, np.uint8, "kind"),
        take(source, np.uint32, "source"),
        take(offset, np.uint64, "offset"),
        take(length, np.uint64, "length"),
    )
