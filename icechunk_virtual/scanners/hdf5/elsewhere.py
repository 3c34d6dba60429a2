"""Whether HDF5 would read the values of a dataset from other files, and whether it may.

A data file may be anybody's, and says by name which files its values are in: any of this machine, whatever is in them.
Only files in the folder of the scanned one, or below it, are read. Where HDF5 looks is described in its source,
``H5F_prefix_open_file`` (virtual datasets) and ``H5D__efl_construct`` (external storage).
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import h5py

_VARIABLES = ("HDF5_EXTFILE_PREFIX", "HDF5_VDS_PREFIX")


def why_elsewhere(dataset: h5py.Dataset, scanned: Path | None) -> str:
    """Why the values of a dataset are not read, as they lie in other files; empty when they may be.

    Parameters
    ----------
    dataset
    scanned
        The file that is scanned; None: it is not on this machine.
    """
    if not (dataset.is_virtual or dataset.external):
        return ""
    with ExitStack() as opened:
        return _Search(opened, None if scanned is None else scanned.parent).why(dataset)


@dataclass(slots=True)
class _Search:
    """Through a dataset, and the datasets that it is made of."""

    opened: ExitStack
    home: Path | None
    files: dict[Path, h5py.File] = field(default_factory=dict)
    seen: set[tuple[int, int]] = field(default_factory=set)

    def why(self, dataset: h5py.Dataset) -> str:
        """Why a dataset is not read; empty when it may be."""
        waiting = [dataset]
        while waiting:
            one = waiting.pop()
            where = _where(one)
            if where in self.seen:
                continue
            self.seen.add(where)
            reason = self._why_external(one) if one.external else ""
            reason = reason or (self._why_parts(one, waiting) if one.is_virtual else "")
            if reason:
                return reason
        return ""

    def _why_external(self, dataset: h5py.Dataset) -> str:
        for name, _offset, _size in dataset.external:
            if reason := self._why_file(name, [Path.cwd() / name]):
                return reason
        return ""

    def _why_parts(self, dataset: h5py.Dataset, waiting: list[h5py.Dataset]) -> str:
        for part in dataset.virtual_sources():
            file = dataset.file
            if part.file_name != ".":
                if self.home is not None:
                    tail = Path(part.file_name).name  # is looked for where an absolute name is not found
                    names = [part.file_name] if not Path(part.file_name).is_absolute() else [part.file_name, tail]
                    candidates = [folder / name for name in names for folder in (self.home, Path.cwd())]
                else:
                    candidates = []
                if reason := self._why_file(part.file_name, candidates):
                    return reason
                file = self._open(next(path for path in candidates if path.exists()))
            found = _in_file(file, part.dset_name)
            if found is None:
                return f"it lies in datasets that are not there, or not in that file: {part.file_name}:{part.dset_name}"
            waiting.append(found)
        return ""

    def _why_file(self, name: str, candidates: list[Path]) -> str:
        """Why a file is not read that HDF5 would look for in these places."""
        if self.home is None:
            return f"it lies in other files, which are read of files of this machine only: {name}"
        for variable in _VARIABLES:
            if variable in os.environ:
                return f"it lies in other files, and {variable} has HDF5 look for them elsewhere: {name}"
        there = [path for path in candidates if path.exists()]
        if not there:
            return f"it lies in other files that are not there: {name}"
        home = self.home.resolve()
        if all(path.resolve().is_relative_to(home) and path.is_file() for path in there):
            return ""
        return f"it lies in other files, which are read from the folder of the scanned one only: {name}"

    def _open(self, path: Path) -> h5py.File:
        real = path.resolve()
        if real not in self.files:
            self.files[real] = self.opened.enter_context(h5py.File(real, "r"))
        return self.files[real]


def _where(node: h5py.Dataset | h5py.Group) -> tuple[int, int]:
    info = h5py.h5o.get_info(node.id)
    return info.fileno, info.addr


def _in_file(file: h5py.File, name: str) -> h5py.Dataset | None:
    """A dataset of a file, unless links lead to another file."""
    try:
        found = file[name]
    except (KeyError, OSError, RuntimeError):
        return None
    return found if isinstance(found, h5py.Dataset) and _where(found)[0] == _where(file["/"])[0] else None
