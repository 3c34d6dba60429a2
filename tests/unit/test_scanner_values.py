"""Documents, stored arrays, attributes and the values of a scan."""

from __future__ import annotations

import base64
import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from icechunk_virtual.model.chunk_refs import ChunkRefs
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.scanners.attributes import attribute_json, fill_value_json
from icechunk_virtual.scanners.dataset import Scanned, Stored, VirtualArray, VirtualGroup, human_bytes
from icechunk_virtual.scanners.documents import BYTES, STRING, array_document, data_type, fill_scalar, native_dtype
from icechunk_virtual.scanners.native import decode_array, decode_chunk, encode_chunk, stored_array
from tests.support.scanned import open_group

pytestmark = [pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")]

DTYPES = [
    "?",
    "i1",
    "<i4",
    ">i8",
    "u1",
    ">u2",
    "<f2",
    ">f4",
    "<f8",
    "<c8",
    ">c16",
    "S3",
    "V5",
    "<M8[ns]",
    "<m8[s]",
    "<U2",
]
RECORD = np.dtype([("n", "<i4"), ("x", "<f8"), ("s", "S2")])
TEXTS = [
    np.array(["a", "éß", ""], object),
    np.array([["x"], ["yz"]], object),
    np.array("one", object),
    np.array([b"a", b"", b"\0\xff"], object),
]


def same(a: Any, b: Any) -> bool:
    """Bit for bit."""
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype.kind == "O":
        return a.shape == b.shape and a.tolist() == b.tolist()
    return a.shape == b.shape and a.tobytes() == np.ascontiguousarray(b, a.dtype).tobytes()


@given(
    st.sampled_from([*(d for d in DTYPES if d != "V5"), RECORD]).flatmap(
        lambda d: hnp.arrays(np.dtype(d), hnp.array_shapes(max_side=5))
    ),
    st.data(),
)
def test_stored_arrays_come_back(values: Any, data: st.DataObject) -> None:
    chunk_shape = tuple(data.draw(st.integers(1, n + 1)) for n in values.shape)
    array = stored_array(values, chunk_shape=chunk_shape)
    json.dumps(array.document, allow_nan=False)
    assert array.nrefs == np.prod([-(-n // c) for n, c in zip(values.shape, chunk_shape, strict=True)])
    assert same(decode_array(array), values)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 500), (2, 0, 3)])
def test_zarr_reads_stored_arrays(dtype: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    values = rng.integers(0, 100, shape).astype("S3" if dtype == "V5" else dtype)
    values = np.asarray(values).astype(dtype)
    array = stored_array(values, chunk_shape=[max(1, n // 2) for n in shape], attributes={"a": 1})
    read = open_group(VirtualGroup({}, {"x": array}))["x"]
    assert np.array_equal(read[...], values)
    assert dict(read.attrs) == {"a": 1}
    assert (array.nrefs == 0) == (values.size == 0)


@pytest.mark.parametrize("values", TEXTS)
def test_zarr_reads_stored_text(values: Any) -> None:
    array = stored_array(values, chunk_shape=[2] * values.ndim)
    read = open_group(VirtualGroup({}, {"x": array}))["x"]
    assert np.asarray(read[...], object).tolist() == values.tolist()
    assert same(decode_array(array), values)


def test_large_arrays_are_compressed() -> None:
    assert stored_array(np.zeros(1000)).nbytes_stored < 100
    assert stored_array(np.zeros(100)).nbytes_stored == 800


@pytest.mark.parametrize(
    "codec",
    [
        {"name": "numcodecs.zlib", "configuration": {"level": 1}},
        {"name": "numcodecs.fletcher32", "configuration": {}},
        {"name": "gzip", "configuration": {"level": 1}},
        {
            "name": "blosc",
            "configuration": {"typesize": 4, "cname": "lz4", "clevel": 3, "shuffle": "bitshuffle", "blocksize": 0},
        },
    ],
)
def test_chunks_with_every_codec(codec: dict[str, Any]) -> None:
    document = array_document((10,), np.dtype(">i4"), chunk_shape=(6,), fill_value=-9, compressors=[codec])
    data = encode_chunk(document, np.arange(4, dtype=">i4"))
    assert decode_chunk(document, data).tolist() == [0, 1, 2, 3, -9, -9]


def test_unknown_codecs_and_types_are_errors() -> None:
    with pytest.raises(TypeError, match="'mystery'"):
        encode_chunk(array_document((1,), np.dtype("i1"), compressors=[{"name": "mystery"}]), np.zeros(1, "i1"))
    with pytest.raises(TypeError, match="no data type"):
        data_type(np.dtype("f8, >f4"))
    with pytest.raises(TypeError, match="int"):
        stored_array(np.array([1, "a"], object))


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        ("f4", np.nan, "NaN"),
        ("f8", np.inf, "Infinity"),
        ("f2", -np.inf, "-Infinity"),
        ("f4", np.array([0x7FC00001], "u4").view("f4")[0], "0x7fc00001"),
        ("f4", np.float32(0.1), float(np.float32(0.1))),
        ("c8", complex(1, np.inf), [1.0, "Infinity"]),
        ("c8", np.array([0x7FC00001, 0], "u4").view("c8")[0], ["0x7fc00001", 0.0]),
        (">i2", -5, -5),
        ("u8", 2**64 - 1, 2**64 - 1),
        ("?", True, True),
        ("S4", b"ab", base64.b64encode(b"ab\0\0").decode()),
        ("U3", "né", "né"),
        ("<M8[s]", np.datetime64("NaT", "s"), -(2**63)),
        ("f8", None, 0.0),
    ],
)
def test_fill_values(dtype: str, value: Any, expected: Any) -> None:
    document = array_document((3,), np.dtype(dtype), fill_value=value)
    assert document["fill_value"] == expected
    assert native_dtype(document).newbyteorder("=") == np.dtype(dtype).newbyteorder("=")
    back = np.array(fill_scalar(document, np.dtype(dtype)), dtype)
    wanted = np.zeros((), dtype)
    wanted[()] = 0 if value is None else value
    assert back.tobytes() == wanted.tobytes()
    read = open_group(VirtualGroup({}, {"x": VirtualArray(document, ChunkRefs.empty(1))}))["x"][...]
    assert read.tobytes() == np.full(3, wanted).astype(read.dtype).tobytes()


def test_types_without_a_length() -> None:
    assert fill_scalar(array_document((1,), STRING, fill_value="x"), STRING) == "x"
    assert fill_scalar(array_document((1,), BYTES, fill_value=b"x"), BYTES) == b"x"


@given(st.one_of(st.floats(), st.integers(-(2**63), 2**64 - 1), st.text(), st.booleans()))
def test_attributes_keep_their_value(value: Any) -> None:
    converted, note = attribute_json(value)
    expected = value.rstrip("\0") if isinstance(value, str) else value
    assert type(converted) is type(expected)
    assert note is None
    assert repr(converted) == repr(expected)  # NaN and -0.0 too
    array, _ = attribute_json(np.array([value, value], object))
    assert repr(array) == repr([converted, converted])


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        ("f4", np.float32(1e20), base64.b64encode(np.float64(np.float32(1e20)).tobytes()).decode()),
        ("f8", np.array([np.nan]), base64.b64encode(np.float64(np.nan).tobytes()).decode()),
        ("f4", np.int16(-99), base64.b64encode(np.float64(-99).tobytes()).decode()),
        ("i2", np.int16(-32768), -32768),
        ("i2", np.float64(7), 7),
        ("?", True, True),
        ("i2", 0.5, None),
        ("i2", np.nan, None),
        ("i2", np.inf, None),
        ("S1", b"x", None),
        ("f4", "NaN", None),
        ("f4", np.array([1, 2]), None),
    ],
)
def test_fill_value_attributes(dtype: str, value: Any, expected: Any) -> None:
    found, note = fill_value_json(value, np.dtype(dtype))
    assert found == expected
    assert (note is None) == (expected is not None)


def sample() -> Scanned:
    document = array_document((4, 6), np.dtype("f4"), chunk_shape=(2, 6), dimension_names=("time", "x"))
    locations = Locations.of(["file:///a.nc"])
    refs = ChunkRefs.virtual(np.array([[0, 0], [1, 0]]), locations, 0, np.array([100, 148]), np.array([48, 48]))
    inner = VirtualGroup({}, {"v": VirtualArray(document, refs)})
    time = stored_array(np.arange(4.0), dimension_names=("time",), attributes={"units": "d"})
    root = VirtualGroup({"title": "x"}, {"time": time}, {"g": VirtualGroup({}, {}, {"h": inner})})
    return Scanned(root, "file:///a.nc", "HDF5", (Stored("/time", "coordinate", 32),), ("/g: something",))


def test_scans_count_what_they_found() -> None:
    root = sample().root
    assert [path for path, _ in root.walk()] == ["/", "/g", "/g/h"]
    assert [path for path, _ in root.walk_arrays()] == ["/time", "/g/h/v"]
    assert (root.nrefs, root.nbytes_virtual, root.nbytes_stored) == (3, 96, 32)
    array = root.groups["g"].groups["h"].arrays["v"]
    assert (array.shape, array.chunk_shape, array.dtype) == ((4, 6), (2, 6), "float32")
    assert (array.dimension_names, array.size, array.attributes) == (("time", "x"), 24, {})
    assert VirtualArray(array_document((2,), np.dtype("S8")), ChunkRefs.empty(1)).dtype == "null_terminated_bytes[8]"
    with pytest.raises(ValueError, match="rank 1"):
        VirtualArray(array.document, ChunkRefs.empty(1))


def test_representation() -> None:
    assert repr(sample()).splitlines() == [
        "Scanned file:///a.nc (HDF5)",
        "3 chunks, 96 B virtual, 32 B stored",
        "/  (1 attribute)",
        "  time (time: 4) float64, chunks (4,), 1 ref, 32 B stored",
        "  g",
        "    h",
        "      v (time: 4, x: 6) float32, chunks (2, 6), 2 refs, 96 B virtual",
        "stored:",
        "  /time: coordinate (32 B)",
        "warnings:",
        "  /g: something",
    ]
    assert [human_bytes(n) for n in (0, 1023, 1536, 2**20, 2**60)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "1.0 MiB",
        "1024.0 PiB",
    ]


def test_scans_pickle() -> None:
    again = pickle.loads(pickle.dumps(sample()))
    assert repr(again) == repr(sample())
