"""Who is asked: the servers that a stored configuration names, against those that the opener named."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import xarray

import icechunk_virtual as icv
from icechunk_virtual.containers.addresses import detours
from icechunk_virtual.containers.authorize import Authorization
from icechunk_virtual.containers.container import VirtualChunkContainer
from icechunk_virtual.errors import ContainerError, NotAuthorized
from icechunk_virtual.opening import open_repository
from icechunk_virtual.repo.cloud.addresses import named_addresses
from icechunk_virtual.storage import ObjectStoreConfig, S3Options, azure_store, gcs_store, http_store, s3_store
from tests.support.clouds import Bucket
from tests.support.hostile import CONTENT, first_chunk, open_and_read, repository_of_another
from tests.support.object_server import ObjectServer

KEY = icv.s3_credentials(access_key_id="KEYID", secret_access_key="CANARY", session_token="CANARY-TOKEN")
METADATA = "http://169.254.169.254"


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    with ObjectServer({"/bucket/d/f": CONTENT, "/d/f": CONTENT}) as running:
        yield running


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, server: ObjectServer) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    server.reset()


def s3_at(url: str | None, **more: Any) -> Any:
    return s3_store(region="r", endpoint_url=url, allow_http=True, force_path_style=True, s3_compatible=True, **more)


def google_at(url: str) -> Any:
    return gcs_store({"google_base_url": url, "allow_http": "true"})


def azure_at(url: str) -> Any:
    return azure_store(account="me", config={"azure_storage_endpoint": url, "allow_http": "true"})


def tigris_at(url: str) -> Any:
    return ObjectStoreConfig.Tigris(S3Options(region="r", endpoint_url=url, allow_http=True, force_path_style=True))


CLOUDS: dict[str, tuple[Any, Any]] = {
    "s3": (s3_at, KEY),
    "tigris": (tigris_at, KEY),
    "gs": (google_at, icv.gcs_credentials(bearer_token="CANARY")),
    "gcs": (google_at, None),
    "az": (azure_at, icv.azure_credentials(access_key="Q0FOQVJZ")),
    "azure": (azure_at, icv.azure_credentials(sas_token="sig=CANARY")),
    "abfs": (azure_at, icv.azure_credentials(bearer_token="CANARY")),
}


def stored(store: Any, prefix: str) -> VirtualChunkContainer:
    container = VirtualChunkContainer(prefix, store)
    container.stored = True
    return container


def has_detour(store: Any, prefix: str = "s3://bucket/") -> bool:
    return bool(detours(VirtualChunkContainer(prefix, store)))


@pytest.mark.parametrize("scheme", CLOUDS)
def test_T20_no_request_goes_where_only_the_repository_says(scheme: str, server: ObjectServer) -> None:
    make, credentials = CLOUDS[scheme]
    prefix = f"{scheme}://bucket/"
    storage = repository_of_another({prefix: make(server.url)}, f"{prefix}d/f")
    granted = {prefix: credentials}
    with server.recording() as seen, pytest.raises(NotAuthorized, match="has its requests, with what you grant") as no:
        open_and_read(storage, granted)
    assert not seen
    assert f"'{server.url}/'" in str(no.value)
    assert no.value.prefix == prefix
    with server.recording() as seen:
        assert open_and_read(storage, {**granted, server.url: None}) == CONTENT[:10], "named by the opener"
    assert len(seen) == 1


@pytest.mark.parametrize("key", ["", "/", "/bucket", "/bucket/d", "x", ":1"])
def test_T20_another_address_is_not_that_one(key: str, server: ObjectServer) -> None:
    """Only the address as a whole, or what it is below, names it."""
    storage = repository_of_another({"s3://bucket/": s3_at(server.url)}, "s3://bucket/d/f")
    granted = {"s3://bucket/": KEY, server.url.replace("127.0.0.1", "127.0.0.2") + "/": None}
    if key in {"", "/"}:
        assert open_and_read(storage, {**granted, server.url + key: None}) == CONTENT[:10]
        return
    with server.recording() as seen, pytest.raises(NotAuthorized):
        open_and_read(storage, {**granted, server.url + key: None})
    assert not seen


def test_T21_the_caller_s_own_container(server: ObjectServer) -> None:
    storage = repository_of_another({"s3://bucket/": s3_at(METADATA)}, "s3://bucket/d/f")
    config = icv.RepositoryConfig()
    config.set_virtual_chunk_container(VirtualChunkContainer("s3://bucket/", s3_at(server.url)))
    assert open_and_read(storage, {"s3://bucket/": KEY}, config) == CONTENT[:10]
    mine = icv.Repository.create(icv.in_memory_storage(), config, icv.containers_credentials({"s3://bucket/": KEY}))
    mine.save_config()
    grants = {grant.container.stored for grant in mine.reopen()._opened.authorization.grants}
    assert grants == {False}, "whoever made it need not name it again"


def test_T21_the_server_of_the_repository_itself(bucket: Bucket, server: ObjectServer) -> None:
    storage = repository_of_another(
        {f"s3://{bucket.name}/": s3_at(bucket.proxy.url)},
        f"s3://{bucket.name}/repo/config.yaml",
        storage=bucket.storage(),
    )
    key = icv.s3_credentials(access_key_id="KEYID", secret_access_key="SECRET")
    assert open_and_read(storage, {f"s3://{bucket.name}/": key})[:1], "the same origin"
    elsewhere = repository_of_another(
        {"s3://bucket/": s3_at(server.url)}, "s3://bucket/d/f", storage=bucket.storage(prefix="other")
    )
    with pytest.raises(NotAuthorized):
        open_and_read(elsewhere, {"s3://bucket/": key})


@pytest.mark.parametrize(
    ("storage", "named"),
    [
        (icv.s3_storage(bucket="b", prefix="p", endpoint_url="HTTP://minio:80/base", allow_http=True), "http://minio/"),
        (icv.r2_storage(bucket="b", prefix="p", account_id="a"), "https://a.r2.cloudflarestorage.com/"),
        (icv.gcs_storage(bucket="b", prefix="p", config={"GOOGLE_BASE_URL": "http://fake:4443"}), "http://fake:4443/"),
        (
            icv.azure_storage(
                account="a", container="c", prefix="p", config={"azure_storage_endpoint": "http://az:1/a"}
            ),
            "http://az:1/",
        ),
        (icv.s3_storage(bucket="b", prefix="p", region="r"), None),
        (icv.in_memory_storage(), None),
    ],
)
def test_T21_what_the_storages_of_repositories_name(storage: Any, named: str | None) -> None:
    assert named_addresses(storage.object_store()) == (() if named is None else (named,))


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
@pytest.mark.parametrize("says_it_too", [True, False])
def test_T21_the_environment(
    variable: str, says_it_too: bool, server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, server.url)
    storage = repository_of_another({"s3://bucket/": s3_at(server.url if says_it_too else None)}, "s3://bucket/d/f")
    assert open_and_read(storage, {"s3://bucket/": KEY}) == CONTENT[:10]
    other = repository_of_another({"s3://bucket/": s3_at(METADATA)}, "s3://bucket/d/f")
    with pytest.raises(NotAuthorized):
        open_and_read(other, {"s3://bucket/": KEY})


def test_T22_addresses_of_the_providers() -> None:
    for host in (
        "s3.amazonaws.com", "s3.eu-central-1.amazonaws.com", "s3-us-west-2.amazonaws.com",
        "s3.dualstack.us-gov-west-1.amazonaws.com", "s3-fips.us-east-1.amazonaws.com", "s3.cn-north-1.amazonaws.com.cn",
        "S3.Amazonaws.com", "s3.amazonaws.com:443",
    ):  # fmt: skip
        assert not has_detour(s3_at(f"https://{host}")), host
    assert not has_detour(tigris_at("https://t3.storage.dev"), "tigris://bucket/")
    assert not has_detour(google_at("https://storage.googleapis.com/"), "gs://bucket/")
    for host in ("me.blob.core.windows.net", "me.dfs.core.windows.net", "me.blob.core.usgovcloudapi.net"):
        assert not has_detour(azure_at(f"https://{host}"), "az://bucket/"), host


@pytest.mark.parametrize(
    "url",
    [
        "http://s3.amazonaws.com",  # without encryption
        "https://s3.amazonaws.com:8443",
        "https://s3.amazonaws.com.evil.org",
        "https://evil.org/s3.amazonaws.com",
        "https://evil.org#s3.amazonaws.com",
        "https://evil.org?s3.amazonaws.com",
        "https://evil.org\\.s3.amazonaws.com",
        "https://s3.amazonaws.com@evil.org",
        "https://s3.amazonaws.com:x@evil.org",
        "https://s3\uff0eamazonaws.com",
        "https://\u0455\u0033.amazonaws.com",
        "https://evils3.amazonaws.com",
        "https://s3.amazonaws.com./",
        "https://ec2-1-2-3-4.eu-west-1.compute.amazonaws.com",  # rented out
        "https://evil.execute-api.us-east-1.amazonaws.com",
        "https://evil.s3-website-us-east-1.amazonaws.com",
        "https://evil.s3-object-lambda.us-east-1.amazonaws.com",
        "https://evil.us-east-1.elb.amazonaws.com",
        "https://s3.amazonaws.com/other-bucket",
        "https://storage.googleapis.com",  # somebody else's provider
        "https://s3.amazonaws.com\r\nX: y",
        METADATA,
        "http://[::ffff:169.254.169.254]",
        "http://localhost:8080",
        "not an address",
        "file:///etc/",
    ],
)
def test_T22_look_alikes_of_the_provider_s_address(url: str) -> None:
    assert has_detour(s3_at(url))
    storage = repository_of_another({"s3://bucket/": s3_at(url)}, "s3://bucket/d/f") if url.isprintable() else None
    if storage is not None:
        with pytest.raises(NotAuthorized):
            open_and_read(storage, {"s3://bucket/": KEY})


@pytest.mark.parametrize(
    ("prefix", "store"),
    [
        ("gs://bucket/", google_at("https://storage.googleapis.com.evil.org")),
        ("gs://bucket/", google_at("https://evil.storage.googleapis.com")),
        ("az://bucket/", azure_at("https://me.z6.web.core.windows.net")),
        ("az://bucket/", azure_at("https://blob.core.windows.net.evil.org")),
        ("tigris://bucket/", tigris_at("https://t3.storage.dev.evil.org")),
        ("tigris://bucket/", tigris_at("https://s3.amazonaws.com")),
    ],
)
def test_T22_look_alikes_elsewhere(prefix: str, store: Any) -> None:
    assert has_detour(store, prefix)


@pytest.mark.parametrize(
    "name", ["@evil.org/", "evil.org/", "evil.org#", "x.evil.org?", "a/b", "x:1/", "\u0430", "a b"]
)
def test_T23_a_region_or_account_is_no_host(name: str, server: ObjectServer) -> None:
    """They are put into the host's name: ``https://s3.REGION.amazonaws.com`` would be another one."""
    credentials = icv.azure_credentials(access_key="Q0FOQVJZ")
    for prefix, store, grant in (
        ("s3://bucket/", s3_store(region=name), KEY),
        ("az://bucket/", azure_store(account=name), credentials),
    ):
        assert has_detour(store, prefix)
        storage = repository_of_another({prefix: store}, f"{prefix}d/f")
        with pytest.raises(NotAuthorized, match=r"only in a container that you pass yourself"):
            open_and_read(storage, {prefix: grant})
    assert not has_detour(s3_store(region="eu-central-1"))
    assert not has_detour(azure_store(account="me-secondary"), "az://bucket/")


