"""What an answer of a web server is worth, from its status and headers alone."""

from __future__ import annotations

from typing import Any

import pytest
from multidict import CIMultiDict

from icechunk_virtual.containers.checksums import ObjectState
from icechunk_virtual.containers.http.answers import MOST_SKIPPED, Body, PageForPeople, Wanted, judge
from icechunk_virtual.containers.retry import TryFailed

WANTED = Wanted(10, 20)
NOW_US = 1_700_000_000_000_000


def judged(status: int, wanted: Wanted = WANTED, /, **headers: Any) -> Body:
    named = {name.replace("_", "-"): str(value) for name, value in headers.items()}
    return judge(status, CIMultiDict(named), wanted, NOW_US)


def refused(status: int, wanted: Wanted = WANTED, /, **headers: Any) -> TryFailed:
    with pytest.raises(TryFailed) as caught:
        judged(status, wanted, **headers)
    assert caught.value.status == status
    return caught.value


def test_the_part_that_was_asked_for() -> None:
    body = judged(206, content_range="bytes 10-29/256", content_length=20, etag='"e"', content_encoding="gzip")
    assert body == Body(0, 20, goes_on=False, at_least=20, state=ObjectState(256, '"e"', None, "gzip"))
    body = judged(206, content_range="bytes 10-29/*", last_modified="Tue, 14 Nov 2023 22:13:20 GMT")
    assert body.state == ObjectState(None, None, 1_700_000_000)
    assert judged(206, content_range="BYTES  10-29/30", last_modified="yesterday").state == ObjectState(30)


@pytest.mark.parametrize(
    "content_range",
    [
        "",
        "bytes 10-29",
        "10-29/256",
        "bytes=10-29/256",
        "bytes 10-29/256, bytes 30-40/256",
        "items 10-29/256",
        "bytes */256",
        "bytes 10-" + "9" * 5000 + "/256",
    ],
)
def test_a_part_without_saying_which(content_range: str) -> None:
    assert "without saying which" in refused(206, content_range=content_range).reason


@pytest.mark.parametrize("span", ["0-19/256", "11-29/256", "10-30/256", "10-9/256", "10-29/29", "30-49/256"])
def test_another_part(span: str) -> None:
    failure = refused(206, content_range=f"bytes {span}")
    assert "another range than it was asked for" in failure.reason
    assert "bytes 10-29 were asked for" in failure.reason
    assert not failure.again


def test_a_part_that_is_too_short() -> None:
    assert "Expected: (20), available (6): the file has 16 bytes" in refused(206, content_range="bytes 10-15/16").reason
    assert "sent only 'bytes 10-15/256'" in refused(206, content_range="bytes 10-15/256").reason
    loose = Wanted(10, 20, exact=False)
    assert judged(206, loose, content_range="bytes 10-15/16").length == 6
    assert "sent only" in refused(206, loose, content_range="bytes 10-15/256").reason


def test_a_length_that_contradicts_the_range() -> None:
    assert "sent 21 bytes as" in refused(206, content_range="bytes 10-29/256", content_length=21).reason


def test_servers_that_ignore_ranges() -> None:
    body = judged(200, content_length=256, etag='"e"')
    assert body == Body(10, 20, goes_on=True, at_least=20, state=ObjectState(256, '"e"'))
    assert judged(200) == Body(10, 20, goes_on=True, at_least=20, state=ObjectState(None))
    assert "available (6)" in refused(200, content_length=16).reason
    assert "available (0)" in refused(200, content_length=5).reason
    assert judged(200, Wanted(10, 20, exact=False), content_length=16).length == 6
    assert judged(200, Wanted(10, 20, exact=False)).at_least == 0
    assert judged(200, content_length="huge").length == 20


def test_how_much_of_a_file_is_read_for_nothing() -> None:
    assert judged(200, Wanted(MOST_SKIPPED, 20), content_length=10**12).skip == MOST_SKIPPED
    assert judged(200, Wanted(0, 10**9), content_length=10**12).length == 10**9
    failure = refused(200, Wanted(MOST_SKIPPED + 1, 20), content_length=10**12)
    assert "the server ignores byte ranges" in failure.reason
    assert str(MOST_SKIPPED) in failure.reason
    assert "serves byte ranges" in failure.remedy


def test_whole_files_in_an_encoding_have_no_ranges() -> None:
    assert "encoding 'gzip'" in refused(200, content_encoding="gzip", content_length=256).reason
    assert judged(200, content_encoding="identity", content_length=256).length == 20


@pytest.mark.parametrize("kind", ["text/html", "Text/HTML; charset=utf-8", "application/xhtml+xml"])
def test_pages_are_no_files(kind: str) -> None:
    failure = refused(200, content_type=kind, content_length=256)
    assert isinstance(failure, PageForPeople)
    assert "web page instead of the file" in failure.reason


@pytest.mark.parametrize("status", [404, 410])
def test_no_such_object(status: int) -> None:
    failure = refused(status)
    assert failure.reason.startswith("there is no such object (the server answered 4")
    assert not failure.again


def test_beyond_the_end() -> None:
    assert "available (0): the file has 5 bytes" in refused(416, content_range="bytes */5").reason
    assert "available (0) (" in refused(416).reason
    loose = Wanted(10, 20, exact=False)
    assert judged(416, loose, content_range="bytes */10") == Body(0, 0, True, 0, ObjectState(10))
    assert "available" in refused(416, loose).reason


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_what_may_pass(status: int) -> None:
    failure = refused(status, retry_after="7")
    assert failure.again
    assert failure.wait_seconds == 7
    assert f"the server answered {status}" in failure.reason


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30),
        ("Tue, 14 Nov 2023 22:13:10 GMT", 0),
        ("soon", 0),
        ("-5", 0),
        ("", 0),
        ("Tue, 99 Nov 2023", 0),
    ],
)
def test_when_to_come_back(retry_after: str, seconds: float) -> None:
    assert refused(503, retry_after=retry_after).wait_seconds == seconds


@pytest.mark.parametrize("status", [100, 202, 203, 204, 300, 304, 305, 400, 402, 403, 405, 406, 411, 412, 501, 505])
def test_everything_else_is_final(status: int) -> None:
    failure = refused(status)
    assert not failure.again
    assert not failure.stale
    assert f"the server answered {status}" in failure.reason


def test_only_401_is_about_the_token() -> None:
    assert refused(401).stale
    assert not refused(403).stale
