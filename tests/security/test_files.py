"""Files of this machine: what is below an authorised directory is read, whatever a reference is like; nothing else."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from icechunk_virtual.containers.authorize import Authorization
from icechunk_virtual.containers.container import VirtualChunkContainer, local_filesystem_store, s3_store
from icechunk_virtual.containers.fetch import Fetcher
from icechunk_virtual.containers.url import check_location, check_prefix, file_url, local_path
from icechunk_virtual.errors import ContainerError, InvalidLocation, NoContainer, NotAuthorized, VirtualReadError
from icechunk_virtual.model.chunk_refs import VirtualChunk

SECRET = b"secret"


class Place:
    """A directory that is authorised, beside a file that is not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir()
        (self.data / "open.bin").write_bytes(b"public")
        (self.data / "sub").mkdir()
        self.secret = folder / "secret.bin"
        self.secret.write_bytes(SECRET)
        (folder / "data-other").mkdir()
        (folder / "data-other" / "x.bin").write_bytes(SECRET)

    def read(self, location: str, *more_prefixes: str, granted: tuple[str, ...] = ()) -> bytes:
        own = file_url(self.data) + "/"
        store = local_filesystem_store("/")
        containers = {prefix: VirtualChunkContainer(prefix, store) for prefix in (own, *more_prefixes)}
        fetcher = Fetcher(Authorization(containers, dict.fromkeys((own, *granted))))
        return asyncio.run(fetcher.fetch(VirtualChunk(location, 0, 6)))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_T01_what_is_authorised_is_read(place: Place) -> None:
    assert place.read(file_url(place.data) + "/open.bin") == b"public"


@pytest.mark.parametrize(
    "rest",
    [
        "/../secret.bin",
        "/sub/../../secret.bin",
        "/%2e%2e/secret.bin",
        "/.%2E/secret.bin",
        "/%2E./secret.bin",
        "/..%2fsecret.bin",
        "/..%2Fsecret.bin",
        "/sub%2f..%2f..%2fsecret.bin",
        "/./../secret.bin",
        "//../secret.bin",
        "/..\\secret.bin",
        "/..%5Csecret.bin",
        "/\\..\\secret.bin",
        "/..;/secret.bin/../../secret.bin",
        "/open.bin\x00/../../secret.bin",
        "/%00/../secret.bin",
        "/..\n/secret.bin",
        "/.\t./secret.bin",
        "/..",
        "/sub/..",
        "/.",
    ],
)
def test_T03_texts_that_climb_are_refused(place: Place, rest: str) -> None:
    with pytest.raises(InvalidLocation):
        place.read(file_url(place.data) + rest)


@pytest.mark.parametrize(
    "rest",
    [
        "/%252e%252e/secret.bin",  # decoded once: a directory called %2e%2e
        "/%25%32e%25%32e/secret.bin",
        "/\uff0e\uff0e/secret.bin",  # full-width dots are no dots
        "/\u2024\u2024/secret.bin",
        "/..\u2215secret.bin",  # nor is a division slash a separator
        "/...//secret.bin",
        "/~root/x",
        "/$HOME/x",
    ],
)
def test_T05_look_alikes_are_names(place: Place, rest: str) -> None:
    with pytest.raises(VirtualReadError, match="no such file"):
        place.read(file_url(place.data) + rest)


def test_T01_a_prefix_ends_at_a_separator(place: Place) -> None:
    for rest in ("-other/x.bin", "%2Dother/x.bin", "-other//x.bin"):
        with pytest.raises(NoContainer):
            place.read(file_url(place.data) + rest)
    with pytest.raises(NoContainer):
        place.read(file_url(place.data))
    with pytest.raises(NoContainer):
        place.read(file_url(place.data) + "/")


def test_T02_other_spellings_of_an_unauthorised_file(place: Place) -> None:
    path = str(place.secret)
    for location in (f"file:{path}", f"file://localhost{path}", f"FILE://{path}", f"file:///{path}"):
        with pytest.raises(NoContainer):
            place.read(location)
    for location in (f"file://evil{path}", f"file://u@localhost{path}", f"file://localhost:80{path}"):
        with pytest.raises(InvalidLocation):
            place.read(location)


