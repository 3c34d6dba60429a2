"""The original tidies up repositories that we wrote, and we go on with what it leaves; forks; deviations on purpose."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.core.sync import sync

import icechunk_virtual
from tests.support.engines import (
    DEVIATIONS,
    Engine,
    apart,
    changes,
    contents,
    deviates,
    get,
    keys_of,
    names_of,
    native_bytes,
    paths_of,
    picture,
    put,
)
from tests.support.histories import STEPS, Run, Sources, array_document, changed, group_document, many_types, virtual
from tests.support.object_server import ObjectServer
from tests.support.source import ROOT

icechunk: Any = pytest.importorskip("icechunk", reason="the judge, icechunk 1.x, is not installed")
pytestmark = pytest.mark.compat

OURS = Engine("ours", icechunk_virtual)
THEIRS = Engine("theirs", icechunk)
BOTH = [OURS, THEIRS]


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources(tmp_path / "sources")


def tell_some(root: Path, sources: Sources, splits: dict[str, int] | None = None) -> Run:
    """The first commits of the history, by us."""
    assert STEPS[:3] == [many_types, virtual, changed]
    config = OURS.config([sources.prefix], threshold=100, splits=splits)
    run = Run(OURS, OURS.create(root, config, [sources.prefix]), sources)
    for step in STEPS[:3]:
        step(run)
    return run


def tomorrow() -> datetime:
    return datetime.now(UTC) + timedelta(days=1)


def test_garbage_collection_keeps_what_is_used(tmp_path: Path, sources: Sources) -> None:
    """Chunks, manifests, snapshots and logs of ours are found in use; what was never committed goes."""
    root = tmp_path / "repo"
    run = tell_some(root, sources, {"split": 3})
    before = picture(run.repo)
    session = run.session()
    put(session.store, "virtual/one/c/9", bytes(4000))  # never committed
    lost = run.session()
    put(lost.store, "lost/zarr.json", group_document())
    lost.flush("no ref points here")
    files = {path.name for path in root.rglob("*") if path.is_file()}
    summary = THEIRS.open(root).garbage_collect(tomorrow())
    gone = files - {path.name for path in root.rglob("*") if path.is_file()}
    assert (summary.chunks_deleted, summary.snapshots_deleted, summary.manifests_deleted) == (1, 1, 0)
    assert summary.transaction_logs_deleted == 1
    assert len(gone) == 2  # a chunk, and a name that snapshot and log have in common
    seen = [picture(engine.open(root, None, [sources.prefix])) for engine in BOTH]
    assert apart(*seen) == []
    assert apart(seen[0], before) == []
    stored = sum(path.stat().st_size for path in (root / "chunks").iterdir())
    assert native_bytes(THEIRS.open(root)) == stored > 0


def test_expired_history(tmp_path: Path, sources: Sources) -> None:
    """Snapshots with new parents; also for a repository object that had read the old ones."""
    root = tmp_path / "repo"
    run = tell_some(root, sources)
    half_read = OURS.open(root)
    half_read.readonly_session("main")  # knows the parent that is going to be gone
    kept = run.repo.lookup_snapshot(run.ids[-1])
    THEIRS.open(root).expire_snapshots(kept.written_at - timedelta(microseconds=1))
    THEIRS.open(root).garbage_collect(tomorrow())
    seen = [picture(engine.open(root, None, [sources.prefix])) for engine in BOTH]
    assert apart(*seen) == []
    history = [s["id"] for s in seen[0]["histories"]["main"]]
    assert history == [run.ids[-1], "1CECHNKREP0F1RSTCMT0"]
    assert [s.id for s in half_read.ancestry(branch="main")] == history
    session = run.session()
    put(session.store, "after/zarr.json", group_document())
    id = session.commit("after")
    assert [s.id for s in THEIRS.open(root).ancestry(branch="main")] == [id, *history]


def test_rewritten_manifests(tmp_path: Path, sources: Sources) -> None:
    root = tmp_path / "repo"
    run = tell_some(root, sources)
    before = contents(run.repo.readonly_session("main"))
    config = THEIRS.config([sources.prefix], splits={"split": 5, "big": 2})
    id = THEIRS.open(root, config, [sources.prefix]).rewrite_manifests("smaller ones", branch="main")
    repos = [engine.open(root, None, [sources.prefix]) for engine in BOTH]
    assert apart(*(picture(repo) for repo in repos)) == []
    assert apart(contents(repos[0].readonly_session("main")), before) == []
    assert not any(changes(repos[0].diff(from_snapshot_id=run.ids[-1], to_snapshot_id=id)).values())


@pytest.mark.parametrize("engine", BOTH, ids=str)
def test_forks(tmp_path: Path, engine: Engine) -> None:
    """Chunks written by forks, one of them pickled, in one commit that both libraries see alike."""
    root = tmp_path / "repo"
    repo = engine.create(root, engine.config(threshold=8))
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="a", shape=(8, 4), chunks=(2, 4), dtype="i4", compressors=None)[...] = 1
    session.commit("array")
    session = repo.writable_session("main")
    forks = [session.fork() for _ in range(3)]
    forks[1] = pickle.loads(pickle.dumps(forks[1]))
    for n, fork in enumerate(forks):
        zarr.open_array(fork.store, path="a", mode="r+")[2 * n : 2 * n + 2] = 10 + n
    sync(forks[2].store.delete("a/c/3/0"))
    session.merge(*forks)
    status = changes(session.status())
    assert status["updated_chunks"] == {"/a": [[0, 0], [1, 0], [2, 0], [3, 0]]}
    session.commit("merged")
    seen = [picture(e.open(root)) for e in BOTH]
    assert apart(*seen) == []
    found = zarr.open_array(THEIRS.open(root).readonly_session("main").store, path="a", mode="r")[...]
    np.testing.assert_array_equal(found[:, 0], [10, 10, 11, 11, 12, 12, 0, 0])


# -- what differs on purpose -----------------------------------------------------------------------------------------


def sessions(tmp_path: Path) -> list[Any]:
    """A writable session by each library, each on a repository of its own with a root group."""
    found = []
    for engine in BOTH:
        repo = engine.create(tmp_path / engine.name, engine.config(["file:///data/"], splits={"s": 3}))
        with repo.transaction("main", message="root") as store:
            put(store, "zarr.json", group_document())
        found.append((repo, repo.writable_session("main")))
    return found


def siblings(tmp_path: Path) -> tuple[Any, Any]:
    """Names below a committed `/g` beside `/g-x`."""
    root = tmp_path / "repo"
    repo = THEIRS.create(root)
    with repo.transaction("main", message="three") as store:
        for path in ("zarr.json", "g/zarr.json", "g/a/zarr.json", "g-x/zarr.json"):
            put(store, path, group_document())
    stores = [engine.open(root).readonly_session("main").store for engine in BOTH]
    assert names_of(stores[0], "g") == ["a", "zarr.json"]
    return keys_of(stores[0], "g"), keys_of(stores[1], "g")


def resurrection(tmp_path: Path) -> tuple[Any, Any]:
    found = []
    for repo, session in sessions(tmp_path):
        put(session.store, "a/zarr.json", array_document((4,), (1,)))
        put(session.store, "a/c/3", b"old!")
        session.commit("old")
        again = repo.writable_session("main")
        put(again.store, "a/c/3", b"new!")
        put(again.store, "a/zarr.json", array_document((2,), (1,)))
        put(again.store, "a/zarr.json", array_document((4,), (1,), attributes={"grown": True}))
        found.append(get(again.store, "a/c/3"))
    assert found[0] is None
    return found[0], found[1]


def leftover(tmp_path: Path) -> tuple[Any, Any]:
    found = []
    for _, session in sessions(tmp_path):
        put(session.store, "a/zarr.json", array_document((4,), (1,)))
        put(session.store, "a/c/3", b"new!")
        put(session.store, "a/zarr.json", array_document((3,), (1,)))
        sync(session.store.delete("a/zarr.json"))
        found.append(session.has_uncommitted_changes)
    assert found[0] is False
    return found[0], found[1]


def cut_off(tmp_path: Path) -> tuple[Any, Any]:
    found = []
    for repo, session in sessions(tmp_path):
        put(session.store, "a/zarr.json", array_document((4,), (1,)))
        put(session.store, "a/c/3", b"old!")
        session.commit("old")
        again = repo.writable_session("main")
        put(again.store, "a/zarr.json", array_document((2,), (1,)))
        found.append(keys_of(again.store))
    assert found[0] == ["a/zarr.json", "zarr.json"]
    return found[0], found[1]


def overlaps(tmp_path: Path) -> tuple[Any, Any]:
    """Keys listed after the splitting changed from 3 to 4."""
    found = []
    for engine, (repo, session) in zip(BOTH, sessions(tmp_path), strict=True):
        put(session.store, "s/zarr.json", array_document((8,), (1,)))
        for n in range(8):
            put(session.store, f"s/c/{n}", b"old!")
        session.commit("old")
        again = repo.reopen(engine.config(splits={"s": 4})).writable_session("main")
        put(again.store, "s/zarr.json", array_document((8,), (1,), attributes={"new": 1}))
        again.commit("new")
        found.append(keys_of(repo.readonly_session("main").store))
    assert len(found[0]) == len(set(found[0])) == 10
    return found[0], found[1]


def odd_indices(tmp_path: Path) -> tuple[Any, Any]:
    found = []
    for _, session in sessions(tmp_path):
        put(session.store, "a/zarr.json", array_document((4,), (1,)))
        try:
            put(session.store, "a/c/3/0", b"new!")
        except (icechunk.IcechunkError, icechunk_virtual.IcechunkError):
            found.append("refused")
        else:
            found.append("stored")
    assert found[0] == "refused"
    return found[0], found[1]


def locations(tmp_path: Path) -> tuple[Any, Any]:
    found = []
    for _, session in sessions(tmp_path):
        put(session.store, "a/zarr.json", array_document((4,), (1,)))
        session.store.set_virtual_ref("a/c/0", "file:///data/é b.nc", offset=0, length=4)
        found.append(session.all_virtual_chunk_locations())
    assert found[0] == ["file:///data/é b.nc"]
    return found[0], found[1]


def without_parent(tmp_path: Path) -> tuple[Any, Any]:
    found = []
    for _, session in sessions(tmp_path):
        put(session.store, "x/a/zarr.json", group_document())
        found.append(names_of(session.store, "x"))
    assert found[0] == ["a"]
    return found[0], found[1]


def all_or_nothing(tmp_path: Path) -> tuple[Any, Any]:
    found = []
    for engine, (_, session) in zip(BOTH, sessions(tmp_path), strict=True):
        put(session.store, "a/zarr.json", array_document((4,), (1,)))
        specs = [engine.ic.VirtualChunkSpec([n], "file:///data/x", 0, 4) for n in (0, 9)]
        with pytest.raises(engine.ic.IcechunkError, match="invalid chunk index"):
            session.store.set_virtual_refs("a", specs)
        found.append(changes(session.status())["updated_chunks"])
    assert found[0] == {}
    return found[0], found[1]


def moments(tmp_path: Path) -> tuple[Any, Any]:
    from zoneinfo import ZoneInfo

    found = []
    for repo, _ in sessions(tmp_path):
        now = datetime.now(ZoneInfo("Europe/Berlin")) + timedelta(seconds=1)
        try:
            found.append(repo.readonly_session("main", as_of=now).read_only)
        except ValueError:
            found.append("refused")
    assert found[0] is True
    return found[0], found[1]


def containers(tmp_path: Path) -> tuple[Any, Any]:
    """Prefixes that an opened repository knows: one was stored, one was given."""
    found = []
    for engine in BOTH:
        engine.create(tmp_path / engine.name, engine.config(["file:///data/"]))
        repo = engine.open(tmp_path / engine.name, engine.config(["file:///more/"]))
        found.append(sorted(repo.config.virtual_chunk_containers))
    assert found[0] == ["file:///data/", "file:///more/"]
    return found[0], found[1]


def servers(tmp_path: Path) -> tuple[Any, Any]:
    """Requests to a server that only the stored configuration names."""
    found = []
    with ObjectServer({"/bucket/f": b"data"}) as server:
        for engine in BOTH:
            ic, config = engine.ic, engine.config()
            store = ic.s3_store("r", server.url, allow_http=True, force_path_style=True, anonymous=True)
            config.set_virtual_chunk_container(ic.VirtualChunkContainer("s3://bucket/", store))
            session = engine.create(tmp_path / engine.name, config).writable_session("main")
            put(session.store, "a/zarr.json", array_document((4,), (4,)))
            session.store.set_virtual_ref("a/c/0", "s3://bucket/f", offset=0, length=4)
            session.commit("reference")
            granted = ic.containers_credentials({"s3://bucket/": ic.s3_anonymous_credentials()})
            repo = ic.Repository.open(engine.storage(tmp_path / engine.name), None, granted)
            store = repo.readonly_session("main").store
            with server.recording() as seen, contextlib.suppress(ic.IcechunkError):
                get(store, "a/c/0")
            found.append(len(seen))
    assert found[0] == 0
    return found[0], found[1]


SHOWN: dict[str, Callable[[Path], tuple[Any, Any]]] = {
    "siblings": siblings,
    "resurrection": resurrection,
    "leftover": leftover,
    "cut off": cut_off,
    "overlaps": overlaps,
    "indices": odd_indices,
    "locations": locations,
    "without parent": without_parent,
    "all or nothing": all_or_nothing,
    "times": moments,
    "containers": containers,
    "servers": servers,
}


@pytest.mark.parametrize("name", SHOWN)
def test_deviation(tmp_path: Path, name: str) -> None:
    """The list of deviations is true: we do as it says, and the judge does not in the releases that it names."""
    ours, theirs = SHOWN[name](tmp_path)
    assert (ours != theirs) is deviates(name)


def test_deviations_are_documented() -> None:
    page = " ".join((ROOT / "docs" / "reference" / "differences.md").read_text(encoding="utf-8").split())
    for deviation in DEVIATIONS.values():
        assert deviation.text[1:] in page
        assert all(f"{release}" in page for release in (deviation.since, deviation.until) if release is not None)


def test_overlapping_manifests_of_the_original(tmp_path: Path) -> None:
    """What it left behind is read right, and listed once."""
    root = tmp_path / "theirs"
    overlaps(tmp_path)
    session = OURS.open(root).readonly_session("main")
    assert contents(session)["repeated"] == []
    assert paths_of(keys_of(session.store)) == ["/", "/s"]
    assert len(keys_of(session.store, "s")) == 9
    repo = OURS.open(root, OURS.config(splits={"s": 4}))
    with repo.transaction("main", message="ours") as store:
        put(store, "s/c/7", b"new!")
    seen = [contents(engine.open(root).readonly_session("main"))["values"] for engine in BOTH]
    assert apart(*seen) == []
    assert seen[0]["s/c/7"] == b"new!"
