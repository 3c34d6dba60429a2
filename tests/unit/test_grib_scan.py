"""Scans of GRIB files: every field that eccodes finds is where a meteorologist looks for it, with the same values."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import icechunk_virtual as icv
from icechunk_virtual.containers.opening import open_source
from icechunk_virtual.scanners.dataset import Scanned
from icechunk_virtual.scanners.grib.scan import scan
from icechunk_virtual.scanners.registry import choose
from icechunk_virtual.scanners.spec import ScanOptions
from tests.support.grib_files import GRIDS, MISSING, PLANAR, handle_of, message, multi_field, read_all
from tests.support.scanned import memory_store

eccodes = pytest.importorskip("eccodes")


def scanned(path: Path, **options: Any) -> Scanned:
    with open_source(path) as source:
        return scan(source, ScanOptions(**options))


def write(path: Path, messages: list[bytes]) -> Path:
    path.write_bytes(b"".join(messages))
    return path


def datasets(result: Scanned) -> list[xr.Dataset]:
    store = memory_store(result)
    return [
        xr.open_zarr(store, group=path.strip("/") or None, consolidated=False, chunks=None)
        for path, group in result.root.walk()
        if group.arrays
    ]


def check_against_eccodes(path: Path, result: Scanned) -> int:
    """Every field of the file is found by its coordinates, with equal values; how many there are."""
    opened = datasets(result)
    fields = read_all(path)
    for field in fields:
        found = [one for ds in opened if (one := select(ds, field)) is not None]
        assert len(found) == 1, {k: v for k, v in field.items() if k != "values"}
        np.testing.assert_array_equal(found[0].values.ravel(), field["values"])
    return len(fields)


def select(ds: xr.Dataset, field: dict[str, Any]) -> xr.DataArray | None:
    time = np.datetime64(f"{str(field['dataDate'])[:4]}-{str(field['dataDate'])[4:6]}-{str(field['dataDate'])[6:]}")
    time = time + np.timedelta64(field["dataTime"] // 100, "h")
    step = np.timedelta64(field["step"], "h")
    for array in ds.values():
        wanted = {f"GRIB_{key}": field[key] for key in ("shortName", "typeOfLevel", "stepType", "gridType")}
        if any(array.attrs.get(key) != value for key, value in wanted.items()):
            continue
        places = {"time": time, "step": step, field["typeOfLevel"]: field["level"]}
        if field["number"] is not None:
            places["number"] = field["number"]
        for name, value in places.items():
            if name not in array.coords or value not in np.atleast_1d(array[name].values):
                break
            if name in array.dims:
                array = array.sel({name: value})
        else:
            if array.size == field["values"].size:
                return array
    return None


def test_a_hypercube(tmp_path: Path) -> None:
    """Levels, steps, members, two times, two parameters; in the order of nobody."""
    places = list(itertools.product(["t", "u"], [1000, 850, 500], [0, 6, 12], [0, 1], [20200101, 20200102]))
    np.random.default_rng(0).shuffle(places)
    messages = [
        message(
            productDefinitionTemplateNumber=1, shortName=p, level=z, step=int(s), number=int(n), dataDate=int(d), seed=i
        )
        for i, (p, z, s, n, d) in enumerate((p, int(z), s, n, d) for p, z, s, n, d in places)
    ]
    path = write(tmp_path / "a.grib2", messages)
    result = scanned(path)
    assert check_against_eccodes(path, result) == len(places)
    assert result.warnings == ()
    (ds,) = datasets(result)
    assert ds.t.dims == ("number", "time", "step", "isobaricInhPa", "latitude", "longitude")
    assert dict(ds.sizes) == {"number": 2, "time": 2, "step": 3, "isobaricInhPa": 3, "latitude": 4, "longitude": 6}
    assert ds.isobaricInhPa.values.tolist() == [1000, 850, 500]
    assert ds.valid_time.dims == ("time", "step")
    assert ds.valid_time.values[1, 2] == np.datetime64("2020-01-03T00")
    assert ds.step.values[1] == np.timedelta64(6, "h")
    assert ds.latitude.values.tolist() == [60, 55, 50, 45]
    assert ds.longitude.values.tolist() == [10, 15, 20, 25, 30, 35]
    assert ds.t.attrs["GRIB_paramId"] == 130
    assert ds.t.attrs["units"] == "K"
    assert ds.t.attrs["long_name"] == "Temperature"
    assert ds.t.attrs["standard_name"] == "air_temperature"
    assert ds.t.attrs["GRIB_Nx"] == 6
    assert ds.attrs["GRIB_centre"] == "ecmf"
    assert ds.number.attrs["standard_name"] == "realization"
    assert set(ds.t.coords) == {*ds.t.dims, "valid_time"}


def test_missing_combinations_are_absent(tmp_path: Path) -> None:
    places = [("t", 850, 0), ("t", 850, 6), ("t", 500, 0), ("u", 850, 0), ("u", 500, 0)]
    path = write(tmp_path / "a.grib2", [message(shortName=p, level=z, step=s) for p, z, s in places])
    result = scanned(path)
    assert check_against_eccodes(path, result) == 5
    (ds,) = datasets(result)
    assert ds.t.shape == (1, 2, 2, 4, 6)
    assert np.isnan(ds.t.sel(step="6h", isobaricInhPa=500)).all()
    assert np.isnan(ds.u.sel(step="6h")).all()
    assert result.root.arrays["u"].nrefs == 2


def test_variables_that_fit_are_in_one_group(tmp_path: Path) -> None:
    """One of several levels beside one at the surface and one at two metres."""
    messages = [message(shortName="t", level=z) for z in (850, 500)]
    messages += [message("regular_ll_sfc_grib2", shortName=name) for name in ("2t", "sp", "msl")]
    path = write(tmp_path / "a.grib2", messages)
    result = scanned(path)
    check_against_eccodes(path, result)
    (ds,) = datasets(result)
    assert set(ds.data_vars) == {"t", "t2m", "sp", "msl"}
    assert ds.t2m.dims == ("time", "step", "latitude", "longitude")
    assert ds.heightAboveGround.values == 2
    assert ds.heightAboveGround.attrs["standard_name"] == "height"


def test_conflicts_make_groups(tmp_path: Path) -> None:
    """The same name on two types of levels; two heights; two kinds of steps of one parameter."""
    messages = [message(shortName="t", level=z) for z in (850, 500)]
    messages += [message("regular_ll_sfc_grib2", shortName=name) for name in ("2t", "10u", "10v", "sp")]
    messages.append(message("regular_ll_pl_grib2", shortName="t", typeOfLevel="hybrid", level=7))
    path = write(tmp_path / "a.grib2", messages)
    result = scanned(path)
    check_against_eccodes(path, result)
    groups = {path: set(group.arrays) & {"t", "t2m", "u10", "v10", "sp"} for path, group in result.root.walk()}
    assert groups == {
        "/": set(),
        "/isobaricInhPa": {"t"},
        "/hybrid": {"t"},
        "/surface": {"sp"},
        "/heightAboveGround": set(),
        "/heightAboveGround/level_2": {"t2m"},
        "/heightAboveGround/level_10": {"u10", "v10"},
    }
    assert result.root.attributes["GRIB_edition"] == 2


def test_two_grids(tmp_path: Path) -> None:
    other = {**GRIDS["regular_ll"], "Ni": 3, "longitudeOfLastGridPointInDegrees": 20}
    path = write(tmp_path / "a.grib2", [message(), message(grid=other)])
    result = scanned(path)
    check_against_eccodes(path, result)
    assert [p for p, _ in result.root.walk()] == ["/", "/regular_ll_4x6", "/regular_ll_4x3"]


def test_kinds_of_steps(tmp_path: Path) -> None:
    def statistic(kind: str, step: str, **keys: Any) -> bytes:
        return message(
            "regular_ll_sfc_grib2", productDefinitionTemplateNumber=8, shortName="2t", stepType=kind, stepRange=step
        )

    messages = [message("regular_ll_sfc_grib2", shortName="2t", step=s) for s in (0, 6, 12)]
    messages += [statistic(kind, step) for kind in ("max", "min") for step in ("0-6", "6-12")]
    path = write(tmp_path / "a.grib2", messages)
    result = scanned(path)
    assert check_against_eccodes(path, result) == 7
    assert result.warnings == ()


def test_accumulations_of_different_lengths_at_one_step(tmp_path: Path) -> None:
    ranges = ("0-6", "0-12", "6-12", "0-18", "12-18")
    messages = [
        message("regular_ll_sfc_grib2", productDefinitionTemplateNumber=8, shortName="tp", stepRange=r, seed=i)
        for i, r in enumerate(ranges)
    ]
    path = write(tmp_path / "a.grib2", messages)
    result = scanned(path)
    (ds,) = datasets(result)
    assert set(ds.data_vars) == {"tp_since_start", "tp_of_intervals"}
    fields = read_all(path)
    np.testing.assert_array_equal(ds.tp_since_start.sel(step="18h").values.ravel(), fields[3]["values"])
    np.testing.assert_array_equal(ds.tp_of_intervals.sel(step="18h").values.ravel(), fields[4]["values"])
    assert result.warnings == ()


def test_mean_and_spread_are_two_variables(tmp_path: Path) -> None:
    messages = [
        message(productDefinitionTemplateNumber=2, shortName="t", derivedForecast=d, level=z, seed=d + z)
        for d in (0, 4)
        for z in (850, 500)
    ]
    path = write(tmp_path / "a.grib2", messages)
    result = scanned(path)
    names = {name for name in result.root.arrays if name.startswith("t_")}
    assert len(names) == 2
    assert sum(result.root.arrays[name].nrefs for name in names) == 4
    assert result.warnings == ()


def test_a_control_run_and_members(tmp_path: Path) -> None:
    messages = [message(shortName="t", dataType="cf")]
    messages += [
        message(shortName="t", productDefinitionTemplateNumber=1, dataType="pf", number=n, seed=n) for n in (1, 2)
    ]
    path = write(tmp_path / "a.grib2", messages)
    result = scanned(path)
    (ds,) = datasets(result)
    assert ds.t.sizes["number"] == 3
    assert ds.number.values.tolist() == [0, 1, 2]


def test_duplicates_are_reported(tmp_path: Path) -> None:
    first, second = message(level=850, seed=1), message(level=850, seed=2)
    path = write(tmp_path / "a.grib2", [first, message(level=500), second])
    result = scanned(path)
    (warning,) = result.warnings
    assert warning == (
        f"3 fields in the file = 2 referenced + 1 skipped because an earlier one has the same header (at byte "
        f"{2 * len(first)})"
    )
    (ds,) = datasets(result)
    np.testing.assert_array_equal(ds.t.sel(isobaricInhPa=850).values.ravel(), read_all(path)[0]["values"])


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("edition", [1, 2])
def test_grids(tmp_path: Path, kind: str, edition: int) -> None:
    if edition == 1 and kind in PLANAR and kind != "polar_stereographic":
        pytest.skip("eccodes has no sample")
    if edition == 1 and kind == "rotated_ll":
        sample, grid = "rotated_ll_pl_grib1", {k: v for k, v in GRIDS[kind].items() if k != "gridType"}
    elif edition == 1 and kind == "polar_stereographic":
        sample, grid = "polar_stereographic_pl_grib1", {k: v for k, v in GRIDS[kind].items() if k != "gridType"}
    else:
        sample, grid = f"regular_ll_pl_grib{edition}", GRIDS[kind]
    raw = message(sample, grid, shortName="t", level=850)
    path = write(tmp_path / "a.grib", [raw, message(sample, grid, shortName="t", level=500, seed=3)])
    result = scanned(path)
    assert check_against_eccodes(path, result) == 2
    assert result.warnings == ()
    (ds,) = datasets(result)
    with handle_of(raw) as handle:
        latitudes, longitudes = (eccodes.codes_get_array(handle, key) for key in ("latitudes", "longitudes"))
    latitude, longitude = xr.broadcast(ds.latitude, ds.longitude)
    np.testing.assert_array_equal(latitude.values.ravel(), latitudes)
    np.testing.assert_array_equal(longitude.values.ravel(), longitudes)
    assert ds.t.dims[-2:] == (("latitude", "longitude") if kind == "regular_ll" else ("y", "x"))
    assert ds.t.attrs["GRIB_gridType"] == kind


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("i", [0, 1])
@pytest.mark.parametrize("j", [0, 1])
@pytest.mark.parametrize("columns", [0, 1])
@pytest.mark.parametrize("alternate", [0, 1])
def test_scanning_modes(tmp_path: Path, kind: str, i: int, j: int, columns: int, alternate: int) -> None:
    """Each value is at the place where eccodes' own iterator over places and values has it."""
    grid = dict(GRIDS[kind])
    if kind.endswith("_ll"):
        grid |= {"iScansNegatively": i, "jScansPositively": j}
        for flag, axis in ((i, "longitude"), (j, "latitude")):
            if flag:
                first, last = (f"{axis}Of{end}GridPointInDegrees" for end in ("First", "Last"))
                grid[first], grid[last] = grid[last], grid[first]
    flags = {
        "iScansNegatively": i,
        "jScansPositively": j,
        "jPointsAreConsecutive": columns,
        "alternativeRowScanning": alternate,
    }
    raw = message(grid=grid, values=np.arange(24.0), bitsPerValue=24, **flags)
    path = write(tmp_path / "a.grib2", [raw])
    (ds,) = datasets(scanned(path))
    with handle_of(raw) as handle:
        expected = eccodes.codes_get_array(handle, "latLonValues").reshape(-1, 3)
    if alternate and kind not in PLANAR[:2] + PLANAR[3:]:  # there eccodes forgets that rows run to and fro
        shape = (6, 4) if columns else (4, 6)
        places, values = expected[:, :2].reshape(*shape, 2), expected[:, 2].reshape(shape)
        if columns:
            places, values = places.transpose(1, 0, 2), values.T
        values = values.copy()
        values[1::2] = values[1::2, ::-1]
        expected = np.column_stack([places.reshape(-1, 2), values.ravel()])
    latitude, longitude, values = (a.values.ravel() for a in xr.broadcast(ds.latitude, ds.longitude, ds.t.squeeze()))
    found = np.column_stack([latitude, longitude, values])
    np.testing.assert_array_equal(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)])


