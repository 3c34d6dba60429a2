"""Nodes of a session: the base snapshot's, overlaid with the session's changes.

No I/O: a snapshot holds all nodes. Paths are canonical and absolute (`keys.parse_path`).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import replace

from icechunk_virtual.errors import IcechunkError, NodeExists, NodeNotFound
from icechunk_virtual.model.ids import NODE_ID_SIZE, NodeId
from icechunk_virtual.model.nodes import ROOT, ArrayNode, GroupNode, Node, parse_document
from icechunk_virtual.model.paths import child_path
from icechunk_virtual.repo.workspace import Workspace

_REMEMBERED = 100_000  # nodes looked up before that a session keeps


def find_node(ws: Workspace, path: str) -> Node | None:
    """The node at a path, with the session's changes."""
    changes = ws.changes
    node = changes.new.get(path) or changes.updated.get(path)
    if node is not None:
        return node
    return None if path in changes.deleted else find_committed(ws, path)


def find_committed(ws: Workspace, path: str) -> Node | None:
    """The node at a path in the base snapshot."""
    known = ws.committed
    try:
        return known[path]
    except KeyError:
        if len(known) >= _REMEMBERED:
            known.clear()
        node = known[path] = ws.snapshot.find(path)
        return node


def get_node(ws: Workspace, path: str) -> Node:
    """The node at a path.

    Raises
    ------
    NodeNotFound
    """
    node = find_node(ws, path)
    if node is None:
        raise NodeNotFound(f"node not found at `{path}`", path=path)
    return node


def get_array(ws: Workspace, path: str) -> ArrayNode:
    """The array at a path.

    Raises
    ------
    NodeNotFound
        Nothing is there.
    IcechunkError
        A group is there.
    """
    node = get_node(ws, path)
    if isinstance(node, GroupNode):
        raise IcechunkError(f"there is not an array at `{path}`: getting an array, but it is a group", path=path)
    return node


def set_document(ws: Workspace, path: str, document: bytes) -> None:
    """Create or update the node at a path from its `zarr.json`.

    Parents are neither checked nor created. Identical bytes change nothing.

    Raises
    ------
    InvalidMetadata
        The document is not that of a group or regular array.
    NodeExists
        A node of the other type is there.
    """
    layout = parse_document(document, path)
    with ws.lock:
        ws.check_writable()
        old = find_node(ws, path)
        if old is None:
            id = NodeId(ws.world.random_bytes(NODE_ID_SIZE))
            ws.changes.add(GroupNode(id, path, document) if layout is None else ArrayNode(id, path, document, layout))
            return
        if isinstance(old, ArrayNode) != (layout is not None):
            have, wanted = ("an array", "group") if isinstance(old, ArrayNode) else ("a group", "array")
            raise NodeExists(
                f"node already exists at `{path}`: trying to add {wanted}, but {have} is there. Delete it first.",
                path=path,
            )
        if old.document == document:
            return
        node: Node
        if isinstance(old, ArrayNode) and layout is not None:
            node = replace(old, document=document, layout=layout)
            if layout.ndim != old.layout.ndim:
                node = replace(node, manifests=())
            ws.changes.resize(node)
        else:
            node = replace(old, document=document)
        (ws.changes.add if path in ws.changes.new else ws.changes.update)(node)


def delete_node(ws: Workspace, path: str) -> None:
    """Delete the node at a path and everything below it; nothing there is no error."""
    with ws.lock:
        ws.check_writable()
        ws.changes.delete(path, list(ws.snapshot.subtree(path)))


def walk(ws: Workspace, path: str = ROOT) -> Iterator[Node]:
    """The node at a path and everything below it, in the order of snapshots."""
    with ws.lock:
        base = _committed_below(ws, path)
        new = sorted(ws.changes.new_below(path), key=_path_of)
    return heapq.merge(base, new, key=_path_of)


def children(ws: Workspace, path: str) -> list[str]:
    """Names of the nodes directly below a path."""
    with ws.lock:
        changes = ws.changes
        names = dict.fromkeys(changes.new_children(path))
    kept = (name for name in ws.snapshot.children(path) if child_path(path, name) not in changes.deleted)
    names.update(dict.fromkeys(kept))
    return list(names)


def is_directory(ws: Workspace, path: str) -> bool:
    """Whether a node is at a path or anywhere below it: nodes may lie under paths without one."""
    if find_node(ws, path) is not None or ws.changes.has_new_below(path):
        return True
    return next(_committed_below(ws, path), None) is not None


def _committed_below(ws: Workspace, path: str) -> Iterator[Node]:
    """Nodes of the base at a path and below it, as the session has them."""
    changes = ws.changes
    nodes = ws.snapshot.subtree(path)
    return (changes.updated.get(node.path, node) for node in nodes if node.path not in changes.deleted)


def _path_of(node: Node) -> str:
    return node.path  # texts sort as their UTF-8 bytes, which snapshots are sorted by
