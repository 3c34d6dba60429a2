"""Virtual chunks in files of this machine: opened, checked and read on one descriptor.

Nothing is kept between reads, so a file that is changed, replaced or re-linked is noticed, whenever that happens.
What is opened must, after all symbolic links, be below a directory that the opener of the repository authorised.
"""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

from icechunk_virtual.containers.authorize import Authorization, Grant
from icechunk_virtual.containers.failures import bare_etag, failed, modified_later, other_etag, too_short
from icechunk_virtual.containers.local_source import OPEN_FLAGS, file_etag, read_at
from icechunk_virtual.containers.snippets import opening_code
from icechunk_virtual.containers.url import Location, check_prefix, file_url, local_path
from icechunk_virtual.errors import NotAuthorized, VirtualReadError
from icechunk_virtual.model.chunk_refs import VirtualChunk

INLINE_BYTES = 128 * 1024
"""Reads up to this size are quicker than handing them to a thread (measured: 9 us for 4 kB, against 120 us)."""

_SLOW_SECONDS = 0.001  # a read that takes longer was not in the page cache: a cold disk, a network file system ...
_SLOW_READS = 16  # ... so that the next ones go to threads, for the event loop's sake
_HAS_PROC = sys.platform == "linux" and Path("/proc/self/fd").is_dir()


class LocalFiles:
    """Client of ``file`` containers. Usable from several event loops and threads.

    Parameters
    ----------
    authorization
        Its authorised file prefixes bound what symbolic links may lead to.
    timer
        Seconds of a monotonic clock.
    """

    def __init__(self, authorization: Authorization, *, timer: Callable[[], float] = time.perf_counter) -> None:
        self._authorization = authorization
        self._timer = timer
        self._to_threads = 0  # how many of the next reads go to threads; lost updates of threads do not matter
        self._was_slow = False
        self._roots: tuple[str, ...] = ()

    async def read(self, grant: Grant, location: Location, chunk: VirtualChunk, offset: int, length: int) -> bytes:
        """Exactly the bytes ``[offset, offset + length)`` of the file.

        Raises
        ------
        NotAuthorized
            Symbolic links lead out of what is authorised.
        ObjectChanged
        VirtualReadError
        """
        if length > INLINE_BYTES:
            return await self._in_thread(grant, location, chunk, offset, length)
        if self._to_threads > 0:
            self._to_threads -= 1
            return await self._in_thread(grant, location, chunk, offset, length)
        start = self._timer()
        data = self.read_now(grant, location, chunk, offset, length)
        slow = self._timer() - start > _SLOW_SECONDS
        if slow and self._was_slow:  # a single one may only mean that the machine is busy
            self._to_threads = _SLOW_READS
        self._was_slow = slow
        return data

    async def _in_thread(
        self, grant: Grant, location: Location, chunk: VirtualChunk, offset: int, length: int
    ) -> bytes:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, self.read_now, grant, location, chunk, offset, length)

    def read_now(self, grant: Grant, location: Location, chunk: VirtualChunk, offset: int, length: int) -> bytes:
        """As `read`, in the calling thread."""
        path = local_path(location)
        try:
            fd = os.open(path, OPEN_FLAGS)
        except OSError as error:
            raise _unreadable(grant, location, chunk, error) from error
        try:
            status = os.fstat(fd)
            self._check_place(grant, location, chunk, _real_path(path, fd, status))
            if not stat.S_ISREG(status.st_mode):
                raise failed(grant, location, chunk, _kind_of(status))
            if grant.verified:
                _check_unchanged(grant, location, chunk, status)
            if offset + length > status.st_size:  # before anything is allocated: both come from the repository
                raise failed(grant, location, chunk, too_short(length, status.st_size - offset, status.st_size))
            data = read_at(fd, offset, length)
            if grant.verified and (chunk.etag or chunk.last_modified):
                _check_unchanged(grant, location, chunk, os.fstat(fd))
        except OSError as error:
            raise _unreadable(grant, location, chunk, error) from error
        finally:
            os.close(fd)
        if len(data) != length:
            raise failed(grant, location, chunk, too_short(length, len(data), status.st_size))
        return data

    def _check_place(self, grant: Grant, location: Location, chunk: VirtualChunk, real: str | None) -> None:
        """The opened file itself, not what a path means by now, is below an authorised directory."""
        if real is None:
            raise failed(grant, location, chunk, "it was replaced while it was opened; try again")
        if real.startswith(self._roots):
            return
        self._roots = self._real_roots()  # links of the prefixes themselves may have moved
        if real.startswith(self._roots):
            return
        raise NotAuthorized(
            f"the location of a virtual chunk ({location}) is a link to {real!a}, which is not below "
            f"{grant.prefix} or any other authorised prefix. If you trust this repository to read there, add a "
            f"virtual chunk container for that place and authorize it:\n    {_code_for(real)}",
            location=location.text,
            prefix=grant.prefix.text,
        )

    def _real_roots(self) -> tuple[str, ...]:
        roots = {
            os.path.normcase(os.path.realpath(local_path(grant.prefix)))
            for grant in self._authorization.grants
            if grant.authorized and grant.prefix.scheme == "file"
        }
        return tuple(root if root.endswith(os.sep) else root + os.sep for root in sorted(roots))


def _real_path(path: str, fd: int, status: os.stat_result) -> str | None:
    """Path of an open file without symbolic links; None if the path leads to another file by now."""
    if _HAS_PROC:
        try:
            real = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - on every read: a Path costs as much as the call
        except OSError:
            real = ""
        if real.startswith("/"):
            return real  # of a file that was deleted meanwhile: where it was, with " (deleted)" behind its name
    real = os.path.realpath(path)
    try:
        same = os.path.samestat(os.stat(real), status)  # noqa: PTH116 - as fast as it can be, on bytes of any kind
    except OSError:
        return None
    return os.path.normcase(real) if same else None


def _check_unchanged(grant: Grant, location: Location, chunk: VirtualChunk, status: os.stat_result) -> None:
    """The file is in the state that was referenced. The etag decides, if there is one."""
    if chunk.etag:
        actual = file_etag(status)
        if chunk.etag != "*" and bare_etag(chunk.etag) != actual:
            raise other_etag(grant, location, chunk, actual)
    elif chunk.last_modified:
        seconds = status.st_mtime_ns // 10**9
        if seconds > chunk.last_modified:
            raise modified_later(grant, location, chunk, seconds)


def _kind_of(status: os.stat_result) -> str:
    return "it is a directory" if stat.S_ISDIR(status.st_mode) else "it is not a regular file"


def _code_for(real: str) -> str:
    """Code that authorises the directory of a file."""
    return "repo = " + opening_code(check_prefix(file_url(Path(real).parent) + "/"))


def _unreadable(grant: Grant, location: Location, chunk: VirtualChunk, error: OSError) -> VirtualReadError:
    reasons: dict[type[OSError], str] = {
        FileNotFoundError: "there is no such file",
        NotADirectoryError: "there is no such file",
        PermissionError: "permission denied",
        IsADirectoryError: "it is a directory",
    }
    return failed(grant, location, chunk, reasons.get(type(error)) or error.strerror or str(error))
