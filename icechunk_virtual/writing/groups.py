"""Writing a tree as new groups and arrays."""

from __future__ import annotations

import json
from typing import Literal

from icechunk_virtual.errors import NodeExists
from icechunk_virtual.model.nodes import ArrayNode, GroupNode
from icechunk_virtual.model.paths import child_path, parent_path
from icechunk_virtual.scanners.dataset import VirtualGroup
from icechunk_virtual.writing.plan import Plan


def plan_groups(plan: Plan, root: VirtualGroup, at: str, mode: Literal["w", "w-", "a", "r+"]) -> None:
    """Plan to write `root` as the group at a path, with its parents.

    Raises
    ------
    NodeExists
        Something is there that `mode` keeps.
    """
    existing = plan.node(at)
    below = plan.children(at)
    if mode != "w" and isinstance(existing, ArrayNode):
        raise NodeExists(f"`{at}` is an array. Use mode='w' to replace it, or group=... to write beside it.", path=at)
    if mode == "w-" and below:
        raise NodeExists(
            f"`{at}` is not empty, it has `{below[0]}`. Use mode='a' to add to it, mode='w' to replace it, "
            "append_dim=... to append along a dimension, or group=... to write beside it.",
            path=at,
        )
    if mode == "w" and (existing is not None or below):
        plan.delete(at)
    _plan_parents(plan, at)
    for path, group in root.walk(at):
        _plan_group(plan, path, group, keep=mode != "w")


def _plan_parents(plan: Plan, at: str) -> None:
    path, missing = at, []
    while path != "/":
        path = parent_path(path)
        node = plan.node(path)
        if isinstance(node, ArrayNode):
            raise NodeExists(f"`{path}` is an array, so nothing can be below it. Choose another group.", path=path)
        if node is None:
            missing.append(path)
    for path in reversed(missing):
        plan.set_group(path, {})


def _plan_group(plan: Plan, path: str, group: VirtualGroup, *, keep: bool) -> None:
    existing = plan.node(path) if keep else None
    if isinstance(existing, ArrayNode):
        raise NodeExists(f"`{path}` is an array, and the dataset has a group of that name", path=path)
    old = {} if existing is None else json.loads(existing.document).get("attributes", {})
    plan.set_group(path, {**old, **group.attributes})
    for name, array in group.arrays.items():
        place = child_path(path, name)
        found = plan.node(place) if keep else None
        if isinstance(found, GroupNode):
            raise NodeExists(f"`{place}` is a group, and the dataset has an array of that name", path=place)
        if found is not None:
            plan.delete(place)
        plan.set_document(place, array.document)
        plan.set_refs(place, array.refs)
