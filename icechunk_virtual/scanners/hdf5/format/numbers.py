"""Integers and floats as numpy values: as they are where numpy knows their bits, otherwise converted exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.scanners.hdf5.format.columns import uint_column
from icechunk_virtual.scanners.hdf5.format.damage import NotHandled
from icechunk_virtual.scanners.hdf5.format.datatype import Bits, Datatype, TypeClass

_INTEGER_SIZES = (1, 2, 4, 8)
_IEEE = {2: (5, 10, 15), 4: (8, 23, 127), 8: (11, 52, 1023)}
"""Bytes: bits of exponent and mantissa, bias."""
_IMPLIED = 2  # normalization of IEEE floats


def integer_dtype(kind: Datatype) -> np.dtype[Any]:
    """The numpy type of integers and bit fields of this size, in the byte order of the file."""
    if kind.size not in _INTEGER_SIZES or kind.bits is None:
        raise NotHandled(f"integers of {kind.size} bytes")
    return np.dtype(f"{'>' if kind.bits.big_endian else '<'}{'i' if kind.bits.signed else 'u'}{kind.size}")


def integer_values(kind: Datatype, rows: NDArray[np.uint8]) -> NDArray[Any]:
    """Values of integers (n, size)."""
    dtype = integer_dtype(kind)
    if has_all_bits(kind):
        return rows.view(dtype)[:, 0]
    bits = _bits(kind)
    raw = _little(rows, bits)
    if bits.signed:
        spare = 64 - bits.precision
        moved = (raw << np.uint64(spare - bits.offset)).view(np.int64) >> np.int64(spare)
        return moved.astype(dtype)
    mask = np.uint64((1 << bits.precision) - 1)
    return ((raw >> np.uint64(bits.offset)) & mask).astype(dtype)


def has_all_bits(kind: Datatype) -> bool:
    """Whether every bit of an integer counts."""
    return kind.bits is not None and kind.bits.offset == 0 and kind.bits.precision == 8 * kind.size


def is_ieee(kind: Datatype) -> bool:
    """Whether a float is one of IEEE 754, as numpy has them."""
    bits = kind.bits
    if kind.kind != TypeClass.FLOAT or kind.size not in _IEEE or bits is None or bits.vax:
        return False
    exponent, mantissa, bias = _IEEE[kind.size]
    return bits == Bits(
        big_endian=bits.big_endian,
        signed=True,
        precision=8 * kind.size,
        sign=8 * kind.size - 1,
        exponent=(mantissa, exponent),
        mantissa=(0, mantissa),
        bias=bias,
        normalization=_IMPLIED,
    )


def float_dtype(kind: Datatype) -> np.dtype[Any]:
    """The smallest IEEE type that holds all values, in the byte order of the file."""
    bits = _bits(kind)
    for size, (exponent, mantissa, _bias) in _IEEE.items():
        if size >= kind.size and bits.exponent[1] <= exponent and bits.mantissa[1] <= mantissa and not bits.vax:
            return np.dtype(f"{'>' if bits.big_endian else '<'}f{size}")
    raise NotHandled(
        f"floats of {kind.size} bytes, {bits.exponent[1]} bits of exponent, {bits.mantissa[1]} of mantissa"
    )


def float_values(kind: Datatype, rows: NDArray[np.uint8]) -> NDArray[Any]:
    """Values of floats (n, size)."""
    dtype, bits = float_dtype(kind), _bits(kind)
    if is_ieee(kind):
        return rows.view(dtype)[:, 0]
    if bits.normalization != _IMPLIED or bits.bias >= 1 << 31:
        raise NotHandled("floats whose mantissa has its highest bit stored")
    raw = _little(rows, bits)
    with np.errstate(over="ignore", under="ignore"):  # what is too large becomes infinite
        return _converted(raw, bits).astype(dtype)


def _converted(raw: NDArray[np.uint64], bits: Bits) -> NDArray[np.float64]:
    exponent, mantissa = _field(raw, bits.exponent), _field(raw, bits.mantissa)
    width = bits.mantissa[1]
    special = exponent == (1 << bits.exponent[1]) - 1
    normal = exponent > 0
    fraction = mantissa.astype(np.float64) + np.where(normal, np.float64(2.0) ** width, 0.0)
    power = np.where(normal, exponent.astype(np.int64), 1) - bits.bias - width
    value = np.ldexp(fraction, power.astype(np.int32))
    value = np.where(special, np.where(mantissa > 0, np.nan, np.inf), value)
    sign = _field(raw, (bits.sign, 1)) > 0
    result: NDArray[np.float64] = np.where(sign, -value, value)
    return result


def _bits(kind: Datatype) -> Bits:
    if kind.bits is None:
        raise NotHandled(f"numbers of class {kind.kind.name}")
    return kind.bits


def _little(rows: NDArray[np.uint8], bits: Bits) -> NDArray[np.uint64]:
    return uint_column(rows[:, ::-1] if bits.big_endian else rows, 0, rows.shape[1])


def _field(raw: NDArray[np.uint64], span: tuple[int, int]) -> NDArray[np.uint64]:
    start, width = span
    return (raw >> np.uint64(min(start, 63))) & np.uint64((1 << min(width, 63)) - 1)
