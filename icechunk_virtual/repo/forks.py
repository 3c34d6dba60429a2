"""Copies of a session that are written to elsewhere, and how their changes come back."""

from __future__ import annotations

from dataclasses import replace

from icechunk_virtual.errors import IcechunkError
from icechunk_virtual.model.ids import NodeId
from icechunk_virtual.model.nodes import ArrayNode, GroupNode, Node
from icechunk_virtual.repo import tree
from icechunk_virtual.repo.change_set import ChangeSet
from icechunk_virtual.repo.workspace import Workspace


def written_since_arrival(ws: Workspace) -> Workspace:
    """The chunks that a fork wrote since it was unpickled, as a fork of their own; all changes if there were others.

    What a thousand copies of one fork inherited need not travel back a thousand times; and where one of them has
    written over it, the others cannot bring it back.
    """
    changes = None if ws.arrived is None else ws.changes.chunks_since(ws.arrived)
    if changes is None:
        return ws
    part = ws.with_changes(changes)
    part.fork_id = ws.fork_id
    return part


def same_state(one: Workspace, other: Workspace) -> bool:
    """Whether two workspaces are one, or copies that show the same."""
    if one is other:
        return True
    if one.assets.objects != other.assets.objects or one.base_id != other.base_id:
        return False
    if one.read_only and other.read_only:
        return not one.changes and not other.changes
    return one.fork_id is not None and one.fork_id == other.fork_id


def merge(ours: Workspace, *forks: Workspace) -> None:
    """Add the changes of forks; where several changed the same, the later stand. All of them are added, or none.

    Raises
    ------
    IcechunkError
        Two created a node at the same path, so that the chunks of one would be lost.
        Groups with the same document are no such case: writing an array creates the groups above it.
    """
    with ours.lock:
        ours.check_writable()
        before = ours.changes.copy() if len(forks) > 1 else ours.changes  # one is judged before anything changes
        try:
            for theirs in forks:
                if theirs is not ours:  # all threads of a process write through one fork
                    with theirs.lock:
                        _merge_one(ours, theirs)
        except BaseException:
            ours.changes = before
            raise


def _merge_one(ours: Workspace, theirs: Workspace) -> None:
    _check_new_nodes(ours, theirs.changes)
    _merge_nodes(ours, theirs.changes)
    _merge_chunks(ours, theirs)


def _check_new_nodes(ours: Workspace, other: ChangeSet) -> None:
    for path, node in other.new.items():
        present = tree.find_node(ours, path)
        if present is None or present.id in {node.id, _id(other.deleted.get(path))}:
            continue
        if not _same_group(present, node):
            raise IcechunkError(
                f"cannot merge: two sessions both created a node at `{path}`, and the chunks of one of them would "
                "be lost. Create groups and arrays before forking, commit, and fork the next session.",
                path=path,
            )


def _merge_nodes(ours: Workspace, other: ChangeSet) -> None:
    mine = ours.changes
    for path, node in other.deleted.items():
        committed = tree.find_committed(ours, path)
        if committed is not None and committed.id == node.id and path not in mine.deleted:
            mine.delete(path, [committed])
    for node in other.new.values():
        present = tree.find_node(ours, node.path)
        if present is None or not _same_group(present, node):
            mine.add(node)
    for node in other.updated.values():
        committed = tree.find_committed(ours, node.path)
        if committed is None or committed.id != node.id or node.path in mine.deleted:
            continue
        if isinstance(node, ArrayNode) and isinstance(committed, ArrayNode):  # ours may be on a later version
            same_rank = node.layout.ndim == committed.layout.ndim
            node = replace(node, manifests=committed.manifests if same_rank else ())
            if mine.updated.get(node.path) == node:
                continue
            mine.resize(node)
        mine.update(node)


def _merge_chunks(ours: Workspace, theirs: Workspace) -> None:
    other = theirs.changes
    their_base = ours if ours.base_id == theirs.base_id else theirs  # ours remembers the nodes it has looked up
    for path in other.edited_arrays():
        node_now, written = tree.find_node(ours, path), other.new.get(path) or tree.find_committed(their_base, path)
        edits = other.chunks(path)
        if not isinstance(node_now, ArrayNode) or edits is None or written is None or node_now.id != written.id:
            continue  # ours deleted the array: the deletion stands, whatever is at its path now
        if edits.ndim == node_now.layout.ndim:
            ours.changes.edit_chunks(node_now).absorb(edits)


def _same_group(one: Node, other: Node) -> bool:
    return isinstance(one, GroupNode) and isinstance(other, GroupNode) and one.document == other.document


def _id(node: Node | None) -> NodeId | None:
    return None if node is None else node.id
