"""Copies of a session that are written to elsewhere, and how their changes come back."""

from __future__ import annotations

from dataclasses import replace

from icechunk_virtual.errors import IcechunkError
from icechunk_virtual.model.nodes import ArrayNode
from icechunk_virtual.repo.workspace import Workspace


def copy_of(ws: Workspace) -> Workspace:
    """An independent workspace with the same base and changes."""
    return replace(ws, changes=ws.changes.copy(), lock=type(ws).new_lock(), committed={}, written={}, fork_id=None)


def same_state(one: Workspace, other: Workspace) -> bool:
    """Whether two workspaces are one, or copies that show the same."""
    if one is other:
        return True
    if one.assets.objects != other.assets.objects or one.snapshot.id != other.snapshot.id:
        return False
    if one.read_only and other.read_only:
        return not one.changes and not other.changes
    return one.fork_id is not None and one.fork_id == other.fork_id


def merge(ours: Workspace, theirs: Workspace) -> None:
    """Add the changes of a fork; where both changed the same, theirs stand.

    Raises
    ------
    IcechunkError
        Both created a node at the same path, so that the chunks of one would be lost. Nothing is merged then.
    """
    with ours.lock, theirs.lock:
        mine, other = ours.changes, theirs.changes
        for path, node in other.new.items():
            if path in mine.new and mine.new[path].id != node.id:
                raise IcechunkError(
                    f"cannot merge: two sessions both created a node at `{path}`, and the chunks of one of them would "
                    "be lost. Create groups and arrays before forking, commit, and fork the next session.",
                    path=path,
                )
        for path, node in other.deleted.items():
            if path not in mine.deleted:
                mine.delete(path, [node])
        for node in other.new.values():
            mine.add(node)
        for node in other.updated.values():
            if node.path not in mine.deleted:
                mine.update(node)
                if isinstance(node, ArrayNode):
                    mine.resize(node)
        for path in other.edited_arrays():
            node_now = (
                mine.new.get(path)
                or mine.updated.get(path)
                or (None if path in mine.deleted else ours.snapshot.find(path))
            )
            edits = other.chunks(path)
            if isinstance(node_now, ArrayNode) and edits is not None:
                overlay = edits.columns()
                target = mine.edit_chunks(node_now)
                target.set_many(overlay.refs)
                target.delete_many(overlay.deleted.coords)
