"""An object store none of whose requests is made outside of a bound. Knows no files of a repository."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable
from typing import TYPE_CHECKING

from icechunk_virtual.repo.limiter import Limiter
from icechunk_virtual.repo.object_store import ObjectInfo, ObjectStore, PartPolicy, Version

if TYPE_CHECKING:
    from icechunk_virtual.repo.format.envelope import FileType


class LimitedStore:
    """The objects of another store, each operation within a bound.

    Parameters
    ----------
    objects
        The other store.
    limiter
        The bound.
    """

    def __init__(self, objects: ObjectStore, limiter: Limiter) -> None:
        self._objects, self._limiter = objects, limiter

    def __repr__(self) -> str:
        return repr(self._objects)

    def __eq__(self, other: object) -> bool:
        return self._objects == other._objects if isinstance(other, LimitedStore) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._objects)

    @property
    def writable(self) -> bool:  # noqa: D102  # Protocol, as what follows
        return self._objects.writable

    @property
    def parts(self) -> PartPolicy:  # noqa: D102
        return self._objects.parts

    async def get(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes | memoryview:  # noqa: D102
        async with self._limiter:
            return await self._objects.get(key, start=start, stop=stop)

    async def get_versioned(self, key: str) -> tuple[bytes, Version]:  # noqa: D102
        async with self._limiter:
            return await self._objects.get_versioned(key)

    async def put(  # noqa: D102
        self, key: str, data: bytes | memoryview, *, file_type: FileType | None = None, durable: bool = True
    ) -> None:
        async with self._limiter:
            await self._objects.put(key, data, file_type=file_type, durable=durable)

    async def put_new(self, key: str, data: bytes) -> Version:  # noqa: D102
        async with self._limiter:
            return await self._objects.put_new(key, data)

    async def put_if_match(  # noqa: D102
        self, key: str, data: bytes, version: Version, *, after: Collection[str] = ()
    ) -> Version:
        async with self._limiter:
            return await self._objects.put_if_match(key, data, version, after=after)

    async def head(self, key: str) -> ObjectInfo:  # noqa: D102
        async with self._limiter:
            return await self._objects.head(key)

    async def list(self, prefix: str) -> AsyncIterator[list[ObjectInfo]]:  # noqa: D102
        pages = self._objects.list(prefix)
        while True:
            async with self._limiter:  # not while the caller is busy with a page
                page = await anext(pages, None)
            if page is None:
                return
            yield page

    async def delete(self, keys: Iterable[str]) -> int:  # noqa: D102
        async with self._limiter:
            return await self._objects.delete(keys)

    async def sync(self, keys: Iterable[str]) -> None:  # noqa: D102
        async with self._limiter:
            await self._objects.sync(keys)
