"""Reads of virtual chunks on web servers as a repository makes them, without a repository around them."""

from __future__ import annotations

import asyncio
from typing import Any

import icechunk_virtual as icv
from icechunk_virtual.containers.authorize import Authorization
from icechunk_virtual.containers.container import VirtualChunkContainer
from icechunk_virtual.containers.http.client import HttpObjects
from icechunk_virtual.containers.retry import Retries
from icechunk_virtual.containers.url import check_location
from icechunk_virtual.model.chunk_refs import VirtualChunk
from icechunk_virtual.repo.limiter import Limiter

CONTENT = bytes(range(256))


def whole(start: int, stop: int) -> list[tuple[int, int]]:
    return [(start, stop)]


class Reader:
    """Reads below one prefix, with a client of its own.

    Parameters
    ----------
    prefix
        Of the container.
    credentials
        That are granted.
    tries, split, limit
        Of the client.
    options
        Of the container, as texts.
    """

    def __init__(
        self,
        prefix: str,
        credentials: Any = None,
        *,
        tries: int = 3,
        split: Any = whole,
        limit: int = 64,
        **options: str,
    ) -> None:
        container = VirtualChunkContainer(prefix, icv.http_store({"allow_http": "true", **options}))
        grants = icv.containers_credentials({prefix: credentials})
        self.prefix = prefix
        self.authorization = Authorization({prefix: container}, grants)
        self.client = HttpObjects(
            self.authorization, retries=Retries(tries, 1, 20), split=split, limiter=Limiter(limit)
        )

    async def read(self, name: str, offset: int = 10, length: int = 20, **checksum: Any) -> bytes:
        url = self.prefix + name
        chunk = VirtualChunk(url, offset, length, **checksum)
        grant = self.authorization.readable(url)
        return bytes(await self.client.read(grant, check_location(url), chunk, offset, length))

    def __call__(self, name: str = "f", offset: int = 10, length: int = 20, **checksum: Any) -> bytes:
        return asyncio.run(self.read(name, offset, length, **checksum))
