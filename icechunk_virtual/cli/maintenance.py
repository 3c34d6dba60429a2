"""``gc``, ``expire`` and ``rewrite-manifests``: what a repository needs from time to time."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from icechunk_virtual.cli.output import Part, Report, command, to_run
from icechunk_virtual.cli.parsing import add_command, add_older_than
from icechunk_virtual.cli.versions import MAIN, Refs, iso, missing_ref, open_repo
from icechunk_virtual.scanners.dataset import count, human_bytes

_OBJECTS = ("snapshots", "transaction_logs", "manifests", "chunks")


def add_parsers(commands: Any) -> None:
    """Add the commands to the program's parser."""
    parser = add_command(
        commands,
        "gc",
        help="delete old objects that no branch or tag needs",
        description="Delete old objects that no branch or tag needs. Commits that are under way keep their chunks only "
        "as long as those are young: choose an age longer than any job that writes.",
    )
    add_older_than(parser, "only objects written before this")
    parser.add_argument("--dry-run", action="store_true", help="only count")
    parser.set_defaults(run=command(collect_garbage, show_garbage))
    parser = add_command(
        commands,
        "expire",
        help="take old versions out of the histories",
        description="Take old versions out of the histories of all branches and tags. Nothing but refs is deleted, and "
        "only if asked for: gc deletes what nothing needs any more. The first version always stays.",
    )
    add_older_than(parser, "only versions written before this")
    parser.add_argument(
        "--delete-expired-branches", action="store_true", help=f"delete branches (not {MAIN}) whose tip is too old"
    )
    parser.add_argument("--delete-expired-tags", action="store_true", help="delete tags of versions that are too old")
    parser.set_defaults(run=command(expire, show_expired))
    parser = add_command(
        commands,
        "rewrite-manifests",
        help="commit the same content with manifests split as the configuration says now",
    )
    parser.add_argument("--branch", default=MAIN, metavar="NAME", help=f"branch to commit to (default: {MAIN})")
    parser.add_argument("-m", "--message", default="rewrite manifests", metavar="TEXT", help="commit message")
    parser.set_defaults(run=command(rewrite, show_rewritten))


# -- gc --------------------------------------------------------------------------------------------------------


def collect_garbage(options: argparse.Namespace) -> Report:
    """Delete, or count, what nothing needs."""
    repo = open_repo(options)
    summary = repo.garbage_collect(options.older_than, dry_run=options.dry_run)
    report = {"repository": options.repo, "older_than": iso(options.older_than), "dry_run": options.dry_run}
    return report | asdict(summary)


def show_garbage(report: Report) -> Iterable[Part]:
    """For people."""
    numbers = {kind: report[f"{kind}_deleted"] for kind in _OBJECTS}
    if not any(numbers.values()):
        yield f"nothing to delete among objects written before {report['older_than']}"
        return
    found = ", ".join(count(n, kind[:-1].replace("_", " ")) for kind, n in numbers.items() if n)
    yield f"{'would delete' if report['dry_run'] else 'deleted'} {found}: {human_bytes(report['bytes_deleted'])}"


# -- expire ----------------------------------------------------------------------------------------------------


def expire(options: argparse.Namespace) -> Report:
    """Shorten histories."""
    repo = open_repo(options)
    before = Refs.of(repo)
    released = repo.expire_snapshots(
        options.older_than,
        delete_expired_branches=options.delete_expired_branches,
        delete_expired_tags=options.delete_expired_tags,
    )
    after = Refs.of(repo)
    tips = {*after.branches.values(), *after.tags.values()}  # they stay however old they are
    return {
        "repository": options.repo,
        "older_than": iso(options.older_than),
        "expired": sorted(released - tips),
        "deleted_branches": {name: id for name, id in before.branches.items() if name not in after.branches},
        "deleted_tags": {name: id for name, id in before.tags.items() if name not in after.tags},
    }


def show_expired(report: Report) -> Iterable[Part]:
    """For people."""
    number = count(len(report["expired"]), "version")
    yield f"{number} written before {report['older_than']} taken out of the histories"
    yield from (f"  {id}" for id in report["expired"])
    for kind in ("branch", "tag"):
        for name, id in report["deleted_branches" if kind == "branch" else "deleted_tags"].items():
            yield f"deleted {kind} {name}, which was at {id}"
    if report["expired"]:
        advice = to_run("gc", report["repository"], "--older-than", report["older_than"])
        yield f"to delete what nothing needs any more: {advice}"


# -- rewrite-manifests -----------------------------------------------------------------------------------------


def rewrite(options: argparse.Namespace) -> Report:
    """Commit the same content with new manifests."""
    repo = open_repo(options)
    branches = repo.list_branches()
    if options.branch not in branches:
        raise missing_ref("branch", options.branch, branches, options.repo)
    before = repo.lookup_snapshot(repo.lookup_branch(options.branch))
    id = repo.rewrite_manifests(options.message, branch=options.branch)
    return {
        "repository": options.repo,
        "branch": options.branch,
        "snapshot": id,
        "manifests_before": len(before.manifests),
        "manifests": len(repo.lookup_snapshot(id).manifests),
    }


def show_rewritten(report: Report) -> Iterable[Part]:
    """For people."""
    yield f"committed {report['snapshot']} to branch {report['branch']}"
    yield f"{count(report['manifests'], 'manifest')}, {report['manifests_before']} before"
