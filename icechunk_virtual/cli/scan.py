"""``icechunk-virtual scan``: files in, a commit with references to them out."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from icechunk_virtual.cli.container_options import (
    add_access_options,
    check_access,
    code_of_credentials,
    containers_as_said,
    contradicted,
    credentials_as_said,
    has_containers,
)
from icechunk_virtual.cli.messages import UsageError
from icechunk_virtual.cli.output import command, to_run
from icechunk_virtual.cli.parsing import REPO_HELP, repository
from icechunk_virtual.cli.progress import progress_bar
from icechunk_virtual.cli.report import as_text, describe, how_to_open
from icechunk_virtual.cli.versions import MAIN
from icechunk_virtual.containers.addresses import detours
from icechunk_virtual.containers.authorize import Authorization
from icechunk_virtual.containers.url import check_location
from icechunk_virtual.errors import RefNotFound, RepositoryNotFound
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.opening import storage_of
from icechunk_virtual.repo import tree
from icechunk_virtual.repo.config import RepositoryConfig
from icechunk_virtual.repo.keys import parse_path
from icechunk_virtual.repository import Repository
from icechunk_virtual.scanners.dataset import count
from icechunk_virtual.scanners.registry import scanner_named
from icechunk_virtual.scanners.spec import ScanOptions
from icechunk_virtual.session import Session
from icechunk_virtual.sources import container_prefixes
from icechunk_virtual.storage import Storage, in_memory_storage
from icechunk_virtual.virtual import VirtualDataset, find_files, scan

_EPILOG = """examples:
  icechunk-virtual scan data/1990.nc --repo archive.icechunk
  icechunk-virtual scan 'data/199?.nc' --repo archive.icechunk --concat time
  icechunk-virtual scan data/2000.nc --repo archive.icechunk --append-dim time -m 'year 2000'
  icechunk-virtual scan s3://bucket/a.nc --repo archive.icechunk --region eu-central-1 --anonymous
