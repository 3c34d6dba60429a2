"""The state of one session: a base snapshot, the changes on top of it, and the way to the bytes.

State only. What can be done with it is in `tree` (nodes), `chunks` (bytes and references), `commit`, and `history`;
the public nouns on the floor above hold a `Workspace` and call those.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from icechunk_virtual.containers.authorize import Authorization
from icechunk_virtual.containers.fetch import Fetcher
from icechunk_virtual.errors import ReadOnlyError
from icechunk_virtual.model.chunk_refs import Extents
from icechunk_virtual.model.ids import NodeId, SnapshotId
from icechunk_virtual.model.nodes import ManifestRef, Node
from icechunk_virtual.model.world import REAL_WORLD, World
from icechunk_virtual.repo.assets import Assets
from icechunk_virtual.repo.change_set import ChangeSet
from icechunk_virtual.repo.config import RepositoryConfig
from icechunk_virtual.repo.format.snapshot import ManifestFile, Snapshot
from icechunk_virtual.repo.remote_chunks import make_fetcher
from icechunk_virtual.repo.split import Rewrite


@dataclass(frozen=True, slots=True)
class WrittenManifest:
    """A manifest that a commit wrote, from what, and when (microseconds since 1970)."""

    rewrite: Rewrite
    result: tuple[ManifestRef, ManifestFile]
    begun_us: int

    def serves(self, rewrite: Rewrite, not_before_us: int) -> bool:
        """Whether it is what `rewrite` would write, and not too old to rely on."""
        return self.begun_us >= not_before_us and self.rewrite.same_as(rewrite)


@dataclass(frozen=True, slots=True)
class UnclearCommit:
    """A commit that may or may not have landed, because nobody heard the answer; and the changes that it made."""

    snapshot: Snapshot
    changes: ChangeSet

    def had(self, changes: ChangeSet) -> bool:
        """Whether it made exactly these changes: the session did not go on since."""
        since = changes.chunks_since(self.changes)
        return since is not None and not since


@dataclass(slots=True, eq=False)
class Workspace:
    """State of a session.

    Attributes
    ----------
    assets
        Where the repository's objects are fetched from and stored to.
    authorization, fetcher
        Which foreign objects may be read, and the way to them.
    config
        Effective configuration of the repository.
    base
        The snapshot that the session started from, or its id while nobody has asked for more: see `snapshot`.
    branch
        The branch to commit to; ``None`` when read-only.
    default_metadata
        Properties of its commits.
    world
        Clock and randomness.
    changes
        On top of the base. Mutated only while `lock` is held; the lock is never held over an ``await``.
    committed
        Nodes of the base looked up before, ``None`` for paths that it does not have.
    written
        Manifests of commits that lost their race, by array and box: the next try need not write them again.
    unclear
        Commits whose answers were lost. When the branch turns out to be at one of them, the session is committed.
    committing
        A commit or rebase is under way: writes are refused.
    fork_id
        The same for all copies of a fork, ``None`` for a session that is none.
    arrived
        The changes that travelled in a pickle, as they were then.
    """

    assets: Assets
    authorization: Authorization
    fetcher: Fetcher
    config: RepositoryConfig
    base: Snapshot | SnapshotId
    branch: str | None = None
    default_metadata: dict[str, Any] = field(default_factory=dict)
    world: World = REAL_WORLD
    changes: ChangeSet = field(default_factory=ChangeSet)
    lock: threading.RLock = field(default_factory=threading.RLock)
    committed: dict[str, Node | None] = field(default_factory=dict)
    written: dict[tuple[NodeId, Extents], WrittenManifest] = field(default_factory=dict)
    unclear: list[UnclearCommit] = field(default_factory=list)
    committing: bool = False
    fork_id: str | None = None
    arrived: ChangeSet | None = None

    @property
    def snapshot(self) -> Snapshot:
        """The base. Fetched now if only its id travelled in a pickle."""
        if not isinstance(self.base, Snapshot):
            self.base = self.assets.fetch_snapshot_now(self.base)
        return self.base

    @property
    def base_id(self) -> SnapshotId:
        """Id of the base."""
        return self.base.id if isinstance(self.base, Snapshot) else self.base

    @property
    def read_only(self) -> bool:
        """Whether the session cannot change anything."""
        return self.branch is None

    def with_changes(self, changes: ChangeSet) -> Workspace:
        """An independent workspace on the same base with other changes. What is under way here is not there."""
        return Workspace(
            self.assets,
            self.authorization,
            self.fetcher,
            self.config,
            self.base,
            self.branch,
            self.default_metadata,
            self.world,
            changes,
        )

    def check_writable(self) -> None:
        """Raise `ReadOnlyError` unless the session may change something."""
        if self.branch is None:
            raise ReadOnlyError(
                "cannot write to read-only store: its session was opened read-only or has been committed. "
                "Open a new one with repo.writable_session(branch)."
            )
        if self.committing:
            raise ReadOnlyError(
                "cannot write to a session while it is being committed or rebased; wait for that to end."
            )

    @contextlib.contextmanager
    def exclusively(self) -> Iterator[None]:
        """Refuse writes meanwhile, which would be lost between the files written and the session closed."""
        with self.lock:
            if self.committing:
                raise ReadOnlyError("the session is being committed or rebased already; wait for that to end.")
            self.committing = True
        try:
            yield
        finally:
            self.committing = False

    def finish(self, snapshot: Snapshot) -> None:
        """The changes are in `snapshot` now: read-only from here on."""
        with self.lock:
            self.changes, self.written, self.unclear = ChangeSet(), {}, []
            self.rebase_on(snapshot, None)

    def rebase_on(self, snapshot: Snapshot, branch: str | None) -> None:
        """Exchange the base."""
        with self.lock:
            self.base, self.branch, self.committed = snapshot, branch, {}

    def __reduce__(self) -> tuple[Any, ...]:
        state = (self.assets, self.authorization, self.config, self.base_id, self.branch, self.default_metadata)
        with self.lock:
            return _restore, (*state, self.changes.copy(), self.fork_id)


def _restore(
    assets: Assets,
    authorization: Authorization,
    config: RepositoryConfig,
    base: SnapshotId,
    branch: str | None,
    default_metadata: dict[str, Any],
    changes: ChangeSet,
    fork_id: str | None,
) -> Workspace:
    """After pickling: locks and connections are made anew, the base is fetched when it is needed."""
    fetcher = make_fetcher(authorization, config, assets.limiter)
    ws = Workspace(assets, authorization, fetcher, config, base, branch, default_metadata)
    ws.changes, ws.arrived, ws.fork_id = changes, changes.copy(), fork_id
    return ws
