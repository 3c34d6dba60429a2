"""Expiration, garbage collection, storage figures: what stays whatever happens; pure parts against plain ones."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

import icechunk_virtual as ic
from icechunk_virtual.errors import PermissionDenied, SnapshotNotFound
from icechunk_virtual.model.ids import SnapshotId, decode_id, encode_id
from icechunk_virtual.repo import gc
from icechunk_virtual.repo.bounded import for_each
from icechunk_virtual.repo.expire import plan_expiry
from icechunk_virtual.repo.id_sets import RowSet, decode_names
from icechunk_virtual.repo.local_store import LocalStore
from tests.support.engines import Engine, buffer, put
from tests.support.histories import Sources, array_document, group_document

OURS = Engine("ours", ic)
KINDS = ("snapshots", "transactions", "manifests", "chunks")


def now() -> datetime:
    return datetime.now(UTC)


def long_ago(root: Path) -> None:
    """Make every object a month old."""
    past = time.time() - 30 * 86400
    for path in root.rglob("*"):
        os.utime(path, (past, past))


def week_ago() -> datetime:
    return now() - timedelta(days=7)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "repo"


@pytest.fixture
def repo(root: Path) -> ic.Repository:
    repo = OURS.create(root, OURS.config(threshold=0))
    session = repo.writable_session("main")
    group = zarr.create_group(session.store)
    for name in ("a", "b"):
        group.create_array(name, shape=(4,), chunks=(1,), dtype="i4", compressors=None)[:] = 1
    session.commit("first")
    return repo


def change(repo: ic.Repository, branch: str = "main", value: int = 5, message: str = "more") -> str:
    session = repo.writable_session(branch)
    zarr.open_group(session.store, mode="r+")["a"][0] = value
    return session.commit(message)


def names(root: Path) -> dict[str, set[str]]:
    return {kind: {p.name for p in (root / kind).iterdir()} for kind in KINDS}


def read(repo: ic.Repository, **version: str) -> list[list[int]]:
    group = zarr.open_group(repo.readonly_session(**version).store, mode="r")
    return [group[name][:].tolist() for name in ("a", "b")]


# -- garbage collection ----------------------------------------------------------------------------------------------


def garbage(repo: ic.Repository) -> str:
    """A version that no ref leads to; returns its id."""
    repo.create_branch("doomed", repo.lookup_branch("main"))
    id = change(repo, "doomed", 9)
    repo.delete_branch("doomed")
    return id


def test_garbage_goes_and_the_rest_stays(repo: ic.Repository, root: Path) -> None:
    kept = names(root)
    id = garbage(repo)
    made = {kind: found - kept[kind] for kind, found in names(root).items()}
    size = sum((root / kind / name).stat().st_size for kind in KINDS for name in made[kind])
    expected = ic.GCSummary(
        bytes_deleted=size, chunks_deleted=1, manifests_deleted=1, snapshots_deleted=1, transaction_logs_deleted=1
    )
    assert read(repo, snapshot_id=id)[0][0] == 9
    assert repo.garbage_collect(week_ago()) == ic.GCSummary()
    long_ago(root)
    assert repo.garbage_collect(week_ago(), dry_run=True) == expected
    assert repo.garbage_collect(week_ago()) == expected
    assert names(root) == kept
    assert read(repo, branch="main") == [[1] * 4] * 2
    with pytest.raises(SnapshotNotFound):  # not from a cache either
        repo.readonly_session(snapshot_id=id)


def test_what_a_younger_snapshot_needs_stays(repo: ic.Repository, root: Path) -> None:
    """A flushed version is not referred to yet, and its old parent not any more."""
    repo.create_branch("doomed", repo.lookup_branch("main"))
    change(repo, "doomed", 9)
    session = repo.writable_session("doomed")
    long_ago(root)
    zarr.open_group(session.store, mode="r+")["b"][0] = 7
    id = session.flush("flushed")
    repo.delete_branch("doomed")
    repo.garbage_collect(week_ago())
    repo.create_tag("flushed", id)
    assert read(repo, tag="flushed") == [[9, 1, 1, 1], [7, 1, 1, 1]]
    assert [s.message for s in repo.ancestry(tag="flushed")] == ["flushed", "more", "first", "Repository initialized"]
    long_ago(root)
    assert repo.garbage_collect(week_ago()) == ic.GCSummary()


def test_a_commit_under_way_survives(repo: ic.Repository, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ref that appears after everything was looked at, on old garbage even, holds what it leads to."""
    id = garbage(repo)
    long_ago(root)
    read_tips, calls = gc.read_tips, [0]

    async def late(objects: Any) -> set[SnapshotId]:
        calls[0] += 1
        if calls[0] == 2:
            await repo.create_tag_async("rescued", id)
        return await read_tips(objects)

    monkeypatch.setattr(gc, "read_tips", late)
    assert repo.garbage_collect(now()) == ic.GCSummary()
    assert read(repo, tag="rescued")[0][0] == 9


