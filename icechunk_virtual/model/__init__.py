"""Values that every floor above speaks in: ids, columns of references, nodes.

No I/O, no asyncio, no configuration, no knowledge of Zarr stores or file formats.
"""
