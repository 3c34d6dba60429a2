"""The lines that join versions in a log."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from icechunk_virtual.cli.graph import Graph


def drawn(*versions: tuple[str, str | None]) -> list[str]:
    graph, lines = Graph(), []
    for id, parent in versions:
        joins, line = graph.add(id, parent)
        lines += [*joins, f"{line} {id}"]
    return lines


def test_one_line_of_descent() -> None:
    assert drawn(("c", "b"), ("b", "a"), ("a", None)) == ["* c", "* b", "* a"]


def test_two_branches() -> None:
    assert drawn(("d", "b"), ("c", "b"), ("b", "a"), ("a", None)) == ["* d", "| * c", "|/", "* b", "* a"]


def test_a_join_across_a_lane() -> None:
    lines = drawn(("f", "a"), ("e", "d"), ("c", "a"), ("d", "a"), ("a", None))
    assert lines == ["* f", "| * e", "| | * c", "| * | d", "| |/", "|/", "* a"]
    lines = drawn(("f", "b"), ("e", "a"), ("c", "b"), ("b", "a"), ("a", None))
    assert lines == ["* f", "| * e", "| | * c", "|_|/", "* | b", "|/", "* a"]


def test_lanes_to_the_right_move_up() -> None:
    lines = drawn(("f", "b"), ("e", "b"), ("c", "a"), ("b", "a"), ("a", None))
    assert lines == ["* f", "| * e", "| | * c", "|/ /", "* | b", "|/", "* a"]


def test_a_parent_that_is_younger_than_its_child() -> None:
    assert drawn(("a", None), ("b", "a"), ("c", "b")) == ["* a", "* b", "* c"]


@given(st.lists(st.integers(0, 30), max_size=30), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_any_tree(parents: list[int], random: object) -> None:
    """Version i has the parent `parents[i] % i`; every star is where a lane of its child, or a new one, is."""
    ids = [str(i) for i in range(len(parents) + 1)]
    parent = {ids[i]: ids[choice % i] for i, choice in enumerate(parents, 1)}
    graph = Graph()
    for id in reversed(ids):
        joins, line = graph.add(id, parent.get(id))
        children = sum(1 for at in parent.values() if at == id)
        assert len(joins) == max(0, children - 1)
        assert line.count("*") == 1
        assert all(set(text) <= set("|_/ ") for text in joins)
    assert line == "*"
