"""xarray objects into sessions: `to_icechunk` (more of F106 and F107)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

import icechunk_virtual as ic
from icechunk_virtual.xarray import to_icechunk
from tests.support.engines import keys_of

pytest.importorskip("dask.array")

CHUNKED = pytest.mark.parametrize("chunks", [None, {"time": 2}], ids=["eager", "dask"])


@pytest.fixture(autouse=True)
def _foreign_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of xarray and zarr, among themselves
        yield


@pytest.fixture
def repo(tmp_path: Path) -> Any:
    return ic.Repository.create(ic.local_filesystem_storage(str(tmp_path / "repo")))


@pytest.fixture
def ds() -> xr.Dataset:
    return xr.Dataset(
        {
            "t": (("time", "x"), np.arange(24.0).reshape(6, 4), {"units": "K"}),
            "u": (("time", "x"), np.arange(24).reshape(6, 4)),
            "scalar": ((), 3.0),
        },
        coords={"time": pd.date_range("2020-01-01", periods=6), "x": np.arange(4)},
        attrs={"title": "test"},
    )


def read(repo: Any, group: str | None = None) -> xr.Dataset:
    store = repo.readonly_session("main").store
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about data types that the Zarr specification lacks
        return xr.open_zarr(store, group=group, consolidated=False, zarr_format=3).load()


def write(repo: Any, obj: Any, **kwargs: Any) -> None:
    session = repo.writable_session("main")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Zarr V3 specification.*")
        assert to_icechunk(obj, session, **kwargs) is None
    session.commit("written")


def chunk(obj: Any, chunks: Any) -> Any:
    return obj if chunks is None else obj.chunk(chunks)


# -- round trips -----------------------------------------------------------------------------------------------


@CHUNKED
@pytest.mark.parametrize("group", [None, "g", "deep/er/group"])
def test_f106_round_trip(repo: Any, ds: xr.Dataset, chunks: Any, group: str | None) -> None:
    write(repo, chunk(ds, chunks), group=group)
    assert read(repo, group).identical(ds)
    assert not any("consolidated" in key for key in keys_of(repo.readonly_session("main").store))


@pytest.mark.parametrize("scheduler", ["sync", "threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_f106_schedulers(repo: Any, ds: xr.Dataset, scheduler: str) -> None:
    write(repo, ds.chunk(time=2, x=2), chunkmanager_store_kwargs={"scheduler": scheduler}, split_every=2)
    assert read(repo).identical(ds)


@CHUNKED
@pytest.mark.parametrize("name", [None, "t", "x", "time"])
def test_f106_data_arrays(repo: Any, ds: xr.Dataset, chunks: Any, name: str | None) -> None:
    array = ds["t"].rename(name) if name != "t" else ds["t"]
    write(repo, chunk(array, chunks))
    store = repo.readonly_session("main").store
    back = xr.open_dataarray(store, engine="zarr", consolidated=False)  # type: ignore[arg-type]
    assert back.identical(array)


def test_encoding(repo: Any, ds: xr.Dataset) -> None:
    write(
        repo,
        ds.chunk(time=3),
        encoding={"t": {"chunks": (3, 2), "dtype": "int16", "scale_factor": 0.5, "_FillValue": -1}},
    )
    array = zarr.open_array(repo.readonly_session("main").store, path="t", mode="r")
    assert (array.chunks, array.dtype) == ((3, 2), np.dtype("int16"))
    assert read(repo).t.values.tolist() == ds.t.values.tolist()
    with pytest.raises(ValueError, match="'t' already exists, but encoding was provided"):
        to_icechunk(ds, repo.writable_session("main"), mode="a", encoding={"t": {"dtype": "int16"}})


def test_arrays_without_elements(repo: Any) -> None:
    empty = xr.Dataset({"e": (("z",), np.zeros(0)), "f": (("z", "y"), np.zeros((0, 3)))})
    write(repo, empty.chunk())
    assert read(repo).identical(empty)


# -- modes -----------------------------------------------------------------------------------------------------


@CHUNKED
def test_f106_modes(repo: Any, ds: xr.Dataset, chunks: Any) -> None:
    write(repo, chunk(ds, chunks))
    with pytest.raises((FileExistsError, zarr.errors.ContainsGroupError)):  # type: ignore[attr-defined]
        to_icechunk(chunk(ds, chunks), repo.writable_session("main"))
    write(repo, chunk(ds[["u"]] + 1, chunks), mode="a")
    assert read(repo).u.values.tolist() == (ds.u + 1).values.tolist()
    assert "t" in read(repo)
    write(repo, chunk(ds[["u"]], chunks), mode="r+")
    assert read(repo).u.values.tolist() == ds.u.values.tolist()
    with pytest.raises(ValueError, match=r"r\+"):
        to_icechunk(chunk(ds.rename(u="v")[["v"]], chunks), repo.writable_session("main"), mode="r+")
    write(repo, chunk(ds[["u"]], chunks), mode="w")
    assert set(read(repo).data_vars) == {"u"}


@CHUNKED
def test_f106_append(repo: Any, ds: xr.Dataset, chunks: Any) -> None:
    write(repo, chunk(ds, chunks))
    later = ds.assign_coords(time=pd.date_range("2020-01-07", periods=6))
    write(repo, chunk(later.drop_vars("scalar"), chunks), append_dim="time")
    expected = xr.concat([ds[["t", "u"]], later[["t", "u"]]], dim="time")
    assert read(repo)[["t", "u"]].equals(expected)
    write(repo, chunk(later.assign(scalar=4.0), chunks), append_dim="time", mode="a-")
    assert read(repo).sizes["time"] == 18
    assert read(repo).scalar == 3, "a- leaves alone what has no such dimension"


@CHUNKED
def test_f106_regions(repo: Any, ds: xr.Dataset, chunks: Any) -> None:
    write(repo, chunk(ds, {"time": 2}))
    part = ds[["t"]].isel(time=slice(2, 4))
    write(repo, chunk(part * 10, chunks), region="auto")
    write(repo, chunk((part * 100).drop_vars("x"), chunks), region={"time": slice(4, 6)})
    write(repo, chunk(part * 1000, chunks), region={"time": "auto", "x": slice(0, 4)})
    expected = ds.t.values.copy()
    expected[4:6] = expected[2:4] * 100
    expected[2:4] *= 1000
    assert read(repo).t.values.tolist() == expected.tolist()
    with pytest.raises(ValueError, match="at least one dimension in common"):
        to_icechunk(chunk(ds, chunks), repo.writable_session("main"), region={"time": slice(0, 6)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"append_dim": "time", "mode": "w"}, "cannot set append_dim unless"),
        ({"append_dim": "time", "mode": "r+"}, "cannot set append_dim unless"),
        ({"region": {"time": slice(0, 2)}, "mode": "w"}, "cannot set region unless"),
    ],
)
def test_arguments_that_contradict(repo: Any, ds: xr.Dataset, arguments: Any, message: str) -> None:
    write(repo, ds)
    with pytest.raises(ValueError, match=message):
        to_icechunk(ds[["t"]], repo.writable_session("main"), **arguments)


# -- sessions --------------------------------------------------------------------------------------------------


def test_forks_are_sessions_too(repo: Any, ds: xr.Dataset) -> None:
    session = repo.writable_session("main")
    forks = [session.fork(), session.fork()]
    to_icechunk(ds[["t"]], forks[0], group="one")
    to_icechunk(ds[["u"]].chunk(time=3), forks[1], group="two")
    session.merge(*forks)
    session.commit("both")
    assert read(repo, "two").identical(ds[["u"]])


def test_what_is_no_writable_session(repo: Any, ds: xr.Dataset) -> None:
    for obj in (ds, ds.chunk()):
        with pytest.raises(AttributeError):
            to_icechunk(obj, repo.writable_session("main").store)
    with pytest.raises(ValueError, match="Store is read-only but mode is 'w-'"):
        to_icechunk(ds, repo.readonly_session("main"))
    with pytest.raises(ValueError, match="read-only"):
        to_icechunk(ds.chunk(), repo.readonly_session("main"))


def test_a_failed_write_changes_nothing(repo: Any, ds: xr.Dataset) -> None:
    def fail(block: Any) -> Any:
        raise ZeroDivisionError

    session = repo.writable_session("main")
    bad = ds.chunk(time=2).assign(bad=(("time", "x"), ds.t.chunk().data.map_blocks(fail, dtype="f8")))
    with pytest.raises(ZeroDivisionError):
        to_icechunk(bad, session)
    assert not session.has_uncommitted_changes
    to_icechunk(ds, session)
    session.commit("no warning about a fork that was not merged")
    assert read(repo).identical(ds)


# -- chunks ----------------------------------------------------------------------------------------------------


def test_chunks_that_two_tasks_write(repo: Any, ds: xr.Dataset) -> None:
    one_by_one = {"scheduler": "sync"}
    encoding = {"t": {"chunks": (4, 4)}}
    write(repo, ds[["t"]].chunk(time=3), encoding=encoding, safe_chunks=False, chunkmanager_store_kwargs=one_by_one)
    assert read(repo).identical(ds[["t"]])
