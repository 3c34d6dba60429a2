"""Reading virtual chunks from local files: exact bytes of the referenced state, or an error that says why not."""

from __future__ import annotations

import asyncio
import itertools
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from obstore.store import LocalStore

from icechunk_virtual.containers import local_files
from icechunk_virtual.containers.authorize import Authorization
from icechunk_virtual.containers.container import VirtualChunkContainer, local_filesystem_store
from icechunk_virtual.containers.fetch import Fetcher
from icechunk_virtual.containers.local_files import INLINE_BYTES, LocalFiles
from icechunk_virtual.containers.local_source import file_etag
from icechunk_virtual.containers.url import check_location, file_url
from icechunk_virtual.errors import ObjectChanged, VirtualReadError
from icechunk_virtual.model.chunk_refs import VirtualChunk

DATA = bytes(range(256)) * 1024  # more than INLINE_BYTES


def authorization_of(folder: Path) -> Authorization:
    prefix = file_url(folder) + "/"
    return Authorization({prefix: VirtualChunkContainer(prefix, local_filesystem_store("/"))}, {prefix: None})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a b%20.bin"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    return Fetcher(authorization_of(tmp_path))


def fetch(fetcher: Fetcher, chunk: VirtualChunk, start: int = 0, stop: int | None = None) -> bytes:
    return asyncio.run(fetcher.fetch(chunk, start, stop))


def test_ranges(fetcher: Fetcher, file: Path) -> None:
    chunk = VirtualChunk(file_url(file), 1000, 500)
    assert fetch(fetcher, chunk) == DATA[1000:1500]
    assert fetch(fetcher, chunk, 10, 20) == DATA[1010:1020]
    assert fetch(fetcher, chunk, 499, 500) == DATA[1499:1500]
    assert fetch(fetcher, chunk, 0, 0) == b""
    assert fetch(fetcher, VirtualChunk(file_url(file), 10**9, 0)) == b""
    assert fetch(fetcher, VirtualChunk(file_url(file), 0, len(DATA))) == DATA
    for start, stop in ((-1, 5), (5, 4), (0, 501)):
        with pytest.raises(ValueError, match="not within the chunk"):
            fetch(fetcher, chunk, start, stop)


def test_percent_signs_are_decoded_once(fetcher: Fetcher, file: Path) -> None:
    folder = file_url(file.parent)
    for name in ("a b%2520.bin", "a%20b%2520.bin"):
        assert fetch(fetcher, VirtualChunk(f"{folder}/{name}", 0, 5)) == DATA[:5]
    with pytest.raises(VirtualReadError):
        fetch(fetcher, VirtualChunk(f"{folder}/a b%20.bin", 0, 5))


def test_too_short(fetcher: Fetcher, file: Path) -> None:
    chunk = VirtualChunk(file_url(file), len(DATA) - 3, 10)
    with pytest.raises(VirtualReadError) as caught:
        fetch(fetcher, chunk)
    text = str(caught.value)
    assert "not enough data. Expected: (10), available (3)" in text
    for fact in (chunk.url, f"10 bytes at offset {chunk.offset}", file_url(file.parent) + "/", f"{len(DATA)} bytes"):
        assert fact in text
    assert (caught.value.location, caught.value.offset, caught.value.length) == (chunk.url, chunk.offset, 10)
    assert fetch(fetcher, chunk, 0, 3) == DATA[-3:]  # what is there can be read


def test_missing(fetcher: Fetcher, file: Path) -> None:
    for url in (file_url(file) + "x", file_url(file) + "/x"):
        with pytest.raises(VirtualReadError, match=r"error fetching virtual reference.*no such file"):
            fetch(fetcher, VirtualChunk(url, 0, 5))


def test_permission(fetcher: Fetcher, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(local_files.os, "open", refuse)  # chmod does not bind root
    with pytest.raises(VirtualReadError, match="permission denied"):
        fetch(fetcher, VirtualChunk(file_url(file), 0, 5))


def test_io_error_while_reading(fetcher: Fetcher, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(local_files, "read_at", fail)
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir())) if descriptors.exists() else None
    with pytest.raises(VirtualReadError, match="Input/output error"):
        fetch(fetcher, VirtualChunk(file_url(file), 0, 5))
    assert before is None or len(list(descriptors.iterdir())) == before


def test_etag(fetcher: Fetcher, file: Path) -> None:
    etag = file_etag(file.stat())
    for good in (etag, f'"{etag}"', "*"):
        assert fetch(fetcher, VirtualChunk(file_url(file), 0, 5, etag=good)) == DATA[:5]
    with pytest.raises(ObjectChanged, match="the virtual chunk has changed") as caught:
        fetch(fetcher, VirtualChunk(file_url(file), 0, 5, etag='"1-2-3"'))
    assert (caught.value.expected, caught.value.actual) == ('"1-2-3"', etag)


def test_etag_is_that_of_object_store(file: Path) -> None:
    (etag,) = [obstore.head(LocalStore(str(file.parent)), file.name)["e_tag"]]
    assert etag.strip('"') == file_etag(file.stat())  # older releases of obstore leave the quotes out


def test_last_modified_counts_whole_seconds(fetcher: Fetcher, file: Path) -> None:
    os.utime(file, ns=(0, 1_500_000_000_999_999_999))
    for good in (1_500_000_000, 1_500_000_001, 0, None):
        assert fetch(fetcher, VirtualChunk(file_url(file), 0, 5, last_modified=good)) == DATA[:5]
    with pytest.raises(ObjectChanged) as caught:
        fetch(fetcher, VirtualChunk(file_url(file), 0, 5, last_modified=1_499_999_999))
    assert (caught.value.expected, caught.value.actual) == (1_499_999_999, 1_500_000_000)