@pytest.mark.parametrize(
    "options",
    [
        {"proxy_url": "http://evil.org:3128"},
        {"PROXY_URL": "http://evil.org:3128"},
        {"proxy_url": "socks5://evil.org"},
        {"proxy_url": ""},
        {"allow_invalid_certificates": "true"},
        {"root_certificate": "-----BEGIN CERTIFICATE-----"},
        {"proxy_ca_certificate": "-----BEGIN CERTIFICATE-----"},
        {"proxy_excludes": "*"},
        {"default_headers": "Host: evil.org"},
        {"whatever comes next": "1"},
    ],
)
def test_T24_options_that_redirect_or_weaken(options: dict[str, str], server: ObjectServer) -> None:
    prefix = f"{server.url}/"
    stores = {
        prefix: http_store({"allow_http": "true", **options}),
        "gs://bucket/": gcs_store({"base_url": server.url, "allow_http": "true", **options}),
        "az://bucket/": azure_store(account="me", config={"endpoint": server.url, "allow_http": "true", **options}),
    }
    granted = {prefix: None, "gs://bucket/": None, "az://bucket/": icv.azure_credentials(access_key="Q0FOQVJZ")}
    for place, store in stores.items():
        storage = repository_of_another({place: store}, f"{place}d/f")
        with server.recording() as seen, pytest.raises(NotAuthorized):
            open_and_read(storage, granted)
        assert not seen
    assert open_and_read(repository_of_another({prefix: http_store({"allow_http": "true"})}, f"{prefix}d/f"), granted)


