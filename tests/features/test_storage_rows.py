"""Rows of the feature table about storage (F054, F059, F061 to F071, F080 to F082, and F028), seen from the outside:
an S3 server behind a proxy that writes down every request. Credentials are in test_credential_rows.py.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import icechunk
import pytest

import icechunk_virtual as ours
from icechunk_virtual.errors import IcechunkError, ReadOnlyError, StorageError
from icechunk_virtual.repo.cloud.clients import Manner, client_options
from icechunk_virtual.repo.object_store import PartPolicy, part_ranges
from icechunk_virtual.repo.obstore_store import Role
from icechunk_virtual.repo.settings import EffectiveStorage
from tests.support.certificates import tls_of_own_authority
from tests.support.clouds import AzureContainer, Bucket, FakeService, GoogleBucket
from tests.support.hierarchies import array_document, get, keys_of, put
from tests.support.proxy import Answer, Forward, Request
from tests.support.tasks import commit_arrays
from tests.support.tunnel import Tunnel

both = pytest.mark.parametrize("ic", [ours, icechunk], ids=["ours", "original"])
METADATA = ("snapshots/", "manifests/", "transactions/", "refs/", "config.yaml")
NATIVE = 0  # threshold with which every chunk becomes an object


def configured(ic: Any = ours, **settings: Any) -> Any:
    """Native chunks only, and these storage settings."""
    storage = ic.StorageSettings(**settings) if settings else None
    return ic.RepositoryConfig(inline_chunk_threshold_bytes=NATIVE, storage=storage)


def content(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def created(ic: Any, storage: Any, config: Any = None, size: int = 1000) -> Any:
    """A repository with one commit: an array with one chunk of so many bytes."""
    repo = ic.Repository.create(storage, config or configured(ic))
    session = repo.writable_session("main")
    put(session.store, "a/zarr.json", array_document((size,), (size,)))
    put(session.store, "a/c/0", content(size))
    session.commit("c1")
    return repo


def chunk(repo: Any, size: int = 1000) -> bytes | None:
    data = get(repo.readonly_session("main").store, "a/c/0")
    assert data is None or data == content(size)
    return data


def is_metadata(request: Request) -> bool:
    return any(f"repo/{folder}" in unquote(request.target) for folder in METADATA)


def name_of(request: Request) -> str:
    return request.target.partition("/repo/")[2].partition("?")[0]


# -- reading ---------------------------------------------------------------------------------------------------


def test_F054_big_objects_are_fetched_in_parallel_ranges(bucket: Bucket) -> None:
    assert part_ranges(0, 1000, PartPolicy(3, 100)) == [(0, 334), (334, 667), (667, 1000)]
    assert [stop - start for start, stop in part_ranges(0, 30_000_000, PartPolicy(18, 12 * 2**20))] == [10_000_000] * 3
    effective = EffectiveStorage()
    assert (effective.max_concurrent_requests_for_object, effective.ideal_concurrent_request_size) == (18, 12 * 2**20)
    concurrency = ours.StorageConcurrencySettings(3, 100)
    created(ours, bucket.storage(), configured(concurrency=concurrency))
    repo = ours.Repository.open(bucket.storage())
    with bucket.proxy.recording() as seen:
        assert chunk(repo)
    ranges = sorted(r.headers["Range"] for r in seen if "chunks/" in r.target)
    assert ranges == ["bytes=0-333", "bytes=334-666", "bytes=667-999"]
    manifests = [r.headers.get("Range") for r in seen if "manifests/" in r.target]
    assert len(manifests) > 1


@both
def test_F062_failed_requests_are_repeated(ic: Any, bucket: Bucket) -> None:
    created(ic, bucket.storage(ic))
    patient = ic.StorageRetriesSettings(max_tries=3, initial_backoff_ms=1, max_backoff_ms=2)
    repo = ic.Repository.open(bucket.storage(ic), configured(ic, retries=patient))
    failures = 2

    async def fail(request: Request, forward: Forward) -> Answer:
        nonlocal failures
        if "chunks/" in request.target and failures:
            failures -= 1
            return Answer(503)
        return await forward()

    bucket.proxy.handle = fail
    assert chunk(repo)
    assert len(bucket.proxy.log("GET", "chunks/")) == 3


def test_F062_settings_given_at_open_hold_from_the_first_request(bucket: Bucket) -> None:
    """The original makes three attempts here: its client is made before it looks at the settings."""
    created(ours, bucket.storage())

    async def fail(request: Request, _forward: Forward) -> Answer:
        return Answer(503)

    bucket.proxy.handle = fail
    once = configured(retries=ours.StorageRetriesSettings(max_tries=1))
    bucket.proxy.requests.clear()
    with pytest.raises(StorageError, match="503"):
        ours.Repository.open(bucket.storage(), once)
    names = [str(request) for request in bucket.proxy.requests]
    assert len(names) == len(set(names)), "every request once"


def test_F062_a_lost_answer_to_a_conditional_write_is_resolved(bucket: Bucket) -> None:
    """The repetition fails its own condition; what it finds there is its own."""
    repo = created(ours, bucket.storage())
    lost: list[str] = []

    async def lose(request: Request, forward: Forward) -> Answer:
        answer = await forward()
        if request.method == "PUT" and ("If-Match" in request.headers or "If-None-Match" in request.headers):
            answer.lost = request.target not in lost
            lost.append(request.target)
        return answer

    bucket.proxy.handle = lose
    repo.create_tag("t", repo.lookup_branch("main"))
    session = repo.writable_session("main")
    put(session.store, "b/zarr.json", array_document((1,)))
    id = session.commit("c2")
    repo.save_config()
    bucket.proxy.reset()
    assert len(lost) == 6, "the tag, the branch and the configuration, twice each"
    assert repo.lookup_branch("main") == id
    assert repo.list_tags() == {"t"}
    with pytest.raises(IcechunkError, match="tag already exists"):
        repo.create_tag("t", repo.lookup_branch("main"))


@pytest.mark.parametrize("seconds", [1, 0])
def test_F068_stalled_transfers_are_given_up(bucket: Bucket, seconds: int) -> None:
    created(ours, bucket.storage())
    once = configured(retries=ours.StorageRetriesSettings(max_tries=1))

    async def stall(request: Request, forward: Forward) -> Answer:
        answer = await forward()
        if "chunks/" in request.target:
            answer.stall_after = 10
        return answer

    storage = bucket.storage(network_stream_timeout_seconds=seconds)
    repo = ours.Repository.open(storage, once)
    bucket.proxy.handle = stall
    if seconds:
        with pytest.raises(StorageError):
            chunk(repo)
    else:  # waiting for ever cannot be tested; that no limit is set can
        manner = Manner(stall_seconds=0)
        assert all("read_timeout" not in client_options(role, manner, EffectiveStorage()) for role in Role)

        async def wait() -> None:
            session = await repo.readonly_session_async("main")
            await asyncio.wait_for(session.store.get("a/c/0", prototype()), 1.5)

        with pytest.raises(TimeoutError):
            asyncio.run(wait())


def prototype() -> Any:
    from zarr.core.buffer import default_buffer_prototype

    return default_buffer_prototype()


def test_F068_uploads_have_the_time_that_they_need() -> None:
    settings = EffectiveStorage(minimum_size_for_multipart_upload=10_000_000)
    for role, seconds in ((Role.READ, 60), (Role.ONCE, 60), (Role.WRITE, 70), (Role.UPLOAD, 160)):
        options = client_options(role, Manner(stall_seconds=60), settings)
        assert options["read_timeout"] == timedelta(seconds=seconds)
    assert ours.s3_store()._0.network_stream_timeout_seconds == 60


# -- writing ---------------------------------------------------------------------------------------------------


def test_F059_the_configuration_is_written_as_it_says_itself(bucket: Bucket, tmp_path: Path) -> None:
    config = configured(storage_class="STANDARD_IA", unsafe_use_conditional_create=False, unsafe_use_metadata=False)
    ours.Repository.create(bucket.storage(), config)
    (saved,) = bucket.proxy.log("PUT", "config.yaml")
    assert saved.headers["x-amz-storage-class"] == "STANDARD_IA"
    assert "If-None-Match" not in saved.headers
    assert saved.headers.get("Content-Type") != "application/yaml"

    repo = ours.Repository.open(bucket.storage(), configured(storage_class="REDUCED_REDUNDANCY"))
    repo.save_config()
    saved = bucket.proxy.log("PUT", "config.yaml")[-1]
    assert saved.headers["x-amz-storage-class"] == "REDUCED_REDUNDANCY"
    assert "If-Match" in saved.headers

    # settings of one thing leave the rest to the storage's defaults; the original fails here
    local = created(
        ours,
        ours.local_filesystem_storage(tmp_path / "r"),
        configured(concurrency=ours.StorageConcurrencySettings(2, 100)),
    )
    assert chunk(local)


@both
def test_F061_stores_without_conditions_or_metadata(ic: Any, bucket: Bucket) -> None:
    flags = {f"unsafe_use_{what}": False for what in ("conditional_create", "conditional_update", "metadata")}
    repo = created(ic, bucket.storage(ic), configured(ic, **flags))
    repo.create_tag("t", repo.lookup_branch("main"))
    puts = bucket.proxy.log("PUT")
    assert len(puts) > 5
    names = {name.lower() for request in puts for name in request.headers}
    assert not {name for name in names if name.startswith(("if-", "x-amz-meta-"))}
    assert chunk(ic.Repository.open(bucket.storage(ic)))


def test_F061_without_conditions_what_is_there_is_still_seen(bucket: Bucket) -> None:
    flags = {f"unsafe_use_{what}": False for what in ("conditional_create", "conditional_update")}
    repo = created(ours, bucket.storage(), configured(**flags))
    first = repo.lookup_branch("main")
    repo.create_tag("t", first)
    with pytest.raises(IcechunkError, match="tag already exists"):
        repo.create_tag("t", first)
    stale, other = repo.writable_session("main"), repo.writable_session("main")
    put(other.store, "b/zarr.json", array_document((1,)))
    put(stale.store, "c/zarr.json", array_document((1,)))
    other.commit("first")
    with pytest.raises(ours.ConflictError):
        stale.commit("late")


@both
def test_F063_storage_classes(ic: Any, bucket: Bucket) -> None:
    classes = {"storage_class": "STANDARD_IA", "chunks_storage_class": "ONEZONE_IA"}
    created(ic, bucket.storage(ic), configured(ic, **classes))
    by_kind: dict[bool, set[str | None]] = {True: set(), False: set()}
    for request in bucket.proxy.log("PUT"):
        by_kind[is_metadata(request)].add(request.headers.get("x-amz-storage-class"))
    assert by_kind == {True: {"STANDARD_IA"}, False: {"ONEZONE_IA"}}


@pytest.mark.parametrize(("name", "header"), [("google", "x-goog-storage-class"), ("azure", "x-ms-access-tier")])
def test_F063_storage_classes_elsewhere(name: str, header: str) -> None:
    """The original leaves them out there."""
    with FakeService(name) as service:
        created(ours, service.storage(), configured(chunks_storage_class="Cool"))
        sent = {is_metadata(r): r.headers.get(header) for r in service.log("PUT")}
    assert sent == {True: None, False: "Cool"}


def test_F064_big_objects_are_uploaded_in_parts(bucket: Bucket) -> None:
    size = 11_000_000
    config = configured(
        minimum_size_for_multipart_upload=6_000_000, concurrency=ours.StorageConcurrencySettings(4, 6_000_000)
    )
    repo = created(ours, bucket.storage(), config, size)
    assert [len(r.body) for r in bucket.proxy.log("PUT", "partNumber=")] == [size // 2] * 2
    assert [r.target.partition("?")[2][:7] for r in bucket.proxy.log("POST")] == ["uploads", "uploadI"]
    assert chunk(repo, size)
    bucket.proxy.requests.clear()
    created(ours, bucket.storage(make="s3_object_store_storage", prefix="whole"), config, size)
    assert not bucket.proxy.log("POST"), "in one piece, as the original there"
    assert EffectiveStorage().minimum_size_for_multipart_upload == 100 * 2**20


def test_F064_big_objects_are_uploaded_in_parts_elsewhere(
    google_bucket: GoogleBucket, azure_container: AzureContainer
) -> None:
    """In one piece by the original. Storage class and content type belong to the whole, whatever the way it came."""
    size = 11_000_000
    config = configured(
        minimum_size_for_multipart_upload=6_000_000,
        concurrency=ours.StorageConcurrencySettings(4, 6_000_000),
        chunks_storage_class="Cool",
    )
    repo = created(ours, google_bucket.storage(), config, size)
    log = google_bucket.proxy.log
    assert [len(r.body) for r in log("PUT", "partNumber=")] == [size // 2] * 2
    begun, ended = log("POST")
    assert (begun.target.partition("?")[2], ended.target.partition("?")[2][:8]) == ("uploads=", "uploadId")
    assert begun.headers["x-goog-storage-class"] == "Cool"
    assert begun.headers["Content-Type"] == "application/octet-stream"
    assert chunk(repo, size)

    repo = created(ours, azure_container.storage(), config, size)
    log = azure_container.proxy.log
    assert [len(r.body) for r in log("PUT", "comp=block&")] == [size // 2] * 2
    (ended,) = log("PUT", "comp=blocklist")
    assert ended.headers["x-ms-access-tier"] == "Cool"
    assert ended.headers["x-ms-blob-content-type"] == "application/octet-stream"
    assert chunk(repo, size)


@pytest.mark.parametrize("where", ["google_bucket", "azure_container"])
def test_F064_a_failed_upload_elsewhere_leaves_nothing(where: str, request: pytest.FixtureRequest) -> None:
    place: GoogleBucket | AzureContainer = request.getfixturevalue(where)
    settings = ours.StorageSettings(
        retries=ours.StorageRetriesSettings(1, 1, 1), minimum_size_for_multipart_upload=6_000_000
    )
    store = place.storage().object_store(settings)
    usual = place.proxy.handle

    async def fail(request: Request, forward: Forward) -> Answer:
        return (
            Answer(503)
            if "partNumber=1" in request.target or "comp=block&" in request.target
            else (await usual(request, forward))
        )

    place.proxy.handle = fail

    async def work() -> list[str]:
        with pytest.raises(StorageError, match="503"):
            await store.put("chunks/k", bytes(7_000_000))
        return [info.key async for page in store.list("chunks/") for info in page]

    assert asyncio.run(work()) == []
    if where == "google_bucket":
        assert place.proxy.log("DELETE", "uploadId="), "blocks without a list Azure drops after a week"


@both
def test_F081_content_types(ic: Any, bucket: Bucket) -> None:
    repo = created(ic, bucket.storage(ic))
    types = {name_of(request): request.headers.get("Content-Type") for request in bucket.proxy.log("PUT")}
    assert types.pop("config.yaml") == "application/yaml"
    assert set(types.values()) == {"application/octet-stream"}
    (snapshot,) = bucket.proxy.log("PUT", f"snapshots/{repo.lookup_branch('main')}")
    metadata = {name: value for name, value in snapshot.headers.items() if name.lower().startswith("x-amz-meta-ic_")}
    names = {name.lower().removeprefix("x-amz-meta-") for name in metadata}
    assert names == {"ic_spec_ver", "ic_client", "ic_file_type", "ic_comp_alg"}


@pytest.mark.parametrize(
    ("where", "kind", "metadata"),
    [("google_bucket", "Content-Type", "x-goog-meta-"), ("azure_container", "x-ms-blob-content-type", "x-ms-meta-")],
)
@pytest.mark.parametrize("wanted", [True, False])
def test_F081_content_types_elsewhere(
    where: str, kind: str, metadata: str, wanted: bool, request: pytest.FixtureRequest
) -> None:
    place: GoogleBucket | AzureContainer = request.getfixturevalue(where)
    repo = created(ours, place.storage(), configured(unsafe_use_metadata=wanted))
    tip = repo.lookup_branch("main")
    sent = {unquote(r.target.partition("?")[0]): r.headers for r in place.proxy.log("PUT")}
    (snapshot,) = (headers for name, headers in sent.items() if "snapshots" in name and name.endswith(tip))
    (config,) = (headers for name, headers in sent.items() if name.endswith("config.yaml"))
    assert (config.get(kind) == "application/yaml") == wanted
    assert snapshot.get(kind) == "application/octet-stream" or not wanted
    said = {name.lower().removeprefix(metadata) for name in snapshot if name.lower().startswith(metadata)}
    assert said == ({"ic_spec_ver", "ic_client", "ic_file_type", "ic_comp_alg"} if wanted else set())


def test_F080_keys_have_forward_slashes(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sep", "\\")
    monkeypatch.setattr("os.altsep", "/")
    created(ours, bucket.storage(prefix="repo/b c"))
    assert {r.target.split("/")[1:4:2] == [bucket.name, "b%20c"] for r in bucket.proxy.log("PUT")} == {True}
    assert not [r.target for r in bucket.proxy.requests if "\\" in r.target or "%5C" in r.target]


@pytest.mark.parametrize("name", ["google", "azure"])
def test_F082_requests_to_other_services_are_repeated(name: str) -> None:
    with FakeService(name) as service:
        cloud, storage = service.fake, service.storage()
        repo = created(ours, storage, configured(retries=ours.StorageRetriesSettings(initial_backoff_ms=1)))
        cloud.fail = 1
        assert chunk(repo)
        cloud.fail = 1
        session = repo.writable_session("main")
        cloud.fail = 1
        put(session.store, "a/c/0", b"x" * 1000)
        session.commit("c2")
        assert not cloud.fail
        hopeless = ours.Repository.open(storage, configured(retries=ours.StorageRetriesSettings(max_tries=1)))
        cloud.fail = 1
        with pytest.raises(StorageError, match="503"):
            hopeless.lookup_branch("main")


# -- services --------------------------------------------------------------------------------------------------

MAKERS = ("s3_storage", "s3_object_store_storage", "tigris_storage", "r2_storage")
SERVICES = ("google", "azure")
Place = Callable[[Any], Any]  # a storage of the library that is given


@contextmanager
def place_of(name: str, request: pytest.FixtureRequest) -> Iterator[Place]:
    if name in SERVICES:
        with FakeService(name) as service:
            yield service.storage
    else:
        bucket: Bucket = request.getfixturevalue("bucket")
        yield lambda library: bucket.storage(library, make=name)


@pytest.fixture(params=[*MAKERS, *SERVICES])
def cloud(request: pytest.FixtureRequest) -> Iterator[Place]:
    with place_of(request.param, request) as found:
        yield found


@pytest.fixture(params=[*MAKERS, *SERVICES, "local", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A storage of every kind."""
    if request.param == "local":
        yield ours.local_filesystem_storage(tmp_path / "r")
    elif request.param == "memory":
        yield ours.in_memory_storage()
    else:
        with place_of(request.param, request) as found:
            yield found(ours)


