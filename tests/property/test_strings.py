"""`Strings` and `Locations` against plain lists."""

from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk_virtual.model import columns, distinct
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.model.strings import Strings

TEXTS = st.lists(st.one_of(st.sampled_from(["", "a", "ab", "file:///x", "file:///y", "ä" * 9]), st.text(max_size=30)))
Row = tuple[str, str | None, int | None]
ROWS: st.SearchStrategy[list[Row]] = st.lists(
    st.tuples(
        st.sampled_from(["", "file:///x", "file:///y", "s3://ü/1", "x" * 25]),
        st.sampled_from([None, "t", "tag"]),
        st.sampled_from([None, 1, 2**32 - 1]),
    )
)


def firsts(values: list[object]) -> tuple[list[object], list[int]]:
    numbers: dict[object, int] = {}
    rows = [numbers.setdefault(value, len(numbers)) for value in values]
    return list(numbers), rows


@given(TEXTS)
def test_texts_come_back(texts: list[str]) -> None:
    column = Strings.of(iter(texts))
    assert list(column) == texts
    assert [column[i] for i in range(len(texts))] == texts
    assert [column[-i] for i in range(1, len(texts) + 1)] == texts[::-1]
    assert column.lengths.tolist() == [len(t.encode()) for t in texts]
    assert list(Strings(column.data, column.bounds)) == texts
    for bad in (len(texts), -len(texts) - 1):
        with pytest.raises(IndexError):
            column[bad]


@given(TEXTS, TEXTS, TEXTS)
def test_concat_and_equals(a: list[str], b: list[str], c: list[str]) -> None:
    parts = [Strings.of(texts) for texts in (a, b, c)]
    assert list(Strings.concat(parts)) == a + b + c
    assert Strings.concat(parts).equals(Strings.of(a + b + c))
    assert parts[0].equals(parts[1]) == (a == b)
    assert list(Strings.concat([])) == []


@given(TEXTS, st.data())
def test_take(texts: list[str], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1)) if texts else st.just([]))
    assert list(Strings.of(texts).take(rows)) == [texts[i] for i in rows]
    assert list(Strings.of(texts).take(np.arange(len(texts), dtype=np.uint32))) == texts


@given(TEXTS)
def test_unique_and_factorize(texts: list[str]) -> None:
    expected, rows = firsts(list(texts))
    for column, inverse in (Strings.of(texts).unique(), Strings.factorize(texts)):
        assert list(column) == expected
        assert inverse.tolist() == rows
        assert inverse.dtype == np.int64


@given(TEXTS)
def test_unique_when_hashes_collide(texts: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distinct, "_hashes", lambda data, starts, lengths: lengths.astype(np.uint64) % 3)
        column, inverse = Strings.of(texts).unique()
    expected, rows = firsts(list(texts))
    assert (list(column), inverse.tolist()) == (expected, rows)


@given(TEXTS, st.data())
def test_small_steps_change_nothing(texts: list[str], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1)) if texts else st.just([]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distinct, "_STEP", 3)
        patch.setattr(distinct, "_LONG", 20)
        patch.setattr(columns, "_STEP_BYTES", 5)
        patch.setattr(columns, "_LONG_RANGE", data.draw(st.sampled_from([1, 6, 1000])))
        column, inverse = Strings.of(texts).unique()
        taken = list(Strings.of(texts).take(rows))
    assert (list(column), inverse.tolist()) == firsts(list(texts))
    assert taken == [texts[i] for i in rows]


@pytest.mark.parametrize("period", [1, 7, 100_000])
def test_many_texts(period: int) -> None:
    texts = [f"s3://bucket/{'d' * (i % 11)}/{i % period}.nc" for i in range(100_000)]
    column, inverse = Strings.of(texts).unique()
    expected, rows = firsts(list(texts))
    assert list(column) == expected
    assert inverse.tolist() == rows
    assert list(column.take(inverse)) == texts


def test_long_texts() -> None:
    texts = ["a" * 10_000, "a" * 9_999 + "b", "", "a" * 10_000, "a"]
    column, inverse = Strings.of(texts).unique()
    assert list(column) == [texts[0], texts[1], "", "a"]
    assert inverse.tolist() == [0, 1, 2, 0, 3]


@given(st.text(max_size=5), st.integers(0, 5))
def test_repeated(text: str, count: int) -> None:
    assert list(Strings.repeated(text, count)) == [text] * count


@given(TEXTS)
def test_strings_pickle(texts: list[str]) -> None:
    again = pickle.loads(pickle.dumps(Strings.of(texts)))
    assert list(again) == texts
    assert not again.data.flags.writeable
    assert not again.bounds.flags.writeable


@pytest.mark.parametrize(
    ("data", "bounds"),
    [
        (b"ab", []),
        (b"ab", [0]),
        (b"ab", [1, 2]),
        (b"ab", [0, 3]),
        (b"ab", [0, 2, 1, 2]),
        (b"ab", [0, -1, 2]),
        (b"\xff", [0, 1]),
        (b"\xc3\xa4", [0, 1, 2]),
        (b"a\xc3", [0, 2]),
    ],
)
def test_bad_texts_are_refused(data: bytes, bounds: list[int]) -> None:
    with pytest.raises(ValueError, match=r"bounds|UTF-8"):
        Strings(np.frombuffer(data, np.uint8), np.array(bounds, np.int64))


