"""Conflicts between a session's changes and a commit that came first, and who decides them.

Pure: a change set, a transaction log and snapshots in, conflicts and decisions out. Walking the history and moving the
session onto its new base is `rebase`'s business.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.model.ids import NodeId
from icechunk_virtual.model.nodes import ArrayNode, Node
from icechunk_virtual.model.paths import parent_path
from icechunk_virtual.repo.change_set import ChangeSet
from icechunk_virtual.repo.chunk_edits import coordinate_set
from icechunk_virtual.repo.format.transaction_log import TransactionLog

_FEW = 64  # chunks are compared one by one, which takes less time than setting up columns

FindNode = Callable[[str], Node | None]
"""The node at a path in some version, ``None`` if there is none."""


class ConflictType(enum.Enum):
    """What a conflict is about. ``int()`` gives the original's number, ``str()`` a sentence."""

    NewNodeConflictsWithExistingNode = (1, "New node conflicts with existing node")
    NewNodeInInvalidGroup = (2, "New node in invalid group")
    ZarrMetadataDoubleUpdate = (3, "Zarr metadata double update")
    ZarrMetadataUpdateOfDeletedArray = (4, "Zarr metadata update of deleted array")
    ZarrMetadataUpdateOfDeletedGroup = (5, "Zarr metadata update of deleted group")
    ChunkDoubleUpdate = (6, "Chunk double update")
    ChunksUpdatedInDeletedArray = (7, "Chunks updated in deleted array")
    ChunksUpdatedInUpdatedArray = (8, "Chunks updated in updated array")
    DeleteOfUpdatedArray = (9, "Delete of updated array")
    DeleteOfUpdatedGroup = (10, "Delete of updated group")

    def __int__(self) -> int:
        return self.value[0]

    def __str__(self) -> str:
        return self.value[1]

    def __repr__(self) -> str:
        return self.name


class VersionSelection(enum.Enum):
    """Whose version of a chunk stands when both sides changed it."""

    Fail = 0
    UseOurs = 1
    UseTheirs = 2

    def __int__(self) -> int:
        return self.value

    def __repr__(self) -> str:
        return f"VersionSelection.{self.name}"


@dataclass(frozen=True, slots=True)
class Conflict:
    """Something that the session and another commit both changed.

    Attributes
    ----------
    conflict_type : ConflictType
    path : str
        Absolute path of the node.
    conflicted_chunks : list of list of int, or None
        Chunk grid coordinates that both changed, sorted; only of a `ConflictType.ChunkDoubleUpdate`.
    """

    conflict_type: ConflictType
    path: str
    conflicted_chunks: list[list[int]] | None = field(default=None, hash=False)

    def __str__(self) -> str:
        return f"{self.path}: {self.conflict_type}"

    def __repr__(self) -> str:
        return f"Conflict({self.conflict_type!r}, path={self.path})"


# -- solvers -----------------------------------------------------------------------------------------------------


class ConflictSolver(ABC):
    """Decides what becomes of conflicts; `ConflictDetector` and `BasicConflictSolver` are the ones there are."""

    @abstractmethod
    def decide(self, conflict: Conflict) -> VersionSelection:
        """Whose version stands.

        Parameters
        ----------
        conflict
            One of those with a commit that came first; all of them are asked about, in turn.

        Returns
        -------
        VersionSelection
            One that fails lets the whole rebase fail.

        Notes
        -----
        `VersionSelection.UseTheirs` can only be the answer to a `ConflictType.ChunkDoubleUpdate`, and
        `VersionSelection.UseOurs` only to that and to deletions of what others updated.
        """


@dataclass(frozen=True, slots=True)
class ConflictDetector(ConflictSolver):
    """Solves nothing: every conflict fails the rebase and is reported."""

    def decide(self, conflict: Conflict) -> VersionSelection:  # noqa: ARG002  # whatever it is
        """Fail."""
        return VersionSelection.Fail


