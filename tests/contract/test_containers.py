"""What every kind of virtual chunk container has to do, whatever serves it: files, web servers, object stores.

S3 is moto's server, Google and Azure are emulators. The recorded requests are compared too. A new kind joins by a line
in `KINDS`.
"""

from __future__ import annotations

import asyncio
import os
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import boto3
import numpy as np
import obstore
import pytest
import zarr

import icechunk_virtual as icv
from icechunk_virtual.containers.authorize import Authorization
from icechunk_virtual.containers.checksums import ObjectState
from icechunk_virtual.containers.container import ObjectStoreConfig, VirtualChunkContainer, azure_store
from icechunk_virtual.containers.fetch import Fetcher
from icechunk_virtual.containers.local_source import file_etag
from icechunk_virtual.containers.url import check_location, local_path
from icechunk_virtual.errors import NotAuthorized, ObjectChanged, ScanError, VirtualReadError
from icechunk_virtual.model.chunk_refs import VirtualChunk
from icechunk_virtual.repo.obstore_store import Role
from icechunk_virtual.repo.remote_chunks import make_fetcher
from icechunk_virtual.repo.remote_places import container_place
from icechunk_virtual.repo.settings import EffectiveStorage
from icechunk_virtual.virtual import open_source
from tests.support import azurite, gcs_emulator
from tests.support.clouds import AzureContainer, Bucket, GoogleBucket
from tests.support.hierarchies import array_document, new_repository, put
from tests.support.object_server import ObjectServer
from tests.support.proxy import Answer, Forward, Proxy, Request

CONTENT = bytes(range(256)) * 4
NAMES = ("f", "a b", "\u00e9\u4e2d", "100%", "a%20b", "[x]{y}", "a+b&c~!'()*", "deep/er/f", "#?")
PARTS = icv.StorageConcurrencySettings(max_concurrent_requests_for_object=4, ideal_concurrent_request_size=100)


@dataclass
class Kind:
    """A container, what is granted to it, and a way to change its objects; `proxy`: which writes down the requests."""

    prefix: str
    store: Any
    granted: Any
    write: Callable[[str, bytes], None]
    proxy: Proxy | None = None

    def url(self, name: str) -> str:
        """Of an object: what means something else in a URL is escaped there."""
        return self.prefix + name.replace("%", "%25").replace("?", "%3F").replace("#", "%23")

    def authorization(self, *, granted: bool = True) -> Authorization:
        grants = icv.containers_credentials({self.prefix: self.granted}) if granted else {}
        return Authorization({self.prefix: VirtualChunkContainer(self.prefix, self.store)}, grants)

    def fetcher(self, **more: Any) -> Fetcher:
        retries = icv.StorageRetriesSettings(max_tries=2, initial_backoff_ms=1, max_backoff_ms=1)
        return make_fetcher(
            self.authorization(), icv.RepositoryConfig(storage=icv.StorageSettings(retries=retries, **more))
        )

    def read(self, name: str = "f", offset: int = 10, length: int = 20, **checksum: Any) -> bytes:
        chunk = VirtualChunk(self.url(name), offset, length, **checksum)
        return bytes(asyncio.run(self.fetcher().fetch(chunk)))

    def state(self, name: str = "f") -> ObjectState:
        """As the server says it with an answer."""
        location, authorization = check_location(self.url(name)), self.authorization()
        if location.scheme == "file":
            status = Path(local_path(location)).stat()
            return ObjectState(status.st_size, file_etag(status), int(status.st_mtime))
        client: Any = self.fetcher()._kinds[location.scheme](authorization)
        chunk = VirtualChunk(location.text, 0, 10)
        work = client.read_with_state(authorization.readable(location.text), location, chunk, 0, 10)
        data, state = asyncio.run(work)
        assert bytes(data) == CONTENT[:10]
        assert isinstance(state, ObjectState)
        return state

    def recording(self) -> AbstractContextManager[list[Request]]:
        return nullcontext([]) if self.proxy is None else self.proxy.recording()


def in_a_cloud(prefix: str, store: Any, granted: Any, proxy: Proxy) -> Kind:
    def write(name: str, data: bytes) -> None:
        grant = kind.authorization().readable(kind.url(name))
        location = check_location(kind.url(name))
        obstore.put(container_place(grant, location).clients(EffectiveStorage())(Role.WRITE), location.key, data)

    kind = Kind(prefix, store, granted, write, proxy)
    return kind


def files(tmp_path: Path) -> Kind:
    def write(name: str, data: bytes) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return Kind(f"{tmp_path.as_uri()}/", icv.local_filesystem_store(tmp_path), None, write)


