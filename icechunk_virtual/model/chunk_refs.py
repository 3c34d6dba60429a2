"""Chunk references in columns: the one currency between scanners, change sets, manifests and readers.

A row says where the bytes of one chunk are. Operations are pure and vectorised; the only per-row values are those
that a caller asks for one at a time (`row`, `lookup`). This module knows no file format and does no I/O.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icechunk_virtual.model.ids import OBJECT_ID_SIZE, ChunkId
from icechunk_virtual.model.locations import Locations

MAX_INDEX = 2**32 - 1
"""Chunk grid coordinates are u32 in format version 1."""


class ChunkKind(enum.IntEnum):
    """Where the bytes of a chunk are."""

    NATIVE = 1  # an object of the repository
    INLINE = 2  # in the manifest itself
    VIRTUAL = 3  # a foreign object


@dataclass(frozen=True, slots=True)
class NativeChunk:
    """Bytes ``[offset, offset + length)`` of the repository's object `id`."""

    id: ChunkId
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class InlineChunk:
    """The bytes themselves."""

    data: bytes

    @property
    def length(self) -> int:
        """Number of bytes."""
        return len(self.data)


@dataclass(frozen=True, slots=True)
class VirtualChunk:
    """Bytes ``[offset, offset + length)`` of a foreign object; `etag` or `last_modified` (seconds) pin its state."""

    url: str
    offset: int
    length: int
    etag: str | None = None
    last_modified: int | None = None


Chunk: TypeAlias = NativeChunk | InlineChunk | VirtualChunk
Extents: TypeAlias = tuple[tuple[int, int], ...]
"""A box in the chunk grid: one half-open range per dimension."""


