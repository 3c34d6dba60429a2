"""Arrays that are split without being told to, written and read in turns by us and by the original.

The limit of a million references per manifest is lowered to 16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
import zarr

import icechunk_virtual as ours
from icechunk_virtual.repo import split
from tests.support.manifests import ids, manifests


@pytest.fixture(autouse=True)
def few_refs_per_manifest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "MAX_REFS", 16)


def open_(ic: Any, root: Path, config: Any = None) -> Any:
    return ic.Repository.open(ic.local_filesystem_storage(str(root)), config)


def write(repo: Any, rows: int, values: Any, at: Any = ...) -> str:
    """Commit values to the array `a` of 8 columns and one element per chunk, made if need be as long as `rows`."""
    session = repo.writable_session("main")
    group = zarr.open_group(session.store, mode="a")
    if "a" in group:
        array = group["a"]
        array.resize((rows, 8))  # type: ignore[union-attr]
    else:
        names = ["time", "x"]
        array = group.create_array("a", shape=(rows, 8), chunks=(1, 1), dtype="i4", dimension_names=names)
    array[at] = values  # type: ignore[index]
    return str(session.commit("write"))


def expect(root: Path, values: Any) -> None:
    """Both libraries read the same, and list every chunk once."""
    for ic in (ours, icechunk):
        session = open_(ic, root).readonly_session("main")
        np.testing.assert_array_equal(zarr.open_group(session.store, mode="r")["a"][...], values)  # type: ignore[index]


def boxes(repo: Any, snapshot: str) -> list[list[int]]:
    """Ranges of the manifests along the first axis; along the second all reach everywhere."""
    found = [ref["extents"] for ref in manifests(repo, snapshot, "a")]
    assert {tuple(x) for _, x in found} == {(0, 8)}
    return [time for time, _ in found]


def test_the_original_reads_what_we_split_and_appending_keeps_it(tmp_path: Path) -> None:
    values = np.arange(13 * 8).reshape(13, 8) + 1
    repo = ours.Repository.create(ours.local_filesystem_storage(tmp_path))
    first = write(repo, 7, values[:7])
    assert boxes(repo, first) == [[0, 2], [2, 4], [4, 6], [6, 7]]
    second = write(repo, 13, values[7:], slice(7, 13))
    assert boxes(repo, second) == [[0, 2], [2, 4], [4, 6], [6, 8], [8, 10], [10, 12], [12, 13]]
    assert len(ids(repo, first, "a") & ids(repo, second, "a")) == 3, "all but the last one"
    expect(tmp_path, values)


def test_growing_beyond_the_limit_keeps_the_first_manifest(tmp_path: Path) -> None:
    values = np.arange(5 * 8).reshape(5, 8) + 1
    repo = ours.Repository.create(ours.local_filesystem_storage(tmp_path))
    first = write(repo, 2, values[:2])
    second = write(repo, 5, values[2:], slice(2, 5))
    assert boxes(repo, second) == [[0, 2], [2, 4], [4, 5]]
    assert ids(repo, first, "a") < ids(repo, second, "a")
    expect(tmp_path, values)


def test_the_original_commits_to_an_array_that_we_split(tmp_path: Path) -> None:
    """It gathers the references of an array that it touches in one manifest; we split them again when we touch it."""
    values = np.arange(6 * 8).reshape(6, 8) + 1
    repo = ours.Repository.create(ours.local_filesystem_storage(tmp_path))
    first = write(repo, 6, values)
    theirs = open_(icechunk, tmp_path)
    session = theirs.writable_session("main")
    zarr.open_group(session.store, mode="a").create_array("b", shape=(1,), dtype="i1")
    elsewhere = session.commit("an array beside it")
    assert ids(repo, elsewhere, "a") == ids(repo, first, "a")
    expect(tmp_path, values)
    values[3, 3] = -1
    gathered = write(open_(icechunk, tmp_path), 6, -1, (3, 3))
    assert boxes(repo, gathered) == [[0, 6]]
    expect(tmp_path, values)
    values = np.concatenate([values, values[:1] + 1000])
    again = write(open_(ours, tmp_path), 7, values[6:], slice(6, 7))
    assert boxes(repo, again) == [[0, 2], [2, 4], [4, 6], [6, 7]]
    expect(tmp_path, values)


def test_a_large_manifest_of_the_original_is_split_when_it_is_touched(tmp_path: Path) -> None:
    values = np.arange(6 * 8).reshape(6, 8) + 1
    theirs = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path)))
    first = write(theirs, 6, values)
    repo = open_(ours, tmp_path)
    assert boxes(repo, first) == [[0, 6]]
    values[0, 0] = -1
    assert boxes(repo, write(repo, 6, -1, (0, 0))) == [[0, 2], [2, 4], [4, 6]]
    expect(tmp_path, values)
    values = values[:3]
    cut = write(open_(ours, tmp_path), 3, -1, (0, 0))
    assert boxes(repo, cut) == [[0, 2], [2, 3]]
    expect(tmp_path, values)


def test_an_array_that_was_split_stays_split(tmp_path: Path) -> None:
    """Also with few references left: otherwise it would flip between both states around the limit."""
    repo = ours.Repository.create(ours.local_filesystem_storage(tmp_path))
    values = np.arange(6 * 8).reshape(6, 8) + 1
    write(repo, 6, values)
    values[:, 1:] = 0  # the fill value: those chunks are deleted
    session = repo.writable_session("main")
    zarr.open_group(session.store, mode="a")["a"][:, 1:] = 0  # type: ignore[index]
    snapshot = session.commit("few are left")
    assert [(ref["extents"], ref["count"]) for ref in manifests(repo, snapshot, "a")] == [
        ([[start, start + 2], [0, 1]], 2) for start in (0, 2, 4)
    ]
    values[0, 0] = -1
    snapshot = write(repo, 6, -1, (0, 0))
    assert [ref["count"] for ref in manifests(repo, snapshot, "a")] == [2, 2, 2]
    expect(tmp_path, values)
    gathered = repo.rewrite_manifests("anew", branch="main")
    assert [ref["count"] for ref in manifests(repo, gathered, "a")] == [6], "what was decided is decided again"
    expect(tmp_path, values)


def test_the_axis_named_like_time_is_cut(tmp_path: Path) -> None:
    repo = ours.Repository.create(ours.local_filesystem_storage(tmp_path))
    session = repo.writable_session("main")
    names = ["x", "valid_time"]
    array = zarr.create_group(session.store).create_array(
        "a", shape=(8, 6), chunks=(1, 1), dtype="i4", dimension_names=names
    )
    array[...] = 1
    snapshot = session.commit("time comes last")
    assert [ref["extents"] for ref in manifests(repo, snapshot, "a")] == [
        [[0, 8], [start, start + 2]] for start in (0, 2, 4)
    ]
    expect(tmp_path, np.ones((8, 6)))


def test_few_references_of_a_large_grid_stay_in_one_manifest(tmp_path: Path) -> None:
    repo = ours.Repository.create(ours.local_filesystem_storage(tmp_path))
    values = np.zeros((1000, 8), int)
    values[[1, 500, 999], 3] = 5
    session = repo.writable_session("main")
    array = zarr.create_group(session.store).create_array("a", shape=(1000, 8), chunks=(1, 1), dtype="i4")
    for row in (1, 500, 999):
        array[row, 3] = 5
    snapshot = session.commit("scattered")
    assert [ref["extents"] for ref in manifests(repo, snapshot, "a")] == [[[1, 1000], [3, 4]]]
    expect(tmp_path, values)


@pytest.mark.parametrize(("steps", "expected"), [(2**32 - 1, [[0, 6]]), (4, [[0, 4], [4, 6]])])
def test_configured_arrays_are_left_alone(tmp_path: Path, steps: int, expected: list[list[int]]) -> None:
    sizes = {ours.ManifestSplitCondition.name_matches("^a$"): {ours.ManifestSplitDimCondition.Axis(0): steps}}
    splitting = ours.ManifestSplittingConfig.from_dict(sizes)
    config = ours.RepositoryConfig(manifest=ours.ManifestConfig(splitting=splitting))
    repo = ours.Repository.create(ours.local_filesystem_storage(tmp_path), config)
    values = np.arange(6 * 8).reshape(6, 8) + 1
    assert boxes(repo, write(repo, 6, values)) == expected
    session = repo.writable_session("main")
    other = zarr.open_group(session.store, mode="a").create_array("b", shape=(6, 8), chunks=(1, 1), dtype="i4")
    other[...] = 1
    assert len(manifests(repo, session.commit("b"), "b")) == 3, "nothing is configured for this one"
    expect(tmp_path, values)


def test_all_manifests_anew(tmp_path: Path) -> None:
    values = np.arange(6 * 8).reshape(6, 8) + 1
    repo = ours.Repository.create(ours.local_filesystem_storage(tmp_path))
    first = write(repo, 6, values)
    second = repo.rewrite_manifests("anew", branch="main")
    assert boxes(repo, second) == [[0, 2], [2, 4], [4, 6]]
    assert not ids(repo, first, "a") & ids(repo, second, "a")
    expect(tmp_path, values)
