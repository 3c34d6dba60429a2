"""Large sets of ids as sorted columns: 12 bytes per id instead of an object each. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.model.ids import OBJECT_ID_SIZE, encode_id

_NAME_SIZE = len(encode_id(bytes(OBJECT_ID_SIZE)))
_INVALID = 255
_WAITING = 1 << 18  # rows
_DIGITS = np.full(256, _INVALID, np.uint8)
_DIGITS[np.frombuffer(b"0123456789ABCDEFGHJKMNPQRSTVWXYZ", np.uint8)] = np.arange(32)


class RowSet:
    """A set of rows of bytes, all of one length.

    Kept in sorted layers that are merged by size, so that adding n rows in many portions costs n log n.

    Parameters
    ----------
    width
        Bytes per row.
    """

    def __init__(self, width: int = OBJECT_ID_SIZE) -> None:
        self.width = width
        self._layers: list[NDArray[np.bytes_]] = []
        self._waiting: list[NDArray[np.uint8]] = []
        self._count = 0

    def __len__(self) -> int:
        self._take_in()
        return sum(map(len, self._layers))

    def contains(self, rows: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which rows, uint8 (n, width), are in the set, bool (n,)."""
        return self._find(self._packed(rows))

    def add(self, rows: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Add rows, uint8 (n, width).

        Returns
        -------
        int64 (m,)
            Positions of the rows that were new, each distinct row once.
        """
        packed, first = np.unique(self._packed(rows), return_index=True)
        new = ~self._find(packed)
        if new.any():
            self._push(packed[new])
        return first[new]

    def put(self, rows: NDArray[np.uint8]) -> None:
        """Add rows, uint8 (n, width), when enough have come together or somebody asks."""
        self._waiting.append(rows)
        self._count += len(rows)
        if self._count > _WAITING:
            self._take_in()

    def _take_in(self) -> None:
        if self._waiting:
            rows = np.concatenate(self._waiting)
            self._waiting, self._count = [], 0
            self.add(rows)

    def _packed(self, rows: NDArray[np.uint8]) -> NDArray[np.bytes_]:
        # Zeros at the end, which this dtype drops, make no difference between rows of one length.
        return np.ascontiguousarray(rows).reshape(len(rows), self.width).view(f"S{self.width}")[:, 0]

    def _find(self, packed: NDArray[np.bytes_]) -> NDArray[np.bool_]:
        self._take_in()
        found = np.zeros(len(packed), bool)
        for layer in self._layers:
            at = np.minimum(np.searchsorted(layer, packed), len(layer) - 1)
            found |= layer[at] == packed
        return found

    def _push(self, layer: NDArray[np.bytes_]) -> None:
        self._layers.append(layer)
        while len(self._layers) > 1 and 2 * len(self._layers[-1]) >= len(self._layers[-2]):
            top = self._layers.pop()
            self._layers[-1] = np.sort(np.concatenate([self._layers[-1], top]))


def id_rows(ids: Sequence[bytes]) -> NDArray[np.uint8]:
    """Ids as rows, uint8 (n, 12)."""
    return np.frombuffer(b"".join(ids), np.uint8).reshape(len(ids), OBJECT_ID_SIZE)


def decode_names(names: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Ids of objects from their names.

    Returns
    -------
    ids : uint8 (m, 12)
    positions : int64 (m,)
        Of the names that are an id exactly as it is written; what else lies around is left out.
    """
    right = [i for i, name in enumerate(names) if len(name) == _NAME_SIZE and name.isascii()]
    text = "".join([names[i] for i in right]).encode("ascii")
    digits = _DIGITS[np.frombuffer(text, np.uint8)].reshape(len(right), _NAME_SIZE)
    bits = np.unpackbits(digits[:, :, None], axis=2)[:, :, 3:].reshape(len(right), 5 * _NAME_SIZE)
    size = 8 * OBJECT_ID_SIZE
    valid = (digits != _INVALID).all(axis=1) & ~bits[:, size:].any(axis=1)
    return np.packbits(bits[valid, :size], axis=1), np.array(right, np.int64)[valid]
