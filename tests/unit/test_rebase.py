"""Rebasing sessions and commits that rebase: the table of outcomes, what failures leave, what is written how often."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zarr

import icechunk_virtual as ic
from icechunk_virtual.repo import rebase, refs
from tests.support.conflicts import (
    PAIRS,
    Pair,
    array,
    attrs,
    base,
    both,
    delete,
    delete_chunk,
    fill,
    race,
    set_chunk,
    stored_keys,
    told,
    values,
)
from tests.support.engines import Engine, buffer, keys_of, put
from tests.support.histories import array_document

OURS = Engine("ours", ic)
THEIRS_WIN = ic.BasicConflictSolver(on_chunk_conflict=ic.VersionSelection.UseTheirs)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_detector(pair: Pair) -> None:
    _, session, theirs = race(OURS, pair)
    start, before = session.snapshot_id, session.status()
    if not pair.detected:
        session.rebase(ic.ConflictDetector())
        assert session.snapshot_id == theirs
        return
    with pytest.raises(ic.RebaseFailedError) as failure:
        session.rebase(ic.ConflictDetector())
    assert failure.value.snapshot == theirs
    assert told(failure.value.conflicts) == pair.detected
    assert (session.snapshot_id, session.status(), session.read_only) == (start, before, False)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_basic_solver(pair: Pair) -> None:
    repo, session, theirs = race(OURS, pair)
    branch = session.branch
    if not pair.solved:
        with pytest.raises(ic.RebaseFailedError) as failure:
            session.commit("mine", rebase_with=ic.BasicConflictSolver())
        assert told(failure.value.conflicts) == pair.detected
        assert repo.lookup_branch(branch) == theirs
        return
    id = session.commit("mine", rebase_with=ic.BasicConflictSolver())
    assert [s.id for s in repo.ancestry(branch=branch)][:2] == [id, theirs]
    alone, _ = base(OURS)
    mine = values(repo.readonly_session(branch).store)
    assert mine == values(alone.readonly_session(snapshot_id=id).store)


def pair(theirs: Any, mine: Any) -> Pair:
    return Pair("", theirs, mine)


def test_whose_chunk_stands() -> None:
    for solver, value in ((ic.BasicConflictSolver(), 8), (THEIRS_WIN, 7)):
        repo, session, _ = race(OURS, pair(set_chunk("a", 0, 0), set_chunk("a", 0, slice(0, 2), value=8)))
        branch = session.branch
        session.commit("mine", rebase_with=solver)
        assert zarr.open_group(repo.readonly_session(branch).store, mode="r")["a"][0].tolist() == [value, 8, 1, 1]


def test_their_chunks_under_our_metadata() -> None:
    """An updated node takes its manifests from the new base."""
    repo, session, _ = race(OURS, pair(set_chunk("a", 0, 0), attrs("a")))
    branch = session.branch
    session.rebase(ic.ConflictDetector())
    group = zarr.open_group(session.store, mode="r+")
    assert (group["a"][0, 0], dict(group["a"].attrs)) == (7, {"x": 1})
    session.commit("mine")
    group = zarr.open_group(repo.readonly_session(branch).store, mode="r")
    assert (group["a"][0, 0], dict(group["a"].attrs)) == (7, {"x": 1})


def test_an_array_of_another_rank_stays_empty() -> None:
    def mine(root: zarr.Group) -> None:
        put(root.store, "a/zarr.json", array_document((4,), (1,)))

    _, session, _ = race(OURS, pair(set_chunk("a", 0, 0), mine))
    session.rebase(ic.ConflictDetector())
    assert zarr.open_group(session.store, mode="r")["a"][:].tolist() == [-1] * 4


def test_an_array_that_was_of_another_rank_for_a_while_stays_empty() -> None:
    """Its chunks went with the first change; those of the new base are no reason to show them again."""

    def mine(root: zarr.Group) -> None:
        put(root.store, "a/zarr.json", array_document((4,), (1,)))
        put(root.store, "a/zarr.json", array_document((4, 4), (1, 1)))

    _, session, _ = race(OURS, pair(set_chunk("a", 0, 0), mine))
    session.rebase(ic.ConflictDetector())
    assert zarr.open_group(session.store, mode="r")["a"][...].tolist() == [[-1] * 4] * 4


def test_chunks_given_up_leave_nothing_behind() -> None:
    """Others wrote our chunk, and then made an array of another rank at its path."""
    repo, session, _ = race(OURS, pair(set_chunk("a", 0, 0), set_chunk("a", 0, 0, value=8)))
    branch = session.branch or ""
    other = repo.writable_session(branch)
    root = zarr.open_group(other.store, mode="r+")
    del root["a"]
    root.create_array("a", shape=(3,), chunks=(1,), dtype="i4", fill_value=-1)[0] = 5
    other.commit("anew")
    session.rebase(THEIRS_WIN)
    array = zarr.open_group(session.store, mode="r+")["a"]
    array[1] = 6
    session.commit("mine")
    assert values(repo.readonly_session(branch).store)["a"][1] == [5, 6, -1]


@pytest.mark.parametrize("mine", [set_chunk("a", 0, 0, value=8), delete("a")], ids=["chunk", "deletion"])
def test_when_others_did_it_all(mine: Any) -> None:
    """The session is clean then; a commit that was asked for is made all the same, and is empty."""
    theirs = mine if mine.__qualname__.startswith("delete") else set_chunk("a", 0, 0)
    repo, session, tip = race(OURS, pair(theirs, mine))
    branch = session.branch
    session.rebase(THEIRS_WIN)
    assert not session.has_uncommitted_changes
    assert session.status() == ic.Diff()
    id = session.commit("mine")
    assert repo.diff(from_snapshot_id=tip, to_snapshot_id=id) == ic.Diff()
    assert [s.message for s in repo.ancestry(branch=branch)][:2] == ["mine", "theirs"]


def test_discarded_after_a_rebase_there_is_nothing_to_commit() -> None:
    _, session, _ = race(OURS, pair(set_chunk("a", 0, 0), set_chunk("a", 0, 0, value=8)))
    session.rebase(THEIRS_WIN)
    session.discard_changes()
    with pytest.raises(ic.IcechunkError, match="cannot commit, no changes"):
        session.commit("mine")


class Broken(ic.ConflictSolver):
    def decide(self, conflict: ic.Conflict) -> ic.VersionSelection:
        raise ZeroDivisionError


def test_their_chunk_over_our_deletion() -> None:
    _, session, _ = race(OURS, pair(set_chunk("a", 0, 0), delete_chunk("a", 0, 0)))
    session.rebase(THEIRS_WIN)
    assert values(session.store)["a"][1][0] == [7, 1, 1, 1]
    assert not session.has_uncommitted_changes


def test_more_commits_than_logs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebase, "_LOGS_AT_ONCE", 2)
    repo, session, tip = race(OURS, pair(set_chunk("s", 0, 0), set_chunk("a", 0, 0, value=8)))
    branch = session.branch or ""
    for n in range(4):
        other = repo.writable_session(branch)
        set_chunk("s", 1, n, value=n)(zarr.open_group(other.store, mode="r+"))
        tip = other.commit(str(n))
    session.rebase(ic.ConflictDetector())
    assert session.snapshot_id == tip
    other = repo.writable_session(branch)
    set_chunk("a", 0, 0)(zarr.open_group(other.store, mode="r+"))
    late = other.commit("in the way")
    with pytest.raises(ic.RebaseFailedError) as failed:
        session.rebase(ic.ConflictDetector())
    assert (failed.value.snapshot, session.snapshot_id) == (late, tip)


def test_stopped_where_others_had_a_node_for_a_while() -> None:
    """Their node at the path of ours is gone at the tip, and is not seen beside ours on the way there."""
    repo, session, theirs = race(OURS, pair(array("n"), both(array("n"), set_chunk("a", 0, 0))))
    shown = values(session.store)
    other = repo.writable_session(session.branch)
    root = zarr.open_group(other.store, mode="r+")
    del root["n"]
    del root["a"]
    other.commit("gone again")
    with pytest.raises(ic.RebaseFailedError):
        session.rebase(ic.ConflictDetector())
    assert session.snapshot_id == theirs
    assert values(session.store) == shown
    keys = keys_of(session.store)
    assert len(keys) == len(set(keys))


def test_a_solver_that_fails_leaves_the_changes() -> None:
    _, session, _ = race(OURS, pair(set_chunk("a", 0, 0), set_chunk("a", 0, 0, value=8)))
    before = session.status()
    with pytest.raises(ZeroDivisionError):
        session.commit("mine", rebase_with=Broken())
    assert session.status() == before
    session.commit("mine", rebase_with=ic.BasicConflictSolver())


def test_nothing_to_rebase(caplog: pytest.LogCaptureFixture) -> None:
    repo, start = base(OURS)
    session = repo.writable_session("main")
    session.rebase(ic.ConflictDetector())
    assert "nothing to do" in caplog.text
    assert session.snapshot_id == start


def test_refusals() -> None:
    repo, _ = base(OURS)
    with pytest.raises(ic.IcechunkError, match="Read only"):
        repo.readonly_session("main").rebase(ic.ConflictDetector())
    session = repo.writable_session("main")
    for solver in (None, ic.ConflictDetector, "detector"):
        with pytest.raises(TypeError, match="ConflictSolver"):
            session.rebase(solver)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="ConflictSolver"):
        session.commit("x", rebase_with="detector")  # type: ignore[arg-type]


def test_branch_deleted_meanwhile() -> None:
    repo, session, _ = race(OURS, PAIRS[0])
    repo.delete_branch(session.branch)
    with pytest.raises(ic.ConflictError) as error:
        session.commit("mine", rebase_with=ic.ConflictDetector())
    assert error.value.actual_parent is None
    with pytest.raises(ic.IcechunkError, match="ref not found"):
        session.rebase(ic.ConflictDetector())
    assert session.has_uncommitted_changes


def test_branch_reset_meanwhile() -> None:
    """What the session builds on is not there any more: nothing is walked over, nothing is lost."""
    repo, session, theirs = race(OURS, PAIRS[0])
    session.rebase(ic.ConflictDetector())
    repo.reset_branch(session.branch, base(OURS)[1])
    with pytest.raises(ic.IcechunkError, match="not in the history") as error:
        session.commit("mine", rebase_with=ic.ConflictDetector())
    assert error.value.snapshot == theirs  # type: ignore[attr-defined]
    assert session.has_uncommitted_changes


def test_transaction_rebases() -> None:
    repo, start = base(OURS)
    repo.create_branch("transaction", start)
    with repo.transaction("transaction", message="mine", rebase_with=ic.ConflictDetector()) as store:
        with repo.transaction("transaction", message="theirs") as other:
            set_chunk("a", 0, 0)(zarr.open_group(other, mode="r+"))
        set_chunk("s", 0, 0)(zarr.open_group(store, mode="r+"))
    assert [s.message for s in repo.ancestry(branch="transaction")][:3] == ["mine", "theirs", "base"]


def losing(monkeypatch: pytest.MonkeyPatch, times: int, meanwhile: Callable[[], None]) -> None:
    """Have somebody else commit, on a loop of their own, between the files written and the branch moved."""
    update, left = refs.update_branch, [times]

    async def late(store: Any, name: str, **kwargs: Any) -> None:
        if left[0] and threading.current_thread().name == "icechunk-virtual":
            left[0] -= 1
            thread = threading.Thread(target=meanwhile)
            thread.start()
            thread.join()
        await update(store, name, **kwargs)

    monkeypatch.setattr(refs, "update_branch", late)


def test_lost_races_write_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks and manifests of arrays that nobody else touched are written once, however often the race is lost."""
    config = ic.RepositoryConfig(
        inline_chunk_threshold_bytes=0,
        manifest=ic.ManifestConfig(
            splitting=ic.ManifestSplittingConfig.from_dict(
                {ic.ManifestSplitCondition.name_matches("^a$"): {ic.ManifestSplitDimCondition.Axis(0): 2}}
            )
        ),
    )
    repo = ic.Repository.create(ic.in_memory_storage(), config)
    session = repo.writable_session("main")
    fill(session.store)
    session.commit("base")

    def count(kind: str) -> int:
        return sum(key.startswith(kind) for key in stored_keys(repo))

    numbers = iter(range(100))

    def meanwhile() -> None:
        async def commit() -> None:
            other = await repo.writable_session_async("main")
            await other.store.set(f"a/c/0/{next(numbers)}", buffer(bytes(4)))
            await other.commit_async("theirs")

        asyncio.run(commit())

    mine = repo.writable_session("main")
    group = zarr.open_group(mine.store, mode="r+")
    group["s"][...] = 5
    group["a"][3] = 5
    group.create_array("new", shape=(3,), chunks=(1,), dtype="i4", compressors=None)[...] = 7
    chunks, manifests = count("chunks"), count("manifests")
    losing(monkeypatch, 3, meanwhile)
    mine.commit("mine", rebase_with=ic.ConflictDetector())
    monkeypatch.undo()
    messages = [s.message for s in repo.ancestry(branch="main")]
    assert messages[:4] == ["mine", "theirs", "theirs", "theirs"]
    assert count("chunks") == chunks + 3  # theirs
    assert count("manifests") == manifests + 3 + len(["s", "second half of a", "new"])
    group = zarr.open_group(repo.readonly_session("main").store, mode="r")
    assert group["s"][...].tolist() == [[5] * 4] * 4
    assert group["a"][3].tolist() == [5] * 4


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_many_writers(where: str, tmp_path: Path) -> None:
    """Every commit is in the history, once, and nothing of it is lost."""
    storage = ic.in_memory_storage() if where == "memory" else ic.local_filesystem_storage(str(tmp_path / "repo"))
    repo = ic.Repository.create(storage)
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="a", shape=(8,), chunks=(1,), dtype="i4", compressors=None)
    session.commit("base")
    failures: list[BaseException] = []

    def write(n: int) -> None:
        try:
            mine = repo.writable_session("main")
            zarr.open_array(mine.store, path="a", mode="r+")[n] = n + 1
            mine.commit(f"writer {n}", rebase_with=ic.ConflictDetector())
        except BaseException as error:  # noqa: BLE001 - reported below
            failures.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    messages = [s.message for s in repo.ancestry(branch="main")]
    assert sorted(messages[:-2]) == [f"writer {n}" for n in range(8)]
    assert zarr.open_array(repo.readonly_session("main").store, path="a")[:].tolist() == list(range(1, 9))
