"""Rows of the feature table about the store, F033 to F045. Every detail of its methods is in unit/test_store.py."""

from __future__ import annotations

import asyncio
import itertools
import struct
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
import zarr
import zarr.abc.store
import zstandard
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.sync import _collect_aiterator, sync

import icechunk_virtual as ours
from icechunk_virtual import in_memory_storage
from icechunk_virtual.errors import IcechunkError, InvalidKey, InvalidMetadata, MissingKey, ReadOnlyError
from icechunk_virtual.model.ids import NodeId
from icechunk_virtual.model.nodes import GroupNode
from tests.support.clouds import Bucket
from tests.support.faulty import Script, faulty
from tests.support.hierarchies import (
    GROUP,
    array_document,
    coordinates_of,
    get,
    keys_of,
    names_of,
    new_repository,
    put,
    tip,
    with_array,
    writable,
)
from tests.support.steps import count_steps

both = pytest.mark.parametrize("ic", [ours, icechunk], ids=["ours", "original"])
INLINE, NATIVE, VIRTUAL = bytes(range(16)), bytes(range(64)) * 16, b"abcdefghijklmnop"


def three_kinds(folder: Path, *, script: Script | None = None) -> tuple[ours.Repository, ours.Session]:
    """A session with one inline, one native and one virtual chunk in the array `a` of 4 chunks, not committed."""
    (folder / "file").write_bytes(b"##" + VIRTUAL + b"##")
    prefix = f"file://{folder}/"
    config = ours.RepositoryConfig()
    config.set_virtual_chunk_container(ours.VirtualChunkContainer(prefix, ours.local_filesystem_store(str(folder))))
    storage = in_memory_storage() if script is None else faulty(in_memory_storage(), script)
    repo = new_repository(storage, config, {prefix: None})
    session = writable(repo)
    put(session.store, "a/zarr.json", array_document((4,)))
    put(session.store, "a/c/0", INLINE)
    put(session.store, "a/c/1", NATIVE)
    session.store.set_virtual_ref("a/c/2", prefix + "file", offset=2, length=len(VIRTUAL))
    return repo, session


def steps_of(work: Callable[[], Coroutine[Any, Any, Any]]) -> int:
    return count_steps(lambda: asyncio.run(work()))


# -- what it is ------------------------------------------------------------------------------------------------


@both
def test_F033_a_store_of_current_zarr(ic: Any) -> None:
    repo = ic.Repository.create(ic.in_memory_storage())
    store = repo.writable_session("main").store
    assert isinstance(store, zarr.abc.store.Store)
    assert not store.read_only
    assert repo.readonly_session("main").store.read_only
    assert not hasattr(store, "mode")
    assert (store.supports_writes, store.supports_deletes, store.supports_listing) == (True, True, True)
    assert not store.supports_partial_writes
    assert not store.supports_consolidated_metadata
    zarr.create_array(store, name="a", data=np.arange(4))
    assert zarr.open_array(store, path="a")[2] == 2
    # That all of zarr's own StoreTests hold, and its stateful machines: tests/contract.


def test_F033_no_partial_writes() -> None:
    store = writable(new_repository()).store
    with pytest.raises(IcechunkError, match="`set_partial_values` is not implemented"):
        sync(store.set_partial_values([("a/c/0", 0, b"x")]))


def test_F034_with_read_only() -> None:
    repo = new_repository()
    session = writable(repo)
    view = session.store.with_read_only(True)
    assert view.read_only
    assert not view._is_open
    assert view.session is session
    assert not session.store.read_only
    with pytest.raises(ReadOnlyError):  # the original writes
        put(view, "zarr.json", GROUP)
    put(view.with_read_only(False), "zarr.json", GROUP)
    assert get(view, "zarr.json") == GROUP
    for opened in (tip(repo).store.with_read_only(False), repo.readonly_session("main").store.with_read_only()):
        with pytest.raises(ReadOnlyError):
            put(opened, "zarr.json", GROUP)


