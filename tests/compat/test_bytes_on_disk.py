"""Every feature that leaves bytes on disk, in both directions.

`FEATURES` lists them. Either library writes each, both show the same; the other goes on, tidies up, and again both show
the same. Only then is a feature compatible. Besides: configurations with all kinds of stores (`test_config_compat`),
arrays that are split without being told to (`test_automatic_split`), chunks of the wrong rank (`test_engine_ranks`).
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.core.sync import sync

import icechunk_virtual
from tests.support.clouds import Bucket
from tests.support.engines import (
    Engine,
    apart,
    contents,
    described,
    get,
    inspected,
    picture,
    put,
    refs_of,
    without_chance,
)
from tests.support.histories import METADATA, Sources, array_document, group_document
from tests.support.proxy import Proxy

icechunk: Any = pytest.importorskip("icechunk", reason="the judge, icechunk 1.x, is not installed")
pytestmark = pytest.mark.compat

OURS = Engine("ours", icechunk_virtual)
THEIRS = Engine("theirs", icechunk)
BOTH = [OURS, THEIRS]
PREFIX = "file:///data/"


@dataclass
class Writer:
    """One library and the repository that it makes."""

    engine: Engine
    root: Path | Bucket
    sources: Sources
    ids: list[str] = field(default_factory=list)

    def create(self, splitting: Any = None, **fields: Any) -> Any:
        """A repository with arrays ``a`` and ``g/b`` of 4 x 6 chunks; chunks of more than 20 bytes are objects."""
        ic = self.ic
        manifest = None if splitting is None else ic.ManifestConfig(splitting=splitting)
        config = ic.RepositoryConfig(inline_chunk_threshold_bytes=20, manifest=manifest, **fields)
        store = ic.local_filesystem_store(str(self.sources.root))
        config.set_virtual_chunk_container(ic.VirtualChunkContainer(self.sources.prefix, store))
        repo = self.engine.create(self.root, config, [self.sources.prefix])
        session = repo.writable_session("main")
        group = zarr.create_group(session.store)
        for name, chunk in (("a", (1, 1)), ("g/b", (1, 3))):
            shape = (4 * chunk[0], 6 * chunk[1])
            array = group.create_array(
                name, shape=shape, chunks=chunk, dtype="<f8", compressors=None, dimension_names=["y", "x"]
            )
            array[...] = np.arange(array.size).reshape(shape)
        self.commit(session, "first")
        return repo

    @property
    def ic(self) -> Any:
        return self.engine.ic

    def commit(self, session: Any, message: str, *args: Any, **more: Any) -> str:
        self.ids.append(session.commit(message, *args, **more))
        return self.ids[-1]

    def change(self, repo: Any, n: int, branch: str = "main") -> str:
        """Commit one more chunk."""
        session = repo.writable_session(branch)
        zarr.open_group(session.store, mode="r+")["a"][n % 4, n % 6] = -1.0 - n
        return self.commit(session, f"change {n}")

    def boxes(self, repo: Any) -> dict[str, list[Any]]:
        """Extents of the manifests of every array at the tip."""
        nodes = inspected(repo, repo.lookup_branch("main"))["nodes"]
        return {n["path"]: [ref["extents"] for ref in n["manifest_refs"]] for n in nodes if n["node_type"] == "array"}


# -- nodes and chunks ------------------------------------------------------------------------------------------------


def nodes(w: Writer) -> None:
    """Groups and arrays of any name and shape, documents with attributes, deleted and made anew."""
    repo = w.create()
    session = repo.writable_session("main")
    for path in ("é", "deep", "deep/er", "deep/er/est", "with space", "c", "%20?*"):
        put(session.store, f"{path}/zarr.json", group_document(of=path))
    put(session.store, "scalar/zarr.json", array_document((), ()))
    put(session.store, "scalar/c", b"1234")
    put(session.store, "empty/zarr.json", array_document((0, 3), (1, 2), names=[None, "é"]))
    w.commit(session, "nodes")
    session = repo.writable_session("main")
    sync(session.store.delete_dir("deep"))
    put(session.store, "é/zarr.json", group_document(of="another"))
    sync(session.store.delete("scalar/zarr.json"))
    put(session.store, "scalar/zarr.json", group_document(now="a group"))
    w.commit(session, "others")


def chunks(w: Writer) -> None:
    """Inline, native and empty chunks, written over and deleted."""
    repo = w.create()
    session = repo.writable_session("main")
    put(session.store, "n/zarr.json", array_document((9,), (1,)))
    for i, size in enumerate((0, 1, 20, 21, 3000)):
        put(session.store, f"n/c/{i}", bytes(range(256)) * 12 if size == 3000 else b"x" * size)
    w.commit(session, "sizes")
    session = repo.writable_session("main")
    put(session.store, "n/c/1", b"y" * 500)
    put(session.store, "n/c/4", b"small")
    sync(session.store.delete("n/c/3"))
    w.commit(session, "changed")


def virtual_chunks(w: Writer) -> None:
    """With an etag, with a time, with neither; many through one call; offsets beyond 32 bits."""
    repo = w.create()
    session = repo.writable_session("main")
    put(session.store, "v/zarr.json", array_document((400,), (10,)))
    put(session.store, "far/zarr.json", array_document((4,), (1,)))
    seconds = datetime.fromtimestamp(w.sources.modified(2), UTC)
    for i, checksum in enumerate([None, w.sources.etag(0), seconds]):
        url = w.sources.url(2 if checksum is seconds else 0)
        session.store.set_virtual_ref(f"v/c/{i}", url, offset=40 * i, length=40, checksum=checksum)
    specs = [w.ic.VirtualChunkSpec([i], w.sources.url(i // 10), 40 * (i % 10), 40) for i in range(3, 40)]
    session.store.set_virtual_refs("v", specs)
    w.commit(session, "virtual")
    session = repo.writable_session("main")
    session.store.set_virtual_ref("far/c/0", w.sources.url(0), offset=2**40, length=2**33, validate_container=False)
    flushed = session.flush("cannot be read")  # no file is that long: what is seen is the place
    found = repo.readonly_session(snapshot_id=flushed)
    assert sync(found.store.getsize("far/c/0")) == 2**33


def resized(w: Writer) -> None:
    """Smaller and larger again: chunks that a commit cut off do not come back. (Ranks: `test_engine_ranks`.)"""
    repo = w.create()
    for shape in ((2, 5), (6, 8), (4, 6)):
        session = repo.writable_session("main")
        put(session.store, "a/zarr.json", array_document(shape, (1, 1), attributes={"shape": list(shape)}))
        put(session.store, "a/c/1/1", b"1234")
        w.commit(session, f"{shape}")
    assert get(repo.readonly_session("main").store, "a/c/3/3") is None


# -- manifests -------------------------------------------------------------------------------------------------------

Splitting = Callable[[Any, Any], dict[Any, dict[Any, int]]]
SPLITTINGS: dict[str, tuple[Splitting, dict[str, int]]] = {
    "any array, any axis": (lambda c, d: {c.AnyArray(): {d.Any(): 2}}, {"/a": 6, "/g/b": 6}),
    "name": (lambda c, d: {c.name_matches("^b$"): {d.Any(): 2}}, {"/a": 1, "/g/b": 6}),
    "path": (lambda c, d: {c.path_matches("^/a"): {d.Any(): 3}}, {"/a": 4, "/g/b": 1}),
    "or": (
        lambda c, d: {c.or_conditions([c.name_matches("^b$"), c.path_matches("^/a")]): {d.Any(): 4}},
        {"/a": 2, "/g/b": 2},
    ),
    "and": (
        lambda c, d: {c.and_conditions([c.name_matches("b"), c.path_matches("^/g")]): {d.Any(): 4}},
        {"/a": 1, "/g/b": 2},
    ),
    "axis": (lambda c, d: {c.AnyArray(): {d.Axis(1): 4}}, {"/a": 2, "/g/b": 2}),
    "dimension name": (lambda c, d: {c.AnyArray(): {d.DimensionName("^y$"): 1}}, {"/a": 4, "/g/b": 4}),
    "first rule of several": (
        lambda c, d: {c.name_matches("^a$"): {d.Axis(0): 1, d.Any(): 5}, c.AnyArray(): {d.Any(): 6}},
        {"/a": 8, "/g/b": 1},
    ),
}


def split_by(name: str) -> Callable[[Writer], None]:
    """Manifests cut in boxes as a condition says; a commit writes only those that it touches."""

    def write(w: Writer) -> None:
        make, counts = SPLITTINGS[name]
        conditions = make(w.ic.ManifestSplitCondition, w.ic.ManifestSplitDimCondition)
        repo = w.create(w.ic.ManifestSplittingConfig.from_dict(conditions))
        assert {path: len(boxes) for path, boxes in w.boxes(repo).items()} == counts
        before = {m.id for m in repo.lookup_snapshot(w.ids[-1]).manifests}
        w.change(repo, 1)
        after = {m.id for m in repo.lookup_snapshot(w.ids[-1]).manifests}
        assert len(after - before) == len(before - after) == 1

    return write


def rewritten_manifests(w: Writer) -> None:
    """All anew, with another splitting and without any."""
    repo = w.create()
    for sizes in ({"a": 2, "b": 3}, None):
        other = w.engine.open(w.root, w.engine.config([w.sources.prefix], splits=sizes), [w.sources.prefix])
        w.ids.append(other.rewrite_manifests("anew", branch="main", metadata={"n": 1}))
    assert len(list(repo.ancestry(branch="main"))) == 4


def compression(w: Writer) -> None:
    """Files by other levels of compression."""
    for n, level in enumerate((1, 7)):
        config = w.ic.CompressionConfig(algorithm=w.ic.CompressionAlgorithm.Zstd, level=level)
        if n == 0:
            repo = w.create(compression=config)
        else:
            repo = w.engine.open(w.root, w.ic.RepositoryConfig(compression=config), [w.sources.prefix])
        w.change(repo, n)


# -- versions and refs -----------------------------------------------------------------------------------------------


def messages(w: Writer) -> None:
    """Messages and properties of all kinds, defaults among them."""
    repo = w.create()
    for message, metadata in (("", None), ("é\n\U0001f600", METADATA), ("x" * 5000, {"k" * 300: ["v"] * 300})):
        session = repo.writable_session("main")
        put(session.store, "zarr.json", group_document(message=len(message)))
        w.commit(session, message, metadata)
    repo.set_default_commit_metadata({"who": "me", "n": 1})
    session = repo.writable_session("main")
    put(session.store, "zarr.json", group_document(last=True))
    w.commit(session, "defaults", {"n": 2})
    assert repo.lookup_snapshot(w.ids[-1]).metadata == {"who": "me", "n": 2}


def branches(w: Writer) -> None:
    """Made, committed to, moved, deleted."""
    repo = w.create()
    first = w.ids[-1]
    w.change(repo, 0)
    for name in ("dev", "with space", "gone", "back"):
        repo.create_branch(name, first)
    w.change(repo, 1, "dev")
    w.change(repo, 2, "back")
    repo.reset_branch("back", first)
    repo.delete_branch("gone")
    assert repo.list_branches() == {"main", "dev", "with space", "back"}


def tags(w: Writer) -> None:
    """Made and deleted; the name of a deleted one stays taken for both."""
    repo = w.create()
    repo.create_tag("v1", w.ids[-1])
    repo.create_tag("gone", w.ids[-1])
    repo.delete_tag("gone")
    w.change(repo, 0)
    repo.create_tag("v2.0", w.ids[-1])
    for engine in BOTH:
        other = engine.open(w.root)
        assert other.list_tags() == {"v1", "v2.0"}
        with pytest.raises(engine.ic.IcechunkError):
            other.create_tag("gone", w.ids[-1])


def flushed(w: Writer) -> None:
    """A snapshot that a tag leads to, and one that nothing leads to."""
    repo = w.create()
    for n in range(2):
        session = repo.writable_session("main")
        put(session.store, f"flushed{n}/zarr.json", group_document())
        w.ids.append(session.flush(f"flushed {n}", {"n": n}))
    repo.create_tag("kept", w.ids[-2])
    repo.create_branch("from flush", w.ids[-2])
    w.change(repo, 3, "from flush")


def rebased(w: Writer) -> None:
    """Commits of sessions that came second, split manifests included; with and without conflicts."""
    sizes = {w.ic.ManifestSplitCondition.AnyArray(): {w.ic.ManifestSplitDimCondition.Any(): 2}}
    repo = w.create(w.ic.ManifestSplittingConfig.from_dict(sizes))
    use_theirs = w.ic.BasicConflictSolver(on_chunk_conflict=w.ic.VersionSelection.UseTheirs)
    for n, solver in enumerate((w.ic.ConflictDetector(), w.ic.BasicConflictSolver(), use_theirs)):
        late = repo.writable_session("main")
        group = zarr.open_group(late.store, mode="r+")
        group["a"][0, 0] = 100 + n
        group["a"][3, n] = 200 + n
        group["g/b"].attrs["late"] = n
        early = repo.writable_session("main")
        zarr.open_group(early.store, mode="r+")["a"][min(n, 1) * 3, 5 if n == 0 else n] = 300 + n
        w.commit(early, f"early {n}")
        w.commit(late, f"late {n}", rebase_with=solver)
    found = zarr.open_group(repo.readonly_session("main").store, mode="r")["a"]
    assert [found[0, 0], *found[3, :3]] == [102, 200, 201, 302]


def forked(w: Writer) -> None:
    """Chunks that forks wrote, in one commit."""
    repo = w.create()
    session = repo.writable_session("main")
    forks = [session.fork() for _ in range(2)]
    for n, fork in enumerate(forks):
        zarr.open_group(fork.store, mode="r+")["g/b"][n] = 50 + n
    forks[1] = pickle.loads(pickle.dumps(forks[1]))
    session.merge(*forks)
    w.commit(session, "merged")


# -- upkeep ----------------------------------------------------------------------------------------------------------


def aged(w: Writer) -> tuple[Any, list[datetime]]:
    """A history with branches, tags and garbage, and the times of its commits."""
    repo = w.create()
    for n in range(4):
        w.change(repo, n)
        time.sleep(0.02)  # times of files are those of the last tick of the clock
        if n == 1:
            repo.create_branch("old", w.ids[-1])
            repo.create_tag("old", w.ids[-1])
            w.change(repo, 7, "old")
    stale = repo.writable_session("main")
    zarr.open_group(stale.store, mode="r+")["g/b"][...] = 99
    w.ids.append(stale.flush("lost"))
    return repo, [repo.lookup_snapshot(id).written_at for id in w.ids]


def expired(*, delete: bool) -> Callable[[Writer], None]:
    def write(w: Writer) -> None:
        repo, times = aged(w)
        young = times[4]  # the last commit but one
        gone = repo.expire_snapshots(young, delete_expired_branches=delete, delete_expired_tags=delete)
        assert len(gone) > 2
        again = w.engine.open(w.root)
        assert len(list(again.ancestry(branch="main"))) == 3
        assert again.list_branches() == ({"main"} if delete else {"main", "old"})

    return write


def collected(w: Writer) -> None:
    """After expiration and loss: what is garbage goes, what is used stays."""
    repo, times = aged(w)
    repo.expire_snapshots(times[4], delete_expired_branches=True, delete_expired_tags=True)
    time.sleep(0.02)
    summary = w.engine.open(w.root).garbage_collect(datetime.now(UTC))
    assert summary.snapshots_deleted == summary.transaction_logs_deleted >= 4
    assert summary.chunks_deleted > 0
    w.ids[:] = [info.id for info in w.engine.open(w.root).ancestry(branch="main")][-2::-1]


def saved_config(w: Writer) -> None:
    """A configuration stored again after creation, which both then use."""
    repo = w.create()
    config = w.ic.RepositoryConfig.default()
    config.inline_chunk_threshold_bytes = 4
    sizes = {w.ic.ManifestSplitCondition.AnyArray(): {w.ic.ManifestSplitDimCondition.Any(): 3}}
    config.manifest = w.ic.ManifestConfig(splitting=w.ic.ManifestSplittingConfig.from_dict(sizes))
    repo.reopen(config).save_config()
    for engine in BOTH:
        stored = engine.ic.Repository.fetch_config(engine.storage(w.root))
        assert stored.inline_chunk_threshold_bytes == 4
        assert len(stored.manifest.splitting.split_sizes) == 1
    w.engine.open(w.root).rewrite_manifests("as stored", branch="main")
    w.ids.append(w.engine.open(w.root).lookup_branch("main"))
    assert {len(boxes) for boxes in w.boxes(w.engine.open(w.root)).values()} == {4}


FEATURES: dict[str, Callable[[Writer], Any]] = {
    "nodes": nodes,
    "chunks": chunks,
    "virtual chunks": virtual_chunks,
    "resized": resized,
    **{f"split by {name}": split_by(name) for name in SPLITTINGS},
    "rewritten manifests": rewritten_manifests,
    "compression": compression,
    "messages": messages,
    "branches": branches,
    "tags": tags,
    "flush": flushed,
    "rebase": rebased,
    "forks": forked,
    "expire": expired(delete=False),
    "expire with refs": expired(delete=True),
    "garbage collection": collected,
    "config": saved_config,
}


def go_on(engine: Engine, root: Path | Bucket, sources: Sources) -> str:
    """A commit that touches every array, on what the other library left."""
    session = engine.open(root, None, [sources.prefix]).writable_session("main")
    group = zarr.open_group(session.store, mode="r+")
    group.attrs["went on"] = engine.name
    for _, node in group.members(max_depth=None):
        if isinstance(node, zarr.Array) and node.size:
            node[(-1,) * node.ndim] = 7
            node.attrs["went on"] = True
    group.create_group(f"went on/{engine.name}")
    return str(session.commit("went on"))


def brief(repo: Any) -> dict[str, Any]:
    """Refs, histories, and what the tips of branches show; `picture` is all of it, and takes longer."""
    refs = refs_of(repo)
    return {
        "refs": refs,
        "histories": {name: [described(s) for s in repo.ancestry(branch=name)] for name in refs["branches"]},
        "contents": {id: contents(repo.readonly_session(snapshot_id=id)) for id in set(refs["branches"].values())},
    }


@pytest.mark.parametrize("name", FEATURES)
def test_both_ways(tmp_path: Path, name: str) -> None:
    both_ways(name, Sources(tmp_path / "sources"), [tmp_path / "ours", tmp_path / "theirs"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tags", "rebase", "rewritten manifests", "garbage collection"])
def test_both_ways_in_buckets(tmp_path: Path, bucket: Bucket, s3_server: str, s3_proxy: Proxy, name: str) -> None:
    """The features whose requests to a store differ from those to a disk the most."""
    both_ways(name, Sources(tmp_path / "sources"), [bucket, Bucket(s3_server, s3_proxy)])


def both_ways(name: str, sources: Sources, roots: Sequence[Path | Bucket]) -> None:
    alike = []
    for (writer, other), root in zip((BOTH, BOTH[::-1]), roots, strict=True):
        w = Writer(writer, root, sources)
        FEATURES[name](w)

        def seen(look: Callable[[Any], dict[str, Any]] = brief, root: Path | Bucket = root) -> dict[str, Any]:
            ours, theirs = (look(engine.open(root, None, [sources.prefix])) for engine in BOTH)
            assert apart(ours, theirs) == []
            return ours

        before = seen(picture)
        alike.append(without_chance(before, w.ids))
        tip = go_on(other, root, sources)
        other.open(root).garbage_collect(datetime.now(UTC) + timedelta(days=1))
        after = seen()
        assert after["refs"]["branches"] == before["refs"]["branches"] | {"main": tip}
        go_on(writer, root, sources)
        seen()
    assert apart(*alike) == []
