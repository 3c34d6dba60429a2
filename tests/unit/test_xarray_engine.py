"""The xarray engine: repositories by path and URL, versions, groups, authorisation."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import xarray as xr

import icechunk_virtual as icv
from icechunk_virtual.cli import main
from icechunk_virtual.errors import NotAuthorized, RefNotFound, RepositoryNotFound
from icechunk_virtual.opening import granted, local_folder, moment, open_repository
from tests.support.archives import write_days

ENGINE = "icechunk-virtual"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a repository of two versions (20 and 30 days), the first one tagged v1."""
    folder = tmp_path_factory.mktemp("archive")
    write_days(folder / "a.nc", 0, 20)
    write_days(folder / "b.nc", 20, 10)
    repo = str(folder / "r")
    assert main(["scan", str(folder / "a.nc"), "--repo", repo]) == 0
    opened = open_repository(repo)
    opened.create_tag("v1", opened.lookup_branch("main"))
    assert main(["scan", str(folder / "b.nc"), "--repo", repo, "--append-dim", "time"]) == 0
    return folder


@pytest.fixture
def grant(archive: Path) -> str:
    return archive.as_uri() + "/"


def test_engine_is_known() -> None:
    assert ENGINE in xr.backends.list_engines()


def test_values(archive: Path, grant: str) -> None:
    found = xr.open_dataset(archive / "r", engine=ENGINE, authorize=grant)
    parts = [xr.open_dataset(archive / name) for name in ("a.nc", "b.nc")]
    expected = xr.concat(parts, dim="time", data_vars="minimal", coords="minimal", compat="override")
    xr.testing.assert_identical(found.load(), expected.load())
    for part in parts:
        part.close()


@pytest.mark.parametrize("form", ["path", "text", "url", "repository", "relative"])
def test_ways_to_name_a_repository(archive: Path, grant: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive / "r"
    monkeypatch.chdir(archive)
    if form == "repository":
        found = xr.open_dataset(open_repository(path, authorize=grant), engine=ENGINE)
    else:
        name = {"path": path, "text": str(path), "url": path.as_uri(), "relative": "r"}[form]
        found = xr.open_dataset(name, engine=ENGINE, authorize=[grant])
    assert found.temp[0, 0, 0].notnull()


def test_engine_is_guessed(archive: Path, grant: str) -> None:
    assert xr.open_dataset(archive / "r", authorize=grant).sizes["time"] == 30


def test_versions(archive: Path) -> None:
    def days(**version: object) -> int:
        return xr.open_dataset(archive / "r", engine=ENGINE, **version).sizes.get("time", 0)

    history = list(open_repository(archive / "r").ancestry(branch="main"))
    first = history[1].written_at + timedelta(microseconds=1)
    assert days() == days(branch="main") == 30
    assert days(tag="v1") == days(snapshot_id=history[1].id) == 20
    assert days(as_of=first) == days(branch="main", as_of=first.isoformat()) == 20
    assert days(as_of=first.replace(tzinfo=None).isoformat()) == 20
    assert days(as_of="2999-01-01") == 30
    with pytest.raises(RefNotFound):
        days(tag="v2")
    with pytest.raises(ValueError, match="one of"):
        days(tag="v1", branch="main")
    with pytest.raises(ValueError, match="isoformat"):
        days(as_of="yesterday")


def test_groups_and_trees(archive: Path, grant: str) -> None:
    assert list(xr.open_dataset(archive / "r", engine=ENGINE, group="daily")) == ["rain"]
    tree = xr.open_datatree(archive / "r", engine=ENGINE, authorize=grant)
    with xr.open_datatree(archive / "a.nc") as expected:
        xr.testing.assert_identical(tree["daily"].rain[:20].load(), expected["daily"].rain.load())
    groups = xr.open_groups(archive / "r", engine=ENGINE, authorize=grant)
    assert sorted(groups) == ["/", "/daily"]


def test_decoding_is_the_users(archive: Path) -> None:
    raw = xr.open_dataset(archive / "r", engine=ENGINE, decode_times=False, drop_variables="temp")
    assert raw.time.attrs["units"] == "days since 2000-01-01"
    assert "temp" not in raw


def test_nothing_is_read_without_authorisation(archive: Path, grant: str) -> None:
    found = xr.open_dataset(archive / "r", engine=ENGINE)
    with pytest.raises(NotAuthorized) as caught:
        found.temp.load()
    assert f'authorize=["{grant}"]' in str(caught.value)


def test_dask_and_pickle(archive: Path, grant: str) -> None:
    lazy = xr.open_dataset(archive / "r", engine=ENGINE, authorize=grant, chunks={"time": 10})
    again = pickle.loads(pickle.dumps(lazy))
    xr.testing.assert_identical(again.compute(), lazy.compute())


def test_refusals(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(RepositoryNotFound):
        xr.open_dataset(tmp_path, engine=ENGINE)
    with pytest.raises(ValueError, match="no repositories at ftp:// URLs"):
        xr.open_dataset("ftp://b/r", engine=ENGINE)
    with pytest.raises(ValueError, match="already"):
        xr.open_dataset(open_repository(archive / "r"), engine=ENGINE, authorize=["file:///x/"])


@pytest.mark.filterwarnings("ignore:Numcodecs codecs")
def test_open_zarr(archive: Path, grant: str) -> None:
    session = open_repository(archive / "r", authorize=[grant]).readonly_session("main")
    assert xr.open_zarr(session.store, consolidated=False).temp.notnull().all()


# -- names and moments -----------------------------------------------------------------------------------------


def test_grants() -> None:
    assert granted(None) == {}
    assert granted("file:///a/") == {"file:///a/": None}
    assert granted(["a", "b"]) == {"a": None, "b": None}
    key = icv.s3_anonymous_credentials()
    assert granted({"a": key, "b": None}) == granted(icv.containers_credentials({"a": key, "b": None}))
    with pytest.raises(ValueError, match="Unknown credential type"):
        granted({"a": 1})


def test_folders() -> None:
    assert local_folder("file:///a%20b/c") == Path("/a b/c")
    assert local_folder("a/b") == Path("a/b")
    assert local_folder("s3://b/r") is None
    assert local_folder("~/r") == Path.home() / "r"


def test_moments() -> None:
    assert moment("2024-01-02") == datetime(2024, 1, 2, tzinfo=UTC)
    assert moment("2024-01-02T03:00+01:00") == datetime(2024, 1, 2, 2, tzinfo=UTC)
    with pytest.raises(ValueError):
        moment("soon")


def test_repository_type(archive: Path) -> None:
    assert isinstance(open_repository(archive / "r"), icv.Repository)
