"""Rows of the feature table about credentials of storages (F072 to F079). The others are in test_storage_rows.py."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import icechunk
import pytest
from multidict import CIMultiDict, CIMultiDictProxy

import icechunk_virtual as ours
from icechunk_virtual.credentials import gcs_anonymous_credentials
from icechunk_virtual.errors import PermissionDenied
from icechunk_virtual.storage import azure_store
from tests.support.clouds import KEYS, Bucket, FakeService
from tests.support.hierarchies import array_document, keys_of, put
from tests.support.proxy import Answer, Forward, Request

both = pytest.mark.parametrize("ic", [ours, icechunk], ids=["ours", "original"])
CALLS: list[str] = []
VALID = timedelta(hours=1)


def s3_key() -> Any:
    """What a user's function looks like: found again by its name when it is unpickled."""
    CALLS.append("s3")
    return ours.S3StaticCredentials("KEYID", f"SECRET{len(CALLS)}", "TOKEN", datetime.now(UTC) + VALID)


def s3_key_that_ends_soon() -> Any:
    CALLS.append("s3")
    return ours.S3StaticCredentials(f"KEY{len(CALLS)}", "SECRET", None, datetime.now(UTC) + timedelta(seconds=30))


def google_token() -> Any:
    CALLS.append("gcs")
    return ours.GcsBearerCredential(f"TOKEN{len(CALLS)}", expires_after=datetime.now(UTC) + VALID)


def endless_google_token() -> Any:
    CALLS.append("gcs")
    return ours.GcsBearerCredential(f"TOKEN{len(CALLS)}")


def azure_token() -> Any:
    CALLS.append("azure")
    return ours.AzureRefreshableCredential.BearerToken(f"TOKEN{len(CALLS)}", datetime.now(UTC) + VALID)


def broken() -> Any:
    raise OSError("the vault is closed")


@pytest.fixture(autouse=True)
def no_calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    CALLS.clear()
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "AZURE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no credentials"))


def used(storage: Any) -> Any:
    """A repository that has been written and opened."""
    ours.Repository.create(storage)
    repo = ours.Repository.open(storage)
    session = repo.writable_session("main")
    put(session.store, "a/zarr.json", array_document((1,)))
    session.commit("c1")
    return repo


def signers(bucket: Bucket) -> set[str]:
    """Key ids that requests were signed with."""
    signatures = [request.headers.get("Authorization", "Credential=nobody/") for request in bucket.proxy.requests]
    return {signature.partition("Credential=")[2].partition("/")[0] for signature in signatures}


def sent(service: FakeService) -> set[str]:
    """How requests were authorised."""
    return {request.headers.get("Authorization", "") for request in service.requests}


@pytest.fixture
def google() -> Iterator[FakeService]:
    with FakeService("google") as service:
        yield service


@pytest.fixture
def azure() -> Iterator[FakeService]:
    with FakeService("azure") as service:
        yield service


# -- Google ----------------------------------------------------------------------------------------------------


@both
def test_F072_anonymous_google(ic: Any) -> None:
    assert isinstance(ic.gcs_credentials(anonymous=True), ic.GcsCredentials.Anonymous)
    assert ic.gcs_storage(bucket="b", prefix=None, anonymous=True)
    if ic is ours:  # the original refuses what it made itself
        wrapped = ic.containers_credentials({"gs://b/": ic.gcs_credentials(anonymous=True)})
        assert wrapped == {"gs://b/": ic.Credentials.Gcs(gcs_anonymous_credentials())}


def test_F072_anonymous_requests_are_unsigned(google: FakeService) -> None:
    used(google.storage(bearer_token="t"))
    google.requests.clear()
    assert ours.Repository.open(google.storage(anonymous=True)).list_branches() == {"main"}
    assert sent(google) == {""}


@both
def test_F073_google_bearer_tokens(ic: Any) -> None:
    made = ic.gcs_credentials(bearer_token="t")
    assert isinstance(made, ic.GcsCredentials.Static)
    assert isinstance(made._0, ic.GcsStaticCredentials.BearerToken)


def test_F073_the_token_is_sent(google: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "of the environment")
    used(google.storage(bearer_token="mine"))
    assert sent(google) == {"Bearer mine"}
    google.requests.clear()
    ours.Repository.open(google.storage(from_env=True))
    assert sent(google) == {"Bearer of the environment"}


