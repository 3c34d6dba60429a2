"""One versioned, cloud-native Zarr repository over archives of HDF5, NetCDF and other files, without copying them."""

from __future__ import annotations

from icechunk_virtual.errors import ConflictError, IcechunkError, RebaseFailedError
from icechunk_virtual.repository import Repository
from icechunk_virtual.session import ForkSession, Session
from icechunk_virtual.storage import Storage, in_memory_storage, local_filesystem_storage
from icechunk_virtual.store import IcechunkStore, VirtualChunkSpec
