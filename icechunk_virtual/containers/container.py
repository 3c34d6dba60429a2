"""Virtual chunk containers: a URL prefix and how the objects below it are reached.

Values and their validation only; matching locations to containers is `authorize`'s business, credentials are in
`credentials`. Nothing here is secret, except that a careless user may put keys into a store's option mapping: those
are not shown by ``repr``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from icechunk_virtual.containers.url import check_prefix, without_user_info
from icechunk_virtual.errors import InvalidLocation
from icechunk_virtual.model.checked import U32, Checked, Union, Variant, member_of, text_mapping


@dataclass(slots=True)
class S3Options(Checked):
    """How an S3 or S3-compatible service is reached.

    Parameters
    ----------
    region
        ``None``: from the environment.
    endpoint_url
        ``None``: the one of AWS (of Tigris for Tigris).
    allow_http
        Whether connections without TLS are allowed.
    anonymous
        Whether requests go unsigned.
    force_path_style
        Whether the bucket is in the URL's path instead of its host name.
    network_stream_timeout_seconds
        How long a stalled transfer is waited for; 0: for ever; ``None``: 60 s.
    requester_pays
        Whether the caller agrees to pay for requests.
    """

    region: str | None = None
    endpoint_url: str | None = None
    allow_http: bool = False
    anonymous: bool = False
    force_path_style: bool = False
    network_stream_timeout_seconds: U32 | None = None
    requester_pays: bool = False


def _options(value: Any) -> dict[str, str]:
    return {} if value is None else text_mapping(value)


def _path(value: Any) -> Path:
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"a path is needed, not {type(value).__name__}")
    return Path(value)


Options = Annotated[dict[str, str], _options]
LocalPath = Annotated[Path, _path]

HIDDEN = "***"
"""Stands where a secret is not shown."""

_SECRET_OPTION = re.compile("key|secret|token|password|sas|sig|credential", re.IGNORECASE)


def is_secret(name: str, value: str) -> bool:
    """Whether an option of a store must not be shown: by its name, or as a URL with a password (of a proxy)."""
    return _SECRET_OPTION.search(name) is not None or without_user_info(value) != value


def shown_options(options: Mapping[str, str]) -> dict[str, str]:
    """Options of a store as they may be shown: without what could be a secret."""
    return {name: HIDDEN if is_secret(name, value) else value for name, value in options.items()}


class ObjectStoreConfig(Union):
    """What kind of store serves a container, and its options."""

    __slots__ = ()

    InMemory: TypeAlias = "_InMemory"
    LocalFileSystem: TypeAlias = "_LocalFileSystem"
    S3: TypeAlias = "_S3"
    S3Compatible: TypeAlias = "_S3Compatible"
    Gcs: TypeAlias = "_Gcs"
    Azure: TypeAlias = "_Azure"
    Tigris: TypeAlias = "_Tigris"
    Http: TypeAlias = "_Http"


@dataclass(frozen=True, slots=True)
class _WithS3Options(Variant):
    """Base of the stores with the protocol of S3."""

    _0: S3Options


@dataclass(frozen=True, slots=True, repr=False)
class _WithOptions(Variant):
    """Base of the stores that take a mapping of texts."""

    _0: Options = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}({shown_options(self._0)!r})"


@member_of(ObjectStoreConfig, "InMemory")
@dataclass(frozen=True, slots=True)
class _InMemory(Variant, ObjectStoreConfig):
    """Nothing that virtual chunks could be in."""


@member_of(ObjectStoreConfig, "LocalFileSystem")
@dataclass(frozen=True, slots=True)
class _LocalFileSystem(Variant, ObjectStoreConfig):
    """Files of this machine. The path is informative: the container's URL prefix decides."""

    _0: LocalPath


@member_of(ObjectStoreConfig, "S3")
class _S3(_WithS3Options, ObjectStoreConfig):
    """Amazon S3."""

    __slots__ = ()


@member_of(ObjectStoreConfig, "S3Compatible")
class _S3Compatible(_WithS3Options, ObjectStoreConfig):
    """A service with the protocol of S3."""

    __slots__ = ()


@member_of(ObjectStoreConfig, "Tigris")
class _Tigris(_WithS3Options, ObjectStoreConfig):
    """Tigris."""

    __slots__ = ()


@member_of(ObjectStoreConfig, "Gcs")
class _Gcs(_WithOptions, ObjectStoreConfig):
    """Google Cloud Storage."""

    __slots__ = ()


@member_of(ObjectStoreConfig, "Azure")
class _Azure(_WithOptions, ObjectStoreConfig):
    """Azure Blob Storage. The option ``account`` is needed."""

    __slots__ = ()


