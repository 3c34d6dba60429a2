"""A real cluster of processes on this machine, reached by loopback only."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import icechunk_virtual as ic
from icechunk_virtual.dask import store_dask
from icechunk_virtual.xarray import to_icechunk
from tests.support.tasks import write_row

da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # a cluster's warnings are its own


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"n_workers": 2, "threads_per_worker": 2, "processes": True, "dashboard_address": None}
        with distributed.LocalCluster(host="127.0.0.1", **options) as cluster, distributed.Client(cluster) as client:
            yield client


@pytest.fixture
def repo(tmp_path: Path) -> Any:
    return ic.Repository.create(ic.local_filesystem_storage(str(tmp_path / "repo")))


def values(repo: Any, path: str) -> Any:
    return zarr.open_array(repo.readonly_session("main").store, path=path, mode="r")[...]


def test_f105_store_dask(repo: Any, client: Any) -> None:
    session = repo.writable_session("main")
    fork = session.fork()
    target = zarr.create_array(fork.store, name="a", shape=(100,), chunks=(1,), dtype="f8")
    target[...] = -1
    session.merge(store_dask(sources=[da.arange(100, chunks=1)], targets=[target], split_every=4))
    session.commit("stored")
    assert values(repo, "a").tolist() == list(range(100))


def test_f106_to_icechunk_and_back(repo: Any, client: Any) -> None:
    data = np.random.default_rng(1).random((12, 5, 4))
    ds = xr.Dataset({name: (("t", "y", "x"), data * i) for i, name in enumerate("abc")}, coords={"t": np.arange(12)})
    session = repo.writable_session("main")
    to_icechunk(ds.chunk(t=2, y=3), session)
    session.commit("written")
    session = repo.writable_session("main")
    to_icechunk(ds.assign_coords(t=np.arange(12, 24)).chunk(t=4), session, append_dim="t")
    session.commit("appended")
    back = xr.open_zarr(repo.readonly_session("main").store, consolidated=False, chunks={"t": 4})
    assert back.isel(t=slice(12)).compute().identical(ds)
    assert float((back.c.isel(t=slice(12, None)) - back.c.isel(t=slice(12)).data).sum()) == 0


def test_f102_forks_by_hand(repo: Any, client: Any) -> None:
    with repo.transaction("main", message="array") as store:
        zarr.create_array(store, name="a", shape=(6, 2), chunks=(1, 2), dtype="f8", fill_value=0)
    session = repo.writable_session("main")
    futures = [client.submit(write_row, session.fork(), "a", row, row + 1.0) for row in range(6)]
    session.merge(*client.gather(futures))
    session.commit("rows")
    assert values(repo, "a")[:, 0].tolist() == [1, 2, 3, 4, 5, 6]
