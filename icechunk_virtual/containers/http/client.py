"""Virtual chunks on web servers: ranges of files, in the state that the reference expects, or an error that says why.

Authorises nothing: what arrives here may be read. All requests are made on the background loop, whose connections
serve every thread and event loop. What needs aiohttp is in `session`, which is loaded late.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

from icechunk_virtual._sync import in_background, together
from icechunk_virtual.containers.authorize import Authorization, Grant
from icechunk_virtual.containers.checksums import NONE, Condition, ObjectState, check_unchanged, condition
from icechunk_virtual.containers.failures import cannot_be_opened
from icechunk_virtual.containers.http.addresses import SpecialAddress, origin_of, sent_url
from icechunk_virtual.containers.http.answers import Body, PageForPeople, Troubled, Wanted, judge
from icechunk_virtual.containers.http.auth import NOBODY, Identity
from icechunk_virtual.containers.http.credentials import HttpBearerCredential, HttpCredentials
from icechunk_virtual.containers.http.exchange import Answer, Exchange
from icechunk_virtual.containers.http.options import parse_options
from icechunk_virtual.containers.http.remedies import of_refusal, of_special_address
from icechunk_virtual.containers.remedies import ContainerSubject, remedy
from icechunk_virtual.containers.retry import Retries, TryFailed, repeated
from icechunk_virtual.containers.url import Location
from icechunk_virtual.model.chunk_refs import VirtualChunk

logger = logging.getLogger(__name__)

_SESSION = "icechunk_virtual.containers.http.session"
_INSTALL = 'pip install "icechunk-virtual[http]"'
_REFUSED = frozenset({401, 403})
_FIRST = Wanted(0, 1, exact=False)

Split = Callable[[int, int], Sequence[tuple[int, int]]]
"""Cuts a range of bytes into those that are to be fetched at once."""


class HttpObjects:
    """Client of the containers of web servers. Usable from several event loops and threads.

    Parameters
    ----------
    retries
        How often a failed request is repeated.
    split
        How large ranges are cut.
    limiter
        Every request is made within it.
    """

    def __init__(
        self,
        authorization: Authorization,  # noqa: ARG002  # files need it
        *,
        retries: Retries,
        split: Split,
        limiter: AbstractAsyncContextManager[None],
    ) -> None:
        self.retries, self.limiter = retries, limiter
        self._split = split
        self._sites: dict[str, _Site] = {}  # by prefix; seen by the background loop only

    async def read(
        self, grant: Grant, location: Location, chunk: VirtualChunk, offset: int, length: int
    ) -> bytes | memoryview:
        """Exactly the bytes ``[offset, offset + length)`` of the object.

        Raises
        ------
        ContainerError
            The container cannot be opened.
        ObjectChanged
        VirtualReadError
        """
        return await in_background(self._read(grant, location, chunk, offset, length))

    async def read_with_state(
        self, grant: Grant, location: Location, chunk: VirtualChunk, offset: int, length: int
    ) -> tuple[bytes | memoryview, ObjectState]:
        """As `read`, with one request, and the state of the object as the answer says it; fewer bytes at its end."""

        async def read() -> tuple[bytes | memoryview, ObjectState]:
            site = await self._site(grant, location)
            return await _Part(self, site, location, chunk, Wanted(offset, length, exact=False)).read()

        return await in_background(read())

    async def _read(
        self, grant: Grant, location: Location, chunk: VirtualChunk, offset: int, length: int
    ) -> bytes | memoryview:
        site = await self._site(grant, location)
        cuts = self._split(offset, offset + length)
        parts = [_Part(self, site, location, chunk, Wanted(start, stop - start)) for start, stop in cuts]
        if len(parts) == 1:
            return (await parts[0].read())[0]
        first = None
        if site.serves_ranges is None:  # before asking so many times: perhaps each answer is the whole file
            first = (await parts.pop(0).read())[0]
        if not site.serves_ranges:
            return (await _Part(self, site, location, chunk, Wanted(offset, length)).read())[0]
        rest = await together(part.read() for part in parts)
        return b"".join(data for data in (first, *(data for data, _ in rest)) if data is not None)

    async def _site(self, grant: Grant, location: Location) -> _Site:
        """Where requests of a grant go from the running event loop."""
        name, loop = grant.prefix.text, asyncio.get_running_loop()
        if _is_of(self._sites.get(name), loop):
            return self._sites[name]
        make = await asyncio.to_thread(_session_class, grant, location)  # loading aiohttp takes its time
        if not _is_of(self._sites.get(name), loop):
            self._sites[name] = _open(grant, location, make, loop)
        return self._sites[name]


@dataclass(slots=True)
class _Site:
    """The server of a container, as one event loop sees it.

    Attributes
    ----------
    serves_ranges
        None as long as nobody knows.
    """

    grant: Grant
    credentials: HttpCredentials
    identity: Identity
    exchange: Exchange
    loop: asyncio.AbstractEventLoop
    serves_ranges: bool | None = None

    def learn(self, status: int) -> None:
        """Whether the server serves ranges, from a good answer to a request for one."""
        if status == 200 and self.serves_ranges is None:
            logger.warning("the server of %s ignores byte ranges and sends whole files instead", self.grant.prefix)
        self.serves_ranges = status == 206 or bool(self.serves_ranges)


def _is_of(site: _Site | None, loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a site may be used; not if it is of another event loop, as in a forked child."""
    return site is not None and site.loop is loop


