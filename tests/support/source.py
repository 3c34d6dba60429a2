"""The package's source as data: modules, their syntax trees, and which of our own modules each one imports."""

from __future__ import annotations

import ast
import functools
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "icechunk_virtual"


@dataclass(frozen=True)
class Import:
    """One import statement of a module: what, where, and under which circumstances."""

    target: str  # dotted name of a module
    line: int
    in_function: bool
    type_checking: bool


@dataclass(frozen=True)
class Module:
    name: str  # dotted, packages without `.__init__`
    path: Path
    text: str
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def place(self) -> str:
        """Name below the package (`model.ids`); empty for the package itself."""
        return self.name.removeprefix(PACKAGE).removeprefix(".")


@functools.cache
def modules() -> dict[str, Module]:
    """All modules of the package by dotted name."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        found[name] = Module(name, path, text, ast.parse(text, str(path)))
    return found


def imports(module: Module) -> list[Import]:
    """Every import of a module, inside functions too."""
    return list(_imports(module, module.tree, in_function=False, type_checking=False))


def own_imports(module: Module) -> list[Import]:
    """The imports of our own modules."""
    return [i for i in imports(module) if i.target.split(".")[0] == PACKAGE]


def _imports(module: Module, node: ast.AST, *, in_function: bool, type_checking: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import(names=names):
                for alias in names:
                    yield Import(alias.name, child.lineno, in_function, type_checking)
            case ast.ImportFrom(names=names):
                base = _absolute(module, child)
                for alias in names:
                    inner = f"{base}.{alias.name}"
                    target = inner if inner in modules() else base
                    yield Import(target, child.lineno, in_function, type_checking)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                yield from _imports(module, child, in_function=True, type_checking=type_checking)
            case ast.If(test=test) if ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
                for part in child.body:
                    block = ast.Module([part], [])
                    yield from _imports(module, block, in_function=in_function, type_checking=True)
                block = ast.Module(child.orelse, [])
                yield from _imports(module, block, in_function=in_function, type_checking=type_checking)
            case _:
                yield from _imports(module, child, in_function=in_function, type_checking=type_checking)


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    parts = parts[: len(parts) - node.level + (1 if module.is_package else 0)]
    return ".".join([*parts, *([node.module] if node.module else [])])


def committed_files() -> list[Path]:
    """Files that belong to the project: what git tracks, or everything when this is no git checkout."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        command = ["git", "-C", str(ROOT), "ls-files", "-z"]
        names = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
        return [path for name in names if name and (path := ROOT / name).is_file()]
    kept = (PACKAGE, "tests", "docs", "bench", "examples", "tools")
    return [path for folder in kept for path in (ROOT / folder).rglob("*") if path.is_file()]
