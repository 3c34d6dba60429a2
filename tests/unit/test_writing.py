"""Writing scanned trees: modes, appended pieces, regions; all or nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import icechunk_virtual as icv
from icechunk_virtual.errors import InconsistentFiles, NoContainer, NodeExists, NodeNotFound, ReadOnlyError
from icechunk_virtual.model.chunk_refs import ChunkRefs
from icechunk_virtual.model.nodes import ArrayNode
from icechunk_virtual.scanners.dataset import VirtualArray, VirtualGroup
from icechunk_virtual.writing.places import find, inside
from icechunk_virtual.writing.plan import Plan
from tests.support.pieces import dataset, repository, stored, virtual_array


@pytest.fixture
def repo(tmp_path: Path) -> icv.Repository:
    return repository(tmp_path)


@pytest.fixture
def piece(tmp_path: Path) -> Callable[..., icv.VirtualDataset]:
    """`n` steps from `start` on: a virtual variable, its coordinate, a static one."""
    count = 0

    def make(start: int, n: int, *, chunk: int = 2, units: str = "days since 2000-01-01", **more: Any) -> Any:
        nonlocal count
        count += 1
        values = np.arange(start * 3, (start + n) * 3, dtype="i4").reshape(n, 3)
        arrays = {
            "time": stored(np.arange(start, start + n, dtype="f8"), ["time"], units=units),
            "v": virtual_array(tmp_path / f"v{count}.bin", values, (chunk, 3), ["time", "x"], **more),
            "x": stored(np.arange(3), ["x"]),
        }
        return dataset(arrays)

    return make


def write(repo: icv.Repository, what: icv.VirtualDataset, **how: Any) -> None:
    session = repo.writable_session("main")
    what.to_icechunk(session, **how)
    session.commit("write")


def refused(repo: icv.Repository, error: type[Exception], match: str, what: Any, **how: Any) -> Exception:
    """The write is refused, and the session has no changes."""
    session = repo.writable_session("main")
    with pytest.raises(error, match=match) as caught:
        what.to_icechunk(session, **how)
    assert not session.has_uncommitted_changes
    return caught.value


def values(repo: icv.Repository, path: str) -> NDArray[Any]:
    return np.asarray(zarr.open_array(repo.readonly_session("main").store, path=path, mode="r")[...])


def rows(n: int) -> NDArray[Any]:
    return np.arange(3 * n, dtype="i4").reshape(n, 3)


# -- new groups ------------------------------------------------------------------------------------------------


def test_a_new_group_with_its_parents(repo: icv.Repository, piece: Any) -> None:
    write(repo, piece(0, 5), group="a/b")
    np.testing.assert_array_equal(values(repo, "a/b/v"), rows(5))
    root = zarr.open_group(repo.readonly_session("main").store, mode="r")
    assert dict(root["a/b"].attrs) == {"title": "test"}
    assert dict(root["a"].attrs) == {}


def test_through_a_store_as_through_a_session(repo: icv.Repository, piece: Any) -> None:
    session = repo.writable_session("main")
    piece(0, 2).to_icechunk(session.store)
    assert session.has_uncommitted_changes


def test_what_cannot_be_written_to(repo: icv.Repository, piece: Any) -> None:
    session = repo.writable_session("main")
    with pytest.raises(ReadOnlyError):
        piece(0, 2).to_icechunk(repo.readonly_session("main"))
    with pytest.raises(ReadOnlyError):
        piece(0, 2).to_icechunk(session.store.with_read_only(True))
    with pytest.raises(TypeError, match="writable_session"):
        piece(0, 2).to_icechunk(repo)
    assert not session.has_uncommitted_changes


def test_the_group_must_be_empty(repo: icv.Repository, piece: Any) -> None:
    write(repo, piece(0, 2))
    refused(repo, NodeExists, "mode='a'.*mode='w'.*append_dim.*group", piece(0, 2))
    write(repo, piece(0, 2), group="beside")
    refused(repo, NodeExists, "`/v` is an array. Use mode='w'", piece(0, 2), group="v")
    refused(repo, NodeExists, "nothing can be below", piece(0, 2), group="v/below")


def test_replacing_everything(repo: icv.Repository, piece: Any) -> None:
    write(repo, piece(0, 2), group="g")
    write(repo, dataset({"y": stored([1], ["y"])}), group="g", mode="w")
    assert sorted(zarr.open_group(repo.readonly_session("main").store, path="g", mode="r")) == ["y"]


def test_adding_and_replacing_by_name(repo: icv.Repository, piece: Any, tmp_path: Path) -> None:
    write(repo, piece(0, 4))
    other = virtual_array(tmp_path / "o.bin", rows(2) + 7, (2, 3), ["t", "x"])
    write(repo, dataset({"v": other, "y": stored([1], ["y"])}), mode="a")
    np.testing.assert_array_equal(values(repo, "v"), rows(2) + 7)
    assert sorted(zarr.open_group(repo.readonly_session("main").store, mode="r")) == ["time", "v", "x", "y"]


def test_attributes_that_are_no_numbers(repo: icv.Repository) -> None:
    """As `missing_value` often is; JSON has no word for them, and zarr writes them as Python does."""
    array = stored(np.arange(3.0), ["x"], missing_value=np.nan, valid_max=np.inf)
    write(repo, icv.VirtualDataset(VirtualGroup({"g": np.nan}, {"v": array}), (), "test"))
    group = zarr.open_group(repo.readonly_session("main").store, mode="r")
    assert np.isnan(group.attrs["g"])
    assert np.isnan(group["v"].attrs["missing_value"])
    assert group["v"].attrs["valid_max"] == np.inf


def test_adding_keeps_attributes_of_groups(repo: icv.Repository, piece: Any) -> None:
    store = repo.writable_session("main").store
    zarr.create_group(store, attributes={"by": "hand", "title": "old"})
    piece(0, 2).to_icechunk(store, mode="a")
    assert dict(zarr.open_group(store, mode="r").attrs) == {"by": "hand", "title": "test"}


def test_a_group_is_no_array(repo: icv.Repository, piece: Any) -> None:
    write(repo, dataset({}, {"v": VirtualGroup({}, {"y": stored([1], ["y"])})}))
    refused(repo, NodeExists, "`/v` is a group", piece(0, 2), mode="a")
    write(repo, piece(0, 2), mode="w")
    refused(repo, NodeExists, "`/v` is an array", dataset({}, {"v": VirtualGroup()}), mode="a")


def test_no_container(repo: icv.Repository, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    array = virtual_array(elsewhere / "v.bin", rows(2), (2, 3), ["time", "x"])
    error = refused(repo, NoContainer, "(?s)array `/v`.*set_virtual_chunk_container", dataset({"v": array}))
    assert error.location == (elsewhere / "v.bin").as_uri()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"mode": "x"}, "mode must be"),
        ({"mode": "r+"}, "region"),
        ({"append_dim": "time", "region": {"time": slice(1)}}, "not both"),
        ({"append_dim": "time", "mode": "w"}, "mode='a'"),
        ({"region": {"time": slice(1)}, "mode": "w"}, "r\\+"),
        ({"region": {"time": 3}}, "to slices or to 'auto', got {'time': 3}"),
        ({"region": {}}, "to slices or to 'auto', got {}"),
        ({"region": "time"}, "region must be 'auto', or"),
    ],
)
def test_arguments_that_contradict(repo: icv.Repository, piece: Any, how: dict[str, Any], match: str) -> None:
    refused(repo, ValueError, match, piece(0, 1), **how)


def test_all_or_nothing(repo: icv.Repository, piece: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Plan, "assign", lambda self, *_: self._steps.append(fail))
    write(repo, piece(0, 2))
    refused(repo, OSError, "disk full", piece(2, 2), append_dim="time")


# -- appending -------------------------------------------------------------------------------------------------


def test_append(repo: icv.Repository, piece: Any) -> None:
    write(repo, piece(0, 4))
    write(repo, piece(4, 3), append_dim="time")
    np.testing.assert_array_equal(values(repo, "v"), rows(7))
    np.testing.assert_array_equal(values(repo, "time"), np.arange(7))
    np.testing.assert_array_equal(values(repo, "x"), np.arange(3))


def test_append_converts_times_with_their_bounds(repo: icv.Repository, tmp_path: Path) -> None:
    def times(start: int, units: str) -> Any:
        t = np.arange(start, start + 2, dtype="f8")
        bounds = stored(np.stack([t, t + 1], 1), ["time", "nv"])
        return dataset({"time": stored(t, ["time"], units=units, bounds="time_bnds"), "time_bnds": bounds})

    write(repo, times(0, "days since 2000-01-01"))
    write(repo, times(0, "days since 2000-01-03"), append_dim="time")
    np.testing.assert_array_equal(values(repo, "time"), [0, 1, 2, 3])
    np.testing.assert_array_equal(values(repo, "time_bnds")[:, 1], [1, 2, 3, 4])


def test_appended_twice(repo: icv.Repository, piece: Any) -> None:
    write(repo, piece(0, 4))
    refused(
        repo,
        InconsistentFiles,
        r"`/time`: value 0.0 .*ends at 3.0; was it appended before",
        piece(0, 4),
        append_dim="time",
    )
    refused(repo, InconsistentFiles, "value 2.0", piece(2, 4), append_dim="time")


def test_append_inside_a_chunk(repo: icv.Repository, piece: Any) -> None:
    write(repo, piece(0, 3))
    refused(repo, InconsistentFiles, "`/v`: elements 3 to 5 along `time`.*chunks of 2", piece(3, 2), append_dim="time")


def test_append_of_other_chunks(repo: icv.Repository, piece: Any) -> None:
    write(repo, piece(0, 4, chunk=2))
    refused(
        repo, InconsistentFiles, "`/v`: chunk length along `time` is 3, but 2", piece(4, 3, chunk=3), append_dim="time"
    )


def test_uncompressed_chunks_are_cut(repo: icv.Repository, piece: Any) -> None:
    write(repo, piece(0, 4, chunk=1))
    write(repo, piece(4, 3, chunk=3), append_dim="time")
    np.testing.assert_array_equal(values(repo, "v"), rows(7))


def test_append_names_every_misfit(repo: icv.Repository, piece: Any, tmp_path: Path) -> None:
    write(repo, piece(0, 4))
    other = {
        "time": stored(np.arange(4, 6, dtype="f4"), ["time"], units="days since 2000-01-01"),
        "v": virtual_array(tmp_path / "w.bin", rows(2), (2, 3), ["time", "x"], attributes={"scale_factor": 2.0}),
        "x": stored([0, 1, 3], ["x"]),
    }
    error = refused(repo, InconsistentFiles, "does not fit", dataset(other), append_dim="time")
    text = "\n".join(error.differences)  # type: ignore[attr-defined]
    assert "`/time`: data type is float32, but float64 in the repository" in text
    assert "`/v`: attribute scale_factor is 2.0, but absent in the repository" in text
    assert "`/x`: its values are not those in the repository" in text


def test_append_to_what_is_not_there(repo: icv.Repository, piece: Any) -> None:
    refused(repo, NodeNotFound, "no array `/time`", piece(0, 2), append_dim="time")
    write(repo, piece(0, 2))
    refused(repo, ValueError, "`depth`", piece(0, 2), append_dim="depth")


def test_append_without_all_arrays(repo: icv.Repository, piece: Any) -> None:
    write(repo, piece(0, 2))
    only_time = dataset({"time": piece(2, 2).arrays["time"]})
    refused(repo, InconsistentFiles, "`/v`: it has the dimension `time`", only_time, append_dim="time")


def test_append_in_groups(repo: icv.Repository, piece: Any) -> None:
    write(repo, dataset({}, {"g": piece(0, 2).root}), group="top")
    write(repo, dataset({}, {"g": piece(2, 2).root}), group="top", append_dim="time")
    np.testing.assert_array_equal(values(repo, "top/g/v"), rows(4))


def test_missing_chunks_stay_missing(repo: icv.Repository, piece: Any) -> None:
    write(repo, piece(0, 2, fill_value=-1))
    more = piece(2, 2, fill_value=-1)
    hollow = VirtualArray(more.arrays["v"].document, ChunkRefs.empty(2))
    write(repo, dataset({**more.arrays, "v": hollow}), append_dim="time")
    np.testing.assert_array_equal(values(repo, "v"), np.concatenate([rows(2), np.full((2, 3), -1)]))


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4), chunk=st.integers(1, 3), data=st.data())
def test_pieces_make_the_whole(
    lengths: list[int], chunk: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """However a dataset is cut at chunk borders, appended pieces are the dataset."""
    folder = tmp_path_factory.mktemp("p")
    repo = repository(folder)
    lengths = [n * chunk for n in lengths[:-1]] + lengths[-1:]
    total = sum(lengths)
    whole = data.draw(st.lists(st.integers(-100, 100), min_size=2 * total, max_size=2 * total))
    table = np.array(whole, ">i2").reshape(total, 2)
    start = 0
    for i, n in enumerate(lengths):
        part = table[start : start + n]
        arrays = {
            "v": virtual_array(folder / f"{i}.bin", part, (chunk, 1), ["t", "x"]),
            "s": stored(part[:, 0].astype("f4"), ["t"]),
        }
        write(repo, dataset(arrays), append_dim=None if i == 0 else "t")
        start += n
    np.testing.assert_array_equal(values(repo, "v"), table)
    np.testing.assert_array_equal(values(repo, "s"), table[:, 0])


# -- regions ---------------------------------------------------------------------------------------------------


def test_region(repo: icv.Repository, piece: Any) -> None:
    write(repo, piece(0, 8))
    new = piece(2, 4)
    new.arrays["v"].document["attributes"] = {}
    write(repo, piece(12, 4), region={"time": slice(2, 6)})
    expected = rows(8)
    expected[2:6] = rows(16)[12:]
    np.testing.assert_array_equal(values(repo, "v"), expected)
    np.testing.assert_array_equal(values(repo, "time"), [0, 1, 12, 13, 14, 15, 6, 7])


@pytest.mark.parametrize("region", ["auto", {"time": "auto"}])
def test_region_found_by_the_coordinate(repo: icv.Repository, piece: Any, region: Any, tmp_path: Path) -> None:
    write(repo, piece(0, 8))
    arrays = dict(piece(4, 2, units="days since 2000-01-01").arrays)
    arrays["v"] = virtual_array(tmp_path / "new.bin", rows(2) - 100, (2, 3), ["time", "x"])
    write(repo, dataset(arrays), region=region)
    expected = rows(8)
    expected[4:6] = rows(2) - 100
    np.testing.assert_array_equal(values(repo, "v"), expected)
    np.testing.assert_array_equal(values(repo, "time"), np.arange(8))


def test_region_that_is_not_found(repo: icv.Repository, piece: Any) -> None:
    write(repo, piece(0, 4))
    refused(repo, InconsistentFiles, "`/time`: its values .9.0 to 10.0. are not found", piece(9, 2), region="auto")


def test_region_replaces_chunks_that_are_missing_in_the_piece(repo: icv.Repository, piece: Any) -> None:
    write(repo, piece(0, 6, fill_value=-1))
    new = piece(2, 2, fill_value=-1)
    hollow = VirtualArray(new.arrays["v"].document, ChunkRefs.empty(2))
    write(repo, dataset({**new.arrays, "v": hollow}), region={"time": slice(2, 4)})
    expected = rows(6)
    expected[2:4] = -1
    np.testing.assert_array_equal(values(repo, "v"), expected)


def test_region_along_two_dimensions(repo: icv.Repository, tmp_path: Path) -> None:
    table = np.arange(24, dtype="i4").reshape(4, 6)
    write(repo, dataset({"v": virtual_array(tmp_path / "v.bin", table, (2, 3), ["y", "x"])}))
    tile = virtual_array(tmp_path / "t.bin", table[2:, :3] + 100, (2, 3), ["y", "x"])
    write(repo, dataset({"v": tile}), region={"y": slice(2, 4), "x": slice(0, 3)})
    table[2:, :3] += 100
    np.testing.assert_array_equal(values(repo, "v"), table)


@pytest.mark.parametrize(
    ("region", "error", "match"),
    [
        ({"time": slice(0, 3)}, ValueError, "takes 3 of the 8 elements"),
        ({"time": slice(0, 4, 2)}, ValueError, "without a step"),
        ({"depth": slice(0, 2)}, ValueError, "`depth`"),
        ({"x": "auto"}, InconsistentFiles, "length along `time` is 2, but 8"),
        ({"time": slice(1, 3)}, InconsistentFiles, "elements 1 to 3 along `time`"),
        ("auto", InconsistentFiles, "not found in one place"),
    ],
)
def test_regions_that_do_not_fit(
    repo: icv.Repository, piece: Any, region: Any, error: type[Exception], match: str
) -> None:
    write(repo, piece(0, 8))
    refused(repo, error, match, piece(20, 2), region=region)


def test_region_auto_needs_the_coordinate(repo: icv.Repository, tmp_path: Path) -> None:
    v = virtual_array(tmp_path / "v.bin", rows(4), (2, 3), ["time", "x"])
    write(repo, dataset({"v": v}))
    refused(repo, ValueError, "'auto' needs a coordinate `time`", dataset({"v": v}), region={"time": "auto"})
    other = virtual_array(tmp_path / "other.bin", rows(4), (2, 3), ["time", "x"])
    refused(repo, ValueError, r"found neither a coordinate .* nor references", dataset({"v": other}), region="auto")


def test_a_region_renews_references_to_the_same_file(repo: icv.Repository, tmp_path: Path) -> None:
    """Also of arrays that have none of its dimensions, with chunks of other lengths, or fewer."""

    def days(etag: str, static: int, length: int) -> icv.VirtualDataset:
        t = stored([0.0, 1.0, 2.0, 3.0], ["time"])
        v = virtual_array(tmp_path / "f.bin", rows(4), (2, 3), ["time", "x"])
        w = virtual_array(tmp_path / "f.bin", rows(4), (2, 3), ["y", "x"])
        refs = w.refs.take(np.arange(static))
        refs = ChunkRefs.virtual(
            refs.coords, refs.locations.with_checksums(etags=[etag]), 0, refs.offset, np.full(static, length, np.uint64)
        )
        return dataset({"time": t, "v": v, "w": VirtualArray(w.document, refs)})

    def there() -> list[tuple[list[int], int, str]]:
        plan = Plan(repo.writable_session("main"))
        node = plan.node("/w")
        assert isinstance(node, ArrayNode)
        refs = plan.refs(node)
        etags = [refs.locations.etags[int(row)] for row in refs.source]
        return list(zip(refs.coords.tolist(), refs.length.tolist(), etags, strict=True))

    write(repo, days("one", 2, 24))
    assert there() == [([0, 0], 24, "one"), ([1, 0], 24, "one")]
    write(repo, days("two", 1, 20), region="auto")
    assert there() == [([0, 0], 20, "two")]
    write(repo, days("three", 2, 24), region={"time": slice(0, 4)})
    assert there() == [([0, 0], 24, "three"), ([1, 0], 24, "three")]


def test_find_is_unambiguous() -> None:
    assert find(np.array([2, 3]), np.array([1, 2, 3])) == slice(1, 3)
    assert find(np.array([1]), np.array([1, 2, 1])) is None
    assert find(np.array([]), np.array([1])) is None
    assert find(np.array([3, 4]), np.array([1, 2, 3])) is None


def test_slices_as_python_has_them() -> None:
    place = inside({"t": slice(-2, None)}, ["t"], (2,), (5,))
    assert place is not None
    assert place.slices == (slice(3, 5),)
    assert inside({"t": slice(0, 1)}, ["x"], (2,), (5,)) is None
