"""Everything a session changed since its base snapshot: nodes and chunks.

Pure bookkeeping without I/O. `ChangeSet` is mutable and not thread safe; its session guards it.
"""

from __future__ import annotations

from collections.abc import Iterable

from icechunk_virtual.model.nodes import ROOT, ArrayNode, Node
from icechunk_virtual.model.paths import parent_path
from icechunk_virtual.repo.chunk_edits import ChunkEdits


class ChangeSet:
    """Changes of one session.

    Attributes
    ----------
    new : dict of path to node
        Nodes that the base does not have, with fresh ids.
    updated : dict of path to node
        Nodes of the base with a new document; id and manifests are the base's.
    deleted : dict of path to node
        Nodes of the base that are gone; the path may also be in `new`.
    superseded : bool
        There were changes, but a rebase found that others had made them all: a commit is still in order.
    """

    def __init__(self) -> None:
        self.new: dict[str, Node] = {}
        self.updated: dict[str, Node] = {}
        self.deleted: dict[str, Node] = {}
        self.superseded = False
        self._chunks: dict[str, ChunkEdits] = {}  # path of the array, as it is called now
        self._below: dict[str, dict[str, None]] = {}  # directly below a path: new nodes, and paths that lead to some

    def __bool__(self) -> bool:
        return bool(self.new or self.updated or self.deleted or any(self._chunks.values()))

    # -- nodes -------------------------------------------------------------------------------------------------

    def add(self, node: Node) -> None:
        """A node that the session creates; or a new document for one that it created."""
        self.new[node.path] = node
        path = node.path
        while path != ROOT:
            below = self._below.setdefault(parent_path(path), {})
            if path in below:
                return
            below[path] = None
            path = parent_path(path)

    def update(self, node: Node) -> None:
        """A node of the base with a new document."""
        self.updated[node.path] = node

    def resize(self, node: ArrayNode) -> None:
        """Adjust the chunk edits of an array to its new grid."""
        edits = self._chunks.get(node.path)
        if edits is not None and edits.ndim != node.layout.ndim:
            del self._chunks[node.path]
        elif edits is not None:
            edits.clip(node.layout.grid_shape)

    def delete(self, path: str, committed: Iterable[Node]) -> None:
        """Delete the node at `path` and all below it.

        Parameters
        ----------
        path
            Of the node.
        committed
            The nodes of the base that go: the node itself, if the base has it, and those below it.
        """
        paths = self._paths_at(path)
        for gone in paths:
            self.new.pop(gone, None)
            self._below.pop(gone, None)
            self._chunks.pop(gone, None)
        self._unlink(path)
        for node in committed:
            self._chunks.pop(node.path, None)
            if node.path not in self.deleted:
                self.updated.pop(node.path, None)
                self.deleted[node.path] = node

    def _paths_at(self, path: str) -> list[str]:
        """The path, and all below it that are or lead to new nodes."""
        paths = [path]
        for known in paths:  # grows meanwhile
            paths += self._below.get(known, ())
        return paths

    def _unlink(self, path: str) -> None:
        """Forget a path under which there is no new node any more, and those above that led only there."""
        while path != ROOT:
            parent = parent_path(path)
            below = self._below.get(parent, {})
            below.pop(path, None)
            if below:
                return
            self._below.pop(parent, None)
            if parent in self.new:
                return
            path = parent

    def new_below(self, path: str) -> list[Node]:
        """New nodes at or below a path."""
        return [self.new[found] for found in self._paths_at(path) if found in self.new]

    def has_new_below(self, path: str) -> bool:
        """Whether there are new nodes below a path."""
        return path in self._below

    def new_children(self, path: str) -> list[str]:
        """Names of new nodes directly below a path."""
        return [child.rpartition("/")[2] for child in self._below.get(path, ()) if child in self.new]

    # -- chunks ------------------------------------------------------------------------------------------------

    def chunks(self, path: str) -> ChunkEdits | None:
        """Chunk edits of an array, if there are any."""
        return self._chunks.get(path)

    def edit_chunks(self, node: ArrayNode) -> ChunkEdits:
        """Chunk edits of an array, to be added to."""
        edits = self._chunks.get(node.path)
        if edits is None:
            edits = self._chunks[node.path] = ChunkEdits(node.layout.ndim)
        return edits

    def edited_arrays(self) -> list[str]:
        """Paths of the arrays whose chunks were edited."""
        return [path for path, edits in self._chunks.items() if edits]

    # -- as a whole --------------------------------------------------------------------------------------------

    def chunks_since(self, before: ChangeSet) -> ChangeSet | None:
        """The chunk edits without those that an earlier copy had already, with the nodes of their arrays.

        ``None`` if nodes have changed too.
        """
        if (self.new, self.updated, self.deleted) != (before.new, before.updated, before.deleted):
            return None
        later = ChangeSet()
        for path, edits in self._chunks.items():
            earlier = before.chunks(path)
            since = edits.copy() if earlier is None else edits.since(earlier)
            if since:
                later._chunks[path] = since
                if path in self.deleted:
                    later.deleted[path] = self.deleted[path]
                if path in self.updated:
                    later.update(self.updated[path])
                if path in self.new:
                    later.add(self.new[path])
        return later

    def copy(self) -> ChangeSet:
        """An independent copy, without edits that came to nothing: another base may have an array of another rank."""
        other = ChangeSet()
        other.new, other.updated, other.deleted = dict(self.new), dict(self.updated), dict(self.deleted)
        other.superseded = self.superseded
        other._chunks = {path: edits.copy() for path, edits in self._chunks.items() if edits}
        other._below = {path: dict(below) for path, below in self._below.items()}
        return other
