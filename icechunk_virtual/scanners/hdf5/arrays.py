"""One HDF5 dataset as a virtual array.

What layout, filters and type allow is referenced; the rest is stored, with a reason.
"""

from __future__ import annotations

import math
from typing import Any

import h5py
import numpy as np
from h5py import h5d
from numpy.typing import NDArray

from icechunk_virtual.model.chunk_refs import ChunkRefs
from icechunk_virtual.scanners.attributes import FILL_VALUE, fill_value_json
from icechunk_virtual.scanners.dataset import VirtualArray
from icechunk_virtual.scanners.documents import STRING
from icechunk_virtual.scanners.hdf5.attributes import read_attributes
from icechunk_virtual.scanners.hdf5.chunks import read_chunk_index
from icechunk_virtual.scanners.hdf5.dimensions import Axes
from icechunk_virtual.scanners.hdf5.facts import Facts, HdfFile
from icechunk_virtual.scanners.hdf5.filters import NoCodec, codecs
from icechunk_virtual.scanners.hdf5.references import applied, chunked, contiguous, why_unclear
from icechunk_virtual.scanners.hdf5.types import Content, Element, element_type
from icechunk_virtual.scanners.hdf5.values import (
    decoded_nbytes,
    fill_value,
    pipeline_of,
    read_values,
    terminated_cleanly,
)
from icechunk_virtual.scanners.native import fetched, stored_array
from icechunk_virtual.scanners.refusal import Refused


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
    facts = Facts(file, dataset, path, names, element, axes.shape, fill, attributes, notes)
    if not math.prod(facts.shape):
        if dataset.shape is None:
            notes.append("has no dataspace (it is null); it becomes an array of length 0")
        return VirtualArray(facts.document(facts.grid_chunks, []), ChunkRefs.empty(len(facts.shape))), "", notes
    reason = _why_read(facts) or ("" if uniform else "its fill value differs within one element")
    compressors: list[dict[str, Any]] = []
    index, pipeline = None, pipeline_of(dataset)
    if not reason and dataset.chunks is not None:
        index = read_chunk_index(dataset)
        reason = why_unclear(facts, index)
        pipeline, skipped = applied(pipeline, index)
        try:
            compressors = codecs(pipeline, facts.itemsize * math.prod(element.inner))
        except NoCodec as error:
            reason = str(error)
    if not reason and _layout(dataset) == h5d.COMPACT:
        reason = "compact: it lies in the object header"
    if reason:
        return _stored(facts, reason), reason, notes
    if index is not None:
        array, reason = chunked(facts, index, pipeline, compressors, skipped)
    else:
        array, reason = contiguous(facts)
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


def _why_read(facts: Facts) -> str:
    """Why the values have to be read, as far as type, role and layout say; empty if they need not."""
    element, dataset, options = facts.element, facts.dataset, facts.file.options
    if element.content is Content.CONVERT:
        return element.reason
    if _layout(dataset) == h5d.VIRTUAL:
        return "it is an HDF5 virtual dataset"
    if dataset.external:
        return "it lies in external files"
    if element.content is Content.CHECK:
        facts.check_readable()
        if not terminated_cleanly(dataset, element):
            return element.reason
    name = facts.path.rsplit("/", 1)[1]
    small = decoded_nbytes(dataset, element) <= options.store_coordinates
    return "coordinate" if small and len(facts.shape) == 1 and facts.names == (name,) else ""


def _stored(facts: Facts, reason: str) -> VirtualArray:
    facts.check_readable()
    chunk_shape: tuple[int, ...] | None = None
    if reason != "coordinate":
        chunk_shape = facts.grid_chunks
    return stored_array(
        _grown(facts, read_values(facts.dataset, facts.element, facts.notes)),
        dimension_names=facts.names,
        attributes=facts.attributes,
        fill_value=facts.fill,
        chunk_shape=chunk_shape,
        dtype=facts.element.dtype,
    )


def _grown(facts: Facts, values: NDArray[Any]) -> NDArray[Any]:
    """With the fill value up to the shape of the array."""
    if values.shape == facts.shape:
        return values
    empty = "" if facts.element.dtype == STRING else np.zeros((), facts.element.dtype)[()]
    whole = np.full(facts.shape, empty if facts.fill is None else facts.fill, values.dtype)
    whole[tuple(map(slice, values.shape))] = values
    return whole


def _layout(dataset: h5py.Dataset) -> int:
    return int(dataset.id.get_create_plist().get_layout())
