"""What two files say about one array, fact by fact: the first that differs decides whether they can be joined.

Documents and references to texts for people; no I/O, no values are decoded except stored ones.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.model.chunk_refs import ChunkKind
from icechunk_virtual.scanners.dataset import VirtualArray
from icechunk_virtual.scanners.documents import native_dtype
from icechunk_virtual.scanners.native import decode_array

PACKING = (
    "scale_factor",
    "add_offset",
    "calendar",
    "units",
    "_FillValue",
    "missing_value",
    "valid_min",
    "valid_max",
    "valid_range",
    "_Unsigned",
    "_Encoding",
    "flag_values",
    "flag_masks",
    "flag_meanings",
    "bounds",
    "climatology",
)
"""Attributes that say what the numbers mean: one array has one of each."""
_PACKING = frozenset(PACKING)
ENCODING = ("byte order", "codecs", "configuration of codec", "chunk shape", "fill value")
"""Facts that do not count where values are decoded, compared and encoded again."""
_DECODING = ("codecs", "chunk_grid", "fill_value")  # equal bytes are equal values where these are equal
FIRST_FILE = "the first file"
_LARGEST = 1 << 30
"""Bytes of values that are decoded to be joined."""
_LONGEST = 80  # characters of a value in a message


def difference(
    reference: VirtualArray,
    other: VirtualArray,
    axis: int | None,
    *,
    ignore: Collection[str] = (),
    called: str = FIRST_FILE,
) -> str | None:
    """The first fact in which `other` differs, as a text; ``None`` when they fit.

    Parameters
    ----------
    reference, other
        The same variable of two files.
    axis
        The dimension along which they are joined: their lengths and chunk lengths along it do not count.
    ignore
        Names of facts that do not count, such as those of `ENCODING`.
    called
        What the text calls the place of `reference`.
    """
    if axis is not None and _alike(reference.document, other.document, axis):
        return None
    for name, expected, found in _facts(reference, other, axis):
        kind = "configuration of codec" if name.startswith("configuration of codec") else name
        if kind not in ignore and not same(expected, found):
            return f"{name} {_is(name)} {show(found)}, but {show(expected)} in {called}"
    return None


def other_attributes(reference: Mapping[str, Any], other: Mapping[str, Any], ignore: Collection[str] = ()) -> set[str]:
    """Names of attributes with other values, or in only one of the two; `ignore` and what `PACKING` lists left out."""
    names = {*reference, *other} - {*ignore, *PACKING}
    return {n for n in names if (n in reference) != (n in other) or not same(reference.get(n), other.get(n))}


def value_difference(reference: VirtualArray, other: VirtualArray, *, called: str = FIRST_FILE) -> str | None:
    """How the values of two arrays of one shape and type differ, as far as that can be said without reading files.

    Stored values are compared; of virtual chunks, which ones there are and how long they are. The text calls the place
    of `reference` as `called` says.
    """
    a, b = reference.refs, other.refs
    if not (is_stored(reference) and is_stored(other)):
        if not np.array_equal(a.coords, b.coords) or not np.array_equal(a.length, b.length):
            return f"its chunks have other lengths than in {called}"
        return None
    if a.equals(b) and all(same(reference.document[k], other.document[k]) for k in _DECODING):
        return None
    expected, found = decode_array(reference), decode_array(other)
    equal = equal_values(expected, found)
    if equal.all():
        return None
    index = tuple(int(i) for i in np.argwhere(~equal)[0])
    where = f" at {index}" if index else ""
    return f"its value{where} is {show(found[index])}, but {show(expected[index])} in {called}"


def equal_values(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    """Where two arrays of one shape have the same value; NaN equals itself."""
    equal: NDArray[np.bool_] = np.asarray(one == other)
    if one.dtype.kind in "fc" and other.dtype.kind in "fc":
        equal = equal | (np.isnan(one) & np.isnan(other))
    return equal


def is_stored(array: VirtualArray) -> bool:
    """Whether all chunks that exist carry their bytes."""
    return not (array.refs.kind != ChunkKind.INLINE).any()


def can_decode(versions: Sequence[VirtualArray]) -> bool:
    """Whether the values of all versions are at hand, and few enough to be decoded and encoded again."""
    return (
        any(a.nrefs for a in versions)
        and all(map(is_stored, versions))
        and sum(a.size * max(1, getattr(native_dtype(a.document), "itemsize", 1)) for a in versions) <= _LARGEST
    )


def same(a: Any, b: Any) -> bool:
    """Equality of JSON values in which 1, 1.0 and true are three, and NaN equals itself."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if type(a) is not type(b):
        return False
    return bool(a == b) or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


def show(value: Any) -> str:
    """A value in a message, shortened."""
    if value is None:
        return "absent"
    if isinstance(value, np.generic):
        value = value.item()
    text = str(value) if isinstance(value, _Word) else repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


class _Word(str):
    """Shown without quotes."""

    __slots__ = ()


def _is(name: str) -> str:
    return "are" if name in ("dimensions", "codecs") else "is"


def _alike(a: Mapping[str, Any], b: Mapping[str, Any], axis: int) -> bool:
    """Fast path: equal in everything but the length along the axis. True only if no fact can differ."""
    return (
        a.keys() == b.keys()
        and all(a[k] == b[k] for k in ("data_type", "chunk_grid", "codecs", "fill_value", "dimension_names"))
        and a["shape"][:axis] == b["shape"][:axis]
        and a["shape"][axis + 1 :] == b["shape"][axis + 1 :]
        and _alike_packing(a.get("attributes", {}), b.get("attributes", {}))
        and same(a["fill_value"], b["fill_value"])
    )


def _alike_packing(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    if a == b:  # true of 1 and 1.0, so their types count too
        return all(type(a[n]) is type(b[n]) and not isinstance(a[n], list) for n in _PACKING & a.keys())
    return all(same(a.get(n), b.get(n)) for n in PACKING)


def _facts(a: VirtualArray, b: VirtualArray, axis: int | None) -> Iterator[tuple[str, Any, Any]]:
    """Name, expected and found value of every fact, the weightiest first."""
    yield "dimensions", _names(a), _names(b)
    if a.ndim != b.ndim:
        yield "rank", a.ndim, b.ndim
        return
    yield "data type", _Word(a.dtype), _Word(b.dtype)
    for i, name in enumerate(a.dimension_names):
        if i != axis:
            yield f"length along `{name or i}`", a.shape[i], b.shape[i]
    attributes, others = a.attributes, b.attributes
    for name in PACKING:
        yield f"attribute {name}", attributes.get(name), others.get(name)
    yield "byte order", _endian(a), _endian(b)
    pairs = list(zip(a.document["codecs"], b.document["codecs"], strict=False))
    yield "codecs", [c["name"] for c in a.document["codecs"]], [c["name"] for c in b.document["codecs"]]
    for codec, other in pairs:
        yield f"configuration of codec {codec['name']}", codec.get("configuration"), other.get("configuration")
    yield "chunk shape", _without(a.chunk_shape, axis), _without(b.chunk_shape, axis)
    yield "fill value", a.document["fill_value"], b.document["fill_value"]


def _names(array: VirtualArray) -> list[str | None]:
    return list(array.dimension_names)


def _endian(array: VirtualArray) -> str:
    return _Word(array.document["codecs"][0].get("configuration", {}).get("endian", "little"))


def _without(shape: tuple[int, ...], axis: int | None) -> list[int]:
    return [n for i, n in enumerate(shape) if i != axis]
