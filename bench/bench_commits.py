"""Many small commits, one after the other: in memory, on a local disk, and how much of that is waiting for the disk.

Ours survive a power cut when they return, the original's need not (decision 006). So the local disk is measured as it
is, and where both promise the same: once with every request of ours to flush it left out, and once with the least that
the original's would need, one `syncfs` per commit.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from bench.engines import SIDES, Side, engine, remove, temporary_directory
from bench.harness import Figure, Pair
from icechunk_virtual.repo import file_sync

COMMITS = 200
_ENOUGH = 10**6  # files: so many that one call for all of them is worth while
_FLUSHES = ("sync", "sync_file", "sync_directory", "sync_file_system")


def repository(side: Side, place: Path | None) -> Any:
    """A new repository with an array of small chunks; in memory without a place."""
    ic = engine(side)
    storage = ic.in_memory_storage() if place is None else ic.local_filesystem_storage(str(place / side))
    repo = ic.Repository.create(storage)
    session = repo.writable_session("main")
    group = zarr.create_group(session.store)
    group.create_array("a", shape=(COMMITS,), chunks=(1,), dtype="i4", compressors=None)
    session.commit("array")
    return repo


def commit_each(repo: Any, then: Callable[[], object] = lambda: None) -> None:
    """One chunk per commit; `then` is called after each of them."""
    chunk = default_buffer_prototype().buffer.from_bytes(b"abcd")
    for number in range(COMMITS):
        session = repo.writable_session("main")
        sync(session.store.set(f"a/c/{number}", chunk))
        session.commit(f"commit {number}")
        then()


def repositories(place: Path | None) -> dict[Side, Any]:
    return {side: repository(side, place) for side in SIDES}


def on_disk() -> tuple[Path, dict[Side, Any]]:
    place = temporary_directory()
    return place, repositories(place)


@contextlib.contextmanager
def without_flushes() -> Iterator[None]:
    """Ours as if the disk were never waited for. Not to be imitated."""
    with contextlib.ExitStack() as patched:
        for name in _FLUSHES:
            patched.enter_context(mock.patch.object(file_sync, name, return_value=True))
        yield


def commit_without_flushes(repo: Any) -> None:
    with without_flushes():
        commit_each(repo)


def commit_durably(made: tuple[Path, dict[Side, Any]]) -> None:
    """The original's, each of which then survives a power cut too: in the one call that serves for all its files."""
    place, repos = made
    commit_each(repos["theirs"], lambda: file_sync.sync_file_system(str(place), _ENOUGH))


def waiting_per_commit() -> float:
    """Milliseconds per commit in which the disk is waited for."""
    waited = 0.0

    def timed(flush: Any) -> Any:
        def run(*args: Any) -> Any:
            nonlocal waited
            begin = time.perf_counter()
            try:
                return flush(*args)
            finally:
                waited += time.perf_counter() - begin

        return run

    place, repos = on_disk()
    try:
        with contextlib.ExitStack() as patched:
            for name in _FLUSHES[2:]:  # the other two are called by these, or not in commits
                patched.enter_context(mock.patch.object(file_sync, name, timed(getattr(file_sync, name))))
            commit_each(repos["ours"])
    finally:
        remove(place)
    return 1000 * waited / COMMITS


def check() -> None:
    """Both arrive at the same number of versions."""
    with tempfile.TemporaryDirectory() as place:
        for repo in [*repositories(None).values(), *repositories(Path(place)).values()]:
            commit_each(repo)
            if len(list(repo.ancestry(branch="main"))) != COMMITS + 2:
                raise RuntimeError("commits are missing")


def benches() -> list[Pair | Figure]:
    check()
    memory = {
        "setup": lambda: repositories(None),
        "ours": lambda repos: commit_each(repos["ours"]),
        "theirs": lambda repos: commit_each(repos["theirs"]),
    }
    disk = {
        "setup": on_disk,
        "teardown": lambda made: remove(made[0]),
        "theirs": lambda made: commit_each(made[1]["theirs"]),
    }
    common: dict[str, Any] = {"count": COMMITS, "unit": "commits", "at_least": 1.0}
    return [
        Pair("200 small commits, in memory", **memory, **common),
        Pair("... CPU time", **memory, **common, clock=time.process_time),
        Pair("200 small commits, local disk", ours=lambda made: commit_each(made[1]["ours"]), **disk, **common),
        Pair(
            "... if ours did not wait for the disk either",
            ours=lambda made: commit_without_flushes(made[1]["ours"]),
            **disk,
            **common,
        ),
        Pair(
            "... if the original's survived a power cut too",
            ours=lambda made: commit_each(made[1]["ours"]),
            **(disk | {"theirs": commit_durably}),
            **common,
        ),
        Pair(
            "... CPU time",
            ours=lambda made: commit_each(made[1]["ours"]),
            **disk,
            **common,
            clock=time.process_time,
        ),
        Figure("... waiting for the disk", waiting_per_commit, "ms per commit"),
    ]
