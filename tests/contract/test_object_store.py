"""What every object store has to do, whatever it is made of. A new one joins by a line in `STORES`."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from icechunk_virtual.errors import ObjectNotFound, PreconditionFailed, StorageError
from icechunk_virtual.repo.cloud.store import CloudStore
from icechunk_virtual.repo.format.envelope import FileType
from icechunk_virtual.repo.object_store import ObjectStore, Version
from icechunk_virtual.storage import Storage, in_memory_storage, local_filesystem_storage
from tests.support.clouds import Bucket, FakeService, OneClient

T = TypeVar("T")

STORES: dict[str, Callable[[Path], ObjectStore]] = {
    "memory": lambda path: in_memory_storage().object_store(),
    "local": lambda path: local_filesystem_storage(path / "not yet" / "made").object_store(),
    "obstore": lambda path: OneClient(),
}


DIALECTS: dict[str, dict[str, Any]] = {
    "s3": {},
    "s3, keys escaped": {"make": "s3_object_store_storage"},
    "MinIO": {"region": None, "force_path_style": True},
    "R2": {"make": "r2_storage", "region": None},
    "Tigris": {"make": "tigris_storage", "region": "iad"},
}
"""The same S3 server, reached as services with its protocol want it."""


@pytest.fixture(params=[*STORES, *DIALECTS, "google", "azure", "fake google", "fake azure"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    match request.param:
        case "google" | "azure" as name:
            place = request.getfixturevalue({"google": "google_bucket", "azure": "azure_container"}[name])
            yield place.storage().object_store()
        case "fake google" | "fake azure" as name:
            with FakeService(name.removeprefix("fake ")) as service:
                yield service.storage().object_store()
        case name if name in DIALECTS:
            bucket: Bucket = request.getfixturevalue("bucket")
            yield bucket.storage(**DIALECTS[name]).object_store()
        case name:
            yield STORES[name](tmp_path)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


async def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return sorted([info.key async for page in store.list(prefix) for info in page])


def test_empty(store: ObjectStore) -> None:
    async def work() -> None:
        assert store.writable
        assert await keys(store) == []
        assert await keys(store, "refs/") == []
        for attempt in (
            store.get("a/b"),
            store.get_versioned("a/b"),
            store.head("a/b"),
            store.get("a/b", start=1, stop=2),
        ):
            with pytest.raises(ObjectNotFound, match="a/b not found") as caught:
                await attempt
            assert caught.value.key == "a/b"

    run(work())


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("file_type", [None, FileType.MANIFEST])
def test_put_and_get(store: ObjectStore, durable: bool, file_type: FileType | None) -> None:
    async def work() -> None:
        await store.put("chunks/A", b"0123456789", durable=durable, file_type=file_type)
        assert await store.get("chunks/A") == b"0123456789"
        await store.put("chunks/A", b"other", durable=durable)
        assert await store.get("chunks/A") == b"other"
        assert type(await store.get("chunks/A")) is bytes

    run(work())


@pytest.mark.parametrize("size", [0, 10, 300_000])
@pytest.mark.parametrize("durable", [True, False])
def test_a_view_is_copied(store: ObjectStore, size: int, durable: bool) -> None:
    if isinstance(store, OneClient):
        pytest.skip("obstore's memory keeps what it is given; its cloud stores send it")
    data = bytearray(b"x" * size)
    run(store.put("k", memoryview(data), durable=durable))
    data[:] = b"y" * size
    assert run(store.get("k")) == b"x" * size


@pytest.mark.parametrize("size", [0, 1, 4096, 300_000, 7_000_000])
def test_sizes(store: ObjectStore, size: int) -> None:
    data = bytes(i * 31 % 251 for i in range(1000)) * (size // 1000 + 1)
    data = data[:size]

    async def work() -> None:
        await store.put("k", data)
        assert await store.get("k") == data
        assert await store.get("k", start=0, stop=size) == data
        assert await store.get("k", start=size // 2) == data[size // 2 :]
        assert (await store.head("k")).size == size
        await store.put("k", data, durable=False)
        await store.sync(["k"])
        assert await store.get("k") == data

    run(work())


@pytest.mark.parametrize(
    ("start", "stop"), [(0, None), (3, None), (10, None), (0, 10), (0, 0), (10, 10), (2, 7), (9, 10), (4, 4)]
)
def test_ranges(store: ObjectStore, start: int, stop: int | None) -> None:
    async def work() -> bytes:
        await store.put("k", b"0123456789")
        return await store.get("k", start=start, stop=stop)

    assert run(work()) == b"0123456789"[start:stop]


@pytest.mark.parametrize(("start", "stop"), [(0, 11), (9, 12), (11, None), (11, 12), (100, 200), (0, 2**60)])
def test_a_range_that_is_not_there(store: ObjectStore, start: int, stop: int | None) -> None:
    async def work() -> None:
        await store.put("k", b"0123456789")
        with pytest.raises(StorageError, match="k has 10 bytes") as caught:
            await store.get("k", start=start, stop=stop)
        assert not isinstance(caught.value, ObjectNotFound)

    run(work())


def test_head(store: ObjectStore) -> None:
    async def work() -> None:
        before = time.time_ns() // 1000
        await store.put("a/b", b"123")
        info = await store.head("a/b")
        assert (info.key, info.size) == ("a/b", 3)
        assert abs(info.last_modified_us - before) < 60_000_000

    run(work())


def test_list(store: ObjectStore) -> None:
    async def work() -> None:
        for key in ("top", "refs/branch.a/ref.json", "refs/branch.b/ref.json", "refsx/c", "snapshots/S"):
            await store.put(key, key.encode())
        assert await keys(store) == [
            "refs/branch.a/ref.json",
            "refs/branch.b/ref.json",
            "refsx/c",
            "snapshots/S",
            "top",
        ]
        assert await keys(store, "refs/") == ["refs/branch.a/ref.json", "refs/branch.b/ref.json"]
        assert await keys(store, "refs/branch.a/") == ["refs/branch.a/ref.json"]
        assert await keys(store, "none/") == []
        (info,) = [info async for page in store.list("snapshots/") for info in page]
        head = await store.head("snapshots/S")
        assert (info.key, info.size) == (head.key, head.size)
        assert abs(info.last_modified_us - head.last_modified_us) < 1_000_000  # headers of answers have whole seconds

    run(work())


def test_list_in_pages(store: ObjectStore) -> None:
    if isinstance(store, CloudStore):
        pytest.skip("thousands of requests; pages are in tests/unit/test_cloud_store.py")

    async def work() -> None:
        names = [f"chunks/{i:05d}" for i in range(2300)]
        for name in names:
            await store.put(name, b"", durable=False)
        pages = [page async for page in store.list("")]
        assert sorted(info.key for page in pages for info in page) == names
        assert len(pages) > 2
        assert all(0 < len(page) <= 1000 for page in pages)

    run(work())


def test_delete(store: ObjectStore) -> None:
    async def work() -> None:
        for key in ("chunks/A", "chunks/B", "manifests/C"):
            await store.put(key, b"x")
        assert await store.delete(["chunks/A", "manifests/C", "chunks/never", "nowhere/D"]) == 4
        assert await keys(store) == ["chunks/B"]
        assert await store.delete([]) == 0
        assert await store.delete(key for key in ["chunks/B"]) == 1
        with pytest.raises(ObjectNotFound):
            await store.get("chunks/B")
        await store.put("chunks/B", b"again")
        assert await store.get("chunks/B") == b"again"

    run(work())


def test_delete_many(store: ObjectStore) -> None:
    """More than one request may name: 256 on Azure, 1000 on S3. Google is asked for each."""
    there, never = 10, 1000
    if isinstance(store, CloudStore) and "s3://" not in repr(store):
        there, never = (260, 0) if "az://" in repr(store) else (10, 10)

    async def work() -> None:
        names = [f"chunks/{i}" for i in range(there)]
        await asyncio.gather(*(store.put(name, b"", durable=False) for name in names))
        await store.put("chunks/kept", b"")
        assert await store.delete([*names, *(f"chunks/never-{i}" for i in range(never))]) == there + never
        assert await keys(store) == ["chunks/kept"]

    run(work())


def test_put_new(store: ObjectStore) -> None:
    async def work() -> None:
        version = await store.put_new("refs/branch.main/ref.json", b"1")
        assert await store.get_versioned("refs/branch.main/ref.json") == (b"1", version)
        with pytest.raises(PreconditionFailed, match="already exists"):
            await store.put_new("refs/branch.main/ref.json", b"2")
        assert await store.get("refs/branch.main/ref.json") == b"1"
        await store.put_new("refs/tag.t/ref.json.deleted", b"")
        assert await store.get("refs/tag.t/ref.json.deleted") == b""
        assert len(await keys(store)) == 2

    run(work())


def test_put_if_match(store: ObjectStore) -> None:
    async def work() -> None:
        first = await store.put_new("k", b"1")
        second = await store.put_if_match("k", b"2", first)
        assert await store.get_versioned("k") == (b"2", second)
        with pytest.raises(PreconditionFailed, match="k"):
            await store.put_if_match("k", b"3", first)
        assert await store.get("k") == b"2"
        await store.put_if_match("k", b"4", (await store.get_versioned("k"))[1])
        assert await store.get("k") == b"4"

    run(work())


@pytest.mark.parametrize("version", [Version("no such tag"), Version(None)])
def test_put_if_match_needs_the_object(store: ObjectStore, version: Version) -> None:
    async def work() -> None:
        with pytest.raises(PreconditionFailed):
            await store.put_if_match("a/k", b"1", version)
        await store.put("a/k", b"1")
        with pytest.raises(PreconditionFailed):
            await store.put_if_match("a/k", b"2", version)
        _, seen = await store.get_versioned("a/k")
        await store.delete(["a/k"])
        with pytest.raises(PreconditionFailed):
            await store.put_if_match("a/k", b"2", seen)
        assert await keys(store) == []

    run(work())


def test_one_of_many_creates_wins(store: ObjectStore) -> None:
    async def attempt(i: int) -> bool:
        try:
            await store.put_new("k", str(i).encode())
        except PreconditionFailed:
            return False
        return True

    async def work() -> None:
        won = await asyncio.gather(*(attempt(i) for i in range(20)))
        assert sum(won) == 1
        assert await store.get("k") == str(won.index(True)).encode()
        assert await keys(store) == ["k"]

    run(work())


def test_one_of_many_updates_wins(store: ObjectStore) -> None:
    async def attempt(i: int, version: Version) -> bool:
        try:
            await store.put_if_match("k", str(i).encode(), version)
        except PreconditionFailed:
            return False
        return True

    async def work() -> None:
        version = await store.put_new("k", b"start")
        won = await asyncio.gather(*(attempt(i, version) for i in range(20)))
        assert sum(won) == 1
        assert await store.get("k") == str(won.index(True)).encode()

    run(work())


NAMES = [
    "é",
    "a b",
    "50%",
    "%41",
    "%C3%A9",
    "a#1",
    "#1",
    "x\\y",
    "日本",
    '~[]{}|^`<>?*"',
    "a:b",
    ".",
    "..",
    "A" * 50,
    "\x01",
    "🧊",
]


def unescaped(store: ObjectStore) -> bool:
    return isinstance(store, CloudStore) and not store._escaped


@pytest.mark.parametrize("name", NAMES)
def test_names_come_back(store: ObjectStore, name: str) -> None:
    key = f"refs/branch.{name}/ref.json"

    async def work() -> None:
        if unescaped(store) and name < " ":
            with pytest.raises(StorageError, match="control characters"):
                await store.put_new(key, b"1")
            return
        version = await store.put_new(key, b"1")
        await store.put_if_match(key, b"2", version)
        assert await keys(store) == [key]
        assert await keys(store, "refs/") == [key]
        assert await store.get(key) == b"2"
        assert (await store.head(key)).key == key
        await store.delete([key])
        assert await keys(store) == []

    run(work())


def test_names_are_not_mixed_up(store: ObjectStore) -> None:
    names = [name for name in NAMES if not unescaped(store) or name > " "]

    async def work() -> None:
        for name in names:
            await store.put(f"refs/tag.{name}/ref.json", name.encode())
        for name in names:
            assert await store.get(f"refs/tag.{name}/ref.json") == name.encode()
        assert len(await keys(store)) == len(names)

    run(work())


def test_several_event_loops_in_turn(store: ObjectStore) -> None:
    run(store.put("k", b"1"))
    assert run(store.get("k")) == b"1"
    assert run(keys(store)) == ["k"]


def test_several_event_loops_at_once(store: ObjectStore) -> None:
    number = 3 if isinstance(store, CloudStore) else 30

    async def work(i: int) -> bytes:
        await store.put(f"k/{i}", str(i).encode(), durable=False)
        await asyncio.gather(*(store.get(f"k/{i}") for _ in range(20)))
        return await store.get(f"k/{i}")

    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda i: run(work(i)), range(number))) == [str(i).encode() for i in range(number)]


def test_pickles(store: ObjectStore) -> None:
    if isinstance(store, OneClient):
        pytest.skip("obstore's memory does not pickle; its cloud stores do")
    run(store.put("k", b"1"))
    copy = pickle.loads(pickle.dumps(store))
    assert copy == store
    assert hash(copy) == hash(store)
    run(copy.put("l", b"2"))
    assert run(store.get("l")) == b"2"


def test_a_cancelled_read_leaves_the_store_usable(store: ObjectStore) -> None:
    async def work() -> None:
        await store.put("k", b"x" * 1_000_000)
        task = asyncio.create_task(store.get("k"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert len(await store.get("k")) == 1_000_000

    run(work())


def test_two_storages_are_two_places(tmp_path: Path) -> None:
    for one, other in [
        (in_memory_storage(), in_memory_storage()),
        (local_filesystem_storage(tmp_path / "a"), local_filesystem_storage(tmp_path / "b")),
    ]:
        assert one != other
        run(one.object_store().put("k", b"1"))
        assert run(keys(other.object_store())) == []


@pytest.mark.parametrize("make", [lambda path: in_memory_storage(), local_filesystem_storage])
def test_one_storage_is_one_place(make: Callable[[Path], Storage], tmp_path: Path) -> None:
    storage = make(tmp_path)
    run(storage.object_store().put("k", b"1"))
    assert run(storage.object_store().get("k")) == b"1"
    assert storage.object_store() == storage.object_store()
