"""The header and compression of metadata files."""

from __future__ import annotations

import struct
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard

from icechunk_virtual.errors import CorruptFile, UnsupportedFormat
from icechunk_virtual.repo.format.envelope import MAGIC, FileType, client_name, unwrap, wrap

# The initial snapshot as icechunk 1.1.13 writes it, and what is in it.
REAL_SNAPSHOT = bytes.fromhex(
    "494345f09fa78a4348554e4b69632d302e332e31362020202020202020202020"
    "2020202001010128b52ffd0058ed030092881b2880c799032b1c83093cd13321"
    "53505e3868bbbe5ed689d3bc1fc41190d5c79d4cac7eb93f423a770a7ff61e56"
    "557f6ef02614ea8c428fde2cb9045c05e23267715300f632877997ebf1c4c752"
    "58380405b74ebdbd515723616120038070d00c97b68a88d3c39d8c52ca24e2f8"
    "1404007588681b6e5140fb0272"
)
REAL_FLATBUFFER = bytes.fromhex(
    "200000004963686b00000000000012002c000400000010002000140018001c00"
    "120000000b1cc8d6787580f0e33a65341c0000001c0000003400000060000000"
    "b2810419e76006000000000000000000160000005265706f7369746f72792069"
    "6e697469616c697a65640000010000000c00000008000c000400080008000000"
    "100000000400000001000000c3000000060000005f5f726f6f74000000000000"
)


def read(data: bytes, file_type: FileType = FileType.SNAPSHOT) -> bytes:
    return unwrap(data, file_type=file_type, file="snapshots/x")


def changed(position: int, value: bytes) -> bytes:
    return REAL_SNAPSHOT[:position] + value + REAL_SNAPSHOT[position + len(value) :]


def test_a_file_of_the_real_library() -> None:
    assert read(REAL_SNAPSHOT) == REAL_FLATBUFFER


def test_header() -> None:
    data = wrap(FileType.MANIFEST, b"content")
    assert data[:12] == MAGIC == bytes.fromhex("494345f09fa78a4348554e4b")
    assert data[12:36] == client_name().encode()[:24].ljust(24)
    assert client_name().startswith("icechunk-virtual ")
    assert data[36:39] == bytes([1, 2, 1])
    parameters = zstandard.get_frame_parameters(data[39:])
    assert parameters.content_size == len(b"content")
    assert parameters.window_size <= 2**27
    assert read(data, FileType.MANIFEST) == b"content"


def test_files_from_many_threads_and_after_damaged_ones() -> None:
    """What a thread compresses with is used again, for whatever comes next."""
    contents = [bytes([i]) * n for i in range(8) for n in (0, 1, 1000, 1 << 16, (1 << 16) + 1)]

    def there_and_back(i: int) -> bool:
        content = contents[i % len(contents)]
        data = wrap(FileType.SNAPSHOT, content, level=1 + i % 5)
        alone = zstandard.ZstdCompressor(level=1 + i % 5).compress(content)
        with pytest.raises(CorruptFile):
            read(data[:-1])
        return data[39:] == alone and read(data) == content

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(there_and_back, range(400)))


@pytest.mark.parametrize("level", [0, 1, 3, 22, 23, 255])
def test_every_level_of_the_configuration(level: int) -> None:
    content = bytes(range(256)) * 10_000
    assert read(wrap(FileType.SNAPSHOT, content, level=level)) == content


@pytest.mark.parametrize("file_type", FileType)
def test_labels(file_type: FileType) -> None:
    with pytest.raises(CorruptFile) as caught:
        unwrap(b"", file_type=file_type, file="some/file")
    assert caught.value.kind == file_type.label
    assert caught.value.file == "some/file"
    assert caught.value.position == 0


@pytest.mark.parametrize(
    ("data", "position"),
    [
        (REAL_SNAPSHOT[:38], 38),
        (changed(3, b"x"), 0),
        (changed(37, b"\x02"), 37),
        (changed(37, b"\x09"), 37),
        (REAL_SNAPSHOT[:39], 39),
        (REAL_SNAPSHOT[:-1], 39),
        (REAL_SNAPSHOT[:60], 39),
        (REAL_SNAPSHOT + b"trailing", 39),
        (wrap(FileType.SNAPSHOT, b"sized")[:-1], 39),
        (wrap(FileType.SNAPSHOT, b"sized") + b"x", 39),
        (changed(39, b"garbage!"), 39),
    ],
)
def test_damage(data: bytes, position: int) -> None:
    with pytest.raises(CorruptFile) as caught:
        read(data)
    assert caught.value.position == position


@pytest.mark.parametrize("version", [0, 2, 3])
def test_other_versions(version: int) -> None:
    with pytest.raises(UnsupportedFormat, match=f"format version {version}.*Open the repository with"):
        read(changed(36, bytes([version])))


@pytest.mark.parametrize("compression", [0, 2])
def test_other_compressions(compression: int) -> None:
    with pytest.raises(UnsupportedFormat, match="unknown compression"):
        read(changed(38, bytes([compression])))


def test_implementation_name_is_ignored() -> None:
    assert read(changed(12, b"\xff" * 24)) == REAL_FLATBUFFER


def test_several_frames_and_checksums_are_read() -> None:
    first = zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compress(b"a" * 100_000)
    second = zstandard.ZstdCompressor().compress(b"b")
    assert read(REAL_SNAPSHOT[:39] + first + second) == b"a" * 100_000 + b"b"


def test_streamed_frames_of_some_size() -> None:
    content = bytes(range(251)) * 40_000
    frame = zstandard.ZstdCompressor(level=1, write_content_size=False).compress(content)
    assert read(REAL_SNAPSHOT[:39] + frame) == content
    with pytest.raises(CorruptFile, match="cut off"):
        read(REAL_SNAPSHOT[:39] + frame[:-1])


def rle_bomb(blocks: int, declared: int | None) -> bytes:
    """A frame of `blocks` times 128 KiB from 4 bytes each."""
    block = struct.pack("<I", (1 << 1) | (1 << 17 << 3))[:3] + b"\0"
    last = struct.pack("<I", 1 | (1 << 1) | (1 << 17 << 3))[:3] + b"\0"
    head = b"\x00\x58" if declared is None else b"\xc0\x58" + struct.pack("<Q", declared)
    return struct.pack("<I", zstandard.MAGIC_NUMBER) + head + block * (blocks - 1) + last


def test_bombs_stay_bounded() -> None:
    small = rle_bomb(2, None)
    assert read(REAL_SNAPSHOT[:39] + small) == bytes(2 << 17)
    for bomb in (rle_bomb(16, 2**40), rle_bomb(16, 2**31), rle_bomb(16, 2**31 - 1), rle_bomb(16, 2**20)):
        tracemalloc.start()
        with pytest.raises(CorruptFile):
            read(REAL_SNAPSHOT[:39] + bomb)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**26
