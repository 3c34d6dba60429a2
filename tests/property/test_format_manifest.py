"""Manifests: the columnar encoder and decoder equal the plain ones, whatever the references and the layout."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from icechunk_virtual.errors import CorruptFile, UnsupportedFormat
from icechunk_virtual.model.chunk_refs import Chunk, ChunkKind, ChunkRefs, InlineChunk, NativeChunk, VirtualChunk
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.repo.format.envelope import FileType, unwrap, wrap
from icechunk_virtual.repo.format.flat import Buffer
from icechunk_virtual.repo.format.flat_blocks import MAX_ROWS
from icechunk_virtual.repo.format.manifest import Manifest, decode_manifest, encode_manifest, open_manifest
from icechunk_virtual.repo.format.manifest_decode import arrays_in, columns_in
from icechunk_virtual.repo.format.manifest_encode import encode_flatbuffer
from icechunk_virtual.repo.format.manifest_few import decode_few, encode_few
from tests.support.plain_flatbuffers import Arrays, Style, plain_manifest, read_plain_manifest

ID = b"manifest-id!"
urls = st.sampled_from(["s3://b/k", "file:///data/é.nc", "", "x"]) | st.text(max_size=40)
u64 = st.integers(0, 2**32) | st.sampled_from([0, 2**63 - 1])


@st.composite
def virtual_chunks(draw) -> VirtualChunk:
    checksum = draw(st.sampled_from(["none", "none", "etag", "modified"]))
    etag = draw(st.sampled_from(['"e"', "f" * 30]) | st.text(min_size=1, max_size=9)) if checksum == "etag" else None
    modified = draw(st.integers(1, 2**32 - 1)) if checksum == "modified" else None
    return VirtualChunk(draw(urls), draw(u64), draw(u64), etag, modified)


native_chunks = st.builds(NativeChunk, st.binary(min_size=12, max_size=12), u64, u64)
inline_chunks = st.builds(InlineChunk, st.binary(max_size=30))


@st.composite
def rows(draw, *, ndim: int | None = None, max_size: int = 40) -> list[tuple[tuple[int, ...], Chunk]]:
    """References of one array with distinct coordinates, sorted."""
    ndim = draw(st.integers(0, 4)) if ndim is None else ndim
    index = st.integers(0, 5) | st.integers(0, 2**32 - 1)
    kinds = [
        draw(virtual_chunks()),
        *draw(st.lists(virtual_chunks() | native_chunks | inline_chunks, min_size=1, max_size=6)),
    ]
    coords = draw(st.lists(st.tuples(*[index] * ndim), unique=True, min_size=1, max_size=max_size))
    return sorted((coord, draw(st.sampled_from(kinds))) for coord in coords)


@st.composite
def manifests(draw) -> Arrays:
    nodes = draw(st.lists(st.binary(min_size=8, max_size=8), unique=True, max_size=4))
    return {node: draw(rows()) for node in nodes}


def columns(refs: list[tuple[tuple[int, ...], Chunk]]) -> ChunkRefs:
    """Columns of plain references, tables with repeats."""
    kind, source, offset, length, heap = [], [], [], [], b"gap"
    where: list[VirtualChunk] = []
    ids: list[bytes] = []
    for _, chunk in refs:
        match chunk:
            case VirtualChunk():
                kind.append(ChunkKind.VIRTUAL)
                source.append(len(where))
                where.append(chunk)
            case NativeChunk():
                kind.append(ChunkKind.NATIVE)
                source.append(len(ids))
                ids.append(chunk.id)
            case InlineChunk():
                kind.append(ChunkKind.INLINE)
                source.append(0)
        offset.append(len(heap) if isinstance(chunk, InlineChunk) else chunk.offset)
        length.append(chunk.length)
        heap += chunk.data if isinstance(chunk, InlineChunk) else b""
    coords = np.array([coord for coord, _ in refs], np.uint64).reshape(len(refs), -1)
    return ChunkRefs.from_rows(
        coords,
        np.array(kind, np.uint8),
        source,
        np.array(offset, np.uint64),
        np.array(length, np.uint64),
        locations=Locations.of(
            [c.url for c in where], etags=[c.etag for c in where], last_modified=[c.last_modified for c in where]
        ),
        chunk_ids=np.frombuffer(b"".join(ids), np.uint8).reshape(-1, 12),
        heap=heap,
    )


def plain(manifest: Manifest) -> Arrays:
    return {node: plain_rows(manifest.refs(node)) for node in manifest.nodes}


def plain_rows(refs: ChunkRefs | None) -> list[tuple[tuple[int, ...], Chunk]]:
    if refs is None:
        return []
    return [(tuple(refs.coords[i].tolist()), refs.row(i)) for i in range(len(refs))]


@given(manifests(), st.integers(0, 22))
def test_encoding_equals_the_plain_one(arrays: Arrays, level: int) -> None:
    """Row by row, in columns, and the one of both that is chosen by the number of rows."""
    given = [(node, columns(refs)) for node, refs in sorted(arrays.items())]
    encoded = encode_manifest(ID, given[::-1], level=level)
    for content in (
        encode_few(ID, given),
        encode_flatbuffer(ID, given).tobytes(),
        unwrap(encoded, file_type=FileType.MANIFEST, file="m"),
    ):
        data = wrap(FileType.MANIFEST, content)
        assert read_plain_manifest(bytes(content)) == (ID, arrays)
        back = decode_manifest(data, file="m")
        assert plain(back) == arrays
        assert back.id == ID
        assert back.nodes == tuple(sorted(arrays))
        assert back.num_refs == sum(map(len, arrays.values()))


styles = st.builds(Style, *[st.booleans()] * 8, seed=st.integers(0, 2**32))


@given(manifests(), styles)
def test_decoding_any_layout(arrays: Arrays, style: Style) -> None:
    back = decode_manifest(plain_manifest(ID, arrays, style), file="m")
    assert plain(back) == arrays
    for node in arrays:
        refs = back.refs(node)
        assert len({*refs.locations.urls}) <= len(refs.locations)
        back_again = decode_manifest(encode_manifest(ID, [(node, refs)]), file="m")
        assert back_again.refs(node).equals(refs)


@given(manifests(), styles, st.booleans())
def test_looking_one_up_equals_decoding_all(arrays: Arrays, style: Style, repeated: bool) -> None:
    """In any layout of ascending references; of equal ones the first counts."""
    stored = {node: [row for row in refs for _ in range(1 + repeated)] for node, refs in arrays.items()}
    data = plain_manifest(ID, stored, style)
    whole = decode_manifest(data, file="m")
    for node, refs in arrays.items():
        for coord, chunk in refs:
            found = eager(open_manifest(data, file="m")).look_up(node, coord)
            assert found == chunk == whole.refs(node).lookup(coord)
            for other in ((*coord, 0), coord[:-1], tuple(i ^ 1 for i in coord)):
                if other not in dict(refs):
                    assert eager(open_manifest(data, file="m")).look_up(node, other) is None
    assert eager(open_manifest(data, file="m")).look_up(b"another!", (0,)) is None


def eager(manifest: Manifest) -> Manifest:
    """One that finds looking up worth its while."""
    manifest.num_refs = 10**6
    return manifest


def test_many_lookups_are_refused() -> None:
    """Then it is time to decode all references: each lookup costs as much as a thousand of them."""
    data = encode_manifest(ID, [(b"12345678", ChunkRefs.inline([[i] for i in range(3000)], [b""] * 3000))])
    manifest = open_manifest(data, file="m")
    assert [manifest.look_up(b"12345678", (7,)) is not None for _ in range(5)] == [True, True, True, False, False]
    assert not manifest.decoded
    assert len(manifest.refs(b"12345678")) == 3000
    assert manifest.decoded
    assert manifest.look_up(b"12345678", (7,)) is None


def test_damage_is_found_when_it_is_reached() -> None:
    refs = ChunkRefs.native([[0], [1]], np.zeros((2, 12), np.uint8), 5)
    content = unwrap(encode_manifest(ID, [(b"12345678", refs)]), file_type=FileType.MANIFEST, file="m")
    for position in range(0, len(content), 4):
        damaged = bytearray(content)
        damaged[position : position + 4] = b"\xff\xff\xff\x7f"
        with contextlib.suppress(CorruptFile):
            eager(open_manifest(wrap(FileType.MANIFEST, damaged), file="m")).look_up(b"12345678", (1,))


def test_a_manifest_made_from_columns_is_the_decoded_one() -> None:
    arrays = [(b"22222222", ChunkRefs.inline([[1], [4]], [b"a", b"b"])), (b"11111111", ChunkRefs.empty(3))]
    made, back = Manifest.of(ID, arrays), decode_manifest(encode_manifest(ID, arrays), file="m")
    assert (made.id, made.nodes, made.num_refs, made.decoded) == (back.id, back.nodes, back.num_refs, True)
    assert plain(made) == plain(back)


@given(manifests(), styles, st.booleans())
def test_reading_row_by_row_equals_reading_columns(arrays: Arrays, style: Style, repeated: bool) -> None:
    stored = {node: [row for row in refs[::-1] for _ in range(1 + repeated)] for node, refs in arrays.items()}
    content = unwrap(plain_manifest(ID, stored, style), file_type=FileType.MANIFEST, file="m")
    buffer = Buffer(content, file="m", kind="manifest")
    _, starts, counts = arrays_in(buffer, buffer.root())
    few, many = decode_few(buffer, starts, counts), columns_in(buffer, starts, counts)
    assert len(few) == len(many) == len(arrays)
    for ours, theirs in zip(few, many, strict=True):
        assert all(a.equals(b) for a, b in zip(ours, theirs, strict=True))


@given(rows(ndim=2), styles, st.randoms())
def test_order_and_repeats_of_foreign_files(refs, style: Style, random) -> None:
    """Rows are sorted, the first of equal ones stands."""
    wanted = dict(refs)
    repeated = [*refs, *((coord, InlineChunk(b"later")) for coord, _ in refs[::2])]
    back = decode_manifest(plain_manifest(ID, {b"12345678": repeated}, style), file="m")
    assert dict(plain_rows(back.refs(b"12345678"))) == wanted
    shuffled = random.sample(refs, len(refs))
    back = decode_manifest(plain_manifest(ID, {b"12345678": shuffled}, style), file="m")
    assert plain_rows(back.refs(b"12345678")) == refs


def grid(n: int, ndim: int) -> np.ndarray:
    side = int(np.ceil(n ** (1 / ndim))) if ndim else 1
    return np.stack(np.unravel_index(np.arange(n), (side,) * ndim), axis=1) if ndim else np.zeros((1, 0), int)


@given(
    n=st.sampled_from([1, 2, 63, 64, 1019, 1020, 1021, 2041, 4081]),
    ndim=st.integers(1, 4),
    runs=st.sampled_from([1, 7, 500, 10_000]),
    kinds=st.sampled_from([[3], [1], [2], [3, 1], [3, 2], [3, 1, 2], [1, 2]]),
    texts=st.sampled_from(["plain", "etag", "modified", "mixed", "long"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=30)
def test_many_rows(n: int, ndim: int, runs: int, kinds: list[int], texts: str, seed: int) -> None:
    """Several blocks, runs and turns of kinds and locations."""
    rng = np.random.default_rng(seed)
    number = np.arange(n) // runs
    kind = np.array(kinds, np.uint8)[number % len(kinds)]
    files = [f"s3://b/{'long' * 60 * (texts == 'long')}/{i}.nc" for i in range(50)]
    etags = [f"e{i}" if texts == "etag" or (texts == "mixed" and i % 3 == 0) else None for i in range(50)]
    modified = [1 + i if texts == "modified" or (texts == "mixed" and i % 3 == 1) else None for i in range(50)]
    locations = Locations.of(files, etags=etags, last_modified=modified)
    source = np.select([kind == 3, kind == 1], [number % 50, rng.permutation(n)], 0)
    length = rng.integers(0, 9, n)
    offset = np.where(kind == 2, np.cumsum(length) - length, rng.integers(0, 2**40, n))
    ids = rng.integers(0, 256, (n, 12)).astype(np.uint8)
    refs = ChunkRefs.from_rows(
        grid(n, ndim), kind, source, offset, length, locations=locations, chunk_ids=ids, heap=rng.bytes(9 * n)
    )
    data = encode_manifest(ID, [(b"12345678", refs)], level=1)
    assert decode_manifest(data, file="m").refs(b"12345678").equals(refs)
    _, arrays = read_plain_manifest(unwrap(data, file_type=FileType.MANIFEST, file="m"))
    assert arrays[b"12345678"] == plain_rows(refs)


@given(st.lists(st.sampled_from([1, 5, MAX_ROWS, 3 * MAX_ROWS + 1]), min_size=2, max_size=4), st.integers(0, 100))
def test_many_arrays_of_many_rows(counts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrays = []
    for i, n in enumerate(counts):
        locations = Locations.of([f"s3://b/{j}" for j in range(3)])
        refs = ChunkRefs.virtual(grid(n, 1 + i % 2), locations, rng.integers(0, 3, n), rng.integers(0, 2**40, n), 1)
        arrays.append((i.to_bytes(8, "big"), refs))
    back = decode_manifest(encode_manifest(ID, arrays, level=1), file="m")
    for node, refs in arrays:
        assert back.refs(node).equals(refs)


def test_periodic_layouts_of_others() -> None:
    """Rows at a constant distance, as the library's builder lays out equal rows; and one that breaks the pattern."""
    refs = [((i,), VirtualChunk("s3://b/same-length", i + 1, 5)) for i in range(600)]
    for odd in (None, 0, 1, 63, 300, 598, 599):
        changed = list(refs)
        if odd is not None:
            changed[odd] = ((odd,), VirtualChunk("s3://b/of-another-length", 0, 5, "etag"))
        for style in (Style(), Style(share_strings=True), Style(own_vtables=True)):
            back = decode_manifest(plain_manifest(ID, {b"12345678": changed}, style), file="m")
            assert plain_rows(back.refs(b"12345678")) == changed


