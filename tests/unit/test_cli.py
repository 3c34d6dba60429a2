"""The command line: what it does, what it says, its exit codes, and that failures leave nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import xarray as xr

import icechunk_virtual as icv
from icechunk_virtual.cli import main
from icechunk_virtual.cli import scan as scan_command
from icechunk_virtual.cli.messages import one_line
from icechunk_virtual.cli.progress import progress_bar
from icechunk_virtual.errors import ConflictError, InconsistentFiles
from tests.support.archives import snapshot_of, write_days
from tests.support.object_server import ObjectServer


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


class Shell:
    """Runs the program in a folder and keeps what it says."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capture = folder, capture

    def __call__(self, *arguments: str) -> Outcome:
        code = main(arguments)
        return Outcome(code, *self.capture.readouterr())

    def done(self, *arguments: str) -> str:
        outcome = self("scan", *arguments)
        assert (outcome.code, outcome.err) == (0, "")
        return outcome.out

    def failed(self, *arguments: str, code: int = 1) -> str:
        """Fails with one line, and no file is other than before."""
        before = snapshot_of(self.folder)
        outcome = self("scan", *arguments)
        assert outcome.code == code
        assert outcome.out == ""
        assert outcome.err.endswith("\n")
        assert outcome.err.count("\n") == 1
        assert "Traceback" not in outcome.err
        assert snapshot_of(self.folder) == before
        return outcome.err


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ICECHUNK_VIRTUAL_TRACEBACK", raising=False)
    return Shell(tmp_path, capsys)


@pytest.fixture
def days(tmp_path: Path) -> Path:
    write_days(tmp_path / "a.nc", 0, 20)
    write_days(tmp_path / "b.nc", 20, 10)
    return tmp_path


def open_as_printed(text: str) -> Any:
    """What the last lines of a report make when they are pasted."""
    namespace: dict[str, Any] = {}
    code = text.partition("open it in Python:")[2]
    exec("\n".join(line.strip() for line in code.splitlines()), namespace)
    return next(namespace[name] for name in ("ds", "tree", "groups") if name in namespace)


# -- what it does ----------------------------------------------------------------------------------------------


def test_one_file_under_its_names(shell: Shell, days: Path) -> None:
    out = shell.done("a.nc", "--repo", "r")
    for part in ("1 file (netCDF-4)", "4 arrays, 6 chunks", "KiB, which stay", "/time", "created     r, branch main"):
        assert part in out
    found = open_as_printed(out)
    with xr.open_datatree(days / "a.nc") as expected:
        xr.testing.assert_identical(found.load(), expected.load())
    assert sorted(found.groups) == ["/", "/daily"]


def test_several_files(shell: Shell, days: Path) -> None:
    out = shell.done("*.nc", "--repo", "r", "--concat", "time", "--group", "x/y", "-m", "both")
    assert "2 files" in out
    assert open_as_printed(out)["temp"].shape == (30, 20, 30)
    repo = icv.Repository.open(icv.local_filesystem_storage("r"))
    assert [s.message for s in repo.ancestry(branch="main")] == ["both", "Repository initialized"]


def test_without_groups_a_dataset_is_opened(shell: Shell, days: Path) -> None:
    out = shell.done(str(days), "--concat", "time", "--repo", "file://" + str(days / "r"), "--drop-variable", "daily")
    found = open_as_printed(out)
    assert isinstance(found, xr.Dataset)
    assert np.isfinite(found.temp.values).all()


def test_append_from_another_folder(shell: Shell, days: Path) -> None:
    (days / "later").mkdir()
    shutil.move(days / "b.nc", days / "later" / "b.nc")
    shell.done("a.nc", "--repo", "r")
    (days / "other").mkdir()
    shell.done(str(shutil.copy(days / "a.nc", days / "other" / "a.nc")), "--repo", "r", "--group", "g")
    out = shell.done("later/b.nc", "--repo", "r", "--append-dim", "time")
    assert "committed" in out
    groups = open_as_printed(out)  # no tree: /g has other days than /
    assert groups["/"].temp.shape[0] == 30
    assert groups["/"].temp.notnull().all()
    assert groups["/g/daily"].rain.notnull().all()


def test_a_container_above_is_used_and_named(shell: Shell, days: Path) -> None:
    (days / "sub").mkdir()
    shutil.move(days / "b.nc", days / "sub" / "b.nc")
    shell.done("a.nc", "--repo", "r")
    out = shell.done("sub/b.nc", "--repo", "r", "--group", "b")
    assert f"authorize=['{days.as_uri()}/']" in out
    assert open_as_printed(out)["temp"].isnull().sum() == 0


