"""``branch`` and ``tag``: names for versions."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterable
from typing import Any

from icechunk_virtual._sync import run
from icechunk_virtual.cli.output import Part, Report, Table, command, first_line, short_time, to_run
from icechunk_virtual.cli.parsing import add_command, add_group
from icechunk_virtual.cli.versions import (
    MAIN,
    VERSION_HELP,
    Refs,
    add_version,
    describe,
    missing_ref,
    open_repo,
    resolve,
    snapshot_of,
)
from icechunk_virtual.errors import RefExists

PLURALS = {"branch": "branches", "tag": "tags"}


def add_parsers(commands: Any) -> None:
    """Add the commands to the program's parser."""
    for kind, plural in PLURALS.items():
        verbs = "list, create, delete and move" if kind == "branch" else "list, create and delete"
        group = add_group(commands, kind, help=f"{verbs} {plural}")
        parser = add_command(group, "list", help=f"list the {plural} and the versions that they are at")
        parser.set_defaults(run=command(list_refs, show_refs), kind=kind)
        parser = add_command(group, "create", help=f"make a {kind} at a version")
        parser.add_argument("name", metavar="NAME", help=f"of the new {kind}")
        add_version(parser)
        parser.set_defaults(run=command(create, show_created), kind=kind)
        parser = add_command(group, "delete", help=f"delete {plural}; the versions stay until gc deletes them")
        parser.add_argument("names", nargs="+", metavar="NAME", help=f"of a {kind}")
        parser.set_defaults(run=command(delete, show_deleted), kind=kind)
        if kind == "branch":
            _add_reset(group)


def _add_reset(group: Any) -> None:
    parser = add_command(group, "reset", help="move a branch to any version")
    parser.add_argument("name", metavar="NAME", help="of the branch")
    parser.add_argument("version", metavar="VERSION", help=VERSION_HELP)
    parser.add_argument(
        "--from", dest="expected", metavar="VERSION", help="only if the branch is at this version, otherwise fail"
    )
    parser.set_defaults(run=command(reset, show_reset))


# -- list ------------------------------------------------------------------------------------------------------


def list_refs(options: argparse.Namespace) -> Report:
    """All branches, or all tags."""
    repo = open_repo(options)
    plural = PLURALS[options.kind]
    tips = getattr(Refs.of(repo), plural)

    async def read() -> list[Report]:
        infos = await asyncio.gather(*map(repo.lookup_snapshot_async, tips.values()))
        return [{"name": name, "snapshot": describe(info)} for name, info in zip(tips, infos, strict=True)]

    return {"repository": options.repo, plural: run(read())}


def show_refs(report: Report) -> Iterable[Part]:
    """For people."""
    plural = next(plural for plural in PLURALS.values() if plural in report)
    rows = [
        (ref["name"], tip["id"], short_time(tip["written_at"]), first_line(tip["message"]))
        for ref in report[plural]
        for tip in [ref["snapshot"]]
    ]
    if rows:
        yield Table(("name", "snapshot", "written (UTC)", "message"), rows)
    else:
        yield f"no {plural}"


# -- create and delete -----------------------------------------------------------------------------------------


def create(options: argparse.Namespace) -> Report:
    """A new branch or tag."""
    repo = open_repo(options)
    id = snapshot_of(repo, options)
    try:
        getattr(repo, f"create_{options.kind}")(options.name, id)
    except RefExists as error:
        was = ", or there was one: names of deleted tags are not free again" if options.kind == "tag" else ""
        raise RefExists(f"there is a {options.kind} `{options.name}` already{was}", ref=options.name) from error
    return {"repository": options.repo, "kind": options.kind, "name": options.name, "snapshot": id}


def show_created(report: Report) -> Iterable[Part]:
    """For people."""
    yield f"created {report['kind']} {report['name']} at {report['snapshot']}"


def delete(options: argparse.Namespace) -> Report:
    """Some branches or tags less. None is deleted unless all of them can be."""
    repo = open_repo(options)
    kind, names = options.kind, list(dict.fromkeys(options.names))
    there: dict[str, str] = getattr(Refs.of(repo), PLURALS[kind])
    for name in names:
        if name not in there:
            raise missing_ref(kind, name, there, options.repo)
    if kind == "branch" and MAIN in names:
        raise ValueError(f"the branch {MAIN} cannot be deleted: a repository is known by it. Nothing was deleted.")
    for name in names:
        getattr(repo, f"delete_{kind}")(name)
    gone = [{"name": name, "snapshot": there[name]} for name in names]
    return {"repository": options.repo, "kind": kind, "deleted": gone}


def show_deleted(report: Report) -> Iterable[Part]:
    """For people."""
    kind = report["kind"]
    for ref in report["deleted"]:
        yield f"deleted {kind} {ref['name']}, which was at {ref['snapshot']}"
        if kind == "branch":
            yield f"undo: {to_run('branch', 'create', report['repository'], ref['name'], ref['snapshot'])}"
        else:
            yield "its name cannot be used again"


# -- reset -----------------------------------------------------------------------------------------------------


def reset(options: argparse.Namespace) -> Report:
    """A branch somewhere else."""
    repo = open_repo(options)
    branches = repo.list_branches()
    if options.name not in branches:
        raise missing_ref("branch", options.name, branches, options.repo)
    id = resolve(repo, options.version, options.repo)
    tip = repo.lookup_branch(options.name)
    expected = tip if options.expected is None else resolve(repo, options.expected, options.repo)
    try:
        repo.reset_branch(options.name, id, from_snapshot_id=expected)
    except RefExists as error:
        there = getattr(error, "actual", None)
        text = f"branch `{options.name}` is at {there}, not at {expected}; it was not moved"
        raise RefExists(text, ref=options.name, expected=expected, actual=there) from error
    return {"repository": options.repo, "branch": options.name, "from": tip, "to": id}


def show_reset(report: Report) -> Iterable[Part]:
    """For people."""
    name, old, new = report["branch"], report["from"], report["to"]
    if old == new:
        yield f"branch {name} is at {new} already"
        return
    yield f"moved branch {name} from {old} to {new}"
    yield f"undo: {to_run('branch', 'reset', report['repository'], name, old, '--from', new)}"
