"""Reads from web servers: the requests that are sent, and what becomes of the answers."""

from __future__ import annotations

import asyncio
import logging
import pickle
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from multidict import CIMultiDict

import icechunk_virtual as icv
from icechunk_virtual.containers.checksums import ObjectState
from icechunk_virtual.containers.fetch import Fetcher
from icechunk_virtual.containers.http import answers, client
from icechunk_virtual.containers.url import check_location
from icechunk_virtual.errors import ContainerError, ObjectChanged, VirtualReadError
from icechunk_virtual.model.chunk_refs import VirtualChunk
from icechunk_virtual.repo.object_store import PartPolicy, part_ranges
from tests.support.object_server import ETAG, MODIFIED
from tests.support.proxy import Answer, Forward, Request
from tests.support.web_reads import CONTENT, Reader
from tests.support.web_server import WebServer, busy

WANTED = CONTENT[10:30]


@pytest.fixture(scope="module")
def shared() -> Iterator[WebServer]:
    objects = {f"/{name}": CONTENT for name in ("f", "a b", "a//b", "d/", "~me/x", "\u00e9")}
    with WebServer(objects) as running:
        yield running


@pytest.fixture
def server(shared: WebServer) -> Iterator[WebServer]:
    shared.reset()
    yield shared
    shared.reset()


@pytest.fixture
def read(server: WebServer) -> Reader:
    return Reader(server.url + "/")


def test_one_request_and_what_it_says(server: WebServer, read: Reader) -> None:
    assert read() == WANTED
    (request,) = server.requests
    assert str(request) == "GET /f"
    assert dict(request.headers) == {
        "Host": server.url.removeprefix("http://"),
        "Range": "bytes=10-29",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "User-Agent": f"icechunk-virtual/{icv.__version__}",
    }


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("f?sig=x%2Fy&v=%25#part", "/f?sig=x%2Fy&v=%25"),
        ("a%20b", "/a%20b"),
        ("a b", "/a%20b"),
        ("%7eme/%78", "/%7eme/%78"),
        ("a//b", "/a//b"),
        ("d/", "/d/"),
        ("\u00e9", "/%C3%A9"),
    ],
)
def test_urls_are_sent_as_they_are_written(name: str, target: str, server: WebServer, read: Reader) -> None:
    assert read(name) == WANTED
    assert [request.target for request in server.requests] == [target]


def test_connections_are_kept(server: WebServer, read: Reader) -> None:
    ports = set()
    handle = server.handle

    async def watching(request: Request, forward: Forward) -> Answer:
        ports.add(request.peer)
        return await handle(request, forward)

    server.handle = watching
    for _ in range(3):
        assert read() == WANTED
    assert len(ports) == 1


# -- checksums ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checksum", "header"),
    [
        ({"etag": ETAG}, ("If-Match", ETAG)),
        ({"etag": "e"}, ("If-Match", ETAG)),
        ({"last_modified": MODIFIED}, ("If-Unmodified-Since", "Tue, 14 Nov 2023 22:13:20 GMT")),
        ({"etag": 'W/"e"'}, None),
        ({"etag": "*"}, None),
        ({}, None),
    ],
)
def test_conditions(checksum: Any, header: tuple[str, str] | None, server: WebServer, read: Reader) -> None:
    assert read(**checksum) == WANTED
    (request,) = server.requests
    said = [(name, value) for name, value in request.headers.items() if name.startswith("If-")]
    assert said == ([] if header is None else [header])


@pytest.mark.parametrize("conditions", [True, False])
@pytest.mark.parametrize(("checksum", "actual"), [({"etag": "old"}, ETAG), ({"last_modified": MODIFIED - 1}, MODIFIED)])
def test_changed_files(checksum: Any, actual: Any, conditions: bool, server: WebServer, read: Reader) -> None:
    server.habits.conditions = conditions
    with pytest.raises(ObjectChanged) as caught:
        read(**checksum)
    assert (caught.value.expected, caught.value.actual) == (*checksum.values(), actual)
    assert caught.value.tries == 1
    assert caught.value.status == (412 if conditions else 206)
    assert [request.range for request in server.requests] == ["bytes=10-29", "bytes=0-0"][: 1 + conditions]


def test_changed_files_that_are_shorter_now(server: WebServer, read: Reader) -> None:
    with pytest.raises(ObjectChanged):
        read(offset=300, etag="old")


