"""The web servers that other tests rely on: what they do badly, they do as it is asked of them."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit

import pytest

from tests.support.proxy import Answer
from tests.support.web_server import WebServer, busy, protected_server

CONTENT = bytes(range(256))


def ask(url: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        connection.request(method, parts.path + ("?" + parts.query if parts.query else ""), headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read()
    finally:
        connection.close()


def test_good_answers_and_habits() -> None:
    with WebServer({"/f": CONTENT}) as server:
        status, headers, body = ask(server.url + "/f", Range="bytes=10-19")
        assert (status, body, headers["Content-Range"]) == (206, CONTENT[10:20], "bytes 10-19/256")
        assert server.requests[0].range == "bytes=10-19"
        server.habits.ranges = server.habits.etags = server.habits.dates = False
        server.habits.head = 501
        status, headers, body = ask(server.url + "/f", Range="bytes=10-19")
        assert (status, body) == (200, CONTENT)
        assert not {"ETag", "Last-Modified", "Content-Range"} & headers.keys()
        assert ask(server.url + "/f", "HEAD")[0] == 501
        assert ask(server.url + "/f", **{"If-Match": '"other"'})[0] == 412
        server.habits.conditions = False
        assert ask(server.url + "/f", **{"If-Match": '"other"'})[0] == 200
        server.reset()
        server.habits.content_range = "bytes 0-9/256"
        assert ask(server.url + "/f", Range="bytes=10-19")[1]["Content-Range"] == "bytes 0-9/256"


def test_first_answers_and_redirects() -> None:
    with WebServer({"/f": CONTENT}, host="127.0.0.2") as server:
        assert server.url.startswith("http://127.0.0.2:")
        server.habits.first = [busy(429, "7"), Answer(500)]
        status, headers, _ = ask(server.url + "/f")
        assert (status, headers["Retry-After"]) == (429, "7")
        assert [ask(server.url + "/f")[0] for _ in range(2)] == [500, 200]
        url = server.redirect("/old", "/f", 307)
        status, headers, _ = ask(url)
        assert (status, headers["Location"]) == (307, "/f")


@pytest.mark.parametrize("fault", [{"cut_after": 5}, {"claimed_length": 300}])
def test_bodies_that_end_too_early(fault: dict[str, int]) -> None:
    with WebServer({"/f": CONTENT}, faults=fault) as server:
        with pytest.raises(http.client.IncompleteRead) as caught:
            ask(server.url + "/f")
        assert caught.value.partial == CONTENT[: fault.get("cut_after")]
        server.habits.faults = {"lost": True}
        with pytest.raises(ConnectionError):
            ask(server.url + "/f")


def test_wrong_lengths_and_endless_bodies() -> None:
    with WebServer({"/f": CONTENT}, faults={"claimed_length": 10}) as server:
        assert ask(server.url + "/f")[2] == CONTENT[:10]
        server.habits.faults = {"endless": True}
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request("GET", "/f")
        assert connection.getresponse().read(1000) == (CONTENT * 4)[:1000]
        connection.close()


def test_login() -> None:
    with protected_server({"/f": CONTENT}) as (data, login):
        there = ask(data.url + "/f")[1]["Location"]
        assert there.startswith(login.url + "/oauth/authorize?client_id=me&")
        assert ask(there)[0] == 401
        back = ask(there, Authorization="Basic bWU6c2VjcmV0")[1]["Location"]
        assert back.startswith(data.url + "/login?code=")
        _, headers, _ = ask(back)
        assert headers["Location"] == data.url + "/f"
        assert ask(back)[0] == 403
        assert ask(data.url + "/f", Cookie=headers["Set-Cookie"].partition(";")[0])[2] == CONTENT
