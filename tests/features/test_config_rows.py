"""Rows of the feature table about configuration (F055 to F058, F060), side by side with the original."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import icechunk
import pytest

import icechunk_virtual as ours
from icechunk_virtual.errors import ConfigConflict
from icechunk_virtual.repo.object_store import ObjectStore
from tests.support.faulty import FaultyBackend, FaultyStore, Script
from tests.support.hierarchies import PROTOTYPE, new_repository, put, tip, with_array, writable

both = pytest.mark.parametrize("ic", [ours, icechunk], ids=["ours", "original"])


def container(ic: Any, prefix: str) -> Any:
    return ic.VirtualChunkContainer(prefix, ic.s3_store(region="r"))


@both
def test_F055_the_configuration_is_saved_with_the_repository(ic: Any, tmp_path: Path) -> None:
    storage = ic.local_filesystem_storage(str(tmp_path / "r"))
    ic.Repository.create(storage)
    assert ic.Repository.fetch_config(storage) is None, "the default is not saved"
    assert not (tmp_path / "r" / "config.yaml").exists()

    storage = ic.local_filesystem_storage(str(tmp_path / "s"))
    ic.Repository.create(storage, ic.RepositoryConfig(inline_chunk_threshold_bytes=10))
    assert (tmp_path / "s" / "config.yaml").is_file()
    assert ic.Repository.fetch_config(storage).inline_chunk_threshold_bytes == 10
    assert ic.Repository.open(storage).config.inline_chunk_threshold_bytes == 10
    assert asyncio.run(ic.Repository.fetch_config_async(storage)).inline_chunk_threshold_bytes == 10

    repo = ic.Repository.open(storage).reopen(config=ic.RepositoryConfig(get_partial_values_concurrency=4))
    repo.save_config()
    saved = ic.Repository.fetch_config(storage)
    assert (saved.inline_chunk_threshold_bytes, saved.get_partial_values_concurrency) == (10, 4)


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_F055_saving_is_conditional_on_the_version_that_was_read(kind: str, tmp_path: Path) -> None:
    storage = ours.in_memory_storage() if kind == "memory" else ours.local_filesystem_storage(tmp_path)
    repo = new_repository(storage, ours.RepositoryConfig(inline_chunk_threshold_bytes=1))
    late = ours.Repository.open(storage).reopen(ours.RepositoryConfig(inline_chunk_threshold_bytes=2))
    early = repo.reopen(ours.RepositoryConfig(inline_chunk_threshold_bytes=3))
    early.save_config()
    with pytest.raises(ConfigConflict, match="config was updated by other session"):
        late.save_config()
    early.save_config()  # the original forgets its own save here, and refuses
    saved = ours.Repository.fetch_config(storage)
    assert saved is not None
    assert saved.inline_chunk_threshold_bytes == 3


@both
def test_F056_single_fields_are_overridden_at_opening(ic: Any) -> None:
    storage = ic.in_memory_storage()
    ic.Repository.create(
        storage, ic.RepositoryConfig(inline_chunk_threshold_bytes=10, get_partial_values_concurrency=3)
    )
    config = ic.Repository.open(storage, config=ic.RepositoryConfig(inline_chunk_threshold_bytes=99)).config
    assert (config.inline_chunk_threshold_bytes, config.get_partial_values_concurrency) == (99, 3)
    assert ic.Repository.fetch_config(storage).inline_chunk_threshold_bytes == 10, "not saved by opening"
    unset = ic.Repository.open(storage, config=ic.RepositoryConfig.default()).config
    assert (unset.inline_chunk_threshold_bytes, unset.get_partial_values_concurrency) == (10, 3)


@both
def test_F057_configurations_are_merged_explicitly(ic: Any) -> None:
    def preload(refs: int | None, condition: Any) -> Any:
        return ic.ManifestConfig(preload=ic.ManifestPreloadConfig(max_total_refs=refs, preload_if=condition))

    base = ic.RepositoryConfig(
        inline_chunk_threshold_bytes=1,
        get_partial_values_concurrency=2,
        caching=ic.CachingConfig(num_chunk_refs=3),
        storage=ic.StorageSettings(retries=ic.StorageRetriesSettings(max_tries=4), storage_class="A"),
        manifest=preload(5, ic.ManifestPreloadCondition.true()),
        virtual_chunk_containers={"s3://a/": container(ic, "s3://a/"), "s3://b/": container(ic, "s3://b/")},
    )
    other = ic.RepositoryConfig(
        inline_chunk_threshold_bytes=10,
        caching=ic.CachingConfig(num_snapshot_nodes=30),
        storage=ic.StorageSettings(retries=ic.StorageRetriesSettings(max_backoff_ms=40)),
        manifest=preload(50, None),
        virtual_chunk_containers={"s3://b/": container(ic, "s3://b/x/"), "s3://c/": container(ic, "s3://c/")},
    )
    before = copy.deepcopy(repr(base)), copy.deepcopy(repr(other))
    merged = base.merge(other)
    assert (merged.inline_chunk_threshold_bytes, merged.get_partial_values_concurrency) == (10, 2)
    assert (merged.caching.num_chunk_refs, merged.caching.num_snapshot_nodes) == (3, 30)
    assert (merged.storage.retries.max_tries, merged.storage.retries.max_backoff_ms) == (4, 40)
    assert merged.storage.storage_class == "A"
    assert merged.manifest.preload.max_total_refs == 50
    assert merged.manifest.preload.preload_if is None, "preload is taken as a whole"
    containers = merged.virtual_chunk_containers
    assert {name: found.url_prefix for name, found in containers.items()} == {
        "s3://a/": "s3://a/",
        "s3://b/": "s3://b/x/",
        "s3://c/": "s3://c/",
    }
    assert (repr(base), repr(other)) == before
    assert set(base.virtual_chunk_containers) == {"s3://a/", "s3://b/"}
    merged.caching.num_chunk_refs = 99
    assert base.caching.num_chunk_refs == 3


@both
def test_F058_configurations_can_be_changed_in_place(ic: Any) -> None:
    config = ic.RepositoryConfig.default()
    assert config.storage is None
    config.storage = ic.StorageSettings()
    config.storage.concurrency = ic.StorageConcurrencySettings()
    config.storage.concurrency.ideal_concurrent_request_size = 5
    config.compression = ic.CompressionConfig()
    config.compression.level = 9
    assert config.storage.concurrency.ideal_concurrent_request_size == 5
    repo = ic.Repository.create(ic.in_memory_storage(), config)
    assert repo.config.storage.concurrency.ideal_concurrent_request_size == 5
    assert repo.config.compression.level == 9
    repo.config.compression.level = 1
    assert repo.config.compression.level == 9, "that of a repository is a copy"
    with pytest.raises(AttributeError):
        config.virtual_chunk_containers = {}
    for name, value in (("inline_chunk_threshold_bytes", 2**16), ("get_partial_values_concurrency", -1)):
        with pytest.raises(OverflowError):
            setattr(config, name, value)
    with pytest.raises(OverflowError):
        config.compression.level = 256


class _Crowd:
    """How many requests are under way, and the most there were."""

    def __init__(self) -> None:
        self.now = self.most = 0

    @contextmanager
    def entered(self) -> Iterator[None]:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            yield
        finally:
            self.now -= 1


class _CrowdedStore(FaultyStore):
    """Requests take a while, so that as many as are allowed are under way together."""

    def __init__(self, inner: ObjectStore, crowd: _Crowd) -> None:
        super().__init__(inner, Script())
        self._crowd = crowd

    async def _call(self, operation: str, key: str, act: Any) -> Any:
        with self._crowd.entered():
            for _ in range(50):
                await asyncio.sleep(0)
            return await act()


class _CrowdedBackend(FaultyBackend):
    def __init__(self, storage: ours.Storage, crowd: _Crowd) -> None:
        super().__init__(storage, Script())
        self._crowd = crowd

    def open(self, settings: Any) -> FaultyStore:
        return _CrowdedStore(self._storage.object_store(), self._crowd)


@pytest.mark.parametrize("limit", [None, 3, 1])
def test_F060_requests_at_a_time_are_limited(limit: int | None) -> None:
    storage, crowd, chunks = ours.in_memory_storage(), _Crowd(), 40
    repo = new_repository(storage, ours.RepositoryConfig(inline_chunk_threshold_bytes=0))
    with_array(repo, shape=(chunks,))
    session = writable(repo)
    for i in range(chunks):
        put(session.store, f"a/c/{i}", bytes([i]))
    session.commit("chunks")

    slow = ours.Storage(_CrowdedBackend(storage, crowd))
    config = ours.RepositoryConfig(max_concurrent_requests=limit)
    store = tip(ours.Repository.open(slow, config)).store

    async def read_all() -> list[Any]:
        return await asyncio.gather(*(store.get(f"a/c/{i}", PROTOTYPE) for i in range(chunks)))

    crowd.most = 0
    found = asyncio.run(read_all())
    assert [value.to_bytes() for value in found] == [bytes([i]) for i in range(chunks)]
    assert crowd.most == (limit or chunks), "256 hold by default"
