"""A history of a repository, told step by step for either library: what is done, and what the session says of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from icechunk_virtual import ChunkRefs, Locations
from tests.support.engines import Engine, changes, contents, get, put

METADATA: dict[str, Any] = {
    "text": "é\n\U0001f600",
    "empty": "",
    "yes": True,
    "nothing": None,
    "small": -5,
    "least": -(2**63),
    "most": 2**64 - 1,
    "beyond": 2**70,
    "half": 1.5,
    "huge": 1e300,
    "no number": math.nan,
    "endless": -math.inf,
    "list": [1, [2, {}], (3, "x")],
    "nested": {"b": {"z": 1, "a": [None]}, "": 0, "a": 2},
}
DTYPES = [
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
    "complex64", "complex128", ">i4", ">f8", "<M8[s]", "<m8[ms]",
]  # fmt: skip


@dataclass
class Sources:
    """Files that virtual chunks point into."""

    root: Path
    values: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.values = np.arange(400, dtype="<i4") * 3
        for i in range(4):
            self.path(i).write_bytes(self.values[100 * i : 100 * i + 100].tobytes())

    @property
    def prefix(self) -> str:
        return f"file://{self.root}/"

    def path(self, i: int) -> Path:
        return self.root / f"part{i}.bin"

    def url(self, i: int) -> str:
        return f"{self.prefix}part{i}.bin"

    def etag(self, i: int) -> str:
        status = self.path(i).stat()
        return f"{status.st_ino:x}-{status.st_mtime_ns // 1000:x}-{status.st_size:x}"

    def modified(self, i: int) -> int:
        """Whole seconds, rounded up."""
        return -(-self.path(i).stat().st_mtime_ns // 10**9)


@dataclass
class Run:
    """One library going through a history."""

    engine: Engine
    repo: Any
    sources: Sources
    notes: list[Any] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)

    def session(self, branch: str = "main") -> Any:
        return self.repo.writable_session(branch)

    def commit(self, session: Any, message: str, metadata: dict[str, Any] | None = None, *, cut: bool = False) -> str:
        """Commit, noting what the session says before and after; not what it lists if committed chunks were cut off."""
        before = changes(session.status()), session.has_uncommitted_changes, session.branch
        if not cut:
            before += (contents(session),)
        id = session.commit(message, metadata)
        assert session.snapshot_id == id
        after = changes(session.status()), session.has_uncommitted_changes, session.branch, session.read_only
        self.notes.append((message, before, after))
        self.ids.append(id)
        return id


def array_document(
    shape: tuple[int, ...], chunks: tuple[int, ...], *, attributes: dict[str, Any] | None = None, names: Any = None
) -> bytes:
    """`zarr.json` of an array of int32."""
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": "int32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": -1,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": attributes or {},
        "dimension_names": names,
    }
    return json.dumps(document, ensure_ascii=False).encode()


def group_document(**attributes: Any) -> bytes:
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}, ensure_ascii=False).encode()


# -- the steps -------------------------------------------------------------------------------------------------------


def many_types(run: Run) -> None:
    """Arrays of all types and shapes, in groups with all kinds of names."""
    session = run.session()
    root = zarr.create_group(session.store, attributes={"title": "é", "n": [1, None]})
    types = root.create_group("types")
    for i, dtype in enumerate(DTYPES):
        shape, chunks = ((6, 10), (4, 3)) if i in {3, 4, 5} else ((10,), (10,))
        types.create_array(f"t{i:02}", shape=shape, chunks=chunks, dtype=dtype)[...] = (
            np.arange(np.prod(shape)).astype(dtype).reshape(shape)
        )
    odd = root.create_group("Grüße").create_group("deep er").create_group("%20?*")
    odd.create_array("x", shape=(3,), chunks=(2,), dtype="f4", dimension_names=["zeit é"])[:] = [1, 2, 3]
    root.create_array("scalar", shape=(), chunks=(), dtype="i2")[...] = 5
    root.create_array("empty", shape=(0, 4), chunks=(1, 2), dtype="i2", dimension_names=["", "x"])
    root.create_array("unwritten", shape=(5, 5), chunks=(2, 2), dtype="f8", fill_value=7.5)
    sharded = root.create_array("sharded", shape=(16, 8), chunks=(4, 4), shards=(8, 8), dtype="i4")
    sharded[:9] = np.arange(72).reshape(9, 8)
    big = root.create_array("big", shape=(40, 40), chunks=(20, 20), dtype="f8", compressors=None)
    big[...] = np.arange(1600.0).reshape(40, 40)
    run.commit(session, "many types", METADATA)


def virtual(run: Run) -> None:
    """Virtual chunks through every call, mixed with inline and native ones."""
    ic, sources = run.engine.ic, run.sources
    session = run.session()
    store = session.store
    for name in ("one", "specs", "split"):
        put(store, f"virtual/{name}/zarr.json", array_document((400,), (10,), names=["n"]))
    put(store, "virtual/zarr.json", group_document(of="files"))
    put(store, "virtual/scalar/zarr.json", array_document((), ()))
    store.set_virtual_ref("virtual/scalar/c", sources.url(1), offset=8, length=4)
    store.set_virtual_ref("virtual/one/c/0", sources.url(0), offset=0, length=40)
    store.set_virtual_ref("virtual/one/c/3", sources.url(0), offset=120, length=40, checksum=sources.etag(0))
    specs = [
        ic.VirtualChunkSpec(
            index=[i],
            location=sources.url(i // 10),
            offset=40 * (i % 10),
            length=40,
            etag_checksum=sources.etag(i // 10) if i % 3 == 0 else None,
        )
        for i in range(40)
    ]
    failed = [ic.VirtualChunkSpec(index=[5], location="file:///elsewhere/x.bin", offset=0, length=40)]
    run.notes.append(store.set_virtual_refs("virtual/specs", specs))
    run.notes.append(store.set_virtual_refs("/virtual/split", specs[:7] + failed + specs[7:]))
    for key in ("virtual/one/c/4", "virtual/split/c/5"):
        put(store, key, run.sources.values[:10].tobytes())
    put(store, "virtual/split/c/39", bytes(40))
    run.commit(session, "virtual")


def changed(run: Run) -> None:
    """Attributes, sizes, values; chunks deleted; nodes deleted and made anew."""
    session = run.session()
    root = zarr.open_group(session.store, mode="r+")
    root.attrs["title"] = "ö"
    root["types/t03"].attrs["units"] = "K"
    root["big"].resize((50, 25))
    root["big"][45:, 20:] = -1
    root["types/t04"][2:5] = 9
    root["types/t05"].resize((2, 2))
    del root["types/t06"]
    del root["Grüße/deep er"]
    root.create_group("Grüße/deep er", attributes={"again": True})
    root.create_array("types/t06", shape=(4,), chunks=(1,), dtype="i1", compressors=None)[1:3] = 3
    store = session.store
    for key in ("virtual/split/c/7", "virtual/split/c/8", "virtual/one/c/20"):
        run.notes.append(run_delete(store, key))
    store.set_virtual_ref("types/t06/c/0", run.sources.url(2), offset=3, length=1)
    run.commit(session, "changed", {"step": 2})


def run_delete(store: Any, key: str) -> tuple[bool, bool]:
    """Whether a chunk was there, and is after it was deleted."""
    from zarr.core.sync import sync

    before = get(store, key) is not None
    sync(store.delete(key))
    return before, get(store, key) is not None


def small_steps(run: Run) -> None:
    """Commits of one thing each."""
    session = run.session()
    put(session.store, "zarr.json", group_document(only="this"))
    run.commit(session, "")
    session = run.session()
    put(session.store, "virtual/split/c/39", b"\1" * 40)
    run.commit(session, "one chunk", {})
    session = run.session()
    run_delete(session.store, "virtual/specs/c/0")
    run.commit(session, "é" * 300)
    session = run.session()
    put(session.store, "virtual/specs/zarr.json", array_document((95,), (10,), attributes={"cut": 1}))
    run.commit(session, "cut through a chunk", cut=True)
    session = run.session()
    put(session.store, "virtual/specs/zarr.json", array_document((400,), (10,), attributes={"cut": 2}))
    run.commit(session, "grown back")


def discarded(run: Run) -> None:
    """Changes that come to nothing."""
    session = run.session()
    root = zarr.open_group(session.store, mode="r+")
    root.create_group("new").create_array("a", shape=(3,), chunks=(1,), dtype="i4")[:] = 1
    del root["types"]
    run.notes.append((changes(session.status()), contents(session)))
    session.discard_changes()
    run.notes.append((changes(session.status()), session.has_uncommitted_changes, contents(session)))
    root = zarr.open_group(session.store, mode="r+")
    root.create_group("new")
    del root["new"]
    run.notes.append((changes(session.status()), session.has_uncommitted_changes))
    document = get(session.store, "virtual/zarr.json")
    assert document is not None
    put(session.store, "virtual/zarr.json", document)
    run.notes.append((changes(session.status()), session.has_uncommitted_changes))


def refs(run: Run) -> None:
    """Branches and tags, made, moved and deleted."""
    repo, ids = run.repo, run.ids
    repo.create_branch("side.branch", ids[1])
    repo.create_branch("with space", ids[0])
    repo.create_branch("gone", ids[0])
    repo.delete_branch("gone")
    repo.create_tag("v1", ids[0])
    repo.create_tag("v2", ids[2])
    repo.create_tag("gone", ids[0])
    repo.delete_tag("gone")
    session = run.session("side.branch")
    put(session.store, "side/zarr.json", group_document(side=True))
    run.commit(session, "on the side")
    repo.create_branch("back", ids[3])
    repo.reset_branch("back", ids[1])
    repo.set_default_commit_metadata({"who": "me", "n": 1})
    session = run.session("back")
    put(session.store, "back/zarr.json", group_document(back=True))
    run.commit(session, "with defaults", {"n": 2})
    session = run.session()
    put(session.store, "flushed/zarr.json", group_document())
    flushed = session.flush("flushed", {"n": 3})
    run.ids.append(flushed)
    run.notes.append((session.read_only, session.snapshot_id == flushed, session.branch))
    repo.create_tag("flushed", flushed)


def all_gone(run: Run) -> None:
    """Nothing is left in the end."""
    from zarr.core.sync import sync

    session = run.session("with space")
    sync(session.store.clear())
    run.commit(session, "cleared")
    session = run.session("with space")
    zarr.create_array(session.store, shape=(3, 3), chunks=(2, 2), dtype="i4")[...] = 4
    run.commit(session, "the root is an array")


STEPS: list[Callable[[Run], None]] = [many_types, virtual, changed, small_steps, discarded, refs, all_gone]

SPLITS = {"split": 3, "big": 1, "t04": 2}


def tell(engine: Engine, root: Path | None, sources: Sources) -> Run:
    """The whole history by one library."""
    config = engine.config([sources.prefix], threshold=100, splits=SPLITS)
    run = Run(engine, engine.create(root, config, [sources.prefix]), sources)
    for step in STEPS:
        step(run)
    return run


def columns(sources: Sources) -> ChunkRefs:
    """References of every kind to 40 chunks of ten int32 each, for the door that only our library has."""
    coords = np.arange(40).reshape(-1, 1)
    table = Locations.of(
        [sources.url(i) for i in range(4)],
        etags=[None, sources.etag(1), None, sources.etag(3)],
        last_modified=[None, None, sources.modified(2), None],
    )
    virtual = ChunkRefs.virtual(
        coords, table, np.arange(40) // 10, 40 * (np.arange(40) % 10), np.full(40, 40, np.uint64)
    )
    inline = ChunkRefs.inline(coords[3:6], [sources.values[30 + 10 * i : 40 + 10 * i].tobytes() for i in range(3)])
    return virtual.replace(inline)
