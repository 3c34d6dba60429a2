"""Repositories that somebody else wrote, and what happens when they are opened and read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import icechunk_virtual as icv
from tests.support.hierarchies import GROUP, array_document, get, put

LENGTH = 10
CONTENT = bytes(range(100))


def repository_of_another(
    containers: Mapping[str, Any],
    location: str,
    *,
    length: int = LENGTH,
    offset: int = 0,
    storage: Any = None,
    settings: Any = None,
) -> Any:
    """A storage with a repository whose saved configuration has these containers, and whose chunk is at a location.

    Parameters
    ----------
    containers
        URL prefix to store.
    settings
        Storage settings of the saved configuration.
    """
    storage = icv.in_memory_storage() if storage is None else storage
    config = icv.RepositoryConfig(storage=settings)
    for prefix, store in containers.items():
        config.set_virtual_chunk_container(icv.VirtualChunkContainer(prefix, store))
    repo = icv.Repository.create(storage, config)
    session = repo.writable_session("main")
    put(session.store, "zarr.json", GROUP)
    put(session.store, "v/zarr.json", array_document((80,), (10,), dimension_names=["x"]))
    session.store.set_virtual_ref("v/c/0", location, offset=offset, length=length, validate_container=False)
    session.commit("references")
    return storage


def first_chunk(repo: Any) -> bytes:
    """The chunk of `repository_of_another`, through an open repository."""
    data = get(repo.readonly_session("main").store, "v/c/0")
    assert data is not None, "a fill value for what cannot be read"
    return data


def open_and_read(storage: Any, granted: Mapping[str, Any] | None = None, config: Any = None) -> bytes:
    """What the reader of such a repository does."""
    return first_chunk(icv.Repository.open(storage, config, icv.containers_credentials(granted or {})))
