"""Numbers of a stranger: sizes, counts and settings that a repository says, and what they can cost its reader."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import icechunk_virtual as icv
from icechunk_virtual.errors import CorruptFile, IcechunkError, VirtualReadError
from icechunk_virtual.model.chunk_refs import ChunkRefs
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.repo.settings import EffectiveStorage, bounded_for_references
from icechunk_virtual.storage import azure_store, gcs_store, http_store, s3_store
from tests.support.hierarchies import GROUP, array_document, get, put
from tests.support.hostile import CONTENT, open_and_read, repository_of_another
from tests.support.object_server import ObjectServer

LARGE = 2**20
ONE_TRY = icv.StorageSettings(retries=icv.StorageRetriesSettings(max_tries=1))


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    objects = {"/bucket/f": CONTENT, "/f": CONTENT, "/bucket/large": bytes(LARGE), "/large": bytes(LARGE)}
    with ObjectServer(objects) as running:
        yield running


@pytest.fixture(autouse=True)
def afresh(server: ObjectServer) -> None:
    server.reset()


def places(server: ObjectServer, folder: Path) -> dict[str, tuple[Any, Any]]:
    """Prefix to store and credentials, for every kind."""
    (folder / "f").write_bytes(CONTENT)
    s3 = s3_store(region="r", endpoint_url=server.url, allow_http=True, force_path_style=True, anonymous=True)
    azure = azure_store(account="me", config={"endpoint": server.url, "allow_http": "true"})
    return {
        f"file://{folder}/": (icv.local_filesystem_store(folder), None),
        f"{server.url}/": (http_store({"allow_http": "true"}), None),
        "s3://bucket/": (s3, None),
        "gs://bucket/": (gcs_store({"base_url": server.url, "allow_http": "true"}), None),
        "az://bucket/": (azure, icv.azure_credentials(access_key="a2V5")),
    }


MOST = 2**64 - 1


@pytest.mark.parametrize("kind", range(5))
@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 2**60), (0, 2**63), (0, MOST), (MOST - 1, 1), (2**63, 2**62), (2**63 - 1, 1), (50, 51), (2**40, 2**40)],
)
def test_T50_no_length_or_offset_allocates_anything(
    kind: int, offset: int, length: int, server: ObjectServer, tmp_path: Path
) -> None:
    prefix, (store, credentials) = list(places(server, tmp_path).items())[kind]
    storage = repository_of_another({prefix: store}, f"{prefix}f", offset=offset, length=length, settings=ONE_TRY)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with server.recording() as seen, pytest.raises(VirtualReadError):
        open_and_read(storage, {prefix: credentials, server.url: None})
    assert len(seen) < 40
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "in kB"


@pytest.mark.parametrize(("offset", "length"), [(MOST, 1), (MOST, MOST), (2**63, 2**63), (1, MOST)])
def test_T50_nothing_ends_beyond_what_numbers_can_say(offset: int, length: int) -> None:
    with pytest.raises(ValueError, match="beyond 64 bits"):
        ChunkRefs.virtual([[0]], Locations.of(["s3://b/f"]), 0, offset, length)


@pytest.mark.parametrize("kind", range(1, 5))
def test_T51_a_read_is_cut_into_a_bounded_number_of_requests(kind: int, server: ObjectServer, tmp_path: Path) -> None:
    prefix, (store, credentials) = list(places(server, tmp_path).items())[kind]
    concurrency = icv.StorageConcurrencySettings(65_535, 1)
    settings = icv.StorageSettings(concurrency, icv.StorageRetriesSettings(max_tries=1))
    storage = repository_of_another({prefix: store}, f"{prefix}large", length=LARGE, settings=settings)
    with server.recording() as seen:
        assert open_and_read(storage, {prefix: credentials, server.url: None}) == bytes(LARGE)
    assert len(seen) <= 257


@pytest.mark.parametrize("kind", [1, 2])
def test_T52_a_failing_server_is_asked_a_bounded_number_of_times(
    kind: int, server: ObjectServer, tmp_path: Path
) -> None:
    prefix, (store, credentials) = list(places(server, tmp_path).items())[kind]
    retries = icv.StorageRetriesSettings(max_tries=65_535, initial_backoff_ms=0, max_backoff_ms=0)
    storage = repository_of_another({prefix: store}, f"{prefix}f", settings=icv.StorageSettings(retries=retries))
    server.deaf = True
    server.objects = {}
    server.handle = server.serve_object
    try:

        async def fail(request: Any, forward: Any) -> Any:
            answer = await server.serve_object(request, forward)
            answer.status = 500
            return answer

        server.handle = fail
        with server.recording() as seen, pytest.raises(VirtualReadError):
            open_and_read(storage, {prefix: credentials, server.url: None})
    finally:
        server.deaf = False
        server.objects = {"/bucket/f": CONTENT, "/f": CONTENT, "/bucket/large": bytes(LARGE), "/large": bytes(LARGE)}
    assert 90 <= len(seen) <= 110


def test_T52_nor_are_the_pauses_endless() -> None:
    asked = EffectiveStorage(
        max_concurrent_requests_for_object=2**16 - 1,
        max_tries=2**16 - 1,
        initial_backoff_ms=2**32 - 1,
        max_backoff_ms=2**32 - 1,
    )
    bounded = bounded_for_references(asked)
    assert bounded.max_concurrent_requests_for_object == 256
    assert bounded.max_tries == 100
    assert (bounded.initial_backoff_ms, bounded.max_backoff_ms) == (180_000, 180_000)
    assert bounded_for_references(EffectiveStorage()) == EffectiveStorage(), "what is usual is left alone"


def test_T53_an_enormous_array_costs_what_is_there() -> None:
    repo = icv.Repository.create(icv.in_memory_storage())
    session = repo.writable_session("main")
    put(session.store, "zarr.json", GROUP)
    put(session.store, "v/zarr.json", array_document((2**31, 2**31), (1, 1)))
    put(session.store, "v/c/5/5", b"x")
    session.commit("enormous")
    store = repo.readonly_session("main").store
    assert get(store, "v/c/5/5") == b"x"
    assert get(store, "v/c/2147483647/2147483647") is None
    assert store.session.all_virtual_chunk_locations() == []


BOMBS = {
    "deep": b"[" * 100_000,
    "deep mappings": b"{a: " * 50_000,
    "aliases": b"a: &a [x,x]\n"
    + b"".join(b"%c: &%c [*%c,*%c]\n" % (c + 1, c + 1, c, c) for c in range(ord("a"), ord("z"))),
    "large": b"#" * (64 * 2**20),
    "pattern": b"manifest: {preload: {preload_if: !path_matches {regex: '" + b"(" * 10_000 + b"'}}}\n",
    "slow pattern": b"manifest: {preload: {preload_if: !path_matches {regex: '((a*)*)*b'}}}\n",
    "repetitions": b"manifest: {preload: {preload_if: !name_matches {regex: 'a{1000}{1000}{1000}'}}}\n",
    "number": b"max_concurrent_requests: " + b"9" * 10_000,
    "tags": b"virtual_chunk_containers: {x: {url_prefix: 's3://b/', store: !!python/object/apply:os.abort []}}\n",
    "not text": b"\xff\xfe" * 100,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_T54_a_configuration_cannot_stop_its_reader(bomb: str, tmp_path: Path) -> None:
    storage = icv.local_filesystem_storage(tmp_path / "r")
    repo = icv.Repository.create(storage)
    with repo.transaction("main", message="x") as store:
        put(store, "a" * 500 + "/zarr.json", array_document((3,)))
        put(store, "a" * 500 + "/c/0", b"x")
    (tmp_path / "r" / "config.yaml").write_bytes(BOMBS[bomb])
    if bomb not in {"pattern", "slow pattern", "repetitions"}:
        with pytest.raises(CorruptFile) as caught:
            icv.Repository.open(storage)
        assert len(str(caught.value)) < 2000
        return
    opened = icv.Repository.open(storage)
    assert get(opened.readonly_session("main").store, "a" * 500 + "/c/0") == b"x"


@pytest.mark.parametrize("kind", ["snapshots", "manifests", "transactions", "refs"])
def test_T55_damaged_files_of_a_repository_are_errors(kind: str, tmp_path: Path) -> None:
    storage = icv.local_filesystem_storage(tmp_path / "r")
    repository_of_another({}, "s3://b/f", storage=storage)
    for path in (tmp_path / "r" / kind).rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            path.write_bytes(data[: len(data) // 2] + bytes(len(data)))
    with pytest.raises(IcechunkError):
        use(storage)


def use(storage: Any) -> None:
    """Read everything that there is in a repository."""
    repo = icv.Repository.open(storage)
    first = list(repo.ancestry(branch="main"))[-1].id
    get(repo.readonly_session("main").store, "v/c/0")
    repo.diff(from_snapshot_id=first, to_branch="main")
