"""What is read from a `zarr.json` (format version 1, section 10)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from icechunk_virtual.errors import InvalidMetadata
from icechunk_virtual.model.nodes import ArrayLayout, parse_document


def array(**changed: Any) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [5, 7],
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2, 7]}},
        "dimension_names": ["y", None],
        "attributes": {"units": "K"},
    } | changed


def grid(chunk_shape: Any) -> dict[str, Any]:
    return {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}}}


def parse(document: Any) -> ArrayLayout | None:
    return parse_document(json.dumps(document).encode(), "/a")


def test_array() -> None:
    layout = parse(array())
    assert layout == ArrayLayout((5, 7), (2, 7), ("y", None))
    assert layout.ndim == 2
    assert layout.grid_shape == (3, 1)


def test_group() -> None:
    assert parse({"node_type": "group"}) is None
    assert parse({"node_type": "group", "zarr_format": 3, "attributes": {}, "shape": "whatever"}) is None


@pytest.mark.parametrize(
    ("document", "grid_shape"),
    [
        (array(shape=[], dimension_names=None) | grid([]), ()),
        (array(shape=[], dimension_names=[]) | grid([]), ()),
        (array(shape=[0, 4]), (1, 1)),
        (array(shape=[4, 0]) | grid([1, 1]), (4, 1)),
        (array(shape=[2**64 - 1, 1]) | grid([2**33, 1]), (2**31, 1)),
        (array(shape=[2**32 - 1, 1]) | grid([1, 1]), (2**32 - 1, 1)),
        (array() | grid([100, 2**64 - 1]), (1, 1)),
    ],
)
def test_grid_shape(document: dict[str, Any], grid_shape: tuple[int, ...]) -> None:
    layout = parse(document)
    assert layout is not None
    assert layout.grid_shape == grid_shape


@pytest.mark.parametrize(
    ("names", "expected"),
    [(None, None), (["a", "b"], ("a", "b")), (["", "b"], (None, "b")), (["ü\n", "😀"], ("ü\n", "😀"))],
)
def test_dimension_names(names: Any, expected: Any) -> None:
    layout = parse(array(dimension_names=names))
    assert layout is not None
    assert layout.dimension_names == expected


def test_dimension_names_are_optional() -> None:
    document = array()
    del document["dimension_names"]
    layout = parse(document)
    assert layout is not None
    assert layout.dimension_names is None


@pytest.mark.parametrize(
    "document",
    [
        [],
        None,
        3,
        "array",
        {},
        {"node_type": "Array"},
        {"node_type": None},
        {"node_type": ["group"]},
        array(shape=None),
        array(shape="57"),
        array(shape=[5]),
        array(shape=[5, 7, 1]),
        array(shape=[-1, 7]),
        array(shape=[5.0, 7]),
        array(shape=[True, 7]),
        array(shape=["5", 7]),
        array(shape=[2**64, 7]),
        array(shape=[10**5000, 7]),
        array(shape=[2**32, 7]) | grid([1, 7]),
        array(chunk_grid=None),
        array(chunk_grid=[]),
        array(chunk_grid={"name": "regular"}),
        array(chunk_grid={"name": "regular", "configuration": None}),
        array(chunk_grid={"name": "rectangular", "configuration": {"chunk_shape": [2, 7]}}),
        array(chunk_grid={"configuration": {"chunk_shape": [2, 7]}}),
        array() | grid(None),
        array() | grid([2, 0]),
        array() | grid([2]),
        array() | grid([2, -7]),
        array() | grid([2, 7.0]),
        array() | grid([2, 2**64]),
        array(dimension_names="yx"),
        array(dimension_names=["y"]),
        array(dimension_names=["y", "x", "z"]),
        array(dimension_names=["y", 1]),
        array(dimension_names={}),
        array(dimension_names=["y", "\ud800"]),
    ],
)
def test_bad_metadata(document: Any) -> None:
    try:
        text = json.dumps(document)
    except ValueError:  # an int of 5000 digits
        text = '{"node_type": "array", "shape": [' + "9" * 5000 + "]}"
    with pytest.raises(InvalidMetadata, match="bad metadata for `/a`") as info:
        parse_document(text.encode(), "/a")
    assert info.value.path == "/a"


GOOD = json.dumps(array())


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"\xff",
        b"\xef\xbb\xbf" + GOOD.encode(),
        GOOD.encode("utf-16"),
        GOOD.encode("utf-32"),
        GOOD.encode() + b"x",
        GOOD[:-1].encode(),
        GOOD.replace("units", "\xe9").encode("latin-1"),
        GOOD.replace('"shape"', '"shape": [5, 7], "shape"').encode(),
        GOOD.replace('"node_type"', '"node_type": "group", "node_type"').encode(),
        GOOD.replace('"name"', '"name": "regular", "name"').encode(),
        b'{"node_type": "group", "node_type": "group"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_bad_bytes(document: bytes) -> None:
    with pytest.raises(InvalidMetadata, match="bad metadata"):
        parse_document(document, "/a")


@pytest.mark.parametrize(
    "document",
    [
        GOOD + " \n\t ",
        GOOD.replace('"units"', '"units": 1, "units"'),
        GOOD.replace('"units"', '"shape": 1, "shape": 2, "units"'),
        GOOD.replace('"K"', "NaN"),  # as zarr-python writes it
        GOOD.replace('"attributes"', '"unknown": [{}], "attributes"'),
    ],
)
def test_what_else_a_document_holds_is_not_our_business(document: str) -> None:
    assert parse_document(document.encode(), "/a") == ArrayLayout((5, 7), (2, 7), ("y", None))
