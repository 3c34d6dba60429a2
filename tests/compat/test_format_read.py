"""Files that the real icechunk writes, read by `repo.format` and compared with what it says about them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import zarr

from icechunk_virtual.model.chunk_refs import ChunkKind, InlineChunk, NativeChunk, VirtualChunk
from icechunk_virtual.model.ids import INITIAL_SNAPSHOT_ID, decode_id, encode_id
from icechunk_virtual.model.nodes import ArrayNode
from icechunk_virtual.repo.format.manifest import Manifest, decode_manifest, encode_manifest
from icechunk_virtual.repo.format.ref_json import decode_ref
from icechunk_virtual.repo.format.snapshot import Snapshot, decode_snapshot, encode_changed_snapshot
from icechunk_virtual.repo.format.transaction_log import decode_transaction_log

icechunk = pytest.importorskip("icechunk")
pytestmark = pytest.mark.compat

URL = "s3://bucket/some/file-{}.nc"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory):
    """Three commits: nodes and native chunks, virtual and inline chunks, changes. Manifests are split."""
    root = tmp_path_factory.mktemp("real") / "repo"
    split = icechunk.ManifestSplittingConfig.from_dict(
        {icechunk.ManifestSplitCondition.name_matches("split"): {icechunk.ManifestSplitDimCondition.Any(): 3}}
    )
    config = icechunk.RepositoryConfig(
        inline_chunk_threshold_bytes=12,
        manifest=icechunk.ManifestConfig(splitting=split),
    )
    config.set_virtual_chunk_container(
        icechunk.VirtualChunkContainer("s3://bucket/", icechunk.s3_store(region="us-east-1"))
    )
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(root)), config)
    session = repo.writable_session("main")
    group = zarr.create_group(session.store, attributes={"title": "é"})
    sub = group.create_group("sub").create_group("deep er")
    native = sub.create_array("native", shape=(10, 12), chunks=(2, 5), dtype="f8", dimension_names=["y", None])
    native[:] = np.arange(120.0).reshape(10, 12)
    group.create_array("split", shape=(7, 9), chunks=(1, 1), dtype="i4")[:5] = 3
    group.create_array("scalar", shape=(), dtype="i2")[...] = 5
    group.create_array("empty", shape=(0, 4), chunks=(1, 2), dtype="i2", dimension_names=["", "x"])
    session.commit("first", metadata={"nested": {"b": [1, -5, 2.5, None], "a": "x"}, "n": 2**40})
    session = repo.writable_session("main")
    virtual = zarr.open_group(session.store).create_array("virtual", shape=(40, 50), chunks=(1, 1), dtype="i4")
    when = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
    checksums = [(None, None), ("etag", None), (None, when)]
    specs = [
        icechunk.VirtualChunkSpec([i, j], URL.format(i % 3), i * 1000 + j, 4 + j, *checksums[(i + j) % 3])
        for i in range(40)
        for j in range(50)
        if (i * j) % 7
    ]
    session.store.set_virtual_refs("virtual", specs, validate_containers=False)
    virtual[3, 3:9] = 7
    session.commit("second")
    session = repo.writable_session("main")
    group = zarr.open_group(session.store)
    group["split"].resize((7, 4))
    group["sub/deep er/native"][0, 0] = -1
    del group["empty"]
    group.create_group("sub/new")
    session.commit("third")
    return repo, root


class Files:
    """A repository on disk, read by us."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def snapshot(self, id: bytes) -> Snapshot:
        return decode_snapshot((self.root / "snapshots" / encode_id(id)).read_bytes(), file="snapshots/x")

    def manifest(self, id: bytes) -> Manifest:
        return decode_manifest((self.root / "manifests" / encode_id(id)).read_bytes(), file="manifests/x")

    def log(self, id: bytes):
        return decode_transaction_log((self.root / "transactions" / encode_id(id)).read_bytes(), file="transactions/x")

    def history(self) -> list[Snapshot]:
        id = decode_ref((self.root / "refs/branch.main/ref.json").read_bytes(), file="r")
        history = [self.snapshot(id)]
        while history[-1].parent_id is not None:
            history.append(self.snapshot(history[-1].parent_id))
        return history


def test_history(repository) -> None:
    repo, root = repository
    ours, theirs = Files(root).history(), list(repo.ancestry(branch="main"))
    assert len(ours) == len(theirs) == 4
    assert ours[-1].id == INITIAL_SNAPSHOT_ID
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    for a, b in zip(ours, theirs, strict=True):
        assert (encode_id(a.id), a.message, a.metadata) == (b.id, b.message, b.metadata)
        assert epoch + timedelta(microseconds=a.flushed_at_us) == b.written_at
        found = [(encode_id(f.id), f.size_bytes, f.num_chunk_refs) for f in a.manifest_files]
        assert sorted(found) == sorted((m.id, m.size_bytes, m.num_chunk_refs) for m in b.manifests)


