"""`Session`: changes, commits, discarding, chunk listings, forks and merges."""

from __future__ import annotations

import asyncio
import contextlib
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zarr.core.sync import _collect_aiterator, sync

from icechunk_virtual import (
    ConflictError,
    Diff,
    ForkSession,
    IcechunkError,
    IcechunkVirtualError,
    Repository,
    RepositoryConfig,
    Session,
    in_memory_storage,
)
from icechunk_virtual.errors import NodeNotFound, NothingToCommit, ReadOnlyError
from tests.support.hierarchies import (
    GROUP,
    array_document,
    coordinates_of,
    delete,
    get,
    group_document,
    keys_of,
    new_repository,
    put,
    tip,
    values_of,
    with_array,
    writable,
)

FIRST = "1CECHNKREP0F1RSTCMT0"


@pytest.fixture
def repo() -> Repository:
    """An array of eight chunks at /a, of which 0, 1 and 2 hold `old`."""
    repo = new_repository()
    session = writable(repo)
    put(session.store, "zarr.json", GROUP)
    put(session.store, "a/zarr.json", array_document((8,)))
    for i in range(3):
        put(session.store, f"a/c/{i}", b"old")
    session.commit("base")
    return repo


def last_change(repo: Repository) -> Diff:
    """What the newest commit of main says it did."""
    newest, before = list(repo.ancestry(branch="main"))[:2]
    diff: Diff = repo.diff(from_snapshot_id=before.id, to_snapshot_id=newest.id)
    return diff


# -- what a session says of itself -----------------------------------------------------------------------------


def test_life_of_a_writable_session(repo: Repository) -> None:
    base = repo.lookup_branch("main")
    session = writable(repo)
    assert (session.read_only, session.branch, session.snapshot_id) == (False, "main", base)
    assert not session.has_uncommitted_changes
    assert session.status() == Diff()
    put(session.store, "a/c/3", b"new")
    assert session.has_uncommitted_changes
    id = session.commit("one")
    assert (session.read_only, session.branch, session.snapshot_id) == (True, None, id)
    assert not session.has_uncommitted_changes
    assert get(session.store, "a/c/3") == b"new"
    assert repo.lookup_branch("main") == id
    with pytest.raises(ReadOnlyError, match="Read only sessions cannot modify the repository"):
        session.commit("two")


def test_a_session_describes_itself(repo: Repository) -> None:
    session = writable(repo)
    put(session.store, "b/zarr.json", GROUP)
    assert "main" in repr(session)
    assert session.snapshot_id in repr(session)
    assert "read-only" in repr(tip(repo))
    assert session == session.store.session
    assert session != writable(repo)
    session.config.inline_chunk_threshold_bytes = 7
    assert session.config.inline_chunk_threshold_bytes is None


def test_read_only_sessions_commit_nothing(repo: Repository) -> None:
    session = tip(repo)
    assert (session.read_only, session.branch) == (True, None)
    for act in (session.commit, session.flush):
        with pytest.raises(ReadOnlyError, match="Read only sessions cannot modify the repository"):
            act("x")
    session.discard_changes()
    with pytest.raises(ReadOnlyError):
        session.merge(writable(repo).fork())


def test_nothing_to_commit(repo: Repository) -> None:
    session = writable(repo)
    for act in (session.commit, session.flush):
        with pytest.raises(NothingToCommit, match="cannot commit, no changes made to the session"):
            act("x")
    put(session.store, "a/c/5", b"x")
    session.commit("still possible")


def test_discard_changes(repo: Repository) -> None:
    session = writable(repo)
    before = values_of(session.store)
    put(session.store, "a/c/0", b"new" * 999)
    put(session.store, "b/zarr.json", GROUP)
    delete(session.store, "a/c/1")
    put(session.store, "a/zarr.json", array_document((2,)))
    session.discard_changes()
    assert not session.has_uncommitted_changes
    assert values_of(session.store) == before
    assert session.status() == Diff()
    put(session.store, "a/c/4", b"x")
    session.commit("after")
    assert last_change(repo).updated_chunks == {"/a": [[4]]}


