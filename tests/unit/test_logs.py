"""Log levels, and who gets the records. Rows F110 to F114 of the feature table: tests/features/test_logging_rows.py."""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zarr

import icechunk_virtual as ic
from icechunk_virtual import debug_info, logs
from icechunk_virtual.logs import OFF, TRACE, set_logs_filter

SPEAK = """
import icechunk_virtual as ic
repo = ic.Repository.create(ic.in_memory_storage())
import logging
logging.getLogger("icechunk_virtual.repo.assets").warning("careful")
"""


@pytest.fixture(autouse=True)
def _filter_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("ICECHUNK_LOG", raising=False)
    yield
    monkeypatch.undo()
    set_logs_filter(None)


def level(name: str) -> int:
    return logging.getLogger(f"icechunk_virtual.{name}".rstrip(".")).getEffectiveLevel()


def speak(code: str = SPEAK, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ICECHUNK_")}
    return subprocess.run(
        [sys.executable, "-c", code], env=clean | variables, capture_output=True, text=True, check=True
    )


# -- directives ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("error", logging.ERROR),
        ("WARN", logging.WARNING),
        ("warning", logging.WARNING),
        ("info", logging.INFO),
        (" debug ", logging.DEBUG),
        ("trace", TRACE),
        ("off", OFF),
        ("", OFF),
        ("false", OFF),
        ("0", OFF),
        ("4", logging.DEBUG),
        ("icechunk=info", logging.INFO),
        ("icechunk_virtual=info", logging.INFO),
        ("icechunk", TRACE),
        ("hyper=debug", OFF),
        ("hyper=off,info", logging.INFO),
    ],
)
def test_one_level(text: str, expected: int) -> None:
    set_logs_filter(text)
    assert level("") == level("repo.commit") == expected


def test_targets() -> None:
    set_logs_filter("icechunk::session=debug, icechunk_virtual.repo.gc=trace ,error")
    found = {name: level(name) for name in ("", "session", "repo.commit", "repo.gc", "repo.assets", "containers")}
    assert found == {
        "": logging.ERROR,
        "session": logging.DEBUG,
        "repo.commit": logging.DEBUG,
        "repo.gc": TRACE,
        "repo.assets": logging.ERROR,
        "containers": logging.ERROR,
    }


def test_a_target_wins_over_a_level_wherever_it_stands() -> None:
    for text in ("icechunk=debug,error", "error,icechunk=debug"):
        set_logs_filter(text)
        assert level("repo") == logging.DEBUG


def test_only_what_is_listed() -> None:
    set_logs_filter("icechunk::repository=debug")
    assert level("repo.creation") == logging.DEBUG
    assert level("repo.assets") == OFF


def test_a_filter_replaces_the_one_before() -> None:
    set_logs_filter("icechunk::repo.gc=debug,info")
    set_logs_filter("error")
    assert level("repo.gc") == logging.ERROR
    set_logs_filter(None)
    assert level("") == logging.getLogger().getEffectiveLevel()
    assert logging.getLogger("icechunk_virtual.repo.gc").level == logging.NOTSET


def test_loggers_of_others_are_left_alone() -> None:
    before = {name: logging.getLogger(name).level for name in ("", "hyper", "zarr", "icechunk")}
    set_logs_filter("zarr=debug,hyper=trace,icechunk=debug,trace")
    assert {name: logging.getLogger(name).level for name in before} == before