def _open(grant: Grant, location: Location, make_session: Any, loop: asyncio.AbstractEventLoop) -> _Site:
    try:
        options, unknown = parse_options(_given(grant))
        if location.scheme == "http" and not options.allow_http:
            raise ValueError('URL scheme is not allowed: plain http needs http_store({"allow_http": "true"})')
    except ValueError as error:
        raise cannot_be_opened(grant, location, str(error)) from None
    if unknown:
        logger.warning("options of the container %s that nobody knows are ignored: %s", grant.prefix, unknown)
    credentials = NOBODY if grant.credentials is None else grant.credentials._0
    identity = Identity(origin_of(location.root), credentials)
    exchange = Exchange(make_session(options, identity.hosts), identity)
    return _Site(grant, credentials, identity, exchange, loop)


def _session_class(grant: Grant, location: Location) -> Any:
    try:
        return importlib.import_module(_SESSION).Session
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        raise cannot_be_opened(grant, location, f"aiohttp is not installed. Install it:\n    {_INSTALL}") from None


def _given(grant: Grant) -> Any:
    store: Any = grant.container.store
    return store._0


@dataclass(slots=True)
class _Part:
    """Bytes that are asked for by one request, perhaps repeatedly."""

    objects: HttpObjects
    site: _Site
    location: Location
    chunk: VirtualChunk
    wanted: Wanted
    _token: HttpBearerCredential | None = field(default=None, init=False)

    async def read(self) -> tuple[bytes | memoryview, ObjectState]:
        """Bytes and state from one answer, which is in the state that the chunk expects."""
        return await repeated(
            self._attempt, self.site.grant, self.location, self.chunk, self.objects.retries, self._renew
        )

    async def _attempt(self, tries: int) -> tuple[bytes | memoryview, ObjectState]:
        self._token = self.site.identity.token
        async with self.objects.limiter:
            try:
                return await self._once(tries)
            except SpecialAddress as error:
                what_to_do = of_special_address(self.site.grant, self.site.credentials, error.host)
                raise TryFailed(str(error), remedy=what_to_do) from None
            except Troubled as failure:
                failure.remedy = remedy(failure.trouble, ContainerSubject(self.site.grant))
                raise

    async def _renew(self) -> bool:
        return self.site.identity.renew(self._token)

    async def _once(self, tries: int) -> tuple[bytes | memoryview, ObjectState]:
        answer, asked = await self._ask(tries)
        try:
            body = self._judged(answer, self.wanted)
            self._check_unchanged(body.state, answer.status, tries, asked=asked)
            self.site.learn(answer.status)
            return await answer.take(body), body.state
        finally:
            answer.close()

    async def _ask(self, tries: int) -> tuple[Answer, bool]:
        """An answer, and whether the server was given the condition."""
        url, wanted = sent_url(self.location), condition(self.chunk, self.site.grant)
        answer = await self.site.exchange.ask(url, _headers(self.wanted, wanted))
        if answer.status != 412 or not wanted:
            return answer, True
        await answer.discard()  # it does not say what is there instead
        there = await self.site.exchange.ask(url, _headers(_FIRST, NONE))
        try:
            self._check_unchanged(self._judged(there, _FIRST).state, 412, tries, asked=False)
        except TryFailed as failure:
            if failure.again:
                raise
            self._check_unchanged(ObjectState(None), 412, tries, asked=False)
        finally:
            await there.discard()
        return await self.site.exchange.ask(url, _headers(self.wanted, NONE)), False  # it compares in its own way

    def _check_unchanged(self, state: ObjectState, status: int, tries: int, *, asked: bool) -> None:
        check_unchanged(self.site.grant, self.location, self.chunk, state, asked=asked, status=status, tries=tries)

    def _judged(self, answer: Answer, wanted: Wanted) -> Body:
        try:
            return judge(answer.status, answer.headers, wanted, self.objects.retries.world.now_us())
        except TryFailed as failure:
            home, asked = self.site.identity.home, origin_of(answer.url)
            if asked != home:
                failure.reason += f", after a redirect to {asked}"
                failure.stale = False
            if answer.status in _REFUSED or isinstance(failure, PageForPeople):
                failure.remedy = of_refusal(self.site.grant, self.site.credentials, home, asked)
            raise


def _headers(wanted: Wanted, state: Condition) -> dict[str, str]:
    headers = {"Range": f"bytes={wanted.offset}-{wanted.offset + wanted.length - 1}"}
    if state.if_match is not None:
        headers["If-Match"] = state.if_match
    if state.unmodified_since is not None:
        headers["If-Unmodified-Since"] = formatdate(state.unmodified_since, usegmt=True)
    return headers
