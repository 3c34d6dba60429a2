"""Damaged GRIB files end in a clear error or in sound references, in bounded memory."""

from __future__ import annotations

import contextlib
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk_virtual.codecs.grib_values import decode
from icechunk_virtual.containers.opening import open_source
from icechunk_virtual.errors import MalformedSource, ScanError
from icechunk_virtual.model.chunk_refs import ChunkKind
from icechunk_virtual.scanners.grib.scan import scan
from icechunk_virtual.scanners.spec import ScanOptions
from tests.support.grib_files import message, multi_field

pytest.importorskip("eccodes")
MESSAGES = {
    "edition 1": lambda: [message("regular_ll_pl_grib1", level=z) for z in (850, 500)],
    "edition 2": lambda: [message(level=z) for z in (850, 500)],
    "ensemble": lambda: [message(productDefinitionTemplateNumber=1, number=n) for n in (1, 2)],
    "fields": lambda: [multi_field([message(shortName=name) for name in "uv"]), message()],
}


@pytest.fixture(scope="module")
def originals() -> dict[str, bytes]:
    return {name: b"".join(make()) for name, make in MESSAGES.items()}


def check(path: Path, content: bytes, options: ScanOptions) -> bool:
    """Whether it could be scanned; memory and references are judged."""
    path.write_bytes(content)
    found, named = None, True
    tracemalloc.start()
    try:
        with open_source(path) as source:
            found = scan(source, options)
    except ScanError as error:
        named = str(path) in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert named, "the error does not name the file"
    assert peak < 1 << 30
    for _, array in found.root.walk_arrays() if found else ():
        virtual = array.refs.kind == ChunkKind.VIRTUAL
        assert (array.refs.offset[virtual] + array.refs.length[virtual] <= len(content)).all()
    return found is not None


@given(kind=st.sampled_from(sorted(MESSAGES)), data=st.data())
def test_damaged_bytes(originals, tmp_path_factory, kind, data) -> None:
    content = bytearray(originals[kind])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, content[at] ^ 1, content[at] ^ 0x40]))
    options = data.draw(st.sampled_from([ScanOptions(), ScanOptions(skip_unsupported=True)]))
    check(tmp_path_factory.mktemp("damaged") / "x.grib", bytes(content), options)


@given(kind=st.sampled_from(sorted(MESSAGES)), data=st.data())
def test_damaged_messages_when_they_are_read(originals, kind, data) -> None:
    content = bytearray(originals[kind])
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(MalformedSource):
        assert decode(bytes(content), (4, 6)).shape == (4, 6)


@pytest.mark.parametrize("kind", MESSAGES)
def test_every_truncation_is_an_error(originals, tmp_path, kind) -> None:
    """Where a message is cut off; within the first bytes of one, what is left is no message."""
    content = originals[kind]
    second = content.index(b"7777GRIB") + 4
    for end in [*range(1, len(content) - 1, 7)]:
        assert check(tmp_path / "x", content[:end], ScanOptions()) == (second <= end < second + 8)
    assert check(tmp_path / "x", content[:-10], ScanOptions(skip_unsupported=True))


LYING = {
    "length beyond the file": (8, (1 << 60).to_bytes(8, "big"), "claims 1152921504606846976 bytes, but only"),
    "no length": (8, bytes(8), "claims 0 bytes"),
    "short": (8, (100).to_bytes(8, "big"), "does not end after 100 bytes"),
    "edition": (7, b"\x03", "is of edition 3"),
    "long section": (16, b"\xff\xff\xff\xff", "has a section that makes no sense at its byte 16"),
    "empty section": (16, bytes(4), "has a section that makes no sense at its byte 16"),
    "no such section": (20, b"\x09", "has a section that makes no sense at its byte 16"),
    "no date": (16 + 14, b"\x0d", "has a reference time that is no date"),
}


@pytest.mark.parametrize("case", LYING)
def test_lying_messages(tmp_path: Path, case: str) -> None:
    at, lie, says = LYING[case]
    good, bad = message(level=500), bytearray(message())
    bad[at : at + len(lie)] = lie
    path = tmp_path / "lying.grib2"
    path.write_bytes(good + bytes(bad))
    with open_source(path) as source:
        with pytest.raises(MalformedSource, match=says) as caught:
            scan(source, ScanOptions())
        assert caught.value.position == len(good)  # type: ignore[attr-defined]
        result = scan(source, ScanOptions(skip_unsupported=True))
    assert result.root.arrays["t"].nrefs == 1
    assert says in result.warnings[0]


@pytest.mark.parametrize("content", [b"GRIB", b"GRIB\0\0\0\2", b"x" * 300_000, b"GRIB" * 50_000])
def test_no_messages(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.grib"
    path.write_bytes(content)
    with open_source(path) as source, pytest.raises(MalformedSource, match="is not a sound GRIB file"):
        scan(source, ScanOptions())
