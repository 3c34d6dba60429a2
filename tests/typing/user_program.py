"""A program as a user of the icechunk library writes it, with most of its names.

Strictly typed, so that mypy judges the annotations of the package through a user's eyes, and run by
`test_user_program`: with this package, and, but for the last two parts, with the original in its place.
"""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

import dask.array as da
import h5py
import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr

import icechunk_virtual as icechunk
from icechunk_virtual.dask import store_dask
from icechunk_virtual.distributed import extract_session, merge_sessions
from icechunk_virtual.xarray import to_icechunk

ROWS = 6
Axes: TypeAlias = dict[
    icechunk.ManifestSplitDimCondition.Axis
    | icechunk.ManifestSplitDimCondition.DimensionName
    | icechunk.ManifestSplitDimCondition.Any,
    int,
]


class Outcome(TypedDict):
    """What a part tells the test."""

    messages: list[str]
    total: float


def configuration(archive: Path) -> icechunk.RepositoryConfig:
    """Everything that a repository can be told."""
    dim = icechunk.ManifestSplitDimCondition
    by_time: Axes = {dim.DimensionName("time"): 3}
    for_all: Axes = {dim.Axis(1): 100, dim.Any(): 1000}
    config = icechunk.RepositoryConfig(
        inline_chunk_threshold_bytes=16,
        compression=icechunk.CompressionConfig(level=5, algorithm=icechunk.CompressionAlgorithm.Zstd),
        caching=icechunk.CachingConfig(num_chunk_refs=1_000_000),
        manifest=icechunk.ManifestConfig(
            splitting=icechunk.ManifestSplittingConfig.from_dict(
                {
                    icechunk.ManifestSplitCondition.name_matches("^temp"): by_time,
                    icechunk.ManifestSplitCondition.AnyArray(): for_all,
                }
            ),
            preload=icechunk.ManifestPreloadConfig(
                max_total_refs=1000, preload_if=icechunk.ManifestPreloadCondition.path_matches("^/time")
            ),
        ),
    )
    config.set_virtual_chunk_container(
        icechunk.VirtualChunkContainer(prefix_of(archive), icechunk.local_filesystem_store(str(archive)))
    )
    return config


def prefix_of(archive: Path) -> str:
    return f"file://{archive}/"


def get_credentials() -> icechunk.S3StaticCredentials:
    """As a program gets them from a vault."""
    expires = datetime.now(UTC) + timedelta(hours=1)
    return icechunk.S3StaticCredentials("key", "secret", session_token=None, expires_after=expires)


def bucket_configuration() -> tuple[icechunk.RepositoryConfig, dict[str, Any]]:
    """Containers in buckets, and the keys to them: nothing is asked of the network here."""
    config = icechunk.RepositoryConfig.default()
    stores: dict[str, icechunk.AnyObjectStoreConfig] = {
        "s3://era5/": icechunk.s3_store(region="eu-central-1"),
        "s3://private/": icechunk.s3_store(region="eu-central-1", endpoint_url="https://minio.example"),
        "gcs://cmip6/": icechunk.gcs_store(),
    }
    for prefix, store in stores.items():
        config.set_virtual_chunk_container(icechunk.VirtualChunkContainer(prefix, store))
    credentials = icechunk.containers_credentials(
        {
            "s3://era5/": icechunk.s3_credentials(access_key_id="key", secret_access_key="secret"),
            "s3://private/": icechunk.s3_refreshable_credentials(get_credentials),
            "gcs://cmip6/": icechunk.gcs_from_env_credentials(),
        }
    )
    return config, dict(credentials)


def write_first_version(repo: icechunk.Repository) -> str:
    """Groups, arrays, and a commit with properties."""
    session = repo.writable_session("main")
    store: icechunk.IcechunkStore = session.store
    root = zarr.group(store=store)
    root.attrs["title"] = "a year of temperatures"
    temperature = root.create_array(
        "temperature", shape=(ROWS, 4), chunks=(1, 4), dtype="f8", dimension_names=["time", "x"], fill_value=np.nan
    )
    temperature[:] = np.arange(ROWS * 4, dtype="f8").reshape(ROWS, 4)
    assert session.has_uncommitted_changes
    changes: icechunk.Diff = session.status()
    assert changes.new_arrays == {"/temperature"}
    assert changes.updated_chunks["/temperature"][0] == [0, 0]
    return session.commit("first version", metadata={"author": "me", "numbers": [1, 2.5, None]})


def read(repo: icechunk.Repository, **version: Any) -> npt.NDArray[Any]:
    session = repo.readonly_session(**version)
    return np.asarray(zarr.open_array(session.store, path="temperature", mode="r")[...])


def history(repo: icechunk.Repository) -> list[str]:
    infos: Iterable[icechunk.SnapshotInfo] = repo.ancestry(branch="main")
    return [info.message for info in infos]


