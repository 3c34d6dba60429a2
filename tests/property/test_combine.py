"""Joining references in columns equals moving them one by one; files that do not line up are refused."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk_virtual.errors import InconsistentFiles
from icechunk_virtual.model.chunk_refs import ChunkRefs, InlineChunk, VirtualChunk
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.scanners.combine import concat
from icechunk_virtual.scanners.compare import same
from icechunk_virtual.scanners.dataset import Scanned, VirtualArray, VirtualGroup
from icechunk_virtual.scanners.documents import array_document
from icechunk_virtual.scanners.native import decode_array, stored_array
from icechunk_virtual.scanners.order import overlaps

ZLIB = {"name": "numcodecs.zlib", "configuration": {"level": 4}}


def virtual_array(
    url: str,
    shape: tuple[int, ...],
    chunk_shape: tuple[int, ...],
    names: tuple[str, ...],
    compressors: tuple[dict[str, Any], ...] = (ZLIB,),
    missing: frozenset[int] = frozenset(),
) -> VirtualArray:
    """An array of `<i2` whose chunk number i lies at byte 1000 i (or is missing)."""
    document = array_document(
        shape, np.dtype("<i2"), chunk_shape=chunk_shape, compressors=compressors, dimension_names=names
    )
    grid = [-(-n // c) for n, c in zip(shape, chunk_shape, strict=True)]
    coords = [c for i, c in enumerate(itertools.product(*map(range, grid))) if i not in missing]
    offsets = np.array([1000 * i for i in range(math.prod(grid)) if i not in missing])
    nbytes = 2 * math.prod(chunk_shape)
    refs = ChunkRefs.virtual(
        np.array(coords, np.uint32).reshape(len(coords), len(shape)),
        Locations.of([url]),
        0,
        offsets,
        np.full(len(coords), nbytes),
    )
    return VirtualArray(document, refs)


def scanned(number: int, **arrays: VirtualArray) -> Scanned:
    return Scanned(VirtualGroup({}, arrays), f"file:///data/{number}.nc", "test")


def as_dict(array: VirtualArray) -> dict[tuple[int, ...], Any]:
    return {tuple(array.refs.coords[i].tolist()): array.refs.row(i) for i in range(array.nrefs)}


@given(data=st.data())
def test_references_move_as_one_by_one(data: st.DataObject) -> None:
    ndim = data.draw(st.integers(1, 3))
    axis = data.draw(st.integers(0, ndim - 1))
    names = tuple("t" if i == axis else f"d{i}" for i in range(ndim))
    chunk_shape = tuple(data.draw(st.integers(1, 3)) for _ in range(ndim))
    others = [data.draw(st.integers(1, 5)) for _ in range(ndim)]
    counts = data.draw(st.lists(st.integers(0, 3), min_size=2, max_size=5))
    lengths = [chunk_shape[axis] * k for k in counts]
    lengths[-1] += data.draw(st.integers(0, chunk_shape[axis] - 1))
    items, expected, start = [], {}, 0
    for number, n in enumerate(lengths):
        shape = tuple(n if i == axis else others[i] for i in range(ndim))
        missing = data.draw(st.frozensets(st.integers(0, 20), max_size=3))
        array = virtual_array(f"file:///data/{number}.nc", shape, chunk_shape, names, missing=missing)
        items.append(scanned(number, v=array))
        for coord, chunk in as_dict(array).items():
            moved = tuple(k + start if i == axis else k for i, k in enumerate(coord))
            expected[moved] = chunk
        start += n // chunk_shape[axis]
    joined = concat(items, "t").root.arrays["v"]
    assert as_dict(joined) == expected
    assert joined.chunk_shape == chunk_shape
    assert joined.shape[axis] == sum(lengths)


@given(data=st.data())
def test_uncompressed_chunks_are_cut_as_one_by_one(data: st.DataObject) -> None:
    """Any lengths fit when there is no compression: every element keeps its byte."""
    lengths = data.draw(st.lists(st.integers(0, 12), min_size=2, max_size=5))
    row = data.draw(st.integers(1, 3))
    items, expected = [], []
    for number, n in enumerate(lengths):
        url = f"file:///data/{number}.nc"
        divisors = [k for k in range(1, n + 1) if n % k == 0] or [1]
        chunk = data.draw(st.sampled_from(divisors))
        array = virtual_array(url, (n, row), (chunk, row), ("t", "x"), ())
        items.append(scanned(number, v=array))
        # chunk i lies at byte 1000 i
        expected += [(url, 1000 * (k // chunk) + k % chunk * row * 2) for k in range(n)]
    joined = concat(items, "t").root.arrays["v"]
    assert joined.shape == (sum(lengths), row)
    found = []
    for coord, ref in as_dict(joined).items():
        assert isinstance(ref, VirtualChunk)
        assert ref.length == joined.chunk_shape[0] * row * 2
        assert coord[1] == 0
        found += [(ref.url, ref.offset + i * row * 2) for i in range(joined.chunk_shape[0])]
    assert found == expected


@given(
    lengths=st.lists(st.integers(0, 4), min_size=2, max_size=5),
    dtype=st.sampled_from([">i2", "<f8", "S3", "U2", "bool"]),
    axis=st.integers(0, 1),
)
def test_stored_arrays_are_joined_in_one_chunk(lengths: list[int], dtype: str, axis: int) -> None:
    rng = np.random.default_rng(0)
    names = ("t", "x") if axis == 0 else ("x", "t")
    parts = [rng.integers(0, 99, (n, 3) if axis == 0 else (3, n)).astype(dtype) for n in lengths]
    arrays = [stored_array(p, dimension_names=names) for p in parts]
    joined = concat([scanned(i, v=a) for i, a in enumerate(arrays)], "t").root.arrays["v"]
    np.testing.assert_array_equal(decode_array(joined), np.concatenate(parts, axis))
    assert joined.nrefs == (1 if sum(lengths) else 0)
    assert joined.document["codecs"][0] == arrays[0].document["codecs"][0]


def test_inline_and_virtual_chunks_of_one_grid_mix() -> None:
    first = virtual_array("file:///data/0.nc", (2, 2), (1, 2), ("t", "x"), ())
    small = VirtualArray(
        {**first.document, "shape": [1, 2]}, ChunkRefs.inline(np.array([[0, 0]], np.uint32), [b"\1\0\2\0"])
    )
    joined = concat([scanned(0, v=first), scanned(1, v=small)], "t").root.arrays["v"]
    assert as_dict(joined)[2, 0] == InlineChunk(b"\1\0\2\0")
    assert joined.nbytes_stored == 4


def test_arrays_without_chunks_are_not_made_of_fill_values() -> None:
    """A terabyte that was never written stays nothing."""
    empty = VirtualArray(
        array_document((10, 10**11), np.dtype("u1"), chunk_shape=(1, 10**6), dimension_names=("t", "x")),
        ChunkRefs.empty(2),
    )
    static = VirtualArray(
        array_document((10**12,), np.dtype("u1"), chunk_shape=(10**6,), dimension_names=("x",)), ChunkRefs.empty(1)
    )
    joined = concat([scanned(i, v=empty, w=static) for i in range(3)], "t")
    assert joined.root.arrays["v"].shape == (30, 10**11)
    assert joined.root.nrefs == 0
    filled = VirtualArray({**static.document, "fill_value": 1}, static.refs)
    with pytest.raises(InconsistentFiles, match="`/w`: fill value is 1, but 0 in the first file"):
        concat([scanned(0, v=empty, w=static), scanned(1, v=empty, w=filled)], "t")


def faults(*arrays: VirtualArray) -> tuple[str, ...]:
    with pytest.raises(InconsistentFiles) as caught:
        concat([scanned(i, v=a) for i, a in enumerate(arrays)], "t")
    return tuple(d.partition(": ")[2] for d in caught.value.differences)


def compressed(n: int, chunk: int, **kwargs: Any) -> VirtualArray:
    return virtual_array("file:///data/x.nc", (n, 4), (chunk, 4), ("t", "x"), **kwargs)


def test_compressed_grids_that_do_not_line_up() -> None:
    assert faults(compressed(31, 31), compressed(28, 28), compressed(31, 31)) == (
        "`/v`: chunk length along `t` is 28, but 31 in the first file",
    )
    assert faults(compressed(20, 10), compressed(15, 10), compressed(3, 10)) == (
        "`/v`: its 15 steps along `t` end inside a chunk of 10; only the last file's may",
    )
    assert faults(compressed(15, 10), compressed(20, 10)) == (
        "`/v`: its 15 steps along `t` end inside a chunk of 10; only the last file's may",
    )


def test_first_differing_fact() -> None:
    base = compressed(10, 10)

    def changed(**parts: Any) -> VirtualArray:
        return VirtualArray({**base.document, **parts}, base.refs)

    def attributes(**values: Any) -> VirtualArray:
        return changed(attributes=values)

    def codecs(*compressors: dict[str, Any], endian: str = "little") -> VirtualArray:
        return changed(codecs=[{"name": "bytes", "configuration": {"endian": endian}}, *compressors])

    grid = {"name": "regular", "configuration": {"chunk_shape": [10, 2]}}
    cases = {
        "data type is uint16, but int16 in the first file": changed(data_type="uint16"),
        "byte order is big, but little in the first file": codecs(ZLIB, endian="big"),
        "codecs are ['bytes'], but ['bytes', 'numcodecs.zlib'] in the first file": codecs(),
        "configuration of codec numcodecs.zlib is {'level': 9}, but {'level': 4} in the first file": codecs(
            {"name": "numcodecs.zlib", "configuration": {"level": 9}}
        ),
        "chunk shape is [2], but [4] in the first file": changed(chunk_grid=grid),
        "fill value is 1, but 0 in the first file": changed(fill_value=1),
        "attribute scale_factor is 2.0, but absent in the first file": attributes(scale_factor=2.0),
        "dimensions are ['t', 'z'], but ['t', 'x'] in the first file": changed(dimension_names=["t", "z"]),
    }
    for text, array in cases.items():
        assert faults(base, array) == (f"`/v`: {text}",)


def test_groups_are_joined_and_compared() -> None:
    def item(number: int, name: str = "v") -> Scanned:
        arrays = {name: virtual_array(f"file:///data/{number}.nc", (2, 4), (1, 4), ("t", "x"))}
        inner = VirtualGroup({}, {"s": stored_array(np.arange(3), dimension_names=("x",))})
        return Scanned(VirtualGroup({}, {}, {"g": VirtualGroup({}, arrays, {"h": inner})}), f"file:///{number}", "test")

    joined = concat([item(i) for i in range(3)], "t")
    assert joined.root.groups["g"].arrays["v"].shape == (6, 4)
    assert joined.root.groups["g"].groups["h"].arrays["s"].shape == (3,)
    with pytest.raises(InconsistentFiles, match=r"variable `/g/v` is missing.*variable `/g/w` is not in the first"):
        concat([item(0), item(1, "w")], "t")
    bare = Scanned(VirtualGroup(), "file:///bare", "test")
    with pytest.raises(InconsistentFiles, match="group `/g` is missing, the first file has it"):
        concat([item(0), bare], "t")


def coordinates(*values: Any) -> list[Scanned]:
    return [scanned(i, t=stored_array(np.asarray(v), dimension_names=("t",))) for i, v in enumerate(values)]


@pytest.mark.parametrize(
    ("given_values", "expected"),
    [
        ([[1, 2], [3, 4]], [1, 2, 3, 4]),
        ([[3, 4], [1, 2]], [1, 2, 3, 4]),
        ([[3, 1], [9, 7]], [9, 7, 3, 1]),
        ([[5], [4], [3]], [5, 4, 3]),  # descending as given stays
        ([[5], [3], [4]], [3, 4, 5]),
        ([[2, 1, 2], [0, 5]], [2, 1, 2, 0, 5]),  # not monotonic: as given
        ([[3.0], [1.0], [], [2.0]], [1.0, 2.0, 3.0]),
        ([["b"], ["a"]], ["b", "a"]),
        ([np.array([2**63 + 2], "u8"), np.array([2**63 + 1], "u8")], [2**63 + 2, 2**63 + 1]),
    ],
)
def test_order(given_values: list[Any], expected: list[Any]) -> None:
    joined = concat(coordinates(*given_values), "t")
    assert decode_array(joined.root.arrays["t"]).tolist() == expected
    was_sorted = [v for part in given_values for v in part] != expected
    assert any("sorted" in w for w in joined.warnings) == was_sorted


@pytest.mark.parametrize(
    ("values", "file", "other", "value"),
    [
        ([[1, 2], [2, 3]], 1, 0, 2),
        ([[1, 2], [1, 2]], 1, 0, 1),
        ([[1, 5], [3, 4]], 1, 0, 3),
        ([[1], [1]], 1, 0, 1),
        ([[4, 3], [3, 2]], 1, 0, 3),
        ([[2, 1, 2], [5, 1]], 1, 0, 1),
        ([["a", "b"], ["c"], ["b"]], 2, 0, "b"),
    ],
)
def test_overlaps(values: list[Any], file: int, other: int, value: Any) -> None:
    assert overlaps([np.array(v) for v in values]) == [(file, other, value)]
    with pytest.raises(InconsistentFiles, match=f"`/t`: value .* is in the range of file:///data/{other}.nc too"):
        concat(coordinates(*values), "t")


def test_same() -> None:
    assert same([1, {"a": float("nan")}], [1, {"a": float("nan")}])
    assert not same(1, 1.0)
    assert not same(1, True)
    assert not same([1], [1, 2])
    assert not same({"a": 1}, {"b": 1})
    assert not same(None, 0)
