"""A bound on the number of requests in flight, shared by all event loops and threads."""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType

from icechunk_virtual._after_fork import reset_after_fork
from icechunk_virtual._waiting import Waiter


class Limiter:
    """An asynchronous context manager that at most `limit` coroutines are inside of, whatever their event loop.

    First come, first served. A copy by pickling is a bound of its own.

    Examples
    --------
    >>> import asyncio
    >>> limiter = Limiter(2)
    >>> async def work() -> str:
    ...     async with limiter:
    ...         return "done"
    >>> asyncio.run(work())
    'done'
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"a limit of {limit} requests at once would never let any through")
        self.limit = limit
        self._free = limit
        self._lock = threading.RLock()  # a coroutine that is thrown away may leave while its thread is in here
        self._waiting: deque[Waiter] = deque()
        reset_after_fork(self)

    def __reduce__(self) -> tuple[type[Limiter], tuple[int]]:
        return Limiter, (self.limit,)

    def after_fork(self) -> None:
        """Forget who was inside and who waited: they are in the parent."""
        self._lock = threading.RLock()
        self._free = self.limit
        self._waiting = deque()

    async def __aenter__(self) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            waiter = Waiter()
            self._waiting.append(waiter)
        try:
            await waiter.wait()
        except BaseException:
            with self._lock:
                waits = waiter in self._waiting
                if waits:
                    self._waiting.remove(waiter)
            if not waits:  # its place had been handed over already
                self._leave()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        """Hand the place to the next one who can still take it."""
        while True:
            with self._lock:
                if not self._waiting:
                    self._free += 1
                    return
                waiter = self._waiting.popleft()
            if waiter.wake():
                return
