"""Grids: their dimensions, attributes, and the coordinates that eccodes computes for them.

Names are those of cfgrib. The order of rows is that of `in_rows`, which the codec uses for the values.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import eccodes
import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.codecs.grib_values import in_rows, scanning
from icechunk_virtual.scanners.grib.keys import Answers, facts, opened, value

_SCANNING = ("iScansNegatively", "jPointsAreConsecutive", "jScansPositively")
_FIRST = ("latitudeOfFirstGridPointInDegrees", "longitudeOfFirstGridPointInDegrees")
_LAST = ("latitudeOfLastGridPointInDegrees", "longitudeOfLastGridPointInDegrees")
_STEPS = ("iDirectionIncrementInDegrees", "jDirectionIncrementInDegrees")
_POLE = ("latitudeOfSouthernPoleInDegrees", "longitudeOfSouthernPoleInDegrees")
_ROTATED = ("Nx", "Ny", *_FIRST, *_LAST, *_STEPS, *_POLE, "angleOfRotationInDegrees", *_SCANNING)
_PLANE = ("Nx", "Ny", "DxInMetres", "DyInMetres", *_FIRST, "LaDInDegrees", *_SCANNING)
_EARTH = ("shapeOfTheEarth", "radius", "earthMajorAxis", "earthMinorAxis")
_KEYS = {
    "regular_ll": ("Nx", "Ny", *_FIRST, *_LAST, *_STEPS, *_SCANNING),
    "regular_gg": ("N", "Ni", "Nj", *_FIRST, *_LAST, _STEPS[0], *_SCANNING),
    "rotated_ll": _ROTATED,
    "rotated_gg": ("N", *_ROTATED),
    "reduced_ll": ("Ny", *_FIRST, *_LAST, _STEPS[1], "pl", *_SCANNING),
    "reduced_gg": ("N", "pl"),
    "reduced_rotated_gg": ("N", "pl", *_POLE, "angleOfRotationInDegrees"),
    "lambert": (*_PLANE, "LoVInDegrees", "Latin1InDegrees", "Latin2InDegrees", *_POLE, "projectionCentreFlag", *_EARTH),
    "polar_stereographic": (*_PLANE, "orientationOfTheGridInDegrees", "projectionCentreFlag", *_EARTH),
    "mercator": (
        *("Ni", "Nj", "DiInMetres", "DjInMetres", *_FIRST, *_LAST, "LaDInDegrees", "orientationOfTheGridInDegrees"),
        *(*_SCANNING, *_EARTH),
    ),
    "lambert_azimuthal_equal_area": (
        *("Nx", "Ny", "DxInMetres", "DyInMetres", *_FIRST, "standardParallelInDegrees", "centralLongitudeInDegrees"),
        *(*_SCANNING, *_EARTH),
    ),
    "albers": (*_PLANE, "LoVInDegrees", "Latin1InDegrees", "Latin2InDegrees", *_EARTH),
    "space_view": (
        *("Nx", "Ny", "latitudeOfSubSatellitePointInDegrees", "longitudeOfSubSatellitePointInDegrees", "dx", "dy"),
        *("XpInGridLengths", "YpInGridLengths", "orientationOfTheGridInDegrees", "NrInRadiusOfEarth", "Xo", "Yo"),
        *(*_SCANNING, *_EARTH),
    ),
    "unstructured_grid": ("numberOfGridUsed", "numberOfGridInReference", "unstructuredGridType", "uuidOfHGrid"),
    "healpix": ("Nside", "orderingConvention", "longitudeOfFirstGridPointInDegrees"),
    "sh": ("M", "K", "J"),
}
_ON_AXES = ("regular_ll", "regular_gg")
_RECTANGULAR = (
    *("rotated_ll", "rotated_gg", "lambert", "polar_stereographic", "mercator", "albers", "space_view"),
    "lambert_azimuthal_equal_area",
)
FROM_THE_SOUTH_WEST = ("lambert", "polar_stereographic", "mercator")
"""eccodes computes these to the east and north, whatever the scanning mode, and turns the values to fit."""
_PLAUSIBLE = 1 << 24
"""A grid of so many points may belong to a message of any size (constant fields have no data)."""
_POINTS_PER_BYTE = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """One grid.

    Attributes
    ----------
    kind : str
        eccodes' `gridType`.
    dims, shape
        Of a field on it.
    attributes : dict
        GRIB_* for the variables on it.
    message : bytes
        A message on it, without data.
    """

    kind: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    attributes: dict[str, Any]
    message: bytes

    @property
    def points(self) -> int:
        """Number of points."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def identity(self) -> Hashable:
        """Equal for equal grids, though their messages differ: edition 1 has levels in the same section."""
        if self.kind not in _KEYS or self.message[7] != 1:
            return self.message
        return self.kind, self.shape, repr(self.attributes)


