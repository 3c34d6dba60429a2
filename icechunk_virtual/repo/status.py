"""What a session changed, in the words of a diff."""

from __future__ import annotations

from collections.abc import Iterable

from icechunk_virtual.model.nodes import ArrayNode, Node
from icechunk_virtual.repo import chunks, tree
from icechunk_virtual.repo.info import Diff
from icechunk_virtual.repo.workspace import Workspace


def describe_changes(ws: Workspace) -> Diff:
    """The uncommitted changes of a session."""
    with ws.lock:
        changes = ws.changes
        coords = {}
        for path in sorted(changes.edited_arrays()):
            overlay = chunks.edits_in_grid(ws, tree.get_array(ws, path))
            coords[path] = overlay.refs.replace(overlay.deleted).coords.tolist()
        new, updated, deleted = changes.new.values(), changes.updated.values(), changes.deleted.values()
        return Diff(
            new_groups=_paths(new, arrays=False),
            new_arrays=_paths(new, arrays=True),
            deleted_groups=_paths(deleted, arrays=False),
            deleted_arrays=_paths(deleted, arrays=True),
            updated_groups=_paths(updated, arrays=False),
            updated_arrays=_paths(updated, arrays=True),
            updated_chunks=coords,
        )


def _paths(nodes: Iterable[Node], *, arrays: bool) -> set[str]:
    return {node.path for node in nodes if isinstance(node, ArrayNode) is arrays}
