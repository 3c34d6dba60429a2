"""Hostile web servers: where they may send the reader, what they get to know, and how much they can make it take."""

from __future__ import annotations

import gzip
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zarr
from multidict import CIMultiDict

import icechunk_virtual as icv
from icechunk_virtual.credentials import http_credentials
from icechunk_virtual.errors import IcechunkError, NotAuthorized, ScanError
from icechunk_virtual.storage import http_store
from tests.support.hierarchies import GROUP, array_document, put
from tests.support.hostile import CONTENT, open_and_read, repository_of_another
from tests.support.proxy import Answer, Forward, Proxy, Request
from tests.support.source import ROOT
from tests.support.web_server import LoginServer, WebServer, redirect

OTHER = "127.0.0.2"


@pytest.fixture(scope="module")
def server() -> Iterator[WebServer]:
    with WebServer({"/d/f": CONTENT}) as running:
        yield running


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[WebServer]:
    """A machine of the inner network that nobody was authorised for."""
    with WebServer({"/d/f": CONTENT}, host=OTHER) as running:
        yield running


@pytest.fixture(autouse=True)
def afresh(server: WebServer, elsewhere: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.reset()
    elsewhere.reset()
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def read(server: Proxy, credentials: Any = None, **reference: Any) -> bytes:
    """What whoever opened the repository for this server reads."""
    prefix = f"{server.url}/d/"
    retries = icv.StorageRetriesSettings(max_tries=2, initial_backoff_ms=1, max_backoff_ms=1)
    storage = repository_of_another(
        {prefix: http_store({"allow_http": "true"})},
        f"{prefix}f",
        settings=icv.StorageSettings(retries=retries),
        **reference,
    )
    return open_and_read(storage, {prefix: credentials})


def special(port: int) -> Iterator[str]:
    """Hosts of this machine and others that a stranger has no business with, however they are written."""
    yield from (f"{OTHER}:{port}", f"localhost:{port}", f"LOCALHOST.:{port}", f"127.2:{port}", f"0x7f000002:{port}")
    yield from (
        f"2130706434:{port}",
        f"0177.0.0.2:{port}",
        f"0:{port}",
        f"0.0.0.0:{port}",
        f"[::1]:{port}",
        f"[::]:{port}",
    )
    yield from (f"[::ffff:{OTHER}]:{port}", f"[::ffff:7f00:2]:{port}", f"[64:ff9b::7f00:2]:{port}")
    yield from (
        "169.254.169.254",
        "[fd00:ec2::254]",
        "10.0.0.1",
        "192.168.0.1",
        "172.16.0.1",
        "100.64.0.1",
        "[fe80::1]",
    )


@pytest.mark.parametrize("number", range(21))
def test_T30_no_redirect_leads_into_the_inner_network(number: int, server: WebServer, elsewhere: WebServer) -> None:
    hosts = list(special(elsewhere.port))
    assert len(hosts) == 21
    server.redirect("/d/f", f"http://{hosts[number]}/d/f")
    with elsewhere.recording() as seen, pytest.raises(IcechunkError, match="no address of the public internet"):
        read(server)
    assert not seen


def test_T30_whoever_opened_the_repository_may_allow_it(server: WebServer, elsewhere: WebServer) -> None:
    server.redirect("/d/f", f"{elsewhere.url}/d/f")
    assert read(server, http_credentials(redirect_hosts=[OTHER])) == CONTENT[:10]


def test_T30_nor_when_a_file_is_scanned(server: WebServer, elsewhere: WebServer) -> None:
    server.redirect("/d/f.nc", f"{elsewhere.url}/d/f")
    with elsewhere.recording() as seen, pytest.raises(ScanError, match="no address of the public internet"):
        icv.scan(f"{server.url}/d/f.nc")
    assert not seen


def test_T30_nor_do_many_redirects(server: WebServer, elsewhere: WebServer) -> None:
    server.redirect("/d/f", "/1")
    server.redirect("/1", "2", status=307)
    server.redirect("/2", f"//{OTHER}:{elsewhere.port}/d/f", status=308)
    with elsewhere.recording() as seen, pytest.raises(IcechunkError, match="no address of the public internet"):
        read(server)
    assert not seen


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "ftp://127.0.0.1/x",
        "gopher://127.0.0.1:25/x",
        "data:,xxxxxxxxxx",
        "javascript:0",
        "s3://bucket/x",
        "http://me:secret@127.0.0.1/x",
        "http://127.0.0.1:1@evil.org/x",
        "http://evil.org\\@127.0.0.1/x",
        "//evil.org\\127.0.0.1/x",
        "http://127.0.0.1:0/",
        "http://127.0.0.1:99999/",
        "http://[::1/",
        "http://\uff11\uff12\uff17.0.0.2/",
        "http://127.0.0.1%2f@evil.org/",
        "http:///x",
        "http://",
        "",
    ],
)
def test_T31_redirects_to_what_is_no_web_address(target: str, server: WebServer) -> None:
    server.redirect("/d/f", target)
    with server.recording() as seen, pytest.raises(IcechunkError, match="the server redirects"):
        read(server)
    assert len(seen) == 1, "and it is not tried again"


