"""How the obstore library is told to make requests: patience, repetitions, headers. Values in, values out.

Knows no provider. Each storage has a client for each `Role`, made when it is first needed: that takes tens of
milliseconds, most of them for the certificates of this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from icechunk_virtual.repo.obstore_store import SMALL_UPLOAD, Role
from icechunk_virtual.repo.settings import EffectiveStorage

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

UPLOAD_SPEED = 100_000
"""Bytes per second; an upload may be that slow without being taken for stalled."""

CLIENT_OPTIONS = frozenset(
    {
        "allow_http",
        "allow_invalid_certificates",
        "connect_timeout",
        "default_content_type",
        "http1_only",
        "http2_keep_alive_interval",
        "http2_keep_alive_timeout",
        "http2_keep_alive_while_idle",
        "http2_only",
        "pool_idle_timeout",
        "pool_max_idle_per_host",
        "proxy_ca_certificate",
        "proxy_excludes",
        "proxy_url",
        "read_timeout",
        "root_certificate",
        "timeout",
        "user_agent",
    }
)
"""Names of the library's options for its HTTP client. Of Google's stores it takes them in no other place."""

_NEVER = timedelta(days=36_500)
_LAST_RETRY = timedelta(minutes=5)  # requests are signed once, and the signature grows old


@dataclass(frozen=True, slots=True)
class Manner:
    """How requests to a provider are made, beside what the settings of the storage say.

    Attributes
    ----------
    allow_http
        Whether connections without TLS are allowed.
    stall_seconds
        How long a connection may be silent; 0: for ever.
    headers, read_headers
        Sent with every request, and with those that read.
    """

    allow_http: bool = False
    stall_seconds: int = 60
    headers: Mapping[str, str] = field(default_factory=dict)
    read_headers: Mapping[str, str] = field(default_factory=dict)


_PLAIN = Manner()


def client_options(role: Role, manner: Manner, settings: EffectiveStorage) -> ClientConfig:
    """Options of the HTTP client."""
    options: ClientConfig = {
        "allow_http": manner.allow_http,
        "timeout": _NEVER,  # of a whole transfer, however large; silence is what is limited
        "default_headers": {**manner.headers, **(manner.read_headers if role is Role.READ else {})},
    }
    if manner.stall_seconds:
        # While the client sends a body it hears nothing, so uploads get the time that they may need.
        options["read_timeout"] = timedelta(
            seconds=manner.stall_seconds + _largest_body(role, settings) // UPLOAD_SPEED
        )
    return options


def _largest_body(role: Role, settings: EffectiveStorage) -> int:
    if role is Role.UPLOAD:
        return max(settings.minimum_size_for_multipart_upload, SMALL_UPLOAD)
    return SMALL_UPLOAD if role is Role.WRITE else 0


def retry_config(role: Role, settings: EffectiveStorage) -> RetryConfig:
    """How failed requests are repeated."""
    return {
        "max_retries": 0 if role is Role.ONCE else settings.max_tries - 1,
        "backoff": {
            "init_backoff": timedelta(milliseconds=settings.initial_backoff_ms),
            "max_backoff": timedelta(milliseconds=max(settings.initial_backoff_ms, settings.max_backoff_ms)),
            "base": 2,
        },
        "retry_timeout": _LAST_RETRY,
    }


def connection(
    role: Role,
    config: Mapping[str, Any],
    given: Mapping[str, str],
    settings: EffectiveStorage,
    manner: Manner = _PLAIN,
) -> dict[str, Any]:
    """Arguments of a store of Google or Azure. Options that the user has `given` win over ours."""
    of_client = {key: value for key, value in given.items() if key in CLIENT_OPTIONS}
    return {
        "config": {**config, **{key: value for key, value in given.items() if key not in of_client}},
        "client_options": {**client_options(role, manner, settings), **of_client},
        "retry_config": retry_config(role, settings),
    }