def test_branches(shell: Shell, days: Path) -> None:
    shell.done("a.nc", "--repo", "r")
    repo = icv.Repository.open(icv.local_filesystem_storage("r"))
    repo.create_branch("dev", repo.lookup_branch("main"))
    out = shell.done("b.nc", "--repo", "r", "--group", "b", "--branch", "dev")
    assert "branch='dev'" in out
    assert open_as_printed(out)["temp"].shape[0] == 10
    assert "no branch `nope` in r, only: dev, main" in shell.failed("a.nc", "--repo", "r", "--branch", "nope")


def test_modes(shell: Shell, days: Path) -> None:
    shell.done("a.nc", "--repo", "r")
    shell.done("b.nc", "--repo", "r", "--mode", "a")
    assert open_as_printed(shell.done("b.nc", "--repo", "r", "--mode", "w"))["temp"].shape[0] == 10


def test_json(shell: Shell, days: Path) -> None:
    report = json.loads(shell.done("a.nc", "--repo", "r", "--json"))
    assert report["files"] == 1
    assert report["arrays"] == 4
    assert report["chunks"] == 6
    assert report["bytes_virtual"] > 10_000
    assert report["created"] is True
    assert report["authorize"] == [days.as_uri() + "/"]
    assert {item["path"] for item in report["stored"]} == {"/time", "/y"}
    assert report["snapshot"] == icv.Repository.open(icv.local_filesystem_storage("r")).lookup_branch("main")


def test_json_of_a_failure(shell: Shell, days: Path) -> None:
    write_days(days / "c.nc", 30, 10, dtype="f8")
    outcome = shell("scan", "*.nc", "--repo", "r", "--concat", "time", "--json")
    assert outcome.code == 1
    error = json.loads(outcome.out)["error"]
    assert error["type"] == "InconsistentFiles"
    assert len(error["differences"]) == 1
    assert outcome.err.count("\n") == 1


def test_dry_run(shell: Shell, days: Path) -> None:
    before = snapshot_of(days)
    assert "nothing was written" in shell.done("a.nc", "--repo", "r", "--dry-run")
    assert snapshot_of(days) == before
    shell.done("a.nc", "--repo", "r")
    before = snapshot_of(days)
    assert "it fits" in shell.done("b.nc", "--repo", "r", "--append-dim", "time", "--dry-run")
    assert snapshot_of(days) == before
    assert "appended before" in shell.failed("a.nc", "--repo", "r", "--append-dim", "time", "--dry-run")


# -- what it refuses -------------------------------------------------------------------------------------------


def test_files_that_do_not_fit_are_named(shell: Shell, days: Path) -> None:
    write_days(days / "c.nc", 30, 10, dtype="f8")
    text = shell.failed("*.nc", "--repo", "r", "--concat", "time")
    assert "c.nc: `/temp`: data type is float64, but float32 in the first file" in text
    assert "1 of 3 files" in text


def test_several_files_without_dimension(shell: Shell, days: Path) -> None:
    text = shell.failed("a.nc", "b.nc", "--repo", "r", code=2)
    assert "2 files" in text
    assert "--concat time" in text


def test_a_group_that_is_not_empty(shell: Shell, days: Path) -> None:
    shell.done("a.nc", "--repo", "r")
    text = shell.failed("b.nc", "--repo", "r")
    for option in ("--mode a", "--mode w", "--append-dim DIM", "--group PATH"):
        assert option in text


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["nope.nc", "--repo", "r"], "no file matches `nope.nc`"),
        (["a.nc", "--repo", "r", "--concat", "tim"], "has the dimension `tim`"),
        (["a.nc", "--repo", "a.nc"], "is not a repository"),
        (["a.nc", "--repo", "full"], "is not a repository"),
        (["a.nc", "--repo", "ftp://host/r"], "no repositories at ftp:// URLs"),
        (["a.nc", "--repo", "r", "--branch", "dev"], "only the branch main"),
        (["a.nc", "--repo", "r", "--append-dim", "time"], "leave out --append-dim"),
        (["a.nc", "--repo", "r", "--group", "a/../b"], "not allowed in paths"),
        (["full/x.txt", "--repo", "r"], "no scanner takes"),
        (["full", "--repo", "r"], "known ending"),
        (["broken.nc", "--repo", "r"], "broken.nc"),
        (["http://localhost:9/a.nc", "--repo", "r"], "cannot read `http://localhost:9/a.nc`"),
    ],
)
def test_failures_say_why_and_leave_nothing(shell: Shell, days: Path, arguments: list[str], match: str) -> None:
    (days / "full").mkdir()
    (days / "full" / "x.txt").write_text("x")
    (days / "broken.nc").write_bytes((days / "a.nc").read_bytes()[:5000])
    assert match in shell.failed(*arguments)


