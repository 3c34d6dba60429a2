"""Random writers on split arrays, rebased: what is read afterwards is what a plain model says."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import icechunk_virtual as ic

SHAPE = (5, 3)
coords = st.tuples(st.integers(0, 4), st.integers(0, 2))
edits = st.dictionaries(st.tuples(st.sampled_from(["a", "b"]), coords), st.integers(1, 9) | st.none(), max_size=6)
Edits = dict[tuple[str, tuple[int, int]], int | None]


def repository(split: int) -> ic.Repository:
    rule = {ic.ManifestSplitCondition.name_matches("^a$"): {ic.ManifestSplitDimCondition.Any(): split}}
    splitting = ic.ManifestSplittingConfig.from_dict(rule)
    repo = ic.Repository.create(
        ic.in_memory_storage(), ic.RepositoryConfig(manifest=ic.ManifestConfig(splitting=splitting))
    )
    session = repo.writable_session("main")
    group = zarr.create_group(session.store)
    for name in ("a", "b"):
        group.create_array(name, shape=SHAPE, chunks=(1, 1), dtype="i4", compressors=None)
    group["a"][1:4] = 5
    session.commit("base")
    return repo


def write(session: ic.Session, changes: Edits) -> None:
    group: Any = zarr.open_group(session.store, mode="r+")
    for (name, at), value in changes.items():
        group[name][at] = value or 0  # zero is the fill value: the chunk is deleted


@settings(max_examples=25)
@given(st.integers(1, 5), st.lists(edits.filter(bool), min_size=1, max_size=3), edits.filter(bool), st.booleans())
def test_chunks_of_many(split: int, others: list[Edits], mine: Edits, ours_stand: bool) -> None:
    repo = repository(split)
    model = {"a": np.zeros(SHAPE, int), "b": np.zeros(SHAPE, int)}
    model["a"][1:4] = 5
    session = repo.writable_session("main")
    write(session, mine)
    touched = set()
    for n, changes in enumerate(others):
        other = repo.writable_session("main")
        write(other, changes)
        other.commit(f"other {n}")
        for (name, at), value in changes.items():
            model[name][at] = value or 0
            touched.add((name, at))
    for (name, at), value in mine.items():
        if ours_stand or (name, at) not in touched:
            model[name][at] = value or 0
    selection = ic.VersionSelection.UseOurs if ours_stand else ic.VersionSelection.UseTheirs
    id = session.commit("mine", rebase_with=ic.BasicConflictSolver(on_chunk_conflict=selection))
    group: Any = zarr.open_group(repo.readonly_session(snapshot_id=id).store, mode="r")
    for name, expected in model.items():
        np.testing.assert_array_equal(group[name][...], expected)
    assert [s.message for s in repo.ancestry(branch="main")][:2] == ["mine", f"other {len(others) - 1}"]
    parent = repo.lookup_snapshot(id).parent_id
    diff = repo.diff(from_snapshot_id=parent, to_snapshot_id=id)
    left = {(name, at) for name, at in mine if ours_stand or (name, at) not in touched}
    assert {(path[1:], tuple(c)) for path, found in diff.updated_chunks.items() for c in found} == left
