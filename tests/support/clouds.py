"""Storages in object stores for tests: the library's memory as one client, buckets of servers, fakes of services."""

from __future__ import annotations

import itertools
import json
from typing import Any

import obstore.store

import icechunk_virtual as ours
from icechunk_virtual.repo.object_store import WHOLE, PartPolicy
from icechunk_virtual.repo.obstore_store import ObstoreStore, Role
from tests.support import azurite, gcs_emulator
from tests.support.fake_clouds import FakeAzure, FakeGoogle
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


class GoogleBucket:
    """A part of its own of the bucket of Google's emulator, seen through a proxy that writes down the requests."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy, self.prefix = proxy, f"repo-{next(_numbers)}"

    def storage(self, library: Any = ours, *, options: dict[str, str] | None = None, **given: Any) -> Any:
        """A storage of `library` there; without credentials in the arguments, with some; `options` of the library."""
        given = {"prefix": self.prefix, **given}
        return google_storage(library, self.proxy.url, gcs_emulator.BUCKET, given, options)


class AzureContainer:
    """A new container of Azure's emulator, seen through a proxy that writes down the requests."""

    def __init__(self, server: str, proxy: Proxy) -> None:
        self.server, self.proxy = server, proxy
        self.name = azurite.make_container(server, f"container-{next(_numbers)}")
        self.endpoint = f"{proxy.url}/{azurite.ACCOUNT}"

    def storage(self, library: Any = ours, *, options: dict[str, str] | None = None, **given: Any) -> Any:
        """A storage of `library` in it; without credentials in the arguments, with some; `options` of the library."""
        config = {"azure_storage_endpoint": self.endpoint, "azure_allow_http": "true", "allow_http": "true"}
        config |= options or {}
        arguments = {"account": azurite.ACCOUNT, "container": self.name, "prefix": "repo", "config": config}
        return library.azure_storage(**(arguments | ({"access_key": azurite.KEY} | given)))


def google_storage(
    library: Any, url: str, bucket: str, given: dict[str, Any], options: dict[str, str] | None = None
) -> Any:
    """A storage of `library` in a service that speaks as Google's."""
    arguments: dict[str, Any] = {"bucket": bucket, "prefix": "repo"}
    arguments["config"] = {"google_base_url": url, "allow_http": "true"} | (options or {})
    if not {"anonymous", "bearer_token", "from_env", "get_credentials"} & given.keys():
        account = {"gcs_base_url": url, "disable_oauth": True, "client_email": "", "private_key": ""}
        arguments["service_account_key"] = json.dumps(account | {"private_key_id": ""})
    return library.gcs_storage(**(arguments | given))


class FakeService(Proxy):
    """Google's or Azure's service on this machine, as far as a repository needs it, and storages in it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.fake = {"google": FakeGoogle, "azure": FakeAzure}[name]()
        self.handle = self.fake.handle

    def storage(self, library: Any = ours, **given: Any) -> Any:
        """A storage of `library` in it; without credentials in the arguments, with some."""
        if isinstance(self.fake, FakeGoogle):
            return google_storage(library, self.url, "b", given)
        config = {"azure_storage_endpoint": self.url, "azure_allow_http": "true", "allow_http": "true"}
        arguments = {"account": "acc", "container": "c", "prefix": "repo", "config": config}
        return library.azure_storage(**(arguments | (given or {"access_key": "U0s="})))
