"""Snapshots: the view equals a sorted list of nodes, whoever wrote the file; changes equal writing anew."""

from __future__ import annotations

import json
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk_virtual.errors import CorruptFile
from icechunk_virtual.model.nodes import ArrayNode, GroupNode, ManifestRef, Node, parse_document
from icechunk_virtual.repo.format import metadata_values
from icechunk_virtual.repo.format.envelope import FileType, unwrap, wrap
from icechunk_virtual.repo.format.snapshot import (
    ManifestFile,
    Snapshot,
    decode_snapshot,
    encode_changed_snapshot,
    encode_snapshot,
)
from tests.support.plain_flatbuffers import Style, plain_snapshot

names = st.sampled_from(["a", "b", "a b", "a-b", "a.c", "aa", "é", "0", "\x01", "zarr.json", "c"])
paths = st.builds(lambda parts: "/" + "/".join(parts), st.lists(names, max_size=4))
u32 = st.integers(0, 2**32 - 1)


@st.composite
def nodes(draw, path: str) -> Node:
    id = draw(st.binary(min_size=8, max_size=8))
    if draw(st.booleans()):
        return GroupNode(
            id, path, b'{"zarr_format":3,"node_type":"group","x":' + b" " * draw(st.integers(0, 9)) + b"1}"
        )
    ndim = draw(st.integers(0, 4))
    document = {
        "node_type": "array",
        "shape": draw(st.lists(st.integers(0, 2**31), min_size=ndim, max_size=ndim)),
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": draw(st.lists(st.integers(1, 2**40), min_size=ndim, max_size=ndim))},
        },
    }
    if draw(st.booleans()):
        document["dimension_names"] = draw(st.lists(st.none() | names, min_size=ndim, max_size=ndim))
    boxes = st.lists(st.tuples(u32, u32), min_size=ndim, max_size=ndim).map(tuple)
    manifests = draw(st.lists(st.builds(ManifestRef, st.binary(min_size=12, max_size=12), boxes), max_size=3))
    text = json.dumps(document).encode()
    return ArrayNode(id, path, text, parse_document(text, path), tuple(manifests))


@st.composite
def trees(draw, min_size: int = 0) -> dict[str, Node]:
    """Nodes with and without parents; ids are distinct."""
    chosen = draw(st.lists(paths, unique=True, max_size=25, min_size=min_size))
    return {
        path: replace(draw(nodes(path)), id=struct.pack(">Q", i))
        for i, path in enumerate(sorted(chosen, key=str.encode))
    }


files = st.lists(
    st.builds(ManifestFile, st.binary(min_size=12, max_size=12), st.integers(0, 2**64 - 1), u32),
    unique_by=lambda f: f.id,
    max_size=6,
)
HEAD = {"id": b"snapshot-id!", "parent_id": b"parent-id-12", "flushed_at_us": 2**50, "message": "é", "metadata": {}}


def write(tree: dict[str, Node], **head) -> bytes:
    return encode_snapshot(**{**HEAD, "manifest_files": (), **head}, nodes=tree.values())


def check(snapshot: Snapshot, tree: dict[str, Node], wanted: list[str]) -> None:
    """The view against a dictionary."""
    assert snapshot.num_nodes == len(tree)
    assert list(snapshot.nodes()) == list(tree.values())
    for path in [*tree, *wanted]:
        assert snapshot.find(path) == tree.get(path)
        inside = path.rstrip("/") + "/"
        assert [n.path for n in snapshot.subtree(path)] == [p for p in tree if p == path or p.startswith(inside)]
        children = [p.removeprefix(inside) for p in tree if p.startswith(inside) and p != "/"]
        assert list(snapshot.children(path)) == [c for c in children if "/" not in c]
    ids = {node.id: path for path, node in tree.items()}
    some = list(ids)[::2]
    assert snapshot.paths_of([*some, b"\xff" * 8]) == {id: ids[id] for id in some}


@given(trees(), st.lists(paths, max_size=5), files, st.integers(0, 22))
def test_round_trip(tree, wanted, manifest_files, level) -> None:
    data = write(tree, manifest_files=manifest_files, metadata={"z": [1], "a": "é"}, level=level)
    snapshot = decode_snapshot(data, file="s")
    check(snapshot, tree, wanted)
    assert (snapshot.id, snapshot.parent_id, snapshot.flushed_at_us) == (b"snapshot-id!", b"parent-id-12", 2**50)
    assert (snapshot.message, snapshot.metadata) == ("é", {"a": "é", "z": [1]})
    assert snapshot.manifest_files == tuple(sorted(manifest_files, key=lambda f: f.id))
    for file in manifest_files:
        assert snapshot.manifest_file(file.id) == file
    assert snapshot.manifest_file(b"\xff" * 11 + b"\0") is None


