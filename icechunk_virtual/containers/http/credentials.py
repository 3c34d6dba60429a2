"""Credentials for web servers: what a caller shows to the servers of a container, and where redirects may lead.

Values only; who sends them, and to whom, is in `auth`. Secrets travel in pickles and never show in ``repr``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, field
from typing import Annotated, Any, TypeAlias

from icechunk_virtual.containers.refreshable import PickledFunction
from icechunk_virtual.model.checked import AwareDatetime, Union, Variant, member_of, text_mapping

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, section 5.6.2
_VALUE = re.compile(r"[\t\x20-\x7e]*")
_OURS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "range",
        "te",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that say which bytes are asked for, and how: nobody else sets them."""


def _secret(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text is needed, not {type(value).__name__}")
    if not _VALUE.fullmatch(value) or value != value.strip():
        raise ValueError(
            "a secret with line breaks, blanks around it or other than ASCII characters cannot be sent: "
            "remove them, by .strip() for instance"
        )
    return value


def _part(value: Any) -> str:
    """Name or password: sent encoded, in any characters but control characters."""
    if not isinstance(value, str):
        raise TypeError(f"a text is needed, not {type(value).__name__}")
    if re.search(r"[\x00-\x1f\x7f]", value):
        raise ValueError(
            "line breaks and other control characters cannot be sent: remove them, by .strip() for instance"
        )
    return value


def _user(value: Any) -> str:
    if ":" in _part(value):
        raise ValueError("a user's name cannot have a colon in basic authentication")
    return str(value)


def _headers(value: Any) -> tuple[tuple[str, str], ...]:
    given = text_mapping(dict(value))
    for name, text in given.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"no name of a header: {name!a}")
        if name.lower() in _OURS:
            raise ValueError(f"the header {name} is set by every request itself")
        if not _VALUE.fullmatch(text):
            raise ValueError(f"the header {name} holds a line break, or other characters than those of ASCII")
    return tuple(given.items())


def _hosts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"names of hosts in a list are needed, not {type(value).__name__}")
    hosts = tuple(value)
    for host in hosts:
        if not isinstance(host, str) or not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", host):
            raise ValueError(f"no name or address of a host, without scheme and port: {host!a}")
    return tuple(host.lower() for host in hosts)


Secret = Annotated[str, _secret]


@dataclass(frozen=True, slots=True)
class HttpBearerCredential(Variant):
    """A bearer token for a web server.

    Parameters
    ----------
    bearer
        The token.
    expires_after
        When it ends, in any time zone; ``None``: it is kept until the server refuses it.
    """

    bearer: Secret = field(repr=False)
    _: KW_ONLY
    expires_after: AwareDatetime | None = None


class HttpAuth(Union):
    """How a caller says who it is."""

    __slots__ = ()

    Bearer: TypeAlias = "_Bearer"
    Basic: TypeAlias = "_Basic"
    Netrc: TypeAlias = "_Netrc"
    Refreshable: TypeAlias = "_Refreshable"


@member_of(HttpAuth, "Bearer")
@dataclass(frozen=True, slots=True)
class _Bearer(Variant, HttpAuth):
    """A token."""

    _0: Secret = field(repr=False)


@member_of(HttpAuth, "Basic")
@dataclass(frozen=True, slots=True)
class _Basic(Variant, HttpAuth):
    """Name and password."""

    username: Annotated[str, _user]
    password: Annotated[str, _part] = field(repr=False)


@member_of(HttpAuth, "Netrc")
@dataclass(frozen=True, slots=True)
class _Netrc(Variant, HttpAuth):
    """Names and passwords of the machine's ``~/.netrc``: each for the host that it names."""


@member_of(HttpAuth, "Refreshable")
@dataclass(frozen=True, slots=True)
class _Refreshable(PickledFunction, HttpAuth):
    """A token that a function returns, called again before it ends or when the server refuses it."""

    current: HttpBearerCredential | None = field(default=None, repr=False)

    def fetch(self) -> HttpBearerCredential:
        """Call the function. ``TypeError`` if it returns something else; what it raises passes through."""
        return self._fetch(HttpBearerCredential)


AnyHttpAuth = _Bearer | _Basic | _Netrc | _Refreshable


@dataclass(frozen=True, slots=True)
class HttpCredentials(Variant):
    """What is shown to the web server of a container, and whom else it may send us to.

    Parameters
    ----------
    auth
        ``None``: nobody in particular.
    headers
        Names and values, sent with every request to the container's own server.
    redirect_hosts
        Hosts that redirects may lead to although their addresses are private.
    """

    auth: HttpAuth | None = None
    _: KW_ONLY
    headers: Annotated[tuple[tuple[str, str], ...], _headers] = field(default=(), repr=False)
    redirect_hosts: Annotated[tuple[str, ...], _hosts] = ()

    def __post_init__(self) -> None:
        super(HttpCredentials, self).__post_init__()  # a class with slots is made twice
        if self.auth is not None and any(name.lower() == "authorization" for name, _ in self.headers):
            raise ValueError("both credentials and a header Authorization: give one of them")
