"""Dask arrays into Zarr arrays of a fork, and the forks of all tasks back into one.

dask is loaded by the first call, not by importing this module: `icechunk_virtual.xarray` imports it, and xarray loads
that with every engine it knows.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from icechunk_virtual.distributed import extract_session, merge_sessions
from icechunk_virtual.requirements import require
from icechunk_virtual.session import ForkSession, Session

if TYPE_CHECKING:
    import dask.array as da
    import zarr

__all__ = ["computing_meta", "merge_sessions_array_kwargs", "session_merge_reduction", "store_dask"]

P = ParamSpec("P")
R = TypeVar("R")

OLDEST = "2024.11.0"


def computing_meta(func: Callable[P, R]) -> Callable[P, Any]:
    """Let a function of a reduction stand dask's trial call.

    Before anything is computed dask calls it with ``computing_meta=True`` to learn what kind of array comes out. Then
    it is answered with an array of one object, and `func` is not called.

    Parameters
    ----------
    func
        For ``dask.array.reduction``, as its `chunk`, `combine` or `aggregate`.
    """

    @functools.wraps(func)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Any:
        if kwargs.pop("computing_meta", False):
            return _placeholder()
        return func(*args, **kwargs)

    return wrapper


def merge_sessions_array_kwargs(*sessions: Any, axis: Any = None, keepdims: Any = None) -> ForkSession:  # noqa: ARG001
    """As `merge_sessions`, with the arguments that dask passes to every reduction; they are ignored."""
    return merge_sessions(*sessions)


def store_dask(
    *,
    sources: Sequence[da.Array],
    targets: Sequence[zarr.Array[Any]],
    regions: Sequence[tuple[slice, ...] | None] | tuple[slice, ...] | None = None,
    split_every: int | None = None,
    **store_kwargs: Any,
) -> ForkSession:
    """Write dask arrays to Zarr arrays of a fork, now, with any scheduler of dask.

    Parameters
    ----------
    sources
        What to write; at least one array.
    targets
        Where to: one Zarr array for each source, opened from the store of a fork (``session.fork().store``).
    regions
        Region of each target, or one for all.
    split_every
        How many forks a task of the tree of merges takes; default: dask's.
    **store_kwargs
        Passed on to dask, which gives them to the scheduler: ``scheduler``, ``num_workers`` and the like. Not
        ``compute``, ``return_stored``, ``load_stored``, ``lock``.

    Returns
    -------
    ForkSession
        The fork of the targets (of the first one, if they are of several), with all changes. Bring it home with
        `Session.merge`.

    Raises
    ------
    TypeError
        A target is not in the store of a fork.
    ValueError
        dask is older than 2024.11.0, or sources, targets and regions do not fit.
    """
    da = _dask_array()
    fork = merge_sessions(*(extract_session(target) for target in targets))  # type: ignore[arg-type]  # checked there
    stored = da.store(
        sources=list(sources),
        targets=list(targets),
        regions=regions,
        compute=False,
        return_stored=True,
        load_stored=False,
        lock=False,
        **store_kwargs,
    )
    written = _merge_in_trees(stored, _written_by_task, split_every, store_kwargs)
    return merge_sessions(fork, written)


def session_merge_reduction(
    arrays: da.Array | Sequence[da.Array], *, split_every: int | None, **store_kwargs: Any
) -> ForkSession:
    """Compute arrays of written Zarr arrays, and merge the forks behind them in a tree.

    Parameters
    ----------
    arrays
        What ``dask.array.store(..., compute=False, return_stored=True, load_stored=False)`` returns.
    split_every
        How many forks a task of the tree takes; default: dask's.
    **store_kwargs
        For ``dask.compute``: ``scheduler`` and the like.

    Returns
    -------
    ForkSession
        The changes of all.

    Raises
    ------
    TypeError
        An array is not in the store of a fork.
    ValueError
        dask is older than 2024.11.0, or there is no array.
    """
    return _merge_in_trees(arrays, extract_session, split_every, store_kwargs)


def _written_by_task(zarray: zarr.Array[Any], axis: Any = None, keepdims: Any = None) -> Session:
    session = extract_session(zarray, axis, keepdims)
    return session._written_since_arrival() if isinstance(session, ForkSession) else session


def _merge_in_trees(
    arrays: da.Array | Sequence[da.Array],
    leaf: Callable[..., Session],
    split_every: int | None,
    compute_kwargs: Mapping[str, Any],
) -> ForkSession:
    da = _dask_array()
    trees = [
        da.reduction(
            array,
            chunk=computing_meta(leaf),
            aggregate=computing_meta(merge_sessions_array_kwargs),
            split_every=split_every,
            concatenate=False,  # forks come in nested lists
            keepdims=False,
            dtype=object,
            meta=_placeholder(),
            name="icechunk-merge",
        )
        for array in ([arrays] if isinstance(arrays, da.Array) else arrays)
    ]
    return merge_sessions(*da.compute(*trees, **compute_kwargs))


def _placeholder() -> np.ndarray[Any, np.dtype[np.object_]]:
    return np.array([object()], dtype=object)


def _dask_array() -> Any:
    """The module ``dask.array`` of a dask that is new enough."""
    try:
        array = importlib.import_module("dask.array")
    except ImportError as error:
        raise ImportError(
            "writing dask arrays needs dask: pip install 'icechunk-virtual[dask]'", name=error.name
        ) from error
    require("dask", importlib.import_module("dask").__version__, OLDEST, "Writing to icechunk")
    return array
