"""Rows of the feature table about virtual chunks (F084 to F095), side by side with the original where it is right."""

from __future__ import annotations

import asyncio
import json
import os
import urllib.request
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import icechunk
import icechunk.storage
import pytest

import icechunk_virtual as ours
import icechunk_virtual.storage
from icechunk_virtual.containers.url import file_url
from tests.support.clouds import Bucket
from tests.support.engines import get, put
from tests.support.hierarchies import GROUP, array_document
from tests.support.object_server import ObjectServer

both = pytest.mark.parametrize("ic", [ours, icechunk], ids=["ours", "original"])
CONTENT = bytes(range(100))


def folder_with_file(path: Path, name: str = "f") -> str:
    """Makes a folder with a file of 100 different bytes; the folder's URL, with its final slash."""
    path.mkdir(parents=True, exist_ok=True)
    (path / name).write_bytes(CONTENT)
    return f"file://{path}/"


def config_for(ic: Any, prefixes: Iterable[str]) -> Any:
    config = ic.RepositoryConfig()
    for prefix in prefixes:
        config.set_virtual_chunk_container(ic.VirtualChunkContainer(prefix, ic.local_filesystem_store("/")))
    return config


def make(ic: Any, storage: Any, prefixes: Iterable[str], granted: Any = None) -> Any:
    """A repository with an array `v` of eight chunks of ten bytes, and containers for files."""
    repo = ic.Repository.create(storage, config_for(ic, prefixes), granted)
    session = repo.writable_session("main")
    put(session.store, "zarr.json", GROUP)
    put(session.store, "v/zarr.json", array_document((80,), (10,)))
    session.commit("array")
    return repo


def with_refs(repo: Any, *locations: str) -> Any:
    """A writable session in which the chunks of `v`, from the first on, are bytes 10 to 19 of the locations."""
    session = repo.writable_session("main")
    for i, location in enumerate(locations):
        session.store.set_virtual_ref(f"v/c/{i}", location, offset=10, length=10)
    return session


@both
def test_F084_the_longest_prefix_serves(ic: Any, tmp_path: Path) -> None:
    outer, inner = folder_with_file(tmp_path / "d"), folder_with_file(tmp_path / "d" / "e")
    repo = make(ic, ic.in_memory_storage(), [outer, inner], {outer: None})
    assert set(repo.config.virtual_chunk_containers) == {outer, inner}
    container = repo.config.get_virtual_chunk_container(inner)
    assert (container.url_prefix, container.name) == (inner, None)
    store = with_refs(repo, outer + "f", inner + "f").store
    assert get(store, "v/c/0") == CONTENT[10:20]
    with pytest.raises(ic.IcechunkError, match=r"/d/e/.*authorize"):
        get(store, "v/c/1")
    cleared = repo.config
    cleared.clear_virtual_chunk_containers()
    assert not cleared.virtual_chunk_containers
    wrong = ic.VirtualChunkContainer("s3://bucket/", ic.http_store())  # judged when it is set, not when it is made
    with pytest.raises(ValueError, match="Invalid url prefix scheme"):
        cleared.set_virtual_chunk_container(wrong)


@both
def test_F085_prefixes_end_with_a_slash(ic: Any, tmp_path: Path) -> None:
    config = ic.RepositoryConfig()
    refused = [
        ("s3://b", ic.s3_store(), "must end in a / character"),
        ("s3:///", ic.s3_store(), "must include a host"),
        ("file:///", ic.local_filesystem_store("/"), "must include a path"),
        ("gs://b/", ic.s3_store(), "Invalid url prefix scheme"),
        ("no-url/", ic.s3_store(), "relative URL without a base"),
    ]
    for prefix, store, reason in refused:
        with pytest.raises(ValueError, match=reason):
            config.set_virtual_chunk_container(ic.VirtualChunkContainer(prefix, store))
    prefix = folder_with_file(tmp_path / "d")
    repo = make(ic, ic.in_memory_storage(), [prefix], {prefix.rstrip("/"): None})
    assert get(with_refs(repo, prefix + "f").store, "v/c/0") == CONTENT[10:20]


