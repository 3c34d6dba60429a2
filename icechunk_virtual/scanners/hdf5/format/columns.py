"""Fields of many equal records as columns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.scanners.hdf5.format.context import Context
from icechunk_virtual.scanners.hdf5.format.damage import Damaged


def uint_column(records: NDArray[np.uint8], start: int, width: int) -> NDArray[np.uint64]:
    """An unsigned field of up to eight bytes.

    Parameters
    ----------
    records : uint8 (..., record size)
    start, width
        Place of the field, in bytes.

    Returns
    -------
    uint64 (...)
    """
    wide = np.zeros((*records.shape[:-1], 8), np.uint8)
    wide[..., :width] = records[..., start : start + width]
    return wide.view("<u8")[..., 0].astype(np.uint64, copy=False)


def check_beginning(
    context: Context, rows: NDArray[np.uint8], addresses: NDArray[np.uint64], expected: bytes, what: str
) -> None:
    """Judge the bytes with which blocks (n, length) begin.

    Raises
    ------
    Damaged
        One of them begins with others.
    """
    wrong = (rows[:, : len(expected)] != np.frombuffer(expected, np.uint8)).any(axis=1)
    if wrong.any():
        worst = int(np.argmax(wrong))
        found = rows[worst, : len(expected)].tobytes()
        raise Damaged(context.place(int(addresses[worst])), f"{what}: it begins with {found!r} instead of {expected!r}")
