"""`Repository`: opening, configuration, versions, refs, and what travels in a pickle."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

import icechunk_virtual
from icechunk_virtual import (
    CachingConfig,
    CompressionConfig,
    IcechunkError,
    Repository,
    RepositoryConfig,
    Storage,
    VirtualChunkContainer,
    in_memory_storage,
    local_filesystem_storage,
    local_filesystem_store,
)
from icechunk_virtual.errors import (
    ConfigConflict,
    CorruptFile,
    NothingToCommit,
    ReadOnlyError,
    RefExists,
    RefNotFound,
    RepositoryExists,
    RepositoryNotFound,
    SnapshotNotFound,
    StorageError,
    UnsupportedFormat,
)
from tests.support.faulty import Script, faulty
from tests.support.hierarchies import (
    GROUP,
    PROTOTYPE,
    array_document,
    buffer,
    get,
    group_document,
    new_repository,
    put,
    tip,
    with_array,
    writable,
)

FIRST = "1CECHNKREP0F1RSTCMT0"
NOWHERE = "ZZZZZZZZZZZZZZZZZZZ0"


@pytest.fixture(params=["memory", "local"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return in_memory_storage() if request.param == "memory" else local_filesystem_storage(tmp_path / "repo")


@pytest.fixture
def repo() -> Repository:
    return new_repository()


def commit(repo: Repository, message: str, branch: str = "main") -> str:
    session = writable(repo, branch)
    put(session.store, "zarr.json", group_document(message=message))
    id: str = session.commit(message)
    return id


# -- opening ---------------------------------------------------------------------------------------------------


def test_life_of_a_storage(storage: Storage) -> None:
    assert not Repository.exists(storage)
    with pytest.raises(RepositoryNotFound, match="the repository doesn't exist"):
        Repository.open(storage)
    Repository.create(storage)
    assert Repository.exists(storage)
    with pytest.raises(RepositoryExists, match="repositories can only be created in clean prefixes"):
        Repository.create(storage)
    id = commit(Repository.open(storage), "one")
    assert Repository.open_or_create(storage).lookup_branch("main") == id


def test_the_first_snapshot(storage: Storage) -> None:
    repo = new_repository(storage)
    (info,) = repo.ancestry(branch="main")
    assert (info.id, info.parent_id, info.message) == (FIRST, None, "Repository initialized")
    assert info.metadata == {"__root": True}
    assert info.manifests == []
    assert abs(info.written_at - datetime.now(UTC)) < timedelta(minutes=5)
    assert repo.list_branches() == {"main"}
    assert repo.list_tags() == set()
    assert Repository.fetch_config(storage) is None


def test_nothing_is_made_before_the_first_write(tmp_path: Path) -> None:
    storage = local_filesystem_storage(tmp_path / "repo")
    assert not Repository.exists(storage)
    with pytest.raises(RepositoryNotFound):
        Repository.open(storage)
    assert not (tmp_path / "repo").exists()


def test_a_folder_with_anything_in_it_is_not_clean(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("x")
    storage = local_filesystem_storage(tmp_path)
    for make in (Repository.create, Repository.open_or_create):
        with pytest.raises(RepositoryExists, match=r"clean prefixes.*notes/todo\.txt"):
            make(storage)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_open_or_create_creates(storage: Storage) -> None:
    repo = Repository.open_or_create(storage, RepositoryConfig(inline_chunk_threshold_bytes=7))
    assert repo.config.inline_chunk_threshold_bytes == 7
    assert Repository.fetch_config(storage) == RepositoryConfig(inline_chunk_threshold_bytes=7)


def test_open_or_create_of_many_at_once(storage: Storage) -> None:
    async def all_of_them() -> list[Repository]:
        return await asyncio.gather(*(Repository.open_or_create_async(storage) for _ in range(8)))

    repos = asyncio.run(all_of_them())
    assert {repo.lookup_branch("main") for repo in repos} == {FIRST}


def test_junk_in_the_main_branch_is_corrupt(tmp_path: Path) -> None:
    storage = local_filesystem_storage(tmp_path)
    new_repository(storage)
    (tmp_path / "refs/branch.main/ref.json").write_text("{")
    for look in (Repository.exists, Repository.open):
        with pytest.raises(CorruptFile, match=r"refs/branch\.main/ref\.json"):
            look(storage)


@pytest.mark.parametrize("make", [Repository.open, Repository.open_or_create, Repository.create])
def test_format_2_is_named(tmp_path: Path, make: Any) -> None:
    (tmp_path / "repo").write_bytes(b"ICE\xf0\x9f\xa7\x8aCHUNK" + bytes(40))
    with pytest.raises(UnsupportedFormat, match=r"format version 2.*icechunk 2"):
        make(local_filesystem_storage(tmp_path))


def test_a_repository_that_was_upgraded_is_not_opened(tmp_path: Path) -> None:
    new_repository(local_filesystem_storage(tmp_path))
    (tmp_path / "repo").write_bytes(b"ICE\xf0\x9f\xa7\x8aCHUNK" + bytes(40))
    with pytest.raises(UnsupportedFormat, match="format version 2"):
        Repository.open(local_filesystem_storage(tmp_path))


def test_a_file_that_is_called_as_in_format_2(tmp_path: Path) -> None:
    (tmp_path / "repo").write_text("x")
    with pytest.raises(RepositoryExists, match="clean prefixes"):
        Repository.create(local_filesystem_storage(tmp_path))
    with pytest.raises(RepositoryNotFound):
        Repository.open(local_filesystem_storage(tmp_path))


# -- configuration ---------------------------------------------------------------------------------------------


def test_open_merges_field_by_field(storage: Storage) -> None:
    saved = RepositoryConfig(
        inline_chunk_threshold_bytes=10, compression=CompressionConfig(level=5), caching=CachingConfig(num_chunk_refs=3)
    )
    new_repository(storage, saved)
    repo = Repository.open(
        storage,
        RepositoryConfig(get_partial_values_concurrency=4, caching=CachingConfig(num_snapshot_nodes=9)),
    )
    assert repo.config.inline_chunk_threshold_bytes == 10
    assert repo.config.get_partial_values_concurrency == 4
    assert repo.config.compression is not None
    assert repo.config.compression.level == 5
    assert repo.config.caching == CachingConfig(num_snapshot_nodes=9, num_chunk_refs=3)
    assert Repository.open(storage, RepositoryConfig.default()).config == saved
    assert Repository.fetch_config(storage) == saved


def test_a_config_that_sets_nothing_is_not_saved(storage: Storage) -> None:
    new_repository(storage, RepositoryConfig())
    assert Repository.fetch_config(storage) is None


def test_save_config(storage: Storage) -> None:
    new_repository(storage)
    repo = Repository.open(storage, RepositoryConfig(inline_chunk_threshold_bytes=1))
    assert Repository.fetch_config(storage) is None
    repo.save_config()
    assert Repository.open(storage).config.inline_chunk_threshold_bytes == 1
    repo.save_config()  # an object knows its own save
    again = repo.reopen(RepositoryConfig(inline_chunk_threshold_bytes=2))
    again.save_config()
    assert Repository.open(storage).config.inline_chunk_threshold_bytes == 2


@pytest.mark.parametrize("saved_before", [True, False])
def test_a_stale_config_is_not_saved(storage: Storage, saved_before: bool) -> None:
    new_repository(storage, RepositoryConfig(inline_chunk_threshold_bytes=5) if saved_before else None)
    one, other = (Repository.open(storage, RepositoryConfig(inline_chunk_threshold_bytes=n)) for n in (1, 2))
    one.save_config()
    with pytest.raises(ConfigConflict, match="config was updated by other session"):
        other.save_config()
    assert Repository.open(storage).config.inline_chunk_threshold_bytes == 1


def test_the_config_of_a_repository_is_a_copy(repo: Repository) -> None:
    repo.config.inline_chunk_threshold_bytes = 1
    assert repo.config.inline_chunk_threshold_bytes is None
    mine = RepositoryConfig(inline_chunk_threshold_bytes=3)
    other = new_repository(None, mine)
    mine.inline_chunk_threshold_bytes = 4
    assert other.config.inline_chunk_threshold_bytes == 3


def test_a_configuration_taken_as_it_is(storage: Storage) -> None:
    prefix = "file:///data/"
    config = RepositoryConfig(inline_chunk_threshold_bytes=3, get_partial_values_concurrency=4)
    config.set_virtual_chunk_container(VirtualChunkContainer(prefix, local_filesystem_store("/data")))
    repo = new_repository(storage, config, {prefix: None})
    exact = RepositoryConfig(get_partial_values_concurrency=5)
    other = repo.with_config(exact)
    assert other.config == exact
    assert other.authorized_virtual_container_prefixes == {prefix}
    exact.get_partial_values_concurrency = 6
    assert (repo.config, other.config.get_partial_values_concurrency) == (config, 5)
    assert repo.with_config(exact, {}).authorized_virtual_container_prefixes == set()
    assert Repository.fetch_config(storage) == config
    other.save_config()
    assert Repository.open(storage).config == RepositoryConfig(get_partial_values_concurrency=5)
    with pytest.raises(ConfigConflict):
        repo.save_config()


# -- branches --------------------------------------------------------------------------------------------------


def test_branches(storage: Storage) -> None:
    repo = new_repository(storage)
    one = commit(repo, "one")
    repo.create_branch("dev", FIRST)
    assert repo.list_branches() == {"main", "dev"}
    two = commit(repo, "two", "dev")
    assert (repo.lookup_branch("dev"), repo.lookup_branch("main")) == (two, one)
    with pytest.raises(RefExists, match=rf"branch update conflict: `\(None\) != \(Some\({two}\)\)`"):
        repo.create_branch("dev", FIRST)
    repo.delete_branch("dev")
    for use in (repo.lookup_branch, repo.delete_branch, repo.writable_session, repo.readonly_session):
        with pytest.raises(RefNotFound, match="ref not found `dev`"):
            use("dev")
    repo.create_branch("dev", one)
    assert repo.lookup_snapshot(two).message == "two"


@pytest.mark.parametrize("make", ["create_branch", "create_tag"])
def test_refs_need_an_existing_snapshot(repo: Repository, make: str) -> None:
    with pytest.raises(SnapshotNotFound, match=f"snapshot not found: `{NOWHERE}`"):
        getattr(repo, make)("x", NOWHERE)
    with pytest.raises(SnapshotNotFound, match="invalid snapshot id: `nonsense`"):
        getattr(repo, make)("x", "nonsense")
    with pytest.raises(IcechunkError, match="invalid ref name `a/b`"):
        getattr(repo, make)("a/b", FIRST)
    assert repo.list_branches() | repo.list_tags() == {"main"}


def test_refs_to_snapshots_read_no_snapshot() -> None:
    """They may be large: that they are there is enough."""
    storage, script = in_memory_storage(), Script()
    id = commit(new_repository(storage), "one")
    repo = Repository.open(faulty(storage, script))
    script.restart()
    repo.create_branch("b", id)
    repo.create_tag("t", id)
    repo.reset_branch("b", FIRST)
    assert [call for call in script.calls if call[1].startswith("snapshots/")] == [
        ("head", f"snapshots/{id}"),
        ("head", f"snapshots/{id}"),
        ("head", f"snapshots/{FIRST}"),
    ]


@pytest.mark.parametrize("name", ["with space", "ñandú", "a.b", "100%", "back\\slash", "日本"])
def test_odd_names_of_refs(storage: Storage, name: str) -> None:
    repo = new_repository(storage)
    repo.create_branch(name, FIRST)
    repo.create_tag(name, FIRST)
    assert repo.list_branches() == {"main", name}
    assert repo.list_tags() == {name}
    id = commit(repo, "x", name)
    assert repo.lookup_branch(name) == id


def test_reset_branch(storage: Storage) -> None:
    repo = new_repository(storage)
    one, two = commit(repo, "one"), commit(repo, "two")
    repo.reset_branch("main", one)
    assert repo.lookup_branch("main") == one
    repo.reset_branch("main", one)
    with pytest.raises(RefExists, match=rf"branch update conflict: `\(Some\({two}\)\) != \(Some\({one}\)\)`"):
        repo.reset_branch("main", FIRST, from_snapshot_id=two)
    assert repo.lookup_branch("main") == one
    repo.reset_branch("main", two, from_snapshot_id=one)
    assert [info.id for info in repo.ancestry(branch="main")] == [two, one, FIRST]
    with pytest.raises(SnapshotNotFound):
        repo.reset_branch("main", NOWHERE)
    with pytest.raises(RefNotFound):
        repo.reset_branch("gone", one)
    with pytest.raises(RefExists, match=rf"\(Some\({one}\)\) != \(None\)"):
        repo.reset_branch("gone", one, from_snapshot_id=one)


# -- tags ------------------------------------------------------------------------------------------------------


def test_tags(storage: Storage) -> None:
    repo = new_repository(storage)
    one = commit(repo, "one")
    repo.create_tag("v1", one)
    commit(repo, "two")
    assert repo.lookup_tag("v1") == one
    assert repo.list_tags() == {"v1"}
    assert repo.readonly_session(tag="v1").snapshot_id == one
    with pytest.raises(RefExists, match="tag already exists, tags are immutable: `v1`"):
        repo.create_tag("v1", one)
    repo.delete_tag("v1")
    assert repo.list_tags() == set()
    for use in (repo.lookup_tag, repo.delete_tag, lambda tag: repo.readonly_session(tag=tag)):
        with pytest.raises(RefNotFound, match="ref not found `v1`"):
            use("v1")
    with pytest.raises(RefExists, match="tag already exists"):
        repo.create_tag("v1", one)


# -- versions --------------------------------------------------------------------------------------------------


def test_ancestry_is_both_kinds_of_iterator(repo: Repository) -> None:
    ids = [commit(repo, f"{n}") for n in range(3)][::-1] + [FIRST]
    infos = list(repo.ancestry(branch="main"))
    assert [info.id for info in infos] == ids
    assert [info.parent_id for info in infos] == [*ids[1:], None]
    assert [info.message for info in infos] == ["2", "1", "0", "Repository initialized"]
    times = [info.written_at for info in infos]
    assert times == sorted(times, reverse=True)
    assert all(time.tzinfo is UTC for time in times)

    async def ids_of(items: Any) -> list[str]:
        return [info.id async for info in items]

    for ancestry in (repo.ancestry, repo.async_ancestry):
        assert asyncio.run(ids_of(ancestry(branch="main"))) == ids
        assert asyncio.run(ids_of(ancestry(snapshot_id=ids[1]))) == ids[1:]
        assert [info.id for info in ancestry(snapshot_id=ids[2])] == ids[2:]
    half = repo.ancestry(branch="main")
    assert next(half).id == ids[0]
    assert [info.id for info in half] == ids[1:]


def test_ancestry_of_what_does_not_exist(repo: Repository) -> None:
    for wrong in ({}, {"branch": "main", "tag": "x"}, {"branch": "main", "snapshot_id": FIRST}):
        with pytest.raises(ValueError, match="Must provide one of branch, tag, or snapshot_id"):
            repo.ancestry(**wrong)
    with pytest.raises(RefNotFound):
        repo.ancestry(branch="gone")
    with pytest.raises(RefNotFound):
        repo.ancestry(tag="gone")
    with pytest.raises(SnapshotNotFound):
        next(repo.ancestry(snapshot_id=NOWHERE))


def test_lookup_snapshot(repo: Repository) -> None:
    id = commit(repo, "hello")
    info = repo.lookup_snapshot(id)
    assert info == next(repo.ancestry(branch="main"))
    assert (info.message, info.parent_id) == ("hello", FIRST)
    assert repo.lookup_snapshot(id.lower()) == info
    assert pickle.loads(pickle.dumps(info)) == info
    with pytest.raises(SnapshotNotFound, match="snapshot not found"):
        repo.lookup_snapshot(NOWHERE)
    for text in ("", "x", "UUUUUUUUUUUUUUUUUUUU", id + "0"):
        with pytest.raises(SnapshotNotFound, match=f"invalid snapshot id: `{text}`"):
            repo.lookup_snapshot(text)


def test_as_of(repo: Repository) -> None:
    commit(repo, "one")
    commit(repo, "two")
    infos = list(repo.ancestry(branch="main"))
    zones = (UTC, timezone(timedelta(hours=2)), timezone(timedelta(hours=-11, minutes=-30)), ZoneInfo("UTC"))
    microsecond = timedelta(microseconds=1)
    for zone in zones:
        for info in infos:
            moment = info.written_at.astimezone(zone)
            assert repo.readonly_session("main", as_of=moment).snapshot_id == info.id
            if info.parent_id is not None:
                assert repo.readonly_session("main", as_of=moment - microsecond).snapshot_id == info.parent_id
    assert repo.readonly_session("main", as_of=datetime.now(UTC) + timedelta(days=1)).snapshot_id == infos[0].id


def test_a_session_stays_on_its_version(storage: Storage) -> None:
    repo = new_repository(storage)
    with_array(repo)
    old = tip(repo)
    session = writable(repo)
    put(session.store, "a/c/0", b"1")
    id = session.commit("chunk")
    assert get(old.store, "a/c/0") is None
    assert get(tip(repo).store, "a/c/0") == b"1"
    assert get(tip(Repository.open(storage)).store, "a/c/0") == b"1"
    assert session.snapshot_id == id


# -- commits ---------------------------------------------------------------------------------------------------


def test_transaction(repo: Repository) -> None:
    with repo.transaction("main", message="all of it", metadata={"n": 1}) as store:
        asyncio.run(store.set("zarr.json", buffer(GROUP)))
    info = next(repo.ancestry(branch="main"))
    assert (info.message, info.metadata) == ("all of it", {"n": 1})

    def broken() -> None:
        with repo.transaction("main", message="never") as store:
            put(store, "zarr.json", group_document(n=1))
            raise RuntimeError("stop")

    def empty() -> None:
        with repo.transaction("main", message="empty"):
            pass

    with pytest.raises(RuntimeError, match="stop"):
        broken()
    with pytest.raises(NothingToCommit, match="cannot commit, no changes made to the session"):
        empty()
    assert next(repo.ancestry(branch="main")) == info


def test_default_commit_metadata(repo: Repository) -> None:
    assert repo.default_commit_metadata() == {}
    before = writable(repo)
    repo.set_default_commit_metadata({"who": "me", "n": 1})
    assert repo.default_commit_metadata() == {"who": "me", "n": 1}
    repo.default_commit_metadata()["who"] = "you"
    session = writable(repo)
    repo.set_default_commit_metadata({})
    put(session.store, "zarr.json", GROUP)
    session.commit("x", {"n": 2, "more": None})
    assert next(repo.ancestry(branch="main")).metadata == {"who": "me", "n": 2, "more": None}
    repo.reset_branch("main", FIRST)
    put(before.store, "zarr.json", GROUP)
    before.commit("y")
    assert next(repo.ancestry(branch="main")).metadata == {}
    with pytest.raises(TypeError, match="object cannot be cast"):
        repo.set_default_commit_metadata({"x": object()})


# -- read-only storage -----------------------------------------------------------------------------------------


class _ReadOnly:
    """An object store that takes no writes."""

    def __init__(self, objects: Any) -> None:
        self._objects = objects

    writable = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)


class _ReadOnlyBackend:
    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def default_settings(self) -> Any:
        return self._storage.default_settings()

    def open(self, settings: Any) -> Any:
        return _ReadOnly(self._storage.object_store())


def test_a_read_only_storage_says_what_was_tried(repo: Repository) -> None:
    session = writable(repo)
    put(session.store, "zarr.json", GROUP)
    session.commit("x")
    view = Storage(_ReadOnlyBackend(repo.storage))
    locked = Repository.open(view)
    assert get(tip(locked).store, "zarr.json") == GROUP
    attempts = {
        "Cannot create repository": lambda: Repository.create(view),
        "Cannot save configuration": locked.save_config,
        "Cannot create branch": lambda: locked.create_branch("x", FIRST),
        "Cannot reset branch": lambda: locked.reset_branch("main", FIRST),
        "Cannot delete branch": lambda: locked.delete_branch("x"),
        "Cannot create tag": lambda: locked.create_tag("x", FIRST),
        "Cannot delete tag": lambda: locked.delete_tag("x"),
        "Cannot create writable_session": lambda: locked.writable_session("main"),
    }
    for what, attempt in attempts.items():
        expected = f"the storage used by this Icechunk repository is read-only: {what}"
        with pytest.raises(ReadOnlyError, match=expected):
            attempt()


# -- pickling --------------------------------------------------------------------------------------------------


def test_a_pickled_repository_is_the_same(tmp_path: Path) -> None:
    prefix = f"file://{tmp_path}/data/"
    config = RepositoryConfig(inline_chunk_threshold_bytes=3)
    config.set_virtual_chunk_container(VirtualChunkContainer(prefix, local_filesystem_store(str(tmp_path))))
    repo = new_repository(
        local_filesystem_storage(tmp_path / "repo"), config, authorize_virtual_chunk_access={prefix: None}
    )
    repo.set_default_commit_metadata({"who": "me"})
    commit(repo, "one")
    copy = pickle.loads(pickle.dumps(repo))
    assert copy.config == repo.config
    assert copy.default_commit_metadata() == {"who": "me"}
    assert copy.authorized_virtual_container_prefixes == {prefix}
    id = commit(copy, "two")
    assert repo.lookup_branch("main") == id
    assert next(repo.ancestry(branch="main")).metadata == {"who": "me"}


def test_read_only_sessions_and_stores_pickle(storage: Storage) -> None:
    repo = new_repository(storage)
    with_array(repo)
    session = tip(repo)
    for copy in (pickle.loads(pickle.dumps(session)), pickle.loads(pickle.dumps(session.store)).session):
        assert copy.read_only
        assert copy.snapshot_id == session.snapshot_id
        assert get(copy.store, "a/zarr.json") == array_document((4,))
        with pytest.raises(ReadOnlyError):
            put(copy.store, "a/c/0", b"x")


def test_writable_sessions_do_not_pickle(repo: Repository) -> None:
    session = writable(repo)
    for thing in (session, session.store):
        with pytest.raises(ValueError, match="You must opt-in to pickle writable sessions"):
            pickle.dumps(thing)
    with pytest.raises(RuntimeError, match="fork"):
        session.allow_pickling()


def test_forks_pickle_with_their_changes(storage: Storage) -> None:
    repo = new_repository(storage)
    with_array(repo)
    session = writable(repo)
    fork = session.fork()
    put(fork.store, "a/c/1", b"1")
    copy = pickle.loads(pickle.dumps(fork))
    assert isinstance(pickle.loads(pickle.dumps(fork.store)).session, icechunk_virtual.ForkSession)
    put(copy.store, "a/c/2", b"2" * 1000)
    assert get(fork.store, "a/c/2") is None
    session.merge(copy)
    session.commit("both")
    store = tip(repo).store
    assert (get(store, "a/c/1"), get(store, "a/c/2")) == (b"1", b"2" * 1000)


def test_memory_is_shared_within_the_process() -> None:
    storage = in_memory_storage()
    new_repository(storage)
    copy = Repository.open(pickle.loads(pickle.dumps(storage)))
    id = commit(copy, "x")
    assert Repository.open(storage).lookup_branch("main") == id
    assert not Repository.exists(in_memory_storage())


def test_memory_does_not_leave_the_process(tmp_path: Path) -> None:
    repo = new_repository()
    (tmp_path / "pickle").write_bytes(pickle.dumps(repo))
    code = (
        "import pickle, sys, pathlib\n"
        "from icechunk_virtual.errors import StorageError\n"
        "try: pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())\n"
        "except StorageError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "pickle")], capture_output=True, text=True, timeout=60
    )
    assert "in-memory repository cannot leave the process" in done.stdout, done.stderr
    assert issubclass(StorageError, IcechunkError)


def test_settings_and_storages_pickle() -> None:
    for value in (in_memory_storage(), local_filesystem_storage("somewhere"), RepositoryConfig()):
        assert pickle.loads(pickle.dumps(value)) == value


# -- asynchronous twins ----------------------------------------------------------------------------------------


def test_async_twins_in_a_running_loop(storage: Storage) -> None:
    async def life() -> None:
        assert not await Repository.exists_async(storage)
        repo = await Repository.create_async(storage)
        repo = await Repository.open_async(storage)
        repo = await Repository.open_or_create_async(storage)
        session = await repo.writable_session_async("main")
        await session.store.set("a/zarr.json", buffer(array_document((4,))))
        await session.store.set("a/c/0", buffer(b"x" * 2000))
        one = await session.commit_async("one")
        assert (await repo.lookup_snapshot_async(one)).message == "one"
        assert await repo.lookup_branch_async("main") == one
        await repo.create_branch_async("dev", FIRST)
        await repo.reset_branch_async("dev", one, from_snapshot_id=FIRST)
        assert await repo.list_branches_async() == {"main", "dev"}
        await repo.delete_branch_async("dev")
        await repo.create_tag_async("t", one)
        assert await repo.list_tags_async() == {"t"}
        assert await repo.lookup_tag_async("t") == one
        await repo.delete_tag_async("t")
        diff = await repo.diff_async(from_snapshot_id=FIRST, to_branch="main")
        assert diff.updated_chunks == {"/a": [[0]]}
        assert one in await repo.inspect_snapshot_async(one)
        await repo.save_config_async()
        assert await Repository.fetch_config_async(storage) == repo.config
        reader = await (await repo.reopen_async()).readonly_session_async("main")
        found = await reader.store.get("a/c/0", PROTOTYPE)
        assert found is not None
        assert found.to_bytes() == b"x" * 2000
        assert [info.id async for info in repo.async_ancestry(branch="main")] == [one, FIRST]
        assert await reader.all_virtual_chunk_locations_async() == []

    asyncio.run(life())


def test_synchronous_methods_work_inside_a_running_loop(storage: Storage) -> None:
    async def life() -> str:
        repo = new_repository(storage)
        session = writable(repo)
        await session.store.set("zarr.json", buffer(GROUP))
        id: str = session.commit("x")
        assert [info.id for info in repo.ancestry(branch="main")] == [id, FIRST]
        assert [info.id async for info in repo.ancestry(branch="main")] == [id, FIRST]
        return id

    assert asyncio.run(life()) == Repository.open(storage).lookup_branch("main")
