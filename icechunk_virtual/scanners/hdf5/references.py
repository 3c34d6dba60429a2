"""References to the bytes of an HDF5 dataset: contiguous ones, chunks, and chunks that are unlike their neighbours."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.errors import MalformedSource
from icechunk_virtual.model.chunk_refs import ChunkRefs
from icechunk_virtual.scanners.chunking import contiguous_chunks, cut_contiguous
from icechunk_virtual.scanners.dataset import VirtualArray, count
from icechunk_virtual.scanners.hdf5.chunks import ChunkIndex
from icechunk_virtual.scanners.hdf5.facts import Facts
from icechunk_virtual.scanners.hdf5.filters import Filter
from icechunk_virtual.scanners.hdf5.values import (
    defines_fill,
    is_filled,
    read_values,
)
from icechunk_virtual.scanners.native import encode_chunk


def contiguous(facts: Facts) -> tuple[VirtualArray, str]:
    """A dataset that lies in one piece, or was never written, and why bytes of it are stored."""
    target, itemsize = facts.file.options.contiguous_chunk, facts.itemsize
    if not facts.dataset.id.get_storage_size():  # never written; its offset would be the user block's size less one
        chunk_shape = contiguous_chunks(facts.shape, itemsize, target=target)
        return VirtualArray(facts.document(chunk_shape, []), ChunkRefs.empty(len(facts.shape))), ""
    offset = facts.dataset.id.get_offset()
    _check_within(facts, np.array([offset], np.uint64), np.array([math.prod(facts.shape) * itemsize], np.uint64))
    fill = np.zeros((), facts.element.dtype)
    if facts.fill is not None:
        fill[()] = facts.fill
    chunk_shape, refs, tail = cut_contiguous(
        facts.shape,
        itemsize,
        offset,
        facts.file.locations,
        facts.file.source.read_many,
        fill.tobytes(),
        target=target,
    )
    reason = "the last chunk is incomplete in the file" if tail else ""
    return VirtualArray(facts.document(chunk_shape, []), refs), reason


def applied(pipeline: list[Filter], index: ChunkIndex) -> tuple[list[Filter], NDArray[np.bool_]]:
    """The filters that were applied, and which chunks skipped some of these."""
    masks = np.unique(index.filter_mask)
    if len(masks) == 1 and masks[0]:  # all chunks skipped the same ones
        mask = int(masks[0])
        left = [step for i, step in enumerate(pipeline) if not mask >> i & 1]
        return left, np.zeros(len(index.filter_mask), bool)
    return pipeline, index.filter_mask != 0


def chunked(
    facts: Facts,
    index: ChunkIndex,
    pipeline: list[Filter],
    compressors: list[dict[str, Any]],
    skipped: NDArray[np.bool_],
) -> tuple[VirtualArray, str]:
    """A chunked dataset, and why bytes of it are stored.

    Parameters
    ----------
    pipeline, skipped
        As `applied` tells.
    compressors
        Codecs of the pipeline.
    """
    document = facts.document(facts.grid_chunks, compressors)
    coords = np.zeros((len(skipped), len(facts.shape)), np.uint32, order="F")
    inside = np.ones(len(skipped), bool)
    for axis, (chunk, size) in enumerate(zip(facts.dataset.chunks, facts.dataset.shape, strict=True)):
        start = index.start[:, axis]
        coords[:, axis] = start // np.uint64(chunk)
        inside &= start < np.uint64(size)
    odd = skipped | _suspicious(facts, index, pipeline)
    rows = inside & ~odd
    if rows.all():
        return VirtualArray(document, _virtual(facts, coords, index.offset, index.size)), ""
    refs = _virtual(facts, coords[rows], index.offset[rows], index.size[rows])
    rows = inside & odd
    if not rows.any():
        return VirtualArray(document, refs), ""
    return _with_odd_chunks(facts, document, refs, coords[rows])


def why_unclear(facts: Facts, index: ChunkIndex) -> str:
    """Why no fill value suits all chunks that are missing; empty if one does.

    Inside the dataset HDF5 reads zeros there, and `fill_value` has given what netCDF reads behind its end.
    """
    dataset = facts.dataset
    if facts.fill is None or defines_fill(dataset) or not is_filled(dataset):
        return ""
    chunks = math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
    return "netCDF and HDF5 fill differently where nothing was written" if len(index.size) < chunks else ""


def _suspicious(facts: Facts, index: ChunkIndex, pipeline: list[Filter]) -> NDArray[np.bool_]:
    """Chunks whose bytes may not be what the document says."""
    raw = np.uint64(math.prod(facts.grid_chunks) * facts.itemsize)
    odd = np.zeros(len(index.size), bool)
    if not pipeline:
        odd |= index.size != raw
    else:
        # Chunks at the edge may be unfiltered without saying so (H5D_CHUNK_DONT_FILTER_PARTIAL_CHUNKS).
        odd |= index.size == raw
        if odd.any():
            odd &= _reaching_out(facts, index, [True] * facts.dataset.ndim)
    grown = [n > m for n, m in zip(facts.shape, facts.dataset.shape, strict=False)]
    if any(grown) and not (defines_fill(facts.dataset) and is_filled(facts.dataset)):
        # Beyond what was written a chunk holds anything, which must not show where the array goes on.
        odd |= _reaching_out(facts, index, grown)
    return odd


def _reaching_out(facts: Facts, index: ChunkIndex, axes: list[bool]) -> NDArray[np.bool_]:
    """Chunks that reach beyond the extent of the dataset along one of the chosen axes."""
    found = np.zeros(len(index.size), bool)
    for axis, (chunk, size) in enumerate(zip(facts.dataset.chunks, facts.dataset.shape, strict=True)):
        if axes[axis]:
            found |= index.start[:, axis] + np.uint64(chunk) > np.uint64(size)
    return found


def _virtual(facts: Facts, coords: NDArray[Any], offset: NDArray[Any], size: NDArray[Any]) -> ChunkRefs:
    _check_within(facts, offset, size)
    return ChunkRefs.virtual(coords, facts.file.locations, 0, offset, size)


def _with_odd_chunks(
    facts: Facts, document: dict[str, Any], refs: ChunkRefs, coords: NDArray[np.uint32]
) -> tuple[VirtualArray, str]:
    """Add chunks that are written unlike their neighbours: read by HDF5, encoded as the others, stored."""
    facts.check_readable()
    payloads = []
    for coord in coords[:, : facts.dataset.ndim].tolist():
        region = tuple(slice(i * c, (i + 1) * c) for i, c in zip(coord, facts.dataset.chunks, strict=True))
        payloads.append(encode_chunk(document, read_values(facts.dataset, facts.element, facts.notes, region)))
    reason = f"{count(len(payloads), 'chunk')} written unlike the others, such as without their filters"
    return VirtualArray(document, refs.replace(ChunkRefs.inline(coords, payloads))), reason


def _check_within(facts: Facts, offset: NDArray[np.uint64], size: NDArray[np.uint64]) -> None:
    end, limit = offset + size, np.uint64(facts.file.source.size)
    wrong = (end > limit) | (end < offset)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise MalformedSource(
            f"`{facts.path}` of {facts.file.source.url} has {size[row]} bytes at offset {offset[row]}, but the file "
            f"has only {limit}: it is damaged or cut off. Get it again.",
            source=facts.file.source.url,
            name=facts.path,
        )