@dataclass(frozen=True, slots=True, kw_only=True)
class BasicConflictSolver(ConflictSolver):
    """Solves conflicts about chunks, and about nodes that the session deleted.

    Conflicting changes of metadata, and chunks of arrays that others deleted or updated, always fail.

    Parameters
    ----------
    on_chunk_conflict
        Whose version of a chunk stands when both sides wrote or deleted it.
    fail_on_delete_of_updated_array, fail_on_delete_of_updated_group
        Fail where the session deleted a node that another commit updated; otherwise it stays deleted.
    """

    on_chunk_conflict: VersionSelection = VersionSelection.UseOurs
    fail_on_delete_of_updated_array: bool = False
    fail_on_delete_of_updated_group: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.on_chunk_conflict, VersionSelection):
            raise TypeError(f"on_chunk_conflict must be a VersionSelection, not {self.on_chunk_conflict!r}")

    def decide(self, conflict: Conflict) -> VersionSelection:
        """As the parameters say."""
        match conflict.conflict_type:
            case ConflictType.ChunkDoubleUpdate:
                return self.on_chunk_conflict
            case ConflictType.DeleteOfUpdatedArray:
                failing = self.fail_on_delete_of_updated_array
            case ConflictType.DeleteOfUpdatedGroup:
                failing = self.fail_on_delete_of_updated_group
            case _:
                failing = True
        return VersionSelection.Fail if failing else VersionSelection.UseOurs


_OURS_CAN_STAND = frozenset(
    {ConflictType.ChunkDoubleUpdate, ConflictType.DeleteOfUpdatedArray, ConflictType.DeleteOfUpdatedGroup}
)


def yielded(solver: ConflictSolver, conflicts: Sequence[Conflict]) -> list[Conflict] | None:
    """The conflicts in which the session gives way; ``None`` if one of them cannot be solved.

    Raises
    ------
    TypeError
        The solver decides what nobody can decide so, or decides nothing.
    """
    theirs, failed = [], False
    for conflict in conflicts:
        decision = solver.decide(conflict)
        if not isinstance(decision, VersionSelection):
            raise TypeError(f"{type(solver).__name__}.decide must return a VersionSelection, not {decision!r}")
        kind = conflict.conflict_type
        if decision is VersionSelection.Fail:
            failed = True
        elif decision is VersionSelection.UseTheirs and kind is ConflictType.ChunkDoubleUpdate:
            theirs.append(conflict)
        elif decision is VersionSelection.UseTheirs or kind not in _OURS_CAN_STAND:
            raise TypeError(f"{type(solver).__name__}: `{conflict}` cannot be solved by {decision!r}, only fail")
    return None if failed else theirs


# -- detection ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OurChanges:
    """What a session changed, by node ids, as transaction logs have it; the values are paths.

    Attributes
    ----------
    created
        Paths of new nodes, sorted.
    chunks
        Per array its path and the coordinates of the chunks changed, uint32 (n, ndim).
    """

    created: tuple[str, ...]
    updated_arrays: dict[NodeId, str]
    updated_groups: dict[NodeId, str]
    deleted_arrays: dict[NodeId, str]
    deleted_groups: dict[NodeId, str]
    chunks: dict[NodeId, tuple[str, NDArray[np.uint32]]]


def our_changes(changes: ChangeSet, base: FindNode) -> OurChanges:
    """The changes of a session on top of a base."""
    chunks = {}
    for path in sorted(changes.edited_arrays()):
        node = changes.new.get(path) or changes.updated.get(path) or base(path)
        edits = changes.chunks(path)
        if isinstance(node, ArrayNode) and edits is not None:
            grid = tuple((0, n) for n in node.layout.grid_shape)
            chunks[node.id] = path, edits.columns().within(grid).coords
    updated, deleted = changes.updated.values(), changes.deleted.values()
    return OurChanges(
        created=tuple(sorted(changes.new)),
        updated_arrays=_by_id(updated, arrays=True),
        updated_groups=_by_id(updated, arrays=False),
        deleted_arrays=_by_id(deleted, arrays=True),
        deleted_groups=_by_id(deleted, arrays=False),
        chunks=chunks,
    )