@pytest.mark.parametrize("prefix", ["file:///a/../b/", "file:///a/./b/", "s3://b/%2E%2E/c/"])
def test_F085_segments_that_climb_are_refused(prefix: str) -> None:
    """The original takes them, and they match nothing."""
    store = ours.s3_store() if prefix.startswith("s3") else ours.local_filesystem_store("/")
    with pytest.raises(ValueError, match=r"`\.` and `\.\.` segments"):
        ours.RepositoryConfig().set_virtual_chunk_container(ours.VirtualChunkContainer(prefix, store))


@pytest.mark.parametrize("writer", [ours, icechunk], ids=["ours", "original"])
def test_F085_old_configurations_get_their_slash(writer: Any, tmp_path: Path) -> None:
    prefix = folder_with_file(tmp_path / "d")
    session = with_refs(make(writer, writer.local_filesystem_storage(str(tmp_path / "r")), [prefix]), prefix + "f")
    session.commit("reference")
    file = tmp_path / "r" / "config.yaml"
    file.write_text(file.read_text().replace(prefix, prefix.rstrip("/")))
    repo = ours.Repository.open(ours.local_filesystem_storage(tmp_path / "r"), None, {prefix.rstrip("/"): None})
    assert get(repo.readonly_session("main").store, "v/c/0") == CONTENT[10:20]


@both
def test_F086_only_what_the_opener_authorises_is_read(ic: Any, tmp_path: Path) -> None:
    prefix, other = folder_with_file(tmp_path / "d"), folder_with_file(tmp_path / "e")
    storage = ic.local_filesystem_storage(str(tmp_path / "r"))
    with_refs(make(ic, storage, [prefix, other]), prefix + "f", other + "f").commit("references")

    def reads(repo: Any, chunk: int = 0) -> bool:
        try:
            return get(repo.readonly_session("main").store, f"v/c/{chunk}") == CONTENT[10:20]
        except ic.IcechunkError as error:
            refused = str(error).replace("\n", "")
        assert "authorize" in refused
        assert (prefix, other)[chunk] in refused
        return False

    closed = ic.Repository.open(storage)
    opened = ic.Repository.open(storage, authorize_virtual_chunk_access={prefix: None})
    either = ic.Repository.open_or_create(storage, authorize_virtual_chunk_access={prefix: None})
    assert [reads(closed), reads(opened), reads(either), reads(opened, 1)] == [False, True, True, False]
    assert reads(closed.reopen(authorize_virtual_chunk_access={prefix: None}))
    assert reads(opened.reopen()), "kept"
    assert not reads(opened.reopen(authorize_virtual_chunk_access={})), "revoked"
    key = ic.s3_static_credentials(access_key_id="k", secret_access_key="s")
    with pytest.raises(ic.IcechunkError, match="credentials"):
        ic.Repository.open(storage, None, ic.containers_credentials({prefix: key}))
    with pytest.raises(TypeError, match="object cannot be cast"):
        ic.Repository.open(storage, None, {prefix: ic.s3_from_env_credentials()})


def test_F086_locations_that_climb_match_nothing(tmp_path: Path) -> None:
    prefix = folder_with_file(tmp_path / "d")
    folder_with_file(tmp_path / "secret")
    store = make(ours, ours.in_memory_storage(), [prefix], {prefix: None}).writable_session("main").store
    for rest in ("../secret/f", "x/../../secret/f", "%2e%2e/secret/f", "..%2Fsecret/f", ".%2e/secret/f"):
        with pytest.raises(ours.IcechunkError, match="invalid chunk location"):
            store.set_virtual_ref("v/c/0", prefix + rest, offset=0, length=1)
    with pytest.raises(ours.IcechunkError, match="no matching virtual chunk container"):
        store.set_virtual_ref("v/c/0", prefix.rstrip("/") + "ecoy/f", offset=0, length=1)


