"""When a failed request is made again: as often and as long as the settings of the storage say.

Knows no request and no error.
"""

from __future__ import annotations

import asyncio

from icechunk_virtual.containers.retry import PATIENCE_SECONDS, Retries

ONE_TRY = Retries(1, 0, 0)


class Patience:
    """What is left of it for one operation, from its first failure on.

    Parameters
    ----------
    retries
        How much there is.
    """

    def __init__(self, retries: Retries) -> None:
        self._retries = retries
        self._end_us = retries.world.now_us() + PATIENCE_SECONDS * 1_000_000
        self.tries = 1

    async def again(self) -> bool:
        """Whether to try again. Waits before it says yes, for a time with some chance in it."""
        pause = self._retries.pause_seconds(self.tries)
        late = self._retries.world.now_us() + pause * 1_000_000 > self._end_us
        if late or self.tries >= self._retries.max_tries:
            return False
        self.tries += 1
        await asyncio.sleep(pause)
        return True
