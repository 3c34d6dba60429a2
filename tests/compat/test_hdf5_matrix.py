"""Values read through the references of the HDF5 scanner equal those that h5py reads."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import h5py
import hdf5plugin
import numpy as np
import pytest
import zarr

from icechunk_virtual.containers.opening import open_source
from icechunk_virtual.errors import MalformedSource, UnsupportedFeature
from icechunk_virtual.model.chunk_refs import ChunkKind
from icechunk_virtual.scanners.dataset import Scanned, VirtualArray
from icechunk_virtual.scanners.hdf5.chunks import read_chunk_index
from icechunk_virtual.scanners.hdf5.scan import scan
from icechunk_virtual.scanners.spec import ScanOptions
from tests.support.scanned import open_group

pytestmark = [
    pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3"),
    pytest.mark.filterwarnings("ignore:The data type"),
    pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning"),
]

PLAIN = ScanOptions(store_coordinates=0, store_small=0)


def scanned(path: Path, options: ScanOptions = PLAIN) -> Scanned:
    with open_source(str(path)) as source:
        return scan(source, options)


def kinds(array: VirtualArray) -> set[ChunkKind]:
    return {ChunkKind(k) for k in np.unique(array.refs.kind)}


def equal(actual: Any, expected: Any) -> None:
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    if expected.dtype.kind in "fc":
        np.testing.assert_array_equal(actual, expected)
    else:
        assert actual.tolist() == expected.tolist()


DTYPES = [
    *(
        f"{order}{kind}"
        for order in "<>"
        for kind in ("i2", "i4", "i8", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
    ),
    "i1",
    "u1",
    "?",
    "S1",
    "S7",
]
FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "deflate": {"compression": "gzip", "compression_opts": 3},
    "shuffle": {"shuffle": True},
    "shuffle+deflate": {"compression": "gzip", "shuffle": True},
    "fletcher32": {"fletcher32": True},
    "all": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    "zstd": dict(hdf5plugin.Zstd(clevel=5)),
    "bzip2": dict(hdf5plugin.BZip2()),
}
WITHOUT_CODEC: dict[str, dict[str, Any]] = {
    "lzf": {"compression": "lzf"},
    "szip": {"compression": "szip"},
    "scaleoffset": {"scaleoffset": 3},
    "lz4": dict(hdf5plugin.LZ4()),
    "bitshuffle": dict(hdf5plugin.Bitshuffle()),
    "blosc2": dict(hdf5plugin.Blosc2()),
}


def sample(dtype: str, shape: tuple[int, ...]) -> Any:
    rng = np.random.default_rng(len(dtype) + sum(shape))
    base = rng.integers(-100, 100, shape)
    if dtype[0] == "S":
        return base.astype("S7").astype(dtype)
    if "c" in dtype:
        return (base + 1j * base[::-1]).astype(dtype)
    values = base.astype("i1").astype("u1").astype(dtype) if "u" in dtype else base.astype(dtype)
    if "f" in dtype:
        values.flat[:3] = [np.nan, np.inf, -0.0]
    return values


def test_types_and_filters(tmp_path: Path) -> None:
    path = tmp_path / "matrix.h5"
    with h5py.File(path, "w") as file:
        for dtype in DTYPES:
            values = sample(dtype, (50, 33))
            for name, options in FILTERS.items():
                file.create_dataset(f"{dtype}/{name}", data=values, chunks=(24, 20), **options)
            file.create_dataset(f"{dtype}/contiguous", data=values)
            file.create_dataset(f"{dtype}/one", data=values, chunks=(50, 33), maxshape=(None, None))
            file.create_dataset(f"{dtype}/large", data=values, chunks=(70, 40), maxshape=(None, None))
            file.create_dataset(f"{dtype}/scalar", data=values[1, 1])
    found = scanned(path)
    unclear = {name for name, _ in found.root.walk_arrays() if name.endswith("/shuffle")}
    assert {s.path for s in found.stored} == unclear, "no length tells whether chunks at the edge were shuffled"
    group = open_group(found)
    with h5py.File(path) as file:
        for name, array in found.root.walk_arrays():
            assert name in unclear or kinds(array) == {ChunkKind.VIRTUAL}, name
            read = group[name.strip("/")]
            assert isinstance(read, zarr.Array)
            equal(read[...], file[name][...])
            assert read.dtype == file[name].dtype.newbyteorder("="), name


def test_chunks_at_the_edge_without_filters(tmp_path: Path) -> None:
    """H5Pset_chunk_opts(H5D_CHUNK_DONT_FILTER_PARTIAL_CHUNKS), which h5py does not offer and no filter mask shows."""
    path, values = tmp_path / "edge.h5", np.arange(70, dtype="<i4")
    set_chunk_opts = ctypes.CDLL(h5py.h5p.__file__).H5Pset_chunk_opts
    set_chunk_opts.argtypes = [ctypes.c_int64, ctypes.c_uint]
    filters = {"shuffle": [2], "deflate": [1], "both": [2, 1], "checked": [3]}
    with h5py.File(path, "w", libver="latest") as file:
        for name, codes in filters.items():
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plist.set_chunk((30,))
            for code in codes:
                plist.set_filter(code, 0, (4,) if code == 1 else ())
            assert set_chunk_opts(plist.id, 2) == 0
            space = h5py.h5s.create_simple((70,))
            h5py.Dataset(h5py.h5d.create(file.id, name.encode(), h5py.h5t.STD_I32LE, space, plist))[...] = values
    found = scanned(path)
    group = open_group(found)
    for name in filters:
        equal(group[name][...], values)
        assert found.root.arrays[name].refs.kind.tolist() == [ChunkKind.VIRTUAL, ChunkKind.VIRTUAL, ChunkKind.INLINE]


WRITE_BLOSC = """
import sys, h5py, hdf5plugin, numpy as np
values = np.load(sys.argv[2])
with h5py.File(sys.argv[1], "w") as file:
    for name in ("blosclz", "lz4", "lz4hc", "zlib", "zstd"):
        for shuffle in (0, 1, 2):
            blosc = hdf5plugin.Blosc(cname=name, clevel=4, shuffle=shuffle)
            file.create_dataset(f"{name}{shuffle}", data=values, chunks=(16, 30), **blosc)
