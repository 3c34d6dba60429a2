"""Virtual chunks on web servers and in object stores: what is asked for, by whom, and what goes wrong."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import pytest
from multidict import CIMultiDict
from zarr.core.buffer import default_buffer_prototype

import icechunk_virtual as icv
from icechunk_virtual.containers.authorize import Authorization
from icechunk_virtual.containers.container import ObjectStoreConfig, VirtualChunkContainer, azure_store
from icechunk_virtual.containers.fetch import Fetcher
from icechunk_virtual.containers.url import check_location
from icechunk_virtual.errors import ContainerError, ObjectChanged, VirtualReadError
from icechunk_virtual.model.chunk_refs import VirtualChunk
from icechunk_virtual.repo.remote_chunks import make_fetcher
from tests.support.clouds import KEYS, Bucket
from tests.support.containers import SCHEMES, credentials_for, prefix_of, store_of
from tests.support.hierarchies import array_document, put
from tests.support.object_server import MODIFIED, ObjectServer
from tests.support.proxy import Answer, Forward, Request

CONTENT = bytes(range(256))
NAMES = ("f", "a b", "\u00e9\u4e2d", "100%", "a%20b", "q?x#y", "[x]{y}", "a+b&c~!'()*", "deep/er/f")


def spelt(name: str) -> str:
    """As a URL has it: ``%`` says what follows, and `?` and `#` end the path of web addresses."""
    return name.replace("%", "%25").replace("?", "%3F").replace("#", "%23")


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    objects = {f"{root}/{name}": CONTENT for root in ("", "/bucket") for name in NAMES}
    with ObjectServer(objects) as running:
        yield running


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


def fetcher_for(scheme: str, server: ObjectServer, granted: Any = None, **more: Any) -> tuple[Fetcher, str]:
    """A fetcher, and the prefix of its one container."""
    prefix = prefix_of(scheme, server.url)
    grants = icv.containers_credentials({prefix: granted or credentials_for(scheme)})
    container = VirtualChunkContainer(prefix, store_of(scheme, server.url, **more))
    config = icv.RepositoryConfig(storage=icv.StorageSettings(retries=icv.StorageRetriesSettings(max_tries=1)))
    return make_fetcher(Authorization({prefix: container}, grants), config), prefix


def fetch(fetcher: Fetcher, url: str, offset: int = 10, length: int = 20, **checksum: Any) -> bytes:
    return asyncio.run(fetcher.fetch(VirtualChunk(url, offset, length, **checksum)))


everywhere = pytest.mark.parametrize("scheme", SCHEMES)


@everywhere
def test_ranges_of_objects_of_any_name(scheme: str, server: ObjectServer) -> None:
    fetcher, prefix = fetcher_for(scheme, server)
    for name in NAMES:
        with server.recording() as seen:
            assert fetch(fetcher, prefix + spelt(name)) == CONTENT[10:30]
        (request,) = seen
        assert (request.method, request.headers["Range"]) == ("GET", "bytes=10-29")


@everywhere
def test_checksums_are_conditions(scheme: str, server: ObjectServer) -> None:
    fetcher, prefix = fetcher_for(scheme, server)
    url = prefix + "f"
    for checksum in ({"etag": '"e"'}, {"etag": "e"}, {"etag": 'W/"e"'}, {"etag": "*"}, {"last_modified": MODIFIED}):
        assert fetch(fetcher, url, **checksum) == CONTENT[10:30]
    with server.recording() as seen, pytest.raises(ObjectChanged, match=r'its etag is "e", .* expects old') as caught:
        fetch(fetcher, url, etag="old")
    assert [(r.method, r.range, r.headers.get("If-Match")) for r in seen] == [
        ("GET", "bytes=10-29", '"old"'),
        ("GET", "bytes=0-0", None),  # what is there instead
    ]
    assert (caught.value.expected, caught.value.actual) == ("old", '"e"')
    with server.recording() as seen, pytest.raises(ObjectChanged, match=f"modified at {MODIFIED} s") as caught:
        fetch(fetcher, url, last_modified=MODIFIED - 1)
    assert seen[0].headers["If-Unmodified-Since"] == "Tue, 14 Nov 2023 22:13:19 GMT"
    assert (caught.value.expected, caught.value.actual) == (MODIFIED - 1, MODIFIED)
    with pytest.raises(ObjectChanged, match='its etag is "e"'):
        fetch(fetcher, url, etag='W/"old"')


def test_servers_that_ignore_conditions() -> None:
    with ObjectServer({"/f": CONTENT}, deaf=True) as server:
        fetcher, prefix = fetcher_for("http", server)
        assert fetch(fetcher, prefix + "f", etag="e") == CONTENT[10:30]
        with pytest.raises(ObjectChanged, match='its etag is "e", the reference expects old'):
            fetch(fetcher, prefix + "f", etag="old")
        with pytest.raises(ObjectChanged, match=f"modified at {MODIFIED} s"):
            fetch(fetcher, prefix + "f", last_modified=MODIFIED - 1)


def test_servers_that_compare_in_their_own_way(server: ObjectServer) -> None:
    async def stubborn(request: Request, forward: Forward) -> Answer:
        return Answer(412) if "If-Match" in request.headers else await server.serve_object(request, forward)

    fetcher, prefix = fetcher_for("http", server)
    server.handle = stubborn
    try:
        assert fetch(fetcher, prefix + "f", etag='"e"') == CONTENT[10:30]
        with pytest.raises(ObjectChanged, match=r'its etag is "e", .* expects old'):
            fetch(fetcher, prefix + "f", offset=300, etag="old")  # the new object is shorter
    finally:
        server.reset()


@everywhere
def test_failures_are_never_bytes(scheme: str, server: ObjectServer) -> None:
    fetcher, prefix = fetcher_for(scheme, server)
    with pytest.raises(VirtualReadError, match="there is no such object") as caught:
        fetch(fetcher, prefix + "missing")
    assert (caught.value.location, caught.value.prefix) == (prefix + "missing", prefix)
    with pytest.raises(VirtualReadError, match=r"Expected: \(20\), available \(6\)"):
        fetch(fetcher, prefix + "f", offset=250)
    with pytest.raises(VirtualReadError):
        fetch(fetcher, prefix + "f", offset=300)
    for odd in ("a//b", "/f", "f/"):  # f is there, but they are not f
        with pytest.raises(VirtualReadError, match=r"there is no such object|empty path segment"):
            fetch(fetcher, prefix + odd)


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_refusals_and_broken_servers(status: int) -> None:
    with ObjectServer({}) as server:

        async def refuse(*_: Any) -> Answer:
            return Answer(status)

        server.handle = refuse
        fetcher, prefix = fetcher_for("http", server)
        with pytest.raises(VirtualReadError, match=rf"bytes at offset 10.*{prefix}.*{status}"):
            fetch(fetcher, prefix + "f")


def test_servers_that_ignore_ranges() -> None:
    with ObjectServer({}) as server:

        async def everything(*_: Any) -> Answer:
            return Answer(
                200, CIMultiDict({"ETag": '"e"', "Last-Modified": formatdate(MODIFIED, usegmt=True)}), CONTENT
            )

        server.handle = everything
        fetcher, prefix = fetcher_for("http", server)
        assert fetch(fetcher, prefix + "f") == CONTENT[10:30]


def test_ports_and_queries_are_kept(server: ObjectServer) -> None:
    fetcher, prefix = fetcher_for("http", server)
    with server.recording() as seen:
        assert fetch(fetcher, prefix + "a%20b?sig=x%2Fy&v=1#part") == CONTENT[10:30]
        assert fetch(fetcher, prefix + "q%3Fx%23y?v=2") == CONTENT[10:30]
        assert fetch(fetcher, prefix + "100%25?v=%25") == CONTENT[10:30]
    assert [request.target for request in seen] == ["/a%20b?sig=x%2Fy&v=1", "/q%3Fx%23y?v=2", "/100%25?v=%25"]


def test_plain_http_must_be_allowed(server: ObjectServer) -> None:
    prefix = server.url + "/"
    container = VirtualChunkContainer(prefix, icv.http_store())
    fetcher = make_fetcher(Authorization({prefix: container}, {prefix: None}), icv.RepositoryConfig())
    with pytest.raises(ContainerError, match="URL scheme is not allowed"):
        fetch(fetcher, prefix + "f")


def test_options_of_web_servers(server: ObjectServer, caplog: pytest.LogCaptureFixture) -> None:
    prefix = server.url + "/"

    def fetcher_with(**options: str) -> Fetcher:
        container = VirtualChunkContainer(prefix, icv.http_store({"allow_http": "true", **options}))
        return make_fetcher(Authorization({prefix: container}, {prefix: None}), icv.RepositoryConfig())

    with server.recording() as seen:
        assert fetch(fetcher_with(user_agent="me", no_such_option="1"), prefix + "f") == CONTENT[10:30]
    assert seen[0].headers["User-Agent"] == "me"
    assert "nobody knows are ignored: ['no_such_option']" in caplog.text
    with pytest.raises(ContainerError, match=r"cannot be opened.*Duration"):
        fetch(fetcher_with(timeout="bad"), prefix + "f")


STATIC = icv.s3_static_credentials(access_key_id="of-the-user", secret_access_key="s", session_token="t")


@pytest.mark.parametrize(
    ("granted", "options", "signed"),
    [
        (None, {}, "of-the-environment"),
        (icv.s3_from_env_credentials(), {}, "of-the-environment"),
        (STATIC, {}, "of-the-user"),
        (icv.s3_anonymous_credentials(), {}, None),
        (None, {"anonymous": True}, None),
    ],
)
def test_B06_who_signs_requests_to_s3(granted: Any, options: dict[str, Any], signed: str | None, server: Any) -> None:
    fetcher, prefix = fetcher_for("s3", server, granted, **options)
    with server.recording() as seen:
        fetch(pickle.loads(pickle.dumps(fetcher)), prefix + "f")
    authorization = seen[0].headers.get("Authorization")
    assert (authorization is None) if signed is None else f"Credential={signed}/" in authorization
    assert (seen[0].headers.get("X-Amz-Security-Token") == "t") == (signed == "of-the-user")


@pytest.mark.parametrize(
    ("granted", "token"),
    [
        (None, None),
        (icv.credentials.gcs_anonymous_credentials(), None),
        (icv.gcs_credentials(bearer_token="tok"), "Bearer tok"),
    ],
)
def test_B06_who_signs_requests_to_google(granted: Any, token: str | None, server: Any) -> None:
    fetcher, prefix = fetcher_for("gs", server, granted)
    with server.recording() as seen:
        fetch(fetcher, prefix + "f")
    assert seen[0].headers.get("Authorization") == token


def test_azure(server: ObjectServer) -> None:
    fetcher, prefix = fetcher_for("az", server, icv.azure_credentials(sas_token="sv=1&sig=abc"))
    with server.recording() as seen:
        fetch(fetcher, prefix + "f")
    assert "sig=abc" in seen[0].target
    fetcher, prefix = fetcher_for("az", server)
    with server.recording() as seen:
        fetch(fetcher, prefix + "f")
    assert seen[0].headers["Authorization"].startswith("SharedKey me:")


@pytest.mark.parametrize(
    ("prefix", "option"),
    [
        ("gs://bucket/", {"skip_signature": "false"}),  # would sign what was granted as unsigned
        ("gs://bucket/", {"Google_Skip_Signature": "FALSE"}),
        ("gs://bucket/", {"google_service_account": "/key.json"}),
        ("gs://bucket/", {"google_application_credentials": "/key.json"}),
        ("gs://bucket/", {"google_bucket": "other"}),
        ("az://bucket/", {"azure_federated_token_file": "/etc/passwd"}),  # would be sent to the authority
        ("az://bucket/", {"azure_authority_host": "http://evil"}),
        ("az://bucket/", {"azure_storage_authority_host": "http://evil"}),
        ("az://bucket/", {"msi_endpoint": "http://evil"}),
        ("az://bucket/", {"container_name": "other"}),
    ],
)
def test_options_of_a_foreign_repository_cannot_misuse_credentials(
    prefix: str, option: dict[str, str], server: ObjectServer
) -> None:
    options = {"allow_http": "true"} | option
    if prefix.startswith("gs:"):
        store, granted = icv.gcs_store({"google_base_url": server.url} | options), None
    else:
        store, granted = azure_store(account="me", config={"endpoint": server.url} | options), icv.azure_credentials()
    grants = icv.containers_credentials({prefix: granted})
    fetcher = make_fetcher(
        Authorization({prefix: VirtualChunkContainer(prefix, store)}, grants), icv.RepositoryConfig()
    )
    with server.recording() as seen, pytest.raises(ContainerError, match=r"of a container (is not used|can only be)"):
        fetch(fetcher, prefix + "f")
    assert not seen


def test_B26_settings_of_the_storage_reach_virtual_chunks(server: ObjectServer) -> None:
    prefix = server.url + "/"
    container = VirtualChunkContainer(prefix, store_of("http", ""))
    parts = icv.StorageConcurrencySettings(max_concurrent_requests_for_object=4, ideal_concurrent_request_size=8)
    config = icv.RepositoryConfig(storage=icv.StorageSettings(concurrency=parts))
    fetcher = make_fetcher(Authorization({prefix: container}, {prefix: None}), config)
    with server.recording() as seen:
        assert fetch(fetcher, prefix + "f") == CONTENT[10:30]
    ranges = sorted(request.headers["Range"] for request in seen)
    assert ranges == ["bytes=10-16", "bytes=17-23", "bytes=24-29"]


def test_tries_are_those_of_the_storage_settings() -> None:
    with ObjectServer({}) as server:

        async def busy(*_: Any) -> Answer:
            return Answer(503)

        server.handle = busy
        prefix = server.url + "/"
        container = VirtualChunkContainer(prefix, store_of("http", ""))
        retries = icv.StorageRetriesSettings(max_tries=3, initial_backoff_ms=1, max_backoff_ms=1)
        config = icv.RepositoryConfig(storage=icv.StorageSettings(retries=retries))
        fetcher = make_fetcher(Authorization({prefix: container}, {prefix: None}), config)
        with pytest.raises(VirtualReadError):
            fetch(fetcher, prefix + "f")
        assert len(server.requests) == 3


def test_a_store_is_opened_once(server: ObjectServer) -> None:
    fetcher, prefix = fetcher_for("s3", server)
    client = fetcher._kinds["s3"](fetcher.authorization)
    for name in ("f", "deep/er/f", "f"):
        chunk, url = VirtualChunk(prefix + name, 10, 20), prefix + name
        asyncio.run(client.read(fetcher.authorization.readable(url), check_location(url), chunk, 10, 20))
    assert len(client._stores) == 1  # type: ignore[attr-defined]


def test_one_bound_for_native_and_virtual_reads(bucket: Bucket) -> None:
    """`max_concurrent_requests` counts what the servers see, whoever asks."""
    now, most = 0, 0

    async def count(request: Request, forward: Forward) -> Answer:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        answer = await forward()
        now -= 1
        return answer

    prefix = f"s3://{bucket.name}/foreign/"
    options = icv.S3Options(region="us-east-1", endpoint_url=bucket.proxy.url, allow_http=True, force_path_style=True)
    config = icv.RepositoryConfig(inline_chunk_threshold_bytes=0, max_concurrent_requests=3)
    config.set_virtual_chunk_container(VirtualChunkContainer(prefix, ObjectStoreConfig.S3Compatible(options)))
    granted = icv.containers_credentials({prefix: icv.s3_credentials(**KEYS)})
    for name in range(10):
        asyncio.run(bucket.storage(prefix="foreign").object_store().put(str(name), b"v" * 10))
    repo = icv.Repository.create(bucket.storage(), config, granted)
    session = repo.writable_session("main")
    put(session.store, "a/zarr.json", array_document((200,), (10,)))
    for i in range(10):
        put(session.store, f"a/c/{i}", b"n" * 10)
        session.store.set_virtual_ref(f"a/c/{i + 10}", f"{prefix}{i}", offset=0, length=10)
    session.commit("native and virtual")
    store = icv.Repository.open(bucket.storage(), authorize_virtual_chunk_access=granted).readonly_session("main").store

    async def all_chunks(store: Any) -> list[bytes]:
        found = await asyncio.gather(*(store.get(f"a/c/{i}", default_buffer_prototype()) for i in range(20)))
        return [value.to_bytes() for value in found]

    for reader in (store, pickle.loads(pickle.dumps(store))):
        bucket.proxy.handle, most = count, 0
        assert asyncio.run(all_chunks(reader)) == [b"n" * 10] * 10 + [b"v" * 10] * 10
        assert most == 3
