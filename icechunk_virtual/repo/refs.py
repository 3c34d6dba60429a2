"""Branches and tags: small mutable objects that name snapshots (format version 1, sections 1.1 and 9).

Functions over an `ObjectStore`. Knows nothing of snapshots beyond their ids: whether one exists is checked by callers.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import unicodedata
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from icechunk_virtual.errors import (
    ConflictError,
    IcechunkError,
    InvalidRefName,
    ObjectNotFound,
    OutcomeUnknown,
    PreconditionFailed,
    RefExists,
    RefNotFound,
    StorageError,
    TransientStorageError,
)
from icechunk_virtual.model.ids import SnapshotId, decode_id, encode_id
from icechunk_virtual.repo.format.ref_json import decode_ref, encode_ref
from icechunk_virtual.repo.object_store import ObjectStore, Version

logger = logging.getLogger(__name__)

MAIN: Final = "main"
"""The branch that every repository has."""

_REFS = "refs/"
_REF_FILE = "ref.json"
_TOMBSTONE = "ref.json.deleted"
_ATTEMPTS = 8
"""How often a write whose answer is lost is tried."""
_FIRST_PAUSE = 0.01
"""Seconds before the first repetition; doubled before each further one."""
_REFUSED = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode categories that no new name may contain: control characters, surrogates, line and paragraph separators."""


class RefKind(enum.Enum):
    """Kind of a reference; the value is what its folder's name begins with."""

    BRANCH = "branch."
    TAG = "tag."


def check_ref_name(name: str) -> None:
    """Raise `InvalidRefName` unless a new branch or tag may have this name.

    Stricter than the format, which only forbids ``/``: also refused are the empty name, ``.`` and ``..``, control
    characters, and what is not valid Unicode.
    """
    reason = None
    if not name:
        reason = "it is empty"
    elif "/" in name:
        reason = "it contains a `/`"
    elif name in {".", ".."}:
        reason = "file systems give it a meaning"
    elif any(unicodedata.category(char) in _REFUSED for char in name):
        reason = "it contains a control character or half a surrogate pair"
    if reason is not None:
        raise _invalid(name, reason)


def _invalid(name: str, reason: str) -> InvalidRefName:
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)
    return InvalidRefName(f"invalid ref name `{shown}`: {reason}")


def _key(kind: RefKind, name: str, file: str = _REF_FILE) -> str:
    if "/" in name or any("\ud800" <= char <= "\udfff" for char in name):
        raise _invalid(name, "it contains a `/` or half a surrogate pair")
    return f"{_REFS}{kind.value}{name}/{file}"


def _not_found(name: str) -> RefNotFound:
    return RefNotFound(f"ref not found `{name}`", ref=name)


def _text(id: SnapshotId | None) -> str | None:
    return None if id is None else encode_id(id)


def branch_conflict(name: str, expected: SnapshotId | None, actual: SnapshotId | None) -> RefExists:
    """The error for a branch that is not where it was expected: ``None`` stands for absent."""

    def some(id: SnapshotId | None) -> str:
        return "None" if id is None else f"Some({encode_id(id)})"

    return RefExists(
        f"branch update conflict: `({some(expected)}) != ({some(actual)})`",
        ref=name,
        expected=_text(expected),
        actual=_text(actual),
    )


# -- reading -----------------------------------------------------------------------------------------------------


async def _read(store: ObjectStore, kind: RefKind, name: str) -> tuple[SnapshotId, Version]:
    key = _key(kind, name)
    try:
        data, version = await store.get_versioned(key)
    except ObjectNotFound as error:
        raise _not_found(name) from error
    return decode_ref(data, file=key), version


async def read_branch(store: ObjectStore, name: str) -> tuple[SnapshotId, Version]:
    """Tip of a branch, and the version to update it from.

    Raises
    ------
    RefNotFound
        There is no such branch.
    CorruptFile
        Its content is not a reference.
    """
    return await _read(store, RefKind.BRANCH, name)


