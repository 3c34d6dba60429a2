"""Secrets: never where people or files could see them, whatever kind they are and whatever goes wrong."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict

import icechunk_virtual as icv
from icechunk_virtual import credentials, virtual
from icechunk_virtual.containers.container import VirtualChunkContainer
from icechunk_virtual.containers.credentials import Credentials
from icechunk_virtual.containers.hush import hushed
from icechunk_virtual.errors import IcechunkVirtualError
from icechunk_virtual.sources import SourceAccess
from icechunk_virtual.storage import azure_store, gcs_store, http_store, s3_store
from tests.support.hierarchies import GROUP, array_document, get, put
from tests.support.object_server import ObjectServer
from tests.support.proxy import Answer, Forward, Handler, Request

CANARY = "Q0FOQVJZ"  # is base64, as Azure's keys are
KEY = {"access_key_id": f"{CANARY}ID", "secret_access_key": f"{CANARY}KEY"}


def s3_key() -> Any:
    return icv.S3StaticCredentials(f"{CANARY}ID", f"{CANARY}KEY", f"{CANARY}TOKEN")


def google_token() -> Any:
    return icv.GcsBearerCredential(CANARY)


def azure_key() -> Any:
    return credentials.AzureRefreshableCredential.AccessKey(CANARY)


def azure_token() -> Any:
    return credentials.AzureRefreshableCredential.BearerToken(CANARY)


def azure_signature() -> Any:
    return credentials.AzureRefreshableCredential.SasToken(f"sv=1&sig={CANARY}")


def web_token() -> Any:
    return credentials.HttpBearerCredential(CANARY)


def broken() -> Any:
    raise OSError("the vault is closed")


KINDS: dict[str, Callable[[], Any]] = {
    "s3 keys": lambda: icv.s3_credentials(**KEY),
    "s3 session": lambda: icv.s3_credentials(**KEY, session_token=f"{CANARY}TOKEN"),
    "s3 function": lambda: icv.s3_credentials(get_credentials=s3_key),
    "s3 scattered": lambda: icv.s3_credentials(get_credentials=s3_key, scatter_initial_credentials=True),
    "s3 environment": icv.s3_from_env_credentials,
    "s3 anonymous": icv.s3_anonymous_credentials,
    "gs token": lambda: icv.gcs_credentials(bearer_token=CANARY),
    "gs function": lambda: icv.gcs_credentials(get_credentials=google_token),
    "gs scattered": lambda: icv.gcs_credentials(get_credentials=google_token, scatter_initial_credentials=True),
    "gs key": lambda: icv.gcs_credentials(service_account_key=CANARY),
    "az key": lambda: icv.azure_credentials(access_key=CANARY),
    "az signature": lambda: icv.azure_credentials(sas_token=f"sv=1&sig={CANARY}"),
    "az token": lambda: icv.azure_credentials(bearer_token=CANARY),
    "az function": lambda: icv.azure_credentials(get_credentials=azure_key),
    "az signatures": lambda: icv.azure_credentials(get_credentials=azure_signature, scatter_initial_credentials=True),
    "az tokens": lambda: icv.azure_credentials(get_credentials=azure_token, scatter_initial_credentials=True),
    "http token": lambda: credentials.http_credentials(bearer_token=CANARY),
    "http password": lambda: credentials.http_credentials(username="me", password=CANARY),
    "http headers": lambda: credentials.http_credentials(headers={"X-Key": CANARY, "Cookie": f"c={CANARY}"}),
    "http function": lambda: credentials.http_credentials(
        get_credentials=web_token, scatter_initial_credentials=True, headers={"X-Key": CANARY}
    ),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    with ObjectServer({}) as running:
        yield running


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: ObjectServer) -> None:
    server.reset()
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"{CANARY}ID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{CANARY}KEY")
    monkeypatch.setenv("AWS_SESSION_TOKEN", f"{CANARY}TOKEN")
    monkeypatch.setenv("AZURE_STORAGE_TOKEN", CANARY)
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login me password {CANARY}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))


def prefix_of(kind: str, server: ObjectServer) -> str:
    scheme = kind.partition(" ")[0]
    return f"{server.url}/" if scheme == "http" else f"{scheme}://bucket/"


def store_of(kind: str, server: ObjectServer) -> Any:
    match kind.partition(" ")[0]:
        case "s3":
            return s3_store(region="r", endpoint_url=server.url, allow_http=True, force_path_style=True)
        case "gs":
            return gcs_store({"google_base_url": server.url, "allow_http": "true"})
        case "az":
            return azure_store(account="me", config={"endpoint": server.url, "allow_http": "true"})
    return http_store({"allow_http": "true"})


def repository(kind: str, server: ObjectServer, storage: Any = None) -> Any:
    """With one virtual chunk, open with credentials of that kind."""
    prefix = prefix_of(kind, server)
    retries = icv.StorageRetriesSettings(max_tries=2, initial_backoff_ms=1, max_backoff_ms=1)
    config = icv.RepositoryConfig(storage=icv.StorageSettings(retries=retries))
    config.set_virtual_chunk_container(VirtualChunkContainer(prefix, store_of(kind, server)))
    granted = icv.containers_credentials({prefix: KINDS[kind]()})
    repo = icv.Repository.create(storage or icv.in_memory_storage(), config, granted)
    session = repo.writable_session("main")
    put(session.store, "zarr.json", GROUP)
    put(session.store, "v/zarr.json", array_document((80,), (10,)))
    session.store.set_virtual_ref("v/c/0", f"{prefix}f", offset=0, length=10)
    session.commit("references")
    return repo


def check(*texts: object) -> None:
    for text in texts:
        assert CANARY not in str(text), type(text)
        assert CANARY not in repr(text), type(text)
        assert CANARY not in f"{text}", type(text)


def test_T40_every_kind_of_credentials_is_here() -> None:
    made = {type(icv.containers_credentials({"x/": make()})["x/"]) for make in KINDS.values()}
    assert made == {getattr(Credentials, name) for name in vars(Credentials) if name[0].isupper()}


@every_kind
def test_T40_nothing_shows_its_secrets(kind: str, server: ObjectServer) -> None:
    made = KINDS[kind]()
    wrapped = icv.containers_credentials({"x/": made})
    check(made, wrapped, wrapped["x/"], copy.deepcopy(made), pickle.loads(pickle.dumps(made)))
    if hasattr(made, "fetch"):
        check(made.fetch())
    repo = repository(kind, server)
    session = repo.writable_session("main")
    opened = repo._opened
    check(
        repo, session, session.store, session.fork(), opened, opened.authorization, opened.authorization.grants,
        opened.fetcher, repo.config, session._workspace, repo.authorized_virtual_container_prefixes,
    )  # fmt: skip
    check(repo._repr_html_(), session._repr_html_())
    check(pickle.loads(pickle.dumps(opened.authorization)), pickle.loads(pickle.dumps(session.fork())))


@pytest.mark.parametrize(
    "make",
    [
        lambda: icv.s3_storage(bucket="b", prefix="p", **KEY, session_token=f"{CANARY}TOKEN"),
        lambda: icv.s3_storage(bucket="b", prefix="p", get_credentials=s3_key, scatter_initial_credentials=True),
        lambda: icv.tigris_storage(bucket="b", prefix="p", region="r", **KEY),
        lambda: icv.r2_storage(bucket="b", prefix="p", account_id="a", **KEY),
        lambda: icv.gcs_storage(bucket="b", prefix="p", bearer_token=CANARY),
        lambda: icv.gcs_storage(bucket="b", prefix="p", config={"service_account_key": CANARY, "proxy_url": f"http://u:{CANARY}@h"}),
        lambda: icv.gcs_storage(bucket="b", prefix="p", get_credentials=google_token, scatter_initial_credentials=True),
        lambda: icv.azure_storage(account="a", container="c", prefix="p", access_key=CANARY),
        lambda: icv.azure_storage(account="a", container="c", prefix="p", sas_token=f"sig={CANARY}"),
        lambda: icv.azure_storage(account="a", container="c", prefix="p", config={"sas_key": CANARY}, sas_token=CANARY),
    ],
)  # fmt: skip
def test_T40_storages_show_no_secrets(make: Callable[[], Any]) -> None:
    storage = make()
    check(storage, storage._backend, storage.object_store(), pickle.loads(pickle.dumps(storage)))
    check(storage.object_store()._place if hasattr(storage.object_store(), "_place") else "")


def test_T40_options_that_may_be_secret_are_hidden() -> None:
    for store in (
        gcs_store({"google_service_account_key": CANARY, "bearer_token": CANARY}),
        azure_store(account="a", config={"azure_storage_access_key": CANARY, "sas_token": CANARY}),
        http_store({"proxy_url": f"http://me:{CANARY}@h"}),
    ):
        config = icv.RepositoryConfig()
        prefix = {"Gcs": "gs://b/", "Azure": "az://b/"}.get(type(store).__name__, "http://h/")
        config.set_virtual_chunk_container(VirtualChunkContainer(prefix, store))
        repo = icv.Repository.create(icv.in_memory_storage(), config)
        check(store, config, repo._repr_html_())


async def echo(request: Request, _forward: Forward, status: int = 403) -> Answer:
    """A server that repeats what it was told in its answer."""
    told = "\n".join([request.target, *(f"{name}: {value}" for name, value in request.headers.items())])
    xml = f"<Error><Code>AccessDenied</Code><Message>{told}</Message></Error>"
    return Answer(status, CIMultiDict({"Content-Type": "application/xml"}), xml.encode())


def answering(answer: Answer) -> Handler:
    async def handle(_request: Request, _forward: Forward) -> Answer:
        return answer

    return handle


def ranged(text: str) -> CIMultiDict[str]:
    return CIMultiDict({"Content-Range": text})


FAILURES: dict[str, Handler] = {
    **{str(status): functools.partial(echo, status=status) for status in (400, 401, 403, 404, 412, 416, 500, 503)},
    "lost": answering(Answer(lost=True)),
    "no HTTP": answering(Answer(206, ranged("nonsense"), b"x" * 10)),
    "cut": answering(Answer(206, ranged("bytes 0-9/10"), b"x" * 10, cut_after=3)),
    "away": answering(Answer(302, CIMultiDict({"Location": "http://127.0.0.1:1/"}))),
}


def everything_told(error: BaseException | None) -> str:
    """An error with all that is behind it: what a traceback shows."""
    return "" if error is None else "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """What was logged, but for what this test's own server logs."""
    return "\n".join(r.getMessage() + repr(r.args) for r in caplog.records if r.name != "aiohttp.access")


