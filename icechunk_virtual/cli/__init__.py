"""The command line: arguments in, text and exit codes out. The only reader of the process's surroundings."""

from icechunk_virtual.cli.main import main

__all__ = ["main"]
