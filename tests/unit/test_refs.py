"""Branches and tags: names, errors, tombstones, and the three outcomes of a write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from icechunk_virtual.errors import (
    ConflictError,
    CorruptFile,
    IcechunkError,
    InvalidRefName,
    OutcomeUnknown,
    PreconditionFailed,
    RefExists,
    RefNotFound,
    TransientStorageError,
)
from icechunk_virtual.model.ids import SnapshotId, encode_id
from icechunk_virtual.repo import refs
from icechunk_virtual.repo.object_store import ObjectInfo, ObjectStore, PartPolicy, Version
from icechunk_virtual.storage import in_memory_storage, local_filesystem_storage

T = TypeVar("T")
A, B, C = (SnapshotId(bytes([n]) * 12) for n in (1, 2, 3))


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    storage = in_memory_storage() if request.param == "memory" else local_filesystem_storage(tmp_path)
    return storage.object_store()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refs, "_FIRST_PAUSE", 0.0)


# -- branches ----------------------------------------------------------------------------------------------------


def test_branch(store: ObjectStore) -> None:
    async def work() -> None:
        await refs.create_branch(store, "main", A)
        assert await store.get("refs/branch.main/ref.json") == b'{"snapshot":"%s"}' % encode_id(A).encode()
        assert (await refs.read_branch(store, "main"))[0] == A
        await refs.update_branch(store, "main", expected=A, new=B)
        assert (await refs.read_branch(store, "main"))[0] == B
        await refs.create_branch(store, "b", A)
        assert await refs.list_branches(store) == {"main", "b"}
        await refs.delete_branch(store, "b")
        assert await refs.list_branches(store) == {"main"}
        await refs.create_branch(store, "b", B)
        assert (await refs.read_branch(store, "b"))[0] == B

    run(work())


def test_branch_errors(store: ObjectStore) -> None:
    async def work() -> None:
        with pytest.raises(RefNotFound, match=r"^ref not found `main`$") as missing:
            await refs.read_branch(store, "main")
        assert missing.value.ref == "main"
        await refs.create_branch(store, "main", A)
        text = rf"branch update conflict: `\(None\) != \(Some\({encode_id(A)}\)\)`"
        with pytest.raises(RefExists, match=text) as exists:
            await refs.create_branch(store, "main", B)
        assert exists.value.__dict__.items() >= {"ref": "main", "expected": None, "actual": encode_id(A)}.items()
        with pytest.raises(IcechunkError, match=r"^main branch cannot be deleted$"):
            await refs.delete_branch(store, "main")
        with pytest.raises(RefNotFound, match="ref not found `x`"):
            await refs.delete_branch(store, "x")

    run(work())


def test_lost_race(store: ObjectStore) -> None:
    async def work() -> None:
        await refs.create_branch(store, "main", B)
        with pytest.raises(ConflictError) as lost:
            await refs.update_branch(store, "main", expected=A, new=C)
        assert (lost.value.expected_parent, lost.value.actual_parent) == (encode_id(A), encode_id(B))
        with pytest.raises(ConflictError) as gone:
            await refs.update_branch(store, "gone", expected=A, new=C)
        assert (gone.value.expected_parent, gone.value.actual_parent) == (encode_id(A), None)
        with pytest.raises(ConflictError):  # somebody is at our new id, but not by us
            await refs.update_branch(store, "main", expected=A, new=B)
        assert (await refs.read_branch(store, "main"))[0] == B

    run(work())


def test_one_of_many_wins(store: ObjectStore) -> None:
    async def work() -> None:
        await refs.create_branch(store, "main", A)
        ids = [SnapshotId(bytes([n]) * 12) for n in range(10, 30)]
        moves = (refs.update_branch(store, "main", expected=A, new=id) for id in ids)
        results = await asyncio.gather(*moves, return_exceptions=True)
        winners = [id for id, result in zip(ids, results, strict=True) if result is None]
        assert winners == [(await refs.read_branch(store, "main"))[0]]
        assert all(isinstance(result, ConflictError) for result in results if result is not None)

    run(work())


def test_reset(store: ObjectStore) -> None:
    async def work() -> None:
        await refs.create_branch(store, "main", A)
        await refs.reset_branch(store, "main", B)
        await refs.reset_branch(store, "main", B)
        await refs.reset_branch(store, "main", C, expected=B)
        assert (await refs.read_branch(store, "main"))[0] == C
        text = rf"branch update conflict: `\(Some\({encode_id(A)}\)\) != \(Some\({encode_id(C)}\)\)`"
        with pytest.raises(RefExists, match=text):
            await refs.reset_branch(store, "main", B, expected=A)
        with pytest.raises(RefNotFound, match="ref not found `x`"):
            await refs.reset_branch(store, "x", A)
        with pytest.raises(RefExists, match=rf"\(Some\({encode_id(B)}\)\) != \(None\)"):
            await refs.reset_branch(store, "x", A, expected=B)

    run(work())


# -- tags --------------------------------------------------------------------------------------------------------


def test_tag(store: ObjectStore) -> None:
    async def work() -> None:
        await refs.create_tag(store, "v1", A)
        assert await refs.read_tag(store, "v1") == A
        with pytest.raises(RefExists, match=r"^tag already exists, tags are immutable: `v1`$"):
            await refs.create_tag(store, "v1", B)
        await refs.create_tag(store, "v2", B)
        assert await refs.list_tags(store) == {"v1", "v2"}
        await refs.delete_tag(store, "v1")
        assert await store.get("refs/tag.v1/ref.json.deleted") == b""
        assert await refs.list_tags(store) == {"v2"}
        for attempt in (refs.read_tag(store, "v1"), refs.delete_tag(store, "v1"), refs.delete_tag(store, "v3")):
            with pytest.raises(RefNotFound):
                await attempt
        with pytest.raises(RefExists, match="tag already exists"):
            await refs.create_tag(store, "v1", A)
        assert await refs.list_branches(store) == set()

    run(work())


def test_a_tag_deleted_twice_at_once_is_deleted_once(store: ObjectStore) -> None:
    async def work() -> None:
        await refs.create_tag(store, "v1", A)
        results = await asyncio.gather(*(refs.delete_tag(store, "v1") for _ in range(5)), return_exceptions=True)
        assert results.count(None) == 1
        assert all(isinstance(result, RefNotFound) for result in results if result is not None)

    run(work())


# -- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "a\nb", "a\x00", "\x7f", "a\ud800", "x\u2028"])
def test_refused_names(store: ObjectStore, name: str) -> None:
    for create in (refs.create_branch, refs.create_tag):
        with pytest.raises(InvalidRefName, match="invalid ref name `") as caught:
            run(create(store, name, A))
        assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "name", ["a b", "é", "日本語", "50%", "a#1", "branch.x", "tag.", "a\\b", "...", "%41", "x" * 200]
)
def test_names_come_back(store: ObjectStore, name: str) -> None:
    async def work() -> None:
        await refs.create_branch(store, name, A)
        await refs.create_tag(store, name, B)
        assert await refs.list_branches(store) == {name}
        assert await refs.list_tags(store) == {name}
        assert (await refs.read_branch(store, name))[0] == A
        assert await refs.read_tag(store, name) == B

    run(work())


@pytest.mark.parametrize("name", ["", "a\nb", ".", "x\u2028"])
def test_odd_names_of_others_are_read(store: ObjectStore, name: str) -> None:
    async def work() -> None:
        await store.put(f"refs/branch.{name}/ref.json", b' {"snapshot": "%s", "x": 1} ' % encode_id(A).lower().encode())
        assert await refs.list_branches(store) == {name}
        assert (await refs.read_branch(store, name))[0] == A
        await refs.delete_branch(store, name)
        assert await refs.list_branches(store) == set()

    run(work())


@pytest.mark.parametrize("name", ["a/b", "a\udcffb"])
def test_names_that_cannot_be(store: ObjectStore, name: str) -> None:
    with pytest.raises(InvalidRefName):
        run(refs.read_branch(store, name))
    with pytest.raises(InvalidRefName):
        run(refs.delete_tag(store, name))


def test_strange_objects(store: ObjectStore) -> None:
    async def work() -> None:
        await refs.create_branch(store, "main", A)
        await store.put("refs/branch.empty/other", b"")
        await store.put("refs/tag.empty/ref.json.deleted", b"")
        assert await refs.list_branches(store) == {"main"}
        assert await refs.list_tags(store) == set()
        await store.put("refs/branch.bad/ref.json", b"{}")
        with pytest.raises(CorruptFile, match=r"refs/branch\.bad/ref\.json"):
            await refs.read_branch(store, "bad")
        await store.put("refs/.DS_Store", b"")
        with pytest.raises(IcechunkError, match=r"invalid ref type `\.DS_Store`"):
            await refs.list_branches(store)

    run(work())


# -- three outcomes ----------------------------------------------------------------------------------------------

Fault = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Coroutine[Any, Any, Any]]


class Faulty:
    """An object store whose calls go through `faults`: per method, one for each call, then none."""

    writable = True
    parts = PartPolicy(1, 1)

    def __init__(self, store: ObjectStore, **faults: list[Fault]) -> None:
        self.store = store
        self.faults = faults
        self.calls: list[str] = []

    async def _call(self, method: str, *args: Any, **more: Any) -> Any:
        self.calls.append(method)
        waiting = self.faults.get(method)

        async def real() -> Any:
            return await getattr(self.store, method)(*args, **more)

        return await (waiting.pop(0)(real) if waiting else real())

    async def get(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes:
        return bytes(await self._call("get", key))

    async def get_versioned(self, key: str) -> tuple[bytes, Version]:
        result: tuple[bytes, Version] = await self._call("get_versioned", key)
        return result

    async def put(self, key: str, data: bytes, *, file_type: Any = None, durable: bool = True) -> None:
        await self._call("put", key, data)

    async def put_new(self, key: str, data: bytes) -> Version:
        result: Version = await self._call("put_new", key, data)
        return result

    async def put_if_match(self, key: str, data: bytes, version: Version, *, after: Collection[str] = ()) -> Version:
        result: Version = await self._call("put_if_match", key, data, version, after=after)
        return result

    async def head(self, key: str) -> ObjectInfo:
        result: ObjectInfo = await self._call("head", key)
        return result

    def list(self, prefix: str) -> AsyncIterator[list[ObjectInfo]]:
        return self.store.list(prefix)

    async def delete(self, keys: Iterable[str]) -> int:
        return int(await self._call("delete", keys))

    async def sync(self, keys: Iterable[str]) -> None:
        await self._call("sync", keys)


async def lost_before(real: Callable[[], Any]) -> Any:
    raise OutcomeUnknown("the request was lost")


async def lost_after(real: Callable[[], Any]) -> Any:
    await real()
    raise OutcomeUnknown("the answer was lost")


async def repeated_by_the_client(real: Callable[[], Any]) -> Any:
    """The first try landed, its answer was lost, and the second met the first."""
    await real()
    raise PreconditionFailed("changed")


async def unavailable(real: Callable[[], Any]) -> Any:
    raise TransientStorageError("503")


@pytest.fixture
def base() -> ObjectStore:
    store = in_memory_storage().object_store()
    run(refs.create_branch(store, "main", A))
    return store


@pytest.mark.parametrize(
    "faults",
    [
        {"put_if_match": [lost_before]},
        {"put_if_match": [lost_after]},
        {"put_if_match": [repeated_by_the_client]},
        {"put_if_match": [unavailable, lost_before, lost_after]},
        {"get_versioned": [unavailable]},
        {"put_if_match": [lost_after], "get_versioned": [unavailable, unavailable]},
        {"put_if_match": [lost_before] * 7},
    ],
)
def test_a_lost_answer_is_found_out(base: ObjectStore, faults: dict[str, list[Fault]]) -> None:
    run(refs.update_branch(Faulty(base, **faults), "main", expected=A, new=B))
    assert run(refs.read_branch(base, "main"))[0] == B


def test_a_lost_race_after_a_lost_request(base: ObjectStore) -> None:
    async def other_first(real: Callable[[], Any]) -> Any:
        await refs.update_branch(base, "main", expected=A, new=C)
        raise OutcomeUnknown("the request was lost")

    async def no(tip: SnapshotId) -> bool:
        assert tip == C
        return False

    for passed in (None, no):
        run(refs.reset_branch(base, "main", A))
        with pytest.raises(ConflictError) as lost:
            run(refs.update_branch(Faulty(base, put_if_match=[other_first]), "main", expected=A, new=B, passed=passed))
        assert lost.value.actual_parent == encode_id(C)
        assert run(refs.read_branch(base, "main"))[0] == C


def test_landed_and_built_upon(base: ObjectStore) -> None:
    async def landed_then_passed(real: Callable[[], Any]) -> Any:
        await real()
        await refs.update_branch(base, "main", expected=B, new=C)
        raise OutcomeUnknown("the answer was lost")

    async def passed(tip: SnapshotId) -> bool:
        return tip == C

    faulty = Faulty(base, put_if_match=[landed_then_passed])
    run(refs.update_branch(faulty, "main", expected=A, new=B, passed=passed))
    assert run(refs.read_branch(base, "main"))[0] == C


def test_a_certain_conflict_does_not_ask(base: ObjectStore) -> None:
    async def never(tip: SnapshotId) -> bool:
        raise AssertionError("nothing was tried")

    with pytest.raises(ConflictError):
        run(refs.update_branch(base, "main", expected=C, new=B, passed=never))


def test_giving_up_says_what_is_known(base: ObjectStore) -> None:
    faulty = Faulty(base, put_if_match=[lost_before] * 100)
    with pytest.raises(OutcomeUnknown, match="`main` may or may not have moved"):
        run(refs.update_branch(faulty, "main", expected=A, new=B))
    assert len(faulty.calls) < 30
    with pytest.raises(TransientStorageError, match="503"):  # nothing was even tried
        run(refs.update_branch(Faulty(base, get_versioned=[unavailable] * 100), "main", expected=A, new=B))


@pytest.mark.parametrize("fault", [lost_before, lost_after, unavailable])
def test_lost_answers_to_creations(base: ObjectStore, fault: Fault) -> None:
    async def work() -> None:
        await refs.create_branch(Faulty(base, put_new=[fault]), "b", B)
        await refs.create_tag(Faulty(base, put_new=[fault]), "t", B)
        assert (await refs.read_branch(base, "b"))[0] == await refs.read_tag(base, "t") == B
        await refs.delete_tag(Faulty(base, put_new=[fault]), "t")
        assert await refs.list_tags(base) == set()
        with pytest.raises(OutcomeUnknown):
            await refs.create_tag(Faulty(base, put_new=[lost_before] * 100), "t2", B)

    run(work())


def test_a_creation_that_lost_after_a_lost_request(base: ObjectStore) -> None:
    async def other_first(real: Callable[[], Any]) -> Any:
        await refs.create_tag(base, "t", C)
        raise OutcomeUnknown("the request was lost")

    with pytest.raises(RefExists):
        run(refs.create_tag(Faulty(base, put_new=[other_first]), "t", B))
    assert run(refs.read_tag(base, "t")) == C
