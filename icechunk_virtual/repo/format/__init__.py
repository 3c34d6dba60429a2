"""The bytes of a repository, format version 1: pure functions from values to files and back.

No I/O, no asyncio, no storage, no configuration. Untrusted bytes give `CorruptFile` or `UnsupportedFormat`, never
anything else, in bounded time and memory. Section numbers in this package refer to the format description in `docs`.
"""
