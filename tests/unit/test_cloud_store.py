"""Storages in object stores: options of clients, addresses, profiles, fresh credentials, what travels and compares."""

from __future__ import annotations

import asyncio
import pickle
import threading
import traceback
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

import icechunk_virtual as ours
from icechunk_virtual.containers.container import S3Options
from icechunk_virtual.containers.refreshable import Fresh
from icechunk_virtual.credentials import (
    GcsBearerCredential,
    S3StaticCredentials,
    gcs_refreshable_credentials,
    s3_refreshable_credentials,
    s3_static_credentials,
)
from icechunk_virtual.errors import (
    IcechunkError,
    OutcomeUnknown,
    PermissionDenied,
    PreconditionFailed,
    StorageError,
)
from icechunk_virtual.model.world import World
from icechunk_virtual.repo.cloud.aws_profile import profile_key, profile_region
from icechunk_virtual.repo.cloud.clients import Manner, client_options, connection, retry_config
from icechunk_virtual.repo.cloud.s3 import S3Place, s3_place
from icechunk_virtual.repo.cloud.store import CloudStore
from icechunk_virtual.repo.object_store import Version
from icechunk_virtual.repo.obstore_store import Role
from icechunk_virtual.repo.settings import EffectiveStorage
from icechunk_virtual.storage import Storage, r2_storage, s3_storage, tigris_storage
from tests.support.clouds import KEYS, Bucket, FakeService
from tests.support.proxy import Answer, Forward, Request

T = TypeVar("T")
CALLS: list[int] = []


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


# -- clients ---------------------------------------------------------------------------------------------------


def test_retries() -> None:
    settings = EffectiveStorage(max_tries=4, initial_backoff_ms=50, max_backoff_ms=20)
    found = retry_config(Role.READ, settings)
    assert found["max_retries"] == 3
    assert found["backoff"]["init_backoff"] == timedelta(milliseconds=50)
    assert found["backoff"]["max_backoff"] == timedelta(milliseconds=50), "never less than the first pause"
    assert retry_config(Role.ONCE, settings)["max_retries"] == 0


def test_headers_by_role() -> None:
    manner = Manner(headers={"A": "1"}, read_headers={"B": "2"})
    assert client_options(Role.READ, manner, EffectiveStorage())["default_headers"] == {"A": "1", "B": "2"}
    assert client_options(Role.ONCE, manner, EffectiveStorage())["default_headers"] == {"A": "1"}


def test_options_of_the_user_win() -> None:
    made = connection(Role.READ, {"account_name": "a"}, {"timeout": "5s", "allow_http": "true"}, EffectiveStorage())
    assert made["config"] == {"account_name": "a"}
    assert {name: made["client_options"][name] for name in ("timeout", "allow_http")} == {
        "timeout": "5s",
        "allow_http": "true",
    }


def test_silence() -> None:
    for given, seconds in ((None, 60), (0, 0), (7, 7)):
        options = S3Options(network_stream_timeout_seconds=given)
        assert s3_place(options, "bucket", None)._manner().stall_seconds == seconds


@pytest.mark.parametrize(
    ("make", "given", "reason"),
    [
        (ours.gcs_storage, {"anonymous": True, "config": {"no_such_option": "1"}}, "no_such_option"),
        (ours.gcs_storage, {"anonymous": True, "config": {"timeout": "soon"}}, "soon"),
        (ours.gcs_storage, {"service_account_file": "/no/such/file"}, "/no/such/file"),
        (ours.gcs_storage, {"service_account_key": "{"}, "service account"),
        (ours.azure_storage, {"access_key": "U0s=", "config": {"no_such_option": "1"}}, "no_such_option"),
    ],
)
def test_what_cannot_be_opened(make: Any, given: dict[str, Any], reason: str) -> None:
    where = {"bucket": "b"} if make is ours.gcs_storage else {"account": "a", "container": "b"}
    storage = make(prefix="p", **where, **given)
    with pytest.raises(StorageError, match=f"://b/p cannot be opened: .*{reason}") as caught:
        ours.Repository.exists(storage)
    assert type(caught.value) is StorageError, "nothing that goes away by itself"


