"""``scan`` of files in buckets and on web servers: what its options do to requests, repository and report."""

from __future__ import annotations

import argparse
import urllib.request
from pathlib import Path
from typing import Any

import obstore
import obstore.store
import pytest
import xarray as xr

import icechunk_virtual as icv
from icechunk_virtual.cli.container_options import code_of_credentials, containers_as_said, credentials_as_said
from icechunk_virtual.cli.main import build_parser, main
from icechunk_virtual.errors import ObjectChanged
from tests.support.archives import write_days
from tests.support.clouds import Bucket
from tests.support.object_server import ObjectServer


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "KEYID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRET")
    monkeypatch.chdir(tmp_path)
    write_days(tmp_path / "a.nc", 0, 20)
    return tmp_path


class Archive:
    """A file in a bucket of a real server, in two parts."""

    def __init__(self, bucket: Bucket, path: Path) -> None:
        self.proxy, self.url = bucket.proxy, f"s3://{bucket.name}/days/a.nc"
        self.prefix = f"s3://{bucket.name}/days/"
        self.how = ["--endpoint-url", bucket.proxy.url, "--region", "us-east-1", "--force-path-style"]
        self.path = path
        self.object = f"{bucket.server}/{bucket.name}/days/a.nc"
        self.store = obstore.store.S3Store(
            bucket.name,
            endpoint=bucket.server,
            region="us-east-1",
            access_key_id="KEYID",
            secret_access_key="SECRET",
            client_options={"allow_http": True},
            virtual_hosted_style_request=False,
        )
        self.upload()

    def upload(self, *, in_parts: bool = True) -> None:
        data = self.path.read_bytes() + bytes(6 << 20)  # parts of S3 have at least 5 MiB
        obstore.put(self.store, "days/a.nc", data, use_multipart=in_parts, chunk_size=5 << 20)

    def publish(self) -> None:
        request = urllib.request.Request(f"{self.object}?acl", headers={"x-amz-acl": "public-read"}, method="PUT")
        with urllib.request.urlopen(request, timeout=30):
            pass


@pytest.fixture
def archive(bucket: Bucket, here: Path) -> Archive:
    return Archive(bucket, here / "a.nc")


def opened(text: str) -> Any:
    """What the last lines of a report make when they are pasted."""
    namespace: dict[str, Any] = {}
    exec("\n".join(line.strip() for line in text.partition("open it in Python:")[2].splitlines()), namespace)
    return namespace["tree"]


