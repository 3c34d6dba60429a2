"""External types of netCDF with the default fill values of the netCDF library (netcdf.h): of both file formats."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from icechunk_virtual.scanners.documents import DType


@dataclass(frozen=True, slots=True)
class NcType:
    """An external type: number in netCDF-3 files, name in CDL, numpy dtype there, default fill value."""

    code: int
    name: str
    dtype: np.dtype[np.generic]
    fill: int | float | bytes


_FLOAT_FILL = 9.9692099683868690e36
TYPES = (
    NcType(1, "byte", np.dtype(">i1"), -127),
    NcType(2, "char", np.dtype("S1"), b"\0"),
    NcType(3, "short", np.dtype(">i2"), -32767),
    NcType(4, "int", np.dtype(">i4"), -2147483647),
    NcType(5, "float", np.dtype(">f4"), _FLOAT_FILL),
    NcType(6, "double", np.dtype(">f8"), _FLOAT_FILL),
    NcType(7, "ubyte", np.dtype(">u1"), 255),
    NcType(8, "ushort", np.dtype(">u2"), 65535),
    NcType(9, "uint", np.dtype(">u4"), 4294967295),
    NcType(10, "int64", np.dtype(">i8"), -9223372036854775806),
    NcType(11, "uint64", np.dtype(">u8"), 18446744073709551614),
)


def default_fill(dtype: DType) -> int | float | bytes | None:
    """What the netCDF library gives where nothing was written, in any byte order; ``None`` for types it lacks."""
    same = (t.fill for t in TYPES if (t.dtype.kind, t.dtype.itemsize) == (dtype.kind, dtype.itemsize))
    return next(same, None)