def test_F065_one_scenario_on_all_storages(place: Any) -> None:
    assert not ours.Repository.exists(place)
    repo = created(ours, place)
    assert ours.Repository.exists(place)
    with pytest.raises(IcechunkError, match="clean prefixes"):
        ours.Repository.create(place)
    repo.create_tag("t é", repo.lookup_branch("main"))
    repo.create_branch("b", repo.lookup_branch("main"))
    first, second = (ours.Repository.open(place).writable_session("b") for _ in range(2))
    put(first.store, "b/zarr.json", array_document((1,)))
    put(second.store, "c/zarr.json", array_document((1,)))
    first.commit("c2")
    with pytest.raises(ours.ConflictError):
        second.commit("late")
    second.rebase(ours.ConflictDetector())
    second.commit("c3")
    opened = ours.Repository.open_or_create(place)
    assert [info.message for info in opened.ancestry(branch="b")] == ["c3", "c2", "c1", "Repository initialized"]
    assert (opened.list_branches(), opened.list_tags()) == ({"main", "b"}, {"t é"})
    opened.delete_branch("b")
    opened.delete_tag("t é")
    summary = opened.garbage_collect(next(opened.ancestry(branch="main")).written_at + timedelta(days=1))
    assert (summary.snapshots_deleted, summary.chunks_deleted) == (2, 0)
    assert chunk(opened)
    assert opened.total_chunks_storage() == 1000


