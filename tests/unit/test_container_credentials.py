"""Credentials of containers: of the user, of the environment, nobody's, or those that a function returns."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import icechunk_virtual as icv
from icechunk_virtual.containers.authorize import Authorization
from icechunk_virtual.containers.container import VirtualChunkContainer
from icechunk_virtual.containers.fetch import Fetcher
from icechunk_virtual.errors import ContainerError, VirtualReadError
from icechunk_virtual.model.chunk_refs import VirtualChunk
from icechunk_virtual.repo.remote_chunks import make_fetcher
from tests.support.containers import prefix_of, store_of
from tests.support.object_server import ObjectServer
from tests.support.proxy import Answer, Forward, Request

CONTENT = bytes(range(256))
HOUR = timedelta(hours=1)
CALLS: list[str] = []
STORES = ("s3", "tigris", "gs", "az")
everywhere = pytest.mark.parametrize("scheme", STORES)


def name(number: int | None = None) -> str:
    """Of the credentials of a call."""
    CALLS.append(threading.current_thread().name)
    return f"CANARY{len(CALLS) if number is None else number}"


def in_an_hour() -> datetime:
    return datetime.now(UTC) + HOUR


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=30)


def s3_key() -> Any:
    return icv.S3StaticCredentials(name(), "secret", "token", in_an_hour())


def s3_key_that_ends_soon() -> Any:
    return icv.S3StaticCredentials(name(), "secret", "token", soon())


def google_token() -> Any:
    return icv.GcsBearerCredential(name(), expires_after=in_an_hour())


def google_token_that_ends_soon() -> Any:
    return icv.GcsBearerCredential(name(), expires_after=soon())


def azure_token() -> Any:
    return icv.AzureRefreshableCredential.BearerToken(name(), in_an_hour())


def azure_token_that_ends_soon() -> Any:
    return icv.AzureRefreshableCredential.BearerToken(name(), soon())


def azure_signature() -> Any:
    return icv.AzureRefreshableCredential.SasToken(f"sv=1&sig={name()}")


def azure_key() -> Any:
    name()
    return icv.AzureRefreshableCredential.AccessKey("U0s=")


def wrong_type() -> Any:
    return name()


def broken() -> Any:
    raise OSError("the vault is closed")


LASTING: dict[str, Callable[[], Any]] = {"s3": s3_key, "tigris": s3_key, "gs": google_token, "az": azure_token}
ENDING: dict[str, Callable[[], Any]] = {
    "s3": s3_key_that_ends_soon,
    "tigris": s3_key_that_ends_soon,
    "gs": google_token_that_ends_soon,
    "az": azure_token_that_ends_soon,
}
MAKERS: dict[str, Callable[..., Any]] = {
    "s3": icv.s3_refreshable_credentials,
    "tigris": icv.s3_refreshable_credentials,
    "gs": icv.gcs_refreshable_credentials,
    "az": icv.azure_refreshable_credentials,
}


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    CALLS.clear()
    for variable in [variable for variable in os.environ if variable.startswith(("AWS_", "GOOGLE_", "AZURE_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")


@pytest.fixture
def server() -> Iterator[ObjectServer]:
    with ObjectServer({"/bucket/f": CONTENT}) as running:
        yield running


def fetcher_for(scheme: str, server: ObjectServer, granted: Any) -> Fetcher:
    prefix = prefix_of(scheme, server.url)
    store: Any = store_of(scheme, server.url)
    if scheme == "gs":  # with the address alone: credentials are what is granted
        store = icv.gcs_store({"google_base_url": server.url, "allow_http": "true"})
    container = VirtualChunkContainer(prefix, store)
    retries = icv.StorageRetriesSettings(max_tries=2, initial_backoff_ms=1, max_backoff_ms=1)
    config = icv.RepositoryConfig(storage=icv.StorageSettings(retries=retries))
    return make_fetcher(Authorization({prefix: container}, icv.containers_credentials({prefix: granted})), config)


def fetch(fetcher: Fetcher, scheme: str, *, at: int = 0) -> bytes:
    return bytes(asyncio.run(fetcher.fetch(VirtualChunk(f"{scheme}://bucket/f", at, 10))))


def shown(request: Request) -> str:
    """Everything by which a request says who asks."""
    return request.headers.get("Authorization", "") + request.target.partition("?")[2]


def refuse(server: ObjectServer, status: int, code: str, *, until: str) -> None:
    """Refuse every request that does not show those credentials."""

    async def handle(request: Request, forward: Forward) -> Answer:
        if until in shown(request):
            return await server.serve_object(request, forward)
        return Answer(status, body=f"<Error><Code>{code}</Code></Error>".encode())

    server.handle = handle


# -- functions ---------------------------------------------------------------------------------------------------------


@everywhere
def test_a_function_is_called_once_for_many_requests(scheme: str, server: ObjectServer) -> None:
    fetcher = fetcher_for(scheme, server, MAKERS[scheme](LASTING[scheme]))
    assert CALLS == []
    assert [fetch(fetcher, scheme, at=at) for at in (0, 100)] == [CONTENT[:10], CONTENT[100:110]]
    assert len(CALLS) == 1
    assert all("CANARY1" in shown(request) for request in server.requests)


@everywhere
def test_it_is_called_again_before_they_end(scheme: str, server: ObjectServer) -> None:
    fetcher = fetcher_for(scheme, server, MAKERS[scheme](ENDING[scheme]))
    for at in (0, 100):
        fetch(fetcher, scheme, at=at)
    assert len(CALLS) == 2
    assert [f"CANARY{i}" in shown(request) for i, request in enumerate(server.requests, 1)] == [True, True]


@pytest.mark.parametrize("refusal", [(401, "X"), (400, "ExpiredToken"), (403, "ExpiredToken"), (403, "InvalidToken")])
@everywhere
def test_it_is_called_again_when_a_server_refuses(scheme: str, refusal: tuple[int, str], server: ObjectServer) -> None:
    refuse(server, *refusal, until="CANARY2")
    fetcher = fetcher_for(scheme, server, MAKERS[scheme](LASTING[scheme]))
    assert fetch(fetcher, scheme) == CONTENT[:10]
    assert (len(CALLS), len(server.requests)) == (2, 2)


@everywhere
def test_once_and_no_further(scheme: str, server: ObjectServer) -> None:
    refuse(server, 401, "X", until="nobody")
    fetcher = fetcher_for(scheme, server, MAKERS[scheme](LASTING[scheme]))
    with pytest.raises(VirtualReadError) as caught:
        fetch(fetcher, scheme)
    assert (caught.value.status, caught.value.tries) == (401, 2)
    assert (len(CALLS), len(server.requests)) == (2, 2)
    assert "CANARY" not in str(caught.value)


def test_a_denied_permission_asks_nobody(server: ObjectServer) -> None:
    refuse(server, 403, "AccessDenied", until="nobody")
    with pytest.raises(VirtualReadError, match="permission denied"):
        fetch(fetcher_for("s3", server, MAKERS["s3"](s3_key)), "s3")
    assert len(CALLS) == 1


def test_one_call_serves_all_who_were_refused(server: ObjectServer) -> None:
    refuse(server, 401, "X", until="CANARY2")
    fetcher = fetcher_for("s3", server, MAKERS["s3"](s3_key))

    async def many() -> list[Any]:
        chunks = [VirtualChunk("s3://bucket/f", at, 1) for at in range(0, 200, 10)]
        return await asyncio.gather(*map(fetcher.fetch, chunks))

    assert [bytes(data) for data in asyncio.run(many())] == [CONTENT[at : at + 1] for at in range(0, 200, 10)]
    assert len(CALLS) == 2


@everywhere
def test_the_first_result_travels(scheme: str, server: ObjectServer) -> None:
    granted = MAKERS[scheme](LASTING[scheme], scatter_initial_credentials=True)
    assert len(CALLS) == 1
    fetcher = fetcher_for(scheme, server, granted)
    for copy in (fetcher, *(pickle.loads(pickle.dumps(fetcher)) for _ in range(2))):
        assert fetch(copy, scheme) == CONTENT[:10]
    assert len(CALLS) == 1
    assert all("CANARY1" in shown(request) for request in server.requests)


@everywhere
def test_without_that_each_copy_asks_itself(scheme: str, server: ObjectServer) -> None:
    fetcher = fetcher_for(scheme, server, MAKERS[scheme](LASTING[scheme]))
    for copy in (fetcher, pickle.loads(pickle.dumps(fetcher))):
        fetch(copy, scheme)
    assert len(CALLS) == 2


@pytest.mark.parametrize(("function", "proof"), [(azure_signature, "sig=CANARY1"), (azure_key, "SharedKey me:")])
def test_azure_s_functions_may_return_any_kind(function: Any, proof: str, server: ObjectServer) -> None:
    fetch(fetcher_for("az", server, icv.azure_credentials(get_credentials=function)), "az")
    assert proof in shown(server.requests[0])
    assert len(CALLS) == 1


@everywhere
def test_functions_that_fail(scheme: str, server: ObjectServer) -> None:
    with pytest.raises(VirtualReadError, match=r"function that gets credentials failed .*the vault is closed"):
        fetch(fetcher_for(scheme, server, MAKERS[scheme](broken)), scheme)
    with pytest.raises(VirtualReadError, match=r"must return .*, not str") as caught:
        fetch(fetcher_for(scheme, server, MAKERS[scheme](wrong_type)), scheme)
    assert caught.value.tries == 1
    assert not server.requests


# -- other kinds -------------------------------------------------------------------------------------------------------

ANONYMOUS = {
    "s3": icv.s3_anonymous_credentials(),
    "tigris": icv.s3_anonymous_credentials(),
    "gs": icv.gcs_credentials(anonymous=True),
    "az": icv.azure_credentials(anonymous=True),
}
STATIC = {
    "s3": icv.s3_credentials(access_key_id="CANARY", secret_access_key="s"),
    "tigris": icv.s3_credentials(access_key_id="CANARY", secret_access_key="s"),
    "gs": icv.gcs_credentials(bearer_token="CANARY"),
    "az": icv.azure_credentials(sas_token="sv=1&sig=CANARY"),
}
ENVIRONMENT = {
    "s3": ({"AWS_ACCESS_KEY_ID": "CANARY", "AWS_SECRET_ACCESS_KEY": "s"}, icv.s3_from_env_credentials()),
    "tigris": ({"AWS_ACCESS_KEY_ID": "CANARY", "AWS_SECRET_ACCESS_KEY": "s"}, None),
    "gs": ({"GOOGLE_BEARER_TOKEN": "CANARY"}, icv.gcs_from_env_credentials()),
    "az": ({"AZURE_STORAGE_SAS_KEY": "sv=1&sig=CANARY"}, icv.azure_from_env_credentials()),
}


@everywhere
def test_anonymous(scheme: str, server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in ENVIRONMENT[scheme][0].items():
        monkeypatch.setenv(variable, value)
    assert fetch(fetcher_for(scheme, server, ANONYMOUS[scheme]), scheme) == CONTENT[:10]
    assert [shown(request) for request in server.requests] == [""]


@everywhere
def test_of_the_user(scheme: str, server: ObjectServer) -> None:
    fetcher = fetcher_for(scheme, server, STATIC[scheme])
    fetch(pickle.loads(pickle.dumps(fetcher)), scheme)
    assert "CANARY" in shown(server.requests[0])


@everywhere
def test_of_the_environment(scheme: str, server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    variables, granted = ENVIRONMENT[scheme]
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    fetch(fetcher_for(scheme, server, granted), scheme)
    assert "CANARY" in shown(server.requests[0])


def test_azure_needs_credentials_even_for_public_data() -> None:
    prefix = "az://bucket/"
    config = icv.RepositoryConfig()
    config.set_virtual_chunk_container(VirtualChunkContainer(prefix, store_of("az", "http://h")))
    with pytest.raises(ContainerError, match="need explicit credentials"):
        icv.Repository.create(icv.in_memory_storage(), config, {prefix: None})


@everywhere
def test_nothing_is_printed(scheme: str, server: ObjectServer) -> None:
    made = MAKERS[scheme](LASTING[scheme], scatter_initial_credentials=True)
    for granted in (STATIC[scheme], made):
        fetcher = fetcher_for(scheme, server, granted)
        fetch(fetcher, scheme)
        for value in (granted, fetcher.authorization, icv.containers_credentials({f"{scheme}://bucket/": granted})):
            assert "CANARY" not in repr(value)


# -- options of stores -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["s3", "tigris"])
def test_requester_pays(scheme: str, server: ObjectServer) -> None:
    prefix = prefix_of(scheme, server.url)
    store: Any = store_of(scheme, server.url, requester_pays=True)
    fetcher = make_fetcher(
        Authorization(
            {prefix: VirtualChunkContainer(prefix, store)}, icv.containers_credentials({prefix: STATIC[scheme]})
        ),
        icv.RepositoryConfig(),
    )
    fetch(fetcher, scheme)
    assert server.requests[0].headers["x-amz-request-payer"] == "requester"


@pytest.mark.parametrize(
    ("path_style", "target"), [(True, "http://s3.example/bucket/f"), (False, "http://bucket.s3.example/f")]
)
def test_path_style_and_proxies(
    path_style: bool, target: str, server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(variable, server.url)
    server.objects[target] = CONTENT
    store = icv.s3_store(
        region="r", endpoint_url="http://s3.example", allow_http=True, force_path_style=path_style, anonymous=True
    )
    container = VirtualChunkContainer("s3://bucket/", store)
    fetcher = make_fetcher(Authorization({"s3://bucket/": container}, {"s3://bucket/": None}), icv.RepositoryConfig())
    assert fetch(fetcher, "s3") == CONTENT[:10]
    assert [request.target for request in server.requests] == [target]
