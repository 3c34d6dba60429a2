"""The synchronous calls of a store: the same as the asynchronous ones, whatever is behind it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core import codec_pipeline

from icechunk_virtual import (
    CachingConfig,
    IcechunkError,
    IcechunkStore,
    Repository,
    RepositoryConfig,
    Session,
    Storage,
    VirtualChunkContainer,
    in_memory_storage,
    local_filesystem_storage,
    local_filesystem_store,
    s3_store,
)
from icechunk_virtual.errors import InvalidChunkIndex, InvalidKey, NodeNotFound, ObjectNotFound, ReadOnlyError
from tests.support.faulty import Script, faulty
from tests.support.hierarchies import (
    GROUP,
    array_document,
    buffer,
    get,
    new_repository,
    put,
    tip,
    values_of,
    with_array,
    writable,
)

INLINE, NATIVE, LARGE, VIRTUAL = b"0123456789", bytes(range(256)) * 3, b"large" * 60_000, b"abcdefghijklmnop"
VALUES = {"a/c/0": INLINE, "a/c/1": NATIVE, "a/c/2": LARGE, "a/c/3": VIRTUAL}
RANGES = [None, RangeByteRequest(2, 5), RangeByteRequest(9, 10**7), OffsetByteRequest(4), SuffixByteRequest(3)]
RANGES += [RangeByteRequest(3, 3), RangeByteRequest(10**7, 10**8), SuffixByteRequest(0)]


def behind_requests(path: Path) -> Storage:
    """Neither memory nor a disk, as far as one can see."""
    return faulty(local_filesystem_storage(path), Script())


STORAGES = {"memory": lambda _: in_memory_storage(), "local": local_filesystem_storage, "requests": behind_requests}


@pytest.fixture(params=STORAGES)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return STORAGES[request.param](tmp_path / "repo")


@pytest.fixture(params=[0, 10**6], ids=["nothing kept", "chunks kept in memory"])
def session(request: pytest.FixtureRequest, storage: Storage, tmp_path: Path) -> Session:
    """Writable, with nothing but the array and a virtual chunk, committed."""
    (tmp_path / "file").write_bytes(b"###" + VIRTUAL)
    prefix = f"file://{tmp_path}/"
    config = RepositoryConfig(caching=CachingConfig(num_bytes_chunks=request.param))
    config.set_virtual_chunk_container(VirtualChunkContainer(prefix, local_filesystem_store(str(tmp_path))))
    repo = new_repository(storage, config, {prefix: None})
    session = writable(repo)
    put(session.store, "zarr.json", GROUP)
    put(session.store, "a/zarr.json", array_document((5,)))
    session.store.set_virtual_ref("a/c/3", prefix + "file", offset=3, length=len(VIRTUAL))
    session.commit("array")
    return writable(Repository.open(storage, config, {prefix: None}))


def got(store: IcechunkStore, key: str, byte_range: Any = None) -> bytes | None:
    found = store.get_sync(key, byte_range=byte_range)
    return None if found is None else found.to_bytes()


def test_what_is_set_is_there(session: Session) -> None:
    store = session.store
    for key in ("a/c/0", "a/c/1", "a/c/2"):
        store.set_sync(key, buffer(VALUES[key]))
    store.set_sync("g/zarr.json", buffer(GROUP))
    for _ in range(2):
        for key, value in {**VALUES, "g/zarr.json": GROUP, "zarr.json": GROUP}.items():
            for byte_range in RANGES:
                assert got(store, key, byte_range) == get(store, key, byte_range), (key, byte_range)
            assert got(store, key) == value
            assert got(store, key) == value, "a second time, from memory or not"
        assert got(store, "a/c/4") is got(store, "x/zarr.json") is got(store, "a/c/5") is got(store, ".zgroup") is None
        if not session.read_only:
            session.commit("chunks")
    assert values_of(store) == {**VALUES, "zarr.json": GROUP, "g/zarr.json": GROUP, "a/zarr.json": array_document((5,))}


def test_the_first_read_fetches_the_manifest(session: Session) -> None:
    assert got(session.store, "a/c/3") == VIRTUAL


def test_inside_of_an_event_loop(session: Session) -> None:
    async def use() -> None:
        session.store.set_sync("a/c/1", buffer(NATIVE))
        assert got(session.store, "a/c/1") == NATIVE
        assert got(session.store, "a/c/3") == VIRTUAL
        session.store.delete_sync("a/c/1")
        assert await session.store.exists("a/c/1") is False

    asyncio.run(use())


def test_from_many_threads(session: Session) -> None:
    store = session.store
    store.set_sync("b/zarr.json", buffer(array_document((400,))))

    def use(i: int) -> bytes | None:
        store.set_sync(f"b/c/{i}", buffer(b"%d" % i * 300))
        if i % 3 == 0:
            store.delete_sync(f"b/c/{i}")
        return got(store, f"b/c/{i}")

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(use, range(400)))
    assert found == [None if i % 3 == 0 else b"%d" % i * 300 for i in range(400)]


def test_delete(session: Session) -> None:
    store = session.store
    store.delete_sync("a/c/3")
    assert got(store, "a/c/3") is None
    store.delete_sync("a/zarr.json")
    store.delete_sync("nowhere/zarr.json")
    assert values_of(store) == {"zarr.json": GROUP}


@pytest.mark.parametrize(
    ("use", "error"),
    [
        (lambda store: store.get_sync("nonsense"), InvalidKey),
        (lambda store: store.get_sync("x/c/0"), NodeNotFound),
        (lambda store: store.set_sync("x/c/0", buffer(b"")), NodeNotFound),
        (lambda store: store.set_sync("a/c/5", buffer(b"")), InvalidChunkIndex),
        (lambda store: store.set_sync(".zgroup", buffer(b"{}")), InvalidKey),
        (lambda store: store.set_sync("a/c/0", b"no buffer"), TypeError),
        (lambda store: store.delete_sync("nonsense"), InvalidKey),
        (lambda store: store.with_read_only(True).set_sync("a/c/0", buffer(b"")), ReadOnlyError),
        (lambda store: store.with_read_only(True).delete_sync("a/c/0"), ReadOnlyError),
    ],
)
def test_what_is_refused(session: Session, use: Callable[[IcechunkStore], Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        use(session.store)
    assert not session.has_uncommitted_changes


def test_errors_of_reading(session: Session, tmp_path: Path) -> None:
    (tmp_path / "file").unlink()
    with pytest.raises(IcechunkError, match="no such file"):
        got(session.store, "a/c/3")


def test_a_chunk_that_is_gone(tmp_path: Path) -> None:
    repo = new_repository(local_filesystem_storage(tmp_path))
    with_array(repo)
    session = writable(repo)
    put(session.store, "a/c/0", NATIVE)
    session.commit("chunk")
    for file in (tmp_path / "chunks").iterdir():
        file.unlink()
    with pytest.raises(ObjectNotFound):
        got(tip(repo).store, "a/c/0")


def test_when_zarr_should_use_them(tmp_path: Path) -> None:
    """Where requests take time, the asynchronous calls overlap them."""
    remote = RepositoryConfig()
    remote.set_virtual_chunk_container(VirtualChunkContainer("s3://bucket/", s3_store(region="eu-west-1")))
    assert tip(new_repository(local_filesystem_storage(tmp_path / "a"))).store._supports_sync_io
    assert tip(new_repository()).store._supports_sync_io
    assert not tip(new_repository(None, remote)).store._supports_sync_io
    assert not tip(new_repository(behind_requests(tmp_path / "b"))).store._supports_sync_io


@pytest.mark.skipif(not hasattr(codec_pipeline, "FusedCodecPipeline"), reason="this release of zarr has no such thing")
@pytest.mark.parametrize("shards", [None, (8,)])
def test_zarr_uses_them(session: Session, shards: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    called: Counter[str] = Counter()
    for name in ("get_sync", "set_sync"):
        original = getattr(IcechunkStore, name)

        def counted(self: IcechunkStore, *args: Any, _name: str = name, _call: Any = original, **more: Any) -> Any:
            called[_name] += 1
            return _call(self, *args, **more)

        monkeypatch.setattr(IcechunkStore, name, counted)
    values = np.arange(64, dtype="i8")
    with zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.FusedCodecPipeline"}):
        array = zarr.create_array(session.store, name="f", shape=(64,), chunks=(4,), shards=shards, dtype="i8")
        array[:] = values
        array[3:9] = values[3:9] = -1
        array[32:48] = values[32:48] = 0  # the fill value: chunks are deleted
        for _ in range(2):
            array = zarr.open_array(session.store, path="f")
            assert array[:].tolist() == values.tolist()
            assert array[13:35].tolist() == values[13:35].tolist()
            if not session.read_only:
                session.commit("values")
    used = {"get_sync", "set_sync"} if session.store._supports_sync_io else set()
    assert set(called) == used
