"""Virtual references: setting them one by one, in lists, in arrays and in columns, and reading through them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zarr.core.sync import sync

from icechunk_virtual import (
    ChunkRefs,
    IcechunkError,
    Locations,
    Repository,
    RepositoryConfig,
    Session,
    VirtualChunkContainer,
    VirtualChunkSpec,
    local_filesystem_storage,
    local_filesystem_store,
)
from icechunk_virtual.errors import (
    InvalidChunkIndex,
    InvalidLocation,
    NoContainer,
    NodeNotFound,
    NotAuthorized,
    ObjectChanged,
    VirtualReadError,
)
from tests.support.hierarchies import (
    GROUP,
    array_document,
    coordinates_of,
    get,
    new_repository,
    put,
    tip,
    writable,
)

CONTENT = bytes(range(256))


class Place:
    """A repository with a container for a folder, and a file of 256 different bytes in it."""

    def __init__(self, root: Path, *, authorized: bool = True) -> None:
        self.folder = root / "data"
        (self.folder / "inner").mkdir(parents=True)
        (self.folder / "file").write_bytes(CONTENT)
        (self.folder / "inner" / "file").write_bytes(CONTENT[::-1])
        self.prefix = f"file://{self.folder}/"
        self.url = self.prefix + "file"
        config = RepositoryConfig()
        config.set_virtual_chunk_container(VirtualChunkContainer(self.prefix, local_filesystem_store(str(self.folder))))
        self.repo = new_repository(
            local_filesystem_storage(root / "repo"), config, {self.prefix: None} if authorized else None
        )
        session = self.session()
        put(session.store, "zarr.json", GROUP)
        put(session.store, "a/zarr.json", array_document((4, 5)))
        put(session.store, "s/zarr.json", array_document(()))
        session.commit("arrays")

    def session(self) -> Session:
        return writable(self.repo)

    def reopen(self, **arguments: Any) -> Repository:
        repo: Repository = Repository.open(self.repo.storage, **arguments)
        return repo


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# -- one reference ---------------------------------------------------------------------------------------------


def test_one_reference(place: Place) -> None:
    session = place.session()
    session.store.set_virtual_ref("a/c/1/2", place.url, offset=10, length=5)
    session.store.set_virtual_ref("s/c", place.url, offset=0, length=256)
    asyncio.run(session.store.set_virtual_ref_async("a/c/0/0", place.url, offset=255, length=1))
    for shown in (session, None):
        if shown is None:
            session.commit("refs")
            shown = tip(place.repo)
        assert get(shown.store, "a/c/1/2") == CONTENT[10:15]
        assert get(shown.store, "s/c") == CONTENT
        assert get(shown.store, "a/c/0/0") == CONTENT[255:]
        assert sync(shown.store.getsize("a/c/1/2")) == 5
        assert coordinates_of(shown, "/a") == [(0, 0), (1, 2)]
    assert not (place.folder.parent / "repo" / "chunks").exists()


def test_a_reference_replaces_and_is_replaced(place: Place) -> None:
    session = place.session()
    put(session.store, "a/c/0/0", b"bytes")
    session.store.set_virtual_ref("a/c/0/0", place.url, offset=1, length=1)
    session.store.set_virtual_ref("a/c/0/1", place.url, offset=1, length=1)
    put(session.store, "a/c/0/1", b"bytes")
    assert (get(session.store, "a/c/0/0"), get(session.store, "a/c/0/1")) == (b"\x01", b"bytes")


def test_a_reference_of_no_bytes(place: Place) -> None:
    session = place.session()
    session.store.set_virtual_ref("a/c/0/0", place.url, offset=7, length=0)
    assert get(session.store, "a/c/0/0") == b""
    assert sync(session.store.exists("a/c/0/0"))


def test_locations_are_kept_as_given(place: Place) -> None:
    (place.folder / "a b é.bin").write_bytes(b"odd name")
    given = [place.prefix + "a%20b%20%C3%A9.bin", place.prefix + "a b é.bin"]
    session = place.session()
    for i, url in enumerate(given):
        session.store.set_virtual_ref(f"a/c/0/{i}", url, offset=0, length=8)
    session.commit("odd")
    session = tip(place.repo)
    assert sorted(session.all_virtual_chunk_locations()) == sorted(given)
    assert {get(session.store, f"a/c/0/{i}") for i in range(2)} == {b"odd name"}


@pytest.mark.parametrize("url", ["", "no-scheme", "/a/path", "s3://", "s3://bucket", "file://", "s3:///key"])
@pytest.mark.parametrize("validate", [True, False])
def test_bad_urls(place: Place, url: str, validate: bool) -> None:
    session = place.session()
    with pytest.raises(InvalidLocation, match="virtual ref"):
        session.store.set_virtual_ref("a/c/0/0", url, offset=0, length=1, validate_container=validate)
    with pytest.raises(InvalidLocation, match="virtual ref"):
        session.store.set_virtual_refs(
            "a",
            [VirtualChunkSpec([0, 0], place.url, 0, 1), VirtualChunkSpec([0, 1], url, 0, 1)],
            validate_containers=validate,
        )
    assert not session.has_uncommitted_changes


def test_a_location_without_container(place: Place) -> None:
    session = place.session()
    for url in ("file:///elsewhere/x", "s3://bucket/x", place.prefix[:-1] + "-other/x", place.prefix + "../x"):
        with pytest.raises(IcechunkError) as caught:
            session.store.set_virtual_ref("a/c/0/0", url, offset=0, length=1)
        assert "invalid chunk location" in str(caught.value) or "virtual ref" in str(caught.value)
    assert not session.has_uncommitted_changes
    session.store.set_virtual_ref("a/c/0/0", "s3://bucket/x", offset=0, length=1, validate_container=False)
    with pytest.raises(NoContainer, match=r"s3://bucket/x.*edit the repository configuration"):
        get(session.store, "a/c/0/0")
    assert sync(session.store.exists("a/c/0/0"))


@pytest.mark.parametrize("key", ["a/zarr.json", ".zgroup", "a/.zarray"])
def test_metadata_are_not_virtual(place: Place, key: str) -> None:
    with pytest.raises(IcechunkError, match=r"this operation is not allowed: use \.set to modify metadata for key"):
        place.session().store.set_virtual_ref(key, place.url, offset=0, length=1)


def test_chunks_that_cannot_be(place: Place) -> None:
    session = place.session()
    store = session.store
    with pytest.raises(KeyError) as caught:
        store.set_virtual_ref("x/c/0", place.url, offset=0, length=1)
    assert isinstance(caught.value, NodeNotFound)
    for key in ("a/c/4/0", "a/c/0/5", "a/c/0", "a/c/0/0/0", "s/c/0"):
        with pytest.raises(InvalidChunkIndex, match="invalid chunk index"):
            store.set_virtual_ref(key, place.url, offset=0, length=1)
    with pytest.raises(IcechunkError, match="there is not an array at"):
        store.set_virtual_ref("c", place.url, offset=0, length=1)
    assert not session.has_uncommitted_changes


@pytest.mark.parametrize("wrong", [{"offset": -1}, {"length": -1}, {"offset": 2**64}, {"length": 2**64}])
def test_numbers_that_are_none(place: Place, wrong: dict[str, int]) -> None:
    session = place.session()
    numbers = {"offset": 0, "length": 1, **wrong}
    with pytest.raises(OverflowError):
        session.store.set_virtual_ref("a/c/0/0", place.url, **numbers)
    with pytest.raises(OverflowError):
        session.store.set_virtual_refs("a", [VirtualChunkSpec([0, 0], place.url, **numbers)])
    assert not session.has_uncommitted_changes


# -- checksums -------------------------------------------------------------------------------------------------


def changed_at(path: Path, second: float) -> None:
    os.utime(path, (second, second))


def test_a_moment_as_checksum(place: Place) -> None:
    changed_at(place.folder / "file", 1_700_000_000)
    moment = datetime.fromtimestamp(1_700_000_000, UTC)
    session = place.session()
    for i, zone in enumerate((UTC, timezone(timedelta(hours=5, minutes=30)))):
        session.store.set_virtual_ref(f"a/c/0/{i}", place.url, offset=0, length=2, checksum=moment.astimezone(zone))
    spec = VirtualChunkSpec([0, 2], place.url, 0, 2, last_updated_at_checksum=moment)
    assert session.store.set_virtual_refs("a", [spec]) is None
    session.commit("refs")
    store = tip(place.repo).store
    assert [get(store, f"a/c/0/{i}") for i in range(3)] == [CONTENT[:2]] * 3
    changed_at(place.folder / "file", 1_700_000_001)
    for i in range(3):
        with pytest.raises(ObjectChanged, match="has changed"):
            get(store, f"a/c/0/{i}")


def test_an_etag_as_checksum(place: Place) -> None:
    stat = (place.folder / "file").stat()
    etag = f"{stat.st_ino:x}-{stat.st_mtime_ns // 1000:x}-{stat.st_size:x}"
    session = place.session()
    session.store.set_virtual_ref("a/c/0/0", place.url, offset=0, length=2, checksum=etag)
    session.store.set_virtual_ref("a/c/0/1", place.url, offset=0, length=2, checksum=f'"{etag}"')
    session.store.set_virtual_ref("a/c/0/2", place.url, offset=0, length=2, checksum="other")
    assert (get(session.store, "a/c/0/0"), get(session.store, "a/c/0/1")) == (CONTENT[:2], CONTENT[:2])
    with pytest.raises(ObjectChanged, match="has changed"):
        get(session.store, "a/c/0/2")


@pytest.mark.parametrize("wrong", [datetime(2024, 1, 1), 5, b"etag", 1.5])  # noqa: DTZ001 - naive is the point
def test_checksums_that_are_none(place: Place, wrong: Any) -> None:
    session = place.session()
    with pytest.raises(TypeError):
        session.store.set_virtual_ref("a/c/0/0", place.url, offset=0, length=1, checksum=wrong)
    with pytest.raises(TypeError):
        session.store.set_virtual_refs("a", [VirtualChunkSpec([0, 0], place.url, 0, 1, None, wrong)])
    assert not session.has_uncommitted_changes


# -- lists -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["a", "/a", "/a/", "a/"])
def test_many_references(place: Place, path: str) -> None:
    session = place.session()
    specs = [VirtualChunkSpec([i, j], place.url, 10 * i + j, 2) for i in range(4) for j in range(5)]
    assert session.store.set_virtual_refs(path, specs) is None
    session.commit("refs")
    store = tip(place.repo).store
    for spec in specs:
        i, j = spec.index
        assert get(store, f"a/c/{i}/{j}") == CONTENT[10 * i + j : 10 * i + j + 2]


def test_what_has_no_container_is_left_out_and_named(place: Place) -> None:
    session = place.session()
    specs = [
        VirtualChunkSpec([0, 0], place.url, 0, 1),
        VirtualChunkSpec([3, 1], "s3://bucket/x", 0, 1),
        VirtualChunkSpec([0, 1], "s3://bucket/y", 0, 1),
        VirtualChunkSpec([2, 2], place.url, 2, 1),
    ]
    left_out = session.store.set_virtual_refs("a", specs)
    assert left_out is not None
    assert sorted(left_out) == [(0, 1), (3, 1)]
    assert all(isinstance(i, int) for index in left_out for i in index)
    assert coordinates_of(session, "/a") == [(0, 0), (2, 2)]
    assert asyncio.run(session.store.set_virtual_refs_async("a", specs, validate_containers=False)) is None
    assert len(coordinates_of(session, "/a")) == 4


def test_an_index_outside_sets_nothing(place: Place) -> None:
    session = place.session()
    for index in ([4, 0], [0, 5], [0], [0, 0, 0], []):
        with pytest.raises(InvalidChunkIndex, match="invalid chunk index"):
            session.store.set_virtual_refs(
                "a", [VirtualChunkSpec([1, 1], place.url, 0, 1), VirtualChunkSpec(index, place.url, 0, 1)]
            )
    for index in ([-1, 0], [2**32, 0], [2**70, 0]):
        with pytest.raises((OverflowError, InvalidChunkIndex)):
            session.store.set_virtual_refs("a", [VirtualChunkSpec(index, place.url, 0, 1)])
    assert not session.has_uncommitted_changes


def test_arrays_that_are_none(place: Place) -> None:
    store = place.session().store
    spec = VirtualChunkSpec([0, 0], place.url, 0, 1)
    with pytest.raises(KeyError, match="/x"):
        store.set_virtual_refs("x", [spec])
    with pytest.raises(IcechunkError, match="there is not an array at"):
        store.set_virtual_refs("/", [spec])
    for path in ("..", "a/../a", "a//b", "./a"):
        with pytest.raises(ValueError, match="Invalid array path"):
            store.set_virtual_refs(path, [spec])
    assert store.set_virtual_refs("x", []) is None


def test_of_equal_indices_the_last_stands(place: Place) -> None:
    session = place.session()
    specs = [VirtualChunkSpec([0, 0], place.url, i, 1) for i in range(5)]
    assert session.store.set_virtual_refs("a", specs) is None
    assert get(session.store, "a/c/0/0") == CONTENT[4:5]


# -- arrays ----------------------------------------------------------------------------------------------------


def u64(*values: int) -> Any:
    return np.array(values, np.uint64)


def test_references_from_arrays(place: Place) -> None:
    session = place.session()
    grid = (2, 3)
    offsets = np.arange(6, dtype=np.uint64) * 10
    left_out = session.store.set_virtual_refs_arr("a", grid, [place.url] * 6, offsets, u64(*[4] * 6), arr_offset=(1, 2))
    assert left_out is None
    session.commit("refs")
    store = tip(place.repo).store
    assert coordinates_of(store.session, "/a") == [(i, j) for i in (1, 2) for j in (2, 3, 4)]
    for n, (i, j) in enumerate(np.ndindex(grid)):
        assert get(store, f"a/c/{i + 1}/{j + 2}") == CONTENT[10 * n : 10 * n + 4]


def test_empty_locations_leave_chunks_alone(place: Place) -> None:
    session = place.session()
    put(session.store, "a/c/0/1", b"old")
    locations = [place.url, "", "s3://bucket/x", place.url]
    left_out = session.store.set_virtual_refs_arr("a", (1, 4), locations, u64(0, 0, 0, 9), u64(1, 1, 1, 1))
    assert left_out == [(0, 2)]
    assert coordinates_of(session, "/a") == [(0, 0), (0, 1), (0, 3)]
    assert get(session.store, "a/c/0/1") == b"old"


def test_a_scalar_from_arrays(place: Place) -> None:
    session = place.session()
    assert session.store.set_virtual_refs_arr("s", (), [place.url], u64(3), u64(2)) is None
    assert get(session.store, "s/c") == CONTENT[3:5]


@pytest.mark.parametrize(
    "arguments",
    [
        ((2, 2), 3, 4, 4, None),
        ((2, 2), 4, 3, 4, None),
        ((2, 2), 4, 4, 5, None),
        ((2, 3), 4, 4, 4, None),
        ((2, 2), 4, 4, 4, (1,)),
    ],
)
def test_arrays_that_do_not_fit(place: Place, arguments: tuple[Any, int, int, int, Any]) -> None:
    grid, n_urls, n_offsets, n_lengths, offset = arguments
    session = place.session()
    with pytest.raises(ValueError, match=r"same length|array length|arr_offset length"):
        session.store.set_virtual_refs_arr(
            "a", grid, [place.url] * n_urls, u64(*range(n_offsets)), u64(*range(n_lengths)), arr_offset=offset
        )
    assert not session.has_uncommitted_changes


def test_boxes_outside_the_grid(place: Place) -> None:
    session = place.session()
    for grid, offset in (((5, 1), None), ((1, 1), (4, 0)), ((1,), None), ((1, 1, 1), None)):
        n = int(np.prod(grid))
        with pytest.raises(InvalidChunkIndex, match="invalid chunk index"):
            session.store.set_virtual_refs_arr(
                "a", grid, [place.url] * n, u64(*range(n)), u64(*[1] * n), arr_offset=offset
            )
    assert not session.has_uncommitted_changes


# -- columns ---------------------------------------------------------------------------------------------------


def test_columns_of_every_kind(place: Place) -> None:
    session = place.session()
    small, large = b"small", bytes(range(250)) * 20
    refs = ChunkRefs.concat(
        [
            ChunkRefs.virtual([[0, 0], [0, 1]], Locations.of([place.url]), [0, 0], [0, 5], [5, 5]),
            ChunkRefs.inline([[1, 0], [1, 1], [1, 2]], [small, large, b""]),
        ]
    )
    assert session.store.set_chunk_refs("a", refs) is None
    session.commit("columns")
    repo = place.reopen(authorize_virtual_chunk_access={place.prefix: None})
    found = [get(tip(repo).store, f"a/c/{key}") for key in ("0/0", "0/1", "1/0", "1/1", "1/2")]
    assert found == [CONTENT[:5], CONTENT[5:10], small, large, b""]
    assert len(list((place.folder.parent / "repo/chunks").iterdir())) == 1  # only the large one is an object


def test_columns_of_another_rank_or_outside(place: Place) -> None:
    session = place.session()
    for coords in ([[0]], [[0, 0, 0]], [[4, 0]]):
        with pytest.raises(InvalidChunkIndex, match="invalid chunk index"):
            session.store.set_chunk_refs("a", ChunkRefs.inline(coords, [b"x"]))
    assert session.store.set_chunk_refs("a", ChunkRefs.empty(2)) is None
    assert not session.has_uncommitted_changes
    with pytest.raises(KeyError):
        session.store.set_chunk_refs("x", ChunkRefs.empty(2))


def test_columns_without_container(place: Place) -> None:
    session = place.session()
    refs = ChunkRefs.concat(
        [
            ChunkRefs.virtual([[0, 0], [3, 0]], Locations.of([place.url, "s3://bucket/x"]), [0, 1], [0, 0], [1, 1]),
            ChunkRefs.inline([[1, 0]], [b"x"]),
        ]
    )
    assert session.store.set_chunk_refs("a", refs) == [(3, 0)]
    assert coordinates_of(session, "/a") == [(0, 0), (1, 0)]
    assert asyncio.run(session.store.set_chunk_refs_async("a", refs, validate_containers=False)) is None
    assert coordinates_of(session, "/a") == [(0, 0), (1, 0), (3, 0)]


def test_large_columns(place: Place) -> None:
    """Two hundred thousand references in fifty files; every thousandth is read back."""
    files, each = 50, 4000
    urls = []
    for i in range(files):
        (place.folder / f"part{i:03}").write_bytes(bytes([i]) * each)
        urls.append(f"{place.prefix}part{i:03}")
    session = place.session()
    put(session.store, "big/zarr.json", array_document((files, each)))
    coords = np.stack(np.divmod(np.arange(files * each), each), axis=1)
    refs = ChunkRefs.virtual(
        coords, Locations.of(urls), coords[:, 0], coords[:, 1].astype(np.uint64), np.ones(files * each, np.uint64)
    )
    assert session.store.set_chunk_refs("big", refs) is None
    put(session.store, "big/c/7/7", b"one")
    session.commit("big")
    repo = place.reopen(authorize_virtual_chunk_access={place.prefix: None})
    (manifest,) = [m for m in next(repo.ancestry(branch="main")).manifests if m.num_chunk_refs > 1]
    assert manifest.num_chunk_refs == files * each
    store = tip(repo).store
    for i, j in coords[::1000].tolist():
        assert get(store, f"big/c/{i}/{j}") == bytes([i])
    assert get(store, "big/c/7/7") == b"one"
    session = writable(repo)
    session.store.set_virtual_ref("big/c/0/0", place.url, offset=200, length=1)
    session.commit("one of many")
    assert get(tip(repo).store, "big/c/0/0") == bytes([200])
    assert get(tip(repo).store, "big/c/49/3999") == bytes([49])


def test_many_small_calls(place: Place) -> None:
    session = place.session()
    put(session.store, "long/zarr.json", array_document((3000,)))
    for start in range(0, 3000, 10):
        specs = [VirtualChunkSpec([i], place.url, i % 256, 1) for i in range(start, start + 10)]
        session.store.set_virtual_refs("long", specs)
        if start % 100 == 0:
            put(session.store, f"long/c/{start + 1}", b"own")
    assert len(coordinates_of(session, "/long")) == 3000
    session.commit("many")
    store = tip(place.repo).store
    assert get(store, "long/c/101") == b"own"
    assert get(store, "long/c/2999") == CONTENT[2999 % 256 : 2999 % 256 + 1]


# -- containers ------------------------------------------------------------------------------------------------


def test_reading_needs_authorisation_and_setting_does_not(tmp_path: Path) -> None:
    place = Place(tmp_path, authorized=False)
    session = place.session()
    session.store.set_virtual_ref("a/c/0/0", place.url, offset=0, length=1)
    session.commit("ref")
    with pytest.raises(NotAuthorized) as caught:
        get(tip(place.repo).store, "a/c/0/0")
    text = str(caught.value)
    assert place.url in text
    assert "authorize" in text
    assert place.prefix in text
    repo = place.reopen(authorize_virtual_chunk_access={place.prefix: None})
    assert get(tip(repo).store, "a/c/0/0") == CONTENT[:1]
    with pytest.raises(NotAuthorized):
        get(tip(repo.reopen(authorize_virtual_chunk_access={})).store, "a/c/0/0")


def test_the_longest_prefix_counts(place: Place) -> None:
    inner = place.prefix + "inner/"
    config = RepositoryConfig()
    config.set_virtual_chunk_container(VirtualChunkContainer(inner, local_filesystem_store(str(place.folder))))
    session = place.session()
    session.store.set_virtual_ref("a/c/0/0", place.url, offset=0, length=1)
    session.store.set_virtual_ref("a/c/0/1", inner + "file", offset=0, length=1)
    session.commit("both")

    def reader(*granted: str) -> Any:
        repo = place.reopen(config=config, authorize_virtual_chunk_access=dict.fromkeys(granted))
        return tip(repo).store

    both = reader(place.prefix, inner)
    assert (get(both, "a/c/0/0"), get(both, "a/c/0/1")) == (CONTENT[:1], CONTENT[255:])
    outer_only = reader(place.prefix)
    assert get(outer_only, "a/c/0/0") == CONTENT[:1]
    with pytest.raises(NotAuthorized) as caught:
        get(outer_only, "a/c/0/1")
    assert inner in str(caught.value)
    inner_only = reader(inner)
    assert get(inner_only, "a/c/0/1") == CONTENT[255:]
    with pytest.raises(NotAuthorized):
        get(inner_only, "a/c/0/0")


@pytest.mark.parametrize(
    "spoil", [lambda file: file.unlink(), lambda file: file.write_bytes(CONTENT[:100])], ids=["missing", "cut off"]
)
def test_what_is_not_there_is_an_error_and_no_fill_value(place: Place, spoil: Callable[[Path], object]) -> None:
    import zarr

    session = place.session()
    session.store.set_virtual_ref("a/c/0/0", place.url, offset=99, length=10)
    session.commit("ref")
    spoil(place.folder / "file")
    store = tip(place.repo).store
    with pytest.raises(VirtualReadError) as caught:
        get(store, "a/c/0/0")
    assert place.url in str(caught.value)
    with pytest.raises(IcechunkError):
        zarr.open_array(store, path="a", mode="r")[0, 0]
    assert sync(store.exists("a/c/0/0"))
