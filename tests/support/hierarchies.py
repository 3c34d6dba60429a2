"""Documents of groups and arrays, repositories to put them into, and short ways to a store: for tests of the engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import _collect_aiterator, sync

from icechunk_virtual import IcechunkStore, Repository, Session, Storage, in_memory_storage

PROTOTYPE = default_buffer_prototype()
GROUP = b'{"zarr_format":3,"node_type":"group","attributes":{}}'


def array_document(shape: Sequence[int], chunks: Sequence[int] | None = None, **more: Any) -> bytes:
    """A legal array of bytes; one byte per chunk unless said otherwise."""
    return json.dumps(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(shape),
            "data_type": "uint8",
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": list(chunks or [1] * len(shape))},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": [{"name": "bytes"}],
            "attributes": {},
            **more,
        }
    ).encode()


def group_document(**attributes: Any) -> bytes:
    """A legal group."""
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}).encode()


def new_repository(storage: Storage | None = None, *arguments: Any, **more: Any) -> Repository:
    repo: Repository = Repository.create(storage or in_memory_storage(), *arguments, **more)
    return repo


def writable(repo: Repository, branch: str = "main") -> Session:
    session: Session = repo.writable_session(branch)
    return session


def tip(repo: Repository, branch: str = "main") -> Session:
    session: Session = repo.readonly_session(branch)
    return session


def with_array(repo: Repository, path: str = "a", shape: Sequence[int] = (4,), **more: Any) -> str:
    """Commit an array with one byte per chunk; returns the id of the snapshot."""
    session = writable(repo)
    put(session.store, f"{path}/zarr.json", array_document(shape, **more))
    id: str = session.commit(f"array {path}")
    return id


def buffer(data: bytes) -> Any:
    return PROTOTYPE.buffer.from_bytes(data)


def get(store: IcechunkStore, key: str, byte_range: Any = None) -> bytes | None:
    found = sync(store.get(key, PROTOTYPE, byte_range))
    return None if found is None else found.to_bytes()


def put(store: IcechunkStore, key: str, data: bytes) -> None:
    sync(store.set(key, buffer(data)))


def delete(store: IcechunkStore, key: str) -> None:
    sync(store.delete(key))


def keys_of(store: IcechunkStore, prefix: str = "") -> list[str]:
    return sorted(sync(_collect_aiterator(store.list_prefix(prefix))))


def names_of(store: IcechunkStore, prefix: str = "") -> list[str]:
    return sorted(sync(_collect_aiterator(store.list_dir(prefix))))


def coordinates_of(session: Session, path: str) -> list[tuple[int, ...]]:
    return sorted(sync(_collect_aiterator(session.chunk_coordinates(path))))


def values_of(store: IcechunkStore) -> dict[str, bytes]:
    """Every key with its bytes."""
    found = {key: get(store, key) for key in keys_of(store)}
    missing = [key for key, value in found.items() if value is None]
    assert not missing, f"listed, but not there: {missing}"
    return {key: value for key, value in found.items() if value is not None}
