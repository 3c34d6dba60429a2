"""What is said when the bytes of a virtual chunk cannot be had: the same words for every kind of container."""

from __future__ import annotations

from icechunk_virtual.containers.authorize import Grant
from icechunk_virtual.containers.url import Location
from icechunk_virtual.errors import ObjectChanged, VirtualReadError
from icechunk_virtual.model.chunk_refs import VirtualChunk

REPAIR = "Restore the file, or relocate or remove the references to it."
AGAIN = "This may work when tried again."


def failed(
    grant: Grant, location: Location, chunk: VirtualChunk, reason: str, remedy: str = REPAIR
) -> VirtualReadError:
    """The error for bytes that are missing or cannot be read, for a `reason` without final stop."""
    return VirtualReadError(
        f"error fetching virtual reference: {location}, {chunk.length} bytes at offset {chunk.offset}, through the "
        f"container {grant.prefix}: {reason}. {remedy}",
        location=location.text,
        offset=chunk.offset,
        length=chunk.length,
        prefix=grant.prefix.text,
    )


def too_short(wanted: int, available: int, size: int | None = None) -> str:
    """A reason: fewer bytes than there should be, perhaps in a file of `size` bytes."""
    known = "" if size is None else f": the file has {size} bytes"
    return f"not enough data. Expected: ({wanted}), available ({max(available, 0)}){known}"


def other_etag(location: Location, expected: str, actual: str | None) -> ObjectChanged:
    """The error for an object whose etag is not the one that was referenced (`actual`: if it is known)."""
    known = "is another one now" if actual is None else f"is {actual}"
    return _changed(location, f"its etag {known}, the reference expects {expected}", expected, actual)


def modified_later(location: Location, expected: int, actual: int | None) -> ObjectChanged:
    """The error for an object that was modified after the moment that was referenced, in seconds since 1970."""
    known = "later" if actual is None else f"at {actual} s since 1970"
    what = f"it was modified {known}, the reference expects {expected} s since 1970 or before"
    return _changed(location, what, expected, actual)


def _changed(location: Location, what: str, expected: object, actual: object) -> ObjectChanged:
    return ObjectChanged(
        f"the checksum of the object owning the virtual chunk has changed ({location}): {what}. Restore the file, or "
        "scan it again and commit the new references.",
        location=location.text,
        expected=expected,
        actual=actual,
    )


def bare_etag(etag: str) -> str:
    """Without the mark of weak ones and the quotes that HTTP has around it."""
    etag = etag.removeprefix("W/")
    return etag[1:-1] if len(etag) >= 2 and etag[0] == etag[-1] == '"' else etag
