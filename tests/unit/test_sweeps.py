"""Sweeps: what is recognised, what is foreseen, and what it costs when it ends."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk_virtual.containers.sweeps import EVIDENCE, Coord, Sweeps

SIZE = 1000
MOST = 10**9


def box(*ranges: Iterable[int]) -> list[Coord]:
    return list(itertools.product(*ranges))


class Follower:
    """Fetches ahead what `Sweeps` says and counts."""

    def __init__(
        self, grid: Coord, *, max_overread: float = 1.0, most: int = MOST, exist: Iterable[Coord] | None = None
    ) -> None:
        self.grid, self.max_overread, self.most = grid, max_overread, most
        self.exist = None if exist is None else set(exist)
        self.sweeps = Sweeps()
        self.fetched: set[Coord] = set()
        self.asked: set[Coord] = set()
        self.hits = self.steps = 0

    def follow(self, coords: Iterable[Coord]) -> Follower:
        for coord in coords:
            hit = coord in self.fetched
            self.hits += hit
            self.asked.add(coord)
            sweep = self.sweeps.follow(self.grid, coord, SIZE)
            if sweep is None:
                continue
            if hit:
                sweep.ahead = max(sweep.ahead - SIZE, 0)
            count = sweep.due(self.max_overread, self.most, stalled=not hit)
            if count:
                upcoming = {tuple(c) for c in sweep.upcoming(count).tolist()}
                upcoming &= upcoming if self.exist is None else self.exist
                self.steps += bool(upcoming)
                sweep.ahead += SIZE * len(upcoming - self.fetched)
                self.fetched.update(upcoming)
        return self


RUNS = {
    "a line": ((2000,), box(range(2000))),
    "a part of a line": ((5000,), box(range(700, 2700))),
    "with a stride": ((6000,), box(range(5, 6000, 3))),
    "a grid": ((40, 50), box(range(40), range(50))),
    "a box in it": ((220, 100), box(range(20, 220), range(40, 50))),
    "columns left out": ((40, 100), box(range(40), range(0, 100, 2))),
    "lines left out": ((80, 100), box(range(0, 80, 2), range(30, 80))),
    "one column": ((2000, 7, 9), box(range(2000), [3], [4])),
    "three axes": ((100, 10, 10), box(range(0, 100, 2), range(2, 6), range(5, 10))),
    "a last axis of one": ((2000, 1), box(range(2000), [0])),
}


@pytest.mark.parametrize("run", RUNS)
def test_a_run_is_foreseen(run: str) -> None:
    grid, coords = RUNS[run]
    seen = Follower(grid).follow(coords)
    assert seen.hits >= len(coords) - 2 * EVIDENCE
    assert seen.steps <= 20
    assert len(seen.fetched - set(coords)) <= len(coords) + EVIDENCE


def test_little_is_wasted_where_the_edges_of_a_box_are_known() -> None:
    grid, coords = RUNS["a box in it"]
    assert len(Follower(grid).follow(coords).fetched - set(coords)) <= EVIDENCE
    grid, coords = RUNS["lines left out"]
    assert len(Follower(grid).follow(coords).fetched - set(coords)) <= 60


@pytest.mark.parametrize("window", [2, 5, 10])
def test_order_within_a_window_does_not_matter(window: int) -> None:
    dice = random.Random(1)
    coords = box(range(2000))
    mixed = [c for i in range(0, 2000, window) for c in dice.sample(coords[i : i + window], window)]
    assert Follower((2000,)).follow(mixed).hits >= 1950


def test_chunks_that_do_not_exist_are_holes() -> None:
    dice = random.Random(1)
    coords = [(i,) for i in range(2000) if dice.random() < 0.5]
    assert Follower((2000,), exist=coords).follow(coords).hits >= len(coords) - 2 * EVIDENCE


def test_threads_go_through_blocks_of_their_own() -> None:
    blocks = [box(range(50 * i, 50 * i + 50), range(50)) for i in range(8)]
    mixed = [c for step in zip(*blocks, strict=True) for c in step]
    seen = Follower((400, 100)).follow(mixed)
    assert seen.hits >= 0.9 * len(mixed)
    assert len(seen.fetched - seen.asked) <= 0.1 * len(mixed)


def test_random_access_fetches_nothing_ahead() -> None:
    dice = random.Random(1)
    for grid in ((10_000,), (50, 200), (20, 20, 25)):
        everything = box(*map(range, grid))
        assert Follower(grid).follow(dice.sample(everything, 2000)).steps <= 2


def test_small_reads_fetch_nothing_ahead() -> None:
    starts = range(0, 3000, 100)
    assert not Follower((3000,)).follow((start + i,) for start in starts for i in range(EVIDENCE - 1)).fetched


def test_who_stops_again_and_again_has_to_show_more() -> None:
    def wasted(reads: int) -> int:
        seen = Follower((100_000,))
        for start in range(0, reads * 100, 100):
            seen.follow((start + i,) for i in range(12))
        return len(seen.fetched - seen.asked)

    assert wasted(1) > 0
    assert wasted(300) == wasted(100), "it is not believed any more"


@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=60),
    st.sampled_from([0.1, 1.0, 2.0]),
)
def test_nothing_outside_of_the_grid_is_foreseen_whatever_the_order(
    grid: Coord, coords: list[Coord], max_overread: float
) -> None:
    inside = [c for c in coords if c[0] < grid[0] and c[1] < grid[1]]
    runs = [c for a in inside[:5] for c in box(range(a[0], grid[0]), range(a[1], grid[1]))]
    seen = Follower(grid, max_overread=max_overread).follow(inside + runs)
    assert seen.fetched <= set(box(*map(range, grid)))


@given(st.integers(1, 400), st.sampled_from([0.0, 0.25, 1.0, 3.0]))
def test_ahead_of_one_sweep_is_a_fraction_of_what_was_asked_for(count: int, max_overread: float) -> None:
    seen = Follower((10_000,), max_overread=max_overread).follow(box(range(count)))
    assert len(seen.fetched - seen.asked) <= max_overread * count
    assert not Follower((10_000,), most=0).follow(box(range(count))).fetched


def test_arrays_without_axes_have_no_sweeps() -> None:
    assert Sweeps().follow((), (), SIZE) is None
