"""Distributed writes side by side with the original: what one writes the other reads, and both refuse alike."""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
import xarray as xr
import zarr

import icechunk_virtual
from icechunk_virtual.xarray import to_icechunk
from tests.support.engines import Engine, contents, inspected, kinds_of

da = pytest.importorskip("dask.array")

OURS, THEIRS = Engine("ours", icechunk_virtual), Engine("theirs", icechunk)
pytestmark = pytest.mark.compat


def part(engine: Engine, name: str) -> Any:
    return importlib.import_module(f"{engine.ic.__name__}.{name}")


@pytest.mark.parametrize("engine", [OURS, THEIRS], ids=repr)
def test_store_dask_is_read_by_both(engine: Engine, tmp_path: Path) -> None:
    repo = engine.create(tmp_path)
    session = repo.writable_session("main")
    fork = session.fork()
    targets = [
        zarr.create_array(fork.store, name=name, shape=(40, 50), chunks=(10, size), dtype="f8")
        for name, size in (("native", 50), ("inline", 5))
    ]
    data = np.random.default_rng(0).random((40, 50))
    sources = [da.from_array(data, chunks=(20, 50))] * 2
    session.merge(part(engine, "dask").store_dask(sources=sources, targets=targets, split_every=2))
    id = session.commit("stored")
    ours, theirs = (reader.open(tmp_path) for reader in (OURS, THEIRS))
    for reader in (ours, theirs):
        for name in ("native", "inline"):
            store = reader.readonly_session("main").store
            assert np.array_equal(zarr.open_array(store, path=name, mode="r")[...], data)  # type: ignore[arg-type]
    assert contents(ours.readonly_session(snapshot_id=id)) == contents(theirs.readonly_session(snapshot_id=id))
    assert inspected(ours, id) == inspected(theirs, id)


@pytest.mark.parametrize("chunks", [None, {"time": 2}], ids=["eager", "dask"])
def test_to_icechunk_is_read_by_the_original(tmp_path: Path, chunks: Any) -> None:
    """Its own fails with the newest xarray; with older ones both write the same documents and chunks."""
    ds = xr.Dataset(
        {"t": (("time", "x"), np.arange(60.0).reshape(6, 10), {"units": "K"}), "n": ((), 3)},
        coords={"time": np.arange(6), "x": np.arange(10)},
    )
    repo = OURS.create(tmp_path)
    session = repo.writable_session("main")
    to_icechunk(ds if chunks is None else ds.chunk(chunks), session, group="g")
    session.commit("written")
    store = THEIRS.open(tmp_path).readonly_session("main").store
    assert xr.open_zarr(store, group="g", consolidated=False).load().identical(ds)


def test_what_both_refuse(tmp_path: Path) -> None:
    def ends(engine: Engine) -> list[set[str]]:
        repo = engine.create(tmp_path / engine.name)
        session = repo.writable_session("main")
        zarr.create_array(session.store, name="a", shape=(4,), chunks=(1,), dtype="i4")
        array = zarr.open_array(session.store, path="a")
        distributed, dask = part(engine, "distributed"), part(engine, "dask")
        committed = repo.writable_session("main")
        return [
            kinds_of(engine, session.fork),
            kinds_of(engine, lambda: pickle.dumps(session)),
            kinds_of(engine, lambda: pickle.dumps(session.store)),
            kinds_of(engine, lambda: repo.readonly_session("main").fork()),
            kinds_of(engine, lambda: distributed.merge_sessions(session)),
            kinds_of(engine, distributed.merge_sessions),
            kinds_of(engine, lambda: dask.store_dask(sources=[da.ones(4)], targets=[array])),
            kinds_of(engine, lambda: committed.merge(committed)),
            kinds_of(engine, lambda: committed.fork().commit("x")),
            kinds_of(engine, lambda: committed.fork().flush("x")),
            kinds_of(engine, lambda: committed.fork().merge(committed)),
            kinds_of(engine, lambda: distributed.merge_sessions([[committed.fork()], [committed.fork()]])),
        ]

    assert ends(OURS) == ends(THEIRS)
