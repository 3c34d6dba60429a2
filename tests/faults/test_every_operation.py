"""Everything that writes, with a failure, a lost answer and a delay at the first, second, ... call to the storage.

Whatever happens: every ref opens, nothing that can be reached is missing or different, what was reported is what
happened, and the next try does the rest.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest

import icechunk_virtual as ic
from icechunk_virtual import ConflictError, IcechunkError, Repository, Session, Storage
from icechunk_virtual.errors import OutcomeUnknown, TransientStorageError
from icechunk_virtual.repo import refs
from tests.support.faulty import WRITES, Script, faulty
from tests.support.hierarchies import PROTOTYPE, array_document, group_document, new_repository, put

TICK = 0.01
"""Seconds. Files have the time of the clock's last tick."""
Async = Callable[[Repository, Session], Awaitable[Any]]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refs, "_FIRST_PAUSE", 0.0)


# -- a repository ------------------------------------------------------------------------------------------------


def change(repo: Repository, key: str, data: bytes, branch: str = "main") -> str:
    """A commit of one chunk."""
    session = repo.writable_session(branch)
    put(session.store, key, data)
    id: str = session.commit(f"{key} on {branch}")
    return id


def build(storage: Storage) -> None:
    """Versions on two branches, tags, and garbage of every kind."""
    config = ic.RepositoryConfig(inline_chunk_threshold_bytes=8)
    repo = new_repository(storage, config)
    with repo.transaction("main", message="arrays") as store:
        put(store, "zarr.json", group_document())
        for name in ("a", "b"):
            put(store, f"{name}/zarr.json", array_document((4,)))
        put(store, "b/c/0", b"inline")
    change(repo, "a/c/0", b"0" * 100)
    repo.create_branch("side", change(repo, "a/c/1", b"1" * 100))
    repo.create_branch("doomed", repo.lookup_branch("side"))
    repo.create_tag("v1", repo.lookup_branch("side"))
    change(repo, "a/c/0", b"side" * 50, "side")
    change(repo, "a/c/0", b"doomed" * 50, "doomed")
    repo.delete_branch("doomed")
    change(repo, "a/c/2", b"2" * 100)


async def copied(storage: Storage) -> Storage:
    """The same objects in memory of their own."""
    found = ic.in_memory_storage()
    source, target = storage.object_store(), found.object_store()
    async for page in source.list(""):
        for info in page:
            await target.put_new(info.key, await source.get(info.key))
    return found


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[], Storage]]:
    """Storages that all hold the same repository, by where they are."""
    root = tmp_path_factory.mktemp("faults")
    memory, local = ic.in_memory_storage(), ic.local_filesystem_storage(root / "pattern")
    build(memory)
    build(local)

    def copied_folder() -> Storage:
        shutil.rmtree(root / "copy", ignore_errors=True)
        return ic.local_filesystem_storage(Path(shutil.copytree(root / "pattern", root / "copy")))

    return {"memory": lambda: asyncio.run(copied(memory)), "local": copied_folder}


@dataclass(frozen=True)
class Seen:
    """What refs lead to."""

    refs: dict[str, str]
    histories: dict[str, list[str]]
    messages: dict[str, list[str]]
    contents: dict[str, dict[str, bytes]]


def look(storage: Storage) -> Seen:
    """Open every ref, and read everything that it leads to; what is missing is an error."""
    return asyncio.run(look_async(storage))


async def look_async(storage: Storage) -> Seen:
    repo = await Repository.open_async(storage)
    tips = {f"branch {name}": await repo.lookup_branch_async(name) for name in await repo.list_branches_async()}
    tips |= {f"tag {name}": await repo.lookup_tag_async(name) for name in await repo.list_tags_async()}
    lines = {name: [info async for info in repo.async_ancestry(snapshot_id=id)] for name, id in tips.items()}
    infos = {info.id: info for line in lines.values() for info in line}
    for info in infos.values():
        if info.parent_id is not None:
            await repo.diff_async(from_snapshot_id=info.parent_id, to_snapshot_id=info.id)
    return Seen(
        refs=tips,
        histories={name: [info.id for info in line] for name, line in lines.items()},
        messages={name: [info.message for info in line] for name, line in lines.items()},
        contents=dict(zip(infos, await asyncio.gather(*(content(repo, id) for id in infos)), strict=True)),
    )