@both
def test_F087_authorised_prefixes_are_shown(ic: Any, tmp_path: Path) -> None:
    one, two = folder_with_file(tmp_path / "d"), folder_with_file(tmp_path / "e")
    repo = make(ic, ic.in_memory_storage(), [one, two], {one: None})
    assert repo.authorized_virtual_container_prefixes == {one}
    assert repo.reopen(None, {one.rstrip("/"): None}).authorized_virtual_container_prefixes == {one.rstrip("/")}
    both_granted = repo.reopen(authorize_virtual_chunk_access={one: None, two: None})
    assert both_granted.authorized_virtual_container_prefixes == {one, two}
    assert make(ic, ic.in_memory_storage(), [one]).authorized_virtual_container_prefixes == set()


@both
def test_F088_references_are_checked_against_containers(ic: Any, tmp_path: Path) -> None:
    prefix = folder_with_file(tmp_path / "d")
    store = make(ic, ic.in_memory_storage(), [prefix], {prefix: None}).writable_session("main").store
    with pytest.raises(ic.IcechunkError, match="invalid chunk location, no matching virtual chunk container"):
        store.set_virtual_ref("v/c/0", "s3://other/x", offset=0, length=8)
    store.set_virtual_ref("v/c/0", "s3://other/x", offset=0, length=8, validate_container=False)
    with pytest.raises(ic.IcechunkError, match="edit the repository configuration"):
        get(store, "v/c/0")

    spec = ic.VirtualChunkSpec
    specs = [spec([1], prefix + "f", 10, 10), spec([2], "s3://other/x", 0, 10), spec([3], "s3://other/y", 0, 10)]
    assert store.set_virtual_refs("/v", specs) == [(2,), (3,)]
    assert get(store, "v/c/1") == CONTENT[10:20]
    assert get(store, "v/c/2") is None
    assert store.set_virtual_refs("v", specs[:1]) is None
    assert store.set_virtual_refs("v", specs, validate_containers=False) is None
    assert sorted(store.session.all_virtual_chunk_locations()) == [
        prefix + "f", "s3://other/x", "s3://other/x", "s3://other/y"
    ]  # fmt: skip


@both
@pytest.mark.parametrize("location", ["", "notaurl", "/abs/path", "s3://b", "s3:///k"])
def test_F089_locations_are_absolute_urls(ic: Any, location: str, tmp_path: Path) -> None:
    prefix = folder_with_file(tmp_path / "d")
    store = make(ic, ic.in_memory_storage(), [prefix]).writable_session("main").store
    with pytest.raises(ic.IcechunkError, match=r"error parsing|no path segments"):
        store.set_virtual_ref("v/c/0", location, offset=0, length=1, validate_container=False)
    with pytest.raises(ic.IcechunkError, match=r"error parsing|no path segments"):
        store.set_virtual_refs("v", [ic.VirtualChunkSpec([0], location, 0, 1)], validate_containers=False)


@both
def test_F089_unknown_schemes_fail_at_read(ic: Any, tmp_path: Path) -> None:
    prefix = folder_with_file(tmp_path / "d")
    store = make(ic, ic.in_memory_storage(), [prefix]).writable_session("main").store
    store.set_virtual_ref("v/c/0", "gopher://host/f", offset=0, length=1, validate_container=False)
    with pytest.raises(ic.IcechunkError, match="edit the repository configuration"):
        get(store, "v/c/0")


