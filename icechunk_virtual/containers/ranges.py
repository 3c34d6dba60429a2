"""Byte ranges of one object: neighbours are fetched together and cut apart again. Pure, knows no transport."""

from __future__ import annotations

import bisect
from collections.abc import Sequence


def merge_ranges(ranges: Sequence[tuple[int, int]], gap: int) -> list[tuple[int, int]]:
    """Half-open ranges, sorted and disjoint, that cover all ``(offset, length)``; gaps up to `gap` are included."""
    merged: list[tuple[int, int]] = []
    for offset, length in sorted(r for r in ranges if r[1]):
        if merged and offset <= merged[-1][1] + gap:
            merged[-1] = (merged[-1][0], max(merged[-1][1], offset + length))
        else:
            merged.append((offset, offset + length))
    return merged


def slice_ranges(
    ranges: Sequence[tuple[int, int]], merged: Sequence[tuple[int, int]], bodies: Sequence[bytes | memoryview]
) -> list[bytes]:
    """The bytes of each of `ranges`, cut out of the bodies of the `merged` ones that cover them."""
    starts = [start for start, _ in merged]
    pieces = []
    for offset, length in ranges:
        if not length:
            pieces.append(b"")
            continue
        i = bisect.bisect_right(starts, offset) - 1
        pieces.append(bytes(bodies[i][offset - starts[i] : offset - starts[i] + length]))
    return pieces
