"""The original stores chunks of the wrong rank: we show the others, lose nothing unasked, and it reads our commits."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from zarr.core.sync import sync

import icechunk_virtual
from tests.support.engines import (
    Engine,
    apart,
    changes,
    contents,
    coordinates_of,
    get,
    inspected,
    keys_of,
    names_of,
    native_bytes,
    put,
)
from tests.support.histories import array_document, group_document

icechunk: Any = pytest.importorskip("icechunk", reason="the judge, icechunk 1.x, is not installed")
pytestmark = pytest.mark.compat

OURS = Engine("ours", icechunk_virtual)
THEIRS = Engine("theirs", icechunk)
DOCUMENTS = {n: array_document((4,) * n, (1,) * n) for n in range(4)}

Step = list[int | str]
"""Of one commit: an array document of this rank, or a chunk."""

STORIES: dict[str, list[Step]] = {
    "too many": [[1, "a/c/0", "a/c/1/0", "a/c/2/0"]],
    "too many only": [[1, "a/c/0/0"]],
    "too many first": [[1, "a/c/0/0", "a/c/3/1"], ["a/c/1"]],
    "too few": [[2, "a/c/0", "a/c/1/1"]],
    "several": [[2, "a/c", "a/c/0", "a/c/1/1", "a/c/1/1/1", "a/c/3/2"], ["a/c/2/2/2", "a/c/0/3"]],
    "more dimensions": [[1, "a/c/0", "a/c/1"], [2], ["a/c/0/0"]],
    "more at once": [[1, "a/c/0", "a/c/1"], [2, "a/c/0/0"]],
    "fewer dimensions": [[2, "a/c/0/0", "a/c/1/1"], [1], ["a/c/1"]],
    "there and back": [[2, "a/c/0/0", "a/c/1/1"], [1], ["a/c/1"], [2], ["a/c/2/1"]],
    "a scalar with more": [[0, "a/c", "a/c/0"], [1]],
    "from a scalar": [[0, "a/c"], [1], ["a/c/1"]],
    "to a scalar": [[1, "a/c/0", "a/c/1"], [0], ["a/c"]],
}


class Told:
    """A repository that the original wrote, and what must be seen of it."""

    def __init__(self, root: Path, story: list[Step], splits: dict[str, int] | None = None) -> None:
        self.root = root
        repo = THEIRS.create(root, THEIRS.config(threshold=20, splits=splits))
        self.chunks: dict[str, bytes] = {}  # of every rank
        self.ndim = -1
        session = repo.writable_session("main")
        put(session.store, "zarr.json", group_document())
        put(session.store, "other/zarr.json", DOCUMENTS[1])
        put(session.store, "other/c/1", b"other")
        session.commit("begin")
        for number, step in enumerate(story):
            session = repo.writable_session("main")
            for what in step:
                if isinstance(what, int):
                    self.ndim = what
                    put(session.store, "a/zarr.json", DOCUMENTS[what])
                else:
                    inline = f"{what} of step {number}".encode()
                    self.chunks[what] = inline * (1 + len(self.chunks) % 2)  # every other one an object
                    put(session.store, what, self.chunks[what])
            session.commit(f"step {number}")

    @property
    def right(self) -> dict[str, bytes]:
        """The chunks that are of the array's rank."""
        return {key: data for key, data in self.chunks.items() if key.count("/") == self.ndim + 1}

    def session(self, engine: Engine) -> Any:
        return engine.open(self.root).writable_session("main")

    def check_ours(self) -> None:
        """We show the right chunks, everywhere."""
        session = self.session(OURS)
        seen = contents(session)
        assert {k: v for k, v in seen["values"].items() if k.startswith("a/c")} == self.right
        assert seen["repeated"] == []
        assert seen["exist"]
        assert seen["values"]["other/c/1"] == b"other"
        coords = sorted(tuple(map(int, key.split("/")[2:])) for key in self.right)
        assert coordinates_of(session, "/a") == coords
        assert all(get(session.store, key) is None for key in self.chunks.keys() - self.right.keys())
        directory = {key.split("/")[2] for key in self.right if self.ndim}
        assert sorted(directory) == names_of(session.store, "a/c")

    def check_theirs(self, expected: dict[str, bytes]) -> None:
        store = self.session(THEIRS).store
        assert {key for key in keys_of(store) if key.startswith("a/c")} == expected.keys()
        assert {key: get(store, key) for key in expected} == expected
        assert get(store, "other/c/1") == b"other"

    def check_history(self) -> None:
        """Nodes, boxes and differences, by both libraries."""
        repos = [engine.open(self.root) for engine in (OURS, THEIRS)]
        ids = [info.id for info in repos[1].ancestry(branch="main")]
        assert len(ids) > 1
        for id in ids:
            assert apart(*(inspected(repo, id) for repo in repos)) == []
        for before, after in [*zip(ids[1:], ids, strict=False), (ids[-1], ids[0])]:
            ours, theirs = (changes(repo.diff(from_snapshot_id=before, to_snapshot_id=after)) for repo in repos)
            assert apart(ours, theirs) == []


def tomorrow() -> datetime:
    return datetime.now(UTC) + timedelta(days=1)


@pytest.fixture(params=STORIES)
def told(tmp_path: Path, request: pytest.FixtureRequest) -> Told:
    return Told(tmp_path / "repo", STORIES[request.param])


def test_what_we_show(told: Told) -> None:
    told.check_theirs(told.chunks)
    told.check_ours()
    told.check_history()


