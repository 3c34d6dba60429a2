"""Files that scanners read: one small interface over local files and everything that fsspec reaches.

Plain synchronous functions. This module knows nothing of file formats, containers or repositories. Only the file
systems of remote protocols are loaded late, by fsspec itself.
"""

from __future__ import annotations

import abc
import bisect
import io
import os
import re
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import fsspec

from icechunk_virtual.containers.url import check_location, file_url, local_path, without_user_info
from icechunk_virtual.errors import InvalidLocation, MalformedSource, MissingDependency, ScanError
from icechunk_virtual.model.locations import Locations

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|file:/", re.IGNORECASE)
CHAINED_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*::")
_MERGE_GAP = 64 * 1024  # bytes between two remote ranges that are cheaper to fetch than another request
_BLOCK = 1 << 20  # as_file() of remote sources reads blocks of this size ...
_BLOCKS = 32  # ... and keeps this many
_U32_MAX = 2**32 - 1


class Source(abc.ABC):
    """One file to scan; a context manager, usable from several threads.

    Attributes
    ----------
    url : str
        What virtual chunks will have as their location.
    size : int
        Bytes.
    etag : str or None
        Entity tag, verbatim as the server says it. Local files: ``<inode>-<mtime in microseconds>-<size>`` in
        hexadecimal, as Arrow's object_store forms it.
    last_modified : int or None
        Seconds since 1970-01-01 UTC, rounded up.
    local_path : Path or None
        For libraries that want to open a local file themselves.
    """

    url: str
    size: int
    etag: str | None
    last_modified: int | None
    local_path: Path | None

    def read(self, offset: int, length: int) -> bytes:
        """Exactly the bytes ``[offset, offset + length)``.

        Raises
        ------
        MalformedSource
            The range is not within the file. Offsets come from foreign bytes, so this is their fault.
        ScanError
            The file cannot be read (any more).
        """
        self._check(offset, length)
        if not length:
            return b""
        return self._complete(self._read(offset, length), offset, length)

    def peek(self, offset: int, length: int) -> bytes:
        """As `read`, but shorter where the file ends: to look for magic bytes."""
        start = min(offset, self.size)
        return self.read(start, min(offset + length, self.size) - start)

    def read_many(self, ranges: Iterable[tuple[int, int]]) -> list[bytes]:
        """The bytes of every ``(offset, length)``, in that order: one batch of concurrent requests."""
        wanted = list(ranges)
        for offset, length in wanted:
            self._check(offset, length)
        found = self._read_many(wanted)
        return [self._complete(data, *span) for data, span in zip(found, wanted, strict=True)]

    def as_file(self) -> io.RawIOBase:
        """A seekable read-only binary file for libraries that want one. It does not close the source."""
        return _SourceFile(self)

    @property
    def locations(self) -> Locations:
        """A table with this file as its only row, in the state in which it is scanned."""
        return Locations.of([self.url], etags=[self.etag], last_modified=[self.last_modified])

    @abc.abstractmethod
    def close(self) -> None:
        """Give back what the source holds; may be called twice."""

    @abc.abstractmethod
    def _read(self, offset: int, length: int) -> bytes: ...

    @abc.abstractmethod
    def _read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url} ({self.size} bytes)>"

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise MalformedSource(
                f"`{self.url}` has {self.size} bytes, but refers to {length} bytes at offset {offset}: the file is "
                "damaged or cut off. Compare its size with the original.",
                source=self.url,
            )

    def _complete(self, data: bytes, offset: int, length: int) -> bytes:
        if len(data) != length:
            raise ScanError(
                f"`{self.url}` gave {len(data)} bytes instead of {length} at offset {offset}: it changed while it was "
                "read, or its server does not serve byte ranges.",
                source=self.url,
            )
        return data