def test_nodes_and_chunks(repository) -> None:
    """Every key of the store, at every commit."""
    repo, root = repository
    files = Files(root)
    kinds = set()
    for snapshot in files.history():
        store = repo.readonly_session(snapshot_id=encode_id(snapshot.id)).store

        async def listing(store=store) -> set[str]:
            return {key async for key in store.list_prefix("")}

        keys = set()
        for node in snapshot.nodes():
            prefix = node.path.strip("/") + "/" if node.path != "/" else ""
            keys.add(f"{prefix}zarr.json")
            buffer = asyncio.run(store.get(f"{prefix}zarr.json", zarr.core.buffer.default_buffer_prototype()))
            assert buffer.to_bytes() == node.document
            assert snapshot.find(node.path) == node
            for ref in node.manifests if isinstance(node, ArrayNode) else ():
                file = snapshot.manifest_file(ref.id)
                manifest = files.manifest(ref.id)
                assert (root / "manifests" / encode_id(ref.id)).stat().st_size == file.size_bytes
                assert manifest.num_refs == file.num_chunk_refs
                refs = manifest.refs(node.id)
                assert ref.extents == refs.extents()
                kinds |= set(refs.kind.tolist())
                for i in range(len(refs)):
                    key = "/".join([f"{prefix}c", *map(str, refs.coords[i].tolist())])
                    keys.add(key)
                    check_chunk(refs.row(i), key, store, root)
        assert keys == asyncio.run(listing())
    assert kinds == {ChunkKind.NATIVE, ChunkKind.INLINE, ChunkKind.VIRTUAL}


def check_chunk(chunk, key: str, store, root: Path) -> None:
    match chunk:
        case VirtualChunk():
            i, j = map(int, key.split("/")[-2:])
            wanted = VirtualChunk(URL.format(i % 3), i * 1000 + j, 4 + j)
            assert (chunk.url, chunk.offset, chunk.length) == (wanted.url, wanted.offset, wanted.length)
            when = int(datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp())
            assert (chunk.etag, chunk.last_modified) == [(None, None), ("etag", None), (None, when)][(i + j) % 3]
            return
        case NativeChunk():
            data = (root / "chunks" / encode_id(chunk.id)).read_bytes()[chunk.offset :][: chunk.length]
        case InlineChunk():
            data = chunk.data
    theirs = asyncio.run(store.get(key, zarr.core.buffer.default_buffer_prototype()))
    assert theirs.to_bytes() == data


def test_transaction_logs(repository) -> None:
    repo, root = repository
    files = Files(root)
    history = files.history()
    for snapshot, parent in pairwise(history):
        log = files.log(snapshot.id)
        assert log.id == snapshot.id
        diff = repo.diff(from_snapshot_id=encode_id(parent.id), to_snapshot_id=encode_id(snapshot.id))
        for slot in (
            "new_groups",
            "new_arrays",
            "deleted_groups",
            "deleted_arrays",
            "updated_groups",
            "updated_arrays",
        ):
            ids = getattr(log, slot)
            paths = {**parent.paths_of(ids), **snapshot.paths_of(ids)}
            assert set(paths.values()) == getattr(diff, slot)
        paths = snapshot.paths_of(log.updated_chunks)
        chunks = {paths[id]: rows.tolist() for id, rows in log.updated_chunks.items()}
        assert {path: sorted(rows) for path, rows in diff.updated_chunks.items()} == chunks


def test_manifests_written_again_by_us(repository, tmp_path: Path) -> None:
    """The real library reads its own manifests in our encoding, under a snapshot that we changed."""
    import shutil

    _, root = repository
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    files = Files(copy)
    tip = files.history()[0]
    infos = []
    for info in tip.manifest_files:
        manifest = files.manifest(info.id)
        data = encode_manifest(manifest.id, [(node, manifest.refs(node)) for node in manifest.nodes])
        (copy / "manifests" / encode_id(info.id)).write_bytes(data)
        infos.append(type(info)(info.id, len(data), info.num_chunk_refs))
    data, _ = encode_changed_snapshot(
        tip,
        id=tip.id,
        parent_id=tip.parent_id,
        flushed_at_us=tip.flushed_at_us,
        message=tip.message,
        metadata=tip.metadata,
        changed={},
        manifest_files=infos,
    )
    (copy / "snapshots" / encode_id(tip.id)).write_bytes(data)
    stores = []
    for place in (root, copy):
        repo = icechunk.Repository.open(icechunk.local_filesystem_storage(str(place)))
        stores.append(repo.readonly_session("main").store)
    for path in ("sub/deep er/native", "split", "scalar"):
        a, b = (zarr.open_array(store, path=path, mode="r") for store in stores)
        np.testing.assert_array_equal(a[...], b[...])
    a, b = (sorted(store.session.all_virtual_chunk_locations()) for store in stores)
    assert a == b
    repo = icechunk.Repository.open(icechunk.local_filesystem_storage(str(copy)))
    session = repo.writable_session("main")
    zarr.open_array(session.store, path="split")[0, 0] = 9
    assert decode_id(session.commit("on top of ours")) == files.history()[0].id
