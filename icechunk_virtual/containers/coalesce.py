"""Which ranges of an object are fetched for the ones that are asked for: few, without reading much besides.

Pure: requests and measurements in, frozen plans out. What is asked for ahead of time is the business of `sweeps`, and
who fetches that of `merged`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LATENCY = 0.02  # seconds: assumed until requests were measured
_BANDWIDTH = 50e6  # bytes per second of one request: likewise
_SAMPLES = 32
_ENOUGH = 4  # samples
_TELLING = 2**16  # bytes: the time of smaller requests says nothing about bandwidth
_SMALLEST_PART, _LARGEST_PART = 2**20, 2**22
_SMALLEST_LARGE = 2**15


@dataclass(frozen=True, slots=True)
class Merging:
    """How far reading may go beyond what is asked for.

    Attributes
    ----------
    max_overread
        Most bytes fetched that nobody has asked for, as a fraction of those that somebody has. Holds at every moment.
    buffer_bytes
        Most bytes that are held, or on their way, before anybody asks for them. 0: nothing is fetched ahead.
    """

    max_overread: float = 1.0
    buffer_bytes: int = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Pace:
    """How a container answers.

    Attributes
    ----------
    latency
        Seconds that pass before the first byte comes.
    bandwidth
        Bytes per second of one request from then on.
    """

    latency: float = _LATENCY
    bandwidth: float = _BANDWIDTH

    @property
    def gap(self) -> int:
        """Bytes that arrive in the time of one round trip: reading fewer in vain is cheaper than another request."""
        return int(self.latency * self.bandwidth)

    @property
    def part(self) -> int:
        """Most bytes of one merged request: about what half a round trip carries, so that none waits long for all."""
        return min(max(self.gap // 2, _SMALLEST_PART), _LARGEST_PART)

    @property
    def large(self) -> int:
        """Bytes from which a request is better made alone, at the same time as others."""
        return min(max(self.gap // 4, _SMALLEST_LARGE), _LARGEST_PART // 2)


class Meter:
    """Estimates the pace of a container: the second best of its last requests.

    What makes requests slower is mostly something else: a busy machine, or many of them at once.
    """

    __slots__ = ("_samples", "pace")

    def __init__(self) -> None:
        self._samples: deque[tuple[int, float]] = deque(maxlen=_SAMPLES)
        self.pace = Pace()

    def record(self, size: int, seconds: float) -> None:
        """A request for `size` bytes took so long."""
        self._samples.append((size, seconds))
        if len(self._samples) < _ENOUGH:
            return
        latency = max(sorted(seconds for _, seconds in self._samples)[1], 1e-6)
        rates = [size / max(seconds - latency, latency / 10) for size, seconds in self._samples if size >= _TELLING]
        self.pace = Pace(latency, sorted(rates)[-2] if len(rates) > 1 else _BANDWIDTH)


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes ``[start, stop)`` of an object that are fetched at once.

    Attributes
    ----------
    asked
        How many of them somebody asked for.
    members
        Numbers of the requests that it answers.
    """

    start: int
    stop: int
    asked: int
    members: tuple[int, ...]

    def __len__(self) -> int:
        return self.stop - self.start


def plan_ranges(requests: Sequence[tuple[int, int]], *, gap: int, part: int, max_overread: float) -> list[Range]:
    """Merge requests for ranges of one object.

    Parameters
    ----------
    requests
        ``(start, stop)`` each, ``start < stop``, in any order. They may overlap and repeat.
    gap
        Most bytes between two requests that are read in vain.
    part
        Most bytes of a range, unless one request alone has more: that is left as it is.
    max_overread
        Most bytes read in vain in a range, as a fraction of those asked for.

    Returns
    -------
    list of Range
        In the order of their starts. Every request is a member of exactly one range, which holds all of it.

    Examples
    --------
    >>> [(r.start, r.stop) for r in plan_ranges([(30, 40), (0, 10), (12, 20)], gap=5, part=100, max_overread=0.5)]
    [(0, 20), (30, 40)]
    """
    order = sorted(range(len(requests)), key=requests.__getitem__)
    ranges: list[Range] = []
    members: list[int] = []
    first = last = asked = 0
    for number in order:
        start, stop = requests[number]
        end = max(stop, last)
        new = max(stop - max(start, last), 0)
        fits = end - first <= part or end == last
        if members and fits and start - last <= gap and end - first - asked - new <= max_overread * (asked + new):
            members.append(number)
            last, asked = end, asked + new
            continue
        if members:
            ranges.append(Range(first, last, asked, tuple(members)))
        members, first, last, asked = [number], start, stop, stop - start
    if members:
        ranges.append(Range(first, last, asked, tuple(members)))
    return ranges


def leading_rows(
    source: NDArray[np.uint32],
    offset: NDArray[np.uint64],
    length: NDArray[np.uint64],
    *,
    gap: int,
    most_ranges: int,
    most_bytes: int,
) -> int:
    """How many of the first references can be fetched within limits.

    Parameters
    ----------
    source, offset, length
        Object and byte range of each, shape (n,).
    gap
        Most bytes between references of one object that count as one range.
    most_ranges, most_bytes
        The limits.
    """
    sizes = np.minimum(length, 2**40).astype(np.int64)
    count = int(np.searchsorted(np.cumsum(sizes), most_bytes, side="right"))
    if not count or most_ranges < 1:
        return 0
    order = np.lexsort((offset[:count], source[:count]))
    ends = (offset + length)[order]
    apart = np.ones(count, bool)
    apart[1:] = (np.diff(source[order]) != 0) | (offset[order][1:] > ends[:-1] + np.uint64(gap))
    _, first = np.unique(np.cumsum(apart)[np.argsort(order)], return_index=True)
    return count if len(first) <= most_ranges else int(np.sort(first)[most_ranges])
