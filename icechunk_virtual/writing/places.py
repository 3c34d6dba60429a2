"""Where the pieces of a dataset go in the arrays that exist.

Behind their end, into slices, or where the coordinates say. Pure arithmetic on shapes and coordinate values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Region: TypeAlias = Mapping[str, slice | Literal["auto"]] | Literal["auto"]


@dataclass(frozen=True, slots=True)
class Place:
    """The box of an array that a piece fills.

    Attributes
    ----------
    axes
        Those along which the piece is placed; along all others it is as long as the array.
    start, shape
        First element and length of the piece, per axis.
    grown
        Shape of the array after the piece is written.
    """

    axes: tuple[int, ...]
    start: tuple[int, ...]
    shape: tuple[int, ...]
    grown: tuple[int, ...]

    @property
    def slices(self) -> tuple[slice, ...]:
        """The box in elements."""
        return tuple(slice(a, a + n) for a, n in zip(self.start, self.shape, strict=True))

    def chunk_box(self, chunk_shape: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """The box in chunks."""
        ends = (a + n for a, n in zip(self.start, self.shape, strict=True))
        return tuple((a // c, -(-b // c)) for a, b, c in zip(self.start, ends, chunk_shape, strict=True))

    def unaligned(self, chunk_shape: Sequence[int]) -> int | None:
        """The first axis along which the box begins or ends inside a chunk."""
        for axis in self.axes:
            chunk, begin = chunk_shape[axis], self.start[axis]
            end = begin + self.shape[axis]
            if begin % chunk or (end % chunk and end != self.grown[axis]):
                return axis
        return None


def behind(dim: str, names: Sequence[str | None], shape: tuple[int, ...], there: tuple[int, ...]) -> Place | None:
    """Behind the end along a dimension; ``None`` for an array without it."""
    if dim not in names:
        return None
    axis = names.index(dim)
    start, grown = [0] * len(there), list(there)
    start[axis], grown[axis] = there[axis], there[axis] + shape[axis]
    return Place((axis,), tuple(start), shape, tuple(grown))


def inside(
    slices: Mapping[str, slice], names: Sequence[str | None], shape: tuple[int, ...], there: tuple[int, ...]
) -> Place | None:
    """In slices of dimensions; ``None`` for an array that has none of them.

    Raises
    ------
    ValueError
        A slice with a step, or of another length than the piece.
    """
    axes = tuple(axis for axis, name in enumerate(names) if name in slices)
    start = [0] * len(there)
    for axis in axes:
        name = str(names[axis])
        start[axis], stop, step = slices[name].indices(there[axis])
        if step != 1 or stop - start[axis] != shape[axis]:
            raise ValueError(
                f"region {name}={_show(slices[name])} takes {max(0, stop - start[axis])} of the {there[axis]} elements "
                f"that the repository has along `{name}`, but the dataset has {shape[axis]}; give a slice of that "
                "length without a step"
            )
    return Place(axes, tuple(start), shape, there) if axes else None


def find(values: NDArray[Any], there: NDArray[Any]) -> slice | None:
    """Where a coordinate is found in a longer one; ``None`` if it is not, or in more than one place."""
    n = len(values)
    if not n:
        return None
    starts = [i for i in np.flatnonzero(there == values[0]).tolist() if np.array_equal(there[i : i + n], values)]
    return slice(starts[0], starts[0] + n) if len(starts) == 1 else None


def _show(part: slice) -> str:
    ends = ("" if end is None else str(end) for end in (part.start, part.stop))
    return ":".join(ends) + ("" if part.step is None else f":{part.step}")
