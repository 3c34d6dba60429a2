"""Zarr v3 array documents from numpy terms: data types, fill values, byte order.

The one place of the scanners that spells `zarr.json`. Nothing here knows a file format.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

STRING = np.dtypes.StringDType()
"""Stands for text of any length (numpy object arrays of `str`)."""

BYTES = np.dtype(object)
"""Stands for byte strings of any length (numpy object arrays of `bytes`)."""

DType = np.dtype[Any] | np.dtypes.StringDType


def data_type(dtype: DType) -> str | dict[str, Any]:
    """Zarr v3 name of a data type; byte order is a matter of the codec.

    Parameters
    ----------
    dtype
        bool, integers, floats of 2, 4, 8 bytes, complex of 8, 16 bytes, ``S``, ``U``, ``V``, ``M``, ``m``, packed
        records of these in little-endian order, `STRING`, `BYTES`.

    Raises
    ------
    TypeError
        Zarr has no such type.
    """
    if dtype == STRING:
        return "string"
    if dtype == BYTES:
        return "variable_length_bytes"
    return _numpy_data_type(cast("np.dtype[Any]", dtype))


def _numpy_data_type(dtype: np.dtype[Any]) -> str | dict[str, Any]:
    if dtype.kind == "b" or (dtype.kind in "iufc" and dtype.itemsize <= (16 if dtype.kind == "c" else 8)):
        return dtype.newbyteorder("=").name
    if dtype.kind in "Mm":
        unit, count = np.datetime_data(dtype)
        name = "numpy.datetime64" if dtype.kind == "M" else "numpy.timedelta64"
        return {"name": name, "configuration": {"unit": unit, "scale_factor": count}}
    if dtype.names is not None and is_packed(dtype):
        fields = [[name, data_type(dtype[name])] for name in dtype.names]
        return {"name": "structured", "configuration": {"fields": fields}}
    if dtype.itemsize and dtype.names is None and dtype.subdtype is None:
        for kind, name in (("S", "null_terminated_bytes"), ("U", "fixed_length_utf32"), ("V", "raw_bytes")):
            if dtype.kind == kind:
                return {"name": name, "configuration": {"length_bytes": dtype.itemsize}}
    raise TypeError(f"Zarr v3 has no data type for {dtype}")


def is_packed(dtype: np.dtype[Any]) -> bool:
    """Whether a record type has no gaps, and its fields little-endian order, as Zarr's ``structured`` has them."""
    end = 0
    for field, offset, *_ in (dtype.fields or {}).values():
        plain = is_packed(field) if field.names else field.newbyteorder("<") == field
        if offset != end or field.subdtype is not None or not plain:
            return False
        end += field.itemsize
    return end == dtype.itemsize


def serializer(dtype: DType) -> dict[str, Any]:
    """The codec between an array and the bytes of a chunk, in C order and the byte order of `dtype`."""
    if dtype == STRING:
        return {"name": "vlen-utf8"}
    if dtype == BYTES:
        return {"name": "vlen-bytes"}
    if dtype.names is not None:  # always packed and little-endian, see `is_packed`; zarr from 3.3 on wants it said
        return {"name": "bytes", "configuration": {"endian": "little"}}
    if dtype.kind not in "iufcUMm" or (dtype.itemsize == 1 and dtype.kind != "U"):
        return {"name": "bytes"}
    big = dtype.str[0] == ">"  # dtype.byteorder would say "=" for native order
    return {"name": "bytes", "configuration": {"endian": "big" if big else "little"}}


def fill_json(value: Any, dtype: DType) -> Any:
    """A fill value as it stands in `zarr.json`; ``None`` gives the zero of the type.

    Floats that JSON lacks are ``"NaN"``, ``"Infinity"``, ``"-Infinity"``, or their bits (``"0x7fc00001"``).
    """
    if dtype == STRING:
        return "" if value is None else str(value)
    if dtype == BYTES:
        return base64.standard_b64encode(b"" if value is None else bytes(value)).decode()
    scalar: NDArray[Any] = np.zeros((), dtype)
    if value is not None:
        scalar[()] = value
    match dtype.kind:
        case "b":
            return bool(scalar)
        case "i" | "u":
            return int(scalar)
        case "M" | "m":
            return int(scalar.astype(dtype.newbyteorder("=")).view("i8"))
        case "f":
            return _float_json(scalar)
        case "c":
            return [_float_json(scalar.real), _float_json(scalar.imag)]
        case "U":
            return str(scalar)
        case _:
            return base64.standard_b64encode(scalar.tobytes()).decode()


