"""Remote files through fsspec: for the protocols that have no virtual chunk containers, and for whoever asks for it.

Only the file systems of the protocols that are used are loaded, by fsspec itself. It asks on no condition, so the state
of the file is looked at before the first and after the last byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import fsspec

from icechunk_virtual.containers.checksums import ObjectState
from icechunk_virtual.containers.hush import hushed
from icechunk_virtual.containers.remote_source import check_same, unreadable
from icechunk_virtual.errors import MissingDependency, ScanError

_ETAGS = ("ETag", "etag", "e_tag")
_LONGEST_REASON = 1000
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "Last-Modified")


class FsspecTransport:
    """Reads a file through a file system of fsspec. A `Transport`.

    Parameters
    ----------
    url
        With its protocol.
    storage_options
        For the file system: credentials, endpoints ...
    """

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self._url = url
        try:
            self._fs, self._path = fsspec.core.url_to_fs(url, **(storage_options or {}))
        except ImportError as error:
            raise self._missing(error) from error
        except Exception as error:  # every file system of fsspec has exceptions of its own
            raise self._unreadable(error) from error

    def begin(self) -> tuple[ObjectState, bytes]:
        """As `Transport.begin`; no bytes come along."""
        return self._look(), b""

    def read_ranges(self, ranges: Sequence[tuple[int, int]], state: ObjectState) -> Sequence[bytes | memoryview]:  # noqa: ARG002  # no condition can be given
        """As `Transport.read_ranges`; a change is noticed by `finish`."""
        starts, ends = [start for start, _ in ranges], [end for _, end in ranges]
        try:
            found: list[bytes] = self._fs.cat_ranges([self._path] * len(ranges), starts, ends, on_error="raise")
        except Exception as error:  # every file system of fsspec has exceptions of its own
            raise self._unreadable(error) from error
        return found

    def finish(self, state: ObjectState) -> None:
        """As `Source.check_unchanged`."""
        check_same(self._url, state, self._look())

    def _look(self) -> ObjectState:
        try:
            self._fs.invalidate_cache(self._path)
            facts = self._fs.info(self._path)
        except ImportError as error:
            raise self._missing(error) from error
        except Exception as error:  # every file system of fsspec has exceptions of its own
            raise self._unreadable(error) from error
        if facts.get("type") == "directory":
            raise ScanError(f"`{self._url}` is a directory: name the files to scan.", source=self._url)
        size = facts.get("size")
        etag = next((str(facts[k]) for k in _ETAGS if facts.get(k)), None)
        moment = next((facts[k] for k in _TIMES if facts.get(k) is not None), None)
        return ObjectState(None if size is None else int(size), etag, _seconds(moment))

    def _missing(self, error: ImportError) -> MissingDependency:
        protocol = self._url.partition("://")[0]
        return MissingDependency(f"`{self._url}` needs another package: {error}", source=self._url, extra=protocol)

    def _unreadable(self, error: Exception) -> ScanError:
        return unreadable(self._url, _reason(error), missing=isinstance(error, FileNotFoundError))


def _reason(error: BaseException) -> str:
    status = getattr(error, "status", None)  # of aiohttp's errors
    if isinstance(error, FileNotFoundError):  # which fsspec makes of every failure of HTTP
        return "there is no such file" if error.__cause__ is None else _reason(error.__cause__)
    if status is not None:
        return "there is no such file" if status == 404 else f"the server says {status} {_shown(error, 'message')}"
    return getattr(error, "strerror", None) or _shown(error) or type(error).__name__


def _shown(error: BaseException, attribute: str | None = None) -> str:
    text = str(error if attribute is None else getattr(error, attribute, ""))
    return hushed(text[:_LONGEST_REASON])


def _seconds(moment: object) -> int | None:
    """Whole seconds, rounded up, of what file systems of fsspec call a time."""
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            return None
    if isinstance(moment, datetime):
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return -int(-moment // 1) if isinstance(moment, (int, float)) else None
