"""All fields of a file described in columns: parameter, level, step, member, reference time and grid of each.

Equal headers are found in numpy, and eccodes answers once for each distinct one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import eccodes
import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.scanners.grib import keys, masks
from icechunk_virtual.scanners.grib.ahead import Ahead
from icechunk_virtual.scanners.grib.fields import Fields
from icechunk_virtual.scanners.grib.grids import Grid, read_grid
from icechunk_virtual.scanners.grib.keys import Answers, Parameter, Step
from icechunk_virtual.scanners.grib.masks import Rows

Ids = NDArray[np.int64]

_ANSWERS = {kind: Answers(1 << 14) for kind in ("parameter", "level", "step", "member")}
_GRIDS = Answers(16)
"""Grids have coordinates, so few are kept."""


@dataclass(slots=True)
class Table:
    """One row per field.

    Attributes
    ----------
    parameter : int64 (n,)
        Row of `parameters`.
    level_type : list of str
        By `level_kind`, int64 (n,).
    level : float64 (n,)
    start, step : float64 (n,)
        Hours.
    number : int64 (n,)
        Ensemble member; -1: none.
    time : int64 (n,)
        Reference time, seconds since 1970-01-01.
    grid : int64 (n,)
        Row of `grids`.
    header
        The header of a field as a message without data.
    """

    parameter: Ids
    parameters: list[Parameter]
    level_kind: Ids
    level_type: list[str]
    level: NDArray[np.float64]
    start: NDArray[np.float64]
    step: NDArray[np.float64]
    number: Ids
    time: Ids
    grid: Ids
    grids: list[Grid]
    header: Callable[[int], bytes]

    def __len__(self) -> int:
        return len(self.parameter)


def describe(ahead: Ahead, fields: Fields, editions: NDArray[np.uint8]) -> tuple[Table, dict[int, str]]:
    """Describe every field.

    Parameters
    ----------
    editions : uint8 (n,)
        Of the fields' messages.

    Returns
    -------
    table
        One row per field.
    refused : dict
        Row of a field, and why it has no place in the result: what the table says of it has no meaning.
    """
    return _Description(ahead, fields, editions).run()


class _Description:
    def __init__(self, ahead: Ahead, fields: Fields, editions: NDArray[np.uint8]) -> None:
        self.ahead, self.fields, self.editions = ahead, fields, editions
        self.refused: dict[int, str] = {}
        n = len(fields)
        self.time = np.zeros(n, np.int64)
        self.number = np.full(n, -2, np.int64)
        self.ids = {kind: np.zeros(n, np.int64) for kind in (*_ANSWERS, "grid")}
        self.answers: dict[str, dict[bytes, tuple[int, Any]]] = {kind: {} for kind in self.ids}

    def run(self) -> tuple[Table, dict[int, str]]:
        for edition, template, rows in self.buckets():
            if edition == 2:
                self.bucket_2(rows, template)
            else:
                self.bucket_1(rows)
        self.describe_grids()
        # What is no answer belongs to refused rows.
        levels = [a if isinstance(a, tuple) else ("unknown", np.nan) for a in self.found("level")]
        kinds = sorted({kind for kind, _ in levels})
        steps = [a if isinstance(a, Step) else Step(np.nan, np.nan) for a in self.found("step")]
        members = np.array([a if isinstance(a, int) else -1 for a in self.found("member")] or [-1])
        number = np.where(self.number == -2, members[self.ids["member"]], self.number)
        level = self.ids["level"]
        table = Table(
            self.ids["parameter"],
            [a if isinstance(a, Parameter) else Parameter({}) for a in self.found("parameter")],
            np.array([kinds.index(kind) for kind, _ in levels], np.int64)[level],
            kinds,
            np.array([number for _, number in levels], np.float64)[level],
            np.array([step.start for step in steps], np.float64)[self.ids["step"]],
            np.array([step.end for step in steps], np.float64)[self.ids["step"]],
            number,
            self.time,
            *_without_equal_grids(self.ids["grid"], self.found("grid")),
            self.header,
        )
        return table, self.refused

    def found(self, kind: str) -> list[Any]:
        """The answers of a kind, in the order of their ids."""
        return [answer for _, answer in self.answers[kind].values()]

    # -- one kind of header after the other --------------------------------------------------------------------

    def buckets(self) -> Iterator[tuple[int, int, Ids]]:
        """Edition, template and rows of fields whose sections have the same lengths."""
        length, start = self.fields.length, self.fields.start
        template = np.zeros(len(self.fields), np.int64)
        two = np.flatnonzero(self.editions == 2)
        template[two] = self.ahead.gather(start[two, 4] + 7, 2).astype(np.int64) @ np.array([256, 1])
        kinds = np.column_stack([self.editions, template, length[:, [1, 2, 4]]])
        distinct, inverse = np.unique(kinds, axis=0, return_inverse=True)
        for i, kind in enumerate(distinct.tolist()):
            yield kind[0], kind[1], np.flatnonzero(inverse.reshape(-1) == i)

    def bucket_2(self, rows: Ids, template: int) -> None:
        indicator, section, local, product = (self.read(rows, number) for number in (0, 1, 2, 4))
        if section.shape[1] < 21 or product.shape[1] < 9:
            self.refuse(rows, "has sections that are too short")
            return
        date = section[:, masks.DATE_2]
        self.times(rows, *masks.reference_times(date))
        centre = section[:, 5].astype(np.int64) * 256 + section[:, 6]
        aspects = masks.aspects_2(product, template, centre, date)
        about = np.hstack([indicator[:, 6:7], masks.identification(section), local, aspects.parameter])
        known = template in masks.TEMPLATES
        self.ask("parameter", rows, about, lambda message: keys.parameter(message, with_number=not known))
        self.ask("level", rows, np.hstack([section[:, 5:11], aspects.level]), keys.level)
        self.ask("step", rows, aspects.step, keys.step)
        if not known:
            self.ask("member", rows, aspects.member, keys.member)
        self.number[rows] = aspects.number

    def bucket_1(self, rows: Ids) -> None:
        section = self.read(rows, 1)
        self.times(rows, *masks.reference_times_1(section))
        aspects = masks.aspects_1(section)
        self.ask("parameter", rows, aspects.parameter, lambda message: keys.parameter(message, with_number=False))
        self.ask("level", rows, aspects.level, keys.level)
        self.ask("step", rows, aspects.step, keys.step)
        self.ask("member", rows, aspects.member, keys.member)
        self.number[rows] = aspects.number

    def describe_grids(self) -> None:
        """Grids: those of equal sections 3."""
        lengths = np.column_stack([self.editions, self.fields.length[:, 3]])
        distinct, inverse = np.unique(lengths, axis=0, return_inverse=True)
        for i in range(len(distinct)):
            rows = np.flatnonzero(inverse.reshape(-1) == i)
            self.ask("grid", rows, self.read(rows, 3), read_grid)

    # -- questions ---------------------------------------------------------------------------------------------

    def ask(self, kind: str, rows: Ids, question: Rows, find: Callable[[bytes], Any]) -> None:
        """Give rows their ids among the answers of a kind; eccodes answers for one of those that are equal."""
        ids, first = distinct_rows(question)
        answers, kept = self.answers[kind], _ANSWERS.get(kind, _GRIDS)
        numbers = np.empty(len(first), np.int64)
        for i, representative in enumerate(first.tolist()):
            row = int(rows[representative])
            text = bytes([self.editions[row]]) + question[representative].tobytes()
            if text not in answers:
                answers[text] = len(answers), self.answer(kept, text, row, find)
            numbers[i], answer = answers[text]
            if answer is None or isinstance(answer, str):
                self.refuse(rows[ids == i], answer or f"has a {kind} that means nothing")
        self.ids[kind][rows] = numbers[ids]

    def answer(self, kept: Answers, text: bytes, row: int, find: Callable[[bytes], Any]) -> Any:
        try:
            return kept.ask(text, lambda: find(self.header(row)))
        except (eccodes.CodesInternalError, ValueError) as error:
            return f"has a header that eccodes does not understand ({error})"

    def header(self, row: int) -> bytes:
        """The header of a field as a message without data."""
        start, length = self.fields.start[row].tolist(), self.fields.length[row].tolist()
        sections = {number: self.ahead.at(start[number], length[number]) for number in range(6) if length[number]}
        return keys.header_message(int(self.editions[row]), sections)

    def read(self, rows: Ids, number: int) -> Rows:
        """A section of many fields, in all of which it is equally long."""
        length = int(self.fields.length[rows[0], number])
        if not length:
            return np.empty((len(rows), 0), np.uint8)
        return self.ahead.gather(self.fields.start[rows, number], length)

    def times(self, rows: Ids, seconds: NDArray[np.int64], sound: NDArray[np.bool_]) -> None:
        self.time[rows] = seconds
        self.refuse(rows[~sound], "has a reference time that is no date")

    def refuse(self, rows: Ids, reason: str) -> None:
        for row in rows.tolist():
            self.refused.setdefault(row, reason)


def _without_equal_grids(ids: Ids, grids: list[Any]) -> tuple[Ids, list[Grid]]:
    """One row for grids that are the same, though their sections are not."""
    kept: dict[Any, int] = {}
    result: list[Grid] = []
    rows = np.zeros(max(1, len(grids)), np.int64)
    for i, grid in enumerate(grids):
        if not isinstance(grid, Grid):  # its fields are refused
            continue
        rows[i] = kept.setdefault(grid.identity, len(result))
        if rows[i] == len(result):
            result.append(grid)
    return rows[ids], result


def distinct_rows(rows: Rows) -> tuple[Ids, Ids]:
    """Which rows are equal: an id for each, and the first row with each id."""
    if not rows.shape[1]:
        return np.zeros(len(rows), np.int64), np.zeros(1, np.int64)
    strings = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.shape[1]))).ravel()
    _, first, ids = np.unique(strings, return_index=True, return_inverse=True)
    return ids.reshape(-1), first
