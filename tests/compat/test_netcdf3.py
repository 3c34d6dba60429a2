"""NetCDF-3 files of the real writers (netCDF-C and scipy), judged by the real readers."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import netcdf_file

from icechunk_virtual.containers.opening import open_source
from icechunk_virtual.errors import MalformedSource
from icechunk_virtual.model.chunk_refs import ChunkKind
from icechunk_virtual.scanners.dataset import Scanned
from icechunk_virtual.scanners.registry import scan
from icechunk_virtual.scanners.spec import ScanOptions
from tests.support.scanned import memory_store, open_group

FORMATS = ("NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA")
CLASSIC_TYPES = ("i1", "S1", "i2", "i4", "f4", "f8")
TYPES = (*CLASSIC_TYPES, "u1", "u2", "u4", "i8", "u8")
EVERYTHING_VIRTUAL = ScanOptions(store_coordinates=0, store_small=0)


def scan_file(path: Path, options: ScanOptions | None = None) -> Scanned:
    with open_source(path) as source:
        return scan(source, options)


def values_of(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype == "S1":
        return rng.integers(97, 123, shape).astype("u1").view("S1").reshape(shape)
    return rng.integers(0, 100, shape).astype(dtype)


def assert_as_netcdf4(path: Path, scanned: Scanned) -> None:
    """Every variable with the values, type, dimensions and attributes that netCDF4 gives."""
    group = open_group(scanned)
    with netCDF4.Dataset(path) as judge:
        judge.set_auto_maskandscale(False)
        judge.set_auto_chartostring(False)
        assert set(group.array_keys()) == set(judge.variables)
        for name, variable in judge.variables.items():
            array = group[name]
            assert array.shape == variable.shape, name
            assert array.dtype == variable.dtype.newbyteorder("="), name
            assert array.metadata.dimension_names == variable.dimensions, name
            np.testing.assert_array_equal(array[...], variable[...], err_msg=name)
            assert set(array.attrs) == set(variable.ncattrs())
        assert dict(group.attrs).keys() == set(judge.ncattrs())


def open_ours(scanned: Scanned, **kwargs: Any) -> xr.Dataset:
    with warnings.catch_warnings():
        # Zarr has no agreed data type for fixed-length bytes yet; it says so wherever one is met.
        warnings.filterwarnings("ignore", message="The data type")
        return xr.open_zarr(memory_store(scanned), consolidated=False, **kwargs).load()


def assert_as_xarray(path: Path, scanned: Scanned, engine: str = "netcdf4") -> None:
    with xr.open_dataset(path, engine=engine) as judge:
        xr.testing.assert_identical(open_ours(scanned), judge.load())


@pytest.mark.parametrize("options", [ScanOptions(), EVERYTHING_VIRTUAL], ids=["default", "virtual"])
@pytest.mark.parametrize("unlimited", [False, True], ids=["fixed", "records"])
@pytest.mark.parametrize("kind", FORMATS)
def test_all_types(tmp_path: Path, kind: str, unlimited: bool, options: ScanOptions) -> None:
    path = tmp_path / "types.nc"
    with netCDF4.Dataset(path, "w", format=kind) as file:
        file.createDimension("time", None if unlimited else 5)
        file.createDimension("x", 3)
        for dtype in TYPES if kind.endswith("DATA") else CLASSIC_TYPES:
            for dims in (("time",), ("time", "x"), ("x",), ()):
                variable = file.createVariable(f"v{dtype}{len(dims)}{dims[:1] == ('x',)}", dtype, dims)
                shape = tuple(5 if d == "time" else 3 for d in dims)
                variable[...] = values_of(dtype, shape)
    scanned = scan_file(path, options)
    assert_as_netcdf4(path, scanned)
    assert_as_xarray(path, scanned)
    if options is EVERYTHING_VIRTUAL and not unlimited:
        assert scanned.root.nbytes_stored == 0
        assert scanned.stored == ()


@pytest.mark.parametrize("dtype", ["i1", "S1", "i2", "i4", "f8"])
@pytest.mark.parametrize("others", [0, 1, 2])
@pytest.mark.parametrize("kind", FORMATS)
def test_padding_of_records(tmp_path: Path, kind: str, others: int, dtype: str) -> None:
    """A lone record variable is not padded, several are; the record of 3 elements is odd in every small type."""
    path = tmp_path / "padding.nc"
    with netCDF4.Dataset(path, "w", format=kind) as file:
        file.createDimension("time", None)
        file.createDimension("x", 23)
        file.createVariable("fixed", "i2", ("x",))[:] = np.arange(23)
        for i in range(others + 1):
            file.createVariable(f"v{i}", dtype, ("time", "x"))[:] = values_of(dtype, (7, 23), i)
    for options in (None, EVERYTHING_VIRTUAL):
        scanned = scan_file(path, options)
        assert_as_netcdf4(path, scanned)
    assert scanned.root.arrays["v0"].nrefs == (7 if others else 1)
    assert scanned.root.nbytes_stored == 0


@pytest.mark.parametrize("kind", FORMATS)
def test_no_records(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "empty.nc"
    with netCDF4.Dataset(path, "w", format=kind) as file:
        file.createDimension("time", None)
        file.createDimension("x", 3)
        file.createVariable("time", "f8", ("time",)).units = "days since 2000-01-01"
        file.createVariable("a", "f4", ("time", "x"))
        file.createVariable("x", "i2", ("x",))[:] = [1, 2, 3]
    scanned = scan_file(path)
    assert scanned.root.arrays["a"].shape == (0, 3)
    assert scanned.root.arrays["a"].nrefs == 0
    assert_as_netcdf4(path, scanned)
    assert_as_xarray(path, scanned)


@pytest.mark.parametrize("kind", FORMATS)
def test_no_variables(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bare.nc"
    netCDF4.Dataset(path, "w", format=kind).close()
    assert scan_file(path).root.arrays == {}
    with netCDF4.Dataset(path, "a") as file:
        file.title = "nothing"
        file.createDimension("x", 4)
    assert scan_file(path).root.attributes == {"title": "nothing"}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("records", [0, 1, 4])
def test_scipy_writes_it(tmp_path: Path, version: int, records: int) -> None:
    path = tmp_path / "scipy.nc"
    with netcdf_file(path, "w", version=version) as file:
        file.history = "äöü".encode()
        file.createDimension("time", None)
        file.createDimension("x", 3)
        for name, dtype in (("a", "i2"), ("b", "b"), ("c", "d")):
            variable = file.createVariable(name, dtype, ("time", "x"))
            for i in range(records):
                variable[i] = np.arange(3) + i
            variable.units = b"m"
        file.createVariable("x", "f", ("x",))[:] = [1, 2, 3]
        file.createVariable("name", "c", ("x",))[:] = [b"a", b"b", b"\0"]
    scanned = scan_file(path, EVERYTHING_VIRTUAL)
    if records:  # netCDF-C does not take what scipy writes without records
        assert_as_netcdf4(path, scanned)
    assert_as_xarray(path, scanned, engine="scipy")


def test_attributes(tmp_path: Path) -> None:
    path = tmp_path / "attributes.nc"
    with netCDF4.Dataset(path, "w", format="NETCDF3_64BIT_DATA") as file:
        values = {
            "text": "äöü",
            "empty": "",
            "one": np.float32(0.1),
            "many": np.array([1, 2, 3], "i2"),
            "large": np.uint64(2**64 - 1),
            "small": np.int64(-(2**63)),
            "byte": np.int8(-1),
            "none": np.array([], "f4"),
        }
        for name, value in values.items():
            file.setncattr(name, value)
    found = scan_file(path).root.attributes
    assert found == {
        "text": "äöü",
        "empty": "",
        "one": float(np.float32(0.1)),
        "many": [1, 2, 3],
        "large": 2**64 - 1,
        "small": -(2**63),
        "byte": -1,
        "none": [],
    }


def test_text_with_nul_and_without_utf8(tmp_path: Path) -> None:
    """Without NULs, as netCDF4 reads it. Text in another encoding keeps every byte, and is reported."""
    path = tmp_path / "text.nc"
    with netcdf_file(path, "w") as file:
        file.padded = b"ab\0\0"
        file.inner = b"a\0b"
        file.latin = "grüße".encode("latin-1")
    scanned = scan_file(path)
    assert scanned.root.attributes == {"padded": "ab", "inner": "ab", "latin": "grüße"}
    with netCDF4.Dataset(path) as judge:
        assert (judge.padded, judge.inner) == ("ab", "ab")
    assert scanned.warnings == ("attribute latin: text that is not UTF-8 was read as Latin-1",)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("with_fill", [False, True])
def test_fill_values(tmp_path: Path, kind: str, with_fill: bool) -> None:
    path = tmp_path / "fill.nc"
    types = [t for t in (TYPES if kind.endswith("DATA") else CLASSIC_TYPES) if t != "S1"]
    with netCDF4.Dataset(path, "w", format=kind) as file:
        file.createDimension("x", 3)
        for dtype in types:
            variable = file.createVariable(f"v{dtype}", dtype, ("x",), fill_value=7 if with_fill else None)
            variable[1] = 5
    scanned = scan_file(path)
    group = open_group(scanned)
    for dtype in types:
        expected = 7 if with_fill else netCDF4.default_fillvals[dtype]
        assert group[f"v{dtype}"].fill_value == np.array(expected, dtype), dtype
        assert group[f"v{dtype}"][:].tolist() == np.array([expected, 5, expected], dtype).tolist()
    assert_as_xarray(path, scanned)


def test_packing_and_strange_fill_values(tmp_path: Path) -> None:
    path = tmp_path / "packed.nc"
    with netcdf_file(path, "w") as file:
        file.createDimension("x", 3)
        for name, dtype, fill in (
            ("exact", "h", np.array(-9.0, "f8")),
            ("inexact", "h", np.array(1e20, "f8")),
            ("nan", "f", np.array(np.nan, "f4")),
            ("double", "f", np.array(1e20, "f8")),
            ("text", "h", "no"),
            ("two", "h", np.array([1, 2], "i2")),
            ("char", "c", b"x"),
        ):
            variable = file.createVariable(name, dtype, ("x",))
            variable.XFillValue = fill  # scipy does not write the real name with a value of another type
            variable[:] = [b"a", b"x", b"b"] if dtype == "c" else [1, -9, 3]
            if name == "exact":
                variable.scale_factor, variable.add_offset = 0.5, 10.0
    path.write_bytes(path.read_bytes().replace(b"XFillValue", b"_FillValue"))
    scanned = scan_file(path)
    left_out = {w.split(":")[0] for w in scanned.warnings if "is left out" in w}
    assert left_out == {"/inexact", "/text", "/two"}
    ours = open_ours(scanned)
    np.testing.assert_array_equal(ours["exact"], [10.5, np.nan, 11.5])
    np.testing.assert_array_equal(ours["nan"], [1, -9, 3])
    assert ours["double"].encoding["_FillValue"] == pytest.approx(1e20)
    assert open_group(scanned)["char"].fill_value == b"x"


def test_char_arrays_are_strings_for_xarray(tmp_path: Path) -> None:
    path = tmp_path / "chars.nc"
    words = np.array(["Zürich", "Bern", "", "La Chaux"])
    with netCDF4.Dataset(path, "w", format="NETCDF3_CLASSIC") as file:
        file.createDimension("station", 4)
        file.createDimension("length", 9)
        encoded = np.char.encode(words, "utf-8").astype("S9")
        for name in ("bytes", "text"):
            variable = file.createVariable(name, "S1", ("station", "length"))
            variable.set_auto_chartostring(False)
            variable[:] = encoded.view("S1").reshape(4, 9)
        file["text"].setncattr("_Encoding", "utf-8")
    for options in (ScanOptions(), EVERYTHING_VIRTUAL):
        scanned = scan_file(path, options)
        assert_as_xarray(path, scanned)
        assert open_ours(scanned)["text"].values.tolist() == words.tolist()
    assert scanned.root.arrays["text"].nbytes_virtual == 36


@pytest.mark.parametrize("kind", FORMATS)
def test_large_arrays_are_cut(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "large.nc"
    with netCDF4.Dataset(path, "w", format=kind) as file:
        for name, n in (("time", None), ("y", 40), ("x", 50), ("p", 10007)):
            file.createDimension(name, n)
        file.createVariable("fixed", "f4", ("y", "x"))[:] = values_of("f4", (40, 50))
        file.createVariable("prime", "i2", ("p",))[:] = np.arange(10007)
        file.createVariable("a", "f4", ("time", "y", "x"))[:] = values_of("f4", (3, 40, 50))
        file.createVariable("b", "i1", ("time", "p"))[:] = values_of("i1", (3, 10007))
    scanned = scan_file(path, ScanOptions(contiguous_chunk=1000, store_small=0, store_coordinates=0))
    assert_as_netcdf4(path, scanned)
    arrays = scanned.root.arrays
    assert arrays["fixed"].chunk_shape == (5, 50)
    assert arrays["a"].chunk_shape == (1, 5, 50)
    assert arrays["a"].nrefs == 24
    assert arrays["b"].chunk_shape == (1, 10007)  # no divisor; a record is not cut where a tail would remain
    assert [s.path for s in scanned.stored] == ["/prime"]
    assert scanned.stored[0].nbytes <= 1000


def test_what_is_stored_is_listed_with_its_price(tmp_path: Path) -> None:
    path = tmp_path / "stored.nc"
    with netCDF4.Dataset(path, "w", format="NETCDF3_CLASSIC") as file:
        file.createDimension("time", None)
        file.createDimension("x", 1000)
        file.createVariable("time", "f8", ("time",))[:] = np.arange(200)
        file.createVariable("date", "i4", ("time",))[:] = np.arange(200)
        file.createVariable("t2m", "f4", ("time", "x"))[:] = 0
        file.createVariable("crs", "i4", ())[:] = 0
    scanned = scan_file(path)
    reasons = {s.path: s.reason for s in scanned.stored}
    assert reasons == {
        "/time": "coordinate",
        "/date": "records of 4 B are smaller than references to them",
        "/crs": "small",
    }
    arrays = scanned.root.arrays
    assert all(s.nbytes == arrays[s.path[1:]].nbytes_stored for s in scanned.stored)
    assert (arrays["t2m"].refs.kind == ChunkKind.VIRTUAL).all()
    assert "t2m" not in scan_file(path, ScanOptions(drop_variables=frozenset({"t2m"}))).root.arrays


def test_streamed_file(tmp_path: Path) -> None:
    """The number of records is unknown to the header; the length of the file says it."""
    path = tmp_path / "stream.nc"
    for names, missing in itertools.product((["a"], ["a", "b"]), (0, 1)):
        with netCDF4.Dataset(path, "w", format="NETCDF3_CLASSIC") as file:
            file.createDimension("time", None)
            file.createDimension("x", 3)
            for name in names:
                file.createVariable(name, "i1", ("time", "x"))[:] = values_of("i1", (4, 3))
        expected = scan_file(path)
        data = bytearray(path.read_bytes())
        data[4:8] = b"\xff" * 4
        if missing and len(names) == 2:
            del data[-1]  # the padding of the last record
        path.write_bytes(data)
        found = scan_file(path)
        assert found.root.arrays["a"].shape == expected.root.arrays["a"].shape == (4, 3)
        np.testing.assert_array_equal(open_group(found)["a"][:], values_of("i1", (4, 3)))
        path.write_bytes(data[:-2])  # now the last record is not complete
        assert scan_file(path).root.arrays["a"].shape == (3, 3)


def test_cut_off_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.nc"
    with netCDF4.Dataset(path, "w", format="NETCDF3_CLASSIC") as file:
        file.createDimension("time", None)
        file.createDimension("x", 3)
        file.createVariable("fixed", "f8", ("x",))[:] = 1
        file.createVariable("a", "i2", ("time", "x"))[:] = np.arange(12).reshape(4, 3)
        file.createVariable("b", "i1", ("time",))[:] = np.arange(4)
    data = path.read_bytes()
    path.write_bytes(data[:-3])  # only the padding of the last record
    assert_as_netcdf4(path, scan_file(path))
    path.write_bytes(data[:-4])
    with pytest.raises(MalformedSource, match=r"variable `b` ends at byte \d+, .* 3 of its 4 records are complete"):
        scan_file(path)
    path.write_bytes(data[:-24])
    with pytest.raises(MalformedSource, match=r"variable `a` .* 2 of its 4 records are complete"):
        scan_file(path)
    path.write_bytes(data[:-60])
    with pytest.raises(MalformedSource, match=r"variable `fixed` ends at byte"):
        scan_file(path)


def test_size_field_of_large_variables_is_ignored(tmp_path: Path) -> None:
    """A sparse file of more than 4 GiB: `vsize` cannot say it, the shape can."""
    path = tmp_path / "huge.nc"
    with netCDF4.Dataset(path, "w", format="NETCDF3_64BIT_OFFSET") as file:
        file.set_fill_off()
        file.createDimension("y", 70_000)
        file.createDimension("x", 65_536)
        file.createVariable("first", "i1", ("x",))[:] = 1
        file.createVariable("big", "i1", ("y", "x"))[69_999, 65_530:] = 5
    scanned = scan_file(path)
    big = scanned.root.arrays["big"]
    assert big.shape == (70_000, 65_536)
    assert big.nbytes_virtual == 70_000 * 65_536
    assert 2**20 <= big.refs.length[0] <= 2**26
    refs = big.refs
    with path.open("rb") as file:
        file.seek(int(refs.offset[-1] + refs.length[-1]) - 6)
        assert file.read(6) == b"\x05" * 6


shapes = st.lists(st.integers(1, 5), max_size=2).map(tuple)


@given(
    kind=st.sampled_from(FORMATS),
    records=st.integers(0, 4),
    variables=st.lists(st.tuples(st.booleans(), shapes, st.sampled_from(TYPES)), min_size=1, max_size=5),
    virtual=st.booleans(),
    target=st.sampled_from([1, 7, 1 << 20]),
)
def test_any_file_reads_as_netcdf4(tmp_path_factory, kind, records, variables, virtual, target) -> None:
    path = tmp_path_factory.mktemp("nc3") / "any.nc"
    with netCDF4.Dataset(path, "w", format=kind) as file:
        file.createDimension("time", None)
        for n in range(1, 6):
            file.createDimension(f"d{n}", n)
        for i, (is_record, shape, dtype) in enumerate(variables):
            if dtype not in CLASSIC_TYPES and not kind.endswith("DATA"):
                dtype = "i2"
            dims = [f"d{n}" for n in shape]
            variable = file.createVariable(f"v{i}", dtype, ["time", *dims] if is_record else dims)
            if not is_record:
                variable[...] = values_of(dtype, shape, i)
            elif records:
                variable[:] = values_of(dtype, (records, *shape), i)
    small = 0 if virtual else 512
    options = ScanOptions(store_coordinates=small, store_small=small, contiguous_chunk=target)
    assert_as_netcdf4(path, scan_file(path, options))
