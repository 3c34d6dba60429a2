"""Rows of the feature table about maintenance (F096 to F101, B04), side by side with the original where it is cheap."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
import zarr

import icechunk_virtual as ours
from icechunk_virtual.errors import StorageError
from tests.support.faulty import Script, faulty

both = pytest.mark.parametrize("ic", [ours, icechunk], ids=["ours", "original"])
FIRST = "1CECHNKREP0F1RSTCMT0"
FUTURE = timedelta(seconds=1)


def now() -> datetime:
    return datetime.now(UTC)


def make(ic: Any, root: Path, commits: int = 3, **config: Any) -> tuple[Any, list[str]]:
    """An array whose first chunk every commit overwrites: the repository, and the commits' ids."""
    config = {"inline_chunk_threshold_bytes": 0, **config}
    repo = ic.Repository.create(ic.local_filesystem_storage(str(root)), ic.RepositoryConfig(**config))
    session = repo.writable_session("main")
    zarr.create_group(session.store).create_array("a", shape=(4,), chunks=(1,), dtype="i4", compressors=None)
    ids = [session.commit("array")]
    ids += [write(repo, n + 1) for n in range(commits - 1)]
    return repo, ids


def write(repo: Any, value: int, branch: str = "main") -> str:
    session = repo.writable_session(branch)
    zarr.open_group(session.store, mode="r+")["a"][0] = value
    return str(session.commit(f"{value}"))


def value(repo: Any, **version: str) -> int:
    return int(zarr.open_group(repo.readonly_session(**(version or {"branch": "main"})).store, mode="r")["a"][0])


def history(repo: Any, branch: str = "main") -> list[str]:
    return [info.id for info in repo.ancestry(branch=branch)]


def files(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_size for path in root.rglob("*") if path.is_file()}


def reopened(root: Path, ic: Any = ours) -> Any:
    return ic.Repository.open(ic.local_filesystem_storage(str(root)))


# -- expiration ------------------------------------------------------------------------------------------------


@both
def test_F096_old_snapshots_expire(ic: Any, tmp_path: Path) -> None:
    repo, ids = make(ic, tmp_path / "repo")
    before = files(tmp_path / "repo")
    assert repo.expire_snapshots(now() - timedelta(days=1)) == set()
    assert files(tmp_path / "repo") == before
    assert set(repo.expire_snapshots(now())) == set(ids), "tips are among them"
    assert files(tmp_path / "repo").keys() == before.keys(), "the tip is rewritten in place, and nothing is deleted"
    for library in (ours, icechunk):
        again = reopened(tmp_path / "repo", library)
        assert history(again) == [ids[-1], FIRST]
        assert value(again) == len(ids) - 1
        assert value(again, snapshot_id=ids[1]) == 1
    assert reopened(tmp_path / "repo", ic).expire_snapshots(now() + timedelta(days=365)) == set()


@both
def test_F096_the_oldest_that_is_young_enough_follows_the_first(ic: Any, tmp_path: Path) -> None:
    """For every ref on its own, tags included."""
    repo, ids = make(ic, tmp_path / "repo", 3)
    repo.create_branch("side", ids[1])
    repo.create_tag("tag", ids[0])
    moment = now()
    late = [write(repo, 10), write(repo, 11), write(repo, 20, "side")]
    expired = repo.expire_snapshots(moment)
    assert set(expired) == set(ids)
    repo = reopened(tmp_path / "repo", ic)
    assert history(repo) == [late[1], late[0], FIRST]
    assert history(repo, "side") == [late[2], FIRST]
    assert [info.id for info in repo.ancestry(tag="tag")] == [ids[0], FIRST]
    assert [value(repo), value(repo, branch="side"), value(repo, tag="tag")] == [11, 20, 0]


@both
def test_F097_expired_branches_and_tags_go(ic: Any, tmp_path: Path) -> None:
    repo, ids = make(ic, tmp_path / "repo")
    repo.create_tag("old", ids[1])
    repo.create_branch("old", ids[1])
    moment = now()
    write(repo, 9)
    repo.create_tag("new", repo.lookup_branch("main"))
    repo.expire_snapshots(moment)
    assert (repo.list_tags(), repo.list_branches()) == ({"old", "new"}, {"main", "old"})
    repo.expire_snapshots(moment, delete_expired_branches=True)
    assert (repo.list_tags(), repo.list_branches()) == ({"old", "new"}, {"main"})
    repo.expire_snapshots(moment, delete_expired_tags=True)
    assert (repo.list_tags(), repo.list_branches()) == ({"new"}, {"main"})
    repo.expire_snapshots(now(), delete_expired_branches=True, delete_expired_tags=True)
    assert (repo.list_tags(), repo.list_branches()) == (set(), {"main"}), "main stays, however old"


