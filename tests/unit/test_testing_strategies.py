"""`splitting_configs`: configurations that name the arrays they were drawn for, and work in a repository."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import icechunk_virtual as ic
from icechunk_virtual.testing.strategies import splitting_configs

NAMES = st.sampled_from(["a", "b.c", "g/a+b", "g/(x)", "h/[1]", "$", "q^2"])


def make(store: Any, names: list[str]) -> list[Any]:
    return [
        zarr.create_array(
            store, name=name, shape=(5, 3), chunks=(1, 1), dtype="u1", dimension_names=["x.y", None] if i % 2 else None
        )
        for i, name in enumerate(names)
    ]


@settings(max_examples=30)
@given(data=st.data(), names=st.lists(NAMES, unique=True, min_size=1, max_size=4))
def test_configs_work(data: st.DataObject, names: list[str]) -> None:
    arrays = make({}, names)
    splitting = data.draw(splitting_configs(arrays=arrays))
    assert isinstance(splitting, ic.ManifestSplittingConfig)
    sizes = splitting.to_dict()
    assert len(sizes) <= len(names)
    paths = [f"/{name}" for name in names]
    for condition, dimensions in sizes.items():
        assert any(condition.matches(path, 0) if False else condition.matches(path) for path in paths)
        assert all(1 <= size <= 15 for size in dimensions.values())
    repo = ic.Repository.create(
        ic.in_memory_storage(), ic.RepositoryConfig(manifest=ic.ManifestConfig(splitting=splitting))
    )
    session = repo.writable_session("main")
    for array in make(session.store, names):
        array[...] = 7
    session.commit("x")
    store = repo.readonly_session("main").store
    assert all(np.all(zarr.open_array(store, path=name)[...] == 7) for name in names)


@given(data=st.data())
def test_arrays_without_dimensions_are_left_alone(data: st.DataObject) -> None:
    scalar = zarr.create_array({}, name="s", shape=(), dtype="u1")
    assert data.draw(splitting_configs(arrays=[scalar])).to_dict() == {}
