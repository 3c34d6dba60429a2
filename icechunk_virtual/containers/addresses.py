"""Where the requests of a container go, if its options say so, and which of those options a repository may set.

A URL prefix such as ``s3://bucket/`` names no server: the options of the container's store do, and they come with the
repository. Whoever grants the prefix means the provider's own servers. Everything else is listed here, for
`authorize` to compare with what the opener named. Values in, values out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from icechunk_virtual.containers.container import (
    ObjectStoreConfig,
    S3Options,
    VirtualChunkContainer,
    shown_options,
)
from icechunk_virtual.containers.url import Location, check_prefix
from icechunk_virtual.errors import InvalidLocation

VENDOR = re.compile(r"\A(google|gcs|azure_storage|azure)_")
"""What names of options of Google and Azure may begin with."""

_WEB = frozenset({"http", "https"})
_LABEL = re.compile(r"[A-Za-z0-9_-]*")  # what becomes a part of a host's name and cannot make it another one
_S3_HOST = re.compile(
    r"s3(?:-fips|-accelerate|-external-1)?(?:\.dualstack)?(?:[.-][a-z]{2}(?:-[a-z]+)+-[0-9])?\.amazonaws\.com(?:\.cn)?"
)  # not all below amazonaws.com: much of that is rented out, such as ec2-*.compute.amazonaws.com and s3-website-*
_TIGRIS_HOST = re.compile(r"t3\.storage\.dev|fly\.storage\.tigris\.dev")
_GOOGLE_HOST = re.compile(r"storage(?:\.[a-z0-9-]+\.rep)?\.googleapis\.com")
_AZURE_HOST = re.compile(
    r"[a-z0-9-]+\.(?:blob|dfs)\."
    r"(?:core\.windows\.net|core\.chinacloudapi\.cn|core\.usgovcloudapi\.net|fabric\.microsoft\.com)"
)

_HARMLESS = frozenset(
    {
        "allow_http",  # an address with http is another one than with https
        "connect_timeout",
        "default_content_type",
        "http1_only",
        "http2_keep_alive_interval",
        "http2_keep_alive_timeout",
        "http2_keep_alive_while_idle",
        "http2_only",
        "pool_idle_timeout",
        "pool_max_idle_per_host",
        "read_timeout",
        "timeout",
        "user_agent",
    }
)
"""Options of the HTTP client that neither send requests elsewhere nor make connections less safe."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What is known of the options of a kind of store, by names without the vendor's."""

    provider: str
    own: re.Pattern[str] | None
    harmless: frozenset[str]
    addresses: frozenset[str]
    labels: frozenset[str] = frozenset()


_S3 = _Kind("Amazon's", _S3_HOST, frozenset(), frozenset({"endpoint_url"}), frozenset({"region"}))
_TIGRIS = _Kind("Tigris's", _TIGRIS_HOST, frozenset(), frozenset({"endpoint_url"}), frozenset({"region"}))
_GOOGLE = _Kind(
    "Google's", _GOOGLE_HOST, _HARMLESS | {"bearer_token", "skip_signature"}, frozenset({"base_url", "proxy_url"})
)
_AZURE = _Kind(
    "Azure's",
    _AZURE_HOST,
    _HARMLESS
    | {
        "access_key",
        "account_key",
        "bearer_token",
        "disable_tagging",
        "master_key",
        "sas_key",
        "sas_token",
        "skip_signature",
        "token",
        "use_fabric_endpoint",
    },
    frozenset({"endpoint", "proxy_url"}),
    frozenset({"account"}),
)
_HTTP = _Kind("the web server's", None, _HARMLESS, frozenset({"proxy_url"}))
_KINDS: tuple[tuple[type[ObjectStoreConfig], _Kind], ...] = (
    (ObjectStoreConfig.Tigris, _TIGRIS),
    (ObjectStoreConfig.S3, _S3),
    (ObjectStoreConfig.S3Compatible, _S3),
    (ObjectStoreConfig.Gcs, _GOOGLE),
    (ObjectStoreConfig.Azure, _AZURE),
    (ObjectStoreConfig.Http, _HTTP),
)


@dataclass(frozen=True, slots=True)
class Detour:
    """An option by which requests go elsewhere than the container's prefix says, or less safely.

    Attributes
    ----------
    option, shown : str
        Its name, and its value as it may be shown.
    provider : str
        Whose own address it is not.
    address : Location or None
        Where requests would go, as a URL prefix; ``None`` for an option that no address can stand for.
    """

    option: str
    shown: str
    provider: str
    address: Location | None

    def is_below(self, prefixes: tuple[str, ...]) -> bool:
        """Whether the address is below one of some canonical prefixes."""
        return self.address is not None and self.address.canonical.startswith(prefixes)


def web_prefixes(texts: Iterable[str]) -> tuple[str, ...]:
    """The canonical forms of those texts that name an address of the web; a final ``/`` is added."""
    found = (_web_prefix(text) for text in texts)
    return tuple(sorted({prefix.canonical for prefix in found if prefix is not None}))


def origins(texts: Iterable[str]) -> tuple[str, ...]:
    """``scheme://host[:port]/`` of those texts that name an address of the web."""
    found = (_web_prefix(text) for text in texts)
    return tuple(sorted({prefix.root for prefix in found if prefix is not None}))


def detours(container: VirtualChunkContainer) -> tuple[Detour, ...]:
    """Everything by which a container has requests made elsewhere or less safely than its prefix says."""
    kind = next((kind for store, kind in _KINDS if isinstance(container.store, store)), None)
    if kind is None:
        return ()
    options = _options(container)
    found = (_detour(kind, name, value, options) for name, value in options.items())
    return tuple(detour for detour in found if detour is not None)


def _options(container: VirtualChunkContainer) -> Mapping[str, str]:
    store: Any = container.store
    given: S3Options | Mapping[str, str] = store._0
    if isinstance(given, S3Options):  # its other fields are flags and numbers
        named = {"endpoint_url": given.endpoint_url, "region": given.region}
        return {name: value for name, value in named.items() if value}
    return given


def _detour(kind: _Kind, name: str, value: str, options: Mapping[str, str]) -> Detour | None:
    plain = VENDOR.sub("", name.lower())
    if plain in kind.harmless or (plain in kind.labels and _LABEL.fullmatch(value)):
        return None
    address = _web_prefix(value) if plain in kind.addresses else None
    if address is not None and plain != "proxy_url" and _is_own(kind, address):
        return None
    return Detour(name, shown_options(options)[name], kind.provider, address)


def _is_own(kind: _Kind, address: Location) -> bool:
    usual = address.scheme == "https" and address.port is None and address.path == "/"
    return usual and kind.own is not None and kind.own.fullmatch(address.host) is not None


def _web_prefix(text: str) -> Location | None:
    try:
        prefix = check_prefix(text if text.endswith("/") else text + "/")
    except InvalidLocation:
        return None
    return prefix if prefix.scheme in _WEB else None
