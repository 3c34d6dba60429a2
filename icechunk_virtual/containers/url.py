"""Locations of virtual chunks: which texts are legal, and what object each of them means.

The text is kept verbatim; its meaning is formed here once, and only that meaning is matched against prefixes and
opened. Pure functions without I/O: nothing here knows which containers exist or who may read them.

Rules (every scheme, unless said otherwise)
-------------------------------------------
* ``scheme://host[:port]/path``; a file needs no host (``file:/p``, ``file:///p``, ``file://localhost/p``).
* Scheme in lower case; hosts of http, https, ftp and file too. Bucket names keep their case. Ports count; the
  default port of http and https is no port.
* Percent escapes of the path are decoded once. ``%`` without two hexadecimal digits stands for itself.
* ``?`` and ``#`` belong to the name, as any other character, except for http and https: there they begin the
  query and the fragment.
* Refused, since readers disagree on what they mean: ``.`` and ``..`` segments, encoded or not, for http and https
  also with parameters (``..;x``); encoded separators (``%2F``); user info; control characters; hosts that are not
  ASCII; raw backslashes in http and file URLs. And texts of more than `LONGEST` characters.
* ``//`` within a path of a file is ``/``. Object stores and servers have keys with empty segments: kept.
"""

from __future__ import annotations

import functools
import os
import re
import urllib.parse
from dataclasses import dataclass

from icechunk_virtual.errors import InvalidLocation

LONGEST = 2**16
"""Characters of a location. Object stores end at 1,024; signed URLs of web servers have a few thousand."""
DEFAULT_PORTS = {"http": 80, "https": 443, "ftp": 21}
_WEB = frozenset({"http", "https"})
_SPECIAL = frozenset({"http", "https", "ftp", "file"})  # where URL parsers read "\" as "/", and hosts have no case

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
_HOST = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=-]+|\[[0-9A-Fa-f:.]+\]")
_WEB_HOST = re.compile(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]")
_PORT = re.compile(r"[0-9]{1,5}")
_USER_INFO = re.compile(r"(?<=//)[^/?#]*@")
_ENCODED_SEPARATOR = re.compile(r"%2f", re.IGNORECASE)
_SEPARATORS = re.compile(r"[/\\]")
_URL_PATH_SAFE = "/~!$&'()*+,;=:@-._"


@dataclass(frozen=True, slots=True)
class Location:
    """What the text of a location means.

    Attributes
    ----------
    text : str
        As given.
    scheme : str
        In lower case.
    host : str
        Server, bucket or container; empty for files.
    port : int or None
        None if not given, or the scheme's default.
    path : str
        Decoded once, with its leading ``/``. Bytes of file names that are not UTF-8 are surrogates, as in
        `os.fsdecode`.
    query : str
        Of http and https, verbatim with its ``?``; otherwise empty.
    """

    text: str
    scheme: str
    host: str
    port: int | None
    path: str
    query: str = ""

    @property
    def key(self) -> str:
        """Key of the object in its bucket: the path without its leading ``/``."""
        return self.path[1:]

    @property
    def root(self) -> str:
        """``scheme://host[:port]/``."""
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}/"

    @property
    def canonical(self) -> str:
        """The form that prefixes are matched on: equal for all texts that mean the same object."""
        return self.root + self.path[1:]

    @property
    def escaped(self) -> str:
        """As `canonical`, but for programs that decode it once more; with the query."""
        return self.root + urllib.parse.quote(self.path[1:], safe=_URL_PATH_SAFE) + self.query

    def __str__(self) -> str:
        return self.text


@functools.lru_cache(maxsize=4096)
def check_location(text: str) -> Location:
    """Understand the location of a virtual chunk.

    Parameters
    ----------
    text
        Absolute URL of one object.

    Raises
    ------
    InvalidLocation
        Not an absolute URL, or one that could be read in more than one way. See the rules of this module.

    Examples
    --------
    >>> check_location("file:///data/a%20b.nc").path
    '/data/a b.nc'
    """
    location = _parse(text)
    if location.path == "/":
        raise _invalid(text, f"virtual reference has no path segments {text}", "name an object below the host")
    return location


@functools.lru_cache(maxsize=256)
def check_prefix(text: str) -> Location:
    """Understand the URL prefix of a container; its path ends with ``/``, and may be ``/`` except for files.

    Raises
    ------
    InvalidLocation
        As `check_location`; also without the final ``/``, with a query or fragment, or ``file:///`` as a whole.
    """
    location = _parse(text)
    if not text.endswith("/") or (location.scheme in _WEB and ("?" in text or "#" in text)):
        raise _invalid(text, f"a url prefix must end in a / character: {text}", "append a /")
    if location.scheme == "file":
        if location.path == "/":
            raise _invalid(text, f"a url prefix of files must include a path: {text}", "name a directory")
        return Location(text, "file", "", None, location.path + "/")
    return location


def file_url(path: str | os.PathLike[str]) -> str:
    """The canonical ``file:///`` URL of a local path: absolute, special characters percent-encoded.

    Symbolic links are kept as they are.

    Examples
    --------
    >>> file_url("/data/a b.nc")
    'file:///data/a%20b.nc'
    """
    absolute = os.path.abspath(path)  # noqa: PTH100 - resolve() would follow links
    if os.name == "nt":
        absolute = "/" + absolute.replace("\\", "/")
    return "file:///" + urllib.parse.quote(os.fsencode(absolute), safe=_URL_PATH_SAFE).lstrip("/")


