"""Object ids: raw bytes inside, Crockford base32 text outside (format version 1, section 2).

Ids are compared as raw bytes everywhere.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NewType

SnapshotId = NewType("SnapshotId", bytes)
ManifestId = NewType("ManifestId", bytes)
ChunkId = NewType("ChunkId", bytes)
NodeId = NewType("NodeId", bytes)

OBJECT_ID_SIZE = 12
NODE_ID_SIZE = 8

INITIAL_SNAPSHOT_ID = SnapshotId(bytes.fromhex("0b1cc8d6787580f0e33a6534"))
"""Id of the first snapshot of every new repository (text ``1CECHNKREP0F1RSTCMT0``)."""

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_VALUES = {c: i for i, c in enumerate(_ALPHABET)} | {"O": 0, "I": 1, "L": 1}
_VALUES |= {c.lower(): i for c, i in _VALUES.items()}


@lru_cache(maxsize=4096)  # each id of a commit is asked for several times
def encode_id(raw: bytes) -> str:
    """Text of an id: upper-case Crockford base32 without padding, last group filled with zero bits on the right."""
    nchars = -(-len(raw) * 8 // 5)
    npairs = -(-nchars // 2)
    number = int.from_bytes(raw, "big") << (npairs * 10 - len(raw) * 8)
    return "".join([_PAIRS[(number >> shift) & 1023] for shift in range(npairs * 10 - 10, -1, -10)])[:nchars]


@lru_cache(maxsize=4096)
def decode_id(text: str, size: int = OBJECT_ID_SIZE) -> bytes:
    """Raw bytes of an id text.

    Case is ignored, ``O`` reads as 0, ``I`` and ``L`` as 1, surplus low bits of the last character are ignored.

    Raises
    ------
    ValueError
        Wrong number of characters, or a character outside the alphabet.
    """
    nchars = -(-size * 8 // 5)
    if len(text) != nchars:
        raise ValueError(f"an id of {size} bytes has {nchars} characters, got {len(text)}: {text!r}")
    number = 0
    for char in text:  # not text.upper(): that of some foreign letters is in the alphabet
        value = _VALUES.get(char)
        if value is None:
            raise ValueError(f"not a Crockford base32 character: {char!r} in {text!r}")
        number = (number << 5) | value
    return (number >> (nchars * 5 - size * 8)).to_bytes(size, "big")
