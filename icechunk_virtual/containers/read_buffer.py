"""Bytes of objects that are on their way to several readers, or were fetched before anybody asked for them.

Bounded, and shared by all containers of a repository. Holds and finds; who fetches and who waits is `merged`'s
business, which also sees to it that only one thread at a time is in here.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from bisect import bisect_right, insort
from collections.abc import Iterator
from typing import Generic, TypeVar

State = tuple[str, str, str | None, int | None]
"""An object in an expected state: prefix of its container, URL, and etag or seconds of the last modification."""
T = TypeVar("T")

_FRESH = 5.0  # seconds: after that, bytes of an object without etag and time may be those of another version
_STALE = 5.0  # seconds: what nobody asked for since may give way to what somebody will


class Piece(Generic[T]):
    """Bytes ``[start, stop)`` of an object.

    Attributes
    ----------
    expected
        Where the requests begin that are expected and did not come yet.
    data
        ``None`` while they are on their way.
    loop
        What fetches them.
    waiting
        Who waits for them.
    asked_at, used_at
        When they were requested, and when somebody last asked for some, in seconds.
    """

    __slots__ = ("asked_at", "data", "expected", "loop", "start", "state", "stop", "used_at", "waiting")

    def __init__(
        self,
        state: State,
        start: int,
        stop: int,
        expected: set[int],
        now: float,
        waiting: list[T],
        loop: AbstractEventLoop,
    ) -> None:
        self.state = state
        self.start = start
        self.stop = stop
        self.expected = expected
        self.asked_at = self.used_at = now
        self.waiting = waiting
        self.loop = loop
        self.data: memoryview | None = None

    def __len__(self) -> int:
        return self.stop - self.start

    def __lt__(self, other: Piece[T]) -> bool:
        return self.start < other.start

    def cut(self, start: int, stop: int) -> memoryview | None:
        """Bytes ``[start, stop)`` of the object, if they have come; not a copy."""
        return None if self.data is None else self.data[start - self.start : stop - self.start]


class ReadBuffer(Generic[T]):
    """Pieces by object and place.

    Parameters
    ----------
    capacity
        Bytes of pieces that hold anything ahead of time, those on their way included.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held = 0
        self._pieces: dict[State, list[Piece[T]]] = {}  # by start
        self._ahead: dict[Piece[T], bool] = {}  # the longest unused first

    def __iter__(self) -> Iterator[Piece[T]]:
        return (piece for pieces in self._pieces.values() for piece in pieces)

    def find(self, state: State, start: int, stop: int, now: float) -> Piece[T] | None:
        """The piece that holds a range, or will."""
        pieces = self._pieces.get(state)
        if pieces is None:
            return None
        place = bisect_right(pieces, start, key=_start)
        if not place or pieces[place - 1].stop < stop:
            return None
        piece = pieces[place - 1]
        if state[2] is None and state[3] is None and piece.data is not None and now - piece.asked_at > _FRESH:
            self.remove(piece)
            return None
        return piece

    def take(self, piece: Piece[T], start: int, now: float) -> bool:
        """Note that a request that begins at `start` is answered from a piece; whether it was expected.

        A piece from which no more is expected is removed.
        """
        if start not in piece.expected:
            return False
        piece.expected.remove(start)
        piece.used_at = now
        if self._ahead.pop(piece, False):
            if piece.expected:
                self._ahead[piece] = True
            else:
                self.held -= len(piece)
        if not piece.expected and piece.data is not None:
            self.remove(piece)
        return True

    def add(self, piece: Piece[T]) -> None:
        """Hold a piece that is on its way."""
        insort(self._pieces.setdefault(piece.state, []), piece)
        if piece.expected:
            self._ahead[piece] = True
            self.held += len(piece)

    def remove(self, piece: Piece[T]) -> None:
        """Forget a piece, if it is held."""
        pieces = self._pieces.get(piece.state, [])
        if piece in pieces:
            pieces.remove(piece)
            if not pieces:
                del self._pieces[piece.state]
        if self._ahead.pop(piece, False):
            self.held -= len(piece)

    def room(self, now: float) -> int:
        """Bytes that could be fetched ahead."""
        stale = 0
        for piece in self._ahead:
            if not _gives_way(piece, now):
                break
            stale += len(piece)
        return max(self.capacity - self.held + stale, 0)

    def make_room(self, size: int, now: float) -> bool:
        """Forget what was not used for long until `size` bytes fit."""
        for piece in list(self._ahead):
            if self.held + size <= self.capacity or not _gives_way(piece, now):
                break
            self.remove(piece)
        return self.held + size <= self.capacity


def _start(piece: Piece[T]) -> int:
    return piece.start


def _gives_way(piece: Piece[T], now: float) -> bool:
    return piece.data is not None and now - piece.used_at > _STALE
