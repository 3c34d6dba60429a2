"""Local files as sources, and what the reading of local files is made of.

Knows neither file formats nor containers.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Sequence
from pathlib import Path

from icechunk_virtual.containers.source import U32_MAX, Source, changed
from icechunk_virtual.containers.url import check_location, file_url, local_path
from icechunk_virtual.errors import InvalidLocation, ScanError

OPEN_FLAGS = (
    os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
)  # O_NONBLOCK: a named pipe must not make us wait for a writer; it changes nothing for regular files
_seek_lock = threading.Lock()


class LocalSource(Source):
    """A regular file on this machine."""

    local_path: Path

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.url = file_url(path)
        self.local_path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links
        self._fd = -1
        try:
            self._fd = os.open(self.local_path, OPEN_FLAGS)
            status = os.fstat(self._fd)
        except OSError as error:
            self.close()
            raise _unreadable(self.url, error) from error
        if not stat.S_ISREG(status.st_mode):
            self.close()
            what = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise ScanError(f"`{self.url}` is {what}: name the files to scan.", source=self.url)
        self.size = status.st_size
        self.etag: str = file_etag(status)
        seconds = -(-status.st_mtime_ns // 10**9)
        self.last_modified = seconds if 0 < seconds <= U32_MAX else None

    def check_unchanged(self) -> None:
        """As `Source.check_unchanged`: neither the open file nor what is there by its name is another one."""
        try:
            states = {file_etag(os.fstat(self._fd)), file_etag(self.local_path.stat())}
        except OSError as error:
            raise _unreadable(self.url, error) from error
        for etag in states - {self.etag}:
            raise changed(self.url, "its etag", self.etag, etag)

    def _read(self, offset: int, length: int) -> bytes:
        if self._fd < 0:
            raise ValueError(f"the source `{self.url}` is closed")
        try:
            return read_at(self._fd, offset, length)
        except OSError as error:
            raise _unreadable(self.url, error) from error

    def _read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        return [self._read(offset, length) for offset, length in ranges]

    def close(self) -> None:
        """Close the file; reading is an error from now on."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


def file_etag(status: os.stat_result) -> str:
    """Entity tag of a local file: ``<inode>-<mtime in microseconds>-<size>``, hexadecimal without quotes.

    The same as that of Arrow's ``object_store`` (``local.rs``, ``get_etag``).
    """
    return f"{status.st_ino:x}-{status.st_mtime_ns // 1000:x}-{status.st_size:x}"


def read_at(fd: int, offset: int, length: int) -> bytes:
    """The bytes ``[offset, offset + length)`` of an open file, fewer only where it ends."""
    data = _pread(fd, length, offset)
    if len(data) == length or not data:
        return data
    parts, got = [data], len(data)
    while got < length:  # one call gives at most 2 GiB on Linux
        data = _pread(fd, length - got, offset + got)
        if not data:
            break
        parts.append(data)
        got += len(data)
    return b"".join(parts)


def _pread(fd: int, length: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(fd, length, offset)
    with _seek_lock:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, length)


def path_of(url: str) -> str:
    """The local path of a ``file:`` URL; `ScanError` if it has none."""
    try:
        return local_path(check_location(url))
    except InvalidLocation as error:
        raise ScanError(error.message, source=url) from error


def _unreadable(url: str, error: OSError) -> ScanError:
    reason = "there is no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
    return ScanError(f"cannot read `{url}`: {reason}.", source=url)
