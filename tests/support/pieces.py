"""Virtual arrays over raw bytes that a test writes, and repositories that may read them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import icechunk_virtual as icv
from icechunk_virtual.model.chunk_refs import ChunkRefs
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.scanners.dataset import VirtualArray, VirtualGroup
from icechunk_virtual.scanners.documents import array_document
from icechunk_virtual.scanners.native import stored_array
from icechunk_virtual.virtual import VirtualDataset


def virtual_array(
    path: Path,
    values: NDArray[Any],
    chunk_shape: Sequence[int],
    dims: Sequence[str],
    *,
    attributes: Mapping[str, Any] | None = None,
    fill_value: Any = None,
) -> VirtualArray:
    """The values as uncompressed chunks in a file of their own."""
    document = array_document(
        values.shape,
        values.dtype,
        chunk_shape=chunk_shape,
        fill_value=fill_value,
        attributes=attributes,
        dimension_names=dims,
    )
    grid = [range(-(-n // c)) for n, c in zip(values.shape, chunk_shape, strict=True)]
    coords = list(itertools.product(*grid))
    blocks = []
    for coord in coords:
        block = np.zeros(chunk_shape, values.dtype)
        part = values[tuple(slice(i * c, (i + 1) * c) for i, c in zip(coord, chunk_shape, strict=True))]
        block[tuple(map(slice, part.shape))] = part
        blocks.append(block.tobytes())
    path.write_bytes(b"".join(blocks))
    size = int(np.prod(chunk_shape)) * values.itemsize
    offsets = np.arange(len(coords), dtype=np.uint64) * np.uint64(size)
    lengths = np.full(len(coords), size, np.uint64)
    grid_coords = np.array(coords, np.uint32).reshape(len(coords), values.ndim)
    return VirtualArray(document, ChunkRefs.virtual(grid_coords, Locations.of([path.as_uri()]), 0, offsets, lengths))


def stored(values: Any, dims: Sequence[str], **attributes: Any) -> VirtualArray:
    return stored_array(np.asarray(values), dimension_names=dims, attributes=attributes)


def dataset(arrays: Mapping[str, VirtualArray], groups: Mapping[str, VirtualGroup] | None = None) -> VirtualDataset:
    root = VirtualGroup({"title": "test"}, dict(arrays), dict(groups or {}))
    urls = {url for _, array in root.walk_arrays() for url in array.refs.locations.urls}
    return VirtualDataset(root, tuple(sorted(urls)), "raw")


def repository(folder: Path) -> icv.Repository:
    """In memory; may read the folder."""
    config = icv.RepositoryConfig()
    prefix = folder.as_uri() + "/"
    config.set_virtual_chunk_container(icv.VirtualChunkContainer(prefix, icv.local_filesystem_store(str(folder))))
    repo: icv.Repository = icv.Repository.create(icv.in_memory_storage(), config, {prefix: None})
    return repo
