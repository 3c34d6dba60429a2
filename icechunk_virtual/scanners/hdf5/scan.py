"""The scan of an HDF5 or netCDF-4 file through h5py: opening, walking the groups, naming dimensions.

Loaded only when such a file is scanned. What becomes of one dataset is decided in `arrays`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import h5py
from h5py import h5, h5a, h5ds, h5l, h5o, h5p, h5r

from icechunk_virtual.containers.source import Source
from icechunk_virtual.errors import MalformedSource
from icechunk_virtual.model.paths import child_path
from icechunk_virtual.scanners.attributes import text
from icechunk_virtual.scanners.dataset import Scanned, Stored, VirtualArray, VirtualGroup
from icechunk_virtual.scanners.hdf5.arrays import scan_dataset
from icechunk_virtual.scanners.hdf5.attributes import read_attributes
from icechunk_virtual.scanners.hdf5.dimensions import (
    NON_COORDINATE,
    NOT_A_VARIABLE,
    Axes,
    GroupAxes,
    extend_unlimited,
    name_dimensions,
)
from icechunk_virtual.scanners.hdf5.facts import HdfFile
from icechunk_virtual.scanners.refusal import Refused, check_name, leave_out
from icechunk_virtual.scanners.spec import ScanOptions

with contextlib.suppress(ImportError):  # without it, data behind its filters is refused by name
    import hdf5plugin  # noqa: F401 - registers its filters with HDF5

_MOST_NODES = 1_000_000  # links can multiply the objects of a small file without bound


@dataclass(slots=True)
class _Group:
    """A group with what is in it, in the order of the file."""

    path: str
    node: h5py.Group
    datasets: dict[str, h5py.Dataset] = field(default_factory=dict)
    groups: dict[str, _Group] = field(default_factory=dict)
    axes: GroupAxes = field(default_factory=GroupAxes)


def scan(source: Source, options: ScanOptions) -> Scanned:
    """Scan an HDF5 or netCDF-4 file.

    Raises
    ------
    MalformedSource
        Damaged, cut off, or no HDF5 file.
    UnsupportedFeature
        A dataset has no place in Zarr; the message names it, the reason, and how to leave it out.
    """
    with _blame_the_file(source), _open(source) as file:
        return _Scan(source, options, file).run()


@contextlib.contextmanager
def _blame_the_file(source: Source, path: str = "") -> Iterator[None]:
    """Translate what h5py raises on foreign bytes."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        where = f"`{path}` of {source.url}" if path else source.url
        reason = error.args[0] if isinstance(error, KeyError) and error.args else error  # its text would be quoted
        raise MalformedSource(
            f"{where} cannot be read as HDF5: {reason}. The file is damaged or cut off; get it again.",
            source=source.url,
            name=path or None,
        ) from error


def _open(source: Source) -> h5py.File:
    if source.local_path is not None:
        return h5py.File(source.local_path, "r")
    return h5py.File(source.as_file(), "r")


