"""GRIB files for tests, made by eccodes, and what eccodes reads from them message by message."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import eccodes
import numpy as np
from numpy.typing import NDArray

MISSING = 1e20
SMALL = {
    "Ni": 6,
    "Nj": 4,
    "latitudeOfFirstGridPointInDegrees": 60,
    "latitudeOfLastGridPointInDegrees": 45,
    "longitudeOfFirstGridPointInDegrees": 10,
    "longitudeOfLastGridPointInDegrees": 35,
    "iDirectionIncrementInDegrees": 5,
    "jDirectionIncrementInDegrees": 5,
}
"""A regular grid of 24 points."""
PLANE = {"Nx": 6, "Ny": 4, "latitudeOfFirstGridPointInDegrees": 50, "longitudeOfFirstGridPointInDegrees": 10}
GRIDS: dict[str, dict[str, Any]] = {
    "regular_ll": SMALL,
    "rotated_ll": {"gridType": "rotated_ll", **SMALL},
    "lambert": {
        "gridType": "lambert",
        **PLANE,
        "DxInMetres": 1e5,
        "DyInMetres": 1e5,
        "LoVInDegrees": 10,
        "LaDInDegrees": 45,
        "Latin1InDegrees": 45,
        "Latin2InDegrees": 45,
        "jScansPositively": 1,
    },
    "polar_stereographic": {
        "gridType": "polar_stereographic",
        **PLANE,
        "DxInMetres": 1e5,
        "DyInMetres": 1e5,
        "orientationOfTheGridInDegrees": 10,
        "jScansPositively": 1,
    },
    "lambert_azimuthal_equal_area": {
        "gridType": "lambert_azimuthal_equal_area",
        **PLANE,
        "Dx": 10**8,
        "Dy": 10**8,
        "standardParallelInDegrees": 45,
        "centralLongitudeInDegrees": 10,
    },
    "mercator": {
        "gridType": "mercator",
        "Ni": 6,
        "Nj": 4,
        "latitudeOfFirstGridPointInDegrees": 40,
        "longitudeOfFirstGridPointInDegrees": 10,
        "latitudeOfLastGridPointInDegrees": 44,
        "longitudeOfLastGridPointInDegrees": 16,
        "DiInMetres": 1e5,
        "DjInMetres": 1e5,
        "LaDInDegrees": 20,
        "jScansPositively": 1,
    },
}
PLANAR = ("lambert", "polar_stereographic", "lambert_azimuthal_equal_area", "mercator")


@contextmanager
def handle_of(message: bytes) -> Iterator[int]:
    handle = eccodes.codes_new_from_message(message)
    try:
        yield handle
    finally:
        eccodes.codes_release(handle)


def message(
    sample: str = "regular_ll_pl_grib2",
    grid: dict[str, Any] | None = None,
    *,
    values: NDArray[Any] | None = None,
    seed: int = 0,
    **keys: Any,
) -> bytes:
    """A message from a sample of eccodes: its grid, its keys in this order, and values."""
    handle = eccodes.codes_grib_new_from_samples(sample)
    try:
        if grid is None:
            grid = SMALL if sample.startswith("regular_ll") else {}
        for key, value in grid.items():
            eccodes.codes_set(handle, key, value)
        points = eccodes.codes_get_size(handle, "values")
        if grid:
            points = (grid.get("Ni") or grid.get("Nx")) * (grid.get("Nj") or grid.get("Ny"))
            if eccodes.codes_get(handle, "edition") == 2:
                eccodes.codes_set(handle, "numberOfDataPoints", points)
                eccodes.codes_set(handle, "numberOfValues", points)
        for key, value in keys.items():
            eccodes.codes_set(handle, key, value)
        if values is None:
            values = np.random.default_rng(seed).normal(10, 5, points)
        if (values == MISSING).any():
            eccodes.codes_set(handle, "bitmapPresent", 1)
            eccodes.codes_set(handle, "missingValue", MISSING)
        if "bitsPerValue" not in keys:
            eccodes.codes_set(handle, "bitsPerValue", 16)
        eccodes.codes_set_values(handle, np.asarray(values, float))
        return bytes(eccodes.codes_get_message(handle))
    finally:
        eccodes.codes_release(handle)


def sections(raw: bytes) -> list[bytes]:
    """The sections of a message of edition 2, without the last."""
    found, position = [raw[:16]], 16
    while raw[position : position + 4] != b"7777":
        (length,) = struct.unpack_from(">I", raw, position)
        found.append(raw[position : position + length])
        position += length
    return found


def multi_field(messages: Iterable[bytes], repeat_from: int = 4) -> bytes:
    """Messages of edition 2 as one: sections before `repeat_from` are taken from the first."""
    first, *others = [sections(raw) for raw in messages]
    kept = [*first[1:]]
    for other in others:
        kept += [section for section in other[1:] if section[4] >= repeat_from]
    body = b"".join(kept) + b"7777"
    return first[0][:8] + struct.pack(">Q", 16 + len(body)) + body


def read_all(path: Path) -> list[dict[str, Any]]:
    """What eccodes says of every field of a file, in order."""
    found = []
    eccodes.codes_grib_multi_support_on()
    try:
        with path.open("rb") as file:
            while (handle := eccodes.codes_grib_new_from_file(file)) is not None:
                eccodes.codes_set(handle, "missingValue", MISSING)
                values = eccodes.codes_get_values(handle)
                values[values == MISSING] = np.nan
                keys = ("shortName", "cfVarName", "typeOfLevel", "stepType", "dataDate", "dataTime", "gridType")
                facts = {key: eccodes.codes_get(handle, key) for key in keys}
                facts["level"] = eccodes.codes_get(handle, "level", ktype=float)
                facts["step"] = eccodes.codes_get(handle, "endStep", ktype=int)
                has_number = eccodes.codes_is_defined(handle, "number")
                facts["number"] = eccodes.codes_get(handle, "number") if has_number else None
                found.append({**facts, "values": values})
                eccodes.codes_release(handle)
    finally:
        eccodes.codes_grib_multi_support_off()
    return found
