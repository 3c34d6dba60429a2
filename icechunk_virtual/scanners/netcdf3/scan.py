"""The scan of a NetCDF-3 file: from its layout to arrays with references.

Header and layout are judged before; here every variable becomes virtual, or is stored because it is small. Fixed
variables and the records of a lone record variable are contiguous; records of several variables interleave.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.containers.source import Source
from icechunk_virtual.model.chunk_refs import ChunkRefs
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.scanners.chunking import contiguous_chunks, contiguous_offsets, cut_contiguous
from icechunk_virtual.scanners.dataset import Scanned, Stored, VirtualArray, VirtualGroup
from icechunk_virtual.scanners.documents import array_document
from icechunk_virtual.scanners.native import fetched, stored_array
from icechunk_virtual.scanners.netcdf3.attributes import array_attributes, group_attributes
from icechunk_virtual.scanners.netcdf3.header import FORMATS, read_header
from icechunk_virtual.scanners.netcdf3.layout import Layout, Placed, lay_out
from icechunk_virtual.scanners.refusal import Refused, check_name, leave_out
from icechunk_virtual.scanners.spec import ScanOptions

_RECORD_AS_CHUNK = 1 << 16
"""Records of a lone record variable that are smaller than this share a chunk."""
_TINY_RECORD = 16
"""A record of one variable up to this size is smaller than the reference to it."""
_GATHER = 1 << 26
"""Bytes of the file that are read at a time where records are collected."""


@dataclass(frozen=True, slots=True)
class _File:
    """What every variable needs to know of its file."""

    source: Source
    layout: Layout
    locations: Locations
    options: ScanOptions


def scan(source: Source, options: ScanOptions) -> Scanned:
    """Scan a NetCDF-3 file.

    Raises
    ------
    MalformedSource
        Damaged or cut off; the message names the variable or the position in the header.
    UnsupportedFeature
        A variable whose name no Zarr node can have.
    """
    header = read_header(source.read, source.size, source.url)
    file = _File(source, lay_out(header, source.size, source.url), source.locations, options)
    attributes, warnings = group_attributes(header.attributes)
    arrays, stored = {}, []
    for placed in file.layout.variables:
        name = placed.variable.name
        path = f"/{name}"
        if options.drops(path):
            continue
        try:
            if "/" in name:
                raise Refused("`/` separates groups in Zarr")
            check_name(path)
        except Refused as refused:
            warnings.append(leave_out(refused, path, source.url, options))
            continue
        array, reason, notes = _array(placed, file)
        arrays[name] = array
        warnings += [f"{path}: {note}" for note in notes]
        if reason and array.nbytes_stored:
            stored.append(Stored(path, reason, array.nbytes_stored))
    warnings += options.unknown_drops(f"/{placed.variable.name}" for placed in file.layout.variables)
    root = VirtualGroup(attributes, arrays)
    return Scanned(root, source.url, FORMATS[header.version], tuple(stored), tuple(warnings))


def _array(placed: Placed, file: _File) -> tuple[VirtualArray, str, list[str]]:
    """One variable, why (some of) its bytes are stored, and notes for the report."""
    dtype = placed.variable.type.dtype
    fill, attributes, notes = array_attributes(placed.variable)
    whole = _why_whole(placed, file)
    if whole:
        values = _read_values(placed, file)
        array = stored_array(values, dimension_names=placed.dimensions, attributes=attributes, fill_value=fill)
        return array, whole, notes
    fill_bytes = np.array(fill, dtype).tobytes().ljust(dtype.itemsize, b"\0")
    chunk_shape, refs, reason = _references(placed, file, fill_bytes)
    nbytes = int(refs.length.sum(dtype=np.uint64))
    if nbytes <= file.options.store_small:
        refs, reason = fetched(refs, file.source.read_many), "small"
    document = array_document(
        placed.shape,
        dtype,
        chunk_shape=chunk_shape,
        fill_value=fill,
        attributes=attributes,
        dimension_names=placed.dimensions,
    )
    return VirtualArray(document, refs), reason, notes


def _why_whole(placed: Placed, file: _File) -> str:
    """Why a variable is stored in one chunk; empty when it is not."""
    records = file.layout.numrecs if placed.is_record else 1
    nbytes = placed.slab * records
    if placed.dimensions == (placed.variable.name,) and nbytes <= file.options.store_coordinates:
        return "coordinate"
    interleaved = placed.is_record and file.layout.record_size != placed.slab
    if interleaved and placed.slab <= _TINY_RECORD and nbytes <= file.options.max_stored:
        return f"records of {placed.slab} B are smaller than references to them"
    return ""


def _references(placed: Placed, file: _File, fill: bytes) -> tuple[tuple[int, ...], ChunkRefs, str]:
    """Chunk shape and references of a variable, and why some of its bytes are stored."""
    itemsize, target = placed.variable.type.dtype.itemsize, file.options.contiguous_chunk
    lone = file.layout.record_size == placed.slab < _RECORD_AS_CHUNK
    if placed.is_record and not lone:
        return *_record_refs(placed, file, target), ""
    chunk_shape, refs, tail = cut_contiguous(
        placed.shape, itemsize, placed.begin, file.locations, file.source.read_many, fill, target=target
    )
    return chunk_shape, refs, "the last chunk is incomplete in the file" if tail else ""


def _record_refs(placed: Placed, file: _File, target: int) -> tuple[tuple[int, ...], ChunkRefs]:
    """References into interleaved records: a record is one chunk, or several if it is large."""
    shape, itemsize, records = placed.shape[1:], placed.variable.type.dtype.itemsize, file.layout.numrecs
    chunk_shape = contiguous_chunks(shape, itemsize, target=target)
    if any(n % c for n, c in zip(shape, chunk_shape, strict=True)):
        chunk_shape = shape
    if not records:
        return (1, *chunk_shape), ChunkRefs.empty(len(placed.shape))
    inner, offset = contiguous_offsets(shape, chunk_shape, itemsize, placed.begin)
    n = len(inner)
    record = np.repeat(np.arange(records, dtype=np.uint64), n)
    coords = np.empty((records * n, len(placed.shape)), np.uint32, order="F")
    coords[:, 0] = record
    coords[:, 1:] = np.tile(inner, (records, 1))
    offset = np.tile(offset, records) + record * np.uint64(file.layout.record_size)
    return (1, *chunk_shape), ChunkRefs.virtual(coords, file.locations, 0, offset, math.prod(chunk_shape) * itemsize)


def _read_values(placed: Placed, file: _File) -> NDArray[Any]:
    """All values of a variable."""
    dtype, slab = placed.variable.type.dtype, placed.slab
    step = file.layout.record_size
    if not placed.is_record or step == slab:
        count = file.layout.numrecs if placed.is_record else 1
        data: bytes | bytearray = file.source.read(placed.begin, slab * count) if count else b""
    else:
        data = bytearray()
        batch = max(1, _GATHER // step)  # read_many may read the gaps too
        for record in range(0, file.layout.numrecs, batch):
            stop = min(record + batch, file.layout.numrecs)
            data += b"".join(_read_records(file.source, range(record, stop), placed.begin, slab, step))
    return np.frombuffer(data, dtype).reshape(placed.shape)


def _read_records(source: Source, records: Sequence[int], begin: int, slab: int, step: int) -> list[bytes]:
    return source.read_many([(begin + record * step, slab) for record in records])
