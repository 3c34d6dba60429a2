"""Which manifest a chunk belongs to: the grid of an array cut into boxes, and what a commit does with each box.

Pure planning (format version 1, section 7): takes values, returns frozen plans, reads nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TypeAlias

from icechunk_virtual.model.chunk_refs import ChunkRefs, Extents
from icechunk_virtual.model.nodes import ManifestRef
from icechunk_virtual.repo.chunk_edits import Overlay

Edges: TypeAlias = tuple[tuple[int, ...], ...]
"""Per dimension the ascending edges of the boxes, from 0 to the number of chunks."""


SplitRule: TypeAlias = Callable[[int], int | None]
"""How many chunks one box spans along an axis (``None``: all)."""


def split_edges(grid_shape: Sequence[int], rule: SplitRule) -> Edges:
    """Edges of the boxes of a grid: 0, s, 2s, ... and the end."""

    def axis_edges(axis: int, count: int) -> tuple[int, ...]:
        step = rule(axis)
        if step is None or step >= count:
            return (0, count)
        return (*range(0, count, step), count)

    return tuple(axis_edges(axis, count) for axis, count in enumerate(grid_shape))


def contains(outer: Extents, inner: Extents) -> bool:
    """Whether a box lies inside another."""
    return all(a <= c and d <= b for (a, b), (c, d) in zip(outer, inner, strict=True))


def overlaps(one: Extents, other: Extents) -> bool:
    """Whether two boxes share a chunk; scalar arrays have one box that overlaps itself."""
    return all(a < d and c < b for (a, b), (c, d) in zip(one, other, strict=True))


def holds(box: Extents, coord: Sequence[int]) -> bool:
    """Whether a chunk is inside a box; a box without ranges holds everything."""
    return all(a <= i < b for (a, b), i in zip(box, coord, strict=False))


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
    manifests: Sequence[ManifestRef], edits: Overlay, edges: Edges, *, rewrite_all: bool = False
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
    edges
        Of the boxes, from `split_edges`.
    rewrite_all
        Write every box anew.
    """
    ndim = len(edges)
    nothing = ChunkRefs.empty(ndim)
    set_in = dict(edits.refs.split(edges))
    deleted_in = dict(edits.deleted.split(edges))
    kept, rewrites = [], []
    for box in _boxes(edges, manifests, set_in.keys() | deleted_in.keys()):
        old = tuple(ref for ref in manifests if overlaps(box, ref.extents))
        touched = box in set_in or box in deleted_in
        if not touched and not rewrite_all and len(old) == 1 and contains(box, old[0].extents):
            kept.append(old[0])
        elif touched or old:
            overlay = Overlay(set_in.get(box, nothing), deleted_in.get(box, nothing))
            rewrites.append(Rewrite(box, old, overlay))
    return ArrayPlan(tuple(kept), tuple(rewrites))


def _boxes(edges: Edges, manifests: Sequence[ManifestRef], touched: set[Extents]) -> list[Extents]:
    """The boxes that a manifest reaches into or that were touched, in grid order; never the whole (huge) grid."""
    found = set(touched)
    for ref in manifests:
        ranges = []
        for axis, (start, stop) in zip(edges, ref.extents, strict=True):
            ranges.append([(a, b) for a, b in pairwise(axis) if a < stop and start < b])
        found.update(product(*ranges))
    return sorted(found)
