"""The fields of a file's messages: where the sections lie that describe each one. All messages in step, in numpy.

A message of edition 2 holds one field or several, which share what they do not repeat; one of edition 1 holds one.
Only lengths and numbers of sections are looked at here, never the packed values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.scanners.grib.ahead import Ahead
from icechunk_virtual.scanners.grib.messages import Messages

Offsets = NDArray[np.int64]

_FOLLOWS = {1: (2, 3), 2: (3,), 3: (4,), 4: (5,), 5: (6,), 6: (7,), 7: (2, 3, 4)}
"""Which section may come after which (regulation 92.9.2); after 7 the message may end as well."""
_ALLOWED = np.array([[after in _FOLLOWS.get(number, (1,)) for after in range(8)] for number in range(8)])
_MOST_FIELDS = 10_000
_LONGEST_SECTION = 1 << 24
_SECTIONS = 8
"""Sections 0 to 7. Edition 1 has other numbers: its sections 1, 2, 4 are kept as 1, 3, 7."""


@dataclass(slots=True)
class Fields:
    """Columns of `n` fields, in the order of the file.

    Attributes
    ----------
    message : int64 (n,)
        Row in `Messages`.
    end : int64 (n,)
        Where its last section ends.
    alone : bool (n,)
        Whether the message has no other field.
    start, length : int64 (n, 8)
        Position in the file and bytes of the sections 0 to 7 that describe it; -1 and 0 where there is none.
    """

    message: Offsets
    end: Offsets
    alone: NDArray[np.bool_]
    start: Offsets
    length: Offsets

    def __len__(self) -> int:
        return len(self.message)

    def take(self, rows: NDArray[np.generic]) -> Fields:
        """Some of the fields."""
        return Fields(self.message[rows], self.end[rows], self.alone[rows], self.start[rows], self.length[rows])


def find_fields(ahead: Ahead, messages: Messages) -> tuple[Fields, dict[int, str]]:
    """All fields of all messages.

    Returns
    -------
    fields
    damaged : dict
        Row of a message, and what is wrong with its sections: it has no fields in the result.
    """
    damaged: dict[int, str] = {}
    parts = [
        _fields_1(ahead, messages, np.flatnonzero(messages.edition == 1), damaged),
        _fields_2(ahead, messages, np.flatnonzero(messages.edition == 2), damaged),
    ]
    columns = [np.concatenate(column) for column in zip(*(p for part in parts for p in part), strict=True)]
    fields = Fields(columns[0], columns[1], columns[2].astype(bool), columns[3], columns[4])
    fields = fields.take(np.lexsort((fields.end, fields.message)))
    return fields.take(~np.isin(fields.message, list(damaged))), damaged


_Part = tuple[Offsets, Offsets, NDArray[np.bool_], Offsets, Offsets]


def _no_sections(n: int) -> tuple[Offsets, Offsets]:
    return np.full((n, _SECTIONS), -1, np.int64), np.zeros((n, _SECTIONS), np.int64)


def _integers(data: NDArray[np.uint8]) -> Offsets:
    """Big-endian unsigned integers of up to 7 bytes, one per row."""
    weights = 256 ** np.arange(data.shape[1] - 1, -1, -1, dtype=np.int64)
    return np.asarray(data.astype(np.int64) @ weights)


def _fields_1(ahead: Ahead, messages: Messages, rows: Offsets, damaged: dict[int, str]) -> list[_Part]:
    """Edition 1: product and grid definition; the rest is data."""
    start, length = _no_sections(len(rows))
    first = messages.offset[rows]
    end = first + messages.length[rows] - 4
    start[:, 0], length[:, 0] = first, 8
    head = ahead.gather(first + 8, 8)
    start[:, 1], length[:, 1] = first + 8, _integers(head[:, :3])
    after = start[:, 1] + length[:, 1]
    has_grid = head[:, 7] & 0x80 > 0
    wrong = (length[:, 1] < 28) | (after + 3 > end)
    grid = np.flatnonzero(has_grid & ~wrong)
    start[grid, 3] = after[grid]
    length[grid, 3] = _integers(ahead.gather(after[grid], 3))
    after = after + length[:, 3]
    wrong |= (has_grid & (length[:, 3] < 6)) | (after > end)
    start[:, 7], length[:, 7] = after, end - after
    for row in np.flatnonzero(wrong).tolist():
        damaged[int(rows[row])] = "has sections that do not fit into it"
    for row in np.flatnonzero(~has_grid & ~wrong).tolist():
        damaged[int(rows[row])] = "has no description of its grid"
    return [(rows, end, np.ones(len(rows), bool), start, length)]


def _fields_2(ahead: Ahead, messages: Messages, rows: Offsets, damaged: dict[int, str]) -> list[_Part]:
    """Edition 2: from section to section, in all messages that have more."""
    parts: list[_Part] = []
    start, length = _no_sections(len(rows))
    start[:, 0], length[:, 0] = messages.offset[rows], 16
    position = messages.offset[rows] + 16
    end = messages.offset[rows] + messages.length[rows] - 4
    number = np.zeros(len(rows), np.int64)
    count = np.zeros(len(rows), np.int64)
    while len(rows):
        fits = position + 5 <= end
        head = np.zeros((len(rows), 5), np.uint8)
        head[fits] = ahead.gather(position[fits], 5)
        size, after = _integers(head[:, :4]), head[:, 4].astype(np.int64)
        sound = fits & (size >= 5) & (position + size <= end) & (after < _SECTIONS)
        sound &= _ALLOWED[number, np.minimum(after, _SECTIONS - 1)] & ((size <= _LONGEST_SECTION) | (after >= 6))
        sound &= count <= _MOST_FIELDS
        for row in np.flatnonzero(~sound).tolist():
            where = position[row] - messages.offset[rows[row]]
            damaged[int(rows[row])] = f"has a section that makes no sense at its byte {where}"
        line = np.flatnonzero(sound)
        start[line, after[line]], length[line, after[line]] = position[line], size[line]
        position, number = position + size, after
        data = np.flatnonzero(sound & (after == 7))
        if len(data):
            count[data] += 1
            alone = (count[data] == 1) & (position[data] == end[data])
            parts.append((rows[data], position[data], alone, start[data], length[data]))
        more = np.flatnonzero(sound & ~((after == 7) & (position == end)))
        rows, start, length, position, end, number, count = (
            column[more] for column in (rows, start, length, position, end, number, count)
        )
    return parts or [(rows, position, np.zeros(0, bool), start, length)]