async def read_tag(store: ObjectStore, name: str) -> SnapshotId:
    """Snapshot of a tag. `RefNotFound` if it does not exist or is deleted."""
    (snapshot, _version), deleted = await asyncio.gather(
        _read(store, RefKind.TAG, name), _exists(store, _key(RefKind.TAG, name, _TOMBSTONE))
    )
    if deleted:
        raise _not_found(name)
    return snapshot


async def _exists(store: ObjectStore, key: str) -> bool:
    try:
        await store.head(key)
    except ObjectNotFound:
        return False
    return True


async def _list(store: ObjectStore) -> dict[RefKind, dict[str, set[str]]]:
    """Names of the files of every reference, by kind and name. Raises `IcechunkError` for strange folders."""
    found: dict[RefKind, dict[str, set[str]]] = {kind: {} for kind in RefKind}
    async for page in store.list(_REFS):
        for info in page:
            folder, _, file = info.key.removeprefix(_REFS).partition("/")
            kind = next((kind for kind in RefKind if folder.startswith(kind.value)), None)
            if kind is None:
                raise IcechunkError(
                    f"invalid ref type `{folder}`: the repository holds the object {info.key}, which is neither a "
                    "branch nor a tag. Remove it."
                )
            found[kind].setdefault(folder.removeprefix(kind.value), set()).add(file)
    return found


async def list_branches(store: ObjectStore) -> set[str]:
    """Names of all branches."""
    return {name for name, files in (await _list(store))[RefKind.BRANCH].items() if _REF_FILE in files}


async def list_tags(store: ObjectStore) -> set[str]:
    """Names of all tags that are not deleted."""
    tags = (await _list(store))[RefKind.TAG]
    return {name for name, files in tags.items() if _REF_FILE in files and _TOMBSTONE not in files}


# -- writing -----------------------------------------------------------------------------------------------------


async def _create(store: ObjectStore, key: str, data: bytes) -> bool:
    """Create an object; False if it exists. An unknown outcome is resolved by trying again and reading back."""
    unknown = False
    for attempt in range(_ATTEMPTS):
        try:
            await store.put_new(key, data)
        except PreconditionFailed:
            return unknown and (await store.get(key)) == data
        except (OutcomeUnknown, TransientStorageError):
            if attempt + 1 == _ATTEMPTS:
                raise
            unknown = True
            await _pause(attempt)
        else:
            break
    return True


async def _pause(attempt: int) -> None:
    await asyncio.sleep(_FIRST_PAUSE * 2**attempt)


async def create_branch(store: ObjectStore, name: str, snapshot: SnapshotId) -> None:
    """Create a branch.

    Raises
    ------
    RefExists
        It exists already.
    InvalidRefName
    """
    check_ref_name(name)
    if not await _create(store, _key(RefKind.BRANCH, name), encode_ref(snapshot)):
        actual, _version = await read_branch(store, name)
        raise branch_conflict(name, None, actual)
    logger.info("branch %r created at %s", name, encode_id(snapshot))


async def create_tag(store: ObjectStore, name: str, snapshot: SnapshotId) -> None:
    """Create a tag.

    Raises
    ------
    RefExists
        It exists already, or did: a deleted tag's name stays taken.
    InvalidRefName
    """
    check_ref_name(name)
    if not await _create(store, _key(RefKind.TAG, name), encode_ref(snapshot)):
        raise RefExists(f"tag already exists, tags are immutable: `{name}`", ref=name)
    logger.info("tag %r created at %s", name, encode_id(snapshot))


async def delete_branch(store: ObjectStore, name: str) -> None:
    """Delete a branch. The data stay.

    Raises
    ------
    IcechunkError
        It is ``main``.
    RefNotFound
    """
    if name == MAIN:
        raise IcechunkError("main branch cannot be deleted")
    key = _key(RefKind.BRANCH, name)
    if not await _exists(store, key):
        raise _not_found(name)
    await store.delete([key])
    logger.info("branch %r deleted", name)


