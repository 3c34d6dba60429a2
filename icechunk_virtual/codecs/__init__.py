"""Zarr codecs for encodings of foreign files that neither zarr nor numcodecs knows, one module each.

Registered as entry points `zarr.codecs`, so that zarr finds them without importing this package. None is needed so far:
what HDF5 and NetCDF3 files use is either in zarr or numcodecs, or stored natively. Must not know of repositories.
"""
