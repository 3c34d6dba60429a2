"""Boxes of large arrays that nobody has configured, and finding the one that holds a chunk."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk_virtual.model.ids import ManifestId
from icechunk_virtual.model.nodes import ManifestRef
from icechunk_virtual.repo.split import MAX_REFS, Boxes, automatic_boxes, first_holding, holds, max_refs

GRIDS = st.lists(st.integers(1, 2**32 - 1) | st.integers(1, 3000), min_size=1, max_size=4).map(tuple)
LIMIT = 2**10


@pytest.mark.parametrize(
    ("grid", "names", "shape"),
    [
        ((10**6,), None, (2**20,)),
        ((10**4, 1000), None, (2**10, 2**20)),
        ((1000, 10**4), ["x", "y"], (64, 2**20)),
        ((1000, 10**4), ["x", "time"], (2**20, 2**10)),
        ((10, 10, 10**6), ["lat", "lon", "valid_time"], (2**16, 2**20, 8192)),
        ((1, 2000, 2000), ["time", "y", "x"], (1, 512, 2**20)),
        ((4 * 10**9, 10**6), None, (1, 2**20)),
    ],
)
def test_known_boxes(grid: tuple[int, ...], names: list[str] | None, shape: tuple[int, ...]) -> None:
    assert automatic_boxes(grid, names, MAX_REFS, lambda: math.prod(grid)).shape == shape


@given(GRIDS, st.data(), st.integers(0, 2**40))
def test_boxes_are_neither_too_large_nor_too_many(grid: tuple[int, ...], data: st.DataObject, refs: int) -> None:
    names = data.draw(st.none() | st.lists(st.sampled_from(["time", "x", None, "t"]), min_size=4, max_size=4))
    names = names and names[: len(grid)]
    cells = math.prod(grid)
    dense = automatic_boxes(grid, names, LIMIT, lambda: cells)
    assert math.prod(min(n, step) for n, step in zip(grid, dense.shape, strict=True)) <= LIMIT
    assert count(dense) * LIMIT <= max(8 * cells, 2**10 * LIMIT)
    if cells <= LIMIT:
        assert count(dense) == 1, "what fits into one manifest is not split"
    sparse = automatic_boxes(grid, names, LIMIT, lambda: refs)
    assert count(sparse) <= max(2**10, 8 * refs / LIMIT)


def count(boxes: Boxes) -> int:
    return math.prod(-(-n // step) for n, step in zip(boxes.grid, boxes.shape, strict=True))


@given(GRIDS.filter(lambda grid: math.prod(grid) < LIMIT * 2**14), st.integers(1, 100))
def test_an_array_that_grows_keeps_its_boxes(grid: tuple[int, ...], steps: int) -> None:
    """Along time: all boxes but the last ones stay, and those only get longer."""
    names = [*["x"] * (len(grid) - 1), "time"]
    longer = (*grid[:-1], grid[-1] + steps)
    before, after = (automatic_boxes(g, names, LIMIT, partial(math.prod, g)) for g in (grid, longer))
    assert after.shape == before.shape


def test_the_limit_shrinks_when_large_chunks_are_inline() -> None:
    assert max_refs(0) == max_refs(512) == MAX_REFS == 2**20
    assert max_refs(65535) == 2**13
    assert all(max_refs(n).bit_count() == 1 for n in range(0, 70000, 777))


def test_a_scalar_array_has_one_box() -> None:
    assert list(automatic_boxes((), None, 4, lambda: 1).reached_by(())) == [()]


@given(st.integers(1, 5), st.integers(1, 12), st.integers(-1, 60), st.integers(-1, 60), st.booleans())
def test_finding_among_many_equals_finding_one_by_one(wide: int, tall: int, i: int, j: int, gaps: bool) -> None:
    starts = itertools.product(range(0, 4 * tall, 4), range(0, 3 * wide, 3))
    boxes = [((a, a + 4 - gaps), (b, b + 3)) for a, b in starts]
    boxes += boxes[:3] + [((0, 9), (0, 9))]  # the first one counts
    refs = tuple(ManifestRef(ManifestId(bytes([n] * 12)), box) for n, box in enumerate(boxes))
    one_by_one = next((ref for ref in refs if holds(ref.extents, (i, j))), None)
    assert first_holding(refs, (i, j)) is one_by_one


def test_many_manifests_of_one_chunk_each() -> None:
    refs = tuple(ManifestRef(ManifestId(bytes([n] * 12)), ((n, n + 1),)) for n in range(100))
    assert [first_holding(refs, (n,)) for n in range(101)] == [*refs, None]
