"""Files that changed after they were scanned: what is said, the command that repairs it, and reading all the same."""

from __future__ import annotations

import pickle
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import netCDF4
import pytest
import xarray as xr

import icechunk_virtual as icv
from icechunk_virtual.cli.main import main
from icechunk_virtual.containers.authorize import Authorization
from icechunk_virtual.containers.container import ObjectStoreConfig, azure_store
from icechunk_virtual.containers.rescan import rescan_command
from icechunk_virtual.containers.url import check_location
from icechunk_virtual.errors import ObjectChanged
from tests.support.archives import write_days
from tests.support.object_server import MODIFIED, ObjectServer


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


class Archive:
    """Two files that are one dataset in a repository, in a place of some kind."""

    def __init__(self, folder: Path, server: ObjectServer, scheme: str) -> None:
        self.folder, self.server, self.scheme = folder, server, scheme
        self.repo = str(folder / "repo")
        self.paths = [write_days(folder / f"{name}.nc", start, 20) for name, start in (("a", 0), ("b", 20))]
        self.upload()
        root = {"file": str(folder), "s3": "s3://bucket/days", "http": f"{server.url}/days"}[scheme]
        self.urls = [f"{root}/{path.name}" for path in self.paths]
        how = ["--endpoint-url", server.url, "--region", "r", "--force-path-style"] if scheme == "s3" else []
        assert main(["scan", *self.urls, "--repo", self.repo, "--concat", "time", *how]) == 0

    def upload(self) -> None:
        for path in self.paths:
            for root in ("/bucket/days/", "/days/"):
                self.server.objects[root + path.name] = path.read_bytes()

    def change(self) -> None:
        """Other values, of which some take other room; also of a variable without the dimension."""
        with netCDF4.Dataset(self.paths[1], "a") as file:
            file["temp"][:] = file["temp"][:] * 2 + 1
        self.renew_state()
        self.upload()

    def renew_state(self) -> None:
        """What a server says about objects that are new, in its way."""
        self.server.etag = self.server.etag and self.server.etag.replace("e", "new")
        self.server.modified = MODIFIED + 100

    @property
    def prefix(self) -> str:
        return {"file": self.folder.as_uri(), "s3": "s3://bucket/days", "http": f"{self.server.url}/days"}[
            self.scheme
        ] + "/"

    def read(self, granted: Any = None) -> xr.Dataset:
        authorize = {self.server.url + "/": None, self.prefix: granted}
        with xr.open_dataset(self.repo, engine="icechunk-virtual", authorize=authorize) as found:
            return found.load()

    def expected(self) -> xr.Dataset:
        with xr.open_mfdataset(self.paths, combine="nested", concat_dim="time") as found:
            return found.load()


