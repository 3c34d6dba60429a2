"""Merging of ranges and measuring of containers: laws, and that merged reads give what single reads give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk_virtual.containers.coalesce import Meter, Pace, leading_rows, plan_ranges

CONTENT = bytes(np.random.default_rng(0).integers(0, 256, 3000, np.uint8))

requests = st.lists(
    st.tuples(st.integers(0, 2000), st.integers(1, 300)).map(lambda r: (r[0], r[0] + r[1])), max_size=40
)
limits = st.fixed_dictionaries(
    {"gap": st.integers(0, 500), "part": st.integers(1, 1000), "max_overread": st.sampled_from([0, 0.1, 0.5, 1.0, 3.0])}
)


def union(spans: list[tuple[int, int]]) -> int:
    """Bytes in any of the spans."""
    return len({byte for start, stop in spans for byte in range(start, stop)})


@given(requests, limits)
def test_merged_reads_give_what_single_reads_give(spans: list[tuple[int, int]], limits: dict[str, float]) -> None:
    got: dict[int, bytes] = {}
    for planned in plan_ranges(spans, **limits):  # type: ignore[arg-type]
        data = CONTENT[planned.start : planned.stop]
        for number in planned.members:
            start, stop = spans[number]
            assert number not in got, "each request is answered once"
            got[number] = data[start - planned.start : stop - planned.start]
    assert got == {number: CONTENT[start:stop] for number, (start, stop) in enumerate(spans)}


@given(requests, limits)
def test_ranges_keep_the_limits(spans: list[tuple[int, int]], limits: dict[str, float]) -> None:
    plan = plan_ranges(spans, **limits)  # type: ignore[arg-type]
    assert [r.start for r in plan] == sorted(r.start for r in plan)
    for planned in plan:
        mine = sorted(spans[number] for number in planned.members)
        assert planned.asked == union(mine)
        assert len(planned) - planned.asked <= limits["max_overread"] * planned.asked
        longest = max(stop - start for start, stop in mine)
        assert len(planned) <= max(limits["part"], longest)
        edge = mine[0][1]
        for start, stop in mine[1:]:
            assert start - edge <= limits["gap"]
            edge = max(edge, stop)
    total = sum(len(planned) for planned in plan)
    assert total <= (1 + limits["max_overread"]) * sum(stop - start for start, stop in spans)


@given(st.integers(1, 60), st.integers(1, 50), st.integers(50, 4000))
def test_adjacent_ranges_become_as_few_as_their_size_allows(count: int, size: int, part: int) -> None:
    spans = [(i * size, (i + 1) * size) for i in range(count)]
    plan = plan_ranges(spans[::-1], gap=0, part=part, max_overread=0)
    assert len(plan) == -(-count // (part // size))


def test_large_requests_stay_as_they_are() -> None:
    spans = [(0, 500), (500, 1000), (1000, 1010), (1010, 1020)]
    plan = plan_ranges(spans, gap=10, part=100, max_overread=1)
    assert [(r.start, r.stop, r.members) for r in plan] == [(0, 500, (0,)), (500, 1000, (1,)), (1000, 1020, (2, 3))]


# -- measuring ---------------------------------------------------------------------------------------------------


@given(st.floats(0.001, 0.3), st.floats(1e6, 1e9), st.lists(st.integers(2**16, 2**23), min_size=8, max_size=30))
def test_the_meter_finds_latency_and_bandwidth(latency: float, bandwidth: float, sizes: list[int]) -> None:
    meter = Meter()
    for size in [100, 200, 300, 400, *sizes, 100, 100]:
        meter.record(size, latency + size / bandwidth)
    assert latency <= meter.pace.latency <= latency * 1.01 + 400 / bandwidth
    assert meter.pace.bandwidth <= bandwidth * 1.5 + 1, "never much better than it is"
    if min(sizes) / bandwidth > latency:
        assert meter.pace.bandwidth >= bandwidth * 0.9


def test_outliers_do_not_move_the_meter() -> None:
    def measured(*others: tuple[int, float]) -> Pace:
        meter = Meter()
        for size, seconds in [(1000, 0.03)] * 6 + [(10**6, 0.05)] * 6 + list(others):
            meter.record(size, seconds)
        return meter.pace

    assert measured((1000, 0.0001), (10**6, 4.0), (1000, 9.0)) == measured()
    assert measured().gap == pytest.approx(1_500_000, abs=1)


def test_nothing_is_known_before_a_few_requests() -> None:
    meter = Meter()
    for _ in range(3):
        meter.record(10**6, 5.0)
    assert meter.pace == Pace()
    meter.record(10**6, 5.0)
    assert meter.pace.latency == 5.0


@given(st.floats(1e-6, 10), st.floats(1, 1e12))
def test_parts_are_never_tiny_and_never_huge(latency: float, bandwidth: float) -> None:
    pace = Pace(latency, bandwidth)
    assert 2**20 <= pace.part <= 2**22
    assert 2**15 <= pace.large <= pace.part // 2


# -- what is fetched ahead ---------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1000), st.integers(0, 100)), max_size=40),
    st.integers(0, 200),
    st.integers(0, 12),
    st.integers(0, 2000),
)
def test_leading_rows_are_within_the_limits(
    rows: list[tuple[int, int, int]], gap: int, most_ranges: int, most_bytes: int
) -> None:
    source, offset, length = (np.array([row[i] for row in rows], kind) for i, kind in enumerate(("u4", "u8", "u8")))
    count = leading_rows(source, offset, length, gap=gap, most_ranges=most_ranges, most_bytes=most_bytes)
    assert 0 <= count <= len(rows)
    assert sum(row[2] for row in rows[:count]) <= most_bytes
    ranges, last = 0, (-1, 0)
    for name, start, size in sorted(rows[:count]):
        ranges += name != last[0] or start > last[1] + gap
        last = (name, start + size)
    if count:
        assert ranges <= max(most_ranges, 1)
    if most_ranges >= len(rows):
        every = np.cumsum(length)
        assert count == int((every <= most_bytes).sum()), "as many as fit"


def test_foreign_lengths_do_not_overflow() -> None:
    huge = np.array([2**64 - 1] * 3, "u8")
    assert leading_rows(np.zeros(3, "u4"), np.zeros(3, "u8"), huge, gap=5, most_ranges=9, most_bytes=2**30) == 0
