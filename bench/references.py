"""Virtual references as a real archive has them: files of compressed chunks, one after the other."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.engines import Side, engine

ARCHIVE = Path("/bench-archive")  # referenced, never read

CHUNKS_PER_FILE = 1000


def columns(count: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint64], NDArray[np.uint64]]:
    """Coordinates (n, 2), file number, offset and length of chunks of 2 to 6 kB in files of 1000."""
    row = np.arange(count, dtype=np.uint32)
    coords = np.stack(np.divmod(row, CHUNKS_PER_FILE), axis=1).astype(np.uint32)
    length = np.random.default_rng(0).integers(2000, 6000, count, dtype=np.uint64)
    end = np.cumsum(length, dtype=np.uint64).reshape(-1, CHUNKS_PER_FILE)
    offset = (
        end - length.reshape(end.shape) - (end[:, :1] - length.reshape(end.shape)[:, :1]) + np.uint64(8192)
    ).ravel()
    return coords, coords[:, 0].copy(), offset, length


def shape(count: int) -> tuple[int, int]:
    """Chunk grid, and shape of the array, whose chunks have one element."""
    return count // CHUNKS_PER_FILE, CHUNKS_PER_FILE


def urls(count: int) -> list[str]:
    """One per file."""
    return [f"file://{ARCHIVE}/model/run-01/temperature/{i:06d}.nc" for i in range(count // CHUNKS_PER_FILE)]


def make_specs(side: Side, count: int) -> list[Any]:
    """One `VirtualChunkSpec` of the library per chunk."""
    spec, names = engine(side).VirtualChunkSpec, urls(count)
    rows = zip(*(column.tolist() for column in columns(count)), strict=True)
    return [spec(index, names[source], offset, length) for index, source, offset, length in rows]


@functools.cache
def specs(side: Side, count: int) -> list[Any]:
    """As `make_specs`, made once."""
    return make_specs(side, count)