@dataclass(frozen=True, slots=True)
class Coordinates:
    """Latitudes and longitudes of a grid: on its axes, or one per point."""

    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    dims: tuple[tuple[str, ...], tuple[str, ...]]


_COORDINATES = Answers(8)


def read_grid(message: bytes) -> Grid | str:
    """The grid of a message without data, or why it cannot be had."""
    with opened(message) as handle:
        kind = value(handle, "gridType", str) or "unknown"
        points = value(handle, "numberOfPoints", int) or value(handle, "numberOfValues", int)
        nx, ny = (value(handle, key, int) for key in ("Nx", "Ny"))
        names = ("gridType", "numberOfPoints", "gridDefinitionDescription", *_KEYS.get(kind, ()))
        found = facts(handle, tuple(name for name in names if name != "pl"))
        if "pl" in names:
            found["pl"] = eccodes.codes_get_array(handle, "pl").tolist()
    if not points:
        return "has a grid without points"
    dims: tuple[str, ...] = ("values",)
    shape: tuple[int, ...] = (points,)
    if kind in _ON_AXES + _RECTANGULAR and nx and ny and nx * ny == points:
        dims, shape = ("latitude", "longitude") if kind in _ON_AXES else ("y", "x"), (ny, nx)
    return Grid(kind, dims, shape, {f"GRIB_{name}": v for name, v in found.items()}, message)


def coordinates(grid: Grid, largest_message: int) -> Coordinates | str:
    """Where the points of a grid are, or why that is not known.

    Parameters
    ----------
    largest_message
        Bytes of the largest message on this grid: a small one that claims billions of points is not believed.
    """
    if grid.points > max(_PLAUSIBLE, largest_message * _POINTS_PER_BYTE):
        return f"its messages are too small for {grid.points} points"
    return _COORDINATES.ask(grid.message, lambda: _coordinates(grid))


def _coordinates(grid: Grid) -> Coordinates | str:
    try:
        with opened(grid.message) as handle:
            latitude = eccodes.codes_get_array(handle, "latitudes")
            longitude = eccodes.codes_get_array(handle, "longitudes")
            by_columns, _ = scanning(handle)
            flip = [bool(value(handle, key, int)) for key in ("jScansPositively", "iScansNegatively")]
    except (eccodes.CodesInternalError, MemoryError) as error:
        return f"eccodes does not know where the points of a grid of type {grid.kind} are ({error})"
    if len(latitude) != grid.points or len(longitude) != grid.points:
        return f"eccodes gives {len(latitude)} points of {grid.points}"
    if len(grid.shape) == 1:
        return Coordinates(latitude, longitude, (grid.dims, grid.dims))
    ny, nx = grid.shape
    if grid.kind in FROM_THE_SOUTH_WEST:
        turn = (slice(None, None, 1 if flip[0] else -1), slice(None, None, -1 if flip[1] else 1))
        latitude, longitude = (points.reshape(ny, nx)[turn] for points in (latitude, longitude))
    else:
        latitude, longitude = (
            in_rows(points, ny, nx, by_columns=by_columns, alternate=False) for points in (latitude, longitude)
        )
    if grid.dims == ("latitude", "longitude"):
        return Coordinates(latitude[:, 0].copy(), longitude[0].copy(), (("latitude",), ("longitude",)))
    return Coordinates(latitude, longitude, (grid.dims, grid.dims))