@pytest.fixture(scope="module")
def flatbuffers_to_damage() -> list[bytes]:
    rng = np.random.default_rng(1)
    refs = [
        ((i, j), [VirtualChunk("s3://b/k", i, j, "e"), NativeChunk(b"0" * 12, i, j), InlineChunk(b"abc")][(i + j) % 3])
        for i in range(4)
        for j in range(4)
    ]
    many = ChunkRefs.virtual(np.arange(5000)[:, None], Locations.of(["s3://b/k"]), 0, rng.integers(0, 2**30, 5000), 1)
    files = [
        plain_manifest(ID, {b"12345678": refs, b"abcdefgh": [((1,), InlineChunk(b""))]}),
        encode_manifest(ID, [(b"12345678", columns(refs))]),
        encode_manifest(ID, [(b"12345678", many)], level=1),
    ]
    return [unwrap(data, file_type=FileType.MANIFEST, file="m") for data in files]


@given(data=st.data(), which=st.integers(0, 2))
def test_damaged_content(flatbuffers_to_damage: list[bytes], data, which: int) -> None:
    """Reading damaged bytes gives references or `CorruptFile`, nothing else."""
    content = bytearray(flatbuffers_to_damage[which])
    for _ in range(data.draw(st.integers(1, 4))):
        span = data.draw(st.sampled_from([len(content), min(len(content), 300)]))
        position = data.draw(st.integers(0, span - 1))
        if data.draw(st.booleans()):
            content[position] ^= 1 << data.draw(st.integers(0, 7))
        else:
            aligned = position // 4 * 4
            number = data.draw(st.integers(0, 2**32 - 1) | st.sampled_from([0, 4, 8, 2**31, 2**32 - 1, 2**32 - 4]))
            content[aligned : aligned + 4] = number.to_bytes(4, "little")
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    read_damaged(wrap(FileType.MANIFEST, bytes(content), level=1))


def read_damaged(data: bytes) -> None:
    try:
        back = decode_manifest(data, file="manifests/damaged")
    except CorruptFile:
        return
    for node in back.nodes:
        refs = back.refs(node)
        if refs is not None:
            assert ChunkRefs(*(getattr(refs, name) for name in ChunkRefs.__slots__)).equals(refs)  # checked anew


@given(st.data())
def test_damaged_files(data) -> None:
    content = bytearray(encode_manifest(ID, [(b"12345678", columns([((0,), InlineChunk(b"abc"))]))]))
    position = data.draw(st.integers(0, len(content) - 1))
    change = data.draw(st.integers(1, 255))
    content[position] ^= change
    content = content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    assume(len(content))
    with contextlib.suppress(CorruptFile, UnsupportedFormat):
        decode_manifest(bytes(content), file="m")
