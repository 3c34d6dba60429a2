"""Servers that whoever opens a repository has named: by its storage, and in the environment of the process.

Containers of the stored configuration may have requests sent there too, see `containers.authorize`.
"""

from __future__ import annotations

import os
from typing import Protocol, runtime_checkable

from icechunk_virtual.containers.addresses import origins

_VARIABLES = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT",
    "AZURE_STORAGE_ENDPOINT",
    "AZURE_ENDPOINT",
    "GOOGLE_BASE_URL",
)
"""What the clients of object stores take their servers from, where nothing else is said."""


@runtime_checkable
class AtServers(Protocol):
    """An object store whose opener may have named its server."""

    @property
    def named_servers(self) -> tuple[str, ...]:
        """URLs of those that the opener named; none where the provider's own are used."""
        ...


def named_addresses(objects: object) -> tuple[str, ...]:
    """``scheme://host[:port]/`` of the servers of a storage, if its opener named them, and of the environment."""
    named = objects.named_servers if isinstance(objects, AtServers) else ()
    return origins((*named, *(os.environ.get(name, "") for name in _VARIABLES)))