@pytest.mark.parametrize(
    "sample",
    [
        *("reduced_gg_pl_32_grib1", "reduced_gg_pl_32_grib2", "reduced_gg_ml_grib2", "regular_gg_pl_grib1"),
        *("regular_gg_ml_grib2", "rotated_gg_pl_grib2", "sh_pl_grib1", "sh_pl_grib2", "GRIB1", "GRIB2"),
        *("gg_sfc_grib1", "rotated_ll_pl_grib1", "polar_stereographic_sfc_grib2"),
    ],
)
def test_samples_of_eccodes(tmp_path: Path, sample: str) -> None:
    handle = eccodes.codes_grib_new_from_samples(sample)
    raw = bytes(eccodes.codes_get_message(handle))
    points = eccodes.codes_get_size(handle, "values")
    has_places = eccodes.codes_get(handle, "gridType") != "sh"
    eccodes.codes_release(handle)
    path = write(tmp_path / "a.grib", [raw])
    result = scanned(path)
    assert check_against_eccodes(path, result) == 1
    (ds,) = datasets(result)
    (array,) = ds.values()
    assert array.size == points
    assert ("latitude" in ds.coords) == has_places
    if not has_places:
        assert result.warnings[0].startswith("/: no latitudes and longitudes: eccodes does not know where")


