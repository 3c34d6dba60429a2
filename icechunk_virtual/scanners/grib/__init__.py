"""GRIB files, editions 1 and 2. This module is light: eccodes is imported with `scan`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from icechunk_virtual.scanners.spec import ScannerSpec, lazy

if TYPE_CHECKING:
    from icechunk_virtual.containers.source import Source

_HEAD = 1 << 12
_INDICATOR = re.compile(rb"GRIB...[\x01\x02]", re.DOTALL)


def probe(source: Source) -> bool:
    """Whether a message begins after a few other bytes, such as the heading of a bulletin."""
    return _INDICATOR.search(source.peek(0, _HEAD)) is not None


SPEC = ScannerSpec(
    name="grib",
    description="GRIB, editions 1 and 2",
    load=lazy("icechunk_virtual.scanners.grib.scan:scan"),
    magic=((0, b"GRIB"),),
    suffixes=(".grib", ".grib1", ".grib2", ".grb", ".grb1", ".grb2"),
    extra="grib",
    probe=probe,
)
