"""Every exception of the package, as one family.

What belongs here: exception classes and nothing else. Facts are attributes, the message says what
happened and what to do next. All of them pickle. The tree::

    IcechunkVirtualError
     |- IcechunkError                    everything the original library calls so
     |   |- RepositoryNotFound           nothing to open at this storage
     |   |- RepositoryExists             create() on a place that is not empty
     |   |- RefNotFound                  branch or tag
     |   |- RefExists                    tag exists (or existed), branch exists, reset from a wrong tip
     |   |- InvalidRefName
     |   |- SnapshotNotFound
     |   |- NodeNotFound                 also a KeyError
     |   |   '- MissingKey               also a FileNotFoundError
     |   |- NodeExists                   a node of the other type is at that path
     |   |- InvalidKey                   not a Zarr v3 key of the default chunk key encoding
     |   |- InvalidMetadata              a zarr.json that is not a legal array or group
     |   |- InvalidChunkIndex
     |   |- ReadOnlyError                session, store or storage
     |   |- NothingToCommit
     |   |- ConfigConflict               the stored configuration changed under us
     |   |- StorageError                 the object store said no
     |   |   |- ObjectNotFound
     |   |   |- TransientStorageError    may go away when tried again
     |   |   |- PermissionDenied
     |   |   |- PreconditionFailed       a conditional write has certainly not landed
     |   |   '- OutcomeUnknown           a write whose answer was lost
     |   |- FormatError
     |   |   |- CorruptFile              the bytes are at fault
     |   |   |- UnsupportedFormat        we are
     |   |   '- TooLargeForFormat        what is to be written is beyond the limits of readers
     |   |- ContainerError               virtual chunks
     |   |   |- InvalidLocation          not an absolute URL we can keep
     |   |   |- NoContainer              no container has this prefix
     |   |   |- NotAuthorized            the container exists, its opener did not authorise it
     |   |   '- ReadFailure              the bytes cannot be had: url, range, container, status, tries
     |   |       |- ObjectChanged        the checksum no longer holds
     |   |       '- VirtualReadError     missing, too short, unreadable
     |   '- ScanError
     |       |- UnsupportedFeature       the file holds something that Zarr cannot represent
     |       |- UnknownFileFormat        no scanner takes this file
     |       |- MissingDependency        an extra has to be installed
     |       |- MalformedSource          the source file itself is damaged
     |       '- InconsistentFiles        files that do not fit into one array
     |- ConflictError                    as in the original: not an IcechunkError
     '- RebaseFailedError                likewise

Misuse by the caller is ``ValueError`` or ``TypeError``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def _restore(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    base = OSError if issubclass(cls, OSError) else Exception  # the one that lays out the object
    error = base.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class IcechunkVirtualError(Exception):
    """Root of the family."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__)


