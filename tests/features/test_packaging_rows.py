"""Rows of the feature table about the package itself, its command line and the promise of its format (F115 to F123).

F117 is also proved by tests/typing: mypy judges two sample programs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import icechunk
import pytest

import icechunk_virtual as ours
from bench.__main__ import main as bench
from icechunk_virtual.cli import main as program
from icechunk_virtual.errors import FormatError
from tests.support.engines import get, keys_of, picture, put, refs_of
from tests.support.hierarchies import GROUP, array_document
from tests.support.source import ROOT
from tests.unit.test_docs import BEFORE, blocks, pages

both = pytest.mark.parametrize("ic", [ours, icechunk], ids=["ours", "original"])


def run_program(*command: str, home: Path) -> tuple[int, str, str]:
    """Exit code, output and errors of a program that is installed beside this Python."""
    program = Path(sys.executable).parent / command[0]
    environment = {**os.environ, "XDG_CONFIG_HOME": str(home)}
    done = subprocess.run([str(program), *command[1:]], env=environment, capture_output=True, text=True, cwd=home)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, where the program finds its file of aliases too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="where the original keeps its file on Linux")
def test_F115_command_line_beside_that_of_the_original(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def mine(*arguments: str) -> str:
        assert program(arguments) == 0
        return capsys.readouterr().out

    def theirs(*arguments: str) -> str:
        code, out, err = run_program("icechunk", *arguments, home=home)
        assert (code, err) == (0, "")
        return out

    mine("alias", "add", "loc", "r")
    assert "loc: !LocalFileSystem" in theirs("config", "list")
    theirs("repo", "create", "loc")
    repo = ours.Repository.open(ours.local_filesystem_storage(home / "r"))
    for i in range(3):
        session = repo.writable_session("main")
        put(session.store, "zarr.json", GROUP.replace(b"{}", b'{"i":%d}' % i))
        session.commit(f"commit {i}")
    listed = re.findall(r"id: ([0-9A-Z]{20})", theirs("snapshot", "list", "loc", "-n", "2"))
    shown = json.loads(mine("log", "loc", "-n", "2", "--json"))["snapshots"]
    assert [snapshot["id"] for snapshot in shown] == listed[:2]
    assert str(home / "r") in mine("alias", "list")


def test_F115_exit_codes(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of the original: 0, 1 for a failure, 2 for what the command line cannot mean."""
    theirs = [["--help"], [], ["nonsense"], ["snapshot", "list", "nowhere"]]
    codes = [run_program("icechunk", *arguments, home=home)[0] for arguments in theirs]
    assert codes == [program(arguments) for arguments in (["--help"], [], ["nonsense"], ["log", "nowhere"])]
    assert codes == [0, 2, 2, 1]
    out, err = capsys.readouterr()
    assert "commands:" in out
    assert err.splitlines()[-1].startswith("icechunk-virtual: there is no repository at nowhere")
    assert "Traceback" not in err


def test_F115_the_program_is_installed(home: Path) -> None:
    code, out, err = run_program("icechunk-virtual", "--version", home=home)
    assert (code, out, err) == (0, f"icechunk-virtual {ours.__version__}\n", "")


def test_F116_import_star() -> None:
    names: dict[str, Any] = {}
    exec("from icechunk_virtual import *", names)
    assert set(ours.__all__) <= names.keys()
    assert names["Repository"] is ours.Repository
    assert len(set(ours.__all__)) == len(ours.__all__)


@both
def test_F117_typed_interface(ic: Any) -> None:
    assert (Path(ic.__file__).parent / "py.typed").exists()
    options = ic.S3Options(region="r", endpoint_url="http://e", allow_http=True, anonymous=True, force_path_style=True)
    assert (options.region, options.endpoint_url, options.allow_http) == ("r", "http://e", True)
    options.region, options.requester_pays, options.network_stream_timeout_seconds = "s", True, 7
    assert (options.region, options.requester_pays, options.network_stream_timeout_seconds) == ("s", True, 7)


def test_F118_metadata_of_a_pure_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11"
    compiled = {".c", ".cpp", ".pyx", ".rs", ".so", ".pyd", ".dylib"}
    assert not [path for path in (ROOT / "icechunk_virtual").rglob("*") if path.suffix in compiled]


@pytest.mark.slow
@pytest.mark.network
def test_F118_a_pure_wheel_installs_into_a_fresh_environment(tmp_path: Path) -> None:
    def run(*command: object) -> str:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    run(sys.executable, ROOT / "tools" / "environment.py", tmp_path / "fresh", wheel)
    programs = tmp_path / "fresh" / ("Scripts" if sys.platform == "win32" else "bin")
    run(programs / "icechunk-virtual", "create", tmp_path / "r")
    code = "import icechunk_virtual as ic, sys; ic.Repository.open(ic.local_filesystem_storage(sys.argv[1]))"
    run(programs / "python", "-c", code, tmp_path / "r")
    installed = json.loads(run(programs / "python", "-m", "pip", "list", "--format=json"))
    assert not {"h5py", "netcdf4", "xarray", "dask", "icechunk"} & {package["name"].lower() for package in installed}


def test_F119_every_example_of_the_documentation_is_run() -> None:
    """By tests/unit/test_docs.py, page by page."""
    with_code = {name for name in pages() if any(block.language == "python" for block in blocks(ROOT / name))}
    assert with_code
    assert with_code <= BEFORE.keys()
    indented = [name for name in pages() if "\n    >>> " in (ROOT / name).read_text(encoding="utf-8")]
    assert not indented, "examples that nobody runs"


