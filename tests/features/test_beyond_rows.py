"""Rows about later releases of the original (B01 to B40) that hold here, as far as no other test has their name.

B01: test_virtual_rows. B06, B26 (storage settings): tests/unit/test_remote_chunks. B32: F110 in test_logging_rows.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from zarr.core.sync import sync

import icechunk_virtual as icv
from icechunk_virtual.containers.authorize import Authorization
from icechunk_virtual.containers.container import VirtualChunkContainer
from icechunk_virtual.errors import UnsupportedFormat
from icechunk_virtual.model.chunk_refs import VirtualChunk
from icechunk_virtual.repo.remote_chunks import make_fetcher
from tests.support.hierarchies import GROUP, delete, get, keys_of, new_repository, put, with_array, writable
from tests.support.object_server import ObjectServer
from tests.support.proxy import Answer, Forward, Request


@pytest.mark.parametrize("trouble", [408, 429, 500, 502, 503, 504, "cut off"])
def test_B03_B08_B14_what_may_go_away_is_tried_again(trouble: int | str) -> None:
    with ObjectServer({"/f": bytes(100)}) as server:
        answer = server.handle

        async def stumble(request: Request, forward: Forward) -> Answer:
            if len(server.requests) > 2:
                return await answer(request, forward)
            return Answer(trouble) if isinstance(trouble, int) else Answer(lost=True)

        server.handle = stumble
        prefix = server.url + "/"
        retries = icv.StorageRetriesSettings(max_tries=3, initial_backoff_ms=1, max_backoff_ms=1)
        config = icv.RepositoryConfig(storage=icv.StorageSettings(retries=retries))
        container = VirtualChunkContainer(prefix, icv.http_store({"allow_http": "true"}))
        fetcher = make_fetcher(Authorization({prefix: container}, {prefix: None}), config)
        assert asyncio.run(fetcher.fetch(VirtualChunk(prefix + "f", 0, 10))) == bytes(10)
        assert len(server.requests) == 3


def test_B04_B05_kinds_of_chunks() -> None:
    config = icv.RepositoryConfig(inline_chunk_threshold_bytes=3)
    repo = new_repository(None, config)
    with_array(repo, shape=(4,))
    session = writable(repo)
    put(session.store, "a/c/0", b"abc")
    put(session.store, "a/c/1", b"abcd")
    session.store.set_virtual_ref("a/c/2", "s3://b/k", offset=0, length=5, validate_container=False)
    expected = [icv.ChunkType.inline, icv.ChunkType.native, icv.ChunkType.virtual, icv.ChunkType.uninitialized]
    assert [session.chunk_type("/a", [i]) for i in range(4)] == expected
    session.commit("chunks")
    later = repo.readonly_session("main")
    assert [asyncio.run(later.chunk_type_async("a", (i,))) for i in range(4)] == expected
    assert [kind.value for kind in expected] == [3, 1, 2, 0]
    with pytest.raises(icv.IcechunkError, match="invalid chunk index"):
        later.chunk_type("/a", [4])
    with pytest.raises(KeyError):
        later.chunk_type("/b", [0])
    stats = repo.chunk_storage_stats()
    assert (stats.native_bytes, stats.virtual_bytes, stats.inlined_bytes) == (4, 5, 3)


def test_B09_cleared_containers_stay_away() -> None:
    config = icv.RepositoryConfig()
    config.set_virtual_chunk_container(icv.VirtualChunkContainer("s3://b/", icv.s3_store()))
    repo = new_repository(None, config)
    cleared = repo.config
    cleared.clear_virtual_chunk_containers()
    again = repo.reopen(cleared)
    assert not again.config.virtual_chunk_containers
    again.save_config()
    saved = icv.Repository.fetch_config(repo.storage)
    assert saved is not None
    assert not saved.virtual_chunk_containers


def test_B12_settings_of_the_user_leave_the_storages_own(tmp_path: Path) -> None:
    """The original cannot even create such a repository on disk."""
    config = icv.RepositoryConfig(storage=icv.StorageSettings(storage_class="COLD"))
    repo = new_repository(icv.local_filesystem_storage(tmp_path), config)
    effective = repo.config.effective_storage(repo.storage.default_settings())
    assert (effective.chunks_storage_class, effective.ideal_concurrent_request_size) == ("COLD", 4096)
    assert not effective.unsafe_use_metadata


def test_B15_format_2_is_named(tmp_path: Path) -> None:
    (tmp_path / "repo").write_bytes("ICE\U0001f9caCHUNK".encode() + bytes(24) + b"\x02\x06\x00")
    with pytest.raises(UnsupportedFormat, match="version 2"):
        icv.Repository.open(icv.local_filesystem_storage(tmp_path))


def test_B16_listing_does_not_stop_early() -> None:
    session = writable(new_repository())
    for path in ("", "a/", "a-b/", "a/c/"):
        put(session.store, f"{path}zarr.json", GROUP)
    assert keys_of(session.store, "a") == ["a/c/zarr.json", "a/zarr.json"]


def test_B26_irregular_grids_are_refused() -> None:
    session = writable(new_repository())
    document = b"""{"zarr_format": 3, "node_type": "array", "shape": [3], "data_type": "int8", "fill_value": 0,
        "chunk_grid": {"name": "rectilinear", "configuration": {"kind": "inline", "chunk_shapes": [[1, 2]]}},
        "chunk_key_encoding": {"name": "default"}, "codecs": [{"name": "bytes"}]}"""
    with pytest.raises(icv.IcechunkError, match="regular"):
        put(session.store, "a/zarr.json", document)


@pytest.mark.parametrize("prefix", ["http://host:8080/d/", "https://host:444/"])
def test_B30_ports_and_queries_are_kept(prefix: str) -> None:
    config = icv.RepositoryConfig()
    config.set_virtual_chunk_container(icv.VirtualChunkContainer(prefix, icv.http_store()))
    repo = new_repository(None, config)
    with_array(repo)
    session = writable(repo)
    location = prefix + "f?versionId=3#part"
    session.store.set_virtual_ref("a/c/0", location, offset=0, length=1)
    session.commit("reference")
    assert repo.readonly_session("main").all_virtual_chunk_locations() == [location]
    elsewhere = prefix.replace(":8080", "").replace(":444", "") + "f"
    with pytest.raises(icv.IcechunkError, match="no matching virtual chunk container"):
        writable(repo).store.set_virtual_ref("a/c/0", elsewhere, offset=0, length=1)


def test_B33_async_iterators_can_be_closed() -> None:
    repo = new_repository()
    with_array(repo)
    session = writable(repo)

    async def close_early(iterator: Any) -> None:
        async for _ in iterator:
            break
        await iterator.aclose()

    store = session.store
    for iterator in (
        repo.ancestry(branch="main"),
        repo.async_ancestry(branch="main"),
        session.chunk_coordinates("/a"),
        store.list(),
        store.list_prefix("a"),
        store.list_dir(""),
    ):
        sync(close_early(iterator))


def test_B38_deleting_an_impossible_chunk_is_nothing() -> None:
    repo = new_repository()
    with_array(repo)
    session = writable(repo)
    delete(session.store, "a/c/99")
    assert not session.has_uncommitted_changes
    assert get(session.store, "a/c/99") is None