# -- addresses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bucket", "options", "endpoint", "hosted"),
    [
        ("b-1", {}, None, True),
        ("b.c", {}, None, False),
        ("B_1", {}, None, False),
        ("b-1", {"force_path_style": True}, None, False),
        ("b-1", {"endpoint_url": "http://localhost:9000"}, "http://b-1.localhost:9000", True),
        ("b.c", {"endpoint_url": "http://localhost:9000"}, "http://b.c.localhost:9000", True),
        ("b-1", {"endpoint_url": "https://s3.x.org/base"}, "https://b-1.s3.x.org/base", True),
        ("b-1", {"endpoint_url": "http://127.0.0.1:9000"}, "http://127.0.0.1:9000", False),
        ("b-1", {"endpoint_url": "http://[::1]:9000"}, "http://[::1]:9000", False),
        ("b-1", {"endpoint_url": "https://s3.x.org", "force_path_style": True}, "https://s3.x.org", False),
    ],
)
def test_endpoints(
    bucket: str, options: dict[str, Any], endpoint: str | None, hosted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    config = s3_place(S3Options(**options), bucket, None)._config()
    assert config.get("aws_endpoint_url_s3") == endpoint
    assert config["virtual_hosted_style_request"] is hosted


def test_the_environment_fills_gaps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://general.org")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.delenv("AWS_REGION", raising=False)
    assert s3_place(S3Options(), "bucket", None)._config()["aws_endpoint_url_s3"] == "http://bucket.general.org"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://special.org")
    found = s3_place(S3Options(), "bucket", None)._config()
    assert (found["aws_endpoint_url_s3"], found["region"]) == ("http://bucket.special.org", "eu-west-1")
    given = s3_place(S3Options(endpoint_url="http://mine.org", region="x"), "bucket", None)._config()
    assert (given["aws_endpoint_url_s3"], given["region"]) == ("http://bucket.mine.org", "x")


def test_the_environment_does_not_mix_with_what_is_given(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "FOREIGN")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("AWS_BUCKET", "other")
    ours.Repository.create(bucket.storage())
    for request in bucket.proxy.requests:
        assert "Credential=KEYID/" in request.headers["Authorization"]
        assert "x-amz-security-token" not in request.headers


# -- profiles --------------------------------------------------------------------------------------------------


@pytest.fixture
def aws(tmp_path: Path) -> Callable[..., dict[str, str]]:
    def environment(config: str = "", credentials: str = "", **more: str) -> dict[str, str]:
        (tmp_path / "config").write_text(config)
        (tmp_path / "credentials").write_text(credentials)
        files = {"AWS_CONFIG_FILE": "config", "AWS_SHARED_CREDENTIALS_FILE": "credentials"}
        return {name: str(tmp_path / file) for name, file in files.items()} | more

    return environment


def test_profiles(aws: Callable[..., dict[str, str]]) -> None:
    keys = "[default]\naws_access_key_id = A\naws_secret_access_key = s%\n[two]\naws_access_key_id=B\n"
    keys += "aws_secret_access_key=t\naws_session_token=u\n"
    config = "[default]\nregion = eu-west-1\n[profile two]\nregion=us-west-2\n"
    assert profile_key(aws(config, keys)) == S3StaticCredentials("A", "s%")
    assert profile_key(aws(config, keys, AWS_PROFILE="two")) == S3StaticCredentials("B", "t", "u")
    assert profile_region(aws(config, keys)) == "eu-west-1"
    assert profile_region(aws(config, keys, AWS_PROFILE="two")) == "us-west-2"
    assert profile_region(aws()) is None
    assert profile_key(aws()) is None
    assert profile_key(aws(config, keys, AWS_ACCESS_KEY_ID="x")) is None
    # AWS's own order: keys in variables, profile, then tokens and metadata services
    assert profile_key(aws(config, keys, AWS_WEB_IDENTITY_TOKEN_FILE="x")) is not None


def test_profiles_that_cannot_be_used(aws: Callable[..., dict[str, str]]) -> None:
    with pytest.raises(StorageError, match="'default' gets its keys through sso_session"):
        profile_key(aws("[default]\nsso_session = x\n"))
    with pytest.raises(StorageError, match="'gone', which is in none"):
        profile_key(aws(AWS_PROFILE="gone"))
    with pytest.raises(StorageError, match="cannot be read"):
        profile_key(aws("no section"))


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("aws_secret_access_key = hushhush\n", "the line 1 is not understood"),
        ("[default]\nregion = x\naws_secret_access_key hushhush\n", "the line 3 is not understood"),
    ],
)
def test_lines_of_profiles_are_not_shown(file: str, reason: str, aws: Callable[..., dict[str, str]]) -> None:
    with pytest.raises(StorageError, match=reason) as caught:
        profile_key(aws("", file))
    assert "hushhush" not in "".join(traceback.format_exception(caught.value))


