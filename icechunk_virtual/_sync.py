"""The bridge from synchronous callers to the engine's coroutines.

One background thread runs one event loop. It is started on first use, forgotten after ``fork`` (the child gets
its own) and stopped at exit. Knows nothing of repositories.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import contextvars
import functools
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_MOST_AT_ONCE = 64
_CLEANUP_SECONDS = 5.0  # how long an interrupted call waits for its coroutine to put things in order

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None
_background: dict[concurrent.futures.Future[Any], list[asyncio.Task[Any]]] = {}  # asyncio does not keep tasks alive
_abandoned: list[asyncio.AbstractEventLoop] = []  # loops of a parent process: kept so that nobody closes their sockets


def _get_loop() -> asyncio.AbstractEventLoop:
    global _loop, _thread
    with _lock:
        if _loop is None:
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=_serve, args=(loop,), name="icechunk-virtual", daemon=True)
            thread.start()
            _loop, _thread = loop, thread
        return _loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """Life of the background thread: run until stopped, then cancel what is left."""
    stopped = False
    while not stopped:
        # A coroutine may raise these two out of the loop. They belong to its caller, who gets them from `run`.
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            loop.run_forever()
            stopped = True
    loop.run_until_complete(_wind_up())
    loop.close()


async def _wind_up() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


def _forget() -> None:
    """After fork: the thread did not come along, so neither may the loop."""
    global _loop, _thread, _lock
    _lock = threading.Lock()
    if _loop is not None:
        _abandoned.append(_loop)
    _loop = _thread = None


def _stop() -> None:
    global _loop, _thread
    with _lock:
        loop, thread, _loop, _thread = _loop, _thread, None, None
    if loop is not None and thread is not None:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
atexit.register(_stop)


def run(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine on the background loop and wait for its result.

    Works while another event loop runs in the calling thread, and from many threads at once. The coroutine sees the
    caller's context variables. An interrupt (Ctrl-C) cancels it, waits for its cleanup and is raised again.

    Raises
    ------
    RuntimeError
        When called on the background loop itself, where waiting would never end.
    """
    if threading.current_thread() is _thread:
        coroutine.close()
        raise RuntimeError("a synchronous method was called from inside the engine's event loop; use its _async twin")
    loop = _get_loop()
    outcome: concurrent.futures.Future[R] = concurrent.futures.Future()
    tasks: list[asyncio.Task[R]] = []
    context = contextvars.copy_context()
    try:
        loop.call_soon_threadsafe(_start, coroutine, outcome, tasks, context=context)
        return outcome.result()
    except (KeyboardInterrupt, SystemExit):
        loop.call_soon_threadsafe(_cancel, coroutine, outcome, tasks)
        concurrent.futures.wait([outcome], timeout=_CLEANUP_SECONDS)
        raise
    finally:
        # An error holds this frame, and these hold the error: no cycle should wait for the collector.
        del outcome, tasks


def start(coroutine: Coroutine[Any, Any, R]) -> concurrent.futures.Future[R]:
    """Begin a coroutine on the background loop and return at once. It ends early with the process."""
    loop = _get_loop()
    outcome: concurrent.futures.Future[R] = concurrent.futures.Future()
    tasks = _background[outcome] = []
    outcome.add_done_callback(_background.pop)
    loop.call_soon_threadsafe(_start, coroutine, outcome, tasks)
    return outcome


async def in_background(coroutine: Coroutine[Any, Any, R]) -> R:
    """Await a coroutine on the background loop, from any event loop: for what has to live on one of them.

    It sees the caller's context variables and is cancelled with its caller.
    """
    if threading.current_thread() is _thread:
        return await coroutine
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, _get_loop()))


