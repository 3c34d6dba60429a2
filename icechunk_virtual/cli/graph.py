"""The lines that join versions in a log: one lane per line of descent. Pure; knows no repository.

A version has one parent at most, so lanes join (where branches diverged) but never split.
"""

from __future__ import annotations


class Graph:
    """Draws versions in the order given, which must be children before parents."""

    def __init__(self) -> None:
        self._lanes: list[str | None] = []  # the version that each lane leads to
        self._drawn: set[str] = set()

    def add(self, id: str, parent: str | None) -> tuple[list[str], str]:
        """Draw a version.

        Returns
        -------
        list of str, str
            Lines that join lanes, to be printed before; and what stands before the version's own line.
        """
        lanes = self._lanes
        mine = [i for i, awaited in enumerate(lanes) if awaited == id]
        joins = []
        for left, right in zip(mine[-2::-1], mine[:0:-1], strict=True):
            joins.append(self._join(left, right))
            del lanes[right]
        if not mine:
            lanes.append(id)
        at = mine[0] if mine else len(lanes) - 1
        line = " ".join("*" if i == at else "|" if lane else " " for i, lane in enumerate(lanes))
        self._drawn.add(id)
        lanes[at] = None if parent in self._drawn else parent
        while lanes and lanes[-1] is None:
            lanes.pop()
        return joins, line

    def _join(self, left: int, right: int) -> str:
        """The lane `right` goes into the lane `left`; those further right move up."""
        line = [" "] * (2 * len(self._lanes))
        for i, lane in enumerate(self._lanes):
            if lane is not None and i != right:
                line[2 * i - (i > right)] = "|" if i < right else "/"
        for i in range(2 * left + 1, 2 * right - 1, 2):
            line[i] = "_"
        line[2 * right - 1] = "/"
        return "".join(line).rstrip()
