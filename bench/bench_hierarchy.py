"""Thousands of groups: set, committed, listed; and what half a million of them cost whoever looks for one."""

from __future__ import annotations

import asyncio
import atexit
import functools
import statistics
import time
from collections.abc import AsyncIterable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from bench.engines import SIDES, Side, create, remove, reopen, temporary_directory
from bench.harness import Figure, Pair
from icechunk_virtual.model.ids import INITIAL_SNAPSHOT_ID, NodeId
from icechunk_virtual.model.nodes import GroupNode
from icechunk_virtual.repo.format.envelope import FileType, unwrap
from icechunk_virtual.repo.format.flat import Buffer
from icechunk_virtual.repo.format.snapshot import Snapshot, encode_snapshot

PROTOTYPE = default_buffer_prototype()
PARENTS, CHILDREN = 50, 100
DOCUMENT = b'{"zarr_format":3,"node_type":"group","attributes":{}}'
FEW, BOTH_TAKE, MANY = 5_000, 200_000, 500_000  # icechunk 1.1.13 takes up to 250,000 nodes
KEYS = [f"g{i:02}/zarr.json" for i in range(PARENTS)]
KEYS += [f"g{i:02}/n{j:03}/zarr.json" for i in range(PARENTS) for j in range(CHILDREN)]


@dataclass(frozen=True)
class Opened:
    """A directory with a repository of each library, and a session on each."""

    directory: Path
    sessions: dict[Side, Any]

    def remove(self) -> None:
        remove(self.directory)


def empty() -> Opened:
    directory = temporary_directory()
    return Opened(directory, {side: create(side, directory / side).writable_session("main") for side in SIDES})


def filled() -> Opened:
    """Set, not committed."""
    opened = empty()
    for session in opened.sessions.values():
        set_groups(session)
    return opened


def set_groups(session: Any) -> None:
    value = PROTOTYPE.buffer.from_bytes(DOCUMENT)

    async def all_at_once() -> None:
        await asyncio.gather(*(session.store.set(key, value) for key in KEYS))

    sync(all_at_once())


def get_groups(session: Any) -> int:
    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(session.store.get(key, PROTOTYPE) for key in KEYS))

    return sum(len(found) for found in sync(all_at_once()))


def list_dirs(session: Any) -> list[list[str]]:
    async def one_after_the_other() -> list[list[str]]:
        return [sorted(await _collected(session.store.list_dir(f"g{i:02}"))) for i in range(PARENTS)]

    return sync(one_after_the_other())


def list_all(session: Any) -> list[str]:
    return sorted(sync(_collected(session.store.list())))


async def _collected(names: AsyncIterable[str]) -> list[str]:
    return [name async for name in names]


def benches() -> list[Pair | Figure]:
    directory = temporary_directory()
    atexit.register(remove, directory)
    for side in SIDES:
        session = create(side, directory / side).writable_session("main")
        set_groups(session)
        session.commit("groups")
    _check_same(directory)
    return [
        _write_pair(f"set {len(KEYS):,} groups", set_groups, empty),
        _write_pair(f"commit {len(KEYS):,} groups", lambda session: session.commit("groups"), filled),
        _read_pair(f"list_dir of {PARENTS} groups of {CHILDREN}", list_dirs, directory),
        _read_pair(f"list {len(KEYS):,} groups", list_all, directory),
        _read_pair(f"get the documents of {len(KEYS):,} groups", get_groups, directory),
        _open_and_find(directory),
        *_figures(),
    ]


def _check_same(directory: Path) -> None:
    answers = []
    for side in SIDES:
        for other in SIDES:  # each looks at both repositories
            session = _open(side, directory / other)
            answers.append((list_dirs(session), list_all(session), get_groups(session)))
    if any(answer != answers[0] for answer in answers) or answers[0][1] != sorted(KEYS):
        raise RuntimeError("the libraries list different groups")


def _open(side: Side, path: Path) -> Any:
    return reopen(side, path).readonly_session("main")


def _write_pair(name: str, run: Callable[[Any], object], setup: Callable[[], Opened]) -> Pair:
    return Pair(
        name,
        ours=lambda opened: run(opened.sessions["ours"]),
        theirs=lambda opened: run(opened.sessions["theirs"]),
        setup=setup,
        teardown=Opened.remove,
        count=len(KEYS),
        unit="groups",
        at_least=1.0,
        repeats=7,
    )


def _read_pair(name: str, run: Callable[[Any], object], directory: Path) -> Pair:
    return Pair(
        name,
        ours=lambda sessions: run(sessions["ours"]),
        theirs=lambda sessions: run(sessions["theirs"]),
        setup=lambda: {side: _open(side, directory / side) for side in SIDES},
        count=len(KEYS),
        unit="groups",
        at_least=1.0,
        repeats=7,
    )


# -- many nodes ------------------------------------------------------------------------------------------------


def _nodes(count: int) -> list[GroupNode]:
    return [GroupNode(NodeId(i.to_bytes(8, "big")), f"/g{i:07}", DOCUMENT) for i in range(count)]


def _open_and_find(directory: Path) -> Pair:
    """Both libraries on a repository that ours wrote: the original takes minutes to set so many groups."""
    path = directory / "many"
    session = create("ours", path).writable_session("main")
    for node in _nodes(BOTH_TAKE):
        session._workspace.changes.add(node)
    session.commit("many groups")
    key = f"g{BOTH_TAKE // 2:07}/zarr.json"

    def find(side: Side) -> None:
        if not sync(_open(side, path).store.exists(key)):
            raise RuntimeError(f"{side} does not find {key}")

    return Pair(
        f"open a repository of {BOTH_TAKE:,} groups and find one",
        ours=lambda _: find("ours"),
        theirs=lambda _: find("theirs"),
        at_least=1.0,
    )


def _figures() -> Iterator[Figure]:
    """What opening a snapshot and one lookup cost beside reading and decompressing: the same for few nodes and many."""
    for count in (FEW, MANY):
        yield Figure(
            f"open a snapshot of {count:,} nodes and find one, without decompression",
            functools.partial(_view_microseconds, count),
            "us",
            at_most=1000,
        )


def _view_microseconds(count: int, repeats: int = 15) -> float:
    file = encode_snapshot(
        id=INITIAL_SNAPSHOT_ID,
        parent_id=None,
        flushed_at_us=0,
        message="",
        metadata={},
        nodes=_nodes(count),
        manifest_files=(),
    )
    content = unwrap(file, file_type=FileType.SNAPSHOT, file="snapshots/x")
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        found = Snapshot(Buffer(content, file="snapshots/x", kind="snapshot")).find(f"/g{count // 3:07}")
        times.append(time.process_time() - begin)
        if found is None:
            raise RuntimeError("a node is missing")
    return 1e6 * statistics.median(times)
