"""MessagePack of commit metadata."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk_virtual.repo.format.metadata_values import normalise, pack, unpack

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)


@given(json_values)
def test_round_trip(value) -> None:
    assert unpack(pack(value)) == value == normalise(value)


@pytest.mark.parametrize(
    ("value", "hexadecimal"),
    [
        (None, "c0"),
        (False, "c2"),
        (True, "c3"),
        (0, "00"),
        (127, "7f"),
        (128, "cc80"),
        (256, "cd0100"),
        (65536, "ce00010000"),
        (2**32, "cf0000000100000000"),
        (-1, "ff"),
        (-32, "e0"),
        (-33, "d0df"),
        (-129, "d1ff7f"),
        (-32769, "d2ffff7fff"),
        (-(2**31) - 1, "d3ffffffff7fffffff"),
        (1.5, "cb3ff8000000000000"),
        ("é", "a2c3a9"),
        ("x" * 32, "d920" + "78" * 32),
        ([1, [2]], "92019102"),
        ({"b": 1, "a": {"z": 2, "é": 3, "aa": 4}}, "82a16183a2616104a17a02a2c3a903a16201"),
    ],
)
def test_bytes(value, hexadecimal: str) -> None:
    assert pack(value).hex() == hexadecimal


@pytest.mark.parametrize(
    ("given_", "stored"),
    [
        (math.nan, None),
        (math.inf, None),
        (-math.inf, None),
        (2**64, 2.0**64),
        (-(2**63) - 1, -(2.0**63)),
        (b"ab", [97, 98]),
        ((1, (2,)), [1, [2]]),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
    ],
)
def test_what_becomes_of_others(given_, stored) -> None:
    assert normalise(given_) == stored
    assert unpack(pack(given_)) == stored


@pytest.mark.parametrize("value", [{1}, {1: 2}, datetime.now(UTC), object(), 1j, 10**400, [{"a": {2}}]])
def test_refused(value) -> None:
    with pytest.raises(TypeError, match="object"):
        normalise(value)


def test_endless_values() -> None:
    value: list = []
    value.append(value)
    with pytest.raises(ValueError, match="nested"):
        normalise(value)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ("ca3f000000", 0.5),
        ("cd0001", 1),
        ("d3ffffffffffffffff", -1),
        ("dd0000000101", [1]),
        ("db00000001" + "61", "a"),
        ("c0c1ff", None),
        ("cb7ff8000000000000", None),
    ],
)
def test_lenient_reading(data: str, value) -> None:
    assert unpack(bytes.fromhex(data)) == value


@pytest.mark.parametrize(
    "data",
    [
        "",
        "c1",
        "c403616263",
        "d6ff00000000",
        "d40501",
        "8101a161",
        "81c0c0",
        "a1ff",
        "92",
        "a5616263",
        "df7fffffff",
        "81c4016101",
    ],
)
def test_refused_bytes(data: str) -> None:
    with pytest.raises(ValueError):
        unpack(bytes.fromhex(data))


def test_deep_bytes() -> None:
    with pytest.raises(ValueError):
        unpack(b"\x91" * 100_000 + b"\xc0")


@given(st.binary(max_size=40))
def test_any_bytes(data: bytes) -> None:
    try:
        value = unpack(data)
    except ValueError:
        return
    assert unpack(msgpack.packb(value)) == value
