"""The files of a repository by their ids: snapshots, manifests, transaction logs and native chunks.

Fetches and stores them through caches and under one bound on concurrent requests. Knows the formats, but neither
refs nor sessions nor changes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.errors import StorageError
from icechunk_virtual.model.ids import OBJECT_ID_SIZE, ChunkId, ManifestId, SnapshotId, encode_id
from icechunk_virtual.model.world import REAL_WORLD, World
from icechunk_virtual.repo.cache import ByteCache
from icechunk_virtual.repo.config import RepositoryConfig
from icechunk_virtual.repo.format.envelope import FileType
from icechunk_virtual.repo.format.manifest import Manifest, decode_manifest
from icechunk_virtual.repo.format.manifest_native import native_chunks
from icechunk_virtual.repo.format.snapshot import Snapshot, decode_snapshot
from icechunk_virtual.repo.format.transaction_log import TransactionLog, decode_transaction_log
from icechunk_virtual.repo.limiter import Limiter
from icechunk_virtual.repo.object_store import ObjectStore, part_ranges
from icechunk_virtual.repo.settings import EffectiveCaching

T = TypeVar("T")
logger = logging.getLogger(__name__)

SNAPSHOTS: Final = "snapshots/"
MANIFESTS: Final = "manifests/"
TRANSACTIONS: Final = "transactions/"
CHUNKS: Final = "chunks/"

_BYTES_PER_NODE = 512
"""Typical share of an array or group in a decompressed snapshot; most of it is its ``zarr.json``."""
_BYTES_PER_REF = 32
"""Share of a chunk reference in a decoded manifest: 17 bytes, 4 per dimension, and a share of locations."""
_BYTES_PER_CHANGE = 16
_WRITTEN_BYTES = 32 * 2**20
"""Files just written are kept encoded, so that reading them back needs no request."""
_DECODE_ON_LOOP = 2**20
"""Encoded bytes; more is decoded in a thread."""


class _Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class CacheSizes:
    """Capacities of the caches, in bytes."""

    snapshots: int
    manifests: int
    transaction_logs: int
    chunks: int

    @staticmethod
    def of(caching: EffectiveCaching) -> CacheSizes:
        """Translate the configuration, which counts nodes, references and changes, at typical sizes."""
        return CacheSizes(
            snapshots=caching.num_snapshot_nodes * _BYTES_PER_NODE,
            manifests=caching.num_chunk_refs * _BYTES_PER_REF,
            transaction_logs=caching.num_transaction_changes * _BYTES_PER_CHANGE,
            chunks=caching.num_bytes_chunks,
        )


class Assets:
    """The files of one repository, shared by all its sessions, threads and event loops.

    Pickles with empty caches. Copies that are unpickled in one process are one object: the many tasks of a cluster's
    worker share caches and the bound on requests.

    Parameters
    ----------
    objects
        Where they are.
    config
        Gives the cache capacities and the number of concurrent requests.
    world
        Gives the ids of chunks.
    """

    def __init__(self, objects: ObjectStore, config: RepositoryConfig, world: World = REAL_WORLD) -> None:
        self.objects = objects
        self._config = config
        self._world = world
        self._limiter = Limiter(config.effective_max_concurrent_requests)
        self.sizes = sizes = CacheSizes.of(config.effective_caching)
        self._snapshots: ByteCache[SnapshotId, Snapshot] = ByteCache(sizes.snapshots)
        self._manifests: ByteCache[ManifestId, Manifest] = ByteCache(sizes.manifests)
        self._logs: ByteCache[SnapshotId, TransactionLog] = ByteCache(sizes.transaction_logs)
        self._chunks: ByteCache[tuple[ChunkId, int, int], bytes] = ByteCache(sizes.chunks)
        self._written: ByteCache[str, bytes] = ByteCache(_WRITTEN_BYTES)
        self._warned: set[str] = set()
        self._token = REAL_WORLD.random_bytes(16)

    def __reduce__(self) -> tuple[object, tuple[bytes, ObjectStore, RepositoryConfig, World]]:
        return _copy_of, (self._token, self.objects, self._config, self._world)

    # -- snapshots, manifests, transaction logs ------------------------------------------------------------------

    async def fetch_snapshot(self, id: SnapshotId, *, fresh: bool = False) -> Snapshot:
        """Fetch a snapshot.

        Parameters
        ----------
        fresh
            Read it again even if it is in memory: expiration rewrites the parent of old snapshots in place.

        Raises
        ------
        ObjectNotFound
        FormatError
        """
        key = SNAPSHOTS + encode_id(id)
        if fresh:
            self._snapshots.discard(id)
            self._written.discard(key)

        async def load() -> Snapshot:
            return await self._load(key, 0, lambda data: decode_snapshot(data, file=key))

        return await self._snapshots.get_or_load(id, load, self._weigher("snapshot", self.sizes.snapshots, 5))

    def fetch_snapshot_now(self, id: SnapshotId) -> Snapshot:
        """As `fetch_snapshot`, for code that cannot await, on whichever thread.

        It waits for no other load, which might belong to the event loop that is blocked meanwhile.
        """
        held = self._snapshots.get(id)
        if held is not None:
            return held
        key = SNAPSHOTS + encode_id(id)
        with ThreadPoolExecutor(1, "icechunk-virtual-snapshot") as thread:
            data = thread.submit(asyncio.run, self._get_now(key)).result()
        snapshot = decode_snapshot(data, file=key)
        self._snapshots.put(id, snapshot, snapshot.nbytes)
        return snapshot

    async def _get_now(self, key: str) -> bytes:
        return self._written.get(key) or await self.objects.get(key)

    async def store_snapshot(
        self, id: SnapshotId, data: bytes, *, decoded: Snapshot | None = None, durable: bool = True
    ) -> None:
        """Write an encoded snapshot. Unless `durable`, it survives a power cut only after `sync`.

        Parameters
        ----------
        decoded
            The same snapshot, so that it need not be decoded when it is fetched.
        """
        keep = decoded is None or decoded.nbytes > self._snapshots.max_bytes
        await self._store(SNAPSHOTS + encode_id(id), data, FileType.SNAPSHOT, durable=durable, keep=keep)
        self._snapshots.discard(id)
        if decoded is not None:
            self._snapshots.put(id, decoded, decoded.nbytes)

    async def snapshot_last_modified_us(self, id: SnapshotId) -> int:
        """When a snapshot was written by the clock of the object store, in microseconds since 1970-01-01 UTC."""
        async with self._limiter:
            return (await self.objects.head(SNAPSHOTS + encode_id(id))).last_modified_us

    def manifest_in_memory(self, id: ManifestId) -> Manifest | None:
        """A manifest, if it need not be fetched."""
        return self._manifests.get(id)

    async def fetch_manifest(self, id: ManifestId, size_bytes: int = 0, *, keep: bool = True) -> Manifest:
        """Fetch a manifest, large ones in several concurrent ranges.

        Parameters
        ----------
        size_bytes
            Of the file, as the snapshot says; 0 when unknown.
        keep
            Hold it for the next time.

        Raises
        ------
        ObjectNotFound
        FormatError
        """
        held = self.manifest_in_memory(id)
        if held is not None:
            return held
        key = MANIFESTS + encode_id(id)

        async def load() -> Manifest:
            return await self._load(key, size_bytes, lambda data: decode_manifest(data, file=key))

        if not keep:
            return await load()
        return await self._manifests.get_or_load(id, load, self._weigher("manifest", self.sizes.manifests, 2))

    async def fetch_native_chunks(
        self, id: ManifestId, size_bytes: int = 0
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
        """Ids and lengths of the native chunks in a manifest, a row per reference. The manifest is not kept."""
        key = MANIFESTS + encode_id(id)
        return await self._load(key, size_bytes, lambda data: native_chunks(data, file=key))

    async def store_manifest(self, id: ManifestId, data: bytes, *, durable: bool = True) -> None:
        """Write an encoded manifest. Unless `durable`, it survives a power cut only after `sync`."""
        await self._store(MANIFESTS + encode_id(id), data, FileType.MANIFEST, durable=durable)

    async def fetch_transaction_log(self, id: SnapshotId) -> TransactionLog:
        """Fetch the transaction log of a snapshot.

        Raises
        ------
        ObjectNotFound
        FormatError
        """
        key = TRANSACTIONS + encode_id(id)

        async def load() -> TransactionLog:
            return await self._load(key, 0, lambda data: decode_transaction_log(data, file=key))

        return await self._logs.get_or_load(id, load, _log_weight)

    async def store_transaction_log(self, log: TransactionLog, data: bytes, *, durable: bool = True) -> None:
        """Write a transaction log and its encoded form. Unless `durable`, it survives a power cut only after `sync`."""
        weight = _log_weight(log)
        keep = weight > self._logs.max_bytes
        await self._store(TRANSACTIONS + encode_id(log.id), data, FileType.TRANSACTION_LOG, durable=durable, keep=keep)
        self._logs.put(log.id, log, weight)

    def forget(self, prefix: str, ids: Iterable[bytes]) -> None:
        """Drop files that were deleted from memory; `prefix` says of which kind they are. Of chunks all are dropped."""
        if prefix == CHUNKS:
            self._chunks = ByteCache(self.sizes.chunks)
            return
        for raw in ids:
            self._written.discard(prefix + encode_id(raw))
            if prefix == SNAPSHOTS:
                self._snapshots.discard(SnapshotId(raw))
            elif prefix == MANIFESTS:
                self._manifests.discard(ManifestId(raw))
            else:
                self._logs.discard(SnapshotId(raw))

    async def _load(self, key: str, size: int, decode: Callable[[bytes], T]) -> T:
        data = self._written.get(key)
        if data is None:
            data = await self._read_file(key, size)
        else:
            self._written.discard(key)  # the decoded form takes over
        if len(data) > _DECODE_ON_LOOP:
            return await asyncio.to_thread(decode, data)
        return decode(data)

    async def _read_file(self, key: str, size: int) -> bytes:
        try:
            return await self._read(key, 0, size or None)
        except StorageError as error:
            if not size or type(error) is not StorageError:
                raise
            return await self._read(key, 0, None)  # not as long as the snapshot says: the decoder knows what is wrong

    async def _store(self, key: str, data: bytes, file_type: FileType, *, durable: bool, keep: bool = True) -> None:
        """Write a file; `keep`: and remember it encoded, because no cache holds it decoded."""
        logger.debug("writing %s, %d bytes", key, len(data))
        async with self._limiter:
            await self.objects.put(key, data, file_type=file_type, durable=durable)
        if keep:
            self._written.put(key, data, len(data))

    def _weigher(self, what: str, capacity: int, share: int) -> Callable[[_Sized], int]:
        def weigh(value: _Sized) -> int:
            if value.nbytes * share > capacity and what not in self._warned:
                self._warned.add(what)
                logger.warning(
                    "a %s of %d bytes takes more than 1/%d of its cache of %d bytes: raise the capacity in "
                    "RepositoryConfig.caching to keep it from being read again and again",
                    what,
                    value.nbytes,
                    share,
                    capacity,
                )
            return value.nbytes

        return weigh

    # -- chunks ------------------------------------------------------------------------------------------------

    async def fetch_chunk(self, id: ChunkId, start: int, stop: int) -> bytes:
        """Fetch bytes ``[start, stop)`` of a native chunk's object."""
        key = CHUNKS + encode_id(id)
        if not self._chunks.max_bytes:
            return await self._read(key, start, stop)
        return await self._chunks.get_or_load((id, start, stop), lambda: self._read(key, start, stop), len)

    async def store_chunk(self, data: bytes | memoryview) -> ChunkId:
        """Write a native chunk under a new id. It survives a power cut only after `sync`."""
        id = ChunkId(self._world.random_bytes(OBJECT_ID_SIZE))
        async with self._limiter:
            await self.objects.put(CHUNKS + encode_id(id), data, durable=False)
        return id

    async def _read(self, key: str, start: int, stop: int | None) -> bytes:
        ranges = [(start, stop)] if stop is None else part_ranges(start, stop, self.objects.parts)
        if len(ranges) == 1:
            return await self._read_part(key, start, stop)
        return b"".join(await asyncio.gather(*(self._read_part(key, a, b) for a, b in ranges)))

    async def _read_part(self, key: str, start: int, stop: int | None) -> bytes:
        logger.debug("reading %s [%d:%s]", key, start, stop)
        async with self._limiter:
            return await self.objects.get(key, start=start, stop=stop)


