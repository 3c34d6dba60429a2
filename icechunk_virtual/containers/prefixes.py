"""Which of many locations begin with one of a few prefixes: `url.check_location` and a comparison, in columns.

Most locations are written the canonical way already. Those are recognised and compared without a Python step per
location; all others take that step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.containers.url import LONGEST, Location, check_location
from icechunk_virtual.model.strings import Strings

_ROOTS = 16  # so many different "scheme://host/" are looked for; locations below further ones are judged one by one
_BLOCK = 1 << 16  # locations that are judged in one step: bounds the memory

# Bytes of a path that may change its meaning: control characters, escapes, backslashes, begin of query and fragment.
# Of UTF-8, C2 begins the control characters U+0080 to U+009F (and harmless ones), E2 U+2028 and U+2029.
_SPECIAL = np.zeros(256, bool)
_SPECIAL[:0x20] = True
_SPECIAL[[*b"%\\?#\x7f", 0xC2, 0xE2]] = True


def match_prefixes(urls: Strings, prefixes: Sequence[Location]) -> NDArray[np.bool_]:
    """Whether each location is below one of the prefixes.

    Parameters
    ----------
    urls : Strings (k,)
    prefixes
        From `url.check_prefix`.

    Returns
    -------
    bool (k,)

    Raises
    ------
    InvalidLocation
        Of the first location that is no legal one.
    """
    canonical = tuple(prefix.canonical for prefix in prefixes)
    matches = np.zeros(len(urls), bool)
    for start in range(0, len(urls), _BLOCK):
        bounds = urls.bounds[start : start + _BLOCK + 1]
        block = Strings(urls.data[bounds[0] : bounds[-1]], bounds - bounds[0])
        matches[start : start + _BLOCK] = _match_block(block, canonical)
    return matches


def _match_block(urls: Strings, prefixes: tuple[str, ...]) -> NDArray[np.bool_]:
    matches = np.zeros(len(urls), bool)
    undecided = np.ones(len(urls), bool)
    plain: NDArray[np.bool_] | None = None
    for _ in range(_ROOTS):
        row = int(np.argmax(undecided))
        if not undecided[row]:
            return matches
        location = check_location(urls[row])
        matches[row] = location.canonical.startswith(prefixes)
        undecided[row] = False
        if not undecided.any():
            return matches
        # Plain texts below the canonical "scheme://host/" of this one are legal, and canonical as they are.
        plain = _plain_paths(urls) if plain is None else plain
        rows = np.flatnonzero(undecided & plain)
        rows = rows[_start_with(urls, rows, location.root)]
        for prefix in prefixes:
            if prefix.startswith(location.root):
                matches[rows] |= _start_with(urls, rows, prefix)
        undecided[rows] = False
    for row in np.flatnonzero(undecided).tolist():
        matches[row] = check_location(urls[row]).canonical.startswith(prefixes)
    return matches


def _plain_paths(urls: Strings) -> NDArray[np.bool_]:
    """Whether each text has nothing that could make its path mean anything else than what is written.

    Returns
    -------
    bool (k,)
        True: not too long; no special bytes; no segment begins with two dots or ``.;``, or is a dot; no empty segment
        after the first ``//``; the last character is neither ``/`` nor ``.``.
    """
    data, bounds = urls.data, urls.bounds
    plain: NDArray[np.bool_] = (urls.lengths > 0) & (urls.lengths <= LONGEST)
    last = data[bounds[1:][plain] - 1]
    plain[plain] = (last != ord("/")) & (last != ord("."))
    _exclude(plain, bounds, np.flatnonzero(_SPECIAL[data]))
    slashes = np.flatnonzero(data[:-2] == ord("/"))
    dots = slashes[data[slashes + 1] == ord(".")]
    after = data[dots + 2]
    _exclude(plain, bounds, dots[(after == ord("/")) | (after == ord(".")) | (after == ord(";"))])
    doubled = np.flatnonzero((data[:-1] == ord("/")) & (data[1:] == ord("/")))
    rows = np.searchsorted(bounds, doubled, "right") - 1
    scheme_end = np.full(len(urls), -1, np.int64)
    scheme_end[rows[::-1]] = doubled[::-1]  # the first "//" of each text
    third = (doubled == scheme_end[rows] + 1) & (data[np.maximum(doubled - 2, 0)] == ord(":"))  # of file:///
    _exclude(plain, bounds, doubled[(doubled != scheme_end[rows]) & ~third])
    return plain


def _exclude(plain: NDArray[np.bool_], bounds: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
    plain[np.searchsorted(bounds, positions, "right") - 1] = False


def _start_with(urls: Strings, rows: NDArray[np.int64], prefix: str) -> NDArray[np.bool_]:
    """Whether each of the given texts begins with `prefix` and goes on after it, bool (len(rows),)."""
    wanted = np.frombuffer(prefix.encode("utf-8", "surrogateescape"), np.uint8)
    found: NDArray[np.bool_] = urls.lengths[rows] > len(wanted)
    long_enough = np.flatnonzero(found)
    if not len(long_enough):
        return found
    windows = np.lib.stride_tricks.sliding_window_view(urls.data, len(wanted))
    starts = urls.bounds[:-1][rows[long_enough]]
    found[long_enough] = (windows[starts] == wanted).all(axis=1)
    return found
