"""The tables that translate exceptions of the operating system and of the storage library into our own.

Knows no store and no operation; who calls says which object it was about. The library has classes for few answers of
servers only: the others are told apart by the status in its text.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore import exceptions as foreign

from icechunk_virtual.errors import (
    ObjectNotFound,
    OutcomeUnknown,
    PermissionDenied,
    PreconditionFailed,
    StorageError,
    TransientStorageError,
)

_NOT_FOUND = "object store error Object at location {key} not found: {cause}"
_DENIED = "object store error: permission denied for {key}: {cause}. Check the credentials and the owner of the files."
_EXISTS = "object store error Object at location {key} already exists: {cause}"
_CHANGED = "object store error Request precondition failure for path {key}: {cause}"
_FULL = "object store error: no space left for {key}: {cause}. Free some space and try again; nothing was written."
_NAME = "object store error: the store cannot hold a name like {key}: {cause}. Choose a shorter or plainer name."
_NO_BUCKET = "object store error: {key}: the bucket or container does not exist: {cause}"
_NO_CREDENTIALS = (
    "object store error: {key}: there are no credentials: none were given, and neither the environment nor this "
    "machine has any ({cause}). For public data ask anonymously."
)
_REFUSED = "object store error: {key}: the server refused the request: {cause}"
_TRANSIENT = "object store error: {key}: {cause}. This may work when tried again."
_OTHER = "object store error: {key}: {cause}"

Translation = tuple[type[StorageError], str]

_BY_CLASS: tuple[tuple[type[BaseException], Translation], ...] = (  # the first that fits
    (foreign.AlreadyExistsError, (PreconditionFailed, _EXISTS)),
    (foreign.PreconditionError, (PreconditionFailed, _CHANGED)),
    (foreign.PermissionDeniedError, (PermissionDenied, _DENIED)),
    (foreign.UnauthenticatedError, (PermissionDenied, _DENIED)),
    (foreign.InvalidPathError, (StorageError, _NAME)),
    (foreign.NotSupportedError, (StorageError, _OTHER)),
    (foreign.UnknownConfigurationKeyError, (StorageError, _OTHER)),
    (foreign.BaseError, (TransientStorageError, _TRANSIENT)),  # timeouts, dropped connections, exhausted retries
    (FileNotFoundError, (ObjectNotFound, _NOT_FOUND)),  # also what obstore raises
    (NotADirectoryError, (ObjectNotFound, _NOT_FOUND)),
    (IsADirectoryError, (ObjectNotFound, _NOT_FOUND)),
    (FileExistsError, (PreconditionFailed, _EXISTS)),
    (PermissionError, (PermissionDenied, _DENIED)),
    (TimeoutError, (TransientStorageError, _TRANSIENT)),
    (ConnectionError, (TransientStorageError, _TRANSIENT)),
)

_BY_ERRNO: dict[int, Translation] = {
    errno.EROFS: (PermissionDenied, _DENIED),
    errno.ENOSPC: (StorageError, _FULL),
    errno.EFBIG: (StorageError, _FULL),
    errno.EDQUOT: (StorageError, _FULL),
    errno.ENAMETOOLONG: (StorageError, _NAME),
    errno.EILSEQ: (StorageError, _NAME),
    errno.ESTALE: (TransientStorageError, _TRANSIENT),
    errno.EAGAIN: (TransientStorageError, _TRANSIENT),
    errno.EMFILE: (TransientStorageError, _TRANSIENT),
    errno.ENFILE: (TransientStorageError, _TRANSIENT),
}

_NO_KEYS: Translation = (PermissionDenied, _NO_CREDENTIALS)
_MISSING_BUCKET = re.compile("<Code>(NoSuchBucket|ContainerNotFound)</Code>")
_BY_STATUS: tuple[tuple[re.Pattern[str], Translation], ...] = (  # the others may go away by themselves
    # Where credentials are looked for last: at a service that machines of the clouds have.
    (re.compile(r"//(169\.254\.|metadata(\.google\.internal)?[/:])|Missing (AccessKey|SecretAccessKey)"), _NO_KEYS),
    (re.compile(r"status code: 40[13]\b"), (PermissionDenied, _DENIED)),
    (re.compile("incorrectly configured region"), (StorageError, _REFUSED)),
    (re.compile(r"status code: (3\d\d|4(?!08|09|25|29)\d\d|501)"), (StorageError, _REFUSED)),
)


def translate(error: Exception, key: str) -> StorageError:
    """Our error for a foreign one about the object `key`."""
    cause = _plain_text(error) or type(error).__name__
    kind, text = _translation(error, cause)
    return kind(text.format(key=key or "the whole storage", cause=cause), key=key)


def _translation(error: Exception, cause: str) -> Translation:
    by_errno = _BY_ERRNO.get(getattr(error, "errno", None) or 0)
    if by_errno is not None:
        return by_errno
    if isinstance(error, (foreign.GenericError, FileNotFoundError)) and _MISSING_BUCKET.search(cause):
        return StorageError, _NO_BUCKET
    if isinstance(error, foreign.GenericError):
        for pattern, translation in _BY_STATUS:
            if pattern.search(cause):
                return translation
    return next((to for known, to in _BY_CLASS if isinstance(error, known)), (StorageError, _OTHER))


@contextmanager
def translating(key: str) -> Iterator[None]:
    """Raise our errors for the foreign ones that the body raises about the object `key`."""
    try:
        yield
    except (OSError, foreign.BaseError) as error:
        raise translate(error, key) from without_debug_text(error)


def _plain_text(error: Exception) -> str:
    return str(error).partition("\n\nDebug source")[0]


def without_debug_text(error: Exception) -> Exception:
    """The error as it may be shown: the library's debug text is long, and holds addresses with their signatures."""
    text = _plain_text(error)
    return error if text == str(error) else type(error)(text)


def unknown_outcome(error: Exception, key: str) -> OutcomeUnknown:
    """The error for a write that may or may not have landed."""
    return OutcomeUnknown(
        f"object store error: the answer to the write of {key} was lost ({error}). It may or may not have landed; "
        "read the object back before trying again.",
        key=key,
    )


def too_short(key: str, size: int, start: int, stop: int) -> StorageError:
    """The error for a byte range that an object does not have."""
    return StorageError(
        f"object store error: {key} has {size} bytes, but bytes {start} to {stop} were to be read: the file is cut off "
        "or is not what the repository says. Restore it from a backup.",
        key=key,
        size=size,
    )
