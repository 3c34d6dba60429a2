"""Rows of the feature table about repositories, versions, sessions, conflicts (F001 to F032), beside the original."""

from __future__ import annotations

import asyncio
import inspect
import json
import pickle
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
import zarr
from zarr.abc.store import Store

import icechunk_virtual
from icechunk_virtual.errors import StorageError
from icechunk_virtual.model.world import World
from icechunk_virtual.repo.assets import Assets
from tests.support.conflicts import (
    Act,
    Pair,
    array,
    attrs,
    bare_group,
    both,
    delete,
    group,
    race,
    resize,
    set_chunk,
    told,
    values,
)
from tests.support.engines import Engine, buffer, changes, get, keys_of, put
from tests.support.faulty import Script, faulty
from tests.support.hierarchies import GROUP, array_document, group_document

OURS, ORIGINAL = Engine("ours", icechunk_virtual), Engine("original", icechunk)
each = pytest.mark.parametrize("engine", [OURS, ORIGINAL], ids=repr)
FIRST = "1CECHNKREP0F1RSTCMT0"
NOWHERE = "0" * 20
ARRAY = array_document((4, 4), (2, 2), data_type="int32")


def now() -> datetime:
    return datetime.now(UTC)


def make(engine: Engine, root: Path | None = None, config: Any = None) -> tuple[Any, str]:
    """A repository whose main holds `c1`: the root group, and `a` of 2 x 2 chunks, one of them written."""
    repo = engine.create(root, config)
    session = repo.writable_session("main")
    put(session.store, "zarr.json", GROUP)
    put(session.store, "a/zarr.json", ARRAY)
    put(session.store, "a/c/0/0", b"1" * 16)
    return repo, session.commit("c1")


def commit(repo: Any, message: str, branch: str = "main", **arguments: Any) -> str:
    session = repo.writable_session(branch)
    put(session.store, "zarr.json", group_document(message=message))
    id: str = session.commit(message, **arguments)
    return id


def messages(repo: Any, **version: str) -> list[str]:
    return [info.message for info in repo.ancestry(**(version or {"branch": "main"}))]


# -- repositories ----------------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("place", ["memory", "disk"])
def test_F001_repository_session_store(engine: Engine, place: str, tmp_path: Path) -> None:
    ic = engine.ic
    storage = engine.storage(None if place == "memory" else tmp_path / "r")
    assert not ic.Repository.exists(storage)
    with pytest.raises(ic.IcechunkError, match="the repository doesn't exist"):
        ic.Repository.open(storage)
    repo = ic.Repository.create(storage, config=None, authorize_virtual_chunk_access=None)
    assert ic.Repository.exists(storage)
    with pytest.raises(ic.IcechunkError, match="clean prefixes"):
        ic.Repository.create(storage)
    session = repo.writable_session("main")
    assert isinstance(session.store, Store)
    assert session.store.session == session
    zarr.group(store=session.store).create_array("x", shape=(2,), dtype="i4")[:] = 5
    session.commit("x")
    for again in (ic.Repository.open(storage), ic.Repository.open_or_create(storage)):
        assert zarr.open_group(again.readonly_session("main").store, mode="r")["x"][:].tolist() == [5, 5]
    assert ic.Repository.open_or_create(engine.storage(None)).list_branches() == {"main"}


@each
@pytest.mark.parametrize("name", ["create", "open_or_create"])
def test_F002_only_into_clean_prefixes(engine: Engine, name: str, tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "readme").write_text("not a repository")
    with pytest.raises(engine.ic.IcechunkError, match="clean prefixes"):
        getattr(engine.ic.Repository, name)(engine.storage(tmp_path / "r"))


