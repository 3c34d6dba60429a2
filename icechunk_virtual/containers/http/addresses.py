"""URLs as they are sent to web servers, where redirects lead, and which addresses are nobody else's business.

Pure functions of texts. Knows no connections.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import urllib.parse
from typing import NamedTuple

from icechunk_virtual.containers.url import DEFAULT_PORTS, Location

_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
_PATH_SAFE = "".join(set(_PRINTABLE) - set('"<>?#[\\]^`{|}'))
_QUERY_SAFE = "".join(set(_PRINTABLE) - set('"<>#'))
_BAD = re.compile(r"[\x00-\x20\x7f\\]")
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_NO_HOST = re.compile(r"https?:(?!//[^/])|///", re.IGNORECASE)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Origin(NamedTuple):
    """What credentials are for: scheme, host in lower case without brackets and final dot, and port."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


class BadRedirect(Exception):
    """A redirect that is not followed. The message says why."""


class SpecialAddress(Exception):
    """A host that only the opener of a repository may send us to."""

    def __init__(self, host: str, address: str | None) -> None:
        where = host if address in (None, host) else f"{host} ({address})"
        super().__init__(f"the server redirects to {where}, which is no address of the public internet")
        self.host = host


def sent_url(location: Location) -> str:
    """The URL as its text has it, escapes included; only what no request can carry is escaped.

    Scheme, host and port are those that were judged. The fragment is not sent.

    Examples
    --------
    >>> from icechunk_virtual.containers.url import check_location
    >>> sent_url(check_location("HTTP://Host:80/a//b%7e c/?sig=x%2Fy#part"))
    'http://host/a//b%7e%20c/?sig=x%2Fy'
    """
    below = location.text.split("//", 1)[1].partition("#")[0].partition("?")[0].partition("/")[2]
    return location.root + _quote(below, _PATH_SAFE) + _quote(location.query, _QUERY_SAFE)


def _quote(text: str, safe: str) -> str:
    return urllib.parse.quote(_LONE_PERCENT.sub("%25", text), safe=safe, errors="surrogateescape")


def origin_of(url: str) -> Origin:
    """The origin of an absolute http or https URL.

    Examples
    --------
    >>> str(origin_of("https://Host.:443/a"))
    'https://host'
    """
    parts = urllib.parse.urlsplit(url)
    return Origin(parts.scheme, plain_host(parts.hostname or ""), parts.port or DEFAULT_PORTS[parts.scheme])


def plain_host(host: str) -> str:
    """A host as it is compared: in lower case, without brackets and final dot; IPv6 addresses in their short form.

    Examples
    --------
    >>> plain_host("Host."), plain_host("[0:0::1]")
    ('host', '::1')
    """
    host = host.lower().strip("[]").rstrip(".")
    address = _address(host)
    return host if address is None else str(address)


def redirected(url: str, target: str | None) -> str:
    """Where a redirect leads: an absolute URL.

    Raises
    ------
    BadRedirect
        Nowhere, to another protocol, from https to http, with user info, or to what could be read in more than one
        way.
    """
    if not target:
        raise BadRedirect("the server redirects without saying where to")
    if _NO_HOST.match(target):
        raise BadRedirect("the server redirects to a URL without a host")
    target = _quote(target, _QUERY_SAFE + "#")
    try:
        absolute = urllib.parse.urljoin(url, target)
        parts = urllib.parse.urlsplit(absolute)
        port = parts.port
    except ValueError:
        raise BadRedirect("the server redirects to something that is no URL") from None
    if parts.scheme not in DEFAULT_PORTS or parts.scheme == "ftp":
        raise BadRedirect(f"the server redirects to {parts.scheme[:40]!a}, which is not http")
    if parts.scheme == "http" and url.startswith("https:"):
        raise BadRedirect(f"the server redirects from https to plain http (host {parts.hostname!a})")
    if "@" in parts.netloc:
        raise BadRedirect("the server redirects to a URL with user info")
    host = parts.netloc if port is None and not parts.netloc.endswith(":") else parts.netloc.rpartition(":")[0]
    if not _HOST.fullmatch(host) or _BAD.search(absolute) or port == 0:
        raise BadRedirect(f"the server redirects to a host that is none: {parts.netloc[:100]!a}")
    return urllib.parse.urlunsplit(parts._replace(fragment="", path=parts.path or "/"))


# -- addresses ---------------------------------------------------------------------------------------------------


def literal_address(host: str) -> str | None:
    """The address that a host is, if it is one: also in the forms that only some programs understand.

    Examples
    --------
    >>> literal_address("2130706433"), literal_address("0x7f.1"), literal_address("example.org")
    ('127.0.0.1', '127.0.0.1', None)
    """
    plain = host.strip("[]").rstrip(".")
    address = _address(plain)
    if address is not None:
        return str(address)
    try:
        return socket.inet_ntoa(socket.inet_aton(plain)) if plain and plain[0].isdigit() else None
    except OSError:
        return None


def is_special(address: str) -> bool:
    """Whether an address is not one of the public internet: private, loopback, link-local, multicast, reserved ...

    IPv6 addresses that stand for IPv4 addresses are what those are. What is no address is special.

    Examples
    --------
    >>> is_special("10.0.0.1"), is_special("::ffff:169.254.169.254"), is_special("8.8.8.8")
    (True, True, False)
    """
    found = _address(address.partition("%")[0])
    if found is None:
        return True
    if isinstance(found, ipaddress.IPv6Address):
        meant = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF) if found in _NAT64 else found.ipv4_mapped
        if found.sixtofour is not None or found.teredo is not None:  # tunnels that nobody needs any more
            return True
        found = found if meant is None else meant
    return not found.is_global or found.is_multicast or found.is_reserved


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