def web(server: ObjectServer) -> Kind:
    def write(name: str, data: bytes) -> None:
        server.objects[f"/{name}"] = data

    return Kind(f"{server.url}/", icv.http_store({"allow_http": "true"}), None, write, server)


def s3(bucket: Bucket) -> Kind:
    options = icv.S3Options(
        region="us-east-1", endpoint_url=bucket.proxy.url, allow_http=True, force_path_style=True, requester_pays=True
    )
    granted = icv.s3_credentials(access_key_id="KEYID", secret_access_key="SECRET")
    return in_a_cloud(f"s3://{bucket.name}/", ObjectStoreConfig.S3Compatible(options), granted, bucket.proxy)


def tigris(bucket: Bucket) -> Kind:
    options = icv.S3Options(region="iad", endpoint_url=bucket.proxy.url, allow_http=True, force_path_style=True)
    granted = icv.s3_credentials(access_key_id="KEYID", secret_access_key="SECRET")
    return in_a_cloud(f"tigris://{bucket.name}/", ObjectStoreConfig.Tigris(options), granted, bucket.proxy)


def google(bucket: GoogleBucket, scheme: str) -> Kind:
    store = icv.gcs_store({"google_base_url": bucket.proxy.url, "allow_http": "true"})
    prefix = f"{scheme}://{gcs_emulator.BUCKET}/{bucket.prefix}/"
    return in_a_cloud(prefix, store, icv.gcs_credentials(bearer_token="TOKEN"), bucket.proxy)


def azure(container: AzureContainer, scheme: str) -> Kind:
    store = azure_store(account=azurite.ACCOUNT, config={"endpoint": container.endpoint, "allow_http": "true"})
    granted = icv.azure_credentials(access_key=azurite.KEY)
    return in_a_cloud(f"{scheme}://{container.name}/", store, granted, container.proxy)


KINDS: dict[str, tuple[str, Callable[[Any], Kind]]] = {
    "file": ("tmp_path", files),
    "http": ("server", web),
    "s3": ("bucket", s3),
    "tigris": ("bucket", tigris),
    "gs": ("google_bucket", lambda bucket: google(bucket, "gs")),
    "gcs": ("google_bucket", lambda bucket: google(bucket, "gcs")),
    "az": ("azure_container", lambda container: azure(container, "az")),
    "azure": ("azure_container", lambda container: azure(container, "azure")),
    "abfs": ("azure_container", lambda container: azure(container, "abfs")),
}


@pytest.fixture
def server() -> Any:
    with ObjectServer({}) as running:
        yield running


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kind:
    for variable in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "AZURE_"))]:
        monkeypatch.delenv(variable)
    fixture, make = KINDS[request.param]
    made = make(request.getfixturevalue(fixture))
    made.write("f", CONTENT)
    return made


def test_ranges(kind: Kind) -> None:
    with kind.recording() as seen:
        assert kind.read() == CONTENT[10:30]
        assert kind.read(offset=len(CONTENT) - 1, length=1) == CONTENT[-1:]
        assert kind.read(offset=0, length=len(CONTENT)) == CONTENT
    if kind.proxy is not None:
        assert [(r.method, r.range) for r in seen] == [
            ("GET", "bytes=10-29"),
            ("GET", f"bytes={len(CONTENT) - 1}-{len(CONTENT) - 1}"),
            ("GET", f"bytes=0-{len(CONTENT) - 1}"),
        ]


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str, kind: Kind) -> None:
    kind.write(name, CONTENT)
    with kind.recording() as seen:
        assert kind.read(name) == CONTENT[10:30]
    if kind.proxy is not None:
        (request,) = seen
        assert unquote(request.target.partition("?")[0]).endswith(f"/{name}")


def test_large_chunks_are_read_in_parts(kind: Kind) -> None:
    with kind.recording() as seen:
        data = asyncio.run(kind.fetcher(concurrency=PARTS).fetch(VirtualChunk(kind.url("f"), 24, 1000)))
    assert bytes(data) == CONTENT[24:1024]
    if kind.proxy is not None and not kind.prefix.startswith("http"):
        assert sorted(r.range for r in seen) == sorted(f"bytes={i}-{i + 249}" for i in range(24, 1024, 250))


def test_missing_objects_and_bytes(kind: Kind) -> None:
    with pytest.raises(VirtualReadError, match="there is no such") as caught:
        kind.read("missing")
    assert (caught.value.location, caught.value.prefix) == (kind.url("missing"), kind.prefix)
    for offset, length in ((len(CONTENT) - 10, 20), (len(CONTENT), 1), (len(CONTENT) + 100, 10)):
        with pytest.raises(VirtualReadError) as caught:
            kind.read(offset=offset, length=length)
        assert (caught.value.offset, caught.value.length) == (offset, length)