def test_servers_that_refuse_every_condition(server: WebServer, read: Reader) -> None:
    async def stubborn(request: Request, forward: Forward) -> Answer:
        return Answer(412) if "If-Match" in request.headers else await server.serve_object(request, forward)

    server.handle = stubborn
    assert read(etag=ETAG) == WANTED
    assert [(r.range, r.headers.get("If-Match")) for r in server.requests] == [
        ("bytes=10-29", ETAG),
        ("bytes=0-0", None),
        ("bytes=10-29", None),
    ]

    async def always(_request: Request, _forward: Forward) -> Answer:
        return Answer(412)

    server.handle = always
    with pytest.raises(ObjectChanged, match="is another one now") as caught:
        read(etag=ETAG)
    assert caught.value.actual is None
    with pytest.raises(VirtualReadError, match="412 Precondition Failed"):
        read()


def test_servers_that_say_no_state(server: WebServer, read: Reader) -> None:
    server.habits.etags = server.habits.dates = False
    assert read(etag=ETAG) == WANTED  # the server was asked to compare
    assert read(last_modified=MODIFIED) == WANTED
    with pytest.raises(ObjectChanged):
        read(etag='W/"e"')  # nobody could


# -- ranges ------------------------------------------------------------------------------------------------------


def test_servers_that_ignore_ranges(server: WebServer, read: Reader, caplog: pytest.LogCaptureFixture) -> None:
    server.habits.ranges = False
    assert [read(), read(offset=0, length=256), read(offset=255, length=1)] == [WANTED, CONTENT, CONTENT[255:]]
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [
        f"the server of {server.url}/ ignores byte ranges and sends whole files instead"
    ]
    with pytest.raises(VirtualReadError, match=r"Expected: \(20\), available \(6\): the file has 256 bytes"):
        read(offset=250)


@pytest.mark.parametrize("faults", [{"endless": True}, {"claimed_length": 10**15}, {"claimed_length": -1}])
def test_no_more_is_read_than_is_wanted(faults: dict[str, Any], server: WebServer, read: Reader) -> None:
    """However long an answer is, or says to be."""
    server.habits.ranges = False
    server.habits.faults = faults
    assert read() == WANTED
    assert read(offset=3, length=250) == CONTENT[3:253]


def test_how_much_is_thrown_away(server: WebServer, read: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    server.habits.ranges = False
    monkeypatch.setattr(answers, "MOST_SKIPPED", 100)
    assert read(offset=100) == CONTENT[100:120]
    server.habits.faults = {"endless": True}
    with pytest.raises(VirtualReadError, match=r"ignores byte ranges.*101 bytes.*at most 100") as caught:
        read(offset=101)
    assert caught.value.status == 200
    assert "serves byte ranges" in str(caught.value)


def test_servers_without_head(server: WebServer, read: Reader) -> None:
    server.habits.head = 405
    assert read() == WANTED
    assert {request.method for request in server.requests} == {"GET"}


def halves(start: int, stop: int) -> list[tuple[int, int]]:
    return part_ranges(start, stop, PartPolicy(2, 1))


def test_large_ranges_are_asked_for_in_parts(server: WebServer) -> None:
    read = Reader(server.url + "/", split=halves)
    assert read() == WANTED
    # The first time one part shows that the server serves ranges.
    assert [request.range for request in server.requests] == ["bytes=10-19", "bytes=20-29"]
    server.requests.clear()
    assert read(offset=0, length=256) == CONTENT
    assert sorted(request.range for request in server.requests) == ["bytes=0-127", "bytes=128-255"]


def test_whole_files_are_not_asked_for_once_per_part(server: WebServer) -> None:
    server.habits.ranges = False
    read = Reader(server.url + "/", split=partial(part_ranges, policy=PartPolicy(18, 1)))
    assert read() == read() == WANTED
    assert len(server.requests) == 3


def test_a_failed_part_ends_the_others(server: WebServer) -> None:
    handle = server.handle
    read = Reader(server.url + "/", split=halves, tries=1)
    assert read() == WANTED

    async def half_broken(request: Request, forward: Forward) -> Answer:
        if request.range.startswith("bytes=10"):
            return Answer(500)
        return Answer(206, (await handle(request, forward)).headers, b"", stall_after=0)

    server.handle = half_broken
    with pytest.raises(VirtualReadError, match="500"):
        read()


# -- failures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "reason", "status"),
    [
        ({"lost": True}, "no answer from", None),
        ({"cut_after": 5}, "was cut in the middle", 206),
        ({"cut_after": 0}, "was cut in the middle", 206),
        ({"body": CONTENT[10:15], "claimed_length": -1}, "ended after 5 of 20 bytes", 206),
    ],
)
def test_what_is_tried_again(faults: dict[str, Any], reason: str, status: int | None, server: WebServer) -> None:
    server.habits.faults = faults
    with pytest.raises(VirtualReadError, match=reason) as caught:
        Reader(server.url + "/", tries=3)()
    assert (caught.value.status, caught.value.tries) == (status, 3)
    assert "This may work when tried again" in str(caught.value)
    sent_again = faults == {"lost": True}  # aiohttp does so itself: connections that were kept may be closed by then
    assert len(server.requests) == (6 if sent_again else 3)