@pytest.mark.parametrize(("writer", "reader"), [(ours, icechunk), (icechunk, ours)], ids=["to it", "from it"])
def test_F065_repositories_in_clouds_are_the_original_s(writer: Any, reader: Any, cloud: Place) -> None:
    created(writer, cloud(writer))
    repo = reader.Repository.open(cloud(reader))
    assert chunk(repo)
    session = repo.writable_session("main")
    put(session.store, "b/zarr.json", array_document((1,)))
    id = session.commit("c2")
    repo.create_tag("t é", id)
    back = writer.Repository.open(cloud(writer))
    assert (back.lookup_branch("main"), back.lookup_tag("t é")) == (id, id)
    assert [info.message for info in back.ancestry(branch="main")] == ["c2", "c1", "Repository initialized"]


@pytest.mark.slow
def test_F065_several_processes_commit_to_one_bucket(bucket: Bucket) -> None:
    storage = bucket.storage(endpoint_url=bucket.server)
    repo = ours.Repository.create(storage)
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        reported = pool.starmap(commit_arrays, [(storage, worker, 4) for worker in range(4)])
    history = [info.id for info in repo.ancestry(branch="main")][:-1]
    assert sorted(history) == sorted(id for ids in reported for id in ids)
    assert len(keys_of(repo.readonly_session("main").store)) == len(history) == 16