@dataclass(frozen=True, slots=True, eq=False)
class ChunkRefs:
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

    A chunk that does not exist is an absent row, never a sentinel.

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
        self._freeze()
        self._check_shapes()
        self._check_rows()

    def _freeze(self) -> None:
        dtypes = {"kind": np.uint8, "source": np.uint32, "offset": np.uint64, "length": np.uint64}
        columns = {name: np.asarray(getattr(self, name), dtype) for name, dtype in dtypes.items()}
        columns["coords"] = np.asfortranarray(self.coords, np.uint32)
        columns["chunk_ids"] = np.ascontiguousarray(self.chunk_ids, np.uint8)
        for name, column in columns.items():
            column = column.view()
            column.flags.writeable = False
            object.__setattr__(self, name, column)

    def _check_shapes(self) -> None:
        if self.coords.ndim != 2:
            raise ValueError(f"coords must have shape (n, ndim), got {self.coords.shape}")
        n = len(self.coords)
        for name in ("kind", "source", "offset", "length"):
            if getattr(self, name).shape != (n,):
                raise ValueError(f"{name} must have shape ({n},), got {getattr(self, name).shape}")
        if self.chunk_ids.ndim != 2 or self.chunk_ids.shape[1] != OBJECT_ID_SIZE:
            raise ValueError(f"chunk_ids must have shape (m, {OBJECT_ID_SIZE}), got {self.chunk_ids.shape}")

    def _check_rows(self) -> None:
        kind, end = self.kind, self.offset + self.length
        virtual, native, inline = (kind == k for k in (ChunkKind.VIRTUAL, ChunkKind.NATIVE, ChunkKind.INLINE))
        faults = {
            "kind is none of NATIVE, INLINE, VIRTUAL": ~(virtual | native | inline),
            "source is not a row of locations": virtual & (self.source >= len(self.locations)),
            "source is not a row of chunk_ids": native & (self.source >= len(self.chunk_ids)),
            "offset + length is beyond 64 bits": end < self.offset,
            "the inline range is outside the heap": inline & (end > len(self.heap)),
        }
        for reason, rows in faults.items():
            if rows.any():
                raise ValueError(f"row {int(np.argmax(rows))}: {reason}")
        if not _increasing(self.coords):
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
        columns = (coords, kind, source, offset, length, locations, chunk_ids, heap)
        for name, column in zip(cls.__slots__, columns, strict=True):
            object.__setattr__(self, name, column)
        self._freeze()
        return self

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

        Parameters are those of the class; `kind` may be one value for all rows. Coordinates, offsets and lengths of
        any integer dtype are range-checked.
        """
        coords = _as_unsigned(coords, np.uint32, "coords")
        if coords.ndim != 2:
            raise ValueError(f"coords must have shape (n, ndim), got {coords.shape}")
        n = len(coords)
        kind = np.broadcast_to(np.asarray(kind, np.uint8), (n,))
        columns = [
            kind,
            _as_unsigned(source, np.uint32, "source"),
            _as_unsigned(offset, np.uint64, "offset"),
            _as_unsigned(length, np.uint64, "length"),
        ]
        if not _increasing(coords):
            rows = _last_of_each(_keys(coords, _bounds(coords)))
            coords = np.asfortranarray(coords)[rows]
            columns = [column[rows] for column in columns]
        ids = np.empty((0, OBJECT_ID_SIZE), np.uint8) if chunk_ids is None else chunk_ids
        return cls(coords, *columns, Locations.of(()) if locations is None else locations, ids, heap)

    @classmethod
    def virtual(
        cls, coords: ArrayLike, locations: Locations, source: ArrayLike, offset: ArrayLike, length: ArrayLike
    ) -> ChunkRefs:
        """Virtual references from rows in any order; `source` may be one location for all rows."""
        coords = np.asarray(coords)
        source = np.broadcast_to(np.asarray(source), (len(coords),))
        return cls.from_rows(coords, ChunkKind.VIRTUAL, source, offset, length, locations=locations)

    @classmethod
    def native(
        cls, coords: ArrayLike, chunk_ids: NDArray[np.uint8], length: ArrayLike, offset: ArrayLike = 0
    ) -> ChunkRefs:
        """Native references from rows in any order: one id, uint8 (n, 12), and one length each."""
        coords = np.asarray(coords)
        offset = np.broadcast_to(np.asarray(offset), (len(coords),))
        source = np.arange(len(coords))
        return cls.from_rows(coords, ChunkKind.NATIVE, source, offset, length, chunk_ids=chunk_ids)

    @classmethod
    def inline(cls, coords: ArrayLike, payloads: Sequence[bytes]) -> ChunkRefs:
        """Inline references from rows in any order: the bytes of each chunk."""
        lengths = np.array([len(p) for p in payloads], np.uint64)
        offsets = np.cumsum(lengths, dtype=np.uint64) - lengths
        return cls.from_rows(
            coords, ChunkKind.INLINE, np.zeros(len(lengths)), offsets, lengths, heap=b"".join(payloads)
        )

    @classmethod
    def empty(cls, ndim: int) -> ChunkRefs:
        """No references."""
        return cls.from_rows(np.empty((0, ndim), np.uint32), ChunkKind.NATIVE, [], [], [])

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
        columns = (np.array(c) for c in (self.coords, self.kind, self.source, self.offset, self.length))
        return ChunkRefs, (*columns, self.locations, np.array(self.chunk_ids), self.heap)

    def row(self, i: int) -> Chunk:
        """The reference in row `i`."""
        source, offset, length = int(self.source[i]), int(self.offset[i]), int(self.length[i])
        match self.kind[i]:
            case ChunkKind.VIRTUAL:
                return VirtualChunk(
                    self.locations.urls[source],
                    offset,
                    length,
                    self.locations.etags[source] or None,
                    int(self.locations.last_modified[source]) or None,
                )
            case ChunkKind.NATIVE:
                return NativeChunk(ChunkId(self.chunk_ids[source].tobytes()), offset, length)
            case _:
                return InlineChunk(self.heap[offset : offset + length])

    def lookup_row(self, coord: Sequence[int]) -> int | None:
        """Row of one chunk, or ``None``: a binary search per dimension."""
        low, high = 0, len(self)
        for axis, index in enumerate(coord):
            if not 0 <= index <= MAX_INDEX:
                return None
            column = self.coords[low:high, axis]
            value = np.uint32(index)
            low, high = low + int(column.searchsorted(value)), low + int(column.searchsorted(value, "right"))
            if low == high:
                return None
        return low if low < high else None

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
        wanted = _as_unsigned(coords, np.uint32, "coords").reshape(-1, self.ndim)
        bounds = np.maximum(_bounds(self.coords), _bounds(wanted))
        have, want = _keys(self.coords, bounds), _keys(wanted, bounds)
        if not len(have):
            return np.full(len(want), -1, np.int64)
        rows = np.minimum(np.searchsorted(have, want), len(have) - 1)
        return np.where(have[rows] == want, rows, -1)

    def extents(self) -> Extents:
        """Bounding box of the chunks present; empty ranges when there are none."""
        if not len(self):
            return ((0, 0),) * self.ndim
        low, high = self.coords.min(axis=0).tolist(), self.coords.max(axis=0).tolist()
        return tuple((a, b + 1) for a, b in zip(low, high, strict=True))

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
        # Put both behind one set of tables: then equal references have equal rows.
        a, b = _share_tables([self, other])
        inline = a.kind == ChunkKind.INLINE
        if not np.array_equal(a.offset[~inline], b.offset[~inline]):
            return False
        for kind, names in ((ChunkKind.VIRTUAL, _location_names), (ChunkKind.NATIVE, _id_names)):
            rows = a.kind == kind
            table = names(a)
            if not np.array_equal(table[a.source[rows]], table[b.source[rows]]):
                return False
        return _gather(a.heap, a.offset[inline], a.length[inline]) == _gather(
            b.heap, b.offset[inline], b.length[inline]
        )

    # -- choosing rows -----------------------------------------------------------------------------------------

    def take(self, rows: NDArray[Any]) -> ChunkRefs:
        """The given rows: ascending row numbers, or a boolean mask. The tables stay as they are (see `compact`)."""
        columns = (c[rows] for c in (self.kind, self.source, self.offset, self.length))
        return ChunkRefs._trusted(self.coords[rows], *columns, self.locations, self.chunk_ids, self.heap)

    def within(self, extents: Extents) -> ChunkRefs:
        """The chunks inside a box."""
        if len(extents) != self.ndim:
            raise ValueError(f"a box of {len(extents)} ranges for an array of {self.ndim} dimensions")
        mask = np.ones(len(self), bool)
        for axis, (start, stop) in enumerate(extents):
            mask &= (self.coords[:, axis] >= start) & (self.coords[:, axis] < stop)
        return self if mask.all() else self.take(mask)

    def without(self, coords: ArrayLike) -> ChunkRefs:
        """All chunks but the given ones, integer (m, ndim); those that are absent do not matter."""
        rows = self.find(coords)
        mask = np.ones(len(self), bool)
        mask[rows[rows >= 0]] = False
        return self if mask.all() else self.take(mask)

    def split(self, edges: Sequence[Sequence[int]]) -> Iterator[tuple[Extents, ChunkRefs]]:
        """Cut along a grid of boxes, first axis slowest; boxes without chunks are left out.

        Parameters
        ----------
        edges
            Per dimension the ascending edges of the boxes; chunks outside the outermost edges are dropped.
        """
        if len(edges) != self.ndim:
            raise ValueError(f"edges for {len(edges)} dimensions, the array has {self.ndim}")
        refs = self.within(tuple((e[0], e[-1]) for e in edges))
        counts = [len(e) - 1 for e in edges]
        box = np.zeros(len(refs), np.int64)
        for axis, (edge, count) in enumerate(zip(edges, counts, strict=True)):
            box = box * count + np.searchsorted(edge, refs.coords[:, axis], "right") - 1
        if not len(refs):
            return
        order = np.argsort(box, kind="stable")
        starts = np.flatnonzero(np.diff(box[order], prepend=-1))
        for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):  # a step per box
            indices = np.unravel_index(int(box[order[start]]), counts) if counts else ()
            region = tuple((int(e[i]), int(e[i + 1])) for e, i in zip(edges, indices, strict=True))
            yield region, refs if len(starts) == 1 else refs.take(order[start:stop])

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
        coords = self.coords.astype(np.int64) + np.asarray(offsets, np.int64).reshape(1, -1)
        coords = _as_unsigned(coords, np.uint32, "shifted coords")
        columns = (self.kind, self.source, self.offset, self.length)
        return ChunkRefs._trusted(coords, *columns, self.locations, self.chunk_ids, self.heap)

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
        if not len(newer):
            return self
        return _join([self, newer]) if len(self) else newer

    def relocate(self, old: str, new: str) -> ChunkRefs:
        """Exchange the prefix `old` by `new` in the locations that start with it; checksums stay."""
        return self.with_locations(self.locations.relocate(old, new))

    def with_locations(self, locations: Locations) -> ChunkRefs:
        """The same rows over another table of as many locations."""
        if len(locations) != len(self.locations):
            raise ValueError(f"{len(locations)} locations for {len(self.locations)}")
        columns = (self.coords, self.kind, self.source, self.offset, self.length)
        return ChunkRefs._trusted(*columns, locations, self.chunk_ids, self.heap)

    def compact(self) -> ChunkRefs:
        """The same references without unused or repeated rows in the tables, and without holes in the heap."""
        virtual, native, inline = (self.kind == k for k in (ChunkKind.VIRTUAL, ChunkKind.NATIVE, ChunkKind.INLINE))
        source, offset = self.source.copy(), self.offset.copy()
        used, rows = np.unique(self.source[virtual], return_inverse=True)
        locations, merged = self.locations.take(used).unique()
        source[virtual] = merged[rows]
        used, rows = np.unique(self.source[native], return_inverse=True)
        source[native] = rows
        lengths = self.length[inline]
        offset[inline] = np.cumsum(lengths, dtype=np.uint64) - lengths
        heap = self.heap
        if int(lengths.sum()) != len(heap) or not np.array_equal(offset, self.offset):
            heap = _gather(self.heap, self.offset[inline], lengths)
        ids = self.chunk_ids[used]
        return ChunkRefs._trusted(self.coords, self.kind, source, offset, self.length, locations, ids, heap)


# -- helpers ---------------------------------------------------------------------------------------------------


def _as_unsigned(values: ArrayLike, dtype: type[np.unsignedinteger[Any]], name: str) -> NDArray[Any]:
    """Convert to an unsigned dtype; values outside its range are an error, never wrapped."""
    array = np.asarray(values)
    if array.dtype == dtype:
        return array
    if array.size == 0:
        return array.astype(dtype)
    if array.dtype.kind == "f" and (array != np.trunc(array)).any():
        raise ValueError(f"{name} must be whole numbers")
    if array.dtype.kind not in "uif":
        raise ValueError(f"{name} must be integers, got dtype {array.dtype}")
    low, high = array.min(), array.max()
    if low < 0 or int(high) > int(np.iinfo(dtype).max):
        raise ValueError(f"{name} must be within 0 and {np.iinfo(dtype).max}, got {low if low < 0 else high}")
    return array.astype(dtype)


def _increasing(coords: NDArray[np.uint32]) -> bool:
    """Whether rows are lexicographically sorted without repeats."""
    n, ndim = coords.shape
    if n < 2:
        return True
    open_rows: NDArray[np.bool_] = np.ones(n - 1, bool)  # equal in all axes so far
    for axis in range(ndim):
        before, after = coords[:-1, axis], coords[1:, axis]
        if (open_rows & (after < before)).any():
            return False
        open_rows &= after == before
        if not open_rows.any():
            return True
    return False


def _bounds(coords: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Smallest grid that holds all rows, uint64 (ndim,)."""
    if not len(coords):
        return np.zeros(coords.shape[1], np.uint64)
    return coords.max(axis=0).astype(np.uint64) + np.uint64(1)


