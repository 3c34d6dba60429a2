"""The main job from end to end: a small archive becomes one versioned repository, and no chunk is copied.

Usage: python examples/demo.py [FOLDER]        (default: demo-archive; what an earlier run left there is replaced)

Writes NetCDF4, HDF5 and NetCDF3 files with the libraries of the field, makes them one repository with the command
line, commits a second year, opens both versions with xarray, and compares every value with what netCDF4 and h5py read.
Exits with 1 when a check fails.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import shlex
import shutil
import sys
from pathlib import Path

import h5py
import hdf5plugin
import netCDF4
import numpy as np
import xarray as xr

import icechunk_virtual as icv
from icechunk_virtual.cli import main as command_line

MARK = ".icechunk-virtual-demo"  # a folder with this file is ours to replace
LAT, LON = 60, 120


class Failed(Exception):
    """A check did not hold."""


def main(folder: Path) -> None:
    data, repo = prepare(folder)
    print(f"1. An archive as it might lie on your disk, in {data}/\n")
    write_archive(data)
    for path in sorted(data.iterdir()):
        print(f"   {path.name:20} {human(path.stat().st_size):>9}   {KINDS[path.name]}")
    before = fingerprints(data)

    print("\n2. The first year, an instrument and a model run become one repository\n")
    scan(data / "ocean-2024.nc", repo, "--group", "ocean", "-m", "ocean 2024")
    scan(data / "camera.h5", repo, "--group", "camera", "-m", "camera")
    first = scan(data / "model.nc", repo, "--group", "model", "-m", "model run")

    print("\n3. A year later: the second file is appended, which is a new version\n")
    latest = scan(data / "ocean-2025.nc", repo, "--group", "ocean", "--append-dim", "time", "-m", "ocean 2025")

    print("\n4. Both versions, opened with xarray and compared with the files\n")
    granted = [folder_url(data)]
    compare(data, repo, granted, first, years=[2024])
    compare(data, repo, granted, latest, years=[2024, 2025])

    print("\n5. What was copied\n")
    check_sizes(data, repo)
    hold(fingerprints(data) == before, "the files are unchanged")
    print("   ok  the files are unchanged, byte for byte")
    print(NEXT.format(repo=str(repo), url=granted[0], bin=Path(sys.executable).parent))


# -- the archive -----------------------------------------------------------------------------------------------

KINDS = {
    "ocean-2024.nc": "NetCDF4: two groups, packed, deflate + shuffle",
    "ocean-2025.nc": "NetCDF4: the next year, times in other units",
    "camera.h5": "HDF5: Blosc and Zstandard (hdf5plugin), contiguous, text",
    "model.nc": "NetCDF3: 64-bit offsets, records",
}


def prepare(folder: Path) -> tuple[Path, Path]:
    """An empty folder for the archive, and a place for the repository."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).exists():
            raise Failed(f"{folder} is not empty and was not made by this program: name another folder")
        shutil.rmtree(folder)
    (folder / "data").mkdir(parents=True)
    (folder / MARK).touch()
    return folder / "data", folder / "archive.icechunk"


def write_archive(data: Path) -> None:
    for year in (2024, 2025):
        write_ocean(data / f"ocean-{year}.nc", year)
    write_camera(data / "camera.h5")
    write_model(data / "model.nc")


def write_ocean(path: Path, year: int) -> None:
    """A year of daily fields, chunked by ten days: 360 of them, so that the next year begins with a chunk."""
    random = np.random.default_rng(year)
    with netCDF4.Dataset(path, "w") as file:
        file.title = "Made-up ocean"
        for name, n in (("time", None), ("lat", LAT), ("lon", LON)):
            file.createDimension(name, n)
        time = file.createVariable("time", "f8", ("time",))
        time.units, time.calendar = f"days since {year}-01-01", "360_day"
        time[:] = np.arange(360)
        for name, ends in (("lat", (-89, 89)), ("lon", (0, 357))):
            file.createVariable(name, "f4", (name,))[:] = np.linspace(*ends, file.dimensions[name].size)
        options = {"chunksizes": (10, LAT, LON), "zlib": True, "complevel": 1, "shuffle": True}
        surface = file.createVariable("sst", "i2", ("time", "lat", "lon"), fill_value=-32768, **options)
        surface.scale_factor, surface.add_offset, surface.units = 0.01, 15.0, "degC"
        surface[:] = np.ma.masked_less(15 + 10 * random.standard_normal((360, LAT, LON)), -10)
        deep = file.createGroup("deep")
        salt = deep.createVariable("salinity", "f4", ("time", "lat", "lon"), fletcher32=True, **options)
        salt[:] = 35 + random.standard_normal((360, LAT, LON)).cumsum(axis=0) / 100


def write_camera(path: Path) -> None:
    random = np.random.default_rng(1)
    frames = random.poisson(100, (32, 256, 256)).astype("u2")
    with h5py.File(path, "w") as file:
        file.attrs["instrument"] = "made-up camera"
        options = {"chunks": (4, 256, 256)}
        file.create_dataset("frames", data=frames, **options, **hdf5plugin.Blosc(cname="zstd", shuffle=1))
        file.create_dataset("background", data=frames[::4].astype(">f4"), chunks=(1, 256, 256), **hdf5plugin.Zstd())
        file.create_dataset("flat", data=random.standard_normal((512, 512)))
        file["frames"].dims[0].label = "frame"
        file.create_dataset("comment", data=[f"frame {i}" for i in range(32)], dtype=h5py.string_dtype())


