"""Moving a session's changes over the commits that came first, and committing until nobody comes first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from icechunk_virtual.errors import ConflictError, IcechunkError, ReadOnlyError, RebaseFailedError
from icechunk_virtual.model.checked import IntRange
from icechunk_virtual.model.ids import SnapshotId, encode_id
from icechunk_virtual.model.nodes import ArrayNode, Node
from icechunk_virtual.repo import history, refs
from icechunk_virtual.repo.change_set import ChangeSet
from icechunk_virtual.repo.commit import commit
from icechunk_virtual.repo.conflicts import Conflict, ConflictSolver, FindNode, find_conflicts, our_changes, yielded
from icechunk_virtual.repo.format.snapshot import Snapshot
from icechunk_virtual.repo.format.transaction_log import TransactionLog
from icechunk_virtual.repo.workspace import Workspace

DEFAULT_TRIES = 1000
_TRIES = IntRange(0, 2**16 - 1)
_LOGS_AT_ONCE = 16
logger = logging.getLogger(__name__)


async def commit_rebasing(
    ws: Workspace,
    message: str,
    metadata: Mapping[str, Any] | None,
    solver: ConflictSolver | None,
    tries: int | None = DEFAULT_TRIES,
) -> SnapshotId:
    """Commit; when somebody else was first, rebase and try again, up to `tries` times.

    Raises
    ------
    ConflictError
        There is no solver, or the branch is gone, or others were first every time.
    RebaseFailedError
        The solver does not solve a conflict.
    """
    tries = DEFAULT_TRIES if tries is None else _TRIES(tries)
    if solver is None:
        return await commit(ws, message, metadata)
    _check_solver(solver)
    for _ in range(tries):
        try:
            return await commit(ws, message, metadata)
        except ConflictError as error:
            if error.actual_parent is None:  # the branch is gone: there is nothing to rebase onto
                raise
            logger.info("commit: branch %r has moved to %s, rebasing", ws.branch, error.actual_parent)
        await rebase(ws, solver)
    return await commit(ws, message, metadata)


async def rebase(ws: Workspace, solver: ConflictSolver) -> None:
    """Move the changes of a session onto the tip of its branch, commit by commit, the oldest first.

    When one commit cannot be passed, those before it have been: the session's base is the last of them.

    Raises
    ------
    RebaseFailedError
        Conflicts that the solver does not solve.
    IcechunkError
        The session's base is not in the history of the branch any more.
    """
    if ws.branch is None:
        raise ReadOnlyError("Read only sessions cannot be rebased. Open one with repo.writable_session().")
    _check_solver(solver)
    with ws.exclusively():
        tip_id, _ = await refs.read_branch(ws.assets.objects, ws.branch)
        if tip_id == ws.snapshot.id:
            logger.warning("rebase: branch %r has no new commits, nothing to do", ws.branch)
            return
        passed = await _commits_since(ws, tip_id)
        tip = await history.fetch(ws.assets, tip_id)
        dirty = bool(ws.changes) or ws.changes.superseded
        for start in range(0, len(passed), _LOGS_AT_ONCE):
            batch = passed[start : start + _LOGS_AT_ONCE]
            logs = await asyncio.gather(*(ws.assets.fetch_transaction_log(id) for id in batch))
            base, error = _pass_over(ws, solver, logs, tip.find)
            if base is not None:
                move_onto(ws, await history.fetch(ws.assets, base))
                ws.changes.superseded = dirty and not ws.changes
            if error is not None:
                raise error


def _pass_over(
    ws: Workspace, solver: ConflictSolver, logs: Sequence[TransactionLog], tip: FindNode
) -> tuple[SnapshotId | None, RebaseFailedError | None]:
    """Solve the conflicts with commits, the oldest first: the last one that was passed, and what stopped it."""
    passed = None
    ours = our_changes(ws.changes, ws.snapshot.find)
    for log in logs:
        conflicts = find_conflicts(ours, log, tip)
        theirs = yielded(solver, conflicts)
        if theirs is None:
            return passed, RebaseFailedError(encode_id(log.id), conflicts)
        if theirs:
            _give_way(ws, theirs)
            ours = our_changes(ws.changes, ws.snapshot.find)
        passed = log.id
    return passed, None


def _check_solver(solver: object) -> None:
    if not isinstance(solver, ConflictSolver):
        raise TypeError(f"a ConflictSolver is required, such as ConflictDetector(), not {type(solver).__name__}")


async def _commits_since(ws: Workspace, tip: SnapshotId) -> Sequence[SnapshotId]:
    """The commits after the session's base up to `tip`, the oldest first."""
    newer: list[SnapshotId] = []
    async for snapshot in history.ancestors(ws.assets, tip):
        if snapshot.id == ws.snapshot.id:
            return newer[::-1]
        newer.append(snapshot.id)
    raise IcechunkError(
        f"cannot rebase: the session's base {encode_id(ws.snapshot.id)} is not in the history of branch "
        f"`{ws.branch}` any more, which was reset, or whose old snapshots expired. Open a new session and repeat "
        "the changes.",
        snapshot=encode_id(ws.snapshot.id),
    )


def _give_way(ws: Workspace, conflicts: Sequence[Conflict]) -> None:
    """Forget our changes of chunks that others changed too."""
    with ws.lock:
        for conflict in conflicts:
            edits = ws.changes.chunks(conflict.path)
            coords = conflict.conflicted_chunks or []
            if edits is not None:
                edits.forget(np.array(coords, np.uint32).reshape(len(coords), edits.ndim))


def move_onto(ws: Workspace, snapshot: Snapshot) -> None:
    """Exchange the base of a session; its changes must not conflict with what lies between."""
    with ws.lock:
        ws.changes = rebased(ws.changes, ws.snapshot.find, snapshot.find)
        ws.rebase_on(snapshot, ws.branch)


def rebased(changes: ChangeSet, old: FindNode, new: FindNode) -> ChangeSet:
    """The same changes on top of another base, whose nodes may have other manifests, or be gone."""
    moved = changes.copy()
    for path, node in changes.deleted.items():
        now = new(path)
        if now is None or now.id != node.id:
            del moved.deleted[path]  # somebody else deleted it too
        else:
            moved.deleted[path] = now
    for path in moved.new:
        now = new(path)
        if now is not None:  # a base in the middle may have what others deleted again: ours stands in its place
            moved.deleted.setdefault(path, now)
    for path, node in changes.updated.items():
        moved.updated[path] = _with_manifests(node, old(path), new(path))
    return moved


def _with_manifests(ours: Node, old: Node | None, new: Node | None) -> Node:
    """Our document of a node, and its chunks as they are in the new base.

    An array whose number of dimensions the session changed has lost its chunks, and keeps having none.
    """
    if not isinstance(ours, ArrayNode) or not isinstance(new, ArrayNode):
        return ours
    lost = isinstance(old, ArrayNode) and ours.manifests != old.manifests
    return ours if lost or ours.layout.ndim != new.layout.ndim else replace(ours, manifests=new.manifests)
