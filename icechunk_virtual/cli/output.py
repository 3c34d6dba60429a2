"""From reports to standard output: JSON for programs; lines and tables for people, safe for any terminal.

A command is a function from options to a report (JSON values), and one from that report to lines and tables.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shlex
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from icechunk_virtual.cli.messages import one_line
from icechunk_virtual.errors import IcechunkVirtualError

PROGRAM = "icechunk-virtual"
Report = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of texts below titles; columns whose number is in `right` are flush right."""

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: frozenset[int] = frozenset()


Part = str | Table


def command(
    work: Callable[[argparse.Namespace], Report], show: Callable[[Report], Iterable[Part]]
) -> Callable[[argparse.Namespace], None]:
    """What runs when a command is given: do the work, print the report as JSON or as `show` has it."""

    def run(options: argparse.Namespace) -> None:
        try:
            report = work(options)
        except (IcechunkVirtualError, ValueError, OSError) as error:
            if options.json:
                differences = list(getattr(error, "differences", ()))
                facts = {"type": type(error).__name__, "message": one_line(error), "differences": differences}
                print(json.dumps({"error": facts}, indent=2))
            raise
        if options.json:
            print(json.dumps(report, indent=2))
        else:
            for part in show(report):
                write(part)

    return run


def write(part: Part) -> None:
    """Print a line or a table: with rich on a terminal where it is installed, otherwise plain and aligned."""
    if isinstance(part, str):
        print(_printable(clean(part)))
    elif sys.stdout.isatty() and importlib.util.find_spec("rich") is not None:
        _write_rich(part)
    else:
        for line in plain_lines(part):
            print(_printable(line))


def plain_lines(table: Table) -> list[str]:
    """A table as aligned lines."""
    cells = [[clean(cell) for cell in row] for row in (table.titles, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i in table.right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def _write_rich(table: Table) -> None:
    # rich is optional
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table as RichTable  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    rich = RichTable(box=None, pad_edge=False, header_style="bold")
    for i, title in enumerate(table.titles):
        rich.add_column(title, justify="right" if i in table.right else "left", overflow="fold")
    for row in table.rows:
        rich.add_row(*(Text(clean(cell)) for cell in row))  # Text: no markup in what others wrote
    Console().print(rich)


def clean(text: str) -> str:
    """Text with control and invisible characters escaped: names and messages are others', the terminal is ours."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or unicodedata.category(char) == "Zs" else char.encode("unicode_escape").decode()
        for char in text
    )


def _printable(text: str) -> str:
    """What the encoding of standard output cannot express is escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def fields(*pairs: tuple[str, str]) -> list[str]:
    """Lines of names and values, aligned; without those that have no value."""
    width = max(len(name) for name, _ in pairs)
    return [f"{name:<{width}}  {value}" for name, value in pairs if value]


def short_time(iso: str) -> str:
    """``2024-05-01T12:00:00.123456Z`` -> ``2024-05-01 12:00:00``, in UTC like everything here."""
    return iso[:19].replace("T", " ")


def first_line(message: str) -> str:
    """The first line of a commit message."""
    head, rest, _ = message.strip().partition("\n")
    return f"{head} ..." if rest else head


def to_run(*arguments: str) -> str:
    """A command of this program as a line to be pasted."""
    return shlex.join((PROGRAM, *arguments))
