"""The files of a repository by their ids: snapshots, manifests, transaction logs and native chunks.

Fetches and stores them through caches and under one bound on concurrent requests. Knows the formats, but neither
refs nor sessions nor changes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from icechunk_virtual.errors import StorageError
from icechunk_virtual.model.ids import OBJECT_ID_SIZE, ChunkId, ManifestId, SnapshotId, encode_id
from icechunk_virtual.model.world import REAL_WORLD, World
from icechunk_virtual.repo.cache import WeightedCache
from icechunk_virtual.repo.config import RepositoryConfig
from icechunk_virtual.repo.format.envelope import FileType
from icechunk_virtual.repo.format.manifest import Manifest, open_manifest
from icechunk_virtual.repo.format.snapshot import Snapshot, decode_snapshot
from icechunk_virtual.repo.format.transaction_log import TransactionLog, decode_transaction_log
from icechunk_virtual.repo.limited_store import LimitedStore
from icechunk_virtual.repo.limiter import Limiter
from icechunk_virtual.repo.object_store import BlockingStore, ObjectStore, part_ranges

T = TypeVar("T")
logger = logging.getLogger(__name__)

SNAPSHOTS: Final = "snapshots/"
MANIFESTS: Final = "manifests/"
TRANSACTIONS: Final = "transactions/"
CHUNKS: Final = "chunks/"

_WRITTEN_LOGS = 32 * 2**20
"""Bytes: transaction logs just written are kept encoded, so that whoever rebases over them here needs no request."""
_DECODE_ON_LOOP = 2**20
"""Encoded bytes; more is decoded in a thread."""
_REFS_ON_LOOP = 2**15
"""References of a manifest; more are decoded in a thread, and only when more than a few of them are asked for."""


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

    Attributes
    ----------
    limiter
        The bound on concurrent requests: for these files, and for the virtual chunks.
    objects
        Where they are, within that bound.
    """

    def __init__(self, objects: ObjectStore, config: RepositoryConfig, world: World = REAL_WORLD) -> None:
        self.limiter: Final = Limiter(config.effective_max_concurrent_requests)
        self.objects: Final[ObjectStore] = LimitedStore(objects, self.limiter)
        self._unlimited = objects
        self._blocking = objects if isinstance(objects, BlockingStore) else None
        self._config = config
        self._world = world
        caching = config.effective_caching
        self._snapshots: WeightedCache[SnapshotId, Snapshot] = WeightedCache(caching.num_snapshot_nodes)
        self._manifests: WeightedCache[ManifestId, Manifest] = WeightedCache(caching.num_chunk_refs)
        self._in_use: WeakValueDictionary[ManifestId, Manifest] = WeakValueDictionary()
        self._decoding: WeightedCache[ManifestId, Manifest] = WeightedCache(0)  # one decodes, the others wait
        self._logs: WeightedCache[SnapshotId, TransactionLog] = WeightedCache(caching.num_transaction_changes)
        self._chunks: WeightedCache[tuple[ChunkId, int, int], bytes | memoryview]
        self._chunks = WeightedCache(caching.num_bytes_chunks)
        self._written_logs: WeightedCache[SnapshotId, bytes] = WeightedCache(_WRITTEN_LOGS)
        self._warned: set[str] = set()
        self._token = REAL_WORLD.random_bytes(16)

    def __reduce__(self) -> tuple[object, tuple[bytes, ObjectStore, RepositoryConfig, World]]:
        return _copy_of, (self._token, self._unlimited, self._config, self._world)

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

        async def load() -> Snapshot:
            return await self._load(key, 0, lambda data: decode_snapshot(data, file=key))

        return await self._snapshots.get_or_load(id, load, self._weigh_snapshot)

    def fetch_snapshot_now(self, id: SnapshotId) -> Snapshot:
        """As `fetch_snapshot`, for code that cannot await, on whichever thread.

        It waits for nothing that might belong to the event loop that is blocked meanwhile.
        """
        held = self._snapshots.get(id)
        if held is not None:
            return held
        key = SNAPSHOTS + encode_id(id)

        async def read() -> bytes:
            return bytes(await self._unlimited.get(key))

        with ThreadPoolExecutor(1, "icechunk-virtual-snapshot") as thread:
            data = thread.submit(asyncio.run, read()).result()
        snapshot = decode_snapshot(data, file=key)
        self._snapshots.put(id, snapshot, self._weigh_snapshot(snapshot))
        return snapshot

    async def store_snapshot(
        self, id: SnapshotId, data: bytes, *, decoded: Snapshot | None = None, durable: bool = True
    ) -> None:
        """Write an encoded snapshot. Unless `durable`, it survives a power cut only after `sync`.

        Parameters
        ----------
        decoded
            The same snapshot, if it is at hand: it is held for whoever fetches it.
        """
        key = SNAPSHOTS + encode_id(id)
        await self._store(key, data, FileType.SNAPSHOT, durable=durable)
        snapshot = decode_snapshot(data, file=key) if decoded is None else decoded
        self._snapshots.put(id, snapshot, self._weigh_snapshot(snapshot))

    async def snapshot_last_modified_us(self, id: SnapshotId) -> int:
        """When a snapshot was written by the clock of the object store, in microseconds since 1970-01-01 UTC."""
        return (await self.objects.head(SNAPSHOTS + encode_id(id))).last_modified_us

    def manifest_in_memory(self, id: ManifestId) -> Manifest | None:
        """A manifest, if it need not be fetched."""
        return self._manifests.get(id) or self._in_use.get(id)

    def keeps(self, num_refs: int) -> bool:
        """Whether a manifest of so many references stays in memory when nobody uses it."""
        return num_refs <= self._manifests.capacity

    async def fetch_manifest(self, id: ManifestId, size_bytes: int = 0, *, keep: bool = True) -> Manifest:
        """Fetch a manifest, large ones in several concurrent ranges. Large ones are not decoded yet: see `decoded`.

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

        def read(data: bytes) -> Manifest:
            manifest = open_manifest(data, file=key)
            if manifest.num_refs <= _REFS_ON_LOOP:
                manifest.decode()
            self._in_use[id] = manifest
            return manifest

        async def load() -> Manifest:
            return await self._load(key, size_bytes, read)

        if not keep:
            return await load()
        return await self._manifests.get_or_load(id, load, self._weigh_manifest)

    async def decoded(self, manifest: Manifest) -> Manifest:
        """The same manifest with its references in columns; large ones are decoded in a thread, once for all."""
        if manifest.decoded:
            return manifest

        async def decode() -> Manifest:
            await asyncio.to_thread(manifest.decode)
            return manifest

        return await self._decoding.get_or_load(manifest.id, decode, lambda manifest: manifest.num_refs)

    async def read_manifest(self, id: ManifestId, size_bytes: int = 0) -> tuple[str, bytes]:
        """Key and content of a manifest file. Nothing is decoded, and nothing kept."""
        key = MANIFESTS + encode_id(id)
        return key, await self._read_file(key, size_bytes)

    async def store_manifest(self, manifest: Manifest, data: bytes, *, durable: bool = True) -> None:
        """Write a manifest, encoded in `data`. Unless `durable`, it survives a power cut only after a flush."""
        await self._store(MANIFESTS + encode_id(manifest.id), data, FileType.MANIFEST, durable=durable)
        self._manifests.put(manifest.id, manifest, self._weigh_manifest(manifest))

    async def fetch_transaction_log(self, id: SnapshotId) -> TransactionLog:
        """Fetch the transaction log of a snapshot.

        Raises
        ------
        ObjectNotFound
        FormatError
        """
        key = TRANSACTIONS + encode_id(id)

        async def load() -> TransactionLog:
            written = self._written_logs.get(id)
            if written is not None:
                return decode_transaction_log(written, file=key)
            return await self._load(key, 0, lambda data: decode_transaction_log(data, file=key))

        return await self._logs.get_or_load(id, load, _log_weight)

    async def store_transaction_log(self, log: TransactionLog, data: bytes, *, durable: bool = True) -> None:
        """Write a transaction log and its encoded form. Unless `durable`, it survives a power cut only after `sync`."""
        await self._store(TRANSACTIONS + encode_id(log.id), data, FileType.TRANSACTION_LOG, durable=durable)
        self._written_logs.put(log.id, data, len(data))

    def forget(self, prefix: str, ids: Iterable[bytes]) -> None:
        """Drop files that were deleted from memory; `prefix` says of which kind they are. Of chunks all are dropped."""
        if prefix == CHUNKS:
            self._chunks = WeightedCache(self._chunks.capacity)
            return
        for raw in ids:
            if prefix == SNAPSHOTS:
                self._snapshots.discard(SnapshotId(raw))
            elif prefix == MANIFESTS:
                self._manifests.discard(ManifestId(raw))
                self._in_use.pop(ManifestId(raw), None)
            else:
                self._logs.discard(SnapshotId(raw))
                self._written_logs.discard(SnapshotId(raw))

    async def _load(self, key: str, size: int, decode: Callable[[bytes], T]) -> T:
        data = await self._read_file(key, size)
        if len(data) > _DECODE_ON_LOOP:
            return await asyncio.to_thread(decode, data)
        return decode(data)

    async def _read_file(self, key: str, size: int) -> bytes:
        try:
            return bytes(await self._read(key, 0, size or None))
        except StorageError as error:
            if not size or type(error) is not StorageError:
                raise
            # Not as long as the snapshot says: the decoder knows what is wrong.
            return bytes(await self._read(key, 0, None))

    async def _store(self, key: str, data: bytes, file_type: FileType, *, durable: bool) -> None:
        logger.debug("writing %s, %d bytes", key, len(data))
        await self.objects.put(key, data, file_type=file_type, durable=durable)

    def _weigh_snapshot(self, snapshot: Snapshot) -> int:
        self._check_fit("snapshot", snapshot.num_nodes, self._snapshots.capacity, 5, "nodes", "num_snapshot_nodes")
        return max(1, snapshot.num_nodes)

    def _weigh_manifest(self, manifest: Manifest) -> int:
        self._check_fit("manifest", manifest.num_refs, self._manifests.capacity, 2, "references", "num_chunk_refs")
        return max(1, manifest.num_refs)

    def _check_fit(self, what: str, count: int, capacity: int, share: int, unit: str, setting: str) -> None:
        """Warn, once for each kind of file, of one that takes more than its share of a cache: ``1 / share`` of it."""
        if count * share <= capacity or what in self._warned:
            return
        self._warned.add(what)
        logger.warning(
            "a %s with %d %s takes more than 1/%d of its cache, which holds %d: raise %s in RepositoryConfig.caching "
            "to keep it from being read again and again",
            what,
            count,
            unit,
            share,
            capacity,
            setting,
        )

    # -- chunks ------------------------------------------------------------------------------------------------

    @property
    def at_once(self) -> bool:
        """Whether chunks are read and written without a request that others could overlap with."""
        return self._blocking is not None

    async def fetch_chunk(self, id: ChunkId, start: int, stop: int) -> bytes | memoryview:
        """Fetch bytes ``[start, stop)`` of a native chunk's object."""
        key = CHUNKS + encode_id(id)
        if not self._chunks.capacity:
            return await self._read(key, start, stop)
        return await self._chunks.get_or_load((id, start, stop), lambda: self._read(key, start, stop), len)

    async def store_chunk(self, data: bytes | memoryview) -> ChunkId:
        """Write a native chunk under a new id. It survives a power cut only after `sync`."""
        id = ChunkId(self._world.random_bytes(OBJECT_ID_SIZE))
        await self.objects.put(CHUNKS + encode_id(id), data, durable=False)
        return id

    def fetch_chunk_now(self, id: ChunkId, start: int, stop: int) -> bytes | memoryview | None:
        """As `fetch_chunk`, in the calling thread; ``None`` where that takes a request."""
        held = self._chunks.get((id, start, stop)) if self._chunks.capacity else None
        if held is not None or self._blocking is None:
            return held
        key = CHUNKS + encode_id(id)
        logger.debug("reading %s [%d:%s]", key, start, stop)
        data = self._blocking.get_now(key, start=start, stop=stop)
        self._chunks.put((id, start, stop), data, len(data))
        return data

    def store_chunk_now(self, data: bytes | memoryview) -> ChunkId | None:
        """As `store_chunk`, in the calling thread; ``None`` where that takes a request."""
        if self._blocking is None:
            return None
        id = ChunkId(self._world.random_bytes(OBJECT_ID_SIZE))
        self._blocking.put_now(CHUNKS + encode_id(id), data)
        return id

    async def _read(self, key: str, start: int, stop: int | None) -> bytes | memoryview:
        ranges = [(start, stop)] if stop is None else part_ranges(start, stop, self.objects.parts)
        if len(ranges) == 1:
            return await self._read_part(key, start, stop)
        return b"".join(await asyncio.gather(*(self._read_part(key, a, b) for a, b in ranges)))

    async def _read_part(self, key: str, start: int, stop: int | None) -> bytes | memoryview:
        logger.debug("reading %s [%d:%s]", key, start, stop)
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


_copies: WeightedCache[bytes, Assets] = WeightedCache(4)  # weighed by number
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
    """Changes in a log."""
    groups = (log.new_groups, log.new_arrays, log.deleted_groups, log.deleted_arrays)
    nodes = sum(map(len, (*groups, log.updated_groups, log.updated_arrays)))
    return max(1, nodes + sum(len(coords) for id in log.updated_chunks for coords in log.parts(id)))
