"""Synchronous and asynchronous names of the public nouns come from one definition."""

from __future__ import annotations

import ast
import importlib
import inspect

import pytest

from tests.support.source import PACKAGE, modules

NOUNS = ("branches", "maintenance", "repository", "session", "store", "storage", "credentials")


def public_classes() -> list[tuple[str, str]]:
    """Module and name of each public class of floor 3, found without importing anything."""
    nouns = [modules()[f"{PACKAGE}.{noun}"] for noun in NOUNS if f"{PACKAGE}.{noun}" in modules()]
    return [
        (module.name, node.name)
        for module in nouns
        for node in module.tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]


@pytest.mark.parametrize(("module", "name"), public_classes())
def test_twins_agree(module: str, name: str) -> None:
    owner = getattr(importlib.import_module(module), name)
    faults = {n: fault for n in dir(owner) if n.endswith("_async") and n[0] != "_" and (fault := disagree(owner, n))}
    assert not faults


def disagree(owner: type, name: str) -> str:
    """What is wrong with a pair of twins; empty when nothing is."""
    plain = name.removesuffix("_async")
    static = [inspect.getattr_static(owner, n, None) for n in (name, plain)]
    if static[1] is None:
        return "the synchronous twin is missing"
    kinds = [next((k for k in (classmethod, staticmethod) if isinstance(f, k)), None) for f in static]
    if kinds[0] is not kinds[1]:
        return "one is a class or static method, the other is not"
    one, other = getattr(owner, name), getattr(owner, plain)
    if not inspect.iscoroutinefunction(one) or inspect.iscoroutinefunction(other):
        return "exactly the one named _async is awaited"
    if inspect.signature(one) != inspect.signature(other):
        return f"{inspect.signature(one)} is not {inspect.signature(other)}"
    if not inspect.getdoc(one) or inspect.getdoc(one) != inspect.getdoc(other):
        return "docstrings are missing or differ"
    return "" if other.__name__ == plain else f"the twin calls itself {other.__name__}"


class Example:
    """Pairs that are right, and pairs that are wrong."""

    async def good_async(self, x: int) -> int:
        """Do it."""
        return x

    def good(self, x: int) -> int:
        """Do it."""
        return x

    async def alone_async(self) -> None:
        """Do it."""

    async def other_async(self, x: int) -> int:
        """Do it."""
        return x

    def other(self, x: int = 1) -> int:
        """Do it."""
        return x

    async def undocumented_async(self) -> None: ...
    def undocumented(self) -> None: ...


@pytest.mark.parametrize(
    ("name", "fault"),
    [("good", ""), ("alone", "missing"), ("other", "is not"), ("undocumented", "docstrings")],
)
def test_the_check_sees_faults(name: str, fault: str) -> None:
    found = disagree(Example, f"{name}_async")
    assert fault in found
    assert bool(fault) == bool(found)
