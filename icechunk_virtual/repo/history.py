"""Versions of a repository: which snapshot a version means, its ancestors, and what changed between two.

Reads refs, snapshots and transaction logs; writes nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.errors import IcechunkError, ObjectNotFound, SnapshotNotFound
from icechunk_virtual.model.ids import NodeId, SnapshotId, decode_id, encode_id
from icechunk_virtual.repo import refs
from icechunk_virtual.repo.assets import Assets
from icechunk_virtual.repo.format.snapshot import Snapshot
from icechunk_virtual.repo.format.transaction_log import TransactionLog
from icechunk_virtual.repo.info import Diff, us_from_utc, utc_from_us


@dataclass(frozen=True, slots=True)
class Version:
    """Exactly one way to name a version: the tip of a branch, a tag, or a snapshot."""

    branch: str | None = None
    tag: str | None = None
    snapshot_id: str | None = None

    def __post_init__(self) -> None:
        if sum(name is not None for name in (self.branch, self.tag, self.snapshot_id)) != 1:
            raise ValueError("Must provide one of branch, tag, or snapshot_id")


def parse_snapshot_id(text: str) -> SnapshotId:
    """Raw id of a snapshot id text.

    Raises
    ------
    SnapshotNotFound
        The text is no id.
    """
    try:
        return SnapshotId(decode_id(text))
    except (ValueError, AttributeError) as error:
        raise SnapshotNotFound(f"invalid snapshot id: `{text}`: {error}") from None


async def resolve(assets: Assets, version: Version) -> SnapshotId:
    """The snapshot that a version means."""
    if version.branch is not None:
        return (await refs.read_branch(assets.objects, version.branch))[0]
    if version.tag is not None:
        return await refs.read_tag(assets.objects, version.tag)
    return parse_snapshot_id(version.snapshot_id or "")


async def existing(assets: Assets, text: str) -> SnapshotId:
    """The id of a snapshot that exists, from its text. Its file is not read."""
    id = parse_snapshot_id(text)
    try:
        await assets.snapshot_last_modified_us(id)
    except ObjectNotFound:
        raise _not_found(id) from None
    return id


async def fetch(assets: Assets, id: SnapshotId, *, fresh: bool = False) -> Snapshot:
    """A snapshot, or an error that says it does not exist; `fresh`: as it is now, whatever was read before."""
    try:
        return await assets.fetch_snapshot(id, fresh=fresh)
    except ObjectNotFound:
        raise _not_found(id) from None


def _not_found(id: SnapshotId) -> SnapshotNotFound:
    text = encode_id(id)
    return SnapshotNotFound(f"snapshot not found: `{text}`; repo.ancestry() lists those that exist", snapshot=text)


async def ancestors(assets: Assets, id: SnapshotId, *, fresh: bool = False) -> AsyncIterator[Snapshot]:
    """A snapshot and all before it, newest first, fetched one by one; `fresh`: as they are now.

    Expiration by somebody else gives a snapshot a new parent; when the known one is gone, the snapshot is read again.
    """
    seen: set[SnapshotId] = set()
    snapshot = await fetch(assets, id, fresh=fresh)
    while True:
        if snapshot.id in seen:
            raise IcechunkError(f"the history of snapshot {encode_id(id)} runs in a circle at {encode_id(snapshot.id)}")
        seen.add(snapshot.id)
        yield snapshot
        if snapshot.parent_id is None:
            return
        try:
            snapshot = await fetch(assets, snapshot.parent_id, fresh=fresh)
        except SnapshotNotFound:
            renewed = await fetch(assets, snapshot.id, fresh=True)
            if renewed.parent_id is None or renewed.parent_id == snapshot.parent_id:
                raise
            snapshot = await fetch(assets, renewed.parent_id)


async def descends(assets: Assets, id: SnapshotId, ancestor: SnapshotId, *, until: SnapshotId) -> bool:
    """Whether `ancestor` is `id` or before it; the search ends at `until`."""
    async for snapshot in ancestors(assets, id):
        if snapshot.id == ancestor:
            return True
        if snapshot.id == until:
            return False
    return False


async def as_of(assets: Assets, branch: str, moment: datetime) -> SnapshotId:
    """The newest snapshot of a branch written at or before a moment."""
    limit = us_from_utc(moment)
    tip = await resolve(assets, Version(branch=branch))
    async for snapshot in ancestors(assets, tip):
        if snapshot.flushed_at_us <= limit:
            return snapshot.id
    raise SnapshotNotFound(
        f"branch {branch} does not have a snapshots before or at {utc_from_us(limit):%Y-%m-%d %H:%M:%S %Z}; "
        "repo.ancestry(branch=...) lists them with their times"
    )


async def diff(assets: Assets, start: SnapshotId, end: SnapshotId) -> Diff:
    """What changed after snapshot `start` up to snapshot `end`, from the transaction logs on the way.

    Raises
    ------
    IcechunkError
        `start` is not a strict ancestor of `end`.
    """
    logs = []
    found = False
    async for snapshot in ancestors(assets, end):
        if snapshot.id == start:
            found = True
            break
        if snapshot.parent_id is not None:
            logs.append(await assets.fetch_transaction_log(snapshot.id))
    if not found or start == end:
        raise IcechunkError(
            f"`to` snapshot ancestry doesn't include `from`: {encode_id(start)} is not an earlier version of "
            f"{encode_id(end)}"
        )
    ends = (await fetch(assets, start), await fetch(assets, end))
    return describe(logs, ends)


def describe(logs: Iterable[TransactionLog], snapshots: Iterable[Snapshot]) -> Diff:
    """Union of transaction logs, with paths for ids; ids that no snapshot knows are left out."""
    logs = list(logs)
    groups = ("new_groups", "new_arrays", "deleted_groups", "deleted_arrays", "updated_groups", "updated_arrays")
    ids = {name: {id for log in logs for id in getattr(log, name)} for name in groups}
    coords: dict[NodeId, list[NDArray[np.uint32]]] = {}
    for log in logs:
        for id in log.updated_chunks:
            coords.setdefault(id, []).extend(log.parts(id))
    wanted = set().union(*ids.values(), coords)
    paths: dict[NodeId, str] = {}
    for snapshot in snapshots:
        paths.update(snapshot.paths_of(wanted - paths.keys()))
    chunks = {paths[id]: _union(parts) for id, parts in coords.items() if id in paths}
    return Diff(
        **{name: {paths[id] for id in found if id in paths} for name, found in ids.items()}, updated_chunks=chunks
    )


def _union(parts: Iterable[NDArray[np.uint32]]) -> list[list[int]]:
    """Coordinates in order, each once. An array may have changed its rank, and an empty part has none."""
    by_rank: dict[int, list[NDArray[np.uint32]]] = {}
    for part in parts:
        if len(part):
            by_rank.setdefault(part.shape[1], []).append(part)
    lists = [np.unique(np.concatenate(same), axis=0).tolist() for same in by_rank.values()]
    return lists[0] if len(lists) == 1 else sorted(itertools.chain.from_iterable(lists))
