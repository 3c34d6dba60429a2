"""Forks that travel: light pickles, many merges; `merge_sessions`, `extract_session`."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import zarr

import icechunk_virtual as ic
from icechunk_virtual.distributed import extract_session, merge_sessions
from icechunk_virtual.repo import assets
from tests.support.engines import get, put
from tests.support.tasks import write_row


@pytest.fixture
def repo(tmp_path: Path) -> Any:
    """A repository with an array of 20 rows, each a chunk."""
    repo = ic.Repository.create(ic.local_filesystem_storage(str(tmp_path / "repo")))
    with repo.transaction("main", message="array") as store:
        zarr.create_array(store, name="a", shape=(20, 3), chunks=(1, 3), dtype="f8", fill_value=0)
    return repo


def sent(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


def values(repo: Any, path: str = "a") -> Any:
    return zarr.open_array(repo.readonly_session("main").store, path=path, mode="r")[...]


# -- extract_session and merge_sessions ------------------------------------------------------------------------


def test_extract_session(repo: Any) -> None:
    fork = repo.writable_session("main").fork()
    array = zarr.open_array(fork.store, path="a")
    assert extract_session(array) is fork
    assert extract_session(array, axis=0, keepdims=True) is fork
    with pytest.raises(TypeError, match="not in an IcechunkStore"):
        extract_session(zarr.create_array({}, shape=(1,), dtype="u1"))


def test_merge_sessions_without_any() -> None:
    with pytest.raises(ValueError, match="at least one"):
        merge_sessions()
    with pytest.raises(ValueError, match="at least one"):
        merge_sessions([], [[]])


def test_a_fork_merged_with_itself_is_unchanged(repo: Any) -> None:
    """As with threads, where all tasks write through one fork."""
    fork = write_row(repo.writable_session("main").fork(), "a", 0, 7)
    merge_sessions(fork, fork)
    assert zarr.open_array(fork.store, path="a")[0].tolist() == [7, 7, 7]  # type: ignore[union-attr]


def test_groups_that_are_the_same_in_two_forks(tmp_path: Path) -> None:
    """Writing an array creates the groups above it; nothing of them can be lost."""
    repo = ic.Repository.create(ic.in_memory_storage())
    session = repo.writable_session("main")
    forks = [session.fork(), session.fork()]
    for name, fork in zip("ab", forks, strict=True):
        zarr.create_array(fork.store, name=f"g/{name}", shape=(2,), chunks=(1,), dtype="i4")[...] = 5
    session.merge(*(sent(fork) for fork in forks))
    session.commit("both")
    assert [values(repo, f"g/{name}").tolist() for name in "ab"] == [[5, 5]] * 2
    assert len(repo.readonly_session("main").status().new_groups) == 0
    assert repo.diff(from_snapshot_id="1CECHNKREP0F1RSTCMT0", to_branch="main").new_groups == {"/", "/g"}


@pytest.mark.parametrize("count", [3000])
def test_thousands_of_forks(tmp_path: Path, count: int) -> None:
    repo = ic.Repository.create(ic.local_filesystem_storage(str(tmp_path)))
    with repo.transaction("main", message="array") as store:
        zarr.create_array(store, name="a", shape=(count,), chunks=(1,), dtype="i4")
    session = repo.writable_session("main")
    data = pickle.dumps(session.fork())
    forks = []
    for i in range(count):
        fork = pickle.loads(data)
        put(fork.store, f"a/c/{i}", i.to_bytes(4, "little"))
        forks.append(sent(fork))
    session.merge(*forks)
    assert [get(session.store, f"a/c/{i}") for i in range(count)] == [i.to_bytes(4, "little") for i in range(count)]


# -- what travels ----------------------------------------------------------------------------------------------


def test_pickles_do_not_grow_with_the_repository(repo: Any) -> None:
    before = len(pickle.dumps(repo.writable_session("main").fork()))
    with repo.transaction("main", message="groups") as store:
        for i in range(300):
            put(store, f"g{i}/zarr.json", b'{"zarr_format":3,"node_type":"group"}')
    for session in (repo.writable_session("main").fork(), repo.readonly_session("main")):
        assert len(pickle.dumps(session)) <= before + 100


def test_unpickling_reads_nothing_until_it_is_needed(repo: Any, tmp_path: Path) -> None:
    data = pickle.dumps(repo.writable_session("main").fork())
    (tmp_path / "repo" / "snapshots").rename(tmp_path / "repo" / "elsewhere")
    fork = pickle.loads(data)
    assert (fork.branch, fork.snapshot_id) == ("main", repo.lookup_branch("main"))
    assert not fork.has_uncommitted_changes
    assert "ForkSession" in repr(fork)
    with pytest.raises(ic.IcechunkError, match="snapshots/"):
        get(fork.store, "a/zarr.json")
    (tmp_path / "repo" / "elsewhere").rename(tmp_path / "repo" / "snapshots")
    assert get(fork.store, "a/zarr.json") is not None


def test_the_base_is_found_on_whichever_loop(repo: Any) -> None:
    """The first to ask may be a coroutine on our own loop, on zarr's, or plain code."""
    fork = repo.writable_session("main").fork()
    put(fork.store, "a/c/0/0", b"x" * 24)
    assert sent(fork).all_virtual_chunk_locations() == []
    assets._copies.discard(fork._workspace.assets._token)
    assert get(sent(fork).store, "a/c/0/0") == b"x" * 24
    assets._copies.discard(fork._workspace.assets._token)
    assert sent(fork).status().updated_chunks == {"/a": [[0, 0]]}


