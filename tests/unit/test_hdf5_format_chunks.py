"""Chunk indexes as columns against h5py, chunk by chunk; in few batches, and without Python per chunk."""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from icechunk_virtual.scanners.hdf5.format.context import Context
from icechunk_virtual.scanners.hdf5.format.driver import run
from icechunk_virtual.scanners.hdf5.format.layout import Chunked, IndexKind
from icechunk_virtual.scanners.hdf5.format.objects import Dataset, File, read_file
from tests.support.hdf5_judge import Bytes, assert_same
from tests.support.steps import count_steps

LIBRARY = ctypes.CDLL(h5py.h5p.__file__)  # what h5py does not offer


def index_of(found: File, name: str) -> IndexKind:
    (dataset,) = (node for path, node in found.walk() if path == b"/" + name.encode())
    assert isinstance(dataset, Dataset)
    assert isinstance(dataset.layout, Chunked)
    return dataset.layout.index


def create(path: Path, libver: str = "v110", **options: Any) -> h5py.File:
    return h5py.File(path, "w", libver=(libver, "latest" if libver == "earliest" else libver), **options)


def fill(dataset: h5py.Dataset, numbers: Any, payload: bytes | None = None, mask: int = 0) -> None:
    """Write chunks by their number in the grid, last axis fastest."""
    grid = [-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True)]
    raw = payload or bytes(int(np.prod(dataset.chunks)) * dataset.dtype.itemsize)
    for number in numbers:
        place = np.unravel_index(number, grid)
        start = tuple(int(i) * c for i, c in zip(place, dataset.chunks, strict=True))
        dataset.id.write_direct_chunk(start, raw, mask)


SHAPES: dict[IndexKind, dict[str, Any]] = {
    IndexKind.FIXED_ARRAY: {"maxshape": (97, 41)},
    IndexKind.EXTENSIBLE_ARRAY: {"maxshape": (97, None)},
    IndexKind.BTREE_V2: {"maxshape": (None, None)},
}


@pytest.mark.parametrize("libver", ["earliest", "v108", "v110", "latest"])
@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}], ids=["plain", "filtered"])
def test_every_index(tmp_path: Path, libver: str, options: dict[str, Any]) -> None:
    path = tmp_path / "x.h5"
    data = np.arange(83 * 29).reshape(83, 29)
    with create(path, libver) as file:
        for kind, shape in SHAPES.items():
            file.create_dataset(kind.name, data=data, chunks=(5, 3), **shape, **options)
            empty = file.create_dataset(f"{kind.name} empty", (83, 29), "i8", chunks=(5, 3), **shape, **options)
            sparse = file.create_dataset(f"{kind.name} sparse", (83, 29), "i8", chunks=(5, 3), **shape, **options)
            sparse[7, 20] = sparse[80, 28] = 1
            shrunk = file.create_dataset(f"{kind.name} shrunk", data=data, chunks=(5, 3), **shape, **options)
            shrunk.resize((20, 29))
            assert not empty.id.get_num_chunks()
        file.create_dataset("single", data=data, chunks=data.shape, **options)
        file.create_dataset("extensible", data=data, chunks=(5, 3), maxshape=(None, 41), **options)
    found = assert_same(path)
    for kind in SHAPES:
        expected = kind if libver in {"v110", "latest"} else IndexKind.BTREE_V1
        assert index_of(found, kind.name) == expected


