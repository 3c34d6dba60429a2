"""A million virtual references in a thousand files: columns, set, commit; bytes on disk; peak memory.

The original has no columns: it is given ready-made `VirtualChunkSpec` objects, and the time to make them is not
counted against it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from bench import references
from bench.engines import Fresh, all_set, create, make_array, remove, reopen, size_on_disk, temporary_directory
from bench.harness import Figure, Pair, peak_memory
from icechunk_virtual.model.chunk_refs import ChunkRefs
from icechunk_virtual.model.locations import Locations

COUNT = 1_000_000
SMALL = 20_000


def write_columns(session: Any, count: int) -> str:
    coords, source, offset, length = references.columns(count)
    return _set_columns(session, coords, source, offset, length, references.urls(count))


def _set_columns(session: Any, coords: Any, source: Any, offset: Any, length: Any, urls: list[str]) -> str:
    refs = ChunkRefs.virtual(coords, Locations.of(urls), source, offset, length)
    all_set(session.store.set_chunk_refs("a", refs))
    return str(session.commit("references"))


def write_specs(session: Any, specs: list[Any]) -> str:
    all_set(session.store.set_virtual_refs("a", specs))
    return str(session.commit("references"))


def commit_columns(path: str, count: int) -> None:
    """What is measured in a process of its own: everything, from no repository at all."""
    repository = create("ours", Path(path), references.ARCHIVE)
    session = repository.writable_session("main")
    make_array(session.store, references.shape(count), (1, 1))
    write_columns(session, count)


def commit_specs(path: str, count: int) -> None:
    """The same through the original."""
    repository = create("theirs", Path(path), references.ARCHIVE)
    session = repository.writable_session("main")
    make_array(session.store, references.shape(count), (1, 1))
    write_specs(session, references.make_specs("theirs", count))


def fresh() -> Fresh:
    return Fresh.make(references.shape(COUNT), (1, 1), archive=references.ARCHIVE)


def _manifest_bytes_per_reference(side: str) -> float:
    directory = temporary_directory()
    try:
        (commit_columns if side == "ours" else commit_specs)(str(directory), COUNT)
        return size_on_disk(directory / "manifests") / COUNT
    finally:
        remove(directory)


def _peak(function: str) -> float:
    directory = temporary_directory()
    try:
        return peak_memory(f"bench.bench_virtual_refs:{function}", str(directory), COUNT)
    finally:
        remove(directory)


def check_same_result() -> None:
    """The original reads the same references from both repositories."""
    found = []
    fresh = Fresh.make(references.shape(SMALL), (1, 1), archive=references.ARCHIVE)
    try:
        write_columns(fresh.sessions["ours"], SMALL)
        write_specs(fresh.sessions["theirs"], references.specs("theirs", SMALL))
        for side in fresh.sessions:
            session = reopen("theirs", fresh.directory / side, references.ARCHIVE).readonly_session("main")
            found.append((sorted(session.all_virtual_chunk_locations()), asyncio.run(_sizes(session.store))))
        if found[0] != found[1]:
            raise RuntimeError("the repositories of the two libraries differ")
    finally:
        fresh.remove()


async def _sizes(store: Any) -> list[int]:
    return [await store.getsize(f"a/c/{i}/{j}") for i in range(SMALL // 1000) for j in (0, 1, 500, 999)]


def benches() -> list[Pair | Figure]:
    check_same_result()
    columns, urls = references.columns(COUNT), references.urls(COUNT)
    return [
        Pair(
            "1,000,000 virtual references, set and commit",
            ours=lambda f: _set_columns(f.sessions["ours"], *columns, urls),
            theirs=lambda f: write_specs(f.sessions["theirs"], references.specs("theirs", COUNT)),
            setup=fresh,
            teardown=Fresh.remove,
            count=COUNT,
            unit="references",
            at_least=20,
            repeats=3,
        ),
        Figure(
            "  bytes per reference on disk, ours", lambda: _manifest_bytes_per_reference("ours"), "bytes", at_most=15
        ),
        Figure("  bytes per reference on disk, theirs", lambda: _manifest_bytes_per_reference("theirs"), "bytes"),
        Figure("  peak memory, ours", lambda: _peak("commit_columns"), "MB", at_most=200),
        Figure("  peak memory, theirs", lambda: _peak("commit_specs"), "MB"),
    ]
