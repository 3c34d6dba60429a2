"""What is particular to stores of the obstore library: metadata, versions, and the translation of errors."""

from __future__ import annotations

import asyncio
import errno
import multiprocessing
import os
from collections.abc import Coroutine
from typing import Any, TypeVar

import obstore
import obstore.store
import pytest
from obstore import exceptions as foreign

from icechunk_virtual.errors import (
    ObjectNotFound,
    OutcomeUnknown,
    PermissionDenied,
    PreconditionFailed,
    StorageError,
    TransientStorageError,
)
from icechunk_virtual.repo.foreign_errors import translate
from icechunk_virtual.repo.format.envelope import FileType
from icechunk_virtual.repo.object_store import Version
from tests.support.clouds import OneClient

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("file_type", [FileType.TRANSACTION_LOG, None])
def test_metadata(metadata: bool, file_type: FileType | None) -> None:
    memory = obstore.store.MemoryStore()
    run(OneClient(memory, metadata=metadata).put("k", b"1", file_type=file_type))
    attributes = obstore.get(memory, "k").attributes
    if metadata and file_type is not None:
        assert set(attributes) == {"ic_spec_ver", "ic_client", "ic_file_type", "ic_comp_alg"}
        assert attributes["ic_file_type"] == "transaction-log"
    else:
        assert not attributes


@pytest.mark.parametrize(
    ("escaped", "path"), [(True, "refs/branch.%C3%A9%23/ref.json"), (False, "refs/branch.é#/ref.json")]
)
def test_spelling(escaped: bool, path: str) -> None:
    memory = obstore.store.MemoryStore()
    store = OneClient(memory, escaped=escaped)
    run(store.put("refs/branch.é#/ref.json", b"1"))
    assert [meta["path"] for page in obstore.list(memory) for meta in page] == [path]

    async def keys() -> list[str]:
        return [info.key async for page in store.list("refs/") for info in page]

    assert run(keys()) == ["refs/branch.é#/ref.json"]


@pytest.mark.parametrize("conditional", [True, False])
def test_a_lost_answer(monkeypatch: pytest.MonkeyPatch, conditional: bool) -> None:
    async def put_async(*args: object, **kwargs: object) -> None:
        raise foreign.GenericError("error sending request: connection closed")

    store = OneClient()
    monkeypatch.setattr(obstore, "put_async", put_async)
    if conditional:
        for write in (store.put_new("k", b"1"), store.put_if_match("k", b"1", Version("1"))):
            with pytest.raises(OutcomeUnknown, match="connection closed"):
                run(write)
    else:
        with pytest.raises(TransientStorageError, match="connection closed"):
            run(store.put("k", b"1"))


def test_a_body_that_is_too_short(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body_of(_found: object) -> bytes:
        return b"12"

    monkeypatch.setattr("icechunk_virtual.repo.obstore_store.body_of", body_of)
    store = OneClient()
    run(store.put("k", b"x" * 12))
    with pytest.raises(StorageError, match="k has 12 bytes"):
        run(store.get("k", start=10, stop=15))
    run(store.put("k", b"x" * 15))
    with pytest.raises(TransientStorageError, match="the answer has 2 bytes instead of 5"):
        run(store.get("k", start=10, stop=15))


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (FileNotFoundError("x"), ObjectNotFound),
        (foreign.AlreadyExistsError("x"), PreconditionFailed),
        (foreign.PreconditionError("x"), PreconditionFailed),
        (foreign.PermissionDeniedError("x"), PermissionDenied),
        (foreign.UnauthenticatedError("x"), PermissionDenied),
        (foreign.GenericError("x"), TransientStorageError),
        (foreign.GenericError("x status code: 403 Forbidden: x"), PermissionDenied),
        (foreign.GenericError("x status code: 404 Not Found: x"), StorageError),
        (foreign.GenericError("x status code: 400 Bad Request: x"), StorageError),
        (foreign.GenericError("x status code: 301 Moved Permanently: x"), StorageError),
        (foreign.GenericError("x status code: 429 Too Many Requests: x"), TransientStorageError),
        (foreign.GenericError("x status code: 408 Request Timeout: x"), TransientStorageError),
        (foreign.GenericError("x status code: 503 Slow Down: x"), TransientStorageError),
        (foreign.GenericError("x status code: 404 Not Found: <Code>NoSuchBucket</Code>"), StorageError),
        (FileNotFoundError("x status code: 404 Not Found: <Code>NoSuchBucket</Code>"), StorageError),
        (FileNotFoundError("x status code: 404 Not Found: <Code>NoSuchKey</Code>"), ObjectNotFound),
        (foreign.GenericError("x performing PUT http://169.254.169.254/latest/api/token in 2s - x"), PermissionDenied),
        (foreign.GenericError("x GET http://metadata.google.internal/computeMetadata/v1/x"), PermissionDenied),
        (foreign.GenericError("x: Missing SecretAccessKey"), PermissionDenied),
        (foreign.NotSupportedError("x"), StorageError),
        (PermissionError(errno.EACCES, "x"), PermissionDenied),
        (OSError(errno.EROFS, "x"), PermissionDenied),
        (OSError(errno.ENOSPC, "x"), StorageError),
        (OSError(errno.EMFILE, "x"), TransientStorageError),
        (OSError(errno.EIO, "x"), StorageError),
        (TimeoutError("x"), TransientStorageError),
        (FileExistsError(errno.EEXIST, "x"), PreconditionFailed),
        (RuntimeError(), StorageError),
    ],
)
def test_translation(error: Exception, ours: type[StorageError]) -> None:
    translated = translate(error, "some/key")
    assert type(translated) is ours
    assert translated.key == "some/key"  # type: ignore[attr-defined]
    assert "some/key" in str(translated)


def test_missing_credentials_are_called_so() -> None:
    error = foreign.GenericError("Error performing PUT http://169.254.169.254/latest/api/token in 2s")
    assert "there are no credentials" in str(translate(error, "k"))


def test_the_library_s_debug_text_is_left_out() -> None:
    with pytest.raises(ObjectNotFound) as caught:
        run(OneClient().get("a/k"))
    assert "Debug source" not in str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="forks")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_is_told_instead_of_waiting_forever() -> None:
    store = OneClient()
    run(store.put("k", b"1"))

    def child() -> None:
        for attempt in (store.get("k"), store.get("k", start=0, stop=1), store.head("k"), store.put("k", b"2")):
            with pytest.raises(StorageError, match="'spawn'"):
                run(attempt)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(30)
    assert process.exitcode == 0
