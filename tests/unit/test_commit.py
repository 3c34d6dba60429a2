"""What a commit leaves in the snapshot's list of manifests."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import zarr

from icechunk_virtual import Repository, Storage, in_memory_storage
from icechunk_virtual.model.chunk_refs import ChunkRefs
from icechunk_virtual.model.ids import ManifestId, NodeId, SnapshotId, encode_id
from icechunk_virtual.model.nodes import ArrayNode, GroupNode, ManifestRef
from icechunk_virtual.repo import commit
from icechunk_virtual.repo.format.manifest import encode_manifest
from icechunk_virtual.repo.format.snapshot import ManifestFile, encode_snapshot


def repository_with_two_arrays() -> tuple[Repository, Storage]:
    storage = in_memory_storage()
    repo = Repository.create(storage)
    session = repo.writable_session("main")
    group = zarr.group(store=session.store)
    for name in "ab":
        group.create_array(name, shape=(4,), chunks=(2,), dtype="i4", fill_value=-1)[:] = np.arange(4)
    session.commit("two arrays")
    return repo, storage


def manifest_ids(repo: Repository) -> set[str]:
    return {m.id for m in repo.lookup_snapshot(repo.lookup_branch("main")).manifests}


@pytest.mark.parametrize("searched", [0, 1 << 30])
def test_manifests_that_nobody_uses_any_more_leave_the_list(searched: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "_SEARCHED_BYTES", searched)
    repo, _ = repository_with_two_arrays()
    first = manifest_ids(repo)
    assert len(first) == 2
    session = repo.writable_session("main")
    zarr.open_array(session.store, path="a")[0] = 7
    session.commit("rewrites one manifest")
    second = manifest_ids(repo)
    assert len(second) == 2
    assert len(first & second) == 1
    session = repo.writable_session("main")
    asyncio.run(session.store.delete("a/zarr.json"))
    session.commit("deletes an array")
    assert manifest_ids(repo) == first & second


@pytest.mark.parametrize("searched", [0, 1 << 30])
def test_a_manifest_of_two_arrays_stays_while_one_uses_it(searched: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other writers may put several arrays into one manifest."""
    monkeypatch.setattr(commit, "_SEARCHED_BYTES", searched)
    repo, storage = repository_with_two_arrays()
    objects = storage.object_store()
    base = repo.writable_session("main")._workspace.snapshot
    shared = ManifestId(bytes(range(12)))
    refs = ChunkRefs.inline(np.array([[0], [1]]), [np.arange(2, dtype="<i4").tobytes()] * 2)
    nodes = {node.path: node for node in base.nodes()}
    root, old = nodes["/"], nodes["/a"]
    assert isinstance(root, GroupNode)
    assert isinstance(old, ArrayNode)
    arrays = [
        ArrayNode(NodeId(name * 8), f"/{name.decode()}", old.document, old.layout, (ManifestRef(shared, ((0, 2),)),))
        for name in (b"a", b"b")
    ]
    manifest = encode_manifest(shared, [(array.id, refs) for array in arrays])
    snapshot = SnapshotId(bytes(12))
    data = encode_snapshot(
        id=snapshot,
        parent_id=base.id,
        flushed_at_us=base.flushed_at_us + 1,
        message="one manifest",
        metadata={},
        nodes=[root, *arrays],
        manifest_files=(ManifestFile(shared, len(manifest), 4),),
    )
    asyncio.run(objects.put(f"manifests/{encode_id(shared)}", manifest))
    asyncio.run(objects.put(f"snapshots/{encode_id(snapshot)}", data))
    repo = Repository.open(storage)
    repo.reset_branch("main", encode_id(snapshot))
    session = repo.writable_session("main")
    asyncio.run(session.store.delete("a/c/0"))
    session.commit("rewrites the manifest for one of its arrays")
    assert encode_id(shared) in manifest_ids(repo)
    store = Repository.open(storage).readonly_session("main").store
    assert asyncio.run(store.exists("b/c/0"))
    assert not asyncio.run(store.exists("a/c/0"))
    assert asyncio.run(store.exists("a/c/1"))
