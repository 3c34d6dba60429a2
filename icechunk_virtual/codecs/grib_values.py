"""The values of one GRIB message, decoded by eccodes: rows as they lie on the grid, NaN where nothing was observed.

Safe in any number of threads: every call makes a handle of its own. Nothing of Zarr is known here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import eccodes
import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.codecs.grib_sections import damaged, last_field

_MISSING = 1.7e308
"""Stands for missing values inside of eccodes; packed values do not reach it."""


def decode(message: bytes, shape: Sequence[int]) -> NDArray[np.float64]:
    """Values of the last field of a message.

    Parameters
    ----------
    message
        As for `grib_sections.last_field`.
    shape
        Of the result; its last two dimensions are the rows and columns of the grid if there are at least two. The
        message must have just as many values: this is known before they are unpacked.

    Returns
    -------
    float64 array
        See `in_rows` for the order.

    Raises
    ------
    MalformedSource
        eccodes cannot decode it, or it has another number of values.
    """
    expected = math.prod(shape)
    try:
        handle = eccodes.codes_new_from_message(last_field(message))
    except eccodes.CodesInternalError as error:
        raise damaged(f"eccodes says {error}") from error
    try:
        count = eccodes.codes_get_size(handle, "values")
        if count != expected:
            raise damaged(f"it has {count} values, {expected} are expected")
        eccodes.codes_set(handle, "missingValue", _MISSING)
        values: NDArray[np.float64] = eccodes.codes_get_values(handle)
        by_columns, alternate = scanning(handle)
    except eccodes.CodesInternalError as error:
        raise damaged(f"eccodes says {error}") from error
    finally:
        eccodes.codes_release(handle)
    if len(values) != expected:
        raise damaged(f"it has {len(values)} values, {expected} are expected")
    values[values == _MISSING] = np.nan
    if len(shape) >= 2:
        values = in_rows(values, shape[-2], shape[-1], by_columns=by_columns, alternate=alternate)
    return values.reshape(shape)


def in_rows(values: NDArray[Any], ny: int, nx: int, *, by_columns: bool, alternate: bool) -> NDArray[Any]:
    """Values (or coordinates) of all points as (ny, nx), whatever the scanning mode is (flag table 3.4).

    Rows and columns begin at the first point of the message: nothing is turned to have north above. `by_columns`: the
    points of a column are consecutive. `alternate`: every second row runs backwards.
    """
    table = values.reshape(nx, ny).T if by_columns else values.reshape(ny, nx)
    if alternate:
        table = table.copy()
        table[1::2] = table[1::2, ::-1]
    return table


def scanning(handle: int) -> tuple[bool, bool]:
    """``by_columns`` and ``alternate`` of a message, see `in_rows`."""
    return _flag(handle, "jPointsAreConsecutive"), _flag(handle, "alternativeRowScanning")


def _flag(handle: int, name: str) -> bool:
    return bool(eccodes.codes_is_defined(handle, name) and eccodes.codes_get_long(handle, name))
