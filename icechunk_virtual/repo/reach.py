"""What versions lead to: from refs over snapshots to manifests, each looked at once, in bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.errors import RefNotFound, SnapshotNotFound
from icechunk_virtual.model.checked import IntRange
from icechunk_virtual.model.ids import ManifestId, SnapshotId
from icechunk_virtual.repo import history, refs
from icechunk_virtual.repo.assets import Assets
from icechunk_virtual.repo.bounded import for_each
from icechunk_virtual.repo.format.manifest_native import native_chunks
from icechunk_virtual.repo.format.snapshot import Snapshot
from icechunk_virtual.repo.format.snapshot_view import MANIFEST_FILE
from icechunk_virtual.repo.id_sets import RowSet
from icechunk_virtual.repo.object_store import ObjectStore

MAX_SNAPSHOTS = 50
MAX_MANIFEST_BYTES = 512 * 2**20
MAX_MANIFESTS = 500
_LISTED_AT_ONCE = 100_000  # rows of 32 bytes that wait to be looked through together
_SMALL_MANIFEST = 1 << 14  # bytes; of larger ones each is looked at on its own
_READ_TOGETHER = 64
_COUNT, _SIZE = IntRange(1, 2**16 - 1), IntRange(1, 2**64 - 1)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is held in memory and asked for at once.

    Parameters
    ----------
    snapshots
        In memory at once.
    manifest_bytes
        Sum of the sizes of the manifest files in memory at once.
    manifests
        Fetched at once.
    """

    snapshots: int = MAX_SNAPSHOTS
    manifest_bytes: int = MAX_MANIFEST_BYTES
    manifests: int = MAX_MANIFESTS

    def __post_init__(self) -> None:
        _COUNT(self.snapshots)
        _SIZE(self.manifest_bytes)
        _COUNT(self.manifests)


@dataclass(slots=True)
class Reached:
    """Snapshots and manifests that some versions lead to.

    Attributes
    ----------
    snapshots : set of SnapshotId
    manifests : RowSet
        Complete after `take_new_files`.
    """

    snapshots: set[SnapshotId] = field(default_factory=set)
    manifests: RowSet = field(default_factory=RowSet)
    _listed: list[NDArray[Any]] = field(default_factory=list)
    _count: int = 0
    _new: list[NDArray[Any]] = field(default_factory=list)

    def add(self, snapshot: Snapshot) -> None:
        """A snapshot, and the manifests that it lists."""
        self.snapshots.add(snapshot.id)
        self._listed.append(snapshot.manifest_table)
        self._count += len(snapshot.manifest_table)
        if self._count > _LISTED_AT_ONCE:
            self._fold()

    def _fold(self) -> None:
        table = np.concatenate(self._listed) if self._listed else np.empty(0, MANIFEST_FILE)
        self._listed, self._count = [], 0
        if len(table):
            ids = np.ascontiguousarray(table["id"]).view(np.uint8).reshape(len(table), -1)
            self._new.append(table[self.manifests.add(ids)])

    def take_new_files(self) -> list[NDArray[Any]]:
        """Rows of `Snapshot.manifest_table` that nobody has taken yet, each manifest once."""
        self._fold()
        new, self._new = self._new, []
        return new


async def read_tips(objects: ObjectStore) -> set[SnapshotId]:
    """The snapshots that all branches and tags are at."""
    branches, tags = await asyncio.gather(refs.list_branches(objects), refs.list_tags(objects))
    tips: set[SnapshotId] = set()

    async def read(name: str, *, is_branch: bool) -> None:
        try:
            tips.add((await refs.read_branch(objects, name))[0] if is_branch else await refs.read_tag(objects, name))
        except RefNotFound:
            return  # deleted meanwhile

    await asyncio.gather(*(read(n, is_branch=True) for n in branches), *(read(n, is_branch=False) for n in tags))
    return tips


async def reach(
    assets: Assets, starts: Iterable[SnapshotId], reached: Reached, limits: Limits, *, broken: bool = False
) -> None:
    """Walk the histories of snapshots, as they are now, to their roots or to what was reached before.

    Parameters
    ----------
    broken
        A history may end at a snapshot that does not exist; otherwise that is an error.
    """

    async def walk(start: SnapshotId) -> None:
        if start in reached.snapshots:
            return
        try:
            async for snapshot in history.ancestors(assets, start, fresh=True):
                if snapshot.id in reached.snapshots:
                    return
                reached.add(snapshot)
        except SnapshotNotFound:
            if not broken:
                raise

    await for_each(starts, walk, at_once=limits.snapshots)


async def read_manifests(reached: Reached, limits: Limits, read: Callable[[ManifestId, int], Awaitable[None]]) -> None:
    """Look at every manifest that was reached and not looked at yet; `read` gets id and size in bytes."""
    tables = reached.take_new_files()
    files = ((ManifestId(row["id"].tobytes()), int(row["size_bytes"])) for table in tables for row in table)

    async def work(file: tuple[ManifestId, int]) -> None:
        await read(*file)

    await for_each(files, work, at_once=limits.manifests, weigh=lambda file: file[1], max_weight=limits.manifest_bytes)


async def read_native_chunks(
    assets: Assets, reached: Reached, limits: Limits, take: Callable[[NDArray[np.uint8], NDArray[np.uint64]], None]
) -> None:
    """Look at the native chunks of every manifest that was reached and not looked at yet.

    Parameters
    ----------
    take
        Gets ids, uint8 (n, 12), and lengths, uint64 (n,), a row per reference, of some manifests at a time.
    """
    small: list[tuple[str, bytes]] = []

    async def read(id: ManifestId, size: int) -> None:
        file = await assets.read_manifest(id, size)
        if len(file[1]) > _SMALL_MANIFEST:
            take(*await asyncio.to_thread(native_chunks, [file]))
            return
        small.append(file)
        if len(small) == _READ_TOGETHER:
            take(*native_chunks(small))
            small.clear()

    await read_manifests(reached, limits, read)
    if small:
        take(*native_chunks(small))