def test_F120_benchmarks_run_and_print_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(["--list"]) == 0
    assert capsys.readouterr().out.split() == sorted(
        path.stem.removeprefix("bench_") for path in (ROOT / "bench").glob("bench_*.py")
    )
    monkeypatch.setattr("bench.bench_specs.COUNT", 1000)  # one file
    assert bench(["specs", "--repeats", "1", "--json", str(tmp_path / "figures.json")]) == 0
    assert "set_virtual_refs" in capsys.readouterr().out
    assert json.loads((tmp_path / "figures.json").read_text())


def write_history(ic: Any, path: Path) -> Any:
    """A repository with two branches, a tag and chunks of every size."""
    config = ic.RepositoryConfig(inline_chunk_threshold_bytes=4)
    repo = ic.Repository.create(ic.local_filesystem_storage(str(path)), config)
    session = repo.writable_session("main")
    put(session.store, "zarr.json", GROUP)
    put(session.store, "g/zarr.json", GROUP)
    put(session.store, "g/a/zarr.json", array_document((4, 4), (2, 2)))
    for i, size in enumerate((1, 4, 5, 5000)):
        put(session.store, f"g/a/c/{i // 2}/{i % 2}", bytes([i]) * size)
    repo.create_tag("v1", session.commit("one", {"author": "me", "nested": [1, {"x": None}]}))
    repo.create_branch("side", repo.lookup_branch("main"))
    return repo


@pytest.mark.compat
@pytest.mark.parametrize(("first", "second"), [(ours, icechunk), (icechunk, ours)], ids=["read back", "read"])
def test_F121_what_one_writes_the_other_reads_and_continues(first: Any, second: Any, tmp_path: Path) -> None:
    repo = write_history(first, tmp_path)
    other = second.Repository.open(second.local_filesystem_storage(str(tmp_path)))
    assert picture(other) == picture(repo)
    session = other.writable_session("side")
    put(session.store, "g/a/c/0/0", b"new")
    session.commit("two")
    again = first.Repository.open(first.local_filesystem_storage(str(tmp_path)))
    assert picture(again) == picture(other)
    assert get(again.readonly_session("side").store, "g/a/c/0/0") == b"new"


OLD_CONFIG = """
inline_chunk_threshold_bytes: 12
get_partial_values_concurrency: null
compression: null
caching: null
storage: null
virtual_chunk_containers:
  az: {name: az, url_prefix: az, store: !azure {}}
  file: {name: file, url_prefix: file, store: !local_file_system ''}
  s3:
    name: s3
    url_prefix: s3://testbucket
    store: !s3_compatible
      region: us-east-1
      endpoint_url: http://localhost:4200
      anonymous: false
      allow_http: true
      force_path_style: true
manifest: null
"""
"""As 0.2 wrote it: containers by names, prefixes without final slash or that are no URLs, fewer fields."""


@pytest.mark.compat
@pytest.mark.filterwarnings("ignore:ignoring the virtual chunk container")
def test_F122_repositories_of_0_2_need_no_migration(tmp_path: Path) -> None:
    """The other files are of the same format; only the configuration has changed its words since."""
    repo = write_history(icechunk, tmp_path)
    session = repo.writable_session("main")
    url = "s3://testbucket/path/chunk-1"
    session.store.set_virtual_ref("g/a/c/0/0", url, offset=1, length=4, validate_container=False)
    session.commit("virtual")
    (tmp_path / "config.yaml").write_text(OLD_CONFIG)

    mine = ours.Repository.open(ours.local_filesystem_storage(tmp_path))
    theirs = icechunk.Repository.open(icechunk.local_filesystem_storage(str(tmp_path)))
    assert refs_of(mine) == refs_of(theirs)
    assert mine.config.inline_chunk_threshold_bytes == theirs.config.inline_chunk_threshold_bytes == 12
    for branch in ("main", "side"):
        one, other = mine.readonly_session(branch), theirs.readonly_session(branch)
        assert keys_of(one.store) == keys_of(other.store)
        assert one.all_virtual_chunk_locations() == other.all_virtual_chunk_locations()
    assert get(mine.readonly_session("side").store, "g/a/c/1/1") == b"\x03" * 5000
    with pytest.raises(
        ours.IcechunkError, match="s3://testbucket/, to be able to fetch the chunk you need to authorize"
    ):
        get(mine.readonly_session("main").store, "g/a/c/0/0")
    session = mine.writable_session("main")
    session.store.set_virtual_ref("g/a/c/0/1", url, offset=1, length=4)
    session.commit("continued")
    mine.save_config()
    again = icechunk.Repository.open(icechunk.local_filesystem_storage(str(tmp_path)))
    assert again.readonly_session("main").all_virtual_chunk_locations() == [url, url]


@pytest.mark.parametrize(
    ("position", "value", "text"),
    [
        (0, b"\x00", "magic"),
        (36, b"\x09", "version"),
        (37, b"\x09", "file type"),
        (38, b"\x09", "compression"),
    ],
)
def test_F123_files_of_another_format_are_a_clean_error(position: int, value: bytes, text: str, tmp_path: Path) -> None:
    repo = write_history(ours, tmp_path)
    tip = repo.lookup_branch("main")
    file = tmp_path / "snapshots" / tip
    file.write_bytes(file.read_bytes()[:position] + value + file.read_bytes()[position + 1 :])
    fresh = ours.Repository.open(ours.local_filesystem_storage(tmp_path))
    with pytest.raises(FormatError, match=text) as caught:
        fresh.readonly_session("main")
    assert isinstance(caught.value, ours.IcechunkError)
    judge = icechunk.Repository.open(icechunk.local_filesystem_storage(str(tmp_path)))
    with pytest.raises(icechunk.IcechunkError):
        judge.lookup_snapshot(tip)
