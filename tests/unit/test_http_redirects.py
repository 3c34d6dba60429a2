"""Redirects: how far they are followed, who is told who we are on the way, and where nobody goes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import icechunk_virtual as icv
from icechunk_virtual.containers.http.addresses import origin_of
from icechunk_virtual.containers.http.auth import Identity
from icechunk_virtual.containers.http.exchange import MOST_REDIRECTS
from icechunk_virtual.containers.http.session import _Resolver
from icechunk_virtual.containers.http.shortcuts import Shortcuts
from icechunk_virtual.errors import VirtualReadError
from tests.support.object_server import ETAG
from tests.support.proxy import Answer, Forward, Request
from tests.support.web_reads import CONTENT, Reader
from tests.support.web_server import LoginServer, ProtectedServer, WebServer, protected_server, redirect

WANTED = CONTENT[10:30]
BEARER = icv.http_credentials(bearer_token="token", headers={"X-Key": "secret"})


@pytest.fixture
def home() -> Iterator[WebServer]:
    with WebServer({"/f": CONTENT}) as running:
        yield running


@pytest.fixture
def other() -> Iterator[WebServer]:
    """Another port, and so another origin, of the same host."""
    with WebServer({"/f": CONTENT}) as running:
        yield running


@pytest.fixture
def far() -> Iterator[WebServer]:
    """Another host."""
    with WebServer({"/f": CONTENT}, host="127.0.0.2") as running:
        yield running


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of passwords that the environment names."""
    path = tmp_path / "netrc"
    path.write_text("machine 127.0.0.2 login me password secret\ndefault login nobody password anything\n")
    monkeypatch.setenv("NETRC", str(path))
    return path


def secrets_in(request: Request) -> set[str]:
    return {"Authorization", "X-Key", "Cookie"} & set(request.headers)


# -- following ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["/f", "f", "../d/../f", "{home}/f?sig=a%2Fb"])
def test_within_a_server(status: int, target: str, home: WebServer) -> None:
    home.redirect("/old", target.format(home=home.url), status)
    assert Reader(home.url + "/", BEARER)("old", etag=ETAG) == WANTED
    first, second = home.requests
    assert (first.target, second.target) == ("/old", "/f?sig=a%2Fb" if "sig" in target else "/f")
    for request in home.requests:
        assert (request.method, request.range, request.headers["If-Match"]) == ("GET", "bytes=10-29", ETAG)
        assert (request.headers["Authorization"], request.headers["X-Key"]) == ("Bearer token", "secret")


def test_to_another_port_without_credentials(home: WebServer, other: WebServer) -> None:
    home.redirect("/f", other.url + "/f")
    assert Reader(home.url + "/", BEARER)(etag=ETAG) == WANTED
    assert secrets_in(home.requests[0]) == {"Authorization", "X-Key"}
    (request,) = other.requests
    assert secrets_in(request) == set()
    assert (request.range, request.headers["If-Match"]) == ("bytes=10-29", ETAG)
    assert request.headers["Host"] == other.url.removeprefix("http://")


def test_to_another_name_of_the_same_server_without_credentials(home: WebServer) -> None:
    home.redirect("/old", home.url_at("localhost") + "/f")
    credentials = icv.http_credentials(bearer_token="token", redirect_hosts=["localhost"])
    assert Reader(home.url + "/", credentials)("old") == WANTED
    assert [request.headers.get("Authorization") for request in home.requests] == ["Bearer token", None]


def test_and_back_with_credentials(home: WebServer, other: WebServer) -> None:
    home.redirect("/old", other.url + "/x")
    other.redirect("/x", home.url + "/f")
    assert Reader(home.url + "/", BEARER)("old") == WANTED
    assert [secrets_in(r) for r in home.requests] == [{"Authorization", "X-Key"}] * 2
    assert [secrets_in(r) for r in other.requests] == [set()]


def test_where_the_bytes_come_from_is_said(home: WebServer, other: WebServer) -> None:
    home.redirect("/f", other.url + "/missing?sig=secret")
    with pytest.raises(VirtualReadError, match=rf"404 Not Found\), after a redirect to {other.url} \[") as caught:
        Reader(home.url + "/")()
    assert "secret" not in str(caught.value)


