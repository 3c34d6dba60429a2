"""2,000 chunks of 4 kB and 48 of 8 MB through zarr on local disk: native, inline and virtual, written and read whole.

The last lines say what a chunk costs inside the store itself, zarr excluded.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype

from bench.engines import (
    SIDES,
    Fresh,
    Side,
    all_set,
    create,
    engine,
    make_array,
    prefix,
    remove,
    reopen,
    temporary_directory,
)
from bench.harness import Figure, Pair

CHUNKS = 2000
ITEMS = 1024  # of four bytes each
SHAPE = (CHUNKS * ITEMS,)
NATIVE, INLINE = 0, 1 << 13  # thresholds below which a chunk is stored inline
LARGE_CHUNKS = 48
LARGE_CHUNK = (1, 2**20)  # of eight bytes each
LARGE_SHAPE = (LARGE_CHUNKS, 2**20)
DATA = np.random.default_rng(0).random(SHAPE, np.float32)

PROTOTYPE = default_buffer_prototype()
KEYS = [f"a/c/{i}" for i in range(CHUNKS)]
VALUES = [PROTOTYPE.buffer.from_bytes(part.tobytes()) for part in DATA.reshape(CHUNKS, ITEMS)]


def write(session: Any) -> None:
    zarr.open_array(session.store, path="a")[:] = DATA


def write_and_commit(session: Any) -> None:
    write(session)
    session.commit("data")


def write_virtual(session: Any, side: Side, archive: Path) -> None:
    spec = engine(side).VirtualChunkSpec
    url = prefix(archive) + "data.bin"
    specs = [spec([i], url, i * ITEMS * 4, ITEMS * 4) for i in range(CHUNKS)]
    all_set(session.store.set_virtual_refs("a", specs))
    session.commit("data")


def read(session: Any) -> Any:
    return zarr.open_array(session.store, path="a", mode="r")[:]


def read_one_by_one(session: Any) -> None:
    array = zarr.open_array(session.store, path="a", mode="r")
    for start in range(0, SHAPE[0], ITEMS):
        array[start : start + ITEMS]


def fresh(threshold: int) -> Fresh:
    return Fresh.make(SHAPE, (ITEMS,), dtype="f4", inline_threshold=threshold)


def _prepare(side: Side, path: Path, kind: str, archive: Path) -> None:
    repository = create(side, path, archive, {"native": NATIVE, "inline": INLINE}.get(kind))
    session = repository.writable_session("main")
    make_array(session.store, SHAPE, (ITEMS,), "f4")
    if kind == "virtual":
        write_virtual(session, side, archive)
    else:
        write_and_commit(session)


def write_large(session: Any) -> None:
    zarr.open_array(session.store, path="a")[:] = large_data()
    session.commit("data")


@functools.cache
def large_data() -> Any:
    return np.random.default_rng(0).random(LARGE_SHAPE)


def benches() -> list[Pair | Figure]:
    directory = temporary_directory()
    atexit.register(remove, directory)
    archive = directory / "archive"
    archive.mkdir()
    (archive / "data.bin").write_bytes(DATA.tobytes())
    pairs: list[Pair | Figure] = []
    for kind, threshold in (("native", NATIVE), ("inline", INLINE)):
        pairs.append(_pair(f"write 2,000 chunks of 4 kB, {kind}, and commit", write_and_commit, threshold))
    for kind in ("native", "inline", "virtual"):
        paths = {side: directory / f"{side}-{kind}" for side in SIDES}
        for side in SIDES:
            _prepare(side, paths[side], kind, archive)
            for reader in SIDES:  # each reads what the other wrote
                if not np.array_equal(read(_open(reader, paths[side], archive)), DATA):
                    raise RuntimeError(f"{reader} reads other values from the {kind} repository of {side}")
        pairs.append(_read_pair(f"read 2,000 chunks of 4 kB, {kind}", read, paths, archive))
        pairs.append(_read_pair(f"  one after the other, {kind}", read_one_by_one, paths, archive))
    return [*pairs, *_large(directory), *_inside_the_store(directory, archive)]


def _large(directory: Path) -> list[Pair | Figure]:
    paths = {side: directory / f"{side}-large" for side in SIDES}
    for side in SIDES:
        session = create(side, paths[side]).writable_session("main")
        make_array(session.store, LARGE_SHAPE, LARGE_CHUNK, "f8")
        write_large(session)
        for reader in SIDES:
            if not np.array_equal(read(_open(reader, paths[side], None)), large_data()):
                raise RuntimeError(f"{reader} reads other values from the large chunks of {side}")
    written = Pair(
        "write 48 chunks of 8 MB, and commit",
        ours=lambda f: write_large(f.sessions["ours"]),
        theirs=lambda f: write_large(f.sessions["theirs"]),
        setup=lambda: Fresh.make(LARGE_SHAPE, LARGE_CHUNK, dtype="f8"),
        teardown=Fresh.remove,
        count=LARGE_CHUNKS,
        unit="chunks",
        at_least=1.0,
        repeats=7,
    )
    return [written, _read_pair("read 48 chunks of 8 MB", read, paths, None, LARGE_CHUNKS)]


def _open(side: Side, path: Path, archive: Path | None) -> Any:
    return reopen(side, path, archive).readonly_session("main")


def _pair(name: str, run: Any, threshold: int) -> Pair:
    return Pair(
        name,
        ours=lambda f: run(f.sessions["ours"]),
        theirs=lambda f: run(f.sessions["theirs"]),
        setup=lambda: fresh(threshold),
        teardown=Fresh.remove,
        count=CHUNKS,
        unit="chunks",
        at_least=1.0,
        repeats=7,
    )


def _read_pair(name: str, run: Any, paths: dict[Side, Path], archive: Path | None, count: int = CHUNKS) -> Pair:
    return Pair(
        name,
        ours=lambda sessions: run(sessions["ours"]),
        theirs=lambda sessions: run(sessions["theirs"]),
        setup=lambda: {side: _open(side, paths[side], archive) for side in SIDES},
        count=count,
        unit="chunks",
        at_least=1.0,
        repeats=7,
    )


# -- inside the store ------------------------------------------------------------------------------------------


async def get_all(store: Any) -> None:
    for key in KEYS:
        await store.get(key, PROTOTYPE)


async def set_all(store: Any) -> None:
    for key, value in zip(KEYS, VALUES, strict=True):
        await store.set(key, value)


def _inside_the_store(directory: Path, archive: Path) -> list[Pair | Figure]:
    """One call after the other, in processor time: what other programs do meanwhile does not count."""
    found: list[Pair | Figure] = []
    for kind in ("native", "inline", "virtual"):
        paths = {side: directory / f"{side}-{kind}" for side in SIDES}
        found.append(_read_pair(f"store.get of 2,000 chunks, {kind}", _get_from, paths, archive))
    for kind, threshold in (("native", NATIVE), ("inline", INLINE)):
        found.append(_pair(f"store.set of 2,000 chunks, {kind}", _set_in, threshold))
    for kind in ("native", "inline", "virtual"):
        store = _open("ours", directory / f"ours-{kind}", archive).store
        found.append(_figure(f"store.get, {kind}", _microseconds, store))
        found.append(_figure(f"store.get_sync, {kind}", _sync_microseconds, store))
    for kind, threshold in (("native", NATIVE), ("inline", INLINE)):
        found.append(_figure(f"store.set, {kind}", _set_microseconds, threshold))
    return found


def _figure(what: str, measure: Callable[[Any], float], subject: Any) -> Figure:
    return Figure(f"processor time of one {what}", functools.partial(measure, subject), "us")


def _get_from(session: Any) -> None:
    asyncio.run(get_all(session.store))


def _set_in(session: Any) -> None:
    asyncio.run(set_all(session.store))


def _per_chunk(run: Callable[[], object]) -> float:
    begin = time.process_time()
    run()
    return 1e6 * (time.process_time() - begin) / CHUNKS


def _microseconds(store: Any) -> float:
    return min(_per_chunk(lambda: asyncio.run(get_all(store))) for _ in range(7))


def _sync_microseconds(store: Any) -> float:
    def get() -> None:
        for key in KEYS:
            store.get_sync(key, prototype=PROTOTYPE)

    return min(_per_chunk(get) for _ in range(7))


def _set_microseconds(threshold: int) -> float:
    figures = []
    for _ in range(7):
        opened = fresh(threshold)
        try:
            figures.append(_per_chunk(functools.partial(_set_in, opened.sessions["ours"])))
        finally:
            opened.remove()
    return min(figures)