def test_a_bad_directive_is_reported_and_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    set_logs_filter("icechunk=zzz,info")
    assert "ignoring `icechunk=zzz`: error parsing level filter" in capsys.readouterr().err
    assert level("") == logging.INFO
    set_logs_filter("icechunk=7")
    assert "ignoring `icechunk=7`" in capsys.readouterr().err
    assert logging.getLogger("icechunk_virtual").level == logging.NOTSET, "as if nothing had been said"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("icechnk::session=debug", "icechnk"),
        ("icechnk=debug", "icechnk"),
        ("info,icechunkk::repo", "icechunkk"),
        ("icechunkvirtual.repo=debug", "icechunkvirtual"),
        ("icechunk=debug", None),
        ("icechunk_virtual=debug", None),
        ("hyper=debug", None),
        ("ice=debug", None),
    ],
)
def test_a_misspelling_is_noticed(text: str, hint: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    set_logs_filter(text)
    err = capsys.readouterr().err
    assert (f"instead of '{hint}' in log filter" in err) if hint else not err


@pytest.mark.parametrize(("one", "other", "distance"), [("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3)])
def test_edit_distance(one: str, other: str, distance: int) -> None:
    assert logs._distance(one, other) == logs._distance(other, one) == distance


# -- who shows what --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "icechunk_virtual"])
def test_a_handler_of_the_application_replaces_ours(name: str) -> None:
    setup = f"""
import logging, sys
handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(logging.Formatter("app: %(message)s"))
logging.getLogger({name!r}).addHandler(handler)
"""
    done = speak(setup + SPEAK)
    assert done.stdout == "app: careful\n"
    assert done.stderr == ""


@pytest.mark.parametrize(("terminal", "no_colour", "coloured"), [(1, "", True), (1, "1", False), (0, "", False)])
def test_colours_on_a_terminal(terminal: int, no_colour: str, coloured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: bool(terminal))
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("NO_COLOR", no_colour)
    monkeypatch.setattr(logs, "_others_handle", lambda record: False)  # as pytest does
    logs._Handler().emit(logging.LogRecord("icechunk_virtual.unheard", logging.ERROR, "f", 1, "broken", (), None))
    expected = "\x1b[31mERROR\x1b[0m" if coloured else "ERROR"
    assert stream.getvalue().endswith(f"Z {expected} icechunk_virtual.unheard: broken\n")


def test_the_application_sets_levels_where_no_filter_does() -> None:
    done = speak("import logging, sys\nlogging.basicConfig(level='INFO', stream=sys.stdout)\n" + SPEAK)
    assert "repository created" in done.stdout
    assert "repository created" not in speak().stderr


def test_initializing_twice_adds_nothing() -> None:
    before = list(logging.getLogger("icechunk_virtual").handlers)
    ic.initialize_logs()
    assert logging.getLogger("icechunk_virtual").handlers == before
    assert logging.getLogger("icechunk_virtual").propagate


def test_what_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    set_logs_filter("debug")
    repo = ic.Repository.create(ic.in_memory_storage())
    session = repo.writable_session("main")
    zarr.create_group(session.store)
    first, second = session.snapshot_id, session.commit("x")
    repo.create_tag("t", second)
    repo.delete_tag("t")
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert f"branch 'main' moved from {first} to {second}" in messages
    assert messages[-2:] == [f"tag 't' created at {second}", "tag 't' deleted"]
    assert any(record.levelno == logging.DEBUG and "snapshots/" in record.getMessage() for record in caplog.records)


# -- print_debug_info ------------------------------------------------------------------------------------------


def test_packages_that_are_not_installed_are_left_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debug_info, "_PACKAGES", (*debug_info._PACKAGES, "not-installed"))
    ic.print_debug_info()
    out = capsys.readouterr().out.splitlines()
    assert out[:2] == [f"platform:  {platform.platform()}", f"python:  {platform.python_version()}"]
    assert f"icechunk-virtual:  {ic.__version__}" in out
    assert f"zarr:  {zarr.__version__}" in out
    assert not any(line.startswith("not-installed") for line in out)


def test_whatever_speaks_can_be_asked_for_by_a_name_of_the_original() -> None:
    parts = {name for names in logs._PARTS.values() for name in names}
    package = Path(ic.__file__).parent
    speakers = [path for path in package.rglob("*.py") if "getLogger(__name__)" in path.read_text(encoding="utf-8")]
    assert speakers
    for path in speakers:
        module = ".".join(path.relative_to(package).with_suffix("").parts)
        assert any(f"{module}.".startswith(f"{part}.") for part in parts), module


def test_parts_are_modules() -> None:
    for names in logs._PARTS.values():
        for name in names:
            assert importlib.util.find_spec(f"icechunk_virtual.{name}") is not None, name
