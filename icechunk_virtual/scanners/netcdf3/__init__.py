"""NetCDF-3 files: classic, 64-bit offset and 64-bit data (CDF-1, CDF-2, CDF-5). This module is light."""

from __future__ import annotations

from icechunk_virtual.scanners.spec import ScannerSpec, lazy

SPEC = ScannerSpec(
    name="netcdf3",
    description="NetCDF-3: classic, 64-bit offset, 64-bit data (CDF-5)",
    load=lazy("icechunk_virtual.scanners.netcdf3.scan:scan"),
    magic=((0, b"CDF\x01"), (0, b"CDF\x02"), (0, b"CDF\x05")),
    suffixes=(".nc3", ".cdf"),
)
