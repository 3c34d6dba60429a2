"""Errors that repair: the code that they print is pasted here, with the right values in it, and makes the read work."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict

import icechunk_virtual as icv
from icechunk_virtual.containers.container import azure_store
from icechunk_virtual.errors import ContainerError, IcechunkError, NoContainer, NotAuthorized, VirtualReadError
from tests.support.certificates import tls_of_own_authority
from tests.support.hierarchies import array_document, get, put
from tests.support.object_server import ObjectServer
from tests.support.proxy import Answer, Forward, Proxy, Request
from tests.support.snippets import machine_without_credentials, paste, snippets

CONTENT = b"0123456789"
GOOD = icv.s3_credentials(access_key_id="GOOD", secret_access_key="s")


class Cloud(ObjectServer):
    """S3, Google and Azure on this machine: they know buckets, who may read, and S3 regions."""

    def __init__(self, **more: Any) -> None:
        super().__init__({"/bucket/f": CONTENT}, **more)

    def reset(self) -> None:
        """Everybody whose credentials have GOOD in them may read."""
        super().reset()
        self.handle = self.judge
        self.region = "us-east-1"
        self.tells_region = True
        self.refusal = (403, "InvalidAccessKeyId")
        self.public = False

    async def judge(self, request: Request, forward: Forward) -> Answer:
        shown = request.headers.get("Authorization", "") + request.target
        there = CIMultiDict({"x-amz-bucket-region": self.region})
        if not request.target.startswith("/bucket"):
            return refusal(404, "NoSuchBucket")
        if request.method == "HEAD":
            return Answer(403, there)
        if "AWS4" in shown and f"/{self.region}/s3/" not in shown:
            if self.tells_region:
                return refusal(400, "AuthorizationHeaderMalformed", f"<Region>{self.region}</Region>")
            return Answer(301, there)
        if not (self.public or "GOOD" in shown):
            return refusal(*self.refusal)
        return await self.serve_object(Request(request.method, "/bucket/f", request.headers, b""), forward)


def refusal(status: int, code: str, more: str = "") -> Answer:
    return Answer(status, body=f"<Error><Code>{code}</Code>{more}</Error>".encode())


@pytest.fixture(scope="module")
def running() -> Iterator[Cloud]:
    with Cloud() as cloud:
        yield cloud


@pytest.fixture
def cloud(running: Cloud) -> Cloud:
    running.reset()
    return running


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with machine_without_credentials(monkeypatch):
        yield


def s3(cloud: Cloud, **more: Any) -> Any:
    given = {"region": "us-east-1", "endpoint_url": cloud.url, "allow_http": True, "force_path_style": True} | more
    return icv.s3_store(**given)


def store_of(service: str, cloud: Cloud) -> tuple[str, Any]:
    """Prefix and store of a container."""
    if service == "s3":
        return "s3://bucket/", s3(cloud)
    if service == "gcs":
        return "gs://bucket/", icv.gcs_store({"google_base_url": cloud.url, "allow_http": "true"})
    return "az://bucket/", azure_store(account="me", config={"endpoint": cloud.url, "allow_http": "true"})


class Archive:
    """A repository with one virtual chunk, opened by somebody."""

    def __init__(self, prefix: str, store: Any = None) -> None:
        self.storage = icv.in_memory_storage()
        self.prefix = prefix
        config = icv.RepositoryConfig(storage=icv.StorageSettings(retries=icv.StorageRetriesSettings(2, 1, 1)))
        if store is not None:
            config.set_virtual_chunk_container(icv.VirtualChunkContainer(prefix, store))
        session = icv.Repository.create(self.storage, config).writable_session("main")
        put(session.store, "zarr.json", array_document((10,), (10,)))
        session.store.set_virtual_ref("c/0", f"{prefix}f", offset=0, length=10, validate_container=False)
        session.commit("m")
        self.config = config

    def opened(self, credentials: Any = None) -> icv.Repository:
        """By somebody who brings the container along, so that its endpoint counts."""
        grants = icv.containers_credentials({self.prefix: credentials})
        return icv.Repository.open(self.storage, self.config, grants)

    def failure(self, repo: icv.Repository) -> IcechunkError:
        """The error of a read. It names the prefix."""
        with pytest.raises(ContainerError) as caught:
            read(repo)
        assert self.prefix in str(caught.value)
        return caught.value

    def repaired(self, error: BaseException, *values: tuple[str, str], block: int = 0, **names: Any) -> icv.Repository:
        """The repository that the printed code makes, with placeholders replaced."""
        made = paste(snippets(error)[block], *values, storage=self.storage, **names)
        repo: icv.Repository = made["repo"]
        return repo


def read(repo: icv.Repository) -> bytes | None:
    return get(repo.readonly_session("main").store, "c/0")


KEYS = {
    "s3": [("KEY_ID", "GOOD")],
    "gcs": [("service_account_file", "bearer_token"), ("/path/of/key.json", "GOOD")],
    "azure": [("access_key", "bearer_token"), ("ACCOUNT_KEY", "GOOD")],
}
TOKENS = {"s3": [("KEY_ID", "GOOD")], "gcs": [("TOKEN", "GOOD")], "azure": [("TOKEN", "GOOD")]}
BAD = {
    "s3": icv.s3_credentials(access_key_id="BAD", secret_access_key="s"),
    "gcs": icv.gcs_credentials(bearer_token="BAD"),
    "azure": icv.azure_credentials(bearer_token="BAD"),
}
everywhere = pytest.mark.parametrize("service", ["s3", "gcs", "azure"])


# -- who may read ------------------------------------------------------------------------------------------------------


def test_no_container_of_files(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(CONTENT)
    archive = Archive(f"file://{tmp_path}/")
    error = archive.failure(icv.Repository.open(archive.storage))
    assert type(error) is NoContainer
    assert read(archive.repaired(error)) == CONTENT
    assert archive.prefix in icv.Repository.open(archive.storage).config.virtual_chunk_containers  # it was saved


def test_no_container(cloud: Cloud) -> None:
    cloud.public = True
    archive = Archive("s3://bucket/")
    error = archive.failure(icv.Repository.open(archive.storage))
    options = f"endpoint_url={cloud.url!r}, allow_http=True, force_path_style=True, anonymous=True)"
    assert read(archive.repaired(error, ('"us-east-1")', f'"us-east-1", {options}'))) == CONTENT


def test_not_authorized(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(CONTENT)
    archive = Archive(f"file://{tmp_path}/", icv.local_filesystem_store(tmp_path))
    error = archive.failure(icv.Repository.open(archive.storage))
    assert type(error) is NotAuthorized
    assert read(archive.repaired(error)) == CONTENT


# -- credentials -------------------------------------------------------------------------------------------------------


@everywhere
def test_no_credentials(service: str, cloud: Cloud) -> None:
    archive = Archive(*store_of(service, cloud))
    from_env = {"s3": None, "gcs": icv.gcs_from_env_credentials(), "azure": icv.azure_from_env_credentials()}[service]
    error = archive.failure(archive.opened(from_env))
    assert isinstance(error, VirtualReadError)
    assert "there are no credentials" in error.message
    assert (error.status, error.tries) == (None, 1)
    allowed = [(", authorize", ", config, authorize")]
    assert read(archive.repaired(error, *KEYS[service], *allowed, config=archive.config)) == CONTENT
    cloud.public = True
    assert read(archive.repaired(error, *allowed, block=1, config=archive.config)) == CONTENT


def test_profiles_whose_keys_only_boto3_gets(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "answer").write_text('{"Version": 1, "AccessKeyId": "GOOD", "SecretAccessKey": "s"}')
    (tmp_path / "config").write_text(f"[default]\ncredential_process = cat {tmp_path / 'answer'}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    archive = Archive("s3://bucket/", s3(cloud))
    error = archive.failure(archive.opened())
    keys = paste(snippets(error)[0])["keys"]
    assert read(archive.opened(icv.s3_credentials(get_credentials=keys))) == CONTENT


@everywhere
def test_wrong_credentials(service: str, cloud: Cloud) -> None:
    archive = Archive(*store_of(service, cloud))
    cloud.refusal = (403, "AuthenticationFailed")
    error = archive.failure(archive.opened(BAD[service]))
    assert "the credentials are not valid" in error.message
    assert (error.status, error.tries) == (403, 1)  # type: ignore[attr-defined]
    opened = archive.repaired(error, *KEYS[service], (", authorize", ", config, authorize"), config=archive.config)
    assert read(opened) == CONTENT


@everywhere
@pytest.mark.parametrize(
    ("status", "body"), [(400, "ExpiredToken"), (401, "X</Code><Message>The token is expired</Message><Code>")]
)
def test_expired_credentials(status: int, body: str, service: str, cloud: Cloud) -> None:
    archive = Archive(*store_of(service, cloud))
    cloud.refusal = (status, body)
    error = archive.failure(archive.opened(BAD[service]))
    assert "the credentials have expired" in error.message
    opened = archive.repaired(error, *TOKENS[service], (", authorize", ", config, authorize"), config=archive.config)
    assert read(opened) == CONTENT


def expired() -> icv.S3StaticCredentials:
    return icv.S3StaticCredentials("BAD", "s", "t", datetime.now(UTC) + timedelta(hours=1))


def test_a_function_that_returns_expired_credentials(cloud: Cloud) -> None:
    archive = Archive(*store_of("s3", cloud))
    cloud.refusal = (400, "ExpiredToken")
    error = archive.failure(archive.opened(icv.s3_credentials(get_credentials=expired)))
    assert "function that was given as get_credentials return others" in error.message
    assert error.tries == 2  # type: ignore[attr-defined]  # it was asked once more


def broken() -> Any:
    raise OSError("the vault is closed")


def test_a_function_that_fails(cloud: Cloud) -> None:
    archive = Archive(*store_of("s3", cloud))
    error = archive.failure(archive.opened(icv.s3_credentials(get_credentials=broken)))
    assert re.search("the function that gets credentials failed .*the vault is closed", error.message)
    assert "Correct the function" in error.message
    assert not cloud.requests


@everywhere
def test_credentials_that_are_not_enough(service: str, cloud: Cloud) -> None:
    archive = Archive(*store_of(service, cloud))
    cloud.refusal = (403, "AccessDenied")
    error = archive.failure(archive.opened(BAD[service]))
    assert "permission denied" in error.message
    assert ("requester_pays" in error.message) == (service == "s3")
    opened = archive.repaired(error, *KEYS[service], (", authorize", ", config, authorize"), config=archive.config)
    assert read(opened) == CONTENT


def test_an_address_that_was_granted_is_granted_again(cloud: Cloud) -> None:
    """The endpoint of a stored container counts only if its opener names it: so does the code."""
    archive = Archive("s3://bucket/", s3(cloud))
    grants = icv.containers_credentials({"s3://bucket/": BAD["s3"], f"{cloud.url}/": None})
    error = archive.failure(icv.Repository.open(archive.storage, None, grants))
    assert read(archive.repaired(error, *KEYS["s3"])) == CONTENT


def test_who_pays_at_google(cloud: Cloud) -> None:
    async def handle(request: Request, forward: Forward) -> Answer:
        if request.headers.get("x-goog-user-project") == "mine":
            return await cloud.judge(request, forward)
        return refusal(400, "UserProjectMissing")

    cloud.handle = handle
    archive = Archive(*store_of("gcs", cloud))
    good = icv.gcs_credentials(bearer_token="GOOD")
    error = archive.failure(archive.opened(good))
    assert "whoever reads has to pay" in error.message
    assert read(archive.repaired(error, ("PROJECT", "mine"), credentials=good)) == CONTENT
    with pytest.raises(NotAuthorized, match="user_project"):  # a repository cannot say who pays
        read(icv.Repository.open(archive.storage, None, icv.containers_credentials({"gs://bucket/": good})))


# -- where it is -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tells_region", [True, False])
def test_wrong_region(tells_region: bool, cloud: Cloud) -> None:
    cloud.region, cloud.tells_region = "eu-central-1", tells_region
    archive = Archive("s3://bucket/", s3(cloud, region="us-west-2", requester_pays=True))
    error = archive.failure(archive.opened(GOOD))
    assert "the bucket is in another region" in error.message
    assert 'region="eu-central-1"' in error.message
    repo = archive.repaired(error, credentials=GOOD)
    assert read(repo) == CONTENT
    store: Any = repo.config.virtual_chunk_containers["s3://bucket/"].store
    assert store._0 == s3(cloud, region="eu-central-1", requester_pays=True)._0  # everything else as it was


def test_a_region_that_nobody_tells(cloud: Cloud) -> None:
    async def handle(request: Request, _forward: Forward) -> Answer:
        return Answer(301, CIMultiDict({"x-amz-bucket-region": 'x"; evil'}))

    cloud.handle = handle
    archive = Archive("s3://bucket/", s3(cloud))
    assert 'region="REGION"' in archive.failure(archive.opened(GOOD)).message


def test_no_bucket(cloud: Cloud) -> None:
    async def empty(*_: object) -> Answer:
        return refusal(404, "NoSuchBucket")

    with Proxy() as other:
        other.handle = empty
        archive = Archive("s3://bucket/", s3(cloud, endpoint_url=other.url))
        error = archive.failure(archive.opened(GOOD))
    assert "the bucket or container does not exist" in error.message
    assert (error.status, error.tries) == (404, 1)  # type: ignore[attr-defined]
    assert read(archive.repaired(error, ("https://ENDPOINT", cloud.url), credentials=GOOD)) == CONTENT


def test_no_host(cloud: Cloud) -> None:
    archive = Archive("s3://bucket/", s3(cloud, endpoint_url="https://no-such-host.invalid"))
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("http_proxy")
        error = archive.failure(archive.opened(GOOD))
    assert "there is no host of that name" in error.message
    assert read(archive.repaired(error, ("https://ENDPOINT", cloud.url), credentials=GOOD)) == CONTENT


# -- connections -------------------------------------------------------------------------------------------------------


def test_plain_http(cloud: Cloud) -> None:
    archive = Archive("s3://bucket/", s3(cloud, allow_http=False))
    error = archive.failure(archive.opened(GOOD))
    assert "plain http is not allowed" in error.message
    assert read(archive.repaired(error, credentials=GOOD)) == CONTENT


def test_plain_http_at_google(cloud: Cloud) -> None:
    archive = Archive("gs://bucket/", icv.gcs_store({"google_base_url": cloud.url}))
    error = archive.failure(archive.opened(icv.gcs_credentials(bearer_token="GOOD")))
    opened = archive.repaired(error, credentials=icv.gcs_credentials(bearer_token="GOOD"))
    assert read(opened) == CONTENT


def test_tls_to_a_server_without(cloud: Cloud) -> None:
    archive = Archive("s3://bucket/", s3(cloud, endpoint_url=cloud.url.replace("http", "https")))
    error = archive.failure(archive.opened(GOOD))
    assert "the server does not speak TLS" in error.message
    assert read(archive.repaired(error, credentials=GOOD)) == CONTENT


def test_a_certificate_of_an_unknown_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    context, authority = tls_of_own_authority(tmp_path)
    with Cloud(tls=context) as cloud:
        archive = Archive("s3://bucket/", s3(cloud, allow_http=False))
        error = archive.failure(archive.opened(GOOD))
        assert "the certificate of the server is not trusted here" in error.message
        assert error.tries == 1  # type: ignore[attr-defined]
        monkeypatch.setenv("SSL_CERT_FILE", "")  # restored after the test
        paste(snippets(error)[0], ("/path/of/authority.pem", str(authority)))
        assert read(archive.opened(GOOD)) == CONTENT


def test_a_clock_that_is_wrong(cloud: Cloud) -> None:
    archive = Archive("s3://bucket/", s3(cloud))
    cloud.refusal = (403, "RequestTimeTooSkewed")
    error = archive.failure(archive.opened(BAD["s3"]))
    assert "the clock of this machine and the server's differ" in error.message
    assert snippets(error) == ["sudo timedatectl set-ntp true"]


# -- what must not be in it --------------------------------------------------------------------------------------------


def test_code_holds_no_secrets_and_no_code_of_the_repository(cloud: Cloud) -> None:
    prefix = 's3://bucket/"});__import__("os").abort()#/'
    archive = Archive(prefix, s3(cloud))
    cloud.refusal = (403, "InvalidAccessKeyId")
    error = archive.failure(archive.opened(icv.s3_credentials(access_key_id="BAD", secret_access_key="HIDDEN")))
    assert "HIDDEN" not in error.message
    code = snippets(error)[0]
    compile(code, "pasted", "exec")
    assert "abort" not in re.sub(r'"(?:[^"\\]|\\.)*"', "", code)