def test_F002_other_failures_are_themselves(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file") as found:
        OURS.create(tmp_path / "file")
    assert "clean" not in str(found.value)
    refused = faulty(OURS.storage(None), Script(fail_at=1, times=99, error=lambda _: StorageError("NoSuchBucket: b")))
    with pytest.raises(StorageError, match="NoSuchBucket"):
        icechunk_virtual.Repository.create(refused)


@each
def test_F003_the_first_snapshot(engine: Engine, tmp_path: Path) -> None:
    repo = engine.create(tmp_path)
    assert repo.lookup_branch("main") == FIRST
    assert (tmp_path / "snapshots" / FIRST).is_file()
    assert not (tmp_path / "transactions").exists()
    assert not (tmp_path / "config.yaml").exists()
    (info,) = repo.ancestry(branch="main")
    assert (info.message, info.metadata, info.parent_id) == ("Repository initialized", {"__root": True}, None)


@each
@pytest.mark.parametrize("way", ["reopen", "reopen_async"])
def test_F004_reopen(engine: Engine, way: str, tmp_path: Path) -> None:
    ic, prefix = engine.ic, f"file://{tmp_path}/"
    config = engine.config([prefix], threshold=9)
    config.get_partial_values_concurrency = 4
    repo = engine.create(None, config, [prefix])
    repo.set_default_commit_metadata({"author": "me"})

    def reopen(*arguments: Any, **more: Any) -> Any:
        found = getattr(repo, way)(*arguments, **more)
        return found if way == "reopen" else asyncio.run(found)

    other = reopen(ic.RepositoryConfig(inline_chunk_threshold_bytes=3))
    assert other.config.inline_chunk_threshold_bytes == 3
    assert other.config.get_partial_values_concurrency == 4
    assert set(other.config.virtual_chunk_containers) == {prefix}
    assert repo.config.inline_chunk_threshold_bytes == 9
    assert other.authorized_virtual_container_prefixes == {prefix}
    assert reopen(authorize_virtual_chunk_access={}).authorized_virtual_container_prefixes == set()
    other = reopen(authorize_virtual_chunk_access={"file:///nowhere": None})
    assert other.authorized_virtual_container_prefixes == {"file:///nowhere"}, "as it was given"
    assert (repo.default_commit_metadata(), other.default_commit_metadata()) == ({"author": "me"}, {})
    commit(other, "seen by both")
    assert messages(repo)[0] == "seen by both"


@each
def test_F004_configurations_are_saved_on_condition(engine: Engine, tmp_path: Path) -> None:
    ic = engine.ic
    engine.create(tmp_path, ic.RepositoryConfig(inline_chunk_threshold_bytes=3))
    first = engine.open(tmp_path, ic.RepositoryConfig(get_partial_values_concurrency=4))
    second = engine.open(tmp_path, ic.RepositoryConfig(inline_chunk_threshold_bytes=5))
    assert (first.config.inline_chunk_threshold_bytes, first.config.get_partial_values_concurrency) == (3, 4)
    saved = ic.Repository.fetch_config(engine.storage(tmp_path))
    assert (saved.inline_chunk_threshold_bytes, saved.get_partial_values_concurrency) == (3, None), "opening saves not"
    first.save_config()
    assert ic.Repository.fetch_config(engine.storage(tmp_path)).get_partial_values_concurrency == 4
    if engine is ORIGINAL:
        return  # it overwrites the configuration of others on a disk, and cannot save twice anywhere
    with pytest.raises(ic.IcechunkError, match="config was updated by other session"):
        second.save_config()
    first.save_config()


@each
def test_F005_repositories_pickle(engine: Engine, tmp_path: Path) -> None:
    prefix = "file:///data/"
    repo = engine.create(tmp_path, engine.config([prefix], threshold=7), [prefix])
    repo.set_default_commit_metadata({"author": "me"})
    copy = pickle.loads(pickle.dumps(repo))
    assert copy.list_branches() == {"main"}
    assert copy.config == repo.config
    assert copy.authorized_virtual_container_prefixes == {prefix}
    assert copy.default_commit_metadata() == {"author": "me"}
    assert commit(copy, "through the copy") == repo.lookup_branch("main")
    in_memory, _ = make(engine)
    copy = pickle.loads(pickle.dumps(in_memory))
    if engine is OURS:
        assert copy.lookup_branch("main") == in_memory.lookup_branch("main")
    else:  # an empty storage
        assert copy.list_branches() == set()


@each
def test_F006_transactions(engine: Engine) -> None:
    repo, _ = make(engine)
    with repo.transaction("main", message="t", metadata={"k": 1}) as store:
        assert isinstance(store, engine.ic.IcechunkStore)
        put(store, "a/c/1/1", b"2" * 16)
    tip = repo.lookup_branch("main")
    assert (repo.lookup_snapshot(tip).message, repo.lookup_snapshot(tip).metadata) == ("t", {"k": 1})

    def fail() -> None:
        with repo.transaction("main", message="t") as store:
            put(store, "a/c/1/0", b"3" * 16)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with pytest.raises(engine.ic.IcechunkError, match="no changes"), repo.transaction("main", message="empty"):
        pass
    assert repo.lookup_branch("main") == tip
    with repo.transaction("main", message="mine", rebase_with=engine.ic.ConflictDetector(), rebase_tries=1) as store:
        put(store, "a/c/1/0", b"3" * 16)
        commit(repo, "theirs")
    assert messages(repo)[:3] == ["mine", "theirs", "t"]


def awaited(owner: type) -> set[str]:
    return {name for name in dir(owner) if name.endswith("_async")}


def test_F007_every_async_name_of_the_original() -> None:
    ic = icechunk_virtual
    for ours, original in [
        (ic.Repository, icechunk.Repository),
        (ic.Session, icechunk.Session),
        (ic.IcechunkStore, icechunk.IcechunkStore),
    ]:
        assert awaited(original) <= awaited(ours)
        assert len(awaited(original)) >= 2
    assert len(awaited(icechunk.Repository)) == 25  # the proof below awaits each


class Recorder:
    """Notes which coroutine methods of an object are called."""

    def __init__(self, wrapped: Any, seen: set[str]) -> None:
        self.wrapped, self.seen = wrapped, seen

    def __getattr__(self, name: str) -> Any:
        if name.endswith("_async"):
            self.seen.add(name)
        return getattr(self.wrapped, name)


@each
def test_F007_everything_can_be_awaited(engine: Engine, tmp_path: Path) -> None:
    ic, seen = engine.ic, {"Repository": set[str](), "Session": set[str](), "IcechunkStore": set[str]()}

    async def scenario() -> None:
        class_ = Recorder(ic.Repository, seen["Repository"])
        storage = engine.storage(tmp_path / "r")
        assert not await class_.exists_async(storage)
        await class_.create_async(storage, engine.config([f"file://{tmp_path}/"]))
        await class_.open_or_create_async(storage)
        repo = Recorder(await class_.open_async(storage), seen["Repository"])
        assert (await class_.fetch_config_async(storage)) is not None
        await repo.save_config_async()
        await repo.reopen_async()
        session = await repo.writable_session_async("main")
        store = session.store
        await store.set("zarr.json", buffer(GROUP))
        await store.set("a/zarr.json", buffer(ARRAY))
        await store.set("v/zarr.json", buffer(array_document((2,))))
        recorded = Recorder(store, seen["IcechunkStore"])
        await recorded.set_virtual_ref_async("v/c/0", f"file://{tmp_path}/f", offset=0, length=1)
        await recorded.set_virtual_refs_async("v", [ic.VirtualChunkSpec([1], f"file://{tmp_path}/f", 1, 1)])
        recorded = Recorder(session, seen["Session"])
        assert len(await recorded.all_virtual_chunk_locations_async()) == 2
        c1 = await recorded.commit_async("c1")
        assert await repo.lookup_branch_async("main") == c1
        assert (await repo.lookup_snapshot_async(c1)).message == "c1"
        assert json.loads(await repo.inspect_snapshot_async(c1))["id"] == c1
        assert [info.message async for info in repo.async_ancestry(branch="main")] == ["c1", "Repository initialized"]
        await repo.create_branch_async("b", c1)
        await repo.create_tag_async("t", c1)
        assert await repo.list_branches_async() == {"main", "b"}
        assert await repo.list_tags_async() == {"t"}
        assert await repo.lookup_tag_async("t") == c1
        await repo.reset_branch_async("b", FIRST)
        await repo.delete_branch_async("b")
        await repo.delete_tag_async("t")
        assert "/a" in (await repo.diff_async(from_snapshot_id=FIRST, to_branch="main")).new_arrays
        assert (await repo.readonly_session_async("main")).snapshot_id == c1
        one, two, three = [Recorder(await repo.writable_session_async("main"), seen["Session"]) for _ in range(3)]
        fork = one.fork()
        await fork.store.set("a/c/0/0", buffer(b"1" * 16))
        await one.merge_async(fork)
        await one.commit_async("c2")
        await two.store.set("a/c/1/1", buffer(b"1" * 16))
        await two.rebase_async(ic.ConflictDetector())
        await two.commit_async("c3")
        await three.store.set("a/c/1/1", buffer(b"1" * 16))
        await three.flush_async("flushed")
        await repo.rewrite_manifests_async("rewritten", branch="main")
        await repo.expire_snapshots_async(now() - timedelta(days=1))
        await repo.garbage_collect_async(now() - timedelta(days=1))
        await repo.total_chunks_storage_async()
        assert repo.lookup_branch("main") == await repo.lookup_branch_async("main"), "a loop runs in this thread"

    asyncio.run(scenario())
    assert seen == {name: awaited(getattr(icechunk, name)) for name in seen}


# -- versions --------------------------------------------------------------------------------------------------


@each
def test_F008_read_only_sessions_by_one_name(engine: Engine) -> None:
    repo, c1 = make(engine)
    repo.create_tag("t", c1)
    for session in (
        repo.readonly_session("main"),
        repo.readonly_session(branch="main"),
        repo.readonly_session(tag="t"),
        repo.readonly_session(snapshot_id=c1),
    ):
        assert (session.snapshot_id, session.read_only, session.branch) == (c1, True, None)
    for version in ({}, {"branch": "main", "tag": "t"}, {"tag": "t", "snapshot_id": c1}):
        with pytest.raises(ValueError, match="Must provide one of branch, tag, or snapshot_id"):
            repo.readonly_session(**version)
    with pytest.raises(TypeError):
        repo.readonly_session("main", "t")


@each
def test_F009_as_of(engine: Engine) -> None:
    ic = engine.ic
    repo, c1 = make(engine)
    c2 = commit(repo, "c2")
    written = {id: repo.lookup_snapshot(id).written_at for id in (FIRST, c1, c2)}
    one = timedelta(microseconds=1)
    for moment, id in [
        (now() + timedelta(days=1), c2),
        (written[c2], c2),
        (written[c2] - one, c1),
        (written[c1], c1),
        (written[FIRST], FIRST),
    ]:
        assert repo.readonly_session("main", as_of=moment).snapshot_id == id
    with pytest.raises(ic.IcechunkError, match="branch main does not have a snapshots before or at"):
        repo.readonly_session("main", as_of=written[FIRST] - one)
    with pytest.raises(TypeError):
        repo.readonly_session("main", as_of=written[c2].replace(tzinfo=None))
    for version in ({"tag": "t"}, {"snapshot_id": c1}):
        with pytest.raises(ValueError, match="as_of argument must be provided together with a branch name"):
            repo.readonly_session(as_of=now(), **version)
    if engine is OURS:  # the original takes datetime.UTC only
        elsewhere = written[c1].astimezone(timezone(timedelta(hours=2)))
        assert repo.readonly_session("main", as_of=elsewhere).snapshot_id == c1


@each
def test_F010_snapshot_id_everywhere(engine: Engine) -> None:
    names = (
        "create_branch",
        "create_tag",
        "reset_branch",
        "ancestry",
        "readonly_session",
        "lookup_snapshot",
        "inspect_snapshot",
    )
    for name in names:
        assert "snapshot_id" in inspect.signature(getattr(engine.ic.Repository, name)).parameters
    repo, c1 = make(engine)
    repo.create_branch("b", snapshot_id=FIRST)
    repo.create_tag("t", snapshot_id=c1)
    repo.reset_branch("b", snapshot_id=c1)
    assert repo.lookup_snapshot(snapshot_id=c1).id == json.loads(repo.inspect_snapshot(snapshot_id=c1))["id"] == c1


@each
def test_F011_snapshots_and_tags_are_read_only(engine: Engine) -> None:
    ic = engine.ic
    repo, c1 = make(engine)
    repo.create_tag("t", c1)
    for version in ({"tag": "t"}, {"snapshot_id": c1}):
        session = repo.readonly_session(**version)
        assert (session.read_only, session.branch) == (True, None)
        assert session.store.read_only
        for act in (
            lambda store=session.store: put(store, "a/c/0/1", b"2" * 16),
            lambda session=session: session.commit("no"),
            lambda session=session: session.flush("no"),
            lambda session=session: session.rebase(ic.ConflictDetector()),
        ):
            with pytest.raises(ic.IcechunkError, match=r"(?i)read.only|no changes"):
                act()
        session.discard_changes()
        assert not hasattr(session.store, "set_writable")
    for version in ({"snapshot_id": NOWHERE}, {"snapshot_id": "what?"}, {"tag": "nope"}, {"branch": "nope"}):
        with pytest.raises(ic.IcechunkError):
            repo.readonly_session(**version)


@each
def test_F012_the_configuration_of_a_session(engine: Engine) -> None:
    repo, _ = make(engine, config=engine.config(threshold=3))
    for session in (repo.readonly_session("main"), repo.writable_session("main")):
        assert session.config == repo.config
        session.config.inline_chunk_threshold_bytes = 99
        assert session.config.inline_chunk_threshold_bytes == 3
    repo.config.inline_chunk_threshold_bytes = 99
    assert repo.config.inline_chunk_threshold_bytes == 3


@each
@pytest.mark.parametrize("way", ["reset_branch", "reset_branch_async"])
def test_F013_reset_branch(engine: Engine, way: str) -> None:
    repo, c1 = make(engine)
    c2 = commit(repo, "c2")

    def reset(*arguments: Any, **more: Any) -> None:
        found = getattr(repo, way)(*arguments, **more)
        if way.endswith("_async"):
            asyncio.run(found)

    reset("main", c1)
    assert repo.lookup_branch("main") == c1
    reset("main", c1)
    reset("main", c2)
    assert repo.lookup_branch("main") == c2, "nothing is deleted by moving away"
    for branch, id, text in [
        ("nope", c1, "ref not found `nope`"),
        ("main", "what?", "invalid snapshot id"),
        ("main", NOWHERE, "snapshot not found"),
    ]:
        with pytest.raises(engine.ic.IcechunkError, match=text):
            reset(branch, id)
    assert repo.lookup_branch("main") == c2


@each
def test_F014_reset_branch_from_where_it_is(engine: Engine) -> None:
    repo, c1 = make(engine)
    c2 = commit(repo, "c2")
    with pytest.raises(engine.ic.IcechunkError, match="branch update conflict"):
        repo.reset_branch("main", FIRST, from_snapshot_id=c1)
    assert repo.lookup_branch("main") == c2
    repo.reset_branch("main", c1, from_snapshot_id=c2)
    assert repo.lookup_branch("main") == c1
    with pytest.raises(engine.ic.IcechunkError, match=r"branch update conflict.*None"):
        repo.reset_branch("nope", c1, from_snapshot_id=c2)


@each
def test_F015_deleted_tags_are_burnt(engine: Engine, tmp_path: Path) -> None:
    repo, c1 = make(engine, tmp_path)
    repo.create_tag("t", c1)
    with pytest.raises(engine.ic.IcechunkError, match="tag already exists"):
        repo.create_tag("t", FIRST)
    repo.delete_tag("t")
    assert sorted(path.name for path in (tmp_path / "refs" / "tag.t").iterdir()) == ["ref.json", "ref.json.deleted"]
    for act in (repo.lookup_tag, repo.delete_tag):
        with pytest.raises(engine.ic.IcechunkError, match="ref not found `t`"):
            act("t")
    assert repo.list_tags() == set()
    with pytest.raises(engine.ic.IcechunkError, match="tag already exists"):
        repo.create_tag("t", c1)
    other = ORIGINAL if engine is OURS else OURS
    assert other.open(tmp_path).list_tags() == set()


@each
def test_F016_refs_to_what_exists_by_names_that_can_be(engine: Engine, tmp_path: Path) -> None:
    ic = engine.ic
    repo, c1 = make(engine, tmp_path)
    for create in (repo.create_tag, repo.create_branch):
        with pytest.raises(ic.IcechunkError, match="snapshot not found"):
            create("q", NOWHERE)
        with pytest.raises(ic.IcechunkError, match="invalid ref name"):
            create("a/b", c1)
    with pytest.raises(ic.IcechunkError, match="branch update conflict"):
        repo.create_branch("main", c1)
    assert (repo.list_branches(), repo.list_tags()) == ({"main"}, set())
    if engine is ORIGINAL:
        return  # takes any other name, and shows some of them escaped, or not at all
    for create in (repo.create_tag, repo.create_branch):
        for name in ("", ".", "..", "a\nb"):
            with pytest.raises(ic.IcechunkError, match="invalid ref name"):
                create(name, c1)
        create("año 1.5%", c1)
    assert (repo.list_branches(), repo.list_tags()) == ({"main", "año 1.5%"}, {"año 1.5%"})
    assert repo.lookup_branch("año 1.5%") == repo.lookup_tag("año 1.5%") == c1


@each
def test_F017_main_stays(engine: Engine) -> None:
    repo, c1 = make(engine)
    with pytest.raises(engine.ic.IcechunkError, match="main branch cannot be deleted"):
        repo.delete_branch("main")
    repo.create_branch("b", c1)
    repo.delete_branch("b")
    with pytest.raises(engine.ic.IcechunkError, match="ref not found `b`"):
        repo.delete_branch("b")
    repo.create_branch("b", FIRST)
    assert (repo.lookup_branch("main"), repo.lookup_branch("b")) == (c1, FIRST)


@each
def test_F018_where_refs_lie(engine: Engine, tmp_path: Path) -> None:
    repo, c1 = make(engine, tmp_path)
    repo.create_branch("b", FIRST)
    repo.create_tag("t", c1)
    found = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.glob("refs/*/*")}
    assert {name: json.loads(text) for name, text in found.items()} == {
        "refs/branch.main/ref.json": {"snapshot": c1},
        "refs/branch.b/ref.json": {"snapshot": FIRST},
        "refs/tag.t/ref.json": {"snapshot": c1},
    }
    assert found["refs/tag.t/ref.json"] == f'{{"snapshot":"{c1}"}}'


