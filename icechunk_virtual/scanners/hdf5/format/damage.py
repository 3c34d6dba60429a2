"""What parsers raise. They know no file: the driver adds its name."""

from __future__ import annotations


class Damaged(Exception):
    """The bytes contradict the format.

    Attributes
    ----------
    position : int
        Byte of the file where it shows.
    reason : str
    """

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(position, reason)
        self.position = position
        self.reason = reason

    def __str__(self) -> str:
        return f"at byte {self.position}: {self.reason}"


class NotHandled(Exception):
    """The bytes may be right, but these parsers do not know what they say; the message says what it is."""
