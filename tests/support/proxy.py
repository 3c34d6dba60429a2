"""A small HTTP proxy that writes down what passes, and can delay, change, lose or refuse it.

It forwards to one server, or wherever the request line says (absolute form, as clients use towards a proxy). It runs
on an event loop in a thread of its own.
"""

from __future__ import annotations

import asyncio
import io
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Self

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "proxy-connection", "expect"}


@dataclass(frozen=True)
class Request:
    """As it came: `target` is what stands in the request line, `peer` the address that it came from."""

    method: str
    target: str
    headers: CIMultiDictProxy[str]
    body: bytes = field(repr=False)
    peer: object = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.method} {self.target}"

    @property
    def range(self) -> str:
        """What is asked for, such as ``bytes=10-29``; empty: everything."""
        return self.headers.get("Range", "")


@dataclass
class Answer:
    """What is given back, and how badly.

    Attributes
    ----------
    latency
        Seconds before anything is sent.
    lost
        The connection is cut instead of an answer.
    raw
        Sent instead of an answer, before the connection is cut.
    stall_after, cut_after
        So many bytes of the body are sent; then nothing any more, or the connection is cut.
    claimed_length
        The Content-Length that is said; -1: none. If the body is shorter, the connection ends after it.
    endless
        The body is repeated until the client has had enough.
    """

    status: int = 200
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    body: bytes = b""
    lost: bool = False
    raw: bytes | None = None
    stall_after: int | None = None
    cut_after: int | None = None
    claimed_length: int | None = None
    endless: bool = False
    latency: float = 0.0


Forward = Callable[..., Awaitable[Answer]]  # takes the request that is to be sent instead, if any
Handler = Callable[[Request, Forward], Awaitable[Answer]]


class Proxy:
    """Listens at `url`. `requests` is the log; `handle` may be replaced to interfere.

    Parameters
    ----------
    upstream
        The server to forward to.
    host
        Address to listen at, of this machine: 127.0.0.2 and so on are other hosts than 127.0.0.1.
    latency
        Seconds before every answer.
    tls
        Speak https with this certificate.
    """

    def __init__(
        self,
        upstream: str | None = None,
        *,
        host: str = "127.0.0.1",
        latency: float = 0.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.upstream = upstream
        self.host = host
        self.latency = latency
        self.tls = tls
        self.port = 0
        self.url = ""
        self.reset()

    def url_at(self, host: str) -> str:
        """As `url`, but under another name or address of the same host."""
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    def reset(self) -> None:
        """Forget the log and stop interfering."""
        self.requests: list[Request] = []
        self.handle: Handler = lambda _request, forward: forward()

    def log(self, method: str | None = None, containing: str = "") -> list[Request]:
        """Requests with that method and text in their target, in order of arrival."""
        return [r for r in self.requests if method in (None, r.method) and containing in r.target]

    @contextmanager
    def recording(self) -> Iterator[list[Request]]:
        """The requests that arrive within the block."""
        before, seen = len(self.requests), []
        yield seen
        seen += self.requests[before:]

    # -- the server --------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        while not started.wait(0.2):
            if not self._thread.is_alive():
                raise RuntimeError("the server could not be started")
        return self

    def __exit__(self, *_exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = web.Server(self._answer)
        runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, self.host, 0, ssl_context=self.tls)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        self.url = self.url_at(self.host)
        async with aiohttp.ClientSession(auto_decompress=False) as self._client:
            started.set()
            await self._stop.wait()
            for connection in server.connections if self.tls else ():
                if connection.transport is not None:
                    connection.transport.abort()  # to say goodbye takes longer than there is time
            await runner.cleanup()

    async def _answer(self, came: web.BaseRequest) -> web.StreamResponse:
        peer = came.transport.get_extra_info("peername") if came.transport is not None else None
        request = Request(came.method, came.raw_path, came.headers, await came.content.read(), peer)
        self.requests.append(request)
        answer = await self.handle(request, lambda other=request: self._forward(other))
        if self.latency or answer.latency:
            await asyncio.sleep(self.latency + answer.latency)
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        if came.transport is not None and answer.raw is not None:
            came.transport.write(answer.raw)
            came.transport.close()
        if came.transport is not None and answer.lost:
            came.transport.abort()
        with suppress(ConnectionError):  # the client has gone, or was cut off
            await self._send(came, response, answer)
        return response

    async def _send(self, came: web.BaseRequest, response: web.StreamResponse, answer: Answer) -> None:
        if came.method == "HEAD" or answer.status in (204, 304):
            await response.prepare(came)
            return
        length = len(answer.body) if answer.claimed_length is None else answer.claimed_length
        if length >= 0 and not answer.endless:
            response.content_length = length
        await response.prepare(came)
        stop = answer.stall_after if answer.cut_after is None else answer.cut_after
        await response.write(answer.body[:stop])
        if answer.stall_after is not None:
            await self._stop.wait()
        while answer.endless:
            await response.write(answer.body)
        if (answer.cut_after is not None or length > len(answer.body)) and came.transport is not None:
            came.transport.close()  # what was written is sent before
            raise ConnectionResetError

    async def _forward(self, request: Request) -> Answer:
        headers = CIMultiDict((k, v) for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP)
        url = request.target if request.target.startswith("http") else f"{self.upstream}{request.target}"
        async with self._client.request(
            request.method,
            URL(url, encoded=True),
            headers=headers,
            data=io.BytesIO(request.body) if request.body else None,
            allow_redirects=False,
            skip_auto_headers=("Content-Type", "User-Agent", "Accept", "Accept-Encoding"),
        ) as response:
            kept = CIMultiDict((k, v) for k, v in response.headers.items() if k.lower() not in HOP_BY_HOP)
            return Answer(response.status, kept, await response.read())
