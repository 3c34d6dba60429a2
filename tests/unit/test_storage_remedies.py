"""Errors of a repository's storage that repair: their line is pasted, with the right values, and the storage works."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict

import icechunk_virtual as icv
from icechunk_virtual.errors import IcechunkError, PermissionDenied, StorageError
from tests.support.clouds import Bucket, FakeService
from tests.support.proxy import Answer, Forward, Proxy, Request
from tests.support.snippets import machine_without_credentials, paste, snippets

CALLS: list[str] = []
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    CALLS.clear()
    with machine_without_credentials(monkeypatch):
        yield


@pytest.fixture(params=["s3", "google", "azure"])
def service(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A service whose storages need credentials with GOOD in them; `refusal` is what the others hear."""
    if request.param == "s3":
        bucket: Bucket = request.getfixturevalue("bucket")
        guard(bucket.proxy)
        yield bucket
        bucket.proxy.reset()
        return
    with FakeService(request.param) as fake:
        guard(fake)
        yield fake


def guard(proxy: Proxy) -> None:
    allowed = proxy.handle

    async def handle(request: Request, forward: Forward) -> Answer:
        if "GOOD" in request.headers.get("Authorization", "") + request.target:
            return await allowed(request, forward)
        status, code = REFUSAL
        return Answer(status, body=f"<Error><Code>{code}</Code></Error>".encode())

    proxy.handle = handle


REFUSAL = (403, "InvalidAccessKeyId")
BAD: dict[type, dict[str, Any]] = {
    Bucket: {"access_key_id": "BAD", "secret_access_key": "s"},
    FakeService: {"bearer_token": "BAD"},
}
GOOD: dict[type, dict[str, Any]] = {
    Bucket: {"access_key_id": "GOOD", "secret_access_key": "s"},
    FakeService: {"bearer_token": "GOOD"},
}


def failure(storage: icv.Storage, url: str = "") -> IcechunkError:
    """The error of creating and of opening a repository; it names the storage."""
    errors = []
    for use in (icv.Repository.create, icv.Repository.open):
        with pytest.raises(StorageError) as caught:
            use(storage, icv.RepositoryConfig(storage=icv.StorageSettings(retries=icv.StorageRetriesSettings(1))))
        assert url in str(caught.value)
        errors.append(caught.value)
    assert snippets(errors[0]) == snippets(errors[1])
    return errors[0]


def repaired(error: BaseException, *values: tuple[str, str], block: int = 0) -> None:
    """The printed line makes a storage that works."""
    made = paste(snippets(error)[block], *values)
    icv.Repository.create(made["storage"])


def values(service: Any, *, fresh: bool = False) -> list[tuple[str, str]]:
    if isinstance(service, Bucket):
        return [("KEY_ID", "GOOD")]
    if fresh:
        return [("TOKEN", "GOOD")]
    if "google" in type(service.fake).__name__.lower():
        return [("service_account_file", "bearer_token"), ("/path/of/key.json", "GOOD")]
    return [("access_key", "bearer_token"), ("ACCOUNT_KEY", "GOOD")]


def test_no_credentials(service: Any) -> None:
    error = failure(service.storage(from_env=True))
    assert isinstance(error, PermissionDenied)
    assert "there are no credentials" in error.message
    repaired(error, *values(service))
    assert "anonymous=True" in snippets(error)[1]


def test_wrong_credentials(service: Any) -> None:
    error = failure(service.storage(**BAD[type(service)]))
    assert "the credentials are not valid" in error.message
    assert error.status == 403  # type: ignore[attr-defined]
    repaired(error, *values(service))


