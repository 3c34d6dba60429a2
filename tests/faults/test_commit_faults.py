"""Commits with a failure at every single storage call: nothing reachable is ever missing, and nobody is lied to."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zarr.core.sync import sync

from icechunk_virtual import (
    BasicConflictSolver,
    ChunkRefs,
    ConflictError,
    IcechunkError,
    Repository,
    Session,
    Storage,
    in_memory_storage,
    local_filesystem_storage,
)
from icechunk_virtual.errors import OutcomeUnknown, StorageError, TransientStorageError
from tests.support.faulty import WRITES, Script, faulty
from tests.support.hierarchies import (
    GROUP,
    array_document,
    get,
    group_document,
    new_repository,
    put,
    tip,
    values_of,
    writable,
)


@pytest.fixture(params=["memory", "local"])
def plain(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A storage without faults, with a repository of an array with a native and an inline chunk in it."""
    storage = in_memory_storage() if request.param == "memory" else local_filesystem_storage(tmp_path / "repo")
    session = writable(new_repository(storage))
    put(session.store, "zarr.json", GROUP)
    put(session.store, "a/zarr.json", array_document((8,)))
    put(session.store, "a/c/0", b"inline")
    put(session.store, "a/c/1", b"native" * 200)
    session.commit("base")
    return storage


def changed(storage: Storage, script: Script) -> Session:
    """A session with changes of all kinds, and all that it needs to read in memory."""
    return change(writable(Repository.open(faulty(storage, script))))


def change(session: Session) -> Session:
    put(session.store, "zarr.json", group_document(n=1))
    put(session.store, "b/zarr.json", array_document((3,)))
    put(session.store, "b/c/0", b"b" * 1000)
    put(session.store, "a/c/2", b"two")
    put(session.store, "a/c/1", b"other" * 200)
    values_of(session.store)
    return session


def everything(storage: Storage) -> dict[str, dict[str, bytes]]:
    """Every value of every version reachable from main, by id, read without caches."""
    repo = Repository.open(storage)
    return {
        info.id: values_of(repo.readonly_session(snapshot_id=info.id).store) for info in repo.ancestry(branch="main")
    }


def number_of_calls(storage: Storage) -> int:
    """How many storage calls the commit makes (on a branch of its own)."""
    repo = Repository.open(storage)
    repo.create_branch("count", repo.lookup_branch("main"))
    script = Script()
    session = change(writable(Repository.open(faulty(storage, script)), "count"))
    script.restart()
    session.commit("counted")
    return len(script.calls)


def test_a_commit_that_fails_at_any_call_leaves_everything_as_it_was(plain: Storage) -> None:
    before = everything(plain)
    calls = number_of_calls(plain)
    assert calls > 5
    failed = 0
    for number in range(1, calls + 1):
        script = Script()
        session = changed(plain, script)
        shown = values_of(session.store)
        script.restart(number)
        try:
            id = session.commit("x")
        except StorageError:
            failed += 1
        else:  # a call whose failure does not matter
            assert Repository.open(plain).lookup_branch("main") == id
            Repository.open(plain).reset_branch("main", next(iter(before)))
            continue
        assert everything(plain) == before, number
        script.restart()
        assert not session.read_only, number
        assert values_of(session.store) == shown, number
        if number % 3 == 0:  # the session is still good
            id = session.commit("second try")
            assert everything(plain) == {id: shown, **before}
            Repository.open(plain).reset_branch("main", next(iter(before)))
    assert failed >= calls - 1


def test_a_commit_whose_answer_is_lost_says_what_happened(plain: Storage) -> None:
    before = everything(plain)
    landed = 0
    for number in range(1, number_of_calls(plain) + 1):
        script = Script()
        session = changed(plain, script)
        shown = values_of(session.store)
        script.restart(number, lost=True)
        try:
            id = session.commit("x")
        except StorageError:
            assert everything(plain) == before, number
            script.restart()
            assert values_of(session.store) == shown
            continue
        landed += script.calls[number - 1][0] in WRITES
        assert everything(plain) == {id: shown, **before}, number
        assert session.read_only
        Repository.open(plain).reset_branch("main", next(iter(before)))
    assert landed >= 1  # the answer of the branch's own update was among those lost


