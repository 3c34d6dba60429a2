"""Reading the rows that manifests and transaction logs have in common: vectors of tables, coordinates, their order."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.repo.format.flat import Buffer
from icechunk_virtual.repo.format.flat_columns import Places, Tables

MAX_BYTES = 2**31
"""Bytes of coordinates of one file; no reader takes more."""


def pointed_at(buffer: Buffer, starts: NDArray[np.int64], counts: NDArray[np.int64]) -> Places:
    """Places of the tables that vectors of offsets point at, vector by vector.

    `starts` are the positions of the first elements and `counts` the numbers of elements, int64; all inside the buffer.
    """
    if len(counts) == 1:
        return Places.pointed_at(buffer, int(starts[0]), int(counts[0]))
    before = np.cumsum(counts) - counts
    own = 4 * np.arange(int(counts.sum()), dtype=np.int64) + np.repeat(starts - 4 * before, counts)
    return (
        Places.at(buffer, own + buffer.view("<u4").take(own >> 2, mode="clip")) if len(own) else Places.at(buffer, own)
    )


def order_of(coords: NDArray[np.uint32]) -> NDArray[np.int64] | None:
    """Rows in the order of their coordinates, the first of equal ones; ``None`` when they are in order already."""
    n, ndim = coords.shape
    if n < 2:
        return None
    undecided: NDArray[np.bool_] = np.ones(n - 1, bool)
    in_order = True
    for axis in range(ndim):
        before, after = coords[:-1, axis], coords[1:, axis]
        if axis == 0:
            in_order = bool((before <= after).all())
            undecided = before == after
        else:
            in_order = not bool((undecided & (after < before)).any())
            undecided = undecided & (before == after)
        if not in_order:
            break
    if in_order and not undecided.any():
        return None
    order = np.lexsort(coords.T[::-1]) if ndim else np.zeros(1, np.int64)
    ordered = coords[order]
    first = np.ones(len(order), bool)
    first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return np.asarray(order[first], np.int64)


def coordinates(rows: Tables, slot: int, counts: NDArray[np.int64], what: str) -> list[NDArray[np.uint32]]:
    """Chunk grid coordinates of each array, uint32 (n, ndim), column by column.

    Parameters
    ----------
    rows
        The tables of all arrays, ``counts[0]`` of the first array, and so on.
    slot
        Of the vector of coordinates.

    Raises
    ------
    CorruptFile
        Outside the buffer, of different ranks in one array, or more than any reader takes.
    """
    buffer = rows.places.buffer
    if not len(rows):
        return [np.empty((0, 0), np.uint32)] * len(counts)
    vectors = rows.follow(slot, what)
    ranks = vectors.read("<u4", what)
    if (ranks == ranks[0]).all():
        whole = _elements(vectors, int(ranks[0]), len(rows), what)
        if len(counts) == 1:
            return [whole]
        bounds = np.concatenate([[0], np.cumsum(counts)]).tolist()
        return [whole[a:b] for a, b in itertools.pairwise(bounds)]
    if 4 * int(ranks.sum(dtype=np.int64)) > MAX_BYTES:
        raise buffer.corrupt("more coordinates than any reader takes", int(vectors.first[0]))
    arrays, start = [], 0
    for count in counts.tolist():
        own = ranks[start : start + count]
        if count and (own != own[0]).any():
            bad = start + int(np.argmax(own != own[0]))
            raise buffer.corrupt("chunk indices of different ranks in one array", int(vectors.positions()[bad]))
        places = vectors.take(np.arange(start, start + count))
        arrays.append(_elements(places, int(own[0]) if count else 0, count, what))
        start += count
    return arrays


def _elements(vectors: Places, ndim: int, n: int, what: str) -> NDArray[np.uint32]:
    """The first `ndim` elements of `n` vectors of u32, uint32 (n, ndim)."""
    if 4 * n * ndim > MAX_BYTES:
        raise vectors.buffer.corrupt("more coordinates than any reader takes", int(vectors.first[0]))
    coords = np.empty((n, ndim), np.uint32, order="F")
    for axis in range(ndim):
        vectors.moved(4 + 4 * axis).read("<u4", what, out=coords[:, axis])
    return coords