@each
@pytest.mark.parametrize("way", ["ancestry", "async_ancestry"])
def test_F019_ancestry_both_ways(engine: Engine, way: str) -> None:
    repo, c1 = make(engine)
    c2 = commit(repo, "c2")
    repo.create_tag("t", c1)
    ancestry = getattr(repo, way)
    assert isinstance(ancestry(branch="main"), Iterator)
    assert isinstance(ancestry(branch="main"), AsyncIterator)
    assert next(iter(ancestry(branch="main"))).id == c2

    async def ids(**version: str) -> list[str]:
        return [info.id async for info in ancestry(**version)]

    for version, expected in [
        ({"branch": "main"}, [c2, c1, FIRST]),
        ({"tag": "t"}, [c1, FIRST]),
        ({"snapshot_id": c1}, [c1, FIRST]),
    ]:
        assert [info.id for info in ancestry(**version)] == expected
        assert asyncio.run(ids(**version)) == expected
    for version in ({}, {"branch": "main", "tag": "t"}):
        with pytest.raises(ValueError, match="Must provide one of branch, tag, or snapshot_id"):
            ancestry(**version)
    with pytest.raises(engine.ic.IcechunkError, match="ref not found"):
        next(ancestry(branch="nope"))


def test_F019_ancestry_is_lazy() -> None:
    storage, script = OURS.storage(None), Script()
    repo = icechunk_virtual.Repository.create(storage)
    for number in range(5):
        commit(repo, f"{number}")
    history = icechunk_virtual.Repository.open(faulty(storage, script)).ancestry(branch="main")

    def fetched() -> int:
        return sum(key.startswith("snapshots/") for operation, key in script.calls if operation == "get")

    assert [(next(history).message, fetched()) for _ in range(3)] == [("4", 1), ("3", 2), ("2", 3)]