# -- garbage ---------------------------------------------------------------------------------------------------

COUNTS = [f"{what}_deleted" for what in ("bytes", "chunks", "manifests", "snapshots", "attributes", "transaction_logs")]


def numbers(summary: Any) -> list[int]:
    return [getattr(summary, name) for name in COUNTS]


def test_F098_garbage_is_collected(tmp_path: Path) -> None:
    """By either library from equal repositories: the same files go."""
    make(ours, tmp_path / "ours")[0].expire_snapshots(now())
    shutil.copytree(tmp_path / "ours", tmp_path / "original")
    before, left, summaries = files(tmp_path / "ours"), [], []
    for name, library in (("ours", ours), ("original", icechunk)):
        root = tmp_path / name
        repo = reopened(root, library)
        assert value(repo) == 2, "manifests and chunks are in the caches"
        summary = repo.garbage_collect(
            now() + FUTURE,
            max_snapshots_in_memory=1,
            max_compressed_manifest_mem_bytes=1000,
            max_concurrent_manifest_fetches=1,
        )
        left.append(files(root).keys())
        summaries.append(numbers(summary))
        assert summary.bytes_deleted == sum(before.values()) - sum(files(root).values()) > 0
        assert value(repo) == 2
        assert write(repo, 7) == repo.lookup_branch("main"), "the repository stays usable"
        assert value(repo) == 7
    assert left[0] == left[1]
    assert summaries[0] == summaries[1]
    assert summaries[0][1:] == [1, 1, 2, 0, 2]


def test_F098_expiration_and_collection_of_the_same_moment(tmp_path: Path) -> None:
    """What expiration has rewritten is as old as before, and stays: refs lead to it."""
    repo, ids = make(ours, tmp_path / "repo")
    moment = now()
    repo.expire_snapshots(moment)
    repo.garbage_collect(moment)
    for library in (ours, icechunk):
        again = reopened(tmp_path / "repo", library)
        assert history(again) == [ids[-1], FIRST]
        assert value(again) == 2
    assert not {name for name in files(tmp_path / "repo") if name.endswith((ids[0], ids[1]))}


def test_F098_open_commit_windows_keep_what_they_need(tmp_path: Path) -> None:
    """Chunks of an open session, and a version that no ref leads to yet, are younger than the given moment."""
    repo, _ = make(ours, tmp_path / "repo")
    moment = now()
    time.sleep(0.05)  # the times of files come from a clock that ticks
    session, flushed = repo.writable_session("main"), repo.writable_session("main")
    for number, each in enumerate((session, flushed)):
        zarr.open_group(each.store, mode="r+")["a"][number + 1] = 5
    waiting = flushed.flush("no ref leads to it")
    repo.garbage_collect(moment)
    session.commit("later")
    repo.create_branch("waiting", waiting)
    for library in (ours, icechunk):
        again = reopened(tmp_path / "repo", library)
        for branch, expected in (("main", [2, 5, 0, 0]), ("waiting", [2, 0, 5, 0])):
            array = zarr.open_group(again.readonly_session(branch).store, mode="r")["a"]
            assert np.asarray(array[:]).tolist() == expected


@both
def test_F099_dry_run(ic: Any, tmp_path: Path) -> None:
    repo, _ = make(ic, tmp_path / "repo")
    repo.expire_snapshots(now())
    before = files(tmp_path / "repo")
    planned = repo.garbage_collect(now() + FUTURE, dry_run=True)
    assert files(tmp_path / "repo") == before
    assert numbers(repo.garbage_collect(now() + FUTURE)) == numbers(planned)
    assert planned.bytes_deleted == sum(before.values()) - sum(files(tmp_path / "repo").values()) > 0
    assert numbers(repo.garbage_collect(now() + FUTURE, dry_run=True)) == [0] * 6
    assert numbers(asyncio.run(repo.garbage_collect_async(now() + FUTURE, dry_run=True))) == [0] * 6


