"""Files that we write, judged by the real icechunk: a repository put together from nothing but `repo.format`."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import zarr

from icechunk_virtual.model.chunk_refs import ChunkKind, ChunkRefs
from icechunk_virtual.model.ids import INITIAL_SNAPSHOT_ID, ChunkId, ManifestId, NodeId, SnapshotId, encode_id
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.model.nodes import ArrayNode, GroupNode, ManifestRef, Node, parse_document
from icechunk_virtual.repo.format.manifest import encode_manifest
from icechunk_virtual.repo.format.ref_json import encode_ref
from icechunk_virtual.repo.format.snapshot import (
    ManifestFile,
    decode_snapshot,
    encode_changed_snapshot,
    encode_snapshot,
)
from icechunk_virtual.repo.format.transaction_log import TransactionLog, encode_transaction_log

icechunk = pytest.importorskip("icechunk")
pytestmark = pytest.mark.compat

T0 = 1_700_000_000_000_000


class Repo:
    """Writes the files of a repository."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: list[ManifestFile] = []
        for folder in ("snapshots", "manifests", "transactions", "chunks", "refs/branch.main"):
            (root / folder).mkdir(parents=True)
        first = encode_snapshot(
            id=INITIAL_SNAPSHOT_ID,
            parent_id=None,
            flushed_at_us=T0,
            message="Repository initialized",
            metadata={"__root": True},
            nodes=[],
            manifest_files=[],
        )
        self.write("snapshots", INITIAL_SNAPSHOT_ID, first)
        self.tip(INITIAL_SNAPSHOT_ID)

    def write(self, folder: str, id: bytes, data: bytes) -> None:
        (self.root / folder / encode_id(id)).write_bytes(data)

    def tip(self, id: SnapshotId) -> None:
        (self.root / "refs/branch.main/ref.json").write_bytes(encode_ref(id))

    def manifest(self, number: int, arrays: list[tuple[NodeId, ChunkRefs]], level: int = 3) -> ManifestId:
        id = ManifestId(number.to_bytes(12, "big"))
        data = encode_manifest(id, arrays, level=level)
        self.write("manifests", id, data)
        self.files.append(ManifestFile(id, len(data), sum(len(refs) for _, refs in arrays)))
        return id

    def chunk(self, number: int, data: bytes) -> ChunkId:
        id = ChunkId(number.to_bytes(12, "little"))
        self.write("chunks", id, data)
        return id

    def commit(self, number: int, nodes: list[Node], log: dict) -> SnapshotId:
        id = SnapshotId(number.to_bytes(12, "big"))
        nodes = sorted(nodes, key=lambda node: node.path.encode())
        data = encode_snapshot(
            id=id,
            parent_id=INITIAL_SNAPSHOT_ID,
            flushed_at_us=T0 + number,
            message="second",
            metadata={"b": [1, None, {"z": "é"}], "a": 2.5},
            nodes=nodes,
            manifest_files=self.files,
        )
        self.write("snapshots", id, data)
        self.write("transactions", id, encode_transaction_log(TransactionLog(id, **log)))
        self.tip(id)
        return id

    def open(self, **kwargs):
        return icechunk.Repository.open(icechunk.local_filesystem_storage(str(self.root)), **kwargs)


def array_document(shape, chunks, names=None, dtype="int32") -> bytes:
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": -1,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": {"units": "K"},
    }
    if names is not None:
        document["dimension_names"] = list(names)
    return json.dumps(document).encode()


def array_node(number: int, path: str, shape, chunks, manifests=(), names=None) -> ArrayNode:
    document = array_document(shape, chunks, names)
    return ArrayNode(node_id(number), path, document, parse_document(document, path), tuple(manifests))


def node_id(number: int) -> NodeId:
    return NodeId(number.to_bytes(8, "big"))


def group_node(number: int, path: str) -> GroupNode:
    return GroupNode(
        node_id(number), path, b'{"zarr_format":3,"node_type":"group","attributes":{"of":"' + path.encode() + b'"}}'
    )


def ref(id: ManifestId, refs: ChunkRefs) -> ManifestRef:
    return ManifestRef(id, refs.extents())