def test_flush_moves_no_branch(repo: Repository) -> None:
    base = repo.lookup_branch("main")
    session = writable(repo)
    put(session.store, "a/c/3", b"new")
    id = session.flush("aside", {"n": 1})
    assert (session.read_only, session.snapshot_id, repo.lookup_branch("main")) == (True, id, base)
    info = repo.lookup_snapshot(id)
    assert (info.parent_id, info.message, info.metadata) == (base, "aside", {"n": 1})
    assert get(repo.readonly_session(snapshot_id=id).store, "a/c/3") == b"new"
    repo.reset_branch("main", id, from_snapshot_id=base)
    assert get(tip(repo).store, "a/c/3") == b"new"


# -- commits ---------------------------------------------------------------------------------------------------


def test_of_two_sessions_one_wins(repo: Repository) -> None:
    base = repo.lookup_branch("main")
    one, other = writable(repo), writable(repo)
    put(one.store, "a/c/3", b"one")
    put(other.store, "a/c/4", b"other")
    id = one.commit("one")
    with pytest.raises(ConflictError) as caught:
        other.commit("other")
    error = caught.value
    assert (error.expected_parent, error.actual_parent) == (base, id)
    assert str(error) == f'Failed to commit, expected parent: Some("{base}"), actual parent: Some("{id}")'
    assert repr(error) == f"ConflictError(expected_parent={base}, actual_parent={id})"
    assert isinstance(error, IcechunkVirtualError)
    assert not isinstance(error, IcechunkError)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.expected_parent, copy.actual_parent) == (base, id)
    assert not other.read_only
    assert other.has_uncommitted_changes
    assert get(other.store, "a/c/4") == b"other"
    assert get(tip(repo).store, "a/c/4") is None


def test_a_clean_session_hears_of_the_conflict_first(repo: Repository) -> None:
    one, other = writable(repo), writable(repo)
    put(one.store, "a/c/3", b"one")
    one.commit("one")
    with pytest.raises(ConflictError):
        other.commit("nothing")


def test_a_conflict_writes_nothing(tmp_path: Path) -> None:
    from icechunk_virtual import local_filesystem_storage

    repo = new_repository(local_filesystem_storage(tmp_path))
    one, other = writable(repo), writable(repo)
    for session in (one, other):
        put(session.store, "zarr.json", GROUP)
    one.commit("one")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConflictError):
        other.commit("other")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_branch_is_gone(repo: Repository) -> None:
    base = repo.lookup_branch("main")
    repo.create_branch("dev", base)
    session = writable(repo, "dev")
    put(session.store, "a/c/3", b"x")
    repo.delete_branch("dev")
    with pytest.raises(ConflictError) as caught:
        session.commit("x")
    assert (caught.value.expected_parent, caught.value.actual_parent) == (base, None)
    assert str(caught.value).endswith("actual parent: None")
    repo.create_branch("dev", base)
    assert repo.lookup_branch("dev") == base
    assert repo.lookup_branch("dev") != session.commit("x")


def test_a_branch_that_went_back_to_the_base(repo: Repository) -> None:
    base = repo.lookup_branch("main")
    session = writable(repo)
    put(session.store, "a/c/3", b"x")
    repo.reset_branch("main", FIRST)
    with pytest.raises(ConflictError):
        session.commit("x")
    repo.reset_branch("main", base)
    session.commit("x")
    assert [info.message for info in repo.ancestry(branch="main")] == ["x", "base", "Repository initialized"]


def test_messages_and_metadata(repo: Repository) -> None:
    metadata: dict[str, Any] = {
        "text": "é\n🧊",
        "bool": True,
        "none": None,
        "int": -5,
        "large": 2**64 - 1,
        "float": 0.5,
        "list": [1, (2, "x")],
        "dict": {"b": {"c": []}},
        "nan": math.nan,
        "inf": math.inf,
        "numpy": np.float32(1.5),
    }
    expected = {**metadata, "list": [1, [2, "x"]], "nan": None, "inf": None, "numpy": 1.5}
    session = writable(repo)
    put(session.store, "a/c/3", b"x")
    session.commit("é\n🧊 ", metadata)
    info = next(repo.ancestry(branch="main"))
    assert (info.message, info.metadata) == ("é\n🧊 ", expected)
    fresh = Repository.open(repo.storage)
    assert next(fresh.ancestry(branch="main")) == info


