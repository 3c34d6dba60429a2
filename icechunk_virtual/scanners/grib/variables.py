"""Which fields are one variable: the same parameter, type of level, step type and grid, at different coordinates.

Where two fields would be at the same place, what else is different about them makes two variables of them. Columns
and small tables in, small tables out; eccodes is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.scanners.grib.headers import Table
from icechunk_virtual.scanners.grib.keys import SPLITTING_KEYS

Rows = NDArray[np.int64]

AXES = ("number", "time", "step", "level", "directionNumber", "frequencyNumber")
"""What makes a place, in the order of dimensions."""
_COORDINATES = frozenset({*AXES, "valid_time", "latitude", "longitude"})
_DISTINCT_NAMES = {"dataType": "{}", "percentileValue": "percentile_{}", "derivedForecast": "derived_{}"}


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable to be.

    Attributes
    ----------
    name : str
    level_type, step_type : str
    grid : int
        Row of `Table.grids`.
    rows : int64 (n,)
        Its fields, one per place.
    axes : dict
        For every name in `AXES` the coordinate of each field, (n,).
    """

    name: str
    level_type: str
    step_type: str
    grid: int
    rows: Rows
    axes: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def find_variables(
    table: Table, rows: Rows, distinguishing: Callable[[int], Mapping[str, Any]]
) -> tuple[list[Variable], Rows]:
    """Sort fields into variables.

    Parameters
    ----------
    rows : int64
        The fields that count.
    distinguishing
        What else may tell a field from others: asked only where two are at one place.

    Returns
    -------
    variables
        In the order in which they begin in the file.
    duplicates : int64
        Fields with the header of one before, at the same place: they are in no variable.
    """
    return _Sorting(table, distinguishing).run(rows)


class _Sorting:
    def __init__(self, table: Table, distinguishing: Callable[[int], Mapping[str, Any]]) -> None:
        self.table, self.distinguishing = table, distinguishing
        self.duplicates: list[Rows] = []
        facts = [parameter.facts for parameter in table.parameters]
        self.axes: dict[str, NDArray[Any]] = {
            "number": table.number,
            "time": table.time,
            "step": table.step,
            "level": np.nan_to_num(table.level),
        }
        for key in AXES[4:]:
            column = np.array([f.get(key, -1) for f in facts], np.int64)
            self.axes[key] = column[table.parameter]

    def run(self, rows: Rows) -> tuple[list[Variable], Rows]:
        found: list[Variable] = []
        for variable in self.families(rows):
            found += self.separated(variable)
        found.sort(key=lambda variable: int(variable.rows[0]))
        return found, np.sort(np.concatenate([*self.duplicates, np.empty(0, np.int64)]))

    def families(self, rows: Rows) -> Iterator[Variable]:
        """Fields of one parameter, type of level, step type and grid."""
        table = self.table
        families: dict[tuple[Any, ...], int] = {}
        family = np.zeros(len(table.parameters), np.int64)
        for i, parameter in enumerate(table.parameters):
            family[i] = families.setdefault(parameter.identity, len(families))
        keys = np.column_stack([family[table.parameter], table.level_kind, table.grid])[rows]
        distinct, ids = np.unique(keys, axis=0, return_inverse=True)
        for i, (_, kind, grid) in enumerate(distinct.tolist()):
            members = rows[ids.reshape(-1) == i]
            parameter = table.parameters[table.parameter[members[0]]]
            step_type = str(parameter.facts.get("stepType", "unknown"))
            yield self.with_axes(Variable(parameter.name, table.level_type[kind], step_type, grid, members))

    def with_axes(self, variable: Variable) -> Variable:
        """With the coordinates of its fields. A lone control run among members is member 0."""
        axes = {name: column[variable.rows] for name, column in self.axes.items()}
        number = axes["number"]
        if (number < 0).any() and (number >= 0).any() and not (number == 0).any():
            axes["number"] = np.maximum(number, 0)
        return replace(variable, axes=axes)

    def separated(self, variable: Variable) -> list[Variable]:
        """Variables without two fields at one place."""
        if not len(_repeats(variable)):
            return [variable]
        for names, ids in self.partitions(variable):
            parts = [self.part(variable, ids == i, name) for i, name in enumerate(names)]
            if sum(len(_repeats(part)) for part in parts) < len(_repeats(variable)):
                return [one for part in parts for one in self.separated(part)]
        repeats = _repeats(variable)
        self.duplicates.append(variable.rows[repeats])
        keep = np.ones(len(variable.rows), bool)
        keep[repeats] = False
        return [self.part(variable, keep, "")]

    def partitions(self, variable: Variable) -> Iterator[tuple[list[str], Rows]]:
        """Ways to divide the fields of a variable: the suffixes of the parts' names, and the part of each field."""
        table = self.table
        length = table.step[variable.rows] - table.start[variable.rows]
        since_start = (table.start[variable.rows] == 0) & (length > 0)
        if since_start.any() and not since_start.all():
            yield ["of_intervals", "since_start"], since_start.astype(np.int64)
        parameters, inverse = np.unique(table.parameter[variable.rows], return_inverse=True)
        if len(parameters) > 1:
            first = [int(variable.rows[np.argmax(inverse == i)]) for i in range(len(parameters))]
            facts = [self.distinguishing(row) for row in first]
            for key in SPLITTING_KEYS:
                values = [str(f.get(key)) for f in facts]
                names = sorted(set(values))
                if len(names) > 1:
                    style = _DISTINCT_NAMES.get(key, key + "_{}")
                    yield [style.format(n) for n in names], np.array([names.index(v) for v in values])[inverse]
        lengths, ids = np.unique(length, return_inverse=True)
        if len(lengths) > 1:
            yield [f"of_{hours:g}_hours" for hours in lengths.tolist()], ids

    def part(self, variable: Variable, mask: NDArray[np.bool_], suffix: str) -> Variable:
        name = f"{variable.name}_{suffix}" if suffix else variable.name
        return self.with_axes(replace(variable, name=node_name(name), rows=variable.rows[mask]))