def test_a_foreign_server_is_told_no_new_token(home: WebServer, other: WebServer) -> None:
    home.redirect("/f", other.url + "/f")
    other.habits.first = [Answer(401)]
    with pytest.raises(VirtualReadError, match=rf"(?s)What you gave is for {home.url} and is not sent to {other.url}"):
        Reader(home.url + "/", icv.http_credentials(get_credentials=numbered_token))()
    assert len(other.requests) == 1


def test_circles(home: WebServer) -> None:
    home.redirect("/a", "/b")
    home.redirect("/b", "/a")
    with pytest.raises(VirtualReadError, match="redirects more than 10 times") as caught:
        Reader(home.url + "/")("a")
    assert (caught.value.status, caught.value.tries) == (302, 1)
    assert len(home.requests) == MOST_REDIRECTS + 1


def test_long_ways(home: WebServer) -> None:
    for i in range(MOST_REDIRECTS):
        home.redirect(f"/{i}", f"/{i + 1}" if i < MOST_REDIRECTS - 1 else "/f")
    assert Reader(home.url + "/")("0") == WANTED


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("ftp://h/f", "not http"),
        ("file:///etc/passwd", "not http"),
        ("http://me:secret@h/f", "user info"),
        ("http://h h/f", "host that is none"),
    ],
)
def test_targets_that_are_none(target: str, reason: str, home: WebServer) -> None:
    home.redirect("/f", target)
    with pytest.raises(VirtualReadError, match=reason):
        Reader(home.url + "/")()
    assert len(home.requests) == 1


def test_without_a_target(home: WebServer) -> None:
    home.habits.first = [Answer(302)]
    with pytest.raises(VirtualReadError, match="without saying where to"):
        Reader(home.url + "/")()


# -- what is remembered ------------------------------------------------------------------------------------------


def allow_caching(server: WebServer, control: str, status: int = 302, target: str = "/f") -> None:
    """Have a server redirect /old, and say for how long that holds."""

    async def redirecting(request: Request, forward: Forward) -> Answer:
        if request.target != "/old":
            return await server.serve_object(request, forward)
        answer = redirect(status, target)
        if control:
            answer.headers["Cache-Control"] = control
        return answer

    server.handle = redirecting


@pytest.mark.parametrize(
    ("control", "status", "asked"),
    [
        ("private, max-age=60", 302, 1),
        ("max-age=60", 303, 1),
        ("", 308, 1),
        ("", 301, 1),
        ("", 302, 3),
        ("max-age=0", 301, 3),
        ("no-store", 301, 3),
        ("no-cache, max-age=60", 302, 3),
    ],
)
def test_redirects_are_remembered_if_servers_allow(control: str, status: int, asked: int, home: WebServer) -> None:
    allow_caching(home, control, status)
    read = Reader(home.url + "/", BEARER)
    assert [read("old", offset=i, length=1) for i in range(3)] == [b"\x00", b"\x01", b"\x02"]
    assert [request.target for request in home.requests].count("/old") == asked
    assert [request.range for request in home.requests if request.target == "/f"] == [
        f"bytes={i}-{i}" for i in range(3)
    ]


def test_what_is_remembered_gets_no_credentials_either(home: WebServer, other: WebServer) -> None:
    allow_caching(home, "max-age=60", target=other.url + "/f")
    read = Reader(home.url + "/", BEARER)
    assert read("old") == read("old") == WANTED
    assert len(home.requests) == 1
    assert [secrets_in(request) for request in other.requests] == [set(), set()]


@pytest.mark.parametrize(
    "answer", [Answer(403), Answer(404), redirect(302, "/elsewhere"), Answer(503), Answer(lost=True)]
)
def test_what_does_not_hold_any_more_is_asked_again(answer: Answer, home: WebServer, other: WebServer) -> None:
    """As signatures that have expired."""
    allow_caching(home, "max-age=60", target=other.url + "/f")
    read = Reader(home.url + "/")
    assert read("old") == WANTED
    other.habits.first = [answer, answer] if answer.lost else [answer]
    assert read("old") == WANTED
    assert [request.target for request in home.requests] == ["/old", "/old"]


def test_shortcuts_end() -> None:
    time = 100.0
    shortcuts = Shortcuts(lambda: time)
    shortcuts.keep("a", "b", 10)
    assert shortcuts.find("a") == "b"
    time = 110.0
    assert shortcuts.find("a") is None
    for i in range(5000):
        shortcuts.keep(str(i), "x", 10)
    assert shortcuts.find("0") is None
    assert shortcuts.find("4999") == "x"
    assert len(shortcuts._ends) == 4096


