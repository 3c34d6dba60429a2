"""Arrays whose bytes are stored: encoding numpy arrays into chunks that a Zarr document describes, and back.

Works with the codecs that scanners write into documents, through numcodecs alone: no store, no event loop.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numcodecs
import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.model.chunk_refs import ChunkKind, ChunkRefs, InlineChunk
from icechunk_virtual.scanners.dataset import VirtualArray
from icechunk_virtual.scanners.documents import (
    BYTES,
    STRING,
    DType,
    array_document,
    fill_scalar,
    native_dtype,
    serializer,
)

ZSTD = {"name": "zstd", "configuration": {"level": 3, "checksum": False}}
ReadMany = Callable[[Sequence[tuple[int, int]]], Sequence[bytes]]
"""Reads (offset, length) ranges, like `Source.read_many`."""
COMPRESS_FROM = 1024
"""Stored arrays of at least so many bytes are compressed with zstd."""


def stored_array(
    values: NDArray[Any],
    *,
    dimension_names: Sequence[str | None] | None = None,
    attributes: Mapping[str, Any] | None = None,
    fill_value: Any = None,
    chunk_shape: Sequence[int] | None = None,
    dtype: DType | None = None,
) -> VirtualArray:
    """An array that is stored, as INLINE rows.

    Parameters
    ----------
    values
        Numbers, bool, ``S``, ``U``, or objects that are all `str` or all `bytes`. Byte order is kept.
    chunk_shape
        Default: one chunk.
    dtype
        Default: the type of `values`.

    Raises
    ------
    TypeError
        Zarr has no data type for these values.
    """
    dtype = element_type(values) if dtype is None else dtype
    compressors = [ZSTD] if values.nbytes >= COMPRESS_FROM else []
    document = array_document(
        values.shape,
        dtype,
        chunk_shape=chunk_shape,
        fill_value=fill_value,
        compressors=compressors,
        attributes=attributes,
        dimension_names=dimension_names,
    )
    return VirtualArray(document, encode_array(document, values))


def fetched(refs: ChunkRefs, read_many: ReadMany) -> ChunkRefs:
    """The same chunks, those that are virtual with their encoded bytes; all are in the file that is read."""
    virtual = refs.take(refs.kind == ChunkKind.VIRTUAL)
    if not len(virtual):
        return refs
    ranges = list(zip(virtual.offset.tolist(), virtual.length.tolist(), strict=True))
    return refs.replace(ChunkRefs.inline(virtual.coords, read_many(ranges)))


def element_type(values: NDArray[Any]) -> DType:
    """The type to store `values` as: `STRING` or `BYTES` for objects, otherwise their own."""
    if values.dtype.kind == "T":
        return STRING
    if values.dtype.kind != "O":
        return values.dtype
    kinds = {type(v) for v in values.flat}
    if kinds <= {str}:
        return STRING
    if kinds <= {bytes, np.bytes_}:
        return BYTES
    raise TypeError(f"objects of {', '.join(sorted(k.__name__ for k in kinds))} have no Zarr v3 data type")


def encode_array(document: Mapping[str, Any], values: NDArray[Any]) -> ChunkRefs:
    """All chunks of an array, as INLINE rows; an array without elements has none."""
    chunk_shape = document["chunk_grid"]["configuration"]["chunk_shape"]
    if not values.size:
        return ChunkRefs.empty(values.ndim)
    coords = list(itertools.product(*(range(-(-n // c)) for n, c in zip(values.shape, chunk_shape, strict=True))))
    regions = [[slice(i * c, (i + 1) * c) for i, c in zip(coord, chunk_shape, strict=True)] for coord in coords]
    payloads = [encode_chunk(document, np.asarray(values[tuple(region)], values.dtype)) for region in regions]
    return ChunkRefs.inline(np.array(coords, np.uint32).reshape(len(coords), values.ndim), payloads)


def encode_chunk(document: Mapping[str, Any], block: NDArray[Any]) -> bytes:
    """Encode one chunk with the codecs of a document; a block at the edge of the array is padded with the fill value.

    Raises
    ------
    TypeError
        A codec that scanners do not write.
    """
    dtype = native_dtype(document)
    chunk_shape = tuple(document["chunk_grid"]["configuration"]["chunk_shape"])
    if block.shape != chunk_shape:
        numpy_dtype = object if dtype in (STRING, BYTES) else dtype
        whole = np.full(chunk_shape, fill_scalar(document, dtype), numpy_dtype)
        whole[tuple(slice(n) for n in block.shape)] = block
        block = whole
    data: Any = _serialize(dtype, block)
    for codec in document["codecs"][1:]:
        encoded = _compressor(codec).encode(data)
        data = encoded.tobytes() if isinstance(encoded, np.ndarray) else encoded
    return bytes(data)


def decode_chunk(document: Mapping[str, Any], data: bytes) -> NDArray[Any]:
    """Inverse of `encode_chunk`: the whole chunk, padding included. Text and byte strings come as objects."""
    for codec in reversed(document["codecs"][1:]):
        data = _compressor(codec).decode(data)
    dtype = native_dtype(document)
    chunk_shape = tuple(document["chunk_grid"]["configuration"]["chunk_shape"])
    if dtype in (STRING, BYTES):
        flat = (numcodecs.VLenUTF8() if dtype == STRING else numcodecs.VLenBytes()).decode(bytes(data))
    else:
        flat = np.frombuffer(bytes(data), dtype)
    return np.asarray(flat).reshape(chunk_shape)


def decode_array(array: VirtualArray) -> NDArray[Any]:
    """The values of an array that is stored as a whole.

    Returns
    -------
    array of ``array.shape``; text and byte strings are objects.

    Raises
    ------
    ValueError
        Some of its chunks are virtual.
    """
    if array.nbytes_virtual:
        raise ValueError("some chunks are not stored but in another file")
    dtype = native_dtype(array.document)
    objects = dtype in (STRING, BYTES)
    values = np.full(array.shape, fill_scalar(array.document, dtype), object if objects else dtype)
    for row in range(len(array.refs)):
        chunk = array.refs.row(row)
        if isinstance(chunk, InlineChunk):
            coord = array.refs.coords[row].tolist()
            starts = [i * c for i, c in zip(coord, array.chunk_shape, strict=True)]
            lengths = [min(c, n - i) for i, c, n in zip(starts, array.chunk_shape, array.shape, strict=True)]
            region = tuple(slice(i, i + n) for i, n in zip(starts, lengths, strict=True))
            values[region] = decode_chunk(array.document, chunk.data)[tuple(map(slice, lengths))]
    return values


def _serialize(dtype: DType, block: NDArray[Any]) -> bytes:
    match serializer(dtype)["name"]:
        case "vlen-utf8":
            return bytes(numcodecs.VLenUTF8().encode(np.asarray(block, object).ravel()))
        case "vlen-bytes":
            return bytes(numcodecs.VLenBytes().encode(np.asarray(block, object).ravel()))
        case _:
            return np.ascontiguousarray(block, dtype).tobytes()


def _compressor(codec: Mapping[str, Any]) -> Any:
    name, configuration = codec["name"], dict(codec.get("configuration", {}))
    if name.startswith("numcodecs."):
        return numcodecs.get_codec({"id": name.removeprefix("numcodecs."), **configuration})
    if name in _ZARR_COMPRESSORS:
        return _ZARR_COMPRESSORS[name](configuration)
    raise TypeError(f"codec {name!r} is not one that scanners write")


_BLOSC_SHUFFLE = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
_ZARR_COMPRESSORS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "zstd": lambda c: numcodecs.Zstd(level=c.get("level", 0), checksum=c.get("checksum", False)),
    "gzip": lambda c: numcodecs.GZip(level=c.get("level", 5)),
    "blosc": lambda c: numcodecs.Blosc(
        cname=c["cname"],
        clevel=c["clevel"],
        shuffle=_BLOSC_SHUFFLE[c["shuffle"]],
        blocksize=c.get("blocksize", 0),
        typesize=c.get("typesize"),
    ),
}
