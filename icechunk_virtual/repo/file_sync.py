"""Making files and names survive a power cut: one by one, or a whole file system at once. Blocking.

A file costs a round trip to the disk, 0.1 to 1 ms. Linux can write back a file system in one, which is far cheaper for
many small files, unless other programs have much unwritten data there: then it would wait for theirs too.
"""

# File descriptors and plain strings instead of pathlib: this is called once per chunk.
# ruff: noqa: PTH123
from __future__ import annotations

import ctypes
import errno
import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_OPEN = (os.O_RDWR if os.name == "nt" else os.O_RDONLY) | getattr(os, "O_CLOEXEC", 0)
_NO_DIRECTORY_SYNC = {errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES}
_FEW_FILES = 3
_BYTES_AT_LEAST = 1024 * 1024
_BYTES_PER_FILE = 64 * 1024
"""What a disk writes in the time that one more round trip takes; small, because the estimate must not be missed."""
_START_WRITING = 2  # SYNC_FILE_RANGE_WRITE


def leave_alone(descriptor: int) -> None:
    """Let the system write a file back when it likes."""


def start_writing(descriptor: int) -> None:
    """Let the system begin to write a file back, so that making it durable later waits less. Where it can."""
    call = _c_function("sync_file_range")
    if call is not None:
        call(descriptor, ctypes.c_int64(0), ctypes.c_int64(0), _START_WRITING)


def start_writing_file(path: str) -> None:
    """As `start_writing`, of a file that is closed. It may be gone already."""
    with suppress(FileNotFoundError), _opened(path) as descriptor:
        start_writing(descriptor)


def sync(descriptor: int) -> None:
    """Make the content of an open file durable."""
    os.fsync(descriptor)


@functools.cache
def _c_function(name: str) -> Any:
    return getattr(ctypes.CDLL(None, use_errno=True), name, None) if sys.platform == "linux" else None


def sync_file(path: str) -> None:
    """Make the content of a file durable."""
    with _opened(path) as descriptor:
        os.fsync(descriptor)


@contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, _OPEN)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def sync_directory(path: str) -> None:
    """Make the names in a directory durable, where the system lets us."""
    if os.name == "nt":
        return
    try:
        sync_file(path)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise


def sync_file_system(directory: str, files: int) -> bool:
    """Make everything durable that the file system of a directory holds, if that is cheaper than `files` files.

    Returns
    -------
    bool
        False when nothing was done: few files, much unwritten data, or a system without the call.
    """
    syncfs = _c_function("syncfs")
    if syncfs is None or files < _FEW_FILES or _unwritten_bytes() > _BYTES_AT_LEAST + files * _BYTES_PER_FILE:
        return False
    with _opened(directory) as descriptor:
        if syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), directory)
    return True


def _unwritten_bytes() -> int:
    """Of all programs and file systems of this machine; more than any disk holds when that cannot be known."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Dirty:", "Writeback:")))
    except (OSError, ValueError, IndexError):
        return sys.maxsize
