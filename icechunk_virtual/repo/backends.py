"""Kinds of storage as values: what one has to be able to do, and the two kinds on this machine. Clouds: see `cloud`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Protocol

from icechunk_virtual.repo.local_store import LocalStore
from icechunk_virtual.repo.memory_store import MemoryStore
from icechunk_virtual.repo.object_store import ObjectStore
from icechunk_virtual.repo.settings import (
    EffectiveStorage,
    StorageSettings,
    in_memory_storage_defaults,
    local_filesystem_storage_defaults,
)


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


def local_backend(path: str | os.PathLike[str]) -> LocalBackend:
    """Return the kind for a directory. ``ValueError`` for an empty path."""
    text = os.fspath(path)
    if not text:
        raise ValueError("the path of a local storage is empty; use '.' for the current directory")
    return LocalBackend(os.path.abspath(text))  # noqa: PTH100  # resolve() would follow symbolic links
