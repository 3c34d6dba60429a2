"""Attributes of NetCDF-3 files as the netCDF library gives them, made fit for a Zarr document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from icechunk_virtual.scanners.attributes import FILL_VALUE, attribute_json, fill_value_json
from icechunk_virtual.scanners.netcdf3.header import AttributeValue, Variable
from icechunk_virtual.scanners.netcdf_types import NcType


def group_attributes(attributes: Mapping[str, AttributeValue]) -> tuple[dict[str, Any], list[str]]:
    """Global attributes as JSON values, and notes on those that are different from the file."""
    result, notes = {}, []
    for name, raw in attributes.items():
        value, note = attribute_json(raw)
        result[name] = value.replace("\0", "") if isinstance(value, str) else value  # as netCDF4-python does
        if note is not None:
            notes.append(f"attribute {name}: {note}")
    return result, notes


def array_attributes(variable: Variable) -> tuple[Any, dict[str, Any], list[str]]:
    """Fill value of a variable, its attributes as JSON values, and notes on what is different from the file.

    The fill value is what the netCDF library would put where nothing was written: `_FillValue`, or the default of
    the type. The attribute `_FillValue` is written as xarray expects it in Zarr v3.
    """
    attributes, notes = group_attributes({n: v for n, v in variable.attributes.items() if n != FILL_VALUE})
    kind = variable.type
    if FILL_VALUE not in variable.attributes:
        return kind.fill, attributes, notes
    raw = variable.attributes[FILL_VALUE]
    fill = _fill(kind, raw)
    if fill is None:
        shown = raw if isinstance(raw, bytes) else raw.tolist()
        return kind.fill, attributes, [*notes, f"{FILL_VALUE} {shown!r} is left out: it is no value of {kind.name}"]
    if kind.name == "char":
        return fill, attributes, [*notes, f"{FILL_VALUE} is kept as fill_value only: xarray reads no other of chars"]
    value, note = fill_value_json(raw, kind.dtype)
    if value is not None:
        attributes[FILL_VALUE] = value
    return fill, attributes, notes if note is None else [*notes, note]


def _fill(kind: NcType, raw: AttributeValue) -> Any:
    """The fill value as a scalar of the variable's type; ``None`` when it is not one (files of careless writers)."""
    if kind.name == "char" or isinstance(raw, bytes):
        return raw if kind.name == "char" and isinstance(raw, bytes) and len(raw) == 1 else None
    if raw.size != 1:
        return None
    number = raw[0]
    with np.errstate(all="ignore"):
        cast = number.astype(kind.dtype)
    if kind.dtype.kind == "f":  # rounding to the type of the data is what a comparison with them does
        return cast if np.isfinite(cast) == np.isfinite(number) else None
    return cast if cast == number else None
