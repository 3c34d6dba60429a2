"""The sections of one GRIB message: which bytes make up one of its fields.

Bytes in, bytes out, after WMO FM 92 GRIB edition 2, sections 0 to 8. Neither eccodes nor Zarr is known here.
"""

from __future__ import annotations

import struct

from icechunk_virtual.errors import MalformedSource

MARK, END = b"GRIB", b"7777"
INDICATOR = 16  # bytes of section 0 of edition 2
_EDITION = 7  # where its number stands, in editions 1 and 2
_SAME_BITMAP = 254  # code table 6.0: the bitmap defined before in this message


def edition(message: bytes) -> int:
    """Edition of a message.

    Raises
    ------
    MalformedSource
        No GRIB message.
    """
    if message[:4] != MARK or len(message) <= _EDITION:
        raise damaged(f"it starts with {message[:4]!r}, not with {MARK!r}")
    return message[_EDITION]


def last_field(message: bytes) -> bytes:
    """The last field of a message, as a message of its own.

    Parameters
    ----------
    message
        A whole message of any edition, or the beginning of one of edition 2 up to the end of any section 7. A message
        of edition 2 may hold several fields, which share the sections that they do not repeat.

    Raises
    ------
    MalformedSource
        Sections that are cut off, or none with data.
    """
    if edition(message) != 2:
        return message
    latest: dict[int, bytes] = {}
    bitmap, fields, position = None, 0, INDICATOR
    while position < len(message) and message[position : position + 4] != END:
        if position + 5 > len(message):
            raise damaged(f"it ends inside of the section at byte {position}")
        length, number = struct.unpack_from(">IB", message, position)
        if length < 5 or position + length > len(message):
            raise damaged(f"section {number} at byte {position} claims {length} of {len(message)} bytes")
        latest[number] = message[position : position + length]
        if number == 6 and latest[6][5:6] == b"\0":
            bitmap = latest[6]
        fields += number == 7
        position += length
    if not fields:
        raise damaged("it has no section 7, which holds the data")
    if fields == 1 and message.endswith(END) and position == len(message) - len(END):
        return message
    if latest.get(6, b"")[5:6] == bytes([_SAME_BITMAP]) and bitmap is not None:
        latest[6] = bitmap
    return joined(message[:INDICATOR], [latest[number] for number in sorted(latest)])


def joined(indicator: bytes, sections: list[bytes]) -> bytes:
    """A message of edition 2 from its section 0, whose length is set, and the others but the last."""
    size = INDICATOR + sum(map(len, sections)) + len(END)
    return b"".join([indicator[:8], size.to_bytes(8, "big"), *sections, END])


def damaged(reason: str) -> MalformedSource:
    """The error about a message that cannot be read."""
    return MalformedSource(
        f"a GRIB message is damaged: {reason}. The file has changed or is broken: get it again, and scan it anew."
    )
