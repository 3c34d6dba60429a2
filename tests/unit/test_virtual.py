"""`scan` and `VirtualDataset`: which files are taken, what is said about them, which containers they need."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import icechunk_virtual as icv
from icechunk_virtual.errors import InconsistentFiles, ScanError, UnknownFileFormat
from icechunk_virtual.scanners.spec import ScanOptions
from icechunk_virtual.sources import container_of, container_prefixes
from icechunk_virtual.virtual import find_files
from tests.support.archives import write_days
from tests.support.pieces import repository


@pytest.fixture
def days(tmp_path: Path) -> Path:
    write_days(tmp_path / "d-2.nc", 0, 20)
    write_days(tmp_path / "d-10.nc", 20, 10)
    return tmp_path


def test_one_file(days: Path) -> None:
    found = icv.scan(days / "d-2.nc")
    assert sorted(found.arrays) == ["temp", "time", "y"]
    assert sorted(found.groups) == ["daily"]
    assert found.attributes["title"] == "test"
    assert found.sources == ((days / "d-2.nc").as_uri(),)
    assert found.nrefs == 2 + 1 + 1 + 2
    assert found.nbytes == found.nbytes_virtual + found.nbytes_stored
    assert found.nbytes_virtual > 20_000
    assert 0 < found.nbytes_stored < 1000
    assert {item.path for item in found.stored} == {"/time", "/y"}


def test_repr_shows_what_a_reader_wants_to_know(days: Path) -> None:
    text = repr(icv.scan(str(days / "d-*.nc"), concat="time"))
    for part in ("2 files", "netCDF-4", "8 chunks", "daily", "temp", "time: 30, y: 20, x: 30", "float32", "stored:"):
        assert part in text


@pytest.mark.parametrize("name", ["d-*.nc", "", "file"])
def test_several_files_in_natural_order(days: Path, name: str) -> None:
    source = days.as_uri() if name == "file" else days / name
    found = icv.scan(source if name == "file" else str(source), concat="time")
    assert [url.rsplit("/", 1)[1] for url in found.sources] == ["d-2.nc", "d-10.nc"]
    assert found.arrays["temp"].shape == (30, 20, 30)


def test_several_files_need_a_dimension(days: Path) -> None:
    with pytest.raises(ValueError, match=r"2 files.*d-2\.nc.*d-10\.nc.*concat='time'"):
        icv.scan([days / "d-2.nc", days / "d-10.nc"])


def test_nothing_to_scan(days: Path) -> None:
    with pytest.raises(ScanError, match="no source"):
        icv.scan([])
    with pytest.raises(ScanError, match=r"no file matches .*nope"):
        icv.scan(days / "nope.nc")
    with pytest.raises(ValueError, match="no scanner is called 'nope'; there are"):
        icv.scan(days / "d-2.nc", scanner="nope")
    with pytest.raises(TypeError, match="a path, a URL, or several of them are needed, got 3"):
        icv.scan(3)  # type: ignore[arg-type]


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScanError, match=r"there is no file to scan in the folder .*empty"):
        icv.scan(tmp_path / "empty")


def test_folders_are_searched_for_files_that_scanners_know(days: Path) -> None:
    (days / "README.txt").write_text("about")
    (days / "sub").mkdir()
    (days / "sub" / "list.csv").write_text("1")
    found = icv.scan(days, concat="time")
    assert len(found.sources) == 2
    assert any("2 files in folders left out" in note and "README.txt" in note for note in found.warnings)
    with pytest.raises(ScanError, match=r"no file in the folder .*sub.* has a known ending \(.*\.nc"):
        icv.scan(days / "sub")
    with pytest.raises(UnknownFileFormat):
        icv.scan(days / "sub" / "list.csv")


def test_a_named_scanner_decides_what_is_taken_from_folders(days: Path) -> None:
    urls, skipped = find_files(days, "hdf5")
    assert (len(urls), skipped) == (2, [])
    with pytest.raises(ScanError, match="known ending"):
        find_files(days, "netcdf3")


def test_files_that_do_not_fit(days: Path) -> None:
    write_days(days / "d-11.nc", 30, 10, dtype="f8")
    with pytest.raises(InconsistentFiles, match=r"d-11\.nc.*`/temp`: data type is float64, but float32"):
        icv.scan(days, concat="time")


def test_options(days: Path) -> None:
    found = icv.scan(days / "d-2.nc", options=ScanOptions(drop_variables=frozenset({"temp", "/daily/rain"})))
    assert sorted(found.arrays) == ["time", "y"]
    assert not found.groups["daily"].arrays
    misspelt = icv.scan(days / "d-2.nc", options=ScanOptions(drop_variables=frozenset({"daily", "tmp"})))
    assert misspelt.warnings == ("nothing called `tmp` is there to be dropped",)


def test_progress(days: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    found = icv.scan(days, concat="time", progress=lambda *facts: seen.append(facts))
    assert seen == [(1, 2, found.sources[0]), (2, 2, found.sources[1])]


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_side_by_side(days: Path, kind: str) -> None:
    expected = icv.scan(days, concat="time")
    pool = ThreadPoolExecutor(2) if kind == "threads" else ProcessPoolExecutor(1, get_context("spawn"))
    with pool:
        found = icv.scan(days, concat="time", executor=pool)
    assert found.arrays["temp"].document == expected.arrays["temp"].document
    assert found.arrays["temp"].refs.equals(expected.arrays["temp"].refs)


@pytest.mark.filterwarnings("ignore:Numcodecs codecs")
def test_into_a_repository_and_back(days: Path) -> None:
    repo = repository(days)
    session = repo.writable_session("main")
    icv.scan(days, concat="time").to_icechunk(session.store)
    session.commit("all")
    found = xr.open_zarr(repo.readonly_session("main").store, consolidated=False, chunks=None)
    parts = [xr.open_dataset(days / name) for name in ("d-2.nc", "d-10.nc")]
    expected = xr.concat(parts, dim="time", data_vars="minimal", coords="minimal", compat="override")
    xr.testing.assert_identical(found.load(), expected.load())
    for part in parts:
        part.close()


@pytest.mark.filterwarnings("ignore:Numcodecs codecs")
def test_containers_are_what_a_repository_needs(days: Path) -> None:
    found = icv.scan(days / "d-2.nc")
    config = icv.RepositoryConfig()
    for container in found.containers:
        config.set_virtual_chunk_container(container)
    repo = icv.Repository.create(icv.in_memory_storage(), config, dict.fromkeys(found.prefixes))
    session = repo.writable_session("main")
    found.to_icechunk(session)
    assert np.isfinite(xr.open_zarr(session.store, consolidated=False, chunks=None).temp.values).all()


# -- prefixes --------------------------------------------------------------------------------------------------


def test_prefixes_are_folders() -> None:
    assert container_prefixes(["file:///a/b/1.nc", "file:///a/b/c/2.nc", "s3://k/x.nc"]) == ("file:///a/b/", "s3://k/")
    assert container_prefixes(["file:///ab/1.nc", "file:///a/1.nc"]) == ("file:///a/", "file:///ab/")
    assert container_prefixes([]) == ()


def test_many_folders_get_the_one_above() -> None:
    urls = [f"file:///data/{year}/{month}/x.nc" for year in (1, 2) for month in range(12)]
    assert container_prefixes([*urls, "file:///home/x.nc", "s3://k/x.nc"]) == (
        "file:///data/",
        "file:///home/",
        "s3://k/",
    )


def test_never_a_whole_file_system() -> None:
    prefixes = container_prefixes([f"file:///d{i}/x.nc" for i in range(20)])
    assert "file:///" not in prefixes
    assert len(prefixes) == 20


@pytest.mark.parametrize(
    ("prefix", "match"),
    [
        ("az://bucket/", "name of their storage account.*azure_store"),
        ("gopher://host/", "no containers for gopher:// URLs"),
        ("file:///", "cannot be referenced.*must include a path"),
    ],
)
def test_containers_that_cannot_be(prefix: str, match: str) -> None:
    with pytest.raises(ScanError, match=match):
        container_of(prefix)
