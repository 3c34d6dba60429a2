"""Values of commit metadata: the JSON data model, stored as MessagePack (section 4.6).

Knows nothing of the snapshot around them.
"""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

import msgpack

_MAX_DEPTH = 128


def normalise(value: Any) -> Any:
    """What a value becomes when stored: NaN and infinities ``None``, tuples and bytes lists, huge integers floats.

    Raises
    ------
    TypeError
        A value or key without counterpart in JSON, or an integer beyond the range of floats.
    ValueError
        Nested deeper than 128 levels.
    """
    return _normalise(value, _MAX_DEPTH)


def _normalise(value: Any, depth: int) -> Any:
    if depth < 0:
        raise ValueError(f"metadata nested deeper than {_MAX_DEPTH} levels")
    match value:
        case None | bool() | str():
            return value
        case int():
            return int(value) if -(2**63) <= value < 2**64 else _as_float(value)
        case float():
            return float(value) if math.isfinite(value) else None
        case bytes() | bytearray() | list() | tuple():
            return [_normalise(item, depth - 1) for item in value]
        case dict():
            for key in value:
                if not isinstance(key, str):
                    raise TypeError(f"metadata key {key!r}: '{type(key).__name__}' object cannot be cast as 'str'")
            return {str(key): _normalise(item, depth - 1) for key, item in value.items()}
    if hasattr(value, "__index__"):  # numpy integers
        return _normalise(operator.index(value), depth)
    if isinstance(value, numbers.Real):  # numpy floats
        return _normalise(float(value), depth)
    raise TypeError(f"metadata value {value!r}: '{type(value).__name__}' object cannot be cast to JSON")


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise TypeError("metadata value: 'int' object beyond the range of floats cannot be cast to JSON") from None


def pack(value: Any) -> bytes:
    """MessagePack of a value in shortest form, keys sorted at every level; errors as `normalise`."""
    packed: bytes = msgpack.packb(_sorted(normalise(value)))
    return packed


def _sorted(value: Any) -> Any:
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value, key=str.encode)}
    return value


def unpack(data: bytes) -> Any:
    """First MessagePack value in `data`; what follows it is ignored.

    Raises
    ------
    ValueError
        Cut off, or binary, extension, non-text keys, invalid UTF-8.
    """
    try:
        unpacker = msgpack.Unpacker(raw=False, strict_map_key=True, max_buffer_size=0)
        unpacker.feed(data)
        return _checked(unpacker.unpack())
    except (msgpack.exceptions.UnpackException, msgpack.exceptions.StackError, RecursionError, TypeError) as error:
        raise ValueError(f"not a MessagePack value of the JSON data model ({error!r})") from None


def _checked(value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case list():
            return [_checked(item) for item in value]
        case dict():
            if not all(isinstance(key, str) for key in value):
                raise ValueError("a key that is not text")
            return {key: _checked(item) for key, item in value.items()}
    raise ValueError(f"a {type(value).__name__} value")
