"""Hostile data files: scanning one reads that file, and no other of this machine or of the network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import icechunk_virtual as icv
from icechunk_virtual import ScanOptions, scan
from icechunk_virtual.errors import ScanError, UnsupportedFeature
from tests.support.object_server import ObjectServer

SECRET = b"CANARY-CANARY-"
SIZE = len(SECRET)
SKIP = ScanOptions(skip_unsupported=True)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the reader's, as raw bytes; `secret.h5` beside it has them as a dataset `x`."""
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.frombuffer(SECRET, "u1")
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    return path


@pytest.fixture
def inbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the hostile file; the reader works beside his secret."""
    monkeypatch.chdir(tmp_path)
    for variable in ("HDF5_EXTFILE_PREFIX", "HDF5_VDS_PREFIX"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


def raw(file: h5py.File, name: str, path: object, size: int = SIZE) -> None:
    """A dataset whose values are the bytes of any file."""
    file.create_dataset(name, shape=(size,), dtype="u1", external=[(str(path), 0, size)])


def made_of(file: h5py.File, name: str, path: object, dataset: str) -> None:
    """A virtual dataset whose values are those of a dataset of any file."""
    layout = h5py.VirtualLayout((SIZE,), "u1")
    layout[:] = h5py.VirtualSource(str(path), dataset, (SIZE,))
    file.create_virtual_dataset(name, layout)


def by_two_links(file: h5py.File, secret: Path) -> None:
    file["out"] = h5py.ExternalLink(f"{secret}.h5", "/x")
    file["soft"] = h5py.SoftLink("/out")


def by_a_part_behind_a_link(file: h5py.File, secret: Path) -> None:
    file["out"] = h5py.ExternalLink(f"{secret}.h5", "/")
    made_of(file, "v", ".", "/out/x")


def by_a_part_that_is_raw(file: h5py.File, secret: Path) -> None:
    raw(file, "r", secret)
    made_of(file, "v", ".", "r")
    made_of(file, "w", ".", "v")
    del file["r"]
    raw(file, "r", secret)


def by_a_file_beside_it(file: h5py.File, secret: Path) -> None:
    with h5py.File(Path(file.filename).parent / "beside.h5", "w") as other:
        raw(other, "r", secret)
        made_of(other, "v", f"{secret}.h5", "x")
        other["link"] = h5py.ExternalLink(f"{secret}.h5", "/x")
    for name in ("r", "v", "link"):
        made_of(file, f"by_{name}", "beside.h5", name)


def by_symbolic_links(file: h5py.File, secret: Path) -> None:
    folder = Path(file.filename).parent
    (folder / "raw").symlink_to(secret)
    (folder / "other.h5").symlink_to(f"{secret}.h5")
    raw(file, "r", folder / "raw")
    made_of(file, "v", "other.h5", "x")


def by_a_decoy(file: h5py.File, secret: Path) -> None:
    """HDF5 takes relative names of raw files from where the program runs, not from where the file is."""
    (Path(file.filename).parent / secret.name).write_bytes(bytes(SIZE))
    (Path(file.filename).parent / f"{secret.name}.h5").write_bytes(b"no HDF5")
    raw(file, "r", secret.name)
    made_of(file, "v", f"{secret.name}.h5", "x")


WAYS: dict[str, Callable[[h5py.File, Path], None]] = {
    "link": lambda file, secret: file.__setitem__("x", h5py.ExternalLink(f"{secret}.h5", "/x")),
    "relative link": lambda file, secret: file.__setitem__("x", h5py.ExternalLink("../secret.h5", "/x")),
    "two links": by_two_links,
    "raw": lambda file, secret: raw(file, "x", secret),
    "raw, relative": lambda file, secret: raw(file, "x", "secret"),
    "raw, up": lambda file, secret: raw(file, "x", "inbox/../secret"),
    "raw, of the process": lambda file, secret: raw(file, "x", "/proc/self/environ"),
    "parts": lambda file, secret: made_of(file, "x", f"{secret}.h5", "x"),
    "parts, relative": lambda file, secret: made_of(file, "x", "../secret.h5", "x"),
    "parts, of where we are": lambda file, secret: made_of(file, "x", "secret.h5", "x"),
    "parts behind a link": by_a_part_behind_a_link,
    "parts that are raw": by_a_part_that_is_raw,
    "file beside it": by_a_file_beside_it,
    "symbolic links": by_symbolic_links,
    "decoy": by_a_decoy,
}


def kept(node: Any) -> Iterator[bytes]:
    """All bytes that a scan has taken from files, by group."""
    for array in node.arrays.values():
        yield bytes(array.refs.heap)
        yield repr(array).encode()
    for group in node.groups.values():
        yield from kept(group)


@pytest.mark.parametrize("way", WAYS)
def test_T70_a_file_does_not_have_others_read(
    way: str, inbox: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by links, nor by values that are said to be in other files."""
    monkeypatch.setenv("CANARY", SECRET.decode())
    path = inbox / "hostile.h5"
    with h5py.File(path, "w") as file:
        WAYS[way](file, secret)
    found = scan(str(path), options=SKIP)
    assert not found.root.arrays
    assert found.warnings, "said, not left out in silence"
    assert SECRET not in b"".join(kept(found.root))
    if way not in {"link", "relative link", "two links"}:  # what a link leads to is none of the file's arrays
        with pytest.raises(UnsupportedFeature):
            scan(str(path))