def test_the_etag_decides_if_both_are_given(fetcher: Fetcher, file: Path) -> None:
    etag = file_etag(file.stat())
    assert fetch(fetcher, VirtualChunk(file_url(file), 0, 5, etag, last_modified=1)) == DATA[:5]


def test_changes_are_noticed_at_once(fetcher: Fetcher, file: Path) -> None:
    pinned = VirtualChunk(file_url(file), 0, 5, etag=file_etag(file.stat()))
    free = VirtualChunk(file_url(file), 0, 5)
    assert fetch(fetcher, pinned) == DATA[:5]
    other = file.with_name("other")
    other.write_bytes(b"other" * 100)
    other.replace(file)
    assert fetch(fetcher, free) == b"other"
    with pytest.raises(ObjectChanged):
        fetch(fetcher, pinned)
    file.write_bytes(b"new content")
    assert fetch(fetcher, free) == b"new c"
    file.unlink()
    with pytest.raises(VirtualReadError):
        fetch(fetcher, free)


@pytest.mark.parametrize("length", [16, INLINE_BYTES + 1])
def test_a_change_during_the_read_is_noticed(
    fetcher: Fetcher, file: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    real = local_files.read_at

    def read_while_written(fd: int, offset: int, length: int) -> bytes:
        data = real(fd, offset, length)
        with file.open("ab") as f:
            f.write(b"more")
        return data

    chunk = VirtualChunk(file_url(file), 0, length, etag=file_etag(file.stat()))
    monkeypatch.setattr(local_files, "read_at", read_while_written)
    with pytest.raises(ObjectChanged):
        fetch(fetcher, chunk)


def test_replaced_while_opened(fetcher: Fetcher, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_files, "_real_path", lambda *args: None)
    with pytest.raises(VirtualReadError, match="replaced while it was opened"):
        fetch(fetcher, VirtualChunk(file_url(file), 0, 5))


def test_systems_without_proc(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_files, "_HAS_PROC", False)
    fetcher = Fetcher(authorization_of(file.parent))
    assert fetch(fetcher, VirtualChunk(file_url(file), 0, 5)) == DATA[:5]
    outside = file.parent.with_name(file.parent.name + "-outside")
    outside.write_bytes(DATA)
    (file.parent / "link").symlink_to(outside)
    with pytest.raises(local_files.NotAuthorized):
        fetch(fetcher, VirtualChunk(file_url(file.parent / "link"), 0, 5))


def test_names_that_look_deleted(fetcher: Fetcher, file: Path) -> None:
    path = file.with_name("x (deleted)")
    path.write_bytes(DATA)
    assert fetch(fetcher, VirtualChunk(file_url(path), 0, 5)) == DATA[:5]


def test_deleted_while_opened(fetcher: Fetcher, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = local_files.os.open

    def open_and_delete(path: str, flags: int) -> int:
        fd = real(path, flags)
        Path(path).unlink()
        return fd

    monkeypatch.setattr(local_files.os, "open", open_and_delete)
    if not local_files._HAS_PROC:
        pytest.skip("only /proc still knows where the file was")
    assert fetch(fetcher, VirtualChunk(file_url(file), 0, 5)) == DATA[:5]


def test_slow_reads_leave_the_event_loop(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [1, 0, 1, 1, 1, 0]  # of the reads that happen in the event loop
    clock: Iterator[int] = itertools.accumulate(step for second in seconds for step in (0, second))
    authorization = authorization_of(file.parent)
    client = LocalFiles(authorization, timer=lambda: next(clock))
    threads = []
    real = LocalFiles.read_now

    def spy(self: LocalFiles, *args: object) -> bytes:
        threads.append(threading.current_thread() is threading.main_thread())
        return real(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalFiles, "read_now", spy)
    chunk = VirtualChunk(file_url(file), 0, 5)
    grant = authorization.readable(chunk.url)

    async def main() -> None:
        for _ in range(4 + 16 + 1 + 16 + 1):
            assert await client.read(grant, check_location(chunk.url), chunk, 0, 5) == DATA[:5]

    asyncio.run(main())
    assert threads == [True] * 4 + [False] * 16 + [True] + [False] * 16 + [True]


def test_large_reads_leave_the_event_loop(fetcher: Fetcher, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    real = local_files.read_at

    def spy(fd: int, offset: int, length: int) -> bytes:
        threads.append(threading.current_thread() is threading.main_thread())
        return real(fd, offset, length)

    monkeypatch.setattr(local_files, "read_at", spy)
    assert fetch(fetcher, VirtualChunk(file_url(file), 0, INLINE_BYTES + 1)) == DATA[: INLINE_BYTES + 1]
    assert fetch(fetcher, VirtualChunk(file_url(file), 0, INLINE_BYTES)) == DATA[:INLINE_BYTES]
    assert threads == [False, True]


def test_several_loops_and_threads(fetcher: Fetcher, file: Path) -> None:
    errors: list[BaseException] = []

    async def many(size: int) -> None:
        chunks = [VirtualChunk(file_url(file), i * 7, size) for i in range(50)]
        for data, chunk in zip(await asyncio.gather(*map(fetcher.fetch, chunks)), chunks, strict=True):
            assert data == DATA[chunk.offset : chunk.offset + size]

    def work(size: int) -> None:
        try:
            asyncio.run(many(size))
        except BaseException as error:  # noqa: BLE001 - handed to the main thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(size,)) for size in (10, 1000, INLINE_BYTES + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_pickled(fetcher: Fetcher, file: Path) -> None:
    chunk = VirtualChunk(file_url(file), 0, 5)
    assert fetch(fetcher, chunk) == DATA[:5]
    assert fetch(pickle.loads(pickle.dumps(fetcher)), chunk) == DATA[:5]
