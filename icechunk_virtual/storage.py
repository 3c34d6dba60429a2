"""Where a repository is kept: the public `Storage` and the functions that make one.

A `Storage` says where and how, and opens nothing by itself. Knows nothing of what is stored.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Protocol

from icechunk_virtual.containers.container import (
    AnyObjectStoreConfig,
    ObjectStoreConfig,
    S3Options,
    azure_store,
    gcs_store,
    http_store,
    local_filesystem_store,
    s3_store,
)
from icechunk_virtual.credentials import (
    GcsBearerCredential,
    S3StaticCredentials,
    azure_credentials,
    gcs_credentials,
    s3_credentials,
)
from icechunk_virtual.repo.local_store import LocalStore
from icechunk_virtual.repo.memory_store import MemoryStore
from icechunk_virtual.repo.object_store import ObjectStore
from icechunk_virtual.repo.settings import (
    EffectiveStorage,
    StorageSettings,
    effective_storage,
    in_memory_storage_defaults,
    local_filesystem_storage_defaults,
)

__all__ = [
    "AnyObjectStoreConfig",
    "GcsBearerCredential",
    "ObjectStoreConfig",
    "S3Options",
    "S3StaticCredentials",
    "Storage",
    "azure_credentials",
    "azure_store",
    "gcs_credentials",
    "gcs_store",
    "http_store",
    "in_memory_storage",
    "local_filesystem_storage",
    "local_filesystem_store",
    "s3_credentials",
    "s3_store",
]


class Backend(Protocol):
    """One kind of storage. Pickles; equality says whether two are the same place; its repr names no secrets."""

    def default_settings(self) -> StorageSettings:
        """Return what holds where the user sets nothing."""
        ...

    def open(self, settings: EffectiveStorage) -> ObjectStore:
        """Return the objects. Sends no request yet."""
        ...


@dataclass(frozen=True, slots=True, repr=False)
class MemoryBackend:
    """Objects in the memory of this process."""

    store: MemoryStore = field(default_factory=MemoryStore)

    def __repr__(self) -> str:
        return "in memory"

    def default_settings(self) -> StorageSettings:
        """Return what holds where the user sets nothing."""
        return in_memory_storage_defaults()

    def open(self, settings: EffectiveStorage) -> ObjectStore:  # noqa: ARG002  # nothing to set
        """Return the objects."""
        return self.store


@dataclass(frozen=True, slots=True, repr=False)
class LocalBackend:
    """Files below an absolute path."""

    path: str

    def __repr__(self) -> str:
        return f"local directory {self.path}"

    def default_settings(self) -> StorageSettings:
        """Return what holds where the user sets nothing."""
        return local_filesystem_storage_defaults()

    def open(self, settings: EffectiveStorage) -> ObjectStore:  # noqa: ARG002  # nothing to set
        """Return the objects."""
        return LocalStore(self.path)


class Storage:
    """Where a repository is kept. Made by the functions of this module; pickles.

    In-memory storages can be unpickled only in the process that made them.
    """

    __slots__ = ("_backend",)

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __repr__(self) -> str:
        return f"<icechunk_virtual.Storage: {self._backend!r}>"

    def __eq__(self, other: object) -> bool:
        return self._backend == other._backend if isinstance(other, Storage) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._backend)

    def __reduce__(self) -> tuple[type[Storage], tuple[Backend]]:
        return Storage, (self._backend,)

    def default_settings(self) -> StorageSettings:
        """Return the settings that hold for this storage where the configuration sets none."""
        return self._backend.default_settings()

    def object_store(self, settings: StorageSettings | None = None) -> ObjectStore:
        """Open the objects; sends no request yet.

        Parameters
        ----------
        settings
            Merged over the storage's own defaults, field by field.
        """
        return self._backend.open(effective_storage(settings, self.default_settings()))


def in_memory_storage() -> Storage:
    """Keep a repository in the memory of this process.

    It is shared by everything made from the returned object, and gone when the last of that is gone.
    """
    return Storage(MemoryBackend())


def local_filesystem_storage(path: str | os.PathLike[str]) -> Storage:
    """Keep a repository in a directory of this machine.

    Commits of several threads and processes to it are safe.

    Parameters
    ----------
    path
        The directory; created at the first write. ``~`` is not expanded. A relative path means one below the
        current directory of now, not of the time of use.
    """
    text = os.fspath(path)
    if not text:
        raise ValueError("the path of a local storage is empty; use '.' for the current directory")
    return Storage(LocalBackend(os.path.abspath(text)))  # noqa: PTH100  # resolve() would follow symbolic links
