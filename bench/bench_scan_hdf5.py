"""Scanning an HDF5 dataset of 200,000 chunks, against nothing but h5py's own walk over its chunk index."""

from __future__ import annotations

import atexit
from pathlib import Path

import h5py
import numpy as np

from bench.engines import remove, temporary_directory
from bench.harness import Pair
from icechunk_virtual.virtual import scan

GRID = (200, 1000)
CHUNK = (2, 4)
COUNT = GRID[0] * GRID[1]


def make_file(path: Path, libver: str) -> None:
    """Compressed chunks of different lengths, written in an order of their own."""
    payloads = [bytes(length) for length in range(20, 60)]
    order = np.random.default_rng(0).permutation(COUNT)
    shape = tuple(n * c for n, c in zip(GRID, CHUNK, strict=True))
    with h5py.File(path, "w", libver=libver) as file:
        dataset = file.create_dataset("a", shape, "f4", chunks=CHUNK, compression="gzip")
        for number in order.tolist():
            i, j = divmod(number, GRID[1])
            dataset.id.write_direct_chunk((i * CHUNK[0], j * CHUNK[1]), payloads[number % len(payloads)])


def walk(path: Path) -> None:
    """The least that h5py can do: a callback that keeps nothing."""
    with h5py.File(path) as file:
        file["a"].id.chunk_iter(lambda info: None)


def check_same_result(path: Path) -> None:
    refs = scan(path).arrays["a"].refs
    with h5py.File(path) as file:
        found = []
        file["a"].id.chunk_iter(lambda info: found.append((*info.chunk_offset, info.byte_offset, info.size)))
    expected = np.array(sorted(found), np.int64)
    ours = np.column_stack([refs.coords * np.array(CHUNK), refs.offset, refs.length])
    if not np.array_equal(ours, expected):
        raise RuntimeError("the scan found other chunks than h5py")


def benches() -> list[Pair]:
    directory = temporary_directory()
    atexit.register(remove, directory)
    pairs = []
    for libver, index in (("earliest", "B-tree"), ("latest", "fixed array")):
        path = directory / f"{libver}.h5"
        make_file(path, libver)
        check_same_result(path)
        pairs.append(
            Pair(
                f"scan 200,000 chunks of HDF5 ({index}) against a bare chunk_iter",
                ours=lambda _, path=path: scan(path),
                theirs=lambda _, path=path: walk(path),
                count=COUNT,
                unit="chunks",
                at_least=1 / 1.3,
                repeats=9,
            )
        )
    return pairs
