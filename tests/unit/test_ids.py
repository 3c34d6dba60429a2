"""Ids and their texts (format version 1, section 2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk_virtual.model.ids import INITIAL_SNAPSHOT_ID, NODE_ID_SIZE, OBJECT_ID_SIZE, decode_id, encode_id

VECTORS = [
    ("000102030405060708090a0b", "000G40R40M30E209185G"),
    ("0b1cc8d6787580f0e33a6534", "1CECHNKREP0F1RSTCMT0"),
    ("ff" * 12, "ZZZZZZZZZZZZZZZZZZZG"),
    ("00" * 11 + "01", "0000000000000000000G"),
    ("0001020304050607", "000G40R40M30E"),
    ("deadbeefcafebabe", "VTPVXVYAZTXBW"),
    ("ff" * 8, "ZZZZZZZZZZZZY"),
]


@pytest.mark.parametrize(("raw", "text"), VECTORS)
def test_vectors(raw: str, text: str) -> None:
    data = bytes.fromhex(raw)
    assert encode_id(data) == text
    assert decode_id(text, len(data)) == data
    assert decode_id(text.lower(), len(data)) == data


def test_the_first_snapshot() -> None:
    assert encode_id(INITIAL_SNAPSHOT_ID) == "1CECHNKREP0F1RSTCMT0"


@given(st.sampled_from([OBJECT_ID_SIZE, NODE_ID_SIZE]).flatmap(lambda n: st.binary(min_size=n, max_size=n)))
def test_round_trip(raw: bytes) -> None:
    text = encode_id(raw)
    assert decode_id(text, len(raw)) == raw
    assert text == text.upper()


@given(st.lists(st.binary(min_size=12, max_size=12), min_size=2))
def test_texts_sort_as_ids_do(ids: list[bytes]) -> None:
    assert [encode_id(raw) for raw in sorted(ids)] == sorted(encode_id(raw) for raw in ids)


def test_look_alikes_and_surplus_bits_are_tolerated() -> None:
    assert decode_id("lCECHNKREPoFIRSTCMTO") == INITIAL_SNAPSHOT_ID
    assert decode_id("ZZZZZZZZZZZZZZZZZZZZ") == b"\xff" * 12


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1CECHNKREP0F1RSTCMT",
        "1CECHNKREP0F1RSTCMT00",
        "1CECHNKREP0F1RSTCMTU",
        "1CECHNKREP0F1RSTCM-0",
        "1CECHNKREP0F1RSTCM==",
        " CECHNKREP0F1RSTCMT0",
        "1CECHNKREP0F1RSTCMT\N{LATIN SMALL LETTER DOTLESS I}",  # its upper case is I
        "1CECHNKREP0F1RSTCMT\N{LATIN SMALL LETTER LONG S}",  # its upper case is S
        "1CECHNKREP0F1RSTCM\N{LATIN SMALL LETTER SHARP S}",  # its upper case has two letters
        "\N{FULLWIDTH DIGIT ONE}CECHNKREP0F1RSTCMT0",
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"base32|characters"):
        decode_id(text)
