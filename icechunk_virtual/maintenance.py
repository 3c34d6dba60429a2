"""What a repository needs from time to time: old versions expire, garbage goes, manifests are cut anew.

The half of `Repository` that nobody calls in daily work. One-line verbs over the modules of the engine.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from icechunk_virtual._sync import sync_twin
from icechunk_virtual.model.ids import encode_id
from icechunk_virtual.operations import naming_operations
from icechunk_virtual.repo import expire, gc, rewrite, stats
from icechunk_virtual.repo.creation import Opened
from icechunk_virtual.repo.gc import GCSummary
from icechunk_virtual.repo.info import us_from_utc
from icechunk_virtual.repo.reach import MAX_MANIFEST_BYTES, MAX_MANIFESTS, MAX_SNAPSHOTS, Limits
from icechunk_virtual.repo.stats import ChunkStorageStats


@naming_operations
class Maintenance:
    """Methods of `Repository`."""

    _opened: Opened
    _default_metadata: dict[str, Any]

    async def rewrite_manifests_async(
        self, message: str, *, branch: str, metadata: dict[str, Any] | None = None
    ) -> str:
        """Commit a version of the same content with all manifests written anew, split as the configuration says.

        Parameters
        ----------
        message, metadata
            Of the commit; the property ``splitting_config`` is added.
        branch
            Which branch.

        Returns
        -------
        str
            Id of the new snapshot.

        Raises
        ------
        ConflictError
            Somebody else committed meanwhile.
        """
        self._opened.check_writable("Cannot rewrite manifests")
        properties = {**self._default_metadata, **(metadata or {})}
        return encode_id(await rewrite.rewrite_manifests(self._opened, message, branch, properties))

    rewrite_manifests = sync_twin(rewrite_manifests_async)

    async def expire_snapshots_async(
        self, older_than: datetime, *, delete_expired_branches: bool = False, delete_expired_tags: bool = False
    ) -> set[str]:
        """Take old versions out of the history of every branch and tag.

        The oldest version of each that is young enough becomes the successor of the first version. Nothing is deleted
        but refs, if asked for: `garbage_collect` does the rest.

        Parameters
        ----------
        older_than
            Aware datetime: versions written before are too old.
        delete_expired_branches, delete_expired_tags
            Also delete branches (never ``main``) and tags whose newest version is too old.

        Returns
        -------
        set of str
            Ids of the versions that are too old. The tip of a branch or tag may be among them.

        Raises
        ------
        TypeError
            A moment without time zone.
        ReadOnlyError
            The storage cannot be written to.
        """
        self._opened.check_writable("Cannot expire snapshots")
        released = await expire.expire(
            self._opened.assets,
            us_from_utc(older_than),
            level=self._opened.config.effective_compression_level,
            delete_branches=delete_expired_branches,
            delete_tags=delete_expired_tags,
        )
        return {encode_id(id) for id in released}

    expire_snapshots = sync_twin(expire_snapshots_async)

    async def garbage_collect_async(
        self,
        delete_object_older_than: datetime,
        *,
        dry_run: bool = False,
        max_snapshots_in_memory: int = MAX_SNAPSHOTS,
        max_compressed_manifest_mem_bytes: int = MAX_MANIFEST_BYTES,
        max_concurrent_manifest_fetches: int = MAX_MANIFESTS,
    ) -> GCSummary:
        """Delete everything old that no branch or tag leads to.

        Sessions that are open keep their uncommitted chunks only as long as those are young enough: choose a moment
        before the oldest of them began to write.

        Parameters
        ----------
        delete_object_older_than
            Aware datetime: objects written later stay, and with them all that younger snapshots need.
        dry_run
            Only count.
        max_snapshots_in_memory, max_concurrent_manifest_fetches
            How many at once, from 1 to 65535.
        max_compressed_manifest_mem_bytes
            Sum of the sizes of the manifest files in memory at once.

        Returns
        -------
        GCSummary
            What was deleted. An object that could not be deleted is logged and does not count.

        Raises
        ------
        TypeError
            A moment without time zone.
        ValueError, OverflowError
            A limit of zero, or out of range.
        ReadOnlyError
            The storage cannot be written to, and it is no dry run.
        """
        if not dry_run:
            self._opened.check_writable("Cannot garbage collect")
        limits = Limits(max_snapshots_in_memory, max_compressed_manifest_mem_bytes, max_concurrent_manifest_fetches)
        older_than_us = us_from_utc(delete_object_older_than)
        return await gc.collect_garbage(
            self._opened.assets, self._opened.world, older_than_us, dry_run=dry_run, limits=limits
        )

    garbage_collect = sync_twin(garbage_collect_async)

    async def total_chunks_storage_async(
        self,
        *,
        max_snapshots_in_memory: int = MAX_SNAPSHOTS,
        max_compressed_manifest_mem_bytes: int = MAX_MANIFEST_BYTES,
        max_concurrent_manifest_fetches: int = MAX_MANIFESTS,
    ) -> int:
        """Bytes of the distinct native chunks of all versions; parameters as for `chunk_storage_stats`."""
        limits = Limits(max_snapshots_in_memory, max_compressed_manifest_mem_bytes, max_concurrent_manifest_fetches)
        return await stats.native_storage(self._opened.assets, limits)

    total_chunks_storage = sync_twin(total_chunks_storage_async)

    async def chunk_storage_stats_async(
        self,
        *,
        max_snapshots_in_memory: int = MAX_SNAPSHOTS,
        max_compressed_manifest_mem_bytes: int = MAX_MANIFEST_BYTES,
        max_concurrent_manifest_fetches: int = MAX_MANIFESTS,
    ) -> ChunkStorageStats:
        """Bytes of the chunks of all versions that branches and tags lead to: native, virtual and inline.

        Parameters
        ----------
        max_snapshots_in_memory, max_compressed_manifest_mem_bytes, max_concurrent_manifest_fetches
            Limits, as for `garbage_collect`.
        """
        limits = Limits(max_snapshots_in_memory, max_compressed_manifest_mem_bytes, max_concurrent_manifest_fetches)
        return await stats.chunk_storage(self._opened.assets, limits)

    chunk_storage_stats = sync_twin(chunk_storage_stats_async)
