"""``alias``: short names for repositories, shared with the original's program."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from typing import Any

from icechunk_virtual.cli.alias_file import ALIAS, AliasFile, alias_path
from icechunk_virtual.cli.output import Part, Report, Table, command
from icechunk_virtual.cli.parsing import add_group, add_reporter
from icechunk_virtual.opening import local_folder, storage_of


def add_parsers(commands: Any) -> None:
    """Add the commands to the program's parser."""
    group = add_group(commands, "alias", help="list, add and remove short names for repositories")
    parser = add_reporter(group, "list", help="list the aliases and what they stand for")
    parser.set_defaults(run=command(list_aliases, show_aliases))
    parser = add_reporter(group, "add", help="give a repository, which need not exist yet, a short name")
    parser.add_argument("name", metavar="NAME", type=_name, help="letters, digits, `_`, `.` and `-`")
    parser.add_argument("repo", metavar="REPO", help="path or URL of the repository")
    parser.add_argument("--force", action="store_true", help="also if the name stands for another one")
    parser.set_defaults(run=command(add, show_added))
    parser = add_reporter(group, "remove", help="forget aliases; the repositories stay")
    parser.add_argument("names", nargs="+", metavar="NAME", help="an alias")
    parser.set_defaults(run=command(remove, show_removed))


def _name(text: str) -> str:
    if not ALIAS.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} looks like a path or URL, or has other characters than allowed")
    return text


def _file() -> AliasFile:
    return AliasFile(alias_path(os.environ))


def list_aliases(_options: argparse.Namespace) -> Report:
    """All of them."""
    file = _file()
    return {"file": str(file.path), "aliases": {name: _shown(file, name) for name in file.names()}}


def _shown(file: AliasFile, name: str) -> str | None:
    try:
        return file.location(name)
    except ValueError:
        return None


def show_aliases(report: Report) -> Iterable[Part]:
    """For people."""
    rows = [(name, location or "(not understood)") for name, location in report["aliases"].items()]
    yield Table(("alias", "repository"), rows) if rows else f"no aliases in {report['file']}"


def add(options: argparse.Namespace) -> Report:
    """One more."""
    storage_of(options.repo)  # raises for what is no place for a repository
    folder = local_folder(options.repo)
    location = options.repo if folder is None else str(folder.absolute())
    file = _file()
    there = file.location(options.name) if options.name in file.names() and not options.force else None
    if there not in (None, location):
        raise ValueError(f"{options.name} stands for {there} already; --force makes it stand for {location}")
    file.set(options.name, location)
    file.save()
    return {"file": str(file.path), "name": options.name, "repository": location}


def show_added(report: Report) -> Iterable[Part]:
    """For people."""
    yield f"{report['name']} stands for {report['repository']}"


def remove(options: argparse.Namespace) -> Report:
    """Some fewer. None is removed unless all of them are there."""
    file, names = _file(), list(dict.fromkeys(options.names))
    for name in names:
        if name not in file.names():
            raise ValueError(f"there is no alias {name}, only: {', '.join(file.names()) or 'none'}")
    gone = {name: _shown(file, name) for name in names}
    for name in names:
        file.remove(name)
    file.save()
    return {"file": str(file.path), "removed": gone}


def show_removed(report: Report) -> Iterable[Part]:
    """For people."""
    for name, location in report["removed"].items():
        yield f"{name} does not stand for {location or 'anything'} any more"
