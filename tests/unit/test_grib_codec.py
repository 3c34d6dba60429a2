"""The codec of GRIB messages, judged by eccodes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zarr
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

from icechunk_virtual.codecs.grib import NAME, GribCodec
from icechunk_virtual.codecs.grib_sections import last_field
from icechunk_virtual.codecs.grib_values import decode
from icechunk_virtual.errors import MalformedSource, UnsupportedFeature
from tests.support.grib_files import MISSING, PLANE, handle_of, message, multi_field, sections

eccodes = pytest.importorskip("eccodes")
VALUES = np.random.default_rng(1).normal(280, 10, 24)
HOLES = np.where(np.arange(24) % 5 == 0, MISSING, VALUES)
CONSTANT, NOTHING = np.full(24, 3.5), np.full(24, MISSING)
PACKINGS = ("grid_simple", "grid_ccsds", "grid_complex", "grid_complex_spatial_differencing", "grid_ieee")


def by_eccodes(raw: bytes) -> np.ndarray:
    with handle_of(raw) as handle:
        eccodes.codes_set(handle, "missingValue", MISSING)
        values = eccodes.codes_get_values(handle)
    values[values == MISSING] = np.nan
    return values


@pytest.mark.parametrize("packing", [*PACKINGS, "grid_jpeg"])
@pytest.mark.parametrize("values", [VALUES, HOLES, CONSTANT, NOTHING], ids=["some", "holes", "constant", "nothing"])
def test_values_are_those_of_eccodes(packing: str, values: np.ndarray) -> None:
    raw = message(values=values, packingType=packing)
    found = decode(raw, (1, 1, 4, 6))
    assert found.shape == (1, 1, 4, 6)
    np.testing.assert_array_equal(found.ravel(), by_eccodes(raw))
    np.testing.assert_array_equal(np.isnan(found.ravel()), values == MISSING)


@pytest.mark.parametrize("values", [VALUES, HOLES, CONSTANT], ids=["some", "holes", "constant"])
def test_edition_1(values: np.ndarray) -> None:
    raw = message("regular_ll_pl_grib1", values=values)
    np.testing.assert_array_equal(decode(raw, (1, 4, 6)).ravel(), by_eccodes(raw))


def test_rows_that_run_backwards_and_columns() -> None:
    table = np.arange(24.0).reshape(4, 6)
    backwards = table.copy()
    backwards[1::2] = backwards[1::2, ::-1]
    raw = message(values=backwards.ravel(), alternativeRowScanning=1)
    np.testing.assert_allclose(decode(raw, (4, 6)), table, atol=1e-3)
    raw = message(values=table.T.ravel(), jPointsAreConsecutive=1)
    np.testing.assert_allclose(decode(raw, (4, 6)), table, atol=1e-3)


def test_one_dimension() -> None:
    raw = message("reduced_gg_pl_32_grib2", values=np.arange(6114.0))
    np.testing.assert_array_equal(decode(raw, (1, 6114))[0], by_eccodes(raw))


def test_the_last_field_counts() -> None:
    parts = [message(values=VALUES, shortName="u"), message(values=HOLES, shortName="v")]
    raw = multi_field(parts)
    np.testing.assert_array_equal(decode(raw, (24,)), by_eccodes(parts[1]))
    first = raw[: 16 + sum(len(s) for s in sections(parts[0])[1:])]
    np.testing.assert_array_equal(decode(first, (24,)), by_eccodes(parts[0]))
    assert last_field(parts[0]) is parts[0]


def test_a_bitmap_of_an_earlier_field_is_used_again() -> None:
    parts = [message(values=HOLES), message(values=np.where(HOLES == MISSING, MISSING, VALUES * 2))]
    again = [s if s[4] != 6 else b"\0\0\0\x06\x06\xfe" for s in sections(parts[1])[1:]]
    body = b"".join([*sections(parts[0])[1:], *(s for s in again if s[4] >= 4)]) + b"7777"
    raw = parts[0][:8] + (16 + len(body)).to_bytes(8, "big") + body
    np.testing.assert_array_equal(decode(raw, (24,)), by_eccodes(parts[1]))


def test_messages_of_edition_1_beyond_eight_megabytes() -> None:
    grid = {"Ni": 1800, "Nj": 1600}
    values = np.random.default_rng(0).normal(size=1800 * 1600)
    raw = message("regular_ll_pl_grib1", grid, values=values, bitsPerValue=24)
    assert raw[4] & 0x80
    np.testing.assert_allclose(decode(raw, (1600, 1800)).ravel(), values, atol=1e-5)


def test_many_threads_read_the_same_values() -> None:
    raws = [message(values=HOLES + i * (HOLES != MISSING), packingType=p) for p in PACKINGS for i in range(4)]
    expected = [by_eccodes(raw) for raw in raws]
    with ThreadPoolExecutor(16) as pool:
        for found, wanted in zip(pool.map(lambda raw: decode(raw, (24,)), raws * 50), expected * 50, strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda raw: b"", "it starts with b''"),
        (lambda raw: b"CDF\x01" + raw[4:], "it starts with b'CDF"),
        (lambda raw: raw[:100], r"section \d at byte \d+ claims"),
        (lambda raw: raw[:18], "it ends inside of the section at byte 16"),
        (lambda raw: raw[:37], "it has no section 7"),
        (lambda raw: raw[:16] + bytes(200), "claims 0 of"),
        (lambda raw: message(grid={**PLANE, "gridType": "lambert", "Nx": 5}), "it has 20 values, 24 are expected"),
    ],
    ids=range(7),
)
def test_damaged_messages(spoil, says: str) -> None:
    with pytest.raises(MalformedSource, match=says):
        decode(spoil(message(values=VALUES)), (4, 6))


def stored(raw: bytes, dtype: str = "float64") -> zarr.Array:
    """An array of one chunk, opened as zarr opens any."""
    import json

    from icechunk_virtual.scanners.documents import array_document

    document = array_document((1, 4, 6), np.dtype(dtype), fill_value=np.nan)
    document["codecs"] = [{"name": NAME}]
    content = {"zarr.json": json.dumps(document).encode(), "c/0/0/0": raw}
    return zarr.open_array(MemoryStore({k: cpu.Buffer.from_bytes(v) for k, v in content.items()}), mode="r+")


def test_zarr_finds_the_codec() -> None:
    raw = message(values=HOLES)
    array = stored(raw)
    np.testing.assert_array_equal(array[:].ravel(), by_eccodes(raw))
    np.testing.assert_array_equal(stored(raw, "float32")[:].ravel(), by_eccodes(raw).astype("f4"))
    assert array.metadata.codecs == (GribCodec(),)
    assert array.metadata.to_dict()["codecs"] == ({"name": NAME},)


def test_writing_is_refused() -> None:
    with pytest.raises(UnsupportedFeature, match=r"codec icechunk_virtual\.grib are read only"):
        stored(message(values=VALUES))[:] = 1
    assert GribCodec().is_fixed_size is False
    with pytest.raises(NotImplementedError):
        GribCodec().compute_encoded_size(1, None)  # type: ignore[arg-type]


def test_a_configuration_is_refused() -> None:
    with pytest.raises(ValueError, match="has no configuration"):
        GribCodec.from_dict({"name": NAME, "configuration": {"field": 1}})
