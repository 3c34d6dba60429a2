"""Rows of the feature table about manifests (F046 to F053, B07), side by side with the original where that is cheap."""

from __future__ import annotations

import concurrent.futures
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
import zarr

import icechunk_virtual as ours
from icechunk_virtual import _sync
from icechunk_virtual.errors import StorageError
from icechunk_virtual.repo import commit
from tests.support.faulty import Script, faulty
from tests.support.hierarchies import get, new_repository, tip, writable
from tests.support.manifests import ids, manifests

both = pytest.mark.parametrize("ic", [ours, icechunk], ids=["ours", "original"])


def create(ic: Any, root: Path, splitting: Any = None, **config: Any) -> Any:
    if splitting is not None:
        config["manifest"] = ic.ManifestConfig(splitting=ic.ManifestSplittingConfig.from_dict(splitting))
    return ic.Repository.create(ic.local_filesystem_storage(str(root)), ic.RepositoryConfig(**config))


def add(repo: Any, name: str, shape: tuple[int, ...], value: Any = 1, **more: Any) -> str:
    """Commit an array of one element per chunk."""
    session = repo.writable_session("main")
    group = zarr.open_group(session.store, mode="a")
    array = group.create_array(name, shape=shape, chunks=(1,) * len(shape), dtype="i4", compressors=None, **more)
    array[...] = value
    return str(session.commit(name))


def change(repo: Any, name: str, at: Any, value: Any) -> str:
    session = repo.writable_session("main")
    zarr.open_group(session.store, mode="a")[name][at] = value
    return str(session.commit("change"))


# -- files -----------------------------------------------------------------------------------------------------


@both
def test_F046_metadata_files_are_compressed(ic: Any, tmp_path: Path) -> None:
    sizes = {}
    for level in (None, 1, 22):
        root = tmp_path / f"{level}"
        compression = ic.CompressionConfig(algorithm=ic.CompressionAlgorithm.Zstd, level=level)
        repo = create(ic, root, compression=compression)
        values = np.tile(np.arange(1000) ** 3 % 997, 4)  # repeats that higher levels make more of
        add(repo, "a", (4000,), values)
        files = [*root.glob("manifests/*"), *root.glob("snapshots/*"), *root.glob("transactions/*")]
        assert len(files) == 4  # two snapshots, the first of which has no other files
        assert {path.read_bytes()[38] for path in files} == {1}, "zstd, says byte 38 of the header"
        sizes[level] = sum(path.stat().st_size for path in root.glob("manifests/*"))
        (manifest,) = root.glob("manifests/*")
        assert manifest.stat().st_size < 4000 * 20, "a reference alone has more bytes"
        for reader in (ours, icechunk):
            opened = reader.Repository.open(reader.local_filesystem_storage(str(root)))
            np.testing.assert_array_equal(
                zarr.open_group(opened.readonly_session("main").store, mode="r")["a"][:], values
            )
    assert sizes[22] < sizes[1]
    with pytest.raises(OverflowError):
        ic.CompressionConfig(level=256)


@both
def test_F047_each_array_has_its_own_manifests(ic: Any, tmp_path: Path) -> None:
    repo = create(ic, tmp_path)
    session = repo.writable_session("main")
    group = zarr.create_group(session.store)
    for name in "ab":
        group.create_array(name, shape=(4,), chunks=(2,), dtype="i4", fill_value=-1)[:] = 5
    first = session.commit("two arrays in one commit")
    assert len(list(tmp_path.glob("manifests/*"))) == 2
    assert not ids(repo, first, "a") & ids(repo, first, "b")
    assert not list(tmp_path.glob("chunks/*")), "small chunks live in the manifest"
    second = change(repo, "a", 0, 7)
    assert not ids(repo, second, "a") & ids(repo, first, "a")
    assert ids(repo, second, "b") == ids(repo, first, "b"), "that of the unmodified array stays"
    assert len(list(tmp_path.glob("manifests/*"))) == 3


@both
def test_F048_extents_are_the_bounding_box_of_the_chunks(ic: Any, tmp_path: Path) -> None:
    repo = create(ic, tmp_path)
    session = repo.writable_session("main")
    array = zarr.create_group(session.store).create_array("a", shape=(9, 9), chunks=(1, 1), dtype="i4")
    array[0, 0] = array[2, 1] = array[1, 3] = 1
    snapshot = session.commit("three chunks")
    assert [ref["extents"] for ref in manifests(repo, snapshot, "a")] == [[[0, 3], [0, 4]]]


