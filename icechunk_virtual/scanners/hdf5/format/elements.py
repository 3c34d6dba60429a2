"""Bytes of elements as numpy values, data of varying length included.

The values are those that h5py gives, with these differences: texts of varying length are `bytes`, and references are
the addresses that they point to (0: nowhere).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.scanners.hdf5.format.columns import uint_column
from icechunk_virtual.scanners.hdf5.format.context import Context
from icechunk_virtual.scanners.hdf5.format.damage import Damaged, NotHandled
from icechunk_virtual.scanners.hdf5.format.datatype import Datatype, Padding, ReferenceKind, TypeClass
from icechunk_virtual.scanners.hdf5.format.heaps import read_collections
from icechunk_virtual.scanners.hdf5.format.numbers import float_values, integer_values
from icechunk_virtual.scanners.hdf5.format.steps import Step

_SCATTERED = (TypeClass.VLEN, TypeClass.REFERENCE)
_REFERENCE_WIDTH = 8  # bytes of an address, as everybody has them


def read_elements(context: Context, kind: Datatype, data: bytes, count: int) -> Step[NDArray[Any]]:
    """Values of `count` elements.

    Returns
    -------
    array (count, ...)
        With further axes for array types; of `object` for data of varying length.

    Raises
    ------
    NotHandled
        numpy has no such values.
    """
    match kind.kind:
        case TypeClass.VLEN:
            return (yield from _read_vlens(context, kind, data, count))
        case TypeClass.REFERENCE:
            return (yield from _read_references(context, kind, data, count))
        case TypeClass.ARRAY if _is_scattered(kind):
            base = _base(kind)
            values = yield from read_elements(context, base, data, count * math.prod(kind.shape))
            return values.reshape((count, *kind.shape, *values.shape[1:]))
        case TypeClass.COMPOUND if _is_scattered(kind):
            return (yield from _read_records(context, kind, data, count))
    return plain_values(kind, data, count)


def plain_values(kind: Datatype, data: bytes, count: int) -> NDArray[Any]:
    """Values that lie in their own bytes, as `read_elements`."""
    rows = np.frombuffer(data, np.uint8, count * kind.size).reshape(count, kind.size)
    match kind.kind:
        case TypeClass.INTEGER | TypeClass.BITFIELD:
            return integer_values(kind, rows)
        case TypeClass.ENUM:
            return integer_values(_base(kind), rows)
        case TypeClass.FLOAT:
            return float_values(kind, rows)
        case TypeClass.STRING:
            return _texts(kind, rows)
        case TypeClass.OPAQUE:
            return rows.view(f"V{kind.size}")[:, 0]
        case TypeClass.COMPLEX:
            parts = plain_values(_base(kind), data, 2 * count)
            return parts.view(f"{parts.dtype.str[0]}c{2 * parts.itemsize}") if count else np.empty(0, "c16")
        case TypeClass.ARRAY:
            values = plain_values(_base(kind), data, count * math.prod(kind.shape))
            return values.reshape((count, *kind.shape, *values.shape[1:]))
        case TypeClass.COMPOUND:
            columns = [_column(rows, member.offset, member.type.size) for member in kind.members]
            return _records(
                kind, count, [plain_values(m.type, c, count) for m, c in zip(kind.members, columns, strict=True)]
            )
    raise NotHandled(f"values of class {kind.kind.name}")


def _base(kind: Datatype) -> Datatype:
    if kind.base is None:
        raise NotHandled(f"values of class {kind.kind.name} without a base")
    return kind.base


def _is_scattered(kind: Datatype) -> bool:
    if kind.kind in _SCATTERED:
        return True
    if kind.base is not None:
        return _is_scattered(kind.base)
    return any(_is_scattered(member.type) for member in kind.members)


def _texts(kind: Datatype, rows: NDArray[np.uint8]) -> NDArray[Any]:
    letters = rows
    if kind.padding == Padding.NULL_TERMINATED:
        ended = np.logical_or.accumulate(rows == 0, axis=1)
        letters = np.where(ended, np.uint8(0), rows)
    elif kind.padding == Padding.SPACE_PADDED:
        blank = np.logical_and.accumulate((rows == ord(" "))[:, ::-1], axis=1)[:, ::-1]
        letters = np.where(blank, np.uint8(0), rows)
    return np.ascontiguousarray(letters).view(f"S{kind.size}")[:, 0]


# -- records -------------------------------------------------------------------------------------------------------


def _read_records(context: Context, kind: Datatype, data: bytes, count: int) -> Step[NDArray[Any]]:
    rows = np.frombuffer(data, np.uint8, count * kind.size).reshape(count, kind.size)
    columns = []
    for member in kind.members:
        part = _column(rows, member.offset, member.type.size)
        columns.append((yield from read_elements(context, member.type, part, count)))
    return _records(kind, count, columns)


def _column(rows: NDArray[np.uint8], offset: int, size: int) -> bytes:
    return rows[:, offset : offset + size].tobytes()


def _records(kind: Datatype, count: int, columns: list[NDArray[Any]]) -> NDArray[Any]:
    names = [member.name.decode("utf-8", "surrogateescape") for member in kind.members]
    if len(set(names)) < len(names) or not all(names):
        raise NotHandled("a compound whose members have no names of their own")
    records = np.empty(count, [(n, c.dtype, c.shape[1:]) for n, c in zip(names, columns, strict=True)])
    for name, column in zip(names, columns, strict=True):
        records[name] = column
    return records


# -- references and data of varying length -------------------------------------------------------------------------


def _read_references(context: Context, kind: Datatype, data: bytes, count: int) -> Step[NDArray[Any]]:
    width = context.sizes.offset
    if width != _REFERENCE_WIDTH:
        raise NotHandled("references in a file with short addresses, which HDF5 writes in an order of its own")
    rows = np.frombuffer(data, np.uint8, count * kind.size).reshape(count, kind.size)
    if kind.reference == ReferenceKind.OBJECT and kind.size == width:
        return _no_undefined(context, uint_column(rows, 0, width))
    if kind.reference != ReferenceKind.REGION or kind.size != width + 4:
        raise NotHandled(f"references of {kind.size} bytes")
    objects = yield from _read_heap_objects(context, uint_column(rows, 0, width), uint_column(rows, width, 4))
    heads = b"".join((each or b"")[:width].ljust(width, b"\0") for each in objects)
    return _no_undefined(context, uint_column(np.frombuffer(heads, np.uint8).reshape(count, width), 0, width))


def _no_undefined(context: Context, addresses: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return np.where(addresses == np.uint64(context.sizes.undefined), np.uint64(0), addresses)


def _read_vlens(context: Context, kind: Datatype, data: bytes, count: int) -> Step[NDArray[Any]]:
    width, base = context.sizes.offset, _base(kind)
    rows = np.frombuffer(data, np.uint8, count * kind.size).reshape(count, kind.size)
    lengths = uint_column(rows, 0, 4).tolist()
    objects = yield from _read_heap_objects(context, uint_column(rows, 4, width), uint_column(rows, 4 + width, 4))
    pieces = []
    for each, length in zip(objects, lengths, strict=True):
        nbytes = length * base.size if each is not None else 0
        if each is not None and len(each) < nbytes:
            raise Damaged(context.place(0), f"{length} elements of {base.size} bytes in {len(each)} bytes of a heap")
        pieces.append((each or b"")[:nbytes])
    if sum(map(len, pieces)) > context.file_size:
        raise Damaged(context.place(0), "data of varying length that refer to the same bytes again and again")
    values = np.empty(count, object)
    if kind.is_text:
        values[:] = [piece.split(b"\0")[0] for piece in pieces]
        return values
    total = sum(len(piece) for piece in pieces) // base.size
    flat = yield from read_elements(context, base, b"".join(pieces), total)
    start = 0
    for number, piece in enumerate(pieces):
        stop = start + len(piece) // base.size
        values[number], start = flat[start:stop], stop
    return values


def _read_heap_objects(
    context: Context, addresses: NDArray[np.uint64], numbers: NDArray[np.uint64]
) -> Step[list[bytes | None]]:
    """Objects of global heaps; ``None`` for those that are not there, which an address of 0 says."""
    collections = yield from read_collections(context, set(addresses.tolist()) - {0, context.sizes.undefined})
    found: list[bytes | None] = []
    for address, number in zip(addresses.tolist(), numbers.tolist(), strict=True):
        if address not in collections or not number:
            found.append(None)
            continue
        data = collections[address].get(number)
        if data is None:
            raise Damaged(context.place(address), f"global heap collection: no object {number}")
        found.append(data)
    return found
