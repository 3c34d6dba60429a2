"""`Repository`: versions, refs and sessions at one storage. State and one-line verbs."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from icechunk_virtual._sync import BothIterator, class_twin, run, sync_twin
from icechunk_virtual.branches import BranchesAndTags
from icechunk_virtual.containers.credentials import AnyCredential
from icechunk_virtual.containers.unverified import Unverified
from icechunk_virtual.maintenance import Maintenance
from icechunk_virtual.operations import naming_operations
from icechunk_virtual.repo import creation, history, inspect, notebook, preload
from icechunk_virtual.repo.config import RepositoryConfig
from icechunk_virtual.repo.conflicts import ConflictSolver
from icechunk_virtual.repo.creation import Opened
from icechunk_virtual.repo.format.metadata_values import normalise
from icechunk_virtual.repo.gc import GCSummary
from icechunk_virtual.repo.history import Version, parse_snapshot_id
from icechunk_virtual.repo.info import Diff, SnapshotInfo, describe_snapshot
from icechunk_virtual.repo.rebase import DEFAULT_TRIES
from icechunk_virtual.repo.workspace import Workspace
from icechunk_virtual.session import Session
from icechunk_virtual.storage import Storage
from icechunk_virtual.store import IcechunkStore

__all__ = ["GCSummary", "Repository"]

Authorize = Mapping[str, AnyCredential | Unverified | None]


@naming_operations
class Repository(BranchesAndTags, Maintenance):
    """A versioned Zarr hierarchy at one storage.

    Made by `create`, `open` and `open_or_create`. Pickles with storage, configuration, authorisations and default
    commit metadata.
    """

    def __init__(self, storage: Storage, opened: Opened) -> None:
        self._storage = storage
        self._opened = opened
        self._default_metadata: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"Repository({self.storage!r})"

    def _repr_html_(self) -> str:
        return notebook.repository_card(repr(self), self._opened.config, self._opened.authorization)

    # -- opening -----------------------------------------------------------------------------------------------

    @classmethod
    async def create_async(
        cls,
        storage: Storage,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: Authorize | None = None,
    ) -> Repository:
        """Create a repository in an empty place.

        Parameters
        ----------
        storage
            Where; see `local_filesystem_storage` and its siblings.
        config
            Saved with the repository if it sets anything.
        authorize_virtual_chunk_access
            Prefixes of virtual chunk containers that may be read, with credentials (``None``: the default ones).

        Raises
        ------
        RepositoryExists
            Anything is there already.
        """
        return cls(storage, await creation.create(storage.object_store, config, authorize_virtual_chunk_access))

    create = class_twin(create_async)

    @classmethod
    async def open_async(
        cls,
        storage: Storage,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: Authorize | None = None,
    ) -> Repository:
        """Open an existing repository.

        Parameters
        ----------
        storage
            Where.
        config
            Overrides single fields of the saved configuration; not saved until `save_config`.
        authorize_virtual_chunk_access
            Prefixes of virtual chunk containers that may be read, with credentials (``None``: the default ones).

        Raises
        ------
        RepositoryNotFound
        UnsupportedFormat
            It is of a newer format version.
        """
        return cls(storage, await creation.open_(storage.object_store, config, authorize_virtual_chunk_access))

    open = class_twin(open_async)

    @classmethod
    async def open_or_create_async(
        cls,
        storage: Storage,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: Authorize | None = None,
    ) -> Repository:
        """Open the repository if there is one, otherwise create it.

        Parameters are those of `open`; `config` is saved only when the repository is created.

        Raises
        ------
        RepositoryExists
            Something that is no repository is there.
        UnsupportedFormat
            It is of a newer format version.
        """
        return cls(storage, await creation.open_or_create(storage.object_store, config, authorize_virtual_chunk_access))

    open_or_create = class_twin(open_or_create_async)

    @staticmethod
    async def exists_async(storage: Storage) -> bool:
        """Whether there is a repository."""
        return await creation.exists(storage.object_store)

    exists = staticmethod(sync_twin(exists_async))

    @staticmethod
    async def fetch_config_async(storage: Storage) -> RepositoryConfig | None:
        """The saved configuration, ``None`` if none was saved."""
        return await creation.fetch_config(storage.object_store)

    fetch_config = staticmethod(sync_twin(fetch_config_async))

    async def reopen_async(
        self,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: Authorize | None = None,
    ) -> Repository:
        """The same repository with another configuration merged over this one's, or other authorisations.

        Parameters
        ----------
        config
            Overrides single fields; not saved until `save_config` of the result.
        authorize_virtual_chunk_access
            As for `open`. ``None`` keeps the present authorisations, an empty mapping revokes them.
        """
        return Repository(self._storage, creation.reopen(self._opened, config, authorize_virtual_chunk_access))

    reopen = sync_twin(reopen_async)

    def with_config(
        self, config: RepositoryConfig, authorize_virtual_chunk_access: Authorize | None = None
    ) -> Repository:
        """The same repository under exactly this configuration: what it does not set is unset.

        `reopen` merges, so it can take nothing away. Nothing is saved until `save_config` of the result.

        Parameters
        ----------
        config
            As it shall be.
        authorize_virtual_chunk_access
            As for `reopen`.

        Examples
        --------
        >>> import icechunk_virtual as icechunk
        >>> repo = icechunk.Repository.create(
        ...     icechunk.in_memory_storage(), icechunk.RepositoryConfig(inline_chunk_threshold_bytes=0)
        ... )
        >>> repo.with_config(icechunk.RepositoryConfig()).save_config()
        """
        return Repository(self._storage, creation.reconfigure(self._opened, config, authorize_virtual_chunk_access))

    # -- what it is --------------------------------------------------------------------------------------------

    @property
    def storage(self) -> Storage:
        """Where the repository is."""
        return self._storage

    @property
    def config(self) -> RepositoryConfig:
        """A copy of the effective configuration."""
        return copy.deepcopy(self._opened.config)

    async def save_config_async(self) -> None:
        """Save the effective configuration for everybody who opens the repository.

        Raises
        ------
        ConfigConflict
            Somebody else saved one since this repository object was opened.
        """
        await creation.save_config(self._opened)

    save_config = sync_twin(save_config_async)

    @property
    def authorized_virtual_container_prefixes(self) -> set[str]:
        """Prefixes of virtual chunk containers that may be read, as they were given."""
        return set(self._opened.granted)

    def set_default_commit_metadata(self, metadata: dict[str, Any]) -> None:
        """Properties of every commit of sessions opened from now on; those of the commit itself win.

        Parameters
        ----------
        metadata
            JSON-like values.

        Raises
        ------
        TypeError, ValueError
            A value that JSON does not have, or one nested deeper than 128 levels.
        """
        self._default_metadata = normalise(metadata)

    def default_commit_metadata(self) -> dict[str, Any]:
        """Properties of every commit, see `set_default_commit_metadata`."""
        return copy.deepcopy(self._default_metadata)

    # -- history -----------------------------------------------------------------------------------------------

    def ancestry(
        self, *, branch: str | None = None, tag: str | None = None, snapshot_id: str | None = None
    ) -> BothIterator[SnapshotInfo]:
        """A version and all before it, newest first, fetched one by one; an iterator and an async iterator in one.

        Parameters
        ----------
        branch, tag, snapshot_id
            Exactly one names the version.

        Raises
        ------
        ValueError
            Not exactly one of them.
        RefNotFound, SnapshotNotFound
        """
        assets = self._opened.assets
        start = run(history.resolve(assets, Version(branch, tag, snapshot_id)))
        return BothIterator(describe_snapshot(s) async for s in history.ancestors(assets, start))

    def async_ancestry(
        self, *, branch: str | None = None, tag: str | None = None, snapshot_id: str | None = None
    ) -> BothIterator[SnapshotInfo]:
        """As `ancestry`, but a ref that does not exist is an error of the first step."""
        version = Version(branch, tag, snapshot_id)
        assets = self._opened.assets

        async def items() -> Any:
            async for snapshot in history.ancestors(assets, await history.resolve(assets, version)):
                yield describe_snapshot(snapshot)

        return BothIterator(items())

    async def lookup_snapshot_async(self, snapshot_id: str) -> SnapshotInfo:
        """Description of a snapshot.

        Raises
        ------
        SnapshotNotFound
        """
        return describe_snapshot(await history.fetch(self._opened.assets, parse_snapshot_id(snapshot_id)))

    lookup_snapshot = sync_twin(lookup_snapshot_async)

    async def inspect_snapshot_async(self, snapshot_id: str, *, pretty: bool = True) -> str:
        """Everything in a snapshot file as JSON text.

        Parameters
        ----------
        snapshot_id
            Of the snapshot.
        pretty
            Indented, over many lines.

        Raises
        ------
        SnapshotNotFound
        """
        snapshot = await history.fetch(self._opened.assets, parse_snapshot_id(snapshot_id))
        return inspect.snapshot_json(snapshot, pretty=pretty)

    inspect_snapshot = sync_twin(inspect_snapshot_async)

    async def diff_async(
        self,
        *,
        from_branch: str | None = None,
        from_tag: str | None = None,
        from_snapshot_id: str | None = None,
        to_branch: str | None = None,
        to_tag: str | None = None,
        to_snapshot_id: str | None = None,
    ) -> Diff:
        """What changed between two versions.

        Parameters
        ----------
        from_branch, from_tag, from_snapshot_id
            Exactly one names the earlier version, whose changes do not count.
        to_branch, to_tag, to_snapshot_id
            Exactly one names the later version.

        Raises
        ------
        ValueError
            Not exactly one of each.
        RefNotFound, SnapshotNotFound
        IcechunkError
            The first is not an earlier version of the second.
        """
        assets = self._opened.assets
        start = await history.resolve(assets, Version(from_branch, from_tag, from_snapshot_id))
        end = await history.resolve(assets, Version(to_branch, to_tag, to_snapshot_id))
        return await history.diff(assets, start, end)

    diff = sync_twin(diff_async)

    # -- sessions ----------------------------------------------------------------------------------------------

    async def readonly_session_async(
        self,
        branch: str | None = None,
        *,
        tag: str | None = None,
        snapshot_id: str | None = None,
        as_of: datetime | None = None,
    ) -> Session:
        """A read-only checkout of a version.

        Parameters
        ----------
        branch, tag, snapshot_id
            Exactly one names the version.
        as_of
            With `branch`: its newest version written at or before this moment (aware datetime).

        Raises
        ------
        ValueError
            Not exactly one of them, or `as_of` without `branch`.
        RefNotFound, SnapshotNotFound
        """
        assets = self._opened.assets
        version = Version(branch, tag, snapshot_id)
        if as_of is None:
            id = await history.resolve(assets, version)
        elif branch is None:
            raise ValueError("as_of argument must be provided together with a branch name")
        else:
            id = await history.as_of(assets, branch, as_of)
        return self._session(self._opened.workspace(await history.fetch(assets, id)))

    readonly_session = sync_twin(readonly_session_async)

    async def writable_session_async(self, branch: str) -> Session:
        """A checkout of the tip of a branch, to be changed and committed.

        Raises
        ------
        RefNotFound
            There is no such branch.
        ReadOnlyError
            The storage cannot be written to.
        """
        self._opened.check_writable("Cannot create writable_session")
        assets = self._opened.assets
        id = await history.resolve(assets, Version(branch=branch))
        snapshot = await history.fetch(assets, id)
        return self._session(self._opened.workspace(snapshot, branch=branch, default_metadata=self._default_metadata))

    writable_session = sync_twin(writable_session_async)

    def _session(self, workspace: Workspace) -> Session:
        preload.begin(workspace.assets, workspace.config, workspace.snapshot)
        return Session(workspace)

    @contextlib.contextmanager
    def transaction(
        self,
        branch: str,
        *,
        message: str,
        metadata: dict[str, Any] | None = None,
        rebase_with: ConflictSolver | None = None,
        rebase_tries: int = DEFAULT_TRIES,
    ) -> Iterator[IcechunkStore]:
        """A writable store that is committed on leaving the ``with`` block; not if an exception leaves it.

        Parameters
        ----------
        branch
            To commit to.
        message, metadata, rebase_with, rebase_tries
            As for `Session.commit`, whose errors these are too.
        """
        session = self.writable_session(branch)
        yield session.store
        session.commit(message, metadata, rebase_with=rebase_with, rebase_tries=rebase_tries)
