"""The chunk index of an HDF5 dataset as columns.

`chunk_iter` hands out one Python object per chunk; these are turned into machine numbers in small batches, so that
neither time nor memory grows by more than that call itself costs.
"""

from __future__ import annotations

import array
from collections.abc import Generator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

_BATCH = 256  # chunks: small enough to stay in the caches and below the garbage collector's threshold
_COLUMN = "Q"


@dataclass(frozen=True, slots=True, eq=False)
class ChunkIndex:
    """`n` chunks of a dataset, as HDF5 lists them.

    Attributes
    ----------
    start : uint64 (n, ndim)
        First element of each chunk.
    filter_mask : uint64 (n,)
        Bit `i` is set where filter `i` was skipped.
    offset, size : uint64 (n,)
        Byte range in the file.
    """

    start: NDArray[np.uint64]
    filter_mask: NDArray[np.uint64]
    offset: NDArray[np.uint64]
    size: NDArray[np.uint64]


def read_chunk_index(dataset: h5py.Dataset) -> ChunkIndex:
    """All chunks of a chunked dataset, in one pass."""
    columns = tuple(array.array(_COLUMN) for _ in range(4))
    collector = _collect(columns)
    next(collector)
    dataset.id.chunk_iter(collector.send)
    collector.close()
    start, filter_mask, offset, size = (np.frombuffer(column, np.uint64) for column in columns)
    base = dataset.file.userblock_size
    if base and not _offsets_count_user_block():
        offset = offset + np.uint64(base)
    return ChunkIndex(_true_starts(dataset, start.reshape(-1, dataset.ndim)), filter_mask, offset, size)


def _collect(columns: tuple[array.array[int], ...]) -> Generator[None, Any, None]:
    """Take one chunk at a time (a generator is resumed faster than a function is called); close() flushes."""
    batch: list[Any] = []
    append = batch.append
    try:
        while True:
            for _ in range(_BATCH):
                append((yield))
            _flush(batch, *columns)
    finally:
        _flush(batch, *columns)


def _flush(
    batch: list[Any],
    start: array.array[int],
    filter_mask: array.array[int],
    offset: array.array[int],
    size: array.array[int],
) -> None:
    if batch:
        starts, masks, offsets, sizes = zip(*batch, strict=True)
        start.extend(chain.from_iterable(starts))
        filter_mask.extend(masks)
        offset.extend(offsets)
        size.extend(sizes)
        batch.clear()


def _true_starts(dataset: h5py.Dataset, start: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Undo an error of the HDF5 library (up to 2.0 at least) in the coordinates of extensible arrays.

    That index serves datasets with one unlimited axis and numbers chunks with this axis slowest; when it is not the
    first, the library lists them as if it were numbered in C order, with zeros for the axes before. Whether a dataset
    has such an index cannot be asked, so a chunk is looked up where it would then be.
    """
    unlimited = [axis for axis, limit in enumerate(dataset.maxshape) if limit is None]
    if len(unlimited) != 1 or not unlimited[0] or not len(start):
        return start
    axis, chunks = unlimited[0], np.array(dataset.chunks, np.uint64)
    grid = [1 if n is None else -(-n // c) for n, c in zip(dataset.maxshape, dataset.chunks, strict=True)]
    scaled = start // chunks
    if scaled[:, :axis].any():
        return start
    number = scaled[:, axis]
    for i in range(axis + 1, len(grid)):
        number = number * np.uint64(grid[i]) + scaled[:, i]
    true = np.empty_like(scaled)
    for i in reversed(range(len(grid))):
        if i != axis:
            number, true[:, i] = np.divmod(number, np.uint64(grid[i]))
    true[:, axis] = number
    true *= chunks
    moved = (true != start).any(axis=1)
    shape = np.array(dataset.shape, np.uint64)
    if not moved.any() or (true >= shape).any():
        return start
    return true if _is_chunk(dataset, true[int(np.argmax(moved))].tolist()) else start


def _is_chunk(dataset: h5py.Dataset, start: list[int]) -> bool:
    """Whether a chunk was written there, by the library's own lookup."""
    try:
        dataset.id.read_direct_chunk(tuple(start))
    except (OSError, RuntimeError, ValueError):
        return False
    return True


@cache
def _offsets_count_user_block() -> bool:
    """Whether this HDF5 library counts chunk offsets from the start of the file; older ones skip the user block."""
    mark = b"where am I?     "
    with h5py.File("probe", "w", driver="core", backing_store=False, userblock_size=512) as file:
        dataset = file.create_dataset("x", (len(mark),), "u1", chunks=(len(mark),))
        dataset.id.write_direct_chunk((0,), mark)
        file.flush()
        image = file.id.get_file_image()
        offset = dataset.id.get_chunk_info(0).byte_offset
    # The image may come with or without the user block.
    found = image.find(mark)
    start = image.find(b"\x89HDF\r\n\x1a\n")
    return bool(offset == found - start + 512)
