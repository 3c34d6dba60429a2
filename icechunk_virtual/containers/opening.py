"""From a path or URL to the source that it names. Which transports there are is said by whoever calls."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from icechunk_virtual.containers.fsspec_transport import FsspecTransport
from icechunk_virtual.containers.local_source import LocalSource, path_of
from icechunk_virtual.containers.remote_source import RemoteSource, Transport
from icechunk_virtual.containers.source import Source
from icechunk_virtual.containers.url import without_user_info
from icechunk_virtual.errors import ScanError

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|file:/", re.IGNORECASE)
CHAINED_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*::")

Connect: TypeAlias = Callable[[str], Transport | None]
"""From a remote URL to its transport; ``None``: there is none for URLs of this kind."""


def open_source(
    url_or_path: str | os.PathLike[str] | Source,
    *,
    storage_options: Mapping[str, Any] | None = None,
    connect: Connect | None = None,
) -> Source:
    """Open a file for scanning.

    Parameters
    ----------
    url_or_path
        Local path, ``file://`` URL, or remote URL. A `Source` is returned as it is.
    storage_options
        Read remote files through fsspec, with these options for its file system.
    connect
        What reads other remote files, and what it does not through fsspec too.

    Raises
    ------
    ScanError
        The file is missing, unreadable, or not a file; the message names it. Or its URL holds a password.
    MissingDependency
        fsspec needs another package for this protocol.
    """
    if isinstance(url_or_path, Source):
        return url_or_path
    text = os.fspath(url_or_path)
    if isinstance(url_or_path, str) and CHAINED_URL.match(text):
        raise ScanError(f"`{text}` is a chain of URLs, which no virtual chunk can point into.", source=text)
    if not (isinstance(url_or_path, str) and URL.match(text)):
        return LocalSource(text)
    if text[:5].lower() == "file:":
        return LocalSource(path_of(text))
    shown = without_user_info(text)
    if shown != text:
        raise ScanError(
            f"`{shown}` was given with a name or password in front of its host, which no virtual chunk can have. Leave "
            "them out and give them as `credentials`, or to fsspec as `storage_options`.",
            source=shown,
        )
    transport = connect(text) if connect is not None and storage_options is None else None
    return RemoteSource(text, transport or FsspecTransport(text, storage_options))
