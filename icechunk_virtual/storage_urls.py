"""Storages in the cloud by one text: ``s3://bucket/prefix?region=eu-central-1``. Opens nothing.

Credentials are never in the text: they come from the environment, unless it asks for unsigned requests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from icechunk_virtual.storage import Storage, azure_storage, gcs_storage, r2_storage, s3_storage, tigris_storage

_BOOLEANS = {"": True, "true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _boolean(text: str) -> bool:
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise ValueError("true or false is needed") from None


@dataclass(frozen=True, slots=True)
class _Kind:
    """Storages of a URL scheme: the function that makes one, what it calls a bucket, and options in the query."""

    make: Callable[..., Storage]
    options: dict[str, Callable[[str], Any]]
    bucket: str = "bucket"
    needed: tuple[str, ...] = ()


_S3: dict[str, Callable[[str], Any]] = {
    "region": str,
    "endpoint_url": str,
    "anonymous": _boolean,
    "allow_http": _boolean,
    "network_stream_timeout_seconds": int,
}
_GCS = _Kind(gcs_storage, {"anonymous": _boolean})
_AZURE = _Kind(azure_storage, {"account": str}, "container", ("account",))
_KINDS = {
    "s3": _Kind(s3_storage, {**_S3, "force_path_style": _boolean, "requester_pays": _boolean}),
    "tigris": _Kind(tigris_storage, {**_S3, "use_weak_consistency": _boolean}),
    "r2": _Kind(r2_storage, {**_S3, "account_id": str}),
    "gs": _GCS,
    "gcs": _GCS,
    "az": _AZURE,
    "azure": _AZURE,
    "abfs": _AZURE,
}


@dataclass(frozen=True, slots=True)
class StorageUrl:
    """What the URL of a storage says.

    Attributes
    ----------
    scheme
        In lower case.
    bucket
        Or container, on Azure.
    prefix
        Decoded, without slashes at its ends.
    options
        Arguments of the scheme's function, by name.
    """

    scheme: str
    bucket: str
    prefix: str
    options: dict[str, Any]


def cloud_storage(url: str) -> Storage:
    """The storage that a URL names.

    Parameters
    ----------
    url
        ``scheme://bucket/prefix?option=value&...``; the prefix is percent-decoded. Schemes are ``s3``, ``tigris``,
        ``r2``, ``gs``, ``gcs``, ``az``, ``azure`` and ``abfs``, options those arguments of the scheme's function
        (`s3_storage` ...) that say how the service is reached. An `endpoint_url` with ``http`` allows it.

    Raises
    ------
    ValueError
        As `parse_storage_url`.

    Examples
    --------
    >>> cloud_storage("s3://bucket/a/prefix?region=eu-central-1&anonymous=true")  # doctest: +ELLIPSIS
    <icechunk_virtual.Storage: S3 at s3://bucket/a/prefix...>
    """
    parsed = parse_storage_url(url)
    kind = _KINDS[parsed.scheme]
    return kind.make(**{kind.bucket: parsed.bucket}, prefix=parsed.prefix, **parsed.options)


def parse_storage_url(url: str) -> StorageUrl:
    """Understand the URL of a storage, see `cloud_storage`.

    Raises
    ------
    ValueError
        An unknown scheme or option, no bucket, a fragment, or an option that is needed. The message shows neither user
        info nor options that are not known: they may be secrets.
    """
    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    kind = _KINDS.get(parts.scheme)
    if kind is None:
        known = ", ".join(f"{scheme}://" for scheme in _KINDS)
        raise ValueError(
            f"{shown}: there are no repositories at {parts.scheme}:// URLs, only at paths, file://, {known}"
        )
    if "@" in parts.netloc:
        raise ValueError(f"{shown}: leave out what is before the @. Credentials come from the environment.")
    if not parts.netloc:
        raise ValueError(f"{shown}: name a {kind.bucket}, {parts.scheme}://{kind.bucket.upper()}/PREFIX")
    if parts.fragment:
        raise ValueError(f"{shown}: a # in a name is written %23")
    options = _options(shown, kind, parts.query)
    for name in kind.needed:
        if name not in options:
            raise ValueError(f"{shown}: the {name} is missing; write {shown}?{name}=NAME")
    if options.get("endpoint_url", "").lower().startswith("http://"):
        options.setdefault("allow_http", True)
    return StorageUrl(parts.scheme, parts.netloc, unquote(parts.path).strip("/"), options)


def _options(shown: str, kind: _Kind, query: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in kind.options:
            raise ValueError(
                f"{shown}: there is no option {name}, only {', '.join(kind.options)}. Credentials come from the "
                "environment."
            )
        try:
            options[name] = kind.options[name](text)
        except ValueError as error:
            raise ValueError(f"{shown}: {name}={text}: {error}") from None
    return options
