"""From what users name (files, patterns, folders, URLs) to the URLs of the files that are scanned."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from icechunk_virtual.containers.local_source import path_of
from icechunk_virtual.containers.opening import CHAINED_URL, URL
from icechunk_virtual.containers.url import file_url
from icechunk_virtual.errors import ScanError


def expand(
    patterns: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    accept: Callable[[str], bool] | None = None,
) -> list[str]:
    """The URLs of the files that a user names.

    Parameters
    ----------
    patterns
        Files, globs (``**`` for any depth), directories (all files below, hidden ones left out) and URLs. Remote
        URLs are taken as they are.
    accept
        Keep a file found *inside a directory* only if this says so of its name.

    Returns
    -------
    list of str
        In the order of the patterns, within a pattern in natural order (2 before 10), each file once.

    Raises
    ------
    ScanError
        A pattern that finds nothing.
    """
    if isinstance(patterns, (str, os.PathLike)):
        patterns = [patterns]
    found: dict[str, None] = {}
    for pattern in patterns:
        text = os.fspath(pattern)
        is_url = isinstance(pattern, str) and (URL.match(text) or CHAINED_URL.match(text))
        if is_url and text[:5].lower() != "file:":
            found[text] = None
            continue
        paths = _expand_local(path_of(text) if is_url else text, accept)
        if not paths:
            raise ScanError(_nothing_at(text), source=text)
        found.update((file_url(path), None) for path in sorted(paths, key=natural_key))
    return list(found)


def natural_key(text: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Sort key that puts ``f2`` before ``f10``."""
    parts = re.split(r"([0-9]+)", text)
    return tuple((1, int(p), "") if p.isascii() and p.isdigit() else (0, 0, p) for p in parts), text


def _nothing_at(text: str) -> str:
    if Path(text).is_dir():
        return f"there is no file to scan in the folder `{text}`. Name another one."
    return f"no file matches `{text}`. Check the name, and that globs are quoted."


def _expand_local(path: str, accept: Callable[[str], bool] | None) -> list[str]:
    names = [path] if os.path.lexists(path) else glob.glob(path, recursive=True)  # noqa: PTH207 - absolute patterns
    files: list[str] = []
    for name in names:
        files += _files_below(name, accept) if Path(name).is_dir() else [name]
    return files


def _files_below(directory: str, accept: Callable[[str], bool] | None) -> list[str]:
    files = []
    for folder, subfolders, names in os.walk(directory):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        wanted = (name for name in names if not name.startswith(".") and (accept is None or accept(name)))
        files += [str(path) for path in (Path(folder, name) for name in wanted) if path.is_file()]
    return files
