"""Scanning files in object stores and on web servers: what is asked for, by whom, and what a changed file leads to."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
import xarray as xr

import icechunk_virtual as icv
from icechunk_virtual.containers.remote_source import RemoteSource
from icechunk_virtual.errors import MalformedSource, ScanError
from icechunk_virtual.sources import SourceAccess
from icechunk_virtual.virtual import open_source
from tests.support.archives import write_days
from tests.support.object_server import MODIFIED, ObjectServer
from tests.support.proxy import Answer, Forward, Request

CONTENT = bytes(range(256)) * 2000  # 512,000 bytes
KEYS = icv.s3_static_credentials(access_key_id="of-the-user", secret_access_key="s")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.fixture
def server() -> Iterator[ObjectServer]:
    with ObjectServer({"/f": CONTENT, "/bucket/f": CONTENT, "/empty": b"", "/bucket/empty": b""}) as running:
        yield running


def container(server: ObjectServer, prefix: str = "s3://bucket/", **more: Any) -> icv.VirtualChunkContainer:
    store = icv.s3_store(
        region="r", endpoint_url=server.url, allow_http=True, force_path_style=True, s3_compatible=True, **more
    )
    return icv.VirtualChunkContainer(prefix, store)


def opened(scheme: str, server: ObjectServer, name: str = "f", **more: Any) -> RemoteSource:
    if scheme == "http":
        found = open_source(f"{server.url}/{name}", **more)
    else:
        found = open_source(f"s3://bucket/{name}", containers=[container(server)], **more)
    assert isinstance(found, RemoteSource)
    return found


everywhere = pytest.mark.parametrize("scheme", ["http", "s3"])


@everywhere
def test_the_first_answer_says_everything_and_later_ones_are_compared_with_it(
    scheme: str, server: ObjectServer
) -> None:
    with server.recording() as seen:
        source = opened(scheme, server)
        assert (source.size, source.etag, source.last_modified) == (len(CONTENT), '"e"', MODIFIED)
        assert source.read(10, 20) == CONTENT[10:30]  # came along
        spans = [(400_000, 10), (400_100, 10), (300_000, 5), (5, 5)]
        assert source.read_many(spans) == [CONTENT[a : a + n] for a, n in spans]
        source.check_unchanged()
    asked = sorted((r.method, r.range, r.headers.get("If-Match", "")) for r in seen)
    assert asked == [
        ("GET", "bytes=0-65535", ""),
        ("GET", "bytes=300000-300004", '"e"'),
        ("GET", "bytes=400000-400109", '"e"'),
    ]
    assert list(source.locations.etags) == ['"e"']


@everywhere
def test_a_file_that_changes_between_two_reads(scheme: str, server: ObjectServer) -> None:
    for deaf in (False, True):
        server.deaf, server.etag = deaf, '"e"'
        source = opened(scheme, server)
        server.etag = '"new"'
        with pytest.raises(ScanError, match=r'its etag was "e", and is "new" now\. Scan it again') as caught:
            source.read(400_000, 10)
        assert (caught.value.expected, caught.value.actual) == ('"e"', '"new"')  # type: ignore[attr-defined]
        assert caught.value.source == source.url


def test_servers_with_nothing_but_a_time(server: ObjectServer) -> None:
    server.etag = None
    source = opened("http", server)
    assert (source.etag, source.last_modified) == (None, MODIFIED)
    with server.recording() as seen:
        source.read(400_000, 10)
    assert seen[0].headers["If-Unmodified-Since"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    for later, deaf in ((MODIFIED + 1, False), (MODIFIED + 1, True), (MODIFIED - 5, False)):
        server.modified, server.deaf = later, deaf
        with pytest.raises(ScanError, match=f"seconds since 1970 was {MODIFIED}, and is {later} now"):
            source.read(400_000, 10)


def test_servers_with_weak_etags(server: ObjectServer) -> None:
    server.etag = 'W/"e"'
    source = opened("http", server)
    assert source.read(400_000, 10) == CONTENT[400_000:400_010]
    assert source.locations.row(0) == (source.url, None, MODIFIED), "If-Match never fits a weak one"
    server.etag = 'W/"new"'
    with pytest.raises(ScanError, match='etag was W/"e", and is W/"new" now'):
        source.read(400_000, 10)
    server.modified = None
    assert opened("http", server).locations.row(0)[1:] == ('W/"new"', None), "better than nothing"


def test_servers_that_say_nothing(server: ObjectServer) -> None:
    server.etag = server.modified = None
    source = opened("http", server)
    assert (source.etag, source.last_modified) == (None, None)
    server.objects["/f"] = CONTENT[:-1]
    with pytest.raises(ScanError, match="its size was 512000, and is 511999 now"):
        source.read(400_000, 10)


def test_encoded_answers_are_not_the_file(server: ObjectServer) -> None:
    async def compressed(request: Request, forward: Forward) -> Answer:
        answer = await server.serve_object(request, forward)
        answer.headers["Content-Encoding"] = "gzip"
        return answer

    server.handle = compressed
    with server.recording() as seen, pytest.raises(ScanError, match=r"Content-Encoding: gzip.*Have it served as it is"):
        opened("http", server)
    assert "gzip" not in seen[0].headers.get("Accept-Encoding", "")


@everywhere
def test_empty_and_missing_files(scheme: str, server: ObjectServer) -> None:
    assert opened(scheme, server, "empty").size == 0
    with pytest.raises(MalformedSource):
        opened(scheme, server, "empty").read(0, 1)
    with pytest.raises(ScanError, match=r"cannot read `.*missing`: .*(no such object|404)"):
        opened(scheme, server, "missing")
    with pytest.raises(ScanError, match="patterns in URLs are not expanded"):
        opened(scheme, server, "f*")


@pytest.mark.parametrize(
    ("credentials", "options", "signed"),
    [
        (None, {}, "of-the-environment"),
        ({"s3://bucket/": None}, {}, "of-the-environment"),
        ({"s3://bucket": KEYS}, {}, "of-the-user"),
        ({"s3://bucket/": icv.s3_anonymous_credentials(), "s3://bucket/d/": KEYS}, {}, None),
        (icv.containers_credentials({"s3://other/": KEYS}), {}, "of-the-environment"),
        (None, {"anonymous": True}, None),
    ],
)
def test_who_signs_requests(credentials: Any, options: dict[str, Any], signed: str | None, server: Any) -> None:
    access = SourceAccess([container(server, **options)], credentials)
    with server.recording() as seen:
        pickle.loads(pickle.dumps(access)).open("s3://bucket/f")
    authorization = seen[0].headers.get("Authorization")
    assert (authorization is None) if signed is None else f"Credential={signed}/" in authorization


def test_the_longest_prefix_counts(server: ObjectServer) -> None:
    server.objects["/bucket/d/f"] = CONTENT
    others = icv.containers_credentials({"s3://bucket/": icv.s3_anonymous_credentials(), "s3://bucket/d/": KEYS})
    containers = {"s3://bucket/": container(server), "s3://bucket/d/": container(server, "s3://bucket/d/")}
    with server.recording() as seen:
        for url in ("s3://bucket/f", "s3://bucket/d/f"):
            open_source(url, containers=containers, credentials=others)
    assert ["Authorization" in request.headers for request in seen] == [False, True]


def test_containers_of_a_repository_send_requests_only_where_the_caller_says(
    server: ObjectServer, tmp_path: Path
) -> None:
    config = icv.RepositoryConfig()
    config.set_virtual_chunk_container(container(server))
    storage = icv.local_filesystem_storage(str(tmp_path / "repo"))
    icv.Repository.create(storage, config)
    stored = icv.Repository.open(storage).config.virtual_chunk_containers
    with server.recording() as seen, pytest.raises(ScanError, match="nothing is sent yet"):
        open_source("s3://bucket/f", containers=stored)
    assert not seen
    named = {"s3://bucket/": None, server.url: None}
    assert open_source("s3://bucket/f", containers=stored, credentials=named).size == len(CONTENT)


def test_mistakes_are_named(server: ObjectServer) -> None:
    with pytest.raises(ScanError, match="S3 containers do not accept"):
        open_source("s3://bucket/f", credentials={"s3://bucket/": icv.gcs_credentials(bearer_token="t")})
    with pytest.raises(ScanError, match=r"name of their storage account.*azure_store\(account=\.\.\.\)"):
        open_source("az://c/f")
    with pytest.raises(ValueError, match="relative is no URL prefix"):
        open_source("s3://bucket/f", credentials={"relative": None})
    with pytest.raises(ValueError, match="must end in a /"):
        open_source("s3://bucket/f", containers=[icv.VirtualChunkContainer("s3://b", icv.s3_store())])
    with pytest.raises(ValueError, match="takes no credentials"):
        open_source("s3://bucket/f", credentials={"s3://bucket/": None}, storage_options={})
    with pytest.raises(ValueError, match="Unknown credential type"):
        open_source("s3://bucket/f", credentials={"s3://bucket/": "key"})


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, "InvalidAccessKeyId", r"not valid.*\n +icechunk_virtual\.scan\(source, credentials=\{\"s3://bucket/\": "),
        (404, "NoSuchKey", r"there is no such object.*\(status 404\)\.$"),
        (404, "NoSuchBucket", r'does not exist.*\n.*scan\(source, containers=\[.*endpoint_url="https://ENDPOINT"'),
    ],
)
def test_failures_say_what_to_do_in_the_words_of_scans(status: int, code: str, said: str, server: ObjectServer) -> None:
    async def refuse(*_: Any) -> Answer:
        return Answer(status, body=f"<Error><Code>{code}</Code></Error>".encode())

    server.handle = refuse
    with pytest.raises(ScanError, match=said) as caught:
        opened("s3", server)
    assert "Repository.open" not in caught.value.message


def test_a_server_that_is_not_there_is_not_waited_for_long() -> None:
    with ObjectServer({}) as gone:
        url = gone.url
    with pytest.raises(ScanError, match="no answer"):
        open_source(f"{url}/f")


def test_storage_options_mean_fsspec(server: ObjectServer) -> None:
    with server.recording() as seen:
        source = open_source(f"{server.url}/f", storage_options={"headers": {"X-Mine": "1"}})
        assert source.read(400_000, 10) == CONTENT[400_000:400_010]
    assert {request.headers.get("X-Mine") for request in seen} == {"1"}
    assert (source.etag, seen[0].method) == ('"e"', "HEAD")
    server.etag = '"new"'
    with pytest.raises(ScanError, match='its etag was "e", and is "new" now'):
        source.check_unchanged()


def test_other_protocols_are_those_of_fsspec() -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/scan/f", CONTENT)
    try:
        source = open_source("memory://scan/f")
        assert source.read(400_000, 10) == CONTENT[400_000:400_010]
        fs.pipe_file("/scan/f", CONTENT[:-1])
        with pytest.raises(ScanError, match="its size was 512000, and is 511999 now"):
            source.check_unchanged()
    finally:
        fs.rm("/scan", recursive=True)


# -- whole scans ---------------------------------------------------------------------------------------------------


@pytest.fixture
def days(tmp_path: Path, server: ObjectServer) -> list[str]:
    for name, start in (("a", 0), ("b", 20)):
        path = write_days(tmp_path / f"{name}.nc", start, 20)
        server.objects[f"/bucket/days/{name}.nc"] = path.read_bytes()
    return ["s3://bucket/days/a.nc", "s3://bucket/days/b.nc"]


def test_the_containers_of_a_dataset_are_those_that_it_was_reached_through(
    days: list[str], server: ObjectServer, tmp_path: Path
) -> None:
    with server.recording() as seen, ThreadPoolExecutor(2) as executor:
        found = icv.scan(days, concat="time", containers=[container(server, anonymous=True)], executor=executor)
    assert {r.method for r in seen} == {"GET"}
    assert {r.range != "" for r in seen} == {True}
    assert sum("If-Match" not in r.headers for r in seen) == 2, "the first of each file"
    assert (found.prefixes, found.containers) == (("s3://bucket/",), (container(server, anonymous=True),))
    config = icv.RepositoryConfig()
    for each in found.containers:
        config.set_virtual_chunk_container(each)
    repo = icv.Repository.create(icv.in_memory_storage(), config, {"s3://bucket/": None})
    session = repo.writable_session("main")
    found.to_icechunk(session)
    session.commit("days")
    with (
        xr.open_dataset(repo, engine="icechunk-virtual") as there,
        xr.open_mfdataset([tmp_path / "a.nc", tmp_path / "b.nc"], combine="nested", concat_dim="time") as expected,
    ):
        xr.testing.assert_equal(there.load(), expected.load())


def test_containers_of_files_that_none_was_given_for(days: list[str], server: ObjectServer, tmp_path: Path) -> None:
    found = icv.scan([days[0], tmp_path / "b.nc"], concat="time", containers=[container(server)])
    assert found.prefixes == ("s3://bucket/", tmp_path.as_uri() + "/")
    assert [c.url_prefix for c in found.containers] == list(found.prefixes)


def test_queries_of_web_addresses(days: list[str], server: ObjectServer) -> None:
    server.objects["/days/a.nc"] = server.objects["/bucket/days/a.nc"]
    plain, signed = f"{server.url}/days/a.nc?of=x/y", f"{server.url}/days/a.nc?X-Amz-Signature=HIDDEN"
    found = icv.scan(plain)
    assert (found.sources, found.prefixes, found.warnings) == ((plain,), (f"{server.url}/days/",), ())
    (warning,) = icv.scan(signed).warnings
    assert f"{server.url}/days/a.nc has a signature or token" in warning
    assert "HIDDEN" not in warning


def test_a_scan_says_that_changes_will_not_be_noticed(days: list[str], server: ObjectServer) -> None:
    assert not icv.scan(days[0], containers=[container(server)]).warnings
    server.etag = server.modified = None
    (warning,) = icv.scan(days[0], containers=[container(server)]).warnings
    assert warning.startswith("s3://bucket/days/a.nc has neither an etag nor a time of modification")


@pytest.mark.parametrize("how", ["written", "replaced", "removed"])
def test_a_local_file_that_changes_while_it_is_scanned(how: str, tmp_path: Path) -> None:
    path = write_days(tmp_path / "a.nc", 0, 20)
    with icv.virtual.open_source(path) as source:
        source.check_unchanged()
        if how == "written":
            path.write_bytes(path.read_bytes() + b"x")
        elif how == "replaced":
            write_days(tmp_path / "new.nc", 0, 20).replace(path)
        else:
            path.unlink()
        reason = "there is no such file" if how == "removed" else f"its etag was {source.etag}, and is .* now"
        with pytest.raises(ScanError, match=reason):
            source.check_unchanged()
