"""What eccodes' tables say about a header: parameter, level, step, member. Answers are kept, for the next file too.

eccodes is given the header as a message without data, so nothing is unpacked. Grids are asked for in `grids`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import eccodes

from icechunk_virtual.codecs.grib_sections import joined

_T = TypeVar("_T")
_UNKNOWN = ("unknown", "undef", "~", "")
_NO_BITMAP = (6).to_bytes(4, "big") + b"\x06\xff"
_NO_DATA = (5).to_bytes(4, "big") + b"\x07"
_SPECTRAL_1 = (50, 60, 70, 80)
"""Kinds of grids of edition 1 whose data section has to say so too."""
_HAS_BITMAP_1 = 0x40
_SECONDS = {0: 60, 1: 3600, 2: 86400, 10: 10800, 11: 21600, 12: 43200, 13: 1, 14: 900, 15: 1800}
"""Of the units of steps; months and longer ones have no fixed length."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a field is about.

    `facts`: eccodes' keys with their values; those it does not know, or calls unknown, are left out.
    """

    facts: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the variable, as cfgrib gives it: the short name where CF has none."""
        for key in ("cfVarName", "shortName"):
            if key in self.facts:
                return str(self.facts[key])
        return "_".join(["unknown", *(str(self.facts[key]) for key in IDENTITY_KEYS if key in self.facts)])

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal for fields of one parameter and step type."""
        keys = ("paramId", "stepType", "cfVarName", "shortName", *IDENTITY_KEYS)
        return tuple(self.facts.get(key) for key in keys)


@dataclass(frozen=True, slots=True)
class Step:
    """A forecast step: start and end in hours. They are equal where there is no interval."""

    start: float
    end: float


PARAMETER_KEYS = ("paramId", "shortName", "cfVarName", "cfName", "name", "units")
"""Each is a search in eccodes' tables, the most expensive of what is asked; the rest depends on the first mostly."""
IDENTITY_KEYS = ("discipline", "parameterCategory", "parameterNumber", "table2Version", "indicatorOfParameter")
"""The parameter's own numbers, for those that eccodes has no number for."""
PRODUCT_KEYS = (
    "edition",
    "centre",
    "centreDescription",
    "subCentre",
    "dataType",
    "stepType",
    "uvRelativeToGrid",
    "totalNumber",
    "numberOfDirections",
    "numberOfFrequencies",
    "directionNumber",
    "frequencyNumber",
    "NV",
)
SPLITTING_KEYS = (
    "dataType",
    "derivedForecast",
    "percentileValue",
    "quantileValue",
    "probabilityType",
    "scaledValueOfLowerLimit",
    "scaledValueOfUpperLimit",
    "forecastProbabilityNumber",
    "typeOfStatisticalProcessing",
    "typeOfProcessedData",
    "expver",
    "stream",
    "class",
    "centre",
    "subCentre",
    "generatingProcessIdentifier",
    "backgroundProcess",
    "typeOfGeneratingProcess",
    "typeOfEnsembleForecast",
    "constituentType",
    "aerosolType",
    "scaledValueOfFirstSize",
    "scaledValueOfFirstWavelength",
    "scaledValueOfCentralWaveNumber",
    "instrumentType",
    "satelliteNumber",
    "localNumber",
    "significanceOfReferenceTime",
    "parameterCategory",
    "parameterNumber",
    "indicatorOfParameter",
    "table2Version",
    "edition",
)
"""What tells variables apart that would otherwise be one, the most telling first."""


def header_message(edition: int, sections: dict[int, bytes]) -> bytes:
    """A message with these sections and no data.

    Parameters
    ----------
    sections
        By number, as `Fields` has them. Edition 2: 0 to 5. Edition 1: 0, 1 and 3, which is the grid's.
    """
    if edition == 2:
        kept = [sections[number] for number in range(1, 6) if sections.get(number)]
        return joined(sections[0], [*kept, _NO_BITMAP, _NO_DATA])
    product = bytearray(sections[1])
    product[7] &= ~_HAS_BITMAP_1
    data = bytearray((24).to_bytes(3, "big") + bytes(21))
    data[3] = 0xC0 if sections[3][5] in _SPECTRAL_1 else 0
    body = bytes(product) + sections[3] + bytes(data) + b"7777"
    return b"GRIB" + (8 + len(body)).to_bytes(3, "big") + b"\x01" + body


@contextmanager
def opened(message: bytes) -> Iterator[int]:
    """A handle of eccodes."""
    handle = eccodes.codes_new_from_message(message)
    try:
        yield handle
    finally:
        eccodes.codes_release(handle)


def facts(handle: int, keys: tuple[str, ...]) -> dict[str, Any]:
    """The values of keys, without those that are not there or are called unknown."""
    found = {key: value(handle, key) for key in keys}
    return {key: v for key, v in found.items() if v is not None and v not in _UNKNOWN}


def value(handle: int, key: str, kind: type | None = None) -> Any:
    """The value of a key; ``None`` if there is none."""
    try:
        return eccodes.codes_get(handle, key, ktype=kind)
    except eccodes.CodesInternalError:
        return None


class Answers:
    """The last answers to one kind of question, by what they depend on."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[bytes, Any] = OrderedDict()

    def ask(self, question: bytes, find: Callable[[], _T]) -> _T:
        """The answer that is kept, or that `find` gives."""
        try:
            return self._kept[question]  # type: ignore[no-any-return]
        except KeyError:
            answer = self._kept[question] = find()
        while len(self._kept) > self._most:
            try:
                self._kept.popitem(last=False)
            except KeyError:  # another thread was faster
                break
        return answer


def parameter(message: bytes, *, with_number: bool) -> Parameter:
    """What a field is about. `with_number`: the member is part of the answer."""
    with opened(message) as handle:
        found = facts(handle, PRODUCT_KEYS)
        if with_number:
            found |= facts(handle, ("number",))
        found |= facts(handle, PARAMETER_KEYS)
        if not found.get("paramId"):
            found |= facts(handle, IDENTITY_KEYS)
        return Parameter(found)


def level(message: bytes) -> tuple[str, float]:
    """Type and value of a level."""
    with opened(message) as handle:
        kind = value(handle, "typeOfLevel", str)
        number = value(handle, "level", float)
    return str(kind or "unknown"), float("nan") if number is None else number


def step(message: bytes) -> Step | None:
    """The step of a field; ``None`` where it has no length in hours."""
    with opened(message) as handle:
        unit = value(handle, "stepUnits", int)
        start, end = value(handle, "startStep", int), value(handle, "endStep", int)
    if unit not in _SECONDS or end is None:
        return None
    hours = _SECONDS[unit] / 3600
    return Step((end if start is None else start) * hours, end * hours)


def member(message: bytes) -> int:
    """The number of an ensemble member; -1 where there is none."""
    with opened(message) as handle:
        number = value(handle, "number", int)
    return -1 if number is None else number


def distinguishing(message: bytes) -> dict[str, Any]:
    """The values of all `SPLITTING_KEYS`."""
    with opened(message) as handle:
        return {key: value(handle, key) for key in SPLITTING_KEYS}