def _repeats(variable: Variable) -> Rows:
    """Fields at the place of an earlier one, by their position in the variable."""
    places = np.column_stack([variable.axes[name] for name in AXES]).astype(np.float64)
    _, first = np.unique(places, axis=0, return_index=True)
    return np.setdiff1d(np.arange(len(places)), first)


def node_name(name: str) -> str:
    """A name that any Zarr node can have."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", name).strip(".") or "unknown"


# -- groups ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Group:
    """Variables that share their coordinates, and groups below."""

    variables: list[Variable] = field(default_factory=list)
    groups: dict[str, Group] = field(default_factory=dict)


def arrange(variables: Sequence[Variable], grid_name: Callable[[int], str]) -> Group:
    """Put variables into groups: one if they fit, else by type of level, step type, levels and grid, as needed."""
    return _arranged(list(variables), grid_name, 0)


def _arranged(variables: list[Variable], grid_name: Callable[[int], str], depth: int) -> Group:
    if _fit(variables):
        return Group(variables)
    divisions: tuple[Callable[[], list[str]], ...] = (
        lambda: [v.level_type for v in variables],
        lambda: [v.step_type for v in variables],
        lambda: _level_clusters(variables),
        lambda: [grid_name(v.grid) for v in variables],
    )
    for number in range(depth, len(divisions)):
        names = divisions[number]()
        if len(set(names)) > 1:
            groups = {
                node_name(name): _arranged(
                    [v for v, n in zip(variables, names, strict=True) if n == name], grid_name, number + 1
                )
                for name in dict.fromkeys(names)
            }
            return Group([], groups)
    return Group(_renamed(variables))


def _renamed(variables: list[Variable]) -> list[Variable]:
    """Where names are taken, also by coordinates, numbers are added."""
    taken = _COORDINATES | {v.level_type for v in variables}
    result = []
    for variable in variables:
        name, i = variable.name, 1
        while name in taken:
            i += 1
            name = f"{variable.name}_{i}"
        taken |= {name}
        result.append(replace(variable, name=name))
    return result


def _fit(variables: list[Variable]) -> bool:
    """Whether variables can be in one group: different names, one grid, and one set of levels per type."""
    names = {v.name for v in variables}
    if len(names) < len(variables) or len({v.grid for v in variables}) > 1:
        return False
    for kind in {v.level_type for v in variables}:
        if len(set(_level_clusters([v for v in variables if v.level_type == kind]))) > 1:
            return False
    return not names & (_COORDINATES | {v.level_type for v in variables})


def _level_clusters(variables: list[Variable]) -> list[str]:
    """For each variable the name of the set of levels that it is on: sets that overlap by half are one."""
    sets = [frozenset(v.axes["level"].tolist()) for v in variables]
    clusters: list[set[float]] = []
    number = {}
    for levels in sorted(set(sets), key=lambda s: (-len(s), sorted(s))):
        for i, cluster in enumerate(clusters):
            if 2 * len(levels & cluster) >= len(levels):
                cluster |= levels
                number[levels] = i
                break
        else:
            number[levels] = len(clusters)
            clusters.append(set(levels))
    names = [f"level_{min(c):g}" if len(c) == 1 else f"levels_{min(c):g}_to_{max(c):g}" for c in clusters]
    if len(set(names)) < len(names):
        names = [f"{name}_{i}" for i, name in enumerate(names)]
    return [names[number[levels]] for levels in sets]
