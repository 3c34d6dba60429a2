"""A fill value is never the answer to a failure: everything that can go wrong on the way to a virtual chunk.

For every kind of container, and through the store, zarr and xarray. Each failure is an error that names URL, range,
container, status and number of tries.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from multidict import CIMultiDict
from zarr.core.buffer import default_buffer_prototype

import icechunk_virtual as icv
from icechunk_virtual.errors import ObjectChanged, ReadFailure, VirtualReadError
from tests.support.containers import SCHEMES, credentials_for, prefix_of, store_of
from tests.support.hierarchies import array_document, put
from tests.support.object_server import MODIFIED, ObjectServer
from tests.support.proxy import Answer, Request

CONTENT = bytes(range(1, 81))
PATHS = ("/f", "/bucket/f")
TRIES = 3
RANGE = (20, 10)  # chunk 2
HEADERS = {"ETag": '"e"', "Last-Modified": formatdate(MODIFIED, usegmt=True), "Content-Range": "bytes 20-29/80"}


def part(body: bytes = CONTENT[20:30], *, status: int = 206, **more: Any) -> Answer:
    """An answer to the request for chunk 2, perhaps a bad one: arguments of `Answer`, or headers with underscores."""
    headers = HEADERS | {name.replace("_", "-"): more.pop(name) for name in list(more) if name[0].isupper()}
    return Answer(status, CIMultiDict({name: text for name, text in headers.items() if text}), body, **more)


@dataclass(frozen=True)
class Fault:
    """How a server answers, and what has to be said of it. ``web_tries``: where those of web servers are others."""

    answer: Answer
    status: int | None
    tries: int
    words: str
    error: type[ReadFailure] = VirtualReadError
    web_tries: int | None = None

    def of(self, scheme: str) -> Fault:
        return replace(self, tries=self.web_tries) if self.web_tries and scheme == "http" else self


def code(name: str) -> bytes:
    return f"<Error><Code>{name}</Code></Error>".encode()


FAULTS = {
    "404": Fault(Answer(404, body=code("NoSuchKey")), 404, 1, "there is no such object"),
    "403": Fault(Answer(403, body=code("AccessDenied")), 403, 1, "403 Forbidden"),
    "401": Fault(Answer(401), 401, 1, "401 Unauthorized"),
    "400": Fault(Answer(400), 400, 1, "400 Bad Request"),
    "416": Fault(Answer(416), 416, 1, "no such bytes"),
    "408": Fault(Answer(408), 408, TRIES, "408 Request Timeout"),
    "429": Fault(Answer(429), 429, TRIES, "429 Too Many Requests"),
    "500": Fault(Answer(500), 500, TRIES, "500 Internal Server Error"),
    "503": Fault(Answer(503), 503, TRIES, "503 Service Unavailable"),
    "501": Fault(Answer(501), 501, 1, "501 Not Implemented"),
    "cut off": Fault(part(cut_after=5), 206, TRIES, "the connection was cut"),
    "ended": Fault(part(CONTENT[20:25], claimed_length=10), 206, TRIES, "the connection was cut"),
    "too short": Fault(part(CONTENT[20:25]), 206, TRIES, "sent 5 bytes instead of 10", web_tries=1),
    "too long": Fault(part(CONTENT[20:35]), 206, TRIES, "sent 15 bytes instead of 10", web_tries=1),
    "empty": Fault(part(b""), 206, TRIES, "sent 0 bytes instead of 10", web_tries=1),
    "other range": Fault(part(Content_Range="bytes 0-9/80"), 206, 1, "the server sent another range"),
    "impossible range": Fault(part(Content_Range="bytes 20-29/25"), 206, 1, "the server sent another range"),
    "odd range": Fault(part(Content_Range="many"), 206, 1, "does not say which range"),
    "no range": Fault(part(Content_Range=""), 206, 1, "does not say which range"),
    "lost": Fault(Answer(lost=True), None, TRIES, "the connection was cut"),
    "stalled": Fault(part(stall_after=5), 206, TRIES, "nothing came for too long"),
}


class Case:
    """A repository whose array `a` has the virtual chunks 0 to 2 and no chunk 3."""

    def __init__(self, scheme: str, url: str, *, patient: bool = False) -> None:
        self.prefix = prefix_of(scheme, url)
        config = icv.RepositoryConfig(storage=icv.StorageSettings(retries=icv.StorageRetriesSettings(TRIES, 1, 1)))
        store = store_of(scheme, url) if patient else impatient(store_of(scheme, url))
        config.set_virtual_chunk_container(icv.VirtualChunkContainer(self.prefix, store))
        grants = icv.containers_credentials({self.prefix: credentials_for(scheme)})
        self.repo = icv.Repository.create(icv.in_memory_storage(), config, grants)
        session = self.repo.writable_session("main")
        put(session.store, "zarr.json", b'{"zarr_format":3,"node_type":"group","attributes":{}}')
        put(session.store, "a/zarr.json", array_document((40,), (10,), fill_value=77, dimension_names=["x"]))
        for i in range(3):
            session.store.set_virtual_ref(f"a/c/{i}", f"{self.prefix}f", offset=10 * i, length=10, checksum="e")
        session.commit("m")

    @property
    def store(self) -> icv.IcechunkStore:
        return self.repo.readonly_session("main").store

    def get(self, key: str = "a/c/2") -> bytes:
        found = asyncio.run(self.store.get(key, default_buffer_prototype()))
        assert found is not None
        return found.to_bytes()

    def check(self, error: BaseException, fault: Fault) -> None:
        """The error says everything that it has to say, as text and as attributes."""
        assert type(error) is fault.error
        assert isinstance(error, ReadFailure)
        assert not isinstance(error, KeyError | FileNotFoundError)  # zarr takes these for missing chunks
        assert (error.location, error.prefix) == (f"{self.prefix}f", self.prefix)
        assert (error.offset, error.length) == RANGE
        assert (error.status, error.tries) == (fault.status, fault.tries)
        text = str(error)
        assert f"{self.prefix}f, 10 bytes at offset 20, through the container {self.prefix}" in text
        answer = "no status" if fault.status is None else f"status {fault.status}"
        assert f"[{answer}, {fault.tries} {'try' if fault.tries == 1 else 'tries'}]" in text
        if not self.prefix.startswith("http"):  # another transport with words of its own
            assert re.search(fault.words, text)


def impatient(store: Any) -> Any:
    """The same store, which does not wait long for a silent server."""
    if isinstance(store._0, icv.S3Options):
        store._0.network_stream_timeout_seconds = 1
    else:
        store._0["read_timeout"] = "300ms"
    return store


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    with ObjectServer(dict.fromkeys(PATHS, CONTENT)) as running:
        yield running


@pytest.fixture(scope="module")
def cases(server: ObjectServer) -> dict[str, Case]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", "k")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "s")
        made = {scheme: Case(scheme, server.url) for scheme in SCHEMES}
        for case in made.values():
            assert case.get() == CONTENT[20:30]  # opens the store, with these credentials
        return made


@pytest.fixture(autouse=True)
def in_order(server: ObjectServer) -> Iterator[None]:
    yield
    server.reset()


def answering(server: ObjectServer, *answers: Answer) -> None:
    """Give these answers to requests for chunk 2; the last one for ever. Others that ask for it too are refused."""
    left = list(answers)

    async def handle(request: Request, forward: Any) -> Answer:
        if request.range == "bytes=20-29":
            return left.pop(0) if len(left) > 1 else left[0]
        touched = request.range and int(request.range.rpartition("-")[2]) >= 20
        return Answer(404) if touched else await server.serve_object(request, forward)

    server.handle = handle


SLOW = {"stalled"}  # takes the time that a silent server is given: not for other names of the same service
EVERYWHERE = [(n, s) for n in FAULTS for s in SCHEMES if n not in SLOW or s in {"http", "s3", "gs", "az"}]


@pytest.mark.parametrize(("name", "scheme"), EVERYWHERE)
def test_through_the_store(name: str, scheme: str, cases: dict[str, Case], server: ObjectServer) -> None:
    fault = FAULTS[name].of(scheme)
    answering(server, fault.answer)
    with server.recording() as seen, pytest.raises(ReadFailure) as caught:
        cases[scheme].get()
    cases[scheme].check(caught.value, fault)
    asked = [request for request in seen if request.range == "bytes=20-29"]
    again = scheme == "http" and name == "lost"  # on a connection that was used before, each is sent twice
    assert len(asked) == fault.tries * (2 if again else 1)


@pytest.mark.parametrize("scheme", ["http", "s3"])
@pytest.mark.parametrize("name", sorted(FAULTS.keys() - SLOW))
def test_through_zarr_and_xarray(name: str, scheme: str, cases: dict[str, Case], server: ObjectServer) -> None:
    case, fault = cases[scheme], FAULTS[name].of(scheme)
    answering(server, fault.answer)
    for read in (
        lambda: zarr.open_array(case.store, path="a", mode="r")[20:30],
        lambda: zarr.open_array(case.store, path="a", mode="r")[25],
        lambda: zarr.open_array(case.store, path="a", mode="r").get_orthogonal_selection([21, 29]),
        lambda: xr.open_zarr(case.store, consolidated=False, chunks=None)["a"][20:30].values,
    ):
        with pytest.raises(ReadFailure) as caught:
            read()
        case.check(caught.value, fault)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_not_referenced_is_the_fill_value(scheme: str, cases: dict[str, Case], server: ObjectServer) -> None:
    values = zarr.open_array(cases[scheme].store, path="a", mode="r")[:]
    np.testing.assert_array_equal(values, [*CONTENT[:30], *[77] * 10])
    answering(server, Answer(404))
    with pytest.raises(ReadFailure):
        zarr.open_array(cases[scheme].store, path="a", mode="r")[:]
    np.testing.assert_array_equal(zarr.open_array(cases[scheme].store, path="a", mode="r")[30:], [77] * 10)


@pytest.mark.parametrize(
    ("name", "scheme"),
    [(n, s) for n, s in EVERYWHERE if FAULTS[n].of(s).tries == TRIES and n not in SLOW and (n, s) != ("lost", "http")],
)
def test_what_passes(name: str, scheme: str, cases: dict[str, Case], server: ObjectServer) -> None:
    answering(server, *[FAULTS[name].answer] * (TRIES - 1), part())
    with server.recording() as seen:
        assert cases[scheme].get() == CONTENT[20:30]
    assert len(seen) == TRIES


@pytest.mark.parametrize("scheme", SCHEMES)
def test_servers_that_send_everything(scheme: str, cases: dict[str, Case], server: ObjectServer) -> None:
    answering(server, part(CONTENT, status=200, Content_Range=""))
    if scheme == "http":
        assert cases[scheme].get() == CONTENT[20:30]
        return
    with pytest.raises(VirtualReadError) as caught:
        cases[scheme].get()
    cases[scheme].check(caught.value, Fault(Answer(), 200, 1, "everything instead of the range"))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_objects_that_changed(scheme: str, cases: dict[str, Case], server: ObjectServer) -> None:
    async def handle(request: Request, _forward: Any) -> Answer:
        return Answer(412) if "If-Match" in request.headers else part(b"\1", ETag='"new"', Content_Range="bytes 0-0/80")

    server.handle = handle
    with pytest.raises(ObjectChanged) as caught:
        cases[scheme].get()
    cases[scheme].check(caught.value, Fault(Answer(), 412, 1, 'its etag is "new", .* expects e ', ObjectChanged))
    with pytest.raises(ObjectChanged):
        zarr.open_array(cases[scheme].store, path="a", mode="r")[20:30]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_servers_that_ignore_conditions(scheme: str, cases: dict[str, Case], server: ObjectServer) -> None:
    answering(server, part(ETag='"new"'))
    with pytest.raises(ObjectChanged) as caught:
        cases[scheme].get()
    cases[scheme].check(caught.value, Fault(Answer(), 206, 1, 'its etag is "new", .* expects e ', ObjectChanged))


def closed_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["refused", "no host"])
def test_servers_that_are_not_there(name: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    host = "127.0.0.1" if name == "refused" else "no-such-host.invalid"
    words = "the connection was refused" if name == "refused" else "no host of that name"
    case = Case(scheme, f"http://{host}:{closed_port()}", patient=True)
    fault = Fault(Answer(), None, TRIES, words)
    with pytest.raises(ReadFailure) as caught:
        case.get()
    case.check(caught.value, fault)
    with pytest.raises(ReadFailure):
        zarr.open_array(case.store, path="a", mode="r")[20:30]
    np.testing.assert_array_equal(zarr.open_array(case.store, path="a", mode="r")[30:], [77] * 10)


def test_shards_are_no_exception(cases: dict[str, Case], server: ObjectServer) -> None:
    """Zarr reads the index of a shard and its inner chunks by ranges of its own."""
    inner = np.arange(1, 33, dtype="u1")
    local = zarr.create_array({}, shape=(32,), chunks=(4,), shards=(16,), dtype="u1", compressors=None, fill_value=77)
    local[:] = inner
    shards = [bytes(local.store._store_dict[f"c/{i}"].to_bytes()) for i in range(2)]
    for path in PATHS:
        server.objects[path.replace("f", "shards")] = b"".join(shards)
    case = cases["s3"]
    session = case.repo.writable_session("main")
    put(session.store, "s/zarr.json", local.store._store_dict["zarr.json"].to_bytes())
    for i in range(2):
        offset = i * len(shards[0])
        session.store.set_virtual_ref(f"s/c/{i}", f"{case.prefix}shards", offset=offset, length=len(shards[i]))
    np.testing.assert_array_equal(zarr.open_array(session.store, path="s", mode="r")[:], inner)

    last = len(shards[0]) + len(shards[1])
    for broken in (range(len(shards[0]), last), range(len(shards[0]), len(shards[0]) + 1)):  # all of it, or its begin

        async def handle(request: Request, forward: Any, broken: range = broken) -> Answer:
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.range)
            touched = found is not None and int(found[1]) < broken.stop and int(found[2]) >= broken.start
            return Answer(404) if touched else await server.serve_object(request, forward)

        server.handle = handle
        array = zarr.open_array(session.store, path="s", mode="r")
        np.testing.assert_array_equal(array[:16], inner[:16])
        for selection in (slice(16, 20), slice(None), slice(17, 18)):
            with pytest.raises(VirtualReadError):
                array[selection]


# -- files -------------------------------------------------------------------------------------------------------------

SPOILT: dict[str, tuple[Callable[[Path], object], str, type[ReadFailure]]] = {
    "missing": (Path.unlink, "there is no such file", VirtualReadError),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "it is a directory", VirtualReadError),
    "too short": (lambda path: os.truncate(path, 25), "not enough data", VirtualReadError),
    "empty": (lambda path: os.truncate(path, 0), "not enough data", VirtualReadError),
    "changed": (lambda path: os.utime(path, (2**31, 2**31)), "checksum of the object .* changed", ObjectChanged),
}


@pytest.mark.parametrize("name", SPOILT)
def test_files(name: str, tmp_path: Path) -> None:
    spoil, words, kind = SPOILT[name]
    path, prefix = tmp_path / "f", f"{tmp_path.as_uri()}/"
    path.write_bytes(CONTENT)
    config = icv.RepositoryConfig()
    config.set_virtual_chunk_container(icv.VirtualChunkContainer(prefix, icv.local_filesystem_store(tmp_path)))
    store = icv.Repository.create(icv.in_memory_storage(), config, {prefix: None}).writable_session("main").store
    put(store, "zarr.json", b'{"zarr_format":3,"node_type":"group","attributes":{}}')
    put(store, "a/zarr.json", array_document((40,), (10,), fill_value=77, dimension_names=["x"]))
    checksum = None if name != "changed" else datetime.fromtimestamp(path.stat().st_mtime, UTC)
    for i in range(3):
        store.set_virtual_ref(f"a/c/{i}", f"{prefix}f", offset=10 * i, length=10, checksum=checksum)
    array = zarr.open_array(store, path="a", mode="r")
    np.testing.assert_array_equal(array[:], [*CONTENT[:30], *[77] * 10])
    spoil(path)
    for read in (
        lambda: asyncio.run(store.get("a/c/2", default_buffer_prototype())),
        lambda: array[20:30],
        lambda: array[:],
        lambda: xr.open_zarr(store, consolidated=False, chunks=None)["a"].values,
    ):
        with pytest.raises(kind, match=words) as caught:
            read()
        assert (caught.value.prefix, caught.value.location) == (prefix, f"{prefix}f")
        assert (caught.value.status, caught.value.tries) == (None, None)
    np.testing.assert_array_equal(array[30:], [77] * 10)


def test_failures_travel(cases: dict[str, Case], server: ObjectServer) -> None:
    """Tasks on other machines fail with the same error."""
    answering(server, Answer(404))
    with pytest.raises(VirtualReadError) as caught:
        cases["s3"].get()
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), str(copy), vars(copy)) == (VirtualReadError, str(caught.value), vars(caught.value))
