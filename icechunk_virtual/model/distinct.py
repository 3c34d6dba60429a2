"""Which of many texts are equal: by hash, then checked byte by byte, without a Python object per text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_WORD = 8
_LONG = 1 << 12  # bytes: columns with longer texts are compared as Python bytes
_STEP = 1 << 16  # texts at a time: bounds the memory of a step
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, odd: spreads every bit upwards
_HALF = np.uint64(32)


def number_distinct(data: NDArray[np.uint8], bounds: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number the distinct texts ``data[bounds[i]:bounds[i + 1]]`` in order of first appearance.

    Returns
    -------
    first : int64 (distinct,)
        Row where each text appears first.
    number : int64 (k,)
        Number of each row's text.
    """
    lengths = np.diff(bounds)
    if not len(lengths) or int(lengths.max()) > _LONG:
        return _number_with_dict(data, bounds)
    first, number = number_in_order(_hashes(data, bounds[:-1], lengths))
    if len(first) < len(number) and not _all_equal(data, bounds[:-1], lengths, first[number]):
        return _number_with_dict(data, bounds)  # different texts share a hash
    return first, number


def number_in_order(
    values: NDArray[np.unsignedinteger] | NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number distinct values by first appearance: the first row of each, and the number of each row, both int64."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    head = np.ones(len(values), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=head[1:])
    if head.all():
        rows = np.arange(len(values))
        return rows, rows
    group = np.empty(len(values), np.int64)
    group[order] = np.cumsum(head) - 1
    first = order[head]  # the sort is stable: the head of a group is its first row
    by_appearance = np.argsort(first)
    rank = np.empty(len(first), np.int64)
    rank[by_appearance] = np.arange(len(first))
    return first[by_appearance], rank[group]


def _number_with_dict(
    data: NDArray[np.uint8], bounds: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    numbers: dict[bytes, int] = {}
    texts = (data[a:b].tobytes() for a, b in pairwise(bounds.tolist()))
    return number_in_order(np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int64))


def _pieces(lengths: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], int]]:
    """Cut all texts at once into whole words, the last one overlapping, or into bytes where they have no whole word.

    Yields
    ------
    rows, positions, width
        Texts that have such a piece, where it starts in each text, its bytes.
    """
    for rows, width in ((np.flatnonzero(lengths >= _WORD), _WORD), (np.flatnonzero(lengths < _WORD), 1)):
        at, left = 0, lengths[rows]
        while len(rows):
            longer = left > at
            if not longer.all():
                rows, left = rows[longer], left[longer]
            if len(rows):
                yield rows, np.minimum(at, left - width), width
            at += width


def _views(data: NDArray[np.uint8]) -> dict[int, NDArray[np.unsignedinteger]]:
    """Pieces by width: the bytes, and the word that starts at each byte."""
    count = max(len(data) - _WORD + 1, 0)
    return {1: data, _WORD: np.ndarray((count,), "<u8", data, strides=(1,)) if count else np.empty(0, np.uint64)}


def _hashes(data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.uint64]:
    views = _views(data)
    hashes = lengths.astype(np.uint64)
    for step in range(0, len(hashes), _STEP):
        part, begin = hashes[step : step + _STEP], starts[step : step + _STEP]
        for rows, at, width in _pieces(lengths[step : step + _STEP]):
            mixed = (part[rows] ^ views[width][begin[rows] + at]) * _MULTIPLIER
            part[rows] = mixed ^ (mixed >> _HALF)
    return hashes


def _all_equal(
    data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64], twin: NDArray[np.int64]
) -> bool:
    """Whether every text equals the text in the row that `twin` gives for it."""
    if not np.array_equal(lengths, lengths[twin]):
        return False
    views = _views(data)
    rows_with_twin = np.flatnonzero(twin != np.arange(len(twin)))
    for step in range(0, len(rows_with_twin), _STEP):
        chosen = rows_with_twin[step : step + _STEP]
        here, there = starts[chosen], starts[twin[chosen]]
        for rows, at, width in _pieces(lengths[chosen]):
            view = views[width]
            if not np.array_equal(view[here[rows] + at], view[there[rows] + at]):
                return False
    return True
