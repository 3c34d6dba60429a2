"""What xarray opens through the references equals what it opens from the netCDF-4 file itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr

from icechunk_virtual.containers.opening import open_source
from icechunk_virtual.scanners.dataset import Scanned
from icechunk_virtual.scanners.hdf5.scan import scan
from icechunk_virtual.scanners.spec import ScanOptions
from tests.support.scanned import memory_store

pytestmark = [
    pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3"),
    pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning"),
    pytest.mark.filterwarnings("ignore:numpy.ndarray size changed"),
    pytest.mark.filterwarnings("ignore:Duplicate dimension names"),
]

OPTIONS = [ScanOptions(), ScanOptions(store_coordinates=0, store_small=0)]


def scanned(path: Path, options: ScanOptions | None = None) -> Scanned:
    with open_source(str(path)) as source:
        return scan(source, options or ScanOptions())


def opened(path: Path, options: ScanOptions | None = None, **how: Any) -> xr.Dataset:
    return xr.open_zarr(memory_store(scanned(path, options)), consolidated=False, chunks=None, **how)


def make_archive_file(path: Path) -> None:
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("time", None)
        file.createDimension("y", 13)
        file.createDimension("x", 17)
        file.createDimension("bnds", 2)  # without a variable
        file.createDimension("letters", 5)
        file.title, file.version, file.history = "A test, ünïcode", np.int16(3), ["one", "two"]
        file.empty, file.limits = "", np.array([0.1, 0.2], "f4")
        time = file.createVariable("time", "f8", ("time",))
        time.units, time.calendar, time.bounds = "hours since 2000-01-01", "standard", "time_bnds"
        time[:] = np.arange(9) * 6
        file.createVariable("time_bnds", "f8", ("time", "bnds"))[:] = np.arange(18).reshape(9, 2)
        y = file.createVariable("y", "f4", ("y",))
        y[:], y.units = np.linspace(-60, 60, 13), "degrees_north"
        tas = file.createVariable(
            "tas", "f4", ("time", "y", "x"), zlib=True, fletcher32=True, fill_value=1e20, chunksizes=(4, 13, 17)
        )
        tas.coordinates, tas.grid_mapping, tas.missing_value = "lat lon", "crs", np.float32(1e20)
        values = np.random.default_rng(0).normal(280, 9, (9, 13, 17))
        tas[:] = np.ma.masked_where(values > 290, values)
        packed = file.createVariable("packed", "i2", ("time", "y", "x"), complevel=2, zlib=True, fill_value=-32768)
        packed.scale_factor, packed.add_offset = 0.01, 270.0
        packed[:] = np.clip(values, 260, 300)
        unsigned = file.createVariable("unsigned", "i1", ("y", "x"), fill_value=-1)
        unsigned._Unsigned = "true"
        unsigned[:] = np.arange(221).reshape(13, 17).astype("u1").view("i1")
        for name in ("lat", "lon"):
            file.createVariable(name, "f8", ("y", "x"), zlib=True)[:] = np.arange(221).reshape(13, 17)
        crs = file.createVariable("crs", "i4")
        crs.grid_mapping_name, crs.semi_major_axis = "latitude_longitude", 6371229.0
        crs[...] = 5
        name = file.createVariable("station", "S1", ("x", "letters"))
        name._Encoding = "utf-8"
        name[:] = np.array([f"st{i:03d}" for i in range(17)])
        file.createVariable("label", str, ("x",))[:] = np.array([f"läbel {i}" for i in range(17)], object)
        big = file.createVariable("big", ">f8", ("y",), endian="big")
        big[:] = np.arange(13)
        file.createVariable("never_written", "i4", ("time", "x"), fill_value=-7)
        file.createVariable("letters", "i4", ("x",))[:] = np.arange(17)  # name of a dimension, not its coordinate
        kinds = file.createEnumType("u1", "kinds", {"rain": 0, "snow": 1})
        file.createVariable("kind", kinds, ("x",))[:] = np.arange(17) % 2
        group = file.createGroup("obs/inner")
        group.note = "in a group"
        group.createDimension("x", 3)  # hides the dimension of the root
        group.createVariable("v", "u2", ("y", "x"), zlib=True)[:] = np.arange(39).reshape(13, 3)
        file["obs"].createVariable("w", "i8", ("x",))[:] = np.arange(17)


@pytest.fixture(scope="module")
def archive_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("netcdf4") / "archive.nc"
    make_archive_file(path)
    return path


@pytest.mark.parametrize("options", OPTIONS, ids=["default", "all virtual"])
@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("group", ["/", "obs", "obs/inner"])
def test_as_netcdf4(archive_file: Path, options: ScanOptions, decode: bool, group: str) -> None:
    how: dict[str, Any] = {"decode_cf": decode}
    with xr.open_dataset(archive_file, engine="netcdf4", group=group, **how) as expected:
        actual = opened(archive_file, options, group=group, **how)
        assert set(actual.variables) == set(expected.variables)
        for name, variable in expected.variables.items():
            assert actual[name].dims == variable.dims, name
            a, b = actual[name].values, variable.values
            assert a.dtype == b.dtype.newbyteorder("=") or a.dtype.kind in "OT", name
            assert a.tolist() == b.tolist() or np.array_equal(a, b, equal_nan=True), name
            extra = {"flag_values", "flag_meanings"} if name == "kind" else set()
            assert {k: v for k, v in actual[name].attrs.items() if k not in extra}.keys() == variable.attrs.keys(), name
            for key, value in variable.attrs.items():
                assert np.array_equal(np.asarray(actual[name].attrs[key]), np.asarray(value)), (name, key)
        assert actual.attrs.keys() == expected.attrs.keys()
        for key, value in expected.attrs.items():
            assert np.array_equal(np.asarray(actual.attrs[key]), np.asarray(value)), key
        if decode:
            for name in ("tas", "packed", "unsigned", "never_written"):
                if name in expected:
                    assert actual[name].encoding["_FillValue"] == expected[name].encoding["_FillValue"], name


def test_what_is_stored(archive_file: Path) -> None:
    found = scanned(archive_file)
    assert found.format == "netCDF-4"
    reasons = {s.path: s.reason for s in found.stored}
    assert reasons["/time"] == reasons["/y"] == "coordinate"
    assert reasons["/crs"] == "small"
    assert "varying length" in reasons["/label"]
    assert found.root.arrays["tas"].nbytes_stored == 0
    assert found.root.arrays["never_written"].nrefs == 0


def test_netcdf4_classic_and_coordinate_variable_of_two_axes(tmp_path: Path) -> None:
    path = tmp_path / "classic.nc"
    with netCDF4.Dataset(path, "w", format="NETCDF4_CLASSIC") as file:
        file.createDimension("t", None)
        file.createDimension("n", 4)
        file.createVariable("n", "i4", ("n", "t"))[:] = np.arange(12).reshape(4, 3)
        file.createVariable("v", "f4", ("t", "n"))[:] = np.arange(12).reshape(3, 4)
    found = scanned(path)
    assert found.root.arrays["n"].dimension_names == ("n", "t")
    assert found.root.arrays["v"].dimension_names == ("t", "n")
    assert found.root.attributes == {}
    assert found.root.arrays["v"].attributes == {}


@pytest.mark.parametrize("options", OPTIONS)
def test_variables_shorter_than_their_dimension(tmp_path: Path, options: ScanOptions) -> None:
    """Where no fill value is in the file, netCDF goes on with the default of the type, HDF5 knows only zeros."""
    path, kinds = tmp_path / "short.nc", ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", "S1")
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("t", None)
        file.createVariable("longest", "i4", ("t",), chunksizes=(4,))[:] = np.arange(10)
        file.createDimension("u", None)
        file.createDimension("n", 3)
        file.createVariable("n", "i4", ("n", "u"))[:] = np.arange(12).reshape(3, 4)  # gives `u` its length
        file.createVariable("unwritten", "i4", ("u", "n"))
        for kind in kinds:
            for fill in (None, False, b"x" if kind == "S1" else 7):
                variable = file.createVariable(f"{kind}_{fill}", kind, ("t",), fill_value=fill, chunksizes=(4,))
                variable[0:6] = np.ones(6).astype(kind)
    with h5py.File(path, "a") as file:
        for name, first in (("zeros", 0), ("gap", 4)):
            dataset = file.create_dataset(name, (6,), "f8", maxshape=(None,), chunks=(4,))
            dataset.dims[0].attach_scale(file["t"])
            dataset[first:] = 1
    found = opened(path, options, decode_cf=False)
    with netCDF4.Dataset(path) as file:
        file.set_auto_mask(False)
        for name, variable in file.variables.items():
            np.testing.assert_array_equal(found[name].values, variable[:], err_msg=name)
    arrays = scanned(path, ScanOptions(store_coordinates=0, store_small=0)).root.arrays
    assert arrays["zeros"].nbytes_virtual == 32, "the chunk that is whole is referenced"
    assert arrays["i4_None"].nbytes_stored == 0


def names_by_netcdf4(path: Path) -> dict[str, tuple[str, ...]]:
    found = {}

    def walk(group: Any, prefix: str) -> None:
        for name, variable in group.variables.items():
            found[prefix + name] = variable.dimensions
        for name, child in group.groups.items():
            walk(child, f"{prefix}{name}/")

    with netCDF4.Dataset(path) as file:
        walk(file, "/")
    return found


@pytest.mark.parametrize("track_order", [False, True])
def test_made_up_dimension_names_are_those_of_netcdf4(tmp_path: Path, track_order: bool) -> None:
    path = tmp_path / "plain.h5"
    with h5py.File(path, "w", track_order=track_order) as file:
        file["b"] = np.zeros((4, 3))
        file["a"] = np.zeros((3, 4))
        file["square"] = np.zeros((5, 5))
        file.create_dataset("unlimited", (4,), "f4", maxshape=(None,), chunks=(2,))
        file.create_group("g", track_order=track_order).create_group("h", track_order=track_order)
        file["g/h/deep"] = np.zeros((7, 7, 3))
        file["g/c"] = np.zeros((3, 7))
        file["scalar"] = 1
        file["lat"] = np.arange(3.0)
        file["lat"].make_scale("lat")
        file["g/lat2"] = np.arange(7.0)
        file["g/lat2"].make_scale("something else")
        file["z"] = np.zeros((9,))
    found = {p: a.dimension_names for p, a in scanned(path).root.walk_arrays()}
    assert found == names_by_netcdf4(path)


def test_attributes_of_every_kind(tmp_path: Path) -> None:
    path = tmp_path / "attributes.h5"
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", data=np.arange(3))
        given: dict[str, Any] = {
            "i": np.int8(-3),
            "u": np.uint64(2**64 - 1),
            "f4": np.float32(0.1),
            "f2": np.float16(0.5),
            "be": np.array([1, 2], ">i4"),
            "one": np.array([7], "i4"),
            "matrix": np.arange(6).reshape(2, 3),
            "none": np.array([], "f4"),
            "text": "ünï",
            "fixed": np.bytes_(b"abc"),
            "texts": ["a", "é"],
            "fixeds": np.array([b"a", b"bc"]),
            "yes": True,
            "null": h5py.Empty("f4"),
            "nulltext": h5py.Empty("S1"),
            "complex": 1 + 2j,
            "record": np.array((1, 2.5), [("a", "i4"), ("b", "f8")]),
            "ref": x.ref,
            "refs": np.array([x.ref, file.ref], h5py.ref_dtype),
            "region": x.regionref[0:2],
            "CLASS": "IMAGE",
        }
        for name, value in given.items():
            x.attrs[name] = value
        x.attrs.create("enum", 1, dtype=h5py.enum_dtype({"a": 0, "b": 1}, "i1"))
        x.attrs.create("latin", np.bytes_(b"caf\xe9"))
        ragged = np.empty(2, object)
        ragged[:] = [np.array([1, 2], "i4"), np.array([3], "i4")]
        x.attrs.create("ragged", ragged, dtype=h5py.vlen_dtype("i4"))
    found = scanned(path)
    assert found.root.arrays["x"].attributes == {
        "i": -3,
        "u": 2**64 - 1,
        "f4": float(np.float32(0.1)),
        "f2": 0.5,
        "be": [1, 2],
        "one": 7,
        "matrix": [[0, 1, 2], [3, 4, 5]],
        "none": [],
        "text": "ünï",
        "fixed": "abc",
        "texts": ["a", "é"],
        "fixeds": ["a", "bc"],
        "yes": True,
        "null": [],
        "nulltext": "",
        "complex": [1.0, 2.0],
        "record": {"a": 1, "b": 2.5},
        "ref": "/x",
        "refs": ["/x", "/"],
        "CLASS": "IMAGE",
        "enum": 1,
        "latin": "café",
        "ragged": [[1, 2], [3]],
        "region": "/x",
    }
    noted = {w.split(":")[1].split()[-1] for w in found.warnings}
    assert noted == {"complex", "record", "latin", "ref", "refs", "region"}


def test_h5netcdf_files(tmp_path: Path) -> None:
    path = tmp_path / "h5netcdf.nc"
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"x": 5, "y": 3}
        file.create_variable("x", ("x",), "f8", data=np.arange(5.0))
        v = file.create_variable("g/v", ("y", "x"), ">f4", data=np.arange(15.0).reshape(3, 5))
        v.attrs["_FillValue"] = np.float32(3)
    with xr.open_dataset(path, engine="h5netcdf", group="g") as expected:
        xr.testing.assert_identical(opened(path, group="g").load(), expected.load())


def test_fill_values_that_match_nothing_do_not_stop_xarray(tmp_path: Path) -> None:
    path = tmp_path / "fill.h5"
    with h5py.File(path, "w") as file:
        for name, dtype, fill in (
            ("text", "S3", np.bytes_(b"no")),
            ("half", "i4", 0.5),
            ("nan", "i4", np.nan),
            ("words", "f4", "NaN"),
            ("two", "f4", np.array([1.0, 2.0])),
            ("whole", "i4", 7.0),
        ):
            file.create_dataset(name, data=np.zeros(4, dtype)).attrs["_FillValue"] = fill
    found = scanned(path)
    assert len(found.warnings) == 5
    dataset = opened(path).load()
    assert dataset["whole"].encoding["_FillValue"] == 7
