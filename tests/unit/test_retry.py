"""When a failed read is repeated, after how long, and what is said in the end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from icechunk_virtual.containers import retry
from icechunk_virtual.containers.authorize import Authorization
from icechunk_virtual.containers.container import VirtualChunkContainer, s3_store
from icechunk_virtual.containers.failures import AGAIN, REPAIR
from icechunk_virtual.containers.retry import PATIENCE_SECONDS, Retries, TryFailed, may_pass, repeated
from icechunk_virtual.containers.url import check_location
from icechunk_virtual.errors import VirtualReadError
from icechunk_virtual.model.chunk_refs import VirtualChunk
from icechunk_virtual.model.world import World

PREFIX = "s3://b/"
GRANT = Authorization({PREFIX: VirtualChunkContainer(PREFIX, s3_store())}, {PREFIX: None}).readable("s3://b/x")
WHAT = (GRANT, check_location("s3://b/x"), VirtualChunk("s3://b/x", 10, 20))


class Time:
    """A clock that pauses move on, and dice of which every throw is the same."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, dice: bytes = b"\xff\xff\xff\xff") -> None:
        self.now = 0
        self.pauses: list[float] = []
        self.world = World(lambda: self.now, lambda count: dice[:count])
        monkeypatch.setattr(retry.asyncio, "sleep", self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(round(seconds, 3))
        self.now += round(seconds * 1_000_000)

    def retries(self, max_tries: int = 4, first_ms: int = 100, longest_ms: int = 1000) -> Retries:
        return Retries(max_tries, first_ms, longest_ms, self.world)


def run(retries: Retries, *outcomes: Any, renew: Any = None) -> Any:
    """What comes of tries with these outcomes, the last one for ever."""
    seen: list[int] = []

    async def attempt(tries: int) -> Any:
        seen.append(tries)
        outcome = outcomes[min(tries, len(outcomes)) - 1]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    try:
        return asyncio.run(repeated(attempt, *WHAT, retries, renew)), seen
    except VirtualReadError as error:
        return error, seen


BUSY = TryFailed("busy", 503, again=True)


def test_what_passes_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time(monkeypatch)
    assert run(time.retries(), BUSY, BUSY, b"data") == (b"data", [1, 2, 3])
    assert time.pauses == [0.1, 0.2]


def test_as_often_as_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time(monkeypatch)
    error, seen = run(time.retries(), BUSY)
    assert seen == [1, 2, 3, 4]
    assert (error.status, error.tries, error.offset, error.length, error.prefix) == (503, 4, 10, 20, PREFIX)
    assert error.message.endswith(f"busy [status 503, 4 tries]. {AGAIN}")
    assert time.pauses == [0.1, 0.2, 0.4]


def test_what_does_not_pass_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time(monkeypatch)
    error, seen = run(time.retries(), TryFailed("gone", 404))
    assert (seen, time.pauses) == ([1], [])
    assert error.message.endswith(f"gone [status 404, 1 try]. {REPAIR}")


@pytest.mark.parametrize(("dice", "share"), [(b"\0\0\0\0", 0.5), (b"\x80\0\0\0", 0.75), (b"\xff\xff\xff\xff", 1.0)])
def test_half_of_a_pause_is_chance(dice: bytes, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    retries = Time(monkeypatch, dice).retries(first_ms=100, longest_ms=1000)
    assert [round(retries.pause_seconds(tries), 3) for tries in (1, 2, 3, 4, 5, 99)] == [
        round(longest * share, 3) for longest in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0)
    ]


def test_servers_may_ask_for_more_time_but_not_for_any(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time(monkeypatch)
    assert run(time.retries(), TryFailed("busy", 429, again=True, wait_seconds=0.7), b"data")[0] == b"data"
    assert run(time.retries(), TryFailed("busy", 429, again=True, wait_seconds=86_400), b"data")[0] == b"data"
    assert time.pauses == [0.7, 1.0]


def test_after_five_minutes_nothing_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time(monkeypatch)
    error, seen = run(time.retries(max_tries=1000, first_ms=60_000, longest_ms=60_000), BUSY)
    assert len(seen) == PATIENCE_SECONDS // 60 + 1
    assert error.tries == len(seen)


def test_new_credentials_are_asked_for_once_and_cost_no_try(monkeypatch: pytest.MonkeyPatch) -> None:
    time, asked = Time(monkeypatch), []

    async def renew() -> bool:
        asked.append(1)
        return True

    stale = TryFailed("refused", 401, stale=True)
    assert run(time.retries(max_tries=1), stale, b"data", renew=renew) == (b"data", [1, 2])
    error, seen = run(time.retries(), stale, renew=renew)
    assert (seen, error.tries, len(asked), time.pauses) == ([1, 2], 2, 2, [])


def test_without_new_credentials_a_refusal_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def none() -> bool:
        return False

    for renew in (None, none):
        error, seen = run(Time(monkeypatch).retries(), TryFailed("refused", 401, stale=True), renew=renew)
        assert (seen, error.status) == ([1], 401)


def test_other_errors_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        run(Time(monkeypatch).retries(), ZeroDivisionError())


def test_which_statuses_may_pass() -> None:
    passing = {status for status in range(100, 600) if may_pass(status)}
    assert passing == {408, 425, 429, 499, *range(500, 600)} - {501, 505}
