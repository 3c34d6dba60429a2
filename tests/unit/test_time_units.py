"""CF time units against cftime, and exactness of the conversion."""

from __future__ import annotations

import cftime
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk_virtual.scanners.time_units import TimeUnits, convert, parse_units

CALENDARS = ("standard", "gregorian", "proleptic_gregorian", "julian", "noleap", "365_day", "all_leap", "360_day")


def units(text: str, calendar: str = "standard") -> TimeUnits:
    parsed = parse_units(text, calendar)
    assert parsed is not None, text
    return parsed


@given(
    calendar=st.sampled_from(CALENDARS),
    dates=st.lists(
        st.tuples(st.integers(1, 3000), st.integers(1, 12), st.integers(1, 28)), min_size=2, max_size=2, unique=True
    ),
    hour=st.integers(0, 23),
)
def test_references_are_as_far_apart_as_cftime_says(calendar, dates, hour) -> None:
    first, second = (f"{y:04d}-{m:02d}-{d:02d}" for y, m, d in dates)
    a = units(f"hours since {first} {hour:02d}:00", calendar)
    b = units(f"hours since {second}", calendar)
    date = cftime.datetime(*dates[0], hour, calendar=calendar)
    hours = cftime.date2num(date, f"hours since {second}", calendar=calendar)
    assert (a.reference - b.reference) == hours * a.step


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        ("days since 1850-1-1", "days since 1850-01-01 00:00:00"),
        ("Days Since 1850-01-01T00:00:00Z", "days since 1850-01-01"),
        ("day since 1850-01-01 00:00:0.0", "d since 1850-01-01 00:00"),
        ("hours since 2000-01-01 01:30 +01:30", "hrs since 2000-01-01 UTC"),
        ("seconds since 1970-01-01 00:00:00.5", "s since 1970-01-01 00:00:00.500000"),
        ("minutes since 1999-12-31 22:00 -2:00", "min since 2000-01-01"),
        ("msecs since 2000-01-01", "milliseconds since 2000-01-01"),
    ],
)
def test_spellings(text: str, same_as: str) -> None:
    assert units(text) == units(same_as)


@pytest.mark.parametrize(
    "text",
    ["m", "months since 2000-01-01", "years since 2000-01-01", "days since", "days since 2000-13-01", "days", "", 5],
)
def test_what_is_no_fixed_time_unit(text: object) -> None:
    assert parse_units(text) is None


def test_unknown_calendars() -> None:
    assert parse_units("days since 2000-01-01", "tai") is None
    assert parse_units("days since 2000-01-01", None) is None


def test_integers_stay_exact_or_are_refused() -> None:
    days, hours = units("days since 2000-01-01"), units("hours since 2000-01-02")
    values = np.array([1, 2, 40], ">i4")
    moved = convert(values, days, hours)
    assert moved is not None
    assert moved.dtype == values.dtype
    assert moved.tolist() == [0, 24, 39 * 24]
    assert convert(np.array([1, 2], "i4"), hours, days) is None  # an hour is no whole day
    assert convert(np.array([24], "i4"), hours, days).tolist() == [2]  # type: ignore[union-attr]
    assert convert(np.array([2000], "i2"), days, hours) is None  # beyond int16
    assert convert(np.array([0], "u2"), days, hours) is None  # negative


def test_floats_keep_the_microsecond_or_are_refused() -> None:
    old, new = units("days since 2000-01-01"), units("days since 1850-01-01")
    values = np.arange(0, 31, 1 / 24)
    moved = convert(values, old, new)
    assert moved is not None
    shown = cftime.num2date(moved, "days since 1850-01-01")
    assert (shown == cftime.num2date(values, "days since 2000-01-01")).all()
    assert convert(values.astype("f4"), old, new) is None
    assert convert(np.arange(31, dtype="f4"), old, new) is not None


def test_missing_values_stay() -> None:
    old, new = units("days since 2000-01-01"), units("days since 2000-01-02")
    values = np.array([np.nan, 1.0, 9e36])
    moved = convert(values, old, new, missing=values == 9e36)
    np.testing.assert_array_equal(moved, [np.nan, 0.0, 9e36])
    assert convert(values, old, new) is None  # 9e36 days is no time


def test_calendars_do_not_mix() -> None:
    old, new = units("days since 2000-01-01", "noleap"), units("days since 2000-01-01")
    assert convert(np.array([1.0]), old, new) is None
