"""Cutting contiguous data: every element is found where plain arithmetic says, and chunk sizes are sensible."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icechunk_virtual.model.chunk_refs import ChunkKind, ChunkRefs
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.scanners.chunking import (
    TARGET_BYTES,
    contiguous_chunks,
    contiguous_refs,
    cut_contiguous,
    subdivide,
)

HERE = Locations.of(["file:///data/x.nc"])
shapes = st.lists(st.integers(0, 13), min_size=0, max_size=4).map(tuple)


def read_array(refs: ChunkRefs, shape: tuple[int, ...], chunk_shape: tuple[int, ...], file: bytes) -> np.ndarray:
    """Plain per-chunk reader: what Zarr's bytes codec does."""
    grid = [-(-n // c) for n, c in zip(shape, chunk_shape, strict=True)]
    whole = np.full([g * c for g, c in zip(grid, chunk_shape, strict=True)], -1, "<i2")
    for i in range(len(refs)):
        start, length = int(refs.offset[i]), int(refs.length[i])
        data = (refs.heap if refs.kind[i] == ChunkKind.INLINE else file)[start : start + length]
        box = tuple(slice(c * k, c * k + k) for c, k in zip(refs.coords[i].tolist(), chunk_shape, strict=True))
        whole[box] = np.frombuffer(data, "<i2").reshape(chunk_shape)
    return whole[tuple(slice(0, n) for n in shape)]


@settings(max_examples=150, deadline=None)
@given(shape=shapes, target=st.integers(1, 200), offset=st.integers(0, 9))
def test_every_element_is_where_it_lies(shape: tuple[int, ...], target: int, offset: int) -> None:
    values = np.arange(math.prod(shape), dtype="<i2").reshape(shape)
    file = b"h" * offset + values.tobytes()

    def read_many(ranges):
        assert all(start + length <= len(file) for start, length in ranges)
        return [file[start : start + length] for start, length in ranges]

    chunk_shape, refs, stored = cut_contiguous(shape, 2, offset, HERE, read_many, b"\xff\x7f", target=target)
    assert all(refs.length == math.prod(chunk_shape) * 2)
    assert stored == int(refs.length[refs.kind == ChunkKind.INLINE].sum())
    np.testing.assert_array_equal(read_array(refs, shape, chunk_shape, file), values)


@settings(max_examples=150, deadline=None)
@given(shape=shapes, target=st.integers(1, 200), data=st.data())
def test_subdivide_keeps_every_element(shape: tuple[int, ...], target: int, data: st.DataObject) -> None:
    chunk_shape = contiguous_chunks(shape, 2, target=target)
    if not shape or any(n % c for n, c in zip(shape, chunk_shape, strict=True)):
        return
    axes = [a for a in range(len(shape)) if all(c == 1 for c in chunk_shape[:a])]
    axis = data.draw(st.sampled_from(axes))
    piece = data.draw(st.sampled_from([k for k in range(1, chunk_shape[axis] + 1) if chunk_shape[axis] % k == 0]))
    values = np.arange(math.prod(shape), dtype="<i2").reshape(shape)
    refs = subdivide(contiguous_refs(shape, chunk_shape, 2, 0, HERE), chunk_shape, axis, piece)
    cut = (*chunk_shape[:axis], piece, *chunk_shape[axis + 1 :])
    np.testing.assert_array_equal(read_array(refs, shape, cut, values.tobytes()), values)


def test_subdivide_refuses_pieces_that_are_not_contiguous() -> None:
    refs = contiguous_refs((4, 6), (4, 6), 2, 0, HERE)
    with pytest.raises(ValueError, match=r"cannot be cut into 3 along axis 1"):
        subdivide(refs, (4, 6), 1, 3)
    with pytest.raises(ValueError, match=r"cannot be cut into 3 along axis 0"):
        subdivide(refs, (4, 6), 0, 3)


def test_chunks_that_are_not_contiguous_are_refused() -> None:
    with pytest.raises(ValueError, match="not contiguous"):
        contiguous_refs((4, 6), (2, 3), 2, 0, HERE)


@pytest.mark.parametrize(
    ("shape", "itemsize", "expected"),
    [
        ((), 8, ()),
        ((0, 5), 4, (1, 5)),
        ((721, 1440), 4, (721, 1440)),  # 4 MB: one chunk
        ((365, 721, 1440), 4, (1, 721, 1440)),  # divisors 1, 5: five fields are 20 MB
        ((368, 100, 100), 8, (92, 100, 100)),
        ((4, 20000, 20000), 4, (1, 100, 20000)),  # a field is 1.6 GB: cut its rows
        ((10_000_000,), 8, (1_000_000,)),
        ((31, 512, 512), 4, (1, 512, 512)),  # prime, one row is large enough
        ((1, 1, 6, 2**20), 4, (1, 1, 2, 2**20)),
    ],
)
def test_sensible_chunks(shape: tuple[int, ...], itemsize: int, expected: tuple[int, ...]) -> None:
    assert contiguous_chunks(shape, itemsize) == expected


def test_a_long_prime_axis_has_a_short_tail() -> None:
    (chunk,) = contiguous_chunks((100_000_007,), 8)
    assert TARGET_BYTES / 2 <= chunk * 8 <= TARGET_BYTES
    assert 100_000_007 % chunk < 1000


def test_many_references_are_made_in_columns() -> None:
    refs = contiguous_refs((1_000_000, 3), (1, 3), 8, 100, HERE)
    assert len(refs) == 1_000_000
    assert refs.offset[-1] == 100 + 999_999 * 24