# -- addresses ---------------------------------------------------------------------------------------------------

PRIVATE = [
    "127.0.0.2",
    "10.0.0.1",
    "169.254.169.254",
    "0.0.0.0",
    "[::1]",
    "[::ffff:127.0.0.2]",
    "2130706434",
    "0x7f.2",
    "127.2",
    "localhost",
    "intranet",
]


@pytest.mark.parametrize("host", PRIVATE)
def test_private_addresses(host: str, home: WebServer, far: WebServer) -> None:
    home.redirect("/f", f"http://{host}:{far.port}/f")
    with pytest.raises(VirtualReadError, match="no address of the public internet") as caught:
        Reader(home.url + "/", BEARER)()
    assert "redirect_hosts=[" in str(caught.value)
    assert caught.value.tries == 1
    assert not far.requests


def test_private_addresses_that_the_opener_allowed(home: WebServer, far: WebServer) -> None:
    home.redirect("/f", far.url + "/f")
    credentials = icv.http_credentials(bearer_token="token", redirect_hosts=["127.0.0.2"])
    assert Reader(home.url + "/", credentials)() == WANTED
    assert [secrets_in(request) for request in far.requests] == [set()]


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    """Have names of hosts mean these addresses, one after the other; returns the names that were asked for."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        address = answers[min(len(asked), len(answers) - 1)]
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize("address", ["127.0.0.2", "10.0.0.1", "169.254.169.254", "0.0.0.0"])
def test_names_of_private_addresses(
    address: str, home: WebServer, far: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = resolving(monkeypatch, address)
    home.redirect("/f", f"http://evil.example.org:{far.port}/f")
    with pytest.raises(VirtualReadError, match=rf"evil\.example\.org \({address}\), which is no address of the public"):
        Reader(home.url + "/")()
    assert asked == ["evil.example.org"]
    assert not far.requests


def test_names_are_judged_by_the_address_that_is_connected_to(home: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is asked for once per connection, so that nothing lies between judging and connecting."""
    asked = resolving(monkeypatch, "127.0.0.1")
    prefix = home.url_at("data.example.org") + "/"
    assert Reader(prefix)() == WANTED  # the opener authorised this name
    assert asked == ["data.example.org"]


def test_a_name_that_was_public_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def rebound() -> None:
        resolver = _Resolver(frozenset({"data.example.org"}))
        assert (await resolver.resolve("data.example.org", 80))[0]["host"] == "93.184.215.14"
        await resolver.resolve("data.example.org", 80)

    resolving(monkeypatch, "93.184.215.14", "127.0.0.1")
    with pytest.raises(Exception, match=r"data\.example\.org \(127\.0\.0\.1\), which is no address of the public"):
        asyncio.run(rebound())


# -- credentials -------------------------------------------------------------------------------------------------

CALLS: list[int] = []


def numbered_token() -> icv.HttpBearerCredential:
    CALLS.append(len(CALLS))
    return icv.HttpBearerCredential(f"token-{len(CALLS)}")


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()


@pytest.mark.parametrize(
    ("credentials", "authorization"),
    [
        (None, None),
        (icv.http_credentials(), None),
        (icv.http_credentials(bearer_token="token"), "Bearer token"),
        (icv.http_credentials(username="m\u00e9", password="a:b"), "Basic bcOpOmE6Yg=="),
        (icv.http_credentials(get_credentials=numbered_token), "Bearer token-1"),
    ],
)
def test_who_we_are(credentials: Any, authorization: str | None, home: WebServer) -> None:
    read = Reader(home.url + "/", credentials)
    assert read() == read() == WANTED
    assert [request.headers.get("Authorization") for request in home.requests] == [authorization] * 2
    assert len(CALLS) <= 1


def test_scattered_tokens_are_used_first(home: WebServer) -> None:
    credentials = icv.http_credentials(get_credentials=numbered_token, scatter_initial_credentials=True)
    Reader(home.url + "/", credentials)()
    Reader(home.url + "/", credentials)()
    assert [request.headers["Authorization"] for request in home.requests] == ["Bearer token-1"] * 2
    assert len(CALLS) == 1


