"""Opening repositories at a prompt, and finding the version that ``VERSION``, ``--branch``, ``--as-of`` ... mean."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from icechunk_virtual._sync import run
from icechunk_virtual.cli.messages import UsageError
from icechunk_virtual.cli.output import Report, to_run
from icechunk_virtual.cli.parsing import when
from icechunk_virtual.errors import RefNotFound, RepositoryNotFound, SnapshotNotFound
from icechunk_virtual.opening import open_repository
from icechunk_virtual.repo.info import SnapshotInfo
from icechunk_virtual.repository import Repository

MAIN = "main"
VERSION_HELP = "branch, tag or snapshot id; NAME~2 is two versions before NAME"
_BACK = re.compile(r"(.+)~(\d{1,9})")
_SHOWN = 20


def open_repo(options: argparse.Namespace) -> Repository:
    """The repository that ``REPO`` names."""
    try:
        return open_repository(options.repo)
    except RepositoryNotFound:
        advice = to_run("create", options.repo)
        raise RepositoryNotFound(f"there is no repository at {options.repo}. To make one: {advice}") from None


# -- refs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refs:
    """Branches and tags: names to snapshot ids, sorted by name."""

    branches: dict[str, str]
    tags: dict[str, str]

    @staticmethod
    def of(repo: Repository) -> Refs:
        """Those of a repository."""

        async def read() -> Refs:
            names = await asyncio.gather(repo.list_branches_async(), repo.list_tags_async())
            lookups = (repo.lookup_branch_async, repo.lookup_tag_async)
            branches, tags = await asyncio.gather(*map(_look_up, names, lookups))
            return Refs(branches, tags)

        return run(read())

    def at(self, id: str) -> Report:
        """Names of the branches and tags that are at a snapshot."""
        found = {"branches": self.branches, "tags": self.tags}
        return {kind: [name for name, tip in refs.items() if tip == id] for kind, refs in found.items()}


async def _look_up(names: Iterable[str], lookup: Callable[[str], Awaitable[str]]) -> dict[str, str]:
    async def one(name: str) -> tuple[str, str] | None:
        try:
            return name, await lookup(name)
        except RefNotFound:
            return None  # deleted meanwhile

    return dict(filter(None, await asyncio.gather(*map(one, sorted(names)))))


# -- versions --------------------------------------------------------------------------------------------------


def add_version(parser: argparse.ArgumentParser) -> None:
    """Add the ways to name one version."""
    parser.add_argument("version", nargs="?", metavar="VERSION", help=f"{VERSION_HELP} (default: {MAIN})")
    parser.add_argument("--branch", metavar="NAME", help="the tip of this branch")
    parser.add_argument("--tag", metavar="NAME", help="this tag")
    parser.add_argument("--snapshot", metavar="ID", help="this snapshot")
    parser.add_argument(
        "--as-of",
        type=when,
        metavar="WHEN",
        help=f"the branch's newest version at this moment (UTC), or so long ago (30d, 12h); the branch is {MAIN} "
        "unless VERSION or --branch says otherwise",
    )


def names_version(options: argparse.Namespace) -> bool:
    """Whether a version was asked for."""
    return any(getattr(options, name) is not None for name in ("version", "branch", "tag", "snapshot", "as_of"))


def snapshot_of(repo: Repository, options: argparse.Namespace) -> str:
    """Id of the snapshot that the options of `add_version` mean."""
    given = {name: getattr(options, name) for name in ("version", "branch", "tag", "snapshot")}
    given = {name: text for name, text in given.items() if text is not None}
    if len(given) > 1:
        raise UsageError("name the version once: by VERSION, --branch, --tag or --snapshot")
    if options.as_of is not None:
        if given.keys() & {"tag", "snapshot"}:
            raise UsageError("--as-of looks into the history of a branch: leave out --tag and --snapshot")
        branch = next(iter(given.values()), MAIN)
        _tip(repo, "branch", branch, options.repo)
        return repo.readonly_session(branch, as_of=options.as_of).snapshot_id
    for kind in ("branch", "tag"):
        if kind in given:
            return _tip(repo, kind, given[kind], options.repo)
    if "snapshot" in given:
        return repo.lookup_snapshot(given["snapshot"]).id
    return resolve(repo, given.get("version", MAIN), options.repo)


def resolve(repo: Repository, text: str, where: str) -> str:
    """Id of the snapshot that a ``VERSION`` means."""
    branches, tags = repo.list_branches(), repo.list_tags()
    meanings = {
        "a branch": repo.lookup_branch(text) if text in branches else None,
        "a tag": repo.lookup_tag(text) if text in tags else None,
        "a snapshot": _id_of(repo, text),
    }
    found = {what: id for what, id in meanings.items() if id is not None}
    if len(set(found.values())) > 1:
        clash = " and ".join(f"{what} ({id})" for what, id in found.items())
        raise UsageError(f"`{text}` is {clash}: give the snapshot id instead")
    if found:
        return next(iter(found.values()))
    back = _BACK.fullmatch(text)
    if back is not None:
        return _before(repo, resolve(repo, back[1], where), int(back[2]), text)
    raise RefNotFound(
        f"there is no branch, tag or snapshot `{text}` in {where}. Branches: {_names(branches)}. Tags: {_names(tags)}.",
        ref=text,
    )


def _id_of(repo: Repository, text: str) -> str | None:
    try:
        return repo.lookup_snapshot(text).id
    except SnapshotNotFound:
        return None


def _tip(repo: Repository, kind: str, name: str, where: str) -> str:
    """Id of the snapshot of a branch or tag."""
    names = repo.list_branches() if kind == "branch" else repo.list_tags()
    if name not in names:
        raise missing_ref(kind, name, names, where)
    return repo.lookup_branch(name) if kind == "branch" else repo.lookup_tag(name)


def _before(repo: Repository, id: str, steps: int, text: str) -> str:
    path = [info.id for info in itertools.islice(repo.ancestry(snapshot_id=id), steps + 1)]
    if len(path) <= steps:
        raise SnapshotNotFound(f"`{text}` is before the first version: there are only {len(path) - 1} before {id}")
    return path[steps]


def missing_ref(kind: str, name: str, names: Iterable[str], where: str) -> RefNotFound:
    """The error for a branch or tag that is not among those that exist."""
    plural = "branches" if kind == "branch" else "tags"
    return RefNotFound(f"there is no {kind} `{name}` in {where}; {plural}: {_names(names)}", ref=name)


def _names(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return (", ".join(ordered[:_SHOWN]) or "none") + more


# -- descriptions ----------------------------------------------------------------------------------------------


def iso(moment: datetime) -> str:
    """A UTC datetime as ISO 8601 text with microseconds."""
    return f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}"


def describe(info: SnapshotInfo) -> Report:
    """A snapshot as JSON values."""
    return {
        "id": info.id,
        "parent_id": info.parent_id,
        "written_at": iso(info.written_at),
        "message": info.message,
        "metadata": info.metadata,
    }