@pytest.fixture(params=["file", "s3", "http", "http with times alone", "http with weak etags"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Archive]:
    scheme, _, habit = request.param.partition(" with ")
    with ObjectServer({}) as server:
        server.etag = {"": '"e"', "times alone": None, "weak etags": 'W/"e"'}[habit]
        yield Archive(tmp_path, server, scheme)


def test_the_named_command_repairs(archive: Archive) -> None:
    xr.testing.assert_equal(archive.read(), archive.expected())
    archive.change()
    for _ in range(1 if archive.scheme == "file" else 2):  # all objects of this server have one etag
        with pytest.raises(ObjectChanged, match="Restore the file, or renew the references") as caught:
            archive.read()
        assert str(caught.value.actual) in caught.value.message
        assert f"the reference expects {caught.value.expected}" in caught.value.message
        program, *arguments = shlex.split(caught.value.message.splitlines()[-1])
        assert program == "icechunk-virtual"
        assert main([archive.repo if argument == "REPO" else argument for argument in arguments]) == 0
    xr.testing.assert_equal(archive.read(), archive.expected())


def grant(prefix: str, store: Any, credentials: Any = None) -> Any:
    granted = icv.containers_credentials({prefix: credentials})
    return Authorization({prefix: icv.VirtualChunkContainer(prefix, store)}, granted).grants[0]


@pytest.mark.parametrize(
    ("url", "store", "credentials", "expected"),
    [
        ("file:///data/a%20b.nc", icv.local_filesystem_store("/"), None, "'/data/a b.nc' --repo REPO --mode r+"),
        ("file:///data/$(rm).nc", icv.local_filesystem_store("/"), None, "'/data/$(rm).nc' --repo REPO --mode r+"),
        ("file:///data/\u202eevil", icv.local_filesystem_store("/"), None, "... --repo REPO --mode r+"),
        ("s3://b/f", icv.s3_store(region="eu"), None, "s3://b/f --repo REPO --mode r+ --region eu"),
        ("s3://b/f", icv.s3_store(anonymous=True), None, "s3://b/f --repo REPO --mode r+ --anonymous"),
        ("s3://b/f", icv.s3_store(), icv.s3_anonymous_credentials(), "s3://b/f --repo REPO --mode r+ --anonymous"),
        (
            "s3://b/f",
            icv.s3_store(endpoint_url="https://a;b", requester_pays=True),
            icv.s3_credentials(access_key_id="HIDDEN", secret_access_key="HIDDEN"),
            "s3://b/f --repo REPO --mode r+ --endpoint-url 'https://a;b' --requester-pays",
        ),
        ("tigris://b/f", ObjectStoreConfig.Tigris(icv.S3Options()), None, "tigris://b/f --repo REPO --mode r+"),
        ("gs://b/f", icv.gcs_store(), None, "gs://b/f --repo REPO --mode r+ --anonymous"),
        ("gs://b/f", icv.gcs_store(), icv.gcs_credentials(bearer_token="HIDDEN"), "gs://b/f --repo REPO --mode r+"),
        (
            "az://c/f",
            azure_store(account="me", config={"access_key": "HIDDEN"}),
            icv.azure_from_env_credentials(),
            "az://c/f --repo REPO --mode r+ --account me",
        ),
        (
            "https://h/f",
            icv.http_store(),
            icv.http_credentials(netrc=True),
            "https://h/f --repo REPO --mode r+ --netrc",
        ),
        ("https://h/f", icv.http_store(), icv.http_credentials(bearer_token="H"), "https://h/f --repo REPO --mode r+"),
    ],
)
def test_commands(url: str, store: Any, credentials: Any, expected: str) -> None:
    location = check_location(url)
    prefix = "file:///data/" if location.scheme == "file" else location.root
    assert rescan_command(grant(prefix, store, credentials), location) == "icechunk-virtual scan " + expected


# -- reading all the same ------------------------------------------------------------------------------------------


def test_checksums_can_be_left_out_of_account(archive: Archive, caplog: pytest.LogCaptureFixture) -> None:
    before = archive.read()
    if archive.scheme == "file":
        archive.paths[1].touch()
    archive.renew_state()
    with archive.server.recording() as seen:
        xr.testing.assert_equal(archive.read(granted=icv.unverified()), before)
    assert all("If-Match" not in r.headers and "If-Unmodified-Since" not in r.headers for r in seen)
    with pytest.raises(ObjectChanged):
        archive.read()
    said = [r for r in caplog.records if "checksums of virtual chunks below" in r.getMessage()]
    assert [r.levelname for r in said] == ["WARNING"]
    assert archive.prefix in said[0].getMessage()


def test_what_is_granted_unverified(tmp_path: Path) -> None:
    keys = icv.s3_static_credentials(access_key_id="HIDDEN", secret_access_key="HIDDEN")
    granted = icv.containers_credentials(
        {"s3://a/": icv.unverified(keys), "s3://b/": icv.unverified(), "s3://c/": keys}
    )
    assert "HIDDEN" not in repr(granted)
    config = icv.RepositoryConfig()
    for name in "abc":
        config.set_virtual_chunk_container(icv.VirtualChunkContainer(f"s3://{name}/", icv.s3_store()))
    repo = icv.Repository.create(icv.in_memory_storage(), config, granted)
    assert repo.authorized_virtual_container_prefixes == {"s3://a/", "s3://b/", "s3://c/"}
    copy = pickle.loads(pickle.dumps(repo.readonly_session("main")._workspace.authorization))
    found = {grant.prefix.text: (grant.verified, grant.credentials is None) for grant in copy.grants}
    assert found == {"s3://a/": (False, False), "s3://b/": (False, True), "s3://c/": (True, False)}
    with pytest.raises(ValueError, match="Unknown credential type"):
        icv.unverified("key")  # type: ignore[arg-type]
    wrong = {"s3://a/": icv.unverified(icv.gcs_credentials(bearer_token="t"))}
    with pytest.raises(icv.IcechunkError, match="S3 containers do not accept"):
        repo.reopen(authorize_virtual_chunk_access=icv.containers_credentials(wrong))
