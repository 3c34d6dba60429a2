"""One text that names a repository, and one that names a version: for the command line and xarray."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from icechunk_virtual.containers.url import check_location, local_path
from icechunk_virtual.credentials import containers_credentials
from icechunk_virtual.repository import Repository
from icechunk_virtual.storage import Storage, local_filesystem_storage
from icechunk_virtual.storage_urls import cloud_storage

Authorize = str | Iterable[str] | Mapping[str, Any]


def local_folder(repo: str | os.PathLike[str]) -> Path | None:
    """The folder that a path or ``file://`` URL names; ``None`` for other URLs.

    Raises
    ------
    ValueError
        The text is empty.
    InvalidLocation
        A ``file`` URL that cannot be understood.
    """
    text = os.fspath(repo)
    if not text:
        raise ValueError("a path is empty; write `.` for the current folder")
    if text[:5].lower() == "file:":
        return Path(local_path(check_location(text)))
    return None if isinstance(repo, str) and "://" in text else Path(text).expanduser()


def storage_of(repo: str | os.PathLike[str]) -> Storage:
    """The storage that a path, a ``file`` URL or one of `storage_urls` names.

    Raises
    ------
    ValueError
        A URL of a kind that no repository can be at, or that does not say everything.
    InvalidLocation
        A ``file`` URL that cannot be understood.
    """
    folder = local_folder(repo)
    return cloud_storage(str(repo)) if folder is None else local_filesystem_storage(str(folder))


def moment(text: str | datetime) -> datetime:
    """A moment from ISO 8601 text, in UTC if it names no time zone.

    Raises
    ------
    ValueError
        The text is no moment.
    """
    if isinstance(text, datetime):
        return text
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def granted(authorize: Authorize | None) -> dict[str, Any]:
    """Prefixes to credentials from a prefix, several prefixes, or such a mapping, whose values may be of any kind."""
    if authorize is None:
        return {}
    if isinstance(authorize, str):
        return {authorize: None}
    return containers_credentials(authorize) if isinstance(authorize, Mapping) else dict.fromkeys(authorize)


def open_repository(repo: str | os.PathLike[str], *, authorize: Authorize | None = None) -> Repository:
    """Open the repository at a path or URL.

    Parameters
    ----------
    repo
        As `storage_of` takes it.
    authorize
        URL prefixes of virtual chunk containers that may be read, alone or with credentials.

    Raises
    ------
    RepositoryNotFound
        There is none.
    ValueError, InvalidLocation
        As `storage_of`.
    """
    return Repository.open(storage_of(repo), authorize_virtual_chunk_access=granted(authorize))
