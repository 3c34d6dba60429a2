"""`IcechunkStore`: every method of a zarr store, on committed and on uncommitted states."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.sync import sync

from icechunk_virtual import (
    IcechunkError,
    IcechunkStore,
    Repository,
    RepositoryConfig,
    Session,
    VirtualChunkContainer,
    in_memory_storage,
    local_filesystem_storage,
    local_filesystem_store,
)
from icechunk_virtual.errors import (
    InvalidChunkIndex,
    InvalidKey,
    InvalidMetadata,
    NodeExists,
    NodeNotFound,
    ReadOnlyError,
)
from tests.support.faulty import Script, faulty
from tests.support.hierarchies import (
    GROUP,
    PROTOTYPE,
    array_document,
    buffer,
    coordinates_of,
    delete,
    get,
    group_document,
    keys_of,
    names_of,
    new_repository,
    put,
    tip,
    values_of,
    with_array,
    writable,
)

INLINE, NATIVE, VIRTUAL = b"0123456789", bytes(range(256)) * 3, b"abcdefghijklmnop"
DOCUMENT = array_document((3, 2))


@dataclass
class Filled:
    """A repository whose hierarchy is shown by `session`, either committed or not."""

    repo: Repository
    session: Session

    @property
    def store(self) -> IcechunkStore:
        return self.session.store


@pytest.fixture(params=["committed", "uncommitted"])
def filled(request: pytest.FixtureRequest, tmp_path: Path) -> Filled:
    (tmp_path / "file").write_bytes(b"#" * 7 + VIRTUAL + b"#" * 5)
    prefix = f"file://{tmp_path}/"
    config = RepositoryConfig()
    config.set_virtual_chunk_container(VirtualChunkContainer(prefix, local_filesystem_store(str(tmp_path))))
    repo = new_repository(None, config, {prefix: None})
    session = writable(repo)
    store = session.store
    for key in ("zarr.json", "g/zarr.json", "g-x/zarr.json", "g/empty/zarr.json"):
        put(store, key, GROUP)
    put(store, "g/a/zarr.json", DOCUMENT)
    put(store, "g-x/a/zarr.json", DOCUMENT)
    put(store, "g.x/zarr.json", array_document((2,)))
    put(store, "scalar/zarr.json", array_document(()))
    put(store, "scalar/c", b"s")
    put(store, "g/a/c/0/0", INLINE)
    put(store, "g/a/c/1/0", NATIVE)
    store.set_virtual_ref("g/a/c/1/1", prefix + "file", offset=7, length=len(VIRTUAL))
    put(store, "g-x/a/c/2/1", b"x")
    if request.param == "committed":
        session.commit("all")
        session = writable(repo)
    return Filled(repo, session)


KEYS = [
    "g-x/a/c/2/1", "g-x/a/zarr.json", "g-x/zarr.json", "g.x/zarr.json", "g/a/c/0/0", "g/a/c/1/0", "g/a/c/1/1",
    "g/a/zarr.json", "g/empty/zarr.json", "g/zarr.json", "scalar/c", "scalar/zarr.json", "zarr.json",
]  # fmt: skip


# -- reading ---------------------------------------------------------------------------------------------------


def test_get(filled: Filled) -> None:
    store = filled.store
    assert get(store, "g/a/zarr.json") == DOCUMENT
    assert get(store, "/g/a/zarr.json") == DOCUMENT
    assert get(store, "g/a/c/0/0") == INLINE
    assert get(store, "g/a/c/1/0") == NATIVE
    assert get(store, "g/a/c/1/1") == VIRTUAL
    assert get(store, "scalar/c") == b"s"


@pytest.mark.parametrize(
    "key", ["nowhere/zarr.json", "g/a/c/0/1", "g/a/c/3/0", "g/a/c/0", "g/a/c/0/0/0", "g/a/c", ".zgroup", "g/a/.zarray"]
)
def test_get_of_what_is_not_there(filled: Filled, key: str) -> None:
    assert get(filled.store, key) is None


@pytest.mark.parametrize(
    "key", ["", "g", "g/a/c/x", "g/a/c/-1/0", "g/a/0/0", "g//a/zarr.json", "../zarr.json", "a.0.0"]
)
def test_keys_that_are_none(filled: Filled, key: str) -> None:
    for use in (get, delete, lambda store, key: put(store, key, b"x")):
        with pytest.raises(InvalidKey, match="invalid zarr key format"):
            use(filled.store, key)
    for question in (filled.store.exists, filled.store.getsize):
        with pytest.raises(InvalidKey):
            sync(question(key))


def test_get_of_a_chunk_without_array(filled: Filled) -> None:
    with pytest.raises(IcechunkError, match="node not found at `/nowhere`"):
        get(filled.store, "nowhere/c/0")
    with pytest.raises(IcechunkError, match="there is not an array at"):
        get(filled.store, "g/c/0")


PIECES = {"g/a/c/0/0": INLINE, "g/a/c/1/0": NATIVE, "g/a/c/1/1": VIRTUAL, "g/a/zarr.json": DOCUMENT}


def requests(n: int) -> Iterator[tuple[Any, slice]]:
    """Byte ranges of a value of n bytes, and the slices that they mean."""
    yield RangeByteRequest(0, n), slice(None)
    yield RangeByteRequest(2, 5), slice(2, 5)
    yield RangeByteRequest(3, 3), slice(0, 0)
    yield RangeByteRequest(5, 2), slice(0, 0)
    yield RangeByteRequest(2, n + 100), slice(2, None)
    yield RangeByteRequest(n, n + 1), slice(0, 0)
    yield RangeByteRequest(n + 5, n + 9), slice(0, 0)
    yield RangeByteRequest(-4, -1), slice(-4, -1)
    yield OffsetByteRequest(0), slice(None)
    yield OffsetByteRequest(4), slice(4, None)
    yield OffsetByteRequest(n), slice(0, 0)
    yield OffsetByteRequest(n + 3), slice(0, 0)
    yield OffsetByteRequest(-4), slice(-4, None)
    yield SuffixByteRequest(3), slice(-3, None)
    yield SuffixByteRequest(n), slice(None)
    yield SuffixByteRequest(n + 7), slice(None)
    yield SuffixByteRequest(0), slice(0, 0)
    yield SuffixByteRequest(-2), slice(0, 0)


@pytest.mark.parametrize("key", PIECES)
def test_byte_ranges_are_slices(filled: Filled, key: str) -> None:
    value = PIECES[key]
    for asked, part in requests(len(value)):
        assert get(filled.store, key, asked) == value[part], asked


def test_a_range_of_another_type_is_refused(filled: Filled) -> None:
    with pytest.raises(ValueError, match="Unexpected byte_range, got"):
        get(filled.store, "g/a/c/0/0", (0, 3))


def test_get_partial_values(filled: Filled) -> None:
    asked = [
        ("g/a/c/1/0", RangeByteRequest(1, 3)),
        ("g/a/c/2/0", None),
        ("nowhere/zarr.json", None),
        ("scalar/c", None),
    ]
    found = sync(filled.store.get_partial_values(PROTOTYPE, asked))
    assert [None if value is None else value.to_bytes() for value in found] == [b"\x01\x02", None, None, b"s"]
    with pytest.raises(IcechunkError, match="node not found"):
        sync(filled.store.get_partial_values(PROTOTYPE, [("scalar/c", None), ("nowhere/c/0", None)]))


def test_exists(filled: Filled) -> None:
    there = {key: sync(filled.store.exists(key)) for key in (*KEYS, "g/a/c/0/1", "x/zarr.json", "x/c/0", "g/c/0")}
    assert there == {key: key in KEYS for key in there}
    with pytest.raises(KeyError, match=r"v2 key not found at `\.zgroup`"):
        sync(filled.store.exists(".zgroup"))


def test_getsize(filled: Filled) -> None:
    sizes = {key: sync(filled.store.getsize(key)) for key in (*PIECES, "g/a/c/0/1", "g/a/c/7/7")}
    assert sizes == {key: len(PIECES.get(key, b"")) for key in sizes}
    for key, expected in (("x/zarr.json", "node not found at `/x`"), ("x/c/0", "/x"), ("a/.zarray", "v2 key")):
        for kind in (KeyError, FileNotFoundError):
            with pytest.raises(kind, match=expected):
                sync(filled.store.getsize(key))


def test_getsize_prefix(filled: Filled) -> None:
    values = values_of(filled.store)
    for prefix in ("", "/", "g", "g/", "g/a", "g-x", "scalar"):
        inner = prefix.strip("/")
        expected = sum(len(value) for key, value in values.items() if not inner or key.startswith(inner + "/"))
        assert sync(filled.store.getsize_prefix(prefix)) == expected
    assert sync(filled.store.getsize_prefix("g/a/c/1")) == len(NATIVE) + len(VIRTUAL)
    assert sync(filled.store.getsize_prefix("nowhere")) == 0


# -- listing ---------------------------------------------------------------------------------------------------


def test_list_prefix(filled: Filled) -> None:
    assert keys_of(filled.store) == KEYS
    for prefix in ("", "g", "g/", "g/a", "g-x", "g.x", "scalar", "g/empty"):
        inner = prefix.rstrip("/")
        assert keys_of(filled.store, prefix) == [key for key in KEYS if not inner or key.startswith(inner + "/")]


def test_list_names_documents_first(filled: Filled) -> None:
    async def keys() -> list[str]:
        return [key async for key in filled.store.list()]

    found = asyncio.run(keys())
    assert sorted(found) == KEYS
    kinds = [key.endswith("zarr.json") for key in found]
    assert kinds == sorted(kinds, reverse=True)


@pytest.mark.parametrize("prefix", ["gx", "g/a/c", "g/a/c/0", "nowhere", "g/..", "g//a", "zarr.json", "g/zarr.json"])
def test_list_prefix_of_what_is_no_node(filled: Filled, prefix: str) -> None:
    with pytest.raises(IcechunkError, match="bad key prefix"):
        keys_of(filled.store, prefix)


@pytest.mark.parametrize(
    ("prefix", "names"),
    [
        ("", ["g", "g-x", "g.x", "scalar", "zarr.json"]),
        ("/", ["g", "g-x", "g.x", "scalar", "zarr.json"]),
        ("g", ["a", "empty", "zarr.json"]),
        ("g/", ["a", "empty", "zarr.json"]),
        ("g/a", ["c", "zarr.json"]),
        ("g.x", ["c", "zarr.json"]),
        ("g/a/c", ["0", "1"]),
        ("g/a/c/1", ["0", "1"]),
        ("g/a/c/1/1", []),
        ("g/a/c/2", []),
        ("g/a/c/9", []),
        ("g/empty", ["zarr.json"]),
        ("g/nowhere", []),
        ("gx", []),
    ],
)
def test_list_dir(filled: Filled, prefix: str, names: list[str]) -> None:
    assert names_of(filled.store, prefix) == names
    assert sync(filled.store.is_empty(prefix)) == (not names)


def test_nodes_without_a_parent(filled: Filled) -> None:
    store = filled.store
    put(store, "far/away/a/zarr.json", array_document((2,)))
    put(store, "far/away/a/c/0", b"x")
    for _ in range(2):
        assert keys_of(store, "far") == ["far/away/a/c/0", "far/away/a/zarr.json"]
        assert keys_of(store, "far/away") == keys_of(store, "far")
        assert not sync(store.is_empty("far"))
        assert not sync(store.exists("far/zarr.json"))
        filled.session.commit("far")
        store = writable(filled.repo).store
        filled.session = store.session
        put(store, "zarr.json", group_document(n=1))
    sync(store.delete_dir("far"))
    assert keys_of(store) == KEYS
    sync(store.delete_dir("g"))
    assert "g-x/a/c/2/1" in keys_of(store)
    assert not [key for key in keys_of(store) if key.startswith("g/")]


# -- writing ---------------------------------------------------------------------------------------------------


def test_set_keeps_the_bytes_of_a_document() -> None:
    store = writable(new_repository()).store
    odd = b'{ "node_type":"group",\n  "zarr_format": 3, "consolidated_metadata": null, "\\u0061":"\xc3\xa9"}\n'
    put(store, "zarr.json", odd)
    assert get(store, "zarr.json") == odd


def test_set_takes_buffers_only(filled: Filled) -> None:
    for value in (b"x", bytearray(b"x"), None, np.zeros(3, np.uint8)):
        with pytest.raises(TypeError, match="Buffer"):
            sync(filled.store.set("g/a/c/0/1", value))  # type: ignore[arg-type]


def test_set_of_v2_keys(filled: Filled) -> None:
    expected = "store method `Icechunk cannot set Zarr V2 metadata keys` is not implemented by Icechunk"
    with pytest.raises(IcechunkError, match=expected):
        put(filled.store, "g/.zarray", b"{}")
    with pytest.raises(KeyError, match="v2 key"):
        sync(filled.store.set_if_not_exists(".zgroup", buffer(b"{}")))
    delete(filled.store, ".zgroup")
    assert keys_of(filled.store) == KEYS


def test_chunks_need_an_array(filled: Filled) -> None:
    for use in (delete, lambda store, key: put(store, key, b"x")):
        with pytest.raises(KeyError, match="/nowhere") as caught:
            use(filled.store, "nowhere/c/0")
        assert isinstance(caught.value, NodeNotFound)
        with pytest.raises(IcechunkError, match="there is not an array at"):
            use(filled.store, "g/c/0")


@pytest.mark.parametrize("index", ["3/0", "0/2", "0", "0/0/0", "", "4294967295/0"])
def test_chunks_outside_the_grid_are_refused(filled: Filled, index: str) -> None:
    key = f"g/a/c/{index}".rstrip("/")
    before = values_of(filled.store)
    delete(filled.store, key)  # deleting what can not exist is no error
    with pytest.raises(InvalidChunkIndex, match=r"invalid chunk index: coordinates ChunkIndices\(\["):
        put(filled.store, key, b"x" * 600)
    with pytest.raises(InvalidChunkIndex, match="for array at /g/a"):
        filled.store.set_virtual_ref(key, "file:///x/y", offset=0, length=1, validate_container=False)
    assert values_of(filled.store) == before


def test_a_scalar_and_an_axis_of_no_length() -> None:
    repo = new_repository()
    session = writable(repo)
    put(session.store, "s/zarr.json", array_document(()))
    put(session.store, "z/zarr.json", array_document((0, 2)))
    put(session.store, "s/c", b"s")
    put(session.store, "z/c/0/1", b"z")
    for index in ("1/0", "0/2"):
        with pytest.raises(InvalidChunkIndex):
            put(session.store, f"z/c/{index}", b"z")
    for key in ("s/c/0", "s/c/0/0"):
        with pytest.raises(InvalidChunkIndex):
            put(session.store, key, b"s")
    session.commit("x")
    assert keys_of(tip(repo).store) == ["s/c", "s/zarr.json", "z/c/0/1", "z/zarr.json"]
    again = writable(repo)
    delete(again.store, "s/c")
    assert get(again.store, "s/c") is None
    assert again.status().updated_chunks == {"/s": [[]]}
    again.commit("gone")
    assert keys_of(tip(repo).store, "s") == ["s/zarr.json"]


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{",
        b"[]",
        b'"group"',
        b"{}",
        b'{"node_type":"other"}',
        b'{"node_type":"array"}',
        array_document((-1,)),
        array_document((1.5,), [1]),  # type: ignore[arg-type]
        array_document((4,), [0]),
        array_document((4,), [1, 1]),
        array_document((4,), dimension_names=["a", "b"]),
        array_document((4,), chunk_grid={"name": "rectangular", "configuration": {"chunk_shape": [1]}}),
        array_document((2**40,)),
    ],
)
def test_bad_documents(document: bytes) -> None:
    session = writable(new_repository())
    with pytest.raises(InvalidMetadata, match="bad metadata"):
        put(session.store, "a/zarr.json", document)
    assert not session.has_uncommitted_changes


def test_another_type_at_the_same_path(filled: Filled) -> None:
    with pytest.raises(NodeExists, match="node already exists at `/g/a`: trying to add group"):
        put(filled.store, "g/a/zarr.json", GROUP)
    with pytest.raises(NodeExists, match="node already exists at `/g`: trying to add array"):
        put(filled.store, "g/zarr.json", DOCUMENT)
    delete(filled.store, "g/a/zarr.json")
    put(filled.store, "g/a/zarr.json", GROUP)
    assert names_of(filled.store, "g/a") == ["zarr.json"]


@pytest.mark.parametrize("size", [0, 1, 512, 513, 100_000])
@pytest.mark.parametrize("threshold", [None, 0, 1])
def test_where_the_bytes_of_a_chunk_go(tmp_path: Path, size: int, threshold: int | None) -> None:
    repo = new_repository(local_filesystem_storage(tmp_path), RepositoryConfig(inline_chunk_threshold_bytes=threshold))
    with_array(repo)
    session = writable(repo)
    put(session.store, "a/c/2", bytes(size))
    session.commit("x")
    objects = list((tmp_path / "chunks").glob("*")) if (tmp_path / "chunks").exists() else []
    assert len(objects) == (size > (512 if threshold is None else threshold))
    assert get(tip(repo).store, "a/c/2") == bytes(size)
    assert sync(tip(repo).store.getsize("a/c/2")) == size


def test_set_if_not_exists(filled: Filled) -> None:
    store = filled.store
    for key, value in values_of(store).items():
        sync(store.set_if_not_exists(key, buffer(b"other" if "/c" in key else group_document(other=1))))
        assert get(store, key) == value
    sync(store.set_if_not_exists("g/a/c/2/1", buffer(b"new")))
    sync(store.set_if_not_exists("new/zarr.json", buffer(GROUP)))
    delete(store, "g/a/c/0/0")
    sync(store.set_if_not_exists("g/a/c/0/0", buffer(b"again")))
    assert (get(store, "g/a/c/2/1"), get(store, "g/a/c/0/0")) == (b"new", b"again")
    assert get(store, "new/zarr.json") == GROUP
    for key in ("nowhere/c/0", "g/a/c/9/9"):
        with pytest.raises(IcechunkError):
            sync(store.set_if_not_exists(key, buffer(b"x")))


@pytest.mark.parametrize("size", [3, 2000])
def test_of_many_at_once_one_is_first(size: int) -> None:
    repo = new_repository(faulty(in_memory_storage(), Script()))  # whose calls let the others go first
    with_array(repo)
    session = writable(repo)
    for key in ("a/c/1", "a/c/3"):
        put(session.store, key, b"committed")
    session.commit("a manifest to be read first")
    store = writable(Repository.open(repo.storage)).store  # whose manifest is not in memory
    landed: list[bytes] = []

    async def set_one(n: int) -> None:
        await store.set_if_not_exists("a/c/2", buffer(bytes([n]) * size))
        found = await store.get("a/c/2", PROTOTYPE)
        assert found is not None
        landed.append(found.to_bytes())

    async def race() -> None:
        await asyncio.gather(*(set_one(n) for n in range(8)))

    asyncio.run(race())
    assert len(set(landed)) == 1


def test_no_partial_writes(filled: Filled) -> None:
    store = filled.store
    assert (store.supports_writes, store.supports_deletes, store.supports_listing) == (True, True, True)
    assert not getattr(store, "supports_partial_writes", False)
    assert not store.supports_consolidated_metadata
    with pytest.raises(IcechunkError, match="store method `set_partial_values` is not implemented by Icechunk"):
        sync(store.set_partial_values([("g/a/c/0/0", 1, b"x")]))
    with pytest.raises(TypeError):
        zarr.consolidate_metadata(store)


# -- deleting --------------------------------------------------------------------------------------------------


def remaining(*gone: str) -> list[str]:
    return [key for key in KEYS if not any(key == g or key.startswith(g + "/") for g in gone)]


@pytest.mark.parametrize(
    ("key", "left"),
    [
        ("g/zarr.json", remaining("g")),
        ("g/a/zarr.json", remaining("g/a")),
        ("g/empty/zarr.json", remaining("g/empty")),
        ("zarr.json", []),
        ("nowhere/zarr.json", KEYS),
        ("g/a/c/1/0", remaining("g/a/c/1/0")),
        ("g/a/c/1/1", remaining("g/a/c/1/1")),
        ("g/a/c/2/1", KEYS),
        ("scalar/c", remaining("scalar/c")),
    ],
)
def test_delete(filled: Filled, key: str, left: list[str]) -> None:
    delete(filled.store, key)
    assert keys_of(filled.store) == left
    if filled.session.has_uncommitted_changes:
        filled.session.commit("less")
    assert keys_of(tip(filled.repo).store) == left


@pytest.mark.parametrize(
    ("prefix", "left"),
    [
        ("", []),
        ("/", []),
        ("g", remaining("g")),
        ("/g/", remaining("g")),
        ("g/a", remaining("g/a")),
        ("g/a/c", remaining("g/a/c")),
        ("g/a/c/1", remaining("g/a/c/1")),
        ("g/a/c/1/1", remaining("g/a/c/1/1")),
        ("scalar/c", remaining("scalar/c")),
        ("g/a/c/0/0/0", KEYS),
        ("g/a/c/9", KEYS),
        ("g/a/x", KEYS),
        ("gx", KEYS),
        ("g/..", KEYS),
        ("nowhere", KEYS),
    ],
)
def test_delete_dir(filled: Filled, prefix: str, left: list[str]) -> None:
    sync(filled.store.delete_dir(prefix))
    assert keys_of(filled.store) == left
    if filled.session.has_uncommitted_changes:
        filled.session.commit("less")
    assert keys_of(tip(filled.repo).store) == left


@pytest.mark.parametrize("clear", [lambda store: sync(store.clear()), lambda store: store.sync_clear()])
def test_clear(filled: Filled, clear: Callable[[IcechunkStore], None]) -> None:
    clear(filled.store)
    assert keys_of(filled.store) == []
    assert sync(filled.store.is_empty(""))


# -- read-only -------------------------------------------------------------------------------------------------


def attempts(store: IcechunkStore) -> Iterator[Callable[[], object]]:
    yield lambda: put(store, "zarr.json", group_document(n=1))
    yield lambda: put(store, "nonsense", b"")  # refused before the key is looked at
    yield lambda: put(store, "g/a/c/0/0", b"x")
    yield lambda: sync(store.set_if_not_exists("g/a/c/2/1", buffer(b"x")))
    yield lambda: sync(store.set_partial_values([("g/a/c/0/0", 0, b"x")]))
    yield lambda: delete(store, "g/a/c/0/0")
    yield lambda: delete(store, "g/zarr.json")
    yield lambda: sync(store.delete_dir("g"))
    yield lambda: sync(store.clear())
    yield store.sync_clear
    yield lambda: store.set_virtual_ref("g/a/c/0/0", "file:///x/y", offset=0, length=1, validate_container=False)
    yield lambda: store.set_virtual_refs("g/a", [])
    yield lambda: store.set_virtual_refs_arr(
        "g/a", [1, 1], ["file:///x/y"], np.array([0], np.uint64), np.array([1], np.uint64), validate_containers=False
    )


def test_read_only_sessions_refuse_everything(filled: Filled) -> None:
    if filled.session.has_uncommitted_changes:
        filled.session.commit("all")
    session = tip(filled.repo)
    before = values_of(session.store)
    for store in (session.store, session.store.with_read_only(False)):
        for attempt in attempts(store):
            with pytest.raises(ReadOnlyError, match="cannot write to read-only store"):
                attempt()
    assert values_of(session.store) == before
    assert not session.has_uncommitted_changes


def test_read_only_views_refuse_everything(filled: Filled) -> None:
    before = values_of(filled.store)
    view = filled.store.with_read_only(True)
    assert view.read_only
    assert not view._is_open
    for attempt in attempts(view):
        with pytest.raises(ReadOnlyError, match="cannot write to read-only store"):
            attempt()
    assert values_of(view) == before
    put(view.with_read_only(False), "g/a/c/2/0", b"x")
    assert get(view, "g/a/c/2/0") == b"x"


def test_a_store_from_before_the_commit_refuses_writes() -> None:
    repo = new_repository()
    session = writable(repo)
    store = session.store
    put(store, "zarr.json", GROUP)
    session.commit("x")
    for attempt in (lambda: put(store, "a/zarr.json", GROUP), lambda: delete(store, "zarr.json")):
        with pytest.raises(ReadOnlyError, match="cannot write to read-only store"):
            attempt()
    assert values_of(store) == {"zarr.json": GROUP}


# -- as an object ----------------------------------------------------------------------------------------------


def test_equality(filled: Filled) -> None:
    assert filled.store == filled.store
    assert filled.session.store.session == filled.session
    assert filled.store == filled.store.with_read_only(True)
    assert filled.store != writable(filled.repo).store
    assert filled.store != "store"
    assert "IcechunkStore" in repr(filled.store)


def test_stores_of_a_session_share_its_state(filled: Filled) -> None:
    one, other = filled.session.store, filled.session.store
    put(one, "g/a/c/2/0", b"new")
    assert get(other, "g/a/c/2/0") == b"new"


# -- through zarr ----------------------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["one session", "a commit per step"])
def step(request: pytest.FixtureRequest) -> Callable[[Session, Repository], Session]:
    """What happens between two steps."""

    def same(session: Session, repo: Repository) -> Session:
        return session

    def committed(session: Session, repo: Repository) -> Session:
        if session.has_uncommitted_changes:
            session.commit("step")
        return writable(repo)

    return committed if request.param else same


def test_a_life_through_zarr(step: Callable[[Session, Repository], Session]) -> None:
    repo = new_repository()
    session = writable(repo)
    expected = np.arange(7 * 5, dtype="i4").reshape(7, 5)
    group = zarr.create_group(session.store, attributes={"title": "x"})
    array = group.create_array("a", shape=(7, 5), chunks=(2, 2), dtype="i4", fill_value=-1)
    array[:] = expected
    session = step(session, repo)

    array = zarr.open_array(session.store, path="a", mode="r+")
    array[2:4, :] = expected[2:4] = 9
    np.testing.assert_array_equal(zarr.open_array(session.store, path="a", mode="r")[:], expected)
    session = step(session, repo)

    array = zarr.open_array(session.store, path="a", mode="r+")
    array.resize((3, 5))
    expected = expected[:3]
    np.testing.assert_array_equal(array[:], expected)
    session = step(session, repo)

    array = zarr.open_array(session.store, path="a", mode="r+")
    array.resize((6, 5))
    grown = np.full((6, 5), -1, "i4")
    grown[:3] = expected
    grown[3] = array[3]  # the chunk of row 2 is kept whole by zarr
    np.testing.assert_array_equal(array[4:], np.full((2, 5), -1))
    np.testing.assert_array_equal(array[:], grown)
    session = step(session, repo)

    array = zarr.open_array(session.store, path="a", mode="r+")
    array.append(np.full((2, 5), 4, "i4"))
    grown = np.concatenate([grown, np.full((2, 5), 4, "i4")])
    session = step(session, repo)

    np.testing.assert_array_equal(zarr.open_array(session.store, path="a", mode="r")[:], grown)
    array = zarr.create_array(session.store, name="a", shape=(4,), chunks=(2,), dtype="u1", overwrite=True)
    np.testing.assert_array_equal(array[:], np.zeros(4, "u1"))
    array[1:3] = 5
    session = step(session, repo)

    np.testing.assert_array_equal(zarr.open_array(session.store, path="a", mode="r")[:], [0, 5, 5, 0])
    array = zarr.open_array(session.store, path="a", mode="r+")
    array[:] = 0  # zarr deletes chunks of fill values
    assert coordinates_of(session, "/a") == []
    array.attrs["units"] = "m"
    session = step(session, repo)

    group = zarr.open_group(session.store, mode="r+")
    assert group["a"].attrs["units"] == "m"
    del group["a"]
    assert list(group.members()) == []
    session = step(session, repo)
    assert keys_of(session.store) == ["zarr.json"]


def test_zarr_overwrites_a_group_beside_a_sibling() -> None:
    repo = new_repository()
    session = writable(repo)
    root = zarr.create_group(session.store)
    for name in ("g", "g-x", "g.x"):
        root.create_group(name).create_array("a", shape=(2,), dtype="u1")[:] = 1
    session.commit("three")
    session = writable(repo)
    zarr.create_group(session.store, path="g", overwrite=True)
    session.commit("one is empty")
    found = zarr.open_group(tip(repo).store, mode="r")
    assert [name for name, _ in found["g"].members()] == []
    for name in ("g-x", "g.x"):
        np.testing.assert_array_equal(found[f"{name}/a"][:], [1, 1])


def test_zarr_format_2_is_refused() -> None:
    with pytest.raises((IcechunkError, KeyError)):
        zarr.create_group(writable(new_repository()).store, zarr_format=2)