def test_no_home_no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda _uid: {}["nobody"])
    assert (profile_key({}), profile_region({})) == (None, None)


def test_requests_are_signed_by_the_profile(
    bucket: Bucket, aws: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = "[default]\naws_access_key_id = PROFILE\naws_secret_access_key = s\n"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    for name, value in aws("", keys).items():
        monkeypatch.setenv(name, value)
    ours.Repository.create(bucket.storage(from_env=True))
    assert all("Credential=PROFILE/" in request.headers["Authorization"] for request in bucket.proxy.requests)


# -- fresh credentials -----------------------------------------------------------------------------------------

START = datetime(2030, 1, 1, tzinfo=UTC)


class Clock:
    seconds = 0

    def world(self) -> World:
        return World(now_us=lambda: int((START.timestamp() + self.seconds) * 1_000_000))


def ten_minutes() -> S3StaticCredentials:
    CALLS.append(len(CALLS))
    return S3StaticCredentials(f"K{len(CALLS)}", "s", expires_after=START + timedelta(minutes=10 * len(CALLS)))


def endless() -> S3StaticCredentials:
    CALLS.append(len(CALLS))
    return S3StaticCredentials(f"K{len(CALLS)}", "s")


def token() -> GcsBearerCredential:
    CALLS.append(len(CALLS))
    return GcsBearerCredential(f"T{len(CALLS)}")


def test_fresh_credentials() -> None:
    CALLS.clear()
    clock = Clock()
    fresh = Fresh(s3_refreshable_credentials(ten_minutes), endless=True, world=clock.world())
    assert CALLS == []
    for seconds, calls in ((0, 1), (479, 1), (480, 2), (1000, 2), (1080, 3)):  # two minutes before the end
        clock.seconds = seconds
        key, renewal = fresh()
        assert (key.access_key_id, len(CALLS)) == (f"K{calls}", calls)
        assert renewal == START + timedelta(minutes=10 * calls - 2)


def test_credentials_without_end() -> None:
    CALLS.clear()
    fresh = Fresh(s3_refreshable_credentials(endless), endless=True)
    assert [fresh()[1], fresh()[1], len(CALLS)] == [None, None, 1]
    impatient = Fresh(gcs_refreshable_credentials(token), endless=False)
    renewal = impatient()[1]
    impatient()
    assert len(CALLS) == 3
    assert renewal is not None
    assert renewal < datetime.now(UTC)


def test_one_call_serves_many_threads() -> None:
    CALLS.clear()
    fresh = Fresh(s3_refreshable_credentials(endless), endless=True)
    threads = [threading.Thread(target=fresh) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(CALLS) == 1


def test_copies_start_as_the_original_did() -> None:
    CALLS.clear()
    fresh = Fresh(s3_refreshable_credentials(endless, True), endless=True)
    copy = pickle.loads(pickle.dumps(fresh))
    assert (fresh()[0], copy()[0]) == (S3StaticCredentials("K1", "s"),) * 2


# -- values ----------------------------------------------------------------------------------------------------


def test_equality() -> None:
    make = {
        "a": lambda: s3_storage(bucket="b", prefix="p", **KEYS),
        "other prefix": lambda: s3_storage(bucket="b", prefix="q", **KEYS),
        "other key": lambda: s3_storage(bucket="b", prefix="p", **(KEYS | {"access_key_id": "X"})),
        "other option": lambda: s3_storage(bucket="b", prefix="p", requester_pays=True, **KEYS),
        "anonymous": lambda: s3_storage(bucket="b", prefix="p", anonymous=True),
        "tigris": lambda: tigris_storage(bucket="b", prefix="p", region="r", **KEYS),
        "r2": lambda: r2_storage(bucket="b", prefix="p", account_id="x", **KEYS),
        "gcs": lambda: ours.gcs_storage(bucket="b", prefix="p", config={"a": "b"}),
        "azure": lambda: ours.azure_storage(account="a", container="b", prefix="p"),
        "function": lambda: s3_storage(bucket="b", prefix="p", get_credentials=endless),
    }
    for name, one in make.items():
        for other, two in make.items():
            assert (one() == two()) is (name == other)
        copy = pickle.loads(pickle.dumps(one()))
        assert copy == one()
        assert hash(copy) == hash(one())
        assert repr(copy) == repr(one())
        assert one().object_store() == copy.object_store()
        assert pickle.loads(pickle.dumps(one().object_store())) == one().object_store()


def test_options_are_taken_as_they_are() -> None:
    options = S3Options(region="r")
    storage = Storage.new_s3(options, "b", "p", s3_static_credentials(access_key_id="k", secret_access_key="s"))
    options.region = "changed"
    assert "changed" not in repr(storage)


def test_the_constructors_take_the_original_s_order() -> None:
    options = S3Options(region="r")
    assert Storage.new_s3(options, "b", "p") == s3_storage(
        bucket="b",
        prefix="p",
        region="r",
        network_stream_timeout_seconds=None,  # type: ignore[arg-type]
    )
    assert "acc.r2" in repr(Storage.new_r2(options, "b", "p", "acc"))
    assert "t3.storage.dev" in repr(Storage.new_tigris(options, "b", "p", False))
    assert "gs://b/p" in repr(Storage.new_gcs("b", "p"))
    assert "az://c/p" in repr(Storage.new_azure_blob("a", "c", "p"))
    assert Storage.new_local_filesystem("x") == ours.local_filesystem_storage("x")
    with pytest.raises(TypeError, match="prefix"):
        Storage.new_azure_blob("a", "c", None)  # type: ignore[arg-type]


def test_stores_are_opened_once_for_the_same_settings() -> None:
    storage = s3_storage(bucket="b", prefix="p", **KEYS)
    assert storage.object_store() is storage.object_store(ours.StorageSettings())
    assert storage.object_store(ours.StorageSettings(storage_class="X")) is not storage.object_store()
    assert storage.default_settings() == ours.StorageSettings()


# -- requests --------------------------------------------------------------------------------------------------


def store_of(bucket: Bucket, **settings: Any) -> CloudStore:
    found = bucket.storage().object_store(ours.StorageSettings(**settings))
    assert isinstance(found, CloudStore)
    return found


def quick(max_tries: int) -> dict[str, Any]:
    return {"retries": ours.StorageRetriesSettings(max_tries, 1, 1)}


def test_pages_of_a_listing(bucket: Bucket) -> None:
    async def two_at_a_time(request: Request, forward: Forward) -> Answer:
        if "list-type=2" not in request.target:
            return await forward()
        return await forward(Request(request.method, request.target + "&max-keys=2", request.headers, request.body))

    store = store_of(bucket)

    async def work() -> list[list[str]]:
        for name in "abcde":
            await store.put(f"chunks/{name}", b"")
        await store.put("other", b"")
        bucket.proxy.handle = two_at_a_time
        return [[info.key for info in page] async for page in store.list("chunks/")]

    assert [key for page in run(work()) for key in page] == [f"chunks/{name}" for name in "abcde"]
    assert len(bucket.proxy.log("GET", "list-type=2")) == 3


def test_ranges_are_handed_on_uncopied(bucket: Bucket) -> None:
    store = store_of(bucket)
    run(store.put("chunks/k", b"x" * 100_000))
    found = run(store.get("chunks/k", start=0, stop=100_000))
    assert type(found) is memoryview
    assert type(found.obj).__name__ == "Bytes", "the library's own"
    assert found == b"x" * 100_000


@pytest.mark.parametrize(
    ("status", "code", "tries", "outcome"),
    [
        (500, "InternalError", 3, OutcomeUnknown),
        (
            409,
            "ConditionalRequestConflict",
            3,
            PreconditionFailed,
        ),  # another write was under way; this one has not landed
        (409, "Other", 1, PreconditionFailed),
        (412, "PreconditionFailed", 1, PreconditionFailed),
    ],
)
def test_a_refused_conditional_write(
    bucket: Bucket, status: int, code: str, tries: int, outcome: type[StorageError]
) -> None:
    async def refuse(request: Request, forward: Forward) -> Answer:
        return Answer(status, body=f"<Error><Code>{code}</Code></Error>".encode())

    store = store_of(bucket, **quick(3))
    bucket.proxy.handle = refuse
    for write in (lambda: store.put_new("k", b"1"), lambda: store.put_if_match("k", b"1", Version('"x"'))):
        bucket.proxy.requests.clear()
        with pytest.raises(outcome) as caught:
            run(write())
        assert type(caught.value) is outcome
        assert len(bucket.proxy.log("PUT")) == tries


def test_a_write_that_meets_another_one_is_made_again(bucket: Bucket) -> None:
    store = store_of(bucket, **quick(3))

    async def busy(request: Request, forward: Forward) -> Answer:
        if len(bucket.proxy.log("PUT")) == 1:
            return Answer(409, body=b"<Error><Code>ConditionalRequestConflict</Code></Error>")
        return await forward()

    bucket.proxy.handle = busy
    version = run(store.put_new("k", b"1"))
    assert run(store.get_versioned("k")) == (b"1", version)


def test_somebody_else_s_write_during_a_repetition(bucket: Bucket) -> None:
    store = store_of(bucket, **quick(3))
    other = bucket.storage(endpoint_url=bucket.server).object_store()
    attempts = 0

    async def lose_the_first(request: Request, forward: Forward) -> Answer:
        nonlocal attempts
        attempts += request.method == "PUT"
        if request.method == "PUT" and attempts == 1:
            await other.put("k", b"theirs")
            return Answer(500)
        return await forward()

    bucket.proxy.handle = lose_the_first
    with pytest.raises(PreconditionFailed):
        run(store.put_new("k", b"ours"))
    assert run(store.get("k")) == b"theirs"


def test_a_repetition_whose_reading_back_fails(bucket: Bucket) -> None:
    store = store_of(bucket, **quick(2))

    async def go_away(request: Request, forward: Forward) -> Answer:
        if request.method == "GET":
            return Answer(503)
        answer = await forward()
        return Answer(500) if len(bucket.proxy.log("PUT")) == 1 else answer

    bucket.proxy.handle = go_away
    with pytest.raises(OutcomeUnknown):
        run(store.put_new("k", b"1"))


def test_an_object_that_disappears_during_a_repetition(bucket: Bucket) -> None:
    store = store_of(bucket, **quick(3))
    version = run(store.put_new("k", b"1"))
    other = bucket.storage(endpoint_url=bucket.server).object_store()

    async def delete_it(request: Request, forward: Forward) -> Answer:
        if len(bucket.proxy.log("PUT")) == 2:
            await other.delete(["k"])
            return Answer(500)
        return await forward()

    bucket.proxy.handle = delete_it
    with pytest.raises(PreconditionFailed):
        run(store.put_if_match("k", b"2", version))


def test_writes_without_conditions_are_repeated_as_often_as_others(bucket: Bucket) -> None:
    flags = {"unsafe_use_conditional_create": False}
    store = store_of(bucket, **flags, **quick(3))

    async def refuse(request: Request, forward: Forward) -> Answer:
        return Answer(503) if request.method == "PUT" else await forward()

    bucket.proxy.handle = refuse
    with pytest.raises(OutcomeUnknown):
        run(store.put_new("k", b"1"))
    assert len(bucket.proxy.log("PUT")) == 3


def test_errors_by_status(bucket: Bucket) -> None:
    store = store_of(bucket, **quick(1))

    def answer(status: int, code: str) -> None:
        async def refuse(_request: Request, _forward: Forward) -> Answer:
            return Answer(status, body=f"<Error><Code>{code}</Code></Error>".encode())

        bucket.proxy.handle = refuse

    async def keys() -> list[str]:
        return [info.key async for page in store.list("") for info in page]

    answer(403, "AccessDenied")
    for attempt in (store.get("k"), store.head("k"), keys(), store.put("k", b""), store.delete(["k"])):
        with pytest.raises(PermissionDenied):
            run(attempt)
    answer(301, "PermanentRedirect")
    with pytest.raises(StorageError) as caught:
        run(keys())
    assert type(caught.value) is StorageError
    assert "region" in str(caught.value)


def test_signatures_in_addresses_are_not_shown() -> None:
    """Azure's are in the URL, which the library's debug text shows."""
    with FakeService("azure") as service:
        storage = service.storage(sas_token="sv=2023&sig=HIDDEN")
        store = storage.object_store(ours.StorageSettings(**quick(1)))

        async def hang_up(_request: Request, _forward: Forward) -> Answer:
            return Answer(lost=True)

        service.handle = hang_up
        with pytest.raises(StorageError) as caught:
            run(store.get("k"))
    assert "HIDDEN" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("service", ["s3", "gcs", "azure"])
def test_credentials_with_line_breaks_are_refused(service: str) -> None:
    """As from a file that ends with one. The library panics, which nobody understands."""
    storages = {
        "s3": lambda: ours.s3_storage(bucket="b", prefix="p", access_key_id="k", secret_access_key="HIDDEN\n"),
        "gcs": lambda: ours.gcs_storage(bucket="b", prefix="p", bearer_token="HIDDEN\n"),
        "azure": lambda: ours.azure_storage(account="a", container="b", prefix="p", bearer_token="HIDDEN\n"),
    }
    with pytest.raises(StorageError, match="hold a line break") as caught:
        ours.Repository.open(storages[service]())
    assert "HIDDEN" not in "".join(traceback.format_exception(caught.value))


def test_no_passwords_in_endpoints() -> None:
    with pytest.raises(StorageError, match="the endpoint_url has a name or password") as caught:
        ours.s3_storage(bucket="b", prefix="p", endpoint_url="https://me:HIDDEN@host")
    assert "HIDDEN" not in str(caught.value)


def test_the_place_is_named(bucket: Bucket) -> None:
    assert repr(store_of(bucket)) == f"CloudStore(s3://{bucket.name}/repo)"
    with pytest.raises(IcechunkError, match=f"s3://{bucket.name}/repo"):
        ours.Repository.open(bucket.storage())


def test_places_are_plain_values() -> None:
    place = s3_place(S3Options(), "b", "p/")
    assert isinstance(place, S3Place)
    assert place.url == "s3://b/p"
    assert {place: 1}[s3_place(S3Options(), "b", "p")] == 1
