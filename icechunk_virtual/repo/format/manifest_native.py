"""The native chunks in a manifest, without decoding anything else: what garbage collection asks for."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.model.ids import OBJECT_ID_SIZE
from icechunk_virtual.repo.format.envelope import FileType, unwrap
from icechunk_virtual.repo.format.flat import Buffer
from icechunk_virtual.repo.format.flat_columns import Places, Tables
from icechunk_virtual.repo.format.flat_rows import pointed_at
from icechunk_virtual.repo.format.manifest_encode import CHUNK_ID, LENGTH, MAX_TABLES

_ID = "a chunk's id"
_FEW_VTABLES = 64  # writers share them: there are as many as kinds of references


def native_chunks(data: bytes, *, file: str) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
    """The native chunks of all arrays, a row per reference.

    Parameters
    ----------
    data
        A manifest file.
    file
        Key in the repository, for messages.

    Returns
    -------
    ids : uint8 (n, 12)
    lengths : uint64 (n,)
        Bytes.

    Raises
    ------
    CorruptFile
        Damaged or no manifest.
    UnsupportedFormat
        Another format version.
    """
    kind = FileType.MANIFEST
    buffer = Buffer(unwrap(data, file_type=kind, file=file), file=file, kind=kind.label)
    tables = _tables(buffer)
    what = "a chunk reference"
    if not len(tables):
        return np.empty((0, OBJECT_ID_SIZE), np.uint8), np.empty(0, np.uint64)
    vtables = tables - Places.at(buffer, tables).read("<i4", what)
    distinct, row = (vtables[:1], None) if (vtables == vtables[0]).all() else np.unique(vtables, return_inverse=True)
    if len(distinct) > _FEW_VTABLES:
        rows = Tables.at(Places.at(buffer, tables), LENGTH + 1, what)
        rows = rows.take(rows.rows(CHUNK_ID))
        ids = rows.field(CHUNK_ID, _ID).read_bytes(OBJECT_ID_SIZE, _ID)
        return ids, rows.numbers(LENGTH, "<u8", "a chunk's length")
    # few vtables: where their fields are is looked up once each
    id_at, length_at = np.array([_offsets(buffer, vtable) for vtable in distinct.tolist()], np.int64).T
    if row is not None:
        native = np.flatnonzero(id_at[row])
        tables, id_at, length_at = tables[native], id_at[row[native]], length_at[row[native]]
    elif not id_at[0]:
        tables = tables[:0]
    ids = Places.at(buffer, tables + id_at).read_bytes(OBJECT_ID_SIZE, _ID)
    lengths = np.zeros(len(tables), np.uint64)
    given = np.flatnonzero(np.broadcast_to(length_at, tables.shape))
    lengths[given] = Places.at(buffer, (tables + length_at)[given]).read("<u8", "a chunk's length")
    return ids, lengths


def _tables(buffer: Buffer) -> NDArray[np.int64]:
    """Positions of the references of all arrays."""
    root = buffer.root()
    start, count = root.vector(1, 4, 4, "the vector of arrays")
    if count > MAX_TABLES:
        raise buffer.corrupt(f"{count} arrays are more than any reader takes", start)
    vectors = [array.vector(1, 4, 4, "an array's references") for array in root.tables(1, "the vector of arrays")]
    total = sum(n for _, n in vectors)
    if total > MAX_TABLES:
        raise buffer.corrupt(f"{total} references are more than any reader takes", start)
    if not total:
        return np.empty(0, np.int64)
    starts, counts = np.array(vectors, np.int64).T
    return pointed_at(buffer, starts, counts).positions()


def _offsets(buffer: Buffer, vtable: int) -> tuple[int, int]:
    """Where tables with this vtable have the id and the length of a native chunk; 0: they have none."""
    what = "the vtable of a chunk reference"
    length = struct.unpack_from("<H", buffer.data, buffer.check(vtable, 4, what, 2))[0]
    if length < 4 or length % 2:
        raise buffer.corrupt(f"{what} has {length} bytes", vtable)
    buffer.check(vtable, length, what)
    entries = (4 + 2 * CHUNK_ID, 4 + 2 * LENGTH)
    id_at, length_at = (struct.unpack_from("<H", buffer.data, vtable + e)[0] if e < length else 0 for e in entries)
    return id_at, length_at