# -- logs ------------------------------------------------------------------------------------------------------


def test_F100_phases_and_refs_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    repo, ids = make(ours, tmp_path / "repo")
    repo.create_tag("v1", ids[0])
    with caplog.at_level(logging.INFO, "icechunk_virtual"):
        repo.expire_snapshots(now(), delete_expired_tags=True)
        repo.garbage_collect(now() + FUTURE)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert 8 <= len(lines) <= 16
    for text in ("expiration: tag 'v1' deleted", "expiration: branch 'main' releases 3 versions", "objects to delete"):
        assert [line for line in lines if text in line], text
    assert "snapshots_deleted=2" in lines[-1]


class StuckChunk(Script):
    """Nothing can delete one chunk."""

    stuck = ""

    def next(self, operation: str, key: str) -> bool:
        super().next(operation, key)
        return operation == "delete" and self.stuck in key.split()


def test_F100_a_failed_deletion_is_logged_and_the_rest_goes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "repo"
    make(ours, root, 6)[0].expire_snapshots(now())
    before = files(root)
    script = StuckChunk(error=StorageError)
    repo = ours.Repository.open(faulty(ours.local_filesystem_storage(str(root)), script))
    planned = repo.garbage_collect(now() + FUTURE, dry_run=True)
    used = {name for name in before if name.startswith("chunks/")}
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    reopened(copy).garbage_collect(now() + FUTURE)
    script.stuck = min(used - files(copy).keys())
    with caplog.at_level(logging.WARNING):
        done = repo.garbage_collect(now() + FUTURE)
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert script.stuck in errors[0]
    assert files(root).keys() == files(copy).keys() | {script.stuck}
    assert done.chunks_deleted == planned.chunks_deleted - 1 == 3
    assert done.bytes_deleted == planned.bytes_deleted - 4
    assert value(repo) == 5


# -- sizes -----------------------------------------------------------------------------------------------------


@both
def test_F101_bytes_of_native_chunks(ic: Any, tmp_path: Path) -> None:
    """Of all versions that refs lead to, each object once; inline and virtual ones do not count."""
    root = tmp_path / "repo"
    (tmp_path / "x.bin").write_bytes(b"12345678")
    config = ic.RepositoryConfig(inline_chunk_threshold_bytes=3)
    place = f"file://{tmp_path}/"
    config.set_virtual_chunk_container(ic.VirtualChunkContainer(place, ic.local_filesystem_store(str(tmp_path))))
    repo = ic.Repository.create(
        ic.local_filesystem_storage(str(root)), config, ic.containers_credentials({place: None})
    )
    session = repo.writable_session("main")
    group = zarr.create_group(session.store)
    group.create_array("a", shape=(4,), chunks=(1,), dtype="i4", compressors=None)[1] = 1
    group.create_array("small", shape=(4,), chunks=(1,), dtype="u1", compressors=None)[:] = 1
    group.create_array("virtual", shape=(2,), chunks=(1,), dtype="i4", compressors=None)
    session.store.set_virtual_ref("virtual/c/0", f"{place}x.bin", offset=0, length=4)
    repo.create_branch("other", session.commit("all kinds"))
    write(repo, 5)
    write(repo, 6, "other")
    lost = write(repo, 7, "other")
    repo.create_tag("kept", lost)
    assert repo.total_chunks_storage() == 16
    repo.garbage_collect(now() + FUTURE)
    chunks = {name: size for name, size in files(root).items() if name.startswith("chunks/")}
    limits = {
        "max_snapshots_in_memory": 1,
        "max_compressed_manifest_mem_bytes": 1,
        "max_concurrent_manifest_fetches": 1,
    }
    for total in (repo.total_chunks_storage(), repo.total_chunks_storage(**limits)):
        assert total == sum(chunks.values()) == 16
    assert asyncio.run(repo.total_chunks_storage_async()) == 16
    assert reopened(root, icechunk).total_chunks_storage() == 16


def test_B04_bytes_by_kind(tmp_path: Path) -> None:
    repo, _ = make(ours, tmp_path / "repo", 4)
    assert repo.chunk_storage_stats() == ours.ChunkStorageStats(native_bytes=12)
    inline, _ = make(ours, tmp_path / "inline", 4, inline_chunk_threshold_bytes=4)
    assert inline.chunk_storage_stats() == ours.ChunkStorageStats(inlined_bytes=12)