def test_T06_containers_of_the_repository_are_no_grant(place: Place) -> None:
    wide = file_url(place.folder) + "/"
    with pytest.raises(NotAuthorized) as caught:
        place.read(file_url(place.secret), wide)
    assert caught.value.prefix == wide


@pytest.mark.parametrize("prefix", ["file:///", "file:////", "/", "", "file:", "file://", "file:///%2F/", "file:///./"])
def test_T07_no_prefix_is_everything(place: Place, prefix: str) -> None:
    with pytest.raises(NoContainer):
        place.read(file_url(place.secret), prefix, granted=(prefix,))


def test_T10_link_to_a_file_outside(place: Place) -> None:
    (place.data / "link.bin").symlink_to(place.secret)
    with pytest.raises(NotAuthorized, match="is a link to") as caught:
        place.read(file_url(place.data) + "/link.bin")
    assert file_url(place.folder) + "/" in str(caught.value)


def test_T10_link_to_a_directory_outside(place: Place) -> None:
    (place.data / "up").symlink_to(place.folder)
    with pytest.raises(NotAuthorized, match="is a link to"):
        place.read(file_url(place.data) + "/up/secret.bin")


def test_T10_link_to_a_neighbour_with_the_same_beginning(place: Place) -> None:
    (place.data / "link.bin").symlink_to(place.folder / "data-other" / "x.bin")
    with pytest.raises(NotAuthorized):
        place.read(file_url(place.data) + "/link.bin")


def test_T10_links_within_what_is_authorised(place: Place) -> None:
    (place.data / "link.bin").symlink_to("open.bin")
    assert place.read(file_url(place.data) + "/link.bin") == b"public"
    (place.data / "out.bin").symlink_to(place.secret)
    wide = file_url(place.folder) + "/"
    assert place.read(file_url(place.data) + "/out.bin", wide, granted=(wide,)) == SECRET
    with pytest.raises(NotAuthorized):
        place.read(file_url(place.data) + "/out.bin", wide)


def test_T10_the_prefix_itself_may_be_a_link(place: Place) -> None:
    (place.folder / "alias").symlink_to(place.data)
    prefix = file_url(place.folder / "alias") + "/"
    assert place.read(prefix + "open.bin", prefix, granted=(prefix,)) == b"public"


def test_T10_a_link_that_is_exchanged_later(place: Place) -> None:
    prefix = file_url(place.data) + "/"
    store = local_filesystem_store("/")
    fetcher = Fetcher(Authorization({prefix: VirtualChunkContainer(prefix, store)}, {prefix: None}))
    target = place.data / "x.bin"
    target.write_bytes(b"public")
    chunk = VirtualChunk(prefix + "x.bin", 0, 6)
    assert asyncio.run(fetcher.fetch(chunk)) == b"public"
    target.unlink()
    target.symlink_to(place.secret)
    with pytest.raises(NotAuthorized):
        asyncio.run(fetcher.fetch(chunk))


def test_T11_only_regular_files(place: Place) -> None:
    os.mkfifo(place.data / "pipe")  # must not wait for a writer either
    with pytest.raises(VirtualReadError, match="not a regular file"):
        place.read(file_url(place.data) + "/pipe")
    with pytest.raises(VirtualReadError, match="directory"):
        place.read(file_url(place.data) + "/sub")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device here")
def test_T11_no_devices() -> None:
    store = local_filesystem_store("/")
    fetcher = Fetcher(
        Authorization({"file:///dev/": VirtualChunkContainer("file:///dev/", store)}, {"file:///dev/": None})
    )
    with pytest.raises(VirtualReadError, match="not a regular file"):
        asyncio.run(fetcher.fetch(VirtualChunk("file:///dev/zero", 0, 6)))


