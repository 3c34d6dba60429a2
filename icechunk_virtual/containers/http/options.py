"""What a container says about its web server: the options of ``http_store``, which are texts, as values.

The names are those of the original's HTTP client. Knows no client. Which of them a foreign repository may set is
judged in `authorize`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_UNITS = {
    "ns": 1e-9,
    "nsec": 1e-9,
    "us": 1e-6,
    "usec": 1e-6,
    "ms": 1e-3,
    "msec": 1e-3,
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "m": 60.0,
    "min": 60.0,
    "minute": 60.0,
    "h": 3600.0,
    "hr": 3600.0,
    "hour": 3600.0,
    "d": 86400.0,
    "day": 86400.0,
    "w": 604800.0,
    "week": 604800.0,
}
_PART = re.compile(r"\s*([0-9]+)\s*([a-z]+)\s*")


def _seconds(text: str) -> float:
    """A duration such as ``30s`` or ``1m 30s``, in seconds."""
    total, position = 0.0, 0
    while position < len(text):
        part = _PART.match(text, position)
        unit = None if part is None else _UNITS.get(part[2]) or _UNITS.get(part[2].removesuffix("s"))
        if part is None or unit is None:
            break
        total, position = total + int(part[1]) * unit, part.end()
    if not text or position < len(text):
        raise ValueError(f"{text!a} is no Duration: write for instance 30s or 1m 30s")
    return total


def _truth(text: str) -> bool:
    lower = text.lower()
    if lower in {"1", "true", "on", "yes", "y"}:
        return True
    if lower in {"0", "false", "off", "no", "n"}:
        return False
    raise ValueError(f"{text!a} is neither true nor false")


def _header(text: str) -> str:
    if not re.fullmatch(r"[\x20-\x7e]+", text):
        raise ValueError("line breaks and other than ASCII characters cannot be sent")
    return text


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """How the web server of a container is reached.

    Attributes
    ----------
    allow_http
        Whether connections without TLS are allowed.
    connect_timeout, read_timeout, timeout, pool_idle_timeout
        Seconds for a connection to be made, of silence, for a whole answer, and that an unused connection is kept.
    user_agent
    proxy_url, proxy_excludes
        Instead of what the environment says; hosts that are reached without, separated by commas.
    proxy_ca_certificate, root_certificate
        Certificates to trust, in PEM, beside those of the machine.
    allow_invalid_certificates
        Whether anybody may pass for the server.
    """

    allow_http: bool = False
    connect_timeout: float = 30.0
    read_timeout: float = 60.0
    timeout: float | None = None
    pool_idle_timeout: float = 30.0
    user_agent: str | None = None
    proxy_url: str | None = field(default=None, repr=False)
    proxy_excludes: str | None = None
    proxy_ca_certificate: str | None = field(default=None, repr=False)
    root_certificate: str | None = field(default=None, repr=False)
    allow_invalid_certificates: bool = False


_PARSERS: dict[str, Callable[[str], Any]] = {
    "allow_http": _truth,
    "allow_invalid_certificates": _truth,
    "connect_timeout": _seconds,
    "pool_idle_timeout": _seconds,
    "proxy_ca_certificate": str,
    "proxy_excludes": str,
    "proxy_url": str,
    "read_timeout": _seconds,
    "root_certificate": str,
    "timeout": _seconds,
    "user_agent": _header,
}
_WITHOUT_EFFECT = frozenset(
    {
        "default_content_type",  # of what is written
        "http1_only",  # always
        "http2_keep_alive_interval",
        "http2_keep_alive_timeout",
        "http2_keep_alive_while_idle",
        "http2_only",
        "pool_max_idle_per_host",
    }
)


def parse_options(given: Mapping[str, str]) -> tuple[HttpOptions, list[str]]:
    """The options, and the names that nobody knows.

    Raises
    ------
    ValueError
        A value that its option does not take. Names the option.
    """
    values: dict[str, Any] = {}
    for name, text in given.items():
        if name in _PARSERS:
            try:
                values[name] = _PARSERS[name](text)
            except ValueError as error:
                raise ValueError(f"option {name}: {error}") from None
    return HttpOptions(**values), sorted(given.keys() - _PARSERS.keys() - _WITHOUT_EFFECT)
