"""Attributes of HDF5 objects as JSON values, without those that only carry HDF5's and netCDF's bookkeeping."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

from icechunk_virtual.scanners.attributes import attribute_json

_BOOKKEEPING = {
    "DIMENSION_LABELS",
    "DIMENSION_LIST",
    "REFERENCE_LIST",
    "_NCProperties",
    "_Netcdf4Coordinates",
    "_Netcdf4Dimid",
    "_nc3_strict",
}
_OF_SCALES = {"CLASS", "NAME"}


def read_attributes(node: h5py.Group | h5py.Dataset, *, scale: bool = False) -> tuple[dict[str, Any], list[str]]:
    """All attributes of a group or dataset.

    Parameters
    ----------
    scale
        It is a dimension scale: ``CLASS`` and ``NAME`` say only that.

    Returns
    -------
    attributes : dict
        JSON-able, except ``_FillValue``, which is as read.
    notes : list of str
        What has another form than in the file, and what cannot be read.
    """
    found: dict[str, Any] = {}
    notes = []
    hidden = _BOOKKEEPING | _OF_SCALES if scale else _BOOKKEEPING
    for name in node.attrs:
        if name in hidden:
            continue
        try:
            value = node.attrs[name]
        except (OSError, TypeError, ValueError) as error:
            notes.append(f"attribute {name} is left out: h5py cannot read it ({error})")
            continue
        if name == "_FillValue" and isinstance(node, h5py.Dataset):
            found[name] = value
            continue
        plain, reference_note = _plain(value, node.file)
        found[name], note = attribute_json(plain)
        notes += [f"attribute {name}: {text}" for text in (reference_note, note) if text is not None]
    return found, notes


def _plain(value: Any, file: h5py.File) -> tuple[Any, str | None]:
    """Without h5py's own types: empty values, and references (which become paths, with a note)."""
    match value:
        case h5py.Empty():
            return "" if value.dtype.kind in "SUO" else np.empty(0, "f8"), None
        case h5py.RegionReference():
            return reference_path(value, file), "a region reference is kept as the path of its dataset"
        case h5py.Reference():
            return reference_path(value, file), "a reference is kept as the path that it points to"
        case np.ndarray() if value.dtype.kind == "O":
            items, notes = np.empty(value.shape, object), dict[str | None, None]()
            for index in np.ndindex(value.shape):
                items[index], note = _plain(value[index], file)
                notes[note] = None
            return items, next(filter(None, notes), None)
    return value, None


def reference_path(reference: Any, file: h5py.File) -> str:
    """Path of the object behind a reference; empty if it points nowhere."""
    if not reference:
        return ""
    name = h5py.h5r.get_name(reference, file.id)
    return name.decode("utf-8", "replace") if name else ""
