"""Several scanned files become one along a dimension they share: same variables, longer arrays.

Values in, values out. Nothing is read: references are shifted and joined in columns, stored coordinates are decoded
and joined. Files that do not fit are refused, all of them at once, each with its first differing facts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from icechunk_virtual.errors import InconsistentFiles, ScanError
from icechunk_virtual.model.paths import child_path
from icechunk_virtual.scanners.compare import ENCODING, can_decode, difference, other_attributes, show, value_difference
from icechunk_virtual.scanners.dataset import Scanned, Stored, VirtualArray, VirtualGroup, human_bytes
from icechunk_virtual.scanners.harmonise import harmonise_times
from icechunk_virtual.scanners.join import JoinedLocations, align, join_stored, join_virtual
from icechunk_virtual.scanners.native import decode_array
from icechunk_virtual.scanners.order import order_of, overlaps

_SHOWN = 10  # files in a message, names in a warning
_T = TypeVar("_T")


def concat(items: Iterable[Scanned], dim: str) -> Scanned:
    """Join files along an existing dimension, in every group that has it.

    Parameters
    ----------
    items
        At least one. They are joined as given, unless sorting them by the coordinate `dim` makes it monotonic; then a
        warning says so.
    dim
        Name of a dimension of at least one variable.

    Returns
    -------
    Scanned
        Variables with `dim` as one array each. Variables without it, and all attributes, are those of the first file;
        attributes that differ elsewhere are named in the warnings.

    Raises
    ------
    InconsistentFiles
        Variables, types, codecs, packing, chunk grids, static values or coordinate values that do not fit.
        `differences` has one text per file and fault.
    ScanError
        No variable has this dimension.
    ValueError
        No items.
    """
    items = list(items)
    if not items:
        raise ValueError("there are no files to join")
    _check_dimension(items[0], dim)
    if len(items) == 1:
        return items[0]
    order, notes = order_of([_coordinates(item.root, dim) for item in items], dim)
    joiner = _Joiner([items[i] for i in order], dim)
    joiner.warnings += notes
    root = joiner.group("/", [item.root for item in joiner.items])
    joiner.raise_faults()
    return joiner.result(root)


def _check_dimension(item: Scanned, dim: str) -> None:
    found = {name for _, array in item.root.walk_arrays() for name in array.dimension_names if name}
    if dim not in found:
        raise ScanError(
            f"no variable of {item.url} has the dimension `{dim}`, along which the files were to be joined. There are: "
            f"{', '.join(sorted(found)) or 'none'}.",
            source=item.url,
            dimension=dim,
        )


def _coordinates(group: VirtualGroup, dim: str) -> VirtualArray | None:
    """The first stored coordinate variable of this name, from the root down."""
    for _, node in group.walk():
        array = node.arrays.get(dim)
        if array is not None and array.dimension_names == (dim,) and (can_decode([array]) or not array.size):
            return array
    return None


class _Joiner:
    """One concatenation: the files in their final order, and what is wrong or noteworthy about them."""

    def __init__(self, items: Sequence[Scanned], dim: str) -> None:
        self.items, self.dim = items, dim
        self.faults: dict[int, list[str]] = {}
        self.warnings: list[str] = []
        self.locations = JoinedLocations()

    # -- the tree ----------------------------------------------------------------------------------------------

    def group(self, path: str, groups: Sequence[VirtualGroup]) -> VirtualGroup:
        """Join one group of all files, and what is below."""
        arrays_by_name = self.children(path, "variable", [g.arrays for g in groups])
        groups_by_name = self.children(path, "group", [g.groups for g in groups])
        arrays_by_name = self.harmonise(path, arrays_by_name)
        arrays = {}
        for name, versions in arrays_by_name.items():
            joined = self.array(child_path(path, name), versions)
            if joined is not None:
                arrays[name] = joined
        if self.dim in arrays_by_name:
            self.check_coordinate(child_path(path, self.dim), arrays_by_name[self.dim])
        below = {name: self.group(child_path(path, name), versions) for name, versions in groups_by_name.items()}
        self.compare_attributes(path, [g.attributes for g in groups])
        return VirtualGroup(groups[0].attributes, arrays, below)

    def children(self, path: str, what: str, versions: Sequence[dict[str, _T]]) -> dict[str, list[_T]]:
        """Members by name, for the names that all files have."""
        common = dict.fromkeys(versions[0])
        for i, members in enumerate(versions):
            if members.keys() == versions[0].keys():
                continue
            for name in sorted(versions[0].keys() - members.keys()):
                self.fault(i, f"{what} `{child_path(path, name)}` is missing, the first file has it")
                common.pop(name, None)
            for name in sorted(members.keys() - versions[0].keys()):
                self.fault(i, f"{what} `{child_path(path, name)}` is not in the first file")
        return {name: [members[name] for members in versions] for name in common}

    def harmonise(self, path: str, arrays: dict[str, list[VirtualArray]]) -> dict[str, list[VirtualArray]]:
        """Time coordinates and their bounds in the units of the first file."""
        harmonised, faults = harmonise_times(arrays)
        for i, name, reason in faults:
            self.fault(i, f"`{child_path(path, name)}`: {reason}")
        wrong = {name for _, name, _ in faults}
        return {name: versions for name, versions in harmonised.items() if name not in wrong}

    # -- arrays ------------------------------------------------------------------------------------------------

    def array(self, path: str, versions: Sequence[VirtualArray]) -> VirtualArray | None:
        """Join one variable of all files; ``None`` when they do not fit."""
        self.compare_attributes(path, [a.attributes for a in versions])
        count = versions[0].dimension_names.count(self.dim)
        if count == 0:
            return self.static(path, versions)
        if count > 1:
            self.fault(0, f"`{path}` has the dimension `{self.dim}` {count} times")
            return None
        axis = versions[0].dimension_names.index(self.dim)
        stored = can_decode(versions)
        if self.differ(path, versions, axis, ENCODING if stored else ()):
            return None
        if stored:
            return join_stored(versions, axis)
        chunk, faults = align(versions, axis, self.dim)
        for i, reason in faults:
            self.fault(i, f"`{path}`: {reason}")
        if faults:
            return None
        if any(a.chunk_shape[axis] != chunk for a in versions if a.shape[axis]):
            self.warnings.append(
                f"{path}: its uncompressed chunks are cut into pieces of {chunk} along `{self.dim}`, because the files "
                "have different lengths"
            )
        return join_virtual(versions, axis, chunk, self.locations)

    def differ(self, path: str, versions: Sequence[VirtualArray], axis: int | None, ignore: Sequence[str] = ()) -> bool:
        """Note the first differing fact of every file."""
        found = False
        for i, other in enumerate(versions[1:], 1):
            fact = difference(versions[0], other, axis, ignore=ignore)
            if fact is not None:
                self.fault(i, f"`{path}`: {fact}")
                found = True
        return found

    def static(self, path: str, versions: Sequence[VirtualArray]) -> VirtualArray | None:
        """A variable without the dimension: that of the first file, if it is the same everywhere."""
        first = versions[0]
        stored = can_decode(versions)
        if self.differ(path, versions, None, ENCODING if stored else ()):
            return None
        found = False
        for i, other in enumerate(versions[1:], 1):
            fact = value_difference(first, other)
            if fact is not None:
                self.fault(i, f"`{path}` has no dimension `{self.dim}`, so it must be the same in all files: {fact}")
                found = True
        if first.nbytes_virtual:
            self.warnings.append(
                f"{path}: taken from the first file; that its {human_bytes(first.nbytes_virtual)} are the same in the "
                "other files was judged by type, shape and chunk lengths only"
            )
        return None if found else first

    def check_coordinate(self, path: str, versions: Sequence[VirtualArray]) -> None:
        """No value may be in two files."""
        if any(a.dimension_names != (self.dim,) for a in versions):
            return
        if not can_decode(versions):
            self.warnings.append(f"{path}: its values are not stored, so the order of the files was not checked")
            return
        values = [decode_array(a) for a in versions]
        units = versions[0].attributes.get("units")
        for i, j, value in overlaps(values):
            self.fault(
                i,
                f"`{path}`: value {show(value)}{f' ({units})' if units else ''} is in the range of "
                f"{self.items[j].url} too",
            )

    # -- what to say -------------------------------------------------------------------------------------------

    def compare_attributes(self, path: str, versions: Sequence[dict[str, Any]]) -> None:
        """One warning for all attributes that are not the same everywhere."""
        differing: dict[str, int] = {}
        for other in versions[1:]:
            if other == versions[0]:
                continue
            for name in other_attributes(versions[0], other):
                differing[name] = differing.get(name, 0) + 1
        if differing:
            names = sorted(differing)
            shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
            self.warnings.append(f"{path}: attributes differ between the files, those of the first are kept: {shown}")

    def fault(self, i: int, text: str) -> None:
        self.faults.setdefault(i, []).append(text)

    def raise_faults(self) -> None:
        """Raise what was found, if anything."""
        if not self.faults:
            return
        differences = []
        for i, texts in sorted(self.faults.items()):
            more = f" (and {len(texts) - 3} more)" if len(texts) > 3 else ""
            differences.append(f"{self.items[i].url}: {'; '.join(texts[:3])}{more}")
        more = f"\n  and {len(differences) - _SHOWN} more files" if len(differences) > _SHOWN else ""
        verb = "does" if len(differences) == 1 else "do"
        raise InconsistentFiles(
            f"{len(differences)} of {len(self.items)} files {verb} not fit into one dataset along `{self.dim}` (the "
            f"first file is {self.items[0].url}):\n  " + "\n  ".join(differences[:_SHOWN]) + more + "\nScan them "
            "apart, leave out the files, or drop the variables that differ.",
            differences=tuple(differences),
            dimension=self.dim,
        )

    def result(self, root: VirtualGroup) -> Scanned:
        """The joined files, their stored arrays and warnings listed anew."""
        reasons = {s.path: s.reason for item in reversed(self.items) for s in item.stored}
        stored = tuple(
            Stored(path, reasons.get(path, "joined"), array.nbytes_stored)
            for path, array in root.walk_arrays()
            if array.nbytes_stored
        )
        counts: dict[str, int] = {}
        for item in self.items:
            for warning in item.warnings:
                counts[warning] = counts.get(warning, 0) + 1
        n = len(self.items)
        inherited = [w if count == n else f"{w} (in {count} of {n} files)" for w, count in counts.items()]
        first = self.items[0]
        return Scanned(root, first.url, first.format, stored, tuple(inherited + self.warnings))
