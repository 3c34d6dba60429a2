"""The store none of whose requests is made outside of a bound."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from icechunk_virtual.errors import PreconditionFailed
from icechunk_virtual.repo.limited_store import LimitedStore
from icechunk_virtual.repo.limiter import Limiter
from icechunk_virtual.repo.object_store import Version
from icechunk_virtual.storage import in_memory_storage


class Slow:
    """A store whose operations take a moment; counts how many are under way."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.inside = self.most = self.total = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.store, name)
        if name == "list":
            return self.pages
        return (lambda *args, **kwargs: self.counted(found(*args, **kwargs))) if callable(found) else found

    async def counted(self, work: Awaitable[Any]) -> Any:
        self.inside, self.total = self.inside + 1, self.total + 1
        self.most = max(self.most, self.inside)
        try:
            await asyncio.sleep(0.001)
            return await work
        finally:
            self.inside -= 1

    async def pages(self, prefix: str) -> Any:
        pages = self.store.list(prefix)
        while (page := await self.counted(anext(pages, None))) is not None:
            yield page


async def listed(store: LimitedStore) -> list[str]:
    return [info.key async for page in store.list("") for info in page]


async def moved(store: LimitedStore) -> None:
    with pytest.raises(PreconditionFailed):
        await store.put_if_match("k", b"2", Version("none"))


OPERATIONS: dict[str, Callable[[LimitedStore], Awaitable[Any]]] = {
    "get": lambda store: store.get("k", start=1, stop=2),
    "get_versioned": lambda store: store.get_versioned("k"),
    "put": lambda store: store.put("k", b"1"),
    "put_new": lambda store: store.put_new(str(id(object())), b""),
    "put_if_match": moved,
    "head": lambda store: store.head("k"),
    "list": listed,
    "delete": lambda store: store.delete(["none"]),
    "sync": lambda store: store.sync(["k"]),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_is_bounded(operation: str) -> None:
    slow = Slow(in_memory_storage().object_store())
    store = LimitedStore(slow, Limiter(2))

    async def work() -> None:
        await store.put("k", b"12")
        attempts = (OPERATIONS[operation](store) for _ in range(10))
        await asyncio.gather(*attempts, return_exceptions=operation == "put_new")

    asyncio.run(work())
    assert slow.most == 2
    assert slow.total > 10


def test_a_page_in_hand_holds_nobody_up() -> None:
    store = LimitedStore(in_memory_storage().object_store(), Limiter(1))

    async def work() -> list[bytes | memoryview]:
        await store.put("k", b"1")
        return [await store.get(info.key) async for page in store.list("") for info in page]

    assert asyncio.run(asyncio.wait_for(work(), 30)) == [b"1"]


def test_it_is_the_other_one() -> None:
    one, other = in_memory_storage().object_store(), in_memory_storage().object_store()
    store = LimitedStore(one, Limiter(1))
    assert store == LimitedStore(one, Limiter(2)) != LimitedStore(other, Limiter(1))
    assert hash(store) == hash(LimitedStore(one, Limiter(2)))
    assert (repr(store), store.writable, store.parts) == (repr(one), one.writable, one.parts)
    assert store != one