def test_F048_manifests_outside_are_not_read() -> None:
    storage, script = ours.in_memory_storage(), Script()
    axis = {ours.ManifestSplitCondition.AnyArray(): {ours.ManifestSplitDimCondition.Axis(0): 2}}
    config = ours.RepositoryConfig(
        manifest=ours.ManifestConfig(splitting=ours.ManifestSplittingConfig.from_dict(axis)),
        caching=ours.CachingConfig(num_chunk_refs=0),
    )
    add(new_repository(storage, config), "a", (6, 2))
    store = tip(ours.Repository.open(faulty(storage, script))).store
    script.calls.clear()
    assert get(store, "a/c/3/1") == np.int32(1).tobytes()
    assert len(read(script, "manifests/")) == 1
    assert get(store, "a/c/6/0") is None
    assert len(read(script, "manifests/")) == 1


def read(script: Script, folder: str) -> list[str]:
    return [key for operation, key in script.calls if operation == "get" and key.startswith(folder)]


# -- splitting -------------------------------------------------------------------------------------------------


def by_name_and_rest(ic: Any) -> dict[Any, Any]:
    dim = ic.ManifestSplitDimCondition
    return {ic.ManifestSplitCondition.AnyArray(): {dim.DimensionName("x"): 3, dim.Any(): 4}}


@both
def test_F049_split_manifests_of_large_arrays(ic: Any, tmp_path: Path) -> None:
    repo = create(ic, tmp_path, by_name_and_rest(ic))
    first = add(repo, "a", (8, 8), dimension_names=["x", "y"])
    add(repo, "b", (2,))
    assert [ref["count"] for ref in manifests(repo, first, "a")] == [12, 12, 12, 12, 8, 8]
    second = change(repo, "a", (0, 0), 5)
    assert len(ids(repo, first, "a") & ids(repo, second, "a")) == 5, "only the touched split is written anew"
    third = repo.rewrite_manifests("all anew", branch="main", metadata={"by": "me"})
    assert not ids(repo, second, "a") & ids(repo, third, "a")
    assert len(ids(repo, third, "a")) == 6
    info = repo.lookup_snapshot(third)
    assert info.metadata["by"] == "me"
    assert info.metadata["splitting_config"] == {
        "split_sizes": [
            [
                "any_array",
                [{"condition": {"DimensionName": "x"}, "num_chunks": 3}, {"condition": "Any", "num_chunks": 4}],
            ]
        ]
    }
    assert zarr.open_group(repo.readonly_session("main").store, mode="r")["a"][0, 0] == 5


@both
def test_F049_the_first_rule_that_fits_an_axis_decides(ic: Any, tmp_path: Path) -> None:
    dim, array = ic.ManifestSplitDimCondition, ic.ManifestSplitCondition
    splitting = {
        array.name_matches("^other$"): {dim.Any(): 1},
        array.path_matches("^/a$"): {dim.Axis(1): 5},
        array.AnyArray(): {dim.Axis(1): 2, dim.Any(): 4},
    }
    repo = create(ic, tmp_path, splitting)
    boxes = [ref["extents"] for ref in manifests(repo, add(repo, "a", (8, 8)), "a")]
    assert boxes == [[[0, 4], [0, 5]], [[0, 4], [5, 8]], [[4, 8], [0, 5]], [[4, 8], [5, 8]]]
    assert list(repo.config.manifest.splitting.to_dict()) == list(splitting), "rules keep their order"


@both
def test_F049_one_manifest_unless_told_otherwise(ic: Any, tmp_path: Path) -> None:
    repo = create(ic, tmp_path)
    assert len(manifests(repo, add(repo, "a", (30, 30)), "a")) == 1


def test_F049_one_manifest_per_split_after_a_change_of_sizes(tmp_path: Path) -> None:
    """The original keeps old manifests beside new ones that cover them."""
    axis = ours.ManifestSplitDimCondition.Axis(0)
    add(create(ours, tmp_path, {ours.ManifestSplitCondition.AnyArray(): {axis: 3}}), "a", (8,))
    resized = ours.ManifestSplittingConfig.from_dict({ours.ManifestSplitCondition.AnyArray(): {axis: 4}})
    config = ours.RepositoryConfig(manifest=ours.ManifestConfig(splitting=resized))
    repo = ours.Repository.open(ours.local_filesystem_storage(tmp_path), config)
    snapshot = change(repo, "a", 7, 9)
    found = [(ref["extents"], ref["count"]) for ref in manifests(repo, snapshot, "a")]
    assert found == [([[0, 4]], 4), ([[4, 8]], 4)]
    judge = icechunk.Repository.open(icechunk.local_filesystem_storage(str(tmp_path)))
    assert zarr.open_group(judge.readonly_session("main").store, mode="r")["a"][:].tolist() == [1] * 7 + [9]


