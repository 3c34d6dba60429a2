"""Merged reads from end to end: what a server is asked for while zarr, xarray and dask read through a repository."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import zarr

import icechunk_virtual as icv
from tests.support.object_server import ObjectServer
from tests.support.proxy import Answer, Forward, Request

ITEMS = 1024  # of four bytes each
SIZE = 4 * ITEMS
COUNT = 2000
DATA = np.random.default_rng(0).random(COUNT * ITEMS, np.float32)
Refs = Sequence[tuple[str, int, int]]


@pytest.fixture
def server() -> Iterator[ObjectServer]:
    with ObjectServer({}, latency=0.003) as running:
        yield running


def repository(server: ObjectServer, **settings: Any) -> icv.Repository:
    prefix = f"{server.url}/d/"
    tries = icv.StorageSettings(icv.StorageConcurrencySettings(2, 2**22), icv.StorageRetriesSettings(max_tries=1))
    config = icv.RepositoryConfig(storage=tries, **settings)
    config.set_virtual_chunk_container(icv.VirtualChunkContainer(prefix, icv.http_store({"allow_http": "true"})))
    return icv.Repository.create(icv.in_memory_storage(), config, {prefix: None})


def array(server: ObjectServer, refs: Refs, *, items: int = ITEMS, commit: bool = True, **settings: Any) -> Any:
    """An array whose chunk `i` is at ``refs[i]``: name, offset, length; read back in a session of its own."""
    repo = repository(server, **settings)
    session = repo.writable_session("main")
    zarr.create_array(
        session.store, name="a", shape=(len(refs) * items,), chunks=(items,), dtype="f4", compressors=None, fill_value=0
    )
    specs = [
        icv.VirtualChunkSpec([i], f"{server.url}/d/{name}", offset, length)
        for i, (name, offset, length) in enumerate(refs)
        if name
    ]
    session.store.set_virtual_refs("a", specs)
    if commit:
        session.commit("references")
        session = repo.readonly_session("main")
    return zarr.open_array(session.store, path="a", mode="r")


def adjacent(server: ObjectServer) -> Refs:
    server.objects["/d/f"] = DATA.tobytes()
    return [("f", i * SIZE, SIZE) for i in range(COUNT)]


def scattered(server: ObjectServer, count: int, objects: int) -> Refs:
    """The first chunks in random order over many objects."""
    each = count // objects
    order = np.random.default_rng(1).permutation(count)
    for k in range(objects):
        server.objects[f"/d/{k}"] = b"".join(
            DATA[i * ITEMS : (i + 1) * ITEMS].tobytes() for i in order[k * each :][:each]
        )
    where = {int(i): (str(k // each), k % each * SIZE, SIZE) for k, i in enumerate(order)}
    return [where[i] for i in range(count)]


def ranges(seen: list[Request]) -> list[tuple[str, int, int]]:
    """Target, start and stop of every request, all of which ask for a range."""
    found = []
    for request in seen:
        first, _, last = request.headers["Range"].removeprefix("bytes=").partition("-")
        found.append((request.target, int(first), int(last) + 1))
    return found


def bytes_in(seen: list[Request]) -> int:
    return sum(stop - start for _, start, stop in ranges(seen))


@pytest.mark.parametrize("commit", [True, False])
def test_adjacent_chunks_read_as_one_slice(server: ObjectServer, commit: bool) -> None:
    found = array(server, adjacent(server), commit=commit)
    with server.recording() as seen:
        assert np.array_equal(found[:], DATA)
    assert len(seen) <= 20
    assert bytes_in(seen) == DATA.nbytes


def test_a_part_of_them_costs_at_most_the_cap(server: ObjectServer) -> None:
    for percent in (0, 30, 100):
        found = array(server, adjacent(server), merged_reads=icv.MergedReads(max_overread_percent=percent))
        with server.recording() as seen:
            found[: 777 * ITEMS]
        assert 777 * SIZE <= bytes_in(seen) <= 777 * SIZE * (1 + percent / 100)
        assert len(seen) < 120


@pytest.mark.parametrize("percent", [20, 100])
def test_random_order_over_a_hundred_objects(server: ObjectServer, percent: int) -> None:
    count = 1000
    refs = scattered(server, count, 100)
    found = array(server, refs, merged_reads=icv.MergedReads(max_overread_percent=percent))
    with server.recording() as seen:
        assert np.array_equal(found[:], DATA[: count * ITEMS])
    assert len(seen) < count
    assert count * SIZE <= bytes_in(seen) <= count * SIZE * (1 + percent / 100)


def test_chunks_picked_at_random(server: ObjectServer) -> None:
    """Nothing is foreseen, so hardly more is read than is asked for."""
    found = array(server, adjacent(server))
    picked = np.random.default_rng(2).permutation(COUNT)[:60]
    with server.recording() as seen:
        for i in picked.tolist():
            assert np.array_equal(found[i * ITEMS : (i + 1) * ITEMS], DATA[i * ITEMS : (i + 1) * ITEMS])
    assert len(seen) == len(picked)
    assert bytes_in(seen) == len(picked) * SIZE


def test_large_chunks_are_asked_for_as_before(server: ObjectServer) -> None:
    items = 2**21
    data = np.arange(4 * items, dtype=np.float32)
    server.objects["/d/large"] = data.tobytes()
    refs = [("large", i * 4 * items, 4 * items) for i in range(4)]
    plain = icv.MergedReads(enabled=False)
    asked = []
    for reads in (None, plain):
        found = array(server, refs, items=items, merged_reads=reads)
        with server.recording() as seen:
            assert np.array_equal(found[:], data)
        asked.append(sorted(ranges(seen)))
    assert asked[0] == asked[1]
    assert len(asked[0]) == 8, "each in two parts"


def test_without_merging_every_chunk_is_a_request(server: ObjectServer) -> None:
    refs = adjacent(server)[:100]
    found = array(server, refs, merged_reads=icv.MergedReads(enabled=False))
    with server.recording() as seen:
        assert np.array_equal(found[:], DATA[: 100 * ITEMS])
    assert len(seen) == 100


def test_missing_chunks_stay_missing(server: ObjectServer) -> None:
    refs = [ref if i % 100 < 60 else ("", 0, 0) for i, ref in enumerate(adjacent(server))]
    found = array(server, refs)
    exists = np.repeat([bool(name) for name, _, _ in refs], ITEMS)
    with server.recording() as seen:
        assert np.array_equal(found[:], np.where(exists, DATA, 0))
    assert len(seen) <= 80
    assert all(start % (100 * SIZE) < 60 * SIZE for _, start, _ in ranges(seen))


def test_only_the_chunk_at_fault_fails(server: ObjectServer) -> None:
    found = array(server, adjacent(server)[:50])

    async def broken(request: Request, forward: Forward) -> Answer:
        _, start, stop = ranges([request])[0]
        if start <= 25 * SIZE < stop:
            return Answer(403)
        return await server.serve_object(request, forward)

    server.handle = broken
    with pytest.raises(icv.IcechunkError, match="403") as caught:
        found[:]
    assert f"{SIZE} bytes at offset {25 * SIZE}" in str(caught.value)
    for i in (0, 24, 26, 49):
        assert np.array_equal(found[i * ITEMS : (i + 1) * ITEMS], DATA[i * ITEMS : (i + 1) * ITEMS])


def test_a_changed_object_is_an_error_of_every_chunk(server: ObjectServer) -> None:
    refs = adjacent(server)
    repo = repository(server)
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="a", shape=(COUNT * ITEMS,), chunks=(ITEMS,), dtype="f4", compressors=None)
    specs = [
        icv.VirtualChunkSpec([i], f"{server.url}/d/{n}", o, c, etag_checksum="e") for i, (n, o, c) in enumerate(refs)
    ]
    session.store.set_virtual_refs("a", specs)
    found = zarr.open_array(session.store, path="a", mode="r")
    assert np.array_equal(found[: 50 * ITEMS], DATA[: 50 * ITEMS])
    server.etag = '"other"'
    with pytest.raises(icv.IcechunkError, match="has changed"):
        found[1000 * ITEMS :]


def test_a_grid_and_a_box_in_it(server: ObjectServer) -> None:
    data = DATA[: 1600 * ITEMS].reshape(40, 40, ITEMS)
    server.objects["/d/grid"] = data.tobytes()
    repo = repository(server)
    session = repo.writable_session("main")
    zarr.create_array(
        session.store, name="a", shape=data.shape, chunks=(1, 1, ITEMS), dtype="f4", compressors=None, fill_value=0
    )
    index = np.stack(np.unravel_index(np.arange(1600), (40, 40)), axis=1)
    specs = [
        icv.VirtualChunkSpec([int(i), int(j), 0], f"{server.url}/d/grid", k * SIZE, SIZE)
        for k, (i, j) in enumerate(index)
    ]
    session.store.set_virtual_refs("a", specs)
    session.commit("references")
    for part, most in ((np.s_[:], 20), (np.s_[5:35, 10:30], 60), (np.s_[:, 7], 40), (np.s_[::2], 60)):
        found = zarr.open_array(repo.reopen().readonly_session("main").store, path="a", mode="r")
        with server.recording() as seen:
            assert np.array_equal(found[part], data[part])
        assert len(seen) <= most
        assert bytes_in(seen) <= 2 * data[part].nbytes


def test_several_threads_and_their_own_event_loops(server: ObjectServer) -> None:
    found = array(server, adjacent(server))
    parts = [slice(i * 250 * ITEMS, (i + 1) * 250 * ITEMS) for i in range(8)]
    with server.recording() as seen, ThreadPoolExecutor(8) as pool:
        for part, data in zip(parts, pool.map(found.__getitem__, parts), strict=True):
            assert np.array_equal(data, DATA[part])
    assert len(seen) <= 160
    assert bytes_in(seen) <= 2 * DATA.nbytes


def test_xarray_and_dask(server: ObjectServer) -> None:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("dask")
    repo = repository(server)
    session = repo.writable_session("main")
    zarr.create_array(
        session.store, name="a", shape=(COUNT, ITEMS), chunks=(1, ITEMS), dtype="f4", compressors=None,
        dimension_names=["t", "x"], fill_value=0,
    )  # fmt: skip
    specs = [icv.VirtualChunkSpec([i, 0], f"{server.url}/d/{n}", o, c) for i, (n, o, c) in enumerate(adjacent(server))]
    session.store.set_virtual_refs("a", specs)
    session.commit("references")
    data = DATA.reshape(COUNT, ITEMS)
    for chunks, most in ((None, 20), ({"t": 500}, 80)):
        opened = xarray.open_zarr(repo.readonly_session("main").store, consolidated=False, chunks=chunks)
        with server.recording() as seen:
            assert np.array_equal(opened["a"].values, data)
        assert len(seen) <= most


def test_settings_are_saved_and_travel(server: ObjectServer) -> None:
    storage = icv.in_memory_storage()
    config = icv.RepositoryConfig(merged_reads=icv.MergedReads(enabled=False))
    icv.Repository.create(storage, config)
    assert icv.Repository.open(storage).config.merged_reads == icv.MergedReads(enabled=False)
    over = icv.RepositoryConfig(merged_reads=icv.MergedReads(buffer_bytes=5))
    assert icv.Repository.open(storage, over).config.merged_reads == icv.MergedReads(enabled=False, buffer_bytes=5)


def test_a_program_ends_quietly_with_requests_under_way(server: ObjectServer) -> None:
    server.objects["/d/f"] = DATA.tobytes()
    program = f"""
import icechunk_virtual as icv, zarr
prefix, config = "{server.url}/d/", icv.RepositoryConfig()
config.set_virtual_chunk_container(icv.VirtualChunkContainer(prefix, icv.http_store({{"allow_http": "true"}})))
repo = icv.Repository.create(icv.in_memory_storage(), config, {{prefix: None}})
session = repo.writable_session("main")
zarr.create_array(session.store, name="a", shape=(2000 * 1024,), chunks=(1024,), dtype="f4", compressors=None)
specs = [icv.VirtualChunkSpec([i], prefix + "f", i * 4096, 4096) for i in range(2000)]
session.store.set_virtual_refs("a", specs)
array = zarr.open_array(session.store, path="a", mode="r")
for i in range(150):
    array[i * 1024 : (i + 1) * 1024]
print("read")
"""

    async def slow_later(request: Request, forward: Forward) -> Answer:
        _, start, _ = ranges([request])[0]
        answer = await server.serve_object(request, forward)
        answer.latency = 20.0 if start >= 150 * SIZE else 0.0
        return answer

    server.handle = slow_later
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "read\n", "")
    assert any(start >= 150 * SIZE for _, start, _ in ranges(server.requests)), "something was under way"