class LocalSource(Source):
    """A regular file on this machine."""

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
        self.etag = file_etag(status)
        seconds = -(-status.st_mtime_ns // 10**9)
        self.last_modified = seconds if 0 < seconds <= _U32_MAX else None

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


class RemoteSource(Source):
    """Anything that fsspec reaches.

    Parameters
    ----------
    url
        With its protocol.
    storage_options
        For the fsspec file system: credentials, endpoints ...
    """

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self.url = url
        self.local_path = None
        protocol = url.partition("://")[0]
        try:
            self._fs, self._path = fsspec.core.url_to_fs(url, **(storage_options or {}))
            facts = self._fs.info(self._path)
        except ImportError as error:
            raise MissingDependency(f"`{url}` needs another package: {error}", source=url, extra=protocol) from error
        except Exception as error:  # every file system of fsspec has exceptions of its own
            raise _unreadable(url, error) from error
        if facts.get("type") == "directory":
            raise ScanError(f"`{url}` is a directory: name the files to scan.", source=url)
        size = facts.get("size")
        if size is None:
            raise ScanError(f"`{url}`: the server does not tell the size of the file. Download it first.", source=url)
        self.size = int(size)
        self.etag = next((str(facts[k]) for k in ("ETag", "etag", "e_tag") if facts.get(k)), None)
        self.last_modified = _seconds(next((facts[k] for k in _TIMES if facts.get(k) is not None), None))

    def _read(self, offset: int, length: int) -> bytes:
        return self._read_many([(offset, length)])[0]

    def _read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        merged = merge_ranges(ranges, _MERGE_GAP)
        starts, ends = [a for a, _ in merged], [b for _, b in merged]
        try:
            bodies = self._fs.cat_ranges([self._path] * len(merged), starts, ends, on_error="raise") if merged else []
        except Exception as error:  # every file system of fsspec has exceptions of its own
            raise _unreadable(self.url, error) from error
        for body, start, end in zip(bodies, starts, ends, strict=True):
            self._complete(body, start, end - start)
        return slice_ranges(ranges, merged, bodies)

    def as_file(self) -> io.RawIOBase:
        """As `Source.as_file`, through a cache of blocks."""
        return _SourceFile(self, _Blocks(self))

    def close(self) -> None:
        """File systems of fsspec are shared: nothing to give back."""


def open_source(
    url_or_path: str | os.PathLike[str] | Source, *, storage_options: Mapping[str, Any] | None = None
) -> Source:
    """Open a file for scanning.

    Parameters
    ----------
    url_or_path
        Local path, ``file://`` URL, or a URL of any protocol that fsspec has. A `Source` is returned as it is.
    storage_options
        For the fsspec file system of a remote URL.

    Raises
    ------
    ScanError
        The file is missing, unreadable, or not a file; the message names it. Or its URL holds a password.
    MissingDependency
        fsspec needs another package for this protocol.
    """
    if isinstance(url_or_path, Source):
        return url_or_path
    text = os.fspath(url_or_path)
    if isinstance(url_or_path, str) and CHAINED_URL.match(text):
        raise ScanError(f"`{text}` is a chain of URLs, which no virtual chunk can point into.", source=text)
    if not (isinstance(url_or_path, str) and URL.match(text)):
        return LocalSource(text)
    if text[:5].lower() == "file:":
        return LocalSource(path_of(text))
    shown = without_user_info(text)
    if shown != text:
        raise ScanError(
            f"`{shown}` was given with a name or password in front of its host, which no virtual chunk can have. Leave "
            "them out: fsspec takes them from its configuration, `open_source` as `storage_options`.",
            source=shown,
        )
    return RemoteSource(text, storage_options)


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


def merge_ranges(ranges: Sequence[tuple[int, int]], gap: int) -> list[tuple[int, int]]:
    """Half-open ranges, sorted and disjoint, that cover all ``(offset, length)``; gaps up to `gap` are included."""
    merged: list[tuple[int, int]] = []
    for offset, length in sorted(r for r in ranges if r[1]):
        if merged and offset <= merged[-1][1] + gap:
            merged[-1] = (merged[-1][0], max(merged[-1][1], offset + length))
        else:
            merged.append((offset, offset + length))
    return merged


def slice_ranges(
    ranges: Sequence[tuple[int, int]], merged: Sequence[tuple[int, int]], bodies: Sequence[bytes]
) -> list[bytes]:
    """The bytes of each of `ranges`, cut out of the bodies of the `merged` ones that cover them."""
    starts = [start for start, _ in merged]
    pieces = []
    for offset, length in ranges:
        if not length:
            pieces.append(b"")
            continue
        i = bisect.bisect_right(starts, offset) - 1
        pieces.append(bytes(bodies[i][offset - starts[i] : offset - starts[i] + length]))
    return pieces


OPEN_FLAGS = (
    os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
)  # O_NONBLOCK: a named pipe must not make us wait for a writer; it changes nothing for regular files
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "Last-Modified")
_seek_lock = threading.Lock()


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


def _unreadable(url: str, error: Exception) -> ScanError:
    return ScanError(f"cannot read `{url}`: {_reason(error)}{_hint(url, error)}.", source=url)


def _reason(error: BaseException) -> str:
    status = getattr(error, "status", None)  # of aiohttp's errors
    if isinstance(error, FileNotFoundError):  # which fsspec makes of every failure of HTTP
        return "there is no such file" if error.__cause__ is None else _reason(error.__cause__)
    if status is not None:
        return "there is no such file" if status == 404 else f"the server says {status} {getattr(error, 'message', '')}"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _hint(url: str, error: Exception) -> str:
    remote = not url.startswith("file:")
    return (
        "; patterns in URLs are not expanded" if remote and "*" in url and isinstance(error, FileNotFoundError) else ""
    )


def _seconds(moment: object) -> int | None:
    """Whole seconds, rounded up, of what file systems of fsspec call a time."""
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            return None
    if isinstance(moment, datetime):
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not isinstance(moment, (int, float)):
        return None
    seconds = -int(-moment // 1)
    return seconds if 0 < seconds <= _U32_MAX else None


class _Blocks:
    """The last blocks of a remote source, for libraries that read it in small steps."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, offset: int, length: int) -> bytes:
        """As `Source.read`, from whole blocks."""
        end = offset + length
        if length > _BLOCK * _BLOCKS // 2:
            return self._source.read(offset, length)
        numbers = range(offset // _BLOCK, -(-end // _BLOCK))
        with self._lock:
            known = {n: self._blocks[n] for n in numbers if n in self._blocks}
        missing = [n for n in numbers if n not in known]
        bodies = self._source.read_many([(n * _BLOCK, min(_BLOCK, self._source.size - n * _BLOCK)) for n in missing])
        known.update(zip(missing, bodies, strict=True))
        with self._lock:
            for number in numbers:
                self._blocks[number] = known[number]
                self._blocks.move_to_end(number)
            while len(self._blocks) > _BLOCKS:
                self._blocks.popitem(last=False)
        whole = b"".join(known[n] for n in numbers)
        return whole[offset - numbers.start * _BLOCK :][:length]


class _SourceFile(io.RawIOBase):
    """A source as a seekable file."""

    def __init__(self, source: Source, blocks: _Blocks | None = None) -> None:
        self._source = source
        self._read_range = source.read if blocks is None else blocks.read
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._source.size}[whence]
        if base + offset < 0:
            raise ValueError("negative seek position")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        start = min(self._position, self._source.size)
        length = min(len(view), self._source.size - start)
        view[:length] = self._read_range(start, length)
        self._position += length
        return length
