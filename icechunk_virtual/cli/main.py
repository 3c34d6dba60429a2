"""``icechunk-virtual``: one parser, a module per command, and the one place where errors become lines."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from icechunk_virtual.cli import (
    aliases,
    configuration,
    history,
    inspecting,
    maintenance,
    nodes,
    refs,
    repositories,
    scan,
)
from icechunk_virtual.cli.messages import UsageError, one_line
from icechunk_virtual.cli.output import clean
from icechunk_virtual.cli.parsing import Parser
from icechunk_virtual.errors import IcechunkVirtualError

DONE, FAILED, USAGE = 0, 1, 2
TRACEBACK = "ICECHUNK_VIRTUAL_TRACEBACK"
"""Environment variable: if set, errors are not caught."""
_DISTRIBUTION = "icechunk-virtual"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments
        Without the program's name; default: those of the process.

    Returns
    -------
    int
        0 done, 1 failed (the cause and what to do are one line on stderr), 2 usage.
    """
    parser = build_parser()
    try:
        options = parser.parse_args(arguments)
    except SystemExit as stop:  # argparse has printed what it has to say
        return stop.code if isinstance(stop.code, int) else USAGE
    if options.run is None:
        parser.print_help(sys.stderr)
        return USAGE
    if os.environ.get(TRACEBACK):
        options.run(options)
        return DONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # for programmers; what users should know is in the report
        return _guarded(options)


def _guarded(options: argparse.Namespace) -> int:
    try:
        options.run(options)
        sys.stdout.flush()
    except UsageError as error:
        return _say(str(error), USAGE)
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (IcechunkVirtualError, ValueError, OSError) as error:
        return _say(one_line(error), FAILED)
    except KeyboardInterrupt:
        return _say("interrupted. Without a report of a snapshot, nothing was committed.", FAILED)
    except Exception as error:  # noqa: BLE001  # the last resort: a line instead of a traceback
        text = f"unexpected {type(error).__name__}: {one_line(error)}. This is a bug. {TRACEBACK}=1 shows where."
        return _say(text, FAILED)
    return DONE


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="icechunk-virtual",
        description="Make archives of HDF5, NetCDF and other files one versioned Zarr repository without copying them.",
        epilog=f"Exit codes: 0 done, 1 failed, 2 wrong usage. {TRACEBACK}=1 in the environment shows errors in full.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    scan.add_parser(commands)
    repositories.add_parsers(commands)
    nodes.add_parser(commands)
    history.add_parsers(commands)
    refs.add_parsers(commands)
    inspecting.add_parser(commands)
    configuration.add_parsers(commands)
    maintenance.add_parsers(commands)
    aliases.add_parsers(commands)
    return parser


def _version() -> str:
    try:
        return version(_DISTRIBUTION)
    except PackageNotFoundError:
        return "(not installed)"


def _say(text: str, code: int) -> int:
    print(f"icechunk-virtual: {clean(text)}", file=sys.stderr)
    return code
