"""What an answer of a web server to a request for a range is worth: judged from status and headers, before its body.

Pure functions. Nothing that a server says is believed that the reference contradicts, and no size that it claims is
ever allocated.
"""

from __future__ import annotations

import http
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from icechunk_virtual.containers.checksums import ObjectState
from icechunk_virtual.containers.failures import too_short
from icechunk_virtual.containers.retry import TryFailed, may_pass
from icechunk_virtual.containers.troubles import Trouble

MOST_SKIPPED = 16 * 2**20
"""Bytes in front of the wanted ones that are read and thrown away at most, if a server ignores ranges."""

_CONTENT_RANGE = re.compile(r"bytes\s+([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", re.IGNORECASE)
_BEYOND = re.compile(r"bytes\s+\*/([0-9]{1,19})", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,19}")
_NO_SUCH = frozenset({404, 410})

_IGNORES_RANGES = (
    "the server ignores byte ranges and sends the whole file, so that {offset} bytes would have to be read and thrown "
    "away for each read (at most {most} are)"
)
_USE_ANOTHER = (
    "Copy the file to a server or an object store that serves byte ranges and relocate the references, or ask whoever "
    "runs the server for byte ranges."
)


class Troubled(TryFailed):
    """There is no answer, for a reason that somebody can repair."""

    def __init__(self, trouble: Trouble, reason: str, *, again: bool = False) -> None:
        super().__init__(f"{trouble.value}: {reason}", again=again)
        self.trouble = trouble


class PageForPeople(TryFailed):
    """The answer is a web page, not a file."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Bytes ``[offset, offset + length)`` of an object; `exact`: the object must have all of them."""

    offset: int
    length: int
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Body:
    """Which bytes of a body are the wanted ones.

    Attributes
    ----------
    skip, length
        So many are thrown away, so many are taken.
    goes_on
        Whether others may follow, which are not read.
    at_least
        So many of `length` have to come.
    state
        Of the object.
    """

    skip: int
    length: int
    goes_on: bool
    at_least: int
    state: ObjectState


def judge(status: int, headers: Mapping[str, str], wanted: Wanted, now_us: int) -> Body:
    """What to do with the body.

    Parameters
    ----------
    status, headers
        Of the answer; names of headers in any case.
    wanted
        What was asked for.
    now_us
        Microseconds since 1970, for servers that say when to come back.

    Raises
    ------
    TryFailed
        The wanted bytes are not in it.
    """
    if status == http.HTTPStatus.PARTIAL_CONTENT:
        return _partial(headers, wanted)
    if status == http.HTTPStatus.OK:
        return _whole(headers, wanted)
    if status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return _beyond(headers, wanted)
    answered = f"the server answered {described(status)}"
    if status in _NO_SUCH:
        raise TryFailed(f"there is no such object ({answered})", status)
    if may_pass(status):
        raise TryFailed(answered, status, again=True, wait_seconds=_retry_after(headers, now_us))
    raise TryFailed(answered, status, stale=status == http.HTTPStatus.UNAUTHORIZED)


def described(status: int) -> str:
    """A status and its meaning.

    Examples
    --------
    >>> described(404), described(799)
    ('404 Not Found', '799')
    """
    try:
        return f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def state_of(headers: Mapping[str, str], size: int | None) -> ObjectState:
    """The state of the object, as far as the answer says it."""
    encoding = headers.get("Content-Encoding", "").strip().lower()
    return ObjectState(
        size,
        headers.get("ETag") or None,
        _modified(headers.get("Last-Modified")),
        None if encoding in {"", "identity"} else encoding,
    )


def _partial(headers: Mapping[str, str], wanted: Wanted) -> Body:
    said = headers.get("Content-Range", "")
    found = _CONTENT_RANGE.fullmatch(said.strip())
    if found is None:
        raise TryFailed(f"the server sent a part of the file without saying which (Content-Range: {said[:100]!a})", 206)
    first, last, size = int(found[1]), int(found[2]), None if found[3] == "*" else int(found[3])
    asked = f"bytes {wanted.offset}-{wanted.offset + wanted.length - 1} were asked for"
    if first != wanted.offset or not first <= last < first + wanted.length or (size is not None and last >= size):
        raise TryFailed(f"the server sent another range than it was asked for (Content-Range: {said!a}; {asked})", 206)
    length = last + 1 - first
    claimed = _number(headers.get("Content-Length"))
    if claimed is not None and claimed != length:
        raise TryFailed(f"the server sent {claimed} bytes as {said!a}", 206)
    ends = size is not None and last + 1 == size
    if length < wanted.length and (wanted.exact or not ends):
        reason = too_short(wanted.length, length, size) if ends else f"the server sent only {said!a}; {asked}"
        raise TryFailed(reason, 206)
    return Body(0, length, goes_on=False, at_least=length, state=state_of(headers, size))


def _whole(headers: Mapping[str, str], wanted: Wanted) -> Body:
    """The server ignores ranges; or this is no file at all, but a page for people."""
    state = state_of(headers, _number(headers.get("Content-Length")))
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in {"text/html", "application/xhtml+xml"}:
        raise PageForPeople(
            "the server answered with a web page instead of the file: a login, consent or error page", 200
        )
    if state.encoding is not None:
        reason = f"the server sent the whole file in the encoding {state.encoding!a}, in which byte ranges mean nothing"
        raise TryFailed(reason, 200, remedy=_USE_ANOTHER)
    if wanted.offset > MOST_SKIPPED:
        raise TryFailed(_IGNORES_RANGES.format(offset=wanted.offset, most=MOST_SKIPPED), 200, remedy=_USE_ANOTHER)
    available = wanted.length if state.size is None else max(min(wanted.length, state.size - wanted.offset), 0)
    if wanted.exact and available < wanted.length:
        raise TryFailed(too_short(wanted.length, available, state.size), 200)
    at_least = available if wanted.exact or state.size is not None else 0
    return Body(wanted.offset, available, goes_on=True, at_least=at_least, state=state)


def _beyond(headers: Mapping[str, str], wanted: Wanted) -> Body:
    """The file ends before the range begins."""
    found = _BEYOND.fullmatch(headers.get("Content-Range", "").strip())
    size = None if found is None else int(found[1])
    if size is not None and size <= wanted.offset and not wanted.exact:
        return Body(0, 0, goes_on=True, at_least=0, state=state_of(headers, size))
    reason = too_short(wanted.length, 0 if size is None else min(size - wanted.offset, wanted.length), size)
    raise TryFailed(f"{reason} (the server answered {described(416)})", 416)


def _retry_after(headers: Mapping[str, str], now_us: int) -> float:
    text = headers.get("Retry-After", "").strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    when = _date(text)
    return 0.0 if when is None else max(when.timestamp() - now_us / 1_000_000, 0.0)


def _modified(text: str | None) -> int | None:
    when = _date(text or "")
    return None if when is None else int(when.timestamp())


def _date(text: str) -> datetime | None:
    try:
        when = parsedate_to_datetime(text)
        return when.replace(tzinfo=UTC) if when.tzinfo is None else when
    except (ValueError, OverflowError):
        return None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and _NUMBER.fullmatch(text.strip()) else None
