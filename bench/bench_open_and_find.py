"""Open a repository with a million references in one manifest and ask for one chunk, nothing cached."""

from __future__ import annotations

import atexit
from pathlib import Path
from typing import Any

from zarr.core.sync import sync

from bench import references
from bench.bench_virtual_refs import COUNT, commit_columns, commit_specs
from bench.engines import Side, remove, reopen, temporary_directory
from bench.harness import Pair

KEY = "a/c/777/555"  # in the middle


def opened(side: Side, path: Path) -> Any:
    """Store of a session that was just opened."""
    return reopen(side, path, references.ARCHIVE).readonly_session("main").store


def find(side: Side, path: Path) -> int:
    """Length of a chunk."""
    return int(sync(opened(side, path).getsize(KEY)))


def exists(side: Side, path: Path) -> bool:
    """Whether a chunk is there."""
    return bool(sync(opened(side, path).exists(KEY)))


def benches() -> list[Pair]:
    directory = temporary_directory()
    atexit.register(remove, directory)
    ours, theirs = directory / "ours", directory / "theirs"
    commit_columns(str(ours), COUNT)
    commit_specs(str(theirs), COUNT)
    lengths = {find(side, path) for side in ("ours", "theirs") for path in (ours, theirs)}
    if len(lengths) != 1:
        raise RuntimeError(f"the libraries find different lengths: {lengths}")

    def pair(name: str, first: Path, second: Path, *, act: Any = find, at_least: float | None = 1.0) -> Pair:
        """We on one repository, the original on another."""
        return Pair(
            name,
            ours=lambda _: act("ours", first),
            theirs=lambda _: act("theirs", second),
            at_least=at_least,
            repeats=15,
        )

    return [
        pair("open, find one chunk of 1,000,000; each its own repository", ours, theirs),
        pair("  both the repository that we wrote", ours, ours),
        pair("  both the repository that the original wrote", theirs, theirs),
        pair("  ask whether it exists; each its own", ours, theirs, act=exists, at_least=None),
    ]
