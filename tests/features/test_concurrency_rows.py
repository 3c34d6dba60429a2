"""Row F083 of the feature table: many writes at once from one thread."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import icechunk
import pytest
import zarr

import icechunk_virtual as ours
from icechunk_virtual import Storage, in_memory_storage
from icechunk_virtual.repo.object_store import ObjectStore
from tests.support.clouds import Bucket
from tests.support.faulty import FaultyStore, Script
from tests.support.hierarchies import array_document, buffer, new_repository, put, writable

TOGETHER = 50


class Meeting(FaultyStore):
    """No chunk is written before `TOGETHER` of them have come."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner, Script())
        self.waiting = 0
        self.met = asyncio.Event()

    async def put(self, key: str, data: bytes, **more: Any) -> None:
        if key.startswith("chunks/"):
            self.waiting += 1
            if self.waiting >= TOGETHER:
                self.met.set()
            await asyncio.wait_for(self.met.wait(), 60)
        await super().put(key, data, **more)


class MeetingBackend:
    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def default_settings(self) -> Any:
        return self.storage.default_settings()

    def open(self, settings: Any) -> Meeting:
        return Meeting(self.storage.object_store())


async def set_chunks(store: Any, count: int) -> None:
    await asyncio.gather(*(store.set(f"a/c/{i}", buffer(b"%d" % i * 200)) for i in range(count)))


def test_F083_sets_of_one_event_loop_overlap() -> None:
    repo = new_repository(Storage(MeetingBackend(in_memory_storage())))
    session = writable(repo)
    put(session.store, "a/zarr.json", array_document((1000,)))
    asyncio.run(set_chunks(session.store, 1000))
    session.commit("1000")
    array = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")
    assert array.nchunks_initialized == 1000


@pytest.mark.parametrize("ic", [ours, icechunk], ids=["ours", "original"])
def test_F083_into_an_object_store(ic: Any, bucket: Bucket) -> None:
    config = ic.RepositoryConfig(inline_chunk_threshold_bytes=0)
    session = ic.Repository.create(bucket.storage(ic), config).writable_session("main")
    put(session.store, "a/zarr.json", array_document((100,)))
    with bucket.proxy.recording() as seen:
        asyncio.run(set_chunks(session.store, 100))
    assert Counter(request.method for request in seen if "/chunks/" in request.target) == {"PUT": 100}
    assert len({request.target for request in seen}) == 100