def test_append_of_what_is_there(shell: Shell, days: Path) -> None:
    shell.done("a.nc", "--repo", "r")
    assert "was it appended before?" in shell.failed("a.nc", "--repo", "r", "--append-dim", "time")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "usage:"),
        (["scan"], "required: --repo"),
        (["scan", "a.nc"], "required: --repo"),
        (["nope"], "invalid choice: 'nope'"),
        (["scan", "a", "--repo", "r", "--mode", "a", "--append-dim", "t"], "not allowed with argument --mode"),
        (["scan", "a", "--repo", "r", "--scanner", "nope"], "no scanner is called 'nope'; there are grib, hdf5"),
        (["scan", "a", "--repo", ""], "argument --repo: a path is empty"),
        (["info", ""], "argument REPO: a path is empty"),
    ],
)
def test_usage(shell: Shell, arguments: list[str], match: str) -> None:
    outcome = shell(*arguments)
    assert outcome.code == 2
    assert "usage:" in outcome.err
    assert match in outcome.err


def test_help(shell: Shell) -> None:
    assert "examples:" in shell("scan", "--help").out
    assert shell("--help").code == 0
    assert shell("--version").out.startswith("icechunk-virtual 0.")


def test_lost_race(shell: Shell, days: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.done("a.nc", "--repo", "r")
    write = icv.VirtualDataset.to_icechunk

    def and_somebody_else(self: icv.VirtualDataset, *args: Any, **kwargs: Any) -> None:
        write(self, *args, **kwargs)
        session = icv.Repository.open(icv.local_filesystem_storage("r")).writable_session("main")
        session.store.sync_clear()
        session.commit("first")

    monkeypatch.setattr(icv.VirtualDataset, "to_icechunk", and_somebody_else)
    outcome = shell("scan", "b.nc", "--repo", "r", "--group", "b")
    assert outcome.code == 1
    assert "Run the same command again" in outcome.err
    assert outcome.err.count("\n") == 1


def test_bugs_are_one_line_too(shell: Shell, days: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh\nno")

    monkeypatch.setattr(scan_command, "scan", broken)
    text = shell.failed("a.nc", "--repo", "r")
    assert "ZeroDivisionError: oh no" in text
    assert "ICECHUNK_VIRTUAL_TRACEBACK=1" in text
    monkeypatch.setenv("ICECHUNK_VIRTUAL_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        main(["scan", "a.nc", "--repo", "r"])


def test_interrupted(shell: Shell, days: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scan_command, "scan", interrupt)
    assert "interrupted" in shell.failed("a.nc", "--repo", "r")


def test_a_reader_that_has_seen_enough(days: Path) -> None:
    read, written = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "icechunk_virtual.cli", "scan", "a.nc", "--repo", "r"]
    done = subprocess.run(command, cwd=days, stdout=written, stderr=subprocess.PIPE, text=True)
    os.close(written)
    assert (done.returncode, done.stderr) == (0, "")


# -- lines -----------------------------------------------------------------------------------------------------


def test_arguments_become_options() -> None:
    text = one_line(ValueError("use mode='a',\n  append_dim=... or group=... but not models=3"))
    assert text == "use --mode a, --append-dim DIM or --group PATH but not models=3"
    assert one_line(ValueError()) == "ValueError"
    assert "Run the same command again" in one_line(ConflictError("A", "B"))


def test_misfits_are_shortened() -> None:
    differences = tuple(f"f{i}.nc: other" for i in range(9))
    text = one_line(
        InconsistentFiles("9 files do not fit:\n  f0.nc: other\n  ...\nScan them apart.", differences=differences)
    )
    assert text == "9 files do not fit: f0.nc: other; f1.nc: other; f2.nc: other (and 6 more). Scan them apart."


def test_progress_is_for_terminals(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("x") as progress:
        assert progress is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_bar("scanning") as progress:
        assert progress is not None
        progress(1, 2, "a.nc")
    with progress_bar("x", quiet=True) as progress:
        assert progress is None
    assert capsys.readouterr().out == ""


# -- files on web servers ---------------------------------------------------------------------------------------


def test_files_on_a_web_server(shell: Shell, days: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ObjectServer({f"/sub/{name}": (days / name).read_bytes() for name in ("a.nc", "b.nc")}) as server:
        urls = [f"{server.url}/sub/{name}" for name in ("a.nc", "b.nc")]
        out = shell.done(*urls, "--repo", "r", "--concat", "time")
        assert f"authorize=['{server.url}/sub/']" in out
        found = open_as_printed(out)
        with xr.open_mfdataset([days / "a.nc", days / "b.nc"], combine="nested", concat_dim="time") as expected:
            xr.testing.assert_equal(found["/"].to_dataset().load(), expected.load())
        text = shell.failed("az://container/a.nc", "--repo", "r", "--group", "g", code=2)
        assert "containers on Azure need --account NAME" in text
