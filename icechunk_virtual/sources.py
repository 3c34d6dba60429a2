"""How the files that are scanned are reached: as virtual chunks are read, through containers and with credentials.

And which containers a repository needs, so that they can be read the same way later.
"""

from __future__ import annotations

import posixpath
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from icechunk_virtual.containers import opening
from icechunk_virtual.containers.authorize import Authorization, Grant
from icechunk_virtual.containers.clients import Client, StatefulClient
from icechunk_virtual.containers.container import (
    ObjectStoreConfig,
    S3Options,
    VirtualChunkContainer,
    check_container,
    gcs_store,
    http_store,
    local_filesystem_store,
    s3_store,
)
from icechunk_virtual.containers.credentials import check_grants
from icechunk_virtual.containers.remote_source import ContainerTransport
from icechunk_virtual.containers.source import Source
from icechunk_virtual.containers.url import Location, check_location, check_prefix, local_path
from icechunk_virtual.credentials import containers_credentials
from icechunk_virtual.errors import ContainerError, InvalidLocation, ScanError
from icechunk_virtual.repo.config import RepositoryConfig
from icechunk_virtual.repo.remote_chunks import remote_clients
from icechunk_virtual.repo.settings import StorageRetriesSettings, StorageSettings

Containers: TypeAlias = Iterable[VirtualChunkContainer] | Mapping[str, VirtualChunkContainer]

_SETTINGS = RepositoryConfig(
    storage=StorageSettings(retries=StorageRetriesSettings(max_tries=5, initial_backoff_ms=100, max_backoff_ms=2_000))
)
"""Less patient than the reader of a repository: somebody is waiting to hear that a URL is wrong."""
_QUERY = re.compile(r"(https?://[^?#]*)[?#].*", re.IGNORECASE | re.DOTALL)
_SIGNATURE = re.compile(r"[?&](X-(Amz|Goog)-Signature|Signature|sig|token|access_token)=", re.IGNORECASE)
_MOST_FOLDERS = 8  # more of them get the folder above as one container


