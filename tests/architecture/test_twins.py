"""Synchronous and asynchronous names of the public nouns come from one definition."""

from __future__ import annotations

import importlib
import inspect

import pytest

from tests.support.source import PACKAGE, modules

NOUNS = ("repository", "session", "store", "storage", "credentials")


def twins() -> list[tuple[type, str]]:
    """Each public class of floor 3 with each of its public names that end in `_async`."""
    found = []
    for noun in NOUNS:
        if f"{PACKAGE}.{noun}" not in modules():
            continue
        module = importlib.import_module(f"{PACKAGE}.{noun}")
        for name, value in vars(module).items():
            if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_"):
                found += [(value, n) for n in dir(value) if n.endswith("_async") and not n.startswith("_")]
    return found


@pytest.mark.parametrize(("owner", "name"), twins(), ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_twins_agree(owner: type, name: str) -> None:
    asynchronous = inspect.getattr_static(owner, name)
    twin = inspect.getattr_static(owner, name.removesuffix("_async"), None)
    assert twin is not None, "the synchronous twin is missing"
    binding = (classmethod, staticmethod)
    kinds = [next((k for k in binding if isinstance(f, k)), None) for f in (asynchronous, twin)]
    assert kinds[0] is kinds[1], "one is a class or static method, the other is not"
    one, other = getattr(owner, name), getattr(owner, name.removesuffix("_async"))
    assert inspect.signature(one) == inspect.signature(other)
    assert inspect.getdoc(one)
    assert inspect.getdoc(one) == inspect.getdoc(other)
    assert inspect.iscoroutinefunction(one), "the name says that it is awaited"
    assert not inspect.iscoroutinefunction(other)
    assert other.__name__ == name.removesuffix("_async")
