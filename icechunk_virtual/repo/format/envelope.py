"""The envelope around every binary metadata file: a 39-byte header and one zstd frame (section 3).

Knows nothing of the flatbuffer inside.
"""

from __future__ import annotations

import enum
import functools
import importlib.metadata
import io
import struct

import zstandard

from icechunk_virtual.errors import CorruptFile, UnsupportedFormat
from icechunk_virtual.repo.compression import MAX_WINDOW, SMALL, decompressor, small_compressor

MAGIC = "ICE🧊CHUNK".encode()
SPEC_VERSION = 1
ZSTD = 1
MAX_FLATBUFFER = 2**31 - 1
"""Bytes; every reader refuses larger ones."""
DEFAULT_LEVEL = 3

_HEADER = struct.Struct("<12s24sBBB")  # magic, implementation name, version, file type, compression
_SPACE = b" "
_FEED = 1 << 13  # compressed bytes per step when the size is unknown: at most 2**28 bytes come out of one step
_PLAUSIBLE_RATIO = 1000  # beyond it a declared size is not believed before the bytes are seen
_DOUBLE_FAST = (3, 4)  # levels whose search for long matches makes large manifests take longer and come out larger


class FileType(enum.IntEnum):
    """What a file holds."""

    SNAPSHOT = 1
    MANIFEST = 2
    TRANSACTION_LOG = 4

    @property
    def label(self) -> str:
        """The name in messages."""
        return self.name.lower().replace("_", " ")


@functools.cache
def client_name() -> str:
    """Name and version that we sign files with."""
    try:
        version = importlib.metadata.version("icechunk-virtual")
    except importlib.metadata.PackageNotFoundError:
        version = "0"
    return f"icechunk-virtual {version}"


def wrap(file_type: FileType, flatbuffer: bytes | bytearray | memoryview, *, level: int = DEFAULT_LEVEL) -> bytes:
    """Compress a flatbuffer and put the header before it.

    Parameters
    ----------
    level
        zstd level, 0 to 255; above 22 means 22.
    """
    name = client_name().encode("ascii", "replace")[:24].ljust(24, _SPACE)
    header = _HEADER.pack(MAGIC, name, SPEC_VERSION, file_type, ZSTD)
    level = min(level, zstandard.MAX_COMPRESSION_LEVEL)
    if len(flatbuffer) > SMALL:
        return header + _large_compressor(file_type, level).compress(flatbuffer)
    return header + small_compressor(level).compress(flatbuffer)


def _large_compressor(file_type: FileType, level: int) -> zstandard.ZstdCompressor:
    if file_type != FileType.MANIFEST or level not in _DOUBLE_FAST:
        return zstandard.ZstdCompressor(level=level)
    parameters = zstandard.ZstdCompressionParameters.from_level(level, strategy=zstandard.STRATEGY_FAST)
    return zstandard.ZstdCompressor(compression_params=parameters)


def unwrap(data: bytes, *, file_type: FileType, file: str) -> bytes:
    """Check the header and decompress the flatbuffer.

    Parameters
    ----------
    file
        Key in the repository, for messages.

    Raises
    ------
    CorruptFile
        Not such a file, or damaged; never more than `MAX_FLATBUFFER` bytes come out.
    UnsupportedFormat
        A later format version or an unknown compression.
    """

    def corrupt(reason: str, position: int) -> CorruptFile:
        return CorruptFile(reason, file=file, kind=file_type.label, position=position)

    if len(data) < _HEADER.size:
        raise corrupt(f"{len(data)} bytes are fewer than the header's {_HEADER.size}", len(data))
    magic, _, version, actual_type, compression = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise corrupt("the magic bytes differ, this is no Icechunk file", 0)
    if version != SPEC_VERSION:
        raise UnsupportedFormat(
            f"`{file}` is written in format version {version}, this library reads version {SPEC_VERSION}. "
            "Open the repository with a library that knows that version (icechunk 2 or later for version 2).",
            file=file,
        )
    if actual_type != file_type:
        raise corrupt(f"a {file_type.label} has file type {int(file_type)}, this file says {actual_type}", 37)
    if compression != ZSTD:
        raise UnsupportedFormat(f"`{file}` uses the unknown compression {compression}; zstd is {ZSTD}.", file=file)
    try:
        return _decompress(memoryview(data)[_HEADER.size :])
    except (zstandard.ZstdError, ValueError, MemoryError) as error:
        raise corrupt(f"the compressed content is damaged ({error})", _HEADER.size) from None


def _decompress(frames: memoryview) -> bytes:
    """Content of the zstd frames; `zstandard.ZstdError` or `ValueError` when they are damaged, cut off or too large."""
    size = zstandard.frame_content_size(frames)
    if size > MAX_FLATBUFFER:
        raise ValueError(f"{size} bytes are more than any reader takes")
    if 0 < size <= _PLAUSIBLE_RATIO * len(frames):
        return decompressor().decompress(frames, allow_extra_data=False)
    streaming = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    content = io.BytesIO()
    while frames:
        stream, start = streaming.decompressobj(), 0
        while not stream.eof:
            if start >= len(frames):
                raise ValueError("cut off")
            content.write(stream.decompress(frames[start : start + _FEED]))
            start += _FEED
            if content.tell() > MAX_FLATBUFFER:
                raise ValueError("more bytes than any reader takes")
        frames = frames[min(start, len(frames)) - len(stream.unused_data) :]
    return content.getvalue()
