"""One text that names a repository, and one that names a version: for the command line and xarray."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from icechunk_virtual.containers.url import check_location, local_path
from icechunk_virtual.errors import StorageError
from icechunk_virtual.repository import Repository
from icechunk_virtual.storage import Storage, local_filesystem_storage

Authorize = str | Iterable[str] | Mapping[str, Any]


def storage_of(repo: str | os.PathLike[str]) -> Storage:
    """The storage that a path or URL names.

    Raises
    ------
    StorageError
        A URL of a kind that this version has no storage for.
    """
    text = os.fspath(repo)
    scheme = urlsplit(text).scheme.lower()
    if scheme == "file":
        return local_filesystem_storage(local_path(check_location(text)))
    if "://" in text:
        raise StorageError(f"repositories on {scheme}:// are not supported by this version: {text}; use a local path")
    return local_filesystem_storage(text)


def granted(authorize: Authorize | None) -> dict[str, Any]:
    """Prefixes to credentials from a prefix, several prefixes, or such a mapping."""
    if authorize is None:
        return {}
    if isinstance(authorize, str):
        return {authorize: None}
    return dict(authorize) if isinstance(authorize, Mapping) else dict.fromkeys(authorize)


def open_repository(repo: str | os.PathLike[str], *, authorize: Authorize | None = None) -> Repository:
    """Open the repository at a path or URL.

    Parameters
    ----------
    authorize
        URL prefixes of virtual chunk containers that may be read, alone or with credentials.
    """
    return Repository.open(storage_of(repo), authorize_virtual_chunk_access=granted(authorize))