def test_T31_redirects_end(server: WebServer) -> None:
    server.redirect("/d/f", "/d/g")
    server.redirect("/d/g", "/d/f")
    with server.recording() as seen, pytest.raises(IcechunkError, match="redirects more than 10 times"):
        read(server)
    assert len(seen) == 11


EVERYTHING = {"authorization", "cookie", "x-key"}
KINDS = {
    "token": {"bearer_token": "CANARY"},
    "password": {"username": "me", "password": "CANARY"},
    "headers": {"headers": {"X-Key": "CANARY", "Cookie": "c=CANARY"}},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("host", [OTHER, "127.0.0.1"])
def test_T32_credentials_stay_with_the_server_that_they_are_for(kind: str, host: str, server: WebServer) -> None:
    """Another port is another server."""
    with WebServer({"/d/f": CONTENT}, host=host) as other:
        server.redirect("/d/f", f"{other.url}/d/f")
        with server.recording() as home, other.recording() as seen:
            assert read(server, http_credentials(**KINDS[kind], redirect_hosts=[OTHER])) == CONTENT[:10]
        assert any("CANARY" in value or "Q0FOQVJZ" in value for value in home[0].headers.values()) or kind == "password"
        for request in seen:
            assert not EVERYTHING & {name.lower() for name in request.headers}
            assert "CANARY" not in str(dict(request.headers)) + request.target
            assert "referer" not in {name.lower() for name in request.headers}


def test_T32_nor_do_they_come_back_by_another_server(server: WebServer, elsewhere: WebServer) -> None:
    """There and back: home is told again, the other never."""
    server.redirect("/d/f", f"{elsewhere.url}/back")
    elsewhere.redirect("/back", f"{server.url}/d/g")
    server.objects["/d/g"] = CONTENT
    with server.recording() as home, elsewhere.recording() as seen:
        credentials = http_credentials(bearer_token="CANARY", redirect_hosts=[OTHER])
        assert read(server, credentials) == CONTENT[:10]
    assert [request.headers.get("Authorization") for request in home] == ["Bearer CANARY"] * 2
    assert [request.headers.get("Authorization") for request in seen] == [None]


@pytest.mark.parametrize("entry", ["machine good.org", "default"])
def test_T33_passwords_of_the_file_go_to_the_host_that_they_are_for(
    entry: str, server: WebServer, elsewhere: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "netrc"
    file.write_text(f"{entry} login me password CANARY\n")
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))
    server.redirect("/d/f", f"{elsewhere.url}/d/f")
    with server.recording() as home, elsewhere.recording() as seen:
        assert read(server, http_credentials(netrc=True, redirect_hosts=[OTHER])) == CONTENT[:10]
        assert read(server, http_credentials(redirect_hosts=[OTHER])) == CONTENT[:10]
    assert all("Authorization" not in request.headers for request in (*home, *seen))


