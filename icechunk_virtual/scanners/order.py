"""The order of files along a dimension, by the values of its coordinate.

Pure judgement over decoded coordinates; what the files hold besides does not matter here.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.scanners.dataset import VirtualArray
from icechunk_virtual.scanners.harmonise import harmonise_times
from icechunk_virtual.scanners.native import decode_array


def order_of(coordinates: Sequence[VirtualArray | None], dim: str) -> tuple[list[int], list[str]]:
    """In which order to join the files.

    Parameters
    ----------
    coordinates
        The stored coordinate variable of every file, ``None`` where there is none.
    dim
        Its name.

    Returns
    -------
    order : list of int
        Numbers of the files: as given, unless sorting them makes the coordinate monotonic.
    notes : list of str
        What was done.
    """
    given = list(range(len(coordinates)))
    arrays = [a for a in coordinates if a is not None]
    if len(arrays) != len(coordinates):
        return given, []
    harmonised, faults = harmonise_times({dim: arrays})
    values = [decode_array(a) for a in harmonised[dim]]
    if faults or not all(map(_is_sortable, values)):
        return given, []
    sign = _direction(values)
    if sign == 0:
        return given, []
    filled = [i for i in given if values[i].size]
    order = sorted(filled, key=lambda i: sign * values[i][0].item()) + [i for i in given if not values[i].size]
    if [i for i in order if values[i].size] == filled:
        return given, []
    return order, [f"the files were not in the order of `{dim}` and were sorted by its first values"]


def overlaps(values: Sequence[NDArray[Any]]) -> list[tuple[int, int, Any]]:
    """Coordinate values that reach into another file.

    Parameters
    ----------
    values
        The coordinate of each file, one-dimensional, in the order of joining.

    Returns
    -------
    list of (file, other file, value)
        At most one entry per file. Monotonic coordinates must go on where the file before ended; others must not
        repeat a value of another file.
    """
    filled = [i for i, v in enumerate(values) if v.size]
    if all(map(_is_sortable, values)) and (sign := _direction(values)):
        pairs = itertools.pairwise(filled)
        return [(i, j, values[i][0]) for j, i in pairs if not sign * _step(values[j][-1], values[i][0]) > 0]
    return _repeats(values)


def _repeats(values: Sequence[NDArray[Any]]) -> list[tuple[int, int, Any]]:
    """Per file the first value that an earlier file has too."""
    files = np.repeat(np.arange(len(values)), [v.size for v in values])
    joined = np.concatenate([v.ravel() for v in values])
    order = np.argsort(joined, kind="stable")
    a, b = order[:-1], order[1:]
    found: dict[int, tuple[int, int, Any]] = {}
    for k in np.flatnonzero(np.asarray(joined[a] == joined[b]) & (files[a] != files[b])).tolist():
        found.setdefault(int(files[b[k]]), (int(files[b[k]]), int(files[a[k]]), joined[b[k]]))
    return list(found.values())


def _is_sortable(values: NDArray[Any]) -> bool:
    return values.dtype.kind in "iuf" and bool(np.isfinite(values).all())


def _direction(values: Sequence[NDArray[Any]]) -> int:
    """1 where every file ascends, -1 where every file descends, 0 otherwise.

    Files of one value each ascend, unless they were given in descending order.
    """
    inner = [np.sign(_steps(v)) for v in values if v.size > 1]
    if inner:
        steps = np.concatenate(inner)
        return 1 if (steps > 0).all() else -1 if (steps < 0).all() else 0
    firsts = [v[0].item() for v in values if v.size]
    descending = len(firsts) > 1 and all(a > b for a, b in itertools.pairwise(firsts))
    return -1 if descending else 1


def _steps(values: NDArray[Any]) -> NDArray[Any]:
    """-1, 0 or 1 between neighbours, for unsigned integers too."""
    a, b = values[:-1], values[1:]
    return (b > a).astype(np.int8) - (b < a).astype(np.int8)


def _step(a: Any, b: Any) -> int:
    return int(b > a) - int(b < a)
