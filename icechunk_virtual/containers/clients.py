"""Who fetches from the containers of a URL scheme: what such a client must do, and the one for files.

Those for object stores and web servers come from whoever makes a `Fetcher`. Knows nothing of references or
repositories.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.containers.authorize import Authorization, Grant
from icechunk_virtual.containers.checksums import ObjectState
from icechunk_virtual.containers.local_files import LocalFiles
from icechunk_virtual.containers.url import Location
from icechunk_virtual.model.chunk_refs import ChunkRefs, VirtualChunk


class Client(Protocol):
    """Fetches from all containers of a scheme; usable from several event loops at once."""

    async def read(
        self, grant: Grant, location: Location, chunk: VirtualChunk, offset: int, length: int
    ) -> bytes | memoryview:
        """Exactly the bytes ``[offset, offset + length)`` of an object in the state that the chunk expects.

        Raises
        ------
        ContainerError
            For everything else; `chunk` is there for the checksum and for the text of the error.
        """


@runtime_checkable
class BlockingClient(Protocol):
    """What a client has besides if its answers come at once, without a network."""

    def read_now(
        self, grant: Grant, location: Location, chunk: VirtualChunk, offset: int, length: int
    ) -> bytes | memoryview:
        """As `Client.read`, in the calling thread."""


@runtime_checkable
class StatefulClient(Protocol):
    """What a client has besides if it can say in which state an object is: what files are scanned through."""

    async def read_with_state(
        self, grant: Grant, location: Location, chunk: VirtualChunk, offset: int, length: int
    ) -> tuple[bytes | memoryview, ObjectState]:
        """As `Client.read`, with one request, and the state of the object as that very answer says it.

        Without a checksum in `chunk` the object may be in any state. Where it ends there are fewer bytes.
        """


class Neighbours(Protocol):
    """Where a chunk stands in its array, as told by whoever has the references."""

    @property
    def array(self) -> Hashable:
        """Identity of the array."""
        ...

    @property
    def grid(self) -> tuple[int, ...]:
        """Chunks along each axis."""
        ...

    @property
    def coord(self) -> tuple[int, ...]:
        """Of the chunk."""
        ...

    def references(self, coords: NDArray[np.int64]) -> tuple[ChunkRefs, int]:
        """References of other chunks as far as they are in memory, and how many of the coordinates that covers.

        Parameters
        ----------
        coords
            int64 (n, ndim), in C order.
        """
        ...


Clients = Mapping[str, Callable[[Authorization], Client]]
"""By URL scheme, what makes its client. Called once per fetcher; pickles with it."""

LOCAL_CLIENTS: Clients = {"file": LocalFiles}
