"""The native chunks in manifests, without decoding anything else: what garbage collection asks for.

Many small manifests are looked at as one: their contents side by side are a buffer in which every offset still
leads to the right place, so that the work per file is finding its arrays and no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.errors import CorruptFile
from icechunk_virtual.model.ids import OBJECT_ID_SIZE
from icechunk_virtual.repo.format.envelope import FileType, unwrap
from icechunk_virtual.repo.format.flat import Buffer
from icechunk_virtual.repo.format.flat_blocks import align
from icechunk_virtual.repo.format.flat_columns import Places
from icechunk_virtual.repo.format.flat_rows import pointed_at
from icechunk_virtual.repo.format.manifest_encode import CHUNK_ID, LENGTH, MAX_TABLES

_REF, _VTABLE, _ID, _LENGTH = "a chunk reference", "the vtable of a chunk reference", "a chunk's id", "a chunk's length"


def native_chunks(files: Sequence[tuple[str, bytes]]) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
    """The native chunks of all arrays in manifest files, a row per reference.

    Parameters
    ----------
    files
        Key in the repository, for messages, and content of each file.

    Returns
    -------
    ids : uint8 (n, 12)
    lengths : uint64 (n,)
        Bytes.

    Raises
    ------
    CorruptFile
        One is damaged or no manifest.
    UnsupportedFormat
        Another format version.
    """
    kind = FileType.MANIFEST
    buffers = [Buffer(unwrap(data, file_type=kind, file=key), file=key, kind=kind.label) for key, data in files]
    try:
        return _chunks_in(buffers)
    except CorruptFile:
        if len(buffers) > 1:
            for buffer in buffers:
                _chunks_in([buffer])  # names the one at fault
        raise


def _chunks_in(buffers: Sequence[Buffer]) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
    vectors = [_vectors(buffer) for buffer in buffers]
    bases = [0, *accumulate(align(buffer.size, 8) for buffer in buffers)]
    found = [(base + start, count) for base, own in zip(bases, vectors, strict=False) for start, count in own]
    if not sum(count for _, count in found):
        return np.empty((0, OBJECT_ID_SIZE), np.uint8), np.empty(0, np.uint64)
    starts, counts = np.array(found, np.int64).T
    buffer, rows = _side_by_side(buffers), np.array([sum(count for _, count in own) for own in vectors])
    first = np.repeat(bases[:-1], rows)
    end = first + np.repeat([buffer.size for buffer in buffers], rows)

    def inside(positions: NDArray[np.int64], size: NDArray[np.int64] | int, of: NDArray[np.bool_] | slice) -> None:
        """Every file's positions are its own."""
        if len(buffers) > 1 and ((positions < first[of]) | (positions + size > end[of])).any():
            raise buffer.corrupt("an offset leads out of the file")

    everything = slice(None)
    tables = pointed_at(buffer, starts, counts).positions()
    inside(tables, 4, everything)
    vtables = tables - Places.at(buffer, tables).read("<i4", _REF)
    sizes = Places.at(buffer, vtables).read("<u2", _VTABLE).astype(np.int64)
    if ((sizes < 4) | (sizes % 2 == 1)).any():
        raise buffer.corrupt(f"{_VTABLE} has an impossible length")
    Places.at(buffer, vtables + sizes).check(0, 1, _VTABLE)
    inside(vtables, sizes, everything)
    id_at, length_at = (_field_offsets(buffer, vtables, sizes, slot) for slot in (CHUNK_ID, LENGTH))
    native = id_at > 0
    positions = (tables + id_at)[native]
    inside(positions, OBJECT_ID_SIZE, native)
    ids = Places.at(buffer, positions).read_bytes(OBJECT_ID_SIZE, _ID)
    given = native & (length_at > 0)
    positions = (tables + length_at)[given]
    inside(positions, 8, given)
    lengths = np.zeros(len(tables), np.uint64)
    lengths[given] = Places.at(buffer, positions).read("<u8", _LENGTH)
    return ids, lengths[native]


def _side_by_side(buffers: Sequence[Buffer]) -> Buffer:
    """All contents in one, each beginning at a multiple of 8."""
    if len(buffers) == 1:
        return buffers[0]
    padded = [part for buffer in buffers for part in (buffer.data, bytes(-buffer.size % 8))]
    return Buffer(b"".join(padded), file=f"{buffers[0].file} and others", kind=buffers[0].kind)


def _vectors(buffer: Buffer) -> list[tuple[int, int]]:
    """Of the references of each array: position of the first element, number of elements."""
    root = buffer.root()
    start, count = root.vector(1, 4, 4, "the vector of arrays")
    if count > MAX_TABLES:
        raise buffer.corrupt(f"{count} arrays are more than any reader takes", start)
    vectors = [array.vector(1, 4, 4, "an array's references") for array in root.tables(1, "the vector of arrays")]
    total = sum(n for _, n in vectors)
    if total > MAX_TABLES:
        raise buffer.corrupt(f"{total} references are more than any reader takes", start)
    return vectors


def _field_offsets(
    buffer: Buffer, vtables: NDArray[np.int64], sizes: NDArray[np.int64], slot: int
) -> NDArray[np.int64]:
    """Where in its table each row has a field, int64 (n,); 0: nowhere. The vtables are inside the buffer."""
    entry = 4 + 2 * slot
    offsets = buffer.view("<u2").take((vtables + entry) >> 1, mode="clip").astype(np.int64)
    offsets[sizes <= entry] = 0
    return offsets