def _by_id(nodes: Iterable[Node], *, arrays: bool) -> dict[NodeId, str]:
    chosen = sorted((node.path, node.id) for node in nodes if isinstance(node, ArrayNode) is arrays)
    return {id: path for path, id in chosen}


def find_conflicts(ours: OurChanges, theirs: TransactionLog, tip: FindNode) -> list[Conflict]:
    """Every conflict of a session's changes with one commit, kind by kind in the original's order.

    Parameters
    ----------
    ours
        The session's changes.
    theirs
        The log of the commit.
    tip
        Looks up nodes at the tip of the branch.
    """
    edited = {id: path for id, (path, _) in ours.chunks.items()}
    rewritten = theirs.updated_arrays | theirs.updated_chunks.keys()
    shared = (
        (ConflictType.ZarrMetadataDoubleUpdate, ours.updated_arrays, theirs.updated_arrays),
        (ConflictType.ZarrMetadataDoubleUpdate, ours.updated_groups, theirs.updated_groups),
        (ConflictType.ZarrMetadataUpdateOfDeletedArray, ours.updated_arrays, theirs.deleted_arrays),
        (ConflictType.ZarrMetadataUpdateOfDeletedGroup, ours.updated_groups, theirs.deleted_groups),
        (ConflictType.ChunksUpdatedInDeletedArray, edited, theirs.deleted_arrays),
        (ConflictType.ChunksUpdatedInUpdatedArray, edited, theirs.updated_arrays),
    )
    deletions = (
        (ConflictType.DeleteOfUpdatedArray, ours.deleted_arrays, rewritten),
        (ConflictType.DeleteOfUpdatedGroup, ours.deleted_groups, theirs.updated_groups),
    )
    return [
        *_new_node_conflicts(ours, tip),
        *(Conflict(kind, path) for kind, mine, other in shared for id, path in mine.items() if id in other),
        *_chunk_conflicts(ours, theirs),
        *(
            Conflict(kind, path)
            for kind, mine, other in deletions
            for path in mine.values()
            if (node := tip(path)) is not None and node.id in other  # overwriting is updating, too
        ),
    ]


def _new_node_conflicts(ours: OurChanges, tip: FindNode) -> Iterator[Conflict]:
    """Our new nodes that are in the way of others' nodes; those that we delete are not."""
    gone = ours.deleted_arrays.keys() | ours.deleted_groups.keys()
    at: dict[str, Node | None] = {}

    def existing(path: str) -> Node | None:
        if path not in at:
            node = tip(path)
            at[path] = None if node is None or node.id in gone else node
        return at[path]

    for path in ours.created:
        if existing(path) is not None:
            yield Conflict(ConflictType.NewNodeConflictsWithExistingNode, path)
    for path in ours.created:
        for ancestor in _ancestors(path):
            if isinstance(existing(ancestor), ArrayNode):
                yield Conflict(ConflictType.NewNodeInInvalidGroup, ancestor)
                break


def _ancestors(path: str) -> Iterator[str]:
    while path != "/":
        path = parent_path(path)
        yield path


def _chunk_conflicts(ours: OurChanges, theirs: TransactionLog) -> Iterator[Conflict]:
    for id, (path, coords) in ours.chunks.items():
        other = theirs.chunks(id, coords.shape[1])
        if other is None or not len(coords):
            continue
        both = _common(coords, other)
        if both:
            yield Conflict(ConflictType.ChunkDoubleUpdate, path, both)


def _common(mine: NDArray[np.uint32], theirs: NDArray[np.uint32]) -> list[list[int]]:
    """The coordinates that are in both, in order; `theirs` is sorted, uint32 (n, ndim) and (m, ndim)."""
    if len(mine) + len(theirs) <= _FEW:
        known = set(map(tuple, mine.tolist()))
        return [coord for coord in theirs.tolist() if tuple(coord) in known]
    ours = coordinate_set(mine, mine.shape[1])
    found: list[list[int]] = ours.take(coordinate_set(theirs, mine.shape[1]).find(ours.coords) >= 0).coords.tolist()
    return found
