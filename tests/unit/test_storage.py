"""Storages: pickling, reprs, defaults, paths."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from icechunk_virtual.errors import IcechunkError, ReadOnlyError, StorageError
from icechunk_virtual.repo.settings import (
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
)
from icechunk_virtual.storage import Storage, in_memory_storage, local_filesystem_storage

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def test_default_settings() -> None:
    memory, local = in_memory_storage(), local_filesystem_storage("x")
    assert memory.default_settings().concurrency == StorageConcurrencySettings(5, 1)
    assert local.default_settings().concurrency == StorageConcurrencySettings(5, 4096)
    assert local.default_settings().retries == StorageRetriesSettings(1, 0, 0)
    changed = memory.default_settings()
    changed.storage_class = "X"
    assert memory.default_settings() != changed


def test_partial_settings_do_not_lose_the_defaults(tmp_path: Path) -> None:
    store = local_filesystem_storage(tmp_path).object_store(StorageSettings(retries=StorageRetriesSettings(5)))
    run(store.put_new("k", b"1"))


def test_repr(tmp_path: Path) -> None:
    assert str(tmp_path) in repr(local_filesystem_storage(tmp_path))
    assert "memory" in repr(in_memory_storage())


@pytest.mark.parametrize("path", ["", b""])
def test_refused_paths(path: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        local_filesystem_storage(path)


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relative = local_filesystem_storage("repo")
    assert relative == local_filesystem_storage(tmp_path / "repo") == local_filesystem_storage(str(tmp_path / "repo/"))
    assert hash(relative) == hash(local_filesystem_storage(tmp_path / "repo"))
    assert not (tmp_path / "repo").exists()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    run(relative.object_store().put("k", b"1"))
    assert (tmp_path / "repo/k").exists()
    run(local_filesystem_storage("~").object_store().put("k", b"1"))
    assert (tmp_path / "elsewhere/~/k").exists()


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = local_filesystem_storage(tmp_path / "file").object_store()
    with pytest.raises(StorageError):
        run(store.put("k", b"1"))
    with pytest.raises(StorageError):
        run(store.get("k"))


def test_pickling_local(tmp_path: Path) -> None:
    storage = local_filesystem_storage(tmp_path)
    copy = pickle.loads(pickle.dumps(storage))
    assert copy == storage
    assert isinstance(copy, Storage)


def test_pickling_memory_shares() -> None:
    storage = in_memory_storage()
    copy = pickle.loads(pickle.dumps(storage))
    run(copy.object_store().put("k", b"1"))
    assert run(storage.object_store().get("k")) == b"1"
    assert copy == storage
    data = pickle.dumps(storage)
    del storage
    assert run(pickle.loads(data).object_store().get("k")) == b"1"
    del copy
    gc.collect()
    with pytest.raises(IcechunkError, match="in-memory repository cannot leave the process"):
        pickle.loads(data)


def test_an_open_store_keeps_the_memory() -> None:
    storage = in_memory_storage()
    store = storage.object_store()
    run(store.put("k", b"1"))
    data = pickle.dumps(storage)
    del storage
    gc.collect()
    assert run(pickle.loads(data).object_store().get("k")) == b"1"


def test_memory_in_another_process() -> None:
    data = pickle.dumps(in_memory_storage())
    code = f"import pickle; pickle.loads({data!r})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode != 0
    assert "cannot leave the process" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="forks")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_memory_in_a_forked_child_can_be_read_only() -> None:
    storage = in_memory_storage()
    store = storage.object_store()
    run(store.put("k", b"1"))
    data = pickle.dumps(storage)

    def child() -> None:
        assert run(store.get("k")) == b"1"
        for writer in (store, pickle.loads(data).object_store()):
            for attempt in (writer.put("k", b"2"), writer.put_new("l", b"2"), writer.delete(["k"])):
                with pytest.raises(ReadOnlyError, match="fork of that process"):
                    run(attempt)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0
