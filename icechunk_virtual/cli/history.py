"""``log``, ``show`` and ``diff``: versions, and what changed between them."""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
from collections.abc import Iterable
from dataclasses import fields as fields_of
from typing import Any

from icechunk_virtual._sync import run
from icechunk_virtual.cli.graph import Graph
from icechunk_virtual.cli.messages import UsageError
from icechunk_virtual.cli.output import Part, Report, command, fields, first_line, short_time
from icechunk_virtual.cli.parsing import add_command
from icechunk_virtual.cli.versions import (
    MAIN,
    VERSION_HELP,
    Refs,
    add_version,
    describe,
    names_version,
    open_repo,
    resolve,
    snapshot_of,
)
from icechunk_virtual.repo.info import Diff, SnapshotInfo
from icechunk_virtual.repository import Repository
from icechunk_virtual.scanners.dataset import count, human_bytes

_SHOWN_VERSIONS = 30


def add_parsers(commands: Any) -> None:
    """Add the commands to the program's parser."""
    parser = add_command(commands, "log", help="list a version and those before it, newest first")
    add_version(parser)
    parser.add_argument("--all", action="store_true", help="the histories of all branches and tags")
    parser.add_argument(
        "-n",
        "--number",
        type=int,
        default=_SHOWN_VERSIONS,
        metavar="N",
        help=f"so many versions, 0 for all (default: {_SHOWN_VERSIONS})",
    )
    parser.set_defaults(run=command(log, show_log))
    parser = add_command(commands, "show", help="say what a version is and what it changed")
    add_version(parser)
    parser.set_defaults(run=command(show, show_version))
    parser = add_command(
        commands,
        "diff",
        help="say what changed from one version to a later one",
        epilog=f"A version is a {VERSION_HELP}.",
    )
    parser.add_argument("old", metavar="FROM", help="the earlier version")
    parser.add_argument("new", nargs="?", default=MAIN, metavar="TO", help=f"the later version (default: {MAIN})")
    parser.set_defaults(run=command(diff, show_diff))


# -- log -------------------------------------------------------------------------------------------------------


def log(options: argparse.Namespace) -> Report:
    """Versions, newest first."""
    if options.number < 0:
        raise UsageError("-n takes a number of versions, 0 for all")
    if options.all and names_version(options):
        raise UsageError("--all starts at every branch and tag: leave out the version")
    repo = open_repo(options)
    refs = Refs.of(repo)
    starts = {*refs.branches.values(), *refs.tags.values()} if options.all else {snapshot_of(repo, options)}
    found, more = versions_from(repo, starts, options.number)
    snapshots = [describe(info) | refs.at(info.id) for info in found]
    return {"repository": options.repo, "snapshots": snapshots, "more": more}


def versions_from(repo: Repository, starts: Iterable[str], limit: int) -> tuple[list[SnapshotInfo], bool]:
    """Versions and all before them, newest first, and whether there are more than `limit` (0: no limit).

    Parents are older than their children, so the newest one known is the next: nothing beyond it has to be read.
    """

    async def read() -> list[SnapshotInfo]:
        return await asyncio.gather(*map(repo.lookup_snapshot_async, starts))

    waiting = [(-info.written_at.timestamp(), info.id, info) for info in run(read())]
    heapq.heapify(waiting)
    known = {id for _, id, _ in waiting}
    found: list[SnapshotInfo] = []
    while waiting and not (limit and len(found) == limit):
        info = heapq.heappop(waiting)[2]
        found.append(info)
        if info.parent_id is not None and info.parent_id not in known:
            known.add(info.parent_id)
            parent = repo.lookup_snapshot(info.parent_id)
            heapq.heappush(waiting, (-parent.written_at.timestamp(), parent.id, parent))
    return found, bool(waiting)


def show_log(report: Report) -> Iterable[Part]:
    """For people."""
    graph = Graph()
    for snapshot in report["snapshots"]:
        joins, line = graph.add(snapshot["id"], snapshot["parent_id"])
        yield from joins
        facts = [snapshot["id"], short_time(snapshot["written_at"]), _names(snapshot), first_line(snapshot["message"])]
        yield "  ".join([line, *filter(None, facts)])
    if report["more"]:
        yield "and older versions: -n 0 shows all"


def _names(snapshot: Report) -> str:
    names = [*snapshot["branches"], *(f"tag: {name}" for name in snapshot["tags"])]
    return f"({', '.join(names)})" if names else ""


# -- show and diff ---------------------------------------------------------------------------------------------


def show(options: argparse.Namespace) -> Report:
    """One version."""
    repo = open_repo(options)
    info = repo.lookup_snapshot(snapshot_of(repo, options))
    changes = Diff()
    if info.parent_id is not None:
        changes = repo.diff(from_snapshot_id=info.parent_id, to_snapshot_id=info.id)
    manifests = [
        {"id": file.id, "size_bytes": file.size_bytes, "num_chunk_refs": file.num_chunk_refs} for file in info.manifests
    ]
    facts = describe(info) | Refs.of(repo).at(info.id)
    return {"repository": options.repo} | facts | {"manifests": manifests, "changes": describe_diff(changes)}


def show_version(report: Report) -> Iterable[Part]:
    """For people."""
    files = report["manifests"]
    size, refs = (sum(file[name] for file in files) for name in ("size_bytes", "num_chunk_refs"))
    yield from fields(
        ("snapshot", report["id"]),
        ("parent", report["parent_id"] or "none: the first version"),
        ("branches", ", ".join(report["branches"])),
        ("tags", ", ".join(report["tags"])),
        ("written", f"{short_time(report['written_at'])} UTC"),
        ("metadata", json.dumps(report["metadata"], ensure_ascii=False) if report["metadata"] else ""),
        ("manifests", f"{count(len(files), 'file')}, {human_bytes(size)}, {count(refs, 'reference')}"),
    )
    yield ""
    yield from (f"    {line}" for line in report["message"].splitlines())
    yield ""
    yield from diff_lines(report["changes"])


def diff(options: argparse.Namespace) -> Report:
    """What changed between two versions."""
    repo = open_repo(options)
    old, new = (resolve(repo, text, options.repo) for text in (options.old, options.new))
    if old == new:
        raise ValueError(f"{options.old} and {options.new} are the same version, {old}")
    changes = repo.diff(from_snapshot_id=old, to_snapshot_id=new)
    return {"repository": options.repo, "from": old, "to": new, "changes": describe_diff(changes)}


def show_diff(report: Report) -> Iterable[Part]:
    """For people."""
    yield from diff_lines(report["changes"])


def describe_diff(changes: Diff) -> Report:
    """A diff as JSON values."""
    found: Report = {field.name: getattr(changes, field.name) for field in fields_of(Diff)}
    return {
        name: sorted(value) if isinstance(value, set) else dict(sorted(value.items())) for name, value in found.items()
    }


def diff_lines(changes: Report) -> list[str]:
    """What `describe_diff` made, for people."""
    kinds: Any = {name: value if name == "updated_chunks" else set(value) for name, value in changes.items()}
    return repr(Diff(**kinds)).rstrip().splitlines() or ["no changes"]
