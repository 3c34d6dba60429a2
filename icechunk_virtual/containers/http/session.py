"""Connections to web servers, through aiohttp: one request at a time goes in, an answer or a `TryFailed` comes out.

The only module that imports aiohttp; it is loaded when the first container of a web server is read. Everything lives on
one event loop and is closed with it, or when nobody needs it any more. Knows no credentials and follows no redirects.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import urllib.request
import weakref
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from socket import AddressFamily
from typing import Any

import aiohttp
from aiohttp import abc
from yarl import URL

from icechunk_virtual.containers.http.addresses import (
    SpecialAddress,
    is_special,
    literal_address,
    origin_of,
    plain_host,
)
from icechunk_virtual.containers.http.answers import Body, Troubled
from icechunk_virtual.containers.http.auth import basic
from icechunk_virtual.containers.http.options import HttpOptions
from icechunk_virtual.containers.retry import TryFailed
from icechunk_virtual.containers.troubles import Trouble

_BUFFER = 2**20  # bytes that arrive before the reader has to take some: fewer make large answers slower
_LONGEST_LINE = 2**16  # of a header: addresses of redirects may carry signatures
_SMALL = 2**16  # a body that is read although nobody wants it, so that its connection can be used again


class Answer:
    """Status and headers; the body is still to come. Is closed by `Session.get`'s caller."""

    def __init__(self, response: aiohttp.ClientResponse, url: str) -> None:
        self._response = response
        self.url = url
        self.status: int = response.status
        self.headers: Mapping[str, str] = response.headers

    async def take(self, body: Body) -> bytes | memoryview:
        """The wanted bytes of the body."""
        with _translating(self.url, self._response.status):
            return await _take(self._response.content, body, self.status)

    async def discard(self) -> None:
        """Give the connection back if that is cheap, or close it."""
        length = self._response.content_length
        if length is not None and length <= _SMALL:
            with _translating(self.url, self._response.status):
                await self._response.read()
        self.close()

    def close(self) -> None:
        """Close the connection, unless the body has been read to its end."""
        self._response.release()


async def _take(content: aiohttp.StreamReader, body: Body, status: int) -> bytes | memoryview:
    pieces: list[bytes | memoryview] = []
    skip, missing = body.skip, body.length
    while missing and (piece := await content.readany()):
        if skip >= len(piece):
            skip -= len(piece)
            continue
        wanted = memoryview(piece)[skip : skip + missing]
        if not body.goes_on and len(wanted) < len(piece):
            raise TryFailed("the server sent more bytes than it said", status)
        pieces.append(piece if len(wanted) == len(piece) else wanted)
        skip, missing = 0, missing - len(wanted)
    got = body.length - missing
    if got < body.at_least:
        raise TryFailed(f"the answer ended after {got} of {body.length} bytes", status, again=True)
    if not body.goes_on and await content.readany():
        raise TryFailed("the server sent more bytes than it said", status)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Session:
    """Connections and cookies of one grant. To be made and used on one event loop.

    Parameters
    ----------
    options
        Of the container.
    hosts
        Names and addresses that may be connected to whatever their addresses are; all others must be public.
    """

    def __init__(self, options: HttpOptions, hosts: frozenset[str]) -> None:
        self._options, self._hosts = options, hosts
        self._cookies = aiohttp.CookieJar(unsafe=True, quote_cookie=False)  # unsafe: also of hosts without a name
        self._ends: list[Any] = []
        self._clients: dict[bool, aiohttp.ClientSession] = {}
        _open_sessions.add(self)

    async def get(self, url: str, headers: Mapping[str, str]) -> Answer:
        """Send a request; redirects are answers.

        Raises
        ------
        TryFailed
            There is no answer.
        SpecialAddress
            Nor is anything sent there.
        """
        origin = origin_of(url)
        address = literal_address(origin.host)
        nowhere = "." not in origin.host if address is None else is_special(address)
        if nowhere and origin.host not in self._hosts:
            raise SpecialAddress(origin.host, address)
        proxy = self._proxy(origin.scheme, origin.host)
        with _translating(url):
            client = await self._client(proxy is not None)
            response = await client.get(
                URL(url, encoded=True), headers=headers, allow_redirects=False, **_proxy_arguments(proxy)
            )
        return Answer(response, url)

    def abandon(self) -> None:
        """In a forked child: these connections are the parent's, nobody may close them here."""
        _abandoned.append((self._clients, [end.detach() for end in self._ends]))
        self._clients, self._ends = {}, []

    async def _client(self, proxied: bool) -> aiohttp.ClientSession:
        client = self._clients.get(proxied)
        if client is None:
            life = _live(self._options, self._cookies, None if proxied else self._hosts)
            self._clients[proxied] = client = await anext(life)
            end = weakref.finalize(self, _end, asyncio.get_running_loop(), life)
            end.atexit = False  # at the exit the event loop ends it
            self._ends.append(end)
        return client

    def _proxy(self, scheme: str, host: str) -> str | None:
        """The proxy for a host: what the container says, or else the environment."""
        if self._options.proxy_url is not None:
            excluded = {"no": self._options.proxy_excludes or ""}
            return None if _is_excluded(host, excluded) else self._options.proxy_url
        proxies = urllib.request.getproxies_environment()
        return None if _is_excluded(host, proxies) else proxies.get(scheme) or proxies.get("all")


_open_sessions: weakref.WeakSet[Session] = weakref.WeakSet()
_abandoned: list[Any] = []  # of a parent process: kept, since closing would be felt there


def _abandon_all() -> None:
    for session in list(_open_sessions):
        session.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)