@pytest.mark.parametrize("name", ["a b", "\u00e9\u4e2d", "100%", "a%20b", "q?x=1#y", "[x]{y}", "a+b&c"])
def test_F089_B01_files_of_any_name_are_found(name: str, tmp_path: Path) -> None:
    """The original escapes the name of the file, and does not find it."""
    prefix = folder_with_file(tmp_path / "d", name)
    repo = make(ours, ours.in_memory_storage(), [prefix], {prefix: None})
    url = file_url(tmp_path / "d" / name)
    session = with_refs(repo, url, *([prefix + name] if "%" not in name else []))
    assert get(session.store, "v/c/0") == CONTENT[10:20]
    if "%" not in name:
        assert get(session.store, "v/c/1") == CONTENT[10:20]
    assert url in session.all_virtual_chunk_locations(), "the text is kept as it was given"


@both
def test_F090_many_references_at_once(ic: Any, tmp_path: Path) -> None:
    prefix = folder_with_file(tmp_path / "d")
    repo = ic.Repository.create(ic.in_memory_storage(), config_for(ic, [prefix]), {prefix: None})
    session = repo.writable_session("main")
    put(session.store, "zarr.json", GROUP)
    put(session.store, "v/zarr.json", array_document((10_000,)))
    specs = [ic.VirtualChunkSpec([i], prefix + "f", i % 100, 1) for i in range(10_000)]
    session.store.set_virtual_refs("/v", specs[:5000])
    asyncio.run(session.store.set_virtual_refs_async("v", specs[5000:]))
    assert len(session.all_virtual_chunk_locations()) == 10_000
    session.commit("references")
    store = repo.readonly_session("main").store
    assert [get(store, f"v/c/{i}") for i in (0, 99, 9_999)] == [CONTENT[:1], CONTENT[99:], CONTENT[99:]]

    store = repo.writable_session("main").store
    with pytest.raises(KeyError):
        store.set_virtual_refs("/nowhere", specs[:1])
    with pytest.raises(ic.IcechunkError, match="invalid chunk index"):
        store.set_virtual_refs("v", [ic.VirtualChunkSpec([10_000], prefix + "f", 0, 1)])
    spec = ic.VirtualChunkSpec([1], "s3://b/k", 2, 3, "etag", None)
    assert (spec.index, spec.location, spec.offset, spec.length, spec.etag_checksum) == ([1], "s3://b/k", 2, 3, "etag")
    if ic is ours:  # the original stores it
        with pytest.raises(ic.IcechunkError, match="invalid chunk index"):
            store.set_virtual_refs("v", [ic.VirtualChunkSpec([0, 0], prefix + "f", 0, 1)])


@both
def test_F091_references_are_pinned_to_a_state(ic: Any, tmp_path: Path) -> None:
    prefix = folder_with_file(tmp_path / "d")
    os.utime(tmp_path / "d" / "f", (1_700_000_000, 1_700_000_000))
    modified = datetime.fromtimestamp(1_700_000_000, UTC)
    status = (tmp_path / "d" / "f").stat()
    etag = f"{status.st_ino:x}-{status.st_mtime_ns // 1000:x}-{status.st_size:x}"
    store = make(ic, ic.in_memory_storage(), [prefix], {prefix: None}).writable_session("main").store
    url, second = prefix + "f", timedelta(seconds=1)
    for i, (checksum, fits) in enumerate(
        [(modified, True), (modified + second, True), (modified - second, False), (etag, True), ("other", False)]
    ):
        store.set_virtual_ref(f"v/c/{i}", url, offset=10, length=10, checksum=checksum)
        if fits:
            assert get(store, f"v/c/{i}") == CONTENT[10:20]
        else:
            with pytest.raises(ic.IcechunkError, match=r"the checksum .* has changed"):
                get(store, f"v/c/{i}")
    with pytest.raises(TypeError):
        store.set_virtual_ref("v/c/5", url, offset=10, length=10, checksum=17)
    both_given = [ic.VirtualChunkSpec([6], url, 10, 10, etag, modified - second)]
    store.set_virtual_refs("v", both_given)
    assert get(store, "v/c/6") == CONTENT[10:20], "the etag decides"


