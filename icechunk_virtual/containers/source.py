"""Files that scanners read: one small interface over local files, object stores, web servers and the rest.

Plain synchronous functions. This module knows nothing of file formats, transports, containers or repositories.
"""

from __future__ import annotations

import abc
import io
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from icechunk_virtual.containers.checksums import is_weak
from icechunk_virtual.containers.hush import shown
from icechunk_virtual.errors import MalformedSource, ScanError
from icechunk_virtual.model.locations import Locations

_BLOCK = 1 << 20  # as_file() of remote sources reads blocks of this size ...
_BLOCKS = 32  # ... and keeps this many
U32_MAX = 2**32 - 1

Bytes = TypeVar("Bytes", bound=bytes | memoryview)


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
    _remote = False  # whether reading takes requests

    def read(self, offset: int, length: int) -> bytes:
        """Exactly the bytes ``[offset, offset + length)``.

        Raises
        ------
        MalformedSource
            The range is not within the file. Offsets come from foreign bytes, so this is their fault.
        ScanError
            The file cannot be read (any more), or changed since it was opened.
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
        return _SourceFile(self, _Blocks(self) if self._remote else None)

    @property
    def locations(self) -> Locations:
        """A table with this file as its only row, in the state in which it is scanned.

        A weak etag is only taken where there is no time: it does not promise equal bytes, and servers asked to
        compare it (``If-Match``) say that it never fits.
        """
        vague = self.etag is not None and is_weak(self.etag) and self.last_modified is not None
        return Locations.of([self.url], etags=[None if vague else self.etag], last_modified=[self.last_modified])

    def check_unchanged(self) -> None:  # noqa: B027  # nothing to do is right where reading notices it
        """Look at the end of a scan whether the file is still the one that was read.

        Raises
        ------
        ScanError
            It changed; names both states.
        """

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

    def _complete(self, data: Bytes, offset: int, length: int) -> Bytes:
        if len(data) != length:
            raise ScanError(
                f"`{self.url}` gave {len(data)} bytes instead of {length} at offset {offset}: it changed while it was "
                "read, or its server does not serve byte ranges.",
                source=self.url,
            )
        return data


def changed(url: str, what: str, before: object, now: object) -> ScanError:
    """The error for a file that became another one while it was scanned."""
    found = "another one" if now is None else shown(str(now))
    return ScanError(
        f"`{url}` changed while it was scanned: {what} was {shown(str(before))}, and is {found} now. Scan it again "
        "when nobody writes to it.",
        source=url,
        expected=before,
        actual=now,
    )


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
