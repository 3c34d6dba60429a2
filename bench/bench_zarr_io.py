"""2,000 chunks of 4 kB through zarr on local disk: native, inline and virtual, written and read whole."""

from __future__ import annotations

import atexit
from pathlib import Path
from typing import Any

import numpy as np
import zarr

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
from bench.harness import Pair

CHUNKS = 2000
ITEMS = 1024  # of four bytes each
SHAPE = (CHUNKS * ITEMS,)
NATIVE, INLINE = 0, 1 << 13  # thresholds below which a chunk is stored inline
DATA = np.random.default_rng(0).random(SHAPE, np.float32)


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


def benches() -> list[Pair]:
    directory = temporary_directory()
    atexit.register(remove, directory)
    archive = directory / "archive"
    archive.mkdir()
    (archive / "data.bin").write_bytes(DATA.tobytes())
    pairs = []
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
    return pairs


def _open(side: Side, path: Path, archive: Path) -> Any:
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


def _read_pair(name: str, run: Any, paths: dict[Side, Path], archive: Path) -> Pair:
    return Pair(
        name,
        ours=lambda sessions: run(sessions["ours"]),
        theirs=lambda sessions: run(sessions["theirs"]),
        setup=lambda: {side: _open(side, paths[side], archive) for side in SIDES},
        count=CHUNKS,
        unit="chunks",
        at_least=1.0,
        repeats=7,
    )
