"""Habits that a reader should find in every file."""

from __future__ import annotations

import ast
import doctest
import importlib
import tomllib
from importlib.metadata import version

import pytest

from tests.support.source import PACKAGE, ROOT, Module, committed_files, modules

LONGEST_FILE = 500  # lines
LONGEST_FUNCTION = 60  # lines, its docstring left out

# Files that are longer, each with its reason.
LONG_FILES: dict[str, str] = {}
# Functions that are longer, each with its reason.
LONG_FUNCTIONS: dict[str, str] = {}

# Only the edge reads the world. What else may, and why.
WORLDLY = {
    "cli": "the edge",
    "containers.http.auth": "whoever grants the netrc file may say by NETRC where it is",
    "credentials": "credentials from the environment are asked for by name",
    "logs": "ICECHUNK_LOG is read when logging is set up",
    "repo.cloud.addresses": "servers that the environment names are the opener's",
    "repo.cloud.s3": "what the user leaves to AWS's environment variables: endpoint, region, profile",
    "repo.files": "names of temporary files: chance is wanted there, also in tests",
    "repo.memory_store": "tells the stores of one process apart; never leaves it",
    "scanners.hdf5.elsewhere": "variables by which HDF5 looks for files elsewhere",
    "model.world": "this is the clock and the dice",
}
WORLD = {
    "datetime.datetime.now",
    "datetime.datetime.today",
    "datetime.datetime.utcnow",
    "datetime.now",
    "datetime.utcnow",
    "os.environ",
    "os.getenv",
    "os.urandom",
    "time.time",
    "time.time_ns",
    "uuid.uuid4",
}
WORLD_MODULES = {"random", "secrets", "uuid"}

# Names of one machine have no place in a project. (Split, so that this file does not match itself.)
FOREIGN_NAMES = ("/work" + "/", "/tmp" + "/plan", "../" + "shared/", "shared/" + "spec", "shared/" + "design")

everyone = pytest.mark.parametrize("module", modules().values(), ids=lambda m: m.name)


def functions(module: Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(module.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@everyone
def test_module_docstring(module: Module) -> None:
    assert ast.get_docstring(module.tree), "say in two to five lines what belongs here and what does not"


@everyone
def test_file_length(module: Module) -> None:
    length = len(module.text.splitlines())
    if module.place in LONG_FILES:
        assert length > LONGEST_FILE, "short again: take it out of LONG_FILES"
    else:
        assert length <= LONGEST_FILE, "split it, or give a reason in LONG_FILES"


@everyone
def test_function_length(module: Module) -> None:
    long = []
    for function in functions(module):
        first = function.body[0]
        has_docstring = ast.get_docstring(function) is not None
        documented = (first.end_lineno or first.lineno) - first.lineno + 1 if has_docstring else 0
        length = (function.end_lineno or function.lineno) - function.lineno + 1 - documented
        if length > LONGEST_FUNCTION and f"{module.place}:{function.name}" not in LONG_FUNCTIONS:
            long.append(f"{function.name} (line {function.lineno}): {length} lines")
    assert not long


@everyone
def test_no_assert_and_no_bare_except(module: Module) -> None:
    wrong = [
        f"line {node.lineno}: {type(node).__name__}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Assert) or (isinstance(node, ast.ExceptHandler) and node.type is None)
    ]
    assert not wrong, "foreign data gets an error of errors.py; handlers name what they handle"


@everyone
def test_only_the_edge_reads_the_world(module: Module) -> None:
    if module.place in WORLDLY or module.place.split(".")[0] in WORLDLY:
        return
    wrong = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in WORLD:
            wrong.append(f"line {node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            wrong += [f"line {node.lineno}: import {name}" for name in names if name.split(".")[0] in WORLD_MODULES]
    assert not wrong, "take a model.world.World, or give a reason in WORLDLY"


@everyone
def test_all_names_exist(module: Module) -> None:
    """The order of `__all__` is the linter's business (RUF022)."""
    names = [n for node in module.tree.body for n in _all_of(node)]
    assert len(names) == len(set(names))
    if names:
        loaded = importlib.import_module(module.name)
        assert not [name for name in names if not hasattr(loaded, name)]


def _all_of(node: ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    if not any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
        return []
    return list(ast.literal_eval(node.value))  # type: ignore[attr-defined]


@everyone
def test_examples_in_docstrings(module: Module) -> None:
    if ">>>" not in module.text:
        return
    result = doctest.testmod(importlib.import_module(module.name), optionflags=doctest.ELLIPSIS)
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize("name", FOREIGN_NAMES)
def test_no_names_of_one_machine(name: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in committed_files()
        for number, line in enumerate(path.read_bytes().splitlines(), 1)
        if name.encode() in line
    ]
    assert not found


def test_package_is_typed_and_whole() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == [PACKAGE]
    assert (ROOT / PACKAGE / "py.typed").is_file()
    folders = {path.parent for path in (ROOT / PACKAGE).rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


def test_version_has_one_source() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == version("icechunk-virtual"), "install again: make -B test"
    package = importlib.import_module(PACKAGE)
    assert getattr(package, "__version__", project["version"]) == project["version"]


def test_the_extra_all_is_all() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (listed,) = extras["all"]
    named = set(listed.partition("[")[2].rstrip("]").split(","))
    assert named == set(extras) - {"all", "test", "docs", "dev"}
