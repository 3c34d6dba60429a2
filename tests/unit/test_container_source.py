"""Files that scanners read, local and through fsspec."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest

from icechunk_virtual.containers import source as source_module
from icechunk_virtual.containers.expand import expand
from icechunk_virtual.containers.local_source import LocalSource
from icechunk_virtual.containers.opening import open_source
from icechunk_virtual.containers.remote_source import RemoteSource
from icechunk_virtual.containers.url import file_url
from icechunk_virtual.errors import MalformedSource, MissingDependency, ScanError

DATA = bytes(range(256)) * 40


@pytest.fixture
def memory() -> Iterator[Any]:
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs
    fs.store.clear()


@pytest.fixture(params=["local", "remote"])
def url(request: pytest.FixtureRequest, tmp_path: Path, memory: Any) -> str:
    if request.param == "local":
        (tmp_path / "a b.bin").write_bytes(DATA)
        return file_url(tmp_path / "a b.bin")
    memory.pipe_file("/folder/a.bin", DATA)
    return "memory://folder/a.bin"


def test_reading(url: str) -> None:
    with open_source(url) as source:
        assert (source.url, source.size) == (url, len(DATA))
        assert source.read(0, len(DATA)) == DATA
        assert source.read(100, 7) == DATA[100:107]
        assert source.read(len(DATA), 0) == b""
        assert source.peek(len(DATA) - 2, 10) == DATA[-2:]
        assert source.peek(len(DATA) + 5, 10) == b""
        spans = [(5, 10), (9000, 3), (0, 0), (7, 20), (5, 10), (len(DATA) - 1, 1)]
        assert source.read_many(spans) == [DATA[a : a + n] for a, n in spans]
        assert source.read_many([]) == []


def test_ranges_outside_are_the_file_s_fault(url: str) -> None:
    with open_source(url) as source:
        for offset, length in ((0, len(DATA) + 1), (len(DATA), 1), (-1, 1), (0, -1), (2**64, 1), (0, 2**64)):
            with pytest.raises(MalformedSource, match="damaged or cut off") as caught:
                source.read(offset, length)
            assert caught.value.source == url
            with pytest.raises(MalformedSource):
                source.read_many([(0, 1), (offset, length)])


def test_as_a_file(url: str) -> None:
    with open_source(url) as source:
        file = source.as_file()
        assert file.readable()
        assert file.seekable()
        assert not file.writable()
        assert file.read(5) == DATA[:5]
        assert file.tell() == 5
        file.seek(-4, io.SEEK_END)
        assert file.read(100) == DATA[-4:]
        assert file.read(1) == b""
        file.seek(10)
        file.seek(5, io.SEEK_CUR)
        buffer = bytearray(3)
        assert file.readinto(buffer) == 3
        assert buffer == DATA[15:18]
        file.seek(10**9)
        assert file.read(1) == b""
        with pytest.raises(ValueError, match="negative"):
            file.seek(-1)
        assert io.BufferedReader(source.as_file()).read() == DATA


def test_facts_of_a_local_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(DATA)
    os.utime(path, ns=(0, 1_500_000_000_000_000_001))
    status = path.stat()
    with open_source(path) as source:
        assert source.local_path == path
        assert source.last_modified == 1_500_000_001  # rounded up
        assert source.etag == f"{status.st_ino:x}-{status.st_mtime_ns // 1000:x}-{len(DATA):x}"
    os.utime(path, ns=(0, 1_500_000_000_000_000_000))
    with open_source(str(path)) as source:
        assert source.last_modified == 1_500_000_000
    os.utime(path, ns=(0, -5_000_000_000))
    with open_source(path) as source:
        assert source.last_modified is None


@pytest.mark.parametrize(
    ("facts", "etag", "last_modified"),
    [
        ({"ETag": '"abc"', "LastModified": "2020-01-01T00:00:00.5+00:00"}, '"abc"', 1577836801),
        ({"etag": "x", "mtime": 12.5}, "x", 13),
        ({"updated": "2020-01-01T00:00:00Z"}, None, 1577836800),
        ({"mtime": "yesterday"}, None, None),
        ({}, None, None),
    ],
)
def test_facts_of_a_remote_file(
    memory: Any, monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], etag: str | None, last_modified: int | None
) -> None:
    monkeypatch.setattr(type(memory), "info", lambda self, path: {"type": "file", "size": 3, **facts})
    with open_source("memory://x") as source:
        assert isinstance(source, RemoteSource)
        assert (source.etag, source.last_modified) == (etag, last_modified)
        assert source.local_path is None


def test_neighbouring_remote_ranges_are_one_request(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe_file("/a", DATA * 100)
    requests: list[tuple[list[int], list[int]]] = []
    real = type(memory).cat_ranges

    def spy(self: Any, paths: list[str], starts: list[int], ends: list[int], **options: Any) -> list[bytes]:
        requests.append((starts, ends))
        found: list[bytes] = real(self, paths, starts, ends, **options)
        return found

    monkeypatch.setattr(type(memory), "cat_ranges", spy)
    with open_source("memory://a") as source:
        source.read_many([(900_000, 5), (10, 5), (20, 5)])
    assert requests == [([10, 900_000], [25, 900_005])]


def test_blocks_are_bounded_and_right(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "_BLOCK", 100)
    monkeypatch.setattr(source_module, "_BLOCKS", 4)
    memory.pipe_file("/a", DATA)
    with open_source("memory://a") as source:
        blocks = source_module._Blocks(source)
        for offset, length in [(0, 1), (99, 2), (150, 150), (5, 10), (10_200, 40), (0, 5000), (99, 0)]:
            assert blocks.read(offset, length) == DATA[offset : offset + length]
            assert len(blocks._blocks) <= 4


def test_a_server_that_ignores_ranges(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe_file("/a", DATA)
    monkeypatch.setattr(type(memory), "cat_ranges", lambda self, paths, *rest, **options: [DATA for _ in paths])
    with open_source("memory://a") as source, pytest.raises(ScanError, match="does not serve byte ranges"):
        source.read(0, 5)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(DATA)
    with open_source(path) as source:
        os.truncate(path, 10)
        with pytest.raises(ScanError, match="changed while it was read"):
            source.read(5, 10)


def test_errors_name_the_url(tmp_path: Path, memory: Any) -> None:
    for url, message in [
        (str(tmp_path / "nope"), "no such file"),
        (str(tmp_path), "directory"),
        ("memory://nope", "no such file"),
        ("nosuchprotocol://a/b", "nosuchprotocol"),
        ("file://a/b", "three slashes"),
        ("simplecache::s3://b/a", "chain"),
    ]:
        with pytest.raises(ScanError, match=message) as caught:
            open_source(url)
        assert url.rpartition("/")[2] in str(caught.value)
        assert caught.value.source


class Broken(BaseHTTPRequestHandler):
    """Answers with the status that the path asks for."""

    def do_HEAD(self) -> None:
        self.send_error(int(self.path[1:4]))

    def do_GET(self) -> None:
        self.do_HEAD()

    def log_message(self, *args: object) -> None: ...


def test_errors_of_servers_keep_their_reason() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    host = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        for path, message in [
            ("404.nc", "there is no such file"),
            ("404*.nc", "no such file; patterns in URLs are not expanded"),
            ("403.nc", "the server says 403 Forbidden"),
            ("500.nc", "the server says 500 Internal Server Error"),
        ]:
            with pytest.raises(ScanError, match=message):
                open_source(f"{host}/{path}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    with pytest.raises(ScanError, match=r"[Cc]onnect"):
        open_source(f"{host}/gone.nc")


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise ImportError("Please install s3fs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", fail)
    with pytest.raises(MissingDependency, match="install s3fs") as caught:
        open_source("s3://b/a")
    assert caught.value.extra == "s3"


def test_unknown_size(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(memory), "info", lambda self, path: {"type": "file", "size": None})
    with pytest.raises(ScanError, match="does not tell the size"):
        open_source("memory://x")


def test_pipes_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ScanError, match="not a regular file"):
        open_source(tmp_path / "pipe")


def test_closed(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA)
    source = open_source(tmp_path / "f")
    assert isinstance(source, LocalSource)
    assert open_source(source) is source
    source.close()
    source.close()
    with pytest.raises(ValueError, match="closed"):
        source.read(0, 1)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    for name in ("f10.nc", "f2.nc", "f1.nc", ".hidden.nc", "sub/f3.nc", "sub/.git/x.nc", "sub/readme.txt", "a[1].nc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def names(urls: list[str], folder: Path) -> list[str]:
    root = file_url(folder) + "/"
    assert all(url.startswith(root) for url in urls)
    return [url.removeprefix(root) for url in urls]


def test_expand_globs(archive: Path) -> None:
    assert names(expand(str(archive / "f*.nc")), archive) == ["f1.nc", "f2.nc", "f10.nc"]
    assert names(expand(str(archive / "**/*.nc")), archive) == ["a%5B1%5D.nc", "f1.nc", "f2.nc", "f10.nc", "sub/f3.nc"]
    assert names(expand(file_url(archive) + "/f?.nc"), archive) == ["f1.nc", "f2.nc"]
    assert names(expand(archive / "a[1].nc"), archive) == ["a%5B1%5D.nc"]


def test_expand_directories(archive: Path) -> None:
    everything = ["a%5B1%5D.nc", "f1.nc", "f2.nc", "f10.nc", "sub/f3.nc", "sub/readme.txt"]
    assert names(expand(archive), archive) == everything
    assert names(expand([archive], accept=lambda name: name.endswith(".nc")), archive) == everything[:-1]
    assert names(expand(str(archive / "s*")), archive) == everything[-2:]


def test_expand_keeps_the_order_of_the_user_and_each_file_once(archive: Path) -> None:
    patterns = [str(archive / "f2.nc"), str(archive / "f1*.nc"), str(archive / "f*.nc")]
    assert names(expand(patterns), archive) == ["f2.nc", "f1.nc", "f10.nc"]
    assert expand(["s3://b/*.nc", "http://h/a?b=*", "s3://b/*.nc"]) == ["s3://b/*.nc", "http://h/a?b=*"]


def test_expand_finds_nothing(archive: Path) -> None:
    (archive / "empty").mkdir()
    for pattern in ("*.h5", "nope.nc", "empty"):
        with pytest.raises(ScanError, match=r"no file matches|no file to scan in the folder") as caught:
            expand([archive / "f1.nc", archive / pattern])
        assert pattern in str(caught.value)


def test_what_was_expanded_can_be_opened(archive: Path) -> None:
    for url in expand(archive):
        with open_source(url) as source:
            assert source.read(0, 1) == b"x"
            assert source.url == url


def test_import_loads_no_protocol() -> None:
    code = "import sys, icechunk_virtual.containers.source as s; print('aiohttp' in sys.modules, 's3fs' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]


def test_passwords_in_urls_are_refused_and_not_shown() -> None:
    with pytest.raises(ScanError, match=r"`http://host/a\.nc` was given with a name or password") as caught:
        open_source("http://me:HIDDEN@host/a.nc")
    assert "HIDDEN" not in repr(vars(caught.value))