# -- listing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("committed", [False, True])
def test_F035_initialised_chunks(tmp_path: Path, committed: bool) -> None:
    _, session = three_kinds(tmp_path)
    if committed:
        session.commit("three")
        session = writable(_)
    assert coordinates_of(session, "/a") == [(0,), (1,), (2,)]
    put(session.store, "a/c/3", b"new")
    put(session.store, "a/c/0", b"again")
    sync(session.store.delete("a/c/1"))
    found = sync(_collect_aiterator(session.chunk_coordinates("/a", batch_size=1)))
    assert sorted(found) == [(0,), (2,), (3,)]


def hierarchy(many: int, *, committed: bool) -> ours.Session:
    """A group `g` of ten groups, `many` others before and behind it, and one of the same name with a dash."""
    repo = new_repository()
    session = writable(repo)
    paths = [f"/{side}/{i:05}" for side in "az" for i in range(many // 2)]
    paths += ["/g", "/g-x", "/g-x/y", *(f"/g/{i}" for i in range(10)), *(f"/g/{i}/below" for i in range(10))]
    for number, path in enumerate(paths):
        session._workspace.changes.add(GroupNode(NodeId(number.to_bytes(8, "big")), path, GROUP))
    if committed:
        session.commit("groups")
        session = writable(repo)
    return session


@pytest.mark.parametrize("committed", [False, True])
def test_F036_list_dir_costs_what_it_returns(committed: bool) -> None:
    steps = []
    for many in (100, 10_000):
        session = hierarchy(many, committed=committed)
        assert names_of(session.store, "g") == names_of(session.store, "g/") == sorted([*"0123456789", "zarr.json"])
        steps.append(steps_of(lambda store=session.store: _collected(store.list_dir("g"))))
    assert steps[1] < 1.6 * steps[0]  # a bisection has a few more steps: 13 for 10,000 nodes, 7 for 100


async def _collected(items: Any) -> list[Any]:
    return [item async for item in items]


def test_F036_delete_dir_costs_what_it_deletes() -> None:
    steps = []
    for many in (100, 10_000):
        session = hierarchy(many, committed=False)
        steps.append(steps_of(lambda store=session.store: store.delete_dir("g")))
        assert names_of(session.store, "g") == []
        assert names_of(session.store, "g-x") == ["y", "zarr.json"]
        assert len(session.status().new_groups) == many + 2
    assert steps[1] < 1.2 * steps[0]


@both
def test_F036_list_dir_at_every_level(ic: Any) -> None:
    repo = ic.Repository.create(ic.in_memory_storage())
    store = repo.writable_session("main").store
    put(store, "zarr.json", GROUP)
    put(store, "g/zarr.json", GROUP)
    put(store, "g/a/zarr.json", array_document((20, 3)))
    assert names_of(store, "g/a") == ["c", "zarr.json"]  # without a request: decision 008
    for key in ("g/a/c/0/1", "g/a/c/0/2", "g/a/c/12/0"):
        put(store, key, b"x")
    expected = {
        "": ["g", "zarr.json"],
        "g": ["a", "zarr.json"],
        "g/a/": ["c", "zarr.json"],
        "g/a/c": ["0", "12"],
        "g/a/c/0": ["1", "2"],
        "g/a/c/1": [],
        "unknown": [],
    }
    for _ in range(2):
        assert {prefix: names_of(store, prefix) for prefix in expected} == expected
        if not store.session.read_only:
            store.session.commit("x")


def test_F037_siblings_that_sort_before_the_slash() -> None:
    repo = new_repository()
    session = writable(repo)
    for path in ("a", "a-b", "a.b", "a/c", "a/c/d"):
        put(session.store, f"{path}/zarr.json", GROUP)
    session.commit("groups")
    session = writable(repo)
    put(session.store, "a/e/zarr.json", array_document((2,)))
    put(session.store, "a/e/c/1", b"seven b")
    below = ["a/c/d/zarr.json", "a/c/zarr.json", "a/e/c/1", "a/e/zarr.json", "a/zarr.json"]
    assert keys_of(session.store, "a") == keys_of(session.store, "a/") == below
    assert names_of(session.store, "a") == ["c", "e", "zarr.json"]
    size = sync(session.store.getsize_prefix("a"))
    assert size == 3 * len(GROUP) + len(array_document((2,))) + 7
    assert sync(session.store.getsize_prefix("unknown")) == 0
    for prefix in ("a/e/c", "unknown", "a-"):
        with pytest.raises(IcechunkError, match="Only prefixes pointing to a group or array"):
            keys_of(session.store, prefix)
    sync(session.store.delete_dir("a"))
    assert keys_of(session.store) == ["a-b/zarr.json", "a.b/zarr.json"]


@pytest.mark.parametrize("committed", [False, True])
def test_F037_list_prefix_costs_what_it_returns(committed: bool) -> None:
    steps = []
    for many in (100, 10_000):
        session = hierarchy(many, committed=committed)
        assert len(keys_of(session.store, "g")) == 21
        steps.append(steps_of(lambda store=session.store: _collected(store.list_prefix("g"))))
        steps.append(steps_of(lambda store=session.store: store.getsize_prefix("g")))
    assert steps[2] < 1.2 * steps[0]
    assert steps[3] < 1.2 * steps[1]


# -- single keys -----------------------------------------------------------------------------------------------


def test_F038_F039_exists_and_getsize_fetch_no_chunk(tmp_path: Path) -> None:
    script = Script()
    repo, session = three_kinds(tmp_path, script=script)
    session.commit("three")
    (tmp_path / "file").unlink()
    store = tip(repo).store
    script.restart()
    exist = {key: sync(store.exists(key)) for key in ("a/c/0", "a/c/1", "a/c/2", "a/c/3", "a/zarr.json", "b/zarr.json")}
    assert exist == dict.fromkeys(exist, True) | {"a/c/3": False, "b/zarr.json": False}
    sizes = [sync(store.getsize(f"a/c/{i}")) for i in range(4)]
    assert sizes == [len(INLINE), len(NATIVE), len(VIRTUAL), 0]
    assert sync(store.getsize("a/zarr.json")) == len(array_document((4,)))
    assert not [key for _, key in script.calls if key.startswith("chunks/")]


def test_F038_exists_takes_keys_only() -> None:
    repo = new_repository()
    with_array(repo)
    store = tip(repo).store
    for key in ("a", "a/c/x", "a/0/0", ""):
        with pytest.raises(InvalidKey, match="invalid zarr key format"):
            sync(store.exists(key))


def test_F039_getsize_of_what_has_no_node() -> None:
    store = tip(new_repository()).store
    for key in ("a/zarr.json", "a/c/0"):
        with pytest.raises(MissingKey):
            sync(store.getsize(key))
        with pytest.raises(FileNotFoundError):  # what zarr expects
            sync(store.getsize(key))


def test_F040_documents_are_kept_byte_for_byte() -> None:
    odd = array_document((4,), dimension_names=["x"], zzz={"b": [1, {"a": None}]}, data_type={"name": "my.type"})
    odd = b" " + odd.replace(b":", b" :\n").replace(b'"bytes"', b'"my.codec"')
    group = b'{ "node_type"\t: "group", "zarr_format": 3, "consolidated_metadata": null, "x": 1e400 }\n'
    repo = new_repository()
    session = writable(repo)
    put(session.store, "zarr.json", group)
    put(session.store, "a/zarr.json", odd)
    session.commit("odd")
    assert get(tip(repo).store, "zarr.json") == group
    assert get(tip(repo).store, "a/zarr.json") == odd


@pytest.mark.parametrize(
    "document",
    [
        b"no json",
        b"{",
        b"[]",
        b'{"zarr_format":2}',
        b'{"zarr_format":2,"shape":[2],"chunks":[2],"dtype":"<i4"}',
        array_document((4,), chunk_grid={"name": "rectilinear", "configuration": {"chunk_shapes": [[1, 3]]}}),
    ],
)
def test_F040_documents_that_are_refused(document: bytes) -> None:
    store = writable(new_repository()).store
    with pytest.raises(InvalidMetadata):
        put(store, "a/zarr.json", document)
    assert keys_of(store) == []


NAMES = ["we ird", "\u00f1 x~#?%", "100%25", "a!b", "日本", "c", "0", "a'b\"c", "[x]{y}|z", "\U0001f9ca"]


@pytest.mark.parametrize(("writer", "reader"), [(ours, ours), (ours, icechunk), (icechunk, ours)])
def test_F041_names_with_special_characters(tmp_path: Path, writer: Any, reader: Any) -> None:
    session = writer.Repository.create(writer.local_filesystem_storage(str(tmp_path))).writable_session("main")
    root = zarr.create_group(session.store)
    for number, name in enumerate(NAMES):
        array = root.create_group(name).create_array(name, shape=(4,), chunks=(2,), dtype="i4")
        array[:] = number
    session.commit("names")
    store = reader.Repository.open(reader.local_filesystem_storage(str(tmp_path))).readonly_session("main").store
    assert names_of(store) == sorted([*NAMES, "zarr.json"])
    for number, name in enumerate(NAMES):
        assert names_of(store, name) == sorted([name, "zarr.json"])
        assert (zarr.open_array(store, path=f"{name}/{name}", mode="r")[:] == number).all()


@pytest.mark.parametrize("threshold", [0, 10_000], ids=["native", "inline"])
@pytest.mark.parametrize("committed", [False, True])
def test_F042_ranges_of_shards(threshold: int, committed: bool) -> None:
    repo = new_repository(None, ours.RepositoryConfig(inline_chunk_threshold_bytes=threshold))
    session = writable(repo)
    array = zarr.create_array(session.store, name="b", shape=(32,), shards=(16,), chunks=(4,), dtype="i2")
    array[:] = np.arange(32)
    if committed:
        session.commit("shards")
        session = writable(repo)
    array = zarr.open_array(session.store, path="b")
    assert array[5:9].tolist() == [5, 6, 7, 8]
    assert array[14:18].tolist() == [14, 15, 16, 17]
    array[5] = 99
    assert array[:8].tolist() == [0, 1, 2, 3, 4, 99, 6, 7]


RANGES = [
    (RangeByteRequest(2, 5), slice(2, 5)),
    (RangeByteRequest(3, 10**9), slice(3, None)),
    (RangeByteRequest(10**9, 10**9 + 1), slice(0, 0)),
    (RangeByteRequest(5, 2), slice(0, 0)),
    (OffsetByteRequest(3), slice(3, None)),
    (OffsetByteRequest(10**9), slice(0, 0)),
    (SuffixByteRequest(3), slice(-3, None)),
    (SuffixByteRequest(10**9), slice(None)),
    (SuffixByteRequest(0), slice(0, 0)),
]


@pytest.mark.parametrize("committed", [False, True])
def test_F042_ranges_are_the_same_for_every_kind_of_chunk(tmp_path: Path, committed: bool) -> None:
    repo, session = three_kinds(tmp_path)
    if committed:
        session.commit("three")
        session = tip(repo)
    for (request, part), (index, content) in itertools.product(RANGES, enumerate((INLINE, NATIVE, VIRTUAL))):
        assert get(session.store, f"a/c/{index}", request) == content[part], request
        assert get(session.store, "a/zarr.json", request) == array_document((4,))[part]


def test_F043_other_threads_and_coroutines_run_meanwhile(tmp_path: Path) -> None:
    """Counted, not timed: whoever rests a millisecond between two counts gets far if nobody holds the interpreter."""
    repo = new_repository(ours.local_filesystem_storage(tmp_path))
    with_array(repo, shape=(400_000,))
    session = writable(repo)
    counts = {"thread": 0, "coroutine": 0}
    done = threading.Event()

    def count() -> None:
        while not done.wait(0.001):
            counts["thread"] += 1

    async def work() -> None:
        n = 400_000
        offsets = np.random.default_rng(0).integers(0, 2**40, n, np.uint64)
        places = ["s3://bucket/file"] * n
        await session.store.set_virtual_refs_arr_async(
            "a", (n,), places, offsets, np.full(n, 7, np.uint64), validate_containers=False
        )
        await session.commit_async("big")

    async def work_and_count() -> None:
        task = asyncio.create_task(work())
        while not task.done():
            counts["coroutine"] += 1
            await asyncio.sleep(0.001)
        await task

    thread = threading.Thread(target=count)
    thread.start()
    try:
        asyncio.run(work_and_count())
    finally:
        done.set()
        thread.join()
    assert min(counts.values()) >= 10, counts


# -- the files -------------------------------------------------------------------------------------------------


def fill(ic: Any, path: Path) -> None:
    """A repository with two commits, an inline and a native chunk, a manifest each, and all kinds of files."""
    repo = ic.Repository.create(ic.local_filesystem_storage(str(path)))
    session = repo.writable_session("main")
    root = zarr.create_group(session.store, attributes={"title": "é"})
    root.create_array("small", shape=(4,), chunks=(2,), dtype="i4", dimension_names=["x"])[:] = np.arange(4)
    session.commit("one", {"by": ic.__name__})
    session = repo.writable_session("main")
    root = zarr.open_group(session.store)
    root.create_array("large", shape=(4, 2000), chunks=(2, 2000), dtype="f8", compressors=None)[:] = np.ones((4, 2000))
    session.commit("two")
    repo.create_tag("t", snapshot_id=repo.lookup_branch("main"))


@pytest.mark.parametrize(("writer", "reader"), [(ours, icechunk), (icechunk, ours)], ids=["read by it", "read by us"])
def test_F044_files_that_both_read(tmp_path: Path, writer: Any, reader: Any) -> None:
    assert reader.spec_version() == writer.spec_version() == 1
    fill(writer, tmp_path)
    repo = reader.Repository.open(reader.local_filesystem_storage(str(tmp_path)))
    assert [info.message for info in repo.ancestry(tag="t")] == ["two", "one", "Repository initialized"]
    assert list(repo.ancestry(branch="main"))[1].metadata == {"by": writer.__name__}
    root = zarr.open_group(repo.readonly_session("main").store, mode="r")
    assert dict(root.attrs) == {"title": "é"}
    assert root["small"].metadata.dimension_names == ("x",)
    assert root["small"][:].tolist() == [0, 1, 2, 3]
    assert (root["large"][:] == 1).all()
    parent, child = (info.id for info in list(repo.ancestry(branch="main"))[1::-1])
    diff = repo.diff(from_snapshot_id=parent, to_snapshot_id=child)  # reads transaction logs
    assert diff.new_arrays == {"/large"}
    assert {path: sorted(coords) for path, coords in diff.updated_chunks.items()} == {"/large": [[0, 0], [1, 0]]}
    session = repo.writable_session("main")
    zarr.open_group(session.store)["small"][0] = 7
    session.commit("three")  # and writes on
    back = writer.Repository.open(writer.local_filesystem_storage(str(tmp_path)))
    assert zarr.open_group(back.readonly_session("main").store, mode="r")["small"][:].tolist() == [7, 1, 2, 3]


HEADER = struct.Struct("<12s24sBBB")
FOLDERS = {"snapshots": 1, "manifests": 2, "transactions": 4}


@pytest.mark.parametrize("writer", [ours, icechunk], ids=["ours", "original"])
def test_F044_F045_header_and_content_of_every_file(tmp_path: Path, writer: Any) -> None:
    fill(writer, tmp_path)
    for folder, file_type in FOLDERS.items():
        files = list((tmp_path / folder).iterdir())
        assert len(files) >= 2
        for file in files:
            data = file.read_bytes()
            magic, client, version, kind, compression = HEADER.unpack_from(data)
            assert magic == "ICE🧊CHUNK".encode()
            assert (version, kind, compression) == (1, file_type, 1)
            assert client.decode("ascii").rstrip(" ").startswith(("ic-", "icechunk-virtual "))
            assert client == client.rstrip(b" ").ljust(24)
            content = zstandard.ZstdDecompressor().decompressobj().decompress(data[HEADER.size :])
            assert content[4:8] == b"Ichk"


def test_F045_metadata_of_objects(bucket: Bucket) -> None:
    with bucket.proxy.recording() as seen:
        session = new_repository(bucket.storage()).writable_session("main")
        put(session.store, "a/zarr.json", array_document((2,)))
        put(session.store, "a/c/0", b"x")
        session.commit("x")
    said = {}
    for request in seen:
        names = {key.lower(): value for key, value in request.headers.items()}
        if request.method == "PUT" and "x-amz-meta-ic_file_type" in names:
            folder = next(folder for folder in FOLDERS if f"/{folder}/" in request.target)
            said[folder] = [names[f"x-amz-meta-ic_{name}"] for name in ("spec_ver", "file_type", "comp_alg")]
            assert names["x-amz-meta-ic_client"].startswith("icechunk-virtual ")
    assert said == {
        "snapshots": ["1", "snapshot", "zstd"],
        "manifests": ["1", "manifest", "zstd"],
        "transactions": ["1", "transaction-log", "zstd"],
    }