@pytest.mark.parametrize(
    ("prefix", "store"),
    [
        ("gs://bucket/", gcs_store({"service_account_key": json.dumps({"gcs_base_url": "http://127.0.0.1:1"})})),
        ("gs://bucket/", gcs_store({"proxy_url": "https://storage.googleapis.com"})),
        ("az://bucket/", azure_store(account="me", config={"use_emulator": "true"})),
        ("az://bucket/", azure_store(account="me", config={"azure_storage_use_emulator": "true"})),
    ],
)
def test_T24_addresses_within_options(prefix: str, store: Any) -> None:
    assert has_detour(store, prefix)


@pytest.mark.parametrize(
    ("store", "prefix"),
    [
        (gcs_store({"service_account": "/etc/passwd"}), "gs://bucket/"),
        (gcs_store({"google_application_credentials": "/etc/passwd"}), "gs://bucket/"),
        (gcs_store({"bucket": "other"}), "gs://bucket/"),
        (gcs_store({"skip_signature": "false"}), "gs://bucket/"),
        (azure_store(account="me", config={"federated_token_file": "/etc/passwd"}), "az://bucket/"),
        (azure_store(account="me", config={"authority_host": "https://evil.org"}), "az://bucket/"),
        (azure_store(account="me", config={"msi_endpoint": METADATA}), "az://bucket/"),
        (azure_store(account="me", config={"container_name": "other"}), "az://bucket/"),
        (azure_store(account="me", config={"use_azure_cli": "true"}), "az://bucket/"),
    ],
)
def test_T25_credentials_are_not_taken_from_or_sent_to_where_a_container_says(store: Any, prefix: str) -> None:
    """Not even if the caller passed the container, who may have it from somebody."""
    grant = icv.azure_credentials(access_key="Q0FOQVJZ") if prefix.startswith("az") else None
    storage = repository_of_another({prefix: store}, f"{prefix}d/f")
    with pytest.raises(ContainerError):
        open_and_read(storage, {prefix: grant})
    config = icv.RepositoryConfig()
    config.set_virtual_chunk_container(VirtualChunkContainer(prefix, store))
    with pytest.raises(ContainerError, match=r"is not used, since it could misuse|can only be true"):
        open_and_read(storage, {prefix: grant}, config)