styles = st.builds(Style, *[st.booleans()] * 6, seed=st.integers(0, 2**32))


@given(trees(), st.lists(paths, max_size=3), styles, files)
def test_files_of_others(tree, wanted, style, manifest_files) -> None:
    structs = b"".join(struct.pack("<12s4xQI4x", f.id, f.size_bytes, f.num_chunk_refs) for f in manifest_files)
    metadata = {"one": metadata_values.pack({"x": None})}
    snapshot = decode_snapshot(plain_snapshot(list(tree.values()), style, metadata=metadata, files=structs), file="s")
    check(snapshot, tree, wanted)
    assert (snapshot.id, snapshot.parent_id, snapshot.flushed_at_us) == (b"snapshot-id!", None, 2**50)
    assert (snapshot.message, snapshot.metadata) == ("message", {"one": {"x": None}})
    assert snapshot.manifest_files == tuple(manifest_files)
    assert all(snapshot.manifest_file(f.id) == f for f in manifest_files)


@given(trees(), st.data(), st.booleans(), styles)
def test_changes(tree, data, foreign: bool, style) -> None:
    """Copying what did not change gives, byte for byte, what writing everything gives."""
    removed = data.draw(st.lists(st.sampled_from(list(tree)) | paths, unique=True)) if tree else []
    touched = data.draw(st.lists(paths | (st.sampled_from(list(tree)) if tree else paths), unique=True, max_size=6))
    changed: dict[str, Node | None] = dict.fromkeys(removed)
    changed |= {path: data.draw(nodes(path)) for path in touched}
    old = plain_snapshot(list(tree.values()), style, metadata={}) if foreign else write(tree)
    base = decode_snapshot(old, file="s")
    assert (base.blob_bounds is None) == (foreign and bool(tree))
    new = {path: node for path, node in {**tree, **changed}.items() if node is not None}
    new = dict(sorted(new.items(), key=lambda item: item[0].encode()))
    result = encode_changed_snapshot(base, **HEAD, changed=changed, manifest_files=(), level=3)
    assert result.data == write(new)
    found = decode_snapshot(result.data, file="s").blob_bounds
    assert found is not None
    assert len(found) == len(result.blob_bounds) == len(new) + 1
    assert not new or np.array_equal(found, result.blob_bounds)  # without nodes nothing tells where they would begin


@given(trees(min_size=1), st.data())
def test_damaged_content(tree, data) -> None:
    content = bytearray(unwrap(write(tree, metadata={"a": 1}), file_type=FileType.SNAPSHOT, file="s"))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[position] ^= 1 << data.draw(st.integers(0, 7))
        else:
            number = data.draw(u32 | st.sampled_from([0, 4, 2**31, 2**32 - 4]))
            aligned = position // 4 * 4
            content[aligned : aligned + 4] = struct.pack("<I", number)
    content = content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    try:
        snapshot = decode_snapshot(wrap(FileType.SNAPSHOT, bytes(content), level=1), file="s")
        list(snapshot.nodes())
        for path in tree:
            snapshot.find(path)
            list(snapshot.subtree(path))
            list(snapshot.children(path))
        snapshot.paths_of([node.id for node in tree.values()])
        assert len(snapshot.manifest_files) >= 0
        snapshot.manifest_file(b"x" * 12)
        assert snapshot.blob_bounds is None or len(snapshot.blob_bounds) == snapshot.num_nodes + 1
    except CorruptFile:
        return


def test_order_is_checked() -> None:
    a, b = (GroupNode(b"12345678", path, b"{}") for path in ("/a", "/b"))
    for wrong in ([b, a], [a, a]):
        with pytest.raises(ValueError, match="repeated or out of order"):
            encode_snapshot(**HEAD, nodes=wrong, manifest_files=())


def test_vectors_without_end() -> None:
    """One table, pointed at by a vector as long as the file: refused before anything is made of it."""
    content = bytearray(unwrap(write({}, metadata={"a": 1}), file_type=FileType.SNAPSHOT, file="s"))
    field = struct.unpack_from("<I", content, 0)[0] + 44  # of the metadata
    content += bytes(-len(content) % 4)
    struct.pack_into("<I", content, field, len(content) - field)
    count = 2**20 + 1
    content += struct.pack("<I", count) + bytes(4 * count)
    with pytest.raises(CorruptFile, match="1048577 tables"):
        decode_snapshot(wrap(FileType.SNAPSHOT, bytes(content), level=1), file="s")
