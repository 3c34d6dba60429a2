"""Strings of flatbuffers as columns, and moving many byte ranges at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.model.distinct import number_distinct
from icechunk_virtual.model.strings import Strings
from icechunk_virtual.repo.format.flat import Buffer
from icechunk_virtual.repo.format.flat_columns import Places

_WORD = 8
_MANY = 256  # fewer texts are numbered directly
_LONGEST = 1 << 10  # bytes of texts that are compared in windows
_STEP = 1 << 12  # texts at a time
_COPY_BYTES = 1 << 20  # bytes that one step of copy_ranges() moves: bounds the memory of its index arrays


def texts_at(buffer: Buffer, positions: NDArray[np.int64], what: str, limit: int) -> tuple[Strings, NDArray[np.int64]]:
    """Strings at positions, each distinct text once.

    Returns
    -------
    texts : Strings
    rows : int64 (n,)
        Row of `texts` for each position.

    Raises
    ------
    CorruptFile
        Outside the buffer, not UTF-8, or more than `limit` bytes altogether.
    """
    if not len(positions):
        return Strings.of(()), np.zeros(0, np.int64)
    heads = _run_heads(positions)
    starts, inverse = positions[heads], np.arange(len(heads))
    if len(starts) > 1 and not _all_distinct(starts):
        starts, inverse = np.unique(starts, return_inverse=True)
    places = Places.at(buffer, starts)
    lengths = places.read("<u4", what).astype(np.int64)
    places.moved(4 + lengths).check(0, 1, what)
    if int(lengths.sum()) > limit:
        raise buffer.corrupt(f"{what}: more than {limit} bytes of text", int(starts[0]))
    first, number = _number(buffer.view("|u1"), starts + 4, lengths)
    texts = _copied(buffer, starts[first] + 4, lengths[first], what)
    return texts, np.repeat(number[inverse], np.diff(heads, append=len(positions)))


def _run_heads(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """First rows of the runs of equal values."""
    head = np.empty(len(values), bool)
    head[0] = True
    np.not_equal(values[1:], values[:-1], out=head[1:])
    return np.flatnonzero(head)


def _all_distinct(values: NDArray[np.int64]) -> bool:
    """Whether values are strictly monotonic, as positions are when a writer puts a string beside each table."""
    before, after = values[:-1], values[1:]
    return bool((before < after).all() or (before > after).all())


def _number(
    data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`number_distinct`, with a short cut for many texts of one length that come in runs."""
    length = int(lengths[0])
    if len(starts) < _MANY or not _WORD <= length <= _LONGEST or (lengths != length).any():
        return number_distinct(data, starts, lengths)
    head = np.ones(len(starts), bool)
    words = length // _WORD
    windows = np.ndarray((len(data) - words * _WORD + 1,), f"V{words * _WORD}", data, 0, (1,))
    tails = np.ndarray((len(data) - _WORD + 1,), "<u8", data, 0, (1,))
    for row in range(0, len(starts) - 1, _STEP):  # a step per thousands of texts
        piece = starts[row : row + _STEP + 1]
        whole = windows[piece].view("<u8").reshape(-1, words)
        tail = tails[piece + (length - _WORD)]
        head[row + 1 : row + len(piece)] = (whole[1:] != whole[:-1]).any(axis=1) | (tail[1:] != tail[:-1])
    heads = np.flatnonzero(head)
    first, number = number_distinct(data, starts[heads], lengths[heads])
    return heads[first], np.repeat(number, np.diff(heads, append=len(starts)))


def _copied(buffer: Buffer, starts: NDArray[np.int64], lengths: NDArray[np.int64], what: str) -> Strings:
    bounds = np.zeros(len(starts) + 1, np.int64)
    np.cumsum(lengths, out=bounds[1:])
    data = np.empty(int(bounds[-1]), np.uint8)
    copy_ranges(data, bounds[:-1], buffer.view("|u1"), starts, lengths)
    data.flags.writeable = False
    bounds.flags.writeable = False
    try:
        return Strings(data, bounds)
    except ValueError as error:
        raise buffer.corrupt(f"{what}: {error}", int(starts[0])) from None


def copy_ranges(
    target: NDArray[np.uint8],
    target_starts: NDArray[np.int64],
    source: NDArray[np.uint8],
    source_starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> None:
    """Copy many byte ranges; all of them must be inside, and those of `target` apart."""
    size, to_step, from_step = _step(lengths), _step(target_starts), _step(source_starts)
    if size == 0 and to_step and from_step:  # equal sizes at equal distances: one strided copy
        shape = len(lengths), int(lengths[0])
        to = np.ndarray(shape, np.uint8, target.data, int(target_starts[0]), (to_step, 1))
        to[:] = np.ndarray(shape, np.uint8, source.data, int(source_starts[0]), (from_step, 1))
        return
    bounds = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=bounds[1:])
    row = 0
    while row < len(lengths):  # a step per _COPY_BYTES or per larger range, not per range
        end = int(np.searchsorted(bounds, bounds[row] + _COPY_BYTES, "right")) - 1
        if end <= row:
            a, b, size = int(target_starts[row]), int(source_starts[row]), int(lengths[row])
            target[a : a + size] = source[b : b + size]
            row += 1
            continue
        piece = slice(row, end)
        index = np.arange(bounds[row], bounds[end])
        to = index + np.repeat(target_starts[piece] - bounds[piece], lengths[piece])
        index += np.repeat(source_starts[piece] - bounds[piece], lengths[piece])
        target[to] = source[index]
        row = end


def _step(values: NDArray[np.int64]) -> int | None:
    """The difference of all neighbours, or ``None`` if they differ or there are none."""
    if len(values) < 2:
        return None
    steps = values[1:] - values[:-1]
    step = int(steps[0])
    return step if (steps == step).all() else None