@each
def test_F020_lookup_snapshot(engine: Engine) -> None:
    repo, c1 = make(engine)
    info = repo.lookup_snapshot(c1)
    assert isinstance(info, engine.ic.SnapshotInfo)
    assert (info.id, info.parent_id, info.message, info.metadata) == (c1, FIRST, "c1", {})
    assert info.written_at.utcoffset() == timedelta(0)
    assert abs(info.written_at - now()) < timedelta(minutes=5)
    assert repo.lookup_snapshot(c1.lower()) == info == next(repo.ancestry(branch="main"))
    assert repo.lookup_snapshot(FIRST.replace("0", "o").replace("1", "l")).id == FIRST
    for id in (NOWHERE, "what?"):
        with pytest.raises(engine.ic.IcechunkError):
            repo.lookup_snapshot(id)


@each
def test_F021_manifests_of_a_snapshot(engine: Engine, tmp_path: Path) -> None:
    repo, c1 = make(engine, tmp_path)
    (manifest,) = repo.lookup_snapshot(c1).manifests
    assert isinstance(manifest, engine.ic.ManifestFileInfo)
    assert manifest.num_chunk_refs == 1
    assert manifest.size_bytes == (tmp_path / "manifests" / manifest.id).stat().st_size
    session = repo.writable_session("main")
    put(session.store, "a/c/1/1", b"2" * 16)
    put(session.store, "b/zarr.json", ARRAY)
    put(session.store, "b/c/0/0", b"2" * 16)
    c2 = session.commit("c2")
    assert sorted(m.num_chunk_refs for m in repo.lookup_snapshot(c2).manifests) == [1, 2]