@both
def test_F074_refreshable_google_credentials(ic: Any) -> None:
    held = ic.gcs_refreshable_credentials(google_token)
    assert isinstance(held, ic.GcsCredentials.Refreshable)
    assert pickle.loads(held.pickled_function) is google_token
    assert (CALLS, held.current) == ([], None)
    if ic is ours:  # in the original only with from_env=False
        assert isinstance(ic.gcs_credentials(get_credentials=google_token), ic.GcsCredentials.Refreshable)


def test_F074_the_function_is_called_as_often_as_needed(google: FakeService) -> None:
    used(google.storage(get_credentials=google_token))
    assert (CALLS, sent(google)) == (["gcs"], {"Bearer TOKEN1"})
    CALLS.clear()
    google.requests.clear()
    repo = ours.Repository.open(google.storage(get_credentials=endless_google_token))
    repo.list_branches()
    assert len(sent(google)) == len(google.requests) == len(CALLS), "it does not say how long it holds"


@both
def test_F075_names_at_the_top(ic: Any) -> None:
    assert {"GcsBearerCredential", "GcsCredentials", "GcsStaticCredentials"} <= set(dir(ic))
    assert not {"gcs_anonymous_credentials", "azure_store"} & set(dir(ic))
    assert azure_store(account="a")


# -- pickling --------------------------------------------------------------------------------------------------

GOOGLE_KINDS: dict[str, dict[str, Any]] = {
    "token": {"bearer_token": "t"},
    "function": {"get_credentials": google_token},
    "scattered": {"get_credentials": google_token, "scatter_initial_credentials": True},
}
AZURE_KINDS: dict[str, dict[str, Any]] = {
    "key": {"access_key": "U0s="},
    "signature": {"sas_token": "sv=2023&sig=abc"},
    "token": {"bearer_token": "t"},
    "function": {"get_credentials": azure_token},
    "scattered": {"get_credentials": azure_token, "scatter_initial_credentials": True},
    "anonymous": {"anonymous": True},
    "environment": {"from_env": True},
}
S3_KINDS: dict[str, dict[str, Any]] = {
    "keys": dict(KEYS),
    "session": {**KEYS, "session_token": "TOKEN", "expires_after": datetime(2100, 1, 1, tzinfo=UTC)},
    "function": {"get_credentials": s3_key},
    "scattered": {"get_credentials": s3_key, "scatter_initial_credentials": True},
    "anonymous": {"anonymous": True},
    "environment": {"from_env": True},
}


def check_copies(repo: Any) -> None:
    """Copies of a repository, its sessions and its storage work."""
    session = repo.writable_session("main")
    put(session.store, "b/zarr.json", array_document((1,)))
    for copy in (pickle.loads(pickle.dumps(repo)).readonly_session("main"), pickle.loads(pickle.dumps(repo.storage))):
        if isinstance(copy, ours.Storage):
            assert copy == repo.storage
            assert hash(copy) == hash(repo.storage)
            copy = ours.Repository.open(copy).readonly_session("main")
        assert keys_of(copy.store) == ["a/zarr.json"]
    fork = pickle.loads(pickle.dumps(repo.writable_session("main").fork()))
    put(fork.store, "c/zarr.json", array_document((1,)))
    copied = pickle.loads(pickle.dumps(fork))
    assert keys_of(copied.store) == ["a/zarr.json", "c/zarr.json"]


