"""zarr's own contract for stores, on every storage; its stateful machines are in test_zarr_machines.py.

The store holds Zarr hierarchies and nothing else, so the subclass exchanges keys and documents for legal ones:
arbitrary names become chunk keys, arbitrary bytes under ``zarr.json`` become group documents. The checks are unchanged.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, cpu, default_buffer_prototype
from zarr.core.sync import _collect_aiterator, sync
from zarr.testing.store import StoreTests
from zarr.testing.utils import assert_bytes_equal

import icechunk_virtual
from icechunk_virtual import IcechunkStore, Repository, Storage
from icechunk_virtual.repo import chunks, tree
from icechunk_virtual.repo.keys import ChunkKey, parse_key

SYNCHRONOUS = pytest.mark.skipif(
    not hasattr(StoreTests, "test_get_sync"), reason="this release of zarr has no synchronous stores"
)
PARITY = pytest.mark.skipif(
    not hasattr(StoreTests, "test_get_sync_byte_range_parity"), reason="this release of zarr has no such test"
)
_NO_HELPERS = "this release of zarr has no such helpers in Store"
GROUP = b'{"zarr_format":3,"node_type":"group"}'


def array_document(ndim: int, length: int = 2000) -> bytes:
    """A legal array of one byte per chunk."""
    return json.dumps(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [length] * ndim,
            "data_type": "uint8",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1] * ndim}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": [{"name": "bytes"}],
            "attributes": {},
        }
    ).encode()


@pytest.fixture(params=["memory", "local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "memory":
        return icechunk_virtual.in_memory_storage()
    if request.param == "s3":
        in_bucket: Storage = request.getfixturevalue("bucket").storage()
        return in_bucket
    return icechunk_virtual.local_filesystem_storage(tmp_path / "repo")


def fork_of_new_repository(storage: Storage) -> icechunk_virtual.ForkSession:
    return Repository.create(storage).writable_session("main").fork()


def prepare(store: IcechunkStore, key: str) -> None:
    """Create the array that a chunk key belongs to."""
    if not key.endswith("zarr.json"):
        path, _, coords = ("/" + key).rpartition("/c/")
        ndim = len(coords.split("/"))
        tree.set_document(store.session._workspace, path or "/", array_document(ndim))


def legal(name: str) -> str:
    """The key of a chunk for a bare name."""
    return name if "/" in name or name == "zarr.json" else f"{name}/c/0"


class AnyName(IcechunkStore):
    """Takes bare names for the chunks that `legal` says, whose arrays exist at once: for tests that are not changed."""

    def _legal(self, name: str) -> str:
        prepare(self, legal(name))
        return legal(name)

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Buffer | None:
        return await super().get(self._legal(key), prototype, byte_range)

    async def set(self, key: str, value: Buffer) -> None:
        await super().set(self._legal(key), value)

    def get_sync(self, key: str, **more: Any) -> Buffer | None:
        return super().get_sync(self._legal(key), **more)

    def set_sync(self, key: str, value: Buffer) -> None:
        super().set_sync(self._legal(key), value)

    def delete_sync(self, key: str) -> None:
        super().delete_sync(self._legal(key))


class TestIcechunkStore(StoreTests[IcechunkStore, cpu.Buffer]):
    store_cls = IcechunkStore
    buffer_cls = cpu.Buffer

    @pytest.fixture
    def store_kwargs(self, storage: Storage) -> dict[str, Any]:
        return {"session": fork_of_new_repository(storage)}

    async def set(self, store: IcechunkStore, key: str, value: Buffer) -> None:
        """Bypass the store's own methods."""
        ws, parsed = store.session._workspace, parse_key(legal(key))
        if isinstance(parsed, ChunkKey):
            prepare(store, legal(key))
            await chunks.write_chunk(ws, parsed.path, parsed.coords, value.to_bytes())
        else:
            tree.set_document(ws, parsed.path, value.to_bytes())

    async def get(self, store: IcechunkStore, key: str) -> Buffer:
        """Bypass the store's own methods."""
        ws, parsed = store.session._workspace, parse_key(legal(key))
        if not isinstance(parsed, ChunkKey):
            return self.buffer_cls.from_bytes(tree.get_node(ws, parsed.path).document)
        chunk = await chunks.find_chunk(ws, tree.get_array(ws, parsed.path), parsed.coords)
        assert chunk is not None
        return self.buffer_cls.from_bytes(await chunks.read_chunk(ws, chunk, 0, chunk.length))

    # -- abstract in zarr ---------------------------------------------------------------------------------------

    def test_store_repr(self, store: IcechunkStore) -> None:
        assert "IcechunkStore" in repr(store)
        assert "snapshot_id" in repr(store)

    def test_store_supports_writes(self, store: IcechunkStore) -> None:
        assert store.supports_writes

    def test_store_supports_listing(self, store: IcechunkStore) -> None:
        assert store.supports_listing

    # -- the same tests with legal keys and documents ------------------------------------------------------------

    async def test_serializable_store(self, store: IcechunkStore) -> None:
        new_store = pickle.loads(pickle.dumps(store))
        assert new_store == store
        assert new_store.read_only == store.read_only
        await self.set(store, "foo/c/0", self.buffer_cls.from_bytes(b"\x01\x02\x03\x04"))
        prepare(new_store, "foo/c/0")
        await new_store.set("foo/c/0", self.buffer_cls.from_bytes(b"\x01\x02\x03\x04"))
        assert_bytes_equal(
            await new_store.get("foo/c/0", prototype=default_buffer_prototype()),
            self.buffer_cls.from_bytes(b"\x01\x02\x03\x04"),
        )

    async def test_read_only_store_raises(self, open_kwargs: dict[str, Any]) -> None:
        store = await self.store_cls.open(**open_kwargs, read_only=True)
        assert store.read_only
        for key in ("foo/c/0", "foo/zarr.json"):
            with pytest.raises(ValueError, match="store was opened in read-only mode and does not support writing"):
                await store.set(key, self.buffer_cls.from_bytes(b"bar"))
            with pytest.raises(ValueError, match="store was opened in read-only mode and does not support writing"):
                await store.delete(key)

    async def test_with_read_only_store(self, open_kwargs: dict[str, Any]) -> None:
        refused = pytest.raises(ValueError, match="store was opened in read-only mode and does not support writing")
        store = await self.store_cls.open(**open_kwargs, read_only=True)
        assert store.read_only
        value = self.buffer_cls.from_bytes(GROUP)
        with refused:
            await store.set("foo/zarr.json", value)
        writer = store.with_read_only(read_only=False)
        assert not writer._is_open
        assert not writer.read_only
        await writer.set("foo/zarr.json", value)
        await writer.delete("foo/zarr.json")
        assert store.read_only
        reader = store.with_read_only(read_only=True)
        assert reader.read_only
        for closed in (store, reader):
            with pytest.raises(ValueError, match="read-only mode"):
                await closed.set("foo/zarr.json", value)
            with pytest.raises(ValueError, match="read-only mode"):
                await closed.delete("foo/zarr.json")

    @pytest.mark.parametrize("key", ["c/0", "foo/c/0/0", "foo/0/c/0"])
    @pytest.mark.parametrize(
        ("data", "byte_range"),
        [
            (b"\x01\x02\x03\x04", None),
            (b"\x01\x02\x03\x04", RangeByteRequest(1, 4)),
            (b"\x01\x02\x03\x04", OffsetByteRequest(1)),
            (b"\x01\x02\x03\x04", SuffixByteRequest(1)),
            (b"", None),
        ],
    )
    async def test_get(self, store: IcechunkStore, key: str, data: bytes, byte_range: Any) -> None:
        await super().test_get(store, key, data, byte_range)

    async def test_get_many(self, store: IcechunkStore) -> None:
        keys = tuple(f"c/{i}" for i in range(10))
        values = tuple(f"{k}".encode() for k in keys)
        for k, v in zip(keys, values, strict=True):
            await self.set(store, k, self.buffer_cls.from_bytes(v))
        asked = zip(keys, (default_buffer_prototype(),) * 10, (None,) * 10, strict=True)
        observed = await _collect_aiterator(store._get_many(asked))
        assert sorted((k, b.to_bytes()) for k, b in observed if b is not None) == sorted(zip(keys, values, strict=True))

    @pytest.mark.parametrize("key", ["c/0", "foo/c/0/0", "foo/0/c/0"])
    @pytest.mark.parametrize("data", [b"\x01\x02\x03\x04", b""])
    async def test_getsize(self, store: IcechunkStore, key: str, data: bytes) -> None:
        await super().test_getsize(store, key, data)

    async def test_getsize_prefix(self, store: IcechunkStore) -> None:
        value = self.buffer_cls.from_bytes(b"\x01\x02\x03\x04")
        keys = ["c/0/0", "c/0/1", "c/1/0", "c/1/1"]
        for key in (*keys, "cc/c/0"):  # the last one only begins with the same letter
            await self.set(store, key, value)
        assert await store.getsize_prefix("c") == 4 * len(keys)

    @pytest.mark.parametrize("key", ["c/0", "foo/c/0/0", "foo/0/c/0"])
    @pytest.mark.parametrize("data", [b"\x01\x02\x03\x04", b""])
    async def test_set(self, store: IcechunkStore, key: str, data: bytes) -> None:
        prepare(store, key)
        await super().test_set(store, key, data)

    @pytest.mark.parametrize("data", [GROUP, array_document(2)])
    async def test_set_document(self, store: IcechunkStore, data: bytes) -> None:
        await super().test_set(store, "zarr.json", data)

    async def test_set_not_open(self, store_not_open: IcechunkStore) -> None:
        prepare(store_not_open, "c/0")
        await super().test_set_not_open(store_not_open)

    async def test_set_many(self, store: IcechunkStore) -> None:
        keys = {"c/0": b"c/0", "foo/c/0/0": b"foo", "foo/bar/c/3": b"bar", "zarr.json": array_document(1)}
        for key in keys:
            prepare(store, key)
        await store._set_many((k, self.buffer_cls.from_bytes(v)) for k, v in keys.items())
        for k, v in keys.items():
            assert (await self.get(store, k)).to_bytes() == v

    @pytest.mark.parametrize(
        "key_ranges",
        [
            [],
            [("zarr.json", RangeByteRequest(0, 2))],
            [("c/0", RangeByteRequest(0, 2)), ("zarr.json", None)],
            [("c/0/0", RangeByteRequest(0, 2)), ("c/0/1", SuffixByteRequest(2)), ("c/0/2", OffsetByteRequest(2))],
        ],
    )
    async def test_get_partial_values(self, store: IcechunkStore, key_ranges: list[tuple[str, Any]]) -> None:
        expected = []
        for key, _ in key_ranges:
            content = array_document(1) if key == "zarr.json" else key.encode()
            await self.set(store, key, self.buffer_cls.from_bytes(content))
        for key, byte_range in key_ranges:
            got = await store.get(key, prototype=default_buffer_prototype(), byte_range=byte_range)
            assert got is not None
            expected.append(got.to_bytes())
        observed = await store.get_partial_values(prototype=default_buffer_prototype(), key_ranges=key_ranges)
        assert [None if b is None else b.to_bytes() for b in observed] == expected

    async def test_exists(self, store: IcechunkStore) -> None:
        assert not await store.exists("foo/zarr.json")
        assert not await store.exists("foo/c/0")
        await store.set("foo/zarr.json", self.buffer_cls.from_bytes(GROUP))
        assert await store.exists("foo/zarr.json")

    async def test_delete(self, store: IcechunkStore) -> None:
        await store.set("foo/zarr.json", self.buffer_cls.from_bytes(GROUP))
        assert await store.exists("foo/zarr.json")
        await store.delete("foo/zarr.json")
        assert not await store.exists("foo/zarr.json")

    async def test_delete_dir(self, store: IcechunkStore) -> None:
        await store.set("zarr.json", self.buffer_cls.from_bytes(GROUP))
        await store.set("foo-bar/zarr.json", self.buffer_cls.from_bytes(GROUP))
        await self.set(store, "foo/c/0", self.buffer_cls.from_bytes(b"chunk"))
        await store.delete_dir("foo")
        assert await store.exists("zarr.json")
        assert await store.exists("foo-bar/zarr.json")
        assert not await store.exists("foo/zarr.json")
        assert not await store.exists("foo/c/0")

    async def test_delete_nonexistent_key_does_not_raise(self, store: IcechunkStore) -> None:
        await store.delete("nonexistent/zarr.json")

    async def test_is_empty(self, store: IcechunkStore) -> None:
        assert await store.is_empty("")
        await self.set(store, "foo/bar/zarr.json", self.buffer_cls.from_bytes(GROUP))
        assert not await store.is_empty("")
        assert await store.is_empty("fo")
        assert not await store.is_empty("foo/")
        assert not await store.is_empty("foo")
        assert await store.is_empty("spam/")

    async def test_clear(self, store: IcechunkStore) -> None:
        await self.set(store, "foo/zarr.json", self.buffer_cls.from_bytes(GROUP))
        await store.clear()
        assert await store.is_empty("")

    async def test_list(self, store: IcechunkStore) -> None:
        assert await _collect_aiterator(store.list()) == ()
        keys = ["foo/zarr.json", *(f"foo/c/{i}" for i in range(10))]
        for key in keys[1:]:
            await self.set(store, key, self.buffer_cls.from_bytes(b""))
        assert sorted(await _collect_aiterator(store.list())) == sorted(keys)

    async def test_list_prefix(self, store: IcechunkStore) -> None:
        prefixes = ("", "a/", "a/b/", "a/b/c/")
        keys = [prefix + "zarr.json" for prefix in prefixes]
        for key in keys:
            await store.set(key, self.buffer_cls.from_bytes(GROUP))
        for prefix in prefixes:
            observed = sorted(await _collect_aiterator(store.list_prefix(prefix)))
            assert observed == sorted(key for key in keys if key.startswith(prefix))

    async def test_list_empty_path(self, store: IcechunkStore) -> None:
        keys = ["foo/bar/zarr.json", "foo/bar/c/1", "foo/baz/zarr.json", "foo/baz/c/0"]
        for key in ("foo/bar/c/1", "foo/baz/c/0"):
            await self.set(store, key, self.buffer_cls.from_bytes(b""))
        assert sorted(await _collect_aiterator(store.list())) == sorted(keys)
        assert sorted(await _collect_aiterator(store.list_prefix(""))) == sorted(keys)
        observed = sorted(await _collect_aiterator(store.list_prefix("foo/bar/")))
        assert observed == ["foo/bar/c/1", "foo/bar/zarr.json"]

    async def test_list_dir(self, store: IcechunkStore) -> None:
        assert await _collect_aiterator(store.list_dir("")) == ()
        await self.set(store, "foo/c/1", self.buffer_cls.from_bytes(b"\x01"))
        for root in ("foo", "foo/"):
            assert sorted(await _collect_aiterator(store.list_dir(root))) == ["c", "zarr.json"]
        await store.set("bar/zarr.json", self.buffer_cls.from_bytes(GROUP))
        await self.set(store, "bar/first/c/0", self.buffer_cls.from_bytes(b"1"))
        await store.set("bar/second/zarr.json", self.buffer_cls.from_bytes(GROUP))
        for root in ("bar", "bar/"):
            assert sorted(await _collect_aiterator(store.list_dir(root))) == ["first", "second", "zarr.json"]
        assert sorted(await _collect_aiterator(store.list_dir(""))) == ["bar", "foo"]
        assert sorted(await _collect_aiterator(store.list_dir("foo/c"))) == ["1"]

    async def test_set_if_not_exists(self, store: IcechunkStore) -> None:
        old, new = self.buffer_cls.from_bytes(b"0000"), self.buffer_cls.from_bytes(b"1111")
        await self.set(store, "c/0", old)
        await store.set_if_not_exists("c/0", new)
        assert await store.get("c/0", default_buffer_prototype()) == old
        await store.set_if_not_exists("c/1", new)
        assert await store.get("c/1", default_buffer_prototype()) == new

    @pytest.mark.skipif(not hasattr(IcechunkStore, "_get_bytes"), reason=_NO_HELPERS)
    async def test_get_bytes(self, store: IcechunkStore) -> None:
        await self.set(store, "zarr.json", self.buffer_cls.from_bytes(GROUP))
        assert await store._get_bytes("zarr.json", prototype=default_buffer_prototype()) == GROUP
        with pytest.raises(FileNotFoundError):
            await store._get_bytes("nonexistent/zarr.json", prototype=default_buffer_prototype())

    @pytest.mark.skipif(not hasattr(IcechunkStore, "_get_bytes"), reason=_NO_HELPERS)
    def test_get_bytes_sync(self, store: IcechunkStore) -> None:
        sync(self.set(store, "zarr.json", self.buffer_cls.from_bytes(GROUP)))
        assert store._get_bytes_sync("zarr.json", prototype=default_buffer_prototype()) == GROUP

    @pytest.mark.skipif(not hasattr(IcechunkStore, "_get_json"), reason=_NO_HELPERS)
    async def test_get_json(self, store: IcechunkStore) -> None:
        await self.set(store, "zarr.json", self.buffer_cls.from_bytes(GROUP))
        assert await store._get_json("zarr.json", prototype=default_buffer_prototype()) == json.loads(GROUP)

    @pytest.mark.skipif(not hasattr(IcechunkStore, "_get_json"), reason=_NO_HELPERS)
    def test_get_json_sync(self, store: IcechunkStore) -> None:
        sync(self.set(store, "zarr.json", self.buffer_cls.from_bytes(GROUP)))
        assert store._get_json_sync("zarr.json", prototype=default_buffer_prototype()) == json.loads(GROUP)

    # -- synchronous calls: zarr's tests as they are, of a store that takes their names --------------------------

    @SYNCHRONOUS
    def test_get_sync(self, store: IcechunkStore) -> None:
        super().test_get_sync(AnyName(store.session))

    @SYNCHRONOUS
    def test_get_sync_missing(self, store: IcechunkStore) -> None:
        super().test_get_sync_missing(AnyName(store.session))

    @SYNCHRONOUS
    def test_set_sync(self, store: IcechunkStore) -> None:
        super().test_set_sync(AnyName(store.session))

    @SYNCHRONOUS
    def test_delete_sync(self, store: IcechunkStore) -> None:
        super().test_delete_sync(AnyName(store.session))

    @SYNCHRONOUS
    def test_delete_sync_missing(self, store: IcechunkStore) -> None:
        super().test_delete_sync_missing(AnyName(store.session))

    @PARITY
    @pytest.mark.parametrize("direction", ["set_async_get_sync", "set_sync_get_async"])
    async def test_sync_async_set_get_parity(self, store: IcechunkStore, direction: str) -> None:
        await super().test_sync_async_set_get_parity(AnyName(store.session), direction)

    @PARITY
    async def test_delete_sync_visible_to_async_get(self, store: IcechunkStore) -> None:
        await super().test_delete_sync_visible_to_async_get(AnyName(store.session))

    @PARITY
    @pytest.mark.parametrize(
        "byte_range",
        [None, RangeByteRequest(1, 4), OffsetByteRequest(1), SuffixByteRequest(1), RangeByteRequest(10, 20)],
    )
    async def test_get_sync_byte_range_parity(self, store: IcechunkStore, byte_range: Any) -> None:
        await super().test_get_sync_byte_range_parity(AnyName(store.session), byte_range)