def versions(repo: icechunk.Repository, first: str) -> None:
    """Branches, tags, moments, differences."""
    repo.create_tag("v1", snapshot_id=first)
    repo.create_branch("trial", snapshot_id=first)
    with repo.transaction("trial", message="trial", metadata={"by": "transaction"}) as store:
        zarr.open_array(store, path="temperature", mode="r+")[0] = -1
    trial = repo.lookup_branch("trial")
    assert repo.list_branches() == {"main", "trial"}
    assert repo.list_tags() == {"v1"}
    assert repo.lookup_tag("v1") == first
    diff = repo.diff(from_tag="v1", to_branch="trial")
    assert diff.updated_chunks == {"/temperature": [[0, 0]]}
    assert read(repo, branch="trial")[0, 0] == -1
    assert read(repo, tag="v1")[0, 0] == 0
    assert read(repo, branch="trial", as_of=datetime.now(UTC))[0, 0] == -1
    info = repo.lookup_snapshot(trial)
    parent: str | None = info.parent_id
    assert parent == first
    written: datetime = info.written_at
    assert written.tzinfo is not None
    manifests: list[icechunk.ManifestFileInfo] = info.manifests
    assert sum(manifest.num_chunk_refs for manifest in manifests) == ROWS
    assert json.loads(repo.inspect_snapshot(trial))["parent_id"] == first
    repo.reset_branch("trial", first, from_snapshot_id=trial)
    repo.delete_branch("trial")
    repo.delete_tag("v1")


def conflicts(repo: icechunk.Repository) -> None:
    """Two sessions change one chunk."""
    fast, slow = repo.writable_session("main"), repo.writable_session("main")
    zarr.open_array(fast.store, path="temperature", mode="r+")[1] = 100
    zarr.open_array(slow.store, path="temperature", mode="r+")[1] = 200
    tip = fast.commit("fast")
    try:
        slow.commit("slow")
    except icechunk.ConflictError as error:
        actual: str | None = error.actual_parent
        assert actual == tip
    try:
        slow.rebase(icechunk.ConflictDetector())
    except icechunk.RebaseFailedError as error:
        found: list[icechunk.Conflict] = error.conflicts
        assert found[0].conflict_type == icechunk.ConflictType.ChunkDoubleUpdate
        assert found[0].path == "/temperature"
        assert found[0].conflicted_chunks == [[1, 0]]
    solver: icechunk.ConflictSolver = icechunk.BasicConflictSolver(
        on_chunk_conflict=icechunk.VersionSelection.UseTheirs
    )
    slow.rebase(solver)
    zarr.open_array(slow.store, path="temperature", mode="r+")[2] = 200
    slow.commit("slow", rebase_with=solver, rebase_tries=3)


def write_row(fork: icechunk.ForkSession, row: int) -> icechunk.ForkSession:
    array = zarr.open_array(fork.store, path="temperature", mode="r+")
    array[row] = 10.0 * row
    session: icechunk.Session = extract_session(array)
    assert isinstance(session, icechunk.ForkSession)
    return session


def distributed(repo: icechunk.Repository) -> None:
    """Forks travel to workers and come back."""
    session = repo.writable_session("main")
    fork: icechunk.ForkSession = pickle.loads(pickle.dumps(session.fork()))
    with ThreadPoolExecutor(2) as pool:
        forks = list(pool.map(write_row, [fork, session.fork(), session.fork()], range(3, ROWS)))
    session.merge(merge_sessions(forks[0], forks[1:]))
    session.commit("rows from everywhere")


def references(repo: icechunk.Repository, archive: Path) -> float:
    """Chunks that stay in the archive."""
    values = np.arange(8, dtype="<f8")
    (archive / "file.bin").write_bytes(bytes(16) + values.tobytes())
    url = prefix_of(archive) + "file.bin"
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="virtual", shape=(8,), chunks=(2,), dtype="<f8", compressors=None)
    store = session.store
    store.set_virtual_ref("virtual/c/0", url, offset=16, length=16)
    modified = datetime.now(UTC) + timedelta(seconds=1)
    specs = [
        icechunk.VirtualChunkSpec([n], url, 16 + 16 * n, 16, last_updated_at_checksum=modified) for n in range(1, 4)
    ]
    left_out: list[tuple[int, ...]] | None = store.set_virtual_refs("virtual", specs, validate_containers=True)
    assert not left_out
    session.commit("references")
    reading = repo.readonly_session("main")
    assert set(reading.all_virtual_chunk_locations()) == {url}
    return float(np.sum(np.asarray(zarr.open_array(reading.store, path="virtual", mode="r")[...])))


async def everything_can_be_awaited(storage: icechunk.Storage, archive: Path) -> list[str]:
    """The same names with `_async`."""
    repo = await icechunk.Repository.open_async(
        storage, authorize_virtual_chunk_access=icechunk.containers_credentials({prefix_of(archive): None})
    )
    messages = [info.message async for info in repo.async_ancestry(branch="main")]
    session = await repo.writable_session_async("main")
    coordinates: set[tuple[int, ...]] = {at async for at in session.chunk_coordinates("/temperature")}
    assert coordinates == {(row, 0) for row in range(ROWS)}
    await session.store.set_virtual_ref_async("virtual/c/0", prefix_of(archive) + "file.bin", offset=0, length=16)
    flushed: str = await session.flush_async("kept by a tag")
    await repo.create_tag_async("flushed", flushed)
    return messages


