"""The family of exceptions: its tree, its facts, and that all of it pickles."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from icechunk_virtual import errors
from icechunk_virtual.errors import (
    ConflictError,
    CorruptFile,
    IcechunkError,
    IcechunkVirtualError,
    NodeNotFound,
    RebaseFailedError,
)

FAMILY = [
    cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, BaseException)
]  # all that the module defines


def make(cls: type[BaseException]) -> BaseException:
    if cls is CorruptFile:
        return CorruptFile("too short", file="manifests/X", kind="manifest", position=7)
    if cls is ConflictError:
        return ConflictError("A", None)
    if cls is RebaseFailedError:
        return RebaseFailedError("A", ["one", "two"])
    if issubclass(cls, IcechunkError):
        return cls("what happened", url="s3://b/k", expected=1)
    return cls("what happened")


@pytest.mark.parametrize("cls", FAMILY)
def test_pickle_and_copy(cls: type[BaseException]) -> None:
    error = make(cls)
    error.add_note("seen in file 3")
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is cls
        assert (str(again), repr(again), again.args) == (str(error), repr(error), error.args)
        assert vars(again) == vars(error)
    assert vars(copy.copy(error)) == vars(error)


@pytest.mark.parametrize("cls", [c for c in FAMILY if issubclass(c, IcechunkError) and c is not CorruptFile])
def test_facts_are_attributes(cls: type[IcechunkError]) -> None:
    error = cls("what happened", url="s3://b/k", number=3)
    assert error.message == str(error) == "what happened"
    assert (error.url, error.number) == ("s3://b/k", 3)  # type: ignore[attr-defined]
    assert repr(error) == f"{cls.__name__}(message='what happened')"


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").split("The tree::")[1].split("Misuse")[0].splitlines():
        name = next((word for word in line.split() if word.strip("|-'").isidentifier()), None)
        if name is None:
            continue
        column = line.index(name)
        while path and path[-1][0] >= column:
            path.pop()
        if path:
            drawn[name] = path[-1][1]
        path.append((column, name))
    actual = {cls.__name__: cls.__bases__[0].__name__ for cls in FAMILY if cls is not IcechunkVirtualError}
    assert drawn == actual


def test_corrupt_file_says_where() -> None:
    error = CorruptFile("too short", file="manifests/X", kind="manifest", position=7)
    assert "manifest file `manifests/X` at byte 7: too short" in str(error)
    assert (error.file, error.kind, error.position) == ("manifests/X", "manifest", 7)
    assert "at byte" not in str(CorruptFile("too short", file="x", kind="ref"))


def test_node_not_found_is_a_key_error_with_a_readable_text() -> None:
    error = NodeNotFound("no node at `/a`", path="/a")
    assert isinstance(error, KeyError)
    assert str(error) == "no node at `/a`"


def test_conflicts_are_not_icechunk_errors() -> None:
    error = ConflictError("A", None)
    assert not isinstance(error, IcechunkError)
    assert str(error) == 'Failed to commit, expected parent: Some("A"), actual parent: None'
    assert (error.expected_parent, error.actual_parent) == ("A", None)
    failed = RebaseFailedError("A", ["one", "two"])
    assert not isinstance(failed, IcechunkError)
    assert "2 conflicts" in str(failed)