@every_kind
@pytest.mark.parametrize("failure", FAILURES)
def test_T41_errors_tell_no_secrets(
    kind: str, failure: str, server: ObjectServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even if the server does."""
    repo = repository(kind, server)
    server.handle = FAILURES[failure]
    with caplog.at_level(logging.DEBUG), pytest.raises(IcechunkVirtualError) as caught:
        get(repo.readonly_session("main").store, "v/c/0")
    assert CANARY not in everything_told(caught.value)
    assert CANARY not in logged(caplog)
    assert CANARY not in str(pickle.loads(pickle.dumps(caught.value)))


@every_kind
@pytest.mark.parametrize("failure", ["401", "403", "404"])
def test_T41_scans_tell_no_secrets(
    kind: str, failure: str, server: ObjectServer, caplog: pytest.LogCaptureFixture
) -> None:
    prefix = prefix_of(kind, server)
    server.handle = FAILURES[failure]
    given = {
        "containers": [VirtualChunkContainer(prefix, store_of(kind, server))],
        "credentials": {prefix: KINDS[kind]()},
    }
    with caplog.at_level(logging.DEBUG), pytest.raises(IcechunkVirtualError) as caught:
        virtual.open_source(f"{prefix}f.nc", **given)
    assert CANARY not in everything_told(caught.value)
    assert CANARY not in logged(caplog)
    check(SourceAccess(**given), vars(SourceAccess(**given)))


def test_T41_scans_through_fsspec_tell_no_secrets(server: ObjectServer) -> None:
    options = {"headers": {"Authorization": f"Bearer {CANARY}", "Cookie": f"c={CANARY}"}}
    for failure in ("403", "404", "500"):
        server.handle = FAILURES[failure]
        with pytest.raises(IcechunkVirtualError) as caught:
            virtual.open_source(f"{server.url}/f.nc", storage_options=options)
        assert CANARY not in everything_told(caught.value)


@every_kind
def test_T42_logs_have_no_secrets(kind: str, server: ObjectServer, caplog: pytest.LogCaptureFixture) -> None:
    """Of what is read, and of what is not."""
    with caplog.at_level(logging.DEBUG):
        repo = repository(kind, server)
        for handle in (server.serve_object, echo, FAILURES["500"], FAILURES["away"]):
            server.handle = handle
            with contextlib.suppress(IcechunkVirtualError):
                get(repo.readonly_session("main").store, "v/c/0")
    assert logged(caplog), "there is something to see"
    assert CANARY not in logged(caplog)


@pytest.mark.parametrize("kind", ["s3 session", "gs token", "az key", "az signature", "az token"])
@pytest.mark.parametrize("failure", FAILURES)
def test_T41_errors_of_storages_tell_no_secrets(
    kind: str, failure: str, server: ObjectServer, caplog: pytest.LogCaptureFixture
) -> None:
    web = {"allow_http": "true"}
    storage = {
        "s3": lambda **k: icv.s3_storage(
            bucket="b", prefix="p", endpoint_url=server.url, allow_http=True, region="r", **k
        ),
        "gs": lambda **k: icv.gcs_storage(bucket="b", prefix="p", config={"google_base_url": server.url, **web}, **k),
        "az": lambda **k: icv.azure_storage(
            account="a", container="c", prefix="p", config={"endpoint": server.url, **web}, **k
        ),
    }[kind[:2]](
        **{
            "s3 session": {**KEY, "session_token": f"{CANARY}TOKEN"},
            "gs token": {"bearer_token": CANARY},
            "az key": {"access_key": CANARY},
            "az signature": {"sas_token": f"sv=1&sig={CANARY}"},
            "az token": {"bearer_token": CANARY},
        }[kind]
    )
    retries = icv.StorageRetriesSettings(max_tries=2, initial_backoff_ms=1, max_backoff_ms=1)
    config = icv.RepositoryConfig(storage=icv.StorageSettings(retries=retries))
    server.handle = FAILURES[failure]
    for verb in (icv.Repository.open, icv.Repository.create):
        with caplog.at_level(logging.DEBUG), pytest.raises(IcechunkVirtualError) as caught:
            verb(storage, config)
        assert CANARY not in everything_told(caught.value)
    assert CANARY not in logged(caplog)


def test_T41_functions_that_fail(server: ObjectServer) -> None:
    prefix = "s3://bucket/"
    config = icv.RepositoryConfig()
    config.set_virtual_chunk_container(VirtualChunkContainer(prefix, store_of("s3", server)))
    for function in (broken, google_token):
        granted = icv.containers_credentials({prefix: icv.s3_credentials(get_credentials=function)})
        store = icv.Repository.create(icv.in_memory_storage(), config, granted).writable_session("main").store
        put(store, "v/zarr.json", array_document((80,), (10,)))
        store.set_virtual_ref("v/c/0", f"{prefix}f", offset=0, length=10)
        with pytest.raises(IcechunkVirtualError) as caught:
            get(store, "v/c/0")
        assert CANARY not in everything_told(caught.value)


@pytest.mark.parametrize(
    "told",
    [
        f"GET http://h/b?sv=1&sig={CANARY} failed",
        f"http://h/b?X-Amz-Signature={CANARY}&X-Amz-Security-Token={CANARY}",
        f"<Error><Code>ExpiredToken</Code><Token-0>{CANARY}</Token-0></Error>",
        f"<CanonicalRequest>GET\n/b\nx-amz-security-token:{CANARY}\n</CanonicalRequest>",
        f"<StringToSign>{CANARY}",
        f"AUTHORIZATION : Bearer {CANARY}",
        f"Authorization: AWS4-HMAC-SHA256 Credential={CANARY}/x, Signature={CANARY}",
        f"Cookie: a=b; c={CANARY}",
        f'"access_token={CANARY}"',
    ],
)
def test_T41_what_servers_repeat_is_not_repeated(told: str) -> None:
    assert CANARY not in hushed(told)
    harmless = "Error performing GET http://h/bucket/f?list-type=2&prefix=a%2Fb: <Code>NoSuchKey</Code>"
    assert hushed(harmless) == harmless


@pytest.mark.parametrize(
    "piece", ["sig", "Token", "<Token", "?sig", "a-", "authorization ", "Bearer ", "<Token>", "x-amz-"]
)
def test_T41_long_texts_of_servers_are_searched_in_no_time(piece: str) -> None:
    """With what makes searches slow that try everything again: this ends."""
    for text in (f"?{piece * 20_000}", f"<{piece * 20_000}", f"\n{piece * 10_000}\n" * 2):
        assert len(hushed(text)) > 0


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: icv.s3_credentials(**KEY, anonymous=True),
        lambda: icv.s3_credentials(access_key_id=CANARY),
        lambda: icv.gcs_credentials(bearer_token=CANARY, service_account_key=CANARY),
        lambda: icv.azure_credentials(access_key=CANARY, sas_token=CANARY),
        lambda: credentials.http_credentials(bearer_token=CANARY, username="me", password=CANARY),
        lambda: credentials.http_credentials(bearer_token=f"{CANARY}\n"),
        lambda: credentials.http_credentials(headers={"X": f"{CANARY}\r\nY: z"}),
        lambda: credentials.http_credentials(username="me", password=f"{CANARY}\n"),
        lambda: icv.containers_credentials({"x/": CANARY}),
        lambda: icv.Repository.create(icv.in_memory_storage(), None, {"x/": CANARY}),
        lambda: icv.Repository.create(icv.in_memory_storage(), None, {"x/": icv.s3_credentials(**KEY)}),
        lambda: icv.s3_storage(bucket="b", prefix="p", endpoint_url=f"https://me:{CANARY}@h"),
    ],
)
def test_T41_wrong_use_is_told_without_the_secret(wrong: Callable[[], Any]) -> None:
    with pytest.raises((ValueError, TypeError, IcechunkVirtualError)) as caught:
        wrong()
    check(caught.value)


@every_kind
def test_T43_nothing_of_it_is_stored(kind: str, server: ObjectServer, tmp_path: Path) -> None:
    repo = repository(kind, server, icv.local_filesystem_storage(tmp_path / "r"))
    repo.save_config()
    repo.rewrite_manifests("again", branch="main")
    files = [path for path in (tmp_path / "r").rglob("*") if path.is_file()]
    assert len(files) > 4
    for path in files:
        assert CANARY.encode() not in path.read_bytes(), path
