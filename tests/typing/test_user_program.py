"""The sample programs: that one runs, with this package and with the original, and that mypy is asked about both."""

from __future__ import annotations

import sys
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path

import icechunk
import pytest

import icechunk_virtual

HERE = Path(__file__).parent
PROGRAM = HERE / "user_program.py"


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    yield
    icechunk.set_logs_filter(None)
    icechunk_virtual.set_logs_filter(None)


def program(package: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The sample program with that package in the place of ours."""
    text = PROGRAM.read_text().replace("icechunk_virtual", package)
    module = types.ModuleType(f"user_program_of_{package}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # its functions are pickled by name
    exec(compile(text, PROGRAM, "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("package", ["icechunk_virtual", "icechunk"])
def test_it_runs_with_either_package(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert program(package, monkeypatch).main(tmp_path) == {
        "messages": [
            "references",
            "rows from everywhere",
            "slow",
            "fast",
            "first version",
            "Repository initialized",
            "rewritten",
            "Repository initialized",
        ],
        "total": 1714.0,
    }


def test_what_the_original_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = program("icechunk_virtual", monkeypatch)
    assert ours.scanned(tmp_path) == 45.0
    assert ours.with_xarray(tmp_path) == 24.0


def test_mypy_is_asked() -> None:
    settings = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text())["tool"]["mypy"]
    assert settings["strict"]
    assert {"tests/typing/user_program.py", "tests/typing/misuse.py"} <= set(settings["files"])
