"""Count what the interpreter does: the number of Python steps is a fact, unlike a time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def count_steps(operation: Callable[[], Any]) -> int:
    """Lines run, functions called (Python's and C's) and generators resumed while `operation` runs.

    A loop over n items takes at least n of them, whether it is a statement, a comprehension or a generator. A loop
    that runs wholly in C (``map(abs, items)``) is not seen.
    """
    steps = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal steps
        steps += 1
        return trace

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal steps
        steps += event in {"call", "c_call"}

    before = sys.gettrace(), sys.getprofile()
    sys.settrace(trace)
    sys.setprofile(profile)
    try:
        operation()
    finally:
        sys.settrace(before[0])
        sys.setprofile(before[1])
    return steps
