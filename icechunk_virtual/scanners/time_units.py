"""CF time coordinates: ``<unit> since <date>``, and values moved exactly from one reference to another.

Integer arithmetic on calendars, after the CF conventions, section 4.4. No dates are made, no library is needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MICROSECONDS = {
    "microsecond": 1,
    "millisecond": 1000,
    "second": 10**6,
    "minute": 60 * 10**6,
    "hour": 3600 * 10**6,
    "day": 86400 * 10**6,
}
_ALIASES = {
    "microsec": "microsecond",
    "us": "microsecond",
    "millisec": "millisecond",
    "msec": "millisecond",
    "ms": "millisecond",
    "sec": "second",
    "s": "second",
    "min": "minute",
    "hr": "hour",
    "h": "hour",
    "d": "day",
}
_SINCE = re.compile(
    r"""\s*(?P<unit>[a-z]+)\s+since\s+
    (?P<year>[+-]?\d{1,6})-(?P<month>\d{1,2})-(?P<day>\d{1,2})
    (?:[T\s]+(?P<hour>\d{1,2})(?::(?P<minute>\d{1,2}))?(?::(?P<second>\d{1,2})(?:\.(?P<fraction>\d*))?)?)?
    \s*(?P<zone>Z|UTC|GMT|(?P<sign>[+-])(?P<zone_hour>\d{1,2}):?(?P<zone_minute>\d{2})?)?\s*""",
    re.IGNORECASE | re.VERBOSE,
)
_MONTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_FURTHEST = 2**59  # microseconds, 18,000 years: what a float64 still tells apart to some 0.1 ms


@dataclass(frozen=True, slots=True)
class TimeUnits:
    """Units of a time coordinate.

    Attributes
    ----------
    step : int
        Length of the unit in microseconds.
    reference : int
        The reference date in microseconds; its zero is the calendar's own.
    calendar : str
    """

    step: int
    reference: int
    calendar: str


def parse_units(units: object, calendar: object = "standard") -> TimeUnits | None:
    """Read ``days since 1850-01-01``; ``None`` for other units, unknown calendars, months and years.

    >>> parse_units("hours since 1970-01-02 01:00").step
    3600000000
    """
    match = _SINCE.fullmatch(units) if isinstance(units, str) else None
    name = calendar_name(calendar)
    if match is None or name is None:
        return None
    unit = match["unit"].lower()
    unit = _ALIASES.get(unit, _ALIASES.get(unit.removesuffix("s"), unit.removesuffix("s")))
    year, month, day = int(match["year"]), int(match["month"]), int(match["day"])
    if unit not in _MICROSECONDS or not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    hour, minute, second = (int(match[part] or 0) for part in ("hour", "minute", "second"))
    fraction = int((match["fraction"] or "").ljust(6, "0")[:6])
    zone = (int(match["zone_hour"] or 0) * 60 + int(match["zone_minute"] or 0)) * (-1 if match["sign"] == "-" else 1)
    seconds = ((_DAYS[name](year, month, day) * 24 + hour) * 60 + minute - zone) * 60 + second
    return TimeUnits(_MICROSECONDS[unit], seconds * 10**6 + fraction, name)


def calendar_name(calendar: object) -> str | None:
    """One name per calendar (``gregorian`` is ``standard``); ``None`` for unknown ones."""
    if not isinstance(calendar, str):
        return None
    name = calendar.lower()
    name = {"gregorian": "standard", "365_day": "noleap", "366_day": "all_leap"}.get(name, name)
    return name if name in _DAYS else None


def convert(
    values: NDArray[Any], old: TimeUnits, new: TimeUnits, missing: NDArray[np.bool_] | None = None
) -> NDArray[Any] | None:
    """The same times in other units, in the same dtype; ``None`` where that is not exact.

    Integers must stay whole numbers within the dtype. Floats must give the same microsecond, or
    the same time as far as a float64 of microseconds tells (beyond 285 years).

    Parameters
    ----------
    values
        Integers or floats of any shape.
    missing
        Where `values` are no times; they stay as they are. Values that are not finite count as missing anyway.
    """
    if old.calendar != new.calendar:
        return None
    skip = np.zeros(values.shape, bool) if missing is None else missing.copy()
    if values.dtype.kind == "f":
        skip |= ~np.isfinite(values)
    valid = values[~skip]
    if not valid.size:
        return values
    moved = (_convert_floats if values.dtype.kind == "f" else _convert_integers)(valid, old, new)
    if moved is None:
        return None
    result = values.copy()
    result[~skip] = moved
    return result


def _convert_integers(values: NDArray[Any], old: TimeUnits, new: TimeUnits) -> NDArray[Any] | None:
    """Microseconds may be beyond 64 bits: Python's integers, once per distinct value."""
    distinct, inverse = np.unique(values, return_inverse=True)
    shift, info = old.reference - new.reference, np.iinfo(values.dtype)
    moved = [divmod(v * old.step + shift, new.step) for v in distinct.tolist()]
    if any(rest or not info.min <= v <= info.max for v, rest in moved):
        return None
    return np.array([v for v, _ in moved], values.dtype)[inverse].reshape(values.shape)


def _convert_floats(values: NDArray[Any], old: TimeUnits, new: TimeUnits) -> NDArray[Any] | None:
    shift = old.reference - new.reference
    ticks = np.rint(values.astype(np.float64) * old.step)
    moved = ticks + float(shift)
    if max(np.abs(ticks).max(), abs(shift), np.abs(moved).max()) >= _FURTHEST:
        return None
    result = (moved / new.step).astype(values.dtype)
    back = np.rint(result.astype(np.float64) * new.step)
    return result if np.array_equal(back, moved) else None


def _gregorian(year: int, month: int, day: int) -> int:
    """Julian day number of a date of the Gregorian calendar."""
    y = year + (month > 2) - 1
    m = (month - 3) % 12
    return day + (153 * m + 2) // 5 + 365 * y + y // 4 - y // 100 + y // 400 + 1721119


def _julian(year: int, month: int, day: int) -> int:
    """Julian day number of a date of the Julian calendar."""
    y = year + (month > 2) - 1
    m = (month - 3) % 12
    return day + (153 * m + 2) // 5 + 365 * y + y // 4 + 1721117


def _standard(year: int, month: int, day: int) -> int:
    """The Gregorian calendar since 1582-10-15, the Julian before."""
    return (_gregorian if (year, month, day) >= (1582, 10, 15) else _julian)(year, month, day)


def _noleap(year: int, month: int, day: int) -> int:
    return year * 365 + sum(_MONTHS[: month - 1]) + day


def _all_leap(year: int, month: int, day: int) -> int:
    return year * 366 + sum(_MONTHS[: month - 1]) + (month > 2) + day


def _360_day(year: int, month: int, day: int) -> int:
    return year * 360 + (month - 1) * 30 + day


_DAYS: dict[str, Callable[[int, int, int], int]] = {
    "standard": _standard,
    "proleptic_gregorian": _gregorian,
    "julian": _julian,
    "noleap": _noleap,
    "all_leap": _all_leap,
    "360_day": _360_day,
}
