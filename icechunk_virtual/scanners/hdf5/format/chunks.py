"""The chunks of a dataset as columns, whichever index it has (section IV.A.2.i, and VII for the indexes themselves)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.scanners.hdf5.format.btree1 import CHUNKS, read_btree1
from icechunk_virtual.scanners.hdf5.format.btree2 import read_btree2
from icechunk_virtual.scanners.hdf5.format.columns import uint_column
from icechunk_virtual.scanners.hdf5.format.context import Context
from icechunk_virtual.scanners.hdf5.format.damage import Damaged
from icechunk_virtual.scanners.hdf5.format.dataspace import Dataspace
from icechunk_virtual.scanners.hdf5.format.extensible_array import read_extensible_array
from icechunk_virtual.scanners.hdf5.format.fixed_array import read_fixed_array
from icechunk_virtual.scanners.hdf5.format.layout import Chunked, IndexKind
from icechunk_virtual.scanners.hdf5.format.paged import Elements
from icechunk_virtual.scanners.hdf5.format.steps import Step

_MASK = 4  # bytes of a filter mask
_OFFSET = 8  # bytes of a chunk's coordinate
_UNFILTERED_RECORDS, _FILTERED_RECORDS = 10, 11  # types of version 2 B-trees
_MOST_CHUNKS = 1 << 63


@dataclass(frozen=True, slots=True, eq=False)
class Chunks:
    """`n` chunks that were written, in the order of the index.

    Attributes
    ----------
    coords : uint64 (n, ndim)
        Place in the grid of chunks.
    filter_mask : uint64 (n,)
        Bit `i` is set where filter `i` was skipped.
    offset, size : uint64 (n,)
        Byte range of the file.
    """

    coords: NDArray[np.uint64]
    filter_mask: NDArray[np.uint64]
    offset: NDArray[np.uint64]
    size: NDArray[np.uint64]


def read_chunks(context: Context, layout: Chunked, space: Dataspace, *, filtered: bool) -> Step[Chunks]:
    """Read the index of a chunked dataset.

    Parameters
    ----------
    filtered
        It has filters: the index says size and filter mask of every chunk.
    """
    shape = space.shape or ()
    if len(shape) != len(layout.shape):
        raise Damaged(
            context.place(layout.address or 0), f"chunks of {len(layout.shape)} axes in a dataset of {len(shape)}"
        )
    if layout.address is None:
        return _none(len(shape))
    grid = _Grid(context, layout, shape, space.limits, filtered)
    match layout.index:
        case IndexKind.BTREE_V1:
            return (yield from _btree1(grid, layout.address))
        case IndexKind.BTREE_V2:
            return (yield from _btree2(grid, layout.address))
        case IndexKind.SINGLE:
            size, mask = layout.single or (grid.nbytes, 0)
            one = np.array([[layout.address], [size], [mask]], np.uint64)
            return grid.chunks(np.zeros((1, len(shape)), np.uint64), one[0], one[1], one[2])
        case IndexKind.IMPLICIT:
            return _implicit(grid, layout.address)
        case IndexKind.FIXED_ARRAY:
            elements = yield from read_fixed_array(context, layout.address, grid.limit_count)
            return grid.by_number(elements, grid.limit_grid)
        case IndexKind.EXTENSIBLE_ARRAY:
            return (yield from _extensible(grid, layout.address))


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """The grid of chunks of one dataset, and what its index counts by."""

    context: Context
    layout: Chunked
    shape: tuple[int, ...]
    limits: tuple[int | None, ...]
    filtered: bool

    @property
    def nbytes(self) -> int:
        """Of a chunk without filters."""
        return math.prod(self.layout.shape) * self.layout.itemsize

    @property
    def extent(self) -> tuple[int, ...]:
        """Chunks along each axis, as many as the present shape needs."""
        return tuple(-(-n // c) for n, c in zip(self.shape, self.layout.shape, strict=True))

    @property
    def limit_grid(self) -> tuple[int, ...]:
        """Chunks along each axis, as many as there may ever be; 1 for unlimited ones."""
        return tuple(1 if n is None else -(-n // c) for n, c in zip(self.limits, self.layout.shape, strict=True))

    @property
    def limit_count(self) -> int:
        """Product of these."""
        return math.prod(self.limit_grid)

    def by_number(self, elements: Elements, grid: Sequence[int], order: Sequence[int] | None = None) -> Chunks:
        """Chunks from elements of an array, whose numbers count through a grid with its last axis fastest.

        Parameters
        ----------
        order
            Axis of the dataset for each of the grid.
        """
        width, data = self.context.sizes.offset, elements.data
        address = uint_column(data, 0, width)
        there = address != np.uint64(self.context.sizes.undefined)
        size_width = data.shape[1] - width - _MASK if self.filtered else 0
        if (self.filtered and not 0 < size_width <= 8) or (not self.filtered and data.shape[1] != width):
            raise Damaged(self.place, f"elements of {data.shape[1]} bytes in an index of chunks")
        data, address, number = data[there], address[there], elements.number[there]
        coords = np.empty((len(number), len(grid)), np.uint64)
        for axis in range(len(grid) - 1, 0, -1):
            number, coords[:, axis if order is None else order[axis]] = np.divmod(number, np.uint64(grid[axis]))
        coords[:, 0 if order is None else order[0]] = number
        if not self.filtered:
            return self.chunks(coords, address, None, None)
        size, mask = uint_column(data, width, size_width), uint_column(data, width + size_width, _MASK)
        return self.chunks(coords, address, size, mask)

    def chunks(
        self,
        coords: NDArray[np.uint64],
        address: NDArray[np.uint64],
        size: NDArray[np.uint64] | None,
        mask: NDArray[np.uint64] | None,
    ) -> Chunks:
        """Columns with positions in the file instead of addresses, without chunks that have no bytes."""
        if size is None or mask is None:
            size = np.full(len(address), self.nbytes, np.uint64)
            mask = np.zeros(len(address), np.uint64)
        offset = np.minimum(address, np.uint64(_MOST_CHUNKS)) + np.uint64(self.context.superblock.base)
        return Chunks(coords, mask, offset, size)

    @property
    def place(self) -> int:
        """Of the index in the file."""
        return self.context.place(self.layout.address or 0)


def _none(rank: int) -> Chunks:
    nothing = np.empty(0, np.uint64)
    return Chunks(np.empty((0, rank), np.uint64), nothing, nothing, nothing)


def _btree1(grid: _Grid, address: int) -> Step[Chunks]:
    """Keys (III.A.1, type 1): size, filter mask, and the first element along every axis and inside an element."""
    rank = len(grid.shape)
    key_size = 4 + _MASK + (rank + 1) * _OFFSET
    tree = yield from read_btree1(grid.context, address, CHUNKS, grid.context.superblock.chunk_k, key_size)
    keys = np.ascontiguousarray(tree.keys)
    start = keys[:, 4 + _MASK :].view("<u8")[:, :rank] if len(keys) else np.empty((0, rank), np.uint64)
    coords, rest = np.divmod(start.astype(np.uint64, copy=False), np.array(grid.layout.shape, np.uint64))
    if rest.any():
        raise Damaged(grid.place, "a chunk begins between the places of the grid")
    return grid.chunks(coords, tree.children, uint_column(keys, 0, 4), uint_column(keys, 4, _MASK))


def _btree2(grid: _Grid, address: int) -> Step[Chunks]:
    """Records (III.A.2, types 10 and 11): address, with filters size and mask, and the place in the grid."""
    tree = yield from read_btree2(grid.context, address)
    width, rank = grid.context.sizes.offset, len(grid.shape)
    size_width = tree.records.shape[1] - width - _MASK - rank * _OFFSET if grid.filtered else 0
    expected = _FILTERED_RECORDS if grid.filtered else _UNFILTERED_RECORDS
    start = width + (size_width + _MASK if grid.filtered else 0)
    if tree.kind != expected or not 0 <= size_width <= 8 or start + rank * _OFFSET != tree.records.shape[1]:
        raise Damaged(grid.place, f"chunks in a B-tree of type {tree.kind} with {tree.records.shape[1]} bytes")
    coords = np.stack([uint_column(tree.records, start + i * _OFFSET, _OFFSET) for i in range(rank)], axis=-1)
    found = uint_column(tree.records, 0, width)
    if not grid.filtered:
        return grid.chunks(coords, found, None, None)
    size, mask = uint_column(tree.records, width, size_width), uint_column(tree.records, width + size_width, _MASK)
    return grid.chunks(coords, found, size, mask)


def _implicit(grid: _Grid, address: int) -> Chunks:
    """All chunks, one behind the other."""
    count, nbytes = math.prod(grid.extent), grid.nbytes
    if count * nbytes > grid.context.file_size:
        raise Damaged(grid.place, f"{count} chunks of {nbytes} bytes in a file of {grid.context.file_size}")
    coords = np.indices(grid.extent, np.uint64).reshape(len(grid.extent), -1).T
    number = np.zeros(count, np.uint64)
    for axis, length in enumerate(grid.limit_grid):
        number = number * np.uint64(length) + coords[:, axis]
    return grid.chunks(coords, np.uint64(address) + number * np.uint64(nbytes), None, None)


def _extensible(grid: _Grid, address: int) -> Step[Chunks]:
    """The unlimited axis counts slowest, and the others in their order."""
    unlimited = [axis for axis, limit in enumerate(grid.limits) if limit is None]
    if len(unlimited) != 1:
        raise Damaged(grid.place, f"an extensible array for {len(unlimited)} unlimited axes")
    order = [unlimited[0], *(axis for axis in range(len(grid.shape)) if axis != unlimited[0])]
    limits = [grid.limit_grid[axis] for axis in order]
    expected = grid.extent[unlimited[0]] * math.prod(limits[1:])
    elements = yield from read_extensible_array(grid.context, address, min(expected, _MOST_CHUNKS))
    return grid.by_number(elements, limits, order)
