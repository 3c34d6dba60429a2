"""`ChunkRefs` against the plain version: a dict from coordinates to one chunk value."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icechunk_virtual.model.chunk_refs import (
    MAX_INDEX,
    Chunk,
    ChunkKind,
    ChunkRefs,
    Extents,
    InlineChunk,
    NativeChunk,
    VirtualChunk,
)
from icechunk_virtual.model.locations import Locations

if TYPE_CHECKING:
    from collections.abc import Callable

Coord = tuple[int, ...]
Plain = dict[Coord, Chunk]

WIDE = st.one_of(st.integers(0, 4), st.integers(MAX_INDEX - 3, MAX_INDEX))  # four such axes exceed a u64 key
NARROW = st.integers(0, 4)
URLS = ["file:///a", "file:///b", "s3://bucket/ä", "file:///a/longer name", "x:" + "y" * 20]
CHUNKS: st.SearchStrategy[Chunk] = st.one_of(
    st.builds(
        VirtualChunk,
        st.sampled_from(URLS),
        st.integers(0, 2**40),
        st.integers(0, 2**40),
        st.sampled_from([None, "tag", "other"]),
        st.sampled_from([None, 1, 2**32 - 1]),
    ),
    st.builds(
        NativeChunk, st.sampled_from([bytes(12), b"\xff" * 12, b"abcdefghijkl"]), st.integers(0, 9), st.integers(0, 9)
    ),
    st.builds(InlineChunk, st.binary(max_size=9)),
)


def build(plain: Plain, ndim: int) -> ChunkRefs:
    """The columns of a plain version, one part per chunk."""
    parts = []
    for coord, chunk in plain.items():
        at = np.array([coord], np.uint32).reshape(1, ndim)
        match chunk:
            case VirtualChunk(url, offset, length, etag, moment):
                locations = Locations.of([url], etags=[etag], last_modified=[moment])
                parts.append(ChunkRefs.virtual(at, locations, 0, offset, length))
            case NativeChunk(raw, offset, length):
                ids = np.frombuffer(raw, np.uint8).reshape(1, 12)
                parts.append(ChunkRefs.native(at, ids, length, offset))
            case InlineChunk(data):
                parts.append(ChunkRefs.inline(at, [data]))
    return ChunkRefs.concat([ChunkRefs.empty(ndim), *parts])


def plain_of(refs: ChunkRefs) -> Plain:
    """Back, one row at a time; checks on the way that the columns are what the class promises."""
    again = ChunkRefs(*(getattr(refs, name) for name in ChunkRefs.__slots__))  # validates
    assert len(again) == len(refs)
    for column in (refs.coords, refs.kind, refs.source, refs.offset, refs.length, refs.chunk_ids):
        assert not column.flags.writeable
    assert refs.coords.flags.f_contiguous or all(refs.coords[:, a].strides == (4,) for a in range(refs.ndim))
    return {tuple(coord): refs.row(i) for i, coord in enumerate(refs.coords.tolist())}


@st.composite
def plains(draw: st.DrawFn, ndim: int | None = None, axis: st.SearchStrategy[int] | None = None) -> tuple[int, Plain]:
    ndim = draw(st.integers(0, 4)) if ndim is None else ndim
    axis = draw(st.sampled_from([NARROW, WIDE])) if axis is None else axis
    return ndim, draw(st.dictionaries(st.tuples(*[axis] * ndim), CHUNKS, max_size=14))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[int, Plain, Plain]:
    ndim, a = draw(plains())
    return ndim, a, draw(plains(ndim))[1]


def inside(coord: Coord, box: tuple[tuple[int, int], ...]) -> bool:
    return all(low <= index < high for index, (low, high) in zip(coord, box, strict=True))


@given(plains())
def test_rows_come_back(case: tuple[int, Plain]) -> None:
    ndim, plain = case
    refs = build(plain, ndim)
    assert plain_of(refs) == plain
    assert list(plain_of(refs)) == sorted(plain)
    assert refs.ndim == ndim
    assert len(refs) == len(plain)
    assert refs.nbytes >= len(plain)
    assert str(len(plain)) in repr(refs)


@given(pairs())
def test_lookup_and_find(case: tuple[int, Plain, Plain]) -> None:
    ndim, plain, wanted = case
    refs = build(plain, ndim)
    coords = [*plain, *wanted] * 2
    for coord in coords:
        assert refs.lookup(coord) == plain.get(coord)
    rows = refs.find(np.array(coords, np.int64).reshape(len(coords), ndim))
    assert rows.dtype == np.int64
    order = sorted(plain)
    assert rows.tolist() == [order.index(c) if c in plain else -1 for c in coords]
    for outside in ([-1] * ndim, [2**32] * ndim, [2**70] * ndim):
        if ndim:
            assert refs.lookup(outside) is None
    assert refs.lookup([0] * (ndim + 1)) is None
    assert refs.find([]).tolist() == [] if ndim else refs.find([()]).tolist() == [0 if plain else -1]
    with pytest.raises(ValueError, match="shape"):
        refs.find(np.zeros((3, ndim + 1), np.uint32))


@given(pairs())
def test_replace_and_without(case: tuple[int, Plain, Plain]) -> None:
    ndim, old, new = case
    refs, newer = build(old, ndim), build(new, ndim)
    assert plain_of(refs.replace(newer)) == old | new
    coords = np.array(list(new), np.uint32).reshape(len(new), ndim)
    assert plain_of(refs.without(coords)) == {c: v for c, v in old.items() if c not in new}
    with pytest.raises(ValueError, match="rank"):
        refs.replace(ChunkRefs.empty(ndim + 1))


@given(pairs())
def test_concat(case: tuple[int, Plain, Plain]) -> None:
    ndim, a, b = case
    parts = [build(a, ndim), build(b, ndim)]
    if a.keys() & b.keys():
        with pytest.raises(ValueError, match="same chunk"):
            ChunkRefs.concat(parts)
    else:
        assert plain_of(ChunkRefs.concat(parts)) == a | b
        assert ChunkRefs.concat(parts).equals(ChunkRefs.concat(parts[::-1]))


def test_concat_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no references"):
        ChunkRefs.concat([])


@given(plains(), st.data())
def test_take(case: tuple[int, Plain], data: st.DataObject) -> None:
    ndim, plain = case
    refs, order = build(plain, ndim), sorted(plain)
    mask = data.draw(st.lists(st.booleans(), min_size=len(plain), max_size=len(plain)))
    expected = {c: plain[c] for c, keep in zip(order, mask, strict=True) if keep}
    assert plain_of(refs.take(np.array(mask, bool))) == expected
    assert plain_of(refs.take(np.flatnonzero(mask))) == expected
    assert len(refs.take([])) == 0
    for rows in ([len(plain)], [-1], [0, 0], [1, 0]):
        with pytest.raises(ValueError, match="ascend"):
            refs.take(rows)
    with pytest.raises(ValueError, match="mask"):
        refs.take(np.zeros(len(plain) + 1, bool))
    with pytest.raises(TypeError):
        refs.take([0.5])


@given(plains(), st.data())
def test_within(case: tuple[int, Plain], data: st.DataObject) -> None:
    ndim, plain = case
    edge = st.one_of(st.integers(-2, 6), st.integers(MAX_INDEX - 3, MAX_INDEX + 3))
    box = tuple(data.draw(st.tuples(edge, edge)) for _ in range(ndim))
    got = plain_of(build(plain, ndim).within(box))
    assert got == {c: v for c, v in plain.items() if inside(c, box)}
    with pytest.raises(ValueError, match="ranges"):
        build(plain, ndim).within((*box, (0, 1)))


@given(plains(), st.data())
def test_split(case: tuple[int, Plain], data: st.DataObject) -> None:
    ndim, plain = case
    step = st.one_of(st.integers(1, 7), st.integers(MAX_INDEX - 3, MAX_INDEX + 3))
    box_shape = [data.draw(step) for _ in range(ndim)]
    expected: dict[Extents, Plain] = {}
    for coord, chunk in plain.items():
        first = [i // n for i, n in zip(coord, box_shape, strict=True)]
        box = tuple((i * n, (i + 1) * n) for i, n in zip(first, box_shape, strict=True))
        expected.setdefault(box, {})[coord] = chunk
    got = [(box, plain_of(part)) for box, part in build(plain, ndim).split(box_shape)]
    assert got == sorted(expected.items(), key=lambda item: item[0])  # first axis slowest


def test_split_refuses_impossible_boxes() -> None:
    with pytest.raises(ValueError, match="dimensions"):
        list(ChunkRefs.empty(2).split([1]))
    with pytest.raises(ValueError, match="at least one"):
        list(ChunkRefs.empty(1).split([0]))


@given(plains(), st.data())
def test_shift(case: tuple[int, Plain], data: st.DataObject) -> None:
    ndim, plain = case
    steps = st.one_of(st.integers(-3, 3), st.sampled_from([-(2**32), 2**32 - 5, 2**63, -(2**64)]))
    offsets = data.draw(st.tuples(*[steps] * ndim))
    moved = {tuple(i + o for i, o in zip(c, offsets, strict=True)): v for c, v in plain.items()}
    if any(not 0 <= i <= MAX_INDEX for c in moved for i in c):
        with pytest.raises(ValueError, match="within 0"):
            build(plain, ndim).shift(offsets)
    else:
        assert plain_of(build(plain, ndim).shift(offsets)) == moved
    with pytest.raises(ValueError, match="offsets"):
        build(plain, ndim).shift((*offsets, 1))


@given(plains())
def test_extents(case: tuple[int, Plain]) -> None:
    ndim, plain = case
    expected = tuple((min(c[a] for c in plain), max(c[a] for c in plain) + 1) for a in range(ndim)) if plain else None
    assert build(plain, ndim).extents() == (expected or ((0, 0),) * ndim)


@given(plains())
def test_relocate(case: tuple[int, Plain]) -> None:
    ndim, plain = case

    def moved(chunk: Chunk) -> Chunk:
        if isinstance(chunk, VirtualChunk) and chunk.url.startswith("file:///a"):
            url = "gs://new/" + chunk.url.removeprefix("file:///a")
            return VirtualChunk(url, chunk.offset, chunk.length, chunk.etag, chunk.last_modified)
        return chunk

    got = build(plain, ndim).relocate("file:///a", "gs://new/")
    assert plain_of(got) == {c: moved(v) for c, v in plain.items()}
    with pytest.raises(ValueError, match="locations for"):
        got.with_locations(Locations.concat([got.locations, Locations.of(["x:y"])]))


@given(pairs())
def test_compact(case: tuple[int, Plain, Plain]) -> None:
    ndim, old, new = case
    refs = build(old, ndim).replace(build(new, ndim))
    got = refs.compact()
    plain = old | new
    assert plain_of(got) == plain
    assert got.equals(refs)
    virtual = {(v.url, v.etag, v.last_modified) for v in plain.values() if isinstance(v, VirtualChunk)}
    assert len(got.locations) == len(virtual)
    assert len(got.chunk_ids) == len({v.id for v in plain.values() if isinstance(v, NativeChunk)})
    assert len(got.heap) == sum(len(v.data) for v in plain.values() if isinstance(v, InlineChunk))


@given(pairs())
def test_equals(case: tuple[int, Plain, Plain]) -> None:
    ndim, a, b = case
    assert build(a, ndim).equals(build(b, ndim)) == (a == b)
    assert build(a, ndim).equals(build(b, ndim).replace(build(a, ndim))) == (a == b | a)
    assert not build(a, ndim).equals(ChunkRefs.empty(ndim + 1))


@given(plains(), CHUNKS)
def test_one_other_chunk_is_not_equal(case: tuple[int, Plain], other: Chunk) -> None:
    ndim, plain = case
    for coord in plain:
        changed = plain | {coord: other}
        assert build(plain, ndim).equals(build(changed, ndim)) == (plain[coord] == other)


@given(plains())
def test_pickle(case: tuple[int, Plain]) -> None:
    ndim, plain = case
    refs = build(plain, ndim)
    for protocol in (2, pickle.HIGHEST_PROTOCOL):
        again = pickle.loads(pickle.dumps(refs, protocol))
        assert plain_of(again) == plain
        assert again.equals(refs)


def test_pickle_of_a_part_leaves_the_rest_behind() -> None:
    refs = ChunkRefs.virtual(np.arange(100_000).reshape(-1, 1), Locations.of(["x:a"]), 0, 0, 1)
    assert len(pickle.dumps(refs.within(((5, 7),)))) < 2000


@settings(max_examples=200)
@given(st.data())
def test_from_rows_sorts_and_the_last_row_stands(data: st.DataObject) -> None:
    ndim = data.draw(st.integers(0, 4))
    axis = data.draw(st.sampled_from([st.integers(0, 2), WIDE]))
    rows = data.draw(st.lists(st.tuples(*[axis] * ndim), max_size=20))
    n = len(rows)
    dtype = data.draw(st.sampled_from([np.uint32, np.int64, np.uint64, np.float64, ">i8"]))
    locations = Locations.of(URLS)
    source = data.draw(st.lists(st.integers(0, len(URLS) - 1), min_size=n, max_size=n))
    coords = np.array(rows, dtype).reshape(n, ndim)
    refs = ChunkRefs.virtual(coords, locations, source, np.arange(n), np.arange(n) + 7)
    expected = {c: VirtualChunk(URLS[s], i, i + 7) for i, (c, s) in enumerate(zip(rows, source, strict=True))}
    assert plain_of(refs) == expected


@pytest.mark.parametrize("bad", [-1, 2**32, 2**63, 0.5, float("nan"), float("inf"), 2.0**54])
@pytest.mark.parametrize("at", [0, 1])
def test_coordinates_out_of_range_are_refused(bad: float, at: int) -> None:
    rows = [[0.0, 0.0] if isinstance(bad, float) else [0, 0], [1, 1]]
    rows[at][1] = bad
    with pytest.raises(ValueError, match="coords must be"):
        ChunkRefs.virtual(rows, Locations.of(["x:a"]), 0, 0, 1)
    with pytest.raises(ValueError, match="coords must be"):
        ChunkRefs.empty(2).find(rows)


@pytest.mark.parametrize("column", ["kind", "source", "offset", "length"])
@pytest.mark.parametrize("bad", [[-1, 0], [2**65, 0], [0.5, 0], ["a", "b"], [True, False], [1], [1, 1, 1], [[1, 1]]])
def test_bad_columns_are_refused(column: str, bad: list[object]) -> None:
    columns = {"kind": 3, "source": 0, "offset": 0, "length": 1} | {column: bad}
    for coords in ([[0], [1]], [[1], [0]]):
        with pytest.raises(ValueError, match=column):
            ChunkRefs.from_rows(coords, **columns, locations=Locations.of(["x:a"]))


def test_kind_does_not_wrap() -> None:
    with pytest.raises(ValueError, match="kind must be within"):
        ChunkRefs.from_rows([[0]], np.array([256 + 3]), 0, 0, 1, locations=Locations.of(["x:a"]))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ((ChunkKind.VIRTUAL, 1, 0, 1), "row 1: source is not a row of locations"),
        ((ChunkKind.NATIVE, 2, 0, 1), "row 1: source is not a row of chunk_ids"),
        ((ChunkKind.INLINE, 0, 3, 3), "row 1: the inline range is outside the heap"),
        ((ChunkKind.INLINE, 0, 2**64 - 1, 1), "row 1: offset \\+ length is beyond 64 bits"),
        ((ChunkKind.VIRTUAL, 0, 2**64 - 1, 1), "row 1: offset \\+ length is beyond 64 bits"),
        ((0, 0, 0, 0), "row 1: kind is none of"),
        ((4, 0, 0, 0), "row 1: kind is none of"),
    ],
)
def test_contradictions_name_the_row(columns: tuple[int, int, int, int], message: str) -> None:
    kind, source, offset, length = (np.array([good, bad]) for good, bad in zip((2, 0, 0, 5), columns, strict=True))
    if kind.dtype != np.uint8 and offset.dtype.kind != "u":
        offset = np.array([0, columns[2]], np.uint64)
    with pytest.raises(ValueError, match=message):
        ChunkRefs.from_rows(
            [[0], [1]],
            kind,
            source,
            offset,
            length,
            locations=Locations.of(["x:a"]),
            chunk_ids=np.zeros((2, 12), np.uint8),
            heap=b"12345",
        )


@pytest.mark.parametrize("coords", [[[1, 0], [0, 5]], [[0, 1], [0, 1]], [[0, 2], [0, 1]]])
def test_the_class_itself_wants_sorted_rows(coords: list[list[int]]) -> None:
    two = np.zeros(2, np.uint32)
    with pytest.raises(ValueError, match="sorted and unique"):
        ChunkRefs(np.array(coords), two + 2, two, two, two, Locations.of(()), np.zeros((0, 12), np.uint8), b"")


@pytest.mark.parametrize("ids", [np.zeros((1, 11), np.uint8), np.zeros(12, np.uint8), np.zeros((1, 12), np.int64)])
def test_chunk_ids_have_twelve_bytes(ids: np.ndarray) -> None:
    with pytest.raises(ValueError, match="chunk_ids"):
        ChunkRefs.from_rows([[0]], ChunkKind.NATIVE, 0, 0, 1, chunk_ids=ids)


def test_native_wants_one_id_per_chunk() -> None:
    with pytest.raises(ValueError, match="source"):
        ChunkRefs.native([[0], [1]], np.zeros((3, 12), np.uint8), 1)
    with pytest.raises(ValueError, match="offset"):
        ChunkRefs.inline([[0], [1]], [b""])


@pytest.mark.parametrize(
    "make",
    [
        lambda coords, ids, number: ChunkRefs.from_rows(coords, 1, number, number, number, chunk_ids=ids),
        lambda coords, ids, number: ChunkRefs(
            coords, (number * 0 + 1).astype("u1"), number, number, number, Locations.of(()), ids, bytearray(b"")
        ),
    ],
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_a_caller_does_to_his_arrays_later_does_not_matter(make: Callable[..., ChunkRefs], order: str) -> None:
    for dtype in (np.uint32, np.uint64, np.int64):
        coords = np.array([[0, 1], [1, 0]], np.uint32, order=order)
        ids, number = np.zeros((2, 12), np.uint8), np.array([0, 1], dtype)
        refs = make(coords, ids, number)
        before = plain_of(refs)
        for array in (coords, ids, number):
            array[:] = 9
        assert plain_of(refs) == before
        with pytest.raises(ValueError, match="read-only"):
            refs.offset[0] = 1


def test_read_only_columns_are_not_copied() -> None:
    columns = [np.zeros((3, 1), np.uint32, order="F"), np.zeros(3, np.uint8) + np.uint8(3), np.zeros(3, np.uint32)]
    columns[0][:, 0] = range(3)
    columns += [np.zeros(3, np.uint64), np.zeros(3, np.uint64)]
    for column in columns:
        column.flags.writeable = False
    refs = ChunkRefs.from_rows(*columns, locations=Locations.of(["x:a"]))
    for name, column in zip(ChunkRefs.__slots__, columns, strict=False):
        assert np.shares_memory(getattr(refs, name), column)


def test_a_box_along_the_first_axis_is_a_view() -> None:
    coords = np.stack(np.divmod(np.arange(1000), 10), axis=1)
    refs = ChunkRefs.virtual(coords, Locations.of(["x:a"]), 0, np.arange(1000), 1)
    parts = dict(refs.split([30, 10]))
    assert [len(p) for p in parts.values()] == [300, 300, 300, 100]
    assert all(
        np.shares_memory(p.offset, refs.offset) and np.shares_memory(p.coords, refs.coords) for p in parts.values()
    )


@given(plains(), st.data())
def test_detached_references_are_the_same(case: tuple[int, Plain], data: st.DataObject) -> None:
    ndim, plain = case
    refs = build(plain, ndim)
    some = refs.take(np.array(data.draw(st.lists(st.booleans(), min_size=len(refs), max_size=len(refs))), bool))
    assert some.detached().equals(some)


def test_detached_references_keep_nothing_alive_that_they_do_not_need() -> None:
    coords = np.arange(1000).reshape(-1, 1)
    virtual = ChunkRefs.virtual(coords, Locations.of([f"x:{i}" for i in range(1000)]), coords[:, 0], 0, 1)
    inline = ChunkRefs.inline(coords + 1000, [b"payload"] * 1000)
    refs = ChunkRefs.concat([virtual, inline])
    few = refs.within(((998, 1003),)).detached()
    assert (len(few.locations), len(few.heap)) == (2, 3 * len(b"payload"))
    for name in ("coords", "kind", "source", "offset", "length"):
        assert not np.shares_memory(getattr(few, name), getattr(refs, name))
    most = refs.within(((0, 1900),)).detached()
    assert np.shares_memory(most.offset, refs.offset), "what is needed for the most part is not copied"


def test_tables_do_not_grow_when_parts_share_them() -> None:
    coords = np.arange(100).reshape(-1, 1)
    refs = ChunkRefs.native(coords, np.arange(1200).astype(np.uint8).reshape(100, 12), 1)
    parts = [refs.within(((i, i + 10),)) for i in range(0, 100, 10)]
    joined = ChunkRefs.concat(parts)
    assert joined.equals(refs)
    assert joined.chunk_ids is refs.chunk_ids
    assert joined.locations is refs.locations
