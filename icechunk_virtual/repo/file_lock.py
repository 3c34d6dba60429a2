"""An exclusive lock on a directory, between threads, processes and, where the file system does it, machines.

The directory itself is locked, so nothing extra appears in it. Where that is impossible (Windows, some network file
systems) a file ``lock#0`` in it is: a name that every reader of a repository takes for an unfinished write.
"""

# File descriptors and plain strings instead of pathlib: that is what is locked.
# ruff: noqa: PTH118
from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from icechunk_virtual.errors import TransientStorageError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK_FILE = "lock#0"
_BUSY = {errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK}
_FIRST_PAUSE = 0.0005
_LONGEST_PAUSE = 0.02


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            return False
        raise
    return True


def _unlock(descriptor: int) -> None:
    # explicitly: a child forked meanwhile holds a copy of the descriptor, and closing ours would not unlock
    if sys.platform == "win32":
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _open_and_try(directory: str) -> tuple[int, bool]:
    """Open what is to be locked; whether the lock was free."""
    if sys.platform != "win32":
        descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return descriptor, _try_lock(descriptor)
        except OSError:  # network file systems lock only what is open for writing
            os.close(descriptor)
    descriptor = os.open(os.path.join(directory, LOCK_FILE), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        return descriptor, _try_lock(descriptor)
    except OSError:
        os.close(descriptor)
        raise


@contextmanager
def locked(directory: str, *, timeout: float = 60.0) -> Iterator[None]:
    """Hold the lock of an existing directory. Blocks the thread, for at most `timeout` seconds.

    Raises
    ------
    TransientStorageError
        Somebody else held it all the time.
    OSError
        The directory does not exist, or cannot be opened.
    """
    descriptor, held = _open_and_try(directory)
    pause = _FIRST_PAUSE
    give_up = time.monotonic() + timeout
    try:
        while not held:
            if time.monotonic() > give_up:
                raise TransientStorageError(
                    f"object store error: another process has held the lock of {directory} for {timeout:g} seconds. "
                    "Nothing was written. Look for a stuck writer on this repository, then try again.",
                    key=directory,
                )
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)
            held = _try_lock(descriptor)
        yield
    finally:
        if held:
            _unlock(descriptor)
        os.close(descriptor)
