"""What is said when the bytes of a virtual chunk cannot be had: the same words for every kind of container."""

from __future__ import annotations

from typing import Any

from icechunk_virtual.containers.authorize import Grant
from icechunk_virtual.containers.hush import shown
from icechunk_virtual.containers.rescan import rescan_command
from icechunk_virtual.containers.url import Location
from icechunk_virtual.errors import ContainerError, ObjectChanged, VirtualReadError
from icechunk_virtual.model.chunk_refs import VirtualChunk

REPAIR = "Restore the file, or relocate or remove the references to it."
AGAIN = "This may work when tried again."


def failed(
    grant: Grant,
    location: Location,
    chunk: VirtualChunk,
    reason: str,
    remedy: str = REPAIR,
    *,
    status: int | None = None,
    tries: int | None = None,
) -> VirtualReadError:
    """The error for bytes that are missing or cannot be read, for a `reason` without final stop.

    Parameters
    ----------
    grant, location, chunk
        What was read, and through which container.
    reason
        What happened.
    remedy
        What to do next: whole sentences, perhaps with code in lines of its own.
    status
        Of the server's last answer; None where there was none.
    tries
        How often the server was asked; None where none is, as for files.
    """
    return VirtualReadError(
        f"error fetching virtual reference: {_what(grant, location, chunk)}: {reason}{_asked(status, tries)}. {remedy}",
        reason=reason,
        remedy=remedy,
        **_facts(grant, location, chunk, status, tries),
    )


def cannot_be_opened(grant: Grant, location: Location, reason: str) -> ContainerError:
    """The error for a container whose store cannot even be asked."""
    return ContainerError(
        f"storage error: the container {grant.prefix} cannot be opened: {reason}",
        location=location.text,
        prefix=grant.prefix.text,
    )


def too_short(wanted: int, available: int, size: int | None = None) -> str:
    """A reason: fewer bytes than there should be, perhaps in a file of `size` bytes."""
    known = "" if size is None else f": the file has {size} bytes"
    return f"not enough data. Expected: ({wanted}), available ({max(available, 0)}){known}"


def other_etag(
    grant: Grant,
    location: Location,
    chunk: VirtualChunk,
    actual: str | None,
    *,
    status: int | None = None,
    tries: int | None = None,
) -> ObjectChanged:
    """The error for an object whose etag is not the one that was referenced (`actual`: if it is known)."""
    known = "is another one now" if actual is None else f"is {shown(actual)}"
    what = f"its etag {known}, the reference expects {shown(chunk.etag or '')}"
    return _changed(grant, location, chunk, what, chunk.etag, actual, status, tries)


def modified_later(
    grant: Grant,
    location: Location,
    chunk: VirtualChunk,
    actual: int | None,
    *,
    status: int | None = None,
    tries: int | None = None,
) -> ObjectChanged:
    """The error for an object that was modified after the moment that was referenced, in seconds since 1970."""
    expected = chunk.last_modified
    known = "later" if actual is None else f"at {actual} s since 1970"
    what = f"it was modified {known}, the reference expects {expected} s since 1970 or before"
    return _changed(grant, location, chunk, what, expected, actual, status, tries)


def _changed(
    grant: Grant,
    location: Location,
    chunk: VirtualChunk,
    what: str,
    expected: str | int | None,
    actual: str | int | None,
    status: int | None,
    tries: int | None,
) -> ObjectChanged:
    return ObjectChanged(
        f"the checksum of the object owning the virtual chunk has changed ({_what(grant, location, chunk)}): "
        f"{what}{_asked(status, tries)}. Restore the file, or renew the references to it (REPO is the repository; name "
        f"the --group, if it is in one):\n    {rescan_command(grant, location)}",
        expected=expected,
        actual=actual,
        **_facts(grant, location, chunk, status, tries),
    )


def _what(grant: Grant, location: Location, chunk: VirtualChunk) -> str:
    return f"{location}, {chunk.length} bytes at offset {chunk.offset}, through the container {grant.prefix}"


def _asked(status: int | None, tries: int | None) -> str:
    """What is known of the requests: nothing where none are made."""
    if tries is None:
        return ""
    answer = "no status" if status is None else f"status {status}"
    return f" [{answer}, {tries} {'try' if tries == 1 else 'tries'}]"


def _facts(
    grant: Grant, location: Location, chunk: VirtualChunk, status: int | None, tries: int | None
) -> dict[str, Any]:
    return {
        "location": location.text,
        "offset": chunk.offset,
        "length": chunk.length,
        "prefix": grant.prefix.text,
        "status": status,
        "tries": tries,
    }


def bare_etag(etag: str) -> str:
    """Without the mark of weak ones and the quotes that HTTP has around it."""
    etag = etag.removeprefix("W/")
    return etag[1:-1] if len(etag) >= 2 and etag[0] == etag[-1] == '"' else etag
