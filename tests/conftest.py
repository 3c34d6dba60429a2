"""Settings of the whole test suite, and servers that several test files share. Helpers are in tests/support."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support.clouds import Bucket
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
