"""Settings of the whole test suite, and servers that several test files share. Helpers are in tests/support."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support.azurite import Unavailable, azurite_server
from tests.support.clouds import AzureContainer, Bucket, GoogleBucket
from tests.support.gcs_emulator import XmlApi, gcs_server
from tests.support.proxy import Proxy
from tests.support.s3_server import moto_server

# No deadlines: the machines that run this are shared, and a time is no property.
settings.register_profile("default", deadline=None, max_examples=60)
settings.register_profile(
    "ci",
    deadline=None,
    max_examples=100,
    derandomize=True,  # a red run is a change's fault, never the dice's
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],  # says how fast the machine is, not whether the code is right
)
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session", autouse=True)
def no_proxies() -> Iterator[None]:
    """All servers of the tests are on this machine, whatever its environment says about proxies."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            patch.delenv(name, raising=False)
            patch.delenv(name.upper(), raising=False)
        yield


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """URL of an S3 server on this machine."""
    with moto_server() as url:
        yield url


@pytest.fixture(scope="session")
def s3_proxy(s3_server: str) -> Iterator[Proxy]:
    """The way to it that writes down what passes."""
    with Proxy(s3_server) as proxy:
        yield proxy


@pytest.fixture
def bucket(s3_server: str, s3_proxy: Proxy) -> Bucket:
    """A new bucket of the S3 server; the proxy's log is empty and nothing interferes."""
    s3_proxy.reset()
    return Bucket(s3_server, s3_proxy)


@pytest.fixture(scope="session")
def google_proxy() -> Iterator[Proxy]:
    """The way to an emulator of Google Cloud Storage on this machine, that writes down what passes."""
    with gcs_server() as url, Proxy(url) as proxy:
        yield proxy


@pytest.fixture
def google_bucket(google_proxy: Proxy) -> GoogleBucket:
    """An empty place there; the proxy's log is empty and nothing interferes."""
    google_proxy.reset()
    google_proxy.handle = XmlApi().handle
    return GoogleBucket(google_proxy)


@pytest.fixture(scope="session")
def azure_proxy() -> Iterator[Proxy]:
    """The way to an emulator of Azure Blob Storage on this machine, that writes down what passes."""
    try:
        with azurite_server() as url, Proxy(url) as proxy:
            yield proxy
    except Unavailable as reason:
        pytest.skip(f"no Azurite: {reason}")


@pytest.fixture
def azure_container(azure_proxy: Proxy) -> AzureContainer:
    """A new container there; the proxy's log is empty and nothing interferes."""
    azure_proxy.reset()
    assert azure_proxy.upstream is not None
    return AzureContainer(azure_proxy.upstream, azure_proxy)
