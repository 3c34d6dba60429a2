"""A cache bounded by the weight of what it holds, and loads that happen once however many ask.

Safe between threads and event loops. Knows nothing of what it holds.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from icechunk_virtual._after_fork import reset_after_fork
from icechunk_virtual._waiting import Waiter

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Flight(Generic[V]):
    """A load under way; ends with a value, an error, or neither when it was given up."""

    __slots__ = ("error", "value", "waiters")

    def __init__(self) -> None:
        self.value: V | None = None
        self.error: Exception | None = None
        self.waiters: list[Waiter] = []


class WeightedCache(Generic[K, V]):
    """Least recently used values go first when the sum of their weights exceeds `capacity`.

    A value heavier than the whole cache is not kept. With ``capacity=0`` nothing is, but concurrent loads of one
    key are still one load.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._weight = 0
        self._entries: dict[K, tuple[V, int]] = {}  # the least recently used first
        self._flights: dict[K, _Flight[V]] = {}
        self._lock = threading.RLock()  # a coroutine that is thrown away may land while its thread is in here
        reset_after_fork(self)

    def after_fork(self) -> None:
        """Forget loads under way: they land in the parent."""
        self._lock = threading.RLock()
        self._flights = {}

    @property
    def weight(self) -> int:
        """Sum of the weights of what is held."""
        return self._weight

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """Return the value, if held."""
        with self._lock:
            return self._touch(key)

    def _touch(self, key: K) -> V | None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        self._entries[key] = entry
        return entry[0]

    def put(self, key: K, value: V, weight: int) -> None:
        """Hold a value."""
        with self._lock:
            self._put(key, value, weight)

    def _put(self, key: K, value: V, weight: int) -> None:
        self._discard(key)
        if weight > self.capacity:
            return
        self._entries[key] = (value, weight)
        self._weight += weight
        while self._weight > self.capacity:
            self._discard(next(iter(self._entries)))

    def discard(self, key: K) -> None:
        """Forget a value."""
        with self._lock:
            self._discard(key)

    def _discard(self, key: K) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._weight -= entry[1]

    async def get_or_load(self, key: K, load: Callable[[], Awaitable[V]], weigh: Callable[[V], int]) -> V:
        """Return the value, loaded by `load` if it is not held.

        Whoever comes first loads; the others wait for that. If it fails they all fail alike, and the next call
        tries again. If the first one is cancelled, another one of them loads.
        """
        while True:
            with self._lock:
                value = self._touch(key)
                if value is not None:
                    return value
                flight = self._flights.get(key)
                if flight is None:
                    flight = self._flights[key] = _Flight()
                    break
                waiter = Waiter()
                flight.waiters.append(waiter)
            await waiter.wait()
            if flight.error is not None:
                raise flight.error
            if flight.value is not None:
                return flight.value
        return await self._load(key, flight, load, weigh)

    async def _load(self, key: K, flight: _Flight[V], load: Callable[[], Awaitable[V]], weigh: Callable[[V], int]) -> V:
        try:
            flight.value = value = await load()
        except Exception as error:
            flight.error = error
            raise
        else:
            self.put(key, value, weigh(value))
            return value
        finally:  # also when cancelled: then neither value nor error, and a waiter takes over
            self._land(key, flight)

    def _land(self, key: K, flight: _Flight[V]) -> None:
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]
            waiters, flight.waiters = flight.waiters, []
        for waiter in waiters:
            waiter.wake()
