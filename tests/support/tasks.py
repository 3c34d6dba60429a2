"""Tasks for other processes: they are imported there by name."""

from __future__ import annotations

import pickle
from typing import Any

from zarr import open_array

from icechunk_virtual import ConflictDetector, ForkSession, Repository, Storage
from tests.support.hierarchies import array_document, put, writable


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


def commit_arrays(storage: Storage, worker: int, number: int) -> list[str]:
    """Commit so many arrays one by one, rebasing when others were faster; the ids of the commits."""
    repo = Repository.open(storage)
    ids = []
    for n in range(number):
        session = writable(repo)
        put(session.store, f"a{worker}_{n}/zarr.json", array_document((1,)))
        ids.append(session.commit(f"{worker}-{n}", rebase_with=ConflictDetector(), rebase_tries=100))
    return ids
