"""`make demo` does what it says, and does not touch what is not its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.source import ROOT


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / "demo.py"), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("HDF5_PLUGIN_PATH", None)  # netCDF4 sets it on import: its Blosc does not get on with hdf5plugin's
    return subprocess.run(command, capture_output=True, text=True, cwd=folder.parent, env=environment)


def test_demo(tmp_path: Path) -> None:
    stale = tmp_path / "demo" / "data" / "of-the-run-before.nc"
    stale.parent.mkdir(parents=True)
    stale.touch()
    (tmp_path / "demo" / ".icechunk-virtual-demo").touch()
    done = run(tmp_path / "demo")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert not stale.exists()
    assert "All checks passed" in done.stdout
    assert "720 days" in done.stdout
    assert "icechunk-virtual scan /path/to/file.nc --repo my.icechunk" in done.stdout
    assert len(done.stdout.splitlines()) < 70


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("keep")
    done = run(tmp_path / "mine")
    assert done.returncode == 1
    assert "name another folder" in done.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]
