"""Time coordinates of several files in the units of the first: `days since A` and `days since B` as one array.

Only stored values can be changed, and only where the same times come out exactly.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.scanners.compare import FIRST_FILE, can_decode, show
from icechunk_virtual.scanners.dataset import VirtualArray
from icechunk_virtual.scanners.native import decode_array, encode_array
from icechunk_virtual.scanners.time_units import TimeUnits, convert, parse_units

_Fault = tuple[int, str, str]


def harmonise_times(
    arrays: Mapping[str, Sequence[VirtualArray]], *, called: str = FIRST_FILE
) -> tuple[dict[str, list[VirtualArray]], list[_Fault]]:
    """Convert times whose units differ between the files; everything else stays as it is.

    Parameters
    ----------
    arrays
        The variables of one group: per name one version per file.
    called
        What reasons call the place of the first versions.

    Returns
    -------
    arrays : dict
        With all times in the units of the first file.
    faults : list of (file, name, reason)
        What cannot be converted; units that are no times are left for the comparison.
    """
    owners = _bounds_owners(arrays)
    result, faults = {}, []
    for name, versions in arrays.items():
        result[name] = list(versions)
        owner = arrays[owners.get(name, name)]
        if all(_units(a) == _units(owner[0]) for a in owner[1:]):
            continue
        parsed = [_parse(a) for a in owner]
        target = parsed[0]
        if target is None or any(p is None or p.calendar != target.calendar for p in parsed):
            continue
        for i, (array, units) in enumerate(zip(versions, parsed, strict=True)):
            if units is None or i == 0:
                continue
            found, reason = _convert(array, units, target, owner[0], own=owner is versions)
            result[name][i] = found
            if reason:
                text = f"{reason} from {show(_units(owner[i])[0])} to {show(_units(owner[0])[0])} of {called}"
                faults.append((i, name, text))
    return result, faults


def _bounds_owners(arrays: Mapping[str, Sequence[VirtualArray]]) -> dict[str, str]:
    """Bounds variables without units of their own are in those of their coordinate (CF conventions, section 7.1)."""
    owners = {}
    for name, versions in arrays.items():
        attributes = versions[0].attributes
        for key in ("bounds", "climatology"):
            bounds = attributes.get(key)
            if isinstance(bounds, str) and bounds in arrays and "units" not in arrays[bounds][0].attributes:
                owners[bounds] = name
    return owners


def _units(array: VirtualArray) -> tuple[Any, Any]:
    return array.attributes.get("units"), array.attributes.get("calendar", "standard")


def _parse(array: VirtualArray) -> TimeUnits | None:
    return parse_units(*_units(array))


def _convert(
    array: VirtualArray, old: TimeUnits, new: TimeUnits, first: VirtualArray, *, own: bool
) -> tuple[VirtualArray, str]:
    """The array in new units; or as it was, and why."""
    document = array.document
    if own:
        names = ("units", "calendar")
        kept = {k: v for k, v in first.attributes.items() if k in names}
        others = {k: v for k, v in array.attributes.items() if k not in names}
        document = {**document, "attributes": {**others, **kept}}
    if old == new or not array.nrefs:
        return VirtualArray(document, array.refs), ""
    if not can_decode([array]):
        return array, "it is not stored but virtual, so its times cannot be converted"
    values = decode_array(array)
    if values.dtype.kind not in "iuf":
        return array, f"times of type {array.dtype} cannot be converted"
    moved = convert(values, old, new, _missing(values, array.attributes))
    if moved is None:
        return array, f"its times cannot be converted exactly in {array.dtype}"
    return VirtualArray(document, encode_array(document, moved)), ""


def _missing(values: NDArray[Any], attributes: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Where the values are `_FillValue` or `missing_value`."""
    mask = np.zeros(values.shape, bool)
    for name in ("_FillValue", "missing_value"):
        value = attributes.get(name)
        if name == "_FillValue" and isinstance(value, str) and values.dtype.kind == "f":
            (value,) = struct.unpack("<d", base64.standard_b64decode(value))  # as xarray keeps it in Zarr v3
        if isinstance(value, (int, float)):
            mask |= values == value
    return mask
