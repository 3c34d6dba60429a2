"""Datatype messages (section IV.A.2.d, versions 1 to 5): the form of elements, as a tree.

Only the form: which numpy type has it and how elements become values is the business of `elements`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from icechunk_virtual.scanners.hdf5.format.cursor import Cursor
from icechunk_virtual.scanners.hdf5.format.damage import NotHandled

_DEEPEST = 64  # types inside types
_LARGEST = 1 << 31  # bytes
_MOST_AXES = 32  # of array types, also of those inside each other
_VERSIONS = (1, 2, 3, 4, 5)


class TypeClass(IntEnum):
    """Classes of types."""

    INTEGER = 0
    FLOAT = 1
    TIME = 2
    STRING = 3
    BITFIELD = 4
    OPAQUE = 5
    COMPOUND = 6
    REFERENCE = 7
    ENUM = 8
    VLEN = 9
    ARRAY = 10
    COMPLEX = 11


class Padding(IntEnum):
    """What stands behind a text that is shorter than its field."""

    NULL_TERMINATED = 0
    NULL_PADDED = 1
    SPACE_PADDED = 2


class Charset(IntEnum):
    """Encoding of a text."""

    ASCII = 0
    UTF8 = 1


class ReferenceKind(IntEnum):
    """What a reference points to. The last three are those of HDF5 1.12 ("standard references")."""

    OBJECT = 0
    REGION = 1
    STANDARD_OBJECT = 2
    STANDARD_REGION = 3
    ATTRIBUTE = 4


@dataclass(frozen=True, slots=True)
class Bits:
    """How a number lies in its bytes.

    Attributes
    ----------
    big_endian, vax : bool
        Order of the bytes; `vax`: that of VAX computers.
    signed : bool
        Integers in two's complement.
    offset, precision : int
        First bit that counts, and how many do.
    sign, exponent, mantissa : int or (int, int)
        Of floats: position of the sign; position and width of exponent and mantissa.
    bias : int
        Of the exponent.
    normalization : int
        0: none, 1: the highest bit of the mantissa is always set, 2: and is not stored.
    """

    big_endian: bool = False
    vax: bool = False
    signed: bool = False
    offset: int = 0
    precision: int = 0
    sign: int = 0
    exponent: tuple[int, int] = (0, 0)
    mantissa: tuple[int, int] = (0, 0)
    bias: int = 0
    normalization: int = 0


@dataclass(frozen=True, slots=True)
class Member:
    """A field of a compound."""

    name: bytes
    offset: int
    type: Datatype


@dataclass(frozen=True, slots=True)
class Datatype:
    """A type.

    Attributes
    ----------
    kind : TypeClass
    size : int
        Bytes of an element.
    bits : Bits or None
        Of numbers.
    padding, charset
        Of text.
    is_text : bool
        A vlen is a text, not a sequence.
    tag : bytes
        Of opaque types.
    members : tuple of Member
        Of compounds.
    reference : ReferenceKind or None
    base : Datatype or None
        Of enumerations, vlens, arrays and complex numbers.
    names : tuple of (bytes, bytes)
        Of enumerations: name, and value as the bytes of the base.
    shape : tuple of int
        Of arrays.
    """

    kind: TypeClass
    size: int
    bits: Bits | None = None
    padding: Padding = Padding.NULL_TERMINATED
    charset: Charset = Charset.ASCII
    is_text: bool = False
    tag: bytes = b""
    members: tuple[Member, ...] = ()
    reference: ReferenceKind | None = None
    base: Datatype | None = None
    names: tuple[tuple[bytes, bytes], ...] = ()
    shape: tuple[int, ...] = ()


def parse_datatype(cursor: Cursor, depth: int = 0) -> Datatype:
    """Parse a type; the cursor stands behind it then."""
    if depth > _DEEPEST:
        cursor.fail(f"more than {_DEEPEST} types inside each other")
    first = cursor.uint(1)
    version, kind = first >> 4, first & 0x0F
    if version not in _VERSIONS or kind not in _PARSERS:
        cursor.position -= 1
        cursor.fail(f"a type of version {version} and class {kind}")
    flags, size = cursor.uint(3), cursor.uint(4)
    if not 0 < size < _LARGEST:
        cursor.fail(f"a type of {size} bytes")
    return _PARSERS[kind](cursor, version, flags, size, depth)


def _integer(cursor: Cursor, _version: int, flags: int, size: int, _depth: int) -> Datatype:
    offset, precision = _span(cursor, size)
    bits = Bits(big_endian=bool(flags & 1), signed=bool(flags & 8), offset=offset, precision=precision)
    return Datatype(TypeClass.INTEGER, size, bits)


def _bitfield(cursor: Cursor, _version: int, flags: int, size: int, _depth: int) -> Datatype:
    offset, precision = _span(cursor, size)
    return Datatype(TypeClass.BITFIELD, size, Bits(big_endian=bool(flags & 1), offset=offset, precision=precision))


def _time(cursor: Cursor, _version: int, flags: int, size: int, _depth: int) -> Datatype:
    return Datatype(TypeClass.TIME, size, Bits(big_endian=bool(flags & 1), precision=cursor.uint(2)))


def _float(cursor: Cursor, _version: int, flags: int, size: int, _depth: int) -> Datatype:
    offset, precision = _span(cursor, size)
    exponent = (cursor.uint(1), cursor.uint(1))
    mantissa = (cursor.uint(1), cursor.uint(1))
    bits = Bits(
        big_endian=bool(flags & 1),
        vax=flags & 0x41 == 0x41,
        signed=True,
        offset=offset,
        precision=precision,
        sign=flags >> 8 & 0xFF,
        exponent=exponent,
        mantissa=mantissa,
        bias=cursor.uint(4),
        normalization=flags >> 4 & 3,
    )
    return Datatype(TypeClass.FLOAT, size, bits)


def _span(cursor: Cursor, size: int) -> tuple[int, int]:
    offset, precision = cursor.uint(2), cursor.uint(2)
    if not precision or offset + precision > 8 * size:
        cursor.fail(f"{precision} bits from bit {offset} on, in {size} bytes")
    return offset, precision


def _string(cursor: Cursor, _version: int, flags: int, size: int, _depth: int) -> Datatype:
    padding, charset = _text(cursor, flags)
    return Datatype(TypeClass.STRING, size, padding=padding, charset=charset)


def _text(cursor: Cursor, flags: int) -> tuple[Padding, Charset]:
    padding, charset = flags & 0x0F, flags >> 4 & 0x0F
    if padding > max(Padding) or charset > max(Charset):
        cursor.fail(f"text with padding {padding} and character set {charset}")
    return Padding(padding), Charset(charset)


def _opaque(cursor: Cursor, _version: int, flags: int, size: int, _depth: int) -> Datatype:
    return Datatype(TypeClass.OPAQUE, size, tag=cursor.take(flags & 0xFF).split(b"\0")[0])


def _compound(cursor: Cursor, version: int, flags: int, size: int, depth: int) -> Datatype:
    count = flags & 0xFFFF
    if not count:
        cursor.fail("a compound without members")
    members = tuple(_member(cursor, version, size, depth) for _ in range(count))
    if sum(member.type.size for member in members) > size:
        cursor.fail("a compound with members that overlap")
    return Datatype(TypeClass.COMPOUND, size, members=members)


def _member(cursor: Cursor, version: int, size: int, depth: int) -> Member:
    name = _name(cursor, version)
    offset = cursor.uint(4 if version < 3 else (size.bit_length() + 7) // 8)
    shape: tuple[int, ...] = ()
    if version == 1:  # arrays had no class of their own
        rank = cursor.uint(1)
        if rank > 4:
            cursor.fail(f"a member with {rank} axes")
        cursor.skip(3 + 4 + 4)
        shape = tuple(cursor.uint(4) for _ in range(4))[:rank]
    kind = parse_datatype(cursor, depth + 1)
    if shape:
        kind = Datatype(TypeClass.ARRAY, kind.size * math.prod(shape), base=kind, shape=shape)
    if offset + kind.size > size:
        cursor.fail(f"member {name!r} lies outside of its compound")
    return Member(name, offset, kind)


def _name(cursor: Cursor, version: int) -> bytes:
    start = cursor.position
    name = cursor.text()
    if version < 3:
        cursor.align(start)
    return name


def _reference(_cursor: Cursor, _version: int, flags: int, size: int, _depth: int) -> Datatype:
    kind = flags & 0x0F
    if kind > max(ReferenceKind):
        raise NotHandled(f"references of type {kind}")
    return Datatype(TypeClass.REFERENCE, size, reference=ReferenceKind(kind))


def _enum(cursor: Cursor, version: int, flags: int, size: int, depth: int) -> Datatype:
    base = parse_datatype(cursor, depth + 1)
    if base.size != size:
        cursor.fail(f"an enumeration of {size} bytes over a type of {base.size}")
    count = flags & 0xFFFF
    names = [_name(cursor, version) for _ in range(count)]
    values = [cursor.take(size) for _ in range(count)]
    return Datatype(TypeClass.ENUM, size, base=base, names=tuple(zip(names, values, strict=True)))


def _vlen(cursor: Cursor, _version: int, flags: int, size: int, depth: int) -> Datatype:
    is_text = flags & 0x0F == 1
    padding, charset = _text(cursor, flags >> 4) if is_text else (Padding.NULL_TERMINATED, Charset.ASCII)
    base = parse_datatype(cursor, depth + 1)
    if size != 4 + cursor.sizes.offset + 4:
        cursor.fail(f"a vlen of {size} bytes")
    return Datatype(TypeClass.VLEN, size, padding=padding, charset=charset, is_text=is_text, base=base)


def _array(cursor: Cursor, version: int, _flags: int, size: int, depth: int) -> Datatype:
    rank = cursor.uint(1)
    if version < 3:
        cursor.skip(3)
    shape = tuple(cursor.uint(4) for _ in range(rank))
    if version < 3:
        cursor.skip(4 * rank)  # permutation, never used
    base = parse_datatype(cursor, depth + 1)
    if rank + _axes(base) > _MOST_AXES:
        raise NotHandled(f"arrays with more than {_MOST_AXES} axes")
    if math.prod(shape) * base.size != size:
        cursor.fail(f"an array of {size} bytes, with shape {shape} over a type of {base.size}")
    return Datatype(TypeClass.ARRAY, size, base=base, shape=shape)


def _axes(kind: Datatype) -> int:
    return len(kind.shape) + _axes(kind.base) if kind.kind == TypeClass.ARRAY and kind.base is not None else 0


def _complex(cursor: Cursor, _version: int, _flags: int, size: int, depth: int) -> Datatype:
    base = parse_datatype(cursor, depth + 1)
    if base.kind != TypeClass.FLOAT or 2 * base.size != size:
        raise NotHandled(f"complex numbers of {size} bytes over another type than floats")
    return Datatype(TypeClass.COMPLEX, size, base=base)


_PARSERS: dict[int, Callable[[Cursor, int, int, int, int], Datatype]] = {
    TypeClass.INTEGER: _integer,
    TypeClass.FLOAT: _float,
    TypeClass.TIME: _time,
    TypeClass.STRING: _string,
    TypeClass.BITFIELD: _bitfield,
    TypeClass.OPAQUE: _opaque,
    TypeClass.COMPOUND: _compound,
    TypeClass.REFERENCE: _reference,
    TypeClass.ENUM: _enum,
    TypeClass.VLEN: _vlen,
    TypeClass.ARRAY: _array,
    TypeClass.COMPLEX: _complex,
}
