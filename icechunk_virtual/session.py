"""`Session`: a checkout of one version, with its uncommitted changes. State and one-line verbs."""

from __future__ import annotations

import copy
import warnings
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar, NoReturn

from icechunk_virtual._sync import sync_twin
from icechunk_virtual.errors import ReadOnlyError
from icechunk_virtual.model.ids import encode_id
from icechunk_virtual.model.nodes import ArrayNode
from icechunk_virtual.operations import naming_operations
from icechunk_virtual.repo import chunks, commit, forks, notebook, rebase, tree
from icechunk_virtual.repo.change_set import ChangeSet
from icechunk_virtual.repo.config import RepositoryConfig
from icechunk_virtual.repo.conflicts import ConflictSolver
from icechunk_virtual.repo.info import ChunkType, Diff, type_of_chunk
from icechunk_virtual.repo.keys import parse_path
from icechunk_virtual.repo.rebase import DEFAULT_TRIES
from icechunk_virtual.repo.status import describe_changes
from icechunk_virtual.repo.workspace import Workspace
from icechunk_virtual.store import IcechunkStore

__all__ = ["ForkSession", "Session"]


@naming_operations
class Session:
    """A checkout of one version of a repository. Made by `Repository.readonly_session` and `writable_session`."""

    _MERGEABLE: ClassVar[str] = "Sessions can only be merged with a ForkSession created with Session.fork()."

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._awaits_merge = False

    # -- as an object ------------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Session) and forks.same_state(self._workspace, other._workspace)

    __hash__ = None  # type: ignore[assignment]  # sessions change

    def __repr__(self) -> str:
        where = "read-only" if self.read_only else f"branch={self.branch!r}"
        dirty = ", uncommitted changes" if self.has_uncommitted_changes else ""
        return f"{type(self).__name__}({where}, snapshot_id={self.snapshot_id!r}{dirty})"

    def _repr_html_(self) -> str:
        return notebook.session_card(type(self).__name__, self._workspace)

    def __getstate__(self) -> dict[str, Any]:
        if not self.read_only and not isinstance(self, ForkSession):
            raise ValueError(
                "You must opt-in to pickle writable sessions in a distributed context using Session.fork(). "
                "Write through the forks, then Session.merge() them."
            )
        return dict(self.__dict__)

    def allow_pickling(self) -> NoReturn:
        """No longer exists: use `fork`.

        Raises
        ------
        RuntimeError
            Always.
        """
        raise RuntimeError("Allowing pickling has been replaced by Session.fork() and Session.merge().")

    # -- what it is --------------------------------------------------------------------------------------------

    @property
    def read_only(self) -> bool:
        """Whether the session cannot change anything; true after a commit."""
        return self._workspace.read_only

    @property
    def snapshot_id(self) -> str:
        """Id of the base snapshot."""
        return encode_id(self._workspace.base_id)

    @property
    def branch(self) -> str | None:
        """The branch to commit to, ``None`` for a read-only session."""
        return self._workspace.branch

    @property
    def has_uncommitted_changes(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self._workspace.changes)

    @property
    def config(self) -> RepositoryConfig:
        """A copy of the repository's effective configuration."""
        return copy.deepcopy(self._workspace.config)

    @property
    def store(self) -> IcechunkStore:
        """The session as a Zarr store."""
        return IcechunkStore(self)

    def status(self) -> Diff:
        """What the session changed so far."""
        return describe_changes(self._workspace)

    def discard_changes(self) -> None:
        """Forget what the session changed."""
        ws = self._workspace
        with ws.lock:
            if not ws.read_only:
                ws.check_writable()
                ws.changes = ChangeSet()

    # -- chunks ------------------------------------------------------------------------------------------------

    async def all_virtual_chunk_locations_async(self) -> list[str]:
        """The location of every virtual chunk of every array, committed or not; repeats are kept."""
        locations: list[str] = []
        for node in tree.walk(self._workspace):
            if isinstance(node, ArrayNode):
                async for refs in chunks.existing_refs(self._workspace, node):
                    locations += chunks.locations_of(refs).urls
        return locations

    all_virtual_chunk_locations = sync_twin(all_virtual_chunk_locations_async)

    async def chunk_coordinates(self, array_path: str, batch_size: int = 1000) -> AsyncIterator[tuple[int, ...]]:
        """Grid coordinates of every chunk of an array that exists, committed or not, each once.

        Parameters
        ----------
        array_path
            Starts with ``/``.
        batch_size
            Kept for compatibility; manifests are read whole.

        Raises
        ------
        ValueError
            The path does not start with ``/``, or the batch size is less than 1.
        NodeNotFound
        IcechunkError
            A group is there.
        """
        if not array_path.startswith("/"):
            raise ValueError("Invalid path: path must start with a `/` character")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        node = tree.get_array(self._workspace, parse_path(array_path))
        async for refs in chunks.existing_refs(self._workspace, node):
            for coord in refs.coords.tolist():
                yield tuple(coord)

    async def chunk_type_async(self, array_path: str, chunk_coordinates: Sequence[int]) -> ChunkType:
        """Where the bytes of a chunk are, committed or not. Reads no chunk.

        Parameters
        ----------
        array_path
            Path of the array.
        chunk_coordinates
            Indices in the array's grid of chunks.

        Raises
        ------
        NodeNotFound, InvalidChunkIndex
        """
        node = tree.get_array(self._workspace, parse_path(array_path))
        coord = tuple(chunk_coordinates)
        chunks.check_index(node, coord)
        return type_of_chunk(await chunks.find_chunk(self._workspace, node, coord))

    chunk_type = sync_twin(chunk_type_async)

    # -- forks -------------------------------------------------------------------------------------------------

    def fork(self) -> ForkSession:
        """An independent copy that can be pickled and written to elsewhere, to be brought back by `merge`.

        Raises
        ------
        ValueError
            The session has uncommitted changes, or is read-only (then it can be pickled as it is).
        """
        fork = self._fork()
        self._awaits_merge = True
        return fork

    def _fork(self) -> ForkSession:
        """A fork that nobody has to be reminded of."""
        if self.read_only:
            raise ValueError("You should not need to fork a read-only session. Read-only sessions can be pickled.")
        if self.has_uncommitted_changes:
            raise ValueError(
                "Cannot fork a Session with uncommitted changes. Make a commit, create a new Session, and then fork "
                "that to execute distributed writes."
            )
        return ForkSession(self._workspace.with_changes(ChangeSet()))

    async def merge_async(self, *others: ForkSession) -> None:
        """Bring the changes of forks into this session; where two changed the same, the later argument wins.

        All of them come, or none.

        Parameters
        ----------
        others
            Forks of this session. What they change afterwards needs another merge.

        Raises
        ------
        TypeError
            An argument is not a `ForkSession`.
        ReadOnlyError
            This session is read-only.
        IcechunkError
            Two of them created different nodes at one path.
        """
        for other in others:
            if not isinstance(other, ForkSession):
                raise TypeError(f"{self._MERGEABLE} Received {type(other).__name__} instead.")
        if self.read_only:
            raise ReadOnlyError(
                "Read only sessions cannot modify the repository, so nothing can be merged into it. Merge into the "
                "session that the forks came from, or a new one from repo.writable_session(branch)."
            )
        forks.merge(self._workspace, *(other._workspace for other in others))
        self._awaits_merge = False

    merge = sync_twin(merge_async)

    # -- committing --------------------------------------------------------------------------------------------

    async def commit_async(
        self,
        message: str,
        metadata: dict[str, Any] | None = None,
        rebase_with: ConflictSolver | None = None,
        rebase_tries: int = DEFAULT_TRIES,
    ) -> str:
        """Make the changes a new version of the branch.

        The session is read-only on the new version afterwards.

        Parameters
        ----------
        message
            Commit message.
        metadata
            Properties of the commit: JSON-like values.
        rebase_with
            When somebody else committed first: rebase with this solver and try again.
        rebase_tries
            How often, from 0 to 65535.

        Returns
        -------
        str
            Id of the new snapshot.

        Raises
        ------
        ConflictError
            The branch moved since the session was opened; the session keeps its changes.
        RebaseFailedError
            `rebase_with` does not solve a conflict; the session keeps its changes.
        NothingToCommit, ReadOnlyError, TypeError
        """
        self._check_committable("commit")
        ws = self._workspace
        return encode_id(await rebase.commit_rebasing(ws, message, metadata, rebase_with, rebase_tries))

    commit = sync_twin(commit_async)

    async def flush_async(self, message: str, metadata: dict[str, Any] | None = None) -> str:
        """Write the changes as a snapshot without moving the branch. Nothing refers to it until a ref does.

        Parameters
        ----------
        message, metadata
            As for `commit`.

        Returns
        -------
        str
            Id of the new snapshot; the session is read-only on it afterwards.

        Raises
        ------
        NothingToCommit, ReadOnlyError, TypeError
        """
        self._check_committable("flush")
        return encode_id(await commit.flush(self._workspace, message, metadata))

    flush = sync_twin(flush_async)

    async def rebase_async(self, solver: ConflictSolver) -> None:
        """Move the changes onto the newest version of the branch, over everything committed since the session began.

        Parameters
        ----------
        solver
            What to do about conflicts: `ConflictDetector` or `BasicConflictSolver`.

        Raises
        ------
        RebaseFailedError
            Conflicts with a commit that the solver does not solve. The session keeps its changes and can be rebased
            again; it is on the last commit that could be passed.
        ReadOnlyError
        IcechunkError
            The session's base is not in the history of the branch any more.
        """
        await rebase.rebase(self._workspace, solver)

    rebase = sync_twin(rebase_async)

    def _check_committable(self, verb: str) -> None:
        """Hook for forks, which refuse; `verb` is what was tried."""
        if self._awaits_merge and verb == "commit":
            warnings.warn(
                "Committing a session after forking, and without merging will not work. "
                "Merge back in the changes from forked sessions first using Session.merge().",
                UserWarning,
                stacklevel=2,
            )


@naming_operations
class ForkSession(Session):
    """A copy of a session to write through elsewhere. It pickles with its changes; it cannot be committed."""

    _MERGEABLE = "A ForkSession can only be merged with another ForkSession."

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(workspace)
        workspace.fork_id = workspace.fork_id or workspace.world.random_bytes(8).hex()

    def _written_since_arrival(self) -> ForkSession:
        """What a task has to send back: the chunks written since this copy was unpickled."""
        written = forks.written_since_arrival(self._workspace)
        return self if written is self._workspace else ForkSession(written)

    def _check_committable(self, verb: str) -> None:
        raise TypeError(
            f"Cannot {verb} a fork of a Session. Merge it into the session it came from with Session.merge(), and "
            f"{verb} that. Writers that do not cooperate should each open a session of their own from the Repository."
        )