def test_T70_nothing_of_it_reaches_the_repository(inbox: Path, secret: Path, tmp_path: Path) -> None:
    path = inbox / "hostile.h5"
    with h5py.File(path, "w") as file:
        file["honest"] = np.arange(5)
        raw(file, "r", secret)
    repo = icv.Repository.create(icv.local_filesystem_storage(tmp_path / "repo"))
    session = repo.writable_session("main")
    scan(str(path), options=SKIP).to_icechunk(session.store)
    session.commit("scanned")
    for file_of_repo in (tmp_path / "repo").rglob("*"):
        assert not file_of_repo.is_file() or SECRET not in file_of_repo.read_bytes()


def test_T71_files_of_its_own_folder_are_read(inbox: Path, tmp_path: Path) -> None:
    """Detectors write them: one file that says where the others are, all in one folder."""
    (inbox / "deep").mkdir()
    (inbox / "deep" / "raw").write_bytes(bytes(range(SIZE)))
    with h5py.File(inbox / "part.h5", "w") as file:
        file["x"] = np.arange(SIZE, dtype="u1")
    with h5py.File(inbox / "whole.h5", "w") as file:
        raw(file, "raw", inbox / "deep" / "raw")
        made_of(file, "parts", "part.h5", "x")
        made_of(file, "absolute", inbox / "part.h5", "x")
        made_of(file, "again", ".", "parts")
    found = scan(str(inbox / "whole.h5"))
    assert {stored.path for stored in found.stored} == {"/raw", "/parts", "/absolute", "/again"}


def test_T71_but_not_if_the_environment_says_that_they_are_elsewhere(
    inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inbox / "raw").write_bytes(bytes(SIZE))
    with h5py.File(inbox / "whole.h5", "w") as file:
        raw(file, "raw", "raw")
    monkeypatch.chdir(inbox)
    assert scan(str(inbox / "whole.h5")).stored
    monkeypatch.setenv("HDF5_EXTFILE_PREFIX", str(tmp_path))
    with pytest.raises(UnsupportedFeature, match="HDF5_EXTFILE_PREFIX"):
        scan(str(inbox / "whole.h5"))


@pytest.mark.parametrize("way", ["raw", "raw, relative", "parts, of where we are", "parts behind a link", "two links"])
def test_T72_a_file_of_a_server_has_none_of_this_machine_read(way: str, inbox: Path, secret: Path) -> None:
    with h5py.File(inbox / "hostile.h5", "w") as file:
        WAYS[way](file, secret)
    with ObjectServer({"/hostile.h5": (inbox / "hostile.h5").read_bytes()}) as server:
        found = scan(f"{server.url}/hostile.h5", options=SKIP)
        assert {request.target for request in server.requests} == {"/hostile.h5"}
    assert not found.root.arrays
    assert SECRET not in b"".join(kept(found.root))


def test_T73_what_is_no_file_is_not_scanned(inbox: Path) -> None:
    os.mkfifo(inbox / "pipe")
    for path in (inbox / "pipe", Path("/dev/zero")):
        with pytest.raises(ScanError, match="not a regular file"):
            scan(str(path))
    for url in ("simplecache::http://127.0.0.1:1/x", "zip://x::file:///etc/passwd", "http://me:CANARY@127.0.0.1:1/x"):
        with pytest.raises(ScanError) as caught:
            scan(url)
        assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize("name", ["x.nc", "x.h5"])
@pytest.mark.parametrize("seed", range(20))
def test_T74_damaged_files_end_in_an_error_that_says_so(name: str, seed: int, inbox: Path) -> None:
    """Or in what is still whole; never in a crash, nor in references beyond the file."""
    path = inbox / name
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=np.arange(1000), chunks=(100,), compression="gzip")
        file["b"] = np.arange(10.0)
        file["b"].attrs["units"] = "m"
    data = bytearray(path.read_bytes())
    dice = np.random.default_rng(seed)
    for position in dice.integers(0, len(data), 30):
        data[position] = dice.integers(0, 256)
    path.write_bytes(data[: dice.integers(len(data) // 2, len(data))] if seed % 2 else data)
    try:
        found = scan(str(path), options=SKIP)
    except (ScanError, ValueError):
        return
    for array in found.root.arrays.values():
        assert (array.refs.offset[array.refs.kind == 0] <= len(data)).all()
