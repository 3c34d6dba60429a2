"""Files of the real netCDF library joined along a dimension: values as xarray joins them, misfits refused by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr

from icechunk_virtual.containers.opening import open_source
from icechunk_virtual.errors import InconsistentFiles, ScanError
from icechunk_virtual.scanners.combine import concat
from icechunk_virtual.scanners.dataset import Scanned
from icechunk_virtual.scanners.registry import scan
from icechunk_virtual.scanners.spec import ScanOptions
from tests.support.scanned import memory_store

Change = Callable[[netCDF4.Dataset], None]


def write(
    path: Path,
    start: int,
    n: int,
    *,
    units: str = "days since 2000-01-01",
    calendar: str | None = None,
    record: bool = True,
    time_type: str = "f8",
    field_type: str = "f4",
    ny: int = 30,
    first: Change | None = None,
    change: Change | None = None,
) -> Path:
    """A file of days `start` to `start + n`: two fields, bounds, a series, static coordinates."""
    with netCDF4.Dataset(path, "w", format="NETCDF3_64BIT_OFFSET") as file:
        file.Conventions = "CF-1.8"
        for name, size in (("time", None if record else n), ("y", ny), ("x", 40), ("two", 2)):
            file.createDimension(name, size)
        time = file.createVariable("time", time_type, ("time",))
        time.units = units
        if calendar:
            time.calendar = calendar
        time.bounds = "time_bnds"
        file.createVariable("time_bnds", time_type, ("time", "two"))
        t2m = file.createVariable("t2m", field_type, ("time", "y", "x"), fill_value=-9)
        t2m.units = "K"
        packed = file.createVariable("packed", "i2", ("time", "y", "x"))
        packed.scale_factor, packed.add_offset = 0.5, 10.0
        file.createVariable("series", "f8", ("time",))
        file.createVariable("lat", "f4", ("y",))[:] = np.arange(ny)
        file.createVariable("crs", "i4", ())[...] = 7
        file.createVariable("area", "f4", ("y", "x"))[:] = np.arange(ny * 40).reshape(ny, 40)
        if first:
            first(file)
        days = start + np.arange(n)
        time[:] = days
        file["time_bnds"][:] = np.stack([days, days + 1], 1)
        t2m[:] = days[:, None, None] + np.arange(ny * 40).reshape(ny, 40) / 1000
        packed.set_auto_maskandscale(False)
        packed[:] = days[:, None, None] * 10 + np.zeros((1, ny, 40))
        file["series"][:] = days / 7
        if change:
            change(file)
    return path


def scan_all(paths: list[Path], options: ScanOptions | None = None) -> list[Scanned]:
    return [scan(open_source(path), options) for path in paths]


def open_ours(scanned: Scanned, **kwargs: Any) -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The data type")
        return xr.open_zarr(memory_store(scanned), consolidated=False, **kwargs).load()


def judge(paths: list[Path], **kwargs: Any) -> xr.Dataset:
    with xr.open_mfdataset(
        paths, engine="netcdf4", combine="nested", concat_dim="time", data_vars="minimal", coords="minimal",
        compat="equals", join="exact", **kwargs,
    ) as dataset:  # fmt: skip
        return dataset.load()


@pytest.mark.parametrize("lengths", [(3, 3, 3), (4, 4, 1), (31, 28, 31), (1, 1, 1, 1), (2, 0, 3)])
def test_records_are_joined_like_xarray(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    joined_like_xarray(tmp_path, lengths, record=True)


@pytest.mark.parametrize("lengths", [(3, 3, 3), (4, 4, 1), (31, 28, 31), (1, 1, 1, 1)])
def test_fixed_dimensions_are_joined_like_xarray(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    joined_like_xarray(tmp_path, lengths, record=False)


def joined_like_xarray(tmp_path: Path, lengths: tuple[int, ...], *, record: bool) -> None:
    starts = np.cumsum([0, *lengths])
    paths = [write(tmp_path / f"{i}.nc", int(starts[i]), n, record=record) for i, n in enumerate(lengths)]
    joined = concat(scan_all(paths), "time")
    expected = judge([p for p, n in zip(paths, lengths, strict=True) if n])
    xr.testing.assert_identical(open_ours(joined), expected)
    arrays = joined.root.arrays
    assert arrays["t2m"].shape[0] == sum(lengths)
    assert arrays["t2m"].nbytes_stored == 0
    assert arrays["time"].nrefs == arrays["time_bnds"].nrefs == 1
    assert {s.path: s.nbytes for s in joined.stored} == {
        f"/{name}": array.nbytes_stored for name, array in arrays.items() if array.nbytes_stored
    }


def test_fixed_lengths_that_do_not_line_up_are_cut(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.nc", s, n, record=False) for i, (s, n) in enumerate([(0, 6), (6, 4), (10, 5)])]
    joined = concat(scan_all(paths), "time")
    assert joined.root.arrays["t2m"].chunk_shape[0] == 1  # of chunks of 6, 4 and 5
    assert any("cut into pieces of 1 along `time`" in w for w in joined.warnings)
    xr.testing.assert_identical(open_ours(joined), judge(paths))


def test_large_static_variables_are_judged_by_layout_and_that_is_said(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.nc", 3 * i, 3) for i in range(2)]
    joined = concat(scan_all(paths), "time")
    (warning,) = [w for w in joined.warnings if w.startswith("/area")]
    assert warning == (
        "/area: taken from the first file; that its 4.7 KiB are the same in the other files was judged by type, shape "
        "and chunk lengths only"
    )


def test_files_are_sorted_by_their_coordinate(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.nc", 3 * i, 3) for i in range(4)]
    mixed = [paths[i] for i in (2, 0, 3, 1)]
    joined = concat(scan_all(mixed), "time")
    xr.testing.assert_identical(open_ours(joined), judge(paths))
    assert "the files were not in the order of `time` and were sorted by its first values" in joined.warnings
    assert not any("order" in w for w in concat(scan_all(paths), "time").warnings)


@pytest.mark.parametrize("time_type", ["f8", "i4"])
def test_times_with_other_references_become_one_coordinate(tmp_path: Path, time_type: str) -> None:
    paths = [
        write(tmp_path / "a.nc", 0, 31, units="days since 2000-01-01", time_type=time_type),
        write(tmp_path / "b.nc", 0, 29, units="days since 2000-02-01 00:00:00", time_type=time_type),
        write(tmp_path / "c.nc", 60, 31, units="days since 2000-1-1", time_type=time_type),
    ]
    joined = concat(scan_all([paths[1], paths[2], paths[0]]), "time")
    assert joined.root.arrays["time"].attributes["units"] == "days since 2000-01-01"
    ours = open_ours(joined)
    # xarray's times as the judge; it does not know that bounds are in the units of their coordinate
    xr.testing.assert_identical(ours["time"].drop_attrs(), judge(paths)["time"].drop_attrs())
    raw = open_ours(joined, decode_times=False)
    np.testing.assert_array_equal(raw["time"], np.arange(91))
    np.testing.assert_array_equal(raw["time_bnds"][:, 0], np.arange(91))


def test_encoding_of_stored_values_does_not_count(tmp_path: Path) -> None:
    """Values of both netCDF formats: big-endian and little-endian, compressed or not."""
    paths = []
    for i, kind in enumerate(["NETCDF3_CLASSIC", "NETCDF4"]):
        paths.append(tmp_path / f"{i}.nc")
        with netCDF4.Dataset(paths[i], "w", format=kind) as file:
            file.createDimension("time", 5)
            file.createVariable("time", "f8", ("time",), zlib=i == 1)[:] = np.arange(5) + 5 * i
            file.createVariable("v", "f4", ("time",), zlib=i == 1)[:] = np.arange(5) * 7 + i
    joined = concat(scan_all(paths), "time")
    xr.testing.assert_identical(open_ours(joined), judge(paths))


def refusal(paths: list[Path], options: ScanOptions | None = None) -> InconsistentFiles:
    with pytest.raises(InconsistentFiles) as caught:
        concat(scan_all(paths, options), "time")
    return caught.value


def one_differs(tmp_path: Path, start: int = 3, **changes: Any) -> str:
    """The difference found in the second of three files, without its URL."""
    keywords = [{}, changes, {}]
    starts = [0, start, 6]
    paths = [write(tmp_path / f"{i}.nc", s, 3, **k) for i, (s, k) in enumerate(zip(starts, keywords, strict=True))]
    error = refusal(paths)
    (difference,) = error.differences
    url, _, text = difference.partition(": ")
    assert url == open_source(paths[1]).url
    assert difference in str(error)
    assert "1 of 3 files does not fit into one dataset along `time`" in str(error)
    return text


def test_refused_coordinates(tmp_path: Path) -> None:
    assert one_differs(tmp_path, start=1) == (
        f"`/time`: value 1.0 (days since 2000-01-01) is in the range of file://{tmp_path}/0.nc too"
    )


def test_refused_types(tmp_path: Path) -> None:
    text = one_differs(tmp_path, field_type="f8")
    assert text == "`/t2m`: data type is float64, but float32 in the first file"


def test_refused_shapes(tmp_path: Path) -> None:
    text = one_differs(tmp_path, ny=20)
    assert text == (
        "`/t2m`: length along `y` is 20, but 30 in the first file; `/packed`: length along `y` is 20, but 30 in the "
        "first file; `/lat`: length along `y` is 20, but 30 in the first file (and 1 more)"
    )


def test_refused_packing(tmp_path: Path) -> None:
    def other_scale(file: netCDF4.Dataset) -> None:
        file["packed"].scale_factor = 0.25

    assert one_differs(tmp_path, first=other_scale) == (
        "`/packed`: attribute scale_factor is 0.25, but 0.5 in the first file"
    )


def test_refused_units(tmp_path: Path) -> None:
    def other_units(file: netCDF4.Dataset) -> None:
        file["t2m"].units = "degC"

    assert one_differs(tmp_path, first=other_units) == "`/t2m`: attribute units is 'degC', but 'K' in the first file"


def test_refused_calendar(tmp_path: Path) -> None:
    text = one_differs(tmp_path, calendar="noleap")
    assert text == "`/time`: attribute calendar is 'noleap', but absent in the first file"


def test_refused_conversion(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "0.nc", 0, 3, time_type="i4"),
        write(tmp_path / "1.nc", 100, 3, time_type="i4", units="hours since 2000-01-01"),
    ]
    (difference,) = refusal(paths).differences
    assert difference == (
        f"file://{tmp_path}/1.nc: `/time`: its times cannot be converted exactly in int32 from 'hours since "
        "2000-01-01' to 'days since 2000-01-01' of the first file; `/time_bnds`: its times cannot be converted exactly "
        "in int32 from 'hours since 2000-01-01' to 'days since 2000-01-01' of the first file"
    )


def test_refused_virtual_bounds_in_other_units(tmp_path: Path) -> None:
    """Nothing in the file of the bounds says that their units differ: they would be silently wrong."""
    paths = [
        write(tmp_path / "0.nc", 0, 3),
        write(tmp_path / "1.nc", 0, 3, units="days since 2000-01-04"),
    ]
    options = ScanOptions(store_small=0, max_stored=0)
    (difference,) = refusal(paths, options).differences
    assert "`/time_bnds`: it is not stored but virtual, so its times cannot be converted" in difference


def test_refused_missing_and_additional_variables(tmp_path: Path) -> None:
    def renamed(file: netCDF4.Dataset) -> None:
        file.renameVariable("crs", "crt")

    assert one_differs(tmp_path, change=renamed) == (
        "variable `/crs` is missing, the first file has it; variable `/crt` is not in the first file"
    )


def test_refused_static_values(tmp_path: Path) -> None:
    def moved(file: netCDF4.Dataset) -> None:
        file["lat"][3] = 3.5

    assert one_differs(tmp_path, change=moved) == (
        "`/lat` has no dimension `time`, so it must be the same in all files: its value at (3,) is 3.5, but 3.0 in "
        "the first file"
    )


def test_refused_dimensions(tmp_path: Path) -> None:
    def transposed(file: netCDF4.Dataset) -> None:
        file.renameVariable("area", "old")
        file.createVariable("area", "f4", ("x", "y"))

    assert one_differs(tmp_path, first=transposed).startswith(
        "variable `/old` is not in the first file; `/area`: dimensions are ['x', 'y'], but ['y', 'x'] in the first file"
    )


def test_all_faults_of_all_files_at_once(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i:02}.nc", 3 * i, 3, field_type="f8" if i else "f4") for i in range(14)]
    error = refusal(paths)
    assert len(error.differences) == 13
    assert str(error).count("data type is float64") == 10
    assert "and 3 more files" in str(error)
    assert "13 of 14 files do not fit" in str(error)


def test_unknown_dimension(tmp_path: Path) -> None:
    items = scan_all([write(tmp_path / f"{i}.nc", i, 1) for i in range(2)])
    with pytest.raises(ScanError, match=r"has the dimension `tiem`.* There are: time, two, x, y\."):
        concat(items, "tiem")
    with pytest.raises(ValueError, match="no files"):
        concat([], "time")


def test_other_attributes_are_those_of_the_first_file_and_named(tmp_path: Path) -> None:
    def history(i: int) -> Change:
        def change(file: netCDF4.Dataset) -> None:
            file.history = f"made {i}"
            file["t2m"].comment = f"file {i}"

        return change

    joined = concat(scan_all([write(tmp_path / f"{i}.nc", i, 1, first=history(i)) for i in range(3)]), "time")
    assert joined.root.attributes["history"] == "made 0"
    assert joined.root.arrays["t2m"].attributes["comment"] == "file 0"
    assert "/: attributes differ between the files, those of the first are kept: history" in joined.warnings
    assert "/t2m: attributes differ between the files, those of the first are kept: comment" in joined.warnings


def test_one_file_stays_as_it_is(tmp_path: Path) -> None:
    (item,) = scan_all([write(tmp_path / "0.nc", 0, 3)])
    assert concat([item], "time") is item
