"""The tables that translate exceptions of the operating system and of the storage library into our own.

Knows no store and no operation; who calls says which object it was about. The library has classes for few answers of
servers only, and says why there was none in its debug text only: the rest is told apart by what is in its texts.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore import exceptions as foreign

from icechunk_virtual.containers.hush import hushed
from icechunk_virtual.containers.retry import may_pass
from icechunk_virtual.containers.troubles import STALE, Diagnosis, Trouble, region_of_answer, trouble_of_answer
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

_BY_TROUBLE: dict[Trouble, type[StorageError]] = {  # the others: what their status or class says
    Trouble.NO_CREDENTIALS: PermissionDenied,
    Trouble.NO_ANSWER_OF_FUNCTION: PermissionDenied,
    Trouble.WRONG_CREDENTIALS: PermissionDenied,
    Trouble.EXPIRED: PermissionDenied,
    Trouble.DENIED: PermissionDenied,
    Trouble.PAYER: PermissionDenied,
    Trouble.CLOCK: PermissionDenied,
    Trouble.WRONG_REGION: StorageError,
    Trouble.NO_BUCKET: StorageError,
    Trouble.UNTRUSTED: StorageError,
    Trouble.NO_TLS: StorageError,
    Trouble.PLAIN_HTTP: StorageError,
}

_STATUS = re.compile(r"status code: (\d{3})\b")
_NO_CREDENTIALS = re.compile(r"//(169\.254\.|metadata(\.google\.internal)?[/:])|Missing (AccessKey|SecretAccessKey)")
"""Where credentials are looked for last: at a service that machines of the clouds have."""
_SIGNS: tuple[tuple[re.Pattern[str], str | Trouble, int | None], ...] = (
    # What the library's texts mean where no answer came, its debug text included; the first that is found. And a
    # status, where the library means one.
    (re.compile("External [A-Za-z]+ credential provider"), Trouble.NO_ANSWER_OF_FUNCTION, None),
    (re.compile("InvalidCertificate|UnknownIssuer"), Trouble.UNTRUSTED, None),
    (re.compile("InvalidContentType"), Trouble.NO_TLS, None),
    (re.compile("BadScheme"), Trouble.PLAIN_HTTP, None),
    (re.compile("dns error"), Trouble.NO_HOST, None),
    (re.compile("ConnectionRefused"), "the connection was refused", None),
    (re.compile("TimedOut|kind: Timeout"), "nothing came for too long", None),
    (re.compile("IncompleteMessage|IncompleteBody|ConnectionReset|Interrupted"), "the connection was cut", None),
    (re.compile("incorrectly configured region"), Trouble.WRONG_REGION, 301),
    (re.compile("non-partial response when range"), "the server sent everything instead of the range", 200),
    (re.compile("Range request not supported"), "the server sent everything instead of the range", 200),
    (re.compile("(?i)content[-_]range header"), "the server does not say which range it sent", 206),
    (re.compile(r"Requested \d+\.\.\d+, got"), "the server sent another range", 206),
    (re.compile("Wanted range starting at"), "the object ends before", 416),
)
_LONGEST_CAUSE = 600
_LONGEST_TEXT = 20_000  # of an answer that is shown with an error, in a traceback
_TIME_TAKEN = re.compile(r" in [0-9.]+(ns|\u00b5s|ms|s)\b")


def translate(error: Exception, key: str) -> StorageError:
    """Our error for a foreign one about the object `key`. ``status``, if an answer came, is one of its facts."""
    (kind, text), diagnosis = _understand(error)
    return kind(text.format(key=key or "the whole storage", cause=diagnosis.reason), key=key, status=diagnosis.status)


def diagnose(error: Exception) -> tuple[type[StorageError], Diagnosis]:
    """What a foreign error is called here, and what it says."""
    (kind, _), diagnosis = _understand(error)
    return kind, diagnosis


def refuses_credentials(error: StorageError) -> bool:
    """Whether the server does not take the credentials (any more)."""
    cause = error.__cause__
    return isinstance(cause, foreign.BaseError) and _diagnosis(cause).trouble in STALE


def _understand(error: Exception) -> tuple[Translation, Diagnosis]:
    diagnosis = _diagnosis(error)
    by_errno = _BY_ERRNO.get(getattr(error, "errno", None) or 0)
    if by_errno is not None:
        return by_errno, diagnosis
    if diagnosis.trouble in _BY_TROUBLE:
        return (_BY_TROUBLE[diagnosis.trouble], _OTHER), diagnosis
    status = diagnosis.status
    if isinstance(error, foreign.GenericError) and status is not None and status != 409 and not may_pass(status):
        return (StorageError, _REFUSED), diagnosis
    found = next((to for known, to in _BY_CLASS if isinstance(error, known)), (StorageError, _OTHER))
    return found, diagnosis


def _diagnosis(error: Exception) -> Diagnosis:
    cause = " ".join(_TIME_TAKEN.sub("", _plain_text(error)).split())[:_LONGEST_CAUSE] or type(error).__name__
    if not isinstance(error, foreign.BaseError | FileNotFoundError):
        return Diagnosis(cause)
    text = str(error)
    found = _STATUS.search(cause)
    answered = None if found is None else int(found[1])
    if _NO_CREDENTIALS.search(cause) and not (answered and may_pass(answered)):
        return _in_words(Trouble.NO_CREDENTIALS, cause)
    if answered is not None:
        return _in_words(trouble_of_answer(answered, text), cause, answered, region_of_answer(text))
    meaning, status = next(((meaning, status) for sign, meaning, status in _SIGNS if sign.search(text)), (None, None))
    return _in_words(meaning, cause, status)


def _in_words(
    meaning: Trouble | str | None, cause: str, status: int | None = None, region: str | None = None
) -> Diagnosis:
    trouble = meaning if isinstance(meaning, Trouble) else None
    words = trouble.value if trouble else meaning
    return Diagnosis(f"{words} ({cause})" if words else cause, status, trouble, region)


@contextmanager
def translating(key: str) -> Iterator[None]:
    """Raise our errors for the foreign ones that the body raises about the object `key`."""
    try:
        yield
    except (OSError, foreign.BaseError) as error:
        raise translate(error, key) from without_debug_text(error)


def _plain_text(error: Exception) -> str:
    return hushed(str(error).partition("\n\nDebug source")[0][:_LONGEST_TEXT])


def without_debug_text(error: Exception) -> Exception:
    """The error as it may be shown: without secrets, and without the library's debug text, which is long."""
    text = _plain_text(error)
    return error if text == str(error) else type(error)(text)


_CUT_OFF = re.compile(r"response body|body error|before end of input|status code: (425|499)\b")


def cut_off(error: StorageError) -> bool:
    """Whether a request failed in one of the ways after which the library does not make it again.

    It does so for most statuses and for connections that end before an answer. It resumes objects that break off, but
    only those with a strong entity tag, and no listings or other answers.
    """
    cause = error.__cause__
    if isinstance(cause, foreign.BaseError):
        return _CUT_OFF.search(str(cause)) is not None
    return isinstance(cause, ConnectionError)


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
