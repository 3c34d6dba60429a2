"""The bridge between synchronous callers and coroutines."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from icechunk_virtual import _sync
from icechunk_virtual._sync import BothIterator, run, sync_twin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


def test_runs_beside_a_running_loop() -> None:
    async def user() -> int:
        return run(double(4))

    assert asyncio.run(user()) == 8


def test_many_threads_share_one_loop() -> None:
    async def loop_id(number: int) -> tuple[int, int]:
        await asyncio.sleep(0.001)
        return number, id(asyncio.get_running_loop())

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda i: run(loop_id(i)), range(40)))
    assert [number for number, _ in got] == list(range(40))
    assert len({loop for _, loop in got}) == 1


def test_refuses_on_its_own_loop() -> None:
    async def inner() -> int:
        return run(double(1))

    with pytest.raises(RuntimeError, match="_async twin"):
        run(inner())
    assert run(double(3)) == 6


def test_errors_come_through_and_are_not_kept() -> None:
    class Own(Exception):
        pass

    async def fail() -> None:
        raise Own("no")

    gc.disable()
    try:
        with pytest.raises(Own, match="no") as info:
            run(fail())
        gone = weakref.ref(info.value)
        del info
        deadline = time.monotonic() + 5
        while gone() is not None and time.monotonic() < deadline:
            run(double(1))
        assert gone() is None
    finally:
        gc.enable()


def test_context_variables_are_visible() -> None:
    variable = contextvars.ContextVar("variable", default=0)

    async def read() -> int:
        return variable.get()

    variable.set(7)
    assert run(read()) == 7


def test_a_cancelled_coroutine_ends_its_caller() -> None:
    async def cancel_itself() -> None:
        raise asyncio.CancelledError

    with pytest.raises(CancelledError):
        run(cancel_itself())


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_coroutine_that_exits_does_not_take_the_loop_along(error: type[BaseException]) -> None:
    async def leave() -> None:
        raise error

    with pytest.raises(error):
        run(leave())
    assert run(double(2)) == 4


@contextmanager
def interrupt_after(started: threading.Event) -> Iterator[None]:
    """Expect the interrupt that comes when something has started."""

    def interrupt() -> None:
        started.wait(10)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs without it
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGINT, before)
    thread.join()


def test_an_interrupted_iteration_is_no_finished_one() -> None:
    started = threading.Event()

    async def items() -> AsyncIterator[int]:
        yield 1
        started.set()
        await asyncio.sleep(60)
        yield 2

    both = BothIterator(items())
    assert next(both) == 1
    with interrupt_after(started):
        next(both)
    with pytest.raises(RuntimeError, match="begin a new one"):
        next(both)


def test_an_interrupt_cancels_and_waits_for_the_cleanup() -> None:
    events: list[str] = []
    started = threading.Event()

    async def slow() -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
            events.append("cleaned up")
            raise

    with interrupt_after(started):
        run(slow())
    assert events == ["cleaned up"]
    assert run(double(5)) == 10


def test_an_interrupt_before_the_coroutine_was_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    async def never() -> None:
        events.append("started")

    loop = _sync._get_loop()
    handed_over = type(loop).call_soon_threadsafe

    def interrupted(self: asyncio.AbstractEventLoop, callback: object, *args: object, **kwargs: object) -> object:
        if callback is _sync._start:
            raise KeyboardInterrupt
        return handed_over(self, callback, *args, **kwargs)  # type: ignore[arg-type]

    coroutine = never()
    with monkeypatch.context() as patch:
        patch.setattr(type(loop), "call_soon_threadsafe", interrupted)
        patch.setattr(_sync, "_CLEANUP_SECONDS", 3600)  # nothing to wait for
        with pytest.raises(KeyboardInterrupt):
            run(coroutine)
    assert events == []
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
    assert run(double(5)) == 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_gets_its_own_loop() -> None:
    code = """
import asyncio, os, sys
from icechunk_virtual import _sync
async def double(n):
    await asyncio.sleep(0)
    return 2 * n