class SourceAccess:
    """How remote files are read. Usable from several threads; picklable if the credentials are.

    Parameters
    ----------
    containers
        How the files below their prefixes are reached. All others are reached as their URLs alone say.
    credentials
        URL prefix to what `containers_credentials` takes; the longest prefix counts. Without, and with ``None``, as for
        the reader of a repository: on S3 those of the environment, unsigned requests elsewhere. Keys that are web
        addresses also allow containers out of a repository to have requests sent there.
    storage_options
        Read remote files through fsspec instead, with these options for its file system.

    Raises
    ------
    ValueError
        A container or prefix that no URL could match, something else than credentials, or both credentials and
        options for fsspec.
    """

    def __init__(
        self,
        containers: Containers | None = None,
        credentials: Mapping[str, Any] | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        if credentials and storage_options is not None:
            raise ValueError("storage_options have fsspec read the files, which takes no credentials: put them there")
        given = containers.values() if isinstance(containers, Mapping) else containers or ()
        self.containers = tuple(given)
        for container in self.containers:
            check_container(container)
        self._prefixes = _longest_first({c.url_prefix: c for c in self.containers})
        self._credentials = containers_credentials(credentials or {})
        self._granted = _longest_first(self._credentials)
        self._storage_options = storage_options
        self._kinds = remote_clients(_SETTINGS)
        self._clients: dict[tuple[str, str], tuple[Authorization, Client]] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return SourceAccess, (self.containers, self._credentials, self._storage_options)

    def open(self, url_or_path: str | Any) -> Source:
        """Open a file; as `open_source`."""
        return opening.open_source(url_or_path, storage_options=self._storage_options, connect=self._connect)

    def _connect(self, url: str) -> ContainerTransport | None:
        try:
            location = check_location(url)
        except InvalidLocation as error:
            raise ScanError(error.message, source=url) from error
        if location.scheme not in self._kinds:
            return None
        try:
            grant, client = self._client(location)
        except ContainerError as error:
            raise ScanError(f"cannot read `{url}`: {error.message}", source=url) from error
        return ContainerTransport(client, grant, location) if isinstance(client, StatefulClient) else None

    def _client(self, location: Location) -> tuple[Grant, Client]:
        """The container that a location is read through, and its client."""
        _, container = _match(self._prefixes, location)
        container = container or container_of(location.root)
        of_prefix, credentials = _match(self._granted, location)
        name = (container.url_prefix, of_prefix)
        with self._lock:
            if name not in self._clients:
                containers = {container.url_prefix: container}
                granted = check_grants(containers, {container.url_prefix: credentials})
                authorization = Authorization(containers, granted, self._credentials)
                self._clients[name] = (authorization, self._kinds[location.scheme](authorization))
            authorization, client = self._clients[name]
        return replace(authorization.readable(location.text), scans=True), client


def _longest_first(by_prefix: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Canonical prefixes with their values."""
    found = []
    for text, value in by_prefix.items():
        try:
            found.append((check_prefix(text if text.endswith("/") else text + "/").canonical, value))
        except InvalidLocation as error:
            raise ValueError(f"{text} is no URL prefix: {error.message}") from None
    return sorted(found, key=lambda item: -len(item[0]))


def _match(prefixes: list[tuple[str, Any]], location: Location) -> tuple[str, Any]:
    """The first prefix that a location is below, with its value; nothing if there is none."""
    return next((item for item in prefixes if location.canonical.startswith(item[0])), ("", None))


def containers_for(
    urls: Iterable[str], given: Iterable[VirtualChunkContainer] = ()
) -> tuple[VirtualChunkContainer, ...]:
    """Containers for files: of those given the ones that serve any; and one per folder for the other files.

    Raises
    ------
    ScanError
        As `container_of`.
    """
    used, rest = _served(urls, given)
    return (*used, *map(container_of, container_prefixes(rest)))


def prefixes_for(urls: Iterable[str], given: Iterable[VirtualChunkContainer] = ()) -> tuple[str, ...]:
    """The URL prefixes of `containers_for`, also where no container can be made."""
    used, rest = _served(urls, given)
    return (*(container.url_prefix for container in used), *container_prefixes(rest))


def _served(
    urls: Iterable[str], given: Iterable[VirtualChunkContainer]
) -> tuple[list[VirtualChunkContainer], list[str]]:
    """Those of the containers that are needed for the URLs, and the URLs that none of them serves."""
    prefixes = _longest_first({container.url_prefix: container for container in given})
    used: dict[str, VirtualChunkContainer] = {}
    rest = []
    for url in urls:
        prefix, container = _match(prefixes, check_location(url)) if prefixes else ("", None)
        if container is None:
            rest.append(url)
        else:
            used[prefix] = container
    return list(used.values()), rest


def container_prefixes(urls: Iterable[str]) -> tuple[str, ...]:
    """Prefixes that cover all URLs: their folders, or the folder above if there are many.

    Never a whole host, file system or bucket if the files are deeper.

    >>> container_prefixes(["file:///data/a/1.nc", "file:///data/a/b/2.nc", "file:///home/me/3.nc"])
    ('file:///data/a/', 'file:///home/me/')
    """
    folders: list[str] = []
    for folder in sorted({_without_query(url).rsplit("/", 1)[0] + "/" for url in urls}):
        if not folders or not folder.startswith(folders[-1]):
            folders.append(folder)
    if len(folders) <= _MOST_FOLDERS:
        return tuple(folders)
    roots: dict[str, list[str]] = {}
    for folder in folders:
        scheme, _, path = folder.partition("://")
        roots.setdefault(f"{scheme}://{'/'.join(path.split('/')[:2])}/", []).append(folder)
    prefixes = []
    for together in roots.values():
        scheme = together[0].partition("://")[0]
        common = posixpath.commonpath([folder.partition("://")[2] for folder in together])
        prefixes.append(f"{scheme}://{common}/")
    return tuple(prefixes)


def _without_query(url: str) -> str:
    found = _QUERY.fullmatch(url)
    return url if found is None else found[1]


def secrets_in(urls: Iterable[str]) -> list[str]:
    """Warnings about signatures in URLs, which references keep."""
    signed = [_without_query(url) for url in urls if _QUERY.fullmatch(url) and _SIGNATURE.search(url)]
    return [
        f"the URL of {url} has a signature or token in its query, which is saved with every reference: whoever reads "
        "the repository can use it, and when it ends, nobody can read the chunks"
        for url in signed
    ]


def container_of(prefix: str) -> VirtualChunkContainer:
    """A virtual chunk container for a prefix, in the way that its URL alone says.

    Raises
    ------
    ScanError
        The URL does not say enough, or the prefix is the root of the file system.
    """
    try:
        location = check_prefix(prefix)
    except InvalidLocation as error:
        raise ScanError(f"files below {prefix} cannot be referenced: {error.message}", source=prefix) from None
    match location.scheme:
        case "file":
            return VirtualChunkContainer(prefix, local_filesystem_store(local_path(location)))
        case "https":
            return VirtualChunkContainer(prefix, http_store())
        case "http":
            return VirtualChunkContainer(prefix, http_store({"allow_http": "true"}))
        case "s3":
            return VirtualChunkContainer(prefix, s3_store())
        case "gs" | "gcs":
            return VirtualChunkContainer(prefix, gcs_store())
        case "tigris":
            return VirtualChunkContainer(prefix, ObjectStoreConfig.Tigris(S3Options()))
        case "az" | "azure" | "abfs":
            reason = (
                "need the name of their storage account: --account NAME, or "
                f"containers=[icechunk_virtual.VirtualChunkContainer({prefix!r}, "
                "icechunk_virtual.storage.azure_store(account=...))]"
            )
        case _:
            reason = f"cannot be referenced: there are no containers for {location.scheme}:// URLs. Copy or mount them"
    raise ScanError(f"files below {prefix} {reason}.", source=prefix)