@both
def test_F092_locations_are_listed(ic: Any, tmp_path: Path) -> None:
    one, two = folder_with_file(tmp_path / "d"), folder_with_file(tmp_path / "e")
    repo = make(ic, ic.in_memory_storage(), [one, two])
    with_refs(repo, one + "f", two + "f").commit("committed")
    session = repo.writable_session("main")
    for i in (2, 3):
        session.store.set_virtual_ref(f"v/c/{i}", one + "f", offset=0, length=10)
    expected = [one + "f"] * 3 + [two + "f"]
    assert sorted(session.all_virtual_chunk_locations()) == expected
    assert sorted(asyncio.run(session.all_virtual_chunk_locations_async())) == expected


def remote(ic: Any, prefix: str, store: Any, granted: Any) -> Any:
    """A store whose chunks `v/c/0` and `v/c/1` are bytes of the objects `f` and `missing` below a prefix."""
    config = ic.RepositoryConfig()
    config.set_virtual_chunk_container(ic.VirtualChunkContainer(prefix, store))
    repo = ic.Repository.create(ic.in_memory_storage(), config, ic.containers_credentials({prefix: granted}))
    session = repo.writable_session("main")
    put(session.store, "zarr.json", GROUP)
    put(session.store, "v/zarr.json", array_document((80,), (10,)))
    for i, name in enumerate(("f", "missing")):
        session.store.set_virtual_ref(f"v/c/{i}", prefix + name, offset=10, length=10)
    session.commit("references")
    return repo.readonly_session("main").store


def check_remote(ic: Any, prefix: str, store: Any, granted: Any = None) -> None:
    """What is there is read, and what is not is an error, never a fill value."""
    found = remote(ic, prefix, store, granted)
    assert get(found, "v/c/0") == CONTENT[10:20]
    with pytest.raises(ic.IcechunkError, match="error fetching virtual reference"):
        get(found, "v/c/1")


def put_object(url: str, data: bytes) -> None:
    headers = {"Content-Type": "application/octet-stream", "x-amz-acl": "public-read"}
    request = urllib.request.Request(url, data, headers, method="PUT")
    with urllib.request.urlopen(request, timeout=30):
        pass


@both
def test_F086_B06_chunks_on_s3_with_the_credentials_of_the_opener(ic: Any, bucket: Bucket) -> None:
    put_object(f"{bucket.server}/{bucket.name}/d/f", CONTENT)
    store = ic.s3_store(region="us-east-1", endpoint_url=bucket.proxy.url, allow_http=True, force_path_style=True)
    prefix = f"s3://{bucket.name}/d/"
    with bucket.proxy.recording() as seen:
        key = ic.s3_credentials(access_key_id="KEYID", secret_access_key="SECRET")
        check_remote(ic, prefix, store, key)
    assert {"Credential=KEYID/" in request.headers["Authorization"] for request in seen} == {True}
    with bucket.proxy.recording() as seen:
        check_remote(ic, prefix, store, ic.s3_anonymous_credentials())
    assert {"Authorization" in request.headers for request in seen} == {False}


@pytest.fixture
def server() -> Iterator[ObjectServer]:
    with ObjectServer({"/d/f": CONTENT, "/bucket/d/f": CONTENT}) as running:
        yield running


def test_F093_chunks_on_web_servers(server: ObjectServer) -> None:
    """On any port: the original asks port 80."""
    prefix = f"{server.url}/d/"
    with server.recording() as seen:
        check_remote(ours, prefix, ours.http_store({"allow_http": "true"}))
    assert [request.headers["Range"] for request in seen] == ["bytes=10-19"] * 2
    with pytest.raises(ours.IcechunkError, match=r"http containers do not accept Credentials\.S3"):
        remote(ours, prefix, ours.http_store(), ours.s3_anonymous_credentials())


