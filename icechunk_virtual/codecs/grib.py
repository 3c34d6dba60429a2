"""The Zarr codec `icechunk_virtual.grib`: a chunk is a GRIB message, as it stands in its file.

zarr finds it as an entry point and imports it when an array that has it is opened. Decoding is in `grib_values`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from zarr.abc.codec import ArrayBytesCodec

from icechunk_virtual.codecs.grib_values import decode
from icechunk_virtual.errors import UnsupportedFeature

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer
    from zarr.core.common import JSON

NAME = "icechunk_virtual.grib"


@dataclass(frozen=True)
class GribCodec(ArrayBytesCodec):
    """Decodes the last field of a GRIB message, edition 1 or 2; it has no configuration.

    The chunk's last two dimensions are rows and columns of the grid (one dimension where the grid is not
    rectangular), all others have length one. Missing values become NaN. Arrays of float64 hold
    exactly what eccodes decodes, those of float32 the same rounded.
    """

    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: dict[str, JSON]) -> Self:
        """From the codec's part of `zarr.json`. ``ValueError`` if that is not this codec, or has a configuration."""
        if data.get("name") != NAME or data.get("configuration"):
            raise ValueError(f"the codec {NAME} has no configuration, got {data}")
        return cls()

    def to_dict(self) -> dict[str, JSON]:
        """The codec's part of `zarr.json`."""
        return {"name": NAME}

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Not known: it depends on the values."""
        raise NotImplementedError

    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        values = decode(chunk_data.to_bytes(), chunk_spec.shape)
        chunk: Any = values.astype(chunk_spec.dtype.to_native_dtype(), copy=False)
        return chunk_spec.prototype.nd_buffer.from_ndarray_like(chunk)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:  # noqa: ARG002 - zarr's
        raise UnsupportedFeature(
            f"arrays with the codec {NAME} are read only: their chunks are messages of GRIB files. Write the values "
            "into an array with another codec, such as `bytes`."
        )
