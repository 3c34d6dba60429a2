"""A repository in a directory of this machine, safe between threads and processes.

Through obstore, except for what it does not do (conditional and durable writes, flushes, a lock, anything in a forked
child), for deletions, which take that lock, and for small objects, which are read and written right on the event loop
while the disk answers quickly. Decision 006 has the reasons and the figures.
"""

# Plain strings instead of pathlib: this is called once per chunk.
# ruff: noqa: PTH108, PTH112, PTH116, PTH120
from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import obstore

from icechunk_virtual.errors import ObjectNotFound, PreconditionFailed
from icechunk_virtual.repo import file_sync, files
from icechunk_virtual.repo.file_lock import locked
from icechunk_virtual.repo.foreign_errors import too_short, translate, translating, unknown_outcome
from icechunk_virtual.repo.object_store import PAGE_SIZE, WHOLE, ObjectInfo, Version, escape_key, unescape_key
from icechunk_virtual.repo.obstore_store import ObstoreStore, Role, answers_here, info_of

if TYPE_CHECKING:
    from obstore.store import ObjectStore as ForeignStore

    from icechunk_virtual.repo.format.envelope import FileType

P = ParamSpec("P")
R = TypeVar("R")

_SMALL_BYTES = 256 * 1024
"""Objects up to this size are read and written without the library, which takes several times as long for them."""
_SYNC_IN_TURN = 16
"""Files that are made durable one after the other; more are in several threads."""
_SYNC_BATCHES = 8
_MAJORITY = 4
"""Slow calls in excess of quick ones, after which blocking calls go elsewhere."""


class Pace:
    """Decides whether short blocking calls may run on the event loop: while most of them are quick.

    A vote and not an average: on a busy machine single calls are late by many milliseconds, because the thread was not
    running, and threads would only make that worse. While most calls are slow, calls go elsewhere, except for a few
    that ask again.
    """

    def __init__(self, *, limit: float = 1e-3, probe_every: int = 16) -> None:
        self._limit = limit
        self._probe_every = probe_every
        self._slow = 0  # slow calls minus quick ones, between 0 and twice the majority
        self._elsewhere = 0

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a blocking function, here or in a thread."""
        if self.quick():
            return self.measure(function, *args, **kwargs)
        return await asyncio.to_thread(function, *args, **kwargs)

    def quick(self) -> bool:
        """Whether to make the next call on the event loop, through `measure`."""
        if self._slow < _MAJORITY:
            return True
        self._elsewhere += 1
        return self._elsewhere % self._probe_every == 0

    def measure(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a blocking function, and count its vote."""
        begin = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            if time.perf_counter() - begin > self._limit:
                self._slow = min(self._slow + 1, 2 * _MAJORITY)
            elif self._slow:
                self._slow -= 1


