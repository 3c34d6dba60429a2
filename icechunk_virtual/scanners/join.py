"""Arrays end to end: chunk grids that line up, references in columns, stored values in one chunk.

The versions of a variable that come here have the same type, packing and other lengths; `combine` has seen to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.model.chunk_refs import ChunkKind, ChunkRefs
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.scanners.chunking import contiguous_chunks, subdivide
from icechunk_virtual.scanners.dataset import VirtualArray
from icechunk_virtual.scanners.documents import BYTES, STRING, fill_scalar, native_dtype
from icechunk_virtual.scanners.native import decode_array, stored_array


def align(versions: Sequence[VirtualArray], axis: int, dim: str) -> tuple[int, list[tuple[int, str]]]:
    """The chunk length along `axis` with which all versions fit into one regular grid.

    That of the first file, if all have it and only the last one ends inside a chunk. Uncompressed chunks that are
    contiguous along the axis may be cut, so that their greatest common divisor will do.

    Returns
    -------
    chunk : int
    faults : list of (file, reason)
        Files that do not fit.
    """
    filled = [i for i, a in enumerate(versions) if a.shape[axis]]
    if not filled:
        return versions[0].chunk_shape[axis], []
    chunks = {i: versions[i].chunk_shape[axis] for i in filled}
    expected = chunks[filled[0]]
    ends = {i: versions[i].shape[axis] for i in filled[:-1]}
    if all(c == expected for c in chunks.values()) and not any(n % expected for n in ends.values()):
        return expected, []
    if all(_can_cut(versions[i], axis) for i in filled):
        return math.gcd(*chunks.values(), *ends.values()), []
    faults = []
    for i in filled:
        if chunks[i] != expected:
            faults.append((i, f"chunk length along `{dim}` is {chunks[i]}, but {expected} in the first file"))
        elif i in ends and ends[i] % expected:
            faults.append(
                (i, f"its {ends[i]} steps along `{dim}` end inside a chunk of {expected}; only the last file's may")
            )
    return expected, faults


class JoinedLocations:
    """The location tables of several files as one; found once for all variables of these files."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, ...], tuple[Sequence[Locations], Locations, NDArray[np.int64]]] = {}

    def of(self, tables: Sequence[Locations]) -> tuple[Locations, NDArray[np.int64]]:
        """The joined table, and for each row of all tables, one after the other, its number in it."""
        key = tuple(map(id, tables))
        if key not in self._found:  # holds the tables, so that their ids stay theirs
            self._found[key] = tables, *Locations.concat(tables).unique()
        return self._found[key][1:]


def join_virtual(versions: Sequence[VirtualArray], axis: int, chunk: int, joined: JoinedLocations) -> VirtualArray:
    """References of all versions, one after the other along `axis`, in chunks of `chunk`."""
    first = versions[0]
    parts, starts, end = [], [], 0
    for array in versions:
        length = array.shape[axis]
        refs = array.refs
        if array.chunk_shape[axis] != chunk and length:
            refs = subdivide(refs, array.chunk_shape, axis, chunk)
            refs = refs.take(refs.coords[:, axis] < -(-length // chunk))  # without pieces that are only padding
        if len(refs):
            parts.append(refs)
            starts.append(end // chunk)
        end += length
    shape, chunk_shape = list(first.shape), list(first.chunk_shape)
    shape[axis], chunk_shape[axis] = end, chunk
    grid = {**first.document["chunk_grid"], "configuration": {"chunk_shape": chunk_shape}}
    refs = _end_to_end(parts, starts, axis, joined) if parts else ChunkRefs.empty(first.ndim)
    return VirtualArray({**first.document, "shape": shape, "chunk_grid": grid}, refs)


def _end_to_end(parts: Sequence[ChunkRefs], starts: Sequence[int], axis: int, joined: JoinedLocations) -> ChunkRefs:
    """All rows, those of part `i` moved by ``starts[i]`` along `axis`.

    The same as ``ChunkRefs.concat`` of shifted parts, with a few steps per file less: there are many of them.
    """
    counts = [len(p) for p in parts]
    coords = np.concatenate([p.coords for p in parts]).astype(np.int64)
    coords[:, axis] += np.repeat(starts, counts)
    kind, source, offset, length = (
        np.concatenate([getattr(p, name) for p in parts]) for name in ("kind", "source", "offset", "length")
    )
    locations, number = joined.of([p.locations for p in parts])
    virtual = kind == ChunkKind.VIRTUAL
    rows = source + np.repeat(_starts([len(p.locations) for p in parts]), counts)
    source[virtual] = number[rows[virtual]]
    if not virtual.all():
        heaps = np.repeat(_starts([len(p.heap) for p in parts]), counts).astype(np.uint64)
        offset[~virtual] += heaps[~virtual]
    heap = b"".join(p.heap for p in parts)
    return ChunkRefs.from_rows(coords, kind, source, offset, length, locations=locations, heap=heap)


def _starts(lengths: Sequence[int]) -> NDArray[np.int64]:
    """Where each of several things begins when they stand one after the other."""
    return np.cumsum([0, *lengths[:-1]])


def join_stored(versions: Sequence[VirtualArray], axis: int) -> VirtualArray:
    """The values of all versions along `axis`, encoded again: in one chunk unless they are large."""
    first = versions[0]
    dtype = native_dtype(first.document)
    values = np.concatenate([decode_array(a) for a in versions], axis)
    objects = dtype in (STRING, BYTES)
    if not objects:
        values = values.astype(dtype, copy=False)
    return stored_array(
        values,
        dimension_names=first.document.get("dimension_names"),
        attributes=first.attributes,
        fill_value=fill_scalar(first.document, dtype),
        chunk_shape=None if objects else contiguous_chunks(values.shape, values.dtype.itemsize),
    )


def _can_cut(array: VirtualArray, axis: int) -> bool:
    codecs = [codec["name"] for codec in array.document["codecs"]]
    return codecs == ["bytes"] and all(n == 1 for n in array.chunk_shape[:axis])
