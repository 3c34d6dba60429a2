"""References travel in columns: no step of the interpreter per chunk, from a scanner's columns to a manifest and back.

Counted, not timed: the same operation on 1,000 and on 100,000 references must take (almost) the same number of
Python steps. The few that may come on top are steps per megabyte or per box, never per chunk.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from icechunk_virtual.model.chunk_refs import ChunkRefs
from icechunk_virtual.model.ids import ManifestId, NodeId
from icechunk_virtual.model.locations import Locations
from tests.support.steps import count_steps

SMALL, LARGE = 1_000, 100_000
SPARE = 1_000  # steps; a hundredth of what one step per reference would cost
FILES = 20

NODE = NodeId(b"\x01" * 8)
MANIFEST = ManifestId(b"\x02" * 12)


def grid(n: int) -> np.ndarray[Any, Any]:
    return np.stack(np.unravel_index(np.arange(n), (n // 10, 10)), axis=1)


def virtual(n: int, *, first: int = 0, backwards: bool = False) -> ChunkRefs:
    locations = Locations.of([f"file:///data/{i}.nc" for i in range(FILES)], last_modified=[1_700_000_000] * FILES)
    rows = np.arange(n)
    coords = grid(n) + [first, 0]
    order = rows[::-1] if backwards else rows
    return ChunkRefs.virtual(coords[order], locations, order % FILES, order * 512, np.full(n, 512))


def native(n: int) -> ChunkRefs:
    ids = np.random.default_rng(1).integers(0, 256, (n, 12)).astype(np.uint8)
    return ChunkRefs.native(grid(n), ids, np.full(n, 512))


def on_refs(method: str, *args: Any) -> Callable[[int], Callable[[], Any]]:
    return lambda n: partial(getattr(virtual(n), method), *args)


def replace(n: int) -> Callable[[], Any]:
    return partial(virtual(n).replace, virtual(n, first=n // 20))


def concat(n: int) -> Callable[[], Any]:
    return partial(ChunkRefs.concat, [virtual(n), virtual(n, first=n)])


def split(n: int) -> Callable[[], Any]:
    refs, box_shape = virtual(n), [n // 20, 10]
    return lambda: list(refs.split(box_shape))


def find(n: int) -> Callable[[], Any]:
    return partial(virtual(n).find, grid(n))


def equals(n: int) -> Callable[[], Any]:
    return partial(virtual(n).equals, virtual(n))


def round_trip_by_pickle(n: int) -> Callable[[], Any]:
    refs = virtual(n)
    return lambda: pickle.loads(pickle.dumps(refs))


OPERATIONS: dict[str, Callable[[int], Callable[[], Any]]] = {
    "make": lambda n: partial(virtual, n),
    "make from unsorted rows": lambda n: partial(virtual, n, backwards=True),
    "make native": lambda n: partial(native, n),
    "shift": on_refs("shift", [3, 1]),
    "within": lambda n: partial(virtual(n).within, ((0, n // 20), (2, 7))),
    "extents": on_refs("extents"),
    "lookup": on_refs("lookup", (7, 3)),
    "relocate": on_refs("relocate", "file:///data/", "s3://bucket/"),
    "compact": on_refs("compact"),
    "compact native": lambda n: partial(native(n).compact),
    "replace": replace,
    "concat": concat,
    "split": split,
    "find": find,
    "equals": equals,
    "pickle": round_trip_by_pickle,
}


def steps_of(make: Callable[[int], Callable[[], Any]], n: int) -> int:
    operation = make(n)
    operation()  # what is done once per process is not counted
    return count_steps(operation)


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_python_per_chunk(name: str) -> None:
    small, large = (steps_of(OPERATIONS[name], n) for n in (SMALL, LARGE))
    assert large <= small + SPARE


@pytest.mark.parametrize(
    "loop",
    [
        lambda n: [i + 1 for i in range(n)],
        lambda n: sum(i for i in range(n)),
        lambda n: [None for _ in range(n)],
        lambda n: sorted(range(n), key=lambda i: -i),
    ],
    ids=["comprehension", "generator", "bare comprehension", "callback"],
)
def test_the_counter_sees_loops(loop: Callable[[int], Any]) -> None:
    assert steps_of(lambda n: partial(loop, n), LARGE) >= LARGE