def fill_scalar(document: Mapping[str, Any], dtype: DType) -> Any:
    """The fill value of a document as a Python or numpy scalar: inverse of `fill_json`."""
    value = document["fill_value"]
    if dtype == STRING:
        return value
    if dtype == BYTES:
        return base64.standard_b64decode(value)
    if dtype.kind == "f":
        return _float_scalar(value, dtype)
    if dtype.kind == "c":
        half = np.dtype(f"{dtype.str[0]}f{dtype.itemsize // 2}")
        return np.array([_float_scalar(v, half) for v in value], half).view(dtype)[0]
    if dtype.kind in "Mm":
        return np.array(value, "i8").view(dtype.newbyteorder("="))[()]
    if dtype.kind in "SV":
        return np.frombuffer(base64.standard_b64decode(value).ljust(dtype.itemsize, b"\0"), dtype)[0]
    return np.array(value, dtype)[()]


def native_dtype(document: Mapping[str, Any]) -> DType:
    """The numpy type of the bytes of a chunk, byte order included: inverse of `data_type` and `serializer`.

    Raises
    ------
    TypeError
        A data type that `data_type` does not write.
    """
    name = document["data_type"]
    if isinstance(name, str):
        if name == "string":
            return STRING
        if name in ("variable_length_bytes", "bytes"):
            return BYTES
        dtype = np.dtype(name)
    else:
        dtype = _extended_dtype(name)
    for codec in document["codecs"]:
        if codec["name"] == "bytes":
            endian = codec.get("configuration", {}).get("endian", "little")
            return dtype.newbyteorder(">" if endian == "big" else "<")
    return dtype


def _extended_dtype(spec: Mapping[str, Any]) -> np.dtype[Any]:
    configuration = spec["configuration"]
    match spec["name"]:
        case "null_terminated_bytes":
            return np.dtype(f"S{configuration['length_bytes']}")
        case "fixed_length_utf32":
            return np.dtype(f"U{configuration['length_bytes'] // 4}")
        case "raw_bytes":
            return np.dtype(f"V{configuration['length_bytes']}")
        case "numpy.datetime64" | "numpy.timedelta64" as name:
            kind = "M8" if name == "numpy.datetime64" else "m8"
            return np.dtype(f"{kind}[{configuration['scale_factor']}{configuration['unit']}]")
        case "structured":
            fields = configuration["fields"]
            return np.dtype([(n, np.dtype(t) if isinstance(t, str) else _extended_dtype(t)) for n, t in fields])
        case other:
            raise TypeError(f"data type {other!r} is not one that scanners write")


def array_document(
    shape: Sequence[int],
    dtype: DType,
    *,
    chunk_shape: Sequence[int] | None = None,
    fill_value: Any = None,
    compressors: Sequence[Mapping[str, Any]] = (),
    attributes: Mapping[str, Any] | None = None,
    dimension_names: Sequence[str | None] | None = None,
) -> dict[str, Any]:
    """The `zarr.json` of an array.

    Parameters
    ----------
    shape, chunk_shape
        Elements per dimension; without `chunk_shape` there is one chunk. Lengths of zero become chunks of one.
    dtype
        With the byte order of the chunks' bytes.
    fill_value
        What chunks that do not exist hold; ``None`` is zero.
    compressors
        Codecs after the serializer, in the order of encoding.
    attributes
        JSON-able.

    Raises
    ------
    TypeError
        Zarr has no such data type.
    """
    chunks = shape if chunk_shape is None else chunk_shape
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [int(n) for n in shape],
        "data_type": data_type(dtype),
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [max(1, int(n)) for n in chunks]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill_json(fill_value, dtype),
        "codecs": [serializer(dtype), *map(dict, compressors)],
        "attributes": dict(attributes or {}),
        **({} if dimension_names is None else {"dimension_names": list(dimension_names)}),
        "storage_transformers": [],
    }


def _float_json(scalar: NDArray[Any]) -> float | str:
    value = float(scalar)
    if np.isfinite(scalar):
        return value
    if np.isinf(scalar):
        return "Infinity" if value > 0 else "-Infinity"
    big = np.asarray(scalar, scalar.dtype.newbyteorder(">"))
    usual = np.array(np.nan, big.dtype)
    bits = big.tobytes()
    return "NaN" if bits == usual.tobytes() else "0x" + bits.hex()


def _float_scalar(value: float | str, dtype: np.dtype[Any]) -> Any:
    if isinstance(value, str) and value.startswith("0x"):
        return np.frombuffer(bytes.fromhex(value[2:]), dtype.newbyteorder(">"))[0].astype(dtype)
    return np.array(float(value), dtype)[()]
