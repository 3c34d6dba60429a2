"""The public surface of icechunk 1.1.13 (tests/data) name for name: modules, classes, functions, parameters, values."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

API: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "icechunk-api-1.1.13.json").read_text())

Params = list[dict[str, Any]]


@functools.cache
def module(name: str) -> Any:
    """Our module for one of the original's, ``None`` if there is none yet."""
    ours = name.replace("icechunk", "icechunk_virtual", 1)
    try:
        return importlib.import_module(ours)
    except ModuleNotFoundError as error:
        if error.name is None or not (ours + ".").startswith(error.name + "."):
            raise
        return None


def wanted(entry: dict[str, Any]) -> bool:
    return entry.get("tier") != "internal" and entry.get("required", True) is True


def places(entity: str) -> Iterator[tuple[str, str]]:
    """Modules and names under which an entity can be imported."""
    for module_name, content in API["modules"].items():
        for name, entry in content["names"].items():
            if entry.get("is") == entity:
                yield module_name, name


def find(entity: str) -> Any:
    """Our object for an entity, ``None`` if there is none yet."""
    for module_name, name in places(entity):
        if hasattr(module(module_name), name):
            return getattr(module(module_name), name)
    return None


def is_attribute(cls: Any, name: str) -> bool:
    """Whether instances get an attribute that is no member of the class."""
    annotated = any(name in getattr(base, "__annotations__", {}) for base in cls.__mro__)
    return annotated or f"self.{name} =" in inspect.getsource(cls)


def members_of(name: str, entry: dict[str, Any], found: Any) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Name, entry and our object (``None`` if missing) of all members, nested classes' members included."""
    for member_name, member in entry.get("members", {}).items():
        if not wanted(member):
            continue
        ours = inspect.getattr_static(found, member_name, None)
        if ours is None and member["kind"] == "property" and is_attribute(found, member_name):
            ours = Any
        yield f"{name}.{member_name}", member, ours
        if member["kind"] == "class" and ours is not None:
            yield from members_of(f"{name}.{member_name}", member, ours)


@functools.cache
def missing() -> frozenset[str]:
    gaps = set()
    for module_name, content in API["modules"].items():
        if module(module_name) is None:
            gaps.add(module_name)
            continue
        gaps |= {
            f"{module_name}.{name}"
            for name, entry in content["names"].items()
            if wanted(entry) and not hasattr(module(module_name), name)
        }
    for name, entry in API["entities"].items():
        found = find(name)
        if found is not None and entry["kind"] == "class":
            gaps |= {member for member, _, ours in members_of(name, entry, found) if ours is None}
    return frozenset(gaps)


def test_nothing_is_missing() -> None:
    assert sorted(missing()) == []


