"""``icechunk-virtual``: one parser, a module per command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from icechunk_virtual.cli import scan
from icechunk_virtual.errors import ConflictError, IcechunkVirtualError

DONE, FAILED, USAGE = 0, 1, 2
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
        0 done, 1 failed (the cause and the fix are on stderr), 2 usage.
    """
    parser = build_parser()
    try:
        options = parser.parse_args(arguments)
    except SystemExit as stop:  # argparse has printed what it has to say
        return stop.code if isinstance(stop.code, int) else USAGE
    if options.run is None:
        parser.print_help(sys.stderr)
        return USAGE
    try:
        options.run(options)
    except ConflictError as error:
        return _failed(f"{error}. Somebody else committed meanwhile; run the same command again.")
    except (IcechunkVirtualError, ValueError, OSError) as error:
        return _failed(str(error))
    except KeyboardInterrupt:
        return _failed("interrupted; nothing was committed")
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return DONE


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="icechunk-virtual",
        description="Make archives of HDF5, NetCDF and other files one versioned Zarr repository, without copying them.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version(_DISTRIBUTION)}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    scan.add_parser(commands)
    return parser


def _failed(text: str) -> int:
    print(f"icechunk-virtual: {text}", file=sys.stderr)
    return FAILED
