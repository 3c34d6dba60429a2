"""Credentials for web servers as values: what they hold, what they refuse, and that they show no secret."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

import icechunk_virtual as icv
from icechunk_virtual.containers.refreshable import Fresh

SECRET = "s3cret"


def token() -> icv.HttpBearerCredential:
    return icv.HttpBearerCredential(SECRET)


def number() -> int:
    return 1


KINDS: dict[str, dict[str, Any]] = {
    "nobody": {},
    "bearer": {"bearer_token": SECRET},
    "basic": {"username": "me", "password": SECRET},
    "netrc": {"netrc": True},
    "function": {"get_credentials": token},
    "scattered": {"get_credentials": token, "scatter_initial_credentials": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_they_travel_and_show_nothing(kind: str) -> None:
    made = icv.http_credentials(**KINDS[kind], headers={"X-Key": SECRET}, redirect_hosts=["Login.example.org"])
    granted = icv.containers_credentials({"https://h/": made})
    assert granted == {"https://h/": icv.Credentials.Http(made)}
    assert pickle.loads(pickle.dumps(granted)) == granted
    assert SECRET not in repr(granted) + str(granted)
    assert made.headers == (("X-Key", SECRET),)
    assert made.redirect_hosts == ("login.example.org",)
    assert len({made, icv.http_credentials(**KINDS[kind])}) == 2


def test_a_function_is_called_when_it_is_time() -> None:
    later = icv.http_credentials(get_credentials=token).auth
    assert isinstance(later, icv.HttpAuth.Refreshable)
    assert later.current is None
    now = icv.http_credentials(get_credentials=token, scatter_initial_credentials=True).auth
    assert isinstance(now, icv.HttpAuth.Refreshable)
    assert now.current == token() == now.fetch()
    wrong = icv.http_credentials(get_credentials=number).auth  # type: ignore[arg-type]
    assert isinstance(wrong, icv.HttpAuth.Refreshable)
    with pytest.raises(TypeError, match="must return HttpBearerCredential, not int"):
        wrong.fetch()


def test_a_refused_token_is_asked_for_again_once() -> None:
    auth = icv.http_credentials(get_credentials=token, scatter_initial_credentials=True).auth
    assert isinstance(auth, icv.HttpAuth.Refreshable)
    fresh = Fresh(auth, endless=True)
    first, _ = fresh()
    assert fresh()[0] is first
    fresh.refuse(first)
    second, _ = fresh()
    assert second is not first
    fresh.refuse(first)  # by somebody who was slower
    assert fresh()[0] is second


@pytest.mark.parametrize(
    "given",
    [
        {"bearer_token": "a", "netrc": True},
        {"bearer_token": "a", "username": "b", "password": "c"},
        {"get_credentials": token, "netrc": True},
        {"username": "a"},
        {"password": "a"},
    ],
)
def test_one_complete_kind(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Conflicting arguments to http_credentials"):
        icv.http_credentials(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bearer_token": f"{SECRET}\n"}, "line breaks"),
        ({"bearer_token": f"{SECRET}\r\nX: y"}, "line breaks"),
        ({"bearer_token": "\u00e9"}, "other than ASCII"),
        ({"username": "a:b", "password": SECRET}, "colon"),
        ({"username": "a", "password": f"{SECRET}\n"}, "line breaks"),
        ({"headers": {"X Y": SECRET}}, "no name of a header"),
        ({"headers": {"X:": SECRET}}, "no name of a header"),
        ({"headers": {"X": f"{SECRET}\r\nY: z"}}, "line break"),
        ({"headers": {"range": "bytes=0-1"}}, "set by every request itself"),
        ({"headers": {"Host": "h"}}, "set by every request itself"),
        ({"headers": {"authorization": SECRET}, "netrc": True}, "both credentials and a header"),
        ({"redirect_hosts": ["http://h/"]}, "without scheme and port"),
        ({"redirect_hosts": ["h:80"]}, "without scheme and port"),
    ],
)
def test_what_no_request_can_carry(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        icv.http_credentials(**given)
    assert SECRET not in str(caught.value)


def test_types() -> None:
    with pytest.raises(TypeError, match="a text is needed, not int"):
        icv.http_credentials(bearer_token=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="keys and values must be texts"):
        icv.http_credentials(headers={"X": 1})  # type: ignore[dict-item]
    assert icv.http_credentials(redirect_hosts="h").redirect_hosts == ("h",)
