"""Log levels by variable and by call, and who gets the records (F110-F112, F114)."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterator

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
def test_f111_one_level(text: str, expected: int) -> None:
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


def test_f111_none_reads_the_environment_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICECHUNK_LOG", "icechunk=debug")
    set_logs_filter(None)
    assert level("") == logging.DEBUG


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
def test_f112_a_misspelling_is_noticed(text: str, hint: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    set_logs_filter(text)
    err = capsys.readouterr().err
    assert (f"instead of '{hint}' in log filter" in err) if hint else not err


@pytest.mark.parametrize(("one", "other", "distance"), [("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3)])
def test_edit_distance(one: str, other: str, distance: int) -> None:
    assert logs._distance(one, other) == logs._distance(other, one) == distance


# -- who shows what --------------------------------------------------------------------------------------------


def test_f110_warnings_by_default_on_stderr() -> None:
    done = speak()
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.endswith("Z  WARN icechunk_virtual.repo.assets: careful")


def test_f110_the_variable_sets_the_level() -> None:
    assert "INFO icechunk_virtual.repo.creation: repository created" in speak(ICECHUNK_LOG="icechunk=debug").stderr
    assert speak(ICECHUNK_LOG="icechunk=error").stderr == ""
    assert "Did you mean 'icechunk'" in speak(ICECHUNK_LOG="icechnk=debug").stderr


def test_to_stdout_on_demand() -> None:
    done = speak(ICECHUNK_LOG_TO_STDOUT="1")
    assert "careful" in done.stdout
    assert done.stderr == ""


def test_f110_no_logs() -> None:
    done = speak(ICECHUNK_NO_LOGS="", ICECHUNK_LOG="trace")
    assert done.stdout + done.stderr == ""


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


def test_f114_print_debug_info(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debug_info, "_PACKAGES", (*debug_info._PACKAGES, "not-installed"))
    ic.print_debug_info()
    out = capsys.readouterr().out.splitlines()
    assert out[:2] == [f"platform:  {platform.platform()}", f"python:  {platform.python_version()}"]
    assert f"icechunk-virtual:  {ic.__version__}" in out
    assert f"zarr:  {zarr.__version__}" in out
    assert not any(line.startswith("not-installed") for line in out)
