"""How often and how patiently a failed request is made again: the same for every transport, and for storages.

Reads of virtual chunks change nothing, so each may be repeated. A client makes one request per call of its `attempt`,
with the repetitions of its library switched off, and says by `TryFailed` what became of it. Knows no transport.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from icechunk_virtual.containers.authorize import Grant
from icechunk_virtual.containers.failures import AGAIN, REPAIR, failed
from icechunk_virtual.containers.url import Location
from icechunk_virtual.model.chunk_refs import VirtualChunk
from icechunk_virtual.model.world import REAL_WORLD, World

T = TypeVar("T")

PATIENCE_SECONDS = 300
"""After that long nothing is tried again, even if tries are left: each may wait for a server that says nothing."""


class TryFailed(Exception):
    """One try has failed. Never leaves `repeated`.

    Parameters
    ----------
    reason
        What happened, without final stop.
    status
        HTTP status of the answer; None: there was none.
    again
        Whether it may work when tried again, see `may_pass`.
    stale
        Whether the server says that the credentials are not valid (any more).
    remedy
        What to do next, if nothing else helps.
    wait_seconds
        How long the server asks to be left alone (``Retry-After``).
    """

    def __init__(
        self,
        reason: str,
        status: int | None = None,
        *,
        again: bool = False,
        stale: bool = False,
        remedy: str | None = None,
        wait_seconds: float = 0,
    ) -> None:
        super().__init__(reason)
        self.reason, self.status, self.again, self.stale = reason, status, again, stale
        self.remedy = remedy or (AGAIN if again else REPAIR)
        self.wait_seconds = wait_seconds


def may_pass(status: int) -> bool:
    """Whether an answer of this status may be another one in a moment."""
    return status in {408, 425, 429, 499} or (500 <= status <= 599 and status not in {501, 505})


@dataclass(frozen=True, slots=True)
class Retries:
    """How often, and how long in between.

    Attributes
    ----------
    max_tries
        At least 1, the first one included.
    initial_backoff_ms, max_backoff_ms
        Longest pause before the first repetition, and before any. It doubles each time.
    world
        Clock and dice.
    """

    max_tries: int
    initial_backoff_ms: int
    max_backoff_ms: int
    world: World = REAL_WORLD

    def pause_seconds(self, tries: int, wait_seconds: float = 0) -> float:
        """How long to wait after that many tries: half of it is chance, so that clients do not come back together."""
        longest = min(self.initial_backoff_ms << min(tries - 1, 32), self.max_backoff_ms)
        chance = int.from_bytes(self.world.random_bytes(4)) / 2**32
        return max(longest / 1000 * (1 + chance) / 2, min(wait_seconds, self.max_backoff_ms / 1000))


ONE_TRY = Retries(1, 0, 0)


class Patience:
    """What is left of it for one operation.

    Parameters
    ----------
    retries
        How much there is.
    """

    def __init__(self, retries: Retries) -> None:
        self._retries = retries
        self._end_us = retries.world.now_us() + PATIENCE_SECONDS * 1_000_000
        self.tries = 1

    async def again(self, wait_seconds: float = 0) -> bool:
        """Whether to try again. Waits before it says yes, for a time with some chance in it."""
        pause = self._retries.pause_seconds(self.tries, wait_seconds)
        late = self._retries.world.now_us() + pause * 1_000_000 > self._end_us
        if late or self.tries >= self._retries.max_tries:
            return False
        self.tries += 1
        await asyncio.sleep(pause)
        return True


async def repeated(
    attempt: Callable[[int], Awaitable[T]],
    grant: Grant,
    location: Location,
    chunk: VirtualChunk,
    retries: Retries,
    renew: Callable[[], Awaitable[bool]] | None = None,
) -> T:
    """What `attempt` returns, tried as often as is worth it.

    Parameters
    ----------
    attempt
        Makes one request. It is told which try this is, from 1, for errors of its own, which pass through.
    grant, location, chunk
        For the error.
    retries
        How often.
    renew
        Gets new credentials, once, when the server does not take those that there are (`TryFailed.stale`), and says
        whether there are any. The try that follows is not counted among `retries.max_tries`.

    Raises
    ------
    VirtualReadError
        From the last `TryFailed`; with its status, and the number of tries.
    """
    tries, patience = 0, Patience(retries)
    while True:
        tries += 1
        try:
            return await attempt(tries)
        except TryFailed as failure:
            if failure.stale and renew is not None and await renew():
                renew = None
            elif not failure.again or not await patience.again(failure.wait_seconds):
                raise failed(
                    grant, location, chunk, failure.reason, failure.remedy, status=failure.status, tries=tries
                ) from failure.__cause__