def authorised(tmp_path: Path) -> dict:
    prefix = f"file://{tmp_path}/"
    config = icechunk.RepositoryConfig.default()
    config.set_virtual_chunk_container(
        icechunk.VirtualChunkContainer(prefix, icechunk.local_filesystem_store(str(tmp_path)))
    )
    return {"config": config, "authorize_virtual_chunk_access": {prefix: None}}


def mixed_refs(tmp_path: Path, repo: Repo, shape: tuple[int, ...], *, seed: int = 0) -> tuple[ChunkRefs, np.ndarray]:
    """References of every kind and checksum to chunks of one int32 each, with holes; and the values."""
    rng = np.random.default_rng(seed)
    n = int(np.prod(shape))
    values = np.arange(n, dtype="<i4") * 7
    files = [tmp_path / f"source{i}.bin" for i in range(4)]
    for file in files:
        file.write_bytes(values.tobytes())
    stat = files[1].stat()
    etag = f"{stat.st_ino:x}-{stat.st_mtime_ns // 1000:x}-{stat.st_size:x}"
    modified = int(files[2].stat().st_mtime) + 1
    locations = Locations.of(
        [f"file://{file}" for file in files], etags=[None, etag, None, None], last_modified=[None, None, modified, None]
    )
    present = np.flatnonzero(rng.random(n) < 0.9)
    values[np.setdiff1d(np.arange(n), present)] = -1
    kind = rng.choice(np.array([1, 2, 3, 3, 3], np.uint8), len(present))
    # Runs of one kind, as in real archives, besides rows in turns.
    kind[: len(present) // 3] = ChunkKind.VIRTUAL
    ids = np.frombuffer(
        b"".join(repo.chunk(1 + i, values[4 * i : 4 * i + 4].tobytes()) for i in range(-(-n // 4))), "u1"
    )
    source = np.select([kind == 3, kind == 1], [rng.integers(0, 4, len(present)), present // 4], 0)
    offset = np.select([kind == 3, kind == 1], [present * 4, present % 4 * 4], present * 4)
    refs = ChunkRefs.from_rows(
        np.stack(np.unravel_index(present, shape), axis=1) if shape else np.zeros((1, 0), int),
        kind,
        source,
        offset,
        4,
        locations=locations,
        chunk_ids=ids.reshape(-1, 12),
        heap=values.tobytes(),
    )
    return refs, values.reshape(shape)


def test_every_kind_in_one_manifest(tmp_path: Path) -> None:
    repo = Repo(tmp_path / "repo")
    refs, values = mixed_refs(tmp_path, repo, (50, 7, 9))
    scalar = ChunkRefs.inline(np.zeros((1, 0), int), [b"\x05\0\0\0"])
    line = ChunkRefs.inline([[2], [0]], [b"\x07\0\0\0", b"\x08\0\0\0"])
    id = repo.manifest(1, [(node_id(3), refs), (node_id(2), scalar), (node_id(4), line)])
    nodes = [
        group_node(1, "/"),
        array_node(2, "/scalar", (), (), [ref(id, scalar)]),
        array_node(3, "/g/x", values.shape, (1, 1, 1), [ref(id, refs)], names=["time", None, "lon é"]),
        array_node(4, "/line", (3,), (1,), [ref(id, line)], names=["n"]),
        array_node(5, "/empty", (0, 3), (1, 2), names=[None, None]),
        group_node(6, "/g"),
        group_node(7, "/g-b"),
    ]
    chunks = {node_id(3): refs.coords, node_id(2): scalar.coords, node_id(5): np.zeros((0, 2), np.uint32)}
    new = {"new_groups": frozenset([node_id(1), node_id(6), node_id(7)])}
    new |= {"new_arrays": frozenset(node_id(i) for i in (2, 3, 4, 5)), "updated_chunks": chunks}
    snapshot = repo.commit(2, nodes, new)

    real = repo.open(**authorised(tmp_path))
    history = list(real.ancestry(branch="main"))
    assert [entry.id for entry in history] == [encode_id(snapshot), encode_id(INITIAL_SNAPSHOT_ID)]
    assert history[0].message == "second"
    assert history[0].metadata == {"a": 2.5, "b": [1, None, {"z": "é"}]}
    assert history[0].written_at == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=T0 + 2)
    assert [(m.id, m.size_bytes, m.num_chunk_refs) for m in history[0].manifests] == [
        (encode_id(f.id), f.size_bytes, f.num_chunk_refs) for f in repo.files
    ]
    store = real.readonly_session("main").store
    root = zarr.open_group(store, mode="r")
    np.testing.assert_array_equal(root["g/x"][:], values)
    assert root["g/x"].metadata.dimension_names == ("time", None, "lon é")
    assert root["scalar"][()] == 5
    assert root["line"][:].tolist() == [8, -1, 7]
    assert root["empty"].shape == (0, 3)
    assert root["g-b"].attrs["of"] == "/g-b"
    diff = real.diff(from_snapshot_id=encode_id(INITIAL_SNAPSHOT_ID), to_snapshot_id=encode_id(snapshot))
    assert diff.new_arrays == {"/scalar", "/g/x", "/line", "/empty"}
    assert diff.new_groups == {"/", "/g", "/g-b"}
    assert diff.updated_chunks["/scalar"] == [[]]
    assert sorted(diff.updated_chunks["/g/x"]) == refs.coords.tolist()


def test_the_real_one_goes_on(tmp_path: Path) -> None:
    repo = Repo(tmp_path / "repo")
    refs, values = mixed_refs(tmp_path, repo, (40, 30))
    id = repo.manifest(1, [(node_id(3), refs)])
    repo.commit(2, [group_node(1, "/"), array_node(3, "/x", values.shape, (1, 1), [ref(id, refs)])], {})
    real = repo.open(**authorised(tmp_path))
    session = real.writable_session("main")
    zarr.open_array(session.store, path="x")[5, :10] = 99
    session.commit("third")
    values[5, :10] = 99
    np.testing.assert_array_equal(zarr.open_array(real.readonly_session("main").store, path="x", mode="r")[:], values)


@pytest.mark.parametrize("level", [1, 3, 12, 22, 255])
def test_many_virtual_references(tmp_path: Path, level: int) -> None:
    """Several blocks; the tail of the last one ends the file."""
    repo = Repo(tmp_path / "repo")
    n = 2500
    (tmp_path / "data.bin").write_bytes(np.arange(n, dtype="<i4").tobytes())
    (tmp_path / "more.bin").write_bytes(np.arange(n, dtype="<i4").tobytes())
    locations = Locations.of([f"file://{tmp_path}/data.bin", f"file://{tmp_path}/more.bin"])
    refs = ChunkRefs.virtual(np.arange(n)[:, None], locations, np.arange(n) // 700 % 2, np.arange(n) * 4, 4)
    id = repo.manifest(1, [(node_id(3), refs)], level)
    repo.commit(2, [array_node(3, "/x", (n,), (1,), [ref(id, refs)])], {})
    store = repo.open(**authorised(tmp_path)).readonly_session("main").store
    np.testing.assert_array_equal(zarr.open_array(store, path="x", mode="r")[:], np.arange(n))


def test_a_changed_snapshot(tmp_path: Path) -> None:
    """Nodes copied as bytes beside nodes encoded anew."""
    repo = Repo(tmp_path / "repo")
    nodes = [
        group_node(1, "/"),
        *(array_node(10 + i, f"/a{i:03}", (i, 3), (1, 2), names=["y", None]) for i in range(100)),
    ]
    base = repo.commit(2, nodes, {})
    id = SnapshotId(b"\x07" * 12)
    data, _ = encode_changed_snapshot(
        decode_snapshot((tmp_path / "repo/snapshots" / encode_id(base)).read_bytes(), file="base"),
        id=id,
        parent_id=base,
        flushed_at_us=T0 + 9,
        message="changed",
        metadata={},
        changed={
            "/a000": None,
            "/a050": array_node(60, "/a050", (4, 4, 4), (1, 2, 3), names=["a" * 40, "b", "c"]),
            "/a050/b": group_node(500, "/a050/b"),
            "/zz": group_node(501, "/zz"),
        },
        manifest_files=[],
    )
    repo.write("snapshots", id, data)
    repo.tip(id)
    store = repo.open().readonly_session("main").store
    members = dict(zarr.open_group(store, mode="r").members())
    assert sorted(members) == [*(f"a{i:03}" for i in range(1, 100)), "zz"]
    assert members["a050"].shape == (4, 4, 4)
    assert [members[f"a{i:03}"].shape for i in (1, 49, 51, 99)] == [(i, 3) for i in (1, 49, 51, 99)]
    assert asyncio.run(store.exists("a050/b/zarr.json"))
