"""Checksums of metadata: Jenkins' lookup3 ("hashlittle", Bob Jenkins, 2006, public domain), for many blocks at once.

The format's specification names it in "Disk Format: Level 2A1b" and wherever a block ends with a checksum.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_START = 0xDEADBEEF
_STRIDE = 12  # bytes that are mixed at a time
_MIX = ((0, 2, 4, 1), (1, 0, 6, 2), (2, 1, 8, 0), (0, 2, 16, 1), (1, 0, 19, 2), (2, 1, 4, 0))
"""x -= y; x ^= rot(y, bits); y += z, as (x, y, bits, z) of the registers a, b, c = 0, 1, 2."""
_FINAL = ((2, 1, 14), (0, 2, 11), (1, 0, 25), (2, 1, 16), (0, 2, 4), (1, 0, 14), (2, 1, 24))
"""x ^= y; x -= rot(y, bits), as (x, y, bits)."""


def lookup3(blocks: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint32]:
    """Checksum of every row of some arrays (n, length), one array after the other.

    Rows of similar length go together, lane by lane. No length may be 0.
    """
    classes: dict[int, list[int]] = {}
    for number, rows in enumerate(blocks):
        classes.setdefault(rows.shape[1].bit_length(), []).append(number)
    sums: list[NDArray[np.uint32]] = [np.empty(0, np.uint32)] * len(blocks)
    for members in classes.values():
        members.sort(key=lambda number: blocks[number].shape[1], reverse=True)
        counts = [len(blocks[number]) for number in members]
        lengths = np.repeat([blocks[number].shape[1] for number in members], counts)
        padded = np.zeros((len(lengths), -(-int(lengths.max(initial=1)) // _STRIDE) * _STRIDE), np.uint8)
        stops = np.cumsum(counts).tolist()
        for number, stop in zip(members, stops, strict=True):
            n, length = blocks[number].shape
            padded[stop - n : stop, :length] = blocks[number]
        for number, part in zip(members, np.split(_lanes(padded, lengths), stops[:-1]), strict=True):
            sums[number] = part
    return np.concatenate([np.empty(0, np.uint32), *sums])


def checksum(block: bytes) -> int:
    """Checksum of one block."""
    return int(lookup3([np.frombuffer(block, np.uint8)[None]])[0])


def _lanes(rows: NDArray[np.uint8], lengths: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Rows (n, multiple of 12) filled up with zeros, the longest first."""
    if not len(rows):
        return np.empty(0, np.uint32)
    words = np.ascontiguousarray(rows.view("<u4").T)
    strides = np.maximum(1, -(-lengths // _STRIDE))
    registers = np.repeat(((lengths + _START) & 0xFFFFFFFF).astype(np.uint32)[None], 3, axis=0)
    going = np.searchsorted(-strides, -np.arange(1, int(strides[0]) + 1), side="right")  # lanes with so many strides
    spare, rotated = np.empty((2, len(lengths)), np.uint32)
    for stride, lanes in enumerate(going.tolist()):
        active = [register[:lanes] for register in registers]
        for register, word in zip(active, words[3 * stride : 3 * stride + 3], strict=True):
            register += word[:lanes]
        further = int(going[stride + 1]) if stride + 1 < len(going) else 0
        _mix([register[:further] for register in active], spare[:further], rotated[:further])
        _final([register[further:] for register in active], spare[further:lanes], rotated[further:lanes])
    result: NDArray[np.uint32] = registers[2]
    return result


def _mix(registers: list[NDArray[np.uint32]], spare: NDArray[np.uint32], rotated: NDArray[np.uint32]) -> None:
    if not len(spare):
        return
    for x, y, bits, z in _MIX:
        _rotate(registers[y], bits, spare, rotated)
        registers[x] -= registers[y]
        registers[x] ^= rotated
        registers[y] += registers[z]


def _final(registers: list[NDArray[np.uint32]], spare: NDArray[np.uint32], rotated: NDArray[np.uint32]) -> None:
    if not len(spare):
        return
    for x, y, bits in _FINAL:
        _rotate(registers[y], bits, spare, rotated)
        registers[x] ^= registers[y]
        registers[x] -= rotated


def _rotate(register: NDArray[np.uint32], bits: int, spare: NDArray[np.uint32], rotated: NDArray[np.uint32]) -> None:
    np.left_shift(register, np.uint32(bits), out=rotated)
    np.right_shift(register, np.uint32(32 - bits), out=spare)
    np.bitwise_or(rotated, spare, out=rotated)
