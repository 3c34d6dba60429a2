"""Transaction logs: the columnar encoder and decoder equal the plain ones."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk_virtual.errors import CorruptFile, TooLargeForFormat
from icechunk_virtual.repo.format import transaction_log
from icechunk_virtual.repo.format.envelope import FileType, unwrap, wrap
from icechunk_virtual.repo.format.transaction_log import (
    TransactionLog,
    decode_transaction_log,
    encode_transaction_log,
)
from tests.support.plain_flatbuffers import Style, plain_log, read_plain_log

ID = b"snapshot-id!"
SLOTS = ("new_groups", "new_arrays", "deleted_groups", "deleted_arrays", "updated_arrays", "updated_groups")
ids = st.binary(min_size=8, max_size=8)
groups = st.lists(st.lists(ids, unique=True, max_size=5), min_size=6, max_size=6)


@st.composite
def coordinates(draw) -> list[tuple[int, ...]]:
    index = st.integers(0, 3) | st.integers(0, 2**32 - 1)
    ndim = draw(st.integers(0, 4))
    return sorted(draw(st.lists(st.tuples(*[index] * ndim), unique=True, max_size=30)))


updates = st.dictionaries(ids, coordinates(), max_size=5)


def log_of(groups, updated) -> TransactionLog:
    chunks = {id: np.array(rows, np.uint32).reshape(len(rows), -1 if rows else 0) for id, rows in updated.items()}
    return TransactionLog(ID, **{s: frozenset(g) for s, g in zip(SLOTS, groups, strict=True)}, updated_chunks=chunks)


def plain(log: TransactionLog):
    return {id: [tuple(row) for row in rows.tolist()] for id, rows in log.updated_chunks.items()}


@given(groups, updates)
def test_encoding_equals_the_plain_one(groups, updated) -> None:
    data = encode_transaction_log(log_of(groups, updated))
    content = unwrap(data, file_type=FileType.TRANSACTION_LOG, file="t")
    assert read_plain_log(content) == (ID, [sorted(g) for g in groups], updated)
    back = decode_transaction_log(data, file="t")
    assert back.id == ID
    assert [getattr(back, slot) for slot in SLOTS] == [frozenset(g) for g in groups]
    assert plain(back) == updated


@given(groups, updates, st.builds(Style, *[st.booleans()] * 6, seed=st.integers(0, 2**32)), st.randoms())
def test_decoding_any_layout_and_order(groups, updated, style, random) -> None:
    shuffled = {id: random.sample(rows, len(rows)) + rows[:1] for id, rows in updated.items()}
    back = decode_transaction_log(plain_log(ID, groups, shuffled, style), file="t")
    assert plain(back) == updated
    assert [getattr(back, slot) for slot in SLOTS] == [frozenset(g) for g in groups]


def in_columns(monkeypatch: pytest.MonkeyPatch, function, *args, **kwargs):
    """What comes out when nothing is small."""
    with monkeypatch.context() as patched:
        patched.setattr(transaction_log, "_FEW", -1)
        return function(*args, **kwargs)


def everything(log: TransactionLog):
    others = {id: [part.tolist() for part in parts] for id, parts in log.other_ranks.items()}
    ranks = {id: rows.shape[1] for id, rows in log.updated_chunks.items() if len(rows)}  # no chunks have no rank
    return log.id, [getattr(log, slot) for slot in SLOTS], plain(log), ranks, others


@given(groups, updates)
def test_small_logs_are_written_as_large_ones(groups, updated) -> None:
    log = log_of(groups, updated)
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert encode_transaction_log(log) == in_columns(monkeypatch, encode_transaction_log, log)


mixed = st.dictionaries(
    ids, st.lists(st.lists(st.integers(0, 3), max_size=3).map(tuple), max_size=12), max_size=4
)  # ranks mixed, unsorted, repeated


@given(groups, mixed, st.builds(Style, *[st.booleans()] * 6, seed=st.integers(0, 2**32)), st.data())
def test_small_logs_are_read_as_large_ones(groups, updated, style, data) -> None:
    content = bytearray(unwrap(plain_log(ID, groups, updated, style), file_type=FileType.TRANSACTION_LOG, file="t"))
    for _ in range(data.draw(st.integers(0, 2))):
        aligned = data.draw(st.integers(0, len(content) - 1)) // 4 * 4
        number = data.draw(st.integers(0, 2**32 - 1) | st.integers(0, 400) | st.sampled_from([2**31, 2**32 - 4]))
        content[aligned : aligned + 4] = number.to_bytes(4, "little")
    file = wrap(FileType.TRANSACTION_LOG, bytes(content), level=1)

    def outcome():
        try:
            return everything(decode_transaction_log(file, file="t"))
        except CorruptFile:
            return "corrupt"

    with pytest.MonkeyPatch.context() as monkeypatch:
        assert outcome() == in_columns(monkeypatch, outcome)


def test_many_chunks() -> None:
    coords = np.stack(np.unravel_index(np.arange(20_000), (20, 1000)), axis=1).astype(np.uint32)
    log = log_of([[]] * 6, {})
    log.updated_chunks.update(
        {b"a" * 8: coords[::-1], b"b" * 8: coords[:0], b"c" * 8: coords[:5000], b"d" * 8: coords[:3, :1]}
    )
    back = decode_transaction_log(encode_transaction_log(log), file="t")
    np.testing.assert_array_equal(back.updated_chunks[b"a" * 8], coords)
    np.testing.assert_array_equal(back.updated_chunks[b"c" * 8], coords[:5000])
    assert back.updated_chunks[b"d" * 8].tolist() == [[0]]
    assert len(back.updated_chunks[b"b" * 8]) == 0


def test_limits_and_misuse(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="12 bytes"):
        encode_transaction_log(TransactionLog(b"x"))
    with pytest.raises(ValueError, match="8"):
        encode_transaction_log(TransactionLog(ID, new_groups=frozenset([b"x"])))
    monkeypatch.setattr(transaction_log, "MAX_TABLES", 3)
    with pytest.raises(TooLargeForFormat, match="smaller steps"):
        encode_transaction_log(log_of([[]] * 6, {b"a" * 8: [(1,), (2,)], b"b" * 8: []}))


@given(groups, updates, st.data())
def test_damaged_content(groups, updated, data) -> None:
    content = bytearray(
        unwrap(encode_transaction_log(log_of(groups, updated)), file_type=FileType.TRANSACTION_LOG, file="t")
    )
    for _ in range(data.draw(st.integers(1, 3))):
        aligned = data.draw(st.integers(0, len(content) - 1)) // 4 * 4
        number = data.draw(st.integers(0, 2**32 - 1) | st.integers(0, 400) | st.sampled_from([2**31, 2**32 - 4]))
        content[aligned : aligned + 4] = number.to_bytes(4, "little")
    content = content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    with contextlib.suppress(CorruptFile):
        plain(decode_transaction_log(wrap(FileType.TRANSACTION_LOG, bytes(content), level=1), file="t"))
