"""What the parsers of all commands share: options anywhere on the line, repositories, moments, ``--json``."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from icechunk_virtual.cli.alias_file import ALIAS, AliasFile, alias_path
from icechunk_virtual.opening import moment

_AGE = re.compile(r"(\d+)(s|min|h|d|w)")
_UNITS = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}


REPO_HELP = "path, URL or alias of the repository"


class Parser(argparse.ArgumentParser):
    """Options may stand anywhere, also between arguments, and are never guessed from their beginnings."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)
        self._inside = False

    def parse_known_args(  # type: ignore[override]  # the base class has overloads for its namespace
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As the base class, which would not take ``REPO -n 3 VERSION``; after ``--``, only as the base class."""
        if self._inside or self._subparsers is not None or "--" in (args or ()):
            return super().parse_known_args(args, namespace)
        self._inside = True  # the method below calls this one
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._inside = False


def add_reporter(commands: Any, name: str, *, help: str, description: str | None = None, **more: Any) -> Parser:  # noqa: A002  # argparse's word
    """Add a command that can report as JSON; `help` without final stop."""
    text = description or f"{help[0].upper()}{help[1:]}."
    parser: Parser = commands.add_parser(name, help=help, description=text, **more)
    parser.add_argument("--json", action="store_true", help="print the result, or the error, as JSON")
    return parser


def add_command(commands: Any, name: str, **more: Any) -> Parser:
    """Add a command that works on a repository; as `add_reporter`."""
    parser = add_reporter(commands, name, **more)
    parser.add_argument("repo", metavar="REPO", type=repository, help=REPO_HELP)
    return parser


def add_group(commands: Any, name: str, *, help: str) -> Any:  # noqa: A002  # argparse's word
    """Add a command that is a family of commands."""
    parser = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)


def repository(text: str) -> str:
    """Path or URL of a repository: what an alias stands for, everything else as it is; an argparse type."""
    if not text:
        raise argparse.ArgumentTypeError("a path is empty; write `.` for the current folder")
    if not ALIAS.fullmatch(text):
        return text
    is_path = Path(text).exists()
    try:
        location = AliasFile(alias_path(os.environ)).location(text)
    except ValueError as error:
        if is_path:
            return text
        raise argparse.ArgumentTypeError(str(error)) from None
    if location is not None and is_path:
        raise argparse.ArgumentTypeError(f"{text} is an alias, of {location}, and a path: for the path write ./{text}")
    return text if location is None else location


def when(text: str) -> datetime:
    """A moment in UTC: ISO 8601, in UTC if it names no time zone, or an age such as ``30d``; an argparse type."""
    try:
        age = _AGE.fullmatch(text.strip())
        if age is None:
            return moment(text).astimezone(UTC)
        return datetime.now(UTC) - timedelta(**{_UNITS[age[2]]: int(age[1])})
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a moment such as 2024-05-01T12:00 (UTC) nor an age such as 30d, 12h or 15min"
        ) from None


def add_older_than(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the option that says what is old, which nobody should leave to a default."""
    parser.add_argument(
        "--older-than", required=True, type=when, metavar="WHEN", help=f"{what}: a moment, or an age such as 30d"
    )
