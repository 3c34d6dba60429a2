"""NetCDF-3 headers that lie: a clear error, within bounds, or the same as before. Never anything else."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import netCDF4
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk_virtual.containers.opening import open_source
from icechunk_virtual.errors import MalformedSource, UnsupportedFeature
from icechunk_virtual.model.chunk_refs import ChunkKind
from icechunk_virtual.scanners.netcdf3.header import Header, read_header
from icechunk_virtual.scanners.netcdf3.layout import lay_out
from icechunk_virtual.scanners.netcdf3.scan import scan
from icechunk_virtual.scanners.spec import ScanOptions

URL = "file:///data/x.nc"


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("originals")
    found = {}
    for kind in ("NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA"):
        path = folder / f"{kind}.nc"
        with netCDF4.Dataset(path, "w", format=kind) as file:
            file.title = "some text"
            file.createDimension("time", None)
            file.createDimension("x", 3)
            file.createVariable("time", "f8", ("time",)).units = "days since 2000-01-01"
            file.createVariable("a", "i2", ("time", "x"), fill_value=-1)[:] = np.arange(12).reshape(4, 3)
            file.createVariable("x", "f4", ("x",))[:] = 1
            file.createVariable("s", "i1", ())[:] = 1
            file["time"][:] = np.arange(4)
        found[kind] = path.read_bytes()
    return found


def parse(data: bytes) -> Header:
    return read_header(lambda offset, length: data[offset : offset + length], len(data), URL)


def header(*words: int, version: int = 1) -> bytes:
    return b"CDF" + bytes([version]) + struct.pack(f">{len(words)}I", *words)


kinds = st.sampled_from(["NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA"])


@given(kind=kinds, data=st.data())
def test_damaged_headers(originals, tmp_path_factory, kind, data) -> None:
    content = bytearray(originals[kind])
    size = parse(bytes(content)).size
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(4, size - 1))
        content[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, content[at] ^ 1, content[at] ^ 0x40]))
    path = tmp_path_factory.mktemp("damaged") / "x.nc"
    path.write_bytes(content)
    options = data.draw(st.sampled_from([ScanOptions(), ScanOptions(store_coordinates=0, store_small=0)]))
    scanned, failure = None, ""
    tracemalloc.start()
    try:
        with open_source(path) as source:
            scanned = scan(source, options)
    except (MalformedSource, UnsupportedFeature) as error:
        failure = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 64 << 20
    assert scanned is not None or str(path) in failure
    for _, array in scanned.root.walk_arrays() if scanned else ():
        virtual = array.refs.kind == ChunkKind.VIRTUAL
        ends = array.refs.offset[virtual] + array.refs.length[virtual]
        assert (ends <= len(content)).all()


@pytest.mark.parametrize("kind", ["NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA"])
def test_every_truncation_is_an_error(originals, kind) -> None:
    content = originals[kind]
    whole = parse(content)
    for end in range(len(content) - 2):  # the last two bytes are padding
        with pytest.raises(MalformedSource, match=r"of its header|is damaged or cut off: variable `"):
            lay_out(parse(content[:end]), end, URL)
    assert lay_out(whole, len(content), URL).numrecs == 4


def test_the_header_is_read_in_growing_steps() -> None:
    """One small request for a usual file; few for a long header."""
    names = [f"dimension_{i}".ljust(96, "_").encode() for i in range(3000)]
    dims = b"".join(struct.pack(">I", 96) + name + struct.pack(">I", 1) for name in names)
    data = header(0, 0x0A, 3000) + dims + struct.pack(">4I", 0, 0, 0, 0)
    requests = []

    def read(offset: int, length: int) -> bytes:
        requests.append((offset, length))
        return data[offset : offset + length]

    found = read_header(read, len(data), URL)
    assert len(found.dimensions) == 3000
    assert found.size == len(data)
    assert len(requests) == 4
    assert sum(length for _, length in requests) == len(data)


HUGE = 0x7FFFFFFF
LYING = {
    "no netCDF": (b"GRIB" + b"\0" * 30, "starts with b'GRIB'"),
    "unknown version": (b"CDF\x03" + b"\0" * 30, "format 1, 2 or 5"),
    "empty": (b"", "magic number needs 4 bytes, the file has 0 left"),
    "many dimensions": (header(0, 0x0A, HUGE) + b"\0" * 40, "2147483647 dimensions do not fit into the 40 bytes left"),
    "long name": (header(0, 0x0A, 1, HUGE) + b"\0" * 40, "a dimension name needs 2147483647 bytes"),
    "no name": (header(0, 0x0A, 1, 0, 4) + b"\0" * 40, "a dimension without a name"),
    "wrong tag": (header(0, 0x0B, 1) + b"\0" * 40, "tag 0xb with 1 entries where the dimensions should start"),
    "absent but counted": (header(0, 0, 1) + b"\0" * 40, "tag 0x0 with 1 entries"),
    "type of CDF-5": (header(0, 0, 0, 0x0C, 1, 1) + b"a\0\0\0" + struct.pack(">2I", 10, 0) + b"\0" * 8, "has type 10"),
    "unknown type": (header(0, 0, 0, 0x0C, 1, 1) + b"a\0\0\0" + struct.pack(">2I", 99, 0) + b"\0" * 8, "has type 99"),
    "long attribute": (
        header(0, 0, 0, 0x0C, 1, 1) + b"a\0\0\0" + struct.pack(">2I", 6, HUGE) + b"\0" * 8,
        "attribute `a` needs 17179869176 bytes",
    ),
    "rank": (
        header(0, 0, 0, 0, 0, 0x0B, 1, 1) + b"v\0\0\0" + struct.pack(">I", HUGE) + b"\0" * 8,
        "has 2147483647 dim",
    ),
    "dimension number": (
        header(0, 0, 0, 0, 0, 0x0B, 1, 1) + b"v\0\0\0" + struct.pack(">2I", 1, 5) + b"\0" * 40,
        "variable `v` has dimension number 5 of 0",
    ),
    "two record dimensions": (
        header(0, 0x0A, 2, 1) + b"a\0\0\0" + struct.pack(">2I", 0, 1) + b"b\0\0\0" + b"\0" * 40,
        "`b` is a second record dimension",
    ),
    "twice": (
        header(0, 0x0A, 2, 1) + b"a\0\0\0" + struct.pack(">2I", 1, 1) + b"a\0\0\0" + b"\0" * 40,
        "two of the dimensions are called `a`",
    ),
    "negative in CDF-5": (
        b"CDF\x05" + b"\0" * 8 + struct.pack(">IQ", 0x0A, 2**63) + b"\0" * 40,
        "number of dimensions is negative",
    ),
}


@pytest.mark.parametrize("case", LYING)
def test_lying_headers(case: str) -> None:
    data, message = LYING[case]
    with pytest.raises(MalformedSource) as caught:
        parse(data)
    assert message in str(caught.value)
    assert f"{URL} is not a sound NetCDF-3 file: at byte " in str(caught.value)
    assert caught.value.source == URL


def variable(name: bytes, dims: list[int], kind: int, begin: int) -> bytes:
    words = [len(name), name, len(dims), *dims, 0, 0, kind, 0, begin]
    return b"".join(w.ljust(4, b"\0") if isinstance(w, bytes) else struct.pack(">I", w) for w in words)


def file_with(numrecs: int, variables: list[bytes], size: int) -> bytes:
    """Dimensions `t` (records) and `x` (4), then the variables, then zeros."""
    dims = struct.pack(">2I", 0x0A, 2) + b"".join(
        struct.pack(">I", 1) + n.ljust(4, b"\0") + struct.pack(">I", k) for n, k in ((b"t", 0), (b"x", 4))
    )
    data = header(numrecs) + dims + struct.pack(">2I", 0, 0) + struct.pack(">2I", 0x0B, len(variables))
    return (data + b"".join(variables)).ljust(size, b"\0")


@pytest.mark.parametrize(
    ("numrecs", "variables", "message"),
    [
        (0, [(b"a", [1], 5, 8)], "`a` starts at byte 8, inside the header"),
        (0, [(b"a", [1], 5, 990)], "`a` ends at byte 1006, the file has only 1000 bytes"),
        (0, [(b"a", [1], 5, 500), (b"b", [1], 5, 508)], "`b` starts at byte 508, inside variable `a`"),
        (2, [(b"a", [0, 1], 5, 500), (b"b", [0, 1], 5, 508)], "`b` starts at byte 508, inside variable `a`"),
        (2, [(b"a", [0, 1], 5, 500), (b"b", [0, 1], 5, 520)], "`b` reaches beyond its record of 32 bytes"),
        (9, [(b"a", [0, 1], 5, 500), (b"b", [1], 5, 600)], "`b` starts at byte 600, among the records"),
        (99, [(b"a", [0, 1], 5, 500)], "`a` ends at byte 2084, .* 31 of its 99 records are complete"),
    ],
)
def test_lying_offsets(numrecs: int, variables: list, message: str) -> None:
    data = file_with(numrecs, [variable(*v) for v in variables], 1000)
    with pytest.raises(MalformedSource, match=message):
        lay_out(parse(data), len(data), URL)


def test_names_that_no_node_can_have(tmp_path: Path) -> None:
    path = tmp_path / "names.nc"
    path.write_bytes(file_with(0, [variable(b"a/b", [1], 5, 500), variable(b"c", [1], 5, 516)], 1000))
    with open_source(path) as source:
        with pytest.raises(UnsupportedFeature, match=r"`/a/b` of .* cannot be represented: `/` separates groups"):
            scan(source, ScanOptions())
        scanned = scan(source, ScanOptions(skip_unsupported=True))
        assert list(scanned.root.arrays) == ["c"]
        assert scanned.warnings[0].startswith("/a/b: left out: ")


def test_huge_dimensions_without_records(tmp_path: Path) -> None:
    """Nothing is read for them, so nothing may be made for them."""
    data = bytearray(file_with(0, [variable(b"a", [0, 1], 5, 500)], 1000))
    at = data.index(b"x\0\0\0") + 4
    data[at : at + 4] = struct.pack(">I", 2**32 - 5)
    path = tmp_path / "huge.nc"
    path.write_bytes(data)
    with open_source(path) as source:
        array = scan(source, ScanOptions()).root.arrays["a"]
    assert array.shape == (0, 2**32 - 5)
    assert array.nrefs == 0
