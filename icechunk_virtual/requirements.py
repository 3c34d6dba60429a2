"""What is asked of optional packages. Reads version numbers; imports none of the packages."""

from __future__ import annotations

import re


def release(version: str) -> tuple[int, ...]:
    """The numbers that a version starts with: ``2025.6.1`` and ``2025.6.1.dev3+g0a1`` give ``(2025, 6, 1)``."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def require(package: str, version: str, at_least: str, purpose: str) -> None:
    """Check the version of an installed package.

    Raises
    ------
    ValueError
        It is too old.
    """
    if release(version) < release(at_least):
        raise ValueError(f"{purpose} requires {package}>={at_least} but you have {version}. Please upgrade.")
