"""Conflicts and solvers as values; detection of chunk conflicts against a plain version of it."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk_virtual import BasicConflictSolver, Conflict, ConflictDetector, ConflictSolver, ConflictType
from icechunk_virtual import VersionSelection as Selection
from icechunk_virtual.model.ids import NodeId, SnapshotId
from icechunk_virtual.repo import conflicts
from icechunk_virtual.repo.conflicts import OurChanges, find_conflicts, yielded
from icechunk_virtual.repo.format.transaction_log import TransactionLog

K = ConflictType


def test_types() -> None:
    assert [int(kind) for kind in K] == list(range(1, 11))
    assert str(K.ChunksUpdatedInDeletedArray) == "Chunks updated in deleted array"
    assert repr(K.ChunkDoubleUpdate) == "ChunkDoubleUpdate"
    assert K(K.ChunkDoubleUpdate) is K.ChunkDoubleUpdate != 6
    assert pickle.loads(pickle.dumps(K.ChunkDoubleUpdate)) is K.ChunkDoubleUpdate
    assert [int(s) for s in Selection] == [0, 1, 2]
    assert repr(Selection.UseOurs) == str(Selection.UseOurs) == "VersionSelection.UseOurs"


def test_conflict() -> None:
    conflict = Conflict(K.ChunkDoubleUpdate, "/a", [[0, 1]])
    assert (str(conflict), repr(conflict)) == ("/a: Chunk double update", "Conflict(ChunkDoubleUpdate, path=/a)")
    assert pickle.loads(pickle.dumps(conflict)) == conflict != Conflict(K.ChunkDoubleUpdate, "/a", [[0, 2]])
    assert len({conflict, Conflict(K.DeleteOfUpdatedArray, "/a")}) == 2
    assert Conflict(K.DeleteOfUpdatedArray, "/a").conflicted_chunks is None


@pytest.mark.parametrize("solver", [ConflictDetector(), BasicConflictSolver(on_chunk_conflict=Selection.Fail)])
def test_solvers_are_values(solver: ConflictSolver) -> None:
    assert isinstance(solver, ConflictSolver)
    assert pickle.loads(pickle.dumps(solver)) == solver
    assert hash(solver) == hash(pickle.loads(pickle.dumps(solver)))


def test_arguments_of_the_basic_solver() -> None:
    with pytest.raises(TypeError):
        BasicConflictSolver(Selection.Fail)  # type: ignore[misc]
    with pytest.raises(TypeError, match="VersionSelection"):
        BasicConflictSolver(on_chunk_conflict=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        ConflictSolver()  # type: ignore[abstract]


ALWAYS_FAIL = set(K) - {K.ChunkDoubleUpdate, K.DeleteOfUpdatedArray, K.DeleteOfUpdatedGroup}


@pytest.mark.parametrize("kind", K, ids=repr)
def test_basic_solver(kind: ConflictType) -> None:
    conflict = Conflict(kind, "/a", [[0]] if kind is K.ChunkDoubleUpdate else None)
    assert (yielded(BasicConflictSolver(), [conflict]) is None) == (kind in ALWAYS_FAIL)
    strict = BasicConflictSolver(
        on_chunk_conflict=Selection.Fail, fail_on_delete_of_updated_array=True, fail_on_delete_of_updated_group=True
    )
    assert yielded(strict, [conflict]) is None
    assert yielded(ConflictDetector(), [conflict]) is None
    assert yielded(strict, []) == yielded(ConflictDetector(), []) == []
    theirs = yielded(BasicConflictSolver(on_chunk_conflict=Selection.UseTheirs), [conflict])
    assert theirs == (None if kind in ALWAYS_FAIL else [conflict] if kind is K.ChunkDoubleUpdate else [])


class Own(ConflictSolver):
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def decide(self, conflict: Conflict) -> Any:
        return self.answer


def test_a_solver_of_ones_own_cannot_decide_the_impossible() -> None:
    chunks, metadata = Conflict(K.ChunkDoubleUpdate, "/a", [[0]]), Conflict(K.ZarrMetadataDoubleUpdate, "/a")
    deleted = Conflict(K.DeleteOfUpdatedGroup, "/g")
    assert yielded(Own(Selection.UseTheirs), [chunks]) == [chunks]
    assert yielded(Own(Selection.UseOurs), [chunks, deleted]) == []
    assert yielded(Own(Selection.Fail), [metadata]) is None
    for answer, conflict in (
        (Selection.UseOurs, metadata),
        (Selection.UseTheirs, deleted),
        (None, chunks),
        (1, chunks),
    ):
        with pytest.raises(TypeError):
            yielded(Own(answer), [conflict])


@st.composite
def coordinates(draw: st.DrawFn, ndim: int) -> np.ndarray:
    top = draw(st.sampled_from([2, 5, 2**32 - 2]))
    rows = draw(st.lists(st.tuples(*[st.integers(max(top - 4, 0), top)] * ndim), max_size=30))
    rows = sorted(set(rows))
    return np.array(rows, np.uint32).reshape(len(rows), ndim)


@given(st.integers(0, 4), st.data())
def test_chunk_conflicts_are_the_intersection(ndim: int, data: st.DataObject) -> None:
    mine, theirs = data.draw(coordinates(ndim)), data.draw(coordinates(ndim))
    mine = mine[data.draw(st.permutations(range(len(mine))))] if len(mine) else mine
    id = NodeId(b"12345678")
    ours = OurChanges((), {}, {}, {}, {}, {id: ("/a", mine)})
    log = TransactionLog(SnapshotId(bytes(12)), updated_chunks={id: theirs, NodeId(b"other id"): mine})
    both = sorted({tuple(c) for c in mine.tolist()} & {tuple(c) for c in theirs.tolist()})
    for few in (0, 1000):  # whether they are compared one by one
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(conflicts, "_FEW", few)
            found = find_conflicts(ours, log, lambda path: None)
        assert found == ([Conflict(K.ChunkDoubleUpdate, "/a", [list(c) for c in both])] if both else [])


def test_arrays_of_another_rank_share_no_chunks() -> None:
    id = NodeId(b"12345678")
    ours = OurChanges((), {}, {}, {}, {}, {id: ("/a", np.zeros((1, 2), np.uint32))})
    log = TransactionLog(SnapshotId(bytes(12)), updated_chunks={id: np.zeros((1, 1), np.uint32)})
    assert find_conflicts(ours, log, lambda path: None) == []
