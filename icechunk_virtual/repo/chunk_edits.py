"""What a session did to the chunks of one array, later edits over earlier ones.

Chunks set one at a time gather in a dict; whole columns come in layers that are merged by size, as in a
log-structured merge tree, so that a thousand calls of a thousand references each cost n log n and not n squared.
No I/O; the bytes are already where the references say.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icechunk_virtual.model.chunk_refs import Chunk, ChunkKind, ChunkRefs
from icechunk_virtual.model.few_chunks import columns_of

_FEW = 100
"""Chunks that travel one by one: columns of a few rows cost more to make and to merge. A task of a cluster mostly
writes one."""


class Mark(enum.Enum):
    """What a session has to say about a chunk besides a reference."""

    DELETED = 1
    UNTOUCHED = 2


def coordinate_set(coords: ArrayLike, ndim: int) -> ChunkRefs:
    """A set of coordinates, kept in the columns of (empty) references for their operations."""
    coords = np.asarray(coords)
    coords = coords.reshape(len(coords), ndim)  # not -1: nothing says how many rows without columns are
    nothing = np.zeros(len(coords), np.uint32)
    return ChunkRefs.from_rows(coords, ChunkKind.INLINE, nothing, nothing, nothing)


@dataclass(frozen=True, slots=True)
class Overlay:
    """Chunks set and chunks deleted (a coordinate set); no chunk is in both."""

    refs: ChunkRefs
    deleted: ChunkRefs

    def __len__(self) -> int:
        return len(self.refs) + len(self.deleted)

    @property
    def coords(self) -> NDArray[np.uint32]:
        """Every coordinate touched, uint32 (n, ndim), in no particular order."""
        return np.concatenate([self.refs.coords, self.deleted.coords])

    def over(self, older: Overlay) -> Overlay:
        """Both in one, where these edits came later."""
        return Overlay(self.apply(older.refs), older.deleted.without(self.refs.coords).replace(self.deleted))

    def apply(self, refs: ChunkRefs) -> ChunkRefs:
        """References after these edits."""
        kept = refs.without(self.deleted.coords) if len(self.deleted) else refs
        return kept.replace(self.refs)

    def equals(self, other: Overlay) -> bool:
        """Whether both set the same chunks to the same bytes and delete the same chunks."""
        return self.refs.equals(other.refs) and self.deleted.equals(other.deleted)

    def within(self, extents: tuple[tuple[int, int], ...]) -> Overlay:
        """The edits inside a box."""
        return Overlay(self.refs.within(extents), self.deleted.within(extents))


class ChunkEdits:
    """Edits of one array in one session.

    Readers need no lock: both fields are replaced as wholes, the layers before the dict.
    """

    __slots__ = ("_layers", "_single", "ndim")

    def __init__(self, ndim: int) -> None:
        self.ndim = ndim
        self._single: dict[tuple[int, ...], Chunk | None] = {}
        self._layers: tuple[Overlay, ...] = ()

    def __bool__(self) -> bool:
        return bool(self._single) or any(len(layer) for layer in self._layers)

    def set(self, coord: tuple[int, ...], chunk: Chunk | None) -> None:
        """Set one chunk; ``None`` deletes it."""
        self._single[coord] = chunk

    def set_many(self, refs: ChunkRefs) -> None:
        """Set every chunk of the columns."""
        self._push(Overlay(refs, ChunkRefs.empty(self.ndim)))

    def delete_many(self, coords: ArrayLike) -> None:
        """Delete chunks, integer (n, ndim)."""
        self._push(Overlay(ChunkRefs.empty(self.ndim), coordinate_set(coords, self.ndim)))

    def absorb(self, later: ChunkEdits) -> None:
        """Add the edits of another session, which stand where both edited the same chunk."""
        for layer in later._layers:
            self._push(layer)
        self._single.update(later._single)

    def since(self, before: ChunkEdits) -> ChunkEdits:
        """The edits without those that an earlier copy had already; all of them if that cannot be told any more."""
        kept = len(before._layers)
        if any(a is not b for a, b in zip_longest(self._layers[:kept], before._layers)):
            return self.copy()
        later = ChunkEdits(self.ndim)
        later._layers = self._layers[kept:]
        known = before._single
        later._single = {c: chunk for c, chunk in self._single.items() if c not in known or known[c] is not chunk}
        return later

    def get(self, coord: tuple[int, ...]) -> Chunk | Mark:
        """What the session says about a chunk."""
        try:
            return self._single[coord] or Mark.DELETED
        except KeyError:
            pass
        for layer in reversed(self._layers):
            chunk = layer.refs.lookup(coord)
            if chunk is not None:
                return chunk
            if len(layer.deleted) and layer.deleted.lookup_row(coord) is not None:
                return Mark.DELETED
        return Mark.UNTOUCHED

    def columns(self) -> Overlay:
        """All edits as one overlay."""
        self._fold_single()
        layers = self._layers
        if not layers:
            return Overlay(ChunkRefs.empty(self.ndim), ChunkRefs.empty(self.ndim))
        merged = layers[-1]
        for layer in reversed(layers[:-1]):
            merged = merged.over(layer)
        self._layers = (merged,)
        return merged

    def clip(self, grid_shape: Sequence[int]) -> None:
        """After a resize: chunks set outside the new grid are gone for good.

        They stay noted as deleted, so that growing back within the session does not bring committed bytes to light
        that the session had overwritten.
        """
        edits = self.columns()
        kept = edits.refs.within(tuple((0, n) for n in grid_shape))
        if len(kept) < len(edits.refs):
            lost = edits.refs.without(kept.coords)
            deleted = edits.deleted.replace(coordinate_set(lost.coords, self.ndim))
            self._layers = (Overlay(kept, deleted),)

    def forget(self, coords: ArrayLike) -> None:
        """As if the session had never touched these chunks, integer (n, ndim)."""
        edits = self.columns()
        self._layers = (Overlay(edits.refs.without(coords), edits.deleted.without(coords)),)

    def copy(self) -> ChunkEdits:
        """An independent copy."""
        other = ChunkEdits(self.ndim)
        other._single, other._layers = dict(self._single), self._layers
        return other

    def __reduce__(self) -> tuple[object, ...]:
        if len(self._single) > _FEW:
            self._fold_single()
        layers = tuple(Overlay(layer.refs.compact(), layer.deleted) for layer in self._layers)
        return _rebuild, (self.ndim, layers, self._single)

    def _push(self, overlay: Overlay) -> None:
        self._fold_single()
        self._append(overlay)

    def _append(self, overlay: Overlay) -> None:
        layers = [*self._layers, overlay]
        while len(layers) > 1 and 2 * len(layers[-1]) >= len(layers[-2]):
            newer = layers.pop()
            layers[-1] = newer.over(layers[-1])
        self._layers = tuple(layers)

    def _fold_single(self) -> None:
        if self._single:
            self._append(_columns_of(self._single, self.ndim))
            self._single = {}


def _rebuild(ndim: int, layers: tuple[Overlay, ...], single: dict[tuple[int, ...], Chunk | None]) -> ChunkEdits:
    edits = ChunkEdits(ndim)
    edits._layers, edits._single = layers, single
    return edits


def _columns_of(single: dict[tuple[int, ...], Chunk | None], ndim: int) -> Overlay:
    """Columns of chunks that were set one at a time."""
    kept = sorted((coord, chunk) for coord, chunk in single.items() if chunk is not None)
    deleted = sorted(coord for coord, chunk in single.items() if chunk is None)
    return Overlay(columns_of(kept, ndim), coordinate_set(deleted, ndim) if deleted else ChunkRefs.empty(ndim))
