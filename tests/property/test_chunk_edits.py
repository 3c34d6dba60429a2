"""Chunk edits of a session against a plain dict, and split planning against a chunk-by-chunk model."""

from __future__ import annotations

import pickle
from typing import Any

import hypothesis.strategies as st
import numpy as np
from hypothesis import given
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from icechunk_virtual.model.chunk_refs import Chunk, ChunkRefs, InlineChunk, NativeChunk, VirtualChunk
from icechunk_virtual.model.ids import ChunkId, ManifestId
from icechunk_virtual.model.nodes import ManifestRef
from icechunk_virtual.repo.chunk_edits import ChunkEdits, Mark, Overlay, coordinate_set
from icechunk_virtual.repo.split import Boxes, contains, plan_array

GRID = (4, 3)
coords = st.tuples(st.integers(0, GRID[0] - 1), st.integers(0, GRID[1] - 1))
payloads: st.SearchStrategy[Chunk] = st.one_of(
    st.binary(max_size=5).map(InlineChunk),
    st.builds(NativeChunk, st.binary(min_size=12, max_size=12).map(ChunkId), st.integers(0, 9), st.integers(0, 9)),
    st.builds(
        VirtualChunk,
        st.sampled_from(["file:///a", "s3://b/c"]),
        st.integers(0, 2**40),
        st.integers(0, 100),
        st.sampled_from([None, "tag"]),
        st.sampled_from([None, 7]),
    ),
)
batches = st.dictionaries(coords, st.binary(max_size=3), max_size=8)


def columns(batch: dict[tuple[int, int], bytes]) -> ChunkRefs:
    return ChunkRefs.inline(np.array(list(batch), np.uint32).reshape(-1, 2), list(batch.values()))


class EditsMachine(RuleBasedStateMachine):
    """`ChunkEdits` is a dict of coordinates to chunk or "deleted"."""

    @initialize()
    def start(self) -> None:
        self.edits = ChunkEdits(2)
        self.model: dict[tuple[int, int], Chunk | None] = {}

    @rule(coord=coords, chunk=payloads)
    def set_one(self, coord: tuple[int, int], chunk: Chunk) -> None:
        self.edits.set(coord, chunk)
        self.model[coord] = chunk

    @rule(coord=coords)
    def delete_one(self, coord: tuple[int, int]) -> None:
        self.edits.set(coord, None)
        self.model[coord] = None

    @rule(batch=batches)
    def set_many(self, batch: dict[tuple[int, int], bytes]) -> None:
        self.edits.set_many(columns(batch))
        self.model.update({coord: InlineChunk(data) for coord, data in batch.items()})

    @rule(gone=st.lists(coords, max_size=5))
    def delete_many(self, gone: list[tuple[int, int]]) -> None:
        self.edits.delete_many(np.array(gone, np.uint32).reshape(-1, 2))
        self.model.update(dict.fromkeys(gone))

    @rule(rows=st.integers(1, GRID[0]), cols=st.integers(1, GRID[1]))
    def clip(self, rows: int, cols: int) -> None:
        self.edits.clip((rows, cols))
        for coord, chunk in self.model.items():
            if chunk is not None and not (coord[0] < rows and coord[1] < cols):
                self.model[coord] = None

    @rule(gone=st.lists(coords, max_size=5))
    def forget(self, gone: list[tuple[int, int]]) -> None:
        self.edits.forget(np.array(gone, np.uint32).reshape(-1, 2))
        for coord in gone:
            self.model.pop(coord, None)

    @rule()
    def travel(self) -> None:
        self.edits = pickle.loads(pickle.dumps(self.edits.copy()))

    @invariant()
    def agrees(self) -> None:
        assert bool(self.edits) == bool(self.model)
        for coord in np.ndindex(*GRID):
            expected: Any = self.model.get(coord, Mark.UNTOUCHED)
            assert self.edits.get(coord) == (Mark.DELETED if expected is None else expected)

    @rule()
    def columns_agree(self) -> None:
        overlay = self.edits.columns()
        got = {tuple(c): overlay.refs.row(i) for i, c in enumerate(overlay.refs.coords.tolist())}
        assert got == {c: v for c, v in self.model.items() if v is not None}
        assert {tuple(c) for c in overlay.deleted.coords.tolist()} == {c for c, v in self.model.items() if v is None}


