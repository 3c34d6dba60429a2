"""A web server with objects that can be read in ranges and on conditions, as S3, Google, Azure and plain servers do.

It listens on the loopback interface and writes down what it is asked; see `proxy.Proxy`.
"""

from __future__ import annotations

import re
from email.utils import formatdate, parsedate_to_datetime
from typing import Any
from urllib.parse import unquote

from multidict import CIMultiDict

from tests.support.proxy import Answer, Forward, Proxy, Request

MODIFIED = 1_700_000_000
ETAG = '"e"'


class ObjectServer(Proxy):
    """Answers with ``objects[path]``; the path is decoded and has no query.

    Every object has `etag` and was `modified` at that second (``None``: not said), which may be changed at any time.
    Weak etags never match a condition.

    Parameters
    ----------
    objects
    deaf
        Conditions are ignored.
    address
        Of `Proxy`.
    """

    def __init__(self, objects: dict[str, bytes], *, deaf: bool = False, **address: Any) -> None:
        self.objects = objects
        self.deaf = deaf
        self.etag: str | None = ETAG
        self.modified: int | None = MODIFIED
        super().__init__(**address)

    def reset(self) -> None:
        """Forget the log and stop interfering."""
        super().reset()
        self.handle = self.serve_object

    async def serve_object(self, request: Request, _forward: Forward) -> Answer:
        """What a server does that is in order: a handler."""
        path = unquote(request.target.partition("?")[0])
        if path not in self.objects:
            return Answer(404)
        if not self.deaf and not self._holds(request):
            return Answer(412)
        data = self.objects[path]
        headers: CIMultiDict[str] = CIMultiDict()
        if self.etag is not None:
            headers["ETag"] = self.etag
        if self.modified is not None:
            headers["Last-Modified"] = formatdate(self.modified, usegmt=True)
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        if found is None:
            return Answer(200, headers, data)
        start, stop = int(found[1]), min(int(found[2]) + 1, len(data))
        if start >= stop:
            return Answer(416)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        return Answer(206, headers, data[start:stop])

    def _holds(self, request: Request) -> bool:
        match, since = request.headers.get("If-Match"), request.headers.get("If-Unmodified-Since")
        if match is not None:
            return match == "*" or (
                self.etag is not None and match in (self.etag, self.etag.strip('"')) and match[:2] != "W/"
            )
        return since is None or self.modified is None or parsedate_to_datetime(since).timestamp() >= self.modified
