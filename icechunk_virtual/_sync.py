"""The bridge from synchronous callers to the engine's coroutines.

One background thread runs one event loop. It is started on first use, forgotten after ``fork`` (the child gets
its own) and stopped at exit. Knows nothing of repositories.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import functools
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None


def _get_loop() -> asyncio.AbstractEventLoop:
    global _loop, _thread
    with _lock:
        if _loop is None:
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name="icechunk-virtual", daemon=True)
            thread.start()
            _loop, _thread = loop, thread
        return _loop


def _forget() -> None:
    """After fork: the thread did not come along, so neither may the loop."""
    global _loop, _thread, _lock
    _lock = threading.Lock()
    _loop = _thread = None


def _stop() -> None:
    global _loop, _thread
    with _lock:
        loop, thread, _loop, _thread = _loop, _thread, None, None
    if loop is not None and thread is not None:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=1)


os.register_at_fork(after_in_child=_forget) if hasattr(os, "register_at_fork") else None
atexit.register(_stop)


def run(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine on the background loop and wait for its result.

    Works while another event loop runs in the calling thread. An interrupt (Ctrl-C) cancels the coroutine.

    Raises
    ------
    RuntimeError
        When called on the background loop itself, where waiting would never end.
    """
    loop = _get_loop()
    if threading.current_thread() is _thread:
        coroutine.close()
        raise RuntimeError("a synchronous method was called from inside the engine's event loop; use its _async twin")
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result()
    except (KeyboardInterrupt, SystemExit):
        future.cancel()
        concurrent.futures.wait([future], timeout=5)
        raise


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


class BothIterator(Generic[T], Iterator[T], AsyncIterator[T]):
    """One object that is an iterator and an asynchronous iterator over the same items."""

    def __init__(self, items: AsyncIterator[T]) -> None:
        self._items = items

    def __iter__(self) -> BothIterator[T]:
        return self

    def __next__(self) -> T:
        async def step() -> T:
            return await self._items.__anext__()

        try:
            return run(step())
        except StopAsyncIteration:
            raise StopIteration from None

    def __aiter__(self) -> BothIterator[T]:
        return self

    async def __anext__(self) -> T:
        return await self._items.__anext__()

    async def aclose(self) -> None:
        """Stop early and free what the iterator holds."""
        close = getattr(self._items, "aclose", None)
        if close is not None:
            await close()
