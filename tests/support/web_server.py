"""Web servers as they are met in the wild: without ranges, HEAD or checksums, busy, redirecting, behind a login.

They listen on the loopback interface and write down what they are asked; see `proxy.Proxy`.
"""

from __future__ import annotations

import base64
import itertools
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from multidict import CIMultiDict

from tests.support.object_server import ObjectServer
from tests.support.proxy import Answer, Forward, Proxy, Request


@dataclass
class Habits:
    """What a server does otherwise than others. It may be changed at any time.

    Attributes
    ----------
    first
        Answers to the first requests, whatever they ask for; used up from the front.
    redirects
        Path to the status and the target of a redirect. The target is sent as it is.
    ranges, conditions, etags, dates
        Whether the server knows what that is.
    head
        Status of HEAD requests, if the server has none.
    content_range
        Sent instead of the right one; empty: none.
    faults
        Attributes of `Answer` that every good answer gets, such as ``cut_after``.
    """

    first: list[Answer] = field(default_factory=list)
    redirects: dict[str, tuple[int, str]] = field(default_factory=dict)
    ranges: bool = True
    conditions: bool = True
    etags: bool = True
    dates: bool = True
    head: int | None = None
    content_range: str | None = None
    faults: dict[str, Any] = field(default_factory=dict)


class WebServer(ObjectServer):
    """An `ObjectServer` with `habits`, which are arguments too: ``WebServer({"/f": b"..."}, ranges=False)``."""

    def __init__(
        self,
        objects: dict[str, bytes],
        *,
        host: str = "127.0.0.1",
        latency: float = 0.0,
        tls: ssl.SSLContext | None = None,
        **habits: Any,
    ) -> None:
        self._usual = habits
        super().__init__(objects, host=host, latency=latency, tls=tls)

    def reset(self) -> None:
        """Forget the log, and have the first habits again."""
        super().reset()
        self.habits = Habits(**self._usual)
        self.handle = self._behave

    def redirect(self, path: str, target: str, status: int = 302) -> str:
        """Redirect a path from now on; returns its URL."""
        self.habits.redirects[path] = (status, target)
        return self.url + path

    async def _behave(self, request: Request, forward: Forward) -> Answer:
        habits = self.habits
        if habits.first:
            return habits.first.pop(0)
        if request.method == "HEAD" and habits.head is not None:
            return Answer(habits.head)
        path = request.target.partition("?")[0]
        if path in habits.redirects:
            return redirect(*habits.redirects[path])
        self.deaf = not habits.conditions
        answer = await self.serve_object(self._understood(request), forward)
        if answer.status not in (200, 206):
            return answer
        for name, known in (("ETag", habits.etags), ("Last-Modified", habits.dates)):
            if not known:
                answer.headers.popall(name, None)
        if habits.content_range is not None and "Content-Range" in answer.headers:
            answer.headers.popall("Content-Range")
            if habits.content_range:
                answer.headers["Content-Range"] = habits.content_range
        for name, value in habits.faults.items():
            setattr(answer, name, value)
        return answer

    def _understood(self, request: Request) -> Request:
        if self.habits.ranges:
            return request
        headers = CIMultiDict(request.headers)
        headers.popall("Range", None)
        return Request(request.method, request.target, headers, request.body)  # type: ignore[arg-type]


def redirect(status: int, target: str, **headers: str) -> Answer:
    return Answer(status, CIMultiDict({"Location": target, **headers}), b"moved")


def busy(status: int = 503, retry_after: str | None = None) -> Answer:
    """A server's request to come back later."""
    return Answer(status, CIMultiDict({} if retry_after is None else {"Retry-After": retry_after}), b"later")


class LoginServer(Proxy):
    """Redirects back to whoever sent somebody here, with a code, for the right name and password."""

    def __init__(self, user: str, password: str, **address: Any) -> None:
        self.secret = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.codes: set[str] = set()
        self._numbers = itertools.count()
        super().__init__(**address)

    def reset(self) -> None:
        """Forget the log and stop interfering."""
        super().reset()
        self.handle = self._log_in

    async def _log_in(self, request: Request, _forward: Forward) -> Answer:
        if request.headers.get("Authorization") != self.secret:
            return Answer(401, CIMultiDict({"WWW-Authenticate": 'Basic realm="log in"'}), b"HTTP Basic: Access denied.")
        query = parse_qs(urlsplit(request.target).query)
        code = f"code-{next(self._numbers)}"
        self.codes.add(code)
        back = f"{query['redirect_uri'][0]}?code={code}&state={quote(query['state'][0], safe='')}"
        answer = redirect(302, back)
        answer.headers["Set-Cookie"] = "logged_in=yes; Path=/; HttpOnly"
        return answer


class ProtectedServer(WebServer):
    """A server that shows objects to who has a session of its own, which needs a code of the `LoginServer`."""

    def __init__(self, objects: dict[str, bytes], login: LoginServer, **more: Any) -> None:
        self.login = login
        self._session = "open"
        super().__init__(objects, **more)

    def sessions_end(self) -> None:
        """Who was logged in is so no more."""
        self._session += "-again"

    def reset(self) -> None:
        """Forget the log, and have the first habits again. Sessions go on."""
        super().reset()
        self.handle = self._guard

    async def _guard(self, request: Request, forward: Forward) -> Answer:
        if request.target.startswith("/login?"):
            return self._begin_session(parse_qs(urlsplit(request.target).query))
        if f"session={self._session};" in request.headers.get("Cookie", "") + ";":
            return await self._behave(request, forward)
        query = {"client_id": "me", "response_type": "code", "redirect_uri": f"{self.url}/login"}
        query["state"] = self.url + request.target
        asked = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
        return redirect(302, f"{self.login.url}/oauth/authorize?{asked}")

    def _begin_session(self, query: dict[str, list[str]]) -> Answer:
        if query["code"][0] not in self.login.codes:
            return Answer(403)
        self.login.codes.remove(query["code"][0])
        answer = redirect(302, query["state"][0])
        answer.headers["Set-Cookie"] = f"session={self._session}; Path=/; HttpOnly"
        return answer


@contextmanager
def protected_server(
    objects: dict[str, bytes], user: str = "me", password: str = "secret"
) -> Iterator[tuple[ProtectedServer, LoginServer]]:
    """Data and login on two hosts of this machine: the pattern of NASA's Earthdata login."""
    with (
        LoginServer(user, password, host="127.0.0.2") as login,
        ProtectedServer(objects, login, host="127.0.0.1") as data,
    ):
        yield data, login
