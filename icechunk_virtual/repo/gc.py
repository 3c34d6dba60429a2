"""Deleting what no version leads to.

Thinking is pure (`Listing.garbage`); the coroutines read refs, walk, list and delete. What is kept: everything that a
ref leads to, now or at the moment before anything is deleted; everything younger than the given moment; and
everything that a younger snapshot leads to, whether or not a ref leads to that one yet.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.errors import StorageError
from icechunk_virtual.model.ids import SnapshotId, encode_id
from icechunk_virtual.model.world import World
from icechunk_virtual.repo.assets import CHUNKS, MANIFESTS, SNAPSHOTS, TRANSACTIONS, Assets
from icechunk_virtual.repo.bounded import for_each
from icechunk_virtual.repo.id_sets import RowSet, decode_names, id_rows
from icechunk_virtual.repo.info import utc_from_us
from icechunk_virtual.repo.object_store import PAGE_SIZE, ObjectInfo, ObjectStore
from icechunk_virtual.repo.reach import Limits, Reached, reach, read_native_chunks, read_tips

_ORDER = (SNAPSHOTS, TRANSACTIONS, MANIFESTS, CHUNKS)
"""What leads to others goes first: whatever stops the deletion, nothing that is left leads to what is gone."""
_BATCHES_AT_ONCE = 10
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GCSummary:
    """What a garbage collection deleted, or would delete.

    Attributes
    ----------
    bytes_deleted : int
    chunks_deleted, manifests_deleted, snapshots_deleted, transaction_logs_deleted : int
        Objects.
    attributes_deleted : int
        Always 0: there are no such objects in format version 1.
    """

    bytes_deleted: int = 0
    chunks_deleted: int = 0
    manifests_deleted: int = 0
    snapshots_deleted: int = 0
    attributes_deleted: int = 0
    transaction_logs_deleted: int = 0


@dataclass(frozen=True, slots=True)
class Listing:
    """Objects of one kind: ids uint8 (n, 12), sizes in bytes uint64 (n,)."""

    ids: NDArray[np.uint8]
    sizes: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.sizes)

    def garbage(self, kept: RowSet) -> Listing:
        """Those that are not kept."""
        gone = ~kept.contains(self.ids)
        return Listing(self.ids[gone], self.sizes[gone])

    @staticmethod
    def of(page: Iterable[ObjectInfo], prefix: str, *, before_us: int | None) -> Listing:
        """The objects of a page that are older than a moment; those whose names are no ids are left alone."""
        chosen = [info for info in page if before_us is None or info.last_modified_us < before_us]
        ids, positions = decode_names([info.key.removeprefix(prefix) for info in chosen])
        sizes = np.array([info.size for info in chosen], np.uint64)
        return Listing(ids, sizes[positions])

    @staticmethod
    def concat(parts: list[Listing]) -> Listing:
        """All of them."""
        ids = np.concatenate([np.empty((0, 12), np.uint8), *(part.ids for part in parts)])
        return Listing(ids, np.concatenate([np.empty(0, np.uint64), *(part.sizes for part in parts)]))


@dataclass(slots=True)
class Kept:
    """What must stay."""

    reached: Reached
    chunks: RowSet

    def of(self, prefix: str) -> RowSet:
        """Ids of one kind of objects."""
        if prefix == CHUNKS:
            return self.chunks
        if prefix == MANIFESTS:
            return self.reached.manifests
        snapshots = RowSet()
        snapshots.add(id_rows(list(self.reached.snapshots)))
        return snapshots


async def collect_garbage(
    assets: Assets, world: World, older_than_us: int, *, dry_run: bool, limits: Limits
) -> GCSummary:
    """Delete every object that is older than a moment and that nothing needs.

    Parameters
    ----------
    older_than_us
        Microseconds since 1970-01-01 UTC. The moment of the call, if that is earlier.
    dry_run
        Only count.
    limits
        On memory and concurrency.
    """
    objects = assets.objects
    before = min(older_than_us, world.now_us())
    kept = Kept(Reached(), RowSet())
    tips = await read_tips(objects)
    logger.info("garbage collection: of objects before %s; refs are at %d snapshots", utc_from_us(before), len(tips))
    await _keep(assets, kept, tips, limits)
    await _keep(assets, kept, await _young_snapshots(objects, before), limits, broken=True)
    logger.info(
        "garbage collection: keeping %d snapshots, %d manifests and %d chunks",
        len(kept.reached.snapshots),
        len(kept.reached.manifests),
        len(kept.chunks),
    )
    found = dict(
        zip(_ORDER, await asyncio.gather(*(_list(objects, p, kept.of(p), before) for p in _ORDER)), strict=True)
    )
    if not dry_run and any(map(len, found.values())):
        await _keep(assets, kept, await read_tips(objects), limits)  # somebody may have committed or tagged meanwhile
        found = {prefix: listing.garbage(kept.of(prefix)) for prefix, listing in found.items()}
    logger.info("garbage collection: %d objects to delete", sum(map(len, found.values())))
    counts = {}
    for prefix, listing in found.items():
        counts[prefix] = _count(listing) if dry_run else await _delete_all(objects, prefix, listing)
        if not dry_run:
            _forget(assets, prefix, listing)
    summary = GCSummary(
        bytes_deleted=sum(size for _, size in counts.values()),
        chunks_deleted=counts[CHUNKS][0],
        manifests_deleted=counts[MANIFESTS][0],
        snapshots_deleted=counts[SNAPSHOTS][0],
        transaction_logs_deleted=counts[TRANSACTIONS][0],
    )
    logger.info("garbage collection: %s %s", "would delete" if dry_run else "deleted", summary)
    return summary


async def _keep(
    assets: Assets, kept: Kept, starts: Iterable[SnapshotId], limits: Limits, *, broken: bool = False
) -> None:
    await reach(assets, starts, kept.reached, limits, broken=broken)
    await read_native_chunks(assets, kept.reached, limits, lambda ids, _: kept.chunks.put(ids))


async def _young_snapshots(objects: ObjectStore, before_us: int) -> list[SnapshotId]:
    """Snapshots that stay because of their age; a commit under way, or a flush, needs what they lead to."""
    young: list[SnapshotId] = []
    async for page in objects.list(SNAPSHOTS):
        listing = Listing.of((info for info in page if info.last_modified_us >= before_us), SNAPSHOTS, before_us=None)
        young += [SnapshotId(row.tobytes()) for row in listing.ids]
    return young


async def _list(objects: ObjectStore, prefix: str, kept: RowSet, before_us: int) -> Listing:
    """The garbage of one kind."""
    pages = [Listing.of(page, prefix, before_us=before_us).garbage(kept) async for page in objects.list(prefix)]
    return Listing.concat(pages)


def _count(listing: Listing) -> tuple[int, int]:
    return len(listing), int(listing.sizes.sum())


async def _delete_all(objects: ObjectStore, prefix: str, listing: Listing) -> tuple[int, int]:
    """Delete objects in batches; failures are logged, the rest goes on. Returns objects and bytes deleted."""
    count = size = 0

    async def delete(start: int) -> None:
        nonlocal count, size
        part = replace(listing, ids=listing.ids[start:][:PAGE_SIZE], sizes=listing.sizes[start:][:PAGE_SIZE])
        keys = [prefix + encode_id(row.tobytes()) for row in part.ids]
        done = await _delete(objects, keys)
        count, size = count + int(done.sum()), size + int(part.sizes[done].sum())

    await for_each(range(0, len(listing), PAGE_SIZE), delete, at_once=_BATCHES_AT_ONCE)
    return count, size


async def _delete(objects: ObjectStore, keys: list[str]) -> NDArray[np.bool_]:
    """Which objects were deleted. When a batch fails its objects are tried one by one."""
    try:
        await objects.delete(keys)
    except StorageError as error:
        if len(keys) == 1:
            logger.error("garbage collection: cannot delete %s: %s", keys[0], error)
            return np.zeros(1, bool)
        logger.warning("garbage collection: cannot delete %d objects in one go: %s", len(keys), error)
        return np.concatenate([await _delete(objects, [key]) for key in keys])
    return np.ones(len(keys), bool)


def _forget(assets: Assets, prefix: str, listing: Listing) -> None:
    assets.forget(prefix, (row.tobytes() for row in listing.ids))
