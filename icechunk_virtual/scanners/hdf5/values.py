"""Values of HDF5 datasets that have to be read through HDF5, in the form in which they are stored."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5s, h5t, h5z
from numpy.typing import NDArray

from icechunk_virtual.scanners.attributes import text
from icechunk_virtual.scanners.documents import STRING
from icechunk_virtual.scanners.hdf5.attributes import reference_path
from icechunk_virtual.scanners.hdf5.elsewhere import why_elsewhere
from icechunk_virtual.scanners.hdf5.filters import Filter
from icechunk_virtual.scanners.hdf5.types import Element
from icechunk_virtual.scanners.netcdf_types import default_fill


def pipeline_of(dataset: h5py.Dataset) -> list[Filter]:
    """The filters of a dataset in the order of writing."""
    plist = dataset.id.get_create_plist()
    steps = [plist.get_filter(i) for i in range(plist.get_nfilters())]
    return [Filter(code, tuple(values), name.decode("utf-8", "replace")) for code, _flags, values, name in steps]


def why_unreadable(dataset: h5py.Dataset, scanned: Path | None) -> str:
    """Why HDF5 would not give the true values, or may not be asked for them; empty when it may.

    Parts of virtual datasets and external storage that are missing would silently be read as fill values.

    Parameters
    ----------
    dataset
    scanned
        The file that is scanned; None: it is not on this machine.
    """
    missing = [step.label for step in pipeline_of(dataset) if not h5z.filter_avail(step.code)]
    if missing:
        return f"HDF5 has no filter {', '.join(missing)} here (pip install hdf5plugin has most)"
    return why_elsewhere(dataset, scanned)


def read_values(dataset: h5py.Dataset, element: Element, notes: list[str], region: Any = ()) -> NDArray[Any]:
    """Values with the type of `element`; text and paths of references as objects of `str`.

    Parameters
    ----------
    notes
        Grows by what is not as in the file.
    region
        Slices; default: everything.
    """
    values = np.asarray(dataset[region], None if dataset.dtype.kind != "O" else object)
    if element.dtype != STRING:
        return values.astype(element.dtype, copy=False)
    objects: Any = values
    texts = np.empty(values.shape, object)
    references = dataset.id.get_type().get_class() == h5t.REFERENCE
    for index in np.ndindex(values.shape):
        value = objects[index]
        if references:
            texts[index] = reference_path(value, dataset.file)
            continue
        texts[index], note = text(value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape"))
        if note is not None and note not in notes:
            notes.append(note)
    return texts


def terminated_cleanly(dataset: h5py.Dataset, element: Element) -> bool:
    """Whether null-terminated text has nothing but zeros behind the first zero, read without conversion."""
    tid = dataset.id.get_type()
    raw = np.zeros((*dataset.shape, *element.inner), element.dtype)
    dataset.id.read(h5s.ALL, h5s.ALL, raw, tid)
    letters = raw.reshape(-1).view("u1").reshape(-1, raw.dtype.itemsize)
    ended = np.logical_or.accumulate(letters == 0, axis=1)
    return not bool((ended & (letters != 0)).any())


def decoded_nbytes(dataset: h5py.Dataset, element: Element) -> int:
    """Bytes of all values; for text of varying length what the file needs to point to it."""
    shape = (*(dataset.shape or ()), *element.inner)
    itemsize = dataset.id.get_type().get_size() if element.dtype == STRING else element.dtype.itemsize
    return int(math.prod(shape) * itemsize)


def fill_value(dataset: h5py.Dataset, element: Element, *, grown: bool) -> tuple[Any, bool]:
    """What chunks that do not exist hold (``None``: zeros), and whether one scalar can say it.

    Parameters
    ----------
    grown
        The array goes on where the dataset ends. There netCDF reads a default of its own if the file has no value.
    """
    if not defines_fill(dataset):
        return (default_fill(element.dtype) if grown else None), True
    value = dataset.fillvalue
    if element.dtype == STRING:
        return (text(value)[0] if isinstance(value, bytes) else str(value or "")) or None, True
    if not element.inner:
        return value, True
    flat = np.asarray(value).reshape(-1)
    if not flat.size:
        return None, True
    return flat[0], bool((flat == flat[0]).all() or (flat.dtype.kind in "fc" and np.isnan(flat).all()))


def defines_fill(dataset: h5py.Dataset) -> bool:
    """Whether the file has a fill value."""
    return bool(dataset.id.get_create_plist().fill_value_defined() == h5d.FILL_VALUE_USER_DEFINED)


def is_filled(dataset: h5py.Dataset) -> bool:
    """Whether HDF5 puts the fill value where nothing is written; otherwise anything may be there."""
    return bool(dataset.id.get_create_plist().get_fill_time() != h5d.FILL_TIME_NEVER)