def maintenance(repo: icechunk.Repository) -> icechunk.GCSummary:
    """What has to be done from time to time."""
    rewritten: str = repo.rewrite_manifests("rewritten", branch="main")
    assert repo.lookup_branch("main") == rewritten
    now = datetime.now(UTC)
    expired: set[str] = repo.expire_snapshots(older_than=now, delete_expired_tags=True)
    assert len(expired) > 1
    planned = repo.garbage_collect(now, dry_run=True)
    summary = repo.garbage_collect(now)
    assert planned.snapshots_deleted == summary.snapshots_deleted
    stored: int = repo.total_chunks_storage()
    assert stored > 0
    return summary


def configure(repo: icechunk.Repository, storage: icechunk.Storage) -> None:
    """Settings change, and are kept for everybody."""
    other = repo.reopen(config=icechunk.RepositoryConfig(inline_chunk_threshold_bytes=8))
    other.save_config()
    saved = icechunk.Repository.fetch_config(storage)
    assert saved is not None
    threshold: int | None = saved.inline_chunk_threshold_bytes
    assert threshold == 8
    repo.set_default_commit_metadata({"department": "weather"})
    defaults: dict[str, Any] = repo.default_commit_metadata()
    assert defaults == {"department": "weather"}


def main(folder: Path) -> Outcome:
    """Everything that the original can do as well."""
    archive = folder / "archive"
    archive.mkdir()
    icechunk.set_logs_filter("icechunk=error")
    storage = icechunk.local_filesystem_storage(str(folder / "repo"))
    assert not icechunk.Repository.exists(storage)
    granted = icechunk.containers_credentials({prefix_of(archive): None})
    repo = icechunk.Repository.create(storage, configuration(archive), authorize_virtual_chunk_access=granted)
    prefixes: set[str] = repo.authorized_virtual_container_prefixes
    assert prefixes == {prefix_of(archive)}
    first = write_first_version(repo)
    versions(repo, first)
    conflicts(repo)
    distributed(repo)
    total = references(repo, archive) + float(np.sum(read(repo, branch="main")))
    messages = asyncio.run(everything_can_be_awaited(storage, archive))
    configure(repo, storage)
    copy: icechunk.Repository = pickle.loads(pickle.dumps(repo))
    maintenance(copy)
    config, credentials = bucket_configuration()
    buckets = icechunk.Repository.create(icechunk.in_memory_storage(), config, credentials)
    assert buckets.config.virtual_chunk_containers is not None
    return {"messages": [*messages, *history(icechunk.Repository.open(storage))], "total": total}


def scanned(folder: Path) -> float:
    """A file becomes a version of a repository, without copying: what the original cannot."""
    archive = folder / "scanned"
    archive.mkdir()
    with h5py.File(archive / "one.h5", "w") as file:
        file.create_dataset("v", data=np.arange(10.0), chunks=(5,))
    dataset: icechunk.VirtualDataset = icechunk.scan(archive / "one.h5", options=icechunk.ScanOptions())
    containers: tuple[icechunk.VirtualChunkContainer, ...] = dataset.containers
    config = icechunk.RepositoryConfig(virtual_chunk_containers={c.url_prefix: c for c in containers})
    repo = icechunk.Repository.create(
        icechunk.in_memory_storage(), config, authorize_virtual_chunk_access=dict.fromkeys(dataset.prefixes)
    )
    session = repo.writable_session("main")
    dataset.to_icechunk(session, group="year")
    id: str = session.commit("scanned")
    values = zarr.open_array(repo.readonly_session(snapshot_id=id).store, path="year/v", mode="r")
    return float(np.sum(np.asarray(values[...])))


def with_xarray(folder: Path) -> float:
    """Datasets, in memory and of dask, and dask arrays; the original fails with the xarray of today."""
    repo = icechunk.Repository.open_or_create(icechunk.local_filesystem_storage(folder / "xarray"))
    dataset = xr.Dataset({"t": (("time", "x"), np.arange(24.0).reshape(6, 4))})
    session = repo.writable_session("main")
    to_icechunk(dataset, session, group="eager", mode="w", encoding={"t": {"chunks": (2, 4)}})
    session.commit("eager")
    session = repo.writable_session("main")
    to_icechunk(dataset.chunk(time=2), session, group="lazy", split_every=2)
    to_icechunk(dataset.isel(time=[0]), session, group="eager", append_dim="time")
    session.commit("lazy")
    session = repo.writable_session("main")
    fork = session.fork()
    target = zarr.open_array(fork.store, path="lazy/t", mode="r+")
    written: icechunk.ForkSession = store_dask(sources=[da.ones((6, 4), chunks=(2, 4))], targets=[target])
    session.merge(written)
    session.commit("dask")
    with xr.open_dataset(folder / "xarray", engine="icechunk-virtual", group="lazy", chunks=None) as read:
        return float(read["t"].sum())
