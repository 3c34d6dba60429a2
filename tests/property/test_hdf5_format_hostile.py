"""Real HDF5 files with bytes changed, cut off or repeated: they are read, or refused in words, in bounded work."""

from __future__ import annotations

import functools
import struct
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk_virtual.scanners.hdf5.format.context import Context
from icechunk_virtual.scanners.hdf5.format.damage import Damaged, NotHandled
from icechunk_virtual.scanners.hdf5.format.driver import run
from icechunk_virtual.scanners.hdf5.format.objects import File, read_file
from tests.support.hdf5_judge import Bytes


def fill(file: h5py.File) -> None:
    file.attrs["number"] = 1.5
    file.attrs["texts"] = ["a", "bc"]
    group = file.create_group("group")
    for i in range(12):
        group.attrs[f"{i}"] = np.arange(i, dtype="i2")
        group[f"link {i}"] = h5py.SoftLink(f"/x{i}")
    file.create_dataset("record", data=np.ones(2, [("a", "i1"), ("b", ">f8", (2,)), ("c", "S3")]))
    file.create_dataset("enum", data=[0, 1], dtype=h5py.enum_dtype({"a": 0, "b": 1}))
    file.create_dataset("filtered", data=np.arange(90), chunks=(1,), compression="gzip", shuffle=True)
    file.create_dataset("grows", data=np.arange(90), chunks=(1,), maxshape=(None,))
    file.create_dataset("spreads", data=np.ones((9, 9)), chunks=(2, 1), maxshape=(None, None))
    file.attrs["ref"] = file["enum"].ref
    file["external"] = h5py.ExternalLink("other.h5", "/x")
    file.create_dataset("outside", (3,), "i2", external="raw.bin")


@functools.cache
def sample(libver: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.h5"
        with h5py.File(path, "w", libver=(libver, "latest" if libver == "earliest" else libver)) as file:
            fill(file)
        return path.read_bytes()


def outcome(data: bytes) -> File | Damaged | NotHandled:
    source = Bytes(data)
    try:
        return run(read_file(source.size), source)
    except (Damaged, NotHandled) as error:
        return error


def outcome_unchecked(data: bytes) -> File | Damaged | NotHandled:
    """As if somebody had damaged the file on purpose, with right checksums."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Context, "verify", lambda self: None)
        return outcome(data)


versions = st.sampled_from(["earliest", "v108", "v110"])
interesting = st.sampled_from(
    [b"\xff", b"\x00", b"\xff" * 2, b"\xff" * 4, b"\xff" * 8, b"\x00" * 8, b"\x7f", b"\x80", b"\x01\x00", b"\xfe\xff"]
)


@given(
    versions, st.lists(st.tuples(st.integers(0, 2**16), interesting | st.binary(min_size=1, max_size=8)), max_size=6)
)
def test_changed_bytes(libver: str, changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(sample(libver))
    for place, new in changes:
        start = place % (len(data) - 8)
        data[start : start + len(new)] = new
    outcome_unchecked(bytes(data))


@given(versions, st.integers(0, 2**16), st.integers(0, 2**16), st.integers(1, 64))
def test_bytes_of_elsewhere(libver: str, to: int, start: int, length: int) -> None:
    data = bytearray(sample(libver))
    to, start = to % (len(data) - 64), start % (len(data) - 64)
    data[to : to + length] = data[start : start + length]
    outcome_unchecked(bytes(data))


@given(versions, st.integers(0, 2**16))
def test_cut_off(libver: str, length: int) -> None:
    data = sample(libver)
    outcome(data[: length % len(data)])


@pytest.mark.parametrize("libver", ["earliest", "v108", "v110"])
def test_every_address_changed(libver: str) -> None:
    """Addresses that lead to other blocks of the file: cycles, and blocks that are parts of each other."""
    data = sample(libver)
    words = {place: struct.unpack_from("<Q", data, place)[0] for place in range(len(data) - 8)}
    addresses = sorted({word for word in words.values() if 0 < word < len(data)})
    random = np.random.default_rng(0)
    places = [place for place, word in words.items() if 0 < word < len(data)]
    for place in random.choice(places, 150):
        changed = bytearray(data)
        struct.pack_into("<Q", changed, int(place), int(random.choice(addresses)))
        outcome_unchecked(bytes(changed))


@pytest.mark.parametrize("libver", ["v108", "v110"])
def test_checksums_are_judged(libver: str) -> None:
    """No byte of a block with a checksum may change without being noticed."""
    data = sample(libver)
    place = data.index(b"OHDR")
    for offset in range(16, 60):
        changed = bytearray(data)
        changed[place + offset] ^= 0x10
        assert isinstance(outcome(bytes(changed)), Damaged | NotHandled)


def test_damage_has_a_position() -> None:
    data = sample("earliest")
    whole = outcome(data)
    assert isinstance(whole, File)
    place = whole.root  # of the header, which begins with its version
    found = outcome(data[:place] + b"\x09" + data[place + 1 :])
    assert isinstance(found, Damaged)
    assert found.position == place


def test_what_is_no_hdf5_file() -> None:
    for data in (b"", b"x", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n\x09", bytes(5000)):
        assert isinstance(outcome(data), Damaged)
