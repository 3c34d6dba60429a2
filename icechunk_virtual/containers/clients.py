"""The one table from URL schemes to those who can fetch from them.

A further kind of container is a further line here. Knows nothing of references or repositories.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from icechunk_virtual.containers.authorize import Authorization, Grant
from icechunk_virtual.containers.local_files import LocalFiles, check_no_credentials
from icechunk_virtual.containers.url import Location
from icechunk_virtual.errors import ContainerError
from icechunk_virtual.model.chunk_refs import VirtualChunk


class Client(Protocol):
    """Fetches from all containers of a scheme; usable from several event loops at once."""

    async def read(self, grant: Grant, location: Location, chunk: VirtualChunk, offset: int, length: int) -> bytes:
        """Exactly the bytes ``[offset, offset + length)`` of an object in the state that the chunk expects.

        Raises
        ------
        ContainerError
            For everything else; `chunk` is there for the checksum and for the text of the error.
        """


@dataclass(frozen=True, slots=True)
class ClientKind:
    """How the containers of a scheme are read.

    Attributes
    ----------
    make
        Called once per fetcher.
    check
        Raises ContainerError if the credentials of a container do not fit.
    """

    make: Callable[[Authorization], Client]
    check: Callable[[Grant], None]


KINDS: dict[str, ClientKind] = {
    "file": ClientKind(LocalFiles, check_no_credentials),
}


def kind_for(location: Location) -> ClientKind:
    """The line of the table for a location.

    Raises
    ------
    ContainerError
        This version cannot read from there.
    """
    kind = KINDS.get(location.scheme)
    if kind is None:
        known = ", ".join(f"{scheme}://" for scheme in sorted(KINDS))
        raise ContainerError(
            f"error fetching virtual reference: {location}: this version reads virtual chunks from {known} only, not "
            f"from {location.scheme}://. Install a newer version, or copy the data and relocate the references.",
            location=location.text,
        )
    return kind


def check_credentials(authorization: Authorization) -> None:
    """Check the credentials of all authorised containers, as far as this version reads from them.

    Raises
    ------
    ContainerError
        Of a kind that does not fit its container.
    """
    for grant in authorization.grants:
        kind = KINDS.get(grant.prefix.scheme)
        if grant.authorized and kind is not None:
            kind.check(grant)
