"""Hypothesis strategies: configurations drawn for the arrays at hand. Needs hypothesis."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from icechunk_virtual.repo.conditions import ManifestSplitCondition, ManifestSplitDimCondition
from icechunk_virtual.repo.config import ManifestSplittingConfig

if TYPE_CHECKING:
    import zarr

__all__ = ["splitting_configs"]


@st.composite
def splitting_configs(draw: st.DrawFn, *, arrays: Iterable[zarr.Array[Any]]) -> ManifestSplittingConfig:
    """Ways to split the manifests of arrays.

    Every array is named by its name or its path, and one or more of its dimensions, by axis or by name, are cut into
    pieces of 1 to length + 10 chunks. Arrays without dimensions are left alone.

    Parameters
    ----------
    arrays
        The arrays of a repository.

    Examples
    --------
    >>> import zarr
    >>> array = zarr.create_array({}, name="a", shape=(4, 6), dtype="u1")
    >>> splitting_configs(arrays=[array]).example()  # doctest: +SKIP
    """
    sizes: dict[Any, dict[Any, int]] = {}
    for array in arrays:
        if not array.ndim:
            continue
        names = getattr(array.metadata, "dimension_names", None) or (None,) * array.ndim
        axes = draw(st.lists(st.sampled_from(range(array.ndim)), min_size=1, unique=True))
        sizes[_condition(draw, array.path)] = {
            _dimension(draw, axis, names[axis]): draw(st.integers(1, array.shape[axis] + 10)) for axis in axes
        }
    return ManifestSplittingConfig.from_dict(sizes)


def _condition(draw: st.DrawFn, path: str) -> ManifestSplitCondition:
    if draw(st.booleans()):
        return ManifestSplitCondition.name_matches(f"^{_literal(path.rpartition('/')[2])}$")
    return ManifestSplitCondition.path_matches(f"^/{_literal(path)}$")


def _dimension(draw: st.DrawFn, axis: int, name: str | None) -> Any:
    if name is None or draw(st.booleans()):
        return ManifestSplitDimCondition.Axis(axis)
    return ManifestSplitDimCondition.DimensionName(f"^{_literal(name)}$")


def _literal(text: str) -> str:
    """A pattern of the configuration's dialect that stands for the text alone."""
    return re.sub(r"([\\.+*?()|\[\]{}^$#&~-])", r"\\\1", text)