@pytest.mark.parametrize("wrong", [{"x": object()}, {"x": {1: 2}}, {"x": {1, 2}}, {1: "x"}, {"x": [1j]}])
def test_bad_metadata_is_refused_before_the_commit_starts(repo: Repository, wrong: dict[Any, Any]) -> None:
    base = repo.lookup_branch("main")
    session = writable(repo)
    put(session.store, "a/c/3", b"x")
    for act in (session.commit, session.flush):
        with pytest.raises(TypeError, match="object cannot be cast"):
            act("x", wrong)
    assert repo.lookup_branch("main") == base
    assert session.has_uncommitted_changes
    session.commit("x", {})


def test_a_message_is_text(repo: Repository) -> None:
    session = writable(repo)
    put(session.store, "a/c/3", b"x")
    for wrong in (None, 5, b"x"):
        for act in (session.commit, session.flush):
            with pytest.raises(TypeError):
                act(wrong)  # type: ignore[arg-type]
    session.commit("")
    assert next(repo.ancestry(branch="main")).message == ""


def test_writes_during_a_commit_are_refused_or_in_it(repo: Repository) -> None:
    session = writable(repo)
    put(session.store, "a/c/3", b"x")
    landed: list[int] = []

    async def write(i: int) -> None:
        from tests.support.hierarchies import buffer

        try:
            await session.store.set(f"a/c/{i}", buffer(b"late" * 300))
        except ReadOnlyError:
            return
        landed.append(i)

    async def both() -> None:
        await asyncio.gather(write(4), session.commit_async("x"), write(5), write(6))

    asyncio.run(both())
    assert {int(key.rpartition("/")[2]) for key in keys_of(tip(repo).store) if "/c/" in key} == {0, 1, 2, 3, *landed}


def test_one_commit_at_a_time(repo: Repository) -> None:
    session = writable(repo)
    put(session.store, "a/c/3", b"x")

    async def both() -> list[Any]:
        return await asyncio.gather(session.commit_async("one"), session.commit_async("other"), return_exceptions=True)

    results = asyncio.run(both())
    ids = [result for result in results if isinstance(result, str)]
    assert len(ids) == 1
    assert {type(result) for result in results if not isinstance(result, str)} <= {ReadOnlyError, ConflictError}
    assert next(info.id for info in repo.ancestry(branch="main")) == ids[0]


# -- the change set --------------------------------------------------------------------------------------------


def test_status_names_everything(repo: Repository) -> None:
    with_array(repo, "gone", (2,))
    session = writable(repo)
    put(session.store, "g/zarr.json", GROUP)
    put(session.store, "g/b/zarr.json", array_document((2, 2)))
    put(session.store, "g/b/c/1/0", b"x")
    put(session.store, "g/b/c/0/1", b"x")
    put(session.store, "zarr.json", group_document(n=1))
    put(session.store, "a/zarr.json", array_document((8,), attributes={"n": 1}))
    put(session.store, "a/c/7", b"x")
    delete(session.store, "a/c/0")
    delete(session.store, "a/c/5")  # never was there
    delete(session.store, "gone/zarr.json")
    expected = Diff(
        new_groups={"/g"},
        new_arrays={"/g/b"},
        deleted_arrays={"/gone"},
        updated_groups={"/"},
        updated_arrays={"/a"},
        updated_chunks={"/a": [[0], [5], [7]], "/g/b": [[0, 1], [1, 0]]},
    )
    assert session.status() == expected
    session.commit("all")
    assert last_change(repo) == expected


def test_equal_bytes_are_no_change(repo: Repository) -> None:
    session = writable(repo)
    for key in ("zarr.json", "a/zarr.json"):
        value = get(session.store, key)
        assert value is not None
        put(session.store, key, value)
    assert not session.has_uncommitted_changes
    put(session.store, "zarr.json", group_document(n=1))
    put(session.store, "zarr.json", GROUP)  # back again: rewritten all the same
    assert session.status() == Diff(updated_groups={"/"})


