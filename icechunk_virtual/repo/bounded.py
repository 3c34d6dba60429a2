"""Many pieces of work at once, but not too many and not too heavy ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


async def together(jobs: Sequence[Callable[[], Awaitable[T]]], *, in_turn: bool = False) -> list[T]:
    """What all the jobs return, done at once; the first error is raised.

    Parameters
    ----------
    in_turn
        One after the other instead: for jobs that wait for nothing, where tasks only cost time. So is one alone.
    """
    if in_turn or len(jobs) == 1:
        return [await job() for job in jobs]
    return await asyncio.gather(*(job() for job in jobs))


async def for_each(
    items: Iterable[T],
    work: Callable[[T], Awaitable[None]],
    *,
    at_once: int,
    weigh: Callable[[T], int] | None = None,
    max_weight: int = 0,
) -> None:
    """Do the work of every item, begun in order.

    The first error ends everything and is raised.

    Parameters
    ----------
    at_once
        At most so many are under way.
    weigh, max_weight
        The weights of those under way sum up to at most `max_weight`; an item heavier than that goes alone.
    """
    running = held = 0
    changed = asyncio.Event()

    async def run(item: T, weight: int) -> None:
        nonlocal running, held
        try:
            await work(item)
        finally:
            running, held = running - 1, held - weight
            changed.set()

    try:
        async with asyncio.TaskGroup() as group:
            for item in items:
                weight = 0 if weigh is None else weigh(item)
                while running and (running >= at_once or held + weight > max_weight):
                    changed.clear()
                    await changed.wait()
                running, held = running + 1, held + weight
                group.create_task(run(item, weight))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