def test_refused_tokens_are_renewed_once(home: WebServer) -> None:
    read = Reader(home.url + "/", icv.http_credentials(get_credentials=numbered_token), tries=1)
    assert read() == WANTED
    home.habits.first = [Answer(401)]
    assert read() == WANTED
    assert [r.headers["Authorization"] for r in home.requests] == ["Bearer token-1"] * 2 + ["Bearer token-2"]
    home.habits.first = [Answer(401), Answer(401)]
    with pytest.raises(VirtualReadError, match="function that was given as get_credentials") as caught:
        read()
    assert caught.value.status == 401


def broken() -> icv.HttpBearerCredential:
    raise RuntimeError("no luck")


def test_functions_that_fail(home: WebServer) -> None:
    with pytest.raises(VirtualReadError, match="the credentials cannot be had: RuntimeError: no luck"):
        Reader(home.url + "/", icv.http_credentials(get_credentials=broken))()
    assert not home.requests


@pytest.mark.parametrize(
    ("credentials", "code"),
    [
        (None, r"http_credentials\(netrc=True\)"),
        (icv.http_credentials(bearer_token="x"), r'http_credentials\(bearer_token="TOKEN"\)'),
        (icv.http_credentials(username="a", password="b"), r"http_credentials\(username="),
        (icv.http_credentials(headers={"X": "y"}), r"http_credentials\(headers="),
    ],
)
def test_what_to_do_when_refused(credentials: Any, code: str, home: WebServer) -> None:
    for status in (401, 403):
        home.habits.first = [Answer(status)]
        with pytest.raises(VirtualReadError, match=rf"(?s)containers_credentials\(.*{code}") as caught:
            Reader(home.url + "/", credentials)()
        assert caught.value.status == status


# -- cookies and logins ------------------------------------------------------------------------------------------


def test_cookies_are_kept_per_grant_and_go_to_their_host(home: WebServer, far: WebServer) -> None:
    credentials = icv.http_credentials(redirect_hosts=["127.0.0.2"])
    read, stranger = Reader(home.url + "/", credentials), Reader(home.url + "/", credentials)
    first = redirect(302, far.url + "/f")
    first.headers["Set-Cookie"] = "a=b=c; Path=/"
    home.habits.first = [first]
    assert read() == WANTED
    assert [secrets_in(request) for request in far.requests] == [set()]
    assert read() == WANTED
    assert home.requests[-1].headers["Cookie"] == "a=b=c"
    assert stranger() == WANTED
    assert secrets_in(home.requests[-1]) == set()


@pytest.mark.parametrize("cookie", ["a=b; Domain=127.0.0.2", "a=b; Secure", "a=b; Path=/elsewhere", "a=b; Max-Age=0"])
def test_cookies_for_others(cookie: str, home: WebServer) -> None:
    first = redirect(302, "/f")
    first.headers["Set-Cookie"] = cookie
    home.habits.first = [first]
    assert Reader(home.url + "/")() == WANTED
    assert [secrets_in(request) for request in home.requests] == [set(), set()]


LOGIN_HOST = icv.http_credentials(netrc=True, redirect_hosts=["127.0.0.2"])


def test_logging_in_elsewhere(netrc: Path) -> None:
    """The pattern of NASA's Earthdata login."""
    with protected_server({"/d/f": CONTENT}) as (data, login):
        read = Reader(data.url + "/d/", LOGIN_HOST)
        assert read(etag=ETAG) == WANTED
        assert [r.target.partition("?")[0] for r in data.requests] == ["/d/f", "/d/f", "/login", "/d/f"]
        assert [secrets_in(r) for r in data.requests] == [set(), set(), set(), {"Cookie"}]
        (asked,) = login.requests
        assert asked.headers["Authorization"] == login.secret
        data.reset()
        assert read(offset=0, etag=ETAG) == CONTENT[:20]
        (request,) = data.requests
        assert (request.range, request.headers["Cookie"]) == ("bytes=0-19", "session=open")
        assert len(login.requests) == 1


def test_one_login_is_enough_for_many(netrc: Path) -> None:
    running, most = 0, 0

    async def slow(request: Request, forward: Forward) -> Answer:
        nonlocal running, most
        running += "Cookie" in request.headers
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= "Cookie" in request.headers
        return await data._guard(request, forward)

    with protected_server({"/f": CONTENT}) as (data, login):
        read = Reader(data.url + "/", LOGIN_HOST)
        data.handle = slow

        async def several() -> list[bytes]:
            return await asyncio.gather(*(read.read("f", i, 1) for i in range(20)))

        assert asyncio.run(several()) == [bytes([i]) for i in range(20)]
        assert len(login.requests) == 1
        assert most > 10  # those who waited go on together
        data.sessions_end()
        assert asyncio.run(several()) == [bytes([i]) for i in range(20)]
        assert len(login.requests) == 2