"""


@pytest.mark.parametrize("dtype", ["<i4", ">f8", "<c8"])
def test_blosc(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "blosc.h5"
    values = np.repeat(sample(dtype, (40, 1)), 30, axis=1)
    np.save(tmp_path / "values.npy", values)
    # In a process of its own: netCDF4, once imported, points HDF5 to its own plugins, with which h5py cannot write.
    clean = {name: value for name, value in os.environ.items() if name != "HDF5_PLUGIN_PATH"}
    subprocess.run([sys.executable, "-c", WRITE_BLOSC, str(path), str(tmp_path / "values.npy")], check=True, env=clean)
    found = scanned(path)
    group = open_group(found)
    assert not found.stored
    assert len(found.root.arrays) == 15
    for name in found.root.arrays:
        equal(group[name][...], values)


def test_filters_without_a_codec_are_stored_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "others.h5"
    values = np.arange(77, dtype="<i4").reshape(11, 7)
    with h5py.File(path, "w") as file:
        for name, options in WITHOUT_CODEC.items():
            file.create_dataset(name, data=values, chunks=(4, 3), **options)
        file["floats"] = file["lzf"][...]
        file.create_dataset("rounded", data=values * 0.125, chunks=(4, 3), scaleoffset=2)
    found = scanned(path)
    group = open_group(found)
    assert {s.path for s in found.stored} == {f"/{name}" for name in [*WITHOUT_CODEC, "rounded"]}
    with h5py.File(path) as file:
        for stored in found.stored:
            assert "no Zarr codec for the HDF5 filter" in stored.reason
            array = found.root.arrays[stored.path[1:]]
            assert array.nbytes_stored == stored.nbytes > 0
            assert array.chunk_shape == (4, 3)
            equal(group[stored.path[1:]][...], file[stored.path][...])


@pytest.mark.parametrize(("dtype", "virtual"), [("<i2", True), (">f4", True), ("<f8", False)])
def test_checksum_before_shuffle_as_netcdf_writes_it(tmp_path: Path, dtype: str, virtual: bool) -> None:
    path, values = tmp_path / "order.h5", np.arange(200).astype(dtype)
    with h5py.File(path, "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((90,))
        plist.set_fletcher32()
        plist.set_shuffle()
        plist.set_deflate(4)
        space, tid = h5py.h5s.create_simple((200,)), h5py.h5t.py_create(np.dtype(dtype))
        h5py.h5d.create(file.id, b"x", tid, space, plist).write(space, space, values, tid)
    found = scanned(path)
    assert kinds(found.root.arrays["x"]) == {ChunkKind.VIRTUAL if virtual else ChunkKind.INLINE}
    equal(open_group(found)["x"][...], values)


def test_chunks_that_skip_filters(tmp_path: Path) -> None:
    path = tmp_path / "masked.h5"
    values = np.arange(70, dtype="<i4").reshape(10, 7)
    with h5py.File(path, "w") as file:
        mixed = file.create_dataset("mixed", data=values, chunks=(4, 7), compression="gzip", shuffle=True)
        mixed.id.write_direct_chunk((4, 0), values[4:8].tobytes(), filter_mask=0b11)
        same = file.create_dataset("same", (8, 7), "<i4", chunks=(4, 7), compression="gzip", shuffle=True)
        for row in (0, 4):
            same.id.write_direct_chunk((row, 0), values[row : row + 4].tobytes(), filter_mask=0b11)
    found = scanned(path)
    group = open_group(found)
    mixed_array = found.root.arrays["mixed"]
    assert mixed_array.refs.kind.tolist() == [ChunkKind.VIRTUAL, ChunkKind.INLINE, ChunkKind.VIRTUAL]
    assert [s.path for s in found.stored] == ["/mixed"]
    assert "1 chunk written unlike" in found.stored[0].reason
    assert kinds(found.root.arrays["same"]) == {ChunkKind.VIRTUAL}
    equal(group["mixed"][...], values)
    equal(group["same"][...], values[:8])


def test_missing_chunks_and_fill_values(tmp_path: Path) -> None:
    path = tmp_path / "holes.h5"
    with h5py.File(path, "w") as file:
        for dtype, fill in (
            ("<f4", np.nan),
            (">i2", -5),
            ("<u8", 2**64 - 1),
            ("<c16", 1 - 2j),
            ("S4", b"abc"),
            ("?", True),
        ):
            dataset = file.create_dataset(dtype, (10, 10), dtype, chunks=(3, 4), fillvalue=fill, maxshape=(None, 10))
            dataset[4, 5] = 0 if dtype != "S4" else b"x"
            file.create_dataset(f"empty {dtype}", (5,), dtype, fillvalue=fill)
        file.create_dataset("default", (5,), "f8", chunks=(2,))
        file.create_dataset("text", (3,), h5py.string_dtype(), fillvalue="né")
    found = scanned(path)
    group = open_group(found)
    with h5py.File(path) as file:
        for name, array in found.root.arrays.items():
            if name != "text":
                assert array.nrefs == (0 if name.startswith(("empty", "default")) else 1)
                equal(group[name][...], file[name][...])
    assert group["text"][...].tolist() == ["né"] * 3
    assert group["text"].fill_value == "né"


def test_layouts_that_are_stored(tmp_path: Path) -> None:
    path, values = tmp_path / "layouts.h5", np.arange(12, dtype=">i2").reshape(3, 4)
    with h5py.File(path, "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple(values.shape)
        h5py.h5d.create(file.id, b"compact", h5py.h5t.STD_I16BE, space, plist).write(space, space, values)
        file.create_dataset("outside", data=values, external=[(str(tmp_path / "raw.bin"), 0, h5py.h5f.UNLIMITED)])
        file["part"] = values
        layout = h5py.VirtualLayout(values.shape, values.dtype)
        layout[:] = h5py.VirtualSource(".", "part", values.shape)
        file.create_virtual_dataset("virtual", layout)
    found = scanned(path)
    reasons = {s.path: s.reason for s in found.stored}
    assert reasons == {
        "/compact": "compact: it lies in the object header",
        "/outside": "it lies in external files",
        "/virtual": "it is an HDF5 virtual dataset",
    }
    group = open_group(found)
    for name in ("compact", "outside", "part", "virtual"):
        equal(group[name][...], values)


def test_parts_that_are_not_there_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "parts.h5"
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout((4,), "i4")
        layout[:] = h5py.VirtualSource("elsewhere.h5", "x", (4,))
        file.create_virtual_dataset("virtual", layout)
    with pytest.raises(UnsupportedFeature, match=r"`/virtual`.*elsewhere\.h5") as raised:
        scanned(path)
    assert raised.value.name == "/virtual"
    found = scanned(path, ScanOptions(skip_unsupported=True))
    assert not found.root.arrays
    assert "elsewhere.h5" in found.warnings[0]
    assert not scanned(path, ScanOptions(drop_variables=frozenset({"virtual"}))).warnings


def test_text(tmp_path: Path) -> None:
    path = tmp_path / "text.h5"
    terminated = h5py.h5t.C_S1.copy()
    terminated.set_size(6)
    spaced = h5py.h5t.FORTRAN_S1.copy()
    spaced.set_size(6)
    with h5py.File(path, "w") as file:
        file.create_dataset("utf8", data=["a", "éß", ""], dtype=h5py.string_dtype())
        file.create_dataset("ascii", data=np.array([["x", "yz"]], object), dtype=h5py.string_dtype("ascii"))
        file.create_dataset("one", data="héllo", dtype=h5py.string_dtype())
        file.create_dataset("latin", data=np.array([b"caf\xe9"], object), dtype=h5py.string_dtype())
        file.create_dataset("fixed", data=np.array([b"abc", b"defghi"]))
        space = h5py.h5s.create_simple((2,))
        for name, tid, raw in (
            (b"clean", terminated, b"abc\0\0\0de\0\0\0\0"),
            (b"garbage", terminated, b"abc\0xyde\0zzz"),
            (b"spaces", spaced, b"abc   de    "),
        ):
            dataset = h5py.h5d.create(file.id, name, tid, space)
            dataset.write(space, space, np.frombuffer(raw, "S6").copy(), tid)
    found = scanned(path)
    group = open_group(found)
    assert group["utf8"][...].tolist() == ["a", "éß", ""]
    assert group["ascii"][...].tolist() == [["x", "yz"]]
    assert str(group["one"][...]) == "héllo"
    assert group["latin"][...].tolist() == ["café"]
    assert any("/latin" in w and "Latin-1" in w for w in found.warnings)
    assert {s.path for s in found.stored} == {"/utf8", "/ascii", "/one", "/latin", "/garbage", "/spaces"}
    with h5py.File(path) as file:
        for name in ("fixed", "clean", "garbage", "spaces"):
            equal(group[name][...], file[name][...])


def test_other_types(tmp_path: Path) -> None:
    path = tmp_path / "types.h5"
    record = np.array([(1, 2.5, b"ab"), (3, -1.0, b"c")], [("n", "<i4"), ("x", "<f8"), ("s", "S2")])
    gappy = np.array([(1, 2.5)], np.dtype([("n", "<i2"), ("x", ">f8")], align=True))
    with h5py.File(path, "w") as file:
        file.create_dataset("enum", data=[0, 2, 1], dtype=h5py.enum_dtype({"low": 0, "mid": 1, "high": 2}, "i1"))
        file.create_dataset("vectors", data=np.arange(24.0).reshape(4, 2, 3), dtype="<f8")
        file.create_dataset("inner", (4,), np.dtype(("<f4", (2, 3))), chunks=(3,), compression="gzip", shuffle=True)
        file["inner"][...] = np.arange(24).reshape(4, 2, 3)
        file["record"] = record
        file["gappy"] = gappy
        file.create_dataset("opaque", data=np.array([b"abc", b"de"], "V3"))
        times = np.array([0, 10**9], "M8[ns]").astype(h5py.opaque_dtype("M8[ns]"))
        file.create_dataset("times", data=times)
        file.create_dataset("links", data=[file["record"].ref, file.ref], dtype=h5py.ref_dtype)
        file.create_dataset("null", data=h5py.Empty("f4"))
        file.create_dataset("nothing", (0, 3), "f4", maxshape=(None, 3), chunks=(2, 3))
        twenty_bits = h5py.h5t.STD_I32LE.copy()
        twenty_bits.set_precision(20)
        plist, space = h5py.h5p.create(h5py.h5p.DATASET_CREATE), h5py.h5s.create_simple((3,))
        plist.set_chunk((3,))
        plist.set_filter(h5py.h5z.FILTER_NBIT)
        narrow = h5py.h5d.create(file.id, b"narrow", twenty_bits, space, plist)
        narrow.write(space, space, np.array([1, -2, 3], "<i4"))
        for name, bits in (("bits", h5py.h5t.STD_B16BE), ("byte", h5py.h5t.STD_B8LE)):
            bitfield = h5py.h5d.create(file.id, name.encode(), bits, space)
            bitfield.write(space, space, np.array([1, 2, 200], bitfield.dtype), bits)
    found = scanned(path)
    group = open_group(found)
    enum = found.root.arrays["enum"]
    assert enum.attributes["flag_values"] == [0, 1, 2]
    assert enum.attributes["flag_meanings"] == "low mid high"
    assert kinds(found.root.arrays["inner"]) == {ChunkKind.VIRTUAL}
    assert found.root.arrays["inner"].shape == (4, 2, 3)
    assert kinds(found.root.arrays["record"]) == {ChunkKind.VIRTUAL}
    assert kinds(found.root.arrays["opaque"]) == {ChunkKind.VIRTUAL}
    assert {s.path for s in found.stored} == {"/gappy", "/links", "/narrow"}
    with h5py.File(path) as file:
        for name in ("enum", "vectors", "inner", "opaque", "nothing", "narrow", "bits", "byte"):
            equal(group[name][...], file[name][...])
    assert group["record"][...].tolist() == record.tolist()
    assert group["gappy"][...].tolist() == gappy.tolist()
    assert group["links"][...].tolist() == ["/record", "/"]
    assert group["times"][...].tolist() == [0, 10**9]
    assert group["null"].shape == (0,)


def test_lists_of_varying_length_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "ragged.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a/ragged", (2,), h5py.vlen_dtype("i4"))
        file["a/fine"] = 1
    with pytest.raises(UnsupportedFeature, match=r"`/a/ragged` of file:.*varying length.*drop_variables"):
        scanned(path)
    found = scanned(path, ScanOptions(skip_unsupported=True))
    assert set(found.root.groups["a"].arrays) == {"fine"}


def test_contiguous_data_is_cut(tmp_path: Path) -> None:
    path, values = tmp_path / "cut.h5", np.arange(5 * 7 * 11, dtype="<f4").reshape(5, 7, 11)
    with h5py.File(path, "w") as file:
        file["x"] = values
    found = scanned(path, ScanOptions(contiguous_chunk=7 * 11 * 4, store_small=0))
    assert found.root.arrays["x"].chunk_shape == (1, 7, 11)
    assert found.root.arrays["x"].nrefs == 5
    equal(open_group(found)["x"][...], values)
    assert scanned(path).root.arrays["x"].nrefs == 1


@pytest.mark.parametrize("userblock", [512, 2048])
def test_user_block(tmp_path: Path, userblock: int) -> None:
    path, values = tmp_path / "block.h5", np.arange(100, dtype="<i4")
    with h5py.File(path, "w", userblock_size=userblock) as file:
        file["contiguous"] = values
        file.create_dataset("chunked", data=values, chunks=(30,), compression="gzip")
        file.create_dataset("unwritten", (100,), "i4", fillvalue=7)  # HDF5 has an offset even for this
    found = scanned(path)
    assert found.root.arrays["unwritten"].nrefs == 0
    group = open_group(found)
    equal(group["unwritten"][...], np.full(100, 7))
    equal(group["contiguous"][...], values)
    equal(group["chunked"][...], values)


@pytest.mark.parametrize("libver", ["earliest", "v108", "v110", "latest"])
def test_every_chunk_index(tmp_path: Path, libver: str) -> None:
    path, values = tmp_path / "index.h5", np.arange(60 * 5, dtype="<i4").reshape(60, 5)
    with h5py.File(path, "w", libver=(libver, libver if libver != "earliest" else "latest")) as file:
        for name, limits in (("none", None), ("first", (None, 5)), ("second", (60, None)), ("both", (None, None))):
            file.create_dataset(name, data=values, chunks=(4, 3), maxshape=limits, compression="gzip")
            file.create_dataset(f"{name} raw", data=values, chunks=(4, 3), maxshape=limits)
            file.create_dataset(f"{name} single", data=values, chunks=(60, 5), maxshape=limits)
    group = open_group(scanned(path))
    for _, array in group.arrays():
        equal(array[...], values)


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("keep", [1.0, 0.4])
@pytest.mark.parametrize(
    ("shape", "limits", "chunks"),
    [
        ((6, 8), (6, None), (2, 3)),
        ((6, 2), (6, None), (2, 2)),
        ((8, 3, 8), (13, 4, None), (1, 2, 2)),
        ((8, 3, 4), (8, None, 11), (3, 1, 3)),
        ((1, 9), (1, None), (1, 2)),
        ((5, 4), (None, 9), (2, 2)),
        ((5, 4), (9, 9), (2, 2)),
        ((5, 4, 3), (None, 9, None), (2, 2, 1)),
    ],
)
def test_chunk_coordinates(
    tmp_path: Path, libver: str, keep: float, shape: tuple[int, ...], limits: tuple[Any, ...], chunks: tuple[int, ...]
) -> None:
    """Extensible arrays whose unlimited axis is not the first are listed wrongly by the HDF5 library itself."""
    path, rng = tmp_path / "grid.h5", np.random.default_rng(7)
    expected = {}
    with h5py.File(path, "w", libver=libver) as file:
        dataset = file.create_dataset("x", shape, "<i8", chunks=chunks, maxshape=limits)
        for number, start in enumerate(
            itertools.product(*(range(0, n, c) for n, c in zip(shape, chunks, strict=True)))
        ):
            if rng.random() <= keep:
                dataset.id.write_direct_chunk(start, np.full(chunks, number, "<i8").tobytes())
                expected[start] = number
    content = path.read_bytes()
    with h5py.File(path) as file:
        index = read_chunk_index(file["x"])
    found = {
        tuple(start): int.from_bytes(content[offset : offset + 8], "little")
        for start, offset in zip(index.start.tolist(), index.offset.tolist(), strict=True)
    }
    assert found == expected


def test_chunk_index_columns(tmp_path: Path) -> None:
    path = tmp_path / "many.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.zeros((1000, 3), "i1"), chunks=(1, 2))
    with h5py.File(path) as file:
        dataset = file["x"]
        index = read_chunk_index(dataset)
        assert len(index.offset) == dataset.id.get_num_chunks() == 2000
        for i in (0, 255, 256, 1999):
            info = dataset.id.get_chunk_info(i)
            assert tuple(index.start[i].tolist()) == info.chunk_offset
            assert (index.offset[i], index.size[i]) == (info.byte_offset, info.size)


def test_coordinates_and_small_arrays_are_stored(tmp_path: Path) -> None:
    path = tmp_path / "coordinates.h5"
    with h5py.File(path, "w") as file:
        time = file.create_dataset("time", data=np.arange(1000.0), chunks=(1,), maxshape=(None,))
        time.make_scale("time")
        data = file.create_dataset("data", data=np.ones((1000, 4)), chunks=(100, 4), compression="gzip")
        data.dims[0].attach_scale(time)
        file.create_dataset("crs", data=np.int32(7))
        file.create_dataset("small", data=np.arange(20), chunks=(7,), compression="gzip")
    found = scanned(path, ScanOptions())
    assert {s.path: s.reason for s in found.stored} == {"/time": "coordinate", "/crs": "small", "/small": "small"}
    assert found.root.arrays["time"].chunk_shape == (1000,)
    assert found.root.arrays["small"].chunk_shape == (7,)
    assert kinds(found.root.arrays["data"]) == {ChunkKind.VIRTUAL}
    group = open_group(found)
    with h5py.File(path) as file:
        for name, array in group.arrays():
            equal(array[...], file[name][...])
    plain = scanned(path)
    assert not plain.stored
    assert plain.root.arrays["time"].nrefs == 1000
    assert plain.root.arrays["small"].document == found.root.arrays["small"].document


def test_links(tmp_path: Path) -> None:
    path = tmp_path / "links.h5"
    with h5py.File(path, "w") as file:
        file["a/x"] = np.arange(3)
        file["soft"] = h5py.SoftLink("/a/x")
        file["gone"] = h5py.SoftLink("/nowhere")
        file["far"] = h5py.ExternalLink("other.h5", "/x")
        file["a/up"] = h5py.SoftLink("/")
        file["again"] = file["a"]
        file["circle"] = h5py.SoftLink("/circle")
        file["farther"] = h5py.SoftLink("/far")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.arange(3)
    found = scanned(path)
    group = open_group(found)
    equal(group["soft"][...], np.arange(3))
    equal(group["again/x"][...], np.arange(3))
    assert {w.split(":")[0] for w in found.warnings} == {
        "/gone",
        "/far",
        "/a/up",
        "/again/up",
        "/circle",
        "/farther",
    }
    assert "up" not in found.root.groups["a"].groups


def test_names_that_zarr_cannot_have(tmp_path: Path) -> None:
    path = tmp_path / "names.h5"
    with h5py.File(path, "w") as file:
        file["__x"] = 1
        file["__g/y"] = 1
        file["ok é"] = 1
        file["back\\slash"] = 1
        file[b"caf\xe9"] = 1
    with pytest.raises(UnsupportedFeature, match="__x"):
        scanned(path)
    found = scanned(path, ScanOptions(skip_unsupported=True))
    assert set(found.root.arrays) == {"ok é", "café"}
    assert [w for w in found.warnings if "café" in w] == ["/café: its name: text that is not UTF-8 was read as Latin-1"]


def test_source_identity(tmp_path: Path) -> None:
    path = tmp_path / "identity.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(10)
    with open_source(str(path)) as source:
        (location,) = [scan(source, PLAIN).root.arrays["x"].refs.row(0)]
        assert (location.url, location.etag, location.last_modified) == (  # type: ignore[union-attr]
            source.url,
            source.etag,
            source.last_modified,
        )


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "good.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.random.default_rng(0).random(10_000), chunks=(100,), compression="gzip")
        file["y"] = ["text"] * 10
    content = path.read_bytes()
    for size in (0, 7, 8, 100, 1000, len(content) // 2, len(content) - 1):
        broken = tmp_path / f"cut-{size}.h5"
        broken.write_bytes(content[:size])
        with pytest.raises(MalformedSource, match=rf"cut-{size}\.h5") as raised:
            scanned(broken)
        assert raised.value.source.endswith(broken.name)  # type: ignore[attr-defined]


def test_sources_without_a_local_path() -> None:
    filesystem = fsspec.filesystem("memory")
    with filesystem.open("/bucket/file.h5", "wb") as out, h5py.File(out, "w") as file:
        file.create_dataset("x", data=np.arange(1000), chunks=(100,))
        file["small"] = np.arange(3)
    with open_source("memory://bucket/file.h5") as source:
        assert source.local_path is None
        found = scan(source, ScanOptions())
    (url,) = set(found.root.arrays["x"].refs.locations.urls)
    assert url == source.url
    content = filesystem.cat("/bucket/file.h5")
    chunk = found.root.arrays["x"].refs.row(3)
    assert np.frombuffer(content[chunk.offset : chunk.offset + chunk.length], "<i8").tolist() == list(range(300, 400))  # type: ignore[union-attr]
    filesystem.rm("/bucket/file.h5")


def test_damage_inside_a_remote_source() -> None:
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe("/bucket/broken.h5", b"\x89HDF\r\n\x1a\n" + bytes(200))
    with open_source("memory://bucket/broken.h5") as source, pytest.raises(MalformedSource, match="broken"):
        scan(source, ScanOptions())
