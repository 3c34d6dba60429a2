"""How many bytes the chunks of a repository take, over all its versions, by where the bytes are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.model.chunk_refs import ChunkKind, ChunkRefs
from icechunk_virtual.model.ids import ManifestId
from icechunk_virtual.repo.assets import Assets
from icechunk_virtual.repo.format.manifest import Manifest
from icechunk_virtual.repo.id_sets import RowSet
from icechunk_virtual.repo.reach import Limits, Reached, reach, read_manifests, read_native_chunks, read_tips

_WAITING = 1 << 18  # chunks
_VIRTUAL_ROW = np.dtype([("url", ">u4"), ("offset", ">u8"), ("length", ">u8")])


@dataclass(frozen=True, slots=True)
class ChunkStorageStats:
    """Bytes of chunks.

    Attributes
    ----------
    native_bytes : int
        In chunk objects of the repository; an object that several versions use counts once.
    virtual_bytes : int
        In objects elsewhere; the same bytes of the same object count once.
    inlined_bytes : int
        In manifests; every manifest counts once.
    """

    native_bytes: int = 0
    virtual_bytes: int = 0
    inlined_bytes: int = 0

    def non_virtual_bytes(self) -> int:
        """Bytes stored in the repository itself."""
        return self.native_bytes + self.inlined_bytes

    def total_bytes(self) -> int:
        """Bytes of all chunks, wherever they are."""
        return self.non_virtual_bytes() + self.virtual_bytes


class _NativeTally:
    """Sum of the lengths of distinct chunks. They are looked through when enough have come together."""

    def __init__(self) -> None:
        self._sum = self._count = 0
        self._waiting: list[tuple[NDArray[np.uint8], NDArray[np.uint64]]] = []
        self._chunks = RowSet()

    def add(self, ids: NDArray[np.uint8], lengths: NDArray[np.uint64]) -> None:
        self._waiting.append((ids, lengths))
        self._count += len(ids)
        if self._count > _WAITING:
            self.total()

    def total(self) -> int:
        """Bytes so far."""
        if self._waiting:
            ids, lengths = (np.concatenate(column) for column in zip(*self._waiting, strict=True))
            self._waiting, self._count = [], 0
            self._sum += int(lengths[self._chunks.add(ids)].sum())
        return self._sum


class _Tally:
    """Sums, and what was counted already."""

    def __init__(self) -> None:
        self.native = self.virtual = self.inlined = 0
        self._chunks = RowSet()
        self._ranges = RowSet(_VIRTUAL_ROW.itemsize)
        self._urls: dict[str, int] = {}

    def add(self, manifest: Manifest) -> None:
        for node in manifest.nodes:
            for refs in manifest.parts(node):
                self.native += self._new_native(refs)
                self.virtual += self._new_virtual(refs)
                self.inlined += int(refs.length[refs.kind == ChunkKind.INLINE].sum())

    def _new_native(self, refs: ChunkRefs) -> int:
        native = refs.kind == ChunkKind.NATIVE
        new = self._chunks.add(refs.chunk_ids[refs.source[native]])
        return int(refs.length[native][new].sum())

    def _new_virtual(self, refs: ChunkRefs) -> int:
        virtual = refs.kind == ChunkKind.VIRTUAL
        if not virtual.any():
            return 0
        number = [self._urls.setdefault(url, len(self._urls)) for url in refs.locations.urls]  # a step per location
        rows: NDArray[np.void] = np.empty(int(virtual.sum()), _VIRTUAL_ROW)
        rows["url"] = np.array(number, np.uint32)[refs.source[virtual]]
        rows["offset"], rows["length"] = refs.offset[virtual], refs.length[virtual]
        new = self._ranges.add(rows.view(np.uint8).reshape(len(rows), -1))
        return int(rows["length"][new].sum())


async def native_storage(assets: Assets, limits: Limits) -> int:
    """Bytes of the distinct native chunks of every version that a ref leads to."""
    reached, tally = Reached(), _NativeTally()
    await reach(assets, await read_tips(assets.objects), reached, limits)
    await read_native_chunks(assets, reached, limits, tally.add)
    return tally.total()


async def chunk_storage(assets: Assets, limits: Limits) -> ChunkStorageStats:
    """Bytes of the chunks of every version that a ref leads to."""
    reached, tally = Reached(), _Tally()
    await reach(assets, await read_tips(assets.objects), reached, limits)

    async def read(id: ManifestId, size: int) -> None:
        tally.add(await assets.decoded(await assets.fetch_manifest(id, size, keep=False)))

    await read_manifests(reached, limits, read)
    return ChunkStorageStats(tally.native, tally.virtual, tally.inlined)
