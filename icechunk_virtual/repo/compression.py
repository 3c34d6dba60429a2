"""What zstd works with, kept by each thread: making it takes longer than compressing a small file.

Knows nothing of what is compressed.
"""

from __future__ import annotations

import threading

import zstandard

MAX_WINDOW = 2**27
SMALL = 1 << 16
"""Bytes; larger contents need so much working memory that it should not be kept."""


class _Tools(threading.local):
    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)


_tools = _Tools()


def small_compressor(level: int) -> zstandard.ZstdCompressor:
    """For contents up to `SMALL`, in this thread."""
    compressor = _tools.compressors.get(level)
    if compressor is None:
        compressor = _tools.compressors[level] = zstandard.ZstdCompressor(level=level)
    return compressor


def decompressor() -> zstandard.ZstdDecompressor:
    """For whole frames, in this thread."""
    return _tools.decompressor
