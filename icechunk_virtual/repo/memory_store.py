"""A repository in the memory of this process: obstore's memory, found again by its token when a pickle comes back.

Nothing here waits for anything, so the library's synchronous calls serve: they cost a few microseconds, and unlike
its coroutines they work in a forked child.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import obstore

from icechunk_virtual.errors import ReadOnlyError, StorageError
from icechunk_virtual.model.world import REAL_WORLD
from icechunk_virtual.repo.object_store import WHOLE
from icechunk_virtual.repo.obstore_store import ObstoreStore, Role, version_of

if TYPE_CHECKING:
    from obstore import Attributes, ObjectMeta, PutMode, PutResult
    from obstore.store import ObjectStore as ForeignStore

    from icechunk_virtual.repo.object_store import Version


R = TypeVar("R")


class MemoryStore(ObstoreStore):
    """Objects in memory, shared by everything made from this object, copies by pickling within the process included.

    A forked child sees the objects as they were and cannot write.
    """

    def __init__(self) -> None:
        self._memory = obstore.store.MemoryStore()
        super().__init__(parts=WHOLE, metadata=False)
        self._token = REAL_WORLD.random_bytes(16)
        self._owner = os.getpid()
        _known[self._token] = self

    def __repr__(self) -> str:
        return "MemoryStore()"

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __reduce__(self) -> tuple[object, tuple[bytes]]:
        return find_memory, (self._token,)

    def _client(self, role: Role) -> ForeignStore:  # noqa: ARG002  # one serves all
        return self._memory

    def _check_owner(self) -> None:
        if os.getpid() != self._owner:
            raise ReadOnlyError(
                "an in-memory repository can be written only in the process that made it, and this is a fork of that "
                "process: what is written here would be lost. Use local_filesystem_storage or an object store."
            )

    def get_now(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes | memoryview:  # noqa: D102  # Protocol
        return _at_once(self.get(key, start=start, stop=stop))

    def put_now(self, key: str, data: bytes | memoryview) -> None:  # noqa: D102  # Protocol
        _at_once(self.put(key, data))

    async def _read(self, spelt: str) -> tuple[bytes, Version]:
        found = obstore.get(self._memory, spelt)
        return bytes(found.bytes()), version_of(found.meta)

    async def _read_range(self, spelt: str, start: int, stop: int) -> memoryview:
        return memoryview(obstore.get_range(self._memory, spelt, start=start, end=stop))

    async def _meta(self, spelt: str) -> ObjectMeta:
        return obstore.head(self._memory, spelt)

    async def _pages(self, spelt: str, page_size: int, after: str | None) -> AsyncIterator[Sequence[ObjectMeta]]:
        for page in obstore.list(self._memory, prefix=spelt or None, chunk_size=page_size, offset=after):
            yield page

    async def _write(self, spelt: str, data: bytes | memoryview, mode: PutMode, attributes: Attributes) -> PutResult:
        self._check_owner()
        return obstore.put(self._memory, spelt, bytes(data), mode=mode, attributes=attributes, use_multipart=False)

    async def _remove(self, spelt: Sequence[str]) -> None:
        self._check_owner()
        obstore.delete(self._memory, list(spelt))


def _at_once(coroutine: Coroutine[Any, Any, R]) -> R:
    """Result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return cast("R", done.value)
    raise RuntimeError("a request to memory waits for something")


_known: weakref.WeakValueDictionary[bytes, MemoryStore] = weakref.WeakValueDictionary()


def find_memory(token: bytes) -> MemoryStore:
    """Look up the memory that a pickle speaks of.

    Raises
    ------
    StorageError
        It is in another process, or gone.
    """
    store = _known.get(token)
    if store is None:
        raise StorageError(
            "an in-memory repository cannot leave the process that made it, and is gone when its last user is gone: "
            "this pickle refers to one that does not exist here. Use local_filesystem_storage or an object store to "
            "share a repository between processes."
        )
    return store
