"""HDF5 element types: which Zarr type has the same bytes, which values have to be converted, which have no place.

Looks at types only, never at data.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from h5py import h5t

from icechunk_virtual.scanners.documents import STRING, DType, data_type


class Content(enum.Enum):
    """What can be done with the bytes of a dataset."""

    SAME = enum.auto()  # they are what Zarr expects
    CHECK = enum.auto()  # they may be; only the data can tell
    CONVERT = enum.auto()  # values have to be read and stored
    REFUSE = enum.auto()  # Zarr has no place for the values


@dataclass(frozen=True, slots=True)
class Element:
    """Type of the elements of a dataset.

    Attributes
    ----------
    dtype
        Of the Zarr array, with the byte order of the file.
    inner : tuple of int
        Shape of one element (HDF5 array types): becomes further axes of the array.
    content
        What can be done with the bytes.
    reason : str
        Why they are not simply referenced.
    enum : dict
        Names and values of an enumeration.
    """

    dtype: DType
    content: Content
    reason: str = ""
    inner: tuple[int, ...] = ()
    enum: dict[str, int] = field(default_factory=dict)


_IEEE = {
    2: (h5t.IEEE_F16LE, h5t.IEEE_F16BE),
    4: (h5t.IEEE_F32LE, h5t.IEEE_F32BE),
    8: (h5t.IEEE_F64LE, h5t.IEEE_F64BE),
}
_BITFIELDS = [getattr(h5t, f"STD_B{bits}{order}") for bits in (8, 16, 32, 64) for order in ("LE", "BE")]


def element_type(dataset: h5py.Dataset) -> Element:
    """Judge the type of a dataset."""
    try:
        dtype = dataset.dtype
    except (TypeError, ValueError) as error:  # numpy has no such type
        return _refused(f"its type has no numpy equivalent: {error}")
    return _element(dataset.id.get_type(), dtype)


def _element(tid: Any, dtype: np.dtype[Any]) -> Element:
    match tid.get_class():
        case h5t.ARRAY:
            base = _element(tid.get_super(), dtype.base)
            inner = (*dtype.shape, *base.inner)
            if base.content is Content.REFUSE or base.dtype == STRING:
                return _refused("arrays of " + (base.reason or "text"))
            return Element(base.dtype, base.content, base.reason, inner, base.enum)
        case h5t.STRING:
            return _text(tid, dtype)
        case h5t.ENUM:
            return _enumeration(tid, dtype)
        case h5t.REFERENCE:
            if tid.equal(h5t.STD_REF_OBJ):
                return Element(STRING, Content.CONVERT, "object references are stored as the paths they point to")
            return _refused("region references have no meaning outside the file")
        case h5t.VLEN:
            return _refused(f"Zarr has no type for lists of varying length (of {h5py.check_vlen_dtype(dtype)})")
        case _:
            return _fixed(tid, dtype)


def _text(tid: Any, dtype: np.dtype[Any]) -> Element:
    if tid.is_variable_str():
        return Element(STRING, Content.CONVERT, "text of varying length lies scattered in the file")
    if tid.get_size() == 1 or tid.get_strpad() == h5t.STR_NULLPAD:
        return Element(np.dtype(f"S{dtype.itemsize}"), Content.SAME)
    plain = np.dtype(f"S{dtype.itemsize}")
    if tid.get_strpad() == h5t.STR_SPACEPAD:
        return Element(plain, Content.CONVERT, "text is padded with spaces, which Zarr would keep")
    return Element(plain, Content.CHECK, "text has other bytes behind the terminating zero")


def _enumeration(tid: Any, dtype: np.dtype[Any]) -> Element:
    if h5py.check_enum_dtype(dtype) is None and dtype.kind == "b":
        return Element(np.dtype(bool), Content.SAME)
    names = h5py.check_enum_dtype(dtype) or {}
    ordered = sorted(names.items(), key=lambda item: int(item[1]))
    base = _fixed(tid.get_super(), np.dtype(dtype.str))
    return Element(base.dtype, base.content, base.reason, enum={str(k): int(v) for k, v in ordered})


def _fixed(tid: Any, dtype: np.dtype[Any]) -> Element:
    """Numbers, opaque bytes, records."""
    plain = _strip(dtype)
    if plain is None:
        return _refused("records with fields of varying length, references or arrays have no Zarr type")
    try:
        data_type(plain)
    except TypeError:
        if plain.names is None:
            return _refused(f"Zarr has no type for {plain} (HDF5 {_describe(tid)})")
        packed = _packed(plain)
        try:
            data_type(packed)
        except TypeError as error:
            return _refused(f"{error}")
        return Element(packed, Content.CONVERT, "records have gaps or big-endian fields, which Zarr's have not")
    if tid.get_size() == plain.itemsize and _same_bits(tid, plain):
        return Element(plain, Content.SAME)
    return Element(plain, Content.CONVERT, f"HDF5 {_describe(tid)} has other bits than {plain}")


def _same_bits(tid: Any, dtype: np.dtype[Any]) -> bool:
    """Whether the bytes of an HDF5 type are those of the numpy type that h5py converts it to."""
    match tid.get_class():
        case h5t.BITFIELD:
            return any(tid.equal(standard) for standard in _BITFIELDS)
        case h5t.INTEGER:
            return bool(tid.get_precision() == 8 * dtype.itemsize and tid.get_offset() == 0 and dtype.kind in "iuMm")
        case h5t.FLOAT:
            return dtype.kind == "f" and any(tid.equal(ieee) for ieee in _IEEE[dtype.itemsize])
        case h5t.OPAQUE:
            return True
        case h5t.COMPOUND:
            if dtype.kind == "c":
                half = np.dtype(f"{dtype.str[0]}f{dtype.itemsize // 2}")
                offsets = [tid.get_member_offset(i) for i in range(tid.get_nmembers())]
                return offsets == [0, half.itemsize] and _same_bits(tid.get_member_type(0), half)
            fields = list((dtype.fields or {}).values())
            return all(
                tid.get_member_offset(i) == f[1] and _same_member(tid.get_member_type(i), f[0])
                for i, f in enumerate(fields)
            )
        case h5t.STRING:
            return bool(tid.get_size() == 1 or tid.get_strpad() == h5t.STR_NULLPAD)
        case h5t.ENUM:
            return _same_bits(tid.get_super(), dtype if dtype.kind != "b" else np.dtype("i1"))
        case _:
            # HDF5 2 has complex numbers of its own: real part first, as numpy.
            return dtype.kind == "c"


def _same_member(tid: Any, dtype: np.dtype[Any]) -> bool:
    return bool(tid.get_size() == dtype.itemsize) and _same_bits(tid, dtype)


def _strip(dtype: np.dtype[Any]) -> np.dtype[Any] | None:
    """Without h5py's metadata; ``None`` where a part is no plain value."""
    if dtype.names is None:
        if dtype.kind == "O" or dtype.subdtype is not None:
            return None
        return np.dtype(dtype.str)
    fields = {name: (_strip(field), offset) for name, (field, offset, *_) in (dtype.fields or {}).items()}
    if any(field is None for field, _ in fields.values()):
        return None
    return np.dtype(
        {
            "names": list(fields),
            "formats": [field for field, _ in fields.values()],
            "offsets": [offset for _, offset in fields.values()],
            "itemsize": dtype.itemsize,
        }
    )


def _packed(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The same fields without gaps, in little-endian order."""
    if dtype.names is None:
        return dtype.newbyteorder("<")
    return np.dtype([(name, _packed(field)) for name, (field, *_) in (dtype.fields or {}).items()])


def _describe(tid: Any) -> str:
    names = {h5t.INTEGER: "integer", h5t.FLOAT: "float", h5t.OPAQUE: "opaque", h5t.COMPOUND: "compound"}
    return f"{names.get(tid.get_class(), 'type')} of {tid.get_size()} bytes"


def _refused(reason: str) -> Element:
    return Element(STRING, Content.REFUSE, reason)
