"""The HDF5 parsers against h5py: superblocks, headers, links, messages, attributes."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from icechunk_virtual.scanners.hdf5.format.layout import Chunked, IndexKind
from icechunk_virtual.scanners.hdf5.format.objects import Dataset, Group
from tests.support.hdf5_judge import assert_same, parsed

LIBRARY = ctypes.CDLL(h5py.h5p.__file__)  # what h5py does not offer
LIBVERS = ("earliest", "v108", "v110", "latest")
every_version = pytest.mark.parametrize("libver", LIBVERS)


def create(path: Path, libver: str = "earliest", **options: Any) -> h5py.File:
    return h5py.File(path, "w", libver=(libver, "latest" if libver == "earliest" else libver), **options)


@every_version
@pytest.mark.parametrize("track_order", [False, True])
@pytest.mark.parametrize("n", [0, 5, 300])
def test_links(tmp_path: Path, libver: str, track_order: bool, n: int) -> None:
    path = tmp_path / "x.h5"
    with create(path, libver, track_order=track_order) as file:
        group = file.create_group("group", track_order=track_order)
        for i in range(n):
            group.create_group(f"{i * 7919 % 1000:04d} é" + "x" * (i % 90))
        group["soft"] = h5py.SoftLink("/nowhere")
        group["back"] = h5py.SoftLink(".")
        group["external"] = h5py.ExternalLink("other.h5", "/å")
        group["again"] = group
        file["x"] = np.arange(3)
        file["y"] = file["x"]
        group["z" * 70_000 if libver != "earliest" else "z" * 1000] = file["x"]  # too long for a heap's block
    assert_same(path)


@every_version
@pytest.mark.parametrize("track_order", [False, True])
@pytest.mark.parametrize("n", [1, 8, 9, 400])
def test_attributes(tmp_path: Path, libver: str, track_order: bool, n: int) -> None:
    path = tmp_path / "x.h5"
    with create(path, libver, track_order=track_order) as file:
        dataset = file.create_dataset("x", data=1.5, track_order=track_order)
        for node in (file, dataset):
            for i in range(n):
                node.attrs[f"{i * 7919 % 1000:04d}"] = np.arange(i % 40, dtype="f4")
            node.attrs["é"] = "text ü"
    assert_same(path)


def test_large_attributes(tmp_path: Path) -> None:
    """More than 64 KiB: huge objects of the heap."""
    path = tmp_path / "x.h5"
    with create(path, "v110") as file:
        file.attrs["large"] = np.arange(100_000)
        file.attrs["larger"] = np.arange(200_000)
        file.attrs["small"] = 1
    assert_same(path)


@pytest.mark.parametrize("libver", ["earliest", "v110"])
def test_headers_that_continue(tmp_path: Path, libver: str) -> None:
    path = tmp_path / "x.h5"
    with create(path, libver) as file:
        for i in range(6):
            file.create_dataset(f"{i}", data=i)
        for i in range(6):
            for k in range(7):
                file[f"{i}"].attrs[f"a{k}"] = "x" * 200 * k
            del file[f"{i}"].attrs["a3"]
    assert_same(path)


@every_version
@pytest.mark.parametrize("userblock", [512, 4096])
def test_user_blocks(tmp_path: Path, libver: str, userblock: int) -> None:
    path = tmp_path / "x.h5"
    with create(path, libver, userblock_size=userblock) as file:
        file.create_dataset("x", data=np.arange(20))
        file.create_dataset("c", data=np.arange(200), chunks=(13,), maxshape=(None,), compression="gzip")
        file.create_dataset("t", data=["a", "bc"], dtype=h5py.string_dtype())
        file.attrs["t"] = ["a", "bc"]
    with path.open("r+b") as raw:
        raw.write(b"#!/bin/sh\n")
    assert assert_same(path).base == userblock


@pytest.mark.parametrize("strategy", ["fsm", "page", "aggregate", "none"])
@pytest.mark.parametrize("persist", [False, True])
def test_file_space(tmp_path: Path, strategy: str, persist: bool) -> None:
    if persist and strategy in {"aggregate", "none"}:
        persist = False
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", libver="latest", fs_strategy=strategy, fs_persist=persist, fs_page_size=4096) as file:
        for i in range(30):
            file.create_dataset(f"{i}", data=np.arange(3000), chunks=(100,), maxshape=(None,), shuffle=True)
        del file["3"]
    assert_same(path)


def test_swmr(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", libver="latest") as file:
        dataset = file.create_dataset("x", (0, 5), chunks=(2, 5), maxshape=(None, 5), dtype="i2")
        other = file.create_dataset("y", (0, 0), chunks=(2, 5), maxshape=(None, None), dtype="i2")
        file.swmr_mode = True
        for i in range(1, 40):
            dataset.resize((i, 5))
            dataset[i - 1] = i
            other.resize((i, i))
            other[i - 1] = i
            dataset.flush()
            other.flush()
        copy = tmp_path / "copy.h5"
        copy.write_bytes(path.read_bytes())  # as a reader finds it while it is written
    assert_same(path)
    assert_same(copy, swmr=True)


@pytest.mark.parametrize("sizes", [(4, 4), (8, 4), (4, 8), (2, 2)])
def test_widths_of_addresses(tmp_path: Path, sizes: tuple[int, int]) -> None:
    path = tmp_path / "x.h5"
    plist = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    plist.set_sizes(*sizes)
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    with h5py.File(h5py.h5f.create(bytes(path), fcpl=plist, fapl=access)) as file:
        file.create_dataset("x", data=np.arange(20))
        file.create_dataset("c", data=np.arange(200), chunks=(13,), compression="gzip")
        file.create_dataset("t", data=["a", "bc"], dtype=h5py.string_dtype())
        for i in range(20 if sizes != (2, 2) else 3):  # HDF5 cannot read what it writes with so little room
            file.attrs[f"{i}"] = np.arange(i)
            file.create_group(f"g/{i}")
    assert_same(path)


def test_ks_of_btrees(tmp_path: Path) -> None:
    for version in ("earliest", "v110"):
        path = tmp_path / f"{version}.h5"
        plist = h5py.h5p.create(h5py.h5p.FILE_CREATE)
        assert LIBRARY.H5Pset_sym_k(ctypes.c_int64(plist.id), 3, 2) >= 0
        assert LIBRARY.H5Pset_istore_k(ctypes.c_int64(plist.id), 5) >= 0
        access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
        if version != "earliest":
            access.set_libver_bounds(h5py.h5f.LIBVER_V18, h5py.h5f.LIBVER_V18)
        with h5py.File(h5py.h5f.create(bytes(path), fcpl=plist, fapl=access)) as file:
            for i in range(100):
                file.create_group(f"{i}")
            file.create_dataset("x", data=np.arange(1000), chunks=(3,))
        assert_same(path)


@every_version
def test_dataspaces(tmp_path: Path, libver: str) -> None:
    path = tmp_path / "x.h5"
    with create(path, libver) as file:
        file["scalar"] = 3
        file["empty"] = np.empty((0, 3))
        file["null"] = h5py.Empty("f4")
        file.attrs["null"] = h5py.Empty("S3")
        file.create_dataset("grows", (3, 4), "i4", maxshape=(None, 7), chunks=(2, 2))
        file.create_dataset("deep", (1,) * 32, "i1")
        file.create_dataset("deep chunks", (1,) * 32, "i1", chunks=(1,) * 32)[...] = 1
    assert_same(path)


def struct(*fields: Any, size: int | None = None) -> np.dtype[Any]:
    names, formats, offsets = zip(*fields, strict=True)
    options = {} if size is None else {"itemsize": size}
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, **options})


def values() -> dict[str, Any]:
    random = np.random.default_rng(0)
    made: dict[str, Any] = {}
    for code in ("i1", "u1", "<i2", ">u2", "<i4", ">i4", "<u8", ">i8", "<f2", ">f2", "<f4", ">f4", "<f8", ">f8"):
        made[code] = np.frombuffer(random.bytes(96), code)
    made["bool"] = np.array([True, False])
    made["<c8"], made[">c16"] = np.array([1 + 2j, -0.0 - 3j], "<c8"), np.array([1 + 2j], ">c16")
    made["S5"] = np.array([b"abcde", b"", b"a\0b"], "S5")
    made["void"] = np.array([b"\0\1\2", b"abc"], "V3")
    made["record"] = np.ones(3, [("a", "i1"), ("b", ">f8"), ("c", "S4"), ("d", "i2", (2, 3))])
    made["padded"] = np.ones(3, struct(("a", "u1", 3), ("é", "<f4", 8), size=20))
    made["nested"] = np.ones(2, [("a", [("b", "i2"), ("c", [("d", "f4")])]), ("e", "u1")])
    made["array"] = np.arange(24, dtype=np.dtype(("i4", (2, 3))).base).reshape(4, 2, 3)
    return made


@every_version
def test_types(tmp_path: Path, libver: str) -> None:
    path = tmp_path / "x.h5"
    with create(path, libver) as file:
        for name, each in values().items():
            file.attrs[name] = each
            file[name] = each
            file.create_dataset(f"{name} filled", (3,), each.dtype, fillvalue=each.ravel()[0])
        arrays = file.create_dataset("arrays", (4,), np.dtype(("i4", (2, 3))))
        arrays[...] = np.arange(24).reshape(4, 2, 3)
        enum = h5py.enum_dtype({"low": 0, "é": 1, "high": 200}, ">i2")
        file.create_dataset("enum", data=[0, 200, 1], dtype=enum)
        file.attrs.create("enum", [0, 1], dtype=enum)
        file["committed"] = np.dtype([("a", "i4"), ("b", "f8")])
        file["committed"].attrs["x"] = 1
        file.create_dataset("with committed", (3,), file["committed"])
        file.attrs.create("with committed", np.ones(2, file["committed"].dtype), dtype=file["committed"])
        file["times"] = np.array([0, 10**9], "M8[ns]").astype(h5py.opaque_dtype("M8[ns]"))
    assert_same(path)


@every_version
def test_data_of_varying_length(tmp_path: Path, libver: str) -> None:
    path = tmp_path / "x.h5"
    with create(path, libver) as file:
        for name, each in {"texts": ["a", "", "ü" * 3000], "text": "x"}.items():
            file.attrs[name] = each
            file.create_dataset(name, data=each, dtype=h5py.string_dtype())
        file.attrs.create("ascii", ["a", "b"], dtype=h5py.string_dtype("ascii"))
        lists = np.empty(3, object)
        lists[:] = [np.arange(3, dtype="i2"), np.empty(0, "i2"), np.arange(5000, dtype="i2")]
        file.attrs.create("lists", lists, dtype=h5py.vlen_dtype("i2"))
        file.create_dataset("lists", data=lists, dtype=h5py.vlen_dtype("i2"))
        file.create_dataset("never written", (2,), h5py.string_dtype())
        file.create_dataset("filled", (2,), h5py.string_dtype(), fillvalue="abc")
        record = np.dtype([("a", "i4"), ("text", h5py.string_dtype()), ("to", h5py.ref_dtype)])
        rows = np.empty(2, record)
        rows["a"], rows["text"], rows["to"] = [1, 2], ["x", "yé"], [file.ref, file["text"].ref]
        file.create_dataset("record", data=rows, dtype=record)
        file.attrs.create("record", rows, dtype=record)
        for i in range(300):
            file.attrs[f"many {i}"] = ["x" * i, "y"]
    assert_same(path)


@every_version
def test_references(tmp_path: Path, libver: str) -> None:
    path = tmp_path / "x.h5"
    with create(path, libver) as file:
        dataset = file.create_dataset("a/x", data=np.arange(10))
        file.create_dataset("refs", data=[dataset.ref, file.ref, h5py.Reference()], dtype=h5py.ref_dtype)
        file.attrs["ref"] = dataset.ref
        file.attrs["region"] = dataset.regionref[2:5]
        file.create_dataset("regions", data=[dataset.regionref[1:3]], dtype=h5py.regionref_dtype)
        lists = np.empty(2, object)
        lists[:] = [np.array([dataset.ref], h5py.ref_dtype), np.array([file.ref, dataset.ref], h5py.ref_dtype)]
        file.attrs.create("DIMENSION_LIST", lists, dtype=h5py.vlen_dtype(h5py.ref_dtype))
    assert_same(path)


def low(file: h5py.File, name: str, tid: Any, data: Any, plist: Any = None) -> None:
    space = h5py.h5s.create_simple(data.shape)
    dataset = h5py.h5d.create(file.id, name.encode(), tid, space, plist)
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, data)


@every_version
def test_odd_types(tmp_path: Path, libver: str) -> None:
    """Bits that do not fill their bytes, bit fields, floats that are not of IEEE 754, padded text."""
    path = tmp_path / "x.h5"
    with create(path, libver) as file:
        for order in ("LE", "BE"):
            for sign in ("I", "U"):
                tid = getattr(h5py.h5t, f"STD_{sign}32{order}").copy()
                tid.set_precision(20)
                tid.set_offset(5)
                low(file, f"narrow {sign} {order}", tid, np.array([0, 1, 2**19 - 1, -1 * (sign == "I")], "i4"))
            tid = getattr(h5py.h5t, f"IEEE_F32{order}").copy()
            tid.set_fields(15, 7, 8, 0, 7)  # bfloat16
            tid.set_precision(16)
            tid.set_size(2)
            tid.set_ebias(127)
            low(file, f"bfloat {order}", tid, np.array([0, 1, -2.5, np.inf, 1e-40, -0.0], "f4"))
        for padding in ("NULLTERM", "NULLPAD", "SPACEPAD"):
            tid = h5py.h5t.C_S1.copy()
            tid.set_size(6)
            tid.set_strpad(getattr(h5py.h5t, f"STR_{padding}"))
            space = h5py.h5s.create_simple((3,))
            dataset = h5py.h5d.create(file.id, padding.encode(), tid, space)
            dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array([b"ab  ", b"a\0bc ", b"      "], "S6"), tid)
    assert_same(path)


@every_version
def test_bit_fields_and_times(tmp_path: Path, libver: str) -> None:
    path = tmp_path / "x.h5"
    with create(path, libver) as file:
        for bits in ("8LE", "16BE", "64LE"):
            tid = getattr(h5py.h5t, f"STD_B{bits}")
            dataset = h5py.h5d.create(file.id, bits.encode(), tid, h5py.h5s.create_simple((3,)))
            dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array([1, 2, 255], f"u{tid.get_size()}"), tid)
    with h5py.File(path) as file:
        raw = {name: file[name].id.get_offset() for name in file}
        sizes = {name: file[name].id.get_type().get_size() for name in file}
    for name, node in ((path.decode().strip("/"), node) for path, node in parsed(path).walk()):
        if isinstance(node, Dataset):
            assert node.layout.address == raw[name]  # type: ignore[union-attr]
            assert node.type.size == sizes[name]
            assert node.type.bits is not None
            assert node.type.bits.precision == 8 * sizes[name]


@every_version
def test_layouts(tmp_path: Path, libver: str) -> None:
    path = tmp_path / "x.h5"
    data = np.arange(12, dtype="i2").reshape(3, 4)
    with create(path, libver) as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        low(file, "compact", h5py.h5t.STD_I16BE, data, plist)
        file["contiguous"] = data
        file.create_dataset("unwritten", (3, 4), "f8")
        file.create_dataset("outside", data=data, external=[(str(tmp_path / "a"), 10, 8), (str(tmp_path / "b"), 0, 50)])
        file.create_dataset("all outside", data=data, external=str(tmp_path / "c"))
        if libver not in {"earliest", "v108"}:
            layout = h5py.VirtualLayout((3, 4), "i2")
            layout[:] = h5py.VirtualSource(".", "contiguous", (3, 4))
            file.create_virtual_dataset("virtual", layout)
    assert_same(path)


@every_version
def test_fill_values(tmp_path: Path, libver: str) -> None:
    path = tmp_path / "x.h5"
    with create(path, libver) as file:
        for time in ("alloc", "never", "ifset"):
            file.create_dataset(f"{time}", (3,), "i4", fillvalue=7, fill_time=time)
            file.create_dataset(f"{time} default", (3,), "i4", fill_time=time)
        file.create_dataset("nan", (3,), "f4", fillvalue=np.nan, chunks=(2,))
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        low(file, "never low", h5py.h5t.STD_I16BE, np.arange(3), plist)
    assert_same(path)


def test_filters(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with create(path, "v110") as file:
        for name, options in {
            "gzip": {"compression": "gzip", "shuffle": True, "fletcher32": True},
            "lzf": {"compression": "lzf"},
            "szip": {"compression": "szip"},
            "scaleoffset": {"scaleoffset": 3},
        }.items():
            file.create_dataset(name, data=np.arange(100), chunks=(11,), **options)
    assert_same(path)
    with create(path) as file:
        file.create_dataset("x", data=np.arange(100), chunks=(11,), compression="lzf", shuffle=True, scaleoffset=2)
    assert_same(path)


def test_walk(tmp_path: Path) -> None:
    """Every object once, although links go in circles."""
    path = tmp_path / "x.h5"
    with create(path) as file:
        file["a/b/x"] = 1
        file["a/b/up"] = file["a"]
        file["a/y"] = file["a/b/x"]
    found = parsed(path)
    assert [(name, type(node)) for name, node in found.walk()] == [
        (b"/", Group),
        (b"/a", Group),
        (b"/a/b", Group),
        (b"/a/b/x", Dataset),
    ]


def test_deep_groups(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with create(path) as file:
        group = file["/"]
        for _ in range(1500):
            group = group.create_group("g")
    assert len(parsed(path).objects) == 1501


def index_of(found: Any, name: bytes) -> IndexKind:
    (dataset,) = (node for path, node in found.walk() if path == b"/" + name)
    assert isinstance(dataset.layout, Chunked)
    return dataset.layout.index
