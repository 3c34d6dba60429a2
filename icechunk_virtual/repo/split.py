"""Which manifest a chunk belongs to: the grid of an array cut into boxes, and what a commit does with each box.

Pure planning (format version 1, section 7): takes values, returns frozen plans, reads nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.model.chunk_refs import ChunkRefs, Extents
from icechunk_virtual.model.nodes import ManifestRef
from icechunk_virtual.repo.chunk_edits import Overlay
from icechunk_virtual.repo.conditions import SplitRule


@dataclass(frozen=True, slots=True)
class Boxes:
    """The grid of an array cut into boxes of `shape`; those at the ends reach only to the end of the grid.

    Box ``(i, j, ...)`` begins at chunk ``(i * shape[0], j * shape[1], ...)``, so a grid that grows keeps its boxes.
    """

    grid: tuple[int, ...]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, grid: tuple[int, ...], rule: SplitRule) -> Boxes:
        """As a rule says."""
        return cls(grid, tuple(rule(axis) or count for axis, count in enumerate(grid)))

    def split(self, refs: ChunkRefs) -> dict[Extents, ChunkRefs]:
        """The references in each box; boxes without are left out."""
        return {self._clipped(box): part for box, part in refs.split(self.shape)}

    def reached_by(self, extents: Extents) -> Iterator[Extents]:
        """The boxes that share a chunk with extents, in grid order."""
        ranges = []
        for (start, stop), step, count in zip(extents, self.shape, self.grid, strict=True):
            first, end = start // step, -(-min(stop, count) // step)
            ranges.append([(i * step, (i + 1) * step) for i in range(first, end)] if start < stop else [])
        return map(self._clipped, product(*ranges))

    def _clipped(self, box: Extents) -> Extents:
        return tuple((start, min(stop, count)) for (start, stop), count in zip(box, self.grid, strict=True))


MAX_REFS = 2**20
"""References that one manifest of an automatic split holds at most: about 10 MB to fetch, a fraction of a second to
decode, and a tenth of the default cache."""
_MAX_INLINE_BYTES = 2**29  # that one such manifest may hold
_FEW_BOXES = 2**10
_SPARSE = 8  # a grid that would need more boxes than these, most of them nearly empty, gets larger ones
_FEW_MANIFESTS = 16  # are searched one by one
_GROWING = re.compile(r"(^|_)(t|time|times|date|year|month|week|day|hour)[0-9]*$", re.IGNORECASE)


def max_refs(inline_threshold: int) -> int:
    """References that one manifest of an automatic split holds at most if chunks up to so many bytes are in it.

    A power of two.
    """
    return min(MAX_REFS, _power_of_two(_MAX_INLINE_BYTES // max(inline_threshold, 1)))


def automatic_boxes(
    grid: tuple[int, ...], names: Sequence[str | None] | None, limit: int, num_refs: Callable[[], int]
) -> Boxes:
    """Boxes for a large array that nobody has said anything about.

    The axis along which the array is expected to grow is cut first: the one named like time, otherwise the first.
    The others follow only when a single step along that one has too many chunks. So what is appended touches the last
    boxes only, and the boxes before stay what they are however long the array gets. Growth along another axis halves
    the boxes each time that axis has doubled.

    Parameters
    ----------
    grid
        Chunks per dimension.
    names
        Of the dimensions.
    limit
        Chunks per box, a power of two. Boxes are larger where there would be more than 1024 of them with
        less than an eighth of `limit` references each on average.
    num_refs
        Tells how many references there are; asked for large grids only.
    """
    size = limit
    growing = next((axis for axis, name in enumerate(names or ()) if name and _GROWING.search(name)), 0)
    others = [axis for axis in range(len(grid)) if axis != growing]
    while True:
        shape, room = list(grid), size
        for axis in (*reversed(others), growing)[: len(grid)]:
            shape[axis] = _power_of_two(room)
            room //= grid[axis]
        boxes = math.prod(-(-count // step) for count, step in zip(grid, shape, strict=True))
        if boxes <= _FEW_BOXES or boxes * limit <= _SPARSE * num_refs():
            return Boxes(grid, tuple(shape))
        size *= 2


def _power_of_two(number: int) -> int:
    """The largest power of two up to a number; 1 for what is less."""
    return 1 << max(number.bit_length() - 1, 0)


def contains(outer: Extents, inner: Extents) -> bool:
    """Whether a box lies inside another."""
    return all(a <= c and d <= b for (a, b), (c, d) in zip(outer, inner, strict=True))


def overlaps(one: Extents, other: Extents) -> bool:
    """Whether two boxes share a chunk; scalar arrays have one box that overlaps itself."""
    return all(a < d and c < b for (a, b), (c, d) in zip(one, other, strict=True))


def holds(box: Extents, coord: Sequence[int]) -> bool:
    """Whether a chunk is inside a box; a box without ranges holds everything."""
    return all(a <= i < b for (a, b), i in zip(box, coord, strict=False))


def first_holding(manifests: tuple[ManifestRef, ...], coord: Sequence[int]) -> ManifestRef | None:
    """The first manifest whose box holds a chunk: where readers look for it, and nowhere else."""
    if len(manifests) <= _FEW_MANIFESTS:
        return next((ref for ref in manifests if holds(ref.extents, coord)), None)
    starts, stops = _edges(_Identity(manifests))
    found = np.flatnonzero(((starts <= coord) & (stops > coord)).all(axis=1))
    return manifests[found[0]] if len(found) else None


class _Identity:
    """Tells tuples apart by identity: comparing all of their elements takes too long."""

    __slots__ = ("manifests",)

    def __init__(self, manifests: tuple[ManifestRef, ...]) -> None:
        self.manifests = manifests

    def __hash__(self) -> int:
        return id(self.manifests)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.manifests is other.manifests


@lru_cache(maxsize=16)
def _edges(of: _Identity) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the boxes of many manifests begin and end, int64 (n, ndim) each."""
    boxes = [ref.extents for ref in of.manifests]
    edges = np.array(boxes, np.int64).reshape(len(boxes), len(boxes[0]), 2)
    return np.ascontiguousarray(edges[..., 0]), np.ascontiguousarray(edges[..., 1])


