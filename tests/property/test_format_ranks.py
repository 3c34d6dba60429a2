"""Chunks of the wrong rank, which icechunk stores (section 12, Q8), are kept apart; nothing else suffers."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk_virtual.errors import CorruptFile
from icechunk_virtual.model.chunk_refs import Chunk, ChunkRefs, InlineChunk, NativeChunk, VirtualChunk
from icechunk_virtual.model.ids import ManifestId, NodeId, SnapshotId
from icechunk_virtual.model.nodes import ArrayLayout, ArrayNode, ManifestRef
from icechunk_virtual.repo.format.envelope import FileType, unwrap, wrap
from icechunk_virtual.repo.format.manifest import Manifest, decode_manifest
from icechunk_virtual.repo.format.snapshot import ManifestFile, Snapshot, decode_snapshot, encode_changed_snapshot
from icechunk_virtual.repo.format.transaction_log import (
    TransactionLog,
    decode_transaction_log,
    encode_transaction_log,
)
from tests.support.plain_flatbuffers import Arrays, PlainWriter, Style, plain_log, plain_manifest, plain_snapshot

NODE = NodeId(b"12345678")
CHUNKS: list[Chunk] = [
    InlineChunk(b"inline"),
    InlineChunk(b""),
    NativeChunk(b"n" * 12, 3, 5),
    NativeChunk(b"m" * 12, 0, 2),
    VirtualChunk("s3://b/k", 7, 9),
    VirtualChunk("s3://b/l", 7, 9, etag="e"),
    VirtualChunk("s3://b/k", 1, 2, last_modified=5),
]
styles = st.builds(Style, *[st.booleans()] * 8, seed=st.integers(0, 2**32))
coords = st.lists(st.integers(0, 3) | st.integers(0, 2**32 - 1), max_size=4).map(tuple)
coord_sets = st.lists(coords, unique=True, max_size=12)


@st.composite
def manifests(draw: st.DrawFn) -> Arrays:
    """Arrays with references of any ranks in any order."""
    nodes = draw(st.lists(st.binary(min_size=8, max_size=8), unique=True, max_size=4))
    return {node: [(coord, draw(st.sampled_from(CHUNKS))) for coord in draw(coord_sets)] for node in nodes}


def rows_of(refs: ChunkRefs) -> dict[tuple[int, ...], Chunk]:
    return {tuple(refs.coords[i].tolist()): refs.row(i) for i in range(len(refs))}


@given(manifests(), styles)
def test_references_by_rank(arrays: Arrays, style: Style) -> None:
    back = decode_manifest(plain_manifest(b"manifest-id!", arrays, style), file="m")
    assert back.nodes == tuple(sorted(arrays))
    assert back.num_refs == sum(map(len, arrays.values()))
    for node, rows in arrays.items():
        for ndim in range(6):
            wanted = {coord: chunk for coord, chunk in rows if len(coord) == ndim}
            refs = back.refs(NodeId(node), ndim)
            assert (refs is None) == (not wanted)
            if refs is not None:
                ChunkRefs(*(getattr(refs, name) for name in ChunkRefs.__slots__))  # in order, nothing contradictory
                assert rows_of(refs) == wanted
                assert all(refs.lookup(coord) == chunk for coord, chunk in wanted.items())
        parts = back.parts(NodeId(node))
        assert [len(part) for part in parts] == sorted(map(len, parts), reverse=True)
        assert sum(map(len, parts)) == len(rows)
        assert back.refs(NodeId(node)) is (parts[0] if parts else None)


@given(coord_sets, styles)
def test_of_repeated_references_the_first_stands(coords: list[tuple[int, ...]], style: Style) -> None:
    rows: list[tuple[tuple[int, ...], Chunk]] = [(coord, InlineChunk(b"first")) for coord in coords]
    rows += [(coord, InlineChunk(b"later")) for coord in coords[::2]]
    parts = decode_manifest(plain_manifest(b"m" * 12, {NODE: rows}, style), file="m").parts(NODE)
    assert {coord: chunk for part in parts for coord, chunk in rows_of(part).items()} == dict(rows[: len(coords)])


def mixed_content() -> bytes:
    rows = [((i,) if i % 3 else (i, 1), CHUNKS[i % len(CHUNKS)]) for i in range(7)]
    return unwrap(plain_manifest(b"m" * 12, {NODE: rows}), file_type=FileType.MANIFEST, file="m")


def decode(content: bytes) -> Manifest:
    return decode_manifest(wrap(FileType.MANIFEST, content, level=1), file="m")


def test_every_number_replaced() -> None:
    content = mixed_content()
    refused = 0
    for position in range(0, len(content) - 3, 4):
        for number in (0, 1, 3, 2**31, 2**32 - 4):
            changed = bytearray(content)
            struct.pack_into("<I", changed, position, number)
            try:
                decode(bytes(changed))
            except CorruptFile:
                refused += 1
    assert refused > 100


@pytest.mark.parametrize("ranks", [[1, None], [1, 2, None], [None, 2, 1], [None]])
def test_a_reference_without_index_is_corrupt(ranks: list[int | None]) -> None:
    writer = PlainWriter(Style())
    tables = []
    for ndim in ranks:
        data = writer.builder.CreateByteVector(b"data")
        index = {} if ndim is None else {0: ("offset", writer.u32_vector((0,) * ndim))}
        tables.append(writer.table({1: ("offset", data), **index}))
    array = writer.table({0: ("struct", NODE), 1: ("offset", writer.offsets(tables))})
    root = writer.table({0: ("struct", b"manifest-id!"), 1: ("offset", writer.offsets([array]))})
    with pytest.raises(CorruptFile, match="a chunk's index is missing"):
        decode(writer.finish(root))


def test_an_index_that_leaves_the_file_is_corrupt() -> None:
    content = bytearray(plain_content := mixed_content())
    lengths = [at for at in range(0, len(content) - 11, 4) if struct.unpack_from("<III", content, at) == (2, 3, 1)]
    assert lengths  # of the index (3, 1)
    for at in lengths:
        for number in (2**20, 2**29 - 1, 2**32 - 1):
            struct.pack_into("<I", content, at, number)
            with pytest.raises(CorruptFile):
                decode(bytes(content))
        content[:] = plain_content


@given(st.dictionaries(st.binary(min_size=8, max_size=8), coord_sets, max_size=4), styles)
def test_changes_by_rank(updated: dict[bytes, list[tuple[int, ...]]], style: Style) -> None:
    log = decode_transaction_log(plain_log(b"l" * 12, [[]] * 6, updated, style), file="t")
    assert log.updated_chunks.keys() == updated.keys()
    for node, touched in updated.items():
        parts = log.parts(NodeId(node))
        assert parts[0] is log.updated_chunks[NodeId(node)]
        assert len(parts) == max(1, len({len(coord) for coord in touched}))
        assert len(parts[0]) == max(map(len, parts))
        for ndim in range(6):
            found = log.chunks(NodeId(node), ndim)
            wanted = sorted(coord for coord in touched if len(coord) == ndim)
            assert (None if found is None else [tuple(c) for c in found.tolist()]) == (wanted or None)
    assert log.parts(NodeId(b"elsewhere")) == ()
    if log.other_ranks:
        with pytest.raises(ValueError, match="different ranks"):
            encode_transaction_log(log)
    else:
        again = decode_transaction_log(encode_transaction_log(log), file="t")
        assert {id: c.tolist() for id, c in again.updated_chunks.items()} == {
            id: c.tolist() for id, c in log.updated_chunks.items()
        }


def test_a_log_holds_arrays_of_one_rank_as_ever() -> None:
    log = TransactionLog(SnapshotId(b"l" * 12), updated_chunks={NODE: np.array([[1, 2]], np.uint32)})
    assert log.parts(NODE)[0].tolist() == [[1, 2]]
    assert log.chunks(NODE, 1) is None


# -- boxes -----------------------------------------------------------------------------------------------------

GRIDS = {0: (), 1: (4,), 2: (4, 6)}


def snapshot_with(ndim: int, boxes: list[tuple[tuple[int, int], ...]]) -> Snapshot:
    """A snapshot of others, with an array of that grid whose manifests have these boxes."""
    shape = list(GRIDS[ndim])
    document = b'{"node_type":"array","shape":%a,"chunk_grid":{"name":"regular","configuration":{"chunk_shape":%a}}}'
    layout = ArrayLayout(tuple(shape), (1,) * ndim)
    refs = tuple(ManifestRef(ManifestId(bytes([i]) * 12), box) for i, box in enumerate(boxes, 1))
    array = ArrayNode(NODE, "/a", document % (shape, [1] * ndim), layout, refs)
    return decode_snapshot(plain_snapshot([array], Style(), metadata={}), file="s")


def array_of(snapshot: Snapshot) -> ArrayNode:
    node = snapshot.find("/a")
    assert isinstance(node, ArrayNode)
    return node


@pytest.mark.parametrize(
    ("ndim", "stored", "box"),
    [
        (0, ((0, 2),), ()),
        (1, (), ((0, 4),)),
        (1, ((1, 3), (5, 6)), ((1, 3),)),
        (2, ((1, 3),), ((1, 3), (0, 6))),
        (2, (), ((0, 4), (0, 6))),
        (2, ((0, 1), (2, 3), (4, 5)), ((0, 1), (2, 3))),
    ],
)
def test_boxes_of_another_rank(
    ndim: int, stored: tuple[tuple[int, int], ...], box: tuple[tuple[int, int], ...]
) -> None:
    """They hold for the dimensions that the array has, come last, and are written back as they were."""
    right = ((0, 1), (0, 1))[:ndim]
    snapshot = snapshot_with(ndim, [stored, right])
    first, second = array_of(snapshot).manifests
    assert (first.id, first.extents, first.foreign, first.stored) == (b"\2" * 12, right, None, right)
    assert (second.id, second.extents, second.foreign, second.stored) == (b"\1" * 12, box, stored, stored)
    files = [ManifestFile(ref.id, 1, 1) for ref in (first, second)]
    common = {"parent_id": None, "flushed_at_us": 1, "message": "", "metadata": {}, "manifest_files": files, "level": 1}
    for changed in ({}, {"/a": array_of(snapshot)}):
        data, _ = encode_changed_snapshot(snapshot, id=SnapshotId(b"s" * 12), changed=changed, **common)  # type: ignore[arg-type]
        ours = decode_snapshot(data, file="s")
        assert array_of(ours).manifests == (first, second)
        data, _ = encode_changed_snapshot(ours, id=SnapshotId(b"s" * 12), changed=changed, **common)  # type: ignore[arg-type]
        assert array_of(decode_snapshot(data, file="s")).manifests == (first, second)


def test_boxes_of_the_right_rank_keep_their_order() -> None:
    boxes = [((2, 4), (0, 1)), ((0, 2), (0, 1)), ((1, 3), (0, 1))]
    assert [ref.extents for ref in array_of(snapshot_with(2, boxes)).manifests] == boxes
