"""HDF5 filter pipelines as Zarr v3 codecs.

Only codecs of zarr and numcodecs that agree with the HDF5 filter bit for bit; everything else is named, and its data
has to be read by HDF5. The numbers are those of the HDF5 filter registry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_FLETCHER32 = 3
_NAMES = {
    1: "deflate",
    2: "shuffle",
    3: "fletcher32",
    4: "szip",
    5: "nbit",
    6: "scaleoffset",
    307: "bzip2",
    32000: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32019: "jpeg",
    32024: "sz3",
    32026: "blosc2",
}
_BLOSC_COMPRESSORS = {0: "blosclz", 1: "lz4", 2: "lz4hc", 4: "zlib", 5: "zstd"}  # 3, snappy, is in no numcodecs
_BLOSC_SHUFFLES = {0: "noshuffle", 1: "shuffle", 2: "bitshuffle"}


@dataclass(frozen=True, slots=True)
class Filter:
    """A step of a pipeline as the file has it: registered number, client values, and the name in the file."""

    code: int
    values: tuple[int, ...]
    name: str = ""

    @property
    def label(self) -> str:
        """Name for people."""
        return _NAMES.get(self.code) or f"{self.name or 'filter'} ({self.code})"


class NoCodec(Exception):
    """A filter without a Zarr codec; the message names it."""


def codecs(pipeline: Sequence[Filter], itemsize: int) -> list[dict[str, Any]]:
    """The codecs after the serializer, in the order of encoding.

    Parameters
    ----------
    pipeline
        In the order of writing.
    itemsize
        Bytes of one element.

    Raises
    ------
    NoCodec
        No codec does what a filter does.
    """
    found = []
    for position, step in enumerate(pipeline):
        make = _CODECS.get(step.code)
        if make is None:
            raise NoCodec(f"no Zarr codec for the HDF5 filter {step.label}")
        codec = make(step, itemsize, pipeline[:position])
        if codec is not None:
            found.append(codec)
    return found


def _deflate(step: Filter, _itemsize: int, _before: Sequence[Filter]) -> dict[str, Any]:
    return {"name": "numcodecs.zlib", "configuration": {"level": step.values[0] if step.values else 6}}


def _shuffle(step: Filter, itemsize: int, before: Sequence[Filter]) -> dict[str, Any] | None:
    size = step.values[0] if step.values else itemsize
    if size == 1:
        return None
    # HDF5 leaves a rest shorter than an element as it is, numcodecs refuses it; checksums in front add 4 bytes each.
    whole = all(b.code == _FLETCHER32 for b in before) and itemsize % size == 0 and 4 * len(before) % size == 0
    if not whole:
        behind = f" behind {', '.join(b.label for b in before)}" if before else ""
        raise NoCodec(f"no Zarr codec for the HDF5 filter shuffle{behind} on elements of {size} bytes")
    return {"name": "numcodecs.shuffle", "configuration": {"elementsize": size}}


def _fletcher32(_step: Filter, _itemsize: int, _before: Sequence[Filter]) -> dict[str, Any]:
    return {"name": "numcodecs.fletcher32", "configuration": {}}


def _bzip2(step: Filter, _itemsize: int, _before: Sequence[Filter]) -> dict[str, Any]:
    return {"name": "numcodecs.bz2", "configuration": {"level": step.values[0] if step.values else 9}}


def _blosc(step: Filter, itemsize: int, _before: Sequence[Filter]) -> dict[str, Any]:
    """Values: filter revision, Blosc version, type size, chunk bytes, level, shuffle, compressor (5 to 7 optional)."""
    given = dict(enumerate(step.values))
    compressor, shuffle = given.get(6, 0), given.get(5, 1)
    if compressor not in _BLOSC_COMPRESSORS or shuffle not in _BLOSC_SHUFFLES:
        raise NoCodec(f"no Zarr codec for the HDF5 filter blosc with compressor {compressor}, shuffle {shuffle}")
    return {
        "name": "blosc",
        "configuration": {
            "typesize": min(max(1, given.get(2, itemsize)), 255),
            "cname": _BLOSC_COMPRESSORS[compressor],
            "clevel": min(given.get(4, 5), 9),
            "shuffle": _BLOSC_SHUFFLES[shuffle],
            "blocksize": 0,
        },
    }


def _zstd(step: Filter, _itemsize: int, _before: Sequence[Filter]) -> dict[str, Any]:
    level = step.values[0] if step.values else 3
    level = level - (1 << 32) if level >= 1 << 31 else level
    return {"name": "zstd", "configuration": {"level": max(-131072, min(level, 22)), "checksum": False}}


_CODECS: dict[int, Callable[[Filter, int, Sequence[Filter]], dict[str, Any] | None]] = {
    1: _deflate,
    2: _shuffle,
    3: _fletcher32,
    307: _bzip2,
    32001: _blosc,
    32015: _zstd,
}
