"""Credentials that the user's function returns: as a value that travels, and as what is asked for fresh ones.

Knows no store and no request. Nothing of this is ever written to a repository.
"""

from __future__ import annotations

import pickle
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from icechunk_virtual.model.checked import Variant
from icechunk_virtual.model.world import REAL_WORLD, World


class Expiring(Protocol):
    """Credentials that may end."""

    @property
    def expires_after(self) -> datetime | None:
        """When they end, in any time zone; ``None``: that is not known."""
        ...


T = TypeVar("T")
E = TypeVar("E", bound=Expiring)
E_co = TypeVar("E_co", bound=Expiring, covariant=True)

AHEAD = timedelta(minutes=2)
"""How long before their end credentials are replaced."""


@dataclass(frozen=True, slots=True)
class PickledFunction(Variant):
    """Base of the credentials that a function without arguments returns, called again before they end.

    Parameters
    ----------
    pickled_function
        The function, pickled: it travels with sessions.
    current
        A result to start with.
    """

    pickled_function: bytes = field(repr=False)

    def _fetch(self, expected: type[T]) -> T:
        credentials = pickle.loads(self.pickled_function)()
        if not isinstance(credentials, expected):
            raise TypeError(
                f"the function that gets credentials must return {expected.__name__}, not {type(credentials).__name__}"
            )
        return credentials


class Refreshable(Protocol[E_co]):
    """Credentials that a function returns."""

    @property
    def current(self) -> E_co | None:
        """A result to start with."""
        ...

    def fetch(self) -> E_co:
        """Call the function."""
        ...


class Fresh(Generic[E]):
    """The result of a user's function, asked for again before it ends. For any number of threads.

    A copy by pickling starts as this did.

    Parameters
    ----------
    credentials
        The function, and perhaps a result to start with.
    endless
        Whether a result that does not say when it ends is kept.
    """

    def __init__(self, credentials: Refreshable[E], *, endless: bool, world: World = REAL_WORLD) -> None:
        self._credentials: Refreshable[E] = credentials
        self._current: E | None = credentials.current
        self._endless, self._world = endless, world
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Fresh, endless=self._endless, world=self._world), (self._credentials,)

    def __call__(self) -> tuple[E, datetime | None]:
        """The credentials, and when to ask again (``None``: never)."""
        with self._lock:  # one call serves all who wait
            if self._current is None or self._is_over(self._current):
                self._current = self._credentials.fetch()
            return self._current, self._renewal(self._current)

    @property
    def held(self) -> E | None:
        """The credentials, if that takes no call."""
        current = self._current
        return None if current is None or self._is_over(current) else current

    def refuse(self, refused: E) -> None:
        """A server does not take these any more: ask again, unless others were got in the meantime."""
        with self._lock:
            if self._current is refused:
                self._current = None

    def forget(self) -> bool:
        """Ask again when credentials are needed next. Always true."""
        with self._lock:
            self._current = None
        return True

    def _renewal(self, credentials: E) -> datetime | None:
        if credentials.expires_after is None:
            return None if self._endless else self._now() - AHEAD
        return credentials.expires_after.astimezone(UTC) - AHEAD

    def _is_over(self, credentials: E) -> bool:
        renewal = self._renewal(credentials)
        return renewal is not None and renewal <= self._now()

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._world.now_us() / 1_000_000, UTC)