@both
def test_F065_the_root_of_a_bucket(ic: Any, bucket: Bucket) -> None:
    repo = created(ic, bucket.storage(ic, prefix=None))
    assert chunk(repo)
    if ic is ours:  # the original lists nothing there, and overwrites
        with pytest.raises(IcechunkError, match="clean prefixes"):
            ic.Repository.create(bucket.storage(ic, prefix=None))


def test_F065_what_cannot_be_addressed_is_refused(bucket: Bucket) -> None:
    for prefix in ("/a", "a//b", "a/../b"):
        with pytest.raises(StorageError, match="cannot be addressed"):
            bucket.storage(prefix=prefix)
    assert bucket.storage(prefix="a/b/") == bucket.storage(prefix="a/b")


@pytest.mark.parametrize("what", ["open", "create", "exists"])
def test_F065_a_missing_bucket_is_named(bucket: Bucket, what: str) -> None:
    with pytest.raises(StorageError, match="NoSuchBucket"):
        getattr(ours.Repository, what)(bucket.storage(bucket="there-is-none"))


def test_F066_requester_pays(bucket: Bucket) -> None:
    repo = created(ours, bucket.storage(requester_pays=True))
    assert chunk(repo)
    repo.list_branches()
    repo.create_branch("b", repo.lookup_branch("main"))
    repo.delete_branch("b")
    store = bucket.storage(requester_pays=True).object_store(
        ours.StorageSettings(
            retries=ours.StorageRetriesSettings(1),
            concurrency=ours.StorageConcurrencySettings(4, 6_000_000),
            minimum_size_for_multipart_upload=6_000_000,
        )
    )

    async def fail(request: Request, forward: Forward) -> Answer:
        return Answer(500) if "partNumber=" in request.target else await forward()

    asyncio.run(store.put("chunks/big", bytes(11_000_000)))
    bucket.proxy.handle = fail
    with pytest.raises(StorageError):
        asyncio.run(store.put("chunks/never", bytes(11_000_000)))
    kinds = {f"{r.method} {kind_of(r)}" for r in bucket.proxy.requests}
    assert kinds >= {
        "GET object",
        "GET list-type",
        "HEAD object",
        "PUT object",
        "PUT conditional",
        "PUT partNumber",
        "POST uploads",
        "POST uploadId",
        "DELETE uploadId",
        "POST delete",
    }
    unpaid = [str(r) for r in bucket.proxy.requests if r.headers.get("x-amz-request-payer") != "requester"]
    assert not unpaid
    assert ours.s3_store(requester_pays=True)._0.requester_pays