@pytest.mark.parametrize("address", [METADATA, "http://metadata.google.internal", "http://[fd00:ec2::254]"])
def test_T26_services_of_the_machine(address: str) -> None:
    for prefix, (make, credentials) in ((f"{scheme}://bucket/", made) for scheme, made in CLOUDS.items()):
        storage = repository_of_another({prefix: make(address)}, f"{prefix}d/f")
        with pytest.raises(NotAuthorized):
            open_and_read(storage, {prefix: credentials})
    web = f"{address}/"
    storage = repository_of_another({web: http_store({"allow_http": "true"})}, f"{web}latest/meta-data/")
    with pytest.raises(NotAuthorized):
        open_and_read(storage, {"s3://bucket/": None, "http://good.org/": None})


def test_T27_where_a_container_comes_from_is_not_forgotten(server: ObjectServer) -> None:
    storage = repository_of_another({"s3://bucket/": s3_at(server.url)}, "s3://bucket/d/f")
    granted = icv.containers_credentials({"s3://bucket/": KEY})
    repo = icv.Repository.open(storage, None, granted)
    config = icv.Repository.fetch_config(storage)
    assert config is not None
    config.set_virtual_chunk_container(VirtualChunkContainer("s3://more/", s3_store()))
    other = icv.RepositoryConfig(virtual_chunk_containers=config.virtual_chunk_containers)
    copies = [
        repo,
        repo.reopen(),
        repo.reopen(config),
        repo.with_config(repo.config),
        repo.with_config(copy.deepcopy(repo.config)),
        repo.with_config(pickle.loads(pickle.dumps(other))),
        icv.Repository.open(storage, config, granted),
        icv.Repository.open(storage, icv.RepositoryConfig().merge(repo.config), granted),
        icv.Repository.create(icv.in_memory_storage(), config, granted),
        pickle.loads(pickle.dumps(repo)),
    ]
    for changed in copies:
        session = changed.readonly_session("main")
        for authorization in (
            changed._opened.authorization,
            pickle.loads(pickle.dumps(session))._workspace.authorization,
        ):
            with pytest.raises(NotAuthorized):
                authorization.readable("s3://bucket/d/f")
    copies[7].save_config()
    with pytest.raises(NotAuthorized):
        open_and_read(storage, {"s3://bucket/": KEY})
    named = icv.containers_credentials({"s3://bucket/": KEY, server.url: None})
    assert first_chunk(pickle.loads(pickle.dumps(icv.Repository.open(storage, None, named)))) == CONTENT[:10]


