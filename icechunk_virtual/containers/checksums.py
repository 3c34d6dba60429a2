"""The state of foreign objects, and whether it is still the one that a reference expects: the same for every server.

Pure values and comparisons; who asks the server is the business of the clients.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from icechunk_virtual.containers.authorize import Grant
from icechunk_virtual.containers.failures import bare_etag, modified_later, other_etag
from icechunk_virtual.containers.url import Location
from icechunk_virtual.model.chunk_refs import VirtualChunk

_SENDABLE = re.compile(r"[ !#-~]{1,1000}")  # of etags: repositories of strangers may have others
ANY = "*"
"""As an etag: any state will do."""


@dataclass(frozen=True, slots=True)
class ObjectState:
    """What an answer says about the object that it holds a part of.

    Attributes
    ----------
    size : int or None
        Bytes of the whole object.
    etag : str or None
        Verbatim.
    last_modified : int or None
        Seconds since 1970-01-01 UTC.
    encoding : str or None
        ``Content-Encoding``, if there is one: the bytes are not those of the object itself.
    """

    size: int | None
    etag: str | None = None
    last_modified: int | None = None
    encoding: str | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """What the server is asked to compare before it answers; at most one of both.

    Attributes
    ----------
    if_match : str or None
        A strong etag in quotes, for ``If-Match``.
    unmodified_since : int or None
        Seconds since 1970-01-01 UTC, for ``If-Unmodified-Since``.
    """

    if_match: str | None = None
    unmodified_since: int | None = None

    def __bool__(self) -> bool:
        return self != NONE


NONE = Condition()


def condition(chunk: VirtualChunk, grant: Grant) -> Condition:
    """The condition for a chunk. The etag decides, if there is one.

    Weak ones, which servers never match, and those that no request can carry are compared here only. Nothing is asked
    for where `grant` says that checksums do not count.
    """
    if not grant.verified:
        return NONE
    if chunk.etag:
        bare = bare_etag(chunk.etag)
        ours = is_weak(chunk.etag) or chunk.etag == ANY or not _SENDABLE.fullmatch(bare)
        return NONE if ours else Condition(if_match=f'"{bare}"')
    return Condition(unmodified_since=chunk.last_modified) if chunk.last_modified else NONE


def check_unchanged(
    grant: Grant,
    location: Location,
    chunk: VirtualChunk,
    state: ObjectState,
    *,
    asked: bool = True,
    status: int | None = None,
    tries: int | None = None,
) -> None:
    """Compare with the answer itself, since servers may ignore conditions.

    Parameters
    ----------
    asked
        Whether the server was given the condition, if there is one. Then an answer that does not name its state is
        taken for the right one.
    status, tries
        For the error.

    Raises
    ------
    ObjectChanged
    """
    if not grant.verified:
        return
    silent_is_fine = asked and bool(condition(chunk, grant))
    if chunk.etag:
        if chunk.etag == ANY or (state.etag is None and silent_is_fine):
            return
        if state.etag is None or bare_etag(state.etag) != bare_etag(chunk.etag):
            raise other_etag(grant, location, chunk, state.etag, status=status, tries=tries)
    elif chunk.last_modified:
        if state.last_modified is None and silent_is_fine:
            return
        if state.last_modified is None or state.last_modified > chunk.last_modified:
            raise modified_later(grant, location, chunk, state.last_modified, status=status, tries=tries)


def is_weak(etag: str) -> bool:
    """Whether an etag only promises equal meaning, not equal bytes."""
    return etag.startswith("W/")
