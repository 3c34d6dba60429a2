"""The bytes of virtual chunks: authorised, verified, complete, or an error. A fill value is never an answer.

Knows neither manifests nor sessions; how each scheme is read is the business of `clients`.
"""

from __future__ import annotations

from typing import Any

from icechunk_virtual.containers.authorize import Authorization
from icechunk_virtual.containers.clients import LOCAL_CLIENTS, BlockingClient, Client, Clients, Neighbours
from icechunk_virtual.containers.coalesce import Merging
from icechunk_virtual.containers.failures import failed, too_short
from icechunk_virtual.containers.merged import MergingReader, Shared
from icechunk_virtual.containers.url import Location, check_location
from icechunk_virtual.errors import ContainerError
from icechunk_virtual.model.chunk_refs import VirtualChunk


class Fetcher:
    """Fetches virtual chunks through the containers that were authorised.

    Usable from several event loops and threads at once. A pickled fetcher is built anew from its authorisation.

    Parameters
    ----------
    authorization
        Who may read what.
    clients
        Who reads it, by URL scheme.
    merging
        How what comes over a network is merged; ``None``: not at all.
    """

    def __init__(
        self, authorization: Authorization, clients: Clients = LOCAL_CLIENTS, merging: Merging | None = None
    ) -> None:
        self.authorization = authorization
        self._kinds = clients
        self._merging = merging
        self._shared = None if merging is None else Shared(merging)
        self._clients: dict[str, Client] = {}
        self._blocking: dict[str, BlockingClient] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Fetcher, (self.authorization, self._kinds, self._merging)

    async def fetch(
        self, chunk: VirtualChunk, start: int = 0, stop: int | None = None, near: Neighbours | None = None
    ) -> bytes | memoryview:
        """The bytes ``[start, stop)`` of the chunk.

        Parameters
        ----------
        chunk
        start, stop
            Within the chunk: ``0 <= start <= stop <= chunk.length``; `stop` None is its end.
        near
            The chunk's place in its array, where that is known: what is asked for next is fetched ahead.

        Raises
        ------
        InvalidLocation, NoContainer, NotAuthorized
            The location may not be read. Also checked when no byte is asked for.
        ObjectChanged
            The checksum of the chunk does not hold any more.
        VirtualReadError
            The object or some of the bytes are missing, or cannot be read.
        ValueError
            A range outside of the chunk.
        """
        stop = _end(chunk, start, stop)
        grant = self.authorization.readable(chunk.url)
        if start == stop:
            return b""
        location = check_location(chunk.url)
        reader = self._client(location)
        if isinstance(reader, MergingReader):
            whole = near if stop - start == chunk.length else None
            data = await reader.read(grant, location, chunk, chunk.offset + start, stop - start, whole)
        else:
            data = await reader.read(grant, location, chunk, chunk.offset + start, stop - start)
        if len(data) != stop - start:
            raise failed(grant, location, chunk, too_short(stop - start, len(data)))
        return data

    def fetch_now(self, chunk: VirtualChunk, start: int = 0, stop: int | None = None) -> bytes | memoryview | None:
        """As `fetch`, in the calling thread; ``None`` where that takes a request."""
        stop = _end(chunk, start, stop)
        grant = self.authorization.readable(chunk.url)
        if start == stop:
            return b""
        location = check_location(chunk.url)
        client = self._blocking.get(location.scheme)
        if client is None:
            found = self._client(location)
            if not isinstance(found, BlockingClient):
                return None
            client = self._blocking[location.scheme] = found
        return client.read_now(grant, location, chunk, chunk.offset + start, stop - start)

    def _client(self, location: Location) -> Client:
        client = self._clients.get(location.scheme)
        if client is None:
            if location.scheme not in self._kinds:
                raise _unknown_scheme(location, self._kinds)
            client = self._kinds[location.scheme](self.authorization)
            if self._shared is not None and not isinstance(client, BlockingClient):
                client = MergingReader(client, self.authorization, self._shared)
            client = self._clients.setdefault(location.scheme, client)
        return client


def _end(chunk: VirtualChunk, start: int, stop: int | None) -> int:
    """Where a range of a chunk ends. Raises `ValueError` unless it is one."""
    stop = chunk.length if stop is None else stop
    if not 0 <= start <= stop <= chunk.length:
        raise ValueError(f"range {start}:{stop} is not within the chunk of {chunk.length} bytes")
    return stop


def _unknown_scheme(location: Location, known: Clients) -> ContainerError:
    schemes = ", ".join(f"{scheme}://" for scheme in sorted(known))
    return ContainerError(
        f"error fetching virtual reference: {location}: this version reads virtual chunks from {schemes} only, not "
        f"from {location.scheme}://. Install a newer version, or copy the data and relocate the references.",
        location=location.text,
    )
