"""Forks in frameworks for distributed arrays: out of a Zarr array, and many into one. Knows no framework."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from zarr import Array

from icechunk_virtual.session import ForkSession, Session
from icechunk_virtual.store import IcechunkStore

__all__ = ["extract_session", "merge_sessions"]

Forks: TypeAlias = "ForkSession | Sequence[Forks]"


def extract_session(zarray: Array[Any], axis: Any = None, keepdims: Any = None) -> Session:  # noqa: ARG001 - see below
    """The session behind a Zarr array.

    Parameters
    ----------
    zarray
        An array in an `IcechunkStore`.
    axis, keepdims
        Ignored; reductions of array frameworks pass them.

    Raises
    ------
    TypeError
        The array is in a store of another kind.
    """
    store = zarray.store
    if not isinstance(store, IcechunkStore):
        raise TypeError(
            f"the array is in a {type(store).__name__}, not in an IcechunkStore; open it from `session.fork().store`"
        )
    return store.session


def merge_sessions(*sessions: Forks) -> ForkSession:
    """Merge forks into the first one.

    Parameters
    ----------
    sessions
        Forks, or lists or tuples of forks, nested as deep as a framework likes. Where two changed the same, the
        later wins.

    Returns
    -------
    ForkSession
        The first one, with the changes of all. `Session.merge` brings it home.

    Raises
    ------
    TypeError
        One of them is not a `ForkSession`.
    ValueError
        There is none.
    IcechunkError
        Two of them created different nodes at one path.
    """
    forks: list[ForkSession] = list(_flatten(sessions))
    if not forks:
        raise ValueError("merge_sessions needs at least one ForkSession")
    for fork in forks:
        if not isinstance(fork, ForkSession):
            raise TypeError(
                f"merge_sessions only accepts ForkSession objects. Received {type(fork).__name__!r} instance instead. "
                "Write through session.fork(), and merge everything at the end with session.merge(*forks)."
            )
    first = forks[0]
    first.merge(*forks[1:])
    return first


def _flatten(sessions: Iterable[Any]) -> Iterator[Any]:
    for item in sessions:
        if isinstance(item, Sequence) and not isinstance(item, str):
            yield from _flatten(item)
        else:
            yield item