def test_objects_written_meanwhile_survive_a_moment_in_the_future(repo: ic.Repository, root: Path) -> None:
    id = garbage(repo)
    for path in (root / "snapshots" / id, *(root / "chunks").iterdir()):
        os.utime(path, (time.time() + 60, time.time() + 60))
    assert repo.garbage_collect(now() + timedelta(days=1)) == ic.GCSummary()
    assert read(repo, snapshot_id=id)[0][0] == 9


def test_garbage_of_several_batches(repo: ic.Repository, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = names(root)
    for _ in range(5):
        garbage(repo)
    monkeypatch.setattr(gc, "PAGE_SIZE", 2)
    long_ago(root)
    assert repo.garbage_collect(week_ago()).chunks_deleted == 5
    assert names(root) == kept


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_as_old_as_the_moment_is_not_older(repo: ic.Repository, root: Path, kind: str) -> None:
    """To the microsecond, for objects of every kind."""
    kept = names(root)
    id = garbage(repo)
    before = names(root)
    long_ago(root)
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
    (name,) = before[kind] - kept[kind]
    nanoseconds = round((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1)) * 1000
    os.utime(root / kind / name, ns=(nanoseconds, nanoseconds))
    past = time.time() - 900 * 86400
    for other in KINDS:
        for path in (root / other).iterdir():
            if path.name != name or other != kind:
                os.utime(path, (past, past))
    repo.garbage_collect(moment)
    left = names(root)
    assert name in left[kind]
    if kind == "snapshots":  # and so does what it leads to
        assert read(repo, snapshot_id=id)[0][0] == 9
    else:
        assert left == kept | {kind: kept[kind] | {name}}
    repo.garbage_collect(moment + timedelta(microseconds=1))
    assert names(root) == kept


def test_strangers_are_left_alone(repo: ic.Repository, root: Path) -> None:
    strangers = ["chunks/README", "manifests/" + "0" * 19, "snapshots/" + "u" * 20, "chunks/" + "0" * 19 + "Z"]
    strangers += ["chunks/é" + "0" * 19, "other/x", "refs/branch.main/x", "chunks/sub/00000000000000000000"]
    for name in strangers:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("x")
    (root / "chunks" / ("0" * 20)).write_text("garbage")
    long_ago(root)
    assert repo.garbage_collect(week_ago()) == ic.GCSummary(bytes_deleted=7, chunks_deleted=1)
    assert all((root / name).exists() for name in strangers)
    assert (root / "config.yaml").exists()
    assert not (root / "chunks" / ("0" * 20)).exists()


def test_a_failure_to_delete_is_logged_and_the_rest_goes(
    repo: ic.Repository, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    garbage(repo)
    garbage(repo)
    long_ago(root)
    planned = repo.garbage_collect(week_ago(), dry_run=True)
    delete = LocalStore.delete
    protected = min(gc_names(repo, root))

    async def fail(self: LocalStore, keys: Any) -> int:
        keys = list(keys)
        if f"chunks/{protected}" in keys:
            raise PermissionDenied("no", key=f"chunks/{protected}")
        return await delete(self, keys)

    monkeypatch.setattr(LocalStore, "delete", fail)
    size = (root / "chunks" / protected).stat().st_size
    with caplog.at_level(logging.INFO):
        done = repo.garbage_collect(week_ago())
    assert done.chunks_deleted == planned.chunks_deleted - 1 == 1
    assert done.bytes_deleted == planned.bytes_deleted - size
    assert protected in names(root)["chunks"]
    assert any(r.levelno == logging.ERROR and protected in r.getMessage() for r in caplog.records)
    assert sum(r.levelno == logging.INFO for r in caplog.records) >= 4
    monkeypatch.undo()
    assert repo.garbage_collect(week_ago()) == ic.GCSummary(bytes_deleted=size, chunks_deleted=1)


def gc_names(repo: ic.Repository, root: Path) -> set[str]:
    """Chunks that are garbage: those not in any manifest of ``main``."""
    kept = set()
    for snapshot in repo.ancestry(branch="main"):
        for manifest in snapshot.manifests:
            found = asyncio.run(repo._opened.assets.fetch_manifest(decode_id(manifest.id)))  # type: ignore[arg-type]
            for node in found.nodes:
                kept |= {encode_id(row.tobytes()) for row in found.refs(node).chunk_ids}  # type: ignore[union-attr]
    return names(root)["chunks"] - kept


def test_what_leads_to_others_goes_first(repo: ic.Repository, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    garbage(repo)
    long_ago(root)
    order: list[str] = []
    delete = LocalStore.delete

    async def note(self: LocalStore, keys: Any) -> int:
        keys = list(keys)
        order.extend(key.split("/")[0] for key in keys)
        return await delete(self, keys)

    monkeypatch.setattr(LocalStore, "delete", note)
    repo.garbage_collect(week_ago())
    assert order == ["snapshots", "transactions", "manifests", "chunks"]


def test_a_damaged_history_stops_everything(repo: ic.Repository, root: Path) -> None:
    """When a ref's history cannot be walked nobody knows what is needed."""
    parent = repo.lookup_branch("main")
    change(repo)
    garbage(repo)
    (root / "snapshots" / parent).unlink()
    long_ago(root)
    before = names(root)
    with pytest.raises(ic.IcechunkError):
        OURS.open(root).garbage_collect(week_ago())
    assert names(root) == before


def test_small_limits_change_nothing(repo: ic.Repository, root: Path) -> None:
    for n in range(5):
        change(repo, value=n + 2)
    garbage(repo)
    long_ago(root)
    limits = {
        "max_snapshots_in_memory": 1,
        "max_compressed_manifest_mem_bytes": 1,
        "max_concurrent_manifest_fetches": 1,
    }
    assert repo.garbage_collect(week_ago(), dry_run=True, **limits) == repo.garbage_collect(week_ago(), dry_run=True)
    assert repo.total_chunks_storage(**limits) == repo.total_chunks_storage() == 4 * (8 + 5)


# -- expiration ------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.integers(0, 70))
def test_planned_expiry(steps: list[int], limit: int) -> None:
    times = np.cumsum(steps).tolist()[::-1]
    versions = [(SnapshotId(bytes([i]) * 12), time_us) for i, time_us in enumerate(times)]
    plan = plan_expiry(versions, limit)
    ids, root = [id for id, _ in versions], versions[-1][0]
    assert plan.root == root
    assert plan.tip_expired == (times[0] < limit)
    old = {id for id, time_us in versions if time_us < limit}
    if plan.adopted is None:
        assert plan.released == set()
        assert len([id for id in ids[1:-1] if id in old]) == 0
        return
    assert plan.released == old - {root}
    rest = [*ids[: ids.index(plan.adopted) + 1], root]  # the history afterwards
    assert [id for id in ids if id not in old or id in (ids[0], root)] == rest
    again = plan_expiry([v for v in versions if v[0] in rest], limit)
    assert again.adopted is None


def test_expired_versions_are_gone_after_collection(repo: ic.Repository, root: Path) -> None:
    ids = [repo.lookup_branch("main"), *(change(repo, value=n, message=f"{n}") for n in range(4))]
    moment = repo.lookup_snapshot(ids[3]).written_at
    repo.create_tag("old", ids[1])
    reader = OURS.open(root)
    list(zip(range(2), reader.ancestry(branch="main"), strict=False))  # knows the old parent
    assert repo.expire_snapshots(moment, delete_expired_tags=True) == set(ids[:3])
    assert repo.list_tags() == set()
    assert [s.message for s in repo.ancestry(branch="main")] == ["3", "2", "Repository initialized"]
    long_ago(root)
    summary = repo.garbage_collect(week_ago())
    assert (summary.snapshots_deleted, summary.transaction_logs_deleted) == (3, 3)
    assert names(root)["snapshots"] == {*ids[3:], "1CECHNKREP0F1RSTCMT0"}
    for seen in (repo, reader, OURS.open(root)):
        assert [s.id for s in seen.ancestry(branch="main")] == [ids[4], ids[3], "1CECHNKREP0F1RSTCMT0"]
        assert read(seen, branch="main")[0][0] == 3


def test_a_branch_with_a_new_commit_is_not_deleted(repo: ic.Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    from icechunk_virtual.repo import expire

    repo.create_branch("side", repo.lookup_branch("main"))
    history, calls = expire._expire_history, list[Any]()

    async def slow(*args: Any) -> Any:
        plan = await history(*args)
        calls.append(args)
        session = await repo.writable_session_async("side")
        await session.store.set(f"x{len(calls)}/zarr.json", buffer(group_document()))
        await session.commit_async("meanwhile")
        return plan

    monkeypatch.setattr(expire, "_expire_history", slow)
    repo.expire_snapshots(now(), delete_expired_branches=True)
    assert repo.list_branches() == {"main", "side"}


def test_a_session_on_an_expired_base_says_so(repo: ic.Repository) -> None:
    session = repo.writable_session("main")
    zarr.open_group(session.store, mode="r+")["b"][0] = 7
    for n in range(3):
        change(repo, value=n)
    repo.expire_snapshots(now())
    with pytest.raises(ic.IcechunkError, match="not in the history"):
        session.commit("mine", rebase_with=ic.ConflictDetector())


# -- storage figures -------------------------------------------------------------------------------------------------


def test_bytes_by_kind(tmp_path: Path) -> None:
    sources = Sources(tmp_path / "sources")
    repo = OURS.create(None, OURS.config([sources.prefix], threshold=16), [sources.prefix])
    session = repo.writable_session("main")
    put(session.store, "a/zarr.json", array_document((400,), (10,)))
    put(session.store, "b/zarr.json", array_document((400,), (10,)))
    put(session.store, "a/c/0", bytes(40))
    put(session.store, "a/c/1", bytes(16))
    for array, index in (("a", 2), ("a", 3), ("b", 7)):  # the same bytes three times
        session.store.set_virtual_ref(f"{array}/c/{index}", sources.url(0), offset=0, length=40)
    session.store.set_virtual_ref("b/c/8", sources.url(1), offset=0, length=40)
    session.store.set_virtual_ref("b/c/9", sources.url(1), offset=4, length=36)
    session.commit("first")
    assert repo.chunk_storage_stats() == ic.ChunkStorageStats(native_bytes=40, virtual_bytes=116, inlined_bytes=16)
    session = repo.writable_session("main")
    put(session.store, "a/c/5", bytes(40))
    session.commit("second")  # the inline chunk is in two manifests now
    found = repo.chunk_storage_stats()
    assert found == ic.ChunkStorageStats(native_bytes=80, virtual_bytes=116, inlined_bytes=32)
    assert (found.non_virtual_bytes(), found.total_bytes()) == (112, 228)
    assert repo.total_chunks_storage() == 80


# -- parts -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.binary(min_size=3, max_size=3) | st.sampled_from([bytes(3), b"a\0\0", b"a\0b"]))))
def test_row_sets_are_sets(portions: list[list[bytes]]) -> None:
    rows, later, plain = RowSet(3), RowSet(3), set()
    for portion in portions:
        table = np.frombuffer(b"".join(portion), np.uint8).reshape(len(portion), 3)
        assert rows.contains(table).tolist() == [row in plain for row in portion]
        new = rows.add(table).tolist()
        assert sorted(portion[i] for i in new) == sorted(set(portion) - plain)
        plain |= set(portion)
        later.put(table)
    assert len(rows) == len(later) == len(plain)
    everything = np.frombuffer(b"".join(sorted(plain)), np.uint8).reshape(len(plain), 3)
    assert later.contains(everything).all()


@given(st.lists(st.binary(min_size=12, max_size=12).map(encode_id) | st.text("0AZUé/z", min_size=18, max_size=21)))
def test_names_of_ids(texts: list[str]) -> None:
    ids, positions = decode_names(texts)
    expected = {}
    for i, text in enumerate(texts):
        try:
            raw = decode_id(text)
        except ValueError:
            continue
        if encode_id(raw) == text:
            expected[i] = raw
    assert dict(zip(positions.tolist(), (row.tobytes() for row in ids), strict=True)) == expected


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 5), st.integers(0, 12))
def test_bounded_work(weights: list[int], at_once: int, max_weight: int) -> None:
    under_way: list[int] = []
    done: list[int] = []

    async def work(item: tuple[int, int]) -> None:
        under_way.append(item[1])
        assert len(under_way) <= at_once
        assert sum(under_way) <= max_weight or len(under_way) == 1
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        under_way.remove(item[1])
        done.append(item[0])

    items = list(enumerate(weights))
    asyncio.run(for_each(items, work, at_once=at_once, weigh=lambda item: item[1], max_weight=max_weight))
    assert sorted(done) == list(range(len(weights)))


def test_bounded_work_ends_with_its_first_error() -> None:
    begun: list[int] = []

    async def work(n: int) -> None:
        begun.append(n)
        await asyncio.sleep(0)
        if n == 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(for_each(range(1000), work, at_once=2))
    assert len(begun) < 10


def test_an_adopted_snapshot_differs_in_its_parent_only(repo: ic.Repository, root: Path) -> None:
    from icechunk_virtual.repo.format.envelope import FileType, unwrap
    from icechunk_virtual.repo.format.snapshot import decode_snapshot, encode_adopted_snapshot

    id = change(repo)
    data = (root / "snapshots" / id).read_bytes()
    snapshot, parent = decode_snapshot(data, file="x"), SnapshotId(b"new parent!!")
    adopted = encode_adopted_snapshot(snapshot, parent)
    old, new = (unwrap(d, file_type=FileType.SNAPSHOT, file="x") for d in (data, adopted))
    assert decode_snapshot(adopted, file="x").parent_id == parent
    assert snapshot.parent_id is not None
    assert old.replace(snapshot.parent_id, parent) == new
    initial = decode_snapshot((root / "snapshots" / "1CECHNKREP0F1RSTCMT0").read_bytes(), file="x")
    with pytest.raises(ValueError, match="without parent"):
        encode_adopted_snapshot(initial, parent)


def test_rewriting_needs_no_changes(repo: ic.Repository) -> None:
    before = read(repo, branch="main")
    old = {m.id for m in repo.lookup_snapshot(repo.lookup_branch("main")).manifests}
    id = repo.rewrite_manifests("rewritten", branch="main")
    info = repo.lookup_snapshot(id)
    assert not old & {m.id for m in info.manifests}
    assert len(info.manifests) == 2
    assert read(repo, branch="main") == before
    assert "splitting_config" in info.metadata
