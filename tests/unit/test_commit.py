"""What a commit writes: manifests and the snapshot's list of them, in which order, and what it relies on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.core.buffer import default_buffer_prototype

from icechunk_virtual import (
    CachingConfig,
    ConflictDetector,
    ConflictError,
    IcechunkError,
    ManifestConfig,
    ManifestSplitCondition,
    ManifestSplitDimCondition,
    ManifestSplittingConfig,
    Repository,
    RepositoryConfig,
    Storage,
    in_memory_storage,
    local_filesystem_storage,
)
from icechunk_virtual.model.chunk_refs import ChunkRefs
from icechunk_virtual.model.ids import ManifestId, NodeId, SnapshotId, decode_id, encode_id
from icechunk_virtual.model.nodes import ArrayNode, GroupNode, ManifestRef
from icechunk_virtual.model.world import World
from icechunk_virtual.repo import commit
from icechunk_virtual.repo.assets import Assets
from icechunk_virtual.repo.format.manifest import encode_manifest
from icechunk_virtual.repo.format.snapshot import ManifestFile, encode_snapshot
from tests.support.faulty import Script, faulty
from tests.support.hierarchies import coordinates_of

PROTOTYPE = default_buffer_prototype()


def repository_with_two_arrays() -> tuple[Repository, Storage]:
    storage = in_memory_storage()
    repo = Repository.create(storage)
    session = repo.writable_session("main")
    group = zarr.group(store=session.store)
    for name in "ab":
        group.create_array(name, shape=(4,), chunks=(2,), dtype="i4", fill_value=-1)[:] = np.arange(4)
    session.commit("two arrays")
    return repo, storage


def put(store: Any, key: str, data: bytes) -> None:
    asyncio.run(store.set(key, PROTOTYPE.buffer.from_bytes(data)))


def get(store: Any, key: str) -> bytes | None:
    found = asyncio.run(store.get(key, PROTOTYPE))
    return None if found is None else found.to_bytes()


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


def test_of_overlapping_manifests_the_first_counts_and_only_within_its_box() -> None:
    """Other writers leave such after a change of the splitting; a manifest written anew must read as they did."""
    repo, storage = repository_with_two_arrays()
    objects = storage.object_store()
    base = repo.writable_session("main")._workspace.snapshot
    root, old = base.find("/"), base.find("/a")
    assert isinstance(root, GroupNode)
    assert isinstance(old, ArrayNode)
    document = old.document.replace(b'"shape":[4]', b'"shape":[12]').replace(
        b'"shape": [\n    4\n  ]', b'"shape": [12]'
    )
    layout = type(old.layout)((12,), old.layout.chunk_shape)
    files, manifests = [], []
    for name, extents, coords in [(b"1", (0, 3), [0, 2]), (b"2", (1, 5), [1, 2, 3, 4, 5])]:
        id = ManifestId(name * 12)
        refs = ChunkRefs.inline(np.array(coords).reshape(-1, 1), [name * 8] * len(coords))
        data = encode_manifest(id, [(old.id, refs)])
        asyncio.run(objects.put(f"manifests/{encode_id(id)}", data))
        files.append(ManifestFile(id, len(data), len(coords)))
        manifests.append(ManifestRef(id, (extents,)))
    array = ArrayNode(old.id, "/a", document, layout, tuple(manifests))
    snapshot = SnapshotId(bytes(12))
    data = encode_snapshot(
        id=snapshot,
        parent_id=base.id,
        flushed_at_us=base.flushed_at_us + 1,
        message="overlapping",
        metadata={},
        nodes=[root, array],
        manifest_files=files,
    )
    asyncio.run(objects.put(f"snapshots/{encode_id(snapshot)}", data))
    repo = Repository.open(storage)
    repo.reset_branch("main", encode_id(snapshot))
    expected = {0: b"1" * 8, 2: b"1" * 8, 3: b"2" * 8, 4: b"2" * 8}  # 1 is in the box of the first, 5 in none

    def shown() -> dict[int, bytes]:
        session = repo.readonly_session("main")
        store = session.store
        assert sorted(coordinates_of(session, "/a")) == [(i,) for i in expected]
        return {i: data for i in range(6) if (data := get(store, f"a/c/{i}")) is not None}

    assert shown() == expected
    session = repo.writable_session("main")
    asyncio.run(session.store.delete("a/c/4"))
    session.commit("in one manifest now")
    del expected[4]
    assert shown() == expected
    assert [m.num_chunk_refs for m in repo.lookup_snapshot(repo.lookup_branch("main")).manifests] == [3]


def test_manifests_held_in_memory_do_not_grow_with_what_was_overwritten() -> None:
    repo, _ = repository_with_two_arrays()
    for number in range(30):
        session = repo.writable_session("main")
        put(session.store, "a/c/0", bytes([number]) * 400)
        session.commit("again")
    node = session._workspace.snapshot.find("/a")
    assert isinstance(node, ArrayNode)
    manifest = repo._opened.assets.manifest_in_memory(node.manifests[0].id)
    assert manifest is not None
    refs = manifest.refs(node.id)
    assert refs is not None
    assert len(refs.heap) < 3 * 400


def test_files_survive_a_power_cut_before_the_branch_moves(tmp_path: Path) -> None:
    """Chunks, manifests, snapshot and log are synced, all of them, and nothing that was there before."""
    script = Script()
    config = RepositoryConfig(inline_chunk_threshold_bytes=0)
    repo = Repository.create(faulty(local_filesystem_storage(str(tmp_path / "repo")), script), config)
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="a", shape=(4,), chunks=(2,), dtype="i4", compressors=None)[:] = 1
    session.commit("two chunks")

    def files() -> set[str]:
        kinds = ("chunks", "manifests", "snapshots", "transactions")
        return {f"{kind}/{path.name}" for kind in kinds for path in (tmp_path / "repo" / kind).glob("*")}

    for save in ("commit", "flush"):
        before = files()
        script.restart()
        session = repo.writable_session("main")
        zarr.open_array(session.store, path="a")[:2] = [5, 6]
        getattr(session, save)("one chunk")
        synced = [number for number, (operation, _) in enumerate(script.calls) if operation == "sync"]
        assert sorted(key for number in synced for key in script.calls[number][1].split()) == sorted(files() - before)
        assert {key.split("/")[0] for key in files() - before} == {"chunks", "manifests", "snapshots", "transactions"}
        moved = [number for number, (operation, _) in enumerate(script.calls) if operation == "put_if_match"]
        assert len(moved) == (save == "commit")
        assert all(number > max(synced) for number in moved)


@pytest.mark.parametrize("sign", [-1, 1])
def test_clocks_that_differ_too_much(sign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten minutes, whichever clock is ahead."""
    repo, _ = repository_with_two_arrays()
    tip = repo.lookup_branch("main")
    drift = [0]

    async def last_modified(self: Assets, id: SnapshotId) -> int:
        return now + drift[0]

    monkeypatch.setattr(Assets, "snapshot_last_modified_us", last_modified)
    session = repo.writable_session("main")
    put(session.store, "a/c/0", bytes(8))
    now = session._workspace.snapshot.flushed_at_us + 5_000_000
    session._workspace.world = World(now_us=lambda: now)
    drift[0] = sign * 600_000_001
    with pytest.raises(IcechunkError, match="drifted"):
        session.commit("too much")
    assert repo.lookup_branch("main") == tip
    drift[0] = sign * 600_000_000
    assert session.commit("just right") == repo.lookup_branch("main") != tip


