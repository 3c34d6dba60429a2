"""Checksums that a scan records, judged by the original: it reads what we reference, and notices what changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import icechunk_virtual as icv
from icechunk_virtual.model.chunk_refs import ChunkRefs
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.virtual import open_source
from tests.support.engines import get, put
from tests.support.hierarchies import GROUP, array_document
from tests.support.object_server import MODIFIED, ObjectServer

pytestmark = pytest.mark.compat

ic: Any = pytest.importorskip("icechunk")
CONTENT = bytes(range(100))
PREFIX = "s3://bucket/"


@pytest.fixture
def server() -> Iterator[ObjectServer]:
    with ObjectServer({"/bucket/f": CONTENT}) as running:
        yield running


def store_at(library: Any, server: ObjectServer) -> Any:
    return library.s3_store(
        region="r",
        endpoint_url=server.url,
        allow_http=True,
        force_path_style=True,
        anonymous=True,
        s3_compatible=True,
    )


class Repository:
    """Ours, with one chunk in the object; the original reads it."""

    def __init__(self, path: Path, server: ObjectServer) -> None:
        self.path, self.server = path, server
        self.container = icv.VirtualChunkContainer(PREFIX, store_at(icv, server))
        config = icv.RepositoryConfig()
        config.set_virtual_chunk_container(self.container)
        self.repo: icv.Repository = icv.Repository.create(icv.local_filesystem_storage(str(path)), config)

    def reference(self, locations: Locations) -> None:
        session = self.repo.writable_session("main")
        put(session.store, "zarr.json", GROUP)
        put(session.store, "v/zarr.json", array_document((10,), (10,)))
        session.store.set_chunk_refs("/v", ChunkRefs.virtual(np.zeros((1, 1), np.uint32), locations, 0, 10, 10))
        session.commit("reference")

    def recorded(self) -> Locations:
        """What a scan would record now."""
        with open_source(f"{PREFIX}f", containers=[self.container]) as source:
            return source.locations

    def read_by_the_original(self) -> bytes | None:
        config = ic.RepositoryConfig()
        config.set_virtual_chunk_container(ic.VirtualChunkContainer(PREFIX, store_at(ic, self.server)))
        granted = ic.containers_credentials({PREFIX: ic.s3_anonymous_credentials()})
        repo = ic.Repository.open(ic.local_filesystem_storage(str(self.path)), config, granted)
        return get(repo.readonly_session("main").store, "v/c/0")


@pytest.mark.parametrize(
    ("etag", "modified", "now_etag", "now_modified"),
    [
        ('"e"', MODIFIED, '"new"', MODIFIED),
        ('W/"e"', MODIFIED, 'W/"new"', MODIFIED + 1),
        (None, MODIFIED, None, MODIFIED + 1),
    ],
)
def test_what_is_recorded_is_read_and_verified_by_the_original(
    etag: str | None, modified: int, now_etag: str | None, now_modified: int, server: ObjectServer, tmp_path: Path
) -> None:
    server.etag, server.modified = etag, modified
    there = Repository(tmp_path / "repo", server)
    there.reference(there.recorded())
    assert there.read_by_the_original() == CONTENT[10:20]
    server.etag, server.modified = now_etag, now_modified
    with server.recording() as seen, pytest.raises(ic.IcechunkError, match="error fetching virtual reference"):
        there.read_by_the_original()
    assert ("If-Match" in seen[0].headers) != ("If-Unmodified-Since" in seen[0].headers)


def test_the_original_cannot_read_what_has_a_weak_etag(server: ObjectServer, tmp_path: Path) -> None:
    """Which is why none is recorded where there is a time."""
    server.etag = 'W/"e"'
    there = Repository(tmp_path / "repo", server)
    there.reference(Locations.of([f"{PREFIX}f"], etags=['W/"e"']))
    with server.recording() as seen, pytest.raises(ic.IcechunkError, match="error fetching virtual reference"):
        there.read_by_the_original()
    assert seen[0].headers["If-Match"] == 'W/"e"'