@pytest.mark.parametrize("names", [("s3://bucket/",), ("a",), ("z",), ("S3://bucket/",), ("s3://bucket/", "z")])
@pytest.mark.parametrize("spelt", ["s3://bucket/", "S3://bucket/", "s3://bucket"])
def test_T27_a_stored_container_does_not_take_the_place_of_the_caller_s(
    names: tuple[str, ...], spelt: str, server: ObjectServer
) -> None:
    """Whatever it is called, and however it writes the prefix."""
    storage = repository_of_another({}, "s3://bucket/d/f")
    repo = icv.Repository.open(storage)
    evil = {name: VirtualChunkContainer(spelt, s3_at(METADATA)) for name in names}
    repo._opened.config._containers = icv.RepositoryConfig(virtual_chunk_containers=evil)._containers
    repo.save_config()
    config = icv.RepositoryConfig()
    config.set_virtual_chunk_container(VirtualChunkContainer("s3://bucket/", s3_at(server.url)))
    assert open_and_read(storage, {"s3://bucket/": KEY}, config) == CONTENT[:10]


def test_T27_a_repository_does_not_say_that_it_is_not_one(tmp_path: Path, server: ObjectServer) -> None:
    storage = icv.local_filesystem_storage(tmp_path / "r")
    repository_of_another({"s3://bucket/": s3_at(server.url)}, "s3://bucket/d/f", storage=storage)
    file = tmp_path / "r" / "config.yaml"
    assert "stored" not in file.read_text()
    file.write_text(file.read_text().replace("url_prefix:", "stored: false\n    url_prefix:"))
    assert "stored: false" in file.read_text()
    with pytest.raises(NotAuthorized):
        open_and_read(storage, {"s3://bucket/": KEY})


def test_T28_xarray_and_the_texts_of_the_command_line(tmp_path: Path, server: ObjectServer) -> None:
    storage = icv.local_filesystem_storage(tmp_path / "r")
    repository_of_another({"s3://bucket/": s3_at(server.url, anonymous=True)}, "s3://bucket/d/f", storage=storage)
    path = str(tmp_path / "r")
    with server.recording() as seen:
        with pytest.raises(NotAuthorized) as caught:
            first_chunk(open_repository(path, authorize="s3://bucket/"))
        opened = xarray.open_dataset(path, engine="icechunk-virtual", authorize=["s3://bucket/"])
        with pytest.raises(NotAuthorized):
            opened["v"].load()
    assert not seen
    hint = str(caught.value).partition("pass authorize=")[2].partition(" to xarray")[0]
    assert first_chunk(open_repository(path, authorize=json.loads(hint))) == CONTENT[:10]


@pytest.mark.parametrize("granted", [{}, {"s3://bucket/": KEY}, {"s3://bucket/": None}])
def test_T29_the_error_prints_the_line_that_grants_it(granted: dict[str, Any], server: ObjectServer) -> None:
    store = s3_at(server.url, anonymous=not granted.get("s3://bucket/"))
    storage = repository_of_another({"s3://bucket/": store}, "s3://bucket/d/f")
    with pytest.raises(NotAuthorized) as caught:
        open_and_read(storage, granted)
    text = str(caught.value)
    assert "CANARY" not in text
    names = {"icechunk_virtual": icv, "storage": storage, "credentials": KEY}
    exec(text.splitlines()[-1].strip(), names)
    assert first_chunk(names["repo"]) == CONTENT[:10]


def test_T29_what_an_error_prints_is_no_code_of_the_repository_s() -> None:
    prefix = 's3://b/"});__import__("os").abort()#/'
    evil = s3_at('http://h/"});__import__("os").abort()#')
    with pytest.raises(NotAuthorized) as caught:
        Authorization({prefix: stored(evil, prefix)}, {prefix: None}).readable(prefix + "x")
    compile("\n".join(line.strip() for line in str(caught.value).splitlines()[1:]), "e", "exec")
    assert "abort" not in str(caught.value).splitlines()[-1].replace(json.dumps(prefix), "")


def test_T29_the_remedy_for_options_is_a_container_of_one_s_own(server: ObjectServer) -> None:
    prefix = f"{server.url}/"
    store = http_store({"allow_http": "true", "allow_invalid_certificates": "true", "proxy_url": "http://u:CANARY@h"})
    storage = repository_of_another({prefix: store}, f"{prefix}d/f")
    with pytest.raises(NotAuthorized, match="allow_invalid_certificates=true") as caught:
        open_and_read(storage, {prefix: None})
    assert "CANARY" not in str(caught.value)
    code = "\n".join(line.strip() for line in str(caught.value).splitlines()[1:])
    allowed = code.replace("http_store()", "http_store({'allow_http': 'true'})")
    names: dict[str, Any] = {"icechunk_virtual": icv, "storage": storage}
    exec(allowed, names)
    assert first_chunk(names["repo"]) == CONTENT[:10]
