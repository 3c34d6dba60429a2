"""Attribute values of foreign files as values that `zarr.json` can hold.

Numbers keep their value (JSON has no float32: it becomes the double of the same value; NaN and infinities stay floats
and are written as Python's JSON writes them). Nothing here knows a file format.
"""

from __future__ import annotations

import base64
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.scanners.documents import BYTES, STRING, DType

FILL_VALUE = "_FillValue"


def attribute_json(value: Any) -> tuple[Any, str | None]:
    """Convert one attribute value.

    Parameters
    ----------
    value
        Python or numpy scalar, or array of any shape and of numbers, bool, text, bytes, records, or objects of these.

    Returns
    -------
    value
        JSON-able. An array of one dimension and one element is its element, as the netCDF libraries present it.
    note : str or None
        What to tell the user, where the value has another form than in the file.
    """
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "c":
            return _elements(value, complex_pair), "complex numbers are kept as [real, imaginary]"
        if value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
            return _unpack(value.shape, value.tolist()), None
        if value.dtype.kind == "U":
            return _unpack(value.shape, value.tolist()), None
        notes: list[str] = []

        def convert(item: Any) -> Any:
            converted, note = attribute_json(item)
            if isinstance(item, np.ndarray) and item.shape == (1,):  # a list among lists stays one
                converted = [converted]
            if note is not None and note not in notes:
                notes.append(note)
            return converted

        return _elements(value, convert), "; ".join(notes) or None
    return _scalar_json(value)


def _scalar_json(value: Any) -> tuple[Any, str | None]:
    match value:
        case np.void() if value.dtype.names is not None:
            fields = {name: attribute_json(value[name]) for name in value.dtype.names}
            return {name: v for name, (v, _) in fields.items()}, "a record is kept as an object of its fields"
        case np.void():
            return base64.standard_b64encode(value.tobytes()).decode(), "opaque bytes are kept as base64"
        case bytes():
            return text(value)
        case str():
            return text(value.encode("utf-8", "surrogateescape"))
        case complex() | np.complexfloating():
            return complex_pair(value), "complex numbers are kept as [real, imaginary]"
        case np.floating() if value.dtype.itemsize > 8:
            exact = float(value) == value or bool(np.isnan(value))
            return float(value), None if exact else "rounded to a double"
        case np.datetime64() | np.timedelta64():
            return str(value), "a time is kept as text"
        case np.generic():
            return value.item(), None
        case None | bool() | int() | float():
            return value, None
        case list() | tuple():
            return attribute_json(np.array(value, object))
    return str(value), f"a {type(value).__name__} is kept as text"


def text(raw: bytes) -> tuple[str, str | None]:
    """Decode as UTF-8, and as Latin-1 (which loses nothing) what is not; a C string ends at trailing zeros."""
    raw = raw.rstrip(b"\0")
    try:
        return raw.decode("utf-8"), None
    except UnicodeDecodeError:
        return raw.decode("latin-1"), "text that is not UTF-8 was read as Latin-1"


def complex_pair(value: Any) -> list[float]:
    """Real and imaginary part."""
    return [float(value.real), float(value.imag)]


def fill_value_json(value: Any, dtype: DType) -> tuple[Any, str | None]:
    """`_FillValue` of an array in the encoding that xarray expects in a Zarr v3 attribute.

    Integers are plain; floats are the base64 of a little-endian double; complex numbers two of those
    (`xarray.backends.zarr.FillValueCoder`).

    Parameters
    ----------
    value
        As read from the file.
    dtype
        Of the array.

    Returns
    -------
    value
        ``None`` if the attribute must be left out.
    note : str or None
        Why it is left out.
    """
    if dtype in (STRING, BYTES) or dtype.kind not in "biufc":
        return None, f"{FILL_VALUE} {value!r} is left out: xarray cannot read one of {dtype}"
    scalar = np.asarray(value)
    if scalar.size != 1 or scalar.dtype.kind not in "biufc":
        return None, f"{FILL_VALUE} {value!r} is left out: it is no value of {dtype}"
    number = scalar.reshape(())[()]
    if dtype.kind == "c":
        return [_double(number.real), _double(number.imag)], None
    if scalar.dtype.kind == "c" or (dtype.kind != "f" and number != np.trunc(number)):
        return None, f"{FILL_VALUE} {number} is left out: no {dtype} can be equal to it"
    match dtype.kind:
        case "f":
            return _double(number), None
        case "b":
            return bool(number), None
        case _ if np.isinf(number):
            return None, f"{FILL_VALUE} {number} is left out: no {dtype} can be equal to it"
        case _:
            return int(number), None


def _double(number: Any) -> str:
    return base64.standard_b64encode(struct.pack("<d", float(number))).decode()


def _elements(values: NDArray[Any], convert: Any) -> Any:
    items = np.empty(values.size, object)
    for i, item in enumerate(values.ravel()):
        items[i] = convert(item)
    return _unpack(values.shape, _nest(items.tolist(), values.shape))


def _nest(items: list[Any], shape: tuple[int, ...]) -> Any:
    if not shape:
        return items[0]
    if len(shape) == 1:
        return items
    step = len(items) // shape[0] if shape[0] else 0
    return [_nest(items[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


def _unpack(shape: tuple[int, ...], items: Any) -> Any:
    return items[0] if shape == (1,) else items
