"""Tasks for other processes: they are imported there by name."""

from __future__ import annotations

import pickle
from typing import Any

from zarr import open_array

from icechunk_virtual import ForkSession


def write_row(fork: ForkSession, path: str, row: int, value: float) -> ForkSession:
    """Write one row of an array through a fork."""
    open_array(fork.store, path=path, mode="r+")[row] = value
    return fork


def write_through_store(store: Any, path: str, row: int, value: float) -> bytes:
    """The same through a store; the fork travels back by hand."""
    open_array(store, path=path, mode="r+")[row] = value
    return pickle.dumps(store.session)


def read_all(store: Any, path: str) -> list[float]:
    """Every value of an array."""
    return open_array(store, path=path, mode="r")[...].ravel().tolist()  # type: ignore[union-attr,no-any-return]


def is_loadable(data: bytes) -> str:
    """How unpickling ends."""
    try:
        pickle.loads(data)
    except Exception as error:  # noqa: BLE001 - it is the answer
        return f"{type(error).__name__}: {error}"
    return "loaded"
