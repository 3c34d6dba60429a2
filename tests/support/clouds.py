"""Storages in object stores for tests: the library's memory as one client, and buckets of a server on this machine."""

from __future__ import annotations

import itertools
from typing import Any

import obstore.store

import icechunk_virtual as ours
from icechunk_virtual.repo.object_store import WHOLE, PartPolicy
from icechunk_virtual.repo.obstore_store import ObstoreStore, Role
from tests.support.proxy import Proxy
from tests.support.s3_server import make_bucket

KEYS = {"access_key_id": "KEYID", "secret_access_key": "SECRET"}
_numbers = itertools.count()


class OneClient(ObstoreStore):
    """Objects of one store of the library, by default its memory."""

    def __init__(self, foreign: Any = None, *, parts: PartPolicy = WHOLE, **options: Any) -> None:
        super().__init__(parts=parts, **options)
        self.foreign = foreign or obstore.store.MemoryStore()

    def _client(self, role: Role) -> Any:
        return self.foreign


class Bucket:
    """A new bucket of an S3 server, seen through a proxy that writes down the requests."""

    def __init__(self, server: str, proxy: Proxy) -> None:
        self.server, self.proxy = server, proxy
        self.name = make_bucket(server, f"bucket-{next(_numbers)}")

    def storage(self, library: Any = ours, *, make: str = "s3_storage", **given: Any) -> Any:
        """A storage of `library` in this bucket."""
        arguments: dict[str, Any] = {"bucket": self.name, "prefix": "repo", "endpoint_url": self.proxy.url}
        arguments |= {"allow_http": True, "region": "us-east-1"}
        if not {"anonymous", "from_env", "get_credentials"} & given.keys():
            arguments |= KEYS
        function = getattr(library, make, None) or getattr(library.storage, make)
        return function(**(arguments | given))
