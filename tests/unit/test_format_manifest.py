"""Manifests: known bytes, limits, and the layout that the size depends on."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from icechunk_virtual.errors import CorruptFile, TooLargeForFormat, UnsupportedFormat
from icechunk_virtual.model.chunk_refs import ChunkKind, ChunkRefs, InlineChunk, NativeChunk, VirtualChunk
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.repo.format import manifest_encode
from icechunk_virtual.repo.format.envelope import FileType, unwrap, wrap
from icechunk_virtual.repo.format.manifest import apparent_size, decode_manifest, encode_manifest
from tests.support.plain_flatbuffers import Style, plain_manifest

# Read by icechunk 1.1.13, 1.1.21 and 2.3.0 in a repository.
KNOWN = bytes.fromhex(
    "100000004963686b080014000400100008000000000102030405060708090a0b"
    "04000000010000000c0000000800100004000c00080000000001020304050607"
    "0400000003000000a800000074000000180000000000120024000c0000001800"
    "1000000008000400120000002000000024000000300000000900000000000000"
    "07000000000000000000000001000000650000000800000073333a2f2f622f6b"
    "0000000002000000010000000100000000000e001c0004000000000008001000"
    "0e000000180000000500000000000000101112131415161718191a1b02000000"
    "010000000000000008000c000800040008000000080000000c00000002000000"
    "61620000020000000000000001000000"
)
# A header of a client called `x`.
KNOWN_HEADER = bytes.fromhex("494345f09fa78a4348554e4b" + "78" + "20" * 23 + "010201")
NODE = bytes(range(8))


def decode(flatbuffer: bytes):
    return decode_manifest(wrap(FileType.MANIFEST, flatbuffer), file="manifests/x")


def test_known_bytes() -> None:
    file = KNOWN_HEADER + wrap(FileType.MANIFEST, KNOWN)[39:]
    back = decode_manifest(file, file="m")
    assert back.id == bytes(range(12))
    assert back.nodes == (NODE,)
    assert back.num_refs == 3
    refs = back.refs(NODE)
    assert refs.coords.tolist() == [[0, 1], [1, 0], [1, 1]]
    assert [refs.row(i) for i in range(3)] == [
        InlineChunk(b"ab"),
        NativeChunk(bytes(range(0x10, 0x1C)), 0, 5),
        VirtualChunk("s3://b/k", 7, 9, etag="e"),
    ]
    assert back.refs(b"\xff" * 8) is None


@pytest.mark.parametrize("end", range(len(KNOWN)))
def test_every_truncation(end: int) -> None:
    with pytest.raises(CorruptFile) as caught:
        decode(KNOWN[:end])
    assert (caught.value.file, caught.value.kind) == ("manifests/x", "manifest")


@pytest.mark.parametrize("position", range(0, len(KNOWN), 4))
@pytest.mark.parametrize("number", [0, 1, 2, 4, 2**31 - 1, 2**31, 2**32 - 4, 2**32 - 1])
def test_every_number_replaced(position: int, number: int) -> None:
    content = bytearray(KNOWN)
    struct.pack_into("<I", content, position, number)
    try:
        back = decode(bytes(content))
    except CorruptFile:
        return
    for node in back.nodes:
        refs = back.refs(node)
        if refs is not None:
            ChunkRefs(*(getattr(refs, name) for name in ChunkRefs.__slots__))


def test_version_2() -> None:
    file = bytearray(wrap(FileType.MANIFEST, KNOWN))
    file[36] = 2
    with pytest.raises(UnsupportedFormat, match="version 2"):
        decode_manifest(bytes(file), file="m")


def test_positions_in_messages() -> None:
    content = bytearray(KNOWN)
    struct.pack_into("<I", content, 0, 9999)
    with pytest.raises(CorruptFile, match="corrupt manifest file `manifests/x` at byte 9999"):
        decode(bytes(content))


def test_impossible_vtables() -> None:
    for size in (0, 2, 3, 7):
        content = bytearray(KNOWN)
        at = content.index(bytes.fromhex("08001000 04000c00"))
        struct.pack_into("<H", content, at, size)
        with pytest.raises(CorruptFile, match=f"a vtable of {size} bytes"):
            decode(bytes(content))


def test_chunks_that_end_beyond_64_bits() -> None:
    style = Style()
    arrays = {NODE: [((0,), VirtualChunk("s3://b/k", 2**64 - 5, 4)), ((1,), VirtualChunk("s3://b/k", 2**64 - 5, 5))]}
    with pytest.raises(CorruptFile, match="beyond 64 bits"):
        decode_manifest(plain_manifest(b"m" * 12, arrays, style), file="m")


@pytest.mark.parametrize("length", [7, 8, 9, 15, 16, 21, 1024, 1025])
def test_many_texts_that_differ_in_one_byte(length: int) -> None:
    for byte in sorted({0, length // 2, length - 2, length - 1}):
        texts = ["x" * byte + c + "x" * (length - byte - 1) for c in "ab"]
        arrays = {NODE: [((i,), VirtualChunk(texts[i // 50 % 2], i, 1)) for i in range(300)]}
        refs = decode_manifest(plain_manifest(b"m" * 12, arrays), file="m").refs(NODE)
        assert [refs.row(i) for i in range(300)] == [chunk for _, chunk in arrays[NODE]]
        assert len(refs.locations) == 2


def million(n: int, files: int) -> ChunkRefs:
    rng = np.random.default_rng(0)
    per = n // files
    length = rng.integers(20_000, 40_000, (files, per))
    offset = np.cumsum(length, axis=1) - length
    coords = np.stack(np.unravel_index(np.arange(n), (files, 10, per // 10)), axis=1)
    urls = [f"s3://bucket/{i:08}.nc".ljust(80, "x") for i in range(files)]
    return ChunkRefs.virtual(
        coords, Locations.of(urls), np.repeat(np.arange(files), per), offset.ravel(), length.ravel()
    )


def test_bytes_per_reference() -> None:
    refs = million(100_000, 100)
    data = encode_manifest(b"m" * 12, [(NODE, refs)])
    assert len(data) / len(refs) < 9
    assert decode_manifest(data, file="m").refs(NODE).equals(refs)


def test_locations_are_shared() -> None:
    refs = million(10_000, 10)
    content = unwrap(encode_manifest(b"m" * 12, [(NODE, refs)]), file_type=FileType.MANIFEST, file="m")
    assert content.count(b"s3://bucket/00000003.nc") <= 3  # one in each of the blocks that use it
    back = decode_manifest(encode_manifest(b"m" * 12, [(NODE, refs)]), file="m")
    assert len(back.refs(NODE).locations) == 10


def test_heap_is_the_file() -> None:
    """Inline chunks are not copied; without any, the file is not kept."""
    refs = ChunkRefs.inline(np.arange(100)[:, None], [b"x" * 1000] * 100)
    inline = decode_manifest(encode_manifest(b"m" * 12, [(NODE, refs)]), file="m")
    assert len(inline.refs(NODE).heap) > 100_000
    assert decode_manifest(encode_manifest(b"m" * 12, [(NODE, million(100, 10))]), file="m").refs(NODE).heap == b""


def test_nothing_to_write() -> None:
    back = decode_manifest(encode_manifest(b"m" * 12, []), file="m")
    assert (back.nodes, back.num_refs) == ((), 0)
    back = decode_manifest(encode_manifest(b"m" * 12, [(NODE, ChunkRefs.empty(3))]), file="m")
    assert (back.nodes, back.num_refs, back.refs(NODE)) == ((NODE,), 0, None)


def test_misuse() -> None:
    refs = ChunkRefs.empty(1)
    with pytest.raises(ValueError, match="twice"):
        encode_manifest(b"m" * 12, [(NODE, refs), (NODE, refs)])
    with pytest.raises(ValueError, match="12 bytes"):
        encode_manifest(b"m", [(NODE, refs)])


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    refs = million(1000, 10)
    size = apparent_size(refs)
    assert size == 1000 * (74 + 4 * 3 + 80)
    monkeypatch.setattr(manifest_encode, "MAX_APPARENT_SIZE", size + 300)
    encode_manifest(b"m" * 12, [(NODE, refs)])
    monkeypatch.setattr(manifest_encode, "MAX_APPARENT_SIZE", size)
    with pytest.raises(TooLargeForFormat, match="Split the array"):
        encode_manifest(b"m" * 12, [(NODE, refs)])
    monkeypatch.setattr(manifest_encode, "MAX_TABLES", 1000)
    with pytest.raises(TooLargeForFormat, match="1002 tables"):
        encode_manifest(b"m" * 12, [(NODE, refs)])


def test_apparent_size_of_every_kind() -> None:
    locations = Locations.of(["12345", "123"], etags=["ab", None], last_modified=[None, 9])
    kind = [ChunkKind.VIRTUAL, ChunkKind.VIRTUAL, ChunkKind.NATIVE, ChunkKind.INLINE]
    refs = ChunkRefs.from_rows(
        np.arange(4)[:, None],
        np.array(kind),
        [0, 1, 0, 0],
        0,
        [7, 7, 7, 3],
        locations=locations,
        chunk_ids=np.zeros((1, 12), "u1"),
        heap=b"abc",
    )
    assert apparent_size(refs) == (88 + 5 + 2) + (86 + 3) + 90 + (42 + 3) + 4 * 4