def test_create_and_delete_leaves_nothing(repo: Repository) -> None:
    session = writable(repo)
    put(session.store, "b/zarr.json", GROUP)
    delete(session.store, "b/zarr.json")
    assert not session.has_uncommitted_changes
    put(session.store, "b/zarr.json", array_document((4,)))
    put(session.store, "b/c/0", b"x")
    put(session.store, "b/zarr.json", array_document((6,)))
    put(session.store, "b/c/5", b"x")
    delete(session.store, "b/zarr.json")
    assert not session.has_uncommitted_changes
    assert session.status() == Diff()
    with pytest.raises(NothingToCommit):
        session.commit("empty")


def test_overwriting_an_array_is_another_array(repo: Repository) -> None:
    session = writable(repo)
    put(session.store, "a/c/5", b"new")
    delete(session.store, "a/zarr.json")
    put(session.store, "a/zarr.json", array_document((8,)))
    assert keys_of(session.store) == ["a/zarr.json", "zarr.json"]
    put(session.store, "a/c/1", b"other")
    expected = Diff(deleted_arrays={"/a"}, new_arrays={"/a"}, updated_chunks={"/a": [[1]]})
    assert session.status() == expected
    session.commit("another")
    assert coordinates_of(tip(repo), "/a") == [(1,)]
    assert last_change(repo) == expected


def test_deleting_drops_updates_and_chunks(repo: Repository) -> None:
    session = writable(repo)
    put(session.store, "a/zarr.json", array_document((9,)))
    put(session.store, "a/c/8", b"x")
    delete(session.store, "a/zarr.json")
    assert session.status() == Diff(deleted_arrays={"/a"})
    session.commit("gone")
    assert keys_of(tip(repo).store) == ["zarr.json"]


def test_deleting_a_group_takes_all_below_and_no_sibling(repo: Repository) -> None:
    session = writable(repo)
    for key in ("g", "g-x", "g.x", "g/in", "g-x/in", "gx"):
        put(session.store, f"{key}/zarr.json", GROUP)
    put(session.store, "g/in/a/zarr.json", array_document((2,)))
    put(session.store, "g/in/a/c/0", b"x")
    session.commit("groups")
    session = writable(repo)
    put(session.store, "g/in/new/zarr.json", GROUP)
    delete(session.store, "g/zarr.json")
    assert session.status() == Diff(deleted_groups={"/g", "/g/in"}, deleted_arrays={"/g/in/a"})
    session.commit("less")
    left = [key for key in keys_of(tip(repo).store) if key.startswith("g")]
    assert left == ["g-x/in/zarr.json", "g-x/zarr.json", "g.x/zarr.json", "gx/zarr.json"]


def test_deleting_everything(repo: Repository) -> None:
    session = writable(repo)
    delete(session.store, "zarr.json")
    session.commit("nothing left")
    assert keys_of(tip(repo).store) == []
    session = writable(repo)
    put(session.store, "a/zarr.json", array_document((2,)))
    session.commit("again")
    assert keys_of(tip(repo).store) == ["a/zarr.json"]


def test_a_chunk_is_what_was_set_last(repo: Repository) -> None:
    session = writable(repo)
    store = session.store
    put(store, "a/c/0", b"one" * 400)
    put(store, "a/c/0", b"two")
    delete(store, "a/c/1")
    put(store, "a/c/1", b"back")
    put(store, "a/c/3", b"x")
    delete(store, "a/c/3")
    expected = {(0,): b"two", (1,): b"back", (2,): b"old"}
    for shown in (store, None):
        if shown is None:
            session.commit("x")
            shown = tip(repo).store
        found = {coord: get(shown, f"a/c/{coord[0]}") for coord in coordinates_of(shown.session, "/a")}
        assert found == expected


# -- resizing --------------------------------------------------------------------------------------------------


def resize(session: Session, length: int) -> None:
    put(session.store, "a/zarr.json", array_document((length,)))


def test_what_is_cut_off_is_gone(repo: Repository) -> None:
    session = writable(repo)
    resize(session, 2)
    assert [get(session.store, f"a/c/{i}") for i in range(3)] == [b"old", b"old", None]
    assert coordinates_of(session, "/a") == [(0,), (1,)]
    assert "a/c/2" not in keys_of(session.store)
    session.commit("cut")
    session = writable(repo)
    resize(session, 8)
    assert get(session.store, "a/c/2") is None
    session.commit("grown")
    assert coordinates_of(tip(repo), "/a") == [(0,), (1,)]


