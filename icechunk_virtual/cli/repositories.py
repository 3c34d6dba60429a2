"""``create`` and ``info``: a repository as a whole."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from icechunk_virtual.cli.config_text import read_config
from icechunk_virtual.cli.output import Part, Report, command, fields, first_line, short_time
from icechunk_virtual.cli.parsing import add_command
from icechunk_virtual.cli.versions import MAIN, Refs, describe, open_repo
from icechunk_virtual.errors import RepositoryExists
from icechunk_virtual.opening import storage_of
from icechunk_virtual.repository import Repository
from icechunk_virtual.scanners.dataset import count, human_bytes

FORMAT_VERSION = 1


def add_parsers(commands: Any) -> None:
    """Add the commands to the program's parser."""
    parser = add_command(commands, "create", help="make an empty repository")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML file with configuration, as `config show` prints it"
    )
    parser.set_defaults(run=command(create, show_created))
    parser = add_command(commands, "info", help="say what a repository holds")
    parser.add_argument(
        "--storage", action="store_true", help="also add up the bytes of the chunks of all versions (reads everything)"
    )
    parser.set_defaults(run=command(info, show_info))


def create(options: argparse.Namespace) -> Report:
    """Make an empty repository."""
    config = None if options.config is None else read_config(options.config)
    try:
        repo: Repository = Repository.create(storage_of(options.repo), config)
    except RepositoryExists as error:
        raise RepositoryExists(
            f"{options.repo} is not empty (there is `{getattr(error, 'key', '?')}`); name another place"
        ) from None
    return {"repository": options.repo, "branch": MAIN, "snapshot": repo.lookup_branch(MAIN)}


def show_created(report: Report) -> Iterable[Part]:
    """For people."""
    yield f"created {report['repository']}, branch {report['branch']}, snapshot {report['snapshot']}"


def info(options: argparse.Namespace) -> Report:
    """Facts about a repository."""
    repo = open_repo(options)
    refs = Refs.of(repo)
    tip = repo.lookup_snapshot(refs.branches[MAIN])
    report = {
        "repository": options.repo,
        "format_version": FORMAT_VERSION,
        "branches": list(refs.branches),
        "tags": list(refs.tags),
        "main": describe(tip),
        "nodes": repo.readonly_session(snapshot_id=tip.id)._workspace.snapshot.num_nodes,
        "manifests": len(tip.manifests),
        "references": sum(file.num_chunk_refs for file in tip.manifests),
        "containers": sorted(repo.config.virtual_chunk_containers or {}),
    }
    if options.storage:
        stats = repo.chunk_storage_stats()
        kinds = {"native": stats.native_bytes, "virtual": stats.virtual_bytes, "inline": stats.inlined_bytes}
        report["chunk_bytes"] = kinds
    return report


def show_info(report: Report) -> Iterable[Part]:
    """For people."""
    tip, nodes = report["main"], count(report["nodes"], "node")
    content = f"{nodes}, {count(report['references'], 'reference')} in {count(report['manifests'], 'manifest')}"
    sizes = report.get("chunk_bytes", {})
    yield from fields(
        ("repository", f"{report['repository']} (format version {report['format_version']})"),
        ("branches", ", ".join(report["branches"])),
        ("tags", ", ".join(report["tags"])),
        (MAIN, f"{tip['id']}, {short_time(tip['written_at'])} UTC, {first_line(tip['message'])}"),
        ("content", content),
        ("containers", ", ".join(report["containers"])),
        (
            "chunks",
            ", ".join(f"{human_bytes(n)} {kind}" for kind, n in sizes.items()) + " in all versions" * bool(sizes),
        ),
    )
