"""Virtual chunks on a server 30 ms away, read through zarr with its default settings.

2,000 chunks of 4 kB, adjacent in one object or in random order over 100, and 24 of 8 MB. The lines of requests and of
bytes say what the server was asked for.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from bench.engines import SIDES, Side, all_set, engine, make_array, remove, temporary_directory
from bench.harness import Figure, Pair
from bench.slow_server import SlowServer, slow_server

LATENCY = 0.03  # seconds
COUNT, SIZE = 2000, 4096  # bytes
OBJECTS = 100
LARGE_COUNT, LARGE_SIZE = 24, 8 * 2**20
PREFIX = "s3://bucket/"
Refs = list[tuple[str, int]]
"""Name of the object and offset of every chunk."""


@dataclass(frozen=True)
class Archive:
    """An array of bytes whose chunks are on a server, in a repository per side."""

    directory: Path
    server: SlowServer
    data: Any
    size: int
    refs: Refs

    def path(self, side: Side) -> str:
        return str(self.directory / f"{side}-{len(self.refs)}-{self.refs[0][0]}")

    def config(self, side: Side) -> Any:
        """With the container of the server."""
        ic = engine(side)
        store = ic.s3_store(
            region="r", endpoint_url=self.server.url, allow_http=True, s3_compatible=True, force_path_style=True
        )
        made = ic.RepositoryConfig.default()
        made.set_virtual_chunk_container(ic.VirtualChunkContainer(PREFIX, store))
        return made

    def create(self, side: Side) -> None:
        """Set the references and commit."""
        ic = engine(side)
        storage = ic.local_filesystem_storage(self.path(side))
        session = ic.Repository.create(storage, self.config(side)).writable_session("main")
        make_array(session.store, (len(self.data),), (self.size,))
        specs = [ic.VirtualChunkSpec([i], PREFIX + n, offset, self.size) for i, (n, offset) in enumerate(self.refs)]
        all_set(session.store.set_virtual_refs("a", specs))
        session.commit("references")

    def open(self, side: Side) -> Any:
        """The array in a repository that was just opened: nothing is known yet."""
        ic = engine(side)
        storage = ic.local_filesystem_storage(self.path(side))
        granted = ic.containers_credentials({PREFIX: ic.s3_credentials(anonymous=True)})
        session = ic.Repository.open(storage, self.config(side), granted).readonly_session("main")
        return zarr.open_array(session.store, path="a", mode="r")

    def check(self) -> None:
        """Both read the same."""
        for side in SIDES:
            if not np.array_equal(self.open(side)[:], self.data):
                raise RuntimeError(f"{side} reads other values")

    def seen(self, what: Callable[[Archive], float]) -> float:
        """Of one read of ours."""
        array = self.open("ours")
        self.server.seen()
        array[:]
        return what(self)


def requests(archive: Archive) -> float:
    return archive.server.seen().requests


def overread(archive: Archive) -> float:
    return 100 * (archive.server.seen().bytes / len(archive.data) - 1)


def benches() -> list[Pair | Figure]:
    directory = temporary_directory()
    atexit.register(remove, directory)
    objects = directory / "objects"
    objects.mkdir()
    data = np.random.default_rng(0).integers(0, 256, COUNT * SIZE, np.uint8)
    large = np.random.default_rng(0).integers(0, 256, LARGE_COUNT * LARGE_SIZE, np.uint8)
    (objects / "one").write_bytes(data.tobytes())
    (objects / "large").write_bytes(large.tobytes())
    scattered = _scatter(data, objects)
    running = contextlib.ExitStack()
    atexit.register(running.close)
    server = running.enter_context(slow_server(objects, LATENCY))
    adjacent = Archive(directory, server, data, SIZE, [("one", i * SIZE) for i in range(COUNT)])
    random = Archive(directory, server, data, SIZE, scattered)
    whole = Archive(directory, server, large, LARGE_SIZE, [("large", i * LARGE_SIZE) for i in range(LARGE_COUNT)])
    for archive in (adjacent, random, whole):
        for side in SIDES:
            archive.create(side)
        archive.check()
    return [
        _pair("2,000 adjacent chunks of 4 kB", adjacent, at_least=10.0),
        _figure("  requests for them", adjacent, requests, "requests", 20),
        _figure("  read and not asked for", adjacent, overread, "%", 0),
        _pair("in random order over 100 objects", random, at_least=1.0),
        _figure("  requests for them", random, requests, "requests", COUNT - 1),
        _figure("  read and not asked for", random, overread, "%", 100),
        _pair("24 chunks of 8 MB", whole, at_least=1.0, slack=0.1),
        _figure("  requests for them", whole, requests, "requests", None),
        _figure("  read and not asked for", whole, overread, "%", 0),
    ]


def _scatter(data: Any, folder: Path) -> Refs:
    """The same chunks in random order over many objects."""
    order = np.random.default_rng(1).permutation(COUNT)
    each = COUNT // OBJECTS
    for k in range(OBJECTS):
        (folder / f"part{k}").write_bytes(data.reshape(COUNT, SIZE)[order[k * each : (k + 1) * each]].tobytes())
    places = np.argsort(order)
    return [(f"part{place // each}", place % each * SIZE) for place in places.tolist()]


def _pair(name: str, archive: Archive, **goal: float) -> Pair:
    return Pair(
        name,
        ours=lambda arrays: arrays["ours"][:],
        theirs=lambda arrays: arrays["theirs"][:],
        setup=lambda: {side: archive.open(side) for side in SIDES},
        count=len(archive.refs),
        unit="chunks",
        repeats=3,
        **goal,  # type: ignore[arg-type]
    )


def _figure(name: str, archive: Archive, what: Callable[[Archive], float], unit: str, at_most: float | None) -> Figure:
    return Figure(name, functools.partial(archive.seen, what), unit, at_most)