def test_the_branch_is_read_back(plain: Storage) -> None:
    """The update of the branch lands and its answer is lost: the commit succeeded, once."""
    script = Script()
    session = changed(plain, script)
    script.restart()
    calls = number_of_calls(plain)
    script.restart(calls, lost=True)  # the update of the branch is the last call
    id = session.commit("x")
    assert script.calls[calls - 1] == ("put_if_match", "refs/branch.main/ref.json")
    assert script.calls[calls][0] == "get_versioned"
    assert [info.message for info in Repository.open(plain).ancestry(branch="main")][:2] == ["x", "base"]
    assert Repository.open(plain).lookup_branch("main") == id


def test_an_outcome_that_stays_unknown_is_reported_so(plain: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_pause(attempt: int) -> None:
        pass

    monkeypatch.setattr("icechunk_virtual.repo.refs._pause", no_pause)
    before = everything(plain)
    calls = number_of_calls(plain)
    for lost in (True, False):
        script = Script()
        session = changed(plain, script)
        shown = values_of(session.store)
        script.restart(calls, times=1000, lost=lost, error=TransientStorageError)
        with pytest.raises(OutcomeUnknown, match="may or may not have moved"):
            session.commit("x")
        script.restart()
        now = everything(plain)
        assert list(now)[-len(before) :] == list(before)
        assert len(now) == len(before) + lost
        if lost:
            assert next(iter(now.values())) == shown
            assert session.commit("again") == next(iter(now))
            assert session.read_only
            assert everything(plain) == now
            Repository.open(plain).reset_branch("main", next(iter(before)))
        else:
            session.commit("again")
            Repository.open(plain).reset_branch("main", next(iter(before)))


@pytest.mark.parametrize("then", ["nothing", "others went on", "this session went on", "rebasing"])
def test_trying_again_after_a_lost_answer(plain: Storage, then: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session recognises its own commit at the tip of the branch, or below, and does not commit twice."""
    monkeypatch.setattr("icechunk_virtual.repo.refs._FIRST_PAUSE", 0)
    script = Script()
    session = changed(plain, script)
    script.restart(number_of_calls(plain), times=1000, lost=True, error=TransientStorageError)
    with pytest.raises(OutcomeUnknown) as unknown:
        session.commit("x")
    script.restart()
    landed = Repository.open(plain).lookup_branch("main")
    assert landed == unknown.value.snapshot
    if then == "others went on":
        other = writable(Repository.open(plain))
        put(other.store, "c/zarr.json", GROUP)
        other.commit("on top")
    if then == "this session went on":
        put(session.store, "a/c/3", b"more")
        with pytest.raises(ConflictError) as conflict:
            session.commit("again")
        assert conflict.value.actual_parent == landed
        assert not session.read_only
        return
    solver = BasicConflictSolver() if then == "rebasing" else None
    assert session.commit("again", rebase_with=solver) == landed
    assert (session.read_only, session.snapshot_id) == (True, landed)
    messages = [info.message for info in Repository.open(plain).ancestry(branch="main")]
    assert messages.count("x") == 1
    assert "again" not in messages


def test_somebody_else_builds_on_a_commit_whose_answer_was_lost(plain: Storage) -> None:
    """Landed, answer lost, and the branch moved on before it is read back: still a success."""

    class Overtaken(Script):
        def next(self, operation: str, key: str) -> bool:
            fails = super().next(operation, key)
            if operation == "get_versioned" and self.fail_at is not None and len(self.calls) == self.fail_at + 1:
                other = writable(Repository.open(plain))
                put(other.store, "c/zarr.json", GROUP)
                others.append(other.commit("on top"))
            return fails

    others: list[str] = []
    script = Overtaken()
    session = changed(plain, script)
    script.restart(number_of_calls(plain), lost=True)
    id = asyncio.run(in_thread(session))
    history = [info.id for info in Repository.open(plain).ancestry(branch="main")]
    assert history[:2] == [others[0], id]


async def in_thread(session: Session) -> str:
    """Commit on a loop of its own, so that the background loop is free for somebody else's."""
    return await session.commit_async("x")


@pytest.mark.parametrize("operation", ["set", "set_chunk_refs"])
def test_a_chunk_that_cannot_be_stored_is_not_there(plain: Storage, operation: str) -> None:
    script = Script()
    session = writable(Repository.open(faulty(plain, script)))
    before = values_of(session.store)
    script.restart(1, times=5)
    large = b"x" * 1000
    attempts: dict[str, Callable[[], object]] = {
        "set": lambda: put(session.store, "a/c/5", large),
        "set_chunk_refs": lambda: session.store.set_chunk_refs("a", ChunkRefs.inline([[5], [6]], [large, b"y"])),
    }
    with pytest.raises(StorageError, match="on purpose"):
        attempts[operation]()
    script.restart()
    assert values_of(session.store) == before
    assert not session.has_uncommitted_changes
    put(session.store, "a/c/5", b"y" * 1000)
    session.commit("second try")
    assert get(tip(Repository.open(plain)).store, "a/c/5") == b"y" * 1000


def test_reads_that_fail_are_errors_and_not_missing_values(plain: Storage) -> None:
    import zarr

    for number in (1, 2):
        script = Script()
        session = tip(Repository.open(faulty(plain, script)))
        script.restart(number, error=TransientStorageError)
        with pytest.raises(TransientStorageError):
            zarr.open_array(session.store, path="a", mode="r")[1]
        script.restart()
        assert get(session.store, "a/c/1") == b"native" * 200  # a failure is not remembered


def test_creation_that_fails_at_any_call_can_be_seen() -> None:
    script = Script()
    new_repository(faulty(in_memory_storage(), script))
    for number in range(1, len(script.calls) + 1):
        plain, script = in_memory_storage(), Script(fail_at=number)
        with pytest.raises(StorageError, match="on purpose"):
            new_repository(faulty(plain, script))
        if Repository.exists(plain):
            assert everything(plain)


def test_cancelled_commits(plain: Storage) -> None:
    """Whatever moment the caller goes away: the branch opens, and the session knows where it stands."""
    before = everything(plain)
    for steps in range(1, 60, 3):
        script = Script()
        session = changed(plain, script)
        shown = values_of(session.store)

        async def cancelled(session: Session = session, steps: int = steps) -> bool:
            task = asyncio.ensure_future(session.commit_async("x"))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                return True
            return False

        was_cancelled = asyncio.run(cancelled())
        now = everything(plain)
        assert list(now)[-len(before) :] == list(before)
        assert len(now) == len(before) or next(iter(now.values())) == shown
        if not was_cancelled:
            assert len(now) == len(before) + 1
        elif len(now) == len(before):
            session.commit("second try")
        Repository.open(plain).reset_branch("main", next(iter(before)))


# -- many writers ----------------------------------------------------------------------------------------------

COMMITS = 2


def write_some(path: str, number: int, results: Any) -> None:
    """One process: so many commits, each tried again with a new session after a conflict."""
    repo = Repository.open(local_filesystem_storage(path))
    ids = []
    for n in range(COMMITS):
        while True:
            session = repo.writable_session("main")
            put(session.store, f"a/c/{number}/{n}", bytes([number, n]) * (300 * (n % 2) + 1))
            try:
                ids.append(session.commit(f"{number}/{n}"))
            except ConflictError:
                continue
            break
    results.put((number, ids))


def test_eight_processes_commit_to_one_directory(tmp_path: Path) -> None:
    processes = 8
    repo = new_repository(local_filesystem_storage(tmp_path / "repo"))
    session = writable(repo)
    put(session.store, "a/zarr.json", array_document((processes, COMMITS)))
    session.commit("array")
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [
        context.Process(target=write_some, args=(str(tmp_path / "repo"), number, results))
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    reported = dict(results.get(timeout=240) for _ in workers)
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    repo = Repository.open(repo.storage)
    history = Counter(info.id for info in repo.ancestry(branch="main"))
    assert all(history[id] == 1 for ids in reported.values() for id in ids)
    assert sum(history.values()) == processes * COMMITS + 2
    store = tip(repo).store
    for number in range(processes):
        for n in range(COMMITS):
            assert get(store, f"a/c/{number}/{n}") == bytes([number, n]) * (300 * (n % 2) + 1)


def test_sixteen_sessions_in_one_process(plain: Storage) -> None:
    async def race() -> list[Any]:
        repo = Repository.open(plain)
        sessions = [await repo.writable_session_async("main") for _ in range(16)]
        for i, session in enumerate(sessions):
            refs = ChunkRefs.inline(np.array([[i % 8]]), [bytes([i])])
            await session.store.set_chunk_refs_async("a", refs)
        return await asyncio.gather(*(s.commit_async(str(i)) for i, s in enumerate(sessions)), return_exceptions=True)

    results = asyncio.run(race())
    (winner,) = [result for result in results if isinstance(result, str)]
    assert sum(isinstance(result, ConflictError) for result in results) == 15
    assert Repository.open(plain).lookup_branch("main") == winner


# -- damaged files ---------------------------------------------------------------------------------------------

Damage = Callable[[bytes], bytes]
DAMAGES: dict[str, Damage] = {
    "empty": lambda data: b"",
    "one byte": lambda data: data[:1],
    "half": lambda data: data[: len(data) // 2],
    "cut by one": lambda data: data[:-1],
    "zeros": lambda data: bytes(len(data)),
    "other": lambda data: b"\xff" * 200,
    "garbled end": lambda data: data[:-8] + b"\x5a" * 8,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("snapshots", "snapshot"),
        ("manifests", "manifest"),
        ("transactions", "transaction log"),
        ("refs/branch.main", "ref"),
        ("config", "config"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, folder: str, kind: str, damage: Damage) -> None:
    from icechunk_virtual import RepositoryConfig
    from icechunk_virtual.errors import CorruptFile

    repo = new_repository(local_filesystem_storage(tmp_path), RepositoryConfig(inline_chunk_threshold_bytes=5))
    base = repo.lookup_branch("main")
    session = writable(repo)
    put(session.store, "a/zarr.json", array_document((4,)))
    put(session.store, "a/c/0", b"x")
    id = session.commit("x")
    if folder == "config":
        path = tmp_path / "config.yaml"
        damaged = b"a: [" if damage(b"x" * 50) == b"" else damage(path.read_bytes()) + b"\n{: ]"
    else:
        names = {"snapshots": id, "transactions": id, "refs/branch.main": "ref.json"}
        path = tmp_path / folder / names[folder] if folder in names else next((tmp_path / folder).iterdir())
        damaged = damage(path.read_bytes())
    path.write_bytes(damaged)

    def use() -> None:
        repo = Repository.open(local_filesystem_storage(tmp_path))
        values_of(repo.readonly_session("main").store)
        repo.diff(from_snapshot_id=base, to_snapshot_id=id)

    with pytest.raises(CorruptFile) as caught:
        use()
    error = caught.value
    assert error.file == path.relative_to(tmp_path).as_posix()
    assert error.file in str(error)
    assert kind in str(error)


def test_a_missing_chunk_is_an_error_and_no_fill_value(plain: Storage) -> None:
    import zarr

    async def remove() -> None:
        objects = plain.object_store()
        async for page in objects.list("chunks/"):
            await objects.delete([info.key for info in page])

    asyncio.run(remove())
    session = tip(Repository.open(plain))
    with pytest.raises(IcechunkError, match="chunks/"):
        get(session.store, "a/c/1")
    with pytest.raises(IcechunkError):
        zarr.open_array(session.store, path="a", mode="r")[:]
    assert sync(session.store.getsize("a/c/1")) == 1200
    assert get(session.store, "a/c/0") == b"inline"


@pytest.mark.parametrize("prefix", ["manifests/", "snapshots/"])
def test_missing_files_are_errors(plain: Storage, prefix: str) -> None:
    repo = Repository.open(plain)
    key = prefix + repo.lookup_branch("main") if prefix == "snapshots/" else ""

    async def remove() -> None:
        objects = plain.object_store()
        async for page in objects.list(prefix):
            await objects.delete([info.key for info in page if not key or info.key == key])

    asyncio.run(remove())

    def use() -> None:
        get(tip(Repository.open(plain)).store, "a/c/0")

    with pytest.raises(IcechunkError, match="not found"):
        use()
