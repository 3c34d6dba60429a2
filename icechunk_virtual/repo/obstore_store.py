"""Stores of the obstore library behind the object store Protocol.

Knows no provider: subclasses say which client serves what. The six requests at the end are all that speaks to the
library.
"""

from __future__ import annotations

import enum
import os
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import obstore
from obstore import exceptions as foreign

from icechunk_virtual.containers.retry import ONE_TRY, Patience, Retries
from icechunk_virtual.errors import (
    ObjectNotFound,
    PermissionDenied,
    PreconditionFailed,
    StorageError,
    TransientStorageError,
)
from icechunk_virtual.repo.body import body_of
from icechunk_virtual.repo.bounded import for_each
from icechunk_virtual.repo.foreign_errors import (
    cut_off,
    too_short,
    translate,
    unknown_outcome,
    without_debug_text,
)
from icechunk_virtual.repo.format.envelope import SPEC_VERSION, FileType, client_name
from icechunk_virtual.repo.object_store import PAGE_SIZE, ObjectInfo, PartPolicy, Version, escape_key, unescape_key

if TYPE_CHECKING:
    from obstore import Attributes, ObjectMeta, PutMode, PutResult, UpdateVersion
    from obstore.store import ObjectStore as ForeignStore


T = TypeVar("T")

_FOREIGN = (OSError, foreign.BaseError)
SMALL_UPLOAD = 2**20
"""Bytes; a larger body may take its time."""
_DELETIONS = 10  # requests at once where each names one object; so does the library
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Role(enum.Enum):
    """What a client is for."""

    READ = enum.auto()
    WRITE = enum.auto()  # requests that may be repeated: the second landing changes nothing
    UPLOAD = enum.auto()  # likewise, with much to send
    ONCE = enum.auto()  # conditional writes: a repetition would fail its own condition


