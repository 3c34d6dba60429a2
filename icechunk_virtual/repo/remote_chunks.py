"""Virtual chunks in object stores and on web servers: fetched through the obstore library, as their containers say.

Knows neither manifests nor sessions, and authorises nothing: what arrives here may be read.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import obstore
import obstore.exceptions
import obstore.store

from icechunk_virtual.containers.authorize import Authorization, Grant
from icechunk_virtual.containers.checksums import Condition, ObjectState, check_unchanged, condition
from icechunk_virtual.containers.clients import LOCAL_CLIENTS, Clients
from icechunk_virtual.containers.container import ObjectStoreConfig
from icechunk_virtual.containers.credentials import GcsCredentials
from icechunk_virtual.containers.failures import AGAIN, failed, modified_later, other_etag
from icechunk_virtual.containers.fetch import Fetcher
from icechunk_virtual.containers.url import Location
from icechunk_virtual.errors import (
    ContainerError,
    ObjectNotFound,
    PreconditionFailed,
    StorageError,
    TransientStorageError,
)
from icechunk_virtual.model.chunk_refs import VirtualChunk
from icechunk_virtual.repo.cloud.azure import azure_place
from icechunk_virtual.repo.cloud.clients import CLIENT_OPTIONS, Manner, client_options, retry_config
from icechunk_virtual.repo.cloud.gcs import gcs_place
from icechunk_virtual.repo.cloud.s3 import s3_place, tigris_place
from icechunk_virtual.repo.config import RepositoryConfig
from icechunk_virtual.repo.foreign_errors import translate, without_debug_text
from icechunk_virtual.repo.limiter import Limiter
from icechunk_virtual.repo.object_store import PartPolicy, part_ranges
from icechunk_virtual.repo.obstore_store import Role, check_process
from icechunk_virtual.repo.settings import EffectiveStorage

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult
    from obstore.store import ObjectStore as ForeignStore

logger = logging.getLogger(__name__)

_OPEN_STORES = 50
_VENDOR = re.compile(r"\A(google|gcs|azure_storage|azure)_")
_GCS_OPTIONS = frozenset({"base_url", "service_account_key", "bearer_token", "skip_signature"})
_AZURE_OPTIONS = frozenset(
    {
        "access_key",
        "account_key",
        "master_key",
        "sas_key",
        "sas_token",
        "token",
        "bearer_token",
        "endpoint",
        "use_emulator",
        "use_fabric_endpoint",
        "disable_tagging",
        "skip_signature",
    }
)
"""What containers may say about their stores, beside options of the HTTP client; without the vendor's name."""
_FOREIGN = (OSError, ValueError, obstore.exceptions.BaseError)


def make_fetcher(authorization: Authorization, config: RepositoryConfig, limiter: Limiter | None = None) -> Fetcher:
    """The way to the virtual chunks of a repository, wherever they are.

    Parameters
    ----------
    authorization
        Who may read what.
    config
        Of the repository.
    limiter
        The bound on its concurrent requests; ``None``: one of its own.
    """
    limiter = limiter or Limiter(config.effective_max_concurrent_requests)
    remote = partial(RemoteObjects, settings=config.effective_storage(), limiter=limiter)
    clients: Clients = {**LOCAL_CLIENTS, **dict.fromkeys(_OPENERS, remote)}
    return Fetcher(authorization, clients)