def test_levels_in_the_grid_section_of_edition_1(tmp_path: Path) -> None:
    """Model levels carry coefficients there: it is the same grid."""
    grid = {"Ni": 6, "Nj": 4}
    level = message("regular_ll_pl_grib1", typeOfLevel="hybrid", level=3, shortName="t")
    pv = np.linspace(0, 1, 20)
    handle = eccodes.codes_new_from_message(level)
    eccodes.codes_set(handle, "PVPresent", 1)
    eccodes.codes_set_array(handle, "pv", pv)
    level = bytes(eccodes.codes_get_message(handle))
    eccodes.codes_release(handle)
    path = write(tmp_path / "a.grib1", [message("regular_ll_pl_grib1", shortName="u"), level])
    result = scanned(path)
    assert check_against_eccodes(path, result) == 2
    assert len(datasets(result)) == 1, grid


def test_members_of_edition_1(tmp_path: Path) -> None:
    """Their number is in ECMWF's local section."""
    local = {"setLocalDefinition": 1, "localDefinitionNumber": 1}
    messages = [
        message(
            "regular_ll_pl_grib1",
            **local,
            shortName="t",
            number=n,
            level=z,
            seed=n + z,
        )
        for n in (1, 2, 3)
        for z in (850, 500)
    ]
    path = write(tmp_path / "a.grib1", messages)
    result = scanned(path)
    assert check_against_eccodes(path, result) == 6
    (ds,) = datasets(result)
    assert dict(ds.t.sizes) == {"number": 3, "time": 1, "step": 1, "isobaricInhPa": 2, "latitude": 4, "longitude": 6}


