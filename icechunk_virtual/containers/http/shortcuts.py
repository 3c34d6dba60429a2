"""Where redirects led last time, as long as the servers on the way allow that to be remembered (RFC 9111).

Signed addresses of buckets, for instance, are made once instead of once per read. Knows no connections.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

LONGEST = 3600.0
"""Seconds that anything is remembered at most; what is said to be permanent, too."""

_MOST = 4096
_PERMANENT = frozenset({301, 308})
_MAX_AGE = re.compile(r"max-age\s*=\s*\"?([0-9]{1,9})", re.IGNORECASE)
_NEVER = re.compile(r"\bno-(store|cache)\b", re.IGNORECASE)


def lifetime(status: int, headers: Mapping[str, str]) -> float:
    """Seconds that a redirect may be remembered.

    Examples
    --------
    >>> lifetime(302, {"Cache-Control": "private, max-age=60", "Age": "20"}), lifetime(302, {}), lifetime(308, {})
    (40.0, 0.0, 3600.0)
    """
    control = headers.get("Cache-Control", "")
    found = _MAX_AGE.search(control)
    if _NEVER.search(control):
        return 0.0
    if found is None:
        return LONGEST if status in _PERMANENT else 0.0
    age = headers.get("Age", "")
    return min(max(float(found[1]) - (float(age) if age.isdecimal() else 0.0), 0.0), LONGEST)


class Shortcuts:
    """Ends of redirects by the URL that they began with.

    Parameters
    ----------
    now
        A clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._ends: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def find(self, url: str) -> str | None:
        """Where the redirects of a URL end; None: that is not known (any more)."""
        end, until = self._ends.get(url, (None, 0.0))
        return end if self._now() < until else None

    def keep(self, url: str, end: str, seconds: float) -> None:
        """Remember it for that long."""
        self.forget(url)
        if seconds > 0:
            self._ends[url] = (end, self._now() + seconds)
        if len(self._ends) > _MOST:
            self._ends.popitem(last=False)

    def forget(self, url: str) -> None:
        """It is not so any more."""
        self._ends.pop(url, None)