@pytest.mark.parametrize("kind", S3_KINDS)
def test_F076_s3_credentials_survive_pickling(kind: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRET")

    async def open_to_all(request: Request, forward: Forward) -> Answer:
        signed = CIMultiDict(request.headers)
        signed.setdefault("Authorization", "AWS4-HMAC-SHA256 Credential=proxy/20240101/us-east-1/s3/aws4_request")
        return await forward(replace(request, headers=CIMultiDictProxy(signed)))

    bucket.proxy.handle = open_to_all  # this server refuses unsigned requests
    check_copies(used(bucket.storage(**S3_KINDS[kind])))
    assert signers(bucket) == {{"anonymous": "nobody", "environment": "ENVIRONMENT"}.get(kind, "KEYID")}


@pytest.mark.parametrize("kind", GOOGLE_KINDS)
def test_F076_google_credentials_survive_pickling(kind: str, google: FakeService) -> None:
    check_copies(used(google.storage(**GOOGLE_KINDS[kind])))
    assert all(text.startswith("Bearer ") for text in sent(google))


@pytest.mark.parametrize("kind", AZURE_KINDS)
def test_F076_azure_credentials_survive_pickling(
    kind: str, azure: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_TOKEN", "of the environment")
    check_copies(used(azure.storage(**AZURE_KINDS[kind])))
    if kind == "signature":
        assert all("sig=abc" in request.target for request in azure.requests)
        return
    starts = {"key": "SharedKey acc:", "token": "Bearer t", "function": "Bearer TOKEN", "scattered": "Bearer TOKEN1"}
    starts["environment"] = "Bearer of the environment"
    if kind == "anonymous":
        assert sent(azure) == {""}
    assert all(text.startswith(starts.get(kind, "")) for text in sent(azure))


def test_F076_in_another_process(bucket: Bucket) -> None:
    used(bucket.storage())
    code = f"import pickle; print(pickle.loads({pickle.dumps(bucket.storage())!r}).object_store().get)\n"
    code += f"import icechunk_virtual as ic; r = ic.Repository.open(pickle.loads({pickle.dumps(bucket.storage())!r}))\n"
    code += "print(sorted(r.list_branches()))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "['main']" in done.stdout, done.stderr


# -- functions -------------------------------------------------------------------------------------------------


@both
def test_F077_the_user_s_function_is_called_once(ic: Any, bucket: Bucket) -> None:
    def scenario(get_credentials: Callable[[], Any]) -> None:
        storage = bucket.storage(ic, get_credentials=get_credentials)
        assert not CALLS
        repo = ic.Repository.create(storage)
        session = repo.writable_session("main")
        put(session.store, "a/zarr.json", array_document((1,)))
        session.commit("c1")
        repo = ic.Repository.open(storage)
        repo.list_branches()

    if ic is ours:
        scenario(s3_key)
        assert len(CALLS) == 1
        assert signers(bucket) == {"KEYID"}
        assert {request.headers["x-amz-security-token"] for request in bucket.proxy.requests} == {"TOKEN"}
    with pytest.raises((pickle.PicklingError, AttributeError)):
        bucket.storage(ic, get_credentials=lambda: None)


def test_F077_different_settings_share_the_credentials(bucket: Bucket) -> None:
    storage = bucket.storage(get_credentials=s3_key)
    used(storage)
    ours.Repository.open(storage, ours.RepositoryConfig(storage=ours.StorageSettings(storage_class="X")))
    assert len(CALLS) == 1


def test_F077_credentials_are_replaced_before_they_end(bucket: Bucket) -> None:
    storage = bucket.storage(get_credentials=s3_key_that_ends_soon)
    repo = used(storage)
    repo.list_branches()
    assert len(CALLS) > 2
    assert signers(bucket) == {f"KEY{i + 1}" for i in range(len(CALLS))}


def test_F077_failures_of_the_function_are_shown(bucket: Bucket) -> None:
    with pytest.raises(PermissionDenied, match="the vault is closed"):
        ours.Repository.exists(bucket.storage(get_credentials=broken))
    with pytest.raises(PermissionDenied, match="must return S3StaticCredentials, not GcsBearerCredential"):
        ours.Repository.exists(bucket.storage(get_credentials=google_token))


@pytest.mark.parametrize("kind", ["s3", "gcs"])
def test_F078_the_first_credentials_travel(kind: str, bucket: Bucket, google: FakeService) -> None:
    place, function = (bucket, s3_key) if kind == "s3" else (google, google_token)
    storage = place.storage(get_credentials=function, scatter_initial_credentials=True)
    assert len(CALLS) == 1
    check_copies(used(storage))
    assert len(CALLS) == 1


# -- what is shown ---------------------------------------------------------------------------------------------


@both
def test_F079_storages_show_no_secrets(ic: Any) -> None:
    shown = [
        repr(
            ic.s3_storage(
                bucket="my-bucket", prefix="my-prefix", region="r", access_key_id="AK", secret_access_key="SK"
            )
        ),
        repr(ic.gcs_storage(bucket="my-bucket", prefix="my-prefix", bearer_token="SK", config={"a_secret": "SK"})),
        repr(ic.azure_storage(account="a", container="my-bucket", prefix="my-prefix", access_key="SK")),
    ]
    for text in shown:
        assert "SK" not in text
        assert "my-bucket" in text
        assert "my-prefix" in text


def test_F079_nor_do_repositories_and_errors(bucket: Bucket) -> None:
    repo = used(bucket.storage(session_token="TOKEN"))
    session = repo.writable_session("main")
    shown = [repr(thing) for thing in (repo, session, session.store, repo.storage.object_store())]
    with pytest.raises(ours.IcechunkError) as caught:
        ours.Repository.open(bucket.storage(prefix="elsewhere"))
    for text in (*shown, str(caught.value)):
        assert "SECRET" not in text
        assert "TOKEN" not in text
    assert f"s3://{bucket.name}/elsewhere" in str(caught.value)
