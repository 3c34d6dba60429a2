"""Fetching the manifests that a session is likely to need first, in the background, before anybody asks.

Which ones is decided from the snapshot alone; nothing waits for them, and a failure is no more than a log line.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from concurrent.futures import Future

from icechunk_virtual import _sync
from icechunk_virtual.model.nodes import ArrayNode
from icechunk_virtual.repo.assets import Assets
from icechunk_virtual.repo.bounded import for_each
from icechunk_virtual.repo.conditions import ManifestPreloadCondition
from icechunk_virtual.repo.config import RepositoryConfig
from icechunk_virtual.repo.format.snapshot import ManifestFile, Snapshot

logger = logging.getLogger(__name__)

_MAX_ARRAYS = 50  # in the order of their paths, that are looked at
_AT_ONCE = 16


def begin(assets: Assets, config: RepositoryConfig, snapshot: Snapshot) -> Future[None] | None:
    """Start to fetch what `ManifestPreloadConfig` says; ``None`` when that is nothing, or was done already."""
    max_refs, condition = config.effective_preload
    if (
        snapshot.preloaded
        or not max_refs
        or condition == ManifestPreloadCondition.false()
        or not len(snapshot.manifest_table)
    ):
        return None
    snapshot.preloaded = True
    return _sync.start(_preload(assets, snapshot, max_refs, condition))


async def _preload(assets: Assets, snapshot: Snapshot, max_refs: int, condition: ManifestPreloadCondition) -> None:
    async def fetch(file: ManifestFile) -> None:
        await assets.fetch_manifest(file.id, file.size_bytes)

    try:
        files = [file async for file in _wanted(assets, snapshot, max_refs, condition)]
        await for_each(files, fetch, at_once=_AT_ONCE)
    except Exception as error:  # noqa: BLE001 - whoever needs the manifest will fetch it, and hear what is wrong
        logger.info("preloading manifests failed: %s", error)


async def _wanted(
    assets: Assets, snapshot: Snapshot, max_refs: int, condition: ManifestPreloadCondition
) -> AsyncIterator[ManifestFile]:
    """The manifests to fetch; gives way between arrays."""
    arrays, room, seen = 0, max_refs, set()
    for node in snapshot.nodes():
        if not isinstance(node, ArrayNode):
            continue
        for ref in node.manifests:
            file = snapshot.manifest_file(ref.id)
            if file is None or file.num_chunk_refs > room or file.id in seen:
                continue
            if assets.manifest_in_memory(file.id) is None and condition.matches(node.path, file.num_chunk_refs):
                seen.add(file.id)
                room -= file.num_chunk_refs
                yield file
        arrays += 1
        if arrays == _MAX_ARRAYS:
            return
        await asyncio.sleep(0)
