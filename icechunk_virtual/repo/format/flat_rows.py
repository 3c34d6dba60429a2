"""Reading the rows that manifests and transaction logs have in common: vectors of tables, coordinates, their order."""

from __future__ import annotations

import itertools
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.repo.format.flat import Buffer
from icechunk_virtual.repo.format.flat_columns import Places, Tables

MAX_BYTES = 2**31
"""Bytes of coordinates of one file; no reader takes more."""

Rows: TypeAlias = slice | NDArray[np.int64]
"""Of the tables of a file; ascending numbers."""


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


class Part(NamedTuple):
    """The rows of one array whose coordinates are of one rank: which rows of the file, and their coordinates."""

    rows: Rows
    coords: NDArray[np.uint32]


def coordinates(rows: Tables, slot: int, counts: NDArray[np.int64], what: str) -> list[list[Part]]:
    """Chunk grid coordinates of each array, uint32 (n, ndim), column by column.

    icechunk stores chunks of the wrong rank (section 12, Q8): an array has a part per rank, the largest part first.
    One without rows has one empty part.

    Parameters
    ----------
    rows
        The tables of all arrays, ``counts[0]`` of the first array, and so on.
    slot
        Of the vector of coordinates.

    Raises
    ------
    CorruptFile
        Outside the buffer, or more than any reader takes.
    """
    buffer = rows.places.buffer
    if not len(rows):
        return [[Part(slice(0, 0), np.empty((0, 0), np.uint32))] for _ in counts]
    vectors = rows.follow(slot, what)
    ranks = vectors.read("<u4", what)
    bounds = list(itertools.pairwise(np.concatenate([[0], np.cumsum(counts)]).tolist()))
    if (ranks == ranks[0]).all():
        whole = _elements(vectors, int(ranks[0]), len(rows), what)
        return [[Part(slice(a, b), whole[a:b])] for a, b in bounds]
    if 4 * int(ranks.sum(dtype=np.int64)) > MAX_BYTES:
        raise buffer.corrupt("more coordinates than any reader takes", int(vectors.first[0]))
    vectors = vectors.scattered()
    arrays = []
    for start, stop in bounds:
        own = ranks[start:stop]
        if start == stop or (own == own[0]).all():
            ndim = int(own[0]) if start < stop else 0
            places = vectors.take(np.arange(start, stop))
            arrays.append([Part(slice(start, stop), _elements(places, ndim, stop - start, what))])
        else:
            arrays.append(_parts(vectors, own, start, what))
    return arrays


def _parts(vectors: Places, ranks: NDArray[np.uint32], start: int, what: str) -> list[Part]:
    """The rows from `start` on, by rank."""
    order = np.argsort(ranks, kind="stable")
    found, firsts, sizes = np.unique(ranks[order], return_index=True, return_counts=True)
    parts = []
    for i in np.argsort(-sizes, kind="stable").tolist():  # of equally large ones the lower rank first
        rows = np.asarray(start + order[firsts[i] : firsts[i] + sizes[i]], np.int64)
        ndim = int(found[i])
        places = vectors.take(rows).moved(4)
        Places.at(places.buffer, places.first + 4 * ndim).check(0, 4, what)
        words = (places.first >> 2)[:, None] + np.arange(ndim)
        parts.append(Part(rows, np.asfortranarray(places.buffer.view("<u4").take(words, mode="clip"))))
    return parts


def _elements(vectors: Places, ndim: int, n: int, what: str) -> NDArray[np.uint32]:
    """The first `ndim` elements of `n` vectors of u32, uint32 (n, ndim)."""
    if 4 * n * ndim > MAX_BYTES:
        raise vectors.buffer.corrupt("more coordinates than any reader takes", int(vectors.first[0]))
    coords = np.empty((n, ndim), np.uint32, order="F")
    for axis in range(ndim):
        vectors.moved(4 + 4 * axis).read("<u4", what, out=coords[:, axis])
    return coords
