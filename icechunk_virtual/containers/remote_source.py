"""Files that are read by requests as sources, over any transport, and the transport through virtual chunk containers.

What is scanned is one state of the file: that of the first answer, with which every later one is compared. Knows
neither file formats nor repositories.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from icechunk_virtual._sync import run
from icechunk_virtual.containers.authorize import Grant
from icechunk_virtual.containers.checksums import ObjectState
from icechunk_virtual.containers.clients import StatefulClient
from icechunk_virtual.containers.failures import REPAIR, bare_etag
from icechunk_virtual.containers.ranges import merge_ranges, slice_ranges
from icechunk_virtual.containers.source import U32_MAX, Source, changed
from icechunk_virtual.containers.url import Location
from icechunk_virtual.errors import ContainerError, ObjectChanged, ScanError, StorageError, VirtualReadError
from icechunk_virtual.model.chunk_refs import VirtualChunk

_MERGE_GAP = 64 * 1024  # bytes between two ranges that are cheaper to fetch than another request
_HEAD = _MERGE_GAP  # bytes that come along with the state of a file
_AT_ONCE = 16  # requests of one file


class Transport(Protocol):
    """How the bytes of one file are asked for; usable from several threads."""

    def begin(self) -> tuple[ObjectState, bytes]:
        """The state of the file, and its first bytes as far as they came with the same answer."""

    def read_ranges(self, ranges: Sequence[tuple[int, int]], state: ObjectState) -> Sequence[bytes | memoryview]:
        """Half-open ranges of the file in that state.

        Raises
        ------
        ScanError
            Also if the file is in another state, as far as an answer says so.
        """

    def finish(self, state: ObjectState) -> None:
        """As `Source.check_unchanged`."""


class RemoteSource(Source):
    """A file that is read through a transport.

    Parameters
    ----------
    url
        With its scheme.
    transport
        How it is read.
    """

    _remote = True

    def __init__(self, url: str, transport: Transport) -> None:
        self.url = url
        self.local_path = None
        self._transport = transport
        self._state, self._head = transport.begin()
        if self._state.size is None:
            raise ScanError(f"`{url}`: the server does not tell the size of the file. Download it first.", source=url)
        if self._state.encoding not in (None, "identity"):
            raise ScanError(
                f"`{url}` is sent with Content-Encoding: {self._state.encoding}, so that its byte ranges are not those "
                "of the file itself. Have it served as it is.",
                source=url,
            )
        self.size = self._state.size
        self.etag = self._state.etag
        seconds = self._state.last_modified
        self.last_modified = seconds if seconds is not None and 0 < seconds <= U32_MAX else None

    def _read(self, offset: int, length: int) -> bytes:
        return self._read_many([(offset, length)])[0]

    def _read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        merged = merge_ranges(ranges, _MERGE_GAP)
        far = [(start, end) for start, end in merged if end > len(self._head)]
        fetched = iter(self._transport.read_ranges(far, self._state) if far else [])
        bodies = [next(fetched) if end > len(self._head) else self._head[start:end] for start, end in merged]
        for body, (start, end) in zip(bodies, merged, strict=True):
            self._complete(body, start, end - start)
        return slice_ranges(ranges, merged, bodies)

    def check_unchanged(self) -> None:
        """As `Source.check_unchanged`, as far as the transport needs to ask."""
        self._transport.finish(self._state)

    def close(self) -> None:
        """Connections are shared: nothing to give back."""


def check_same(url: str, before: ObjectState, now: ObjectState) -> None:
    """Raise `ScanError` unless an answer is about the file in the state that was scanned.

    The etag decides, where both have one.
    """
    if before.size is not None and now.size is not None and before.size != now.size:
        raise changed(url, "its size", before.size, now.size)
    if before.etag and now.etag:
        if bare_etag(before.etag) != bare_etag(now.etag):
            raise changed(url, "its etag", before.etag, now.etag)
    elif before.last_modified and now.last_modified and before.last_modified != now.last_modified:
        raise changed(url, "its time of modification in seconds since 1970", before.last_modified, now.last_modified)


class ContainerTransport:
    """Reads a file as virtual chunks are read: through the client of a container. A `Transport`.

    Parameters
    ----------
    client
        Of the container's scheme.
    grant
        The container, with credentials.
    location
        Of the file.
    """

    def __init__(self, client: StatefulClient, grant: Grant, location: Location) -> None:
        self._client, self._grant, self._location = client, grant, location

    def begin(self) -> tuple[ObjectState, bytes]:
        """As `Transport.begin`: one request, on no condition."""
        try:
            head, state = run(self._read(VirtualChunk(self._location.text, 0, _HEAD)))
        except VirtualReadError as error:
            if error.status == 416:  # no range fits: there are no bytes
                return ObjectState(0), b""
            raise self._told(error) from error
        except (ContainerError, StorageError) as error:
            raise self._told(error) from error
        return state, bytes(head)

    def read_ranges(self, ranges: Sequence[tuple[int, int]], state: ObjectState) -> Sequence[bytes | memoryview]:
        """As `Transport.read_ranges`: some requests at once, on the condition that the file is in that state."""
        try:
            return run(self._read_all(ranges, state))
        except (ContainerError, StorageError) as error:
            raise self._told(error) from error

    def finish(self, state: ObjectState) -> None:
        """Do nothing: every answer was compared."""

    async def _read_all(self, ranges: Sequence[tuple[int, int]], state: ObjectState) -> list[bytes | memoryview]:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(start: int, end: int) -> bytes | memoryview:
            chunk = VirtualChunk(self._location.text, start, end - start, state.etag, state.last_modified)
            async with gate:
                body, now = await self._read(chunk)
            check_same(self._location.text, state, now)
            return body

        return await asyncio.gather(*(one(start, end) for start, end in ranges))

    async def _read(self, chunk: VirtualChunk) -> tuple[bytes | memoryview, ObjectState]:
        return await self._client.read_with_state(self._grant, self._location, chunk, chunk.offset, chunk.length)

    def _told(self, error: ContainerError | StorageError) -> ScanError:
        """The same failure in the words of scans."""
        url = self._location.text
        if isinstance(error, ObjectChanged):
            what = "its etag" if isinstance(error.expected, str) else "its time of modification in seconds since 1970"
            return changed(url, what, error.expected, error.actual)
        if not isinstance(error, VirtualReadError):
            return unreadable(url, error.message)
        status = "" if error.status is None else f" (status {error.status})"
        remedy = "" if error.remedy == REPAIR else error.remedy  # that one is about references
        return unreadable(url, f"{error.reason}{status}", remedy, missing=error.status == 404)


def unreadable(url: str, reason: str, remedy: str = "", *, missing: bool = False) -> ScanError:
    """The error for a remote file that cannot be read, perhaps because it is not there; what to do about it."""
    hint = "; patterns in URLs are not expanded" if missing and "*" in url else ""
    return ScanError(f"cannot read `{url}`: {reason.rstrip('.')}{hint}. {remedy}".rstrip(), source=url)
