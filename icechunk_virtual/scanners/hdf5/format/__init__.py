"""HDF5 files from their bytes, without libhdf5, after version 3.0 of "HDF5 File Format Specification" (The HDF Group).

Parsers are generators that yield what they want to read and are resumed with the bytes (`steps`); `driver` reads for
all of them at once. What a part means is decided by others: nothing here knows Zarr or netCDF.
"""
