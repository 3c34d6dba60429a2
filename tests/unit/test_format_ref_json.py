"""The content of branches and tags."""

from __future__ import annotations

import pytest

from icechunk_virtual.errors import CorruptFile
from icechunk_virtual.model.ids import INITIAL_SNAPSHOT_ID
from icechunk_virtual.repo.format.ref_json import decode_ref, encode_ref

BYTES = b'{"snapshot":"1CECHNKREP0F1RSTCMT0"}'


def test_bytes() -> None:
    assert encode_ref(INITIAL_SNAPSHOT_ID) == BYTES
    assert len(BYTES) == 35
    assert decode_ref(BYTES, file="r") == INITIAL_SNAPSHOT_ID


@pytest.mark.parametrize(
    "data", [b' { "more": [1], "snapshot" : "1cechnkrep0f1rstcmt0" }\n', b'{"snapshot":"ICECHNKREPOF1RSTCMTO"}']
)
def test_lenient(data: bytes) -> None:
    assert decode_ref(data, file="r") == INITIAL_SNAPSHOT_ID


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'"x"',
        b'{"snapshot":null}',
        b'{"snapshot":"x"}',
        b'{"snapshot":[1]}',
        b"\xff",
        b"[" * 9999,
    ]
    + [b'{"snapshot":"U' + b"0" * 19 + b'"}', b'{"snapshot":' + b"[" * 20 + b"]" * 20 + b"}"],
)
def test_damaged(data: bytes) -> None:
    with pytest.raises(CorruptFile) as caught:
        decode_ref(data, file="refs/branch.main/ref.json")
    assert caught.value.kind == "ref"
    assert caught.value.file == "refs/branch.main/ref.json"
