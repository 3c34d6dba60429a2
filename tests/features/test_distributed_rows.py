"""Rows of the feature table about forks, dask and xarray (F102 to F109), beside the original where it works.

A cluster of processes is in `tests/unit/test_dask_cluster.py` (slow).
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import multiprocessing
import pickle
import tomllib
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask.array as da
import icechunk
import numpy as np
import pytest
import xarray as xr
import zarr

import icechunk_virtual
import icechunk_virtual.dask
import icechunk_virtual.xarray
from icechunk_virtual import xarray_write
from icechunk_virtual.requirements import release
from icechunk_virtual.xarray import to_icechunk
from tests.support.engines import Engine, get, put
from tests.support.hierarchies import GROUP, array_document, group_document
from tests.support.tasks import is_loadable, read_all, write_row, write_through_store

OURS, ORIGINAL = Engine("ours", icechunk_virtual), Engine("original", icechunk)
each = pytest.mark.parametrize("engine", [OURS, ORIGINAL], ids=repr)
ROOT = Path(__file__).parents[2]


def part(engine: Engine, name: str) -> Any:
    return importlib.import_module(f"{engine.ic.__name__}.{name}")


def make(engine: Engine, root: Path | None) -> Any:
    """A repository with an array `a` of eight rows, a chunk each, all zero."""
    repo = engine.create(root)
    with repo.transaction("main", message="array") as store:
        zarr.create_array(store, name="a", shape=(8, 3), chunks=(1, 3), dtype="f8", fill_value=0)
    return repo


def rows(repo: Any, path: str = "a") -> list[float]:
    """The first value of each row."""
    array: Any = zarr.open_array(repo.readonly_session("main").store, path=path, mode="r")
    found: list[float] = array[:, 0].tolist()
    return found


def sent(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


# -- forks -----------------------------------------------------------------------------------------------------


@each
def test_F102_fork_pickle_merge(engine: Engine, tmp_path: Path) -> None:
    repo = make(engine, tmp_path)
    session = repo.writable_session("main")
    forks = [session.fork() for _ in range(3)]
    assert all(isinstance(fork, engine.ic.ForkSession) and isinstance(fork, engine.ic.Session) for fork in forks)
    back = [sent(write_row(sent(fork), "a", row, row + 1)) for row, fork in enumerate(forks)]
    session.merge(*back)
    session.commit("rows")
    assert rows(repo) == [1, 2, 3, 0, 0, 0, 0, 0]
    session = repo.writable_session("main")
    first, second = session.fork(), session.fork()
    asyncio.run(session.merge_async(write_row(first, "a", 0, 10), write_row(second, "a", 0, 20)))
    assert zarr.open_array(session.store, path="a")[0, 0] == 20, "the later wins"


@each
def test_F102_what_is_refused(engine: Engine, tmp_path: Path) -> None:
    repo = make(engine, tmp_path)
    session = repo.writable_session("main")
    for thing in (session, session.store):
        with pytest.raises(ValueError, match="opt-in to pickle writable sessions"):
            pickle.dumps(thing)
    with pytest.raises(RuntimeError, match="fork"):
        session.allow_pickling()
    with pytest.raises(ValueError, match="should not need to fork a read-only session"):
        repo.readonly_session("main").fork()
    fork = session.fork()
    for verb in ("commit", "flush"):
        with pytest.raises(TypeError, match=f"Cannot {verb}"):
            getattr(fork, verb)("no")
        with pytest.raises(TypeError, match=f"Cannot {verb}"):
            asyncio.run(getattr(fork, f"{verb}_async")("no"))
    with pytest.raises(TypeError, match=r"Sessions can only be merged with a ForkSession.*Received Session instead"):
        session.merge(
            *([write_row(session.fork(), "a", 0, 1)] if engine is OURS else []), repo.writable_session("main")
        )
    assert not session.has_uncommitted_changes, "the original has merged those before"
    with pytest.raises(TypeError, match="A ForkSession can only be merged with another ForkSession"):
        fork.merge(session)
    with pytest.raises(engine.ic.IcechunkError, match="Read only sessions cannot modify"):
        repo.readonly_session("main").merge(fork)
    with (
        pytest.warns(UserWarning, match="Committing a session after forking"),
        pytest.raises(engine.ic.IcechunkError, match="no changes"),
    ):
        session.commit("not merged")
    assert isinstance(fork.fork(), engine.ic.ForkSession)
    session.merge(write_row(fork, "a", 0, 1))
    for dirty in (session, fork):
        with pytest.raises(ValueError, match="Cannot fork a Session with uncommitted changes"):
            dirty.fork()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session.commit("merged")


def test_F102_across_processes(pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    repo = make(OURS, tmp_path)
    session = repo.writable_session("main")
    forks = list(pool.map(write_row, [session.fork() for _ in range(7)], ["a"] * 7, range(7), range(1, 8)))
    assert all(isinstance(fork, icechunk_virtual.ForkSession) for fork in forks)
    by_its_store = pool.submit(write_through_store, session.fork().store, "a", 7, 8.0).result()
    session.merge(*forks, pickle.loads(by_its_store))
    session.commit("rows")
    assert rows(repo) == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    "kinds",
    [("array", "array"), ("group", "array"), ("array", "group"), ("group", "other group"), ("group", "group")],
)
def test_F102_one_path_created_in_two_forks_is_an_error(kinds: tuple[str, str]) -> None:
    """The original drops the chunks of one of them, or lists the path twice."""
    documents = {"array": array_document((4,)), "group": GROUP, "other group": group_document(x=1)}
    session = make(OURS, None).writable_session("main")
    forks = [session.fork(), session.fork()]
    for number, (fork, kind) in enumerate(zip(forks, kinds, strict=True)):
        put(fork.store, f"only{number}/zarr.json", array_document((4,)))
        put(fork.store, "new/zarr.json", documents[kind])
        if kind == "array":
            put(fork.store, f"new/c/{number}", b"x")
    if kinds == ("group", "group"):  # one and the same group: nothing of it can be lost
        session.merge(*forks)
        assert session.status().new_groups == {"/new"}
        return
    with pytest.raises(icechunk_virtual.IcechunkError, match=r"both created a node at `/new`.*before forking"):
        session.merge(*forks)
    assert not session.has_uncommitted_changes, "all or nothing"
    session.merge(forks[0])
    session.commit("one of them")


@each
def test_F103_forks_in_process(engine: Engine, tmp_path: Path) -> None:
    repo = make(engine, tmp_path)
    session = repo.writable_session("main")
    one, other = session.fork(), session.fork()
    write_row(one, "a", 0, 1)
    write_row(other, "a", 1, 2)
    assert one.status().updated_chunks == {"/a": [[0, 0]]}
    assert other.status().updated_chunks == {"/a": [[1, 0]]}
    assert not session.has_uncommitted_changes
    session.merge(one, other)
    session.commit("both")
    assert rows(repo)[:3] == [1, 2, 0]


def test_F103_forks_of_a_repository_in_memory() -> None:
    """Of the original's, forks see an empty store."""
    repo = make(OURS, None)
    session = repo.writable_session("main")
    with ThreadPoolExecutor(4) as threads:
        session.merge(*threads.map(lambda row: write_row(sent(session.fork()), "a", row, row + 1), range(8)))
    session.commit("rows")
    assert rows(repo) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_F103_memory_does_not_leave_the_process(pool: ProcessPoolExecutor) -> None:
    data = pickle.dumps(make(OURS, None).writable_session("main").fork())
    assert "in-memory repository cannot leave the process" in pool.submit(is_loadable, data).result()


