"""Snapshots: known bytes, large hierarchies, nodes that contradict themselves."""

from __future__ import annotations

import itertools
import struct

import pytest

from icechunk_virtual.errors import CorruptFile, TooLargeForFormat
from icechunk_virtual.model.ids import INITIAL_SNAPSHOT_ID, NodeId
from icechunk_virtual.model.nodes import ArrayLayout, ArrayNode, GroupNode, ManifestRef
from icechunk_virtual.repo.format import snapshot_encode
from icechunk_virtual.repo.format.envelope import FileType, unwrap, wrap
from icechunk_virtual.repo.format.snapshot import (
    ManifestFile,
    Snapshot,
    changed_files,
    count_tables,
    decode_snapshot,
    encode_changed_snapshot,
    encode_snapshot,
)

# The content of the initial snapshot as icechunk 1.1.13 writes it.
KNOWN = bytes.fromhex(
    "200000004963686b00000000000012002c000400000010002000140018001c00"
    "120000000b1cc8d6787580f0e33a65341c0000001c0000003400000060000000"
    "b2810419e76006000000000000000000160000005265706f7369746f72792069"
    "6e697469616c697a65640000010000000c00000008000c000400080008000000"
    "100000000400000001000000c3000000060000005f5f726f6f74000000000000"
)
HEAD = {"id": b"snapshot-id!", "parent_id": None, "flushed_at_us": 1, "message": "", "metadata": {}}
GROUP_DOCUMENT = b'{"node_type":"group"}'


def decode(flatbuffer: bytes) -> Snapshot:
    return decode_snapshot(wrap(FileType.SNAPSHOT, flatbuffer), file="snapshots/x")


def group(number: int, path: str) -> GroupNode:
    return GroupNode(NodeId(number.to_bytes(8, "big")), path, GROUP_DOCUMENT)


def test_known_bytes() -> None:
    snapshot = decode(KNOWN)
    assert snapshot.id == INITIAL_SNAPSHOT_ID
    assert snapshot.parent_id is None
    assert snapshot.flushed_at_us == 1795395533701554
    assert snapshot.message == "Repository initialized"
    assert snapshot.metadata == {"__root": True}
    assert snapshot.num_nodes == 0
    assert snapshot.manifest_files == ()
    assert snapshot.find("/") is None
    assert list(snapshot.children("/")) == []


@pytest.mark.parametrize("end", range(len(KNOWN)))
def test_every_truncation(end: int) -> None:
    with pytest.raises(CorruptFile):
        decode(KNOWN[:end])


@pytest.mark.parametrize("position", range(0, len(KNOWN), 4))
@pytest.mark.parametrize("number", [0, 4, 2**31, 2**32 - 4])
def test_every_number_replaced(position: int, number: int) -> None:
    content = bytearray(KNOWN)
    struct.pack_into("<I", content, position, number)
    try:
        decode(bytes(content))
    except CorruptFile as error:
        message = str(error)
    else:
        message = "corrupt snapshot"
    assert "corrupt snapshot" in message


def test_a_large_hierarchy_is_not_looked_at() -> None:
    nodes = [group(0, "/"), *(group(1 + i, f"/g{i:05}") for i in range(20_000))]
    snapshot = decode_snapshot(encode_snapshot(**HEAD, nodes=nodes, manifest_files=[]), file="s")
    looked_at = 0
    original = Snapshot._path

    def counted(self: Snapshot, row: int) -> bytes:
        nonlocal looked_at
        looked_at += 1
        return original(self, row)

    Snapshot._path = counted
    try:
        assert snapshot.find("/g12345") == nodes[12_346]
        assert looked_at < 20
        assert snapshot.find("/g123456") is None
        assert [node.path for node in snapshot.subtree("/g00007")] == ["/g00007"]
        changed = {"/g10000": None, "/g10001": group(10_002, "/g10001"), "/g10000/x": group(30_000, "/g10000/x")}
        looked_at = 0
        data = encode_changed_snapshot(snapshot, **HEAD, changed=changed, manifest_files=[]).data
        assert looked_at < 70
    finally:
        Snapshot._path = original
    assert decode_snapshot(data, file="s").num_nodes == 20_001


def test_children_skip_over_subtrees() -> None:
    """`/a/x` is behind `/a-b`; the child `a` comes once, groups that are not nodes do not come."""
    paths = ["/", "/a", "/a b", "/a-b", "/a/x", "/a/y/z", "/aa", "/none/below", "/z"]
    snapshot = decode_snapshot(
        encode_snapshot(**HEAD, nodes=[group(i, path) for i, path in enumerate(paths)], manifest_files=[]), file="s"
    )
    assert list(snapshot.children("/")) == ["a", "a b", "a-b", "aa", "z"]
    assert list(snapshot.children("/a")) == ["x"]
    assert list(snapshot.children("/none")) == ["below"]
    assert [n.path for n in snapshot.subtree("/a")] == ["/a", "/a/x", "/a/y/z"]
    assert [n.path for n in snapshot.subtree("/none")] == ["/none/below"]
    assert len(list(snapshot.subtree("/"))) == len(paths)