def test_T33_the_file_is_not_read_unless_it_was_granted(
    server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "netrc"
    file.write_text("machine 127.0.0.1 login me password CANARY\n")
    monkeypatch.setenv("NETRC", str(file))
    with server.recording() as seen:
        read(server)
    assert "Authorization" not in seen[0].headers


def test_T33_no_password_for_a_stranger_that_plays_the_login(
    elsewhere: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over plain http, only hosts that were named are logged in at."""
    file = tmp_path / "netrc"
    file.write_text("machine 127.0.0.3 login me password CANARY\n")
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))
    with LoginServer("me", "CANARY", host="127.0.0.3") as login:
        elsewhere.redirect("/d/f", f"{login.url}/oauth?redirect_uri={elsewhere.url}/d/g&state=1")
        with login.recording() as seen, pytest.raises(IcechunkError, match="no address of the public internet"):
            read(elsewhere, http_credentials(netrc=True))
        assert not seen


@pytest.mark.parametrize(
    "cookie",
    ["c=1; Domain=127.0.0.2", "c=1; Domain=0.0.2", "c=1; Domain=.", "c=1; Path=/; Domain=localhost", "c=1; Path=/"],
)
def test_T34_cookies_stay_with_the_host_that_set_them(cookie: str, server: WebServer, elsewhere: WebServer) -> None:
    answer = redirect(302, f"{elsewhere.url}/d/f")
    answer.headers["Set-Cookie"] = cookie
    server.habits.first = [answer]
    with elsewhere.recording() as seen:
        assert read(server, http_credentials(redirect_hosts=[OTHER])) == CONTENT[:10]
    assert "Cookie" not in seen[0].headers


def test_T35_no_size_that_a_server_claims_is_allocated(server: WebServer) -> None:
    for length in (2**40, 2**60, 2**63 - 1):
        text = f"bytes 0-{length - 1}/{length}"
        claim = Answer(206, CIMultiDict({"Content-Range": text}), b"x" * 1000, claimed_length=length, cut_after=1000)
        server.habits.first = [claim] * 10_000
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(IcechunkError):
            read(server, length=length)
        server.reset()
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "in kB"


def test_T35_an_endless_answer_ends(server: WebServer) -> None:
    server.handle = answering(Answer(200, body=b"x" * 100_000, endless=True))
    assert read(server) == b"x" * 10
    server.handle = answering(Answer(206, ranged("bytes 0-9/10"), b"x" * 100_000, endless=True))
    with pytest.raises(IcechunkError):
        read(server)
    server.handle = answering(Answer(200, body=b"x" * 100_000, endless=True))
    with pytest.raises(IcechunkError, match="would have to be read and thrown"):
        read(server, offset=2**40)


def test_T36_nothing_is_unpacked_on_the_way(server: WebServer) -> None:
    """What came packed is not the range that was asked for; and it might be large."""
    packed = gzip.compress(bytes(10**6))
    for status, headers in ((200, CIMultiDict[str]()), (206, ranged(f"bytes 0-{len(packed) - 1}/{len(packed)}"))):
        headers["Content-Encoding"] = "gzip"
        server.handle = answering(Answer(status, headers, packed))
        with server.recording() as seen, pytest.raises(IcechunkError):
            read(server)
        assert seen[0].headers["Accept-Encoding"] == "identity"


def test_T38_what_is_fetched_ahead_is_authorised_too(server: WebServer, elsewhere: WebServer) -> None:
    """Reading on through an array asks for what comes next before anybody does."""
    number = 256
    data = bytes(range(256)) * 64
    for each in (server, elsewhere):
        each.objects["/d/long"] = each.objects["/d/closed/long"] = data
    prefix, closed, other = f"{server.url}/d/", f"{server.url}/d/closed/", f"{elsewhere.url}/d/"
    storage = icv.in_memory_storage()
    config = icv.RepositoryConfig()
    for place in (prefix, closed, other):
        config.set_virtual_chunk_container(icv.VirtualChunkContainer(place, http_store({"allow_http": "true"})))
    writer = icv.Repository.create(storage, config).writable_session("main")
    put(writer.store, "zarr.json", GROUP)
    put(writer.store, "v/zarr.json", array_document((number * 64,), (64,)))
    places = [prefix if i < 128 or i % 2 else (closed, other)[i // 2 % 2] for i in range(number)]
    specs = [icv.VirtualChunkSpec([i], f"{places[i]}long", 64 * i, 64) for i in range(number)]
    writer.store.set_virtual_refs("v", specs)
    writer.commit("references")
    store = icv.Repository.open(storage, None, {prefix: None}).readonly_session("main").store
    array = zarr.open_array(store, path="v", mode="r")
    with server.recording() as home, elsewhere.recording() as seen:
        for i in range(127):
            assert array[64 * i : 64 * (i + 1)].tobytes() == data[64 * i : 64 * (i + 1)]
        with pytest.raises(NotAuthorized):
            array[64 * 128 : 64 * 129]
    assert not seen
    assert {request.target for request in home} == {"/d/long"}
    assert len(home) < 64, "some of it was fetched ahead"


def test_T37_an_object_store_s_answer_that_claims_to_be_huge_does_not_end_the_process() -> None:
    """In a process of its own: the library would end it."""
    code = """
import sys
from multidict import CIMultiDict
import icechunk_virtual as icv
from tests.support.hostile import open_and_read, repository_of_another
from tests.support.proxy import Answer, Proxy

with Proxy() as server:
    async def handle(request, forward):
        headers = CIMultiDict({"ETag": '"e"', "Last-Modified": "Tue, 14 Nov 2023 22:13:19 GMT"})
        headers["Content-Range"] = request.headers["Range"].replace("=", " ") + f"/{2**60}"
        first, last = map(int, request.headers["Range"].removeprefix("bytes=").split("-"))
        return Answer(206, headers, b"x" * 100_000, claimed_length=last - first + 1)

    server.handle = handle
    store = icv.s3_store(region="r", endpoint_url=server.url, allow_http=True, force_path_style=True, anonymous=True)
    settings = icv.StorageSettings(retries=icv.StorageRetriesSettings(max_tries=1))
    storage = repository_of_another({"s3://b/": store}, "s3://b/f", length=2**60, settings=settings)
    try:
        open_and_read(storage, {"s3://b/": None, server.url: None})
    except icv.IcechunkError as error:
        print("refused:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "refused:" in done.stdout


def answering(answer: Answer) -> Any:
    async def handle(_request: Request, _forward: Forward) -> Answer:
        return answer

    return handle


def ranged(text: str) -> CIMultiDict[str]:
    return CIMultiDict({"Content-Range": text})
