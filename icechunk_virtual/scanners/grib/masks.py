"""Which bytes of a message's header say when, where up and which member, and which say what it is about.

Thousands of messages differ in little but these. With them blanked few headers remain, and eccodes is asked once for
each. Layouts after WMO FM 92 GRIB, edition 1 section 1 and edition 2 templates 4.x. Values to values, no eccodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.uint8]
"""Equally long byte strings, one per row."""


@dataclass(frozen=True, slots=True)
class _Template:
    """Where a product definition template has its parts, in bytes from the start of section 4.

    `shift`: what lies between the parameter and the rest, compared with template 4.0. `member`: the perturbation
    number. `interval`: the end of the overall time interval, followed by the number of time ranges.
    """

    shift: int = 0
    member: int | None = None
    interval: int | None = None


TEMPLATES = {
    0: _Template(),
    1: _Template(member=35),
    2: _Template(),
    5: _Template(),
    6: _Template(),
    8: _Template(interval=34),
    9: _Template(interval=47),
    10: _Template(interval=35),
    11: _Template(member=35, interval=37),
    12: _Template(interval=36),
    15: _Template(),
    40: _Template(shift=2),
    41: _Template(shift=2, member=37),
    42: _Template(shift=2, interval=36),
    43: _Template(shift=2, member=37, interval=39),
}
"""Of others, every message is asked for on its own."""

_TIME = slice(17, 22)  # unit and forecast time
_FORECAST = slice(18, 22)
_SURFACES = slice(22, 34)  # type, scale factor and value of the first and the second one
_VALUES = (slice(23, 28), slice(29, 34))
_END = 7  # bytes of a date
_NUMERIC = (100, 104, 105, 107, 109, 118, 119, 150)
"""Types of fixed surfaces (code table 4.5) that many levels have, and that name no parameter by their value."""
_NUMERIC_1 = (100, 107, 109, 113, 117, 119, 210)
"""The same in edition 1 (code table 3)."""
_NAMED_BY_LEVEL = (76, 78, 80, 96, 215, 250)
"""Centres whose own tables name parameters by pressure or model level too (ecCodes: `edzw`, `cnmc` and relatives)."""

DATE_2 = slice(12, 19)  # of section 1
_DATE_1, _DATE_1_CENTURY = slice(12, 17), 24
_BLANK_1 = (6, 23, 24, 26, 27)  # grid, number of missing values, century, decimal scale factor
_MEMBER_1 = 49  # of the local sections 1 and 30 of ECMWF
_ECMWF = 98


@dataclass(frozen=True, slots=True)
class Aspects:
    """What single questions to eccodes depend on; rows that are equal have the same answer.

    Attributes
    ----------
    parameter, level, step, member : uint8 (n, any)
    number : int64 (n,)
        The perturbation number, where the template is known to have one; -1: it has none; -2: not known.
    """

    parameter: Rows
    level: Rows
    step: Rows
    member: Rows
    number: NDArray[np.int64]


def identification(section: Rows) -> Rows:
    """Section 1 of edition 2 without the reference time."""
    blank = section.copy()
    blank[:, DATE_2] = 0
    return blank


def aspects_2(section: Rows, template: int, centre: NDArray[np.int64], date: Rows) -> Aspects:
    """Of sections 4 of edition 2 with one template and one length.

    Parameters
    ----------
    centre : int64 (n,)
    date
        The reference times, as they stand in section 1.
    """
    layout = TEMPLATES.get(template)
    n = len(section)
    if layout is None or section.shape[1] < 34 + layout.shift:
        return Aspects(section, section, np.hstack([section, date]), section, np.full(n, -2))
    shift = layout.shift
    parameter = section.copy()
    parameter[:, _moved(_FORECAST, shift)] = 0
    numeric = np.isin(section[:, 22 + shift], _NUMERIC) & ~np.isin(centre, _NAMED_BY_LEVEL)
    for values in _VALUES:
        parameter[numeric, _moved(values, shift)] = 0
    number = np.full(n, -1)
    if layout.member is not None:
        number = section[:, layout.member].astype(np.int64)
        parameter[:, layout.member] = 0
    step = np.hstack([section[:, 7:9], section[:, _moved(_TIME, shift)]])
    if layout.interval is not None:
        end = slice(layout.interval, layout.interval + _END)
        parameter[:, end] = 0
        ranges = section[:, layout.interval :].copy()
        single = ranges[:, _END : _END + 1] == 1  # several ranges: the length follows from the dates
        ranges[:, :_END] = np.where(single, 0, ranges[:, :_END])
        step = np.hstack([step, ranges, np.where(single, 0, date)])
    level = np.hstack([section[:, 5:9], section[:, _moved(_SURFACES, shift)]])
    return Aspects(parameter, level, step, section[:, :0], number)


def aspects_1(section: Rows) -> Aspects:
    """Of sections 1 of edition 1 with one length."""
    n = len(section)
    parameter = section.copy()
    parameter[:, 7] &= 0x80  # whether there is a bitmap does not count
    parameter[:, _DATE_1] = 0
    parameter[:, list(_BLANK_1)] = 0
    parameter[:, 17:20] = 0  # unit of time, and two times
    numeric = np.isin(section[:, 9], _NUMERIC_1) & ~np.isin(section[:, 4], _NAMED_BY_LEVEL)
    parameter[numeric, 10:12] = 0
    local = section[:, 40:]
    number = np.full(n, -1 if not local.shape[1] else -2)
    if section.shape[1] > _MEMBER_1:
        known = (section[:, 4] == _ECMWF) & np.isin(section[:, 40], (1, 30))
        parameter[known, _MEMBER_1] = 0
    level = np.hstack([section[:, [3, 4, 9, 10, 11]], section[:, 25:26]])
    step = np.hstack([section[:, [4, 17, 18, 19, 20, 21, 22]], section[:, 25:26]])
    member = np.hstack([section[:, [4, 25]], local])
    return Aspects(parameter, level, step, member, number)


def reference_times(date: Rows) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Seconds since 1970-01-01 of reference times of edition 2, and whether they are dates at all."""
    year = date[:, 0].astype(np.int64) * 256 + date[:, 1]
    month, day, hour, minute, second = date[:, 2:].astype(np.int64).T
    return _seconds(year, month, day, hour, minute, np.where(second == 255, 0, second))


def reference_times_1(section: Rows) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The same of sections 1 of edition 1."""
    year, month, day, hour, minute = section[:, _DATE_1].astype(np.int64).T
    century = section[:, _DATE_1_CENTURY].astype(np.int64)
    return _seconds((century - 1) * 100 + year, month, day, hour, minute, np.zeros_like(year))


def _seconds(
    year: NDArray[np.int64],
    month: NDArray[np.int64],
    day: NDArray[np.int64],
    hour: NDArray[np.int64],
    minute: NDArray[np.int64],
    second: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    months = ((year - 1970) * 12 + month - 1).astype("M8[M]")
    days = months.astype("M8[D]") + (day - 1)
    sound = (month >= 1) & (month <= 12) & (day >= 1) & (days.astype("M8[M]") == months)
    sound &= (hour <= 24) & (minute <= 59) & (second <= 60)
    return days.astype(np.int64) * 86400 + hour * 3600 + minute * 60 + second, sound


def _moved(part: slice, shift: int) -> slice:
    return slice(part.start + shift, part.stop + shift)