def without_user_info(text: str) -> str:
    """A URL without the name and password that may be in front of its host; all other texts as they are."""
    return _USER_INFO.sub("", text)


def local_path(location: Location) -> str:
    """The path on this machine that a ``file`` location means."""
    if os.name == "nt" and re.match(r"/[A-Za-z]:", location.path):
        return location.path[1:]
    return location.path


def _invalid(text: str, problem: str, remedy: str) -> InvalidLocation:
    return InvalidLocation(f"{problem} ({remedy}).", location=text)


def _ambiguous(text: str, problem: str, remedy: str) -> InvalidLocation:
    return _invalid(text, f"invalid chunk location, {problem}: {ascii(without_user_info(text))[1:-1]}", remedy)


def _parse(text: str) -> Location:
    if len(text) > LONGEST:
        raise InvalidLocation(
            f"invalid chunk location, it has {len(text)} characters (a location has at most {LONGEST}).",
            location=text[:100],
        )
    if _CONTROL.search(text):
        raise _ambiguous(text, "control characters are not allowed", "percent-encode what belongs to the name")
    match = _SCHEME.match(text)
    if match is None:
        raise _invalid(
            text,
            f'error parsing virtual ref URL: "{text}": relative URL without a base',
            "write an absolute URL such as file:///data/a.nc or s3://bucket/a.nc",
        )
    scheme, rest = match[1].lower(), text[match.end() :]
    if "\\" in rest and scheme in _SPECIAL:
        raise _ambiguous(text, "a backslash is not allowed", "write / between segments, %5C for the character")
    if scheme == "file" and rest.startswith("/") and not rest.startswith("//"):
        rest = "//" + rest
    if not rest.startswith("//"):
        raise _invalid(text, f"virtual reference has no path segments {text}", f"write {scheme}://host/path")
    raw_path, query = rest[2:], ""
    if scheme in _WEB:
        raw_path, query = _cut_query(raw_path)
    authority, slash, raw_path = raw_path.partition("/")
    host, port = _authority(text, scheme, authority)
    if not slash:
        raise _invalid(text, f"virtual reference has no path segments {text}", "name an object below the host")
    return Location(text, scheme, host, port, _decode_path(text, scheme, raw_path), query)


def _cut_query(rest: str) -> tuple[str, str]:
    rest = rest.partition("#")[0]
    path, mark, query = rest.partition("?")
    return path, mark + query


def _authority(text: str, scheme: str, authority: str) -> tuple[str, int | None]:
    """Host in the case that counts, and port."""
    if "@" in authority:
        remedy = "give credentials when you open the repository"
        if scheme == "abfs":
            remedy = "write abfs://container/path, and name the account where the container is added"
        raise _ambiguous(text, "user info is not allowed", remedy)
    host, port_text = authority, ""
    if not authority.endswith("]") and ":" in authority:
        host, _, port_text = authority.rpartition(":")
    if scheme in _SPECIAL:
        host = host.lower()
    if scheme == "file":
        if host not in ("", "localhost") or port_text:
            raise _invalid(
                text,
                f'error parsing virtual ref URL: "{text}": a file has no host `{authority}`',
                "write three slashes: file:///path",
            )
        return "", None
    if not host:
        raise _invalid(text, f"error parsing bucket name from virtual ref URL {text}", f"write {scheme}://host/path")
    if not (_WEB_HOST if scheme in _WEB else _HOST).fullmatch(host) or not host.strip("."):
        raise _invalid(
            text,
            f'error parsing virtual ref URL: "{text}": invalid host {host!a}',
            "write hosts in ASCII, international ones in their xn-- form",
        )
    if not port_text:
        return host, None
    if not _PORT.fullmatch(port_text) or int(port_text) > 65535:
        raise _invalid(text, f'error parsing virtual ref URL: "{text}": invalid port number', "ports are 0 to 65535")
    port = int(port_text)
    return host, None if port == DEFAULT_PORTS.get(scheme) else port


def _decode_path(text: str, scheme: str, raw: str) -> str:
    """The path that `raw`, without its leading slash, stands for."""
    path = raw
    if "%" in raw:
        if _ENCODED_SEPARATOR.search(raw):
            raise _ambiguous(text, "encoded separators are not allowed", "write / instead of %2F")
        try:
            path = urllib.parse.unquote(raw, errors="surrogateescape" if scheme == "file" else "strict")
        except UnicodeDecodeError:
            raise _ambiguous(text, "escapes must be UTF-8", "encode the name as UTF-8 first") from None
        if "\x00" in path:
            raise _ambiguous(text, "NUL is not allowed", "no object has such a name")
        if os.name == "nt" and scheme == "file" and "\\" in path:
            raise _ambiguous(text, "encoded separators are not allowed", "write / instead of %5C")
    if "." in path and any(_climbs(segment, scheme) for segment in _SEPARATORS.split(path)):
        raise _ambiguous(text, "`.` and `..` segments are not allowed", "write the path that is meant")
    if scheme == "file":
        path = "/".join(segment for segment in path.split("/") if segment)
    return "/" + path


def _climbs(segment: str, scheme: str) -> bool:
    name = segment.partition(";")[0] if scheme in _WEB else segment  # what some servers take for parameters
    return name in {".", ".."}