async def _live(
    options: HttpOptions, cookies: aiohttp.CookieJar, hosts: frozenset[str] | None
) -> AsyncGenerator[aiohttp.ClientSession, None]:
    """A client of aiohttp. The event loop ends this generator with itself, and so closes the client.

    Parameters
    ----------
    options, cookies
        Of the session.
    hosts
        Those that may have any address; None behind a proxy, where names are the proxy's business.
    """
    connector = aiohttp.TCPConnector(
        limit=0,
        resolver=None if hosts is None else _Resolver(hosts),
        keepalive_timeout=options.pool_idle_timeout,
        ssl=_tls(options),
    )
    client = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=cookies,
        headers={"User-Agent": options.user_agent or _agent(), "Accept-Encoding": "identity"},
        auto_decompress=False,
        trust_env=False,  # that would read the netrc file, whoever the server is
        read_bufsize=_BUFFER,
        max_line_size=_LONGEST_LINE,
        max_field_size=_LONGEST_LINE,
        timeout=aiohttp.ClientTimeout(
            total=options.timeout,
            sock_connect=options.connect_timeout or None,
            sock_read=options.read_timeout or None,
        ),
    )
    try:
        yield client
    finally:
        await client.close()


def _end(loop: asyncio.AbstractEventLoop, life: AsyncGenerator[aiohttp.ClientSession, None]) -> None:
    """Nobody needs the client any more: from any thread."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(loop.create_task, life.aclose())


class _Resolver(abc.AbstractResolver):
    """Refuses names that mean special addresses. Asked for each connection, so that a name cannot change its mind.

    Parameters
    ----------
    hosts
        Those that may have any address; but one that was public once has to stay so.
    """

    def __init__(self, hosts: frozenset[str]) -> None:
        self._hosts = hosts
        self._public: set[str] = set()
        self._system = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: AddressFamily = AddressFamily.AF_UNSPEC
    ) -> list[abc.ResolveResult]:
        found = await self._system.resolve(host, port, family)
        name = plain_host(host)
        special = [entry["host"] for entry in found if is_special(entry["host"])]
        if special and (name not in self._hosts or name in self._public):
            raise SpecialAddress(name, special[0])
        if not special:
            self._public.add(name)
        return found

    async def close(self) -> None:
        await self._system.close()


def _agent() -> str:
    """How we call ourselves."""
    try:
        return f"icechunk-virtual/{version('icechunk-virtual')}"
    except PackageNotFoundError:  # a checkout that was never installed
        return "icechunk-virtual"


def _is_excluded(host: str, proxies: Mapping[str, str]) -> bool:
    found: bool = urllib.request.proxy_bypass_environment(host, proxies)  # type: ignore[attr-defined]  # documented nowhere
    return found


def _tls(options: HttpOptions) -> Any:
    """What aiohttp takes: True for the usual, False for no checks at all."""
    if options.allow_invalid_certificates:
        return False
    trusted = [pem for pem in (options.root_certificate, options.proxy_ca_certificate) if pem]
    if not trusted:
        return True
    context = ssl.create_default_context()
    context.load_verify_locations(cadata="\n".join(trusted))
    return context


def _proxy_arguments(proxy: str | None) -> dict[str, Any]:
    if proxy is None:
        return {}
    url = URL(proxy if "://" in proxy else f"http://{proxy}")
    if url.scheme not in {"http", "https"}:
        raise TryFailed(f"the proxy of the environment speaks {url.scheme}, which is not supported: http and https are")
    if url.user is None:
        return {"proxy": url}
    secret = basic(url.user, url.password or "")  # aiohttp makes it Proxy-Authorization
    return {"proxy": url.with_user(None), "proxy_headers": {"Authorization": secret}}


@contextmanager
def _translating(url: str, status: int | None = None) -> Iterator[None]:
    """Raise `TryFailed` for what aiohttp raises, after an answer of this status perhaps.

    Its errors know the headers of requests: they are not shown.
    """
    host = origin_of(url)
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        raise Troubled(Trouble.UNTRUSTED, f"{host}: {error.certificate_error}") from None
    except aiohttp.ClientSSLError as error:
        raise Troubled(Trouble.NO_TLS, f"{host}: {error.os_error}") from None
    except aiohttp.ClientHttpProxyError as error:
        raise TryFailed(f"the proxy refused the way to {host}: {error.status} {error.message}", error.status) from None
    except aiohttp.ClientProxyConnectionError as error:
        raise TryFailed(f"no connection to the proxy for {host}: {error.os_error}", again=True) from None
    except aiohttp.ClientConnectorDNSError as error:
        raise Troubled(Trouble.NO_HOST, f"{host.host}: {error.os_error}", again=True) from None
    except aiohttp.ServerTimeoutError as error:
        raise TryFailed(f"{host} is silent: {error}", status, again=True) from None
    except TimeoutError:
        raise TryFailed(f"{host} took longer than the timeout of the container", status, again=True) from None
    except aiohttp.ClientPayloadError:
        raise TryFailed(f"the connection to {host} was cut in the middle of the answer", status, again=True) from None
    except (aiohttp.ClientConnectionError, OSError) as error:
        text = str(getattr(error, "os_error", error)) or type(error).__name__
        raise TryFailed(f"no answer from {host}: {text}", status, again=True) from None
    except aiohttp.ClientError as error:
        message = error.message if isinstance(error, aiohttp.ClientResponseError) else type(error).__name__
        raise TryFailed(f"what {host} answered is not HTTP: {message[:200]!a}", status, again=True) from None
