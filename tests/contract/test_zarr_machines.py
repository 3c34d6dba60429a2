"""zarr's stateful machines on sessions, on memory and local disk, with a step that commits and opens a new session.

Their rules and invariants are zarr's own; what differs on purpose is in the models that they compare with. The machine
of stores writes any bytes under any key: its keys and bytes are exchanged for legal ones.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import MemoryStore
from zarr.testing.stateful import SyncStoreWrapper, ZarrHierarchyStateMachine, ZarrStoreStateMachine

from icechunk_virtual import IcechunkStore, Repository, Storage, in_memory_storage, local_filesystem_storage
from tests.support.hierarchies import array_document, group_document

NewStorage = Callable[[], Storage]

# zarr's machines draw every data type, also those that zarr warns of because no specification names them yet.
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")


@pytest.fixture(params=["memory", "local"])
def new_storage(request: pytest.FixtureRequest, tmp_path: Path) -> NewStorage:
    if request.param == "memory":
        return in_memory_storage
    numbers = itertools.count()
    return lambda: local_filesystem_storage(tmp_path / str(next(numbers)))


def next_session(repo: Repository, store: IcechunkStore) -> IcechunkStore:
    """Commit what there is; the store of a new session."""
    if store.session.has_uncommitted_changes:
        store.session.commit("step")
    return repo.writable_session("main").store


class Model(MemoryStore):
    """zarr's model of a hierarchy, in which an array without chunks lists `c` too: decision 008."""

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        names = [name async for name in super().list_dir(prefix)]
        document = await self.get(f"{prefix.rstrip('/')}/zarr.json".lstrip("/"), default_buffer_prototype())
        if document is not None and json.loads(document.to_bytes())["node_type"] == "array" and "c" not in names:
            names.append("c")
        for name in names:
            yield name


class HierarchyMachine(ZarrHierarchyStateMachine):
    """Groups and arrays through zarr, against zarr's own memory store."""

    def __init__(self, repo: Repository) -> None:
        self.repo = repo
        super().__init__(repo.writable_session("main").store)
        self.model = Model(self.model._store_dict)

    @rule()
    def commit(self) -> None:
        self.store = next_session(self.repo, self.store)


class Keys(dict[str, Buffer]):
    """zarr's model of a store, where a node that goes takes all below along."""

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        if key.endswith("zarr.json"):
            for below in [other for other in self if other.startswith(key.removesuffix("zarr.json"))]:
                super().__delitem__(below)


NAMES = st.sampled_from(["", "a", "a-x", "a.x", "a/b", "c", "a/c"])
DOCUMENTS = NAMES.map(lambda name: f"{name}/zarr.json".lstrip("/"))
CHUNKS = st.builds(
    lambda name, i, j: f"{name}/array/c/{i}/{j}".lstrip("/"), NAMES, st.integers(0, 3), st.integers(0, 2)
)
LEGAL = st.one_of(DOCUMENTS, CHUNKS, CHUNKS)


def array_key(chunk_key: str) -> str:
    return f"{chunk_key.rpartition('/c/')[0]}/zarr.json"


class StoreMachine(ZarrStoreStateMachine):
    """Single keys, against a dict."""

    def __init__(self, repo: Repository) -> None:
        self.repo = repo
        super().__init__(repo.writable_session("main").store)
        self.model = Keys()

    @rule()
    def commit(self) -> None:
        self.store = SyncStoreWrapper(next_session(self.repo, self.store.store))

    @rule(key=LEGAL, data=st.binary(max_size=600))
    def set(self, key: str, data: bytes) -> None:
        if key.endswith("zarr.json"):
            data = group_document(hex=data.hex())
        elif array_key(key) not in self.model:
            super().set(array_key(key), array_document((4, 3)))
        super().set(key, data)

    @rule(key=LEGAL, data=st.data())
    def get_invalid_zarr_keys(self, key: str, data: Any) -> None:
        assume(key.endswith("zarr.json") or array_key(key) in self.model)  # a chunk of no array is an error
        super().get_invalid_zarr_keys(key, data)

    @rule(key=LEGAL)
    def exists(self, key: str) -> None:
        super().exists(key)


MACHINES = pytest.mark.parametrize("machine", [HierarchyMachine, StoreMachine])


def run(machine: Callable[[Repository], RuleBasedStateMachine], new_storage: NewStorage, examples: int) -> None:
    bounds = settings(
        max_examples=examples,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    run_state_machine_as_test(lambda: machine(Repository.create(new_storage())), settings=bounds)


@MACHINES
def test_zarr_machine(machine: Any, new_storage: NewStorage) -> None:
    run(machine, new_storage, 12)


@pytest.mark.slow
@MACHINES
def test_zarr_machine_thoroughly(machine: Any, new_storage: NewStorage) -> None:
    run(machine, new_storage, 60)
