"""Small netCDF-4 files as an archive has them, written by netCDF4."""

from __future__ import annotations

from pathlib import Path

import netCDF4
import numpy as np


def write_days(
    path: Path, start: int, n: int, *, dtype: str = "f4", chunk: int = 10, units: str = "days since 2000-01-01"
) -> Path:
    """`n` days from day `start` on: /temp (time, y, x), deflated; /daily/rain (time, y); coordinates time and y."""
    random = np.random.default_rng(start)
    with netCDF4.Dataset(path, "w") as file:
        file.title = "test"
        for name, length in (("time", None), ("y", 20), ("x", 30)):
            file.createDimension(name, length)
        time = file.createVariable("time", "f8", ("time",))
        time.units, time.calendar = units, "standard"
        time[:] = np.arange(start, start + n)
        file.createVariable("y", "f4", ("y",))[:] = np.arange(20)
        options = {"zlib": True, "shuffle": True, "chunksizes": (chunk, 20, 30), "fill_value": -999}
        temp = file.createVariable("temp", dtype, ("time", "y", "x"), **options)
        temp.units = "K"
        temp[:] = random.random((n, 20, 30))
        rain = file.createGroup("daily").createVariable("rain", "f4", ("time", "y"), chunksizes=(chunk, 20))
        rain[:] = random.random((n, 20))
    return path


def snapshot_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, to see whether anything changed."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
