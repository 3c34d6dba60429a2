"""Chunk references in columns: the one currency between scanners, change sets, manifests and readers.

A row says where the bytes of one chunk are. Operations are pure and vectorised; the only per-row values are those
that a caller asks for one at a time (`row`, `lookup`). This module knows no file format and does no I/O.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icechunk_virtual.model.chunks import (
    MAX_INDEX,
    Chunk,
    ChunkKind,
    Extents,
    InlineChunk,
    NativeChunk,
    VirtualChunk,
)
from icechunk_virtual.model.columns import as_unsigned, frozen, owned, take_columns
from icechunk_virtual.model.coordinates import grid_of, increasing, last_of_each, pack, take_rows
from icechunk_virtual.model.ids import OBJECT_ID_SIZE, ChunkId
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.model.tables import compact_tables, masks, merge_tables, same_entries

__all__ = [
    "MAX_INDEX",
    "Chunk",
    "ChunkKind",
    "ChunkRefs",
    "Extents",
    "InlineChunk",
    "NativeChunk",
    "VirtualChunk",
]
_COLUMNS = ("coords", "kind", "source", "offset", "length")
_FEW = 8  # chunks: fewer are looked up one by one
_VIRTUAL, _NATIVE = int(ChunkKind.VIRTUAL), int(ChunkKind.NATIVE)  # plain numbers compare faster


class _Axes:
    """Room for a view of each coordinate column, which is searched faster than an array."""

    __slots__ = ("_axes",)
    _axes: tuple[memoryview, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ChunkRefs(_Axes):
    """`n` references of one array, sorted by their chunk grid coordinates.

    Attributes
    ----------
    coords : uint32 (n, ndim)
        Chunk grid coordinates, lexicographically sorted, unique. Kept column by column in memory.
    kind : uint8 (n,)
        `ChunkKind`.
    source : uint32 (n,)
        VIRTUAL: row of `locations`. NATIVE: row of `chunk_ids`. INLINE: 0.
    offset, length : uint64 (n,)
        Byte range in the object; INLINE: in the heap.
    locations : Locations (k,)
    chunk_ids : uint8 (m, 12)
    heap : bytes

    A chunk that does not exist is an absent row, never a sentinel. Columns of other integer dtypes are range-checked
    and converted. Arrays that are writeable are copied, so that nobody can change them later; an array marked
    read-only (``array.flags.writeable = False``) is taken as it is.

    Raises
    ------
    ValueError
        Columns that contradict each other; the message names the first row at fault.
    """

    coords: NDArray[np.uint32]
    kind: NDArray[np.uint8]
    source: NDArray[np.uint32]
    offset: NDArray[np.uint64]
    length: NDArray[np.uint64]
    locations: Locations
    chunk_ids: NDArray[np.uint8]
    heap: bytes

    # -- making ------------------------------------------------------------------------------------------------

    def __post_init__(self) -> None:
        columns = take_columns(self.coords, self.kind, self.source, self.offset, self.length)
        chunk_ids = np.asarray(self.chunk_ids)
        if chunk_ids.dtype != np.uint8 or chunk_ids.ndim != 2 or chunk_ids.shape[1] != OBJECT_ID_SIZE:
            raise ValueError(
                f"chunk_ids must be uint8 of shape (m, {OBJECT_ID_SIZE}), got {chunk_ids.dtype} {chunk_ids.shape}"
            )
        self._set(*columns, self.locations, np.ascontiguousarray(owned(chunk_ids)), bytes(self.heap))
        self._check_rows()

    def _set(self, coords: NDArray[np.uint32], *columns: Any) -> None:
        if len(coords) > 1 and coords.strides[0] != coords.itemsize:  # not column by column
            coords = np.asfortranarray(coords)
        coords = frozen(coords)
        object.__setattr__(self, "coords", coords)
        for name, column in zip(ChunkRefs.__slots__[1:], columns, strict=True):
            object.__setattr__(self, name, frozen(column) if isinstance(column, np.ndarray) else column)
        object.__setattr__(self, "_axes", tuple(coords[:, axis].data for axis in range(coords.shape[1])))

    def _check_rows(self) -> None:
        end = self.offset + self.length
        virtual, native, inline = masks(self.kind)
        faults = (
            ("kind is none of NATIVE, INLINE, VIRTUAL", ~(virtual | native | inline)),
            ("source is not a row of locations", virtual & (self.source >= len(self.locations))),
            ("source is not a row of chunk_ids", native & (self.source >= len(self.chunk_ids))),
            ("offset + length is beyond 64 bits", end < self.offset),
            ("the inline range is outside the heap", inline & (end > len(self.heap))),
        )
        for reason, rows in faults:
            if rows.any():
                raise ValueError(f"row {int(np.argmax(rows))}: {reason}")
        if not increasing(self.coords):
            raise ValueError("coords must be lexicographically sorted and unique")

    @classmethod
    def _trusted(
        cls,
        coords: NDArray[np.uint32],
        kind: NDArray[np.uint8],
        source: NDArray[np.uint32],
        offset: NDArray[np.uint64],
        length: NDArray[np.uint64],
        locations: Locations,
        chunk_ids: NDArray[np.uint8],
        heap: bytes,
    ) -> ChunkRefs:
        """Without the checks, for results of operations on valid references."""
        self = object.__new__(cls)
        self._set(coords, kind, source, offset, length, locations, chunk_ids, heap)
        return self

    def _with(self, **changed: Any) -> ChunkRefs:
        """These references with some columns exchanged, unchecked."""
        return ChunkRefs._trusted(*(changed.get(name, getattr(self, name)) for name in ChunkRefs.__slots__))

    @classmethod
    def from_rows(
        cls,
        coords: ArrayLike,
        kind: ArrayLike,
        source: ArrayLike,
        offset: ArrayLike,
        length: ArrayLike,
        *,
        locations: Locations | None = None,
        chunk_ids: NDArray[np.uint8] | None = None,
        heap: bytes = b"",
    ) -> ChunkRefs:
        """From rows in any order; of rows with equal coordinates the last one stands.

        Parameters are those of the class; `kind`, `source`, `offset` and `length` may be one value for all rows.

        Raises
        ------
        ValueError
            As the class, and for columns of different lengths.
        """
        coords, kind, source, offset, length = take_columns(coords, kind, source, offset, length)
        if not increasing(coords):
            rows = last_of_each(pack(coords, grid_of(coords)))
            coords = frozen(take_rows(coords, rows))
            kind, source, offset, length = (frozen(column[rows]) for column in (kind, source, offset, length))
        ids = np.empty((0, OBJECT_ID_SIZE), np.uint8) if chunk_ids is None else chunk_ids
        return cls(
            coords, kind, source, offset, length, Locations.of(()) if locations is None else locations, ids, heap
        )

    @classmethod
    def virtual(
        cls, coords: ArrayLike, locations: Locations, source: ArrayLike, offset: ArrayLike, length: ArrayLike
    ) -> ChunkRefs:
        """Virtual references from rows in any order, see `from_rows`; `source` is a row of `locations`.

        `coords` is integer (n, ndim); `source`, `offset`, `length` are integer (n,) or one value for all rows.
        """
        return cls.from_rows(coords, ChunkKind.VIRTUAL, source, offset, length, locations=locations)

    @classmethod
    def native(
        cls, coords: ArrayLike, chunk_ids: NDArray[np.uint8], length: ArrayLike, offset: ArrayLike = 0
    ) -> ChunkRefs:
        """Native references from rows in any order, see `from_rows`; `chunk_ids` has the object of each row."""
        source = np.arange(len(chunk_ids), dtype=np.uint32)
        return cls.from_rows(coords, ChunkKind.NATIVE, source, offset, length, chunk_ids=chunk_ids)

    @classmethod
    def inline(cls, coords: ArrayLike, payloads: Sequence[bytes]) -> ChunkRefs:
        """Inline references from rows in any order, see `from_rows`; `payloads` has the bytes of each chunk."""
        lengths = np.array([len(p) for p in payloads], np.uint64)
        offsets = np.cumsum(lengths, dtype=np.uint64) - lengths
        return cls.from_rows(coords, ChunkKind.INLINE, 0, offsets, lengths, heap=b"".join(payloads))

    @classmethod
    @lru_cache(maxsize=64)
    def empty(cls, ndim: int) -> ChunkRefs:
        """No references."""
        return cls.from_rows(np.empty((0, ndim), np.uint32), ChunkKind.NATIVE, 0, 0, 0)

    # -- looking -----------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def ndim(self) -> int:
        """Number of dimensions of the array."""
        return int(self.coords.shape[1])

    @property
    def nbytes(self) -> int:
        """Memory of the columns and tables in bytes."""
        columns = (self.coords, self.kind, self.source, self.offset, self.length, self.chunk_ids)
        return sum(c.nbytes for c in columns) + self.locations.nbytes + len(self.heap)

    def __repr__(self) -> str:
        counts = {k.name.lower(): int((self.kind == k).sum()) for k in ChunkKind}
        shown = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        return f"ChunkRefs({len(self)} refs, {self.ndim}-d{': ' if shown else ''}{shown})"

    def __reduce__(self) -> tuple[Any, ...]:
        return ChunkRefs._trusted, tuple(getattr(self, name) for name in ChunkRefs.__slots__)

    def row(self, i: int) -> Chunk:
        """The reference in row `i`."""
        kind, source = self.kind.item(i), self.source.item(i)
        offset, length = self.offset.item(i), self.length.item(i)
        if kind == _VIRTUAL:
            url, etag, last_modified = self.locations.row(source)
            return VirtualChunk(url, offset, length, etag, last_modified)
        if kind == _NATIVE:
            return NativeChunk(ChunkId(self.chunk_ids[source].tobytes()), offset, length)
        return InlineChunk(self.heap[offset : offset + length])

    def lookup_row(self, coord: Sequence[int]) -> int | None:
        """Row of one chunk, or ``None``: a binary search per dimension."""
        low, high, last = 0, len(self.kind), len(self._axes) - 1
        if len(coord) != last + 1 or not high:
            return None
        for axis, column in enumerate(self._axes):
            index = int(coord[axis])
            low = bisect_left(column, index, low, high)
            if low == high or column[low] != index:
                return None
            if axis < last:
                high = bisect_left(column, index + 1, low, high)
        return low

    def lookup(self, coord: Sequence[int]) -> Chunk | None:
        """Reference of one chunk, or ``None``."""
        row = self.lookup_row(coord)
        return None if row is None else self.row(row)

    def find(self, coords: ArrayLike) -> NDArray[np.int64]:
        """Rows of many chunks, int64 (m,); -1 where there is none.

        Parameters
        ----------
        coords : integer (m, ndim)
        """
        wanted = as_unsigned(coords, np.uint32, "coords")
        if not wanted.size and self.ndim and wanted.ndim < 2:
            wanted = wanted.reshape(0, self.ndim)
        if wanted.ndim != 2 or wanted.shape[1] != self.ndim:
            raise ValueError(f"coords must have shape (m, {self.ndim}), got {wanted.shape}")
        if len(wanted) <= _FEW:
            rows = (self.lookup_row(coord) for coord in wanted.tolist())
            return np.array([-1 if row is None else row for row in rows], np.int64)
        if not len(self):
            return np.full(len(wanted), -1, np.int64)
        grid = np.maximum(grid_of(self.coords), grid_of(wanted))
        have, want = pack(self.coords, grid), pack(wanted, grid)
        found = np.minimum(np.searchsorted(have, want), len(have) - 1)
        return np.where(have[found] == want, found, -1)

    def extents(self) -> Extents:
        """Bounding box of the chunks present; empty ranges when there are none."""
        if not len(self):
            return ((0, 0),) * self.ndim
        columns = [self.coords[:, axis] for axis in range(self.ndim)]
        return tuple((int(column.min()), int(column.max()) + 1) for column in columns)

    def equals(self, other: ChunkRefs) -> bool:
        """The same chunks with the same bytes and locations, however the tables are laid out."""
        if len(self) != len(other) or self.ndim != other.ndim:
            return False
        if not (
            np.array_equal(self.coords, other.coords)
            and np.array_equal(self.kind, other.kind)
            and np.array_equal(self.length, other.length)
        ):
            return False
        inline = self.kind == ChunkKind.INLINE
        if not np.array_equal(self.offset[~inline], other.offset[~inline]):
            return False
        return same_entries(self, other)

    # -- choosing rows -----------------------------------------------------------------------------------------

    def take(self, rows: ArrayLike) -> ChunkRefs:
        """The given rows: ascending row numbers, or a boolean mask. The tables stay as they are (see `compact`).

        Raises
        ------
        ValueError
            Row numbers that do not ascend or do not exist, or a mask of another length.
        """
        rows = np.asarray(rows)
        if rows.dtype == bool:
            if rows.shape != (len(self),):
                raise ValueError(f"a mask of shape {rows.shape} for {len(self)} rows")
            return self._take(np.flatnonzero(rows))
        rows = rows.astype(np.int64, casting="safe") if rows.size else np.empty(0, np.int64)
        if rows.ndim != 1 or (rows[1:] <= rows[:-1]).any() or (len(rows) and not 0 <= rows[0] <= rows[-1] < len(self)):
            raise ValueError(f"row numbers must ascend from 0 to at most {len(self) - 1}")
        return self._take(rows)

    def _take(self, rows: NDArray[np.int64] | slice) -> ChunkRefs:
        return self._with(
            coords=take_rows(self.coords, rows),
            kind=self.kind[rows],
            source=self.source[rows],
            offset=self.offset[rows],
            length=self.length[rows],
        )

    def within(self, extents: Extents) -> ChunkRefs:
        """The chunks inside a box of half-open ranges. If it cuts the first axis only, the columns are views."""
        if len(extents) != self.ndim:
            raise ValueError(f"a box of {len(extents)} ranges for an array of {self.ndim} dimensions")
        if not extents or not len(self):
            return self
        start, stop = (bisect_left(self._axes[0], edge) for edge in extents[0])
        refs = self if (start, stop) == (0, len(self)) else self._take(slice(start, max(start, stop)))
        mask = np.ones(len(refs), bool)
        for axis, (low, high) in enumerate(extents[1:], 1):
            column = refs.coords[:, axis]
            mask &= (column >= low) & (column < high)
        return refs if mask.all() else refs._take(np.flatnonzero(mask))

    def without(self, coords: ArrayLike) -> ChunkRefs:
        """All chunks but the given ones, integer (m, ndim); those that are absent do not matter."""
        rows = self.find(coords)
        mask = np.ones(len(self), bool)
        mask[rows[rows >= 0]] = False
        return self if mask.all() else self._take(np.flatnonzero(mask))

    def split(self, box_shape: Sequence[int]) -> Iterator[tuple[Extents, ChunkRefs]]:
        """Cut along a grid of equal boxes, first axis slowest; boxes without chunks are left out.

        Parameters
        ----------
        box_shape
            Chunks that a box spans per dimension, at least 1. The first box begins at chunk 0.
        """
        if len(box_shape) != self.ndim:
            raise ValueError(f"boxes of {len(box_shape)} dimensions, the array has {self.ndim}")
        if any(step < 1 for step in box_shape):
            raise ValueError(f"a box spans at least one chunk per dimension, got {tuple(box_shape)}")
        if not len(self):
            return

        def region(box: Sequence[int]) -> Extents:
            return tuple((i * step, (i + 1) * step) for i, step in zip(box, box_shape, strict=True))

        ranges = [
            (start // step, (stop - 1) // step) for (start, stop), step in zip(self.extents(), box_shape, strict=True)
        ]
        if all(first == last for first, last in ranges):
            yield region([first for first, _ in ranges]), self
            return
        boxes = np.zeros((len(self), self.ndim), np.uint32, order="F")
        for axis, (first, last) in enumerate(ranges):
            boxes[:, axis] = self.coords[:, axis] // np.uint32(box_shape[axis]) if first < last else first
        keys = pack(boxes, grid_of(boxes))
        order = None
        if (keys[1:] < keys[:-1]).any():
            order = np.argsort(keys, kind="stable")
            keys = keys[order]
        starts = np.concatenate(([0], np.flatnonzero(keys[1:] != keys[:-1]) + 1, [len(keys)]))
        for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):  # a step per box
            box = boxes[start if order is None else order[start]].tolist()
            yield region(box), self._take(slice(start, stop) if order is None else order[start:stop])

    # -- changing ----------------------------------------------------------------------------------------------

    def shift(self, offsets: Sequence[int]) -> ChunkRefs:
        """Move every chunk by as many grid steps per dimension.

        Raises
        ------
        ValueError
            A coordinate would leave the range of u32.
        """
        if len(offsets) != self.ndim:
            raise ValueError(f"{len(offsets)} offsets for an array of {self.ndim} dimensions")
        if not len(self) or not any(offsets):
            return self
        coords = np.empty(self.coords.shape, np.uint32, order="F")
        for axis, ((start, stop), offset) in enumerate(zip(self.extents(), offsets, strict=True)):
            if start + offset < 0 or stop - 1 + offset > MAX_INDEX:
                raise ValueError(f"shifted coords of axis {axis} must be within 0 and {MAX_INDEX}")
            coords[:, axis] = self.coords[:, axis] + np.uint32(offset % 2**32)  # wraps to the right value
        return self._with(coords=coords)

    @staticmethod
    def concat(parts: Iterable[ChunkRefs]) -> ChunkRefs:
        """All rows of parts that share no chunk.

        Raises
        ------
        ValueError
            Two parts hold the same chunk, their ranks differ, or there are no parts.
        """
        parts = list(parts)
        joined = _join(parts)
        if len(joined) != sum(len(p) for p in parts):
            raise ValueError("two parts hold the same chunk")
        return joined

    def replace(self, newer: ChunkRefs) -> ChunkRefs:
        """These references overlaid with newer ones: where both hold a chunk, the newer stands."""
        return _join([self, newer])

    def relocate(self, old: str, new: str) -> ChunkRefs:
        """Exchange the prefix `old` by `new` in the locations that start with it; checksums stay."""
        return self.with_locations(self.locations.relocate(old, new))

    def with_locations(self, locations: Locations) -> ChunkRefs:
        """The same rows over another table of as many locations."""
        if len(locations) != len(self.locations):
            raise ValueError(f"{len(locations)} locations for {len(self.locations)}")
        return self._with(locations=locations)

    def compact(self) -> ChunkRefs:
        """The same references without unused or repeated rows in the tables, and without holes in the heap."""
        source, offset, tables = compact_tables(self)
        return ChunkRefs._trusted(self.coords, self.kind, source, offset, self.length, *tables)

    def detached(self) -> ChunkRefs:
        """The same references for keeping: not views of columns, nor over tables, of more than twice their size."""
        tables = len(self.locations) + len(self.chunk_ids) + len(self.heap)
        used = len(self) + int(self.length[self.kind == ChunkKind.INLINE].sum())
        refs = self.compact() if tables > 2 * used else self
        changed = {name: column.copy(order="K") for name in _COLUMNS if _is_part(column := getattr(refs, name))}
        return refs._with(**changed) if changed else refs


# -- helpers ---------------------------------------------------------------------------------------------------


def _is_part(column: NDArray[Any]) -> bool:
    """Whether a column is a view that keeps more than twice as much memory alive."""
    owner: Any = column.base  # an array, or whatever lends it memory
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    return owner is not None and memoryview(owner).nbytes > 2 * column.nbytes


def _join(parts: list[ChunkRefs]) -> ChunkRefs:
    """One sorted column set; of equal coordinates the later part stands."""
    if not parts:
        raise ValueError("no references to join")
    if len({p.ndim for p in parts}) > 1:
        raise ValueError(f"references of different ranks: {sorted({p.ndim for p in parts})}")
    parts = [p for p in parts if len(p)] or parts[:1]
    if len(parts) == 1:
        return parts[0]
    coords = np.empty((sum(map(len, parts)), parts[0].ndim), np.uint32, order="F")
    for axis in range(parts[0].ndim):
        np.concatenate([p.coords[:, axis] for p in parts], out=coords[:, axis])
    sources, offsets, tables = merge_tables(parts)
    kind, source = np.concatenate([p.kind for p in parts]), np.concatenate(sources)
    offset, length = np.concatenate(offsets), np.concatenate([p.length for p in parts])
    if not increasing(coords):
        rows = last_of_each(pack(coords, grid_of(coords)))
        coords, kind, source, offset, length = (
            take_rows(coords, rows),
            kind[rows],
            source[rows],
            offset[rows],
            length[rows],
        )
    return ChunkRefs._trusted(coords, kind, source, offset, length, *tables)