def _keys(coords: NDArray[np.uint32], bounds: NDArray[np.uint64]) -> NDArray[Any]:
    """One sortable key per row, in the order of the rows' coordinates; comparable among equal `bounds`."""
    n, ndim = coords.shape
    size = 1
    for bound in bounds.tolist():
        size *= max(bound, 1)
    if size >= 2**64:  # too wide for one number: compare the big-endian bytes
        packed = np.ascontiguousarray(coords.astype(">u4"))
        return packed.view(f"S{4 * ndim}")[:, 0]
    keys = np.zeros(n, np.uint64)
    for axis in range(ndim):
        keys = keys * max(bounds[axis], np.uint64(1)) + coords[:, axis]
    return keys


def _last_of_each(keys: NDArray[Any]) -> NDArray[np.int64]:
    """Rows in the order of their keys; of equal keys only the last row."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    last = np.ones(len(order), bool)
    last[:-1] = ordered[1:] != ordered[:-1]
    return order[last]


def _share_tables(parts: list[ChunkRefs]) -> list[ChunkRefs]:
    """The same references behind one joined set of tables."""
    if all(p.locations is parts[0].locations and p.chunk_ids is parts[0].chunk_ids for p in parts) and all(
        p.heap is parts[0].heap for p in parts
    ):
        return parts
    locations, rows = Locations.concat(p.locations for p in parts).unique()
    chunk_ids = np.concatenate([p.chunk_ids for p in parts])
    heap = b"".join(p.heap for p in parts)
    shared, location0, id0, heap0 = [], 0, 0, 0
    for part in parts:
        source, offset = part.source.copy(), part.offset.copy()
        virtual, native, inline = (part.kind == k for k in (ChunkKind.VIRTUAL, ChunkKind.NATIVE, ChunkKind.INLINE))
        source[virtual] = rows[location0 + part.source[virtual].astype(np.int64)]
        source[native] += np.uint32(id0)
        offset[inline] += np.uint64(heap0)
        shared.append(
            ChunkRefs._trusted(part.coords, part.kind, source, offset, part.length, locations, chunk_ids, heap)
        )
        location0, id0, heap0 = location0 + len(part.locations), id0 + len(part.chunk_ids), heap0 + len(part.heap)
    return shared


def _join(parts: list[ChunkRefs]) -> ChunkRefs:
    """One sorted column set; of equal coordinates the later part stands."""
    if not parts:
        raise ValueError("no references to join")
    ndim = parts[0].ndim
    if any(p.ndim != ndim for p in parts):
        raise ValueError(f"references of different ranks: {sorted({p.ndim for p in parts})}")
    if len(parts) == 1:
        return parts[0]
    parts = _share_tables(parts)
    coords = np.concatenate([p.coords for p in parts])
    kind, source, offset, length = (
        np.concatenate([getattr(p, name) for p in parts]) for name in ("kind", "source", "offset", "length")
    )
    columns = [kind, source, offset, length]
    if not _increasing(coords):
        rows = _last_of_each(_keys(coords, _bounds(coords)))
        coords, columns = coords[rows], [c[rows] for c in columns]
    return ChunkRefs._trusted(coords, *columns, parts[0].locations, parts[0].chunk_ids, parts[0].heap)


def _gather(heap: bytes, offset: NDArray[np.uint64], length: NDArray[np.uint64]) -> bytes:
    """Join byte ranges of a heap."""
    view = memoryview(heap)
    return b"".join(view[a : a + n] for a, n in zip(offset.tolist(), length.tolist(), strict=True))


def _location_names(refs: ChunkRefs) -> NDArray[np.int64]:
    """For each location the number of the first equal one."""
    return refs.locations.unique()[1]


def _id_names(refs: ChunkRefs) -> NDArray[np.int64]:
    """For each chunk id the number of the first equal one."""
    names = np.ascontiguousarray(refs.chunk_ids).view(f"V{OBJECT_ID_SIZE}")[:, 0]
    return np.asarray(np.unique(names, return_inverse=True)[1], np.int64)
