"""Dataspace messages: the extent of datasets and attributes (section IV.A.2.b, versions 1 and 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from icechunk_virtual.scanners.hdf5.format.cursor import Cursor

_MAXIMA, _PERMUTATION = 0x01, 0x02  # flags
_SCALAR, _SIMPLE, _NULL = 0, 1, 2  # types, of version 2
_MOST_AXES = 32  # H5S_MAX_RANK
_MOST_ELEMENTS = 1 << 63


@dataclass(frozen=True, slots=True)
class Dataspace:
    """An extent.

    Attributes
    ----------
    shape : tuple of int or None
        ``None``: null, without elements; ``()``: scalar.
    limits : tuple of (int or None)
        How far each axis may grow; ``None``: without bound.
    """

    shape: tuple[int, ...] | None
    limits: tuple[int | None, ...] = ()

    @property
    def count(self) -> int:
        """Number of elements."""
        return 0 if self.shape is None else math.prod(self.shape)


def parse_dataspace(cursor: Cursor) -> Dataspace:
    """Parse the message from its version on."""
    version = cursor.version(1, 2)
    rank, flags = cursor.uint(1), cursor.uint(1)
    if rank > _MOST_AXES:
        cursor.fail(f"{rank} axes")
    if version == 1:
        kind = _SIMPLE if rank else _SCALAR
        cursor.skip(5)
    else:
        kind = cursor.uint(1)
    if kind not in (_SCALAR, _SIMPLE, _NULL):
        cursor.fail(f"a dataspace of type {kind}")
    if kind == _NULL:
        return Dataspace(None)
    if kind == _SCALAR and rank:
        cursor.fail("a scalar with axes")
    shape = tuple(cursor.length() for _ in range(rank))
    if math.prod(max(1, size) for size in shape) >= _MOST_ELEMENTS:
        cursor.fail(f"the shape {shape}")
    if not flags & _MAXIMA:
        return Dataspace(shape, shape)
    unlimited = (1 << (8 * cursor.sizes.length)) - 1
    limits = tuple(None if (size := cursor.length()) == unlimited else size for _ in range(rank))
    if any(limit is not None and limit < size for size, limit in zip(shape, limits, strict=True)):
        cursor.fail(f"the shape {shape} is beyond its limits {limits}")
    return Dataspace(shape, limits)
