"""The public calls that take virtual references one by one or in arrays, turned into columns once.

Values in, `ChunkRefs` out; whether a location has a container is asked elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icechunk_virtual.errors import InvalidChunkIndex
from icechunk_virtual.model.chunk_refs import MAX_INDEX, ChunkRefs
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.model.strings import Strings
from icechunk_virtual.repo.info import us_from_utc


@dataclass(slots=True)  # not frozen, which would make it three times as dear: calls take hundreds of thousands
class VirtualChunkSpec:
    """A virtual reference of one chunk, for `IcechunkStore.set_virtual_refs`.

    Parameters
    ----------
    index
        Chunk grid coordinates.
    location
        Absolute URL of the object.
    offset, length
        Byte range in the object.
    etag_checksum
        Entity tag that the object must have when it is read.
    last_updated_at_checksum
        The object must not have changed after this moment (aware datetime, whole seconds).
    """

    index: list[int]
    location: str
    offset: int
    length: int
    etag_checksum: str | None = None
    last_updated_at_checksum: datetime | None = None

    def __hash__(self) -> int:
        return hash((tuple(self.index), self.location, self.offset, self.length))


def split_checksum(checksum: str | datetime | None) -> tuple[str | None, int | None]:
    """Entity tag and last-modified second of a checksum argument.

    Raises
    ------
    TypeError
        Neither text nor an aware datetime.
    """
    if checksum is None or isinstance(checksum, str):
        return checksum, None
    if isinstance(checksum, datetime):
        return None, us_from_utc(checksum) // 1_000_000
    raise TypeError(f"checksum must be an etag (str) or an aware datetime, got {type(checksum).__name__}")


def columns_of_specs(specs: Sequence[VirtualChunkSpec], ndim: int, path: str) -> ChunkRefs:
    """Columns of references given as objects; of equal indices the last one stands.

    Raises
    ------
    InvalidChunkIndex
        An index of another rank than the array's.
    OverflowError
        Numbers below 0 or beyond what the format can hold.
    """
    table: dict[tuple[str, str | None, datetime | None], int] = {}
    number = table.setdefault
    source = [number((s.location, s.etag_checksum, s.last_updated_at_checksum), len(table)) for s in specs]
    indices = [s.index for s in specs]
    if any(len(index) != ndim for index in indices):
        wrong = next(index for index in indices if len(index) != ndim)
        raise InvalidChunkIndex(
            f"invalid chunk index: coordinates ChunkIndices({list(wrong)}) are not valid for array at {path}, "
            f"which has {ndim} dimensions"
        )
    seconds = [None if moment is None or tag is not None else split_checksum(moment)[1] for _, tag, moment in table]
    locations = Locations.of([url for url, _, _ in table], etags=[tag for _, tag, _ in table], last_modified=seconds)
    coords = _counts(indices, "index", MAX_INDEX).reshape(len(specs), ndim)
    offsets, lengths = _counts([s.offset for s in specs], "offset"), _counts([s.length for s in specs], "length")
    return ChunkRefs.virtual(coords, locations, source, offsets, lengths)


def _counts(values: Sequence[Any], name: str, largest: int = 2**64 - 1) -> NDArray[Any]:
    """Python integers as an array; those that do not fit are refused as the original library does."""
    array = np.array(values)
    if array.dtype.kind == "O" and not all(isinstance(value, int) for value in array.flat):
        raise TypeError(f"{name} must be integers")
    if array.dtype.kind == "O" or (array.size and (array.min() < 0 or array.max() > largest)):
        raise OverflowError(f"{name} must be within 0 and {largest}")
    return array


def columns_of_arrays(
    grid_shape: Sequence[int],
    locations: Sequence[str] | NDArray[Any],
    offsets: ArrayLike,
    lengths: ArrayLike,
    *,
    grid_offset: Sequence[int] | None = None,
    checksum: str | datetime | None = None,
) -> ChunkRefs:
    """Columns of references given for every chunk of a box, in C order.

    Parameters
    ----------
    grid_shape
        Chunks of the box per dimension.
    locations
        One URL per chunk; the empty text means that the chunk has no reference.
    offsets, lengths
        Integer (n,), byte ranges.
    grid_offset
        Chunk grid coordinates of the first chunk; default all zero.
    checksum
        One for all.

    Raises
    ------
    ValueError
        Lengths that do not fit each other.
    """
    offsets, lengths = np.asarray(offsets), np.asarray(lengths)
    if not len(locations) == offsets.size == lengths.size or offsets.ndim != 1 or lengths.ndim != 1:
        raise ValueError("locations, offsets, and lengths must have the same length")
    size = math.prod(grid_shape)
    if size != len(locations):
        raise ValueError(f"product of chunk_grid_shape ({size}) != array length ({len(locations)})")
    if grid_offset is not None and len(grid_offset) != len(grid_shape):
        raise ValueError(f"arr_offset length ({len(grid_offset)}) != chunk_grid_shape length ({len(grid_shape)})")
    etag, second = split_checksum(checksum)
    texts, source = Strings.factorize(locations)
    present = (texts.lengths > 0)[source] if len(source) else np.zeros(0, bool)
    rows = np.flatnonzero(present)
    table = Locations(
        texts,
        Strings.repeated(etag or "", len(texts)),
        np.full(len(texts), second or 0, np.uint32),
    )
    coords = (
        np.stack(np.unravel_index(rows, tuple(grid_shape)), axis=1) if len(grid_shape) else np.zeros((len(rows), 0))
    )
    refs = ChunkRefs.virtual(coords, table, source[rows], offsets[rows], lengths[rows]).compact()
    return refs if grid_offset is None else refs.shift(grid_offset)