@both
def test_F050_conditions_are_combined(ic: Any) -> None:
    preload, split = ic.ManifestPreloadCondition, ic.ManifestSplitCondition
    for condition in (preload, split):
        one, other = condition.name_matches("a"), condition.path_matches("b")
        assert (one | other) == condition.or_conditions([one, other])
        assert (one & other) == condition.and_conditions([one, other])
        assert (one | other) != (other | one)
        assert (one | other) != (one & other)
        assert condition.name_matches("a") == condition.name_matches("a")
        assert condition.name_matches("a") != condition.path_matches("a")
    assert preload.num_refs(1, None) == preload.num_refs(1, None)
    assert preload.true() != preload.false()
    assert hash(split.name_matches("a") | split.AnyArray()) == hash(split.name_matches("a") | split.AnyArray())
    assert len({split.name_matches("a"), split.name_matches("a"), split.AnyArray()}) == 2


def test_B07_a_warning_before_a_commit_gets_too_large(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(commit, "MAX_TABLES", 20)
    repo = create(ours, tmp_path)
    with caplog.at_level(logging.WARNING, "icechunk_virtual"):
        add(repo, "a", (10,))
        assert not caplog.records
        add(repo, "b", (11,))
    (record,) = caplog.records
    assert "changes 11 chunks, and at most 20 fit" in record.getMessage()
    assert "smaller steps" in record.getMessage()


# -- preloading ------------------------------------------------------------------------------------------------


def preloaded(storage: ours.Storage, preload: Any = None, script: Script | None = None) -> Counter[str]:
    """Arrays whose manifest was fetched because a session was opened."""
    script = script or Script()
    repo = ours.Repository.open(
        faulty(storage, script), ours.RepositoryConfig(manifest=ours.ManifestConfig(preload=preload))
    )
    session = tip(repo)
    concurrent.futures.wait(list(_sync._background))
    content = json.loads(repo.inspect_snapshot(session.snapshot_id))
    owner = {ref["id"]: n["path"] for n in content["nodes"] if n["node_type"] == "array" for ref in n["manifest_refs"]}
    return Counter(owner[key.removeprefix("manifests/")] for key in read(script, "manifests/"))


@pytest.fixture(scope="module")
def coordinates() -> ours.Storage:
    storage = ours.in_memory_storage()
    repo = new_repository(storage, ours.RepositoryConfig(inline_chunk_threshold_bytes=0))
    session = writable(repo)
    group = zarr.create_group(session.store)
    for name, count in [("time", 4), ("lat", 1000), ("lon", 1001), ("depth", 3), ("data", 4), ("foo_time", 2)]:
        group.create_array(name, shape=(count,), chunks=(1,), dtype="i1", compressors=None)[:] = 1
    session.commit("coordinates")
    return storage


def test_F051_coordinates_are_fetched_when_a_session_opens(coordinates: ours.Storage) -> None:
    config, condition = ours.ManifestPreloadConfig, ours.ManifestPreloadCondition
    assert preloaded(coordinates) == {"/time": 1, "/lat": 1, "/depth": 1}, (
        "named like coordinates, up to 1000 references"
    )
    assert preloaded(coordinates, config(preload_if=condition.false())) == {}
    assert preloaded(coordinates, config(max_total_refs=0)) == {}
    assert preloaded(coordinates, config(preload_if=condition.name_matches("^d"))) == {"/data": 1, "/depth": 1}
    assert preloaded(coordinates, config(preload_if=condition.num_refs(4, 1000))) == {"/time": 1, "/data": 1}
    everything = config(max_total_refs=1004, preload_if=condition.true())
    assert preloaded(coordinates, everything) == {"/data": 1, "/depth": 1, "/foo_time": 1, "/time": 1}
    assert sum(preloaded(coordinates, config(preload_if=condition.true())).values()) == 6


def test_F051_failures_do_no_harm(coordinates: ours.Storage) -> None:
    class Broken(Script):
        def next(self, operation: str, key: str) -> bool:
            super().next(operation, key)
            return key.startswith("manifests/") and len(read(self, "manifests/")) == 1

    script = Broken(error=StorageError)
    repo = ours.Repository.open(faulty(coordinates, script))
    session = tip(repo)
    concurrent.futures.wait(list(_sync._background))
    assert read(script, "manifests/")
    group = zarr.open_group(session.store, mode="r")
    assert all((group[name][:] == 1).all() for name in ("time", "lat", "data"))  # type: ignore[index, operator]


def test_F051_what_is_in_memory_is_not_fetched_again(coordinates: ours.Storage) -> None:
    script = Script()
    repo = ours.Repository.open(faulty(coordinates, script))
    for _ in range(3):
        session = tip(repo)
        concurrent.futures.wait(list(_sync._background))
        assert zarr.open_group(session.store, mode="r")["time"][:].sum() == 4  # type: ignore[index, union-attr]
    assert len(read(script, "manifests/")) == 3


# -- caches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("caching", "requests"), [(ours.CachingConfig(), (1, 1)), (None, (1, 1)), ("none", (3, 3))])
def test_F052_caches_hold_what_the_configuration_says(caching: Any, requests: tuple[int, int]) -> None:
    storage, script = ours.in_memory_storage(), Script()
    add(new_repository(storage, ours.RepositoryConfig(inline_chunk_threshold_bytes=0)), "a", (3,))
    if caching == "none":
        caching = ours.CachingConfig(num_snapshot_nodes=0, num_chunk_refs=0)
    repo = ours.Repository.open(faulty(storage, script), ours.RepositoryConfig(caching=caching))
    for number in range(3):
        assert get(tip(repo).store, f"a/c/{number}") is not None
    assert (len(read(script, "manifests/")), len(read(script, "snapshots/"))) == requests
    assert len(read(script, "chunks/")) == 3


@both
def test_F052_sizes_and_their_defaults(ic: Any) -> None:
    fields = ("num_snapshot_nodes", "num_chunk_refs", "num_transaction_changes", "num_bytes_attributes")
    caching = ic.CachingConfig(num_chunk_refs=5, num_bytes_chunks=7)
    assert [getattr(caching, name) for name in (*fields, "num_bytes_chunks")] == [None, 5, None, None, 7]
    with pytest.raises(OverflowError):
        caching.num_chunk_refs = -1
    effective = ours.RepositoryConfig().effective_caching
    assert [getattr(effective, name) for name in fields] == [500_000, 15_000_000, 0, 0]
    assert effective.num_bytes_chunks == 0


def test_F052_a_manifest_too_large_for_the_cache_is_read_once_to_be_cut_up() -> None:
    storage, script = ours.in_memory_storage(), Script()
    add(new_repository(storage), "a", (30,))
    splitting = ours.ManifestSplittingConfig.from_dict(
        {ours.ManifestSplitCondition.AnyArray(): {ours.ManifestSplitDimCondition.Any(): 2}}
    )
    config = ours.RepositoryConfig(
        manifest=ours.ManifestConfig(splitting=splitting), caching=ours.CachingConfig(num_chunk_refs=20)
    )
    repo = ours.Repository.open(faulty(storage, script), config)
    snapshot = change(repo, "a", 0, 7)
    assert len(manifests(repo, snapshot, "a")) == 15
    assert len(read(script, "manifests/")) == 1


def test_F053_warning_when_a_file_does_not_fit_its_cache(caplog: pytest.LogCaptureFixture) -> None:
    storage = ours.in_memory_storage()
    add(new_repository(storage), "a", (100,))
    caching = ours.CachingConfig(num_chunk_refs=5, num_snapshot_nodes=2)
    repo = ours.Repository.open(storage, ours.RepositoryConfig(caching=caching))
    with caplog.at_level(logging.WARNING, "icechunk_virtual"):
        for _ in range(2):
            assert get(tip(repo).store, "a/c/7") is not None
    snapshot, manifest = (record.getMessage() for record in caplog.records)
    assert "100 references" in manifest
    assert "holds 5" in manifest
    assert "num_chunk_refs" in manifest
    assert "2 nodes" in snapshot
    assert "num_snapshot_nodes" in snapshot
    caplog.clear()
    with caplog.at_level(logging.WARNING, "icechunk_virtual"):
        assert get(tip(ours.Repository.open(storage)).store, "a/c/7") is not None
    assert not caplog.records
