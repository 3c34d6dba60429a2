"""What is asked again when an answer fails: every request of a repository on S3, in every way that it can fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

import icechunk_virtual as ours
from icechunk_virtual.containers.retry import Patience, Retries
from icechunk_virtual.errors import StorageError, TransientStorageError
from icechunk_virtual.model.world import World
from icechunk_virtual.repo.cloud.store import CloudStore
from tests.support.clouds import AzureContainer, Bucket, GoogleBucket
from tests.support.proxy import Answer, Forward, Request

SIZE = 200_000
CONTENT = bytes(range(250)) * (SIZE // 250)
PARTS = 5 * 2**20 + 1000  # bytes of an upload in two parts
Change = Callable[[Answer], object]


def store_of(bucket: Bucket, max_tries: int = 4, **options: Any) -> CloudStore:
    settings = ours.StorageSettings(
        retries=ours.StorageRetriesSettings(max_tries, 1, 2),
        concurrency=ours.StorageConcurrencySettings(4, 5 * 2**20),
        minimum_size_for_multipart_upload=PARTS,
    )
    found = bucket.storage(network_stream_timeout_seconds=1, **options).object_store(settings)
    assert isinstance(found, CloudStore)
    return found


async def keys(store: CloudStore) -> list[str]:
    return [info.key async for page in store.list("chunks/") for info in page]


async def deleted(store: CloudStore) -> int:
    return await store.delete(["chunks/0", "chunks/none"])


async def versioned(store: CloudStore) -> bytes:
    return (await store.get_versioned("k"))[0]


OPERATIONS: dict[str, tuple[str, Callable[[CloudStore], Coroutine[Any, Any, Any]], Any]] = {
    # the request that fails, what makes it, what comes out
    "get": ("GET", versioned, CONTENT),
    "get a range": ("GET", lambda store: store.get("k", start=10, stop=SIZE - 10), CONTENT[10:-10]),
    "head": ("HEAD", lambda store: store.head("k"), None),
    "list": ("GET", keys, ["chunks/0", "chunks/1"]),
    "put": ("PUT", lambda store: store.put("k", CONTENT), None),
    "delete": ("POST", deleted, 2),
    "begin an upload": ("POST uploads", lambda store: store.put("k", bytes(PARTS)), None),
    "upload a part": ("PUT partNumber=1", lambda store: store.put("k", bytes(PARTS)), None),
    "end an upload": ("POST uploadId", lambda store: store.put("k", bytes(PARTS)), None),
}


def end_early(answer: Answer) -> None:
    """The server does not say how much there is, and the connection ends."""
    answer.headers.popall("Content-Length", None)
    answer.claimed_length, answer.body = -1, answer.body[: len(answer.body) // 2]


FAILURES: dict[str, Change] = {
    **{
        str(status): lambda answer, status=status: vars(answer).update(status=status, body=b"")
        for status in (408, 425, 429, 499, 500, 502, 503, 504)
    },
    "no answer": lambda answer: vars(answer).update(lost=True),
    "cut": lambda answer: vars(answer).update(cut_after=len(answer.body) // 2),
    "ended early": end_early,
}
UPLOADS = ("begin an upload", "upload a part", "end an upload")
CASES = [
    *((o, f) for o in OPERATIONS if o not in UPLOADS for f in FAILURES if f not in ("cut", "ended early")),
    *((o, f) for o in UPLOADS for f in ("408", "499", "503", "no answer")),
    *((o, "cut") for o in ("get", "get a range", "list", "delete", "begin an upload", "end an upload")),
    *((o, "ended early") for o in ("list", "delete", "begin an upload", "end an upload")),  # gets need a length
]


def fails(bucket: Bucket, what: str, change: Change, times: int = 1, *, lands: bool = True) -> list[Request]:
    """Answer requests of a method and a text in their target so; returns them as they come.

    `lands`: the server has done what it was asked.
    """
    method, _, text = what.partition(" ")
    seen: list[Request] = []

    async def handle(request: Request, forward: Forward) -> Answer:
        wanted = request.method == method and text in request.target
        if wanted:
            seen.append(request)
        spoilt = wanted and len(seen) <= times
        answer = Answer() if spoilt and not lands else await forward()
        if spoilt:
            change(answer)
        return answer

    bucket.proxy.handle = handle
    return seen


def prepared(bucket: Bucket) -> CloudStore:
    store = store_of(bucket)

    async def fill() -> None:
        for key, data in {"k": CONTENT, "chunks/0": b"0", "chunks/1": b"1"}.items():
            await store.put(key, data)

    asyncio.run(fill())
    return store


@pytest.mark.parametrize(("operation", "failure"), CASES)
def test_what_fails_is_asked_again(bucket: Bucket, operation: str, failure: str) -> None:
    store = prepared(bucket)
    request, act, expected = OPERATIONS[operation]
    seen = fails(bucket, request, FAILURES[failure], 2)
    result = asyncio.run(act(store))
    assert len(seen) >= 3
    if expected is not None:
        assert result == expected
    if operation in UPLOADS:
        bucket.proxy.reset()
        assert len(asyncio.run(store.get("k"))) == PARTS


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("failure", ["503", "499", "no answer"])
def test_not_more_often_than_the_settings_say(bucket: Bucket, operation: str, failure: str) -> None:
    store = prepared(bucket)
    request, act, _ = OPERATIONS[operation]
    seen = fails(bucket, request, FAILURES[failure], 100, lands=False)
    with pytest.raises(TransientStorageError):
        asyncio.run(act(store))
    assert len(seen) == 4


@pytest.mark.parametrize("status", [400, 403, 404])
@pytest.mark.parametrize("operation", ["get", "get a range", "put", "delete"])
def test_refusals_are_not_asked_again(bucket: Bucket, operation: str, status: int) -> None:
    store = prepared(bucket)
    request, act, _ = OPERATIONS[operation]
    seen = fails(bucket, request, lambda answer: vars(answer).update(status=status), 100)
    if (operation, status) != ("delete", 404):
        with pytest.raises(StorageError):
            asyncio.run(act(store))
        assert len(seen) == 1


# -- in the middle of an object --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cut_after", "stall_after"])
def test_an_object_that_breaks_off_is_read_on_from_there(bucket: Bucket, how: str) -> None:
    store = prepared(bucket)
    seen = fails(bucket, "GET", lambda answer: setattr(answer, how, 50_000))
    assert asyncio.run(store.get("k", start=10, stop=SIZE)) == CONTENT[10:]
    assert [request.range for request in seen] == [f"bytes=10-{SIZE - 1}", f"bytes=50010-{SIZE - 1}"]


@pytest.mark.parametrize("etag", ['W/"weak"', None])
def test_an_object_without_a_strong_etag_is_read_from_its_beginning(bucket: Bucket, etag: str | None) -> None:
    """Its rest might be that of another object."""
    store = prepared(bucket)

    def change(answer: Answer) -> None:
        answer.cut_after = 50_000
        del answer.headers["ETag"]
        if etag is not None:
            answer.headers["ETag"] = etag

    seen = fails(bucket, "GET", change)
    assert asyncio.run(store.get("k", start=10, stop=SIZE)) == CONTENT[10:]
    assert seen[-1].range == f"bytes=10-{SIZE - 1}"


def test_an_object_replaced_while_it_is_read_is_read_anew(bucket: Bucket) -> None:
    store = prepared(bucket)
    other = bucket.storage(endpoint_url=bucket.server).object_store()

    async def replace_it(request: Request, forward: Forward) -> Answer:
        answer = await forward()
        if request.method == "GET" and len(bucket.proxy.log("GET")) == 1:
            answer.cut_after = 50_000
            await other.put("k", CONTENT[::-1])
        return answer

    bucket.proxy.requests.clear()
    bucket.proxy.handle = replace_it
    assert asyncio.run(store.get("k", start=0, stop=SIZE)) == CONTENT[::-1]


def test_an_answer_that_is_too_short_is_no_answer(bucket: Bucket) -> None:
    """The server says how much it sends, and it is not what it was asked for."""
    store = prepared(bucket)
    seen = fails(bucket, "GET", lambda answer: setattr(answer, "body", answer.body[:100]), 2)
    assert asyncio.run(store.get("k", start=10, stop=SIZE)) == CONTENT[10:]
    assert len(seen) == 3


def test_a_listing_goes_on_after_the_last_page_that_came(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icechunk_virtual.repo.obstore_store.PAGE_SIZE", 1)
    store = prepared(bucket)

    async def pages_of_one(request: Request, forward: Forward) -> Answer:
        answer = await forward(replace(request, target=f"{request.target}&max-keys=1"))
        if "continuation-token" in request.target and not spoilt:
            spoilt.append(request)
            answer.cut_after = 10
        return answer

    spoilt: list[Request] = []
    bucket.proxy.requests.clear()
    bucket.proxy.handle = pages_of_one
    assert asyncio.run(keys(store)) == ["chunks/0", "chunks/1"]
    assert "start-after=" in bucket.proxy.requests[-1].target


# -- other providers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["google_bucket", "azure_container"])
@pytest.mark.parametrize(
    ("operation", "failure"),
    [
        *((o, f) for o in ("head", "put", "delete", "upload") for f in ("408", "429", "503", "no answer")),
        *((o, f) for o in ("get", "get a range", "list") for f in ("408", "429", "503", "no answer", "cut", "stalled")),
    ],
)
def test_other_providers_are_asked_again_too(
    where: str, operation: str, failure: str, request: pytest.FixtureRequest
) -> None:
    place: GoogleBucket | AzureContainer = request.getfixturevalue(where)
    settings = ours.StorageSettings(
        retries=ours.StorageRetriesSettings(4, 1, 2),
        concurrency=ours.StorageConcurrencySettings(4, 5 * 2**20),
        minimum_size_for_multipart_upload=PARTS,
    )
    store = place.storage(options={"read_timeout": "1s"}).object_store(settings)
    act: Callable[[CloudStore], Coroutine[Any, Any, Any]]
    act = (lambda store: store.put("k", bytes(PARTS))) if operation == "upload" else OPERATIONS[operation][1]
    change = FAILURES.get(failure) or (lambda answer: vars(answer).update(stall_after=len(answer.body) // 2))
    usual, left = place.proxy.handle, [change]

    async def handle(request: Request, forward: Forward) -> Answer:
        answer = await usual(request, forward)
        if left:
            left.pop()(answer)
        return answer

    async def work() -> Any:
        for key, data in {"k": CONTENT, "chunks/0": b"0", "chunks/1": b"1"}.items():
            await store.put(key, data)
        place.proxy.handle = handle
        place.proxy.requests.clear()
        return await act(store)

    result = asyncio.run(work())
    assert not left
    first, *others = place.proxy.requests
    assert (first.method, first.target.partition("?")[0]) in [(r.method, r.target.partition("?")[0]) for r in others]
    if operation == "upload":
        assert asyncio.run(store.get("k")) == bytes(PARTS)
    elif OPERATIONS[operation][2] is not None and operation != "delete":
        assert result == OPERATIONS[operation][2]


# -- uploads in parts ------------------------------------------------------------------------------------------


def test_an_upload_that_fails_is_taken_back(bucket: Bucket) -> None:
    """Parts that nobody ends would be paid for."""
    store = prepared(bucket)
    fails(bucket, "PUT partNumber=1", FAILURES["503"], 100)
    bucket.proxy.requests.clear()
    with pytest.raises(TransientStorageError):
        asyncio.run(store.put("chunks/big", bytes(PARTS)))
    (begun,) = bucket.proxy.log("POST", "uploads")
    (taken_back,) = bucket.proxy.log("DELETE", "uploadId")
    assert taken_back.target.partition("?")[0] == begun.target.partition("?")[0]
    bucket.proxy.reset()
    assert asyncio.run(keys(store)) == ["chunks/0", "chunks/1"]


def test_an_upload_that_ends_with_an_error_in_a_good_answer_is_ended_again(bucket: Bucket) -> None:
    """S3 says 200 before it knows."""
    store = prepared(bucket)
    error = b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"

    async def not_yet(request: Request, forward: Forward) -> Answer:
        if len(bucket.proxy.log("POST", "uploadId")) == 1 and request.method == "POST" and "uploadId" in request.target:
            return Answer(body=error)
        return await forward()

    bucket.proxy.requests.clear()
    bucket.proxy.handle = not_yet
    asyncio.run(store.put("k", bytes(PARTS)))
    assert len(bucket.proxy.log("POST", "uploadId")) == 2
    assert asyncio.run(store.get("k")) == bytes(PARTS)


# -- pauses ----------------------------------------------------------------------------------------------------


def test_pauses_grow_and_have_some_chance_in_them() -> None:
    for byte, shares in ((b"\x00", (0.5, 0.5)), (b"\xff", (0.99, 1.0))):
        retries = Retries(9, 100, 1000, World(random_bytes=lambda size, byte=byte: byte * size))
        pauses = [retries.pause_seconds(tries) * 1000 for tries in range(1, 7)]
        for pause, longest in zip(pauses, (100, 200, 400, 800, 1000, 1000), strict=True):
            assert shares[0] * longest <= pause <= shares[1] * longest


def test_patience_ends() -> None:
    clock = [0]

    async def tries(retries: Retries, us: int = 0) -> int:
        patience = Patience(retries)
        while await patience.again():
            clock[0] += us
        return patience.tries

    world = World(now_us=lambda: clock[0])
    assert asyncio.run(tries(Retries(3, 1, 1, world))) == 3
    assert asyncio.run(tries(Retries(1, 1, 1, world))) == 1
    assert asyncio.run(tries(Retries(1000, 1, 1, world), 100_000_000)) == 4, "not after five minutes"
