"""From sorted fields to groups of arrays: dimensions, coordinates, attributes and references.

Names and attributes of coordinates are those of cfgrib.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.containers.source import Source
from icechunk_virtual.model.chunk_refs import ChunkRefs
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.model.paths import child_path
from icechunk_virtual.scanners.dataset import Stored, VirtualArray, VirtualGroup
from icechunk_virtual.scanners.documents import array_document
from icechunk_virtual.scanners.grib.grids import Coordinates, Grid, coordinates
from icechunk_virtual.scanners.grib.headers import Table
from icechunk_virtual.scanners.grib.variables import AXES, Group, Variable
from icechunk_virtual.scanners.native import fetched, stored_array
from icechunk_virtual.scanners.spec import ScanOptions

CODEC = "icechunk_virtual.grib"
_SERIES = (
    "isobaricInhPa",
    "isobaricInPa",
    "hybrid",
    "hybridHeight",
    "hybridPressure",
    "sigma",
    "theta",
    "potentialVorticity",
)
"""Types of levels that are a dimension also where a file has one of them: the next file has another."""
_GROUP_FACTS = ("edition", "centre", "centreDescription", "subCentre")
_NO_ATTRIBUTES = ("directionNumber", "frequencyNumber", "number")
_LARGEST_VALID_TIME = 1 << 22
_EPOCH = {"units": "seconds since 1970-01-01T00:00:00", "calendar": "proleptic_gregorian"}
_PRESSURE = {"positive": "down", "standard_name": "air_pressure", "long_name": "pressure"}
_DEPTH = {"units": "m", "positive": "down", "long_name": "soil depth", "standard_name": "depth"}
_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "latitude": {"units": "degrees_north", "standard_name": "latitude", "long_name": "latitude"},
    "longitude": {"units": "degrees_east", "standard_name": "longitude", "long_name": "longitude"},
    "depthBelowLand": _DEPTH,
    "depthBelowLandLayer": _DEPTH,
    "hybrid": {
        "units": "1",
        "positive": "down",
        "long_name": "hybrid level",
        "standard_name": "atmosphere_hybrid_sigma_pressure_coordinate",
    },
    "heightAboveGround": {
        "units": "m",
        "positive": "up",
        "long_name": "height above the surface",
        "standard_name": "height",
    },
    "isobaricInhPa": {"units": "hPa", "stored_direction": "decreasing", **_PRESSURE},
    "isobaricInPa": {"units": "Pa", "stored_direction": "decreasing", **_PRESSURE},
    "isobaricLayer": {"units": "Pa", **_PRESSURE},
    "number": {"units": "1", "standard_name": "realization", "long_name": "ensemble member numerical id"},
    "step": {
        "units": "hours",
        "standard_name": "forecast_period",
        "long_name": "time since forecast_reference_time",
        "dtype": "timedelta64[ns]",
    },
    "time": {**_EPOCH, "standard_name": "forecast_reference_time", "long_name": "initial time of forecast"},
    "valid_time": {**_EPOCH, "standard_name": "time", "long_name": "time"},
}


@dataclass(frozen=True, slots=True)
class References:
    """Byte ranges of the fields, int64 (n,), by their row in the table; `largest`: bytes of the largest message."""

    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    largest: int


@dataclass(slots=True)
class Building:
    """What all groups of a file are built from, and what there is to say about them."""

    source: Source
    options: ScanOptions
    table: Table
    references: References
    locations: Locations
    stored: list[Stored] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Axis:
    """A coordinate of a group: its values, and whether it is a dimension."""

    name: str
    values: NDArray[Any]
    is_dimension: bool

    @property
    def descending(self) -> bool:
        return _ATTRIBUTES.get(self.name, {}).get("stored_direction") == "decreasing"


def build(group: Group, path: str, building: Building) -> VirtualGroup:
    """The arrays of a group, and the groups below."""
    building.paths.append(path)
    if path != "/" and building.options.drops(path):
        return VirtualGroup()
    groups = {}
    for name, child in group.groups.items():
        place = child_path(path, name)
        built = build(child, place, building)
        if not building.options.drops(place):
            groups[name] = built
    if not group.variables:
        return VirtualGroup(_group_attributes(group, building.table), {}, groups)
    arrays = _Arrays(group.variables, path, building).build()
    return VirtualGroup(_group_attributes(group, building.table), arrays, groups)


class _Arrays:
    """The arrays of one group: variables with one grid and common coordinates."""

    def __init__(self, variables: Sequence[Variable], path: str, building: Building) -> None:
        self.variables, self.path, self.building = variables, path, building
        self.grid: Grid = building.table.grids[variables[0].grid]
        self.axes = {v.name: self.axes_of(v) for v in variables}
        self.points = coordinates(self.grid, building.references.largest)

    def build(self) -> dict[str, VirtualArray]:
        arrays = {}
        for name, values, dims, attributes in self.coordinates():
            if not self.dropped(name):
                arrays[name] = stored_array(values, dimension_names=dims, attributes=attributes)
                nbytes = arrays[name].nbytes_stored
                self.building.stored.append(Stored(self.place(name), "coordinate, from the headers", nbytes))
        for variable in self.variables:
            if not self.dropped(variable.name):
                arrays[variable.name] = self.array(variable)
        return arrays

    def place(self, name: str) -> str:
        return child_path(self.path, name)

    def dropped(self, name: str) -> bool:
        self.building.paths.append(self.place(name))
        return self.building.options.drops(self.place(name))

    # -- coordinates -------------------------------------------------------------------------------------------

    def axes_of(self, variable: Variable) -> list[_Axis]:
        """The coordinates of a variable before those of its grid, in the order of dimensions."""
        return [axis for name in AXES if (axis := self.axis(name, variable)) is not None]

    def axis(self, name: str, variable: Variable) -> _Axis | None:
        """One coordinate: the values that any variable of the group has; ``None`` if it has no meaning here."""
        alike = [v for v in self.variables if name != "level" or v.level_type == variable.level_type]
        optional = name not in ("time", "step", "level")
        values = np.unique(np.concatenate([v.axes[name] for v in alike]))
        if optional:
            if (variable.axes[name] < 0).all():
                return None
            values = np.unique(np.concatenate([v.axes[name] for v in alike if (v.axes[name] >= 0).any()]))
        called = variable.level_type if name == "level" else name
        several = len(values) > 1 or name in ("time", "step") or called in _SERIES
        if name == "number":
            several = several or any(self.facts(v).get("totalNumber", 0) > 1 for v in alike)
        axis = _Axis(called, values, several)
        return _Axis(called, values[::-1].copy(), several) if axis.descending else axis

    def coordinates(self) -> list[tuple[str, NDArray[Any], tuple[str, ...], dict[str, Any]]]:
        """Name, values, dimensions and attributes of all coordinates."""
        found: dict[str, tuple[str, NDArray[Any], tuple[str, ...], dict[str, Any]]] = {}
        for axes in self.axes.values():
            for axis in axes:
                dims: tuple[str, ...] = (axis.name,) if axis.is_dimension else ()
                values = axis.values if axis.is_dimension else axis.values.reshape(())
                found[axis.name] = axis.name, values, dims, _coordinate_attributes(axis.name)
        time, step = found["time"][1], found["step"][1]
        if time.size * step.size <= _LARGEST_VALID_TIME:
            valid = time[:, None] + np.rint(step * 3600).astype(np.int64)
            found["valid_time"] = "valid_time", valid, ("time", "step"), _coordinate_attributes("valid_time")
        else:
            self.warn(f"valid_time is left out: {time.size} times and {step.size} steps are too many combinations")
        if isinstance(self.points, Coordinates):
            for name, values, dims in zip(
                ("latitude", "longitude"), (self.points.latitude, self.points.longitude), self.points.dims, strict=True
            ):
                attributes = _coordinate_attributes(name)
                if dims == ("latitude",) and len(values) > 1 and values[0] > values[-1]:
                    attributes["stored_direction"] = "decreasing"
                found[name] = name, values, dims, attributes
        else:
            self.warn(f"no latitudes and longitudes: {self.points}")
        return list(found.values())

    def warn(self, text: str) -> None:
        self.building.warnings.append(f"{self.path}: {text}")

    # -- variables ---------------------------------------------------------------------------------------------

    def array(self, variable: Variable) -> VirtualArray:
        axes = [axis for axis in self.axes[variable.name] if axis.is_dimension]
        names = [axis.name for axis in axes]
        shape = (*(len(axis.values) for axis in axes), *self.grid.shape)
        document = array_document(
            shape,
            np.dtype("<f8"),
            chunk_shape=(*(1 for _ in axes), *self.grid.shape),
            fill_value=np.nan,
            attributes=self.attributes(variable),
            dimension_names=(*names, *self.grid.dims),
        )
        document["codecs"] = [{"name": CODEC}]
        refs = self.refs(variable, axes)
        nbytes = int(refs.length.sum(dtype=np.uint64))
        if nbytes <= self.building.options.store_small:
            refs = fetched(refs, self.building.source.read_many)
            self.building.stored.append(Stored(self.place(variable.name), "small", nbytes))
        return VirtualArray(document, refs)

    def refs(self, variable: Variable, axes: Sequence[_Axis]) -> ChunkRefs:
        rows = variable.rows
        coords = np.zeros((len(rows), len(axes) + len(self.grid.shape)), np.uint32, order="F")
        keys = {variable.level_type: "level"}
        for i, axis in enumerate(axes):
            own = variable.axes[keys.get(axis.name, axis.name)]
            if axis.descending:
                coords[:, i] = len(axis.values) - 1 - np.searchsorted(axis.values[::-1], own)
            else:
                coords[:, i] = np.searchsorted(axis.values, own)
        references, locations = self.building.references, self.building.locations
        return ChunkRefs.virtual(coords, locations, 0, references.offset[rows], references.length[rows])

    def facts(self, variable: Variable) -> dict[str, Any]:
        """What all fields of a variable have in common; kinds of data are listed."""
        parameters = np.unique(self.building.table.parameter[variable.rows]).tolist()
        return common([self.building.table.parameters[i].facts for i in parameters])

    def attributes(self, variable: Variable) -> dict[str, Any]:
        """Attributes as cfgrib gives them."""
        facts = self.facts(variable)
        parameters = np.unique(self.building.table.parameter[variable.rows]).tolist()
        kinds = {self.building.table.parameters[i].facts.get("dataType") for i in parameters}
        if len(kinds) > 1:
            facts["dataType"] = sorted(map(str, kinds))
        attributes = {
            f"GRIB_{key}": v for key, v in facts.items() if key not in _GROUP_FACTS and key not in _NO_ATTRIBUTES
        }
        attributes["GRIB_typeOfLevel"] = variable.level_type
        attributes["GRIB_stepUnits"] = 1
        attributes |= self.grid.attributes
        attributes["long_name"] = facts.get("name", f"original GRIB paramId: {facts.get('paramId', 'unknown')}")
        attributes["units"] = facts.get("units", "1")
        if "cfName" in facts:
            attributes["standard_name"] = facts["cfName"]
        names = [axis.name for axis in self.axes[variable.name]]
        names += ["latitude", "longitude"] * isinstance(self.points, Coordinates)
        attributes["coordinates"] = " ".join([*names, "valid_time"])
        return attributes


def _coordinate_attributes(name: str) -> dict[str, Any]:
    """Of a coordinate that cfgrib does not know as well."""
    known = _ATTRIBUTES.get(name)
    return {"units": "1", "long_name": f"original GRIB coordinate for key: {name}"} if known is None else dict(known)


def _group_attributes(group: Group, table: Table) -> dict[str, Any]:
    variables = list(_all(group))
    rows = np.unique(table.parameter[np.concatenate([v.rows for v in variables])]).tolist()
    facts = common([table.parameters[i].facts for i in rows])
    attributes: dict[str, Any] = {f"GRIB_{key}": facts[key] for key in _GROUP_FACTS if key in facts}
    attributes["Conventions"] = "CF-1.7"
    if "centreDescription" in facts:
        attributes["institution"] = facts["centreDescription"]
    return attributes


def _all(group: Group) -> list[Variable]:
    return [*group.variables, *(v for child in group.groups.values() for v in _all(child))]


def common(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries that are the same in all."""
    return {key: v for key, v in facts[0].items() if all(other.get(key) == v for other in facts[1:])}
