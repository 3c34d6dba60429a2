"""A repository of 1,000 snapshots: its history, garbage collection, storage figures, expiration, and a long rebase."""

from __future__ import annotations

import atexit
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from bench.engines import SIDES, Side, engine, remove, temporary_directory
from bench.harness import Pair

SNAPSHOTS = 1000
COMMITS_PASSED = 200


def opened(side: Side, path: Path) -> Any:
    ic = engine(side)
    return ic.Repository.open(ic.local_filesystem_storage(str(path)))


def write(path: Path) -> None:
    """A thousand commits of one native chunk each, to ten arrays."""
    ic = engine("ours")
    storage = ic.local_filesystem_storage(str(path))
    repo = ic.Repository.create(storage, ic.RepositoryConfig(inline_chunk_threshold_bytes=0))
    session = repo.writable_session("main")
    group = zarr.create_group(session.store)
    for n in range(10):
        group.create_array(f"a{n}", shape=(SNAPSHOTS,), chunks=(1,), dtype="i4", compressors=None)
    session.commit("arrays")
    for n in range(SNAPSHOTS):
        session = repo.writable_session("main")
        set_chunk(session, n)
        session.commit(f"{n}")


def set_chunk(session: Any, n: int) -> None:
    sync(session.store.set(f"a{n % 10}/c/{n}", default_buffer_prototype().buffer.from_bytes(b"abcd" * 200)))


def collect(side: Side, path: Path, *, dry_run: bool) -> tuple[int, ...]:
    summary = opened(side, path).garbage_collect(datetime.now(UTC), dry_run=dry_run)
    return summary.chunks_deleted, summary.manifests_deleted, summary.snapshots_deleted


def versions(side: Side, path: Path) -> list[str]:
    return [snapshot.id for snapshot in opened(side, path).ancestry(branch="main")]


def changes(side: Side, path: Path, since: str) -> Any:
    return opened(side, path).diff(from_snapshot_id=since, to_branch="main").updated_chunks


def stale_session(side: Side, path: Path) -> Any:
    """A session that is 200 commits behind, with a change that conflicts with none of them."""
    repo = opened(side, path)
    tip = next(iter(repo.ancestry(branch="main"))).id
    ids = [snapshot.id for snapshot in repo.ancestry(branch="main")][: COMMITS_PASSED + 1]
    repo.reset_branch("main", ids[-1])
    session = repo.writable_session("main")
    set_chunk(session, 1)
    repo.reset_branch("main", tip)
    return session


def benches() -> list[Pair]:
    directory = temporary_directory()
    atexit.register(remove, directory)
    path = directory / "repo"
    write(path)
    expired = directory / "expired"
    shutil.copytree(path, expired)
    opened("ours", expired).expire_snapshots(datetime.now(UTC))
    copies = iter(range(10**6))

    def copy(source: Path) -> Path:
        return Path(shutil.copytree(source, directory / f"copy {next(copies)}"))

    if collect("ours", expired, dry_run=True) != collect("theirs", expired, dry_run=True):
        raise RuntimeError("the libraries find different garbage")
    if len({opened(side, path).total_chunks_storage() for side in SIDES}) != 1:
        raise RuntimeError("the libraries find different sizes")
    ids = versions("ours", path)
    if versions("theirs", path) != ids:
        raise RuntimeError("the libraries find different histories")
    first = ids[-2]
    if changes("ours", path, first) != changes("theirs", path, first):
        raise RuntimeError("the libraries find different changes")
    return [
        Pair(
            "ancestry of 1,000 snapshots",
            ours=lambda _: versions("ours", path),
            theirs=lambda _: versions("theirs", path),
            at_least=1.0,
        ),
        Pair(
            "diff over 1,000 snapshots",
            ours=lambda _: changes("ours", path, first),
            theirs=lambda _: changes("theirs", path, first),
            at_least=1.0,
        ),
        Pair(
            "look for garbage in 1,000 snapshots, find none",
            ours=lambda _: collect("ours", path, dry_run=True),
            theirs=lambda _: collect("theirs", path, dry_run=True),
            at_least=1.0,
        ),
        Pair(
            "collect what 999 expired snapshots leave",
            setup=lambda: copy(expired),
            ours=lambda where: collect("ours", where, dry_run=False),
            theirs=lambda where: collect("theirs", where, dry_run=False),
            at_least=1.0,
        ),
        Pair(
            "bytes of native chunks of 1,000 snapshots",
            ours=lambda _: opened("ours", path).total_chunks_storage(),
            theirs=lambda _: opened("theirs", path).total_chunks_storage(),
            at_least=1.0,
        ),
        Pair(
            "let 1,000 snapshots expire",
            setup=lambda: copy(path),
            ours=lambda where: len(opened("ours", where).expire_snapshots(datetime.now(UTC))),
            theirs=lambda where: len(opened("theirs", where).expire_snapshots(datetime.now(UTC))),
            at_least=1.0,
        ),
        Pair(
            "rebase over 200 commits",
            setup=lambda: {side: stale_session(side, copy(path)) for side in SIDES},
            ours=lambda sessions: sessions["ours"].rebase(engine("ours").ConflictDetector()),
            theirs=lambda sessions: sessions["theirs"].rebase(engine("theirs").ConflictDetector()),
            at_least=1.0,
        ),
    ]