def test_a_written_chunk_that_was_cut_off_stays_gone(repo: Repository) -> None:
    session = writable(repo)
    put(session.store, "a/c/2", b"new")
    put(session.store, "a/c/6", b"new")
    resize(session, 2)
    resize(session, 8)
    assert (get(session.store, "a/c/2"), get(session.store, "a/c/6")) == (None, None)
    session.commit("cut and grown")
    assert coordinates_of(tip(repo), "/a") == [(0,), (1,)]


def test_a_deleted_chunk_stays_deleted(repo: Repository) -> None:
    session = writable(repo)
    delete(session.store, "a/c/2")
    resize(session, 2)
    resize(session, 8)
    assert get(session.store, "a/c/2") is None
    session.commit("cut and grown")
    assert coordinates_of(tip(repo), "/a") == [(0,), (1,)]


def test_cutting_within_the_session(repo: Repository) -> None:
    session = writable(repo)
    put(session.store, "a/c/1", b"new")
    put(session.store, "a/c/7", b"new")
    resize(session, 3)
    session.commit("cut")
    store = tip(repo).store
    assert [get(store, f"a/c/{i}") for i in range(3)] == [b"old", b"new", b"old"]
    assert last_change(repo).updated_chunks == {"/a": [[1]]}


def test_growing_writes_no_manifest(repo: Repository) -> None:
    before = next(repo.ancestry(branch="main")).manifests
    session = writable(repo)
    resize(session, 50)
    session.commit("grown")
    assert next(repo.ancestry(branch="main")).manifests == before
    assert last_change(repo) == Diff(updated_arrays={"/a"})


def test_another_rank_has_no_old_chunks(repo: Repository) -> None:
    session = writable(repo)
    put(session.store, "a/c/4", b"x")
    put(session.store, "a/zarr.json", array_document((3, 3)))
    assert coordinates_of(session, "/a") == []
    put(session.store, "a/c/1/1", b"y")
    session.commit("another rank")
    fresh = Repository.open(repo.storage)
    assert keys_of(tip(fresh).store, "a") == ["a/c/1/1", "a/zarr.json"]
    (manifest,) = next(fresh.ancestry(branch="main")).manifests
    assert manifest.num_chunk_refs == 1


# -- splitting -------------------------------------------------------------------------------------------------


def test_one_manifest_per_box_after_a_change_of_sizes() -> None:
    from icechunk_virtual import (
        ManifestConfig,
        ManifestSplitCondition,
        ManifestSplitDimCondition,
        ManifestSplittingConfig,
    )

    def config(size: int) -> RepositoryConfig:
        sizes = {ManifestSplitCondition.AnyArray(): {ManifestSplitDimCondition.Any(): size}}
        return RepositoryConfig(manifest=ManifestConfig(splitting=ManifestSplittingConfig.from_dict(sizes)))

    storage = in_memory_storage()
    repo = new_repository(storage, config(3))
    session = writable(repo)
    put(session.store, "a/zarr.json", array_document((12,)))
    for i in range(12):
        put(session.store, f"a/c/{i}", bytes([i]))
    session.commit("threes")
    assert len(next(repo.ancestry(branch="main")).manifests) == 4
    repo = Repository.open(storage, config(4))
    session = writable(repo)
    put(session.store, "a/c/0", b"new")
    session.commit("fours")
    manifests = next(repo.ancestry(branch="main")).manifests
    assert sorted(manifest.num_chunk_refs for manifest in manifests) == [4, 4, 4]
    store = tip(Repository.open(storage)).store
    assert [get(store, f"a/c/{i}") for i in range(12)] == [b"new", *(bytes([i]) for i in range(1, 12))]


# -- chunk listings --------------------------------------------------------------------------------------------


def test_chunk_coordinates_name_every_chunk_once(repo: Repository) -> None:
    session = writable(repo)
    put(session.store, "a/c/0", b"new")
    put(session.store, "a/c/7", b"new")
    delete(session.store, "a/c/2")
    for size in (1, 2, 1000):
        found = sync(_collect_aiterator(session.chunk_coordinates("/a", batch_size=size)))
        assert sorted(found) == [(0,), (1,), (7,)]
    assert coordinates_of(tip(repo), "/a") == [(0,), (1,), (2,)]