def test_nothing_is_lost_unasked(told: Told) -> None:
    """Commits that do not write the array's chunks leave every one of them to the original."""
    session = told.session(OURS)
    put(session.store, "other/c/2", b"more")
    session.commit("elsewhere")
    session = told.session(OURS)  # now of a snapshot that we wrote
    put(session.store, "other/c/2", b"even more")
    session.commit("elsewhere again")
    told.check_theirs(told.chunks)
    told.check_ours()
    session = told.session(OURS)
    put(session.store, "a/zarr.json", array_document((4,) * told.ndim, (1,) * told.ndim, attributes={"of": "ours"}))
    session.commit("attributes")
    told.check_theirs(told.chunks)
    told.check_ours()
    told.check_history()
    summary = OURS.open(told.root).garbage_collect(tomorrow())
    assert summary.snapshots_deleted == 0
    told.check_theirs(told.chunks)


def test_writing_the_array(told: Told) -> None:
    """A commit that writes the only manifest anew keeps what is of the array's rank."""
    key = "/".join(["a/c", *"3333"[: told.ndim]])
    session = told.session(OURS)
    put(session.store, key, b"ours")
    told.chunks[key] = b"ours"
    session.commit("a chunk")
    told.chunks = told.right
    told.check_ours()
    told.check_theirs(told.chunks)
    told.check_history()
    session = told.session(THEIRS)  # and on they go
    told.chunks["a/c/1/2/3/0"] = b"wrong again"
    told.chunks[key] = b"theirs"
    for name in ("a/c/1/2/3/0", key):
        put(session.store, name, told.chunks[name])
    session.commit("theirs")
    told.check_theirs(told.chunks)
    told.check_ours()
    told.check_history()


def test_all_manifests_anew(told: Told) -> None:
    OURS.open(told.root).rewrite_manifests("anew", branch="main")
    told.chunks = told.right
    told.check_ours()
    told.check_theirs(told.chunks)
    manifests = OURS.open(told.root).lookup_snapshot(OURS.open(told.root).lookup_branch("main")).manifests
    assert sum(m.num_chunk_refs for m in manifests) == len(told.right) + 1


SPLIT_STORIES: dict[str, list[Step]] = {
    "wrong ones beside": [[1, "a/c/0", "a/c/3", "a/c/1/0", "a/c/2/0"], ["a/c/0"]],
    "another rank": [[1, "a/c/0", "a/c/3", "a/c/1/0", "a/c/2/0"], ["a/c/0"], [2], ["a/c/3/3"]],
    "fewer": [[2, "a/c/0/0", "a/c/3/3", "a/c/2/0", "a/c/1"], [1], ["a/c/1"], ["a/c/2"]],
}


@pytest.mark.parametrize("name", SPLIT_STORIES)
def test_several_manifests(tmp_path: Path, name: str) -> None:
    """The boxes of the old rank may stand before those of the new one, and hide what is in these from the original."""
    told = Told(tmp_path / "repo", SPLIT_STORIES[name], {"a": 2})
    told.check_ours()
    told.check_history()
    key = "/".join(["a/c", *"33"[: told.ndim]])
    session = told.session(OURS)
    put(session.store, key, b"ours")
    told.chunks[key] = b"ours"
    session.commit("a chunk")
    told.check_ours()
    told.check_history()
    store = told.session(THEIRS).store
    assert {name: get(store, name) for name in told.right} == told.right
    OURS.open(told.root).rewrite_manifests("anew", branch="main")
    told.chunks = told.right
    told.check_ours()
    told.check_theirs(told.chunks)


@pytest.mark.parametrize("theirs", [["a/c/2/2"], ["a/c/2", "a/c/2/2", "a/c/1/1"]])
def test_rebasing_over_wrong_chunks(tmp_path: Path, theirs: list[str]) -> None:
    """Only chunks of the array's rank are in conflict."""
    told = Told(tmp_path / "repo", [[1, "a/c/0", "a/c/0/1"]])
    mine = told.session(OURS)
    put(mine.store, "a/c/2", b"mine")
    session = told.session(THEIRS)
    for key in theirs:
        told.chunks[key] = b"new"
        put(session.store, key, b"new")
    session.commit("theirs")
    if "a/c/2" in theirs:
        with pytest.raises(icechunk_virtual.RebaseFailedError) as caught:
            mine.rebase(icechunk_virtual.ConflictDetector())
        assert [conflict.conflicted_chunks for conflict in caught.value.conflicts] == [[[2]]]
        mine.rebase(icechunk_virtual.BasicConflictSolver())
    else:
        mine.rebase(icechunk_virtual.ConflictDetector())
    mine.commit("mine")
    told.chunks["a/c/2"] = b"mine"
    told.chunks = told.right
    told.check_ours()
    told.check_theirs(told.chunks)


def test_storage_figures(tmp_path: Path) -> None:
    """Chunks of every rank count, and are kept."""
    told = Told(tmp_path / "repo", STORIES["several"][:1])
    stored = sum(path.stat().st_size for path in (told.root / "chunks").iterdir())
    repos = [engine.open(told.root) for engine in (OURS, THEIRS)]
    assert [native_bytes(repo) for repo in repos] == [stored, stored]
    stats = sync(repos[0].chunk_storage_stats_async())
    assert stored > 0
    inlined = sum(len(data) for data in told.chunks.values() if len(data) <= 20) + len(b"other")
    assert (stats.native_bytes, stats.virtual_bytes, stats.inlined_bytes) == (stored, 0, inlined)
    copy = tmp_path / "copy"
    shutil.copytree(told.root, copy)
    assert OURS.open(copy).garbage_collect(tomorrow()).chunks_deleted == 0