def write_model(path: Path) -> None:
    with netCDF4.Dataset(path, "w", format="NETCDF3_64BIT_OFFSET") as file:
        for name, n in (("step", None), ("lat", LAT), ("lon", LON)):
            file.createDimension(name, n)
        file.createVariable("orography", "f8", ("lat", "lon"))[:] = np.arange(LAT * LON).reshape(LAT, LON)
        file.createVariable("pressure", "f4", ("step", "lat", "lon"))[:] = 1000 + np.random.default_rng(
            2
        ).standard_normal((100, LAT, LON))


# -- what a user does ------------------------------------------------------------------------------------------


def scan(source: Path, repo: Path, *options: str) -> str:
    """Run the command line; show the command and the gist of its report. The id of the new snapshot."""
    arguments = ["scan", str(source), "--repo", str(repo), *options]
    print(f"   $ icechunk-virtual {shlex.join(arguments)}")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = command_line(arguments)
    hold(code == 0, "the command succeeded")
    facts = dict(line.split(maxsplit=1) for line in out.getvalue().splitlines() if line[:1].strip() and " " in line)
    referenced, stored = facts["referenced"].partition(",")[0], facts["stored"].rstrip(":")
    print(f"     {facts['found']}: {referenced} referenced, {stored} stored")
    return (facts.get("created") or facts["committed"]).split()[-1]


def compare(data: Path, repo: Path, granted: list[str], snapshot: str, years: list[int]) -> None:
    """Every value of a version against the libraries that the files were written for."""

    def open_group(group: str) -> xr.Dataset:
        return xr.open_dataset(repo, engine="icechunk-virtual", group=group, snapshot_id=snapshot, authorize=granted)

    files = [netCDF4.Dataset(data / f"ocean-{year}.nc") for year in years]
    ocean, deep, camera, model = map(open_group, ("ocean", "ocean/deep", "camera", "model"))
    span = f"{ocean.time.values[0].strftime('%Y-%m-%d')} to {ocean.time.values[-1].strftime('%Y-%m-%d')}"
    print(f"   version {snapshot}: ocean has {ocean.sizes['time']} days, {span}")
    same(ocean.sst, np.ma.concatenate([f["sst"][:] for f in files]).filled(np.nan))
    same(deep.salinity, np.concatenate([f["deep/salinity"][:] for f in files]))
    times = [netCDF4.num2date(f["time"][:], f["time"].units, f["time"].calendar) for f in files]
    hold(list(ocean.time.values) == list(np.concatenate(times)), "the dates are those of netCDF4")
    print(f"   ok  sst, salinity {ocean.sst.shape} and the dates are what netCDF4 reads")
    with h5py.File(data / "camera.h5") as file, netCDF4.Dataset(data / "model.nc") as run:
        for name in ("frames", "background", "flat"):
            same(camera[name], file[name][()])
        hold(list(camera.comment.values) == list(file["comment"].asstr()[()]), "the texts are those of h5py")
        print(f"   ok  frames {camera.frames.shape}, background, flat and texts are what h5py reads")
        for name in ("pressure", "orography"):
            same(model[name], run[name][:])
        print(f"   ok  pressure {model.pressure.shape} and orography are what netCDF4 reads")
    for file in files:
        file.close()


def check_sizes(data: Path, repo: Path) -> None:
    """The repository is small, and has no object that could be a chunk of the archive."""
    archive = sum(path.stat().st_size for path in data.iterdir())
    files = [path for path in repo.rglob("*") if path.is_file()]
    total = sum(path.stat().st_size for path in files)
    objects = sum(path.parent.name == "chunks" for path in files)
    session = icv.Repository.open(icv.local_filesystem_storage(str(repo))).readonly_session("main")
    refs = len(session.all_virtual_chunk_locations())
    print(f"   archive {human(archive)}, repository {human(total)}: {100 * total / archive:.1f} % of it")
    hold(refs == 163 and objects == 0 and total < archive / 100, "the repository is small and has no chunk objects")
    print(f"   ok  {refs} chunks are byte ranges of the files; the repository has {objects} chunk objects of its own")


# -- helpers ---------------------------------------------------------------------------------------------------


def same(found: xr.DataArray, expected: np.ndarray) -> None:
    values = np.asarray(expected)
    equal = found.shape == values.shape and np.allclose(found.values, values, rtol=1e-6, atol=0, equal_nan=True)
    hold(equal, f"{found.name} has the values that are in the files")


def hold(true: bool, what: str) -> None:
    if not true:
        raise Failed(f"not true: {what}")


def fingerprints(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def folder_url(folder: Path) -> str:
    return folder.absolute().as_uri() + "/"


def human(n: int) -> str:
    return f"{n / 2**20:.1f} MiB" if n >= 100_000 else f"{n / 2**10:.1f} KiB"


NEXT = """
All checks passed. Look around in Python:

    import xarray as xr
    tree = xr.open_datatree({repo!r}, engine="icechunk-virtual", authorize=[{url!r}])

Now your own files. One file, or many along a dimension that they share:

    $ icechunk-virtual scan /path/to/file.nc --repo my.icechunk
    $ icechunk-virtual scan '/path/to/*.nc' --repo my.icechunk --concat time

(The program is {bin}/icechunk-virtual.)
"""


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-archive"))
    except Failed as failure:
        sys.exit(f"demo: {failure}")