async def delete_tag(store: ObjectStore, name: str) -> None:
    """Delete a tag by a tombstone beside it. `RefNotFound` if it does not exist or is deleted already."""
    await _read(store, RefKind.TAG, name)
    if not await _create(store, _key(RefKind.TAG, name, _TOMBSTONE), b""):
        raise _not_found(name)
    logger.info("tag %r deleted", name)


async def update_branch(
    store: ObjectStore,
    name: str,
    *,
    expected: SnapshotId,
    new: SnapshotId,
    version: Version | None = None,
    after: Collection[str] = (),
    passed: Callable[[SnapshotId], Awaitable[bool]] | None = None,
) -> None:
    """Move a branch from `expected` to `new`, or not at all.

    When the answer to the write is lost the branch is read back. Returns only when the move has landed.

    Parameters
    ----------
    version
        Of the branch when it was seen at `expected`, if it was: then it need not be read now.
    after
        Keys of files that `new` consists of: they survive a power cut before the branch moves.
    passed
        Asked when the branch turns out to be at a third snapshot after an unclear write: does that one descend from
        `new`? Then the move landed, and somebody else built on it.

    Raises
    ------
    ConflictError
        The branch was somewhere else, or does not exist. The move has certainly not landed.
    OutcomeUnknown
        It may or may not have landed: the store does not answer any more.
    """
    key, data = _key(RefKind.BRANCH, name), encode_ref(new)
    failure: StorageError | None = None
    tried = False
    for attempt in range(_ATTEMPTS):
        try:
            seen, version = version, None
            if seen is None:
                actual, seen = await read_branch(store, name)
                if actual == new and (tried or expected == new):
                    return
                if actual != expected:
                    if tried and passed is not None and await passed(actual):
                        return
                    raise ConflictError(encode_id(expected), encode_id(actual))
            tried = True
            await store.put_if_match(key, data, seen, after=after)
        except RefNotFound:
            raise ConflictError(encode_id(expected), None) from None
        except PreconditionFailed as error:  # not ours alone: a repeated request may have met its own first landing
            failure = error
        except (OutcomeUnknown, TransientStorageError) as error:
            failure = error
            logger.warning("branch %r: the store does not say whether it has moved, trying again: %s", name, error)
            await _pause(attempt)
        else:
            logger.info("branch %r moved from %s to %s", name, encode_id(expected), encode_id(new))
            return
    raise _gave_up(name, new, failure, tried=tried)


def _gave_up(name: str, new: SnapshotId, failure: StorageError | None, *, tried: bool) -> StorageError:
    if failure is not None and not tried:
        return failure
    return OutcomeUnknown(
        f"the branch `{name}` may or may not have moved to {encode_id(new)}: the object store failed {_ATTEMPTS} times "
        f"in a row, last with: {failure}. Look at the branch when the store answers again; no data is lost.",
        key=_key(RefKind.BRANCH, name),
        snapshot=encode_id(new),
    )


async def reset_branch(
    store: ObjectStore, name: str, snapshot: SnapshotId, *, expected: SnapshotId | None = None
) -> None:
    """Move a branch to any snapshot.

    Parameters
    ----------
    expected
        Only from there; without it, from wherever the branch is now.

    Raises
    ------
    RefNotFound
        There is no such branch, and `expected` was not given.
    RefExists
        The branch is elsewhere, or moved meanwhile.
    """
    if expected is None:
        expected, _version = await read_branch(store, name)
    try:
        await update_branch(store, name, expected=expected, new=snapshot)
    except ConflictError as error:
        actual = None if error.actual_parent is None else SnapshotId(decode_id(error.actual_parent))
        raise branch_conflict(name, expected, actual) from None
