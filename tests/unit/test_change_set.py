"""`ChangeSet`: copies are whole and independent."""

from __future__ import annotations

import copy
from typing import Any

from icechunk_virtual.model.chunks import InlineChunk
from icechunk_virtual.model.nodes import ArrayNode
from icechunk_virtual.repo.change_set import ChangeSet
from tests.support.hierarchies import array_document, new_repository, put, writable


def full() -> ChangeSet:
    """Changes in which no attribute is empty."""
    repo = new_repository()
    session = writable(repo)
    for name in ("updated", "deleted"):
        put(session.store, f"{name}/zarr.json", array_document((4,)))
    session.commit("base")
    session = writable(repo)
    put(session.store, "new/zarr.json", array_document((4,)))
    put(session.store, "new/c/0", b"x")
    put(session.store, "updated/zarr.json", array_document((5,)))
    from zarr.core.sync import sync

    sync(session.store.delete("deleted/zarr.json"))
    changes = session._workspace.changes
    changes.superseded = True
    assert all(vars(changes).values()), "an attribute that is empty would prove nothing"
    return changes


def state(changes: ChangeSet) -> dict[str, Any]:
    """Every attribute, so that one added later is compared as well."""
    found = dict(vars(changes))
    found["_chunks"] = {path: (edits._single, edits._layers) for path, edits in changes._chunks.items()}
    return copy.deepcopy(found)


def test_a_copy_has_everything() -> None:
    """That changes were superseded, too: losing it would refuse a commit that is still in order."""
    changes = full()
    assert state(changes.copy()) == state(changes)


def test_a_copy_is_independent() -> None:
    changes = full()
    before, other = state(changes), changes.copy()
    node = other.new["/new"]
    assert isinstance(node, ArrayNode)
    other.edit_chunks(node).set((3,), InlineChunk(b"y"))
    other.delete("/new", [])
    other.updated.clear()
    other.deleted.clear()
    other.superseded = False
    assert state(changes) == before
