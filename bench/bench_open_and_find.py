"""Open a repository with a million references in one manifest and find one chunk, nothing cached."""

from __future__ import annotations

import atexit
from pathlib import Path

from zarr.core.sync import sync

from bench import references
from bench.bench_virtual_refs import COUNT, commit_columns, commit_specs
from bench.engines import Side, remove, reopen, temporary_directory
from bench.harness import Pair

KEY = "a/c/777/555"


def find(side: Side, path: Path) -> int:
    """Length of a chunk in the middle."""
    store = reopen(side, path, references.ARCHIVE).readonly_session("main").store
    return int(sync(store.getsize(KEY)))


def exists(side: Side, path: Path) -> bool:
    store = reopen(side, path, references.ARCHIVE).readonly_session("main").store
    return bool(sync(store.exists(KEY)))


def benches() -> list[Pair]:
    directory = temporary_directory()
    atexit.register(remove, directory)
    ours, theirs = directory / "ours", directory / "theirs"
    commit_columns(str(ours), COUNT)
    commit_specs(str(theirs), COUNT)
    lengths = {find(side, path) for side in ("ours", "theirs") for path in (ours, theirs)}
    if len(lengths) != 1:
        raise RuntimeError(f"the libraries find different lengths: {lengths}")
    return [
        Pair(
            "open, find one chunk of 1,000,000; each its own repository",
            ours=lambda _: find("ours", ours),
            theirs=lambda _: find("theirs", theirs),
            at_least=1.0,
            repeats=15,
        ),
        Pair(
            "  both the repository that we wrote",
            ours=lambda _: find("ours", ours),
            theirs=lambda _: find("theirs", ours),
            at_least=1.0,
            repeats=15,
        ),
        Pair(
            "  both the repository that the original wrote",
            ours=lambda _: find("ours", theirs),
            theirs=lambda _: find("theirs", theirs),
            at_least=1.0,
            repeats=15,
        ),
        Pair(
            "  ask whether it exists; each its own",
            ours=lambda _: exists("ours", ours),
            theirs=lambda _: exists("theirs", theirs),
            repeats=15,
        ),
    ]