def test_copies_in_one_process_share_caches(repo: Any) -> None:
    data = pickle.dumps(repo.readonly_session("main").store)
    one, other = pickle.loads(data), pickle.loads(data)
    assert one.session._workspace.assets is other.session._workspace.assets
    assert one.session._workspace.assets is not repo._opened.assets
    reopened = repo.reopen(ic.RepositoryConfig(max_concurrent_requests=1))
    assert sent(reopened.readonly_session("main"))._workspace.assets is not one.session._workspace.assets


@pytest.mark.parametrize("count", [3, 150])
def test_edits_travel_one_by_one_and_in_columns(repo: Any, count: int) -> None:
    with repo.transaction("main", message="long") as store:
        zarr.create_array(store, name="b", shape=(200,), chunks=(1,), dtype="u1")
    fork = repo.writable_session("main").fork()
    for i in range(count):
        put(fork.store, f"b/c/{i}", bytes([i]))
    zarr.open_array(fork.store, path="b").store  # noqa: B018 - nothing is folded by looking
    there = sent(fork)
    put(there.store, "b/c/0", b"\xff")
    back = sent(there)
    assert [get(back.store, f"b/c/{i}") for i in range(count)] == [b"\xff", *(bytes([i]) for i in range(1, count))]


def test_what_was_written_since_arrival(repo: Any) -> None:
    """Tasks send back their own chunks, so that no other brings back what one has written over."""
    fork = repo.writable_session("main").fork()
    zarr.open_array(fork.store, path="a")[...] = -1
    zarr.create_array(fork.store, name="new", shape=(4,), chunks=(1,), dtype="i4", fill_value=0)
    data = pickle.dumps(fork)
    parts = []
    for row in range(4):
        task = write_row(pickle.loads(data), "a", row, row)
        zarr.open_array(task.store, path="new")[row] = row + 10
        parts.append(sent(task._written_since_arrival()))
    assert parts[2].status().updated_chunks == {"/a": [[2, 0]], "/new": [[2]]}
    merged = merge_sessions(fork, *parts)
    assert zarr.open_array(merged.store, path="a")[:6, 0].tolist() == [0, 1, 2, 3, -1, -1]  # type: ignore[union-attr,index]
    assert zarr.open_array(merged.store, path="new")[...].tolist() == [10, 11, 12, 13]  # type: ignore[union-attr]
    assert fork._written_since_arrival() is fork, "it never travelled"


def test_since_arrival_tells_nodes_too(repo: Any) -> None:
    task = sent(repo.writable_session("main").fork())
    zarr.create_array(task.store, name="new", shape=(4,), chunks=(1,), dtype="i4")
    assert task._written_since_arrival() is task
    assert not sent(repo.writable_session("main").fork())._written_since_arrival().has_uncommitted_changes