"""


def add_parser(commands: Any) -> None:
    """Add the command to the program's parser."""
    parser = commands.add_parser(
        "scan",
        help="make files part of a repository by reference",
        description="Read the structure of files, make references to their chunks, and commit them to a repository, "
        "which is created if there is none. The files stay where they are and are not changed: keep them there.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="file, folder (searched to any depth), quoted pattern or URL"
    )
    parser.add_argument("--repo", required=True, type=repository, metavar="REPO", help=REPO_HELP)
    parser.add_argument("--group", metavar="PATH", help="group to write into (default: the root)")
    parser.add_argument("--branch", default=MAIN, metavar="NAME", help=f"branch to commit to (default: {MAIN})")
    parser.add_argument("-m", "--message", metavar="TEXT", help="commit message")
    parser.add_argument("--concat", metavar="DIM", help="join several files along this dimension, which they have")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--append-dim", metavar="DIM", help="append to the repository's arrays along this dimension")
    how.add_argument(
        "--mode",
        choices=("w-", "a", "w", "r+"),
        help="if the group is not empty: w- fails (default), a adds variables and replaces those of the same name, "
        "w replaces everything, r+ renews what files that changed have in the arrays that exist",
    )
    add_access_options(
        parser.add_argument_group("how remote files are reached (default: credentials from the environment)")
    )
    parser.add_argument("--scanner", type=_scanner, metavar="NAME", help="file format (default: found by the content)")
    parser.add_argument(
        "--drop-variable",
        action="append",
        default=[],
        metavar="NAME",
        help="leave out this variable or group (in any group, or a path with a leading /); may be repeated",
    )
    parser.add_argument(
        "--skip-unsupported", action="store_true", help="leave out, with a note, what cannot be represented"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything and report; write nothing")
    parser.add_argument("--json", action="store_true", help="print the report, or the error, as JSON")
    parser.set_defaults(run=command(work, lambda report: as_text(report).split("\n")))


def _scanner(name: str) -> str:
    """The name of a scanner that there is; an argparse type."""
    try:
        scanner_named(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return name


def work(options: argparse.Namespace) -> dict[str, Any]:
    """Scan, write, commit; the report."""
    target = Target.of(options)
    urls, _ = find_files(options.sources, options.scanner)
    if len(urls) > 1 and options.concat is None:
        raise UsageError(
            f"{len(urls)} files were named, from {urls[0]} to {urls[-1]}. Say along which dimension they are joined, "
            "for example --concat time, or scan them one by one into groups of their own (--group)."
        )
    check_access(options, urls)
    target.new_containers(urls)  # raises before the long work what would be raised after it
    roots = remote_roots(urls)
    settings = ScanOptions(drop_variables=frozenset(options.drop_variable), skip_unsupported=options.skip_unsupported)
    with progress_bar("scanning", quiet=options.json) as progress:
        dataset = scan(
            options.sources,
            concat=options.concat,
            scanner=options.scanner,
            options=settings,
            progress=progress,
            containers=containers_as_said(options, roots),
            credentials=None if options.storage_option else credentials_as_said(options, roots),
            storage_options=dict(options.storage_option) or None,
        )
    return describe(dataset) | target.write(dataset)


@dataclass(frozen=True, slots=True)
class Target:
    """Where the dataset goes: the repository that the options name, if it exists, and how it is written."""

    options: argparse.Namespace
    storage: Storage
    repo: Repository | None

    @classmethod
    def of(cls, options: argparse.Namespace) -> Target:
        """Look before the long work whether the repository can be written to."""
        storage = storage_of(options.repo)
        if not Repository.exists(storage):
            if options.append_dim is not None or options.mode == "r+":
                option = "--mode r+" if options.append_dim is None else "--append-dim"
                raise RepositoryNotFound(
                    f"there is no repository at {options.repo} to append to; leave out {option} for the first scan"
                )
            if options.branch != MAIN:
                raise RefNotFound(
                    f"a new repository has only the branch {MAIN}; leave out --branch", ref=options.branch
                )
            path = Path(options.repo)
            if "://" not in options.repo and path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise ValueError(f"{options.repo} is not a repository, and something is there; name another place")
            return cls(options, storage, None)
        repo = Repository.open(storage)
        branches = repo.list_branches()
        if options.branch not in branches:
            raise RefNotFound(
                f"there is no branch `{options.branch}` in {options.repo}, only: {', '.join(sorted(branches))}. To "
                f"make it: {to_run('branch', 'create', options.repo, options.branch)}",
                ref=options.branch,
            )
        return cls(options, storage, repo)

    def write(self, dataset: VirtualDataset) -> dict[str, Any]:
        """Write and commit; what was done. Nothing is created or changed unless everything fits."""
        added = self.new_containers(dataset.sources)
        if self.repo is None:
            self.into(dataset, rehearsal(added))
        if self.options.dry_run and self.repo is None:
            return {"repository": None}
        repo = Repository.create(self.storage, added) if self.repo is None else self.repo.reopen(added)
        session = repo.writable_session(self.options.branch)
        self.into(dataset, session)
        if self.options.dry_run:
            return {"repository": None}
        if self.repo is not None and added.virtual_chunk_containers:
            repo.save_config()
        message = self.options.message or f"scan of {count(len(dataset.sources), 'file')}"
        id = session.commit(message, {"sources": len(dataset.sources), "format": dataset.format})
        options, authorize = self.options, self.to_authorize(repo.config, dataset)
        granted = {prefix: code_of_credentials(options, prefix) for prefix in authorize}
        nodes = tree.walk(session._workspace, parse_path(options.group or ""))
        return {
            "warnings": [*dataset.warnings, *self.contradictions(repo.config, dataset)],
            "repository": options.repo,
            "created": self.repo is None,
            "branch": options.branch,
            "group": options.group or "/",
            "snapshot": id,
            "authorize": authorize,
            "open": how_to_open(options.repo, options.group, options.branch, granted, nodes),
        }

    def new_containers(self, urls: Sequence[str]) -> RepositoryConfig:
        """Containers for those of the URLs that no container of the repository is responsible for."""
        known = (None if self.repo is None else self.repo.config.virtual_chunk_containers) or {}
        fits = Authorization(known).check_write(Locations.of(urls))
        added = RepositoryConfig()
        prefixes = container_prefixes(url for url, fit in zip(urls, fits.tolist(), strict=True) if not fit)
        for container in containers_as_said(self.options, prefixes):
            added.set_virtual_chunk_container(container)
        return added

    def contradictions(self, config: RepositoryConfig, dataset: VirtualDataset) -> list[str]:
        """Notes about containers that were there before and say otherwise how files are reached."""
        authorization = Authorization(config.virtual_chunk_containers or {})
        used = {c.url_prefix: c for c in map(authorization.container_for, dataset.sources)}
        return [
            f"the repository's container {prefix} was there before and says otherwise than {', '.join(names)}; to "
            f"change it: {to_run('config', 'add-container', self.options.repo, prefix)} with all its options"
            for prefix, container in used.items()
            if (names := contradicted(self.options, container))
        ]

    def into(self, dataset: VirtualDataset, session: Session) -> None:
        """Write into a session as the options say."""
        options = self.options
        region: Literal["auto"] | None = "auto" if options.mode == "r+" else None
        dataset.to_icechunk(
            session, group=options.group, mode=options.mode, append_dim=options.append_dim, region=region
        )

    def to_authorize(self, config: RepositoryConfig, dataset: VirtualDataset) -> list[str]:
        """Prefixes, and addresses of services, that whoever opens the group has to authorise."""
        known = config.virtual_chunk_containers or {}
        if self.options.append_dim is not None or self.options.mode == "r+":
            needed = list(known)  # what was there before may be in any of them
        else:
            authorization = Authorization(known)
            needed = [authorization.container_for(url).url_prefix for url in dataset.sources]
        elsewhere = [detour.address for prefix in needed for detour in detours(known[prefix])]
        return list(dict.fromkeys([*needed, *(address.root for address in elsewhere if address is not None)]))


def remote_roots(urls: Iterable[str]) -> list[str]:
    """The buckets and servers of the URLs that containers are for."""
    locations = (check_location(url) for url in urls if not url.startswith("file:"))
    return list(dict.fromkeys(location.root for location in locations if has_containers(location.scheme)))


def rehearsal(config: RepositoryConfig) -> Session:
    """A session like the first one of a new repository, which leaves nothing behind."""
    repo: Repository = Repository.create(in_memory_storage(), config)
    return repo.writable_session(MAIN)
