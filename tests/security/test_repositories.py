"""Hostile repositories beside their references: what their files, names and documents can do to their reader."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import zarr

import icechunk_virtual as icv
from icechunk_virtual.cli.main import main
from icechunk_virtual.errors import IcechunkError
from tests.support.hierarchies import GROUP, array_document, get, put
from tests.support.object_server import ObjectServer
from tests.support.proxy import Answer, Forward, Request
from tests.support.source import modules

SECRET = b"CANARY-CANARY"
EVIL = "<script>alert(1)</script>\x1b[2J\x1b]0;owned\x07\r\u202e&\"'"


def local(tmp_path: Path, message: str = "first") -> tuple[Any, Path]:
    """A storage in a folder with an array `v` of one native chunk."""
    storage = icv.local_filesystem_storage(tmp_path / "r")
    repo = icv.Repository.create(storage, icv.RepositoryConfig(inline_chunk_threshold_bytes=0))
    with repo.transaction("main", message=message) as store:
        put(store, "zarr.json", GROUP)
        put(store, "v/zarr.json", array_document((13,), (13,)))
        put(store, "v/c/0", bytes(13))
    return storage, tmp_path / "r"


# -- code ------------------------------------------------------------------------------------------------------

RUNS = re.compile(
    r"\b(pickle|marshal|shelve|dill|cloudpickle)\.(loads?|Unpickler)\b|(?<![.\w])(eval|exec|compile|__import__)\(|"
    r"\byaml\.(load|unsafe_load)|\bos\.(system|popen|exec\w*|spawn\w*)\b|\bsubprocess\.|\bctypes\."
)
ALLOWED = {
    "containers.refreshable": {"pickle.loads"},  # the caller's own function, which travelled in the caller's pickle
    "repo.file_sync": {"ctypes."},  # calls that Python lacks, with paths of our own
}


@pytest.mark.parametrize("module", modules().values(), ids=lambda m: m.name)
def test_T60_nothing_is_executed_or_unpickled(module: Any) -> None:
    code = ast.unparse(ast.parse(module.text))  # without comments
    found = {match[0] for match in RUNS.finditer(code)}
    assert found <= ALLOWED.get(module.place, set())


@pytest.mark.parametrize(
    "codec",
    [
        {"name": "numcodecs.pickle", "configuration": {}},
        {"name": "pickle"},
        {"name": "numcodecs.msgpack2"},
        {"name": "os.system", "configuration": {"command": "true"}},
        {"name": "../../evil"},
    ],
)
def test_T60_documents_name_no_code(codec: dict[str, Any], tmp_path: Path) -> None:
    repo = icv.Repository.create(icv.in_memory_storage())
    with repo.transaction("main", message="x") as store:
        put(store, "zarr.json", GROUP)
        put(store, "v/zarr.json", array_document((3,), (3,), codecs=[{"name": "bytes"}, codec]))
        put(store, "v/c/0", b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(Exception, match=r"(?i)codec|unknown|registr|pickle|evil|system"):
        zarr.open_array(repo.readonly_session("main").store, path="v", mode="r")[...]


# -- what people see -------------------------------------------------------------------------------------------


def test_T61_pages_of_notebooks_run_nothing() -> None:
    config = icv.RepositoryConfig()
    prefix = "s3://b/<script>alert(1)</script>/"
    config.set_virtual_chunk_container(icv.VirtualChunkContainer(prefix, icv.s3_store()))
    repo = icv.Repository.create(icv.in_memory_storage(), config)
    session = repo.writable_session("main")
    put(session.store, "zarr.json", GROUP)
    put(session.store, "<img src=x onerror=alert(1)>/zarr.json", array_document((3,)))
    id = session.commit(EVIL)
    other = repo.writable_session("main")
    put(other.store, "<b>/zarr.json", array_document((3,)))
    put(other.store, "<img src=x onerror=alert(1)>/c/0", b"x")
    diff = repo.diff(from_snapshot_id=list(repo.ancestry(branch="main"))[-1].id, to_snapshot_id=id)
    shown = [thing._repr_html_() for thing in (repo, repo.readonly_session("main"), other, diff)]
    for text in shown:
        assert not re.search(r"<(script|img|b)\b", text)
    assert "&lt;script&gt;" in "".join(shown)


def test_T61_terminals_are_not_commanded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage, root = local(tmp_path, EVIL)
    repo = icv.Repository.open(storage)
    repo.create_tag("t\u202e<b>", repo.lookup_branch("main"))
    with repo.transaction("main", message=EVIL, metadata={EVIL: EVIL}) as store:
        put(store, f"{EVIL.replace('/', '')}/zarr.json", array_document((3,)))
    id = repo.lookup_branch("main")
    for command in ("info", "list", "log", "show", "tag list", "branch list", "diff main~1 main", f"inspect {id}"):
        name, *rest = command.split()
        arguments = [name, *rest[:1], str(root), *rest[1:]] if name in {"tag", "branch"} else [name, str(root), *rest]
        main(arguments)
        shown = capsys.readouterr()
        text = shown.out + shown.err
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text), command


NASTY = "e\x1b]0;owned\x07\x1b[2J\x9b2J\u202e" + "x" * 10_000


async def nasty(request: Request, _forward: Forward) -> Answer:
    """An answer with what terminals obey."""
    if "If-Match" in request.headers:
        return Answer(412, body=NASTY.encode())
    return Answer(403, body=f"<Error><Code>AccessDenied</Code><Message>{NASTY}</Message></Error>".encode())


@pytest.mark.parametrize("place", ["file", "http", "s3"])
@pytest.mark.parametrize("etag", [None, NASTY])
def test_T61_nor_by_what_errors_repeat(place: str, etag: str | None, tmp_path: Path) -> None:
    """Etags come from manifests and servers, reasons from servers."""
    with ObjectServer({}) as server:
        server.handle = nasty
        prefix, store = {
            "file": (f"file://{tmp_path}/", icv.local_filesystem_store(tmp_path)),
            "http": (f"{server.url}/b/", icv.http_store({"allow_http": "true"})),
            "s3": ("s3://b/", icv.s3_store("r", server.url, True, True, True, True)),
        }[place]
        if etag is not None:
            (tmp_path / "f").write_bytes(b"x" * 20)
        config = icv.RepositoryConfig()
        config.set_virtual_chunk_container(icv.VirtualChunkContainer(prefix, store))
        repo = icv.Repository.create(icv.in_memory_storage(), config, {prefix: None})
        session = repo.writable_session("main")
        put(session.store, "v/zarr.json", array_document((10,), (10,)))
        session.store.set_virtual_ref("v/c/0", f"{prefix}f", offset=0, length=10, checksum=etag)
        with pytest.raises(IcechunkError) as caught:
            get(session.store, "v/c/0")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", str(caught.value))
    assert len(str(caught.value)) < 4000


# -- files -----------------------------------------------------------------------------------------------------


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", ["chunks", "manifests", "snapshots", "refs/branch.main", "config.yaml"])
def test_T62_objects_of_a_repository_are_no_links(kind: str, tmp_path: Path) -> None:
    """A repository in a folder may have been unpacked from an archive with links to any file of this machine."""
    storage, root = local(tmp_path)
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    files = [root / kind] if kind == "config.yaml" else files_below(root / kind)
    assert files
    for path in files:
        path.unlink(missing_ok=True)
        path.symlink_to(secret)
    with pytest.raises(IcechunkError, match="it is a symbolic link") as caught:
        get(icv.Repository.open(storage).readonly_session("main").store, "v/c/0")
    assert SECRET.decode() not in str(caught.value)


def test_T62_nor_pipes_that_are_waited_for(tmp_path: Path) -> None:
    storage, root = local(tmp_path)
    (chunk,) = files_below(root / "chunks")
    chunk.unlink()
    os.mkfifo(chunk)
    with pytest.raises(IcechunkError):
        get(icv.Repository.open(storage).readonly_session("main").store, "v/c/0")


def test_T62_large_objects_are_no_links_either(tmp_path: Path) -> None:
    storage, root = local(tmp_path)
    with icv.Repository.open(storage).transaction("main", message="large") as store:
        put(store, "w/zarr.json", array_document((2**21,), (2**21,)))
        put(store, "w/c/0", bytes(2**21))
    (tmp_path / "secret").write_bytes(SECRET + bytes(2**21))
    large = max(files_below(root / "chunks"), key=lambda path: path.stat().st_size)
    large.unlink()
    large.symlink_to(tmp_path / "secret")
    with pytest.raises(IcechunkError, match="it is a symbolic link"):
        get(icv.Repository.open(storage).readonly_session("main").store, "w/c/0")


@pytest.mark.parametrize(
    "id", ["../../secret", "/etc/passwd", "..", "", "A" * 21, "%2e%2e%2fsecret", "\u0000" * 20, None]
)
def test_T63_ids_are_no_paths(id: Any, tmp_path: Path) -> None:
    storage, root = local(tmp_path)
    (tmp_path / "secret").write_bytes(SECRET)
    (root / "refs" / "branch.main" / "ref.json").write_text(json.dumps({"snapshot": id}))
    with pytest.raises(IcechunkError) as caught:
        icv.Repository.open(storage).readonly_session("main")
    assert SECRET.decode() not in str(caught.value)
    repo = icv.Repository.create(icv.in_memory_storage())
    with pytest.raises((IcechunkError, ValueError, TypeError)):
        repo.readonly_session(snapshot_id=id)


@pytest.mark.parametrize("name", ["../x", "..", "a/../../b", "/etc/passwd", "a/b"])
def test_T63_names_of_branches_and_paths_of_nodes_stay_inside(name: str, tmp_path: Path) -> None:
    storage, root = local(tmp_path)
    before = set(tmp_path.rglob("*")) - set(root.rglob("*"))
    repo = icv.Repository.open(storage)
    for make in (repo.create_branch, repo.create_tag):
        try:
            make(name, repo.lookup_branch("main"))
        except (IcechunkError, ValueError):
            continue
    session = repo.writable_session("main")
    try:
        put(session.store, f"{name}/zarr.json", array_document((3,)))
        session.commit("x")
    except (IcechunkError, ValueError, KeyError):
        pass
    assert set(tmp_path.rglob("*")) - set(root.rglob("*")) == before