@each
def test_F022_snapshots_as_json(engine: Engine, tmp_path: Path) -> None:
    repo, c1 = make(engine, tmp_path)
    session = repo.writable_session("main")
    put(session.store, "a/c/1/1", b"2" * 16)
    c2 = session.commit("c2", {"k": [1, None]})
    found = json.loads(repo.inspect_snapshot(c2))
    assert list(found) == [
        "id",
        "parent_id",
        "flushed_at",
        "commit_message",
        "metadata",
        "manifests",
        "nodes",
    ]
    assert (found["id"], found["parent_id"], found["commit_message"], found["metadata"]) == (
        c2,
        c1,
        "c2",
        {"k": [1, None]},
    )
    root, array = found["nodes"]
    assert (root["path"], root["node_type"], "manifest_refs" in root) == ("/", "group", False)
    assert (array["path"], array["node_type"]) == ("/a", "array")
    (manifest,), (ref,) = found["manifests"], array["manifest_refs"]
    assert ref == {"id": manifest["id"], "extents": [[0, 2], [0, 2]]}
    assert json.loads(repo.inspect_snapshot(c2, pretty=False)) == found
    assert "\n" not in repo.inspect_snapshot(c2, pretty=False)
    for id in (FIRST, c1, c2):  # letter for letter
        texts = {e.open(tmp_path).inspect_snapshot(id) for e in (OURS, ORIGINAL)}
        assert len(texts) == 1
    for id in (NOWHERE, "what?"):
        with pytest.raises(engine.ic.IcechunkError):
            repo.inspect_snapshot(id)


# -- changes ---------------------------------------------------------------------------------------------------


@each
def test_F023_differences(engine: Engine, tmp_path: Path) -> None:
    ic = engine.ic
    repo, c1 = make(engine, tmp_path)
    repo.create_tag("t", c1)
    session = repo.writable_session("main")
    put(session.store, "g/zarr.json", GROUP)
    put(session.store, "gone/zarr.json", ARRAY)
    put(session.store, "a/c/1/1", b"2" * 16)
    c2 = session.commit("c2")
    session = repo.writable_session("main")
    put(session.store, "a/zarr.json", array_document((6, 4), (2, 2), data_type="int32"))
    asyncio.run(session.store.delete("gone/zarr.json"))
    asyncio.run(session.store.delete("a/c/0/0"))
    c3 = session.commit("c3")
    assert changes(repo.diff(from_snapshot_id=FIRST, to_branch="main")) == {
        "new_groups": ["/", "/g"],
        "new_arrays": ["/a"],  # what came and went does not appear
        "deleted_groups": [],
        "deleted_arrays": [],
        "updated_groups": [],
        "updated_arrays": ["/a"],
        "updated_chunks": {"/a": [[0, 0], [1, 1]]},
    }
    found = repo.diff(from_snapshot_id=c2, to_snapshot_id=c3)
    assert found == repo.diff(from_snapshot_id=c2, to_branch="main")
    assert (found.deleted_arrays, found.updated_arrays, found.updated_chunks) == ({"/gone"}, {"/a"}, {"/a": [[0, 0]]})
    for start, end in [(c3, c3), (c3, c1)]:
        with pytest.raises(ic.IcechunkError, match="doesn't include"):
            repo.diff(from_snapshot_id=start, to_snapshot_id=end)
    for wrong in ({"from_tag": "t"}, {"from_tag": "t", "to_tag": "t", "to_branch": "main"}):
        with pytest.raises(ValueError, match="Must provide one of branch, tag, or snapshot_id"):
            repo.diff(**wrong)
    versions = [({"from_snapshot_id": FIRST}, {"to_tag": "t"}), ({"from_tag": "t"}, {"to_branch": "main"})]
    for start, end in versions:
        texts = {repr(e.open(tmp_path).diff(**start, **end)) for e in (OURS, ORIGINAL)}
        assert len(texts) == 1