@dataclass(frozen=True, slots=True)
class Rewrite:
    """One manifest to be written: the chunks of `old` inside `box`, overlaid with `edits`."""

    box: Extents
    old: tuple[ManifestRef, ...]
    edits: Overlay

    def same_as(self, other: Rewrite) -> bool:
        """Whether both make the same manifest, if they are of the same array."""
        return self.box == other.box and self.old == other.old and self.edits.equals(other.edits)


@dataclass(frozen=True, slots=True)
class ArrayPlan:
    """What a commit does with the manifests of one array."""

    kept: tuple[ManifestRef, ...]
    rewrites: tuple[Rewrite, ...]


def plan_array(
    manifests: Sequence[ManifestRef], edits: Overlay, boxes: Boxes, *, rewrite_all: bool = False
) -> ArrayPlan:
    """Decide box by box which manifests stay and which are written anew.

    A box that the session did not touch keeps its manifest if that is the only one and lies inside the box; anything
    else is gathered into one new manifest, so that a box never has two.

    Parameters
    ----------
    manifests
        Of the array in the base snapshot.
    edits
        Of the session, inside the grid.
    boxes
        That the grid is cut into.
    rewrite_all
        Write every box anew.
    """
    nothing = ChunkRefs.empty(len(boxes.grid))
    set_in, deleted_in = boxes.split(edits.refs), boxes.split(edits.deleted)
    old_in: dict[Extents, list[ManifestRef]] = {box: [] for box in (*set_in, *deleted_in)}
    for ref in manifests:  # a step per manifest and box that it reaches into, never per box of the (huge) grid
        for box in boxes.reached_by(ref.extents):
            old_in.setdefault(box, []).append(ref)
    kept, rewrites = [], []
    for box, old in sorted(old_in.items(), key=itemgetter(0)):
        touched = box in set_in or box in deleted_in
        if not touched and not rewrite_all and len(old) == 1 and contains(box, old[0].extents):
            kept.append(old[0])
        else:
            overlay = Overlay(set_in.get(box, nothing), deleted_in.get(box, nothing))
            rewrites.append(Rewrite(box, tuple(old), overlay))
    return ArrayPlan(tuple(kept), tuple(rewrites))