def test_a_bucket_that_needs_everything_said(archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    with archive.proxy.recording() as seen:
        assert main(["scan", archive.url, "--repo", "r", *archive.how]) == 0
    assert {r.method for r in seen} == {"GET"}
    assert all(r.range for r in seen)
    first, *others = seen
    (etag,) = {r.headers.get("If-Match", "") for r in others}
    assert "If-Match" not in first.headers
    assert etag.endswith('-2"'), "of an object in two parts"
    assert "Credential=KEYID/" in first.headers["Authorization"]
    config = icv.Repository.open(icv.local_filesystem_storage("r")).config
    options: Any = (config.virtual_chunk_containers or {})[archive.prefix].store
    assert (options._0.region, options._0.endpoint_url, options._0.anonymous) == (
        "us-east-1",
        archive.proxy.url,
        False,
    )
    found = opened(capsys.readouterr().out)
    with xr.open_datatree(archive.path) as expected, archive.proxy.recording() as seen:
        xr.testing.assert_identical(found.load(), expected.load())
    assert {r.headers["If-Match"] for r in seen} == {etag}


def test_anonymous_is_remembered(archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    archive.publish()
    with archive.proxy.recording() as seen:
        assert main(["scan", archive.url, "--repo", "r", *archive.how, "--anonymous"]) == 0
        opened(capsys.readouterr().out).load()
    assert not any("Authorization" in r.headers for r in seen)


def test_the_same_bytes_in_other_parts_are_another_object(archive: Archive) -> None:
    assert main(["scan", archive.url, "--repo", "r", *archive.how]) == 0
    archive.upload(in_parts=False)
    authorize = {archive.prefix: None, archive.proxy.url: None}
    with xr.open_dataset("r", engine="icechunk-virtual", authorize=authorize) as found:
        with pytest.raises(ObjectChanged) as caught:
            found.load()
        assert str(caught.value.expected).endswith('-2"')
        assert not str(caught.value.actual).endswith('-2"')


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.nc", "--region", "x"], "--region has no meaning for file:// files"),
        (["s3://b/a", "--account", "x"], "--account has no meaning for s3:// files"),
        (["s3://b/a", "--netrc"], "--netrc has no meaning for s3:// files"),
        (["gs://b/a", "--endpoint-url", "x", "--region", "y"], "--endpoint-url, --region has no meaning for gs://"),
        (["https://h/a", "--anonymous"], "--anonymous has no meaning for https:// files"),
        (["az://c/a"], "containers on Azure need --account NAME"),
        (["a.nc", "--storage-option", "x"], "'x' is not of the form KEY=VALUE"),
    ],
)
def test_options_that_mean_nothing(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", *arguments, "--repo", "r"]) == 2
    assert message in capsys.readouterr().err


def test_options_are_for_those_files_that_they_mean_something_for(archive: Archive, here: Path) -> None:
    write_days(here / "b.nc", 20, 20)
    assert main(["scan", archive.url, "b.nc", "--repo", "r", "--concat", "time", *archive.how]) == 0
    config = icv.Repository.open(icv.local_filesystem_storage("r")).config
    assert set(config.virtual_chunk_containers or {}) == {archive.prefix, here.as_uri() + "/"}


def test_a_container_that_was_there_before_stays(archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", archive.url, "--repo", "r", *archive.how]) == 0
    assert "note" not in capsys.readouterr().out
    more = ["--group", "g", "--region", "eu", "--requester-pays"]
    assert main(["scan", archive.url, "--repo", "r", *archive.how, *more]) == 0
    note = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("note"))
    assert (
        f"{archive.prefix} was there before and says otherwise than --region, --requester-pays; to change it:" in note
    )
    assert f"icechunk-virtual config add-container r {archive.prefix}" in note


def test_options_of_fsspec(here: Path) -> None:
    with ObjectServer({"/a.nc": (here / "a.nc").read_bytes()}) as server:
        options = ["--storage-option", 'headers={"X-Mine": "1"}', "--storage-option", "cache_type=none"]
        assert main(["scan", f"{server.url}/a.nc", "--repo", "r", *options]) == 0
        assert {r.headers.get("X-Mine") for r in server.requests} == {"1"}


def test_failures_name_options(archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", archive.url.replace("s3://", "s3://no-"), "--repo", "r", *archive.how]) == 1
    text = capsys.readouterr().err
    assert "Correct its name, or say where it is served (--region, --endpoint-url, --account ...: see --help)" in text
    assert "icechunk_virtual." not in text
    assert text.count("\n") == 1


def options(*arguments: str) -> argparse.Namespace:
    return build_parser().parse_args(["scan", "x", "--repo", "r", *arguments])


@pytest.mark.parametrize(
    ("prefix", "arguments", "code", "anonymous"),
    [
        ("s3://b/", [], "None", False),
        ("s3://b/", ["--anonymous"], "None", True),
        ("tigris://b/", ["--anonymous"], "None", True),
        ("gs://b/", [], "icechunk_virtual.gcs_from_env_credentials()", None),
        ("gs://b/", ["--anonymous"], "None", None),
        ("az://c/", ["--account", "me"], "icechunk_virtual.azure_from_env_credentials()", None),
        ("az://c/", ["--account", "me", "--anonymous"], "icechunk_virtual.azure_anonymous_credentials()", None),
        ("https://h/", [], "None", None),
        ("https://h/", ["--netrc"], "icechunk_virtual.http_credentials(netrc=True)", None),
    ],
)
def test_the_report_grants_what_the_scan_had(
    prefix: str, arguments: list[str], code: str, anonymous: bool | None
) -> None:
    """Also to containers that do not say themselves that requests are unsigned."""
    said = options(*arguments)
    assert code_of_credentials(said, prefix) == code
    (container,) = containers_as_said(said, [prefix])
    store: Any = container.store
    assert getattr(store._0, "anonymous", None) == anonymous
    scanned = credentials_as_said(said, [prefix]).get(prefix)
    printed = eval(code, {"icechunk_virtual": icv})
    assert scanned == printed or (printed, type(scanned)) == (None, icv.GcsCredentials.Anonymous)
