"""The byte-bounded cache and its single flight."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk_virtual.repo.cache import WeightedCache

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@given(
    capacity=st.integers(0, 30),
    actions=st.lists(st.tuples(st.sampled_from("pgd"), st.integers(0, 5), st.integers(0, 12)), max_size=40),
)
def test_least_recently_used_goes_first(capacity: int, actions: list[tuple[str, int, int]]) -> None:
    cache: WeightedCache[int, str] = WeightedCache(capacity)
    model: list[tuple[int, int]] = []  # (key, weight), the least recently used first
    for action, key, weight in actions:
        held = next((entry for entry in model if entry[0] == key), None)
        if action == "g":
            assert cache.get(key) == (None if held is None else f"{key}:{held[1]}")
            if held is not None:
                model.remove(held)
                model.append(held)
        else:
            if held is not None:
                model.remove(held)
            if action == "d":
                cache.discard(key)
            else:
                cache.put(key, f"{key}:{weight}", weight)
                if weight <= capacity:
                    model.append((key, weight))
                while sum(w for _, w in model) > capacity:
                    model.pop(0)
        assert cache.weight == sum(w for _, w in model) <= capacity
        assert len(cache) == len(model)


class Loader:
    """Loads that can be held up and made to fail."""

    def __init__(self, *, fails: int = 0) -> None:
        self.calls = 0
        self.fails = fails
        self.go = threading.Event()

    async def __call__(self) -> bytes:
        self.calls += 1
        while not self.go.is_set():  # noqa: ASYNC110  # set from other threads
            await asyncio.sleep(0.001)
        if self.calls <= self.fails:
            raise OSError("no")
        return b"value"


@pytest.mark.parametrize("capacity", [0, 100])
def test_one_load_for_many(capacity: int) -> None:
    cache: WeightedCache[str, bytes] = WeightedCache(capacity)
    load = Loader()

    async def work() -> None:
        tasks = [asyncio.create_task(cache.get_or_load("k", load, len)) for _ in range(10)]
        await asyncio.sleep(0.01)
        load.go.set()
        assert await asyncio.gather(*tasks) == [b"value"] * 10
        assert load.calls == 1
        await cache.get_or_load("k", load, len)
        assert load.calls == (1 if capacity else 2)

    run(work())
    assert cache.weight == (5 if capacity else 0)


def test_one_load_for_many_event_loops() -> None:
    cache: WeightedCache[str, bytes] = WeightedCache(100)
    load = Loader()
    results: list[list[bytes]] = []

    async def work() -> list[bytes]:
        return list(await asyncio.gather(*(cache.get_or_load("k", load, len) for _ in range(5))))

    threads = [threading.Thread(target=lambda: results.append(run(work()))) for _ in range(6)]
    for thread in threads:
        thread.start()
    while not load.calls:
        pass
    load.go.set()
    for thread in threads:
        thread.join(10)
    assert results == [[b"value"] * 5] * 6
    assert load.calls == 1


def test_a_failure_is_everybodys_but_not_kept() -> None:
    cache: WeightedCache[str, bytes] = WeightedCache(100)
    load = Loader(fails=1)

    async def work() -> None:
        tasks = [asyncio.create_task(cache.get_or_load("k", load, len)) for _ in range(4)]
        await asyncio.sleep(0.01)
        load.go.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [OSError] * 4
        assert load.calls == 1
        assert await cache.get_or_load("k", load, len) == b"value"

    run(work())


@pytest.mark.parametrize("who", [0, 1, 3])
def test_cancelling_one_does_not_hurt_the_others(who: int) -> None:
    cache: WeightedCache[str, bytes] = WeightedCache(100)
    load = Loader()

    async def work() -> None:
        tasks = [asyncio.create_task(cache.get_or_load("k", load, len)) for _ in range(4)]
        await asyncio.sleep(0.01)
        tasks[who].cancel()
        await asyncio.sleep(0.01)
        load.go.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results.pop(who), asyncio.CancelledError)
        assert results == [b"value"] * 3
        assert load.calls == (2 if who == 0 else 1)

    run(work())
    assert not cache._flights


def test_cancelling_all_leaves_nothing() -> None:
    cache: WeightedCache[str, bytes] = WeightedCache(100)
    load = Loader()

    async def work() -> None:
        tasks = [asyncio.create_task(cache.get_or_load("k", load, len)) for _ in range(4)]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not cache._flights
        load.go.set()
        assert await cache.get_or_load("k", load, len) == b"value"

    run(work())


def test_a_waiting_event_loop_may_close() -> None:
    cache: WeightedCache[str, bytes] = WeightedCache(100)
    load = Loader()

    async def main() -> bytes:
        leader = asyncio.create_task(cache.get_or_load("k", load, len))
        await asyncio.sleep(0.01)

        async def impatient() -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(cache.get_or_load("k", load, len), 0.02)

        await asyncio.to_thread(run, impatient())
        load.go.set()
        return await leader

    assert run(main()) == b"value"


def test_a_leader_that_is_thrown_away_is_replaced() -> None:
    cache: WeightedCache[str, bytes] = WeightedCache(100)
    stuck = cache.get_or_load("k", Loader(), len)
    loop = asyncio.new_event_loop()
    task = loop.create_task(stuck)
    loop.run_until_complete(asyncio.sleep(0.01))
    assert cache._flights
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    task.get_coro().close()  # type: ignore[union-attr]
    loop.close()
    del task, stuck
    gc.collect()
    load = Loader()
    load.go.set()
    assert run(cache.get_or_load("k", load, len)) == b"value"


@pytest.mark.skipif(os.name == "nt", reason="forks")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_its_parents_loads() -> None:
    cache: WeightedCache[str, bytes] = WeightedCache(100)
    load = Loader()
    cache.put("held", b"1", 1)

    def child() -> None:
        quick = Loader()
        quick.go.set()
        assert run(cache.get_or_load("k", quick, len)) == b"value"
        assert cache.get("held") == b"1"

    async def work() -> None:
        leader = asyncio.create_task(cache.get_or_load("k", load, len))
        await asyncio.sleep(0.01)
        with cache._lock:  # as if another thread were inside
            process = multiprocessing.get_context("fork").Process(target=lambda: threading.Thread(target=child).start())
            process.start()
        await asyncio.to_thread(process.join, 10)
        assert process.exitcode == 0
        load.go.set()
        await leader

    run(work())