@each
def test_F104_stores_unpickle_as_they_were(engine: Engine, tmp_path: Path) -> None:
    ic, prefix = engine.ic, f"file://{tmp_path}/"
    (tmp_path / "f").write_bytes(b"0123456789")
    repo = engine.create(tmp_path / "r", engine.config([prefix]), [prefix])
    with repo.transaction("main", message="virtual") as store:
        put(store, "v/zarr.json", array_document((2,)))
        store.set_virtual_ref("v/c/0", prefix + "f", offset=3, length=1)
    read_only = repo.readonly_session("main")
    for thing in (read_only, read_only.store, read_only.store.session):
        copy = sent(thing)
        store = getattr(copy, "store", copy)
        assert copy.read_only
        assert get(store, "v/c/0") == b"3"
        with pytest.raises(ic.IcechunkError, match="read-only"):
            put(store, "v/c/1", b"x")
    fork = sent(repo.writable_session("main").fork().store)
    put(fork, "v/c/1", b"x")
    again = sent(fork)
    assert not again.read_only
    assert isinstance(again.session, ic.ForkSession)
    assert (get(again, "v/c/0"), get(again, "v/c/1")) == (b"3", b"x")


def test_F104_read_only_stores_in_other_processes(pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    repo = make(OURS, tmp_path)
    with repo.transaction("main", message="values") as store:
        zarr.open_array(store, path="a")[...] = np.arange(24).reshape(8, 3)
    assert pool.submit(read_all, repo.readonly_session("main").store, "a").result() == list(range(24))


def test_F104_everything_of_a_repository_pickles() -> None:
    """The original refuses most of these."""
    ic, repo = OURS.ic, make(OURS, None)
    tip = repo.lookup_branch("main")
    things = [
        OURS.config(["file:///data/"], threshold=3, splits={"a": 2}),
        ic.s3_credentials(access_key_id="k", secret_access_key="s"),
        ic.VirtualChunkSpec([0], "file:///data/f", 0, 1),
        repo.lookup_snapshot(tip),
        repo.diff(from_snapshot_id="1CECHNKREP0F1RSTCMT0", to_snapshot_id=tip),
        ic.BasicConflictSolver(on_chunk_conflict=ic.VersionSelection.UseTheirs),
        ic.ConflictType.ChunkDoubleUpdate,
        repo.storage,
        repo.readonly_session("main"),
    ]
    assert [sent(thing) for thing in things] == things


# -- dask ------------------------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("split_every", [None, 2])
def test_F105_store_dask(engine: Engine, split_every: int | None, tmp_path: Path) -> None:
    distributed, dask = part(engine, "distributed"), part(engine, "dask")
    repo = make(engine, tmp_path)
    session = repo.writable_session("main")
    fork = session.fork()
    targets = [zarr.create_array(fork.store, name=n, shape=(10,), chunks=(1,), dtype="f8") for n in "xy"]
    assert distributed.extract_session(targets[0]) == fork
    sources = [da.ones(10, chunks=1), da.arange(5, chunks=5)]
    written = dask.store_dask(
        sources=sources,
        targets=targets,
        regions=[(slice(0, 10),), (slice(5, 10),)],
        split_every=split_every,
    )
    assert isinstance(written, engine.ic.ForkSession)
    session.merge(written)
    session.commit("stored")
    store = repo.readonly_session("main").store
    assert zarr.open_array(store, path="x", mode="r")[:].tolist() == [1] * 10  # type: ignore[union-attr]
    assert zarr.open_array(store, path="y", mode="r")[:].tolist() == [0] * 5 + [0, 1, 2, 3, 4]  # type: ignore[union-attr]
    with pytest.raises(TypeError, match="merge_sessions only accepts ForkSession objects"):
        dask.store_dask(sources=sources[:1], targets=[zarr.open_array(repo.writable_session("main").store, path="x")])


@each
def test_F105_merge_sessions(engine: Engine, tmp_path: Path) -> None:
    merge_sessions = part(engine, "distributed").merge_sessions
    repo = make(engine, tmp_path)
    session = repo.writable_session("main")
    forks = [write_row(session.fork(), "a", row, row + 1) for row in range(5)]
    merged = merge_sessions(forks[0], [forks[1], [forks[2]]], forks[3:])
    assert merged is forks[0]
    session.merge(merged)
    session.commit("rows")
    assert rows(repo)[:6] == [1, 2, 3, 4, 5, 0]
    with pytest.raises(TypeError, match="merge_sessions only accepts ForkSession objects"):
        merge_sessions(forks[0], [session])
    with pytest.raises(ValueError):
        merge_sessions()


def test_F105_merge_reduction(tmp_path: Path) -> None:
    repo = make(OURS, tmp_path)
    session = repo.writable_session("main")
    target = zarr.open_array(session.fork().store, path="a")
    options = {"compute": False, "return_stored": True, "load_stored": False, "lock": False}
    stored = da.store([da.ones((8, 3), chunks=(1, 3))], [target], **options)
    for arrays in (stored, list(stored) if isinstance(stored, tuple) else [stored]):
        session.merge(icechunk_virtual.dask.session_merge_reduction(arrays, split_every=3, scheduler="sync"))
    session.commit("rows")
    assert rows(repo) == [1] * 8


# -- xarray ----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _foreign_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of xarray and zarr, among themselves
        yield


def dataset(start: int = 0) -> xr.Dataset:
    data = np.arange(24.0).reshape(6, 4) + 100 * start
    return xr.Dataset(
        {"t": (("time", "x"), data, {"units": "K"}), "n": ((), 3)},
        coords={"time": np.arange(6) + start, "x": np.arange(4)},
        attrs={"title": "test"},
    )


def read(repo: Any, group: str | None = None) -> xr.Dataset:
    return xr.open_zarr(repo.readonly_session("main").store, group=group, consolidated=False).load()


def write(repo: Any, obj: Any, **arguments: Any) -> None:
    session = repo.writable_session("main")
    assert to_icechunk(obj, session, **arguments) is None
    session.commit("written")


@pytest.mark.parametrize("chunks", [None, {"time": 2}], ids=["eager", "dask"])
def test_F106_to_icechunk(chunks: Any, tmp_path: Path) -> None:
    def laid(obj: Any) -> Any:
        return obj if chunks is None else obj.chunk(chunks)

    repo = OURS.create(tmp_path)
    write(repo, laid(dataset()), group="g")
    assert read(repo, "g").identical(dataset())
    write(repo, laid(dataset(6)[["t"]]), group="g", append_dim="time")
    assert read(repo, "g").t.identical(xr.concat([dataset().t, dataset(6).t], "time"))
    write(repo, laid(dataset()[["t"]].isel(time=slice(2, 4)) * 10), group="g", region="auto")
    assert read(repo, "g").t[1:5, 0].values.tolist() == [4, 80, 120, 16]
    write(repo, laid(dataset().t.rename("name")), group="array", mode="w", encoding={"name": {"chunks": (2, 4)}})
    store = repo.readonly_session("main").store
    assert xr.open_dataarray(store, engine="zarr", group="array", consolidated=False).identical(
        dataset().t.rename("name")
    )
    with pytest.raises(ValueError, match="The only supported options for mode"):
        write(repo, dataset(), mode="r")
    document = json.loads(get(repo.readonly_session("main").store, "g/zarr.json") or b"")
    assert document.get("consolidated_metadata") is None


def test_F106_sessions_with_changes(tmp_path: Path) -> None:
    repo = OURS.create(tmp_path)
    session = repo.writable_session("main")
    to_icechunk(dataset(), session, group="one")
    with pytest.raises(ValueError, match="not allowed on a Session with uncommitted changes"):
        to_icechunk(dataset().chunk(), session, group="two")
    to_icechunk(dataset(1), session, group="two")
    session.commit("both")
    assert read(repo, "one").identical(dataset())
    assert read(repo, "two").identical(dataset(1))


@each
def test_F106_to_zarr_of_xarray_itself(engine: Engine, tmp_path: Path) -> None:
    """Without processes it does as well."""
    repo = engine.create(tmp_path)
    session = repo.writable_session("main")
    dataset().to_zarr(session.store, group="eager", consolidated=False, zarr_format=3)
    lazy = dataset().chunk(time=2).to_zarr(session.store, group="lazy", consolidated=False, compute=False)
    lazy.compute(scheduler="threads")
    session.commit("written")
    assert read(repo, "eager").identical(dataset())
    assert read(repo, "lazy").identical(dataset())


@pytest.mark.slow
def test_F106_with_processes_of_dask(tmp_path: Path) -> None:
    repo = OURS.create(tmp_path)
    arguments = {"chunkmanager_store_kwargs": {"scheduler": "processes"}, "split_every": 2}
    write(repo, dataset().chunk(time=1), **arguments)
    assert read(repo).identical(dataset())


def test_F107_align_chunks_and_split_every(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = OURS.create(tmp_path)
    arguments: Any = {"encoding": {"t": {"chunks": (4, 4)}}, "split_every": 2}
    with pytest.raises(ValueError, match=r"would overlap multiple [Dd]ask chunks"):
        write(repo, dataset().chunk(time=3), **arguments)
    write(repo, dataset().chunk(time=3), align_chunks=True, **arguments)
    assert read(repo).identical(dataset())
    assert zarr.open_array(repo.readonly_session("main").store, path="t", mode="r").chunks == (4, 4)
    merge, sizes = icechunk_virtual.dask.merge_sessions, []

    def counting(*forks: Any) -> Any:
        sizes.append(count(forks))
        return merge(*forks)

    monkeypatch.setattr(icechunk_virtual.dask, "merge_sessions", counting)
    line = xr.Dataset({"v": ("time", np.arange(9))}).chunk(time=1)
    options = {"chunkmanager_store_kwargs": {"scheduler": "sync"}}
    to_icechunk(line, repo.writable_session("main"), group="line", split_every=3, **options)
    assert sizes.count(3) == 4, "nine tasks make three, and three make one"


def count(forks: Any) -> int:
    return sum(map(count, forks)) if isinstance(forks, list | tuple) else 1


def test_F108_oldest_and_newest_xarray(tmp_path: Path) -> None:
    """`make oldest` runs these tests with the oldest; the original fails with the xarray of today."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["xarray"] == [f"xarray>={xarray_write.OLDEST}"]
    assert "tools/oldest.py all" in (ROOT / "Makefile").read_text()
    assert list(inspect.signature(to_icechunk).parameters) == list(
        inspect.signature(part(ORIGINAL, "xarray").to_icechunk).parameters
    )
    write(OURS.create(tmp_path / "ours"), dataset())
    if release(xr.__version__) >= (2026, 9):
        session = ORIGINAL.create(tmp_path / "original").writable_session("main")
        with pytest.raises(TypeError, match="synchronizer"):
            part(ORIGINAL, "xarray").to_icechunk(dataset(), session)


def test_F109_dask_of_today_and_none_before_2024_11(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = make(OURS, tmp_path)
    target = zarr.open_array(repo.writable_session("main").fork().store, path="a")
    source = da.ones((8, 3), chunks=(1, 3))
    for version in ("2024.10.0", "2024.10.3"):
        monkeypatch.setattr(importlib.import_module("dask"), "__version__", version)
        with pytest.raises(ValueError, match=r"requires dask>=2024\.11\.0"):
            icechunk_virtual.dask.store_dask(sources=[source], targets=[target])
    monkeypatch.setattr(importlib.import_module("dask"), "__version__", "2024.11.0")
    icechunk_virtual.dask.store_dask(sources=[source], targets=[target])
    monkeypatch.undo()
    icechunk_virtual.dask.store_dask(sources=[source], targets=[target])