@pytest.mark.parametrize("first", [Answer(500), Answer(502), Answer(408), busy(429, "0"), busy(503), Answer(lost=True)])
def test_answers_that_pass(first: Answer, server: WebServer, read: Reader) -> None:
    server.habits.first = [first]
    assert read() == WANTED
    assert len(server.requests) == 2


def test_a_cut_answer_is_made_up_for(server: WebServer, read: Reader) -> None:
    whole = Answer(206, body=WANTED, cut_after=7)
    whole.headers["Content-Range"] = "bytes 10-29/256"
    server.habits.first = [whole, whole]
    assert read() == WANTED
    assert [request.range for request in server.requests] == ["bytes=10-29"] * 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 416, 501])
def test_what_is_not_tried_again(status: int, server: WebServer, read: Reader) -> None:
    server.habits.first = [Answer(status)]
    with pytest.raises(VirtualReadError, match=rf"answered {status} .*\[status {status}, 1 try\]") as caught:
        read()
    assert (caught.value.status, caught.value.tries, len(server.requests)) == (status, 1, 1)
    assert (caught.value.location, caught.value.offset, caught.value.length) == (server.url + "/f", 10, 20)
    assert caught.value.prefix == server.url + "/"


@pytest.mark.parametrize(
    ("habit", "value", "reason"),
    [
        ("content_range", "bytes 0-19/256", "another range"),
        ("content_range", "", "without saying which"),
        ("faults", {"claimed_length": 19}, "sent 19 bytes"),
        ("faults", {"body": CONTENT, "claimed_length": -1}, "more bytes than it said"),
    ],
)
def test_answers_that_contradict_themselves(habit: str, value: Any, reason: str, server: WebServer) -> None:
    setattr(server.habits, habit, value)
    with pytest.raises(VirtualReadError, match=reason) as caught:
        Reader(server.url + "/")()
    assert caught.value.status == 206


def test_pages_are_no_files(server: WebServer, read: Reader) -> None:
    page = Answer(200, body=b"<html>" * 100)
    page.headers["Content-Type"] = "text/html"
    server.habits.first = [page]
    with pytest.raises(VirtualReadError, match=r"(?s)web page instead of the file.*http_credentials\(netrc=True\)"):
        read()


def test_nothing_is_unpacked(server: WebServer, read: Reader) -> None:
    """The bytes of a range are those of the file, whatever the server says about it."""
    answer = Answer(206, CIMultiDict({"Content-Range": "bytes 10-29/256", "Content-Encoding": "gzip"}), WANTED)
    server.habits.first = [answer]
    assert read() == WANTED
    assert len(server.requests) == 1


def test_nobody_listens() -> None:
    with WebServer({}) as gone:
        prefix = gone.url + "/"
    with pytest.raises(VirtualReadError, match="no answer from") as caught:
        Reader(prefix, tries=2)()
    assert (caught.value.status, caught.value.tries) == (None, 2)


def test_no_such_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(VirtualReadError, match=r"there is no host of that name: data\.example\.org") as caught:
        Reader("http://data.example.org/", tries=2)()
    assert caught.value.tries == 2


def test_silence(server: WebServer) -> None:
    server.habits.faults = {"stall_after": 3}
    with pytest.raises(VirtualReadError, match="is silent"):
        Reader(server.url + "/", tries=1, read_timeout="50ms")()
    server.habits.faults = {"latency": 5.0}
    with pytest.raises(VirtualReadError, match="is silent"):
        Reader(server.url + "/", tries=1, read_timeout="50ms")()
    with pytest.raises(VirtualReadError, match="longer than the timeout"):
        Reader(server.url + "/", tries=1, timeout="50ms")()


def test_what_is_no_http() -> None:
    with WebServer({}) as server:

        async def nonsense(_request: Request, _forward: Forward) -> Answer:
            return Answer(raw=b"220 welcome to ftp\r\n")

        server.handle = nonsense
        with pytest.raises(VirtualReadError, match="is not HTTP"):
            Reader(server.url + "/", tries=1)()