class RemoteObjects:
    """Client of the containers of one URL scheme. Usable from several event loops and threads.

    Parameters
    ----------
    settings
        Repetitions and concurrency of requests: the repository's, but not its storage's own defaults.
    limiter
        Every request is made within it.
    """

    def __init__(
        self,
        authorization: Authorization,  # noqa: ARG002  # files need it
        *,
        settings: EffectiveStorage,
        limiter: Limiter,
    ) -> None:
        self._settings = settings
        self._limiter = limiter
        self._parts = PartPolicy(settings.max_concurrent_requests_for_object, settings.ideal_concurrent_request_size)
        self._stores: OrderedDict[tuple[str, str], ForeignStore] = OrderedDict()
        self._lock = threading.Lock()

    async def read(self, grant: Grant, location: Location, chunk: VirtualChunk, offset: int, length: int) -> bytes:
        """Exactly the bytes ``[offset, offset + length)`` of the object, or fewer if it ends before.

        Raises
        ------
        ObjectChanged
        VirtualReadError
        """
        url, key = _address(grant, location, chunk)
        store = self._store(grant, location, url)
        ranges = part_ranges(offset, offset + length, self._parts)
        try:
            if len(ranges) == 1:
                return (await self._read_part(store, key, grant, location, chunk, ranges[0]))[0]
            parts = (self._read_part(store, key, grant, location, chunk, part) for part in ranges)
            return b"".join(data for data, _ in await asyncio.gather(*parts))
        except _FOREIGN as error:
            raise _told(grant, location, chunk, translate(error, location.key)) from without_debug_text(error)

    async def read_with_state(
        self, grant: Grant, location: Location, chunk: VirtualChunk, offset: int, length: int
    ) -> tuple[bytes, ObjectState]:
        """As `read`, with one request, and the state of the object as the answer says it."""
        url, key = _address(grant, location, chunk)
        store = self._store(grant, location, url)
        try:
            return await self._read_part(store, key, grant, location, chunk, (offset, offset + length))
        except _FOREIGN as error:
            raise _told(grant, location, chunk, translate(error, location.key)) from without_debug_text(error)

    async def _read_part(
        self,
        store: ForeignStore,
        key: str,
        grant: Grant,
        location: Location,
        chunk: VirtualChunk,
        part: tuple[int, int],
    ) -> tuple[bytes, ObjectState]:
        async with self._limiter:
            return await _read_part(store, key, grant, location, chunk, part)

    def _store(self, grant: Grant, location: Location, url: str) -> ForeignStore:
        """The library's store for a URL of `_address`."""
        check_process()
        with self._lock:
            store = self._stores.pop((grant.prefix.text, url), None)
            if store is None:
                store = _open(grant, location, url, self._settings)
            self._stores[grant.prefix.text, url] = store
            if len(self._stores) > _OPEN_STORES:
                self._stores.popitem(last=False)
        return store


def _address(grant: Grant, location: Location, chunk: VirtualChunk) -> tuple[str, str]:
    """URL of the bucket or server, and the key there; or the whole URL of an object on a web server and no key.

    The library can say no keys with empty segments, and takes a slash at an end away: that is another object.
    """
    if not location.query and all(location.key.split("/")):
        return location.root, location.key
    if location.scheme in {"http", "https"}:
        return location.escaped, ""
    reason = "keys with an empty path segment (`//`, or a `/` at an end) cannot be asked for"
    raise failed(grant, location, chunk, reason, "Copy the object to a plainer key and relocate the references.")


async def _read_part(
    store: ForeignStore, key: str, grant: Grant, location: Location, chunk: VirtualChunk, part: tuple[int, int]
) -> tuple[bytes, ObjectState]:
    """Bytes and state from one answer, which is in the state that the chunk expects."""
    asked = True
    try:
        found = await obstore.get_async(store, key, options={"range": part, **_options_of(condition(chunk))})
    except obstore.exceptions.PreconditionError as error:  # it does not say what is there instead
        try:
            there = await obstore.get_async(store, key, options={"range": (0, 1)})
        except _FOREIGN:
            raise error from None
        asked = False
        check_unchanged(grant, location, chunk, _state(there), asked=asked)
        found = await obstore.get_async(store, key, options={"range": part})  # this server compares in its own way
    state = _state(found)
    check_unchanged(grant, location, chunk, state, asked=asked)
    return bytes(await found.bytes_async()), state


def _options_of(condition: Condition) -> GetOptions:
    """A condition in the words of the library."""
    if condition.if_match is not None:
        return {"if_match": condition.if_match}
    if condition.unmodified_since is not None:
        return {"if_unmodified_since": datetime.fromtimestamp(condition.unmodified_since, UTC)}
    return {}


def _told(grant: Grant, location: Location, chunk: VirtualChunk, error: StorageError) -> ContainerError:
    """The error that names container and location, for one that names a key."""
    if isinstance(error, PreconditionFailed):
        if chunk.etag:
            return other_etag(grant, location, chunk, None)
        return modified_later(grant, location, chunk, None)
    if isinstance(error, ObjectNotFound):
        return failed(grant, location, chunk, f"there is no such object ({error.message})")
    if isinstance(error, TransientStorageError):
        return failed(grant, location, chunk, error.message.removesuffix(AGAIN).rstrip(". "), AGAIN)
    return failed(grant, location, chunk, error.message.rstrip("."))


