"""dask arrays into forks: `store_dask`, its schedulers, its errors (more of F105 and F109)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import icechunk_virtual as ic
from icechunk_virtual.dask import (
    computing_meta,
    merge_sessions_array_kwargs,
    store_dask,
)
from icechunk_virtual.requirements import release, require

da = pytest.importorskip("dask.array")


@pytest.fixture
def repo(tmp_path: Path) -> Any:
    return ic.Repository.create(ic.local_filesystem_storage(str(tmp_path / "repo")))


def array_in(session: Any, name: str = "a", *, shape: Any = (8, 6), chunks: Any = (2, 3), **kwargs: Any) -> Any:
    return zarr.create_array(session.store, name=name, shape=shape, chunks=chunks, dtype="f8", **kwargs)


def values(repo: Any, path: str = "a") -> Any:
    return zarr.open_array(repo.readonly_session("main").store, path=path, mode="r")[...]


DATA = np.arange(48.0).reshape(8, 6)


@pytest.mark.parametrize("scheduler", ["sync", "threads", pytest.param("processes", marks=pytest.mark.slow)])
@pytest.mark.parametrize("split_every", [None, 2])
def test_f105_store_dask(repo: Any, scheduler: str, split_every: int | None) -> None:
    session = repo.writable_session("main")
    fork = session.fork()
    targets = [array_in(fork), array_in(fork, "b", shape=(6,), chunks=(1,)), array_in(fork, "c", shape=(), chunks=())]
    sources = [da.from_array(DATA, chunks=(4, 3)), da.arange(6, chunks=2), da.from_array(np.array(5.0))]
    stored = store_dask(sources=sources, targets=targets, split_every=split_every, scheduler=scheduler)
    assert isinstance(stored, ic.ForkSession)
    assert not session.has_uncommitted_changes
    session.merge(stored)
    session.commit("stored")
    assert values(repo).tolist() == DATA.tolist()
    assert values(repo, "b").tolist() == list(range(6))
    assert values(repo, "c").item() == 5


def test_regions(repo: Any) -> None:
    session = repo.writable_session("main")
    fork = session.fork()
    one, other = array_in(fork, fill_value=0), array_in(fork, "b", fill_value=0)
    ones = da.ones((4, 3), chunks=(2, 3))
    session.merge(store_dask(sources=[ones], targets=[one], regions=(slice(2, 6), slice(3, 6))))
    session.commit("one")
    expected = np.zeros((8, 6))
    expected[2:6, 3:6] = 1
    assert values(repo).tolist() == expected.tolist()
    assert other.shape == (8, 6)


def test_regions_one_by_one(repo: Any) -> None:
    session = repo.writable_session("main")
    fork = session.fork()
    targets = [array_in(fork, name, fill_value=0) for name in "ab"]
    regions = [(slice(0, 4), slice(0, 3)), None]
    session.merge(
        store_dask(sources=[da.ones((4, 3), chunks=(2, 3)), da.ones((8, 6))], targets=targets, regions=regions)
    )
    session.commit("both")
    assert (values(repo, "a").sum(), values(repo, "b").sum()) == (12, 48)


@pytest.mark.slow
def test_processes_do_not_bring_back_what_was_overwritten(repo: Any) -> None:
    """The fork has written before; every task inherits that, and none may undo another's work with it."""
    session = repo.writable_session("main")
    fork = session.fork()
    target = array_in(fork)
    target[...] = -1
    stored = store_dask(sources=[da.from_array(DATA, chunks=(2, 3))], targets=[target], scheduler="processes")
    session.merge(stored)
    session.commit("stored")
    assert values(repo).tolist() == DATA.tolist()


def test_targets_of_several_forks(repo: Any) -> None:
    session = repo.writable_session("main")
    targets = [array_in(session.fork(), name) for name in "ab"]
    session.merge(store_dask(sources=[da.ones((8, 6)), da.zeros((8, 6)) + 2], targets=targets))
    session.commit("both")
    assert (values(repo, "a").sum(), values(repo, "b").sum()) == (48, 96)


def test_targets_must_be_in_forks(repo: Any) -> None:
    session = repo.writable_session("main")
    with pytest.raises(TypeError, match=r"merge_sessions only accepts ForkSession objects\. Received 'Session'"):
        store_dask(sources=[da.ones((8, 6))], targets=[array_in(session)])
    with pytest.raises(TypeError, match="not in an IcechunkStore"):
        store_dask(sources=[da.ones(3)], targets=[zarr.create_array({}, shape=(3,), dtype="f8")])
    assert session.status().updated_chunks == {}, "nothing was written"


def test_an_error_of_a_task_is_the_error(repo: Any) -> None:
    def fail(block: Any) -> Any:
        raise ZeroDivisionError("in a task")

    fork = repo.writable_session("main").fork()
    source = da.ones((8, 6), chunks=2).map_blocks(fail, meta=np.empty((0, 0)))
    with pytest.raises(ZeroDivisionError, match="in a task"):
        store_dask(sources=[source], targets=[array_in(fork)])


def test_computing_meta() -> None:
    def function(x: int, *, y: int = 0) -> int:
        return x + y

    wrapped = computing_meta(function)
    assert wrapped(1, y=2) == wrapped(1, y=2, computing_meta=False) == 3
    meta = wrapped(1, computing_meta=True)
    assert (meta.dtype, meta.shape) == (np.dtype(object), (1,))
    assert wrapped.__name__ == "function"


def test_merge_sessions_array_kwargs(repo: Any) -> None:
    session = repo.writable_session("main")
    one, other = session.fork(), session.fork()
    assert merge_sessions_array_kwargs([one, [other]], axis=(0,), keepdims=False) is one


# -- versions --------------------------------------------------------------------------------------------------


def test_no_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask.array", None)
    with pytest.raises(ImportError, match=r"pip install 'icechunk-virtual\[dask\]'"):
        store_dask(sources=[], targets=[])


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("2024.11.0", (2024, 11, 0)), ("2025.6.1.dev3+g0a1", (2025, 6, 1)), ("3", (3,)), ("unknown", ())],
)
def test_release(text: str, numbers: tuple[int, ...]) -> None:
    assert release(text) == numbers


def test_require() -> None:
    require("x", "2.10", "2.9", "It")
    require("x", "2.9", "2.9", "It")
    with pytest.raises(ValueError, match=r"It requires x>=2\.9 but you have 2\.8\.7"):
        require("x", "2.8.7", "2.9", "It")