def test_text_that_utf8_cannot_hold_is_refused() -> None:
    for texts in (["\ud800"], ["\ud800", "\udc00"]):
        with pytest.raises(ValueError, match="surrogates"):
            Strings.of(texts)


def test_wrong_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        Strings(np.array([97, 98], np.int64), np.array([0, 2]))
    with pytest.raises(ValueError, match="integers"):
        Strings(np.array([97, 98], np.uint8), np.array([0.0, 2.0]))


def test_a_callers_arrays_are_copied() -> None:
    data, bounds, moments = np.frombuffer(b"abcd", np.uint8).copy(), np.array([0, 1, 4]), np.array([1, 2], np.uint32)
    column = Strings(data, bounds)
    table = Locations(column, Strings.repeated("", 2), moments)
    data[:], bounds[:], moments[:] = 0, 0, 0
    assert list(column) == ["a", "bcd"]
    assert table.last_modified.tolist() == [1, 2]
    for array in (column.data, column.bounds, table.last_modified):
        assert not array.flags.writeable


# -- locations -------------------------------------------------------------------------------------------------


def table_of(rows: list[Row]) -> Locations:
    return Locations.of([r[0] for r in rows], etags=[r[1] for r in rows], last_modified=[r[2] for r in rows])


def rows_of(table: Locations) -> list[Row]:
    return [table.row(i) for i in range(len(table))]


@given(ROWS, ROWS)
def test_rows_of_locations(a: list[Row], b: list[Row]) -> None:
    assert rows_of(table_of(a)) == a
    assert rows_of(Locations.concat([table_of(a), table_of(b)])) == a + b
    assert rows_of(Locations.concat([])) == []
    assert table_of(a).equals(table_of(b)) == (a == b)
    assert rows_of(pickle.loads(pickle.dumps(table_of(a)))) == a
    assert rows_of(table_of(a).take(np.arange(len(a))[::-1])) == a[::-1]


@given(ROWS)
def test_unique_locations(rows: list[Row]) -> None:
    table, inverse = table_of(rows).unique()
    assert (rows_of(table), inverse.tolist()) == firsts(list(rows))
    assert rows_of(table.take(inverse)) == rows


@given(ROWS, st.sampled_from(["", "file://", "s3://ü", "nothing"]), st.sampled_from(["", "gs://é/"]))
def test_relocate(rows: list[Row], old: str, new: str) -> None:
    expected = [(new + u.removeprefix(old) if u.startswith(old) else u, e, m) for u, e, m in rows]
    assert rows_of(table_of(rows).relocate(old, new)) == expected


@given(ROWS)
def test_other_checksums(rows: list[Row]) -> None:
    urls = [r[0] for r in rows]
    assert rows_of(table_of(rows).with_checksums()) == [(u, None, None) for u in urls]
    moments = np.arange(1, len(rows) + 1)
    assert rows_of(table_of(rows).with_checksums(last_modified=moments)) == [
        (u, None, i) for i, u in enumerate(urls, 1)
    ]


@pytest.mark.parametrize("moments", [[-1], [2**32], [0.5], [1, 2], [], ["today"]])
def test_bad_moments_are_refused(moments: list[int]) -> None:
    with pytest.raises(ValueError, match="last_modified"):
        Locations.of(["x:a"], last_modified=moments)
    with pytest.raises(ValueError, match="last_modified"):
        Locations(Strings.of(["x:a"]), Strings.of([""]), np.array(moments))
    with pytest.raises(ValueError, match="etags"):
        Locations.of(["x:a"], etags=["a", "b"])


@given(st.binary(max_size=60), st.data())
def test_gather(data: bytes, draw: st.DataObject) -> None:
    spans = draw.draw(st.lists(st.tuples(st.integers(0, len(data)), st.integers(0, len(data))).map(sorted)))
    starts, ends = (np.array([s[i] for s in spans], np.int64) for i in (0, 1))
    got = columns.gather(np.frombuffer(data, np.uint8), starts, ends - starts)
    assert got.tobytes() == b"".join(data[a:b] for a, b in spans)
    cuts = np.array(sorted({0, len(data), *starts.tolist()}), np.int64)
    whole = columns.gather(np.frombuffer(data, np.uint8), cuts[:-1], np.diff(cuts))
    assert whole.tobytes() == b"".join(data[a:b] for a, b in pairwise(cuts.tolist())) == data


@given(st.binary(max_size=40), st.data())
def test_distinct_ranges_anywhere_in_the_data(data: bytes, draw: st.DataObject) -> None:
    data *= 3  # so that ranges repeat
    spans = draw.draw(st.lists(st.tuples(st.integers(0, len(data)), st.integers(0, 12))))
    spans = [(start, min(length, len(data) - start)) for start, length in spans for _ in range(1 + length % 3)]
    starts, lengths = (np.array([s[i] for s in spans], np.int64) for i in (0, 1))
    first, number = distinct.number_distinct(np.frombuffer(data, np.uint8), starts, lengths)
    texts = [data[a : a + n] for a, n in spans]
    expected, rows = firsts(list(texts))
    assert [texts[i] for i in first.tolist()] == expected
    assert [texts.index(text) for text in expected] == first.tolist()
    assert number.tolist() == rows