def test_versions_are_in_the_order_of_their_times() -> None:
    repo, _ = repository_with_two_arrays()
    session = repo.writable_session("main")
    put(session.store, "a/c/0", bytes(8))
    before = session._workspace.snapshot.flushed_at_us
    session._workspace.world = World(now_us=lambda: before)
    with pytest.raises(IcechunkError, match="timestamp ordering"):
        session.commit("at the same time")
    session._workspace.world = World(now_us=lambda: before + 1)
    session.commit("later")


@pytest.mark.parametrize("later", ["nothing", "another chunk", "other bytes", "a deletion", "the same again", "others"])
def test_a_lost_race_does_not_freeze_the_changes(later: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifests of the first attempt serve the second one only if they still say what the session says."""
    repo, _ = repository_with_two_arrays()
    session = repo.writable_session("main")
    put(session.store, "a/c/0", b"first...")
    committed = get(session.store, "a/c/1")
    expected = {"a/c/0": b"first...", "a/c/1": committed}

    def lose() -> None:
        with monkeypatch.context() as patch:

            async def lost(*args: object, **kwargs: object) -> None:
                raise ConflictError("A", "B")

            patch.setattr(commit.refs, "update_branch", lost)
            with pytest.raises(ConflictError):
                session.commit("too late")

    lose()
    match later:
        case "another chunk":
            expected["a/c/1"] = b"second.."
            put(session.store, "a/c/1", b"second..")
        case "other bytes" | "the same again":
            expected["a/c/0"] = b"other..." if later == "other bytes" else b"first..."
            put(session.store, "a/c/0", expected["a/c/0"])
        case "a deletion":
            expected["a/c/1"] = None
            asyncio.run(session.store.delete("a/c/1"))
        case "others":
            expected["a/c/1"] = b"others.."
            other = repo.writable_session("main")
            put(other.store, "a/c/1", b"others..")
            other.commit("others")
            session.rebase(ConflictDetector())
    lose()
    written = len(list_keys(session, "manifests/"))
    session.commit("in time")
    assert len(list_keys(repo.readonly_session("main"), "manifests/")) == written  # the second attempt's serves
    store = repo.readonly_session("main").store
    assert {key: get(store, key) for key in expected} == expected


def list_keys(session: Any, prefix: str) -> list[str]:
    async def collect() -> list[str]:
        return [info.key async for page in session._workspace.assets.objects.list(prefix) for info in page]

    return asyncio.run(collect())


def test_manifests_of_an_attempt_long_ago_are_written_again() -> None:
    """Garbage collection may have found them meanwhile."""
    repo, storage = repository_with_two_arrays()
    session = repo.writable_session("main")
    put(session.store, "a/c/0", b"first...")
    other = repo.writable_session("main")
    put(other.store, "b/c/0", b"others..")
    before = set(list_keys(session, "manifests/"))
    with pytest.MonkeyPatch.context() as patch:

        async def lost(*args: object, **kwargs: object) -> None:
            raise ConflictError("A", "B")

        patch.setattr(commit.refs, "update_branch", lost)
        with pytest.raises(ConflictError):
            session.commit("too late")
    (first,) = set(list_keys(session, "manifests/")) - before
    asyncio.run(storage.object_store().delete([first]))  # as garbage collection would
    late = session._workspace.world.now_us() + 601_000_000
    session._workspace.world = World(now_us=lambda: late)
    with pytest.MonkeyPatch.context() as patch:

        async def last_modified(self: Assets, id: SnapshotId) -> int:
            return late

        patch.setattr(Assets, "snapshot_last_modified_us", last_modified)
        session.commit("much later")
    assert get(Repository.open(storage).readonly_session("main").store, "a/c/0") == b"first..."


def test_changes_that_others_made_first_are_still_a_commit() -> None:
    """However often the session is rebased after it has nothing left to say."""
    repo, _ = repository_with_two_arrays()
    session = repo.writable_session("main")
    asyncio.run(session.store.delete("a/zarr.json"))
    for number in range(3):
        other = repo.writable_session("main")
        if number == 0:
            asyncio.run(other.store.delete("a/zarr.json"))
        else:
            put(other.store, "b/c/0", bytes([number] * 8))
        other.commit("others")
        session.rebase(ConflictDetector())
    assert session.commit("agreed") == repo.lookup_branch("main")


def everything_of(assets: Assets, id: SnapshotId) -> Any:
    """Nodes, references and changes of a version, as plain values."""
    snapshot = asyncio.run(assets.fetch_snapshot(id))
    log = asyncio.run(assets.fetch_transaction_log(id))
    nodes, chunks = {}, {}
    for path in sorted(node.path for node in snapshot.nodes()):
        node = snapshot.find(path)
        assert node is not None
        refs = node.manifests if isinstance(node, ArrayNode) else ()
        layout = node.layout if isinstance(node, ArrayNode) else None
        nodes[path] = type(node), node.id, node.document, layout, set(refs)
        for ref in refs:
            found = asyncio.run(assets.fetch_manifest(ref.id)).refs(node.id)
            assert found is not None
            chunks[path, ref.id] = [(row.tolist(), found.row(i)) for i, row in enumerate(found.coords)]
    updated = {node: coords.tolist() for node, coords in log.updated_chunks.items()}
    groups = [getattr(log, f"{what}_{kind}") for what in ("new", "deleted", "updated") for kind in ("groups", "arrays")]
    head = snapshot.id, snapshot.parent_id, snapshot.flushed_at_us, snapshot.message, snapshot.metadata
    return head, nodes, snapshot.manifest_files, chunks, groups, updated


def test_what_commits_keep_in_memory_is_what_they_wrote() -> None:
    """Their files need not be read back: fresh eyes see the same."""
    splitting = ManifestSplittingConfig.from_dict(
        {ManifestSplitCondition.AnyArray(): {ManifestSplitDimCondition.Any(): 2}}
    )
    storage = in_memory_storage()
    caching = CachingConfig(num_transaction_changes=1000)
    repo = Repository.create(
        storage,
        RepositoryConfig(inline_chunk_threshold_bytes=8, caching=caching, manifest=ManifestConfig(splitting=splitting)),
    )
    random = np.random.default_rng(1)
    for number in range(25):
        session = repo.writable_session("main")
        group = zarr.open_group(session.store, mode="a")
        name = f"a{random.integers(3)}"
        if name not in group:
            names = [None, ["x"], [None]][number % 3]
            group.create_array(
                name, shape=(8,), chunks=(1 + number % 2,), dtype="i8", compressors=None, dimension_names=names
            )
        elif random.random() < 0.1:
            del group[name]
            group.create_array(name, shape=(6,), chunks=(2,), dtype="i8", compressors=None)
        array = group[name]
        assert isinstance(array, zarr.Array)
        if random.random() < 0.2:
            array.resize((int(random.integers(4, 12)),))
        if random.random() < 0.2:
            group.attrs["number"] = number
        for at in random.integers(array.shape[0], size=int(random.integers(5))):
            array[at] = 0 if random.random() < 0.2 else number
        array.attrs["number"] = number
        id = SnapshotId(decode_id(session.commit(f"{number}", metadata={"number": number})))
        assert everything_of(repo._opened.assets, id) == everything_of(Repository.open(storage)._opened.assets, id)
