"""Options of containers on web servers: texts, as values."""

from __future__ import annotations

import pytest

from icechunk_virtual.containers.http.options import HttpOptions, parse_options
from icechunk_virtual.repo.cloud.clients import CLIENT_OPTIONS


def test_nothing_said() -> None:
    assert parse_options({}) == (HttpOptions(), [])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("1m 30s", 90),
        ("250ms", 0.25),
        ("2 hours", 7200),
        ("1day", 86400),
        ("0s", 0),
        ("5 minutes 1 sec", 301),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    given = {"timeout": text, "connect_timeout": text, "read_timeout": text, "pool_idle_timeout": text}
    options, unknown = parse_options(given)
    assert (options.timeout, options.connect_timeout, options.read_timeout) == (seconds,) * 3
    assert options.pool_idle_timeout == seconds
    assert not unknown


@pytest.mark.parametrize("text", ["", "30", "s", "30x", "-1s", "1.5s", "30s!", "never"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match=r"option timeout: .* is no Duration"):
        parse_options({"timeout": text})


def test_flags() -> None:
    for text in ("true", "TRUE", "1", "on", "yes"):
        assert parse_options({"allow_http": text})[0].allow_http
    for text in ("false", "0", "off", "no"):
        assert not parse_options({"allow_http": text})[0].allow_http
    with pytest.raises(ValueError, match="option allow_invalid_certificates: 'maybe' is neither true nor false"):
        parse_options({"allow_invalid_certificates": "maybe"})


def test_all_names_of_the_other_client_are_known() -> None:
    values = dict.fromkeys(CLIENT_OPTIONS, "1s") | dict.fromkeys(("allow_http", "allow_invalid_certificates"), "true")
    assert parse_options(values)[1] == []
    assert parse_options({"no_such": "1", "allow_http": "1"})[1] == ["no_such"]


def test_the_name_that_is_sent() -> None:
    assert parse_options({"user_agent": "me/1"})[0].user_agent == "me/1"
    with pytest.raises(ValueError, match="option user_agent"):
        parse_options({"user_agent": "me\r\nX: y"})


def test_proxies_and_certificates_are_not_shown() -> None:
    options, _ = parse_options({"proxy_url": "http://me:secret@proxy", "root_certificate": "secret"})
    assert options.proxy_url == "http://me:secret@proxy"
    assert "secret" not in repr(options)
