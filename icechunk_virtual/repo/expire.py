"""Letting go of old versions: a history gets shorter, garbage collection then finds what nobody refers to.

`plan_expiry` is pure; `expire` walks the refs one by one and rewrites in place the snapshots that get a new parent.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from icechunk_virtual.errors import RefNotFound
from icechunk_virtual.model.ids import SnapshotId, encode_id
from icechunk_virtual.repo import history, refs
from icechunk_virtual.repo.assets import Assets
from icechunk_virtual.repo.format.snapshot import encode_adopted_snapshot
from icechunk_virtual.repo.info import utc_from_us

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Expiry:
    """What expiration does to the history of one ref.

    Attributes
    ----------
    tip_expired
        Even the newest version is too old.
    adopted
        The snapshot whose parent becomes `root`; ``None``: nothing to do.
    root
        The oldest snapshot, which stays.
    released
        Too old; those that `adopted` leads to no more, and expired tips themselves, as the original has it.
    """

    tip_expired: bool
    adopted: SnapshotId | None
    root: SnapshotId
    released: frozenset[SnapshotId]


def plan_expiry(versions: Sequence[tuple[SnapshotId, int]], older_than_us: int) -> Expiry:
    """Decide what happens to a history.

    Parameters
    ----------
    versions
        Id and time (microseconds since 1970) of every snapshot from the tip to the root.
    older_than_us
        What was written before is too old.
    """
    last = len(versions) - 1
    root = versions[last][0]
    young = [i for i, (_, time_us) in enumerate(versions) if time_us >= older_than_us]
    oldest = young[-1] if young else 0
    tip_expired = versions[0][1] < older_than_us
    if oldest + 1 >= last:
        return Expiry(tip_expired, None, root, frozenset())
    released = frozenset(id for id, time_us in versions if time_us < older_than_us) - {root}
    return Expiry(tip_expired, versions[oldest][0], root, released)


async def expire(
    assets: Assets, older_than_us: int, *, level: int, delete_branches: bool, delete_tags: bool
) -> set[SnapshotId]:
    """Take versions written before a moment out of the histories of all refs; the first version always stays.

    Parameters
    ----------
    older_than_us
        Microseconds since 1970-01-01 UTC.
    level
        Of the compression of rewritten snapshots.
    delete_branches, delete_tags
        Also delete refs whose newest version is too old, but never ``main``.

    Returns
    -------
    set of SnapshotId
        The versions that are too old.
    """
    logger.info("expiration: versions written before %s", utc_from_us(older_than_us))
    objects = assets.objects
    released: set[SnapshotId] = set()
    for name in sorted(await refs.list_tags(objects), key=str.encode):
        try:
            released |= await _expire_tag(assets, name, older_than_us, level, delete=delete_tags)
        except RefNotFound:
            logger.info("expiration: tag %r was deleted meanwhile", name)
    for name in sorted(await refs.list_branches(objects), key=str.encode):
        try:
            released |= await _expire_branch(assets, name, older_than_us, level, delete=delete_branches)
        except RefNotFound:
            logger.info("expiration: branch %r was deleted meanwhile", name)
    logger.info("expiration: %d versions are too old", len(released))
    return released


async def _expire_tag(
    assets: Assets, name: str, older_than_us: int, level: int, *, delete: bool
) -> frozenset[SnapshotId]:
    plan = await _expire_history(assets, await refs.read_tag(assets.objects, name), older_than_us, level)
    logger.info("expiration: tag %r releases %d versions", name, len(plan.released))
    if delete and plan.tip_expired:
        await refs.delete_tag(assets.objects, name)
        logger.info("expiration: tag %r deleted", name)
    return plan.released


async def _expire_branch(
    assets: Assets, name: str, older_than_us: int, level: int, *, delete: bool
) -> frozenset[SnapshotId]:
    tip, _ = await refs.read_branch(assets.objects, name)
    plan = await _expire_history(assets, tip, older_than_us, level)
    logger.info("expiration: branch %r releases %d versions", name, len(plan.released))
    doomed = delete and plan.tip_expired and name != refs.MAIN
    if doomed and (await refs.read_branch(assets.objects, name))[0] == tip:  # nobody committed to it meanwhile
        await refs.delete_branch(assets.objects, name)
        logger.info("expiration: branch %r deleted", name)
    return plan.released


async def _expire_history(assets: Assets, tip: SnapshotId, older_than_us: int, level: int) -> Expiry:
    versions = [(s.id, s.flushed_at_us) async for s in history.ancestors(assets, tip, fresh=True)]
    plan = plan_expiry(versions, older_than_us)
    if plan.adopted is not None:
        snapshot = await history.fetch(assets, plan.adopted)
        logger.info("expiration: parent of %s becomes %s", encode_id(plan.adopted), encode_id(plan.root))
        await assets.store_snapshot(plan.adopted, encode_adopted_snapshot(snapshot, plan.root, level=level))
    return plan
