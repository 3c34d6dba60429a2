"""Errors of the library as one line for people at a prompt: options instead of Python arguments."""

from __future__ import annotations

import re

from icechunk_virtual.errors import ConflictError, InconsistentFiles

_SHOWN = 3
_ARGUMENT = re.compile(r"\b(mode|group|append_dim|concat|scanner)=(?:'([^']*)'|\.\.\.)")
_CODE = re.compile(r":\n +icechunk_virtual\.scan\(source, (.*)")
_OPTIONS = (  # what the code of an error about a file says, and the option that says the same here; the first that fits
    ("anonymous=True", "--anonymous"),
    ("netrc=True", "--netrc"),
    ("redirect_hosts=", "in Python: icechunk_virtual.scan(source, credentials=...)"),
    ("credentials=", "in the environment"),
    ("containers=", "--region, --endpoint-url, --account ...: see --help"),
)
_PLACEHOLDERS = {"group": "PATH", "append_dim": "DIM", "concat": "DIM"}


class UsageError(Exception):
    """The command line cannot mean anything; exit code 2."""


def one_line(error: BaseException) -> str:
    """What happened and what to do, on one line."""
    if isinstance(error, ConflictError):
        return "somebody else committed to the branch meanwhile, so nothing was committed. Run the same command again."
    if isinstance(error, InconsistentFiles):
        return _as_options(_misfits(error))
    return _as_options(str(error) or type(error).__name__)


def _misfits(error: InconsistentFiles) -> str:
    """The first lines of the message, and the differences that fit."""
    differences = list(getattr(error, "differences", ()))
    if not differences:
        return error.message
    head = error.message.partition("\n")[0].rstrip(":")
    more = f" (and {len(differences) - _SHOWN} more)" if len(differences) > _SHOWN else ""
    tail = error.message.rpartition("\n")[2] if "\n" in error.message else ""
    advice = "" if tail.startswith(" ") or not tail else f". {tail}"
    return f"{head}: {'; '.join(differences[:_SHOWN])}{more}{advice}"


def _as_options(text: str) -> str:
    """Python arguments as options, line breaks as blanks."""

    def option(match: re.Match[str]) -> str:
        name, value = match[1], match[2]
        return f"--{name.replace('_', '-')} {value or _PLACEHOLDERS.get(name, name.upper())}"

    def instead(match: re.Match[str]) -> str:
        return next(f" ({option})" for sign, option in _OPTIONS if sign in match[1])

    return " ".join(_ARGUMENT.sub(option, _CODE.sub(instead, text)).split())
