"""One request to a web server until its answer: redirects are followed here, logins are made, credentials stay home.

Knows no ranges and no chunks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from icechunk_virtual.containers.http.addresses import BadRedirect, Origin, origin_of, redirected
from icechunk_virtual.containers.http.answers import Body
from icechunk_virtual.containers.http.auth import Identity
from icechunk_virtual.containers.http.shortcuts import LONGEST, Shortcuts, lifetime
from icechunk_virtual.containers.retry import TryFailed

MOST_REDIRECTS = 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GOOD = frozenset({200, 206, 412, 416})


class Answer(Protocol):
    """Status and headers of an answer whose body is still to come."""

    url: str
    status: int
    headers: Mapping[str, str]

    async def take(self, body: Body) -> bytes | memoryview:
        """The wanted bytes of the body."""
        ...

    async def discard(self) -> None:
        """Read on only if that is cheap."""
        ...

    def close(self) -> None:
        """No more is wanted."""
        ...


class Connections(Protocol):
    """Sends requests."""

    async def get(self, url: str, headers: Mapping[str, str]) -> Answer:
        """Send one; redirects are answers. Raises `TryFailed`."""
        ...


class _LoginNeeded(Exception):
    """A redirect leads to where we would log in."""


class Exchange:
    """Requests of one grant. To be made and used on one event loop.

    Parameters
    ----------
    connections
        Send requests, and keep cookies.
    identity
        Who is told who we are.
    """

    def __init__(self, connections: Connections, identity: Identity) -> None:
        self._connections, self._identity = connections, identity
        self._login = asyncio.Lock()
        self._logins = 0
        self._shortcuts = Shortcuts()

    async def ask(self, url: str, headers: Mapping[str, str]) -> Answer:
        """The answer at the end of all redirects.

        Of many requests that find no session, one logs in and the others wait for the cookies that it brings.

        Raises
        ------
        TryFailed
        """
        logins = self._logins
        try:
            return await self._follow(url, headers, log_in=False)
        except _LoginNeeded:
            pass
        async with self._login:
            if self._logins == logins:
                answer = await self._follow(url, headers, log_in=True)
                self._logins += 1
                return answer
        return await self._follow(url, headers, log_in=True)

    async def _follow(self, url: str, headers: Mapping[str, str], *, log_in: bool) -> Answer:
        answer = await self._try_shortcut(url, headers)
        if answer is not None:
            return answer
        start, seconds = url, LONGEST
        for hops in range(MOST_REDIRECTS + 1):
            origin = origin_of(url)
            if not log_in and await self._logs_in_at(origin):
                raise _LoginNeeded
            answer = await self._connections.get(url, {**headers, **await self._headers(origin)})
            if answer.status not in _REDIRECTS:
                if hops and answer.status in _GOOD:
                    self._shortcuts.keep(start, url, seconds)
                return answer
            seconds = min(seconds, lifetime(answer.status, answer.headers))
            await answer.discard()
            try:
                url = redirected(url, answer.headers.get("Location"))
            except BadRedirect as error:
                raise TryFailed(str(error), answer.status) from None
        reason = f"the server redirects more than {MOST_REDIRECTS} times, at last to {origin_of(url)}"
        raise TryFailed(reason, None if answer is None else answer.status)

    async def _try_shortcut(self, url: str, headers: Mapping[str, str]) -> Answer | None:
        """A good answer from where the redirects of a URL ended last time."""
        end = self._shortcuts.find(url)
        if end is None:
            return None
        try:
            answer = await self._connections.get(end, {**headers, **await self._headers(origin_of(end))})
        except TryFailed:
            self._shortcuts.forget(url)
            raise
        if answer.status in _GOOD:
            return answer
        self._shortcuts.forget(url)
        await answer.discard()
        return None

    async def _logs_in_at(self, origin: Origin) -> bool:
        with _telling():
            return await self._identity.logs_in_at(origin)

    async def _headers(self, origin: Origin) -> dict[str, str]:
        with _telling():
            return await self._identity.headers(origin)


@contextmanager
def _telling() -> Iterator[None]:
    """Raise `TryFailed` for what goes wrong while credentials are looked for."""
    try:
        yield
    except FileNotFoundError as error:
        remedy = "Write the file, or give other credentials."
        raise TryFailed(f"there is no file {error.filename} to take passwords from", remedy=remedy) from None
    except Exception as error:  # of the user's function
        reason = f"the credentials cannot be had: {type(error).__name__}: {error}"
        raise TryFailed(
            reason, remedy="Repair the file of passwords, or the function that gets credentials."
        ) from error
