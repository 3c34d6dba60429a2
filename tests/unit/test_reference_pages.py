"""The reference pages: every public name has its entry there, every entry is something, and the pages build."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.source import ROOT

PAGES = ROOT / "docs" / "reference" / "api"
MODULES = (
    "icechunk_virtual",
    "icechunk_virtual.credentials",
    "icechunk_virtual.dask",
    "icechunk_virtual.distributed",
    "icechunk_virtual.logs",
    "icechunk_virtual.repository",
    "icechunk_virtual.session",
    "icechunk_virtual.storage",
    "icechunk_virtual.store",
    "icechunk_virtual.testing.strategies",
    "icechunk_virtual.xarray",
)
NO_ENTRY = {"__version__"}


class Entry(NamedTuple):
    page: str
    kind: str
    module: str
    name: str


def entries() -> Iterator[Entry]:
    for page in sorted(PAGES.glob("*.md")):
        module = ""
        for line in page.read_text(encoding="utf-8").splitlines():
            if match := re.match(r"\.\. currentmodule:: (\S+)", line):
                module = match[1]
            elif match := re.match(r"\.\. auto(\w+):: (\S+)", line):
                yield Entry(page.name, match[1], module, match[2])


ENTRIES = list(entries())


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_an_entry(module: str) -> None:
    there = {entry.name for entry in ENTRIES}
    missing = set(importlib.import_module(module).__all__) - there - NO_ENTRY
    assert not missing, f"add them to a page in {PAGES}"


def test_every_name_of_the_original_has_an_entry() -> None:
    api = json.loads((ROOT / "tests" / "data" / "icechunk-api-1.1.13.json").read_text())
    there = {entry.name for entry in ENTRIES}
    entities = {
        name
        for content in api["modules"].values()
        for name, entry in content["names"].items()
        if entry.get("is", "").startswith("icechunk.") and entry.get("tier") != "internal"
    }
    assert len(entities) > 70
    assert not {name for name in entities if not name.startswith("_")} - there


def test_every_error_has_an_entry() -> None:
    errors = importlib.import_module("icechunk_virtual.errors")
    family = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert family == {entry.name for entry in ENTRIES if entry.kind == "exception"}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.page}-{entry.name}")
def test_entries_are_something_and_say_what(entry: Entry) -> None:
    value = getattr(importlib.import_module(entry.module), entry.name)
    if entry.kind != "data":
        assert inspect.getdoc(value), f"{entry.name} has no docstring"
    if entry.kind == "class":
        silent = [name for name, member in own_members(value) if not inspect.getdoc(member)]
        assert not silent, f"public members of {entry.name} without a docstring do not get onto the page"


def own_members(cls: type) -> Iterator[tuple[str, Any]]:
    for name, member in vars(cls).items():
        if not name.startswith("_") and (
            inspect.isfunction(member)
            or isinstance(member, classmethod | staticmethod | property | cached_property)
            or inspect.isclass(member)
        ):
            yield name, getattr(member, "__func__", member)


def test_the_pages_build_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="the extra `docs` is not installed")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "docs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "lookup_snapshot" in (tmp_path / "reference" / "api" / "repository.html").read_text(encoding="utf-8")
