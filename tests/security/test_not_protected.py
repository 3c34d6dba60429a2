"""What the threat model says is not protected: so it is, and whoever changes that changes the page."""

from __future__ import annotations

import gzip
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import obstore.exceptions
import obstore.store
import pytest
import zarr
from multidict import CIMultiDict

import icechunk_virtual as icv
from icechunk_virtual.repo.cloud.clients import Manner, client_options
from icechunk_virtual.repo.obstore_store import Role
from icechunk_virtual.repo.settings import EffectiveStorage
from icechunk_virtual.storage import http_store, s3_store
from tests.support.hierarchies import array_document, get, put
from tests.support.hostile import CONTENT, open_and_read, repository_of_another
from tests.support.object_server import ObjectServer
from tests.support.proxy import Answer, Forward, Proxy, Request
from tests.support.web_server import WebServer

KEY = icv.s3_credentials(access_key_id="KEYID", secret_access_key="SECRET", session_token="TOKEN")


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer({"/d/f": CONTENT, "/bucket/d/f": CONTENT, "/elsewhere": CONTENT}) as running:
        yield running


def s3_at(server: Any, **more: Any) -> Any:
    return s3_store(region="r", endpoint_url=server.url, allow_http=True, force_path_style=True, **more)


def test_T80_object_stores_that_the_reader_named_may_redirect(server: WebServer) -> None:
    with ObjectServer({"/bucket/d/f": CONTENT}, host="127.0.0.2") as other:

        async def redirect(request: Request, _forward: Forward) -> Answer:
            return Answer(307, CIMultiDict({"Location": other.url + request.target}))

        server.handle = redirect
        storage = repository_of_another({"s3://bucket/": s3_at(server)}, "s3://bucket/d/f")
        assert open_and_read(storage, {"s3://bucket/": KEY, server.url: None}) == CONTENT[:10]
        (request,) = other.requests
        assert "Authorization" not in request.headers
        assert request.headers["x-amz-security-token"] == "TOKEN"


def test_T81_a_name_that_was_granted_means_what_its_owner_says(server: WebServer) -> None:
    prefix = f"http://localhost:{server.port}/d/"
    storage = repository_of_another({prefix: http_store({"allow_http": "true"})}, f"{prefix}f")
    assert open_and_read(storage, {prefix: None}) == CONTENT[:10]


def test_T82_a_web_server_decides_what_is_below_its_prefix(server: WebServer) -> None:
    prefix = f"{server.url}/d/"
    server.redirect("/d/f", "/elsewhere")
    storage = repository_of_another({prefix: http_store({"allow_http": "true"})}, f"{prefix}f")
    assert open_and_read(storage, {prefix: None}) == CONTENT[:10]


