"""An emulator of Google Cloud Storage on the loopback interface, in a thread: ``with gcs_server() as url``.

The emulator knows Google's JSON API. The obstore library speaks the XML API, with preconditions, and no emulator in the
Python package index has those: `XmlApi` translates, and compares generations, which the emulator counts.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from gcp_storage_emulator.server import create_server
from multidict import CIMultiDict, CIMultiDictProxy

from tests.support.proxy import Answer, Forward, Request

BUCKET = "b"
NOTHING = CIMultiDictProxy(CIMultiDict[str]())
META = "x-goog-meta-"
BEGUN, ENDED = "InitiateMultipartUploadResult", "CompleteMultipartUploadResult"
Headers = CIMultiDictProxy[str]
Metadata = dict[str, Any]


@dataclass
class Upload:
    """An object on its way in parts; the headers are those of the first request."""

    headers: Headers
    parts: dict[int, bytes] = field(default_factory=dict)


@contextmanager
def gcs_server() -> Iterator[str]:
    """Start the emulator with one bucket, `BUCKET`, and stop it."""
    with create_server("127.0.0.1", 0, in_memory=True, default_bucket=BUCKET) as server:
        yield f"http://127.0.0.1:{server._api._httpd.server_address[1]}"


class XmlApi:
    """A handler of a `Proxy` before the emulator."""

    def __init__(self) -> None:
        self.writing = asyncio.Lock()
        self.at_once = asyncio.Semaphore(4)  # the emulator takes few connections, and lets others wait for seconds
        self.uploads: dict[str, Upload] = {}
        self.numbers = itertools.count(1)

    async def handle(self, request: Request, forward: Forward) -> Answer:
        async with self.at_once:
            return await self.answer(request, forward)

    async def answer(self, request: Request, forward: Forward) -> Answer:
        url = urlsplit(request.target)
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        key = unquote(url.path.lstrip("/").partition("/")[2])
        if not key:
            return await self.listing(query, forward)
        if {"uploads", "uploadId"} & query.keys():
            return await self.upload(key, query, request, forward)
        match request.method:
            case "PUT":
                return await self.put(key, request, forward)
            case "DELETE":
                return Answer(204 if (await forward(asked("DELETE", path_of(key)))).status == 200 else 404)
            case _:
                return await self.get(key, request, forward)

    async def put(self, key: str, request: Request, forward: Forward) -> Answer:
        wanted = request.headers.get("x-goog-if-generation-match")
        async with self.writing:
            if wanted is not None:
                found = await self.metadata(key, forward)
                if wanted != ("0" if found is None else found["generation"]):
                    return Answer(412, body=b"<Error><Code>PreconditionFailed</Code></Error>")
            return await self.store(key, request.body, request.headers, forward)

    async def store(self, key: str, body: bytes, headers: Headers, forward: Forward) -> Answer:
        described = {
            "name": key,
            "contentType": headers.get("Content-Type"),
            "storageClass": headers.get("x-goog-storage-class", "STANDARD"),
            "metadata": {name[len(META) :]: value for name, value in headers.items() if name.lower().startswith(META)},
        }
        lines = ["", "--part", "Content-Type: application/json", "", json.dumps(described), "--part"]
        lines += ["Content-Type: application/octet-stream", "Content-Transfer-Encoding: base64", ""]
        lines += [base64.b64encode(body).decode(), "--part--", ""]
        kind = CIMultiDictProxy(CIMultiDict({"Content-Type": "multipart/related; boundary=part"}))
        target = f"/upload/storage/v1/b/{BUCKET}/o?uploadType=multipart"
        answer = await forward(Request("POST", target, kind, "\r\n".join(lines).encode()))
        return Answer(200, headers_of(json.loads(answer.body)))

    async def get(self, key: str, request: Request, forward: Forward) -> Answer:
        found = await self.metadata(key, forward)
        if found is None:
            return Answer(404, body=b"<Error><Code>NoSuchKey</Code></Error>")
        headers, size = headers_of(found), int(found["size"])
        if request.method == "HEAD":
            headers["Content-Length"] = found["size"]
            return Answer(200, headers)
        part = re.fullmatch(r"bytes=(\d+)-\d+", request.headers.get("Range", ""))
        if part and int(part[1]) >= size:
            return Answer(416, body=b"<Error><Code>InvalidRange</Code></Error>")
        if not met(found, request):
            return Answer(412, body=b"<Error><Code>PreconditionFailed</Code></Error>")
        answer = await forward(Request("GET", f"{path_of(key)}?alt=media", request.headers, b""))
        headers.update({name: answer.headers[name] for name in ("Content-Range",) if name in answer.headers})
        return Answer(answer.status, headers, answer.body)

    async def metadata(self, key: str, forward: Forward) -> Metadata | None:
        answer = await forward(asked("GET", path_of(key)))
        return json.loads(answer.body) if answer.status == 200 else None

    async def listing(self, query: dict[str, str], forward: Forward) -> Answer:
        prefix = quote(query.get("prefix", ""), safe="")
        answer = await forward(asked("GET", f"/storage/v1/b/{BUCKET}/o?prefix={prefix}"))
        found = sorted(json.loads(answer.body).get("items", []), key=lambda item: item["name"])
        items = "".join(
            f"<Contents><Key>{escape(item['name'])}</Key><Size>{item['size']}</Size>"
            f"<ETag>{escape(headers_of(item)['ETag'])}</ETag><LastModified>{item['updated']}</LastModified></Contents>"
            for item in found
            if item["name"] > query.get("start-after", "")
        )
        return Answer(body=f"<ListBucketResult>{items}</ListBucketResult>".encode())

    async def upload(self, key: str, query: dict[str, str], request: Request, forward: Forward) -> Answer:
        if "uploads" in query:
            id = f"upload-{next(self.numbers)}"
            self.uploads[id] = Upload(request.headers)
            return Answer(body=f"<{BEGUN}><UploadId>{id}</UploadId></{BEGUN}>".encode())
        upload = self.uploads.get(query["uploadId"])
        if upload is None:
            return Answer(404, body=b"<Error><Code>NoSuchUpload</Code></Error>")
        if request.method == "PUT":
            upload.parts[int(query["partNumber"])] = request.body
            return Answer(200, CIMultiDict({"ETag": f'"{query["partNumber"]}"'}))
        del self.uploads[query["uploadId"]]
        if request.method == "DELETE":
            return Answer(204)
        body = b"".join(upload.parts[number] for number in sorted(upload.parts))
        answer = await self.store(key, body, upload.headers, forward)
        answer.body = f"<{ENDED}><ETag>{escape(answer.headers['ETag'])}</ETag></{ENDED}>".encode()
        return answer


def asked(method: str, target: str) -> Request:
    return Request(method, target, NOTHING, b"")


def path_of(key: str) -> str:
    return f"/storage/v1/b/{BUCKET}/o/{quote(key, safe='')}"


def headers_of(found: Metadata) -> CIMultiDict[str]:
    """Google's tags are other ones whenever the object is written; those of the emulator depend on its content."""
    return CIMultiDict(
        {
            "ETag": f'"{found["etag"]}-{found["generation"]}"',
            "Last-Modified": format_datetime(modified(found), usegmt=True),
            "x-goog-generation": found["generation"],
        }
    )


def modified(found: Metadata) -> datetime:
    return datetime.fromisoformat(found["updated"])


def met(found: Metadata, request: Request) -> bool:
    """Whether the conditions of a read hold."""
    wanted, since = request.headers.get("If-Match"), request.headers.get("If-Unmodified-Since")
    if wanted is not None:
        return wanted == headers_of(found)["ETag"]
    return since is None or modified(found).replace(microsecond=0) <= parsedate_to_datetime(since)