async def content(repo: Repository, id: str) -> dict[str, bytes]:
    """Every key of a version with its bytes."""
    store = (await repo.readonly_session_async(snapshot_id=id)).store
    keys = [key async for key in store.list_prefix("")]
    values = await asyncio.gather(*(store.get(key, PROTOTYPE) for key in keys))
    assert None not in values, f"listed, but not there: {keys}"
    return {key: value.to_bytes() for key, value in zip(keys, values, strict=True) if value is not None}


# -- what is done --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """Something that writes.

    Attributes
    ----------
    act
        Does it, with a repository and a session with changes.
    done
        Whether it was done, as the refs show it; ``None``: they show nothing of it.
    late
        Somebody else commits before.
    shortens
        Histories may get shorter, and refs may go.
    """

    act: Async
    done: Callable[[Seen, Seen], bool] | None = None
    late: bool = False
    shortens: bool = False


def committed(before: Seen, after: Seen) -> bool:
    count = after.messages["branch main"].count("mine")
    assert count < 2
    return count == 1


def moved(name: str) -> Callable[[Seen, Seen], bool]:
    return lambda before, after: after.refs.get(name) != before.refs.get(name)


FIRST = "1CECHNKREP0F1RSTCMT0"
DETECTOR = ic.ConflictDetector()


def tomorrow() -> datetime:
    return datetime.now(UTC) + timedelta(days=1)


async def tidy(repo: Repository, session: Session) -> None:
    moment = datetime.now(UTC)
    await repo.expire_snapshots_async(moment, delete_expired_branches=True, delete_expired_tags=True)


OPERATIONS: dict[str, Operation] = {
    "commit": Operation(lambda repo, s: s.commit_async("mine"), committed),
    "commit, rebasing": Operation(lambda repo, s: s.commit_async("mine", rebase_with=DETECTOR), committed, late=True),
    "rebase": Operation(lambda repo, s: s.rebase_async(DETECTOR), late=True),
    "flush": Operation(lambda repo, s: s.flush_async("mine")),
    "rewrite manifests": Operation(lambda repo, s: repo.rewrite_manifests_async("mine", branch="main"), committed),
    "create branch": Operation(lambda repo, s: repo.create_branch_async("new", s.snapshot_id), moved("branch new")),
    "reset branch": Operation(lambda repo, s: repo.reset_branch_async("side", s.snapshot_id), moved("branch side")),
    "delete branch": Operation(lambda repo, s: repo.delete_branch_async("side"), moved("branch side"), shortens=True),
    "create tag": Operation(lambda repo, s: repo.create_tag_async("new", s.snapshot_id), moved("tag new")),
    "delete tag": Operation(lambda repo, s: repo.delete_tag_async("v1"), moved("tag v1"), shortens=True),
    "expire": Operation(tidy, shortens=True),
    "collect garbage": Operation(lambda repo, s: repo.garbage_collect_async(tomorrow()), shortens=True),
}


# -- what goes wrong -----------------------------------------------------------------------------------------------


def other_commit(storage: Storage, since: datetime) -> None:
    time.sleep(TICK)
    change(Repository.open(storage), "b/c/1", b"by others" * 20)


def other_upkeep(storage: Storage, since: datetime) -> None:
    """Of everything older than the session."""
    repo = Repository.open(storage)
    repo.expire_snapshots(since)
    repo.garbage_collect(since)


Trouble = Callable[[Script, int, Storage, datetime], None]
TROUBLES: dict[str, Trouble] = {
    "failure": lambda script, k, storage, since: script.restart(k),
    "passing failure": lambda script, k, storage, since: script.restart(k, error=TransientStorageError),
    "lost answer": lambda script, k, storage, since: script.restart(k, lost=True),
    "delay, a commit": lambda script, k, storage, since: script.restart(
        k, meanwhile=lambda: other_commit(storage, since)
    ),
    "delay, upkeep": lambda script, k, storage, since: script.restart(
        k, meanwhile=lambda: other_upkeep(storage, since)
    ),
}


def attempt(operation: Operation, repo: Repository, session: Session) -> BaseException | None:
    """What it ends in; on an event loop of its own, so that others can be served meanwhile."""

    async def act() -> None:
        await operation.act(repo, session)

    try:
        asyncio.run(act())
    except (IcechunkError, ConflictError) as error:
        return error
    return None


MOST_TELLING = {
    *product(["memory"], ["commit", "commit, rebasing", "expire", "collect garbage"], TROUBLES),
    ("local", "collect garbage", "failure"),
    ("local", "expire", "lost answer"),
}
"""Others are slow tests; what commits to local disks do is in `test_commit_faults` as well."""
CASES = [
    pytest.param(*case, id=" - ".join(case), marks=[] if case in MOST_TELLING else [pytest.mark.slow])
    for case in product(["memory", "local"], OPERATIONS, TROUBLES)
]


@pytest.mark.parametrize(("where", "name", "trouble"), CASES)
def test_every_call(fresh: dict[str, Callable[[], Storage]], where: str, name: str, trouble: str) -> None:
    operation = OPERATIONS[name]
    k, calls = 0, 1  # the first time without trouble
    failed = writes = 0
    seen_first: Seen | None = None
    while k <= calls:
        plain, script = fresh[where](), Script()
        repo = Repository.open(faulty(plain, script))
        since = datetime.now(UTC)
        time.sleep(TICK)
        session = repo.writable_session("main")
        put(session.store, "a/c/3", b"3" * 300)
        put(session.store, "b/c/2", b"small")
        if operation.late:
            change(Repository.open(plain), "b/c/3", b"first" * 20)
        before = seen_first if seen_first is not None and not operation.late else look(plain)
        seen_first = before
        if k:
            TROUBLES[trouble](script, k, plain, since)
        else:
            script.restart()
        error = attempt(operation, repo, session)
        after = look(plain)
        calls = max(calls, len(script.calls)) if k == 0 else calls
        failed += error is not None
        writes += k > 0 and script.calls[k - 1][0] in WRITES
        check(operation, before, after, error)
        script.restart()
        if k % 3 == 1:
            again(operation, plain, repo, session, error)
        k += 1
    assert calls > 1
    assert failed or trouble != "failure"
    assert writes or operation.done is None


def check(operation: Operation, before: Seen, after: Seen, error: BaseException | None) -> None:
    """What is left, and whether it is what was reported."""
    for id in before.contents.keys() & after.contents.keys():
        assert after.contents[id] == before.contents[id]
    for name in before.refs.keys() | after.refs.keys():
        if operation.shortens or name not in before.refs:
            continue
        old, new = before.histories[name], after.histories[name]
        kept = [id for id in old if id in new]
        assert new[-1] == FIRST
        if name != "branch side":  # may be reset
            assert new[-len(kept) :] == kept
            assert old[0] in new
    if operation.done is not None and not isinstance(error, OutcomeUnknown):
        assert operation.done(before, after) is (error is None)


def again(
    operation: Operation, plain: Storage, repo: Repository, session: Session, error: BaseException | None
) -> None:
    """The next try, without trouble, and then everything is as it should be."""
    if error is not None and operation.done is committed and not session.read_only:
        if session.snapshot_id in look(plain).histories["branch main"]:
            session.commit("mine", rebase_with=DETECTOR)
            assert look(plain).messages["branch main"].count("mine") == 1
        else:  # the upkeep of others let go of it
            with pytest.raises(IcechunkError, match="not in the history"):
                session.commit("mine", rebase_with=DETECTOR)
    elif operation.shortens or operation.done is None:
        attempt(operation, repo, session)
    seen = look(plain)
    final = Repository.open(plain)
    final.garbage_collect(datetime.now(UTC))
    assert look(plain) == seen
    assert final.garbage_collect(datetime.now(UTC)) == ic.GCSummary()
