"""Object stores that speak as much of Google's and Azure's protocols as a repository needs, as handlers of a `Proxy`.

They keep objects in memory and check no signatures. What the real services do beyond that is not their business.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from multidict import CIMultiDict

from tests.support.proxy import Answer, Forward, Request


@dataclass
class Stored:
    body: bytes
    generation: int
    headers: dict[str, str]
    seconds: int = field(default_factory=lambda: int(time.time()))

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.body + str(self.generation).encode()).hexdigest()}"'


@dataclass
class FakeCloud:
    """One bucket. `objects` may be looked at; `fail` more requests are answered by 503 first."""

    objects: dict[str, Stored] = field(default_factory=dict)
    fail: int = 0
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def handle(self, request: Request, _forward: Forward) -> Answer:
        if self.fail:
            self.fail -= 1
            return Answer(503)
        url = urlsplit(request.target)
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        key = unquote(self.key_of(url.path))
        if not key:
            return self.of_the_bucket(request, query)
        match request.method:
            case "PUT":
                return self.put(key, request)
            case "DELETE":
                return Answer(202 if self.objects.pop(key, None) else 404)
            case _:
                return self.get(key, request)

    def put(self, key: str, request: Request) -> Answer:
        status = self.refusal(self.objects.get(key), request)
        if status is not None:
            return Answer(status)
        sent = {name.lower(): value for name, value in request.headers.items()}
        self.objects[key] = Stored(request.body, next(self.numbers), sent)
        return Answer(201, self.headers(self.objects[key]))

    def get(self, key: str, request: Request) -> Answer:
        found = self.objects.get(key)
        if found is None:
            return Answer(404)
        headers, wanted = self.headers(found), re.match(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        if request.method == "HEAD":
            headers["Content-Length"] = str(len(found.body))
        if wanted is None:
            return Answer(200, headers, found.body)
        start, last = map(int, wanted.groups())
        headers["Content-Range"] = f"bytes {start}-{min(last, len(found.body) - 1)}/{len(found.body)}"
        return Answer(206, headers, found.body[start : last + 1])

    def headers(self, stored: Stored) -> CIMultiDict[str]:
        return CIMultiDict({"ETag": stored.etag, "Last-Modified": formatdate(stored.seconds, usegmt=True)})

    def listed(self, query: dict[str, str]) -> list[tuple[str, Stored]]:
        return sorted(item for item in self.objects.items() if item[0].startswith(query.get("prefix", "")))

    def key_of(self, path: str) -> str:
        raise NotImplementedError

    def refusal(self, found: Stored | None, request: Request) -> int | None:
        raise NotImplementedError

    def of_the_bucket(self, request: Request, query: dict[str, str]) -> Answer:
        """Listings, and whatever else has no object in its address."""
        raise NotImplementedError


class FakeGoogle(FakeCloud):
    def key_of(self, path: str) -> str:
        return path.lstrip("/").partition("/")[2]

    def headers(self, stored: Stored) -> CIMultiDict[str]:
        headers = super().headers(stored)
        headers["x-goog-generation"] = str(stored.generation)
        return headers

    def refusal(self, found: Stored | None, request: Request) -> int | None:
        wanted = request.headers.get("x-goog-if-generation-match")
        actual = "0" if found is None else str(found.generation)
        return None if wanted in (None, actual) else 412

    def of_the_bucket(self, request: Request, query: dict[str, str]) -> Answer:
        items = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(stored.body)}</Size><ETag>{escape(stored.etag)}</ETag>"
            f"<LastModified>{datetime.fromtimestamp(stored.seconds, UTC):%Y-%m-%dT%H:%M:%SZ}</LastModified></Contents>"
            for key, stored in self.listed(query)
        )
        return Answer(body=f"<ListBucketResult>{items}</ListBucketResult>".encode())


class FakeAzure(FakeCloud):
    def key_of(self, path: str) -> str:
        return path.lstrip("/").partition("/")[2]

    def refusal(self, found: Stored | None, request: Request) -> int | None:
        if request.headers.get("If-None-Match") == "*" and found is not None:
            return 409
        wanted = request.headers.get("If-Match")
        return 412 if wanted is not None and (found is None or found.etag != wanted) else None

    def of_the_bucket(self, request: Request, query: dict[str, str]) -> Answer:
        if query.get("comp") == "batch":
            return self.batch(request)
        items = "".join(
            f"<Blob><Name>{escape(key)}</Name><Properties>"
            f"<Last-Modified>{formatdate(stored.seconds, usegmt=True)}</Last-Modified>"
            f"<Content-Length>{len(stored.body)}</Content-Length><Content-Type/><Etag>{escape(stored.etag)}</Etag>"
            f"</Properties></Blob>"
            for key, stored in self.listed(query)
        )
        return Answer(body=f"<EnumerationResults><Blobs>{items}</Blobs></EnumerationResults>".encode())

    def batch(self, request: Request) -> Answer:
        """Delete several objects: a request of requests, answered by an answer of answers."""
        lines = []
        for number, path in enumerate(re.findall(rb"DELETE (\S+) HTTP", request.body)):
            gone = self.objects.pop(unquote(self.key_of(urlsplit(path.decode()).path)), None)
            status = "202 Accepted" if gone else "404 The specified blob does not exist."
            lines += ["--batch", "Content-Type: application/http", f"Content-ID: {number}", "", f"HTTP/1.1 {status}"]
            lines += ["x-ms-error-code: BlobNotFound", "", ""] if not gone else ["x-ms-version: 2023-11-03", "", ""]
        body = "\r\n".join([*lines, "--batch--", ""]).encode()
        return Answer(202, CIMultiDict({"Content-Type": "multipart/mixed; boundary=batch"}), body)