def test_listing_ends_in_a_file_whose_nodes_are_out_of_order() -> None:
    nodes = [group(i, path) for i, path in enumerate(["/a/x", "/b/x", "/c/x", "/d", "/e/x"])]
    content = bytearray(
        unwrap(encode_snapshot(**HEAD, nodes=nodes, manifest_files=[]), file_type=FileType.SNAPSHOT, file="s")
    )
    first = decode(bytes(content))._nodes
    places = [at + struct.unpack_from("<I", content, at)[0] for at in range(first, first + 20, 4)]
    for shuffled in itertools.permutations(places):
        for i, place in enumerate(shuffled):
            struct.pack_into("<I", content, first + 4 * i, place - first - 4 * i)
        snapshot = decode(bytes(content))
        assert len(list(itertools.islice(snapshot.children("/"), 6))) < 6
        assert len(list(itertools.islice(snapshot.subtree("/"), 6))) < 6


def test_children_of_large_subtrees(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [group(i, f"/a/{i:04}") for i in range(5000)]
    snapshot = decode_snapshot(encode_snapshot(**HEAD, nodes=[*nodes, group(9999, "/b")], manifest_files=[]), file="s")
    looked_at = []
    original = Snapshot._path
    monkeypatch.setattr(Snapshot, "_path", lambda self, row: looked_at.append(row) or original(self, row))
    assert list(snapshot.children("/")) == ["b"]
    assert len(looked_at) < 40


def test_blobs_are_only_copied_when_they_are_ours() -> None:
    content = unwrap(
        encode_snapshot(**HEAD, nodes=[group(i, f"/{i}") for i in range(5)], manifest_files=[]),
        file_type=FileType.SNAPSHOT,
        file="s",
    )
    bounds = decode(content).blob_bounds
    assert len(bounds) == 6
    assert bounds[-1] == len(content)
    for at in (int(bounds[2]), int(bounds[2]) + 4, int(bounds[4]) + 4):  # a mark, a size, the size of the last
        changed = bytearray(content)
        changed[at] ^= 0x80
        assert decode(bytes(changed)).blob_bounds is None


ARRAY_DOCUMENT = (
    b'{"node_type":"array","shape":[4],"chunk_grid":{"name":"regular","configuration":{"chunk_shape":[2]}}}'
)


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (GroupNode(b"12345678", "/g", b"no JSON"), "not valid JSON"),
        (GroupNode(b"12345678", "/g", ARRAY_DOCUMENT), "for the other type"),
        (ArrayNode(b"12345678", "/g", GROUP_DOCUMENT, ArrayLayout((4,), (2,))), "for the other type"),
        (
            ArrayNode(
                b"12345678",
                "/g",
                ARRAY_DOCUMENT,
                ArrayLayout((4,), (2,)),
                (ManifestRef(b"1" * 12, ((0, 1),), ((0, 1),) * 256),),
            ),
            "256 ranges",
        ),
    ],
)
def test_contradictions(node, reason: str) -> None:
    snapshot = decode_snapshot(encode_snapshot(**HEAD, nodes=[node], manifest_files=[]), file="snapshots/x")
    with pytest.raises(CorruptFile, match=f"`snapshots/x` at byte.*{reason}"):
        snapshot.find("/g")


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": b"x"},
        {"parent_id": b"x"},
        {"nodes": [GroupNode(b"1", "/", b"{}")]},
        {"flushed_at_us": 1, "metadata": {"a": 1}, "id": b""},
    ],
)
def test_misuse(wrong) -> None:
    with pytest.raises(ValueError):
        encode_snapshot(**{**HEAD, "nodes": [], "manifest_files": [], **wrong})


def test_metadata_that_json_does_not_know() -> None:
    with pytest.raises(TypeError, match="cannot be cast"):
        encode_snapshot(**{**HEAD, "metadata": {"a": {1}}}, nodes=[], manifest_files=[])
    with pytest.raises(TypeError, match="cannot be cast"):
        encode_snapshot(**{**HEAD, "metadata": {1: 1}}, nodes=[], manifest_files=[])


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = ArrayLayout((4,), (2,), ("x",))
    nodes = [
        group(1, "/"),
        ArrayNode(b"12345678", "/a", ARRAY_DOCUMENT, layout, (ManifestRef(b"1" * 12, ((0, 2),)),) * 3),
    ]
    assert count_tables(nodes) == 2 + 2 + 3 + 1
    monkeypatch.setattr(snapshot_encode, "MAX_FLATBUFFER", 500)
    with pytest.raises(TooLargeForFormat, match="at most 500"):
        encode_snapshot(**HEAD, nodes=nodes, manifest_files=[])


def test_manifest_files_are_found_in_any_order() -> None:
    """We write them sorted by id; others may not."""
    files = [ManifestFile(bytes([n]) * 12, 100 + n, n) for n in range(5)]
    content = unwrap(encode_snapshot(**HEAD, nodes=[], manifest_files=files), file_type=FileType.SNAPSHOT, file="s")
    start = content.index(bytes(12), 80)
    rows = [content[start + 32 * n : start + 32 * (n + 1)] for n in range(5)]
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        shuffled = content[:start] + b"".join(rows[n] for n in order) + content[start + 160 :]
        snapshot = decode_snapshot(wrap(FileType.SNAPSHOT, shuffled), file="s")
        assert snapshot.manifest_files == tuple(files[n] for n in order)
        assert [snapshot.manifest_file(file.id) for file in files] == files
        assert snapshot.manifest_file(b"nobodys id!!") is None
        again = encode_changed_snapshot(
            snapshot,
            **HEAD,
            changed={},
            manifest_files=changed_files(snapshot, {files[1].id, b"nobodys id!!"}, [ManifestFile(b"\2" * 12, 7, 7)]),
        )
        expected = (files[0], ManifestFile(b"\2" * 12, 7, 7), files[3], files[4])
        assert decode_snapshot(again.data, file="s").manifest_files == expected
