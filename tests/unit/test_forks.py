"""What must not happen when the changes of a fork come back: to nodes made anew, of another rank, of later versions."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from icechunk_virtual import Diff, Repository, Session
from icechunk_virtual.errors import ReadOnlyError
from icechunk_virtual.model.chunk_refs import ChunkRefs
from icechunk_virtual.model.nodes import ArrayNode
from icechunk_virtual.repo import tree
from tests.support import hierarchies
from tests.support.hierarchies import GROUP, array_document, delete, get, names_of, new_repository, put, tip, writable


def keys_of(session: Session) -> list[str]:
    return [key for key in hierarchies.keys_of(session.store) if key != "zarr.json"]


def commit(repo: Repository, session: Session) -> Diff:
    """Commit, and what the repository says about it."""
    before = session.snapshot_id
    found: Diff = repo.diff(from_snapshot_id=before, to_snapshot_id=session.commit("merged"))
    return found


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


def make_anew(session: Session, data: bytes = b"anew") -> None:
    """Another array at the same path."""
    delete(session.store, "a/zarr.json")
    put(session.store, "a/zarr.json", array_document((4,)))
    put(session.store, "a/c/3", data)


def test_a_deletion_is_of_the_node_that_was_there(repo: Repository) -> None:
    """Somebody has made the array anew since: the fork knows nothing of that one."""
    fork = writable(repo).fork()
    delete(fork.store, "a/zarr.json")
    newer = writable(repo)
    make_anew(newer)
    newer.commit("anew")
    session = writable(repo)
    session.merge(fork)
    assert keys_of(session) == ["a/c/3", "a/zarr.json"]
    assert not session.has_uncommitted_changes


def test_a_deletion_by_both_leaves_what_ours_made_since(repo: Repository) -> None:
    session = writable(repo)
    fork = session.fork()
    delete(fork.store, "a/zarr.json")
    make_anew(session)
    session.merge(fork)
    assert get(session.store, "a/c/3") == b"anew"
    found = commit(repo, session)
    assert (found.deleted_arrays, found.new_arrays) == ({"/a"}, {"/a"})


def test_a_document_is_of_the_node_that_was_there(repo: Repository) -> None:
    fork = writable(repo).fork()
    put(fork.store, "a/zarr.json", array_document((20,)))
    newer = writable(repo)
    make_anew(newer)
    newer.commit("anew")
    session = writable(repo)
    session.merge(fork)
    assert get(session.store, "a/zarr.json") == array_document((4,))
    assert not session.has_uncommitted_changes


@pytest.mark.parametrize("committed", [False, True])
def test_chunks_are_of_the_node_that_was_there(repo: Repository, committed: bool) -> None:
    """Ours, or somebody else meanwhile, made the array anew."""
    session = writable(repo)
    fork = session.fork()
    put(fork.store, "a/c/2", b"of the old array")
    newer = writable(repo) if committed else session
    make_anew(newer)
    if committed:
        newer.commit("anew")
        session = writable(repo)
    session.merge(fork)
    assert keys_of(session) == ["a/c/3", "a/zarr.json"]


def test_groups_that_are_there_already_stay_the_same_nodes(repo: Repository) -> None:
    """A fork that writes an array creates the groups above it, and so may somebody else."""
    fork = writable(repo).fork()
    put(fork.store, "g/zarr.json", GROUP)
    put(fork.store, "g/b/zarr.json", array_document((2,)))
    newer = writable(repo)
    put(newer.store, "g/zarr.json", GROUP)
    newer.commit("a group")
    session = writable(repo)
    session.merge(fork)
    found = commit(repo, session)
    assert (found.new_groups, found.new_arrays) == (set(), {"/g/b"})


def test_another_rank_by_a_fork(repo: Repository) -> None:
    session = writable(repo)
    fork = session.fork()
    put(fork.store, "a/zarr.json", array_document((8, 1)))
    put(fork.store, "a/c/4/0", b"new")
    put(session.store, "a/c/5", b"lost with the others")
    session.merge(fork)
    assert keys_of(session) == ["a/c/4/0", "a/zarr.json"]
    found = commit(repo, session)
    assert (found.updated_arrays, found.updated_chunks) == ({"/a"}, {"/a": [[4, 0]]})
    seen = tip(repo)
    assert keys_of(seen) == ["a/c/4/0", "a/zarr.json"]
    node = seen._workspace.snapshot.find("/a")
    assert isinstance(node, ArrayNode)
    assert [ref.extents for ref in node.manifests] == [((4, 5), (0, 1))]
    assert sum(m.num_chunk_refs for m in repo.lookup_snapshot(seen.snapshot_id).manifests) == 1


def test_another_rank_by_ours(repo: Repository) -> None:
    """Chunks that a fork wrote before have no place any more."""
    session = writable(repo)
    fork = session.fork()
    put(fork.store, "a/c/4", b"new")
    put(session.store, "a/zarr.json", array_document((8, 1)))
    put(session.store, "a/c/7/0", b"ours")
    session.merge(fork)
    assert keys_of(session) == ["a/c/7/0", "a/zarr.json"]
    assert commit(repo, session).updated_chunks == {"/a": [[7, 0]]}


def test_what_a_fork_cut_off_does_not_grow_back(repo: Repository) -> None:
    session = writable(repo)
    fork = session.fork()
    put(session.store, "a/c/2", b"ours")
    put(fork.store, "a/zarr.json", array_document((2,)))
    session.merge(fork)
    put(session.store, "a/zarr.json", array_document((8,)))
    assert get(session.store, "a/c/2") is None
    session.commit("grown back")
    assert get(tip(repo).store, "a/c/2") is None


def test_later_layers_of_a_fork_stand(repo: Repository) -> None:
    """Columns of references by a fork: many, then few over some of them."""
    session = writable(repo)
    put(session.store, "a/zarr.json", array_document((100,)))
    session.commit("larger")
    session = writable(repo)
    fork = session.fork()
    fork.store.set_chunk_refs("a", ChunkRefs.inline(np.arange(100).reshape(-1, 1), [b"many"] * 100))
    fork.store.set_chunk_refs("a", ChunkRefs.inline(np.array([[7], [8]]), [b"few"] * 2))
    assert len(fork._workspace.changes.chunks("/a")._layers) > 1
    session.merge(pickle.loads(pickle.dumps(fork)))
    assert [get(session.store, f"a/c/{i}") for i in (6, 7, 8, 9)] == [b"many", b"few", b"few", b"many"]


def test_sessions_are_equal_if_they_show_the_same(repo: Repository) -> None:
    ids = [info.id for info in repo.ancestry(branch="main")]
    sessions = [repo.readonly_session(snapshot_id=id) for id in ids]
    assert sessions[0] == tip(repo)
    assert sessions[0] != sessions[1]
    other = new_repository().readonly_session("main")
    assert other.snapshot_id == sessions[-1].snapshot_id  # all repositories begin with the same snapshot
    assert other != sessions[-1]
    assert writable(repo) != writable(repo)


def test_nothing_is_read_only_and_changed() -> None:
    """A session that was committed or flushed has no changes left, so the base says it all."""
    repo = new_repository()
    for save in ("commit", "flush"):
        session = writable(repo)
        put(session.store, f"{save}/zarr.json", GROUP)
        getattr(session, save)("x")
        assert session.read_only
        assert not session.has_uncommitted_changes
        assert session == repo.readonly_session(snapshot_id=session.snapshot_id)


def test_deleting_is_for_writable_sessions(repo: Repository) -> None:
    session = tip(repo)
    with pytest.raises(ReadOnlyError):
        tree.delete_node(session._workspace, "/a")
    assert not session.has_uncommitted_changes


def test_names_of_deleted_new_nodes_are_gone(repo: Repository) -> None:
    session = writable(repo)
    put(session.store, "g/zarr.json", GROUP)
    put(session.store, "g/b/zarr.json", array_document((2,)))
    delete(session.store, "g/b/zarr.json")
    assert names_of(session.store, "g") == ["zarr.json"]


def test_a_fork_made_during_a_commit_can_be_written_to(repo: Repository) -> None:
    session = repo.writable_session("main")
    with session._workspace.exclusively():
        fork = session.fork()
        put(fork.store, "new/zarr.json", GROUP)
    assert fork.status().new_groups == {"/new"}
