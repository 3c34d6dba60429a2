"""Reading and writing whole files and byte ranges so that nobody ever sees half a write. Blocking, POSIX-minded.

A write goes to a temporary sibling ``<name>#<number>`` and is then moved to its place in one step. Knows no keys.
"""

# File descriptors and plain strings instead of pathlib: this is called once per chunk.
# ruff: noqa: PTH103, PTH105, PTH108, PTH120
from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count

from icechunk_virtual.repo.file_lock import locked
from icechunk_virtual.repo.file_sync import sync_directory

_READ = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
_READ |= getattr(os, "O_NOFOLLOW", 0)  # a repository that somebody else made may have links to any file in it
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EOPNOTSUPP}


_numbers = count(1)


class WrongSizeError(Exception):
    """A file of `size` bytes does not hold the range that was asked for."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class TooLargeError(Exception):
    """More bytes than the caller wants to wait for right now, of a file of `size` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def read_range(path: str, start: int, stop: int | None, *, limit: int | None = None) -> bytes:
    """Bytes ``[start, stop)`` of a file, to its end without `stop`.

    Raises
    ------
    TooLargeError
        They are more than `limit`.
    WrongSizeError
        The file is shorter. Nothing was allocated.
    OSError
        Also for a symbolic link (of the file itself; directories may be links).
    """
    try:
        descriptor = os.open(path, _READ)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link; put the file itself there", path) from None
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "not a file", path)
        end = status.st_size if stop is None else stop
        if end > status.st_size or start > end:
            raise WrongSizeError(status.st_size)
        if limit is not None and end - start > limit:
            raise TooLargeError(status.st_size)
        if start:
            os.lseek(descriptor, start, os.SEEK_SET)
        return _read_exactly(descriptor, end - start, status.st_size)
    finally:
        os.close(descriptor)


def _read_exactly(descriptor: int, length: int, size: int) -> bytes:
    data = os.read(descriptor, length)
    if len(data) == length:
        return data
    parts = [data]  # the system returns at most 2 GiB at once
    missing = length - len(data)
    while missing:
        part = os.read(descriptor, missing)
        if not part:
            raise WrongSizeError(size - missing)  # somebody is cutting it off right now
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    written = os.write(descriptor, data)
    if written < len(data):
        rest = memoryview(data)[written:]
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def make_directory(path: str, root: str) -> None:
    """Create a directory and what is missing above it, `root` included, durably."""
    os.makedirs(path, exist_ok=True)
    while len(path) >= len(root):
        path = os.path.dirname(path)
        sync_directory(path)


def write_new(path: str, data: bytes | memoryview, settle: Callable[[int], None]) -> None:
    """Write a file that does not exist yet, under its own name. Leaves nothing behind when it fails.

    Whoever looks before this returns may see a part of it.

    Parameters
    ----------
    settle
        Called with the descriptor when the data are written: one of `file_sync`.
    """
    descriptor = os.open(path, _CREATE, 0o666)
    try:
        try:
            _write_all(descriptor, data)
            settle(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        discard(path)
        raise


def write_temporary(path: str, data: bytes | memoryview, settle: Callable[[int], None]) -> str:
    """Write a new file beside `path`; returns its path. Leaves nothing behind when it fails."""
    while True:
        temporary = f"{path}#{(os.getpid() << 32) + next(_numbers)}"
        try:
            write_new(temporary, data, settle)
        except FileExistsError:
            continue
        break
    return temporary


def discard(path: str) -> None:
    """Remove a file, whatever happens."""
    with suppress(OSError):
        os.unlink(path)


def replace(temporary: str, path: str) -> None:
    """Move a finished write to its place, over what may be there."""
    try:
        _replace_patiently(temporary, path)
    except BaseException:
        discard(temporary)
        raise


def _replace_patiently(temporary: str, path: str) -> None:
    for attempt in range(20 if os.name == "nt" else 0):  # Windows refuses while somebody reads the old file
        try:
            os.replace(temporary, path)
        except PermissionError:
            time.sleep(0.001 * 2 ** min(attempt, 6))
        else:
            return
    os.replace(temporary, path)


def link_new(temporary: str, path: str) -> bool:
    """Move a finished write to its place unless something is there (`FileExistsError`), in one atomic step.

    Returns
    -------
    bool
        False, with the temporary still there, when the file system has no hard links.
    """
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno in _NO_HARD_LINKS:
            return False
        discard(temporary)
        raise
    discard(temporary)
    return True


def move_new(temporary: str, path: str) -> None:
    """As `link_new`, for file systems without hard links: atomic only between those who lock the directory."""
    with locked(os.path.dirname(path)):
        if os.path.lexists(path):
            discard(temporary)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        replace(temporary, path)