# -- options -----------------------------------------------------------------------------------------------------


def test_options(server: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    assert Reader(server.url + "/", user_agent="me", no_such_option="1")() == WANTED
    assert server.requests[0].headers["User-Agent"] == "me"
    assert "nobody knows are ignored: ['no_such_option']" in caplog.text
    with pytest.raises(ContainerError, match=r"cannot be opened: option timeout: 'bad' is no Duration"):
        Reader(server.url + "/", timeout="bad")()
    with pytest.raises(ContainerError, match="URL scheme is not allowed"):
        Reader(server.url + "/", allow_http="false")()


def test_without_aiohttp(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str) -> None:
        raise ModuleNotFoundError("No module named 'aiohttp'", name="aiohttp")

    monkeypatch.setattr(client.importlib, "import_module", missing)
    with pytest.raises(ContainerError, match=r'pip install "icechunk-virtual\[http\]"') as caught:
        Reader(server.url + "/")()
    assert caught.value.location == server.url + "/f"


# -- the state of what is read -----------------------------------------------------------------------------------


def with_state(read: Reader, offset: int, length: int) -> tuple[bytes, ObjectState]:
    url = read.prefix + "f"
    grant, chunk = read.authorization.readable(url), VirtualChunk(url, offset, length)
    data, state = asyncio.run(read.client.read_with_state(grant, check_location(url), chunk, offset, length))
    return bytes(data), state


@pytest.mark.parametrize("ranges", [True, False])
def test_bytes_and_state_from_one_answer(ranges: bool, server: WebServer, read: Reader) -> None:
    server.habits.ranges = ranges
    state = ObjectState(256, ETAG, MODIFIED)
    assert with_state(read, 0, 16) == (CONTENT[:16], state)
    assert with_state(read, 250, 100) == (CONTENT[250:], state)
    assert len(server.requests) == 2


def test_state_of_an_empty_file() -> None:
    with WebServer({"/f": b""}) as server:

        async def empty(_request: Request, _forward: Forward) -> Answer:
            answer = Answer(416)
            answer.headers["Content-Range"] = "bytes */0"
            return answer

        server.handle = empty
        assert with_state(Reader(server.url + "/"), 0, 16) == (b"", ObjectState(0))


# -- event loops, threads, copies --------------------------------------------------------------------------------


def test_many_loops_and_threads_share_connections(server: WebServer, read: Reader) -> None:
    async def several() -> list[bytes]:
        return await asyncio.gather(*(read.read("f", i, 20) for i in range(10)))

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: asyncio.run(several()), range(8)))
    assert results == [[CONTENT[i : i + 20] for i in range(10)]] * 8
    assert len(read.client._sites) == 1


def test_the_limit_bounds_requests(server: WebServer) -> None:
    read = Reader(server.url + "/", limit=3)
    running, most = 0, 0
    handle = server.handle

    async def counting(request: Request, forward: Forward) -> Answer:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1
        return await handle(request, forward)

    async def several() -> None:
        await asyncio.gather(*(read.read("f", i) for i in range(20)))

    server.handle = counting
    asyncio.run(several())
    assert most == 3


def test_who_stops_waiting_stops_the_request(server: WebServer, read: Reader) -> None:
    arrived = threading.Event()

    async def never(_request: Request, _forward: Forward) -> Answer:
        arrived.set()
        return Answer(206, CIMultiDict({"Content-Range": "bytes 10-29/256"}), WANTED, stall_after=1)

    async def impatient() -> None:
        task = asyncio.create_task(read.read("f"))
        await asyncio.to_thread(arrived.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    server.handle = never
    asyncio.run(impatient())
    server.reset()
    assert read() == WANTED


def test_fetchers_travel(server: WebServer) -> None:
    prefix = server.url + "/"
    config = icv.RepositoryConfig(virtual_chunk_containers={})
    config.set_virtual_chunk_container(icv.VirtualChunkContainer(prefix, icv.http_store({"allow_http": "true"})))
    repository = icv.Repository.create(
        icv.in_memory_storage(),
        config,
        icv.containers_credentials({prefix: icv.http_credentials(bearer_token="token")}),
    )
    fetcher = repository._opened.fetcher
    assert isinstance(fetcher, Fetcher)
    chunk = VirtualChunk(prefix + "f", 10, 20)
    for copy in (fetcher, pickle.loads(pickle.dumps(fetcher))):
        assert bytes(asyncio.run(copy.fetch(chunk))) == WANTED
    assert [request.headers["Authorization"] for request in server.requests] == ["Bearer token"] * 2
