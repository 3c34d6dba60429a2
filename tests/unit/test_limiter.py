"""The bound on concurrent requests."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from icechunk_virtual.repo.limiter import Limiter

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


class Meter:
    """Counts who is inside, from any thread."""

    def __init__(self) -> None:
        self.inside = self.most = self.total = 0
        self.lock = threading.Lock()

    async def work(self, limiter: Limiter, pause: float = 0.001) -> None:
        async with limiter:
            with self.lock:
                self.inside += 1
                self.total += 1
                self.most = max(self.most, self.inside)
            try:
                await asyncio.sleep(pause)
            finally:
                with self.lock:
                    self.inside -= 1


def test_bound() -> None:
    limiter, meter = Limiter(3), Meter()

    async def work() -> None:
        await asyncio.gather(*(meter.work(limiter) for _ in range(20)))

    run(work())
    run(work())
    assert (meter.most, meter.total) == (3, 40)


def test_bound_across_event_loops() -> None:
    limiter, meter = Limiter(3), Meter()

    async def work() -> None:
        await asyncio.gather(*(meter.work(limiter) for _ in range(20)))

    threads = [threading.Thread(target=run, args=(work(),)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (meter.most, meter.total) == (3, 100)
    assert limiter._free == 3


def test_first_come_first_served() -> None:
    limiter = Limiter(1)
    order = []

    async def one(i: int) -> None:
        async with limiter:
            order.append(i)
            await asyncio.sleep(0)

    async def work() -> None:
        await asyncio.gather(*(one(i) for i in range(10)))

    run(work())
    assert order == list(range(10))


def test_errors_and_cancellations_free_the_place() -> None:
    limiter, meter = Limiter(2), Meter()

    async def fail() -> None:
        async with limiter:
            raise ValueError

    async def work() -> None:
        await asyncio.gather(*(fail() for _ in range(5)), return_exceptions=True)
        tasks = [asyncio.create_task(meter.work(limiter, 0.01)) for _ in range(10)]
        await asyncio.sleep(0.002)
        for task in tasks[1::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert limiter._free == 2
        assert not limiter._waiting

    run(work())
    assert meter.most == 2


def test_cancelled_just_when_its_turn_came() -> None:
    limiter = Limiter(1)

    async def work() -> None:
        async def inside() -> None:
            async with limiter:
                pass

        await limiter.__aenter__()
        waiting = asyncio.create_task(inside())
        await asyncio.sleep(0)
        await limiter.__aexit__(None, None, None)  # hands over ...
        waiting.cancel()  # ... to one who will not come
        await asyncio.gather(waiting, return_exceptions=True)
        assert limiter._free == 1

    run(work())


def test_a_waiting_event_loop_may_close() -> None:
    limiter = Limiter(1)

    async def work() -> None:
        async with limiter:
            loop = asyncio.new_event_loop()
            stuck = loop.create_task(limiter.__aenter__())
            await asyncio.to_thread(loop.run_until_complete, asyncio.wait_for(asyncio.sleep(0.01), 1))
            stuck._log_destroy_pending = False  # type: ignore[attr-defined]
            loop.close()
            after = asyncio.create_task(Meter().work(limiter))
            await asyncio.sleep(0)
        await asyncio.wait_for(after, 5)

    run(work())


@pytest.mark.parametrize("limit", [0, -1])
def test_no_way_through(limit: int) -> None:
    with pytest.raises(ValueError, match="never let any through"):
        Limiter(limit)


@pytest.mark.skipif(os.name == "nt", reason="forks")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_starts_afresh() -> None:
    limiter = Limiter(1)

    def child() -> None:
        run(Meter().work(limiter))

    async def work() -> None:
        async with limiter:
            process = multiprocessing.get_context("fork").Process(target=lambda: threading.Thread(target=child).start())
            process.start()
            await asyncio.to_thread(process.join, 10)
            assert process.exitcode == 0

    run(work())


def test_a_copy_is_a_bound_of_its_own() -> None:
    limiter = Limiter(1)

    async def work() -> None:
        async with limiter, pickle.loads(pickle.dumps(limiter)) as inside:
            assert inside is None

    run(work())
    assert pickle.loads(pickle.dumps(limiter)).limit == 1