def _etag(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class LocalStore(ObstoreStore):
    """Objects as files below a directory, which is created at the first write.

    Parameters
    ----------
    root
        Absolute path of the directory.
    """

    def __init__(self, root: str) -> None:
        super().__init__(parts=WHOLE, metadata=False)
        self._root = root
        self._reads = Pace()
        self._writes = Pace()

    def __repr__(self) -> str:
        return f"LocalStore({self._root!r})"

    def __eq__(self, other: object) -> bool:
        return self._root == other._root if isinstance(other, LocalStore) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._root)

    def __reduce__(self) -> tuple[type[LocalStore], tuple[str]]:
        return LocalStore, (self._root,)

    def _path(self, key: str) -> str:
        return f"{self._root}/{escape_key(key)}"

    def _client(self, role: Role) -> ForeignStore:  # noqa: ARG002  # one serves all
        return self._library()

    def _library(self) -> obstore.store.LocalStore:
        """The library's store, made anew each time: it looks only once where symbolic links lead."""
        return obstore.store.LocalStore(self._root)

    # -- reading -----------------------------------------------------------------------------------------------

    async def get(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes | memoryview:  # noqa: D102  # Protocol
        try:
            return await self._reads.run(self._get, key, start, stop, limit=_SMALL_BYTES)
        except files.TooLargeError as large:
            if answers_here():
                return await super().get(key, start=start, stop=large.size if stop is None else stop)
            return await asyncio.to_thread(self._get, key, start, stop)

    def get_now(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes:  # noqa: D102  # Protocol
        return self._get(key, start, stop)

    def _get(self, key: str, start: int, stop: int | None, *, limit: int | None = None) -> bytes:
        try:
            return files.read_range(self._path(key), start, stop, limit=limit)
        except files.WrongSizeError as error:
            raise too_short(key, error.size, start, error.size if stop is None else stop) from None
        except OSError as error:
            raise translate(error, key) from error

    async def get_versioned(self, key: str) -> tuple[bytes, Version]:  # noqa: D102  # Protocol
        data = bytes(await self.get(key))
        return data, Version(_etag(data))

    async def head(self, key: str) -> ObjectInfo:  # noqa: D102  # Protocol
        def status() -> os.stat_result:  # the library would open it, and wait forever if it is a pipe
            with translating(key):
                return os.stat(self._path(key))

        found = await self._reads.run(status)
        return ObjectInfo(key, found.st_size, found.st_mtime_ns // 1000)

    async def list(self, prefix: str) -> AsyncIterator[list[ObjectInfo]]:  # noqa: D102  # Protocol
        pages = _pages(self._root, prefix)
        while (page := await asyncio.to_thread(next, pages, None)) is not None:
            yield page

    # -- writing -----------------------------------------------------------------------------------------------

    async def put(  # noqa: D102  # Protocol
        self,
        key: str,
        data: bytes | memoryview,
        *,
        file_type: FileType | None = None,
        durable: bool = True,
    ) -> None:
        small = len(data) <= _SMALL_BYTES
        if not durable and small and self._writes.quick():
            self._writes.measure(self._put_quickly, key, data)
        elif not durable and answers_here():
            await self._writes.run(self._make_place, key)
            await super().put(key, data, file_type=file_type)
            if not small:
                await asyncio.to_thread(file_sync.start_writing_file, self._path(key))
        else:
            await asyncio.to_thread(self._write_whole, key, data, durable=durable)

    def put_now(self, key: str, data: bytes | memoryview) -> None:  # noqa: D102  # Protocol
        if len(data) > _SMALL_BYTES:
            self._write_whole(key, data, durable=False)
        else:
            self._put_quickly(key, data)

    def _make_place(self, key: str) -> None:
        """Make the directory of an object, durably: the library would make it, but not so."""
        directory = os.path.dirname(self._path(key))
        if not os.path.isdir(directory):
            with translating(key):
                files.make_directory(directory, self._root)

    def _put_quickly(self, key: str, data: bytes | memoryview) -> None:
        """Under the final name at once: nobody knows the random name of a chunk before it is written."""
        path = self._path(key)
        try:
            files.write_new(path, data, file_sync.leave_alone)
        except OSError:  # no such directory yet, a name that is taken, or an error to be translated
            self._write_whole(key, data, durable=False)

    def _write_whole(self, key: str, data: bytes | memoryview, *, durable: bool) -> None:
        path = self._path(key)
        with translating(key):
            files.replace(self._temporary(path, data, file_sync.sync if durable else file_sync.start_writing), path)
            if durable:
                file_sync.sync_directory(os.path.dirname(path))

    def _temporary(self, path: str, data: bytes | memoryview, settle: Callable[[int], None]) -> str:
        try:
            return files.write_temporary(path, data, settle)
        except FileNotFoundError:
            files.make_directory(os.path.dirname(path), self._root)
            return files.write_temporary(path, data, settle)

    async def put_new(self, key: str, data: bytes) -> Version:  # noqa: D102  # Protocol
        return await asyncio.to_thread(self._put_new, key, data)

    def _put_new(self, key: str, data: bytes) -> Version:
        path = self._path(key)
        with translating(key):
            temporary = self._temporary(path, data, file_sync.sync)
            if not files.link_new(temporary, path):
                files.move_new(temporary, path)
        self._settle(path, key)
        return Version(_etag(data))

    async def put_if_match(  # noqa: D102  # Protocol
        self, key: str, data: bytes, version: Version, *, after: Collection[str] = ()
    ) -> Version:
        await asyncio.to_thread(self._put_if_match, key, data, version, after)
        return Version(_etag(data))

    def _put_if_match(self, key: str, data: bytes, version: Version, after: Collection[str]) -> None:
        path = self._path(key)
        with _gone_is_changed(key):
            _compare(path, key, version)  # whoever is late anyway need not wait for the disk
            temporary = files.write_temporary(path, data, file_sync.leave_alone)
        try:
            self._sync(after, temporary)
            self._replace(key, temporary, version)
        except BaseException:
            files.discard(temporary)
            raise

    def _replace(self, key: str, temporary: str, version: Version) -> None:
        path = self._path(key)
        with _gone_is_changed(key), locked(os.path.dirname(path)):
            _compare(path, key, version)
            files.replace(temporary, path)
        self._settle(path, key)

    @staticmethod
    def _settle(path: str, key: str) -> None:
        """Make a name durable that others can see already: a failure leaves the outcome open."""
        try:
            file_sync.sync_directory(os.path.dirname(path))
        except OSError as error:
            raise unknown_outcome(error, key) from error

    async def _delete(self, keys: Sequence[str]) -> None:
        await asyncio.to_thread(self._delete_now, keys)

    def _delete_now(self, keys: Sequence[str]) -> None:
        """Under the lock, so that no conditional write brings back what is being deleted."""
        for directory, members in self._by_directory(keys).items():
            with _unless_missing(), translating(directory), locked(directory):
                for key, path in members.items():
                    _unlink(path, key)
                file_sync.sync_directory(directory)

    async def sync(self, keys: Iterable[str]) -> None:  # noqa: D102  # Protocol
        await asyncio.to_thread(self._sync, tuple(keys))

    def _sync(self, keys: Collection[str], *paths: str) -> None:
        """Make objects durable, names and contents, and the contents of the files at `paths`.

        In any order: nobody looks for them before this returns.
        """
        with translating(self._root):
            if file_sync.sync_file_system(self._root, len(keys) + len(paths)):
                return
        groups = self._by_directory(keys)
        every = [*paths, *(path for group in groups.values() for path in group.values())]
        if len(every) <= _SYNC_IN_TURN:
            self._sync_files(every)
        else:
            with ThreadPoolExecutor(_SYNC_BATCHES) as threads:
                list(threads.map(self._sync_files, (every[i::_SYNC_BATCHES] for i in range(_SYNC_BATCHES))))
        for directory in groups:
            with translating(directory):
                file_sync.sync_directory(directory)

    def _sync_files(self, paths: Iterable[str]) -> None:
        for path in paths:
            with translating(path.removeprefix(f"{self._root}/")):
                file_sync.sync_file(path)

    def _by_directory(self, keys: Iterable[str]) -> dict[str, dict[str, str]]:
        """Path of each key, by the directory it is in."""
        groups: dict[str, dict[str, str]] = {}
        for key in keys:
            path = self._path(key)
            groups.setdefault(os.path.dirname(path), {})[key] = path
        return groups


def _pages(root: str, prefix: str) -> Iterator[list[ObjectInfo]]:
    """List with the library's synchronous call, which works in a forked child too."""
    if os.path.isdir(root):
        with translating(prefix or root):
            library = obstore.store.LocalStore(root)
            for page in obstore.list(library, prefix=escape_key(prefix) or None, chunk_size=PAGE_SIZE):
                yield [info_of(unescape_key(meta["path"]), meta) for meta in page]


def _unlink(path: str, key: str) -> None:
    """Delete a file, if there is one. Called once per object that is deleted."""
    try:
        os.unlink(path)
    except OSError as error:
        failure = translate(error, key)
        if not isinstance(failure, ObjectNotFound):
            raise failure from error


def _changed(key: str, how: str) -> PreconditionFailed:
    return PreconditionFailed(
        f"object store error Request precondition failure for path {key}: it {how}. Nothing was written.", key=key
    )


def _compare(path: str, key: str, version: Version) -> None:
    if _etag(files.read_range(path, 0, None)) != version.etag:
        raise _changed(key, "has changed since it was read")


@contextmanager
def _gone_is_changed(key: str) -> Iterator[None]:
    try:
        with translating(key):
            yield
    except ObjectNotFound as error:
        raise _changed(key, "no longer exists") from error


@contextmanager
def _unless_missing() -> Iterator[None]:
    try:
        yield
    except ObjectNotFound:
        return
