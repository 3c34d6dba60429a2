"""A small HTTP proxy that writes down what passes, and can delay, change, lose or refuse it.

It forwards to one server, or wherever the request line says (absolute form, as clients use towards a proxy). It runs
on an event loop in a thread of its own.
"""

from __future__ import annotations

import asyncio
import io
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
    """As it came: `target` is what stands in the request line."""

    method: str
    target: str
    headers: CIMultiDictProxy[str]
    body: bytes = field(repr=False)

    def __str__(self) -> str:
        return f"{self.method} {self.target}"


@dataclass
class Answer:
    """What is given back. ``lost``: the connection is cut instead; ``stall_after``: it sleeps after so many bytes."""

    status: int = 200
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    body: bytes = b""
    lost: bool = False
    stall_after: int | None = None


Forward = Callable[..., Awaitable[Answer]]  # takes the request that is to be sent instead, if any
Handler = Callable[[Request, Forward], Awaitable[Answer]]


class Proxy:
    """Listens at `url`. `requests` is the log; `handle` may be replaced to interfere."""

    def __init__(self, upstream: str | None = None) -> None:
        self.upstream = upstream
        self.url = ""
        self.reset()

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
        started.wait(30)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = web.Server(self._answer)
        runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        self.url = f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession(auto_decompress=False) as self._client:
            started.set()
            await self._stop.wait()
            await runner.cleanup()

    async def _answer(self, came: web.BaseRequest) -> web.StreamResponse:
        request = Request(came.method, came.raw_path, came.headers, await came.content.read())
        self.requests.append(request)
        answer = await self.handle(request, lambda other=request: self._forward(other))
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        if answer.lost and came.transport is not None:
            came.transport.abort()
        with suppress(ConnectionError):  # the client has gone, or was cut off
            await self._send(came, response, answer)
        return response

    async def _send(self, came: web.BaseRequest, response: web.StreamResponse, answer: Answer) -> None:
        bodiless = came.method == "HEAD" or answer.status in (204, 304)
        if not bodiless:
            response.content_length = len(answer.body)
        await response.prepare(came)
        if answer.stall_after is not None:
            await response.write(answer.body[: answer.stall_after])
            await self._stop.wait()
        if not bodiless:
            await response.write(answer.body)

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