TestEdits = EditsMachine.TestCase


@given(st.lists(batches, min_size=1, max_size=6), st.lists(coords, max_size=4))
def test_the_copy_is_independent(sets: list[dict[tuple[int, int], bytes]], gone: list[tuple[int, int]]) -> None:
    edits = ChunkEdits(2)
    for batch in sets:
        edits.set_many(columns(batch))
    before = edits.columns()
    other = edits.copy()
    other.delete_many(np.array([*gone, (0, 0)], np.uint32))
    assert edits.columns().refs.equals(before.refs)
    assert len(edits.columns().deleted) == 0


@given(data=st.data())
def test_every_chunk_ends_in_exactly_one_manifest(data: st.DataObject) -> None:
    """Carry a plan out on sets of coordinates: nothing is lost, nothing appears twice, boxes have one manifest."""
    grid = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    cells = [tuple(c) for c in np.ndindex(*grid)]

    def drawn_boxes() -> Boxes:
        return Boxes(grid, data.draw(st.tuples(st.integers(1, 7), st.integers(1, 7))))

    committed = set(data.draw(st.lists(st.sampled_from(cells), max_size=12)))
    manifests: dict[ManifestRef, set[tuple[int, ...]]] = {}
    if committed:
        refs = ChunkRefs.inline(np.array(sorted(committed), np.uint32), [b""] * len(committed))
        for number, part in enumerate(drawn_boxes().split(refs).values()):
            held = {tuple(c) for c in part.coords.tolist()}
            manifests[ManifestRef(ManifestId(bytes([number] * 12)), part.extents())] = held
    touched = data.draw(st.dictionaries(st.sampled_from(cells), st.booleans(), max_size=6))
    changed = [c for c, keep in touched.items() if keep]
    deleted = [c for c, keep in touched.items() if not keep]
    edits = Overlay(
        ChunkRefs.inline(np.array(changed, np.uint32).reshape(-1, 2), [b"x"] * len(changed)), coordinate_set(deleted, 2)
    )
    boxes = drawn_boxes()
    plan = plan_array(list(manifests), edits, boxes, rewrite_all=data.draw(st.booleans()))
    results = [manifests[ref] for ref in plan.kept]
    for rewrite in plan.rewrites:
        held = {c for ref in rewrite.old for c in manifests[ref]}
        inside = {c for c in held if all(a <= i < b for i, (a, b) in zip(c, rewrite.box, strict=True))}
        inside -= {tuple(c) for c in rewrite.edits.deleted.coords.tolist()}
        results.append(inside | {tuple(c) for c in rewrite.edits.refs.coords.tolist()})
    everything = [cell for held in results for cell in held]
    assert len(everything) == len(set(everything))
    assert set(everything) == (committed - set(deleted)) | set(changed)
    written = [ref.extents for ref in plan.kept] + [rewrite.box for rewrite in plan.rewrites]
    cells_of = [_box_of(boxes, [start for start, _ in extents]) for extents in written]
    assert len(set(cells_of)) == len(cells_of)
    assert all(contains(box, extents) for box, extents in zip(cells_of, written, strict=True))


def _box_of(boxes: Boxes, coord: list[int]) -> tuple[tuple[int, int], ...]:
    starts = [i // step * step for i, step in zip(coord, boxes.shape, strict=True)]
    return tuple(
        (start, min(start + step, count)) for start, step, count in zip(starts, boxes.shape, boxes.grid, strict=True)
    )
