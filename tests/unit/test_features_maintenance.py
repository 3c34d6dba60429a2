"""Rows of the feature table about maintenance, by their ids."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import zarr

import icechunk_virtual as ic


def now() -> datetime:
    return datetime.now(UTC)


def make(storage: ic.Storage | None = None, **config: Any) -> ic.Repository:
    repo = ic.Repository.create(storage or ic.in_memory_storage(), ic.RepositoryConfig(**config))
    session = repo.writable_session("main")
    zarr.create_group(session.store).create_array("a", shape=(8, 8), chunks=(1, 1), dtype="i4", compressors=None)
    session.commit("0")
    return repo


def edit(session: ic.Session, at: Any, value: int) -> ic.Session:
    zarr.open_group(session.store, mode="r+")["a"][at] = value
    return session


def value(repo: ic.Repository, at: Any) -> Any:
    return zarr.open_group(repo.readonly_session("main").store, mode="r")["a"][at]


def commits(repo: ic.Repository, count: int) -> list[str]:
    return [edit(repo.writable_session("main"), (0, 0), n + 1).commit(f"{n + 1}") for n in range(count)]


def test_F096_snapshots_expire() -> None:
    repo = make()
    ids = commits(repo, 3)
    assert repo.expire_snapshots(now() - timedelta(days=1)) == set()
    expired = repo.expire_snapshots(now() + timedelta(days=1))
    assert set(ids) <= expired
    history = [s.id for s in repo.ancestry(branch="main")]
    assert history == [ids[-1], "1CECHNKREP0F1RSTCMT0"]
    assert repo.expire_snapshots(now()) == set()
    assert value(repo, (0, 0)) == 3


def test_F097_refs_expire() -> None:
    repo = make()
    ids = commits(repo, 2)
    repo.create_tag("old", ids[0])
    repo.create_branch("old", ids[0])
    repo.expire_snapshots(now())
    assert (repo.list_tags(), repo.list_branches()) == ({"old"}, {"main", "old"})
    repo.expire_snapshots(now(), delete_expired_branches=True, delete_expired_tags=True)
    assert (repo.list_tags(), repo.list_branches()) == (set(), {"main"})


def test_F098_garbage_is_collected_F099_dry_run(tmp_path: Path) -> None:
    repo = make(ic.local_filesystem_storage(str(tmp_path)), inline_chunk_threshold_bytes=0)
    commits(repo, 3)
    repo.expire_snapshots(now())

    def files() -> dict[Path, int]:
        return {path: path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()}

    before = files()
    planned = repo.garbage_collect(now() + timedelta(seconds=1), dry_run=True)
    assert files() == before
    done = repo.garbage_collect(now() + timedelta(seconds=1))
    assert done == planned
    assert done.bytes_deleted == sum(before.values()) - sum(files().values()) > 0
    assert (done.chunks_deleted, done.snapshots_deleted, done.transaction_logs_deleted) == (2, 3, 3)
    assert done.attributes_deleted == 0
    assert value(repo, (0, 0)) == 3


def test_F100_what_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    repo = make()
    commits(repo, 2)
    with caplog.at_level(logging.INFO):
        repo.expire_snapshots(now())
        repo.garbage_collect(now())
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.INFO]
    assert len(lines) >= 6
    assert any("'main'" in line for line in lines)


def test_F101_bytes_of_native_chunks(tmp_path: Path) -> None:
    repo = make(ic.local_filesystem_storage(str(tmp_path)), inline_chunk_threshold_bytes=0)
    commits(repo, 3)
    repo.garbage_collect(now())
    size = sum(path.stat().st_size for path in (tmp_path / "chunks").iterdir())
    assert repo.total_chunks_storage() == size == 12


def test_B04_bytes_by_kind() -> None:
    repo = make(inline_chunk_threshold_bytes=0)
    commits(repo, 3)
    assert repo.chunk_storage_stats() == ic.ChunkStorageStats(native_bytes=12)
