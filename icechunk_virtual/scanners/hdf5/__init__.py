"""HDF5 and netCDF-4 files. This module is light: h5py is loaded with the scanner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk_virtual.scanners.spec import ScannerSpec, lazy

if TYPE_CHECKING:
    from icechunk_virtual.containers.source import Source

SIGNATURE = b"\x89HDF\r\n\x1a\n"


def has_signature(source: Source) -> bool:
    """Whether the superblock's signature stands at 0, 512, 1024, 2048 ... (HDF5 file format specification, II.A)."""
    offsets = [0]
    while (offset := max(512, 2 * offsets[-1])) + len(SIGNATURE) <= source.size:
        offsets.append(offset)
    if source.size < len(SIGNATURE):
        return False
    return SIGNATURE in source.read_many([(offset, len(SIGNATURE)) for offset in offsets])


SPEC = ScannerSpec(
    name="hdf5",
    description="HDF5 and netCDF-4",
    load=lazy("icechunk_virtual.scanners.hdf5.scan:scan"),
    magic=((0, SIGNATURE),),
    suffixes=(".h5", ".hdf5", ".hdf", ".he5", ".nc4", ".nc"),
    extra="hdf5",
    probe=has_signature,
)