@pytest.mark.parametrize("maxshape", [(83, 29), (97, 41)])
def test_implicit(tmp_path: Path, maxshape: tuple[int, int]) -> None:
    path = tmp_path / "x.h5"
    data = np.arange(83 * 29).reshape(83, 29)
    with create(path) as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((5, 3))
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        space = h5py.h5s.create_simple(data.shape, maxshape)
        h5py.Dataset(h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_INT64, space, plist))[...] = data
    assert index_of(assert_same(path), "x") == IndexKind.IMPLICIT


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}], ids=["plain", "filtered"])
@pytest.mark.parametrize("n", [1023, 1024, 1025, 2048, 5000])
def test_pages_of_fixed_arrays(tmp_path: Path, n: int, options: dict[str, Any]) -> None:
    path = tmp_path / "x.h5"
    with create(path) as file:
        for name, numbers in {
            "all": range(n),
            "ends": [0, n - 1],
            "middle": [n // 2],
            "last": [n - 1],
        }.items():
            dataset = file.create_dataset(name, (n,), "u1", chunks=(1,), **options)
            fill(dataset, numbers)
    assert index_of(assert_same(path), "ends") == IndexKind.FIXED_ARRAY


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}], ids=["plain", "filtered"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_blocks_and_pages_of_extensible_arrays(tmp_path: Path, axis: int, options: dict[str, Any]) -> None:
    """Index block, data blocks, secondary blocks, pages: elements at the borders of all of them."""
    path = tmp_path / "x.h5"
    maxshape = [2, 2, 2]
    maxshape[axis] = None  # type: ignore[call-overload]
    borders = [4, 20, 36, 68, 1000, 16_000, 65_500, 66_000, 131_000, 262_200, 300_000, 524_400]
    numbers = sorted({max(0, b // 4 + i) for b in borders for i in range(-3, 4)})
    shape = [2, 2, 2]
    shape[axis] = numbers[-1] + 1
    with create(path) as file:
        dataset = file.create_dataset("sparse", shape, "u1", chunks=(1, 1, 1), maxshape=tuple(maxshape), **options)
        for number in numbers:
            for others in itertools.product(range(2), range(2)):
                start = [*others]
                start.insert(axis, number)
                dataset.id.write_direct_chunk(tuple(start), b"x")
        dense = file.create_dataset("dense", (700, 2), "u1", chunks=(1, 1), maxshape=(None, 2), **options)
        fill(dense, range(1400))
    assert index_of(assert_same(path), "sparse") == IndexKind.EXTENSIBLE_ARRAY


@pytest.mark.parametrize("libver", ["earliest", "v110"])
@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}], ids=["plain", "filtered"])
@pytest.mark.parametrize("n", [1, 60, 90, 6000])
def test_levels_of_trees(tmp_path: Path, libver: str, n: int, options: dict[str, Any]) -> None:
    path = tmp_path / "x.h5"
    order = np.random.default_rng(n).permutation(n).tolist()
    with create(path, libver) as file:
        dataset = file.create_dataset("x", (n, 1), "u1", chunks=(1, 1), maxshape=(None, None), **options)
        fill(dataset, order)
    expected = IndexKind.BTREE_V1 if libver == "earliest" else IndexKind.BTREE_V2
    assert index_of(assert_same(path), "x") == expected


def test_filter_masks(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    for libver in ("earliest", "v110"):
        with create(path, libver) as file:
            for name, maxshape in {"a": (30,), "b": (None,), "c": (3,)}.items():
                dataset = file.create_dataset(
                    name, maxshape if maxshape[0] else (30,), "i4", chunks=(3,), maxshape=maxshape, compression="gzip"
                )
                dataset[...] = 1
                dataset.id.write_direct_chunk((0,), bytes(12), 1)
        assert_same(path)


@pytest.mark.parametrize("libver", ["v110", "latest"])
def test_chunks_at_the_edge_without_filters(tmp_path: Path, libver: str) -> None:
    path = tmp_path / "x.h5"
    with create(path, libver) as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((30,))
        plist.set_deflate(1)
        assert LIBRARY.H5Pset_chunk_opts(ctypes.c_int64(plist.id), ctypes.c_uint(2)) >= 0
        space = h5py.h5s.create_simple((70,))
        h5py.Dataset(h5py.h5d.create(file.id, b"x", h5py.h5t.STD_I32LE, space, plist))[...] = 1
    found = assert_same(path)
    (dataset,) = (node for node in found.objects.values() if isinstance(node, Dataset))
    assert isinstance(dataset.layout, Chunked)
    assert dataset.layout.partial_unfiltered


def scattered(path: Path, libver: str, n: int, **options: Any) -> Bytes:
    """A file whose index is cut into pieces by chunks."""
    with create(path, libver) as file:
        dataset = file.create_dataset("x", (n, 8), "i4", chunks=(1, 8), **options)
        fill(dataset, range(n))
    return Bytes(path.read_bytes())


@pytest.mark.parametrize(
    ("libver", "maxshape"),
    [("earliest", (None, 8)), ("v110", None), ("v110", (None, 8)), ("v110", (None, None))],
    ids=["B-tree v1", "fixed array", "extensible array", "B-tree v2"],
)
def test_no_python_per_chunk(tmp_path: Path, libver: str, maxshape: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Context, "verify", lambda self: None)  # goes through the bytes of the longest block
    steps = []
    for n in (2_000, 20_000):
        data = scattered(tmp_path / "x.h5", libver, n, maxshape=maxshape)
        found = run(read_file(data.size), data)
        (dataset,) = (node for node in found.objects.values() if isinstance(node, Dataset))
        assert dataset.chunks is not None
        assert len(dataset.chunks.size) == n
        steps.append(count_steps(lambda data=data: run(read_file(data.size), data)))  # type: ignore[misc]
    assert steps[1] - steps[0] < 18_000 / 4


def test_levels_of_all_indexes_together(tmp_path: Path) -> None:
    """As many batches for forty datasets as for one."""
    path = tmp_path / "x.h5"
    with create(path, "earliest") as file:
        datasets = [file.create_dataset(f"{i}", (9_000,), "i8", chunks=(2,)) for i in range(4)]
        filler = file.create_dataset("filler", (3_000, 64), "i8", chunks=(1, 64))
        for i in range(3_000):
            filler.id.write_direct_chunk((i, 0), bytes(512))
            for dataset in datasets:
                dataset.id.write_direct_chunk((2 * i,), bytes(16))
    data = Bytes(path.read_bytes())
    found = run(read_file(data.size), data)
    assert sum(len(node.chunks.size) for node in found.objects.values() if isinstance(node, Dataset)) == 15_000  # type: ignore[union-attr]
    assert len(data.batches) <= 6