class IcechunkError(IcechunkVirtualError):
    """An operation failed.

    Parameters
    ----------
    message
        What happened and what to do next.
    **facts
        Values that a program may want (``url``, ``snapshot``, ``expected``, ``actual`` ...). Each becomes an
        attribute of the error.
    """

    message: str

    def __init__(self, message: str, **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.__dict__.update(facts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(message={self.message!r})"


class RepositoryNotFound(IcechunkError):
    """There is no repository at this storage."""


class RepositoryExists(IcechunkError):
    """A repository can only be created in an empty place."""


class RefNotFound(IcechunkError):
    """A branch or tag does not exist. ``ref``: its name."""

    ref: str


class RefExists(IcechunkError):
    """A tag exists (or existed), or a branch is not where the caller thought. ``ref``, ``expected``, ``actual``."""

    ref: str


class InvalidRefName(IcechunkError):
    """A branch or tag name that cannot be stored."""


class SnapshotNotFound(IcechunkError):
    """A snapshot id that is malformed or does not exist in this repository."""


class NodeNotFound(IcechunkError, KeyError):
    """There is no array or group at ``path``. Also a ``KeyError``, as zarr expects."""

    path: str

    def __str__(self) -> str:  # KeyError would show the repr of the message
        return self.message


class NodeExists(IcechunkError):
    """A node of the other type is at ``path``."""

    path: str


class MissingKey(NodeNotFound, FileNotFoundError):
    """The size of a key whose node does not exist. Also a ``FileNotFoundError``, as zarr expects."""


class InvalidKey(IcechunkError):
    """A store key that names neither a Zarr v3 metadata document nor a chunk."""

    key: str


class InvalidMetadata(IcechunkError):
    """A ``zarr.json`` that is not a legal group or regular array. ``path``: of the node."""


class InvalidChunkIndex(IcechunkError):
    """Chunk grid coordinates outside the array's grid, or of the wrong rank."""


class ReadOnlyError(IcechunkError, ValueError):
    """A write through a read-only session, store or storage. Also a ``ValueError``, as zarr expects."""


class NothingToCommit(IcechunkError):
    """A commit of a session without changes."""


class ConfigConflict(IcechunkError):
    """Somebody else saved the configuration since it was read."""


class StorageError(IcechunkError):
    """The object store refused or failed. ``key``: of the object, where one was named."""


class ObjectNotFound(StorageError):
    """The object does not exist."""


class TransientStorageError(StorageError):
    """Timeouts, throttling, dropped connections: may work when tried again."""


class PermissionDenied(StorageError):
    """The credentials do not allow it."""


class PreconditionFailed(StorageError):
    """A conditional write lost its race: it has certainly not landed."""


class OutcomeUnknown(StorageError):
    """The answer to a write was lost: it may or may not have landed."""


class FormatError(IcechunkError):
    """A file of the repository cannot be read."""


class CorruptFile(FormatError):
    """The bytes of a repository file are damaged.

    Attributes
    ----------
    file : str
        Key of the file in the repository.
    kind : str
        ``snapshot``, ``manifest``, ``transaction log``, ``ref`` or ``config``.
    position : int or None
        Byte position in the (decompressed) content where it went wrong, where known.
    """

    file: str
    kind: str
    position: int | None

    def __init__(self, reason: str, *, file: str, kind: str, position: int | None = None) -> None:
        where = "" if position is None else f" at byte {position}"
        super().__init__(
            f"corrupt {kind} file `{file}`{where}: {reason}. Restore the file from a backup, or open an earlier "
            "snapshot that does not need it.",
            file=file,
            kind=kind,
            position=position,
        )


class UnsupportedFormat(FormatError):
    """The bytes follow a format that this version does not read. ``file``: key in the repository."""

    file: str


class TooLargeForFormat(FormatError):
    """What is to be written is beyond the limits of readers of the format."""


class ContainerError(IcechunkError):
    """A virtual chunk cannot be set or read. ``location``: the URL."""


class InvalidLocation(ContainerError):
    """The location of a virtual chunk is not an absolute URL that can be resolved."""


class NoContainer(ContainerError):
    """No virtual chunk container has a prefix of this location."""


class NotAuthorized(ContainerError):
    """The container exists, but whoever opened the repository did not authorise it. ``prefix``: to authorise.

    Or its prefix is authorised, but not the server that only the repository names.
    """


class ReadFailure(ContainerError):
    """The bytes behind a virtual chunk cannot be had: what was read, and what was answered.

    Attributes
    ----------
    location : str
        The URL.
    offset, length : int
        Bytes of the object.
    prefix : str
        URL prefix of the container.
    status : int or None
        HTTP status of the last answer; ``None``: there was none, or no server was asked.
    tries : int or None
        How often a server was asked; ``None``: none was, as for files.
    """

    location: str
    offset: int
    length: int
    prefix: str
    status: int | None
    tries: int | None


class ObjectChanged(ReadFailure):
    """The object behind a virtual chunk is not the one that was referenced. ``expected``, ``actual``."""

    expected: str | int | None
    actual: str | int | None


class VirtualReadError(ReadFailure):
    """The bytes behind a virtual chunk are missing, not what was asked for, or cannot be read.

    ``reason``: why; ``remedy``: what to do.
    """

    reason: str
    remedy: str


class ScanError(IcechunkError):
    """A source file cannot be turned into references. ``source``: its URL."""

    source: str


class UnsupportedFeature(ScanError):
    """The file holds something that Zarr cannot represent. ``name``: of the variable or attribute."""


class UnknownFileFormat(ScanError):
    """No scanner recognises the file."""


class MissingDependency(ScanError):
    """An optional dependency has to be installed. ``extra``: name of the extra."""


class MalformedSource(ScanError):
    """The source file is damaged or cut off."""


class InconsistentFiles(ScanError):
    """Files that were to be one array differ. ``differences``: one text per file."""

    differences: tuple[str, ...]


class ConflictError(IcechunkVirtualError):
    """The branch moved since the session was opened.

    Parameters
    ----------
    expected_parent, actual_parent
        Snapshot ids; ``None`` where the branch did not exist.
    """

    def __init__(self, expected_parent: str | None = None, actual_parent: str | None = None) -> None:
        super().__init__(expected_parent, actual_parent)
        self.expected_parent = expected_parent
        self.actual_parent = actual_parent

    def __str__(self) -> str:
        def some(parent: str | None) -> str:
            return "None" if parent is None else f'Some("{parent}")'

        return (
            f"Failed to commit, expected parent: {some(self.expected_parent)}, "
            f"actual parent: {some(self.actual_parent)}"
        )

    def __repr__(self) -> str:
        return f"ConflictError(expected_parent={self.expected_parent}, actual_parent={self.actual_parent})"


class RebaseFailedError(IcechunkVirtualError):
    """A rebase met conflicts that its solver does not solve.

    Parameters
    ----------
    snapshot
        Id of the commit that could not be passed.
    conflicts
        What was in the way.
    """

    def __init__(self, snapshot: str, conflicts: Sequence[Any] = ()) -> None:
        super().__init__(snapshot, list(conflicts))
        self.snapshot = snapshot
        self.conflicts = list(conflicts)

    def __str__(self) -> str:
        return f"Rebase failed on snapshot {self.snapshot}: {len(self.conflicts)} conflicts found"
