"""Waiting for something that may happen in another thread and be awaited from any event loop.

Nothing here outlives the call that waits, so no object is bound to one event loop.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


@dataclass(slots=True, eq=False)
class Waiter:
    """One waiting coroutine. To be made on its own event loop."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    future: asyncio.Future[None] = field(init=False)

    def __post_init__(self) -> None:
        self.future = self.loop.create_future()

    async def wait(self) -> None:
        """Until somebody calls `wake`."""
        await self.future

    def wake(self) -> bool:
        """From any thread. False when its event loop is closed, so that nobody will ever continue there."""
        try:
            self.loop.call_soon_threadsafe(_set, self.future)
        except RuntimeError:
            return False
        return True

    def wake_here(self) -> None:
        """As `wake`, from a coroutine or callback: on the waiter's own event loop that is many times quicker."""
        if asyncio.get_running_loop() is self.loop:
            _set(self.future)
        else:
            self.wake()
