"""Objects with locks, waiters or work in flight begin anew in a forked child, where none of that came along."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class ForkAware(Protocol):
    """Something to be told that it now lives in a forked child."""

    def after_fork(self) -> None:
        """Forget locks, waiters and work in flight."""
        ...


_alive: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def reset_after_fork(subject: ForkAware) -> None:
    """Call ``subject.after_fork()`` in every child forked during its life."""
    _alive.add(subject)


def _reset_all() -> None:
    for subject in list(_alive):
        subject.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all)