def test_chunk_coordinates_of_what_is_no_array(repo: Repository) -> None:
    session = tip(repo)
    with pytest.raises(ValueError, match="Invalid path: path must start with a `/` character"):
        coordinates_of(session, "a")
    with pytest.raises(IcechunkError, match="there is not an array at"):
        coordinates_of(session, "/")
    with pytest.raises(NodeNotFound, match="node not found at `/x`"):
        coordinates_of(session, "/x")
    with pytest.raises(ValueError, match="batch_size"):
        sync(_collect_aiterator(session.chunk_coordinates("/a", batch_size=0)))


def test_all_virtual_chunk_locations(repo: Repository) -> None:
    session = writable(repo)
    for i, name in ((3, "x"), (4, "y"), (5, "x")):
        session.store.set_virtual_ref(f"a/c/{i}", f"file:///d/{name}", offset=i, length=1, validate_container=False)
    assert sorted(session.all_virtual_chunk_locations()) == ["file:///d/x", "file:///d/x", "file:///d/y"]
    session.commit("virtual")
    session = writable(repo)
    put(session.store, "a/c/3", b"native")
    delete(session.store, "a/c/4")
    session.store.set_virtual_ref("a/c/6", "file:///d/z", offset=0, length=1, validate_container=False)
    assert sorted(asyncio.run(session.all_virtual_chunk_locations_async())) == ["file:///d/x", "file:///d/z"]
    assert sorted(tip(repo).all_virtual_chunk_locations()) == ["file:///d/x", "file:///d/x", "file:///d/y"]


# -- forks -----------------------------------------------------------------------------------------------------


def test_forks_bring_their_changes_back(repo: Repository) -> None:
    session = writable(repo)
    forks = [session.fork() for _ in range(3)]
    for i, fork in enumerate(forks):
        assert isinstance(fork, ForkSession)
        assert (fork.branch, fork.snapshot_id, fork.read_only) == ("main", session.snapshot_id, False)
        put(fork.store, f"a/c/{i + 3}", bytes([i]) * (1 + 900 * i))
        put(fork.store, f"g{i}/zarr.json", GROUP)
    delete(forks[0].store, "a/c/0")
    assert not session.has_uncommitted_changes
    session.merge(forks[0], pickle.loads(pickle.dumps(forks[1])))
    asyncio.run(session.merge_async(forks[2]))
    session.commit("all")
    assert coordinates_of(tip(repo), "/a") == [(1,), (2,), (3,), (4,), (5,)]
    assert last_change(repo) == Diff(new_groups={"/g0", "/g1", "/g2"}, updated_chunks={"/a": [[0], [3], [4], [5]]})
    assert get(tip(repo).store, "a/c/5") == b"\x02" * 1801


def test_the_later_fork_wins(repo: Repository) -> None:
    session = writable(repo)
    one, other = session.fork(), session.fork()
    put(one.store, "a/c/0", b"one")
    put(other.store, "a/c/0", b"other")
    delete(one.store, "a/c/1")
    put(other.store, "a/c/1", b"set")
    put(one.store, "a/c/2", b"set")
    delete(other.store, "a/c/2")
    put(one.store, "zarr.json", group_document(n=1))
    put(other.store, "zarr.json", group_document(n=2))
    one.merge(other)
    session.merge(one)
    store = session.store
    assert [get(store, f"a/c/{i}") for i in range(3)] == [b"other", b"set", None]
    assert get(store, "zarr.json") == group_document(n=2)


def test_a_deletion_wins_over_chunks_of_another_fork(repo: Repository) -> None:
    for deleting_first in (True, False):
        session = writable(repo)
        deleting, writing = session.fork(), session.fork()
        delete(deleting.store, "a/zarr.json")
        put(writing.store, "a/c/5", b"x")
        put(writing.store, "a/zarr.json", array_document((9,)))
        session.merge(*((deleting, writing) if deleting_first else (writing, deleting)))
        assert keys_of(session.store) == ["zarr.json"]
        assert session.status() == Diff(deleted_arrays={"/a"})


