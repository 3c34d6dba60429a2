"""``icechunk-virtual scan``: files in, a commit with references to them out."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from icechunk_virtual.cli.progress import progress_bar
from icechunk_virtual.errors import RefNotFound
from icechunk_virtual.opening import storage_of
from icechunk_virtual.repo.config import RepositoryConfig
from icechunk_virtual.repository import Repository
from icechunk_virtual.scanners.dataset import human_bytes
from icechunk_virtual.scanners.spec import ScanOptions
from icechunk_virtual.virtual import VirtualDataset, container_for, scan

_EPILOG = """examples:
  icechunk-virtual scan data/1990.nc --repo archive.icechunk
  icechunk-virtual scan 'data/*.nc' --repo archive.icechunk --concat time
  icechunk-virtual scan data/2026-11.nc --repo archive.icechunk --append-dim time
"""


def add_parser(commands: Any) -> None:
    """Add the command to the program's parser."""
    parser = commands.add_parser(
        "scan",
        help="make files part of a repository by reference",
        description="Read the structure of files, make references to their chunks, and commit them to a repository, "
        "which is created if there is none. The files stay where they are and are not changed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="file, folder, glob pattern or URL")
    parser.add_argument("--repo", required=True, metavar="REPO", help="path of the repository")
    parser.add_argument("--group", metavar="PATH", help="group to write into (default: the root)")
    parser.add_argument("--branch", default="main", metavar="NAME", help="branch to commit to (default: main)")
    parser.add_argument("-m", "--message", metavar="TEXT", help="commit message")
    parser.add_argument("--concat", metavar="DIM", help="join several files along this dimension, which they have")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--append-dim", metavar="DIM", help="append to the repository's arrays along this dimension")
    how.add_argument(
        "--mode",
        choices=("w-", "a", "w"),
        help="w-: the group must be empty (default); a: add variables, replacing those of the same name; w: replace all",
    )
    parser.add_argument("--scanner", metavar="NAME", help="file format (default: found by the content)")
    parser.add_argument(
        "--drop-variables", nargs="+", action="extend", default=[], metavar="NAME", help="variables to leave out"
    )
    parser.add_argument(
        "--skip-unsupported", action="store_true", help="leave out, with a warning, what cannot be represented"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be referenced; write nothing")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Scan, write, commit, report."""
    settings = ScanOptions(
        drop_variables=frozenset(options.drop_variables), skip_unsupported=options.skip_unsupported
    )
    with progress_bar("scanning", quiet=options.json) as progress:
        dataset = scan(
            options.sources, concat=options.concat, scanner=options.scanner, options=settings, progress=progress
        )
    report = describe(dataset)
    if not options.dry_run:
        report |= commit(dataset, options)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print(as_text(dataset, report, options))


def commit(dataset: VirtualDataset, options: argparse.Namespace) -> dict[str, Any]:
    """Write a dataset to the repository that the options name."""
    storage = storage_of(options.repo)
    containers = RepositoryConfig()
    for prefix in dataset.prefixes:
        containers.set_virtual_chunk_container(container_for(prefix))
    existed = Repository.exists(storage)
    repo = Repository.open(storage) if existed else Repository.create(storage, containers)
    if existed:
        known = repo.config.virtual_chunk_containers or {}
        missing = [prefix for prefix in dataset.prefixes if not any(prefix.startswith(k) for k in known)]
        if missing:
            repo = repo.reopen(containers)
            repo.save_config()
    try:
        session = repo.writable_session(options.branch)
    except RefNotFound:
        raise RefNotFound(
            f"there is no branch `{options.branch}` in {options.repo}; create it, or use one of: "
            + ", ".join(sorted(repo.list_branches())),
            ref=options.branch,
        ) from None
    dataset.to_icechunk(session, group=options.group, mode=options.mode, append_dim=options.append_dim)
    message = options.message or f"scan {len(dataset.sources)} file{'s' * (len(dataset.sources) != 1)}"
    id = session.commit(message, {"sources": len(dataset.sources), "scanner": dataset.format})
    return {"repository": options.repo, "created": not existed, "branch": options.branch, "snapshot": id}


def describe(dataset: VirtualDataset) -> dict[str, Any]:
    """What was found, for programs."""
    return {
        "files": len(dataset.sources),
        "format": dataset.format,
        "arrays": sum(1 for _ in dataset.root.walk_arrays()),
        "chunks": dataset.nrefs,
        "bytes_virtual": dataset.nbytes_virtual,
        "bytes_stored": dataset.nbytes_stored,
        "stored": [asdict(item) for item in dataset.stored],
        "warnings": list(dataset.warnings),
        "prefixes": list(dataset.prefixes),
    }


def as_text(dataset: VirtualDataset, report: dict[str, Any], options: argparse.Namespace) -> str:
    """What was done and what to do next, for people."""
    files = f"{report['files']} file{'s' * (report['files'] != 1)} ({report['format']})"
    lines = [
        f"{files}: {report['arrays']} arrays, {report['chunks']} chunks, "
        f"{human_bytes(report['bytes_virtual'])} referenced, {human_bytes(report['bytes_stored'])} stored"
    ]
    if report["stored"]:
        lines.append("stored in the repository:")
        lines += [f"  {s['path']}: {s['reason']} ({human_bytes(s['nbytes'])})" for s in report["stored"]]
    if report["warnings"]:
        lines.append("note:")
        lines += [f"  {warning}" for warning in report["warnings"]]
    if "snapshot" not in report:
        return "\n".join([*lines, "nothing was written (--dry-run)"])
    done = "created" if report["created"] else "committed to"
    lines += [f"{done} {report['repository']}, branch {report['branch']}, snapshot {report['snapshot']}", "", "open it:"]
    return "\n".join([*lines, *how_to_open(options.repo, report, options.group)])


def how_to_open(repo: str, report: dict[str, Any], group: str | None) -> list[str]:
    """The code that opens what was committed."""
    arguments = [repr(str(Path(repo))), 'engine="icechunk-virtual"', f"authorize={report['prefixes']!r}", "chunks={}"]
    if group:
        arguments.insert(2, f"group={group!r}")
    if report["branch"] != "main":
        arguments.insert(2, f"branch={report['branch']!r}")
    return ["  import xarray as xr", f"  ds = xr.open_dataset({', '.join(arguments)})"]
