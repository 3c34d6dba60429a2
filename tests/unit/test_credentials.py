"""Credentials: which arguments give which, that they travel, that they never show, and which store takes them."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from icechunk_virtual.containers.container import (
    ObjectStoreConfig,
    S3Options,
    VirtualChunkContainer,
    azure_store,
    gcs_store,
    http_store,
    local_filesystem_store,
    s3_store,
)
from icechunk_virtual.containers.credentials import check_grants
from icechunk_virtual.credentials import (
    AzureCredentials,
    AzureStaticCredentials,
    Credentials,
    GcsBearerCredential,
    GcsCredentials,
    GcsStaticCredentials,
    S3Credentials,
    S3StaticCredentials,
    azure_credentials,
    azure_from_env_credentials,
    azure_static_credentials,
    containers_credentials,
    gcs_anonymous_credentials,
    gcs_credentials,
    gcs_from_env_credentials,
    gcs_refreshable_credentials,
    gcs_static_credentials,
    http_credentials,
    s3_anonymous_credentials,
    s3_credentials,
    s3_from_env_credentials,
    s3_refreshable_credentials,
    s3_static_credentials,
)
from icechunk_virtual.errors import IcechunkError

CALLS: list[str] = []
EXPIRES = datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=5)))


def get_s3() -> S3StaticCredentials:
    CALLS.append("s3")
    return S3StaticCredentials("HIDDEN", "HIDDEN")


def get_gcs() -> GcsBearerCredential:
    CALLS.append("gcs")
    return GcsBearerCredential("HIDDEN")


def get_text() -> str:
    return "HIDDEN"


PAIR = {"access_key_id": "HIDDEN", "secret_access_key": "HIDDEN"}

GIVEN: list[tuple[Any, dict[str, Any], Any]] = [
    (s3_credentials, {}, S3Credentials.FromEnv),
    (s3_credentials, {"from_env": True}, S3Credentials.FromEnv),
    (s3_credentials, {"anonymous": False}, S3Credentials.FromEnv),
    (s3_credentials, {"anonymous": True}, S3Credentials.Anonymous),
    (s3_credentials, {"anonymous": True, "from_env": False}, S3Credentials.Anonymous),
    (s3_credentials, PAIR, S3Credentials.Static),
    (s3_credentials, {**PAIR, "session_token": "HIDDEN", "from_env": False}, S3Credentials.Static),
    (s3_credentials, {"get_credentials": get_s3}, S3Credentials.Refreshable),
    (s3_credentials, {"get_credentials": get_s3, "from_env": False}, S3Credentials.Refreshable),
    (s3_credentials, {"from_env": False}, None),
    (s3_credentials, {"access_key_id": "HIDDEN"}, None),
    (s3_credentials, {"session_token": "HIDDEN"}, None),
    (s3_credentials, {"expires_after": EXPIRES}, None),
    (s3_credentials, {"anonymous": True, "from_env": True}, None),
    (s3_credentials, {**PAIR, "from_env": True}, None),
    (s3_credentials, {**PAIR, "anonymous": True}, None),
    (s3_credentials, {**PAIR, "get_credentials": get_s3}, None),
    (s3_credentials, {"anonymous": True, "get_credentials": get_s3}, None),
    (gcs_credentials, {}, GcsCredentials.FromEnv),
    (gcs_credentials, {"from_env": True}, GcsCredentials.FromEnv),
    (gcs_credentials, {"anonymous": True}, GcsCredentials.Anonymous),
    (gcs_credentials, {"anonymous": True, "bearer_token": "HIDDEN"}, GcsCredentials.Anonymous),
    (gcs_credentials, {"bearer_token": "HIDDEN"}, GcsCredentials.Static),
    (gcs_credentials, {"service_account_file": "/path"}, GcsCredentials.Static),
    (gcs_credentials, {"service_account_key": "HIDDEN"}, GcsCredentials.Static),
    (gcs_credentials, {"application_credentials": "/path"}, GcsCredentials.Static),
    (gcs_credentials, {"get_credentials": get_gcs}, GcsCredentials.Refreshable),
    (gcs_credentials, {"get_credentials": get_gcs, "from_env": False}, GcsCredentials.Refreshable),
    (gcs_credentials, {"from_env": False}, None),
    (gcs_credentials, {"bearer_token": "HIDDEN", "from_env": True}, None),
    (gcs_credentials, {"bearer_token": "HIDDEN", "service_account_key": "HIDDEN"}, None),
    (gcs_credentials, {"bearer_token": "HIDDEN", "get_credentials": get_gcs}, None),
    (gcs_credentials, {"get_credentials": get_gcs, "from_env": True}, None),
    (gcs_static_credentials, {"service_account_file": "/path"}, GcsStaticCredentials.ServiceAccount),
    (gcs_static_credentials, {"service_account_key": "HIDDEN"}, GcsStaticCredentials.ServiceAccountKey),
    (gcs_static_credentials, {"application_credentials": "/path"}, GcsStaticCredentials.ApplicationCredentials),
    (gcs_static_credentials, {"bearer_token": "HIDDEN"}, GcsStaticCredentials.BearerToken),
    (gcs_static_credentials, {}, None),
    (azure_credentials, {}, AzureCredentials.FromEnv),
    (azure_credentials, {"from_env": True}, AzureCredentials.FromEnv),
    (azure_credentials, {"access_key": "HIDDEN"}, AzureCredentials.Static),
    (azure_credentials, {"sas_token": "HIDDEN", "from_env": False}, AzureCredentials.Static),
    (azure_credentials, {"from_env": False}, None),
    (azure_credentials, {"access_key": "HIDDEN", "from_env": True}, None),
    (azure_credentials, {"access_key": "HIDDEN", "sas_token": "HIDDEN"}, None),
    (azure_static_credentials, {"access_key": "HIDDEN"}, AzureStaticCredentials.AccessKey),
    (azure_static_credentials, {"sas_token": "HIDDEN"}, AzureStaticCredentials.SasToken),
    (azure_static_credentials, {"bearer_token": "HIDDEN"}, AzureStaticCredentials.BearerToken),
    (azure_static_credentials, {}, None),
]


@pytest.mark.parametrize(("function", "arguments", "expected"), GIVEN)
def test_arguments(function: Any, arguments: dict[str, Any], expected: Any) -> None:
    if expected is None:
        with pytest.raises(ValueError, match="Conflicting arguments to ") as caught:
            function(**arguments)
        assert "HIDDEN" not in str(caught.value)
        return
    credentials = function(**arguments)
    assert type(credentials) is expected
    assert "HIDDEN" not in repr(credentials)
    copy = pickle.loads(pickle.dumps(credentials))
    assert copy == credentials
    assert hash(copy) == hash(credentials)


def test_values_arrive() -> None:
    static = s3_static_credentials(
        access_key_id="a", secret_access_key="b", session_token="c", expires_after=EXPIRES
    )._0
    assert (static.access_key_id, static.secret_access_key, static.session_token) == ("a", "b", "c")
    assert static.expires_after == EXPIRES
    assert gcs_static_credentials(bearer_token="t")._0 == "t"
    assert GcsBearerCredential("t", expires_after=EXPIRES).bearer == "t"
    assert type(s3_from_env_credentials()) is S3Credentials.FromEnv
    assert type(gcs_from_env_credentials()) is GcsCredentials.FromEnv
    assert type(azure_from_env_credentials()) is AzureCredentials.FromEnv


def test_any_time_zone_but_one() -> None:
    for zone in (UTC, timezone(timedelta(hours=-3))):
        S3StaticCredentials("a", "b", expires_after=datetime(2030, 1, 1, tzinfo=zone))
    for make in (S3StaticCredentials, lambda *_, **given: GcsBearerCredential("a", **given)):
        with pytest.raises(TypeError, match="time zone"):
            make("a", "b", expires_after=datetime(2030, 1, 1))  # noqa: DTZ001


def test_refreshable() -> None:
    CALLS.clear()
    lazy = s3_refreshable_credentials(get_s3)
    assert (CALLS, lazy.current) == ([], None)
    assert pickle.loads(pickle.dumps(lazy)).fetch().access_key_id == "HIDDEN"
    assert gcs_refreshable_credentials(get_gcs, True).current == GcsBearerCredential("HIDDEN")
    eager = s3_credentials(get_credentials=get_s3, scatter_initial_credentials=True)
    assert isinstance(eager, S3Credentials.Refreshable)
    assert eager.current == get_s3()
    assert CALLS == ["s3", "gcs", "s3", "s3"]
    assert "HIDDEN" not in repr(eager)


def test_refreshable_failures() -> None:
    with pytest.raises((pickle.PicklingError, AttributeError)):
        s3_refreshable_credentials(lambda: S3StaticCredentials("a", "b"))
    wrong: Any = get_text
    with pytest.raises(TypeError, match="must return S3StaticCredentials, not str"):
        s3_refreshable_credentials(wrong).fetch()
    with pytest.raises(TypeError, match="object is not callable"):
        S3Credentials.Refreshable(pickle.dumps("x")).fetch()
    with pytest.raises(TypeError, match="current"):
        s3_refreshable_credentials(wrong, scatter_initial_credentials=True)


def test_containers_credentials() -> None:
    wrapped = containers_credentials(
        {
            "s3://b/": s3_anonymous_credentials(),
            "gs://b/": gcs_anonymous_credentials(),
            "az://b/": azure_from_env_credentials(),
            "file:///a/": None,
        }
    )
    assert wrapped == {
        "s3://b/": Credentials.S3(s3_anonymous_credentials()),
        "gs://b/": Credentials.Gcs(gcs_anonymous_credentials()),
        "az://b/": Credentials.Azure(azure_from_env_credentials()),
        "file:///a/": None,
    }
    unknown: Any = {"s3://b/": 3}
    with pytest.raises(ValueError, match="Unknown credential type"):
        containers_credentials(unknown)


def test_unions_hold_their_kind() -> None:
    wrong: Any = GcsCredentials.FromEnv()
    with pytest.raises(TypeError):
        Credentials.S3(wrong)
    for union in (S3Credentials, GcsCredentials, AzureCredentials, Credentials, GcsStaticCredentials):
        with pytest.raises(TypeError, match="cannot create"):
            union()


STORES: dict[str, ObjectStoreConfig] = {
    "s3://b/": s3_store(),
    "s3://c/": s3_store(s3_compatible=True),
    "tigris://b/": ObjectStoreConfig.Tigris(S3Options()),
    "gs://b/": gcs_store(),
    "az://b/": azure_store(account="x"),
    "http://h/": http_store(),
    "file:///a/": local_filesystem_store("/a"),
}
KINDS = {
    "s3": Credentials.S3(s3_from_env_credentials()),
    "gcs": Credentials.Gcs(gcs_from_env_credentials()),
    "azure": Credentials.Azure(azure_from_env_credentials()),
    "http": Credentials.Http(http_credentials(netrc=True)),
    "none": None,
}
ACCEPTED = {
    "s3://b/": {"s3", "none"},
    "s3://c/": {"s3", "none"},
    "tigris://b/": {"s3", "none"},
    "gs://b/": {"gcs", "none"},
    "az://b/": {"azure"},
    "http://h/": {"http", "none"},
    "file:///a/": {"none"},
}


@pytest.mark.parametrize("prefix", STORES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slash", ["", "/"])
def test_which_store_takes_what(prefix: str, kind: str, slash: str) -> None:
    containers = {prefix: VirtualChunkContainer(prefix, STORES[prefix])}
    key = prefix.removesuffix("/") + slash
    if kind in ACCEPTED[prefix]:
        assert check_grants(containers, {key: KINDS[kind]}) == {prefix: KINDS[kind]}
    else:
        with pytest.raises(IcechunkError, match="storage error: "):
            check_grants(containers, {key: KINDS[kind]})


def test_grants_are_for_the_container_that_they_mean() -> None:
    containers = {"file:///a%20b/": VirtualChunkContainer("file:///a%20b/", STORES["file:///a/"])}
    with pytest.raises(IcechunkError, match="do not accept credentials"):
        check_grants(containers, {"file:/a b": KINDS["s3"]})


def test_grants_for_no_container() -> None:
    assert check_grants({}, {"s3://x": KINDS["gcs"]}) == {"s3://x/": KINDS["gcs"]}
    assert check_grants({}, None) == {}
    with pytest.raises(TypeError, match="object cannot be cast as 'Credentials'"):
        check_grants({}, {"s3://x": s3_from_env_credentials()})