@each
def test_F024_uncommitted_changes(engine: Engine) -> None:
    repo, _ = make(engine)
    session = repo.writable_session("main")
    assert not session.has_uncommitted_changes
    assert repr(session.status()) == ""
    put(session.store, "a/c/0/0", b"2" * 16)
    assert session.has_uncommitted_changes
    assert session.status().updated_chunks == {"/a": [[0, 0]]}
    assert repr(session.status()) == "Chunks updated:\n    /a:\n        [0, 0]\n"
    session.discard_changes()
    assert not session.has_uncommitted_changes
    assert get(session.store, "a/c/0/0") == b"1" * 16
    with pytest.raises(engine.ic.IcechunkError, match="no changes"):
        session.commit("nothing")


@each
def test_F024_nothing_is_left_of_what_came_and_went(engine: Engine) -> None:
    repo, _ = make(engine)
    session = repo.writable_session("main")
    put(session.store, "b/zarr.json", ARRAY)
    put(session.store, "b/c/0/0", b"2" * 16)
    put(session.store, "b/zarr.json", array_document((6, 4), (2, 2), data_type="int32"))
    asyncio.run(session.store.delete("b/zarr.json"))
    assert session.has_uncommitted_changes is (engine is ORIGINAL)  # which can then commit nothing


@each
def test_F025_properties_of_commits(engine: Engine) -> None:
    repo, c1 = make(engine)
    given = {
        "a": [1, {"b": None}],
        "big": 2**63,
        "bigger": 2**70,
        "f": 1.5,
        "nan": float("nan"),
        "t": (True, "x"),
        "deep": {"er": {"st": []}},
    }
    session = repo.writable_session("main")
    with pytest.raises(engine.ic.IcechunkError, match="no changes"):
        session.commit("empty", given)
    put(session.store, "a/c/1/1", b"2" * 16)
    for wrong in ({"x": object()}, {1: 2}, {"x": {1, 2}}, {"x": {3: 4}}):
        with pytest.raises(TypeError):
            session.commit("wrong", metadata=wrong)
    assert session.has_uncommitted_changes
    id = session.commit("m", metadata=given)
    assert repo.lookup_snapshot(id).metadata == given | {"bigger": float(2**70), "nan": None, "t": [True, "x"]}
    assert (session.read_only, session.snapshot_id, session.branch) == (True, id, None)
    assert not session.has_uncommitted_changes
    with pytest.raises(engine.ic.IcechunkError, match="read-only"):
        put(session.store, "a/c/1/1", b"3" * 16)
    assert repo.lookup_snapshot(id).parent_id == c1


@each
def test_F026_default_properties(engine: Engine, tmp_path: Path) -> None:
    repo, _ = make(engine, tmp_path)
    before = repo.writable_session("main")
    assert repo.default_commit_metadata() == {}
    repo.set_default_commit_metadata({"author": "me", "n": 1})
    assert repo.default_commit_metadata() == {"author": "me", "n": 1}
    repo.default_commit_metadata()["author"] = "you"
    put(before.store, "a/c/1/1", b"2" * 16)
    assert repo.lookup_snapshot(before.commit("opened before")).metadata == {}
    id = commit(repo, "c2", metadata={"n": 2})
    assert repo.lookup_snapshot(id).metadata == {"author": "me", "n": 2}
    copy = pickle.loads(pickle.dumps(repo))
    assert repo.lookup_snapshot(commit(copy, "c3")).metadata == {"author": "me", "n": 1}
    flushed = repo.writable_session("main")
    put(flushed.store, "a/c/1/1", b"3" * 16)
    assert repo.lookup_snapshot(flushed.flush("f")).metadata == {"author": "me", "n": 1}
    assert repo.reopen().default_commit_metadata() == {}


@each
def test_F027_flush(engine: Engine, tmp_path: Path) -> None:
    ic = engine.ic
    repo, c1 = make(engine, tmp_path)

    def flush(value: bytes) -> str:
        session = repo.writable_session("main")
        put(session.store, "a/c/0/0", value * 16)
        id: str = session.flush("tmp", metadata={"k": 1})
        assert (session.read_only, session.snapshot_id, session.branch) == (True, id, None)
        with pytest.raises(ic.IcechunkError):
            session.flush("again")
        return id

    kept, lost = flush(b"2"), flush(b"3")
    assert repo.lookup_branch("main") == c1
    assert messages(repo, snapshot_id=kept) == ["tmp", "c1", "Repository initialized"]
    assert repo.lookup_snapshot(kept).metadata == {"k": 1}
    repo.create_tag("t", kept)
    repo.create_branch("b", kept)
    assert repo.garbage_collect(now() + timedelta(seconds=2)).snapshots_deleted == 1
    again = engine.open(tmp_path)
    assert get(again.readonly_session("b").store, "a/c/0/0") == b"2" * 16
    with pytest.raises(ic.IcechunkError):
        again.lookup_snapshot(lost)
    again.reset_branch("main", kept)
    assert again.lookup_branch("main") == kept
    with pytest.raises(ic.IcechunkError):
        again.writable_session("main").flush("no changes")


