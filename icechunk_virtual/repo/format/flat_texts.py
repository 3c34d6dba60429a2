"""Strings of flatbuffers as columns, and moving many byte ranges at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.model.strings import Strings
from icechunk_virtual.repo.format.flat import Buffer
from icechunk_virtual.repo.format.flat_columns import Places

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
    change = np.empty(len(positions), bool)
    change[0] = True
    np.not_equal(positions[1:], positions[:-1], out=change[1:])
    heads = positions[change]
    if len(heads) > 1 and len(heads) * 16 > len(positions):
        starts, inverse = np.unique(heads, return_inverse=True)
    else:
        starts, inverse = heads, np.arange(len(heads))
    places = Places.at(buffer, starts)
    lengths = places.read("<u4", what).astype(np.int64)
    ends = places.moved(4 + lengths)
    ends.check(0, 1, what)
    if int(lengths.sum()) > limit:
        raise buffer.corrupt(f"{what}: more than {limit} bytes of text", int(starts[0]))
    texts, same = _checked_texts(buffer, starts + 4, lengths, what).unique()
    rows = same[inverse]
    return texts, np.repeat(rows, np.diff(np.flatnonzero(change), append=len(positions)))


def _checked_texts(buffer: Buffer, starts: NDArray[np.int64], lengths: NDArray[np.int64], what: str) -> Strings:
    bounds = np.zeros(len(starts) + 1, np.int64)
    np.cumsum(lengths, out=bounds[1:])
    data = np.empty(int(bounds[-1]), np.uint8)
    copy_ranges(data, bounds[:-1], buffer.view("|u1"), starts, lengths)
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
    """Copy many byte ranges; all of them must be inside."""
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