class ObstoreStore(ABC):
    """Objects of an obstore store, whose own prefix is the root of the repository.

    Parameters
    ----------
    parts
        How large objects are best fetched.
    escaped
        Whether keys are percent-encoded (everywhere but on S3).
    metadata
        Whether metadata is attached to files (format version 1, section 3.1).
    writable
        Whether the storage may be written to.
    retries
        How often a request whose answer broke off is made again. What fails in other ways the clients repeat.
    """

    def __init__(
        self,
        *,
        parts: PartPolicy,
        escaped: bool = True,
        metadata: bool = True,
        writable: bool = True,
        retries: Retries = ONE_TRY,
    ) -> None:
        self._escaped = escaped
        self._metadata = metadata
        self._retries = retries
        self.parts = parts
        self.writable = writable

    @abstractmethod
    def _client(self, role: Role) -> ForeignStore:
        """Return the library's store for requests of this kind; it repeats failed ones by its own configuration."""

    def _spell(self, key: str) -> str:
        if self._escaped:
            return escape_key(key)
        if _CONTROL.search(key):
            raise StorageError(
                f"object store error: the store cannot hold a name with control characters like {key!r}. "
                "Choose a plainer name.",
                key=key,
            )
        return key

    # -- reading -----------------------------------------------------------------------------------------------

    async def get(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes | memoryview:  # noqa: D102  # Protocol
        if start == 0 and stop is None:
            return (await self.get_versioned(key))[0]
        if start == stop or stop is None:  # no request means an empty range, and few stores take an open one at the end
            size = (await self.head(key)).size
            stop = size if stop is None else stop
            if not start <= stop <= size:
                raise too_short(key, size, start, stop)
            if start == stop:
                return b""
        spelt = self._spell(key)
        try:
            return await self._asked(key, lambda: self._read_exactly(key, spelt, start, stop))
        except (ObjectNotFound, TransientStorageError):
            raise
        except StorageError as error:
            if not hasattr(error, "size"):  # its size may be what is wrong
                await self._check_range(key, start, stop)
            raise

    async def _read_exactly(self, key: str, spelt: str, start: int, stop: int) -> bytes | memoryview:
        data = await self._read_range(spelt, start, stop)
        if len(data) != stop - start:
            await self._check_range(key, start, stop)
            raise ConnectionError(f"the answer has {len(data)} bytes instead of {stop - start}")
        return data

    async def _check_range(self, key: str, start: int, stop: int) -> None:
        size = (await self.head(key)).size
        if stop > size:
            raise too_short(key, size, start, stop)

    async def get_versioned(self, key: str) -> tuple[bytes, Version]:  # noqa: D102  # Protocol
        spelt = self._spell(key)
        return await self._asked(key, lambda: self._read(spelt))

    async def head(self, key: str) -> ObjectInfo:  # noqa: D102  # Protocol
        spelt = self._spell(key)
        return info_of(key, await self._asked(key, lambda: self._meta(spelt)))

    async def list(self, prefix: str) -> AsyncIterator[list[ObjectInfo]]:  # noqa: D102  # Protocol
        spelt, last, patience = self._spell(prefix), None, Patience(self._retries)
        used: object = self._clients_now()
        while True:
            try:
                pages = self._pages(spelt, PAGE_SIZE, last)
                while page := await self._translated(prefix, partial(anext, pages, None)):
                    last = page[-1]["path"]
                    yield [info_of(unescape_key(m["path"]) if self._escaped else m["path"], m) for m in page]
            except TransientStorageError as error:
                if not cut_off(error) or not await patience.again():
                    raise
            except PermissionDenied as error:
                if not self._renewed(error, used):
                    raise
                used = None
            else:
                return

    async def _asked(self, key: str, request: Callable[[], Awaitable[T]]) -> T:
        """The answer to a request that changes nothing when it is made twice."""
        patience: Patience | None = None
        used: object = self._clients_now()
        while True:
            try:
                return await self._translated(key, request)
            except PermissionDenied as error:
                if not self._renewed(error, used):
                    raise
                used = None
            except TransientStorageError as error:
                patience = patience or Patience(self._retries)
                if not cut_off(error) or not await patience.again():
                    raise

    async def _translated(self, key: str, request: Callable[[], Awaitable[T]]) -> T:
        """One try; our errors for the library's."""
        try:
            return await request()
        except _FOREIGN as error:
            raise await self._told(error, key) from without_debug_text(error)

    async def _told(self, error: Exception, key: str) -> StorageError:
        """Our error for one of the library's."""
        return translate(error, key)

    def _clients_now(self) -> object:
        """What stands for the credentials that requests are made with; None: there are no others."""
        return None

    def _renewed(self, error: PermissionDenied, used: object) -> bool:  # noqa: ARG002  # subclasses look at them
        """Whether there are other credentials than those that were `used`, after a refusal."""
        return False

    # -- writing -----------------------------------------------------------------------------------------------

    async def put(  # noqa: D102  # Protocol
        self,
        key: str,
        data: bytes | memoryview,
        *,
        file_type: FileType | None = None,
        durable: bool = True,  # noqa: ARG002  # object stores always are
    ) -> None:
        await self._asked(key, lambda: self._put(key, data, "overwrite", file_type))

    async def _put(
        self, key: str, data: bytes | memoryview, mode: PutMode, file_type: FileType | None = None
    ) -> PutResult:
        return await self._write(self._spell(key), data, mode, self._attributes(key, file_type))

    def _attributes(self, key: str, file_type: FileType | None) -> Attributes:  # noqa: ARG002  # subclasses look at it
        """Return what is attached to an object."""
        if not self._metadata or file_type is None:
            return {}
        return {
            "ic_spec_ver": str(SPEC_VERSION),
            "ic_client": client_name(),
            "ic_file_type": file_type.label.replace(" ", "-"),
            "ic_comp_alg": "zstd",
        }

    async def put_new(self, key: str, data: bytes) -> Version:  # noqa: D102  # Protocol
        return await self._put_conditionally(key, data, "create")

    async def put_if_match(  # noqa: D102  # Protocol
        self,
        key: str,
        data: bytes,
        version: Version,
        *,
        after: Collection[str] = (),  # noqa: ARG002  # object stores always are durable
    ) -> Version:
        mode: UpdateVersion = {}
        if version.etag is not None:
            mode["e_tag"] = version.etag
        if version.generation is not None:
            mode["version"] = version.generation
        if not mode:
            raise PreconditionFailed(
                f"object store error Request precondition failure for path {key}: the store gave no version to compare "
                "with. Nothing was written.",
                key=key,
            )
        return await self._put_conditionally(key, data, mode)

    async def _put_conditionally(self, key: str, data: bytes, mode: PutMode) -> Version:
        try:
            result = await self._translated(key, lambda: self._put(key, data, mode))
        except TransientStorageError as error:
            raise unknown_outcome(error, key) from error
        return Version(result["e_tag"], result["version"])

    async def delete(self, keys: Iterable[str]) -> int:  # noqa: D102  # Protocol
        keys = tuple(keys)
        for i in range(0, len(keys), PAGE_SIZE):
            await self._delete(keys[i : i + PAGE_SIZE])
        return len(keys)

    async def _delete(self, keys: Sequence[str]) -> None:
        try:
            spelt = [self._spell(key) for key in keys]
            await self._asked(keys[0], lambda: self._remove(spelt))
        except ObjectNotFound:
            if len(keys) > 1:  # some providers stop at the first that is missing
                await for_each(keys, lambda key: self._delete((key,)), at_once=_DELETIONS)

    async def sync(self, keys: Iterable[str]) -> None:  # noqa: B027  # nothing to do is right for all of them
        """Do nothing: what an object store has confirmed is safe."""

    # -- the library -------------------------------------------------------------------------------------------

    def _foreign(self, role: Role) -> ForeignStore:
        check_process()
        return self._client(role)

    async def _read(self, spelt: str) -> tuple[bytes, Version]:
        found = await obstore.get_async(self._foreign(Role.READ), spelt)
        return bytes(await body_of(found)), version_of(found.meta)

    async def _read_range(self, spelt: str, start: int, stop: int) -> memoryview:
        found = await obstore.get_async(self._foreign(Role.READ), spelt, options={"range": (start, stop)})
        return await body_of(found)

    async def _meta(self, spelt: str) -> ObjectMeta:
        return await obstore.head_async(self._foreign(Role.READ), spelt)

    async def _pages(self, spelt: str, page_size: int, after: str | None) -> AsyncIterator[Sequence[ObjectMeta]]:
        async for page in obstore.list(
            self._foreign(Role.READ), prefix=spelt or None, chunk_size=page_size, offset=after
        ):
            yield page

    async def _write(self, spelt: str, data: bytes | memoryview, mode: PutMode, attributes: Attributes) -> PutResult:
        role = Role.UPLOAD if len(data) > SMALL_UPLOAD else Role.WRITE
        client = self._foreign(role if mode == "overwrite" else Role.ONCE)
        return await obstore.put_async(client, spelt, data, mode=mode, attributes=attributes, use_multipart=False)

    async def _remove(self, spelt: Sequence[str]) -> None:
        await obstore.delete_async(self._foreign(Role.WRITE), list(spelt))


_first_used_in: list[int] = []  # id of the process that the library's threads live in


def answers_here() -> bool:
    """Whether the library's coroutines ever end: not in a fork of the process that used them first."""
    if not _first_used_in:
        _first_used_in.append(os.getpid())
    return _first_used_in[0] == os.getpid()


def check_process() -> None:
    """Raise `StorageError` where the library would never answer."""
    if not answers_here():
        raise StorageError(
            "object store error: this process is a fork of one that has used the object store library, whose threads "
            "did not come along. Start worker processes by 'spawn' or 'forkserver', e.g. "
            "multiprocessing.get_context('spawn')."
        )


def info_of(key: str, meta: ObjectMeta) -> ObjectInfo:
    """Our words for an object of the library."""
    return ObjectInfo(key, meta["size"], round(meta["last_modified"].timestamp() * 1_000_000))


def version_of(meta: ObjectMeta) -> Version:
    """State of an object, for a conditional write."""
    return Version(meta["e_tag"], meta["version"])