@member_of(ObjectStoreConfig, "Http")
class _Http(_WithOptions, ObjectStoreConfig):
    """A web server. Plain http needs the option ``{"allow_http": "true"}``."""

    __slots__ = ()


AnyObjectStoreConfig = (
    _InMemory | _LocalFileSystem | _S3 | _S3Compatible | _Gcs | _Azure | _Tigris | _Http
)  # what the functions below return and containers take


@dataclass(slots=True)
class VirtualChunkContainer(Checked):
    """Objects that virtual chunks may point into: everything below a URL prefix.

    It is validated when it is put into a configuration, see `check_container`.

    Parameters
    ----------
    url_prefix
        Absolute URL that ends in ``/``, for instance ``s3://bucket/prefix/`` or ``file:///data/``.
    store
        How the objects are reached.

    Attributes
    ----------
    stored : bool
        Whether it was read from a repository's stored configuration, and so may be anybody's. Stays with it wherever
        it is copied to; see `authorize`.
    """

    url_prefix: str
    store: ObjectStoreConfig
    name: str | None = field(default=None, init=False, repr=False)
    stored: bool = field(default=False, init=False, repr=False, compare=False)


_S3_LIKE = (_S3, _S3Compatible, _Tigris)
_SCHEMES: dict[str, tuple[type[ObjectStoreConfig], ...]] = {
    "s3": _S3_LIKE,
    "gs": (_Gcs,),
    "gcs": (_Gcs,),
    "az": (_Azure,),
    "azure": (_Azure,),
    "abfs": (_Azure,),
    "tigris": (_Tigris,),
    "http": (_Http,),
    "https": (_Http,),
    "file": (_LocalFileSystem,),
}
"""Which stores can serve which URL schemes (format version 1, section 6.4)."""


def check_container(container: VirtualChunkContainer) -> None:
    """Refuse a container that no location could ever match, or whose store cannot serve its scheme.

    Raises
    ------
    ValueError
        The URL prefix does not end in ``/``, is not an absolute URL, names no host or path, could be read in more
        than one way (see `url`), or its scheme does not fit the store.
    """
    prefix = container.url_prefix
    if not prefix.endswith("/"):
        raise ValueError(f"VirtualChunkContainer url_prefix must end in a / character: {prefix!r}")
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):(?://([^/?#]*))?", prefix)
    if match is None:
        raise ValueError(f"url_prefix must be an absolute URL (relative URL without a base): {prefix!r}")
    scheme, host = match[1].lower(), match[2]
    if not isinstance(container.store, _SCHEMES.get(scheme, ())):
        raise ValueError(  # noqa: TRY004  # the pair is at fault, not the type of an argument
            f"Invalid url prefix scheme ({scheme}) for this object store config: ({container.store!r})"
        )
    if scheme != "file" and not host:
        raise ValueError(f"Url prefix for {scheme}:// containers must include a host: {prefix!r}")
    if scheme == "file" and not prefix[match.end() :].strip("/"):
        raise ValueError(f"Url prefix for file:// containers must include a path: {prefix!r}")
    try:
        check_prefix(prefix)
    except InvalidLocation as error:
        raise ValueError(f"invalid url_prefix: {error.message}") from None


def s3_store(
    region: str | None = None,
    endpoint_url: str | None = None,
    allow_http: bool = False,
    anonymous: bool = False,
    s3_compatible: bool = False,
    force_path_style: bool = False,
    network_stream_timeout_seconds: int | None = 60,
    requester_pays: bool = False,
) -> _S3 | _S3Compatible:
    """Store of a container on S3 or, with `s3_compatible`, a service with its protocol. See `S3Options`."""
    options = S3Options(
        region=region,
        endpoint_url=endpoint_url,
        allow_http=allow_http,
        anonymous=anonymous,
        force_path_style=force_path_style,
        network_stream_timeout_seconds=network_stream_timeout_seconds,
        requester_pays=requester_pays,
    )
    return _S3Compatible(options) if s3_compatible else _S3(options)


def gcs_store(opts: dict[str, str] | None = None) -> _Gcs:
    """Store of a container on Google Cloud Storage."""
    return _Gcs(_options(opts))


def azure_store(*, account: str, config: dict[str, str] | None = None) -> _Azure:
    """Store of a container on Azure Blob Storage, in a storage account."""
    return _Azure({**_options(config), "account": account})


def http_store(opts: dict[str, str] | None = None) -> _Http:
    """Store of a container on a web server. Plain http needs ``{"allow_http": "true"}``."""
    return _Http(_options(opts))


def local_filesystem_store(path: str | os.PathLike[str]) -> _LocalFileSystem:
    """Store of a container on this machine's files."""
    return _LocalFileSystem(Path(path))
