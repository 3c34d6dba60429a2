"""The two things that make a program unpredictable, as one value: the clock and the dice.

Everything that needs the time or a random id takes a `World`; tests hand in their own.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass


def _now_us() -> int:
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class World:
    """A clock and a source of randomness.

    Attributes
    ----------
    now_us
        Microseconds since 1970-01-01 UTC.
    random_bytes
        That many uniformly random bytes.
    """

    now_us: Callable[[], int] = _now_us
    random_bytes: Callable[[int], bytes] = secrets.token_bytes


REAL_WORLD = World()
