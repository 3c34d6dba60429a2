"""Virtual chunks in object stores: fetched through the obstore library, as their containers say.

Knows neither manifests nor sessions, and authorises nothing: what arrives here may be read.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import obstore
import obstore.exceptions
import obstore.store

from icechunk_virtual._sync import together
from icechunk_virtual.containers.authorize import Authorization, Grant
from icechunk_virtual.containers.checksums import Condition, ObjectState, check_unchanged, condition
from icechunk_virtual.containers.clients import LOCAL_CLIENTS, Clients
from icechunk_virtual.containers.failures import cannot_be_opened, failed, modified_later, other_etag, too_short
from icechunk_virtual.containers.fetch import Fetcher
from icechunk_virtual.containers.http.client import HttpObjects
from icechunk_virtual.containers.remedies import ContainerSubject, remedy
from icechunk_virtual.containers.retry import Retries, TryFailed, repeated
from icechunk_virtual.containers.troubles import STALE, Trouble
from icechunk_virtual.containers.url import Location
from icechunk_virtual.errors import (
    ObjectChanged,
    ObjectNotFound,
    PreconditionFailed,
    StorageError,
    TransientStorageError,
)
from icechunk_virtual.model.chunk_refs import VirtualChunk
from icechunk_virtual.repo.body import body_of
from icechunk_virtual.repo.cloud.store import Place
from icechunk_virtual.repo.config import RepositoryConfig
from icechunk_virtual.repo.foreign_errors import diagnose, without_debug_text
from icechunk_virtual.repo.limiter import Limiter
from icechunk_virtual.repo.object_store import PartPolicy, part_ranges
from icechunk_virtual.repo.obstore_store import Role, check_process
from icechunk_virtual.repo.remote_places import CLOUD_SCHEMES, container_place
from icechunk_virtual.repo.settings import EffectiveStorage, bounded_for_references

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult
    from obstore.store import ObjectStore as ForeignStore

_OPEN_STORES = 50
_SMALL = 64 * 1024
"""Bytes up to which a body is copied, since it may hold on to more memory than it takes itself."""
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
    return Fetcher(authorization, {**LOCAL_CLIENTS, **remote_clients(config, limiter)}, config.effective_merging)


def remote_clients(config: RepositoryConfig, limiter: Limiter | None = None) -> Clients:
    """Who reads from object stores and web servers; parameters as `make_fetcher`."""
    limiter = limiter or Limiter(config.effective_max_concurrent_requests)
    settings = bounded_for_references(config.effective_storage())
    objects = partial(RemoteObjects, settings=settings, limiter=limiter)
    split = partial(part_ranges, policy=_part_policy(settings))
    web = partial(HttpObjects, retries=_retries(settings), split=split, limiter=limiter)
    return dict.fromkeys(CLOUD_SCHEMES, objects) | dict.fromkeys(("http", "https"), web)


def _retries(settings: EffectiveStorage) -> Retries:
    return Retries(settings.max_tries, settings.initial_backoff_ms, settings.max_backoff_ms)


def _part_policy(settings: EffectiveStorage) -> PartPolicy:
    return PartPolicy(settings.max_concurrent_requests_for_object, settings.ideal_concurrent_request_size)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A place and the library's store for it."""

    place: Place
    store: ForeignStore


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
        self._settings = replace(settings, max_tries=1)  # the library is to make one request; `repeated` makes more
        self.limiter = limiter
        self._retries, self._parts = _retries(settings), _part_policy(settings)
        self._stores: OrderedDict[tuple[str, str], _Opened] = OrderedDict()
        self._lock = threading.Lock()

    async def read(
        self, grant: Grant, location: Location, chunk: VirtualChunk, offset: int, length: int
    ) -> bytes | memoryview:
        """Exactly the bytes ``[offset, offset + length)`` of the object.

        Raises
        ------
        ObjectChanged
        VirtualReadError
        """
        address = _address(grant, location, chunk)
        parts = [
            _Part(self, grant, location, chunk, *address, start, stop)
            for start, stop in part_ranges(offset, offset + length, self._parts)
        ]
        if len(parts) == 1:
            return (await self._repeated(parts[0]))[0]
        return b"".join([data for data, _ in await together(map(self._repeated, parts))])

    async def read_with_state(
        self, grant: Grant, location: Location, chunk: VirtualChunk, offset: int, length: int
    ) -> tuple[bytes | memoryview, ObjectState]:
        """As `read`, with one request, and the state of the object as the answer says it; fewer bytes at its end."""
        address = _address(grant, location, chunk)
        return await self._repeated(_Part(self, grant, location, chunk, *address, offset, offset + length, True))

    async def _repeated(self, part: _Part) -> tuple[bytes | memoryview, ObjectState]:
        return await repeated(part.attempt, part.grant, part.location, part.chunk, self._retries, part.renew)

    def opened(self, grant: Grant, location: Location, url: str) -> _Opened:
        """The library's store for a URL of `_address`."""
        check_process()
        name = (grant.prefix.text, url)
        with self._lock:
            opened = self._stores.pop(name, None)
            if opened is None:
                opened = self._open(grant, location)
            self._stores[name] = opened
            if len(self._stores) > _OPEN_STORES:
                self._stores.popitem(last=False)
        return opened

    def renewed(self, name: tuple[str, str], used: _Opened) -> bool:
        """Whether there is, or will be, a store with newer credentials than the one that was `used`."""
        with self._lock:
            if self._stores.get(name) is not used:
                return True  # somebody else was here
            if not used.place.renew():
                return False
            self._stores[name] = self._connect(used.place)
            return True

    def _open(self, grant: Grant, location: Location) -> _Opened:
        place = container_place(grant, location)
        try:
            return self._connect(place)
        except StorageError as error:
            raise cannot_be_opened(grant, location, error.message) from error
        except _FOREIGN as error:
            reason = diagnose(error)[1].reason
            raise cannot_be_opened(grant, location, reason) from without_debug_text(error)

    def _connect(self, place: Place) -> _Opened:
        return _Opened(place, place.clients(self._settings)(Role.READ))


