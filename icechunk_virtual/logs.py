"""Log levels from ``ICECHUNK_LOG`` or a call, over the standard `logging` module.

The package logs to loggers below ``icechunk_virtual`` and nothing else. What the application set up with `logging`
goes first: as soon as it has a handler for our records, the one installed here is silent.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from typing import Final

__all__ = ["initialize_logs", "set_logs_filter"]

FILTER: Final = "ICECHUNK_LOG"
SILENCE: Final = "ICECHUNK_NO_LOGS"
STDOUT: Final = "ICECHUNK_LOG_TO_STDOUT"
NO_COLOUR: Final = "NO_COLOR"  # see no-color.org

PACKAGE: Final = "icechunk_virtual"
TRACE: Final = 5
OFF: Final = logging.CRITICAL + 1
LEVELS: Final = {
    "off": OFF,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE,
}
_BY_NUMBER: Final = dict(enumerate(LEVELS))
_NAMES: Final = {level: name.upper() for name, level in LEVELS.items()}
_COLOURS: Final = {logging.ERROR: 31, logging.WARNING: 33, logging.INFO: 32, logging.DEBUG: 34, TRACE: 35}
"""On terminals, by level: the codes that the original has."""
_SYNONYMS: Final = {"warning": "warn", "critical": "error", "false": "off", "none": "off"}

# The original's names of its parts, and where that part's work is done here.
_PARTS: Final = {
    "repository": ("repository", "repo.creation", "repo.history", "repo.refs", "repo.preload"),
    "session": ("session", "repo.commit", "repo.rebase", "repo.forks", "repo.chunks"),
    "asset_manager": ("repo.assets",),
    "change_set": ("repo.change_set", "repo.chunk_edits"),
    "conflicts": ("repo.conflicts", "repo.rebase"),
    "config": ("repo.config",),
    "ops": ("repo.gc", "repo.expire", "repo.rewrite", "repo.stats"),
    "ops.gc": ("repo.gc", "repo.expire"),
    "ops.manifests": ("repo.rewrite",),
    "ops.stats": ("repo.stats",),
    "refs": ("repo.refs",),
    "storage": (
        "storage",
        "repo.object_store",
        "repo.obstore_store",
        "repo.local_store",
        "repo.memory_store",
        "repo.cloud",
    ),
    "virtual_chunks": ("containers", "repo.remote_chunks"),
}

_set: dict[str, int] = {}
"""Levels that the filter in force has set, by logger."""


def initialize_logs() -> None:
    """Show the package's log records, as ``ICECHUNK_LOG`` says. Called when the package is imported.

    Records go to stderr, or to stdout if ``ICECHUNK_LOG_TO_STDOUT`` is set; with colours on a terminal, unless
    ``NO_COLOR`` is set. With ``ICECHUNK_NO_LOGS`` in the environment nothing is shown here; handlers of the
    application get the records as always.
    """
    ours = logging.getLogger(PACKAGE)
    if not any(isinstance(handler, _Handler | logging.NullHandler) for handler in ours.handlers):
        ours.addHandler(logging.NullHandler() if os.environ.get(SILENCE) is not None else _Handler())
    set_logs_filter(None)


def set_logs_filter(log_filter_directive: str | None) -> None:
    """Choose what is logged from now on.

    Parameters
    ----------
    log_filter_directive
        A level (``error``, ``warn``, ``info``, ``debug``, ``trace``, ``off``), or a list of ``target=level``
        separated by commas, or both. A target is ``icechunk``, a part of it (``icechunk::session``), or a logger's
        name (``icechunk_virtual.repo``). Targets that are not listed have the level that stands alone, otherwise
        they are off. Empty: nothing is logged. ``None``: as the variable ``ICECHUNK_LOG`` says; without it, warnings
        and errors, or what the application has set up.
    """
    text = os.environ.get(FILTER) if log_filter_directive is None else log_filter_directive
    levels = {} if text is None else _levels(text)
    for name in _set:
        logging.getLogger(name).setLevel(logging.NOTSET)
    _set.clear()
    _set.update(levels)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def _levels(text: str) -> dict[str, int]:
    """Level by logger. Directives that cannot be understood are reported and left out; ``{}`` if none is left."""
    directives = [part.strip() for part in text.split(",") if part.strip()]
    if not directives:
        return {PACKAGE: OFF}
    alone: int | None = None
    by_target: dict[str, int] = {}
    understood = False
    for directive in directives:
        target, has_level, level_text = directive.partition("=")
        level = _level(level_text if has_level else target)
        if level is None and has_level:
            choice = ", ".join(f'"{name}"' for name in LEVELS)
            _complain(f"ignoring `{directive}`: error parsing level filter: expected one of {choice}, or a number 0-5")
            continue
        understood = True
        if level is not None and not has_level:
            alone = level
            continue
        _hint(target)
        by_target.update(dict.fromkeys(_loggers(target), TRACE if level is None else level))
    if not understood:
        return {}
    return {PACKAGE: OFF if alone is None else alone} | by_target


def _level(text: str) -> int | None:
    text = text.strip().lower()
    if text.isdecimal():
        text = _BY_NUMBER.get(int(text), "")
    return LEVELS.get(_SYNONYMS.get(text, text))


def _loggers(target: str) -> Iterator[str]:
    """Names of our loggers that a target means; none for the targets of others."""
    first, *rest = target.strip().replace("::", ".").split(".")
    if first not in {"icechunk", PACKAGE}:
        return
    part = ".".join(rest)
    for name in _PARTS.get(part, (part,)) if first == "icechunk" else (part,):
        yield f"{PACKAGE}.{name}".rstrip(".")


def _hint(target: str) -> None:
    first = target.strip().replace("::", ".").split(".")[0]
    for meant in ("icechunk", PACKAGE):
        if 0 < _distance(first, meant) <= 2:
            _complain(f"WARNING: Did you mean '{meant}' instead of '{first}' in log filter?")


def _distance(one: str, other: str) -> int:
    """Edit distance (Levenshtein 1966): insertions, deletions and substitutions from one word to the other."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def _complain(text: str) -> None:
    sys.stderr.write(text + "\n")


class _Handler(logging.Handler):
    """Prints records that nobody else will."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(_Formatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record, unless the application has a handler for it."""
        if _others_handle(record):
            return
        try:
            stream = sys.stdout if os.environ.get(STDOUT) is not None else sys.stderr
            coloured = stream.isatty() and not os.environ.get(NO_COLOUR)
            record.short = _level_name(record.levelno, record.levelname, coloured=coloured)
            stream.write(self.format(record) + "\n")
            stream.flush()
        except Exception:  # noqa: BLE001 - as logging's own handlers: a record that cannot be shown breaks nothing
            self.handleError(record)


def _level_name(level: int, otherwise: str, *, coloured: bool) -> str:
    """Five characters, flush right; with codes for terminals around them."""
    name = f"{_NAMES.get(level, otherwise):>5}"
    return f"\x1b[{_COLOURS[level]}m{name}\x1b[0m" if coloured and level in _COLOURS else name


def _others_handle(record: logging.LogRecord) -> bool:
    """Whether the application has a handler where the record passes."""
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None:
        if any(not isinstance(handler, _Handler | logging.NullHandler) for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


class _Formatter(logging.Formatter):
    """``2026-01-31T12:00:00.123Z  WARN icechunk_virtual.repo.assets: message``; `short` is set by the handler."""

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(short)s %(name)s: %(message)s")
        self.converter = time.gmtime
