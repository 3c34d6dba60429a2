"""New nodes of a change set against a plain dict."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from icechunk_virtual.model.ids import NodeId
from icechunk_virtual.model.nodes import GroupNode
from icechunk_virtual.model.paths import is_below
from icechunk_virtual.repo.change_set import ChangeSet

PATHS = st.lists(st.sampled_from(["a", "b", "a-b", "é"]), max_size=4).map(lambda parts: "/" + "/".join(parts))
STEPS = st.lists(st.tuples(st.sampled_from(["add", "add", "delete"]), PATHS), max_size=25)


@given(STEPS, st.lists(PATHS, max_size=4))
def test_new_nodes_are_found_and_forgotten(steps: list[tuple[str, str]], asked: list[str]) -> None:
    changes, known = ChangeSet(), {}
    for step, path in steps:
        if step == "add":
            known[path] = GroupNode(NodeId(bytes(8)), path, b"")
            changes.add(known[path])
        else:
            changes.delete(path, [])
            known = {other: node for other, node in known.items() if other != path and not is_below(other, path)}
    assert changes.new == known
    for path in {*asked, "/", *known}:
        below = {other for other in known if is_below(other, path)}
        found = changes.new_below(path)
        assert {node.path for node in found} == below | ({path} & set(known))
        assert len(found) == len({node.path for node in found})
        assert changes.has_new_below(path) == bool(below)
        names = {other.rpartition("/")[2] for other in below if (other.rpartition("/")[0] or "/") == path}
        assert sorted(changes.new_children(path)) == sorted(names)
    changes.delete("/", [])
    assert not changes
    assert vars(changes) == vars(ChangeSet()), "nothing is left behind"
