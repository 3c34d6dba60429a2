"""Which of many texts are equal: by hash, then checked byte by byte, without a Python object per text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_WORD = 8
_LONG = 1 << 12  # bytes: columns with longer texts are compared as Python bytes
_SAMPLE = 1 << 10  # texts
_STEP = 1 << 16  # texts at a time: bounds the memory of a step
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, odd: spreads every bit upwards
_HALF = np.uint64(32)


def number_distinct(
    data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number the distinct texts ``data[starts[i]:starts[i] + lengths[i]]`` in order of first appearance.

    Texts may lie anywhere in the data, also inside of each other.

    Returns
    -------
    first : int64 (distinct,)
        Row where each text appears first.
    number : int64 (k,)
        Number of each row's text.
    """
    if not len(lengths) or int(lengths.max()) > _LONG:
        return _number_with_dict(data, starts, lengths)
    if not _comes_in_runs(data, starts, lengths):
        return _number_with_hashes(data, starts, lengths)
    new = np.ones(len(starts), bool)
    new[1:] = _differs(data, lengths, starts, np.arange(1, len(starts)), np.arange(len(starts) - 1))
    heads = np.flatnonzero(new)
    first, number = _number_with_hashes(data, starts[heads], lengths[heads])
    return heads[first], np.repeat(number, np.diff(heads, append=len(starts)))


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
    data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    numbers: dict[bytes, int] = {}
    ends = (starts + lengths).tolist()
    texts = (data[start:end].tobytes() for start, end in zip(starts.tolist(), ends, strict=True))
    return number_in_order(np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int64))


def _number_with_hashes(
    data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    first, number = number_in_order(_hashes(data, starts, lengths))
    if len(first) < len(number):
        twin = first[number]
        rows = np.flatnonzero(twin != np.arange(len(twin)))
        if _differs(data, lengths, starts, rows, twin[rows]).any():  # different texts share a hash
            return _number_with_dict(data, starts, lengths)
    return first, number


def _comes_in_runs(data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> bool:
    """Guess from a sample whether most texts equal the one before, as they do when chunks of a file are neighbours."""
    rows = np.arange(1, len(starts), max(1, len(starts) // _SAMPLE))
    return int(_differs(data, lengths, starts, rows, rows - 1).sum()) * 2 < len(rows)


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


def _differs(
    data: NDArray[np.uint8],
    lengths: NDArray[np.int64],
    starts: NDArray[np.int64],
    a: NDArray[np.int64],
    b: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Whether the texts in rows `a` differ from those in rows `b`."""
    out: NDArray[np.bool_] = lengths[a] != lengths[b]
    views = _views(data)
    for step in range(0, len(a), _STEP):
        part = out[step : step + _STEP]
        same = np.flatnonzero(~part)
        here, there = a[step : step + _STEP][same], b[step : step + _STEP][same]
        length, here, there = lengths[here], starts[here], starts[there]
        for rows, at, width in _pieces(length):
            view = views[width]
            part[same[rows]] |= view[here[rows] + at] != view[there[rows] + at]
    return out