def keys_of(
    chunks: Iterable[ChunkId] = (), manifests: Iterable[ManifestId] = (), snapshots: Iterable[SnapshotId] = ()
) -> list[str]:
    """Keys of files, of snapshots with their transaction logs."""
    keys = [CHUNKS + encode_id(id) for id in chunks]
    keys += [MANIFESTS + encode_id(id) for id in manifests]
    for id in snapshots:
        keys += [SNAPSHOTS + encode_id(id), TRANSACTIONS + encode_id(id)]
    return keys


_copies: ByteCache[bytes, Assets] = ByteCache(4)  # weighed by number
"""By token of the original."""


def _copy_of(token: bytes, objects: ObjectStore, config: RepositoryConfig, world: World) -> Assets:
    """The copy in this process of the assets with this token."""
    held = _copies.get(token)
    if held is None:
        held = Assets(objects, config, world)
        held._token = token
        _copies.put(token, held, 1)
    return held


def _log_weight(log: TransactionLog) -> int:
    """Bytes of a log: its changes at typical sizes."""
    groups = (log.new_groups, log.new_arrays, log.deleted_groups, log.deleted_arrays)
    nodes = sum(map(len, (*groups, log.updated_groups, log.updated_arrays)))
    return _BYTES_PER_CHANGE * nodes + sum(coords.nbytes for id in log.updated_chunks for coords in log.parts(id))
