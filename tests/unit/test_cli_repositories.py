"""The commands for repositories: what they do and say, to people and to programs, and what they refuse."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import zarr

import icechunk_virtual as icv
from icechunk_virtual.cli import main
from tests.support.archives import snapshot_of

MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


class Versions(NamedTuple):
    first: str
    second: str
    tip: str
    dev: str


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Versions]:
    """A repository with two commits on main, and a branch dev and a tag v1 at the first of them."""
    folder = tmp_path_factory.mktemp("template") / "r"
    repo = icv.Repository.create(icv.local_filesystem_storage(folder))

    def write(branch: str, path: str, message: str) -> str:
        session = repo.writable_session(branch)
        array = zarr.create_array(
            session.store, name=path, shape=(40, 10), chunks=(10, 10), dtype="f8", dimension_names=("y", "x")
        )
        array[:20] = np.random.default_rng(1).random((20, 10))
        return session.commit(message, {"author": "é"})

    second = write("main", "a", "the first array")
    repo.create_tag("v1", second)
    repo.create_branch("dev", second)
    tip = write("main", "g/b", "another\n\nwith a long story")
    dev = write("dev", "c", "on the side")
    return folder, Versions(repo.lookup_snapshot(second).parent_id, second, tip, dev)


class Shell:
    """Runs the program on a copy of the repository, ``r``."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str], versions: Versions) -> None:
        self.folder, self.capture = folder, capture
        self.first, self.second, self.tip, self.dev = versions

    @property
    def repo(self) -> icv.Repository:
        return icv.Repository.open(icv.local_filesystem_storage("r"))

    def run(self, *arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        return (code, *self.capture.readouterr())

    def __call__(self, line: str) -> str:
        """A command that succeeds; its output."""
        code, out, err = self.run(*shlex.split(line))
        assert (code, err) == (0, "")
        return out

    def json(self, line: str) -> Any:
        return json.loads(self(f"{line} --json"))

    def fails(self, line: str, *parts: str, code: int = 1) -> None:
        """A command that fails with one line that says why, and changes nothing."""
        before = snapshot_of(self.folder)
        found, out, err = self.run(*shlex.split(line))
        assert (found, out) == (code, "")
        assert err.startswith("icechunk-virtual: ") or code == 2
        assert err.count("\n") == 1 or "usage:" in err
        for part in parts:
            assert part in err
        assert snapshot_of(self.folder) == before

    def printed(self, out: str) -> str:
        """Runs the command that the output ends with; its output."""
        return self(
            next(line for line in out.splitlines() if "icechunk-virtual " in line).split("icechunk-virtual ")[1]
        )


@pytest.fixture
def shell(
    template: tuple[Path, Versions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ICECHUNK_VIRTUAL_TRACEBACK", raising=False)
    shutil.copytree(template[0], tmp_path / "r")
    return Shell(tmp_path, capsys, template[1])


def without_times(out: str) -> list[str]:
    return MOMENT.sub("T", out).splitlines()


# -- create and info -------------------------------------------------------------------------------------------


def test_create(shell: Shell) -> None:
    assert shell("create new") == f"created new, branch main, snapshot {shell.first}\n"
    assert icv.Repository.exists(icv.local_filesystem_storage("new"))
    shell.fails("create new", "new is not empty", "name another place")
    assert shell.json("create other")["snapshot"] == shell.first


def test_create_with_configuration(shell: Shell) -> None:
    Path("c.yaml").write_text("compression:\n  level: 7\n")
    shell("create new --config c.yaml")
    assert icv.Repository.open(icv.local_filesystem_storage("new")).config.compression.level == 7
    Path("c.yaml").write_text("compression:\n  level: x\n")
    shell.fails("create bad --config c.yaml", "c.yaml: compression: level:", "integer")
    shell.fails("create bad --config none.yaml", "none.yaml")
    shell.fails("create ftp://host/r", "no repositories at ftp:// URLs, only at paths, file://, s3://")


def test_info(shell: Shell) -> None:
    shell("config add-container r data")
    lines = without_times(shell("info r"))
    assert lines[:3] == ["repository  r (format version 1)", "branches    dev, main", "tags        v1"]
    assert lines[3] == f"main        {shell.tip}, T UTC, another ..."
    assert lines[4] == "content     4 nodes, 4 references in 2 manifests"
    assert lines[5] == f"containers  {(shell.folder / 'data').as_uri()}/"
    report = shell.json("info r --storage")
    assert report["main"]["message"] == "another\n\nwith a long story"
    assert report["main"]["metadata"] == {"author": "é"}
    assert report["chunk_bytes"]["native"] == shell.repo.total_chunks_storage() > 0
    assert " in all versions" in shell("info r --storage")


def test_no_repository(shell: Shell) -> None:
    for line in ("info", "list", "log", "show", "branch list", "config show", "inspect", "gc --older-than 1d"):
        shell.fails(f"{line} none", "there is no repository at none", "icechunk-virtual create none")
    code, out, err = shell.run("log", "none", "--json")
    assert (code, json.loads(out)["error"]["type"], err.count("\n")) == (1, "RepositoryNotFound", 1)
    assert "created" in shell.printed(err)


# -- list ------------------------------------------------------------------------------------------------------


def test_list(shell: Shell) -> None:
    assert shell("list r").splitlines() == [
        "path  dtype    shape    chunks   dimensions",
        "/",
        "/a    float64  40 x 10  10 x 10  y x",
        "/g/",
        "/g/b  float64  40 x 10  10 x 10  y x",
        f"2 groups, 2 arrays in snapshot {shell.tip}",
    ]
    assert shell.json("list r --path /g")["nodes"][1] == {
        "path": "/g/b",
        "type": "array",
        "dtype": "float64",
        "shape": [40, 10],
        "chunk_shape": [10, 10],
        "dimension_names": ["y", "x"],
    }
    shell.fails("list r --path /nope", "no group or array at /nope")
    shell.fails("list r --path a/../b", "not allowed in paths")


def test_list_with_references(shell: Shell) -> None:
    session = shell.repo.writable_session("main")
    zarr.create_array(session.store, name="scalar", shape=(), dtype="i1")[()] = 1
    session.commit("tiny")
    found = {node["path"]: node.get("refs") for node in shell.json("list r --refs")["nodes"]}
    nothing = {"chunks": 0, "bytes": 0}
    stored = found["/a"]["native"]["bytes"]
    assert found["/a"] == {"virtual": nothing, "native": {"chunks": 2, "bytes": stored}, "inline": nothing}
    assert found["/scalar"]["inline"]["chunks"] == 1
    assert found["/g"] is None
    assert stored == sum(found[path]["native"]["bytes"] for path in ("/a", "/g/b")) / 2
    lines = shell("list r --refs").splitlines()
    assert lines[0].split() == ["path", "dtype", "shape", "chunks", "dimensions", "native", "inline"]
    assert re.fullmatch(r"/scalar +int8 +scalar +scalar +- +1 \(\d+ B\)", lines[5])


def test_names_are_escaped(shell: Shell) -> None:
    session = shell.repo.writable_session("main")
    zarr.create_group(session.store, path="x\x1b[2J")
    session.commit("m\x1b[2J", {"k": "\x9b"})
    for line in ("list r", "log r", "show r", "diff r main~1", "branch list r", "inspect r", "info r"):
        out = shell(line)
        assert "\x1b" not in out
        assert "\x9b" not in out
        assert "[2J" in out
    assert json.loads(shell("inspect r"))["commit_message"] == "m\x1b[2J"


# -- versions --------------------------------------------------------------------------------------------------


def test_every_way_to_name_a_version(shell: Shell) -> None:
    def at(words: str) -> str:
        return shell.json(f"show r {words}")["id"]

    assert at("") == at("main") == at("--branch main") == shell.tip
    assert at("dev") == shell.dev
    assert at("v1") == at("--tag v1") == at("main~1") == at("dev~1") == shell.second
    assert at(f"{shell.tip}~2") == at("v1~1") == at(f"--snapshot {shell.first}") == at("main~1~1") == shell.first
    written = shell.repo.lookup_snapshot(shell.second).written_at
    assert at(f"--as-of {written.isoformat()}") == at(f"dev --as-of {written.isoformat()}") == shell.second
    assert at("--as-of 0s --branch dev") == shell.dev


def test_versions_that_do_not_exist(shell: Shell) -> None:
    shell.fails("show r nope", "no branch, tag or snapshot `nope` in r. Branches: dev, main. Tags: v1.")
    shell.fails("show r nope~1", "no branch, tag or snapshot `nope`")
    shell.fails("show r main~3", "`main~3` is before the first version: there are only 2")
    shell.fails("show r --branch v1", "no branch `v1` in r; branches: dev, main")
    shell.fails("show r --tag main", "no tag `main` in r; tags: v1")
    shell.fails("show r --snapshot 1CECHNKREP0F1RSTCMTG", "snapshot not found")
    shell.fails("show r --as-of 2001-01-01", "before or at 2001-01-01")
    shell.fails("show r nope --as-of 1d", "no branch `nope`")
    shell.fails("show r main --tag v1", "name the version once", code=2)
    shell.fails("show r --tag v1 --as-of 1d", "--as-of looks into the history of a branch", code=2)
    shell.fails("show r --as-of soon", "'soon' is neither a moment", code=2)


def test_names_with_two_meanings(shell: Shell) -> None:
    repo = shell.repo
    repo.create_tag("dev", shell.first)
    repo.create_tag("main~1", shell.first)
    repo.create_tag("same", shell.tip)
    repo.create_branch("same", shell.tip)
    shell.fails("show r dev", f"`dev` is a branch ({shell.dev}) and a tag ({shell.first})", code=2)
    assert shell.json("show r --tag dev")["id"] == shell.first
    assert shell.json("show r main~1")["id"] == shell.first
    assert shell.json("show r same")["id"] == shell.tip


# -- log, show, diff -------------------------------------------------------------------------------------------


def test_log(shell: Shell) -> None:
    assert without_times(shell("log r")) == [
        f"*  {shell.tip}  T  (main)  another ...",
        f"*  {shell.second}  T  (tag: v1)  the first array",
        f"*  {shell.first}  T  Repository initialized",
    ]
    assert without_times(shell("log r -n 1 dev")) == [
        f"*  {shell.dev}  T  (dev)  on the side",
        "and older versions: -n 0 shows all",
    ]


def test_log_of_everything(shell: Shell) -> None:
    assert without_times(shell("log r --all")) == [
        f"*  {shell.dev}  T  (dev)  on the side",
        f"| *  {shell.tip}  T  (main)  another ...",
        "|/",
        f"*  {shell.second}  T  (tag: v1)  the first array",
        f"*  {shell.first}  T  Repository initialized",
    ]
    report = shell.json("log r --all -n 4")
    assert [s["id"] for s in report["snapshots"]] == [shell.dev, shell.tip, shell.second, shell.first]
    assert report["more"] is False
    assert report["snapshots"][2]["tags"] == ["v1"]
    assert shell.json("log r --all -n 2")["more"] is True
    assert len(shell.json("log r --all -n 0")["snapshots"]) == 4
    shell.fails("log r --all v1", "leave out the version", code=2)
    shell.fails("log r -n -1", "-n takes a number", code=2)


def test_a_log_reads_no_more_than_it_shows(shell: Shell) -> None:
    (shell.folder / "r" / "snapshots" / shell.first).unlink()
    assert len(shell("log r -n 1").splitlines()) == 2
    shell.fails("log r", "snapshot not found")


def test_show(shell: Shell) -> None:
    lines = without_times(shell("show r"))
    assert lines[:5] == [
        f"snapshot   {shell.tip}",
        f"parent     {shell.second}",
        "branches   main",
        "written    T UTC",
        'metadata   {"author": "é"}',
    ]
    assert "    with a long story" in lines
    assert lines[-4:] == ["Chunks updated:", "    /g/b:", "        [0, 0]", "        [1, 0]"]
    report = shell.json("show r v1")
    assert report["changes"]["new_arrays"] == ["/a"]
    assert report["changes"]["updated_chunks"] == {"/a": [[0, 0], [1, 0]]}
    assert sum(file["num_chunk_refs"] for file in report["manifests"]) == 2
    assert "no changes" in shell(f"show r {shell.first}")


def test_diff(shell: Shell) -> None:
    assert shell("diff r v1").startswith("Groups created:\n    /g\n\nArrays created:\n    /g/b\n")
    report = shell.json(f"diff r {shell.first} dev")
    assert (report["from"], report["to"]) == (shell.first, shell.dev)
    assert report["changes"]["new_arrays"] == ["/a", "/c"]
    shell.fails("diff r main v1", "is not an earlier version of")
    shell.fails("diff r v1 main~1", "are the same version")
    shell.fails("diff r", "FROM", code=2)


# -- branches and tags -----------------------------------------------------------------------------------------


def test_branches(shell: Shell) -> None:
    assert without_times(shell("branch list r")) == [
        "name  snapshot              written (UTC)        message",
        f"dev   {shell.dev}  T  on the side",
        f"main  {shell.tip}  T  another ...",
    ]
    assert shell("branch create r new v1") == f"created branch new at {shell.second}\n"
    assert shell.repo.lookup_branch("new") == shell.second
    shell("branch create r other --as-of 0s --branch dev")
    assert [b["name"] for b in shell.json("branch list r")["branches"]] == ["dev", "main", "new", "other"]
    shell.fails("branch create r new", "there is a branch `new` already")
    shell.fails("branch create r a/b", "it contains a `/`")


def test_deleting_branches_and_bringing_them_back(shell: Shell) -> None:
    shell.fails("branch delete r dev nope", "no branch `nope`")
    shell.fails("branch delete r dev main", "main cannot be deleted")
    out = shell("branch delete r dev")
    assert f"deleted branch dev, which was at {shell.dev}" in out
    assert shell.repo.list_branches() == {"main"}
    shell.printed(out)
    assert shell.repo.lookup_branch("dev") == shell.dev


def test_moving_a_branch_and_back(shell: Shell) -> None:
    out = shell("branch reset r main v1")
    assert out.startswith(f"moved branch main from {shell.tip} to {shell.second}\n")
    assert shell.repo.lookup_branch("main") == shell.second
    assert "is at" in shell("branch reset r main v1")
    shell.printed(out)
    assert shell.repo.lookup_branch("main") == shell.tip
    shell.fails("branch reset r main v1 --from dev", f"`main` is at {shell.tip}, not at {shell.dev}")
    shell.fails("branch reset r nope v1", "no branch `nope`")
    shell.fails("branch reset r main nope", "no branch, tag or snapshot `nope`")


def test_tags(shell: Shell) -> None:
    assert shell("tag create r v2") == f"created tag v2 at {shell.tip}\n"
    assert [tag["snapshot"]["id"] for tag in shell.json("tag list r")["tags"]] == [shell.second, shell.tip]
    out = shell("tag delete r v1 v2")
    assert "deleted tag v1" in out
    assert "cannot be used again" in out
    assert shell("tag list r") == "no tags\n"
    shell.fails("tag create r v1", "there is a tag `v1` already, or there was one")
    shell.fails("tag delete r v1", "no tag `v1` in r; tags: none")


# -- inspect ---------------------------------------------------------------------------------------------------


def test_inspect(shell: Shell) -> None:
    content = json.loads(shell("inspect r v1"))
    assert content == json.loads(shell.repo.inspect_snapshot(shell.second))
    manifest = content["manifests"][0]["id"]
    found = shell.json(f"inspect r --manifest {manifest} --refs")
    (array,) = found["arrays"]
    assert array["node_id"] == next(node["id"] for node in content["nodes"] if node["path"] == "/a")
    assert array["extents"] == [[0, 2], [0, 1]]
    assert array["native"]["chunks"] == found["num_chunk_refs"] == 2
    assert [ref["coord"] for ref in array["refs"]] == [[0, 0], [1, 0]]
    assert (shell.folder / "r" / "chunks" / array["refs"][0]["chunk_id"]).exists()
    assert "refs" not in shell.json(f"inspect r --manifest {manifest}")["arrays"][0]
    shell.fails("inspect r --manifest nope", "no manifest nope in r")
    shell.fails(f"inspect r --manifest {shell.tip}", "no manifest")
    shell.fails(f"inspect r v1 --manifest {manifest}", "not both", code=2)
    shell.fails("inspect r --refs", "--refs needs --manifest", code=2)


def test_inspect_virtual_and_inline_references(shell: Shell) -> None:
    shell("config add-container r data")
    url = (shell.folder / "data" / "x.bin").as_uri()
    repo = shell.repo
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="v", shape=(2,), chunks=(1,), dtype="i4", compressors=None)[0] = 5
    session.store.set_virtual_ref("v/c/1", url, offset=3, length=4)
    id = session.commit("v")
    manifests = [file["id"] for file in json.loads(repo.inspect_snapshot(id))["manifests"]]
    arrays = [shell.json(f"inspect r --manifest {m} --refs")["arrays"][0] for m in manifests]
    (found,) = (array for array in arrays if "virtual" in array)
    assert found["locations"] == [url]
    assert found["refs"] == [
        {"coord": [0], "kind": "inline", "length": 4},
        {"coord": [1], "kind": "virtual", "length": 4, "url": url, "offset": 3},
    ]


# -- upkeep ----------------------------------------------------------------------------------------------------


def test_expire_and_collect(shell: Shell) -> None:
    out = shell("expire r --older-than 0s --delete-expired-branches --delete-expired-tags")
    assert f"deleted branch dev, which was at {shell.dev}" in out
    assert f"deleted tag v1, which was at {shell.second}" in out
    assert f"  {shell.second}" in out.splitlines()
    assert f"  {shell.tip}" not in out.splitlines()
    assert [info.id for info in shell.repo.ancestry(branch="main")] == [shell.tip, shell.first]
    before = snapshot_of(shell.folder)
    planned = shell.json("gc r --older-than 0s --dry-run")
    assert planned["dry_run"] is True
    assert planned["snapshots_deleted"] == 2
    assert shell("gc r --older-than 0s --dry-run").startswith("would delete 2 snapshots, 2 transaction logs, ")
    assert snapshot_of(shell.folder) == before
    assert shell.printed(out).startswith("deleted 1 snapshot, 1 transaction log")  # expiry wrote the other one anew
    assert len(snapshot_of(shell.folder)) < len(before)
    assert shell("gc r --older-than 0s").startswith("deleted 1 snapshot, 1 transaction log, ")
    assert shell("gc r --older-than 0s").startswith("nothing to delete among objects written before ")
    assert (zarr.open_array(shell.repo.readonly_session("main").store, path="a")[:20] != 0).all()


def test_nothing_is_old(shell: Shell) -> None:
    before = snapshot_of(shell.folder)
    assert shell("expire r --older-than 1d").startswith("0 versions written before ")
    assert "nothing to delete" in shell("gc r --older-than 1d")
    assert snapshot_of(shell.folder) == before
    for line in ("gc r", "expire r", "gc r --older-than soon"):
        shell.fails(line, "--older-than", code=2)


def test_rewrite_manifests(shell: Shell) -> None:
    shell("config set r 'manifest.splitting.split_sizes=[[any_array, [{condition: Any, num_chunks: 1}]]]'")
    report = shell.json("rewrite-manifests r -m smaller")
    assert (report["manifests_before"], report["manifests"]) == (2, 4)
    assert shell.repo.lookup_branch("main") == report["snapshot"]
    assert shell.repo.lookup_snapshot(report["snapshot"]).message == "smaller"
    assert "to branch dev\n4 manifests, 2 before" in shell("rewrite-manifests r --branch dev")
    shell.fails("rewrite-manifests r --branch nope", "no branch `nope`")


# -- usage -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", ["branch", "tag nope", "config", "log", "branch create r", "branch delete r", "list r --pa /"]
)
def test_usage(shell: Shell, line: str) -> None:
    shell.fails(line, "usage:", code=2)


def test_names_like_options(shell: Shell) -> None:
    shell("branch create r -- -x v1")
    assert shell.repo.lookup_branch("-x") == shell.second
    shell("branch delete r -- -x")
    assert "-x" not in shell.repo.list_branches()
