"""Files of a repository by id: requests made, caches, parts, pickles."""

from __future__ import annotations

import asyncio
import itertools
import logging
import pickle
import threading
from collections.abc import AsyncIterator, Collection, Coroutine, Iterable
from typing import Any, TypeVar

import numpy as np
import pytest

from icechunk_virtual.errors import CorruptFile, ObjectNotFound
from icechunk_virtual.model.chunk_refs import ChunkRefs
from icechunk_virtual.model.ids import ManifestId, NodeId, SnapshotId, encode_id
from icechunk_virtual.model.nodes import GroupNode
from icechunk_virtual.model.world import World
from icechunk_virtual.repo.assets import Assets, keys_of
from icechunk_virtual.repo.config import RepositoryConfig
from icechunk_virtual.repo.format.envelope import FileType
from icechunk_virtual.repo.format.manifest import Manifest, encode_manifest
from icechunk_virtual.repo.format.snapshot_encode import encode_snapshot
from icechunk_virtual.repo.format.transaction_log import TransactionLog, encode_transaction_log
from icechunk_virtual.repo.object_store import WHOLE, ObjectInfo, PartPolicy, Version, part_ranges
from icechunk_virtual.repo.settings import CachingConfig
from icechunk_virtual.storage import in_memory_storage

T = TypeVar("T")
S, M, N = SnapshotId(b"s" * 12), ManifestId(b"m" * 12), NodeId(b"n" * 8)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