@dataclass(slots=True)
class _Part:
    """Bytes that are asked for by one request, perhaps repeatedly.

    Attributes
    ----------
    url, key
        See `_address`.
    start, stop
        Which bytes of the object.
    may_end
        Whether the object may end before `stop`.
    """

    objects: RemoteObjects
    grant: Grant
    location: Location
    chunk: VirtualChunk
    url: str
    key: str
    start: int
    stop: int
    may_end: bool = False
    _used: _Opened | None = None  # by the last try

    async def attempt(self, tries: int) -> tuple[bytes | memoryview, ObjectState]:
        """One try: bytes and state from one answer, which is in the state that the chunk expects."""
        used = self._used = self.objects.opened(self.grant, self.location, self.url)
        answered = None
        async with self.objects.limiter:
            try:
                found = await self._answer(used.store, tries)
                answered = 206
                data = await body_of(found)
            except _FOREIGN as error:
                raise await self._failure(error, answered, tries, used.place) from without_debug_text(error)
        state = _state(found)
        self._check_length(len(data), state)
        return bytes(data) if len(data) <= _SMALL else data, state

    async def renew(self) -> bool:
        """Whether there are newer credentials than those of the last try."""
        return self._used is not None and self.objects.renewed((self.grant.prefix.text, self.url), self._used)

    async def _answer(self, store: ForeignStore, tries: int) -> GetResult:
        """The head of an answer about the right state of the object."""
        wanted = condition(self.chunk, self.grant)
        try:
            found = await self._get(store, (self.start, self.stop), _options_of(wanted))
        except obstore.exceptions.PreconditionError as error:  # it does not say what is there instead
            try:
                there = await self._get(store, (0, 1))
            except _FOREIGN:
                raise error from None
            self._check_unchanged(there, tries, 412, asked=False)
            found = await self._get(store, (self.start, self.stop))  # this server compares in its own way
            self._check_unchanged(found, tries, 206, asked=False)
        else:
            self._check_unchanged(found, tries, 206, asked=True)
        return found

    async def _get(self, store: ForeignStore, part: tuple[int, int], options: GetOptions | None = None) -> GetResult:
        return await obstore.get_async(store, self.key, options={"range": part, **(options or {})})

    def _check_unchanged(self, found: GetResult, tries: int, status: int, *, asked: bool) -> None:
        check_unchanged(self.grant, self.location, self.chunk, _state(found), asked=asked, status=status, tries=tries)

    def _check_length(self, length: int, state: ObjectState) -> None:
        wanted = self.stop - self.start
        if length == wanted:
            return
        if state.size is not None and length == max(0, min(self.stop, state.size) - self.start):
            if self.may_end:
                return
            raise TryFailed(too_short(wanted, length, state.size), 206)
        raise TryFailed(f"the server sent {length} bytes instead of {wanted}", 206, again=True)

    async def _failure(
        self, error: Exception, answered: int | None, tries: int, place: Place
    ) -> TryFailed | ObjectChanged:
        """What a foreign error means; `answered`: the status, if the body was already on its way."""
        kind, diagnosis = diagnose(error)
        status = diagnosis.status or answered
        if kind is PreconditionFailed:
            changed = other_etag if self.chunk.etag else modified_later
            return changed(self.grant, self.location, self.chunk, None, status=status, tries=tries)
        reason, trouble = diagnosis.reason, diagnosis.trouble
        if kind is ObjectNotFound:
            reason = f"there is no such object ({reason})"
        if status == 416:
            reason = f"the object has no such bytes ({reason})"
        what_to_do = None
        if trouble is not None:
            region = diagnosis.region
            if trouble is Trouble.WRONG_REGION and region is None:
                region = await place.bucket_region()
            what_to_do = remedy(trouble, ContainerSubject(self.grant), region)
        again = kind is TransientStorageError
        return TryFailed(reason, status, again=again, stale=trouble in STALE, remedy=what_to_do)


def _address(grant: Grant, location: Location, chunk: VirtualChunk) -> tuple[str, str]:
    """URL of the bucket, and the key there.

    The library can say no keys with empty segments, and takes a slash at an end away: that is another object.
    """
    if all(location.key.split("/")):
        return location.root, location.key
    reason = "keys with an empty path segment (`//`, or a `/` at an end) cannot be asked for"
    raise failed(grant, location, chunk, reason, "Copy the object to a plainer key and relocate the references.")


def _options_of(condition: Condition) -> GetOptions:
    """A condition in the words of the library."""
    if condition.if_match is not None:
        return {"if_match": condition.if_match}
    if condition.unmodified_since is not None:
        return {"if_unmodified_since": datetime.fromtimestamp(condition.unmodified_since, UTC)}
    return {}


def _state(found: GetResult) -> ObjectState:
    encoding = found.attributes.get("Content-Encoding")
    seconds = int(found.meta["last_modified"].timestamp())  # 0: the answer did not say
    return ObjectState(found.meta["size"], found.meta["e_tag"], seconds or None, encoding and str(encoding))