def test_expired_credentials(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.REFUSAL", (400, "ExpiredToken"))
    error = failure(service.storage(**BAD[type(service)]))
    assert "the credentials have expired" in error.message
    repaired(error, *values(service, fresh=True))


def test_wrong_region(bucket: Bucket) -> None:
    allowed = bucket.proxy.handle

    async def handle(request: Request, forward: Forward) -> Answer:
        if "/eu-central-1/s3/" in request.headers.get("Authorization", ""):
            return await allowed(request, forward)
        return Answer(301, CIMultiDict({"x-amz-bucket-region": "eu-central-1"}))

    bucket.proxy.handle = handle
    error = failure(bucket.storage(requester_pays=True), f"s3://{bucket.name}/repo")
    assert "the bucket is in another region" in error.message
    line = snippets(error)[0]
    assert 'region="eu-central-1"' in line
    assert "requester_pays=True" in line
    assert "SECRET" in line  # a placeholder
    repaired(error)


def test_no_bucket(bucket: Bucket) -> None:
    storage = icv.s3_storage(
        bucket="nowhere", prefix="repo", endpoint_url=bucket.proxy.url, allow_http=True, **GOOD[Bucket]
    )
    error = failure(storage, "s3://nowhere/repo")
    assert "the bucket or container does not exist" in error.message
    repaired(error, ("https://ENDPOINT", bucket.proxy.url), ('"nowhere"', f'"{bucket.name}"'))


def test_plain_http(bucket: Bucket) -> None:
    error = failure(bucket.storage(allow_http=False))
    assert "plain http is not allowed" in error.message
    repaired(error)


def test_tls_to_a_server_without(bucket: Bucket) -> None:
    error = failure(bucket.storage(endpoint_url=bucket.proxy.url.replace("http:", "https:")))
    assert "the server does not speak TLS" in error.message
    repaired(error)


@pytest.mark.parametrize("make", ["s3_storage", "tigris_storage", "s3_object_store_storage"])
def test_every_kind_of_storage_on_s3_is_made_by_its_own_function(make: str, bucket: Bucket) -> None:
    guard(bucket.proxy)
    error = failure(bucket.storage(make=make, **BAD[Bucket]))
    assert make in snippets(error)[0]
    repaired(error, ("KEY_ID", "GOOD"))


def test_messages_hold_no_secrets(service: Any) -> None:
    hidden: dict[type, dict[str, Any]] = {
        Bucket: {"access_key_id": "BAD", "secret_access_key": "HIDDEN", "session_token": "HIDDEN"},
        FakeService: {"bearer_token": "HIDDEN"},
    }
    assert "HIDDEN" not in str(failure(service.storage(**hidden[type(service)])))


# -- a server that refuses what a function returned --------------------------------------------------------------------


def s3_key() -> icv.S3StaticCredentials:
    CALLS.append("called")
    return icv.S3StaticCredentials("BAD" if len(CALLS) == 1 else "GOOD", "s", "t", datetime.now(UTC) + HOUR)


def google_token() -> icv.GcsBearerCredential:
    CALLS.append("called")
    return icv.GcsBearerCredential("BAD" if len(CALLS) == 1 else "GOOD", expires_after=datetime.now(UTC) + HOUR)


def azure_token() -> Any:
    CALLS.append("called")
    token = "BAD" if len(CALLS) == 1 else "GOOD"
    return icv.AzureRefreshableCredential.BearerToken(token, datetime.now(UTC) + HOUR)


def bad_key() -> icv.S3StaticCredentials:
    CALLS.append("called")
    return icv.S3StaticCredentials("BAD", "s", "t", datetime.now(UTC) + HOUR)


def function_of(service: Any) -> Any:
    if isinstance(service, Bucket):
        return s3_key
    return google_token if "google" in type(service.fake).__name__.lower() else azure_token


@pytest.mark.parametrize("refusal", [(401, "X"), (400, "ExpiredToken"), (403, "AuthenticationFailed")])
def test_a_refused_token_is_asked_for_again(
    refusal: tuple[int, str], service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.REFUSAL", refusal)
    repo = icv.Repository.create(service.storage(get_credentials=function_of(service)))
    assert repo.list_branches() == {"main"}
    assert len(CALLS) == 2


def test_it_is_asked_for_once_more_and_no_further(bucket: Bucket) -> None:
    guard(bucket.proxy)
    with pytest.raises(PermissionDenied, match="get_credentials return others"):
        icv.Repository.open(bucket.storage(get_credentials=bad_key))
    assert len(CALLS) <= 4  # for two requests at most: each may ask once


def test_permission_that_is_denied_asks_nobody(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.REFUSAL", (403, "AccessDenied"))
    guard(bucket.proxy)
    with pytest.raises(PermissionDenied, match="permission denied"):
        icv.Repository.open(bucket.storage(get_credentials=bad_key))
    assert len(CALLS) == 1


def test_who_pays_at_google() -> None:
    with FakeService("google") as fake:
        storage = fake.storage(
            bearer_token="t", config={"google_base_url": fake.url, "allow_http": "true", "user_project": "p"}
        )
        repo = icv.Repository.create(storage)
        repo.create_tag("t", repo.lookup_branch("main"))
        repo.delete_tag("t")
        assert {request.method for request in fake.requests} >= {"GET", "PUT"}
        assert {request.headers.get("x-goog-user-project") for request in fake.requests} == {"p"}


def test_profiles_whose_keys_only_boto3_gets(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = '{"Version": 1, "AccessKeyId": "GOOD", "SecretAccessKey": "s"}'
    (tmp_path / "answer").write_text(answer)
    (tmp_path / "config").write_text(f"[profile mine]\ncredential_process = cat {tmp_path / 'answer'}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    guard(bucket.proxy)
    with pytest.raises(StorageError, match="credential_process") as caught:
        icv.Repository.create(bucket.storage(from_env=True))
    keys = paste(snippets(caught.value)[0])["keys"]
    icv.Repository.create(bucket.storage(get_credentials=keys))


def test_the_environment_has_none() -> None:
    assert "AWS_ACCESS_KEY_ID" not in os.environ