assert _sync.run(double(1)) == 2
parent = _sync._loop
_sync._lock.acquire()  # another thread may hold it while we fork
child = os.fork()
if child == 0:
    ok = _sync._loop is None and _sync.run(double(4)) == 8 and _sync._loop is not parent
    os._exit(0 if ok else 1)
_sync._lock.release()
_, status = os.waitpid(child, 0)
assert _sync.run(double(2)) == 4 and _sync._loop is parent
sys.exit(os.waitstatus_to_exitcode(status))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False, env=_environment()
    )
    assert done.returncode == 0, done.stderr


def test_the_end_of_the_interpreter_is_quiet_and_cancels() -> None:
    code = """
import asyncio, threading
from icechunk_virtual import _sync
ready = threading.Event()
async def forever():
    ready.set()
    try:
        await asyncio.sleep(1000)
    finally:
        print("put away")
threading.Thread(target=lambda: _sync.run(forever()), daemon=True).start()
ready.wait()
"""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=_environment())
    assert (done.returncode, done.stdout) == (0, "put away\n")
    assert "ResourceWarning" not in done.stderr


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_twins_agree() -> None:
    class Thing:
        async def get_async(self, key: str, *, size: int = 3) -> str:
            """Get it."""
            await asyncio.sleep(0)
            return key * size

        get = sync_twin(get_async)

    assert Thing().get("ab", size=2) == "abab"
    assert Thing.get.__name__ == "get"
    assert Thing.get.__qualname__.endswith("Thing.get")
    assert Thing.get.__doc__ == "Get it."
    assert inspect.signature(Thing.get) == inspect.signature(Thing.get_async)
    assert not inspect.iscoroutinefunction(Thing.get)


class Numbers:
    def __init__(self) -> None:
        self.closed = False

    async def items(self, end: int) -> AsyncIterator[int]:
        try:
            for number in range(end):
                await asyncio.sleep(0)
                yield number
        finally:
            self.closed = True


def test_both_iterator_runs_either_way() -> None:
    async def collect() -> list[int]:
        return [number async for number in BothIterator(Numbers().items(4))]

    assert list(BothIterator(Numbers().items(4))) == [0, 1, 2, 3]
    assert asyncio.run(collect()) == [0, 1, 2, 3]
    done = BothIterator(Numbers().items(0))
    assert list(done) == []
    assert list(done) == []


def test_both_iterator_stops_early() -> None:
    numbers = Numbers()
    items = BothIterator(numbers.items(10))
    assert next(items) == 0
    items.close()
    assert numbers.closed
    assert list(items) == []

    async def some() -> None:
        items = BothIterator(numbers.items(10))
        assert await anext(items) == 0
        numbers.closed = False
        await items.aclose()
        assert numbers.closed

    asyncio.run(some())


def test_both_iterator_fetches_ahead_no_more_than_was_asked_for() -> None:
    made = 0

    async def items() -> AsyncIterator[int]:
        nonlocal made
        while made < 1200:
            made += 1
            yield made - 1

    both = BothIterator(items())
    for number in range(1000):
        assert next(both) == number
        assert made <= number + max(1, min(number // 8, 64))

    async def rest() -> list[int]:
        return [number async for number in both]

    assert asyncio.run(rest()) == list(range(1000, 1200)), "and those ahead are not lost"
    assert list(both) == []


def test_both_iterator_hands_on_errors() -> None:
    async def items() -> AsyncIterator[int]:
        yield 1
        raise KeyError("x")

    async def first_and_error(both: BothIterator[int]) -> None:
        assert await anext(both) == 1
        with pytest.raises(KeyError):
            await anext(both)

    both = BothIterator(items())
    assert next(both) == 1
    with pytest.raises(KeyError):
        next(both)
    assert list(both) == []
    asyncio.run(first_and_error(BothIterator(items())))


def test_stop_and_start_again() -> None:
    assert run(double(1)) == 2
    _sync._stop()
    assert run(double(2)) == 4