class _Scan:
    """One pass over one file."""

    def __init__(self, source: Source, options: ScanOptions, file: h5py.File) -> None:
        self.file = file
        self.options = options
        self.context = HdfFile(source, source.locations, options)
        self.scales: dict[tuple[int, int], str] = {}  # address of a dimension scale -> name
        self.dimensions: dict[int, tuple[int, int]] = {}  # netCDF's number of a dimension -> address of its scale
        self.nodes = 0
        self.netcdf = "_NCProperties" in file.attrs
        self.stored: list[Stored] = []
        self.warnings: list[str] = []

    def run(self) -> Scanned:
        root = self._collect("/", self.file["/"], ())
        self._read_axes(root)
        extend_unlimited(root.axes)
        names = name_dimensions(root.axes)
        tree = self._group(root, names)
        self.warnings += self.options.unknown_drops(_paths(root))
        kind = "netCDF-4" if self.netcdf else "HDF5"
        return Scanned(tree, self.context.source.url, kind, tuple(self.stored), tuple(self.warnings))

    # -- what there is -------------------------------------------------------------------------------------------

    def _collect(self, path: str, node: h5py.Group, above: tuple[Any, ...]) -> _Group:
        """Everything below a group, links followed inside the file; `above`: addresses of the groups on the way."""
        group = _Group(path, node)
        here = (*above, _address(node.id))
        for raw, kind in _links(node):
            name, note = text(raw)
            place = child_path(path, name)
            self.nodes += 1
            if self.nodes > _MOST_NODES:
                raise ValueError(f"more than {_MOST_NODES} objects, counted with all links")
            if kind == h5l.TYPE_EXTERNAL:
                self.warnings.append(f"{place}: a link into another file, not followed")
                continue
            try:
                child = node[raw]
            except (KeyError, OSError, RuntimeError):
                if kind != h5l.TYPE_SOFT:
                    raise
                self.warnings.append(f"{place}: a link to something that does not exist, or to itself")
                continue
            if kind == h5l.TYPE_SOFT and _address(child.id)[0] != here[-1][0]:  # it may lead to an external one
                self.warnings.append(f"{place}: a link into another file, not followed")
                continue
            self._warn(place, [f"its name: {note}"] if note is not None else [])
            if isinstance(child, h5py.Dataset):
                group.datasets[name] = child
            elif isinstance(child, h5py.Group):
                if _address(child.id) in here:
                    self.warnings.append(f"{place}: a link to a group that it is in, not followed")
                    continue
                group.groups[name] = self._collect(place, child, here)
                group.axes.groups[name] = group.groups[name].axes
        return group

    # -- dimensions ----------------------------------------------------------------------------------------------

    def _read_axes(self, group: _Group) -> None:
        """Facts about the dimensions of all datasets: scales first, since others point to them."""
        groups = list(_walk(group))
        for each in groups:
            for name, dataset in each.datasets.items():
                if dataset.shape is not None and h5ds.is_scale(dataset.id):
                    self.scales[_address(dataset.id)] = name
                    if h5a.exists(dataset.id, b"_Netcdf4Dimid"):
                        self.dimensions.setdefault(int(dataset.attrs["_Netcdf4Dimid"]), _address(dataset.id))
        for each in groups:
            for name, dataset in each.datasets.items():
                with _blame_the_file(self.context.source, child_path(each.path, name)):
                    each.axes.datasets[name] = self._axes(dataset)

    def _axes(self, dataset: h5py.Dataset) -> Axes:
        if dataset.shape is None:
            return Axes((0,), (False,))
        inner = _inner_shape(dataset)
        limits = dataset.maxshape + inner
        axes = Axes(dataset.shape + inner, tuple(n is None for n in limits))
        axes.scale = h5ds.is_scale(dataset.id)
        if h5a.exists(dataset.id, b"_Netcdf4Dimid"):
            self.netcdf = True
            axes.dimid = int(dataset.attrs["_Netcdf4Dimid"])
        if h5a.exists(dataset.id, b"_Netcdf4Coordinates"):
            axes.coordinates = tuple(dataset.attrs["_Netcdf4Coordinates"].tolist())
        if h5a.exists(dataset.id, b"DIMENSION_LIST"):
            keys = [self._scale_key(references) for references in dataset.attrs["DIMENSION_LIST"]]
            axes.keys = tuple(keys)
            axes.attached = tuple(None if key is None else self.scales[key] for key in keys)
        elif axes.scale:  # nothing is attached to a coordinate variable of two dimensions
            axes.keys = tuple(map(self.dimensions.get, axes.coordinates)) or (_address(dataset.id),)
        return axes

    def _scale_key(self, references: Any) -> tuple[int, int] | None:
        """Address of the first scale of an axis, if it is among the objects of the file."""
        if not len(references) or not references[0]:
            return None
        target = h5r.dereference(references[0], self.file.id)
        key = None if target is None else _address(target)
        return key if key in self.scales else None

    # -- arrays --------------------------------------------------------------------------------------------------

    def _group(self, group: _Group, names: dict[int, tuple[str, ...]]) -> VirtualGroup:
        attributes, notes = read_attributes(group.node)
        self._warn(group.path, notes)
        arrays = {}
        for name, dataset in group.datasets.items():
            path = _array_path(group, name)
            if self.options.drops(path) or _only_a_dimension(dataset):
                continue
            axes = group.axes.datasets[name]
            array = self._array(path, dataset, axes, names[id(axes)])
            if array is not None:
                arrays[name.removeprefix(NON_COORDINATE)] = array
        groups = {}
        for name, child in group.groups.items():
            if not self.options.drops(child.path):
                try:
                    check_name(child.path)
                except Refused as refused:
                    self._leave_out(child.path, refused)
                    continue
                groups[name] = self._group(child, names)
        return VirtualGroup(attributes, arrays, groups)

    def _array(self, path: str, dataset: h5py.Dataset, axes: Axes, names: tuple[str, ...]) -> VirtualArray | None:
        try:
            check_name(path)
            with _blame_the_file(self.context.source, path):
                array, reason, notes = scan_dataset(self.context, dataset, path, axes, names)
        except Refused as refused:
            self._leave_out(path, refused)
            return None
        self._warn(path, notes)
        if array.nbytes_stored:
            self.stored.append(Stored(path, reason, array.nbytes_stored))
        return array

    def _leave_out(self, path: str, refused: Refused) -> None:
        self.warnings.append(leave_out(refused, path, self.context.source.url, self.options))

    def _warn(self, path: str, notes: list[str]) -> None:
        self.warnings += [f"{path}: {note}" for note in notes]


def _walk(group: _Group) -> Iterator[_Group]:
    yield group
    for child in group.groups.values():
        yield from _walk(child)


def _paths(group: _Group) -> Iterator[str]:
    """Of all datasets and groups below, as they are called in the result."""
    for each in _walk(group):
        yield each.path
        yield from (_array_path(each, name) for name in each.datasets)


def _array_path(group: _Group, name: str) -> str:
    return child_path(group.path, name.removeprefix(NON_COORDINATE))


def _links(node: h5py.Group) -> list[tuple[bytes, int]]:
    """Names and link types, in the order of creation where the group keeps it, otherwise by name."""
    tracked = node.id.get_create_plist().get_link_creation_order() & h5p.CRT_ORDER_INDEXED
    found: list[tuple[bytes, int]] = []

    def visit(name: bytes, info: Any) -> None:
        found.append((name, info.type))

    node.id.links.iterate(visit, info=True, idx_type=h5.INDEX_CRT_ORDER if tracked else h5.INDEX_NAME)
    return found


def _address(oid: Any) -> tuple[int, int]:
    """Which object of which file; HDF5 walks the chunk index of a dataset for it."""
    info = h5o.get_info(oid)
    return info.fileno, info.addr


def _inner_shape(dataset: h5py.Dataset) -> tuple[int, ...]:
    """Axes that array-typed elements add."""
    try:
        return tuple(dataset.dtype.shape)
    except TypeError:  # no numpy type: refused later
        return ()


def _only_a_dimension(dataset: h5py.Dataset) -> bool:
    if not h5a.exists(dataset.id, b"NAME"):
        return False
    name = dataset.attrs["NAME"]
    return (name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)).startswith(NOT_A_VARIABLE)
