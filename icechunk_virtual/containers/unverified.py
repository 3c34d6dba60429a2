"""A grant whose giver does not want checksums compared: with credentials, or alone. A value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Unverified:
    """What `unverified` returns: credentials, and that checksums of virtual chunks below the prefix do not count.

    Attributes
    ----------
    credentials : Credentials or None
        As they would be granted otherwise.
    """

    credentials: Any = None


def verified_credentials(granted: Any) -> tuple[Any, bool]:
    """What was granted as credentials, and whether checksums count."""
    return (granted.credentials, False) if isinstance(granted, Unverified) else (granted, True)