def check_params(theirs: Params, ours: inspect.Signature, *, bound: bool) -> None:
    """Every call that the original takes is taken; what is added has defaults."""
    params = list(ours.parameters.values())[0 if bound else 1 :]
    by_name = {param.name: param for param in params}
    positional = [p for p in params if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    used = set()
    for index, their in enumerate(theirs):
        match their["kind"]:
            case "positional_only":
                assert index < len(positional), f"parameter {their['name']}"
                param = positional[index]
            case "positional_or_keyword":
                assert index < len(positional), f"parameter {their['name']}"
                param = positional[index]
                assert (param.name, param.kind) == (their["name"], param.POSITIONAL_OR_KEYWORD)
            case "keyword_only":
                assert their["name"] in by_name, f"parameter {their['name']}"
                param = by_name[their["name"]]
                assert param.kind in (param.KEYWORD_ONLY, param.POSITIONAL_OR_KEYWORD)
            case kind:
                param = next(p for p in params if p.kind.name.lower() == kind)
        used.add(param.name)
        if "default" in their:
            assert repr(param.default) == their["default"], f"default of {param.name}"
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for param in params:
        assert param.name in used or param.default is not param.empty or param.kind in variadic, f"extra {param.name}"


def check_member(name: str, entry: dict[str, Any], ours: Any) -> None:
    match entry["kind"]:
        case "staticmethod" | "classmethod":  # called alike
            assert isinstance(ours, classmethod | staticmethod)
            check_params(entry["params"], inspect.signature(ours.__func__), bound=isinstance(ours, staticmethod))
        case "method":
            assert callable(ours)
            check_params(entry["params"], inspect.signature(ours), bound=False)
        case "enum_member":
            assert int(ours) == entry["int"]
        case "class":
            check_constructor(entry, ours)
    function = getattr(ours, "__func__", ours)
    if entry.get("flavour") == "coroutine":
        assert inspect.iscoroutinefunction(function)
    elif entry.get("flavour") is None and callable(function):
        assert not inspect.iscoroutinefunction(function)


def check_constructor(entry: dict[str, Any], ours: Any) -> None:
    constructor = entry.get("constructor")
    is_union = any(member["kind"] == "class" for member in entry.get("members", {}).values())
    if constructor is None and is_union:
        with pytest.raises(TypeError):
            ours()
    elif constructor is not None and wanted(constructor):
        check_params(constructor["params"], inspect.signature(ours), bound=True)


def is_public(entity: str) -> bool:
    return any(
        wanted(content["names"][name])
        for module_name, name in places(entity)
        for content in [API["modules"][module_name]]
    )


@pytest.mark.parametrize("name", [entity for entity in API["entities"] if is_public(entity) or find(entity)])
def test_entity(name: str) -> None:
    entry, found = API["entities"][name], find(name)
    assert found is not None
    if entry["kind"] == "function":
        check_params(entry["params"], inspect.signature(found), bound=True)
        return
    if entry["kind"] == "class":
        check_constructor(entry, found)
    for member_name, member, ours in members_of(name, entry, found):
        if ours is not None:
            try:
                check_member(member_name, member, ours)
            except AssertionError as error:
                raise AssertionError(f"{member_name}: {error}") from error


@pytest.mark.parametrize("name", [name for name in API["modules"] if name != "icechunk"])
def test_the_same_object_everywhere(name: str) -> None:
    top = module("icechunk")
    for entity, entry in API["modules"][name]["names"].items():
        if entry.get("tier") == "reexport" and hasattr(module(name), entity) and hasattr(top, entity):
            assert getattr(module(name), entity) == getattr(top, entity)


@functools.cache
def namespace() -> dict[str, Any]:
    """What the expressions may use."""
    return vars(module("icechunk")) | {"storage": module("icechunk.storage")}


def evaluate(expression: str) -> Any:
    return eval(expression, dict(namespace()))


def plain(value: Any) -> Any:
    """As the file spells it."""
    return {"set": sorted(value)} if isinstance(value, set | frozenset) else value


@pytest.mark.parametrize("expression", API["values"])
def test_value(expression: str) -> None:
    assert plain(evaluate(expression)) == API["values"][expression]


SAMPLES = {name: entry for name, entry in API["entities"].items() if "sample" in entry}


@pytest.mark.parametrize("name", SAMPLES)
def test_sample(name: str) -> None:
    entry = SAMPLES[name]
    sample = evaluate(entry["sample"])
    for attribute, value in entry.get("sample_values", {}).items():
        assert plain(getattr(sample, attribute)) == value
    for attribute, member in entry.get("members", {}).items():
        if member.get("writable") and wanted(member):
            setattr(sample, attribute, getattr(sample, attribute))
    if entry.get("hashable"):
        hash(sample)
    if "Repository" in entry["sample"]:
        return  # identity and state of these have tests of their own
    if "__eq__" in entry.get("dunders", ()):
        assert sample == evaluate(entry["sample"])
    copy = pickle.loads(pickle.dumps(sample))
    assert type(copy) is type(sample)
    assert repr(copy) == repr(sample) or "object at" in repr(sample)
