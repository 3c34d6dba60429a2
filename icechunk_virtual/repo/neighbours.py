"""Where a chunk stands in its array: how whoever reads virtual chunks learns which are next.

Only what is in memory is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.model.chunk_refs import Chunk, ChunkRefs, Extents
from icechunk_virtual.model.few_chunks import columns_of
from icechunk_virtual.model.ids import NodeId
from icechunk_virtual.model.nodes import ArrayNode, ManifestRef
from icechunk_virtual.repo.chunks import chunk_at_hand
from icechunk_virtual.repo.split import first_holding
from icechunk_virtual.repo.workspace import Workspace

Coords = NDArray[np.int64]


@dataclass(slots=True, eq=False)
class Place:
    """A chunk of an array in a session; see `containers.clients.Neighbours`."""

    ws: Workspace
    node: ArrayNode
    coord: tuple[int, ...]

    @property
    def array(self) -> NodeId:
        """Identity of the array."""
        return self.node.id

    @property
    def grid(self) -> tuple[int, ...]:
        """Chunks along each axis."""
        return self.node.layout.grid_shape

    def references(self, coords: Coords) -> tuple[ChunkRefs, int]:
        """References at coordinates in C order, int64 (n, ndim), and how many of the coordinates that covers."""
        if self.ws.changes.chunks(self.node.path):
            return self._one_by_one(coords)
        parts: list[ChunkRefs] = []
        done = 0
        while done < len(coords):
            found = self._in_manifest(coords[done:])
            if found is None:
                break
            parts.append(found[0])
            done += found[1]
        return ChunkRefs.concat(parts) if parts else ChunkRefs.empty(len(self.coord)), done

    def _in_manifest(self, coords: Coords) -> tuple[ChunkRefs, int] | None:
        """What the manifest of the first coordinates has; ``None`` if it is not in memory."""
        ref = first_holding(self.node.manifests, tuple(coords[0].tolist()))
        manifest = None if ref is None else self.ws.assets.manifest_in_memory(ref.id)
        if ref is None or manifest is None or not manifest.decoded:
            return None
        outside = np.flatnonzero(~_inside(coords, ref.extents))
        count = int(outside[0]) if len(outside) else len(coords)
        refs = manifest.refs(self.node.id, len(self.coord))
        if refs is None:
            return ChunkRefs.empty(len(self.coord)), count
        wanted = coords[:count]
        box = tuple(zip(wanted.min(axis=0).tolist(), (wanted.max(axis=0) + 1).tolist(), strict=True))
        refs = refs.within(box)
        rows = refs.find(wanted)
        return refs.take(rows[rows >= 0]), count

    def _one_by_one(self, coords: Coords) -> tuple[ChunkRefs, int]:
        """In a session that has set chunks of the array."""
        found: list[tuple[tuple[int, ...], Chunk]] = []
        for count, coord in enumerate(map(tuple, coords.tolist())):
            chunk = chunk_at_hand(self.ws, self.node, coord)
            if isinstance(chunk, ManifestRef):
                return columns_of(found, len(self.coord)), count
            if chunk is not None:
                found.append((coord, chunk))
        return columns_of(found, len(self.coord)), len(coords)


def _inside(coords: Coords, box: Extents) -> NDArray[np.bool_]:
    low, high = np.array(box).T
    inside: NDArray[np.bool_] = ((coords >= low) & (coords < high)).all(axis=1)
    return inside