def test_T11_sockets_and_closed_doors(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.data)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        with pytest.raises(VirtualReadError):
            place.read(file_url(place.data) + "/socket")
    with pytest.raises(VirtualReadError, match="no such file"):
        place.read(file_url(place.data) + "/open.bin/x")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc here")
def test_T12_proc_is_no_way_around(place: Place) -> None:
    """Neither by its own name nor behind a link within what is authorised."""
    held = os.open(place.secret, os.O_RDONLY)
    try:
        ways = [f"/proc/self/root{place.secret}", f"/proc/self/fd/{held}", "/proc/self/environ", f"/dev/fd/{held}"]
        ways += [f"/proc/{os.getpid()}/root{place.secret}", f"/proc/thread-self/cwd/{place.secret.name}"]
        for number, way in enumerate(ways):
            with pytest.raises(NoContainer):
                place.read(f"file://{way}")
            link = place.data / f"link{number}"
            link.symlink_to(way)
            with pytest.raises((NotAuthorized, VirtualReadError)) as caught:
                place.read(file_url(link))
            assert isinstance(caught.value, NotAuthorized) or "no such file" in str(caught.value)
    finally:
        os.close(held)


def test_T12_links_that_go_round(place: Place) -> None:
    (place.data / "round").symlink_to("round")
    with pytest.raises(VirtualReadError):
        place.read(file_url(place.data) + "/round")


@pytest.mark.parametrize(
    "location",
    [
        "file://server/share/x",
        "file://C:/data/x",
        "file:\\\\server\\share\\x",
        "\\\\server\\share\\x",
        "C:\\data\\x",
        "file:///C:\\data\\x",
        "file:///C:/data/..%5c..%5cWindows/x",
        "file:///C:/data/%2e%2e/x",
    ],
)
def test_T13_windows_paths_that_are_refused(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "name", "nt")
    with pytest.raises(InvalidLocation):
        check_location.__wrapped__(location)


@pytest.mark.parametrize(
    "location",
    ["file:////server/share/x", "file:///C:/Data/x", "file:///c:/data/x", "file:///C:data/x", "file:///D:/data/x",
     "file:///%5C%5C%3F/C:/data/x", "file:///C%7C/data/x"],
)  # fmt: skip
def test_T13_windows_paths_are_no_other_spellings(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = check_prefix.__wrapped__("file:///C:/data/")
    monkeypatch.setattr(os, "name", "nt")
    assert local_path(prefix) == "C:/data/"
    try:
        found = check_location.__wrapped__(location)
    except InvalidLocation:
        return
    assert not found.canonical.startswith(prefix.canonical)
    assert not local_path(found).startswith(("//", "\\\\")), "no other machine is asked"


def test_T50_huge_lengths_allocate_nothing(place: Place) -> None:
    prefix = file_url(place.data) + "/"
    store = local_filesystem_store("/")
    fetcher = Fetcher(Authorization({prefix: VirtualChunkContainer(prefix, store)}, {prefix: None}))
    for offset, length in ((0, 2**63), (2**64 - 1, 1), (2**63, 2**63), (0, 2**40)):
        with pytest.raises(VirtualReadError, match="not enough data"):
            asyncio.run(fetcher.fetch(VirtualChunk(prefix + "open.bin", offset, length)))


def test_T09_schemes_without_a_client() -> None:
    prefix = "s3://bucket/"
    fetcher = Fetcher(Authorization({prefix: VirtualChunkContainer(prefix, s3_store())}, {prefix: None}))
    with pytest.raises(ContainerError, match="this version reads virtual chunks from file:// only"):
        asyncio.run(fetcher.fetch(VirtualChunk("s3://bucket/x", 0, 6)))


def test_T06_zero_bytes_are_authorised_too(place: Place) -> None:
    fetcher = Fetcher(Authorization({}, {}))
    with pytest.raises(NoContainer):
        asyncio.run(fetcher.fetch(VirtualChunk(file_url(place.secret), 0, 0)))