@pytest.mark.parametrize(
    ("hours", "passes"), [(0, True), (500 / 3600, True), (-500 / 3600, True), (1, False), (-1, False)]
)
def test_F028_clocks_that_drift(hours: float, passes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The storage's clock is shifted: it says when it received what was just written."""
    repo, c1 = make(OURS)
    session = repo.writable_session("main")
    put(session.store, "a/c/1/1", b"2" * 16)
    real = Assets.snapshot_last_modified_us

    async def shifted(self: Assets, id: Any) -> int:
        return await real(self, id) + int(hours * 3600e6)

    monkeypatch.setattr(Assets, "snapshot_last_modified_us", shifted)
    if passes:
        assert session.commit("fine") == repo.lookup_branch("main")
        return
    with pytest.raises(icechunk_virtual.IcechunkError, match=r"machine clock has drifted: local clock.*store clock"):
        session.commit("drifted")
    assert repo.lookup_branch("main") == c1
    assert session.has_uncommitted_changes


def test_F028_time_goes_on() -> None:
    repo, _ = make(OURS)
    session = repo.writable_session("main")
    put(session.store, "a/c/1/1", b"2" * 16)
    written = repo.lookup_snapshot(session.snapshot_id).written_at
    session._workspace.world = World(now_us=lambda: int(written.timestamp() * 1e6) - 1)
    with pytest.raises(icechunk_virtual.IcechunkError, match="invalid snapshot timestamp ordering"):
        session.commit("before its parent")


@each
def test_F029_arrays_written_at_once_stay_apart(engine: Engine, tmp_path: Path) -> None:
    repo, _ = make(engine, tmp_path, engine.config(threshold=0))
    session = repo.writable_session("main")
    root = zarr.open_group(session.store, mode="r+")
    for n in range(20):
        root.create_array(f"n{n}", shape=(6,), chunks=(1,), dtype="i4", compressors=None, fill_value=-1)

    def write(at: int) -> None:
        n, chunk = at % 20, at // 20
        zarr.open_array(session.store, path=f"n{n}", mode="r+")[chunk] = 100 * n + chunk

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(120)))
    session.commit("all at once")
    read = zarr.open_group(engine.open(tmp_path).readonly_session("main").store, mode="r")
    assert {n: read[f"n{n}"][:].tolist() for n in range(20)} == {n: [100 * n + i for i in range(6)] for n in range(20)}


@each
def test_F030_nodes_are_overwritten(engine: Engine) -> None:
    repo, c1 = make(engine)

    def node_ids(id: str) -> dict[str, str]:
        return {node["path"]: node["id"] for node in json.loads(repo.inspect_snapshot(id))["nodes"]}

    session = repo.writable_session("main")
    root = zarr.open_group(session.store, mode="r+")
    root.create_array("a", shape=(4, 4), chunks=(2, 2), dtype="i4", fill_value=9, overwrite=True)
    assert get(session.store, "a/c/0/0") is None
    assert np.all(root["a"][:] == 9)
    status = session.status()
    assert (status.new_arrays, status.deleted_arrays) == ({"/a"}, {"/a"})
    c2 = session.commit("array")
    assert node_ids(c2)["/a"] != node_ids(c1)["/a"]
    assert node_ids(c2)["/"] == node_ids(c1)["/"]
    session = repo.writable_session("main")
    zarr.group(store=session.store, overwrite=True)
    assert keys_of(session.store) == ["zarr.json"]
    c3 = session.commit("everything")
    assert set(node_ids(c3)) == {"/"}
    assert node_ids(c3)["/"] != node_ids(c1)["/"]
    assert get(repo.readonly_session(snapshot_id=c1).store, "a/c/0/0") == b"1" * 16


# -- conflicts -------------------------------------------------------------------------------------------------

CHUNK_A, CHUNK_B = set_chunk("a", 0, 0), set_chunk("a", 1, 1)
MINE_A = set_chunk("a", 0, 0, value=8)
DOUBLE, EXISTS = "Zarr metadata double update", "New node conflicts with existing node"
IN_UPDATED = "/a: Chunks updated in updated array"

# Committed by others first, mine, what the detector reports, whether the basic solver passes.
OUTCOMES: dict[str, tuple[Act, Act, list[str], bool]] = {
    "chunk, another chunk": (CHUNK_A, CHUNK_B, [], True),
    "chunk, the same chunk": (CHUNK_A, MINE_A, ["/a: Chunk double update [[0, 0]]"], True),
    "array attrs twice": (attrs("a"), attrs("a", y=1), [f"/a: {DOUBLE}"], False),
    "group attrs twice": (attrs("g"), attrs("g", y=1), [f"/g: {DOUBLE}"], False),
    "chunk, delete array": (CHUNK_A, delete("a"), ["/a: Delete of updated array"], True),
    "array attrs, delete array": (attrs("a"), delete("a"), ["/a: Delete of updated array"], True),
    "delete array, chunk": (delete("a"), CHUNK_A, ["/a: Chunks updated in deleted array"], False),
    "delete array, array attrs": (delete("a"), attrs("a"), ["/a: Zarr metadata update of deleted array"], False),
    "delete twice": (delete("a"), delete("a"), [], True),
    "create array twice": (array("b"), array("b"), [f"/b: {EXISTS}"], False),
    "create array, create group": (array("b"), group("b"), [f"/b: {EXISTS}"], False),
    "create group, create array": (group("b"), array("b"), [f"/b: {EXISTS}"], False),
    "array attrs, chunk": (attrs("a"), CHUNK_A, [IN_UPDATED], False),
    "resize, chunk": (resize("a", 6, 6), CHUNK_A, [IN_UPDATED], False),
    "chunk, array attrs": (CHUNK_A, attrs("a"), [], True),
    "chunk, resize": (CHUNK_A, resize("a", 6, 6), [], True),
    "create node, group attrs": (array("g/new"), attrs("g"), [], True),
    # kinds of conflict that the table leaves out
    "group attrs, delete group": (attrs("g"), delete("g"), ["/g: Delete of updated group"], True),
    "delete group, group attrs": (delete("g"), attrs("g"), ["/g: Zarr metadata update of deleted group"], False),
    "create array, node below": (array("b"), bare_group("b/c"), ["/b: New node in invalid group"], False),
}


