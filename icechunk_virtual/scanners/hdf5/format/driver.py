"""Runs steps over a source: what all of them lack is read in one batch, then all go on as far as they can.

The only module of the package that reads. How much is read around what is asked for depends on how many places are
asked for at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from icechunk_virtual.scanners.hdf5.format.damage import Damaged
from icechunk_virtual.scanners.hdf5.format.extents import Batch, Extents
from icechunk_virtual.scanners.hdf5.format.steps import Range, Rows, Step, Together

T = TypeVar("T")

_HEAD = 1 << 20  # bytes of the first read: smaller files are read whole
_AROUND = 2 << 20  # bytes that a batch may read besides what is asked for, shared by its ranges ...
_LEAST, _MOST = 1 << 12, 1 << 18  # ... each of which gets between these, and starts at a multiple of the first
_GAP = 1 << 12  # bytes between two rows that are read along
_FEW_ROWS = 16  # that are read with what is around them, and kept
_SERVED = 16  # times the size of the file that parsers may be given: nothing sound needs as much ...
_SERVED_ANYWAY = 1 << 20  # ... but for small files


class Reads(Protocol):
    """What is needed of a source."""

    size: int

    def read_many(self, ranges: Iterable[tuple[int, int]], /) -> Sequence[bytes]:
        """One batch of requests."""


def run(step: Step[T], source: Reads) -> T:
    """Carry out a step.

    Raises
    ------
    Damaged
        From the step; or it asks for bytes beyond the end of the file, or for the same ones without end.
    NotHandled
        From the step.
    """
    result: T = _Driver(source).run(step)
    return result


@dataclass(slots=True, eq=False)
class _Task:
    """A step under way."""

    step: Step[Any]
    parent: _Task | None = None
    place: int = 0  # among the results that the parent waits for
    answer: Any = None  # that it is resumed with, or its result
    results: list[Any] | None = None
    waiting: int = 0  # for how many others


class _Driver:
    def __init__(self, source: Reads) -> None:
        self.source = source
        self.kept = Extents()
        self.allowance = _SERVED * source.size + _SERVED_ANYWAY
        self.ready: list[_Task] = []
        self.ranges: list[tuple[_Task, Range]] = []
        self.rows: list[tuple[_Task, Rows]] = []

    def run(self, step: Step[Any]) -> Any:
        root = _Task(step)
        self.ready = [root]
        while self.ready:
            while self.ready:
                self._advance(self.ready.pop())
            if self.ranges or self.rows:
                self._read()
        return root.answer

    def _advance(self, task: _Task) -> None:
        """Resume a step until it lacks something, waits for others, or is done."""
        while True:
            try:
                request = task.step.send(task.answer)
            except StopIteration as done:
                self._finish(task, done.value)
                return
            match request:
                case Range(offset, length):
                    self._check(offset, length, 1)
                    task.answer = self.kept.get(offset, length)
                    if task.answer is None:
                        self.ranges.append((task, request))
                        return
                case Rows(offsets, length):
                    self._check(int(offsets.max()), length, len(offsets))
                    task.answer = self.kept.rows(offsets, length)
                    if task.answer is None:
                        self.rows.append((task, request))
                        return
                case Together(steps):
                    if steps:
                        task.results, task.waiting = [None] * len(steps), len(steps)
                        self.ready += [_Task(each, task, place) for place, each in enumerate(steps)]
                        return
                    task.answer = []

    def _finish(self, task: _Task, result: Any) -> None:
        task.answer, parent = result, task.parent
        if parent is not None and parent.results is not None:
            parent.results[task.place] = result
            parent.waiting -= 1
            if not parent.waiting:
                parent.answer, parent.results = parent.results, None
                self.ready.append(parent)

    # -- reading ---------------------------------------------------------------------------------------------------

    def _check(self, offset: int, length: int, times: int) -> None:
        size = self.source.size
        if offset + length > size:
            raise Damaged(offset, f"the file refers to {length} bytes here, and ends at {size}")
        self.allowance -= length * times
        if self.allowance < 0:
            raise Damaged(offset, "the file refers to the same bytes again and again")

    def _read(self) -> None:
        """One batch for all that wait."""
        near = [(each.offset, each.length) for _, each in self.ranges]
        far = []
        for _, rows in self.rows:
            if len(rows.offsets) <= _FEW_ROWS:
                near += [(offset, rows.length) for offset in rows.offsets.tolist()]
            else:
                far.append(rows)
        around = max(_LEAST, min(_MOST, _AROUND // max(1, len(near)))) if self.kept else _HEAD
        begins = [offset // _LEAST * _LEAST for offset, _ in near]
        ends = [
            min(max(offset + length, begin + around), self.source.size)
            for (offset, length), begin in zip(near, begins, strict=True)
        ]
        offsets = np.concatenate([np.array(begins, np.uint64), *(rows.offsets for rows in far)])
        stops = np.concatenate([np.array(ends, np.uint64), *(rows.offsets + np.uint64(rows.length) for rows in far)])
        batch = Batch(offsets, stops, _GAP)
        spans = batch.spans()
        bodies = self.source.read_many(spans)
        if not far:
            for (start, _), body in zip(spans, bodies, strict=True):
                self.kept.put(start, body)
        for task, wanted in self.ranges:
            task.answer = batch.range(bodies, wanted.offset, wanted.length)
        for task, rows in self.rows:
            task.answer = batch.rows(bodies, rows.offsets, rows.length)
        self.ready = [task for task, _ in (*self.ranges, *self.rows)]
        self.ranges, self.rows = [], []