def test_logins_without_an_entry(netrc: Path) -> None:
    netrc.write_text("machine other.example.org login me password secret\ndefault login me password secret\n")
    with protected_server({"/f": CONTENT}) as (data, login):
        with pytest.raises(VirtualReadError, match=r"machine 127\.0\.0\.2 login NAME password PASSWORD") as caught:
            Reader(data.url + "/", LOGIN_HOST)()
        assert caught.value.status == 401
        assert [secrets_in(request) for request in (*data.requests, *login.requests)] == [set()] * 2


def test_logins_with_the_wrong_password(netrc: Path) -> None:
    netrc.write_text("machine 127.0.0.2 login me password wrong\n")
    with protected_server({"/f": CONTENT}) as (data, login):
        with pytest.raises(VirtualReadError, match=rf"401 Unauthorized, after a redirect to {login.url}") as caught:
            Reader(data.url + "/", LOGIN_HOST)()
        assert "wrong" not in str(caught.value)


def test_the_file_of_passwords_is_not_read_unasked(netrc: Path) -> None:
    with protected_server({"/f": CONTENT}) as (data, login):
        with pytest.raises(VirtualReadError, match="401 Unauthorized"):
            Reader(data.url + "/", icv.http_credentials(redirect_hosts=["127.0.0.2"]))()
        assert [secrets_in(request) for request in login.requests] == [set()]
    with LoginServer("me", "secret", host="127.0.0.2") as login:
        for granted in (None, icv.http_credentials(), icv.http_credentials(headers={"X": "y"})):
            with pytest.raises(VirtualReadError, match="401 Unauthorized"):
                Reader(login.url + "/", granted)()
        assert {frozenset(secrets_in(request)) for request in login.requests} == {frozenset()}


def test_passwords_of_the_file_for_the_server_itself(netrc: Path) -> None:
    with WebServer({"/f": CONTENT}, host="127.0.0.2") as server:
        assert Reader(server.url + "/", icv.http_credentials(netrc=True))() == WANTED
        assert server.requests[0].headers["Authorization"] == "Basic bWU6c2VjcmV0"


def test_no_password_over_plain_http_to_hosts_that_nobody_named(netrc: Path) -> None:
    async def shown(credentials: icv.HttpCredentials, url: str) -> bool:
        return "Authorization" in await Identity(origin_of("http://h/"), credentials).headers(origin_of(url))

    def ask(credentials: icv.HttpCredentials, url: str) -> bool:
        return asyncio.run(shown(credentials, url))

    netrc.write_text("machine login.example.org login me password secret\n")
    assert ask(icv.http_credentials(netrc=True), "https://login.example.org/")
    assert ask(icv.http_credentials(netrc=True), "https://LOGIN.example.org.:8443/")
    assert not ask(icv.http_credentials(netrc=True), "http://login.example.org/")
    assert not ask(icv.http_credentials(netrc=True), "https://login.example.org.evil.org/")
    assert ask(icv.http_credentials(netrc=True, redirect_hosts=["login.example.org"]), "http://login.example.org/")


@pytest.mark.parametrize(("text", "reason"), [(None, "there is no file"), ("machine", "cannot be had: ValueError")])
def test_files_of_passwords_that_are_none(text: str | None, reason: str, netrc: Path, home: WebServer) -> None:
    netrc.unlink() if text is None else netrc.write_text(text)
    with pytest.raises(VirtualReadError, match=reason):
        Reader(home.url + "/", icv.http_credentials(netrc=True))()
    assert not home.requests


def test_servers_that_log_in_forever(netrc: Path) -> None:
    """A session that never begins ends in an error."""
    with protected_server({"/f": CONTENT}) as (data, login):

        async def forgetful(request: Request, forward: Forward) -> Answer:
            answer = await ProtectedServer._guard(data, request, forward)
            answer.headers.popall("Set-Cookie", None)
            return answer

        data.handle = forgetful
        with pytest.raises(VirtualReadError, match="redirects more than 10 times"):
            Reader(data.url + "/", LOGIN_HOST)()
        assert len(login.requests) < 10