def rebased(engine: Engine, name: str, solver: Any) -> tuple[Any, Any, list[str]]:
    """A repository, my session after its rebase, and the conflicts that stopped it."""
    theirs, mine, _, _ = OUTCOMES[name]
    repo, session, tip = race(engine, Pair(name, theirs, mine))
    with pytest.raises(engine.ic.ConflictError) as stale:
        session.commit("mine")
    assert (stale.value.expected_parent, stale.value.actual_parent) == (session.snapshot_id, tip)
    assert not isinstance(stale.value, engine.ic.IcechunkError)
    try:
        session.rebase(solver)
    except engine.ic.RebaseFailedError as error:
        failed = error
    else:
        return repo, session, []
    assert not isinstance(failed, engine.ic.IcechunkError)
    assert failed.snapshot == tip
    assert session.has_uncommitted_changes
    return repo, session, told(failed.conflicts)


@each
@pytest.mark.parametrize("name", OUTCOMES)
def test_F031_conflicts_are_detected(engine: Engine, name: str) -> None:
    _, _, expected, _ = OUTCOMES[name]
    repo, session, found = rebased(engine, name, engine.ic.ConflictDetector())
    assert found == expected
    if not expected:
        branch = session.branch
        session.commit("mine")
        assert messages(repo, branch=branch)[:3] == ["mine", "theirs", "base"]


@each
@pytest.mark.parametrize("name", OUTCOMES)
def test_F031_conflicts_are_solved(engine: Engine, name: str) -> None:
    _, _, expected, solved = OUTCOMES[name]
    repo, session, found = rebased(engine, name, engine.ic.BasicConflictSolver())
    assert found == ([] if solved else expected)
    if solved:
        branch, mine = session.branch, values(session.store)
        session.commit("mine")
        assert values(repo.readonly_session(branch).store) == mine


def test_F031_all_ten_kinds_are_in_the_table() -> None:
    kinds = {str(kind) for kind in icechunk_virtual.ConflictType}
    assert len(kinds) == 10
    assert kinds == {text.split(": ")[1].split(" [")[0] for _, _, found, _ in OUTCOMES.values() for text in found}
    for name in (kind.name for kind in icechunk_virtual.ConflictType):
        ours, original = (getattr(engine.ic.ConflictType, name) for engine in (OURS, ORIGINAL))
        assert (int(ours), str(ours)) == (int(original), str(original))


@each
@pytest.mark.parametrize(
    ("selection", "stands"), [("UseOurs", 8), ("UseTheirs", 7), ("Fail", None)], ids=["ours", "theirs", "fail"]
)
def test_F031_whose_chunk_stands(engine: Engine, selection: str, stands: int | None) -> None:
    ic = engine.ic
    solver = ic.BasicConflictSolver(on_chunk_conflict=getattr(ic.VersionSelection, selection))
    repo, session, found = rebased(engine, "chunk, the same chunk", solver)
    if stands is None:
        assert found == ["/a: Chunk double update [[0, 0]]"]
        return
    branch = session.branch
    session.commit("2")
    assert zarr.open_group(repo.readonly_session(branch).store, mode="r")["a"][0, 0] == stands


@each
@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("chunk, delete array", "fail_on_delete_of_updated_array"),
        ("group attrs, delete group", "fail_on_delete_of_updated_group"),
    ],
)
def test_F031_deletions_can_fail(engine: Engine, name: str, flag: str) -> None:
    _, _, found = rebased(engine, name, engine.ic.BasicConflictSolver(**{flag: True}))
    assert found == OUTCOMES[name][2]


class Broken(icechunk_virtual.ConflictSolver):
    def decide(self, conflict: Any) -> Any:
        raise ZeroDivisionError


def test_F031_done_right() -> None:
    """Overwriting an array conflicts with nothing unrelated, and no error of a solver loses changes."""
    overwritten = both(delete("a"), array("a"))
    _, session, _ = race(OURS, Pair("overwritten", set_chunk("s", 0, 0), overwritten))
    session.rebase(icechunk_virtual.ConflictDetector())
    session.commit("overwritten")
    _, session, _ = race(OURS, Pair("broken", CHUNK_A, MINE_A))
    with pytest.raises(ZeroDivisionError):
        session.rebase(Broken())
    assert session.status().updated_chunks == {"/a": [[0, 0]]}
    session.rebase(icechunk_virtual.BasicConflictSolver())
    session.commit("not lost")


@each
def test_F032_commit_rebases(engine: Engine) -> None:
    ic = engine.ic
    repo, _ = make(engine)
    one, two, three = (repo.writable_session("main") for _ in range(3))
    put(one.store, "a/c/0/0", b"1" * 16)
    put(two.store, "a/c/0/1", b"2" * 16)
    put(three.store, "a/c/0/1", b"3" * 16)
    one.commit("1")
    for arguments in ({}, {"rebase_with": ic.ConflictDetector(), "rebase_tries": 0}):
        with pytest.raises(ic.ConflictError):
            two.commit("2", **arguments)
    with pytest.raises(OverflowError):
        two.commit("2", rebase_with=ic.ConflictDetector(), rebase_tries=2**16)
    two.commit("2", rebase_with=ic.ConflictDetector())
    assert messages(repo) == ["2", "1", "c1", "Repository initialized"]
    with pytest.raises(ic.RebaseFailedError) as failed:
        three.commit("3", rebase_with=ic.ConflictDetector(), rebase_tries=3)
    assert told(failed.value.conflicts) == ["/a: Chunk double update [[0, 1]]"]
    assert failed.value.snapshot == repo.lookup_branch("main")
    three.commit("3", rebase_with=ic.BasicConflictSolver(), rebase_tries=3)
    assert get(repo.readonly_session("main").store, "a/c/0/1") == b"3" * 16