def test_chunks_of_the_old_array_do_not_get_into_the_new_one(repo: Repository) -> None:
    for overwriting_first in (True, False):
        session = writable(repo)
        overwriting, writing = session.fork(), session.fork()
        delete(overwriting.store, "a/zarr.json")
        put(overwriting.store, "a/zarr.json", array_document((8, 8)))
        put(overwriting.store, "a/c/0/0", b"new")
        put(writing.store, "a/c/5", b"old array")
        session.merge(*((overwriting, writing) if overwriting_first else (writing, overwriting)))
        assert keys_of(session.store) == ["a/c/0/0", "a/zarr.json", "zarr.json"]


def test_a_fork_of_a_fork(repo: Repository) -> None:
    session = writable(repo)
    put(with_new := session.fork().store, "n/zarr.json", array_document((2,)))
    parent = with_new.session
    assert isinstance(parent, ForkSession)
    copy = pickle.loads(pickle.dumps(parent))
    put(parent.store, "n/c/0", b"0")
    put(copy.store, "n/c/1", b"1")
    session.merge(parent, copy)  # the same node in both: nobody's chunks are lost
    session.commit("n")
    assert coordinates_of(tip(repo), "/n") == [(0,), (1,)]


def test_a_resize_in_one_fork_and_chunks_in_another(repo: Repository) -> None:
    session = writable(repo)
    resizing, writing = session.fork(), session.fork()
    put(resizing.store, "a/zarr.json", array_document((2,)))
    put(writing.store, "a/c/0", b"in")
    put(writing.store, "a/c/6", b"out")
    session.merge(writing, resizing)
    assert coordinates_of(session, "/a") == [(0,), (1,)]
    session.commit("both")
    assert coordinates_of(tip(repo), "/a") == [(0,), (1,)]


def test_forks_of_an_older_version(repo: Repository) -> None:
    """What was committed since stays."""
    with_array(repo, "b", (2,))
    old = writable(repo)
    resizing, deleting, creating, writing = (old.fork() for _ in range(4))
    put(resizing.store, "a/zarr.json", array_document((20,)))
    put(resizing.store, "a/c/19", b"x")
    delete(deleting.store, "b/zarr.json")
    put(creating.store, "n/zarr.json", array_document((2,)))
    put(writing.store, "b/c/1", b"x")
    newer = writable(repo)
    put(newer.store, "a/c/7", b"newer")
    delete(newer.store, "b/zarr.json")
    put(newer.store, "n/zarr.json", array_document((3,)))
    newer.commit("newer")
    session = writable(repo)
    session.merge(resizing, deleting, writing)
    with pytest.raises(IcechunkError, match="both created a node at `/n`"):
        session.merge(creating)
    session.commit("merged")
    found = [key for key in keys_of(tip(repo).store) if key != "zarr.json"]
    assert found == [*(f"a/c/{i}" for i in (0, 1, 19, 2, 7)), "a/zarr.json", "n/zarr.json"]
    assert last_change(repo) == Diff(updated_arrays={"/a"}, updated_chunks={"/a": [[19]]})


def test_distributed_writes_from_threads(repo: Repository) -> None:
    import concurrent.futures

    session = writable(repo)

    def work(i: int) -> ForkSession:
        fork = pickle.loads(pickle.dumps(parts[i]))
        put(fork.store, f"a/c/{i}", bytes([i]) * 700)
        return fork  # type: ignore[no-any-return]

    parts = [session.fork() for _ in range(8)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        session.merge(*pool.map(work, range(8)))
    session.commit("eight")
    store = tip(repo).store
    assert [get(store, f"a/c/{i}") for i in range(8)] == [bytes([i]) * 700 for i in range(8)]


@pytest.mark.parametrize("act", [lambda s: s.discard_changes(), lambda s: s.merge()])
def test_a_session_in_the_middle_of_its_commit_keeps_its_changes(
    repo: Repository, act: Callable[[Session], None]
) -> None:
    from tests.support.faulty import Script, faulty

    script = Script()
    session = writable(Repository.open(faulty(repo.storage, script)))
    put(session.store, "a/c/5", b"x")

    async def both() -> None:
        committing = asyncio.create_task(session.commit_async("x"))
        for _ in range(6):
            await asyncio.sleep(0)
        with contextlib.suppress(IcechunkError):
            act(session)
        await committing

    asyncio.run(both())
    assert get(tip(repo).store, "a/c/5") == b"x"
    assert last_change(repo).updated_chunks == {"/a": [[5]]}