def _state(found: GetResult) -> ObjectState:
    encoding = found.attributes.get("Content-Encoding")
    seconds = int(found.meta["last_modified"].timestamp())  # 0: the answer did not say
    return ObjectState(found.meta["size"], found.meta["e_tag"], seconds or None, encoding and str(encoding))


# -- opening -----------------------------------------------------------------------------------------------------


def _open(grant: Grant, location: Location, url: str, settings: EffectiveStorage) -> ForeignStore:
    try:
        return _OPENERS[location.scheme](grant, location, url, settings)
    except (StorageError, TypeError, *_FOREIGN) as error:
        reason = error.message if isinstance(error, StorageError) else translate(error, url).message
        raise ContainerError(
            f"storage error: the container {grant.prefix} cannot be opened: {reason}", location=location.text
        ) from without_debug_text(error)


def _open_s3(grant: Grant, location: Location, _url: str, settings: EffectiveStorage) -> ForeignStore:
    options, credentials = _options(grant), _credentials(grant)
    if isinstance(grant.container.store, ObjectStoreConfig.Tigris):
        place = tigris_place(options, location.host, None, credentials, weak=True)
    else:
        place = s3_place(options, location.host, None, credentials)
    return place.clients(settings)(Role.READ)


def _open_gcs(grant: Grant, location: Location, _url: str, settings: EffectiveStorage) -> ForeignStore:
    credentials = _credentials(grant) or GcsCredentials.Anonymous()
    options = _harmless(_options(grant), _GCS_OPTIONS)
    return gcs_place(location.host, None, credentials, options).clients(settings)(Role.READ)


def _open_azure(grant: Grant, location: Location, _url: str, settings: EffectiveStorage) -> ForeignStore:
    options = dict(_options(grant))
    account = options.pop("account", None)
    if account is None:
        raise ValueError("azure store configuration must include an account")
    options = _harmless(options, _AZURE_OPTIONS)
    return azure_place(account, location.host, "", _credentials(grant), options).clients(settings)(Role.READ)


def _open_http(grant: Grant, _location: Location, url: str, settings: EffectiveStorage) -> ForeignStore:
    given = _options(grant)
    if url.startswith("http:") and given.get("allow_http", "").lower() != "true":
        raise ValueError('URL scheme is not allowed: plain http needs http_store({"allow_http": "true"})')
    unknown = sorted(given.keys() - CLIENT_OPTIONS)
    if unknown:
        logger.warning("options of the container %s that nobody knows are ignored: %s", grant.prefix, unknown)
    known = {key: value for key, value in given.items() if key in CLIENT_OPTIONS}
    options: Any = {**client_options(Role.READ, Manner(), settings), **known}
    return obstore.store.HTTPStore.from_url(url, client_options=options, retry_config=retry_config(Role.READ, settings))


def _harmless(options: Mapping[str, str], known: frozenset[str]) -> dict[str, str]:
    """The options of a container, which a repository and so anybody wrote.

    Others could have the reader's files and secrets sent anywhere, sign what was granted unsigned, or name another
    bucket. They are refused.
    """
    for name, value in options.items():
        plain = _VENDOR.sub("", name.lower())
        if plain not in known and plain not in CLIENT_OPTIONS:
            raise ValueError(
                f"the option {name!a} of a container is not used, since it could misuse the credentials of whoever "
                f"opens the repository. Remove it; there are {', '.join(sorted(known))} and those of the HTTP client"
            )
        if plain == "skip_signature" and value.lower() != "true":
            raise ValueError(f"the option {name!a} of a container can only be true: credentials come from the opener")
    return dict(options)


def _options(grant: Grant) -> Any:
    """What the container says about its store: `S3Options`, or a mapping of texts."""
    store: Any = grant.container.store
    return store._0


def _credentials(grant: Grant) -> Any:
    """As the places take them: without the wrapper that says for which kind of store they are."""
    return None if grant.credentials is None else grant.credentials._0


_OPENERS: dict[str, Callable[[Grant, Location, str, EffectiveStorage], ForeignStore]] = {
    "s3": _open_s3,
    "tigris": _open_s3,
    "gs": _open_gcs,
    "gcs": _open_gcs,
    "az": _open_azure,
    "azure": _open_azure,
    "abfs": _open_azure,
    "http": _open_http,
    "https": _open_http,
}