def test_missing_values_and_constants(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=24)
    values[::7] = MISSING
    messages = [
        message(sample, values=v, level=z, bitsPerValue=16)
        for sample in ("regular_ll_pl_grib1", "regular_ll_pl_grib2")
        for z, v in ((850, values), (500, np.full(24, 2.0)), (300, np.full(24, MISSING)))
    ]
    for name, part in (("a.grib1", messages[:3]), ("a.grib2", messages[3:])):
        path = write(tmp_path / name, part)
        assert check_against_eccodes(path, scanned(path)) == 3


@pytest.mark.parametrize("repeat_from", [3, 4])
def test_several_fields_in_a_message(tmp_path: Path, repeat_from: int) -> None:
    def parts(seed: int, **keys: Any) -> list[bytes]:
        return [message(shortName=name, seed=seed + i, **keys) for i, name in enumerate(("u", "v", "t"))]

    one, two = (multi_field(parts(z, level=z), repeat_from) for z in (850, 500))
    alone = message(shortName="u", level=300, seed=9)
    path = write(tmp_path / "a.grib2", [one, alone, two])
    result = scanned(path)
    assert check_against_eccodes(path, result) == 7
    refs = result.root.arrays["v"].refs
    assert refs.offset.tolist() == [0, len(one) + len(alone)]
    assert (refs.length < len(one)).all()
    assert result.root.arrays["t"].refs.length[0] == len(one)


