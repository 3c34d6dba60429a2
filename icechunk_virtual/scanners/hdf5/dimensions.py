"""Names of dimensions: dimension scales, netCDF-4 conventions, and made-up names for axes that have none.

Works on facts that were read from the file (`Axes`); it does not touch the file itself. The rules are those of the
netCDF library (nc4internal: NC_matchDimscales, create_phony_dims), so that names agree with it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

NON_COORDINATE = "_nc4_non_coord_"
"""Prefix of a variable that has the name of a dimension without being its coordinate."""
NOT_A_VARIABLE = "This is a netCDF dimension but not a netCDF variable"


@dataclass(slots=True)
class Axes:
    """What the file says about the dimensions of one dataset.

    Attributes
    ----------
    shape : tuple of int
    unlimited : tuple of bool
    scale : bool
        It is a dimension scale.
    dimid : int or None
        `_Netcdf4Dimid`.
    coordinates : tuple of int
        `_Netcdf4Coordinates`: ids of the dimensions of a coordinate variable.
    attached : tuple of (str or None)
        Name of the scale attached to each axis.
    keys : tuple
        What identifies the scale of each axis, its own for a scale; ``None`` where there is none.
    """

    shape: tuple[int, ...]
    unlimited: tuple[bool, ...]
    scale: bool = False
    dimid: int | None = None
    coordinates: tuple[int, ...] = ()
    attached: tuple[str | None, ...] = ()
    keys: tuple[Hashable, ...] = ()


@dataclass(slots=True)
class GroupAxes:
    """The datasets of a group by name, in the order of the file, and the groups below."""

    datasets: dict[str, Axes] = field(default_factory=dict)
    groups: dict[str, GroupAxes] = field(default_factory=dict)

    def walk(self) -> Iterator[GroupAxes]:
        """Yield this group and all below."""
        yield self
        for group in self.groups.values():
            yield from group.walk()


@dataclass(slots=True)
class _Dimension:
    name: str
    size: int
    unlimited: bool


def extend_unlimited(root: GroupAxes) -> None:
    """Give unlimited axes the length of their dimension, which is that of the longest dataset along it.

    NetCDF-4 extends datasets only when they are written; the rest up to the length of the dimension is fill value.
    """
    lengths: dict[Hashable, int] = {}
    for group in root.walk():
        for axes in group.datasets.values():
            for key, size in zip(axes.keys, axes.shape, strict=False):
                if key is not None:
                    lengths[key] = max(size, lengths.get(key, 0))
    for group in root.walk():
        for axes in group.datasets.values():
            keys = [*axes.keys, *[None] * (len(axes.shape) - len(axes.keys))]
            axes.shape = tuple(
                lengths[key] if grows and key is not None else size
                for key, size, grows in zip(keys, axes.shape, axes.unlimited, strict=False)
            )


def name_dimensions(root: GroupAxes) -> dict[int, tuple[str, ...]]:
    """One name per axis for every dataset, by ``id()`` of its `Axes`.

    Axes without a scale get a name that is shared within the group by all axes of the same length (a dimension of
    the group if there is one, otherwise ``phony_dim_N``); within one dataset names are not repeated for that.
    """
    ids: dict[int, str] = {}
    count = 0
    for group in root.walk():
        for name, axes in group.datasets.items():
            if axes.scale:
                dimid = count if axes.dimid is None else axes.dimid
                ids.setdefault(dimid, name)
                count = max(count, dimid + 1)
    names: dict[int, tuple[str, ...]] = {}
    _name_group(root, ids, count, names)
    return names


def _name_group(group: GroupAxes, ids: dict[int, str], count: int, names: dict[int, tuple[str, ...]]) -> int:
    """Name the datasets of a group, inner groups first; returns the next free number."""
    for inner in group.groups.values():
        count = _name_group(inner, ids, count, names)
    dimensions = [
        _Dimension(name, axes.shape[0], axes.unlimited[0])
        for name, axes in group.datasets.items()
        if axes.scale and axes.shape
    ]
    for name, axes in group.datasets.items():
        known = _known_names(name, axes, ids)
        for axis, given in enumerate(known):
            if given is None:
                known[axis], count = _phony(axes.shape[axis], axes.unlimited[axis], known, dimensions, count)
        names[id(axes)] = tuple(n or "" for n in known)
    return count


def _known_names(name: str, axes: Axes, ids: dict[int, str]) -> list[str | None]:
    ndim = len(axes.shape)
    if not axes.scale and len(axes.attached) == ndim and all(axes.attached):
        return list(axes.attached)
    if axes.coordinates and all(i in ids for i in axes.coordinates[:ndim]):
        known: list[str | None] = [ids[i] for i in axes.coordinates[:ndim]]
        return known + [None] * (ndim - len(known))
    if axes.scale:
        return ([name] + [None] * (ndim - 1))[:ndim]
    return [*axes.attached, *[None] * (ndim - len(axes.attached))][:ndim]


def _phony(
    size: int, unlimited: bool, used: list[str | None], dimensions: list[_Dimension], count: int
) -> tuple[str, int]:
    for dimension in dimensions:
        if dimension.size == size and dimension.unlimited == unlimited and dimension.name not in used:
            return dimension.name, count
    name = f"phony_dim_{count}"
    dimensions.append(_Dimension(name, size, unlimited))
    return name, count + 1
