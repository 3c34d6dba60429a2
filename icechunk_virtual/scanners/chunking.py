"""Cutting uncompressed data that lies in one piece into the chunks of a regular Zarr grid.

Chunks are runs of the slowest axis that is longer than one chunk, so each is one byte range. Arithmetic only: this
module knows no file format and reads nothing but the short tail that does not fill a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.model.chunk_refs import ChunkRefs
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.scanners.native import ReadMany

TARGET_BYTES = 8 * 2**20
"""Size that chunks of contiguous data aim at: a slice fetches megabytes, not the whole array."""
_SMALLEST = 1 / 16  # of the target: smaller pieces cost more requests than they save bytes
_LARGEST = 4  # times the target: rather one large piece than a tail that has to be stored

_MOST_DIVISORS = 1 << 20  # bounds the search on axes that only a damaged file declares


def contiguous_chunks(shape: Sequence[int], itemsize: int, *, target: int = TARGET_BYTES) -> tuple[int, ...]:
    """Chunk shape for an array whose elements lie in C order without gaps.

    Parameters
    ----------
    shape, itemsize
        Of the array; `itemsize` in bytes.
    target
        Wanted size of a chunk in bytes.

    Returns
    -------
    tuple of int
        ``(1, ..., 1, k, full, ..., full)``. `k` divides its axis, so that every chunk is complete (Zarr reads only
        complete chunks); only where no divisor gives a reasonable size, the axis has a short tail (`tail_refs`).
    """
    chunk = [max(1, n) for n in shape]
    size = math.prod(chunk) * itemsize
    for axis, n in enumerate(chunk):
        if size <= target:
            break
        row = size // n
        chunk[axis] = _piece(n, row, target) if row < target else 1
        if chunk[axis] > 1:
            break
        size = row
    return tuple(chunk)


def _piece(n: int, row: int, target: int) -> int:
    """How many of `n` rows of `row` bytes make a chunk."""
    most = max(1, target // row)
    divisors = _divisors(n)
    below, above = divisors[divisors <= most], divisors[divisors > most]
    if below[-1] * row >= target * _SMALLEST:
        return int(below[-1])
    if above[0] * row <= target * _LARGEST:
        return int(above[0])
    candidates = np.arange(most, most // 2, -1)  # the largest of those with the shortest tail
    return int(candidates[np.argmin(n % candidates)])


def _divisors(n: int) -> NDArray[np.int64]:
    small = np.arange(1, min(math.isqrt(n), _MOST_DIVISORS) + 1)
    small = small[n % small == 0]
    return np.unique(np.concatenate([small, n // small]))


def contiguous_refs(
    shape: Sequence[int], chunk_shape: Sequence[int], itemsize: int, offset: int, locations: Locations
) -> ChunkRefs:
    """References to the complete chunks of an array that starts at byte `offset` of location 0.

    Parameters
    ----------
    shape, itemsize, offset
        Of the array; the last two in bytes.
    chunk_shape
        As `contiguous_chunks` makes them.
    locations
        One row: the file.

    Raises
    ------
    ValueError
        Chunks of this shape are not contiguous in the file.
    """
    coords, offsets = contiguous_offsets(shape, chunk_shape, itemsize, offset)
    return ChunkRefs.virtual(coords, locations, 0, offsets, math.prod(chunk_shape) * itemsize)


def contiguous_offsets(
    shape: Sequence[int], chunk_shape: Sequence[int], itemsize: int, offset: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Coordinates, uint64 (n, ndim), and offsets, uint64 (n,), of the chunks of `contiguous_refs`."""
    coords = _coords(_grid(shape, chunk_shape))
    start = _element(shape, coords * np.asarray(chunk_shape, np.uint64).reshape(1, -1))
    return coords, start * np.uint64(itemsize) + np.uint64(offset)


