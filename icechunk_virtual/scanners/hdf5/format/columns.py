"""Fields of many equal records as columns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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
