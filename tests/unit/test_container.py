"""Virtual chunk containers: which pairs of prefix and store are legal."""

from __future__ import annotations

from pathlib import Path

import pytest

from icechunk_virtual.containers.container import (
    ObjectStoreConfig,
    S3Options,
    VirtualChunkContainer,
    azure_store,
    check_container,
    gcs_store,
    http_store,
    local_filesystem_store,
    s3_store,
)
from tests.support.configs import STORES

S3, GCS, AZURE, HTTP = s3_store(), gcs_store(), azure_store(account="x"), http_store()
FILES, TIGRIS = local_filesystem_store("/"), ObjectStoreConfig.Tigris(S3Options())


@pytest.mark.parametrize("prefix", STORES)
def test_legal(prefix: str) -> None:
    check_container(VirtualChunkContainer(prefix, STORES[prefix]))


@pytest.mark.parametrize(
    ("prefix", "store"),
    [
        ("S3://b/", S3), ("s3://b/", TIGRIS), ("s3://b/", s3_store(s3_compatible=True)), ("azure://c/", AZURE),
        ("abfs://c/", AZURE), ("http://h:80/", HTTP), ("https://h:8443/a/", HTTP), ("s3://b/a b/\u00e9/", S3),
        ("file:/a/", FILES), ("file://localhost/a/", FILES), ("http://[::1]/a/", HTTP),
    ],
)  # fmt: skip
def test_legal_too(prefix: str, store: ObjectStoreConfig) -> None:
    check_container(VirtualChunkContainer(prefix, store))


@pytest.mark.parametrize(
    ("prefix", "store", "reason"),
    [
        ("s3://b", S3, "must end in a / character"),
        ("", S3, "must end in a / character"),
        ("b/", S3, "relative URL without a base"),
        ("/a/", FILES, "relative URL without a base"),
        ("s3:///", S3, "s3:// containers must include a host"),
        ("s3:///a/", S3, "must include a host"),
        ("s3:b/", S3, "must include a host"),
        ("gs:///", GCS, "must include a host"),
        ("az:///x/", AZURE, "must include a host"),
        ("http:///", HTTP, "must include a host"),
        ("tigris:///", TIGRIS, "must include a host"),
        ("gs://b/", S3, r"Invalid url prefix scheme \(gs\) for this object store config: "),
        ("abfss://b/", AZURE, "Invalid url prefix scheme"),
        ("tigris://b/", S3, "Invalid url prefix scheme"),
        ("memory://b/", ObjectStoreConfig.InMemory(), "Invalid url prefix scheme"),
        ("s3://b/", ObjectStoreConfig.InMemory(), "Invalid url prefix scheme"),
        ("s3://b/", FILES, "Invalid url prefix scheme"),
        ("file:///", FILES, "must include a path"),
        ("file:////", FILES, "must include a path"),
        ("file:///a/../", FILES, "segments"),
        ("file:///a/%2e%2E/b/", FILES, "segments"),
        ("file:///a%2fb/", FILES, "separators"),
        ("file://host/a/", FILES, "no host"),
        ("s3://b/x/../", S3, "segments"),
        ("s3://a b/", S3, "host"),
        ("s3://user:secret@b/", S3, "user info is not allowed: s3://b/ "),
        ("s3://b:99999/", S3, "port"),
        ("http://[::1/", HTTP, "host"),
        ("http://h/?x/", HTTP, "url prefix"),
        ("http://h/#/", HTTP, "url prefix"),
        ("s3://b/\n/", S3, "control characters"),
    ],
)
def test_refused(prefix: str, store: ObjectStoreConfig, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_container(VirtualChunkContainer(prefix, store))


def test_builders() -> None:
    store = s3_store("r", "http://e", True, True, True, True, 5, True)
    assert store == ObjectStoreConfig.S3Compatible(S3Options("r", "http://e", True, True, True, 5, True))
    assert s3_store(anonymous=True)._0.anonymous
    assert s3_store()._0.network_stream_timeout_seconds == 60
    assert azure_store(account="a", config={"x": "y", "account": "b"})._0 == {"account": "a", "x": "y"}
    assert gcs_store() == ObjectStoreConfig.Gcs({}) == ObjectStoreConfig.Gcs(None)
    assert local_filesystem_store("/a")._0 == Path("/a")
    options = {"allow_http": "true"}
    store_of_mine = http_store(options)
    options["allow_http"] = "false"
    assert store_of_mine._0 == {"allow_http": "true"}