def test_both_editions_and_bytes_between(tmp_path: Path) -> None:
    first, second = message(level=850), message("regular_ll_pl_grib1", level=500, seed=1)
    path = write(tmp_path / "bulletin.bin", [b"ECMF 010203\r\r\n", first, bytes(100), second, b"GRIB", b"\n\n"])
    result = scanned(path)
    places = f"0, {13 + len(first) + 1}, {114 + len(first) + len(second)}"
    assert result.warnings == (f"120 bytes between messages belong to none (at byte {places})",)
    assert result.format == "GRIB edition 1 and 2, 2 messages"
    with open_source(path) as source:
        assert choose(source).name == "grib"


def test_reads_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred messages of 20 kB, one of which has a bitmap: under five percent, and each byte once."""
    grid = {"Ni": 100, "Nj": 100}
    raw = message(grid=grid, bitsPerValue=16)
    holes = message(grid=grid, values=np.where(np.arange(10_000) % 9, 1.0 * np.arange(10_000), MISSING), level=5)
    messages = [raw] * 50 + [holes] + [raw] * 49
    path = write(tmp_path / "a.grib2", messages)
    read = []
    with open_source(path) as source:
        original = type(source)._read_many
        monkeypatch.setattr(type(source), "_read_many", lambda self, r: read.extend(r) or original(self, r))
        scan(source, ScanOptions())
    assert sum(length for _, length in read) < 0.05 * path.stat().st_size
    assert len(read) <= len(messages) + 2


def test_end_to_end(tmp_path: Path) -> None:
    """From the file through a repository to xarray."""
    messages = [message(shortName=p, level=z, step=s, seed=z + s) for p in "tu" for z in (850, 500) for s in (0, 6)]
    path = write(tmp_path / "a.grib2", messages)
    found = icv.scan(path)
    config = icv.RepositoryConfig.default()
    for container in found.containers:
        config.set_virtual_chunk_container(container)
    repository = icv.Repository.create(icv.in_memory_storage(), config, dict.fromkeys(found.prefixes))
    session = repository.writable_session("main")
    found.to_icechunk(session.store)
    session.commit("a forecast")
    ds = xr.open_zarr(repository.readonly_session("main").store, consolidated=False)
    for field in read_all(path):
        array = select(ds, field)
        assert array is not None
        np.testing.assert_array_equal(array.values.ravel(), field["values"])