@both
def test_F093_containers_on_web_servers(ic: Any) -> None:
    for prefix in ("http://host/d/", "https://host/"):
        repo = ic.Repository.create(ic.in_memory_storage(), http_config(ic, prefix), {prefix: None})
        assert repo.authorized_virtual_container_prefixes == {prefix}
    config = http_config(ic, "https://host/")
    granted = ic.containers_credentials({"https://host/": ic.s3_anonymous_credentials()})
    with pytest.raises(ic.IcechunkError, match="storage error"):
        ic.Repository.create(ic.in_memory_storage(), config, granted)


def http_config(ic: Any, prefix: str) -> Any:
    config = ic.RepositoryConfig()
    config.set_virtual_chunk_container(ic.VirtualChunkContainer(prefix, ic.http_store({"allow_http": "true"})))
    return config


@both
@pytest.mark.parametrize("scheme", ["gs", "gcs"])
def test_F094_containers_on_google_cloud_storage(ic: Any, scheme: str) -> None:
    prefix = f"{scheme}://bucket/data/"
    config = ic.RepositoryConfig()
    config.set_virtual_chunk_container(ic.VirtualChunkContainer(prefix, ic.gcs_store({"google_proxy_url": "x"})))
    for granted in ({prefix: None}, ic.containers_credentials({prefix: ic.gcs_from_env_credentials()})):
        repo = ic.Repository.create(ic.in_memory_storage(), config, granted)
        assert repo.authorized_virtual_container_prefixes == {prefix}
    with pytest.raises(ic.IcechunkError, match="storage error"):
        ic.Repository.create(
            ic.in_memory_storage(), config, ic.containers_credentials({prefix: ic.azure_from_env_credentials()})
        )


@both
@pytest.mark.parametrize("scheme", ["az", "azure", "abfs"])
def test_F095_containers_on_azure(ic: Any, scheme: str) -> None:
    prefix = f"{scheme}://container/data/"
    config = ic.RepositoryConfig()
    config.set_virtual_chunk_container(ic.VirtualChunkContainer(prefix, ic.storage.azure_store(account="me")))
    granted = ic.containers_credentials({prefix: ic.azure_credentials(access_key="key")})
    repo = ic.Repository.create(ic.in_memory_storage(), config, granted)
    assert repo.authorized_virtual_container_prefixes == {prefix}
    assert ic.Repository.create(ic.in_memory_storage(), repo.config).config == repo.config
    with pytest.raises(ic.IcechunkError, match="storage error"):
        ic.Repository.create(ic.in_memory_storage(), config, {prefix: None})


@pytest.mark.parametrize("scheme", ["gs", "gcs"])
def test_F094_B06_chunks_on_google_cloud_storage(scheme: str, server: ObjectServer) -> None:
    key = {
        "gcs_base_url": server.url,
        "disable_oauth": True,
        "client_email": "",
        "private_key": "",
        "private_key_id": "",
    }
    store = ours.gcs_store({"google_service_account_key": json.dumps(key), "allow_http": "true"})
    with server.recording() as seen:
        check_remote(ours, f"{scheme}://bucket/d/", store)  # without credentials: anonymous
        check_remote(ours, f"{scheme}://bucket/d/", store, ours.gcs_credentials(bearer_token="tok"))
    assert [request.headers.get("Authorization") for request in seen] == [None, None, "Bearer tok", "Bearer tok"]


@pytest.mark.parametrize("scheme", ["az", "azure", "abfs"])
def test_F095_chunks_on_azure(scheme: str, server: ObjectServer) -> None:
    store = icechunk_virtual.storage.azure_store(account="me", config={"endpoint": server.url, "allow_http": "true"})
    with server.recording() as seen:
        check_remote(ours, f"{scheme}://bucket/d/", store, ours.azure_credentials(access_key="a2V5"))
    assert all(request.headers["Authorization"].startswith("SharedKey me:") for request in seen)
