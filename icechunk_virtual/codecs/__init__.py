"""Zarr codecs for encodings of foreign files that neither zarr nor numcodecs knows, one module each.

Registered as entry points `zarr.codecs`, so that zarr finds them without importing this package. Must not know of
repositories.
"""
