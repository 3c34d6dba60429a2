"""What is known of an HDF5 dataset and its file when it is decided what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import h5py

from icechunk_virtual.containers.source import Source
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.scanners.chunking import contiguous_chunks
from icechunk_virtual.scanners.documents import STRING, array_document
from icechunk_virtual.scanners.hdf5.types import Element
from icechunk_virtual.scanners.hdf5.values import decoded_nbytes, why_unreadable
from icechunk_virtual.scanners.refusal import Refused
from icechunk_virtual.scanners.spec import ScanOptions

_TEXT_BYTES = 16  # what a text of varying length is taken to need, where stored text is cut into chunks


@dataclass(frozen=True, slots=True)
class HdfFile:
    """What every dataset needs to know of its file."""

    source: Source
    locations: Locations
    options: ScanOptions


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
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

    @property
    def itemsize(self) -> int:
        """Bytes of one element of the array."""
        dtype = self.element.dtype
        return _TEXT_BYTES if dtype == STRING else dtype.itemsize

    @property
    def grid_chunks(self) -> tuple[int, ...]:
        """Chunk shape: the file's, or a cut of what the file holds in one piece or as text."""
        if self.dataset.chunks is not None and self.element.dtype != STRING:
            return (*self.dataset.chunks, *self.element.inner)
        return contiguous_chunks(self.shape, self.itemsize, target=self.file.options.contiguous_chunk)

    def document(self, chunk_shape: tuple[int, ...], compressors: list[dict[str, Any]]) -> dict[str, Any]:
        """The `zarr.json` of the array."""
        return array_document(
            self.shape,
            self.element.dtype,
            chunk_shape=chunk_shape,
            fill_value=self.fill,
            compressors=compressors,
            attributes=self.attributes,
            dimension_names=self.names,
        )

    def check_readable(self) -> None:
        """Judge whether values can be read and stored.

        Raises
        ------
        Refused
            They are too many, in files that are not read, or HDF5 would not give the true ones.
        """
        nbytes, limit = decoded_nbytes(self.dataset, self.element), self.file.options.max_stored
        if nbytes > limit:
            raise Refused(f"it would have to be stored, and its {nbytes} bytes are more than max_stored ({limit})")
        reason = why_unreadable(self.dataset, self.file.source.local_path)
        if reason:
            raise Refused(reason)
