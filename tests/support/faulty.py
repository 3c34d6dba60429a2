"""An object store that counts calls, fails where told to, and lets others go first; and a storage made of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from icechunk_virtual import Storage
from icechunk_virtual.errors import OutcomeUnknown, StorageError
from icechunk_virtual.repo.object_store import ObjectInfo, ObjectStore, PartPolicy, Version

WRITES = frozenset({"put", "put_new", "put_if_match", "delete"})


@dataclass
class Script:
    """What goes wrong, shared by all stores of one storage.

    Attributes
    ----------
    calls
        What was asked for so far: operation and key.
    fail_at
        Number of the first call that fails, from 1; ``None``: none does.
    times
        How many calls fail in a row.
    lost
        The failing calls are carried out, and only their answers are lost.
    meanwhile
        Instead of a failure: what others do while that call is under way. It runs on the thread of the caller's event
        loop, and may use the library's own loop.
    """

    calls: list[tuple[str, str]] = field(default_factory=list)
    fail_at: int | None = None
    times: int = 1
    lost: bool = False
    error: Callable[[str], Exception] = StorageError
    meanwhile: Callable[[], None] | None = None

    def restart(self, fail_at: int | None = None, **more: Any) -> None:
        """Count from 1 again."""
        self.calls.clear()
        self.times, self.lost, self.error, self.meanwhile = 1, False, StorageError, None
        self.fail_at = fail_at
        for name, value in more.items():
            setattr(self, name, value)

    def next(self, operation: str, key: str) -> bool:
        """Note a call; whether it fails."""
        self.calls.append((operation, key))
        number = len(self.calls)
        if self.meanwhile is not None:
            if number == self.fail_at:
                self.meanwhile()
            return False
        return self.fail_at is not None and self.fail_at <= number < self.fail_at + self.times


class FaultyStore:
    """Wraps an object store; every call gives way to other coroutines first."""

    def __init__(self, inner: ObjectStore, script: Script) -> None:
        self.inner = inner
        self.script = script

    writable = True

    @property
    def parts(self) -> PartPolicy:
        return self.inner.parts

    async def _call(self, operation: str, key: str, act: Callable[[], Any]) -> Any:
        await asyncio.sleep(0)
        if not self.script.next(operation, key):
            return await act()
        if self.script.lost and operation in WRITES:
            await act()
            raise OutcomeUnknown(f"the answer to {operation} {key} was lost (on purpose)", key=key)
        raise self.script.error(f"{operation} {key} failed (on purpose)")

    async def get(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes:
        found: bytes = await self._call("get", key, lambda: self.inner.get(key, start=start, stop=stop))
        return found

    async def get_versioned(self, key: str) -> tuple[bytes, Version]:
        found: tuple[bytes, Version] = await self._call("get_versioned", key, lambda: self.inner.get_versioned(key))
        return found

    async def put(self, key: str, data: bytes, **more: Any) -> None:
        await self._call("put", key, lambda: self.inner.put(key, data, **more))

    async def put_new(self, key: str, data: bytes) -> Version:
        version: Version = await self._call("put_new", key, lambda: self.inner.put_new(key, data))
        return version

    async def put_if_match(self, key: str, data: bytes, version: Version, *, after: Collection[str] = ()) -> Version:
        if after:  # two steps, either of which may fail
            await self.sync(after)
        new: Version = await self._call(
            "put_if_match", key, lambda: self.inner.put_if_match(key, data, version, after=after)
        )
        return new

    async def head(self, key: str) -> ObjectInfo:
        found: ObjectInfo = await self._call("head", key, lambda: self.inner.head(key))
        return found

    async def list(self, prefix: str) -> AsyncIterator[list[ObjectInfo]]:
        async def nothing() -> None:
            pass

        await self._call("list", prefix, nothing)
        async for page in self.inner.list(prefix):
            yield page

    async def delete(self, keys: Iterable[str]) -> int:
        keys = list(keys)
        count: int = await self._call("delete", " ".join(keys), lambda: self.inner.delete(keys))
        return count

    async def sync(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        await self._call("sync", " ".join(keys), lambda: self.inner.sync(keys))


class FaultyBackend:
    """The same place as another storage, reached through `FaultyStore`."""

    def __init__(self, storage: Storage, script: Script) -> None:
        self._storage = storage
        self._script = script

    def __repr__(self) -> str:
        return f"faulty {self._storage!r}"

    def default_settings(self) -> Any:
        return self._storage.default_settings()

    def open(self, settings: Any) -> FaultyStore:
        return FaultyStore(self._storage.object_store(), self._script)


def faulty(storage: Storage, script: Script) -> Storage:
    return Storage(FaultyBackend(storage, script))