def test_states_hold_until_the_object_changes(kind: Kind) -> None:
    state = kind.state()
    assert state.size == len(CONTENT)
    assert state.etag
    assert state.last_modified
    checksums = [{"etag": state.etag}, {"last_modified": state.last_modified}, {"etag": "*"}]
    for checksum in checksums:
        assert kind.read(**checksum) == CONTENT[10:30]
    with pytest.raises(ObjectChanged) as caught:
        kind.read(etag='"another"')
    assert (caught.value.expected, caught.value.actual) == ('"another"', state.etag)
    with pytest.raises(ObjectChanged) as caught:
        kind.read(last_modified=state.last_modified - 1)
    assert (caught.value.expected, caught.value.actual) == (state.last_modified - 1, state.last_modified)


def test_a_new_object_under_an_old_name(kind: Kind) -> None:
    if kind.prefix.startswith("http"):
        pytest.skip("this server has one etag for everything")
    etag = kind.state().etag
    kind.write("f", CONTENT[::-1])
    with pytest.raises(ObjectChanged):
        kind.read(etag=etag)
    assert kind.read() == CONTENT[::-1][10:30]


def test_nothing_is_asked_for_without_a_grant(kind: Kind) -> None:
    fetcher = make_fetcher(kind.authorization(granted=False), icv.RepositoryConfig())
    with kind.recording() as seen, pytest.raises(NotAuthorized):
        asyncio.run(fetcher.fetch(VirtualChunk(kind.url("f"), 0, 10)))
    assert not seen


def test_copies_read_too(kind: Kind) -> None:
    copy = pickle.loads(pickle.dumps(kind.fetcher()))
    assert bytes(asyncio.run(copy.fetch(VirtualChunk(kind.url("f"), 0, 10)))) == CONTENT[:10]


def test_several_event_loops_share_a_fetcher(kind: Kind) -> None:
    fetcher = kind.fetcher()
    for _ in range(3):
        assert bytes(asyncio.run(fetcher.fetch(VirtualChunk(kind.url("f"), 5, 5)))) == CONTENT[5:10]


def test_what_is_scanned_is_what_is_read(kind: Kind) -> None:
    """The checksum is that of the answer that was scanned, and holds for reading until the object changes."""
    content = CONTENT * 100  # more than comes along with the first answer
    kind.write("f", content)
    containers = [VirtualChunkContainer(kind.prefix, kind.store)]
    with kind.recording() as seen:
        source = open_source(kind.url("f"), containers=containers, credentials={kind.prefix: kind.granted})
        spans = [(90_000, 10), (5, 5), (100_000, 1)]
        assert source.read_many(spans) == [content[start : start + length] for start, length in spans]
        source.check_unchanged()
    assert source.size == len(content)
    url, etag, last_modified = source.locations.row(0)
    assert (url, etag) == (kind.url("f"), kind.state().etag)
    assert kind.read(etag=etag) == kind.read(last_modified=last_modified) == CONTENT[10:30]
    if kind.proxy is not None:
        first, second = seen
        assert [(r.method, r.range) for r in seen] == [("GET", "bytes=0-65535"), ("GET", "bytes=90000-100000")]
        assert (first.headers.get("If-Match"), second.headers["If-Match"]) == (None, etag)
    kind.write("f", CONTENT * 99 + CONTENT[::-1])
    if isinstance(kind.proxy, ObjectServer):
        kind.proxy.etag = '"new"'

    def go_on() -> None:
        source.read(90_000, 10)
        source.check_unchanged()

    with pytest.raises(ScanError, match="changed while it was scanned") as caught:
        go_on()
    assert (caught.value.expected, caught.value.actual) == (etag, kind.state().etag)  # type: ignore[attr-defined]


def test_unverified(kind: Kind) -> None:
    kind.granted = icv.unverified(kind.granted)
    with kind.recording() as seen:
        assert kind.read(etag='"another"') == kind.read(last_modified=1) == CONTENT[10:30]
    assert all("If-Match" not in r.headers and "If-Unmodified-Since" not in r.headers for r in seen)
    assert len(seen) == (0 if kind.proxy is None else 2)


