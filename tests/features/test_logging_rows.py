"""Rows of the feature table about logs, errors and debug information (F110 to F114)."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import platform
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import icechunk
import pytest
import zarr

import icechunk_virtual as ours
from icechunk_virtual.logs import TRACE
from tests.support.hierarchies import new_repository, put

both = pytest.mark.parametrize("ic", [ours, icechunk], ids=["ours", "original"])

CREATE = """
import logging
import icechunk_virtual as icechunk
icechunk.Repository.create(icechunk.in_memory_storage())
logging.getLogger("icechunk_virtual.repo.assets").warning("careful")
logging.getLogger("icechunk_virtual.repo.assets").error("broken")
"""


def speak(**variables: str) -> tuple[str, str]:
    """What a program shows on stdout and stderr that makes a repository, warns and fails."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ICECHUNK_")}
    command = [sys.executable, "-c", CREATE]
    done = subprocess.run(command, env=clean | variables, capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


@pytest.fixture
def levels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Afterwards the filter is what the environment says."""
    monkeypatch.delenv("ICECHUNK_LOG", raising=False)
    yield
    monkeypatch.undo()
    ours.set_logs_filter(None)
    icechunk.set_logs_filter(None)


def level(name: str = "") -> int:
    return logging.getLogger(f"icechunk_virtual.{name}".rstrip(".")).getEffectiveLevel()


def test_F110_logs_by_the_variable() -> None:
    out, err = speak()
    assert out == "", "to stderr, so that the output of programs stays what it is"
    warning, error = err.splitlines()
    assert warning.endswith("Z  WARN icechunk_virtual.repo.assets: careful")
    assert error.endswith("Z ERROR icechunk_virtual.repo.assets: broken")

    out, err = speak(ICECHUNK_LOG="icechunk=loud,info", ICECHUNK_LOG_TO_STDOUT="1")
    assert err.startswith("ignoring `icechunk=loud`: ")
    assert err.count("\n") == 1
    assert "INFO icechunk_virtual.repo.creation: repository created" in out

    assert speak(ICECHUNK_NO_LOGS="", ICECHUNK_LOG="trace") == ("", "")


@pytest.mark.usefixtures("levels")
def test_F111_levels_at_run_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ours.set_logs_filter("trace")
    assert level() == level("repo.commit") == TRACE
    ours.set_logs_filter("icechunk::session=debug,error")
    assert (level("session"), level("repo.refs")) == (logging.DEBUG, logging.ERROR)
    monkeypatch.setenv("ICECHUNK_LOG", "icechunk=info")
    ours.set_logs_filter(None)
    assert level() == logging.INFO
    assert logging.getLogger("zarr").level == logging.NOTSET


@both
@pytest.mark.usefixtures("levels")
def test_F112_a_misspelt_target_is_noticed(ic: Any, capfd: pytest.CaptureFixture[str]) -> None:
    ic.set_logs_filter("icechnk::session=debug")
    assert "WARNING: Did you mean 'icechunk' instead of" in capfd.readouterr().err


@pytest.mark.usefixtures("levels")
@pytest.mark.parametrize(("text", "hint"), [("icechnk=debug", True), ("icechunk=debug", False), ("zarr=debug", False)])
def test_F112_also_where_the_original_is_silent(
    text: str, hint: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Targets without a part of the program; the variable."""
    ours.set_logs_filter(text)
    assert ("Did you mean" in capsys.readouterr().err) == hint
    monkeypatch.setenv("ICECHUNK_LOG", text)
    ours.initialize_logs()
    assert ("Did you mean" in capsys.readouterr().err) == hint


@both
def test_F113_errors_say_what_happened_and_where(ic: Any) -> None:
    repo = ic.Repository.create(ic.in_memory_storage())
    with pytest.raises(ic.IcechunkError, match="ref not found `x`") as caught:
        repo.lookup_branch("x")
    assert caught.value.args == (caught.value.message,)
    shown = "".join(traceback.format_exception(caught.value))  # ours says where in a note, which tracebacks show
    assert re.search(r"lookup_branch\b.*x", shown, re.DOTALL)
    session = repo.writable_session("main")
    with pytest.raises(KeyError, match="/nowhere"):
        put(session.store, "nowhere/c/0", b"x")
    with pytest.raises(ValueError):
        repo.readonly_session()
    with pytest.raises(TypeError):
        repo.readonly_session("main", as_of="yesterday")


def test_F113_operations_passed_through_are_named_with_their_arguments() -> None:
    repo = new_repository()
    with pytest.raises(ours.IcechunkError) as caught:
        repo.lookup_branch("x")
    assert caught.value.__notes__ == ["in Repository.lookup_branch('x')"]
    with pytest.raises(ours.IcechunkError) as caught:
        asyncio.run(repo.diff_async(from_branch="x", to_branch="main"))
    assert caught.value.__notes__ == ["in Repository.diff_async(from_branch='x', to_branch='main')"]
    with pytest.raises(ours.IcechunkError) as caught:
        repo.writable_session("main").commit("nothing", metadata={"secret": 1})
    (note,) = caught.value.__notes__
    assert note == "in Session.commit('nothing', metadata=<dict>)"
    with pytest.raises(ours.IcechunkError) as caught:
        ours.Repository.open(ours.in_memory_storage())
    assert caught.value.__notes__ == ["in Repository.open(<Storage>)"]
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.__notes__ == caught.value.__notes__


@both
def test_F114_print_debug_info(ic: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ic.print_debug_info()
    out = capsys.readouterr().out
    name = "icechunk" if ic is icechunk else "icechunk-virtual"
    shown = dict(line.split(":", 1) for line in out.splitlines() if line.strip())
    facts = {line.strip(): text.strip() for line, text in shown.items()}
    assert facts["platform"] == platform.platform()
    assert facts["python"] == platform.python_version()
    assert facts[name] == version(name)
    assert facts["zarr"] == zarr.__version__
    assert facts["numcodecs"] == version("numcodecs")
    assert facts["xarray"] == version("xarray")
