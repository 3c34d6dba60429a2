"""A repository in the memory of this process: a dictionary behind the object store Protocol.

Shared by everything that comes from the same `Storage` object, copies made by pickling within the process included.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from icechunk_virtual.errors import ObjectNotFound, PreconditionFailed, ReadOnlyError, StorageError
from icechunk_virtual.model.world import REAL_WORLD, World
from icechunk_virtual.repo.after_fork import reset_after_fork
from icechunk_virtual.repo.foreign_errors import too_short
from icechunk_virtual.repo.object_store import PAGE_SIZE, WHOLE, ObjectInfo, PartPolicy, Version

if TYPE_CHECKING:
    from icechunk_virtual.repo.format.envelope import FileType


@dataclass(frozen=True, slots=True)
class _Stored:
    data: bytes
    etag: str
    time_us: int


class MemoryObjects:
    """The objects themselves.

    Attributes
    ----------
    token
        What stands for them in a pickle.
    owner
        Id of the process whose writes count. A forked child sees the objects as they were and cannot write.
    """

    def __init__(self) -> None:
        self.token = REAL_WORLD.random_bytes(16).hex()
        self.owner = os.getpid()
        self.by_key: dict[str, _Stored] = {}
        self.writes = 0
        self.lock = threading.Lock()
        _known[self.token] = self
        reset_after_fork(self)

    def after_fork(self) -> None:
        """Start with a free lock in the child; whoever held it did not come along."""
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return find_objects, (self.token,)


_known: weakref.WeakValueDictionary[str, MemoryObjects] = weakref.WeakValueDictionary()


def find_objects(token: str) -> MemoryObjects:
    """Look up the objects that a pickle speaks of.

    Raises
    ------
    StorageError
        They are in another process, or gone.
    """
    objects = _known.get(token)
    if objects is None:
        raise StorageError(
            "an in-memory repository cannot leave the process that made it, and is gone when its last user is gone: "
            "this pickle refers to one that does not exist here. Use local_filesystem_storage or an object store to "
            "share a repository between processes."
        )
    return objects


class MemoryStore:
    """Object store over `MemoryObjects`; the clock of `world` gives the times of objects."""

    writable = True
    parts: PartPolicy = WHOLE

    def __init__(self, objects: MemoryObjects, world: World = REAL_WORLD) -> None:
        self._objects = objects
        self._world = world

    def __repr__(self) -> str:
        return f"MemoryStore(<{len(self._objects.by_key)} objects>)"

    def __eq__(self, other: object) -> bool:
        return self._objects is other._objects if isinstance(other, MemoryStore) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._objects)

    def _find(self, key: str) -> _Stored:
        stored = self._objects.by_key.get(key)
        if stored is None:
            raise ObjectNotFound(f"object store error Object at location {key} not found", key=key)
        return stored

    async def get(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes:  # noqa: D102  # Protocol
        data = self._find(key).data
        end = len(data) if stop is None else stop
        if not start <= end <= len(data):
            raise too_short(key, len(data), start, end)
        return data[start:end]

    async def get_versioned(self, key: str) -> tuple[bytes, Version]:  # noqa: D102  # Protocol
        stored = self._find(key)
        return stored.data, Version(stored.etag)

    async def put(  # noqa: D102  # Protocol
        self,
        key: str,
        data: bytes,
        *,
        file_type: FileType | None = None,  # noqa: ARG002  # nobody could ask for it
        durable: bool = True,  # noqa: ARG002  # memory never is
    ) -> None:
        with self._objects.lock:
            self._store(key, data)

    async def put_new(self, key: str, data: bytes) -> Version:  # noqa: D102  # Protocol
        with self._objects.lock:
            if key in self._objects.by_key:
                raise PreconditionFailed(f"object store error Object at location {key} already exists", key=key)
            return self._store(key, data)

    async def put_if_match(self, key: str, data: bytes, version: Version) -> Version:  # noqa: D102  # Protocol
        with self._objects.lock:
            stored = self._objects.by_key.get(key)
            if stored is None or stored.etag != version.etag:
                raise PreconditionFailed(
                    f"object store error Request precondition failure for path {key}: it has changed since it was "
                    "read. Nothing was written.",
                    key=key,
                )
            return self._store(key, data)

    def _store(self, key: str, data: bytes) -> Version:
        self._check_owner()
        self._objects.writes += 1
        stored = _Stored(bytes(data), str(self._objects.writes), self._world.now_us())
        self._objects.by_key[key] = stored
        return Version(stored.etag)

    def _check_owner(self) -> None:
        if os.getpid() != self._objects.owner:
            raise ReadOnlyError(
                "an in-memory repository can be written only in the process that made it, and this is a fork of that "
                "process: what is written here would be lost. Use local_filesystem_storage or an object store."
            )

    async def head(self, key: str) -> ObjectInfo:  # noqa: D102  # Protocol
        stored = self._find(key)
        return ObjectInfo(key, len(stored.data), stored.time_us)

    async def list(self, prefix: str) -> AsyncIterator[list[ObjectInfo]]:  # noqa: D102  # Protocol
        with self._objects.lock:
            found = [
                ObjectInfo(key, len(stored.data), stored.time_us)
                for key, stored in self._objects.by_key.items()
                if key.startswith(prefix)
            ]
        for i in range(0, len(found), PAGE_SIZE):
            yield found[i : i + PAGE_SIZE]

    async def delete(self, keys: Iterable[str]) -> int:  # noqa: D102  # Protocol
        keys = list(keys)
        with self._objects.lock:
            self._check_owner()
            for key in keys:
                self._objects.by_key.pop(key, None)
        return len(keys)

    async def sync(self, keys: Iterable[str]) -> None:
        """Do nothing: memory does not survive anything."""
