"""One HDF5 dataset as a virtual array.

What layout, filters and type allow is referenced; the rest is stored, with a reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from h5py import h5d
from numpy.typing import NDArray

from icechunk_virtual.containers.source import Source
from icechunk_virtual.errors import MalformedSource
from icechunk_virtual.model.chunk_refs import ChunkRefs
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.scanners.attributes import FILL_VALUE, fill_value_json
from icechunk_virtual.scanners.chunking import contiguous_chunks, cut_contiguous
from icechunk_virtual.scanners.dataset import VirtualArray
from icechunk_virtual.scanners.documents import STRING, array_document
from icechunk_virtual.scanners.hdf5.attributes import read_attributes
from icechunk_virtual.scanners.hdf5.chunks import ChunkIndex, read_chunk_index
from icechunk_virtual.scanners.hdf5.dimensions import Axes
from icechunk_virtual.scanners.hdf5.filters import Filter, NoCodec, codecs
from icechunk_virtual.scanners.hdf5.types import Content, Element, element_type
from icechunk_virtual.scanners.hdf5.values import (
    decoded_nbytes,
    defines_fill,
    fill_value,
    is_filled,
    pipeline_of,
    read_values,
    terminated_cleanly,
    why_unreadable,
)
from icechunk_virtual.scanners.native import encode_chunk, fetched, stored_array
from icechunk_virtual.scanners.refusal import Refused
from icechunk_virtual.scanners.spec import ScanOptions

_SIZE_KEEPING = {2}  # shuffle
_TEXT_BYTES = 16  # what a text of varying length is taken to need, where stored text is cut into chunks


@dataclass(frozen=True, slots=True)
class HdfFile:
    """What every dataset needs to know of its file."""

    source: Source
    locations: Locations
    options: ScanOptions


@dataclass(frozen=True, slots=True, eq=False)
class _Facts:
    """A dataset with everything that its document says."""

    file: HdfFile
    dataset: h5py.Dataset
    path: str
    names: tuple[str, ...]
    element: Element
    shape: tuple[int, ...]
    fill: Any
    attributes: dict[str, Any]
    notes: list[str]

    def document(self, chunk_shape: tuple[int, ...], compressors: list[dict[str, Any]]) -> dict[str, Any]:
        return array_document(
            self.shape,
            self.element.dtype,
            chunk_shape=chunk_shape,
            fill_value=self.fill,
            compressors=compressors,
            attributes=self.attributes,
            dimension_names=self.names,
        )


def scan_dataset(
    file: HdfFile, dataset: h5py.Dataset, path: str, axes: Axes, names: tuple[str, ...]
) -> tuple[VirtualArray, str, list[str]]:
    """Scan one dataset.

    Parameters
    ----------
    path
        Of the array that it becomes.
    axes
        Its shape, which may be larger than the dataset has grown to, that of array-typed elements included.
    names
        Of the axes.

    Returns
    -------
    array : VirtualArray
    reason : str
        Why bytes of it are stored, if any are.
    notes : list of str
        What is not as in the file.

    Raises
    ------
    Refused
        Its values have no place in Zarr, or cannot be read.
    MalformedSource
        It refers to bytes beyond the end of the file.
    """
    element = element_type(dataset)
    if element.content is Content.REFUSE:
        raise Refused(element.reason)
    attributes, notes = read_attributes(dataset, scale=axes.scale)
    _put_fill_attribute(attributes, element, notes)
    _put_enum_attributes(attributes, element, notes)
    grown = dataset.shape is not None and axes.shape != dataset.shape + element.inner
    fill, uniform = fill_value(dataset, element, grown=grown)
    facts = _Facts(file, dataset, path, names, element, axes.shape, fill, attributes, notes)
    if not math.prod(facts.shape):
        if dataset.shape is None:
            notes.append("has no dataspace (it is null); it becomes an array of length 0")
        return VirtualArray(facts.document(_grid_chunks(facts), []), ChunkRefs.empty(len(facts.shape))), "", notes
    reason = _why_read(facts) or ("" if uniform else "its fill value differs within one element")
    compressors: list[dict[str, Any]] = []
    index, pipeline = None, pipeline_of(dataset)
    if not reason and dataset.chunks is not None:
        index = read_chunk_index(dataset)
        reason = _why_unclear(facts, index)
        pipeline, skipped = _applied(pipeline, index)
        try:
            compressors = codecs(pipeline, _itemsize(facts) * math.prod(element.inner))
        except NoCodec as error:
            reason = str(error)
    if not reason and _layout(dataset) == h5d.COMPACT:
        reason = "compact: it lies in the object header"
    if reason:
        return _stored(facts, reason), reason, notes
    if index is not None:
        array, reason = _chunked(facts, index, pipeline, compressors, skipped)
    else:
        array, reason = _contiguous(facts)
    if array.nbytes_virtual and decoded_nbytes(dataset, element) <= file.options.store_small:
        return VirtualArray(array.document, fetched(array.refs, file.source.read_many)), "small", notes
    return array, reason, notes


# -- attributes ----------------------------------------------------------------------------------------------------


def _put_fill_attribute(attributes: dict[str, Any], element: Element, notes: list[str]) -> None:
    if FILL_VALUE in attributes:
        value, note = fill_value_json(attributes.pop(FILL_VALUE), element.dtype)
        if value is not None:
            attributes[FILL_VALUE] = value
        if note is not None:
            notes.append(note)


def _put_enum_attributes(attributes: dict[str, Any], element: Element, notes: list[str]) -> None:
    """Name the values of an enumeration as the CF conventions do (section 3.5, flags)."""
    if not element.enum:
        return
    if "flag_values" in attributes or any(not name or len(name.split()) != 1 for name in element.enum):
        notes.append(f"is an enumeration; its names are lost: {element.enum}")
        return
    attributes["flag_values"] = list(element.enum.values())
    attributes["flag_meanings"] = " ".join(element.enum)
    notes.append("is an enumeration; its names are kept as flag_values and flag_meanings")


# -- stored --------------------------------------------------------------------------------------------------------


def _why_read(facts: _Facts) -> str:
    """Why the values have to be read, as far as type, role and layout say; empty if they need not."""
    element, dataset, options = facts.element, facts.dataset, facts.file.options
    if element.content is Content.CONVERT:
        return element.reason
    if _layout(dataset) == h5d.VIRTUAL:
        return "it is an HDF5 virtual dataset"
    if dataset.external:
        return "it lies in external files"
    if element.content is Content.CHECK:
        _check_readable(facts)
        if not terminated_cleanly(dataset, element):
            return element.reason
    name = facts.path.rsplit("/", 1)[1]
    small = decoded_nbytes(dataset, element) <= options.store_coordinates
    return "coordinate" if small and len(facts.shape) == 1 and facts.names == (name,) else ""


def _check_readable(facts: _Facts) -> None:
    nbytes, limit = decoded_nbytes(facts.dataset, facts.element), facts.file.options.max_stored
    if nbytes > limit:
        raise Refused(f"it would have to be stored, and its {nbytes} bytes are more than max_stored ({limit})")
    reason = why_unreadable(facts.dataset)
    if reason:
        raise Refused(reason)


def _stored(facts: _Facts, reason: str) -> VirtualArray:
    _check_readable(facts)
    chunk_shape: tuple[int, ...] | None = None
    if reason != "coordinate":
        chunk_shape = _grid_chunks(facts)
    return stored_array(
        _grown(facts, read_values(facts.dataset, facts.element, facts.notes)),
        dimension_names=facts.names,
        attributes=facts.attributes,
        fill_value=facts.fill,
        chunk_shape=chunk_shape,
        dtype=facts.element.dtype,
    )


def _grown(facts: _Facts, values: NDArray[Any]) -> NDArray[Any]:
    """With the fill value up to the shape of the array."""
    if values.shape == facts.shape:
        return values
    empty = "" if facts.element.dtype == STRING else np.zeros((), facts.element.dtype)[()]
    whole = np.full(facts.shape, empty if facts.fill is None else facts.fill, values.dtype)
    whole[tuple(map(slice, values.shape))] = values
    return whole


# -- referenced ----------------------------------------------------------------------------------------------------


def _contiguous(facts: _Facts) -> tuple[VirtualArray, str]:
    target, itemsize = facts.file.options.contiguous_chunk, _itemsize(facts)
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


def _applied(pipeline: list[Filter], index: ChunkIndex) -> tuple[list[Filter], NDArray[np.bool_]]:
    """The filters that were applied, and which chunks skipped some of these."""
    masks = np.unique(index.filter_mask)
    if len(masks) == 1 and masks[0]:  # all chunks skipped the same ones
        mask = int(masks[0])
        applied = [step for i, step in enumerate(pipeline) if not mask >> i & 1]
        return applied, np.zeros(len(index.filter_mask), bool)
    return pipeline, index.filter_mask != 0


def _chunked(
    facts: _Facts,
    index: ChunkIndex,
    pipeline: list[Filter],
    compressors: list[dict[str, Any]],
    skipped: NDArray[np.bool_],
) -> tuple[VirtualArray, str]:
    document = facts.document(_grid_chunks(facts), compressors)
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


def _why_unclear(facts: _Facts, index: ChunkIndex) -> str:
    """Why no fill value suits all chunks that are missing; empty if one does.

    Inside the dataset HDF5 reads zeros there, and `fill_value` has given what netCDF reads behind its end.
    """
    dataset = facts.dataset
    if facts.fill is None or defines_fill(dataset) or not is_filled(dataset):
        return ""
    chunks = math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
    return "netCDF and HDF5 fill differently where nothing was written" if len(index.size) < chunks else ""


def _suspicious(facts: _Facts, index: ChunkIndex, pipeline: list[Filter]) -> NDArray[np.bool_]:
    """Chunks whose bytes may not be what the document says."""
    raw = np.uint64(math.prod(_grid_chunks(facts)) * _itemsize(facts))
    odd = np.zeros(len(index.size), bool)
    if not pipeline:
        odd |= index.size != raw
    elif not {step.code for step in pipeline} <= _SIZE_KEEPING:
        # Chunks at the edge may be unfiltered without saying so (H5D_CHUNK_DONT_FILTER_PARTIAL_CHUNKS).
        odd |= index.size == raw
        if odd.any():
            odd &= _reaching_out(facts, index, [True] * facts.dataset.ndim)
    grown = [n > m for n, m in zip(facts.shape, facts.dataset.shape, strict=False)]
    if any(grown) and not (defines_fill(facts.dataset) and is_filled(facts.dataset)):
        # Beyond what was written a chunk holds anything, which must not show where the array goes on.
        odd |= _reaching_out(facts, index, grown)
    return odd


def _reaching_out(facts: _Facts, index: ChunkIndex, axes: list[bool]) -> NDArray[np.bool_]:
    """Chunks that reach beyond the extent of the dataset along one of the chosen axes."""
    found = np.zeros(len(index.size), bool)
    for axis, (chunk, size) in enumerate(zip(facts.dataset.chunks, facts.dataset.shape, strict=True)):
        if axes[axis]:
            found |= index.start[:, axis] + np.uint64(chunk) > np.uint64(size)
    return found


def _virtual(facts: _Facts, coords: NDArray[Any], offset: NDArray[Any], size: NDArray[Any]) -> ChunkRefs:
    _check_within(facts, offset, size)
    return ChunkRefs.virtual(coords, facts.file.locations, 0, offset, size)


def _with_odd_chunks(
    facts: _Facts, document: dict[str, Any], refs: ChunkRefs, coords: NDArray[np.uint32]
) -> tuple[VirtualArray, str]:
    """Add chunks that are written unlike their neighbours: read by HDF5, encoded as the others, stored."""
    _check_readable(facts)
    payloads = []
    for coord in coords[:, : facts.dataset.ndim].tolist():
        region = tuple(slice(i * c, (i + 1) * c) for i, c in zip(coord, facts.dataset.chunks, strict=True))
        payloads.append(encode_chunk(document, read_values(facts.dataset, facts.element, facts.notes, region)))
    count = f"{len(payloads)} chunk{'s' * (len(payloads) != 1)}"
    reason = f"{count} written unlike the others, such as without their filters"
    return VirtualArray(document, refs.replace(ChunkRefs.inline(coords, payloads))), reason


def _check_within(facts: _Facts, offset: NDArray[np.uint64], size: NDArray[np.uint64]) -> None:
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


# -- shapes --------------------------------------------------------------------------------------------------------


def _layout(dataset: h5py.Dataset) -> int:
    return int(dataset.id.get_create_plist().get_layout())


def _itemsize(facts: _Facts) -> int:
    dtype = facts.element.dtype
    return _TEXT_BYTES if dtype == STRING else dtype.itemsize


def _grid_chunks(facts: _Facts) -> tuple[int, ...]:
    """Chunk shape: the file's, or a cut of what the file holds in one piece or as text."""
    if facts.dataset.chunks is not None and facts.element.dtype != STRING:
        return (*facts.dataset.chunks, *facts.element.inner)
    return contiguous_chunks(facts.shape, _itemsize(facts), target=facts.file.options.contiguous_chunk)
