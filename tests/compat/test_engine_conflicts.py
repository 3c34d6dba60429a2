"""Both libraries at work on one repository at the same time, and what either refuses."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.core.sync import sync

import icechunk_virtual
from tests.support.engines import Engine, apart, changes, contents, get, kinds_of, picture, put, refs_of
from tests.support.histories import Sources, array_document, group_document

icechunk: Any = pytest.importorskip("icechunk", reason="the judge, icechunk 1.x, is not installed")
pytestmark = pytest.mark.compat

OURS = Engine("ours", icechunk_virtual)
THEIRS = Engine("theirs", icechunk)
BOTH = [OURS, THEIRS]
PAIRS = [(OURS, THEIRS), (THEIRS, OURS), (OURS, OURS), (THEIRS, THEIRS)]
UNKNOWN = "0000000000000000000G"


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources(tmp_path / "sources")


def with_root(engine: Engine, root: Path) -> Any:
    """A repository with an empty root group."""
    repo = engine.create(root)
    with repo.transaction("main", message="root") as store:
        put(store, "zarr.json", group_document())
    return repo


# -- conflicts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("winner", "loser"), PAIRS, ids=str)
def test_stale_session(tmp_path: Path, winner: Engine, loser: Engine) -> None:
    with_root(winner, tmp_path / "repo")
    late = loser.open(tmp_path / "repo").writable_session("main")
    base = late.snapshot_id
    put(late.store, "late/zarr.json", group_document())
    early = winner.open(tmp_path / "repo").writable_session("main")
    put(early.store, "early/zarr.json", group_document())
    tip = early.commit("early")
    with pytest.raises(loser.ic.ConflictError) as caught:
        late.commit("late")
    assert (caught.value.expected_parent, caught.value.actual_parent) == (base, tip)
    assert str(caught.value) == f'Failed to commit, expected parent: Some("{base}"), actual parent: Some("{tip}")'
    assert (late.read_only, late.has_uncommitted_changes, late.snapshot_id) == (False, True, base)
    assert changes(late.status())["new_groups"] == ["/late"]
    seen = [picture(engine.open(tmp_path / "repo")) for engine in BOTH]
    assert apart(*seen) == []
    assert [s["message"] for s in seen[0]["histories"]["main"]] == ["early", "root", "Repository initialized"]


@pytest.mark.parametrize(("remover", "loser"), PAIRS, ids=str)
def test_branch_gone(tmp_path: Path, remover: Engine, loser: Engine) -> None:
    repo = remover.create(tmp_path / "repo")
    base = repo.lookup_branch("main")
    repo.create_branch("b", base)
    session = loser.open(tmp_path / "repo").writable_session("b")
    put(session.store, "a/zarr.json", group_document())
    repo.delete_branch("b")
    with pytest.raises(loser.ic.ConflictError) as caught:
        session.commit("late")
    assert (caught.value.expected_parent, caught.value.actual_parent) == (base, None)
    assert refs_of(loser.open(tmp_path / "repo"))["branches"] == {"main": base}


@pytest.mark.parametrize(("first", "second"), PAIRS[:2], ids=str)
def test_many_sessions_in_turns(tmp_path: Path, first: Engine, second: Engine) -> None:
    """Both keep their repository object open; of two sessions from one base exactly one gets through."""
    repos = [with_root(first, tmp_path / "repo"), second.open(tmp_path / "repo")]
    messages = []
    for turn in range(6):
        sessions = [repo.writable_session("main") for repo in repos]
        assert sessions[0].snapshot_id == sessions[1].snapshot_id
        for n, session in enumerate(sessions):
            put(session.store, f"g{turn}{n}/zarr.json", group_document(turn=turn))
        order = [0, 1] if turn % 3 else [1, 0]
        sessions[order[0]].commit(f"{turn}")
        messages.append(f"{turn}")
        assert kinds_of((first, second)[order[1]], lambda s=sessions[order[1]]: s.commit("lost")) == {"ConflictError"}
    for repo in repos:
        assert [s.message for s in repo.ancestry(branch="main")][:-2] == messages[::-1]
    assert apart(*(picture(repo) for repo in repos)) == []


@pytest.mark.parametrize("engine", BOTH, ids=str)
def test_as_of(tmp_path: Path, engine: Engine) -> None:
    """Times to the microsecond, by either library, in a history by both."""
    engine.create(tmp_path / "repo")
    for n in range(4):
        session = BOTH[n % 2].open(tmp_path / "repo").writable_session("main")
        put(session.store, f"g{n}/zarr.json", group_document())
        session.commit(str(n))
    repos = [e.open(tmp_path / "repo") for e in BOTH]
    history = list(repos[0].ancestry(branch="main"))
    tick = timedelta(microseconds=1)
    for info in history:
        for repo in repos:
            assert repo.readonly_session("main", as_of=info.written_at).snapshot_id == info.id
            assert repo.readonly_session("main", as_of=info.written_at + tick).snapshot_id == info.id
            if info.parent_id is None:
                assert kinds_of(engine, lambda: None) == set()
                with pytest.raises(Exception, match="does not have a snapshots before or at"):
                    repo.readonly_session("main", as_of=info.written_at - tick)
            else:
                before = repo.readonly_session("main", as_of=info.written_at - tick).snapshot_id
                assert before == info.parent_id


# -- virtual chunks --------------------------------------------------------------------------------------------------


def make_virtual(engine: Engine, root: Path, sources: Sources, **checksums: Any) -> None:
    """One array with a chunk per checksum."""
    repo = engine.create(root, engine.config([sources.prefix]), [sources.prefix])
    session = repo.writable_session("main")
    for name, checksum in checksums.items():
        put(session.store, f"{name}/zarr.json", array_document((10,), (10,)))
        session.store.set_virtual_ref(f"{name}/c/0", sources.url(0), offset=40, length=40, checksum=checksum)
    session.commit("virtual")


@pytest.mark.parametrize(("writer", "reader"), PAIRS, ids=str)
def test_checksums(tmp_path: Path, sources: Sources, writer: Engine, reader: Engine) -> None:
    second = datetime.fromtimestamp(sources.modified(0), UTC)
    make_virtual(writer, tmp_path / "repo", sources, none=None, etag=sources.etag(0), time=second)
    store = reader.open(tmp_path / "repo", None, [sources.prefix]).readonly_session("main").store
    wanted = sources.values[10:20].tobytes()
    assert [get(store, f"{name}/c/0") for name in ("none", "etag", "time")] == [wanted] * 3
    later = sources.modified(0) + 5
    os.utime(sources.path(0), (later, later))
    assert get(store, "none/c/0") == wanted
    for name in ("etag", "time"):
        with pytest.raises(reader.ic.IcechunkError, match=re.compile("chunk.+has.+changed", re.DOTALL)):
            get(store, f"{name}/c/0")
        assert sync(store.exists(f"{name}/c/0"))
    assert contents_keys(store) == ["etag/c/0", "none/c/0", "time/c/0"]


def contents_keys(store: Any) -> list[str]:
    async def keys() -> list[str]:
        return sorted([key async for key in store.list_prefix("") if "/c/" in key])

    return sync(keys())


@pytest.mark.parametrize(("writer", "reader"), PAIRS, ids=str)
def test_who_may_read(tmp_path: Path, sources: Sources, writer: Engine, reader: Engine) -> None:
    """Nobody whom the opener did not authorise; and there is no container but by configuration."""
    make_virtual(writer, tmp_path / "repo", sources, a=None)

    def read(config: Any, granted: list[str]) -> bytes | None:
        return get(reader.open(tmp_path / "repo", config, granted).readonly_session("main").store, "a/c/0")

    wanted = sources.values[10:20].tobytes()
    assert read(None, [sources.prefix]) == wanted
    for granted in ([], [f"file://{tmp_path}/other/"]):
        with pytest.raises(reader.ic.IcechunkError, match="authorize"):
            read(None, granted)
    # The longest prefix decides, whoever is authorised besides.
    both = reader.config([f"file://{tmp_path}/", sources.prefix])
    assert read(both, [sources.prefix]) == wanted
    with pytest.raises(reader.ic.IcechunkError, match="authorize"):
        read(both, [f"file://{tmp_path}/"])
    # Everything but the bytes is there for everybody.
    session = reader.open(tmp_path / "repo").readonly_session("main")
    assert session.all_virtual_chunk_locations() == [sources.url(0)]
    assert sync(session.store.getsize("a/c/0")) == 40


@pytest.mark.parametrize(("writer", "reader"), PAIRS, ids=str)
def test_unreadable(tmp_path: Path, sources: Sources, writer: Engine, reader: Engine) -> None:
    """Beyond the file, no file, no container: errors, never other bytes and never `None`."""
    repo = writer.create(tmp_path / "repo", writer.config([sources.prefix]), [sources.prefix])
    session = repo.writable_session("main")
    put(session.store, "a/zarr.json", array_document((40,), (10,)))
    places = [(sources.url(0), 380, 40), (sources.url(0), 4000, 40), (sources.prefix + "none.bin", 0, 40)]
    for n, (url, offset, length) in enumerate([*places, ("file:///nowhere/at/all.bin", 0, 40)]):
        session.store.set_virtual_ref(f"a/c/{n}", url, offset=offset, length=length, validate_container=False)
    session.commit("bad")
    opened = reader.open(tmp_path / "repo", None, [sources.prefix]).readonly_session("main")
    for n in range(4):
        with pytest.raises(reader.ic.IcechunkError):
            get(opened.store, f"a/c/{n}")
    with pytest.raises(reader.ic.IcechunkError, match="edit the repository configuration"):
        get(opened.store, "a/c/3")
    assert sync(opened.store.getsize("a/c/2")) == 40


@pytest.mark.parametrize(("writer", "reader"), PAIRS, ids=str)
def test_ranges(tmp_path: Path, sources: Sources, writer: Engine, reader: Engine) -> None:
    """Parts of chunks of every kind, within their length."""
    from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest

    repo = writer.create(tmp_path / "repo", writer.config([sources.prefix], threshold=50), [sources.prefix])
    session = repo.writable_session("main")
    put(session.store, "a/zarr.json", array_document((60,), (20,)))
    data = sources.values[20:40].tobytes()
    put(session.store, "a/c/0", data)
    put(session.store, "a/c/1", data[:44])
    session.store.set_virtual_ref("a/c/2", sources.url(0), offset=80, length=80)
    session.commit("three kinds")
    store = reader.open(tmp_path / "repo", None, [sources.prefix]).readonly_session("main").store
    ranges: list[Any] = [RangeByteRequest(0, 44), RangeByteRequest(3, 17), OffsetByteRequest(40), SuffixByteRequest(7)]

    async def parts(key: str) -> list[bytes]:
        from zarr.core.buffer import default_buffer_prototype

        return [(await store.get(key, default_buffer_prototype(), part)).to_bytes() for part in ranges]

    for n, whole in enumerate([data, data[:44], data]):
        assert sync(parts(f"a/c/{n}")) == [whole[:44], whole[3:17], whole[40:], whole[-7:]]


# -- refusals --------------------------------------------------------------------------------------------------------


def refusals(engine: Engine, root: Path) -> dict[str, Callable[[], Any]]:
    """Things that must not be done, on a repository with a few nodes."""
    ic = engine.ic
    repo = engine.create(root)
    session = repo.writable_session("main")
    zarr.create_group(session.store).create_array("a", shape=(4, 6), chunks=(2, 3), dtype="i4")[...] = 1
    first = session.snapshot_id
    tip = session.commit("base")
    store = repo.writable_session("main").store
    reader = repo.readonly_session("main")
    clean = repo.writable_session("main")
    repo.create_tag("t", tip)
    repo.create_tag("gone", tip)
    repo.delete_tag("gone")
    document = array_document((4,), (2,))
    spec = ic.VirtualChunkSpec([0, 0], "file:///x/y", 0, 4)
    text = document.decode()
    return {
        "create twice": lambda: engine.create(root),
        "open nothing": lambda: engine.open(root / "nothing"),
        "unknown branch": lambda: repo.readonly_session("nope"),
        "unknown tag": lambda: repo.readonly_session(tag="nope"),
        "deleted tag": lambda: repo.readonly_session(tag="gone"),
        "unknown snapshot": lambda: repo.readonly_session(snapshot_id=UNKNOWN),
        "no snapshot id": lambda: repo.readonly_session(snapshot_id="x"),
        "two versions": lambda: repo.readonly_session("main", tag="t"),
        "no version": repo.readonly_session,
        "as of a tag": lambda: repo.readonly_session(tag="t", as_of=datetime.now(UTC)),
        "naive as of": lambda: repo.readonly_session("main", as_of=datetime(2030, 1, 1)),  # noqa: DTZ001
        "branch again": lambda: repo.create_branch("main", tip),
        "branch nowhere": lambda: repo.create_branch("b", UNKNOWN),
        "branch with slash": lambda: repo.create_branch("a/b", tip),
        "tag again": lambda: repo.create_tag("t", tip),
        "deleted tag again": lambda: repo.create_tag("gone", tip),
        "tag nowhere": lambda: repo.create_tag("b", UNKNOWN),
        "delete main": lambda: repo.delete_branch("main"),
        "delete no branch": lambda: repo.delete_branch("nope"),
        "delete no tag": lambda: repo.delete_tag("nope"),
        "reset no branch": lambda: repo.reset_branch("nope", tip),
        "reset nowhere": lambda: repo.reset_branch("main", UNKNOWN),
        "reset from elsewhere": lambda: repo.reset_branch("main", first, from_snapshot_id=first),
        "unknown lookup": lambda: repo.lookup_branch("nope"),
        "diff to itself": lambda: repo.diff(from_branch="main", to_branch="main"),
        "diff backwards": lambda: repo.diff(from_branch="main", to_snapshot_id=first),
        "diff of too much": lambda: repo.diff(from_branch="main", from_tag="t", to_branch="main"),
        "ancestry of nothing": lambda: repo.ancestry(branch="nope"),
        "nothing to commit": lambda: clean.commit("x"),
        "nothing to flush": lambda: clean.flush("x"),
        "commit read-only": lambda: reader.commit("x"),
        "write read-only": lambda: put(reader.store, "b/zarr.json", group_document()),
        "pickle writable": lambda: __import__("pickle").dumps(clean),
        "fork read-only": reader.fork,
        "bad metadata value": lambda: clean.commit("x", {"a": object()}),
        "bad metadata key": lambda: clean.commit("x", {1: 2}),
        "chunk of nothing": lambda: put(store, "nope/c/0", b"x"),
        "chunk of a group": lambda: put(store, "c/0", b"x"),
        "chunk outside": lambda: put(store, "a/c/2/0", b"x"),
        "delete chunk of nothing": lambda: sync(store.delete("nope/c/0")),
        "size of nothing": lambda: sync(store.getsize("nope/zarr.json")),
        "size of chunk of nothing": lambda: sync(store.getsize("nope/c/0")),
        "get chunk of nothing": lambda: get(store, "nope/c/0"),
        "get chunk of a group": lambda: get(store, "c/0"),
        "odd key": lambda: get(store, "a/0/0"),
        "dotted key": lambda: put(store, "a/c.0.0", b"x"),
        "too large index": lambda: put(store, "a/c/4294967296/0", b"x"),
        "v2 group": lambda: put(store, ".zgroup", b"{}"),
        "v2 exists": lambda: sync(store.exists(".zattrs")),
        "no buffer": lambda: sync(store.set("b/zarr.json", b"{}")),
        "group over array": lambda: put(store, "a/zarr.json", group_document()),
        "array over group": lambda: put(store, "zarr.json", document),
        "no json": lambda: put(store, "b/zarr.json", b"{"),
        "no node": lambda: put(store, "b/zarr.json", b'{"zarr_format":3}'),
        "other grid": lambda: put(store, "b/zarr.json", text.replace("regular", "rectangular").encode()),
        "negative shape": lambda: put(store, "b/zarr.json", text.replace('"shape": [4]', '"shape": [-4]').encode()),
        "zero chunk": lambda: put(store, "b/zarr.json", array_document((4,), (0,))),
        "ranks apart": lambda: put(store, "b/zarr.json", array_document((4, 4), (2,))),
        "list below a chunk": lambda: sync(_first(store.list_prefix("a/c"))),
        "list nothing": lambda: sync(_first(store.list_prefix("nope"))),
        "partial write": lambda: sync(store.set_partial_values([("a/c/0/0", 0, b"x")])),
        "virtual document": lambda: store.set_virtual_ref("a/zarr.json", "file:///x/y", offset=0, length=1),
        "virtual without container": lambda: store.set_virtual_ref("a/c/0/0", "file:///x/y", offset=0, length=1),
        "virtual outside": lambda: store.set_virtual_ref(
            "a/c/9/0", "file:///x/y", offset=0, length=1, validate_container=False
        ),
        "virtual nowhere": lambda: store.set_virtual_ref("a/c/0/0", "x/y", offset=0, length=1),
        "virtual of nothing": lambda: store.set_virtual_refs("nope", [spec], validate_containers=False),
        "virtual dots": lambda: store.set_virtual_refs("a/../b", [spec], validate_containers=False),
        "virtual negative": lambda: store.set_virtual_ref(
            "a/c/0/0", "file:///x/y", offset=-1, length=1, validate_container=False
        ),
        "odd checksum": lambda: store.set_virtual_ref(
            "a/c/0/0", "file:///x/y", offset=0, length=1, checksum=5, validate_container=False
        ),
        "relative coordinates": lambda: sync(_first(clean.chunk_coordinates("a"))),
        "coordinates of a group": lambda: sync(_first(clean.chunk_coordinates("/"))),
        "coordinates of nothing": lambda: sync(_first(clean.chunk_coordinates("/nope"))),
    }


async def _first(items: Any) -> Any:
    return await anext(aiter(items), None)


MESSAGES = {
    "create twice": "repositories can only be created in clean prefixes",
    "open nothing": "the repository doesn't exist",
    "unknown branch": "ref not found `nope`",
    "deleted tag": "ref not found `gone`",
    "no snapshot id": "invalid snapshot id",
    "unknown snapshot": f"snapshot not found: `{UNKNOWN}`",
    "two versions": "Must provide one of branch, tag, or snapshot_id",
    "as of a tag": "as_of argument must be provided together with a branch name",
    "branch again": "branch update conflict: `(None) != (Some(",
    "branch with slash": "invalid ref name `a/b`",
    "deleted tag again": "tag already exists, tags are immutable: `gone`",
    "delete main": "main branch cannot be deleted",
    "diff backwards": "doesn't include",
    "nothing to commit": "cannot commit, no changes made to the session",
    "commit read-only": "Read only sessions cannot modify the repository",
    "write read-only": "cannot write to read-only store",
    "pickle writable": "You must opt-in to pickle writable sessions",
    "fork read-only": "You should not need to fork a read-only session",
    "bad metadata value": "object cannot be cast",
    "chunk outside": "invalid chunk index: coordinates ChunkIndices([2, 0]) are not valid for array at /a",
    "odd key": "invalid zarr key format `a/0/0`",
    "group over array": "node already exists at",
    "no json": "bad metadata",
    "zero chunk": "Invalid chunk grid metadata",
    "list nothing": "bad key prefix",
    "partial write": "store method `set_partial_values` is not implemented by Icechunk",
    "virtual without container": "invalid chunk location, no matching virtual chunk container: `file:///x/y`",
    "virtual nowhere": 'error parsing virtual ref URL: "x/y"',
    "virtual document": "this operation is not allowed: use .set to modify metadata for key a/zarr.json",
    "virtual dots": "Invalid array path",
    "relative coordinates": "Invalid path: path must start with a `/` character",
}


def test_refusals(tmp_path: Path) -> None:
    """Both refuse the same, with the same public classes; what people may match in messages is the same."""
    ours, theirs = (refusals(engine, tmp_path / engine.name) for engine in BOTH)
    wrong = []
    for name in theirs:
        wanted, found = kinds_of(THEIRS, theirs[name]), kinds_of(OURS, ours[name])
        if not wanted or not wanted <= found:
            wrong.append(f"{name}: the original ends in {wanted or 'success'}, we in {found or 'success'}")
    for name, message in MESSAGES.items():
        for engine, acts in ((THEIRS, theirs), (OURS, ours)):
            try:
                acts[name]()
            except Exception as error:  # noqa: BLE001 - its message is looked at
                if message not in re.sub(r"\s+(\|\s+)?", " ", str(error)):
                    wrong.append(f"{name}: {engine} says {error}")
    assert wrong == []


def test_harmless(tmp_path: Path) -> None:
    """What looks wrong and is none for both."""
    results = []
    for engine in BOTH:
        repo = engine.create(tmp_path / engine.name)
        session = repo.writable_session("main")
        zarr.create_group(session.store).create_array("a", shape=(4,), chunks=(2,), dtype="i4")[...] = 1
        store = session.store

        async def look(store: Any = store) -> list[Any]:
            await store.delete("nope/zarr.json")
            await store.delete(".zgroup")
            await store.delete("a/c/1")
            await store.delete("a/c/1")
            await store.delete_dir("nope")
            await store.delete_dir("a/c/7")
            return [
                await store.exists("nope/zarr.json"),
                await store.exists("nope/c/0"),
                await store.exists("a/c/9"),
                await store.getsize("a/c/1"),
                await store.is_empty(""),
                await store.is_empty("nope"),
                [name async for name in store.list_dir("nope")],
                sorted([name async for name in store.list_dir("a")]),
                sorted([name async for name in store.list_dir("/")]),
            ]

        results.append((sync(look()), [get(store, key) for key in ("nope/zarr.json", "a/c/9", ".zgroup", "a/c/1")]))
        results[-1] += (changes(session.status()), contents(session))
        store.set_virtual_refs("nope", [])
        results[-1] += (repo.create_branch("x", session.snapshot_id), repo.reset_branch("x", session.snapshot_id))
        lower = repo.readonly_session(snapshot_id=session.snapshot_id.lower()).snapshot_id
        results[-1] += (lower == session.snapshot_id, np.dtype("i4").itemsize)
    assert apart(*results) == []