def kind_of(request: Request) -> str:
    if "If-Match" in request.headers or "If-None-Match" in request.headers:
        return "conditional"
    return re.split("[=&]", request.target.partition("?")[2])[0] or "object"


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_F067_proxies_from_the_environment(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    direct = {"endpoint_url": bucket.server}
    created(ours, bucket.storage())
    monkeypatch.setenv(variable, bucket.proxy.url)
    with bucket.proxy.recording() as seen:
        ours.Repository.open(bucket.storage(**direct))
    assert seen
    assert all(request.target.startswith(bucket.server) for request in seen), "in absolute form"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with bucket.proxy.recording() as seen:
        ours.Repository.open(bucket.storage(**direct))
    assert not seen


def test_F067_a_proxy_is_asked_to_connect_to_servers_with_tls(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tls, authority = tls_of_own_authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    with Tunnel(bucket.server, tls) as tunnel:
        monkeypatch.setenv("HTTPS_PROXY", tunnel.url)
        storage = bucket.storage(endpoint_url="https://127.0.0.1", allow_http=False)
        assert chunk(created(ours, storage))
    assert set(tunnel.asked) == {"CONNECT 127.0.0.1:443 HTTP/1.1"}
    assert chunk(ours.Repository.open(bucket.storage()))


def test_F069_ceph_needs_no_region(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    repo = created(ours, bucket.storage(region=None))
    assert chunk(repo)
    moved = [r.headers["If-Match"] for r in bucket.proxy.log("PUT", "refs/") if "If-Match" in r.headers]
    assert moved
    assert not [etag for etag in moved if '"' in etag]


def test_F070_where_the_bucket_stands(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(request: Request, _forward: Forward) -> Answer:
        return Answer(404, body=b"<Error><Code>NoSuchKey</Code></Error>")

    bucket.proxy.handle = nothing
    monkeypatch.setenv("HTTP_PROXY", bucket.proxy.url)
    endpoint = {"endpoint_url": "http://s3.example.test"}
    for given, place in (
        ({"force_path_style": True}, f"http://s3.example.test/{bucket.name}/repo/"),
        ({}, f"http://{bucket.name}.s3.example.test/repo/"),
        ({"make": "r2_storage"}, f"http://s3.example.test/{bucket.name}/repo/"),
        ({"bucket": "Not_a_Host_Name"}, "http://s3.example.test/Not_a_Host_Name/repo/"),
    ):
        with bucket.proxy.recording() as seen:
            assert not ours.Repository.exists(bucket.storage(**endpoint, **given))
        assert [request.target for request in seen] == [f"{place}refs/branch.main/ref.json"]
    assert ours.S3Options().force_path_style is False


def test_F071_tigris(bucket: Bucket) -> None:
    repo = created(ours, bucket.storage(make="tigris_storage", region="iad"))
    assert chunk(repo)
    for request in bucket.proxy.requests:
        assert request.headers["X-Tigris-Regions"] == "iad"
        assert request.headers["X-Tigris-Consistent"] == "true"
        if request.method in ("GET", "HEAD"):
            assert request.headers["Cache-Control"] == "no-cache"
    bucket.proxy.requests.clear()
    weak = bucket.storage(make="tigris_storage", region=None, use_weak_consistency=True)
    assert chunk(ours.Repository.open(weak))
    assert not [r for r in bucket.proxy.requests if any(name.lower().startswith("x-tigris") for name in r.headers)]
    with pytest.raises(ReadOnlyError, match="read-only"):
        ours.Repository.create(weak)
    read_only = ours.Repository.open(weak)
    tip, young = read_only.lookup_branch("main"), datetime.now(UTC) + timedelta(days=1)
    for change in (
        lambda: read_only.writable_session("main"),
        lambda: read_only.create_tag("t", tip),
        lambda: read_only.create_branch("b", tip),
        lambda: read_only.reset_branch("main", "1CECHNKREP0F1RSTCMT0"),
        lambda: read_only.expire_snapshots(young),
        read_only.save_config,
    ):
        with pytest.raises(ReadOnlyError, match="read-only"):
            change()
    assert not bucket.proxy.log("PUT")


@both
def test_F071_r2_and_tigris_say_what_is_missing(ic: Any) -> None:
    keys = {"access_key_id": "k", "secret_access_key": "s"}
    assert "https://t3.storage.dev" in repr(ic.tigris_storage(bucket="b", prefix=None, region="iad", **keys))
    with pytest.raises(IcechunkError if ic is ours else ic.IcechunkError, match="requires a region"):
        ic.tigris_storage(bucket="b", prefix=None, **keys)
    for host in ("t3.storage.dev", "fly.storage.tigris.dev"):
        with pytest.raises(ic.IcechunkError, match="Tigris Storage is not S3 compatible"):
            ic.s3_storage(bucket="b", prefix=None, endpoint_url=f"https://{host}", **keys)
    with pytest.raises(ic.IcechunkError, match="Either bucket or prefix must be provided"):
        ic.r2_storage(account_id="a", **keys) if ic is ours else ic.r2_storage(**keys)
    with pytest.raises(ic.IcechunkError, match="Either endpoint_url or account_id must be provided"):
        ic.r2_storage(prefix="b/p", **keys)
    shown = repr(ic.r2_storage(prefix="b/p/q", account_id="acc", **keys))
    assert "https://acc.r2.cloudflarestorage.com" in shown
    assert "auto" in shown


# -- clocks ----------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(("seconds", "refused"), [(3600, True), (-3600, True), (500, False), (-500, False)])
def test_F028_clock_drift(ic: Any, bucket: Bucket, seconds: int, refused: bool) -> None:
    repo = created(ic, bucket.storage(ic))

    async def shift(request: Request, forward: Forward) -> Answer:
        answer = await forward()
        if request.method == "HEAD" and "snapshots/" in request.target:
            time = parsedate_to_datetime(answer.headers["Last-Modified"]) + timedelta(seconds=seconds)
            answer.headers["Last-Modified"] = format_datetime(time, usegmt=True)
        return answer

    bucket.proxy.handle = shift
    before = repo.lookup_branch("main")
    session = repo.writable_session("main")
    put(session.store, "b/zarr.json", array_document((1,)))
    if not refused:
        assert repo.lookup_branch("main") == before != session.commit("c2")
        return
    with pytest.raises(ic.IcechunkError, match="clock"):
        session.commit("c2")
    with pytest.raises(ic.IcechunkError, match="clock"):
        session.flush("c2")
    assert repo.lookup_branch("main") == before