class Recorder:
    """Memory that writes down its calls."""

    writable = True

    def __init__(self, parts: PartPolicy = WHOLE) -> None:
        self.store = in_memory_storage().object_store()
        self.parts = parts
        self.calls: list[tuple[Any, ...]] = []
        self.inside = self.most = 0

    async def get(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes:
        self.calls.append(("get", key, start, stop))
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await asyncio.sleep(0)
            return await self.store.get(key, start=start, stop=stop)
        finally:
            self.inside -= 1

    async def get_versioned(self, key: str) -> tuple[bytes, Version]:
        return await self.store.get_versioned(key)

    async def put(self, key: str, data: bytes, *, file_type: FileType | None = None, durable: bool = True) -> None:
        self.calls.append(("put", key, file_type, durable))
        await self.store.put(key, data)

    async def put_new(self, key: str, data: bytes) -> Version:
        return await self.store.put_new(key, data)

    async def put_if_match(self, key: str, data: bytes, version: Version, *, after: Collection[str] = ()) -> Version:
        return await self.store.put_if_match(key, data, version, after=after)

    async def head(self, key: str) -> ObjectInfo:
        self.calls.append(("head", key))
        return await self.store.head(key)

    def list(self, prefix: str) -> AsyncIterator[list[ObjectInfo]]:
        return self.store.list(prefix)

    async def delete(self, keys: Iterable[str]) -> int:
        return await self.store.delete(keys)

    async def sync(self, keys: Iterable[str]) -> None:
        self.calls.append(("sync", *keys))


def snapshot_bytes(message: str = "hello", parent: SnapshotId | None = None) -> bytes:
    return encode_snapshot(
        id=S, parent_id=parent, flushed_at_us=1, message=message, metadata={}, nodes=(), manifest_files=()
    )


def made_manifest(n: int = 3) -> tuple[Manifest, bytes]:
    payloads = np.random.default_rng(1).bytes(n * 50)
    arrays = [(N, ChunkRefs.inline(np.arange(n)[:, None], [payloads[i::n] for i in range(n)]))]
    return Manifest.of(M, arrays), encode_manifest(M, arrays)


def manifest_bytes(n: int = 3) -> bytes:
    return made_manifest(n)[1]


def test_snapshot() -> None:
    recorder = Recorder()
    assets = Assets(recorder, RepositoryConfig())

    async def work() -> None:
        await assets.store_snapshot(S, snapshot_bytes())
        assert recorder.calls == [("put", f"snapshots/{encode_id(S)}", FileType.SNAPSHOT, True)]
        first = await assets.fetch_snapshot(S)
        assert first.message == "hello"
        assert await assets.fetch_snapshot(S) is first
        assert len(recorder.calls) == 1, "what was just written is not read back"
        other = Assets(recorder, RepositoryConfig())
        results = await asyncio.gather(*(other.fetch_snapshot(S) for _ in range(5)))
        assert all(result is results[0] for result in results)
        assert [call[0] for call in recorder.calls] == ["put", "get"]

    run(work())


def test_a_snapshot_rewritten_in_place() -> None:
    recorder = Recorder()
    assets = Assets(recorder, RepositoryConfig())

    async def work() -> None:
        await assets.store_snapshot(S, snapshot_bytes(parent=SnapshotId(b"p" * 12)))
        assert (await assets.fetch_snapshot(S)).parent_id == b"p" * 12
        await recorder.store.put(f"snapshots/{encode_id(S)}", snapshot_bytes(parent=SnapshotId(b"q" * 12)))
        assert (await assets.fetch_snapshot(S)).parent_id == b"p" * 12
        assert (await assets.fetch_snapshot(S, fresh=True)).parent_id == b"q" * 12
        assert (await assets.fetch_snapshot(S)).parent_id == b"q" * 12
        await assets.store_snapshot(S, snapshot_bytes(parent=SnapshotId(b"r" * 12)))
        assert (await assets.fetch_snapshot(S)).parent_id == b"r" * 12

    run(work())


def test_manifest_and_log() -> None:
    recorder = Recorder()
    assets = Assets(recorder, RepositoryConfig())
    log = TransactionLog(S, *[frozenset()] * 6, updated_chunks={N: np.array([[1, 2]], np.uint32)})  # type: ignore[arg-type]

    async def work() -> None:
        made, data = made_manifest()
        await assets.store_manifest(made, data)
        assert await assets.fetch_manifest(M) is made
        await assets.store_transaction_log(log, encode_transaction_log(log))
        assert [call[2] for call in recorder.calls] == [FileType.MANIFEST, FileType.TRANSACTION_LOG]
        for fetcher in (assets, Assets(recorder, RepositoryConfig())):
            for size in (0, len(data)):
                manifest = await fetcher.fetch_manifest(M, size)
                refs = manifest.refs(N)
                assert refs is not None
                assert len(refs) == 3
            assert (await fetcher.fetch_transaction_log(S)).updated_chunks[N].tolist() == [[1, 2]]
        assert [call[0] for call in recorder.calls] == ["put", "put", "get", "get"]

    run(work())


def test_what_is_missing_or_damaged() -> None:
    recorder = Recorder()
    assets = Assets(recorder, RepositoryConfig())

    async def work() -> None:
        for attempt in (
            assets.fetch_snapshot(S),
            assets.fetch_manifest(M, 10),
            assets.fetch_transaction_log(S),
            assets.snapshot_last_modified_us(S),
        ):
            with pytest.raises(ObjectNotFound):
                await attempt
        key = f"manifests/{encode_id(M)}"
        await recorder.store.put(key, b"junk" * 100)
        with pytest.raises(CorruptFile, match=key):
            await assets.fetch_manifest(M, 400)
        with pytest.raises(CorruptFile, match=key):  # cut off: its decoder says so
            await assets.fetch_manifest(M, 500)
        await recorder.store.put(key, manifest_bytes())
        assert (await assets.fetch_manifest(M)).num_refs == 3, "a failure is not kept"

    run(work())


def test_large_files_come_in_parts_and_are_decoded_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(PartPolicy(max_parts=5, ideal_size=100_000))
    made, data = made_manifest(60_000)
    assert len(data) > 2**20
    threads = []
    real = asyncio.to_thread

    async def to_thread(function: Any, *args: Any) -> Any:
        return await real(lambda: (threads.append(threading.current_thread()), function(*args))[1])

    monkeypatch.setattr(asyncio, "to_thread", to_thread)

    async def work() -> None:
        await Assets(recorder, RepositoryConfig()).store_manifest(made, data)
        recorder.calls.clear()
        manifest = await Assets(recorder, RepositoryConfig()).fetch_manifest(M, len(data))
        assert manifest.num_refs == 60_000

    run(work())
    assert [call[2:] for call in recorder.calls] == part_ranges(0, len(data), recorder.parts)
    assert len(recorder.calls) == recorder.most == 5
    assert threads
    assert threading.main_thread() not in threads


def test_requests_are_bounded() -> None:
    recorder = Recorder(PartPolicy(max_parts=18, ideal_size=1))
    assets = Assets(recorder, RepositoryConfig(max_concurrent_requests=3))

    async def work() -> None:
        id = await assets.store_chunk(bytes(range(100)))
        assert await asyncio.gather(*(assets.fetch_chunk(id, i, i + 50) for i in range(10))) == [
            bytes(range(i, i + 50)) for i in range(10)
        ]

    run(work())
    assert recorder.most == 3


def test_chunks() -> None:
    recorder = Recorder()
    assets = Assets(recorder, RepositoryConfig(), World(random_bytes=lambda n: b"c" * n))

    async def work() -> None:
        id = await assets.store_chunk(b"0123456789")
        assert id == b"c" * 12
        assert recorder.calls == [("put", f"chunks/{encode_id(id)}", None, False)]
        await assets.objects.sync(keys_of([id]))
        assert recorder.calls[1:] == [("sync", f"chunks/{encode_id(id)}")]
        for _ in range(2):
            assert await assets.fetch_chunk(id, 2, 5) == b"234"
        assert len(recorder.calls) == 4, "no cache unless asked for"

    run(work())


def test_chunk_cache() -> None:
    recorder = Recorder()
    assets = Assets(recorder, RepositoryConfig(caching=CachingConfig(num_bytes_chunks=5)))

    async def work() -> None:
        id = await assets.store_chunk(b"0123456789")
        recorder.calls.clear()
        for start, stop in [(2, 5), (2, 5), (5, 7), (2, 5), (0, 10), (2, 5), (0, 3), (5, 7)]:
            assert await assets.fetch_chunk(id, start, stop) == b"0123456789"[start:stop]
        assert [call[2:] for call in recorder.calls] == [(2, 5), (5, 7), (0, 10), (0, 3), (5, 7)]

    run(work())


def test_a_large_manifest_is_decoded_once_and_not_for_a_single_chunk() -> None:
    recorder = Recorder()
    made, data = made_manifest(40_000)

    async def work() -> None:
        await Assets(recorder, RepositoryConfig()).store_manifest(made, data)
        assets = Assets(recorder, RepositoryConfig())
        manifest = await assets.fetch_manifest(M)
        assert not manifest.decoded
        found = manifest.look_up(N, (123,))
        assert found is not None
        assert not manifest.decoded
        assert all(one is manifest for one in await asyncio.gather(*(assets.decoded(manifest) for _ in range(4))))
        refs = manifest.refs(N)
        assert refs is not None
        assert refs.lookup((123,)) == found
        assert await assets.decoded(manifest) is manifest

    run(work())


def test_caches_count_what_files_hold() -> None:
    recorder = Recorder()
    assets = Assets(recorder, RepositoryConfig(caching=CachingConfig(num_chunk_refs=5)))

    async def work() -> None:
        for name, count in [(b"1", 2), (b"2", 3), (b"3", 6)]:
            arrays = [(N, ChunkRefs.inline(np.arange(count)[:, None], [b""] * count))]
            manifest = Manifest.of(ManifestId(name * 12), arrays)
            await assets.store_manifest(manifest, encode_manifest(manifest.id, arrays))
        recorder.calls.clear()
        for name in (b"1", b"2", b"3", b"1"):
            await assets.fetch_manifest(ManifestId(name * 12))
        assert len(recorder.calls) == 1, "of 2 + 3 + 6 references the first two manifests fit"

    run(work())


def test_one_warning_when_a_cache_is_too_small(caplog: pytest.LogCaptureFixture) -> None:
    caching = CachingConfig(num_chunk_refs=5, num_snapshot_nodes=4)
    assets = Assets(Recorder(), RepositoryConfig(caching=caching))
    nodes = [GroupNode(N, "/", b"{}")]
    data = encode_snapshot(
        id=S, parent_id=None, flushed_at_us=1, message="", metadata={}, nodes=nodes, manifest_files=()
    )

    async def work() -> None:
        await assets.store_manifest(*made_manifest())
        await assets.store_snapshot(S, data)
        for _ in range(3):
            await assets.fetch_manifest(M)
            await assets.fetch_snapshot(S)

    with caplog.at_level(logging.WARNING):
        run(work())
    manifest, snapshot = (record.getMessage() for record in caplog.records)
    assert manifest.startswith("a manifest with 3 references takes more than 1/2 of its cache, which holds 5: raise ")
    assert "num_chunk_refs" in manifest
    assert snapshot.startswith("a snapshot with 1 nodes takes more than 1/5 of its cache, which holds 4: raise ")
    assert "num_snapshot_nodes" in snapshot


def test_last_modified() -> None:
    objects = in_memory_storage().object_store()
    assets = Assets(objects, RepositoryConfig())
    run(assets.store_snapshot(S, snapshot_bytes()))
    info = run(objects.head("snapshots/" + encode_id(S)))
    assert run(assets.snapshot_last_modified_us(S)) == info.last_modified_us


def test_pickles_without_its_caches() -> None:
    storage = in_memory_storage()
    assets = Assets(storage.object_store(), RepositoryConfig(max_concurrent_requests=7))
    run(assets.store_snapshot(S, snapshot_bytes()))
    copy = pickle.loads(pickle.dumps(assets))
    assert copy.objects == assets.objects
    assert copy.limiter.limit == 7
    assert len(copy._snapshots) == 0
    assert run(copy.fetch_snapshot(S)).message == "hello"


@pytest.mark.parametrize(
    ("size", "policy", "sizes"),
    [
        (0, PartPolicy(5, 10), [0]),
        (10, PartPolicy(5, 10), [10]),
        (11, PartPolicy(5, 10), [6, 5]),
        (13, PartPolicy(18, 5), [5, 4, 4]),
        (1000, PartPolicy(3, 10), [334, 333, 333]),
        (10**9, WHOLE, [10**9]),
    ],
)
def test_parts(size: int, policy: PartPolicy, sizes: list[int]) -> None:
    ranges = part_ranges(7, 7 + size, policy)
    assert [stop - start for start, stop in ranges] == sizes
    assert ranges[0][0] == 7
    assert ranges[-1][1] == 7 + size
    assert all(left[1] == right[0] for left, right in itertools.pairwise(ranges))