async def together(coroutines: Iterable[Coroutine[Any, Any, R]]) -> list[R]:
    """What all of them return, run at once. When one fails, the others are cancelled."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        raise


def _start(
    coroutine: Coroutine[Any, Any, R], outcome: concurrent.futures.Future[R], tasks: list[asyncio.Task[R]]
) -> None:
    task = asyncio.get_running_loop().create_task(coroutine)
    task.add_done_callback(functools.partial(_deliver, outcome))
    tasks.append(task)


def _cancel(
    coroutine: Coroutine[Any, Any, R], outcome: concurrent.futures.Future[R], tasks: list[asyncio.Task[R]]
) -> None:
    for task in tasks:
        task.cancel()
    if not tasks:  # interrupted before it was handed over: nothing will ever run
        coroutine.close()
        _end(outcome)


def _end(outcome: concurrent.futures.Future[R]) -> None:
    """Mark as cancelled, and wake those who wait."""
    outcome.cancel()
    outcome.set_running_or_notify_cancel()


def _deliver(outcome: concurrent.futures.Future[R], task: asyncio.Task[R]) -> None:
    if task.cancelled():
        _end(outcome)
        return
    error = task.exception()
    if error is None:
        outcome.set_result(task.result())
    else:
        outcome.set_exception(error)


def sync_twin(function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, R]:
    """The synchronous twin of a coroutine function: same parameters, same docstring, same result.

    Examples
    --------
    >>> class Greeter:
    ...     async def greet_async(self, name: str) -> str:
    ...         return f"hello {name}"
    ...     greet = sync_twin(greet_async)
    >>> Greeter().greet("you")
    'hello you'
    """

    @functools.wraps(function)
    def twin(*args: P.args, **kwargs: P.kwargs) -> R:
        return run(function(*args, **kwargs))

    twin.__name__ = function.__name__.removesuffix("_async")
    twin.__qualname__ = function.__qualname__.removesuffix("_async")
    return twin


def class_twin(method: Callable[Concatenate[type[T], P], Coroutine[Any, Any, R]]) -> classmethod[T, P, R]:
    """`sync_twin` of a class method: for use in the body of its class, right below it."""
    return classmethod(sync_twin(method.__func__))  # type: ignore[attr-defined]  # in its class it is a `classmethod`


class BothIterator(Iterator[T], AsyncIterator[T], Generic[T]):
    """One object that is an iterator and an asynchronous iterator over the same items.

    A step between threads takes longer than many an item. So whoever goes on and on synchronously gets items that were
    fetched ahead: none at first, and never more than an eighth of what was asked for before.
    """

    def __init__(self, items: AsyncIterator[T]) -> None:
        self._items = items
        self._ahead: deque[T] = deque()
        self._fetched = 0
        self._failure: Exception | None = None

    def __iter__(self) -> BothIterator[T]:
        return self

    def __next__(self) -> T:
        if not self._ahead and self._failure is None:
            run(self._fetch())
        try:
            return self._take()
        except StopAsyncIteration:
            raise StopIteration from None

    async def _fetch(self) -> None:
        """Fetch the next items, up to the end or a failure."""
        at_once = min(max(1, self._fetched // 8), _MOST_AT_ONCE)
        try:
            for _ in range(at_once):
                self._ahead.append(await self._items.__anext__())
        except Exception as error:  # noqa: BLE001  # raised when it is its turn
            self._failure = error
        except asyncio.CancelledError:  # it has closed the iterator, which must not pass for the end of it
            self._failure = RuntimeError("this iteration was interrupted and cannot go on; begin a new one")
            raise
        self._fetched += at_once

    def _take(self) -> T:
        if self._ahead:
            return self._ahead.popleft()
        failure, self._failure = self._failure, None
        if failure is None:
            raise StopAsyncIteration
        try:
            raise failure
        finally:
            del failure  # it holds this frame: no cycle should wait for the collector

    def __aiter__(self) -> BothIterator[T]:
        return self

    async def __anext__(self) -> T:
        if self._ahead or self._failure is not None:
            return self._take()
        return await self._items.__anext__()

    async def aclose(self) -> None:
        """Stop early and free what the iterator holds."""
        self._ahead.clear()
        close = getattr(self._items, "aclose", None)
        if close is not None:
            await close()

    def close(self) -> None:
        """Stop early and free what the iterator holds."""
        run(self.aclose())
