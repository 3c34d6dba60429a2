"""Expiration, collection and rebasing commits with a failure at the first, second, ... request to the storage.

Whatever fails: every ref opens, everything that can be reached is there, and the next try does the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import zarr

import icechunk_virtual as ic
from icechunk_virtual.errors import OutcomeUnknown, StorageError
from icechunk_virtual.repo import refs
from icechunk_virtual.repo.memory_store import MemoryStore
from tests.support.conflicts import stored_keys

VERBS = ("get", "get_versioned", "put", "put_new", "put_if_match", "head", "delete")


@contextmanager
def failing_at(number: int, *, lost: bool) -> Iterator[list[str]]:
    """Have one request fail; `lost`: after it was done. Yields the requests made."""
    made: list[str] = []
    originals = {verb: getattr(MemoryStore, verb) for verb in VERBS}

    def broken(verb: str) -> Any:
        async def request(self: MemoryStore, *args: Any, **kwargs: Any) -> Any:
            made.append(f"{verb} {args[0]}")
            if len(made) != number:
                return await originals[verb](self, *args, **kwargs)
            if lost:
                await originals[verb](self, *args, **kwargs)
                raise OutcomeUnknown("the answer was lost")
            raise StorageError("it did not work")

        return request

    try:
        for verb in VERBS:
            setattr(MemoryStore, verb, broken(verb))
        yield made
    finally:
        for verb, original in originals.items():
            setattr(MemoryStore, verb, original)


def history() -> tuple[ic.Repository, dict[str, list[int]]]:
    """A repository with garbage and old versions, and what its refs show."""
    repo = ic.Repository.create(ic.in_memory_storage(), ic.RepositoryConfig(inline_chunk_threshold_bytes=0))
    session = repo.writable_session("main")
    group = zarr.create_group(session.store)
    group.create_array("a", shape=(4,), chunks=(1,), dtype="i4", compressors=None)[:] = 1
    session.commit("first")
    for n in range(4):
        commit(repo, "main", n)
        if n == 1:
            repo.create_tag("v1", repo.lookup_branch("main"))
            repo.create_branch("side", repo.lookup_branch("main"))
            repo.create_branch("doomed", repo.lookup_branch("main"))
    commit(repo, "side", 2)
    commit(repo, "doomed", 3)
    repo.delete_branch("doomed")
    return repo, shown(repo)


def commit(repo: ic.Repository, branch: str, n: int, **kwargs: Any) -> str:
    session = repo.writable_session(branch)
    zarr.open_group(session.store, mode="r+")["a"][n] = n + 10
    return session.commit(f"{branch} {n}", **kwargs)


def shown(repo: ic.Repository) -> dict[str, list[int]]:
    """Everything that refs show, read anew; every version that they lead to opens."""
    repo = ic.Repository.open(repo.storage)
    sessions = {name: repo.readonly_session(name) for name in repo.list_branches()}
    sessions |= {name: repo.readonly_session(tag=name) for name in repo.list_tags()}
    for name, session in sessions.items():
        for version in repo.ancestry(snapshot_id=session.snapshot_id):
            if version.parent_id is not None:
                values = zarr.open_group(repo.readonly_session(snapshot_id=version.id).store, mode="r")["a"][:]
                assert (values != 0).all(), name
                repo.diff(from_snapshot_id=version.parent_id, to_snapshot_id=version.id)
    return {name: zarr.open_group(s.store, mode="r")["a"][:].tolist() for name, s in sessions.items()}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refs, "_FIRST_PAUSE", 0.0)


@pytest.mark.parametrize("lost", [False, True], ids=["failed", "answer lost"])
def test_expiration_and_collection(lost: bool) -> None:
    number, requests = 0, 0  # the first time nothing fails
    while number <= requests:
        repo, before = history()
        moment = datetime.now(UTC)
        with failing_at(number, lost=lost) as made:
            try:
                repo.expire_snapshots(moment)
                repo.garbage_collect(datetime.now(UTC))
            except ic.IcechunkError:
                pass
        requests = max(requests, len(made))
        assert shown(repo) == before, made
        repo.expire_snapshots(moment)
        repo.garbage_collect(datetime.now(UTC))
        assert shown(repo) == before
        left = {key.split("/")[0] for key in stored_keys(repo)}
        assert left == {"snapshots", "transactions", "manifests", "chunks", "refs", "config.yaml"}
        assert repo.garbage_collect(datetime.now(UTC)) == ic.GCSummary()
        number += 1 if number < 15 else 3
    assert requests > 30


@pytest.mark.parametrize("lost", [False, True], ids=["failed", "answer lost"])
def test_rebasing_commits(lost: bool) -> None:
    """A commit that reports success is in the history, once; one that reports failure can be tried again."""
    number, requests = 0, 0  # the first time nothing fails
    while number <= requests:
        repo, _ = history()
        session = repo.writable_session("main")
        zarr.open_group(session.store, mode="r+")["a"][0] = 99
        commit(repo, "main", 3)
        with failing_at(number, lost=lost) as made:
            try:
                session.commit("mine", rebase_with=ic.ConflictDetector())
                done = True
            except ic.IcechunkError:
                done = False
        requests = max(requests, len(made))
        if not done:
            messages = [s.message for s in ic.Repository.open(repo.storage).ancestry(branch="main")]
            assert "mine" not in messages, made
            session.commit("mine", rebase_with=ic.ConflictDetector())
        shown(repo)
        messages = [s.message for s in repo.ancestry(branch="main")]
        assert messages[:2] == ["mine", "main 3"]
        assert messages.count("mine") == 1
        assert shown(repo)["main"] == [99, 11, 12, 13]
        number += 1
    assert requests > 6
