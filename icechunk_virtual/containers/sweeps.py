"""Sweeps: requests that run on through the chunks of an array, and what they will ask for next.

Readers of Zarr arrays go through boxes of the chunk grid in C order, a few chunks at a time. Pure: coordinates in,
coordinates out; knows neither where the bytes are nor who fetches them.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

Coord = tuple[int, ...]

EVIDENCE = 8
"""Chunks in a row that make a sweep. Fewer are mostly all that is wanted."""
_WORTHWHILE = 4  # times the evidence: a sweep of that length was worth it, even if its end came as a surprise
_MOST_DOUBT = 3  # times that the evidence asked for is doubled
_SLACK = 64  # chunks: holes of chunks that do not exist, and strides, are at most this long
_LINES = 8  # steps along an outer axis are at most this long
_SURE = 4  # repetitions that make a distance a stride
_FEWEST = 4  # chunks that are worth a step while others are on their way
_LONG_STEP = 256  # chunks, whose reading takes about as long as a request
_TRACKED = 32  # sweeps at a time, each perhaps of a thread
_LOOKED_AT = 4  # of those without evidence


class Sweep:
    """One run through a box of the chunk grid, in C order, perhaps with strides.

    At first the box is all of the grid. Where the run steps back along inner axes it shows their edges, and where it
    leaves out as many chunks again and again its stride.

    Parameters
    ----------
    grid
        Chunks along each axis, at least one axis.
    coord
        Of the first chunk.

    Attributes
    ----------
    length
        Chunks asked for.
    asked
        Bytes asked for.
    ahead
        Bytes fetched ahead that nobody has asked for yet.
    planned
        Chunks beyond the last one asked for that `upcoming` has handed out.
    expected
        The next chunk; ``None`` at the end.
    """

    __slots__ = (
        "_delta",
        "_grid",
        "_high",
        "_last",
        "_low",
        "_repeats",
        "_step",
        "_taken",
        "_wasted",
        "ahead",
        "asked",
        "expected",
        "length",
        "planned",
    )

    def __init__(self, grid: Coord, coord: Coord) -> None:
        self._grid = grid
        self._low = [0] * len(grid)  # the box; each `_low` is where the present stride begins
        self._high = list(grid)
        self._step = [1] * len(grid)
        self._last = coord
        self._delta = self._repeats = 0  # along the innermost axis, as long as it is not the stride
        self._taken = 0  # chunks in the last step ahead
        self._wasted = 0  # bytes fetched ahead of where it did not go
        self.length, self.asked, self.ahead, self.planned = 1, 0, 0, 0
        self.expected = self._after(coord)

    def _after(self, coord: Coord) -> Coord | None:
        for axis in range(len(coord) - 1, -1, -1):
            if coord[axis] + self._step[axis] < self._high[axis]:
                return (*coord[:axis], coord[axis] + self._step[axis], *self._low[axis + 1 :])
        return None

    # -- following -------------------------------------------------------------------------------------------------

    def accept(self, coord: Coord) -> bool:
        """Go on to a chunk, if it belongs to this sweep."""
        if coord == self.expected:
            self.planned -= self.planned > 0
            self._delta = self._repeats = 0
        elif coord <= self._last:  # overtaken by others a moment ago, or no continuation
            late = coord[:-1] == self._last[:-1] and self._last[-1] - coord[-1] < min(_SLACK, self.length)
            self.length += late
            return late
        elif not self._learn(coord):
            return False
        self._last = coord
        self.expected = self._after(coord)
        self.length += 1
        if not self.planned:  # whatever else was fetched is not ahead
            self._wasted += self.ahead
            self.ahead = 0
        return True

    def _learn(self, coord: Coord) -> bool:
        """What an unexpected chunk further on shows of the box; false if it is no continuation."""
        last = self._last
        axis = next(i for i in range(len(coord)) if coord[i] != last[i])
        delta = coord[axis] - last[axis]
        if axis == len(coord) - 1:
            if delta <= _SLACK * self._step[axis]:
                self._stay_on_line(coord[axis], delta)
                return True
            return False
        inner, before = coord[axis + 1 :], last[axis + 1 :]
        if delta > _LINES or any(a > b for a, b in zip(inner, before, strict=True)):
            return False
        if self.length < 2 and inner != before:
            return False
        for i in range(axis + 1, len(coord)):  # a step back: here the inner axes begin, and there they ended
            self._low[i], self._high[i] = coord[i], last[i] + 1
        self._set_step(axis, coord[axis], delta)
        return True

    def _stay_on_line(self, index: int, delta: int) -> None:
        step = self._step[-1]
        if index >= self._high[-1]:  # the line is longer than it seemed
            self._high[-1] = index + 1
        self._repeats = self._repeats + 1 if delta == self._delta else 0
        self._delta = delta
        if delta % step or self._repeats >= _SURE:
            self._set_step(len(self._step) - 1, index, delta)
            self.length = min(self.length, EVIDENCE // 2)  # what was known of it is in doubt
        else:  # a hole of chunks that do not exist
            self.planned = max(self.planned - delta // step, 0)

    def _set_step(self, axis: int, index: int, delta: int) -> None:
        self._step[axis] = delta
        self._low[axis] += (index - self._low[axis]) % delta
        self._delta = self._repeats = self.planned = 0

    # -- going ahead -----------------------------------------------------------------------------------------------

    def due(self, max_overread: float, most_bytes: int, *, stalled: bool) -> int:
        """How many chunks to fetch ahead now: none as long as enough of the last step is left.

        Parameters
        ----------
        max_overread
            Most bytes ahead, as a fraction of those asked for so far: that makes the steps grow.
        most_bytes
            Most bytes ahead in any case.
        stalled
            The last chunk was not there when it was asked for.
        """
        size = max(self.asked // self.length, 1)
        count = (min(int(max_overread * self.asked) - self._wasted, most_bytes) - self.ahead) // size
        if stalled:  # nothing else happens before it comes, so this is the time for a large step
            return count if count >= max(self.planned, 1) else 0
        share = 4 if self._taken < _LONG_STEP else 2  # of a short step, more is gained by a larger next one
        return count if self.planned * share <= self._taken and count >= max(self.planned, _FEWEST) else 0

    def upcoming(self, count: int) -> NDArray[np.int64]:
        """The next chunks that were not handed out yet, int64 (up to `count`, ndim); now they are."""
        low, step, last = np.array(self._low), np.array(self._step), np.array(self._last)
        shape = tuple(np.maximum(-(-(np.array(self._high) - low) // step), 1).tolist())
        place = np.ravel_multi_index(tuple((last - low) // step), shape, mode="clip")
        first = int(place) + 1 + self.planned
        places = np.arange(first, min(first + count, int(np.prod(shape))))
        self._taken = len(places)
        self.planned += len(places)
        coords: NDArray[np.int64] = np.stack(np.unravel_index(places, shape), axis=1) * step + low
        return coords

    def give_back(self, count: int) -> None:
        """The last `count` chunks that were handed out are not fetched after all."""
        self.planned -= count
        self._taken -= count


class Sweeps:
    """The sweeps through one array.

    A sweep is believed in after `EVIDENCE` chunks; after more, when others ended soon after that.
    """

    __slots__ = ("_doubt", "_sweeps")

    def __init__(self) -> None:
        self._sweeps: OrderedDict[Coord | None, Sweep] = OrderedDict()  # by what they expect; the last used is last
        self._doubt = 0

    def follow(self, grid: Coord, coord: Coord, size: int) -> Sweep | None:
        """The sweep that a request for a chunk of `size` bytes belongs to, if there is evidence for one."""
        if not grid:
            return None
        sweep = self._sweeps.pop(coord, None)
        if sweep is None or not sweep.accept(coord):
            sweep = self._find(coord)
        if sweep is None:
            sweep = Sweep(grid, coord)
        self._keep(sweep)
        sweep.asked += size
        return sweep if self._believed(sweep) else None

    def _believed(self, sweep: Sweep) -> bool:
        return sweep.length >= EVIDENCE << self._doubt

    def _find(self, coord: Coord) -> Sweep | None:
        """The sweep that does not expect this chunk, but can go on to it; no longer in the table."""
        unfounded = 0
        for expected, sweep in reversed(self._sweeps.items()):
            if sweep.length < EVIDENCE:
                unfounded += 1
                if unfounded > _LOOKED_AT:
                    continue
            if sweep.accept(coord):
                del self._sweeps[expected]
                return sweep
        return None

    def _keep(self, sweep: Sweep) -> None:
        self._end(self._sweeps.pop(sweep.expected, None))  # two that expect the same go on as one
        self._sweeps[sweep.expected] = sweep
        if len(self._sweeps) > _TRACKED:
            self._end(self._sweeps.popitem(last=False)[1])

    def _end(self, sweep: Sweep | None) -> None:
        if sweep is not None and self._believed(sweep):
            if sweep.length >= _WORTHWHILE * EVIDENCE << self._doubt:
                self._doubt = 0
            elif 4 * sweep.ahead > sweep.asked:
                self._doubt = min(self._doubt + 1, _MOST_DOUBT)