def test_T83_hard_links(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(CONTENT)
    (tmp_path / "open").mkdir()
    os.link(tmp_path / "secret", tmp_path / "open" / "f")
    prefix = f"file://{tmp_path}/open/"
    storage = repository_of_another({prefix: icv.local_filesystem_store(tmp_path)}, f"{prefix}f")
    assert open_and_read(storage, {prefix: None}) == CONTENT[:10]


RUN: list[str] = []


def run() -> None:
    RUN.append("unpickled")


class Bomb:
    def __reduce__(self) -> Any:
        return run, ()


def test_T84_pickles_are_trusted() -> None:
    credentials = icv.S3Credentials.Refreshable(pickle.dumps(Bomb()))
    with pytest.raises(TypeError):
        credentials.fetch()
    assert RUN == ["unpickled"]


def test_T85_a_web_address_that_was_granted_may_be_a_stored_container_s_server(server: WebServer) -> None:
    storage = repository_of_another({"s3://bucket/": s3_at(server)}, "s3://bucket/d/f")
    with server.recording() as seen:
        assert open_and_read(storage, {"s3://bucket/": KEY, f"{server.url}/": None}) == CONTENT[:10]
    assert seen[0].headers["x-amz-security-token"] == "TOKEN"


def test_T86_a_repository_says_who_pays_and_how_long_its_readers_wait(server: WebServer) -> None:
    store = s3_at(server, requester_pays=True, network_stream_timeout_seconds=0)
    storage = repository_of_another({"s3://bucket/": store}, "s3://bucket/d/f")
    with server.recording() as seen:
        open_and_read(storage, {"s3://bucket/": KEY, server.url: None})
    assert seen[0].headers["x-amz-request-payer"] == "requester"
    assert "read_timeout" not in client_options(Role.READ, Manner(stall_seconds=0), EffectiveStorage())


def test_T86_and_how_much_is_kept_in_memory() -> None:
    config = icv.RepositoryConfig(
        caching=icv.CachingConfig(num_bytes_chunks=2**63),
        manifest=icv.ManifestConfig(preload=icv.ManifestPreloadConfig(2**32 - 1, icv.ManifestPreloadCondition.true())),
    )
    storage = icv.in_memory_storage()
    icv.Repository.create(storage, config)
    opened = icv.Repository.open(storage).config
    assert opened.effective_caching.num_bytes_chunks == 2**63
    assert opened.effective_preload == (2**32 - 1, icv.ManifestPreloadCondition.true())


def test_T87_what_codecs_unpack() -> None:
    repo = icv.Repository.create(icv.in_memory_storage())
    packed = gzip.compress(bytes(2**24), 9)
    with repo.transaction("main", message="x") as store:
        codecs = [{"name": "bytes"}, {"name": "gzip", "configuration": {"level": 5}}]
        put(store, "v/zarr.json", array_document((2**24,), (2**24,), codecs=codecs))
        put(store, "v/c/0", packed)
    assert len(packed) < 20_000
    array = zarr.open_array(repo.readonly_session("main").store, path="v", mode="r")
    assert np.asarray(array[...]).nbytes == 2**24


def test_T88_folders_of_a_repository_may_be_links(tmp_path: Path) -> None:
    storage = icv.local_filesystem_storage(tmp_path / "r")
    repo = icv.Repository.create(storage, icv.RepositoryConfig(inline_chunk_threshold_bytes=0))
    with repo.transaction("main", message="x") as store:
        put(store, "v/zarr.json", array_document((10,), (10,)))
        put(store, "v/c/0", CONTENT[:10])
    (tmp_path / "r" / "chunks").rename(tmp_path / "other disk")
    (tmp_path / "r" / "chunks").symlink_to(tmp_path / "other disk")
    assert get(icv.Repository.open(storage).readonly_session("main").store, "v/c/0") == CONTENT[:10]


def test_T89_behind_a_proxy_names_are_its_business(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with Proxy() as proxy:

        async def look_up(request: Request, forward: Forward) -> Answer:
            target = request.target.replace("http://inner.example.org", server.url)
            return await forward(Request(request.method, target, request.headers, request.body))

        proxy.handle = look_up
        monkeypatch.setenv("http_proxy", proxy.url)
        prefix = f"{server.url}/d/"
        storage = repository_of_another({prefix: http_store({"allow_http": "true"})}, f"{prefix}f")
        server.redirect("/d/f", "http://inner.example.org/elsewhere")
        assert open_and_read(storage, {prefix: None}) == CONTENT[:10]
        for host in ("inner", "10.0.0.1"):
            server.redirect("/d/f", f"http://{host}/elsewhere")
            with pytest.raises(icv.IcechunkError, match="no address of the public internet"):
                open_and_read(storage, {prefix: None})


def test_T90_errors_of_object_stores_are_read_to_their_end(server: WebServer) -> None:
    async def refuse(_request: Request, _forward: Forward) -> Answer:
        return Answer(403, body=b"x" * 2**24)

    server.handle = refuse
    store = obstore.store.HTTPStore.from_url(server.url, client_options={"allow_http": True})
    with pytest.raises(obstore.exceptions.PermissionDeniedError) as caught:
        obstore.get(store, "f")
    assert len(str(caught.value)) > 2**24