def tail_refs(
    shape: Sequence[int], chunk_shape: Sequence[int], itemsize: int, offset: int, read_many: ReadMany, fill: bytes
) -> ChunkRefs:
    """Inline references for what `contiguous_refs` leaves out: chunks that reach beyond the array, padded with `fill`.

    Parameters
    ----------
    shape, chunk_shape, itemsize, offset
        As in `contiguous_refs`.
    read_many
        Reads the tails.
    fill
        One element, encoded as in the file.
    """
    axis = _cut_axis(shape, chunk_shape)
    if axis is None or 0 in shape or shape[axis] % chunk_shape[axis] == 0:
        return ChunkRefs.empty(len(shape))
    coords = _coords([*shape[:axis], 1, *(1 for _ in shape[axis + 1 :])])
    coords[:, axis] = shape[axis] // chunk_shape[axis]
    length = shape[axis] % chunk_shape[axis] * math.prod(shape[axis + 1 :]) * itemsize
    starts = _element(shape, coords * np.asarray(chunk_shape, np.uint64)) * np.uint64(itemsize) + np.uint64(offset)
    padding = fill * (math.prod(chunk_shape) - length // itemsize)
    pieces = read_many([(start, length) for start in starts.tolist()])
    return ChunkRefs.inline(coords, [bytes(piece) + padding for piece in pieces])


def cut_contiguous(
    shape: Sequence[int],
    itemsize: int,
    offset: int,
    locations: Locations,
    read_many: ReadMany,
    fill: bytes,
    *,
    target: int = TARGET_BYTES,
) -> tuple[tuple[int, ...], ChunkRefs, int]:
    """Chunk shape, all references, and how many bytes of them are stored because they fill no chunk.

    Parameters are those of `contiguous_chunks`, `contiguous_refs` and `tail_refs`.
    """
    chunk_shape = contiguous_chunks(shape, itemsize, target=target)
    refs = contiguous_refs(shape, chunk_shape, itemsize, offset, locations)
    tail = tail_refs(shape, chunk_shape, itemsize, offset, read_many, fill)
    return chunk_shape, refs.replace(tail), len(tail.heap)


def subdivide(refs: ChunkRefs, chunk_shape: Sequence[int], axis: int, piece: int) -> ChunkRefs:
    """Cut every chunk of uncompressed data into shorter ones along `axis`.

    Parameters
    ----------
    refs
        Chunks of `chunk_shape`, each one byte range in C order.
    axis
        All axes before it have a chunk length of 1.
    piece
        New chunk length along `axis`; divides the old one.

    Raises
    ------
    ValueError
        The pieces would not be contiguous, or a chunk's length does not divide.
    """
    count, rest = divmod(chunk_shape[axis], piece)
    if rest or any(n != 1 for n in chunk_shape[:axis]):
        raise ValueError(f"chunks of shape {tuple(chunk_shape)} cannot be cut into {piece} along axis {axis}")
    if count == 1:
        return refs
    if (refs.length % np.uint64(count)).any():
        raise ValueError(f"a chunk's length is not a multiple of {count}")
    step = np.tile(np.arange(count, dtype=np.uint64), len(refs))
    length = np.repeat(refs.length // np.uint64(count), count)
    coords = np.repeat(refs.coords, count, axis=0).astype(np.uint64)
    coords[:, axis] = coords[:, axis] * np.uint64(count) + step
    return ChunkRefs.from_rows(
        coords,
        np.repeat(refs.kind, count),
        np.repeat(refs.source, count),
        np.repeat(refs.offset, count) + step * length,
        length,
        locations=refs.locations,
        chunk_ids=refs.chunk_ids,
        heap=refs.heap,
    )


def _cut_axis(shape: Sequence[int], chunk_shape: Sequence[int]) -> int | None:
    """The first axis of more than one chunk whose chunks are longer than 1; the chunks after it must be complete."""
    for axis, (n, c) in enumerate(zip(shape, chunk_shape, strict=True)):
        if c == 1:
            continue
        if any(a != max(1, b) for a, b in zip(chunk_shape[axis + 1 :], shape[axis + 1 :], strict=True)):
            raise ValueError(f"chunks of shape {tuple(chunk_shape)} are not contiguous in an array {tuple(shape)}")
        return axis if n > c or n % c else None
    return None


def _grid(shape: Sequence[int], chunk_shape: Sequence[int]) -> list[int]:
    """How many complete chunks there are per axis."""
    _cut_axis(shape, chunk_shape)
    return [n // c for n, c in zip(shape, chunk_shape, strict=True)]


def _coords(grid: Sequence[int]) -> NDArray[np.uint64]:
    """All points of a grid in C order, uint64 (n, ndim)."""
    count = math.prod(grid)
    coords = np.empty((count, len(grid)), np.uint64, order="F")
    run = count
    for axis, n in enumerate(grid):
        if not count:
            break
        run //= n
        coords[:, axis] = (np.arange(count, dtype=np.uint64) // np.uint64(run)) % np.uint64(n)
    return coords


def _element(shape: Sequence[int], index: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Row numbers in C order of element indices, uint64 (n,)."""
    flat = np.zeros(len(index), np.uint64)
    for axis, n in enumerate(shape):
        flat = flat * np.uint64(n) + index[:, axis]
    return flat