def test_through_zarr(kind: Kind) -> None:
    config = icv.RepositoryConfig()
    config.set_virtual_chunk_container(VirtualChunkContainer(kind.prefix, kind.store))
    grants = icv.containers_credentials({kind.prefix: kind.granted})
    session = new_repository(None, config, grants).writable_session("main")
    put(session.store, "zarr.json", array_document((1100,), (100,), fill_value=7))
    etag = kind.state().etag
    for i in range(10):
        session.store.set_virtual_ref(f"c/{i}", kind.url("f"), offset=100 * i, length=100, checksum=etag)
    session.store.set_virtual_ref("c/10", kind.url("missing"), offset=0, length=100)
    array = zarr.open_array(session.store, mode="r")
    np.testing.assert_array_equal(array[:1000], np.frombuffer(CONTENT[:1000], "u1"))
    with pytest.raises(VirtualReadError):
        array[:]


def test_who_asks_is_told(kind: Kind) -> None:
    """Requests are signed in the way of each service, and say who pays."""
    with kind.recording() as seen:
        kind.read()
    scheme = kind.prefix.partition(":")[0]
    start = {"s3": "AWS4-HMAC-SHA256 Credential=KEYID/", "tigris": "AWS4-HMAC-SHA256 Credential=KEYID/"}
    start |= dict.fromkeys(("gs", "gcs"), "Bearer TOKEN")
    start |= dict.fromkeys(("az", "azure", "abfs"), f"SharedKey {azurite.ACCOUNT}:")
    for request in seen:
        assert request.headers.get("Authorization", "").startswith(start.get(scheme, ""))
        assert (request.headers.get("x-amz-request-payer") == "requester") == (scheme == "s3")


FAILURES: dict[str, dict[str, Any]] = {
    "busy": {"status": 503},
    "broken": {"status": 500},
    "throttled": {"status": 429},
    "late": {"status": 408},
    "lost": {"lost": True},
    "cut": {"cut_after": 5},
    "stalled": {"stall_after": 5},
}


def failing(kind: Kind, times: int, **failure: Any) -> None:
    """Spoil the next answers to requests for an object."""
    assert kind.proxy is not None
    usual, left = kind.proxy.handle, [failure] * times

    async def handle(request: Request, forward: Forward) -> Answer:
        answer = await usual(request, forward)
        if left and request.range:
            vars(answer).update(left.pop())
        return answer

    kind.proxy.handle = handle


def impatient(kind: Kind) -> Kind:
    """Silence is not borne for a minute."""
    if isinstance(kind.store._0, icv.S3Options):
        kind.store._0.network_stream_timeout_seconds = 1
    else:
        kind.store._0["read_timeout"] = "1s"
    return kind


@pytest.mark.parametrize("failure", FAILURES)
def test_what_fails_in_passing_is_asked_for_again(failure: str, kind: Kind) -> None:
    if kind.proxy is None:
        pytest.skip("files are not asked for")
    failing(impatient(kind), 1, **FAILURES[failure])
    with kind.recording() as seen:
        assert kind.read() == CONTENT[10:30]
    assert [r.range for r in seen] == ["bytes=10-29"] * 2


@pytest.mark.parametrize("status", [401, 403, 404, 416, 500])
def test_what_fails_for_good_is_an_error(status: int, kind: Kind) -> None:
    if kind.proxy is None:
        pytest.skip("files are not asked for")
    failing(kind, 100, status=status, body=b"")
    with kind.recording() as seen, pytest.raises(VirtualReadError) as caught:
        kind.read()
    tries = 2 if status == 500 else 1
    assert (caught.value.status, caught.value.tries, caught.value.location) == (status, tries, kind.url("f"))
    assert len(seen) == tries


def make_public(kind: Kind) -> None:
    """Let anybody read an object of moto, as anybody may those of the emulators here."""
    assert kind.proxy is not None
    keys = {"aws_access_key_id": "KEYID", "aws_secret_access_key": "SECRET", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=kind.proxy.upstream, **keys)
    client.put_object_acl(Bucket=kind.prefix.split("/")[2], Key="f", ACL="public-read")


def test_anonymous_requests_are_not_signed(kind: Kind) -> None:
    scheme = kind.prefix.partition(":")[0]
    granted = {
        "s3": lambda: icv.s3_credentials(anonymous=True),
        "gs": lambda: icv.gcs_credentials(anonymous=True),
        "az": lambda: icv.azure_credentials(anonymous=True),
    }
    if scheme not in granted:
        pytest.skip("nothing is signed, or the same is tested under another name")
    kind.granted = granted[scheme]()
    if scheme == "s3":
        make_public(kind)
    with kind.recording() as seen:
        assert kind.read() == CONTENT[10:30]
    assert len(seen) == 1
    assert "Authorization" not in seen[0].headers
    assert "sig=" not in seen[0].target
