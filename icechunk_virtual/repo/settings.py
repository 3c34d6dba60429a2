"""Settings of compression, caches and storage, and the numbers that hold where they are unset.

Unset is ``None`` and stays ``None`` when saved: defaults are applied on use, by the `effective_*` functions, which
return frozen values without gaps. Knows no storage and no engine.
"""

from __future__ import annotations

import copy
import enum
from dataclasses import dataclass, field, replace
from typing import TypeVar, overload

from icechunk_virtual.containers.coalesce import Merging
from icechunk_virtual.model.checked import U8, U16, U32, U64, Checked, NonZeroU16, NonZeroU64, field_types

C = TypeVar("C", bound=Checked)

_MOST_OVERREAD = 1000  # percent, whatever a repository says


class CompressionAlgorithm(enum.IntEnum):
    """How snapshots, manifests and transaction logs are compressed. Chunks are compressed by Zarr's codecs."""

    Zstd = 0

    @staticmethod
    def default() -> CompressionAlgorithm:
        """Zstandard."""
        return CompressionAlgorithm.Zstd

    def __repr__(self) -> str:
        return f"CompressionAlgorithm.{self.name}"

    __str__ = __repr__


@dataclass(slots=True)
class CompressionConfig(Checked):
    """Compression of the metadata files.

    Parameters
    ----------
    algorithm
        Default: Zstandard.
    level
        0 to 255; default 3. Levels beyond what the algorithm offers mean its strongest.
    """

    algorithm: CompressionAlgorithm | None = None
    level: U8 | None = None

    @staticmethod
    def default() -> CompressionConfig:
        """Everything unset."""
        return CompressionConfig()


@dataclass(slots=True)
class CachingConfig(Checked):
    """Capacities of the caches that the sessions of one repository object share.

    Parameters
    ----------
    num_snapshot_nodes
        Arrays and groups held; default 500 000.
    num_chunk_refs
        Chunk references held; default 15 000 000.
    num_transaction_changes
        Changes held; default 0.
    num_bytes_attributes
        Bytes of attributes held; default 0.
    num_bytes_chunks
        Bytes of chunks held; default 0.
    """

    num_snapshot_nodes: U64 | None = None
    num_chunk_refs: U64 | None = None
    num_transaction_changes: U64 | None = None
    num_bytes_attributes: U64 | None = None
    num_bytes_chunks: U64 | None = None

    @staticmethod
    def default() -> CachingConfig:
        """Everything unset."""
        return CachingConfig()


@dataclass(slots=True)
class MergedReads(Checked):
    """How small virtual chunks are read over a network: neighbours together, and what is next ahead of time.

    Parameters
    ----------
    enabled
        Default: true.
    max_overread_percent
        Most bytes that are fetched without being asked for, in percent of those asked for; default 100. Holds at
        every moment, so it is also how fast reading ahead grows. 0: only ranges that touch are merged. More than
        1000 is 1000.
    buffer_bytes
        Most bytes that are fetched ahead and not asked for yet; default 64 MiB. 0: nothing is fetched ahead.
    """

    enabled: bool | None = None
    max_overread_percent: U16 | None = None
    buffer_bytes: U64 | None = None


@dataclass(slots=True)
class StorageConcurrencySettings(Checked):
    """How one large object is fetched in several requests.

    Parameters
    ----------
    max_concurrent_requests_for_object
        At least 1.
    ideal_concurrent_request_size
        Bytes per request, at least 1.
    """

    max_concurrent_requests_for_object: NonZeroU16 | None = None
    ideal_concurrent_request_size: NonZeroU64 | None = None


@dataclass(slots=True)
class StorageRetriesSettings(Checked):
    """How often and how patiently a failed request is repeated.

    Parameters
    ----------
    max_tries
        At least 1, the first one included.
    initial_backoff_ms, max_backoff_ms
        Pause before the first repetition, and the longest pause, in milliseconds.
    """

    max_tries: NonZeroU16 | None = None
    initial_backoff_ms: U32 | None = None
    max_backoff_ms: U32 | None = None


@dataclass(slots=True)
class StorageSettings(Checked):
    """How the storage of a repository is used. What is unset comes from the storage's own defaults.

    Parameters
    ----------
    concurrency, retries
        See their classes.
    unsafe_use_conditional_create
        Create references only where none exist. Without it concurrent writers lose each other's commits.
    unsafe_use_conditional_update
        Move branches only from where they were last seen. Likewise.
    unsafe_use_metadata
        Attach metadata and content types to objects.
    storage_class, metadata_storage_class, chunks_storage_class
        Name of the object store's class for everything, for metadata files, and for chunks.
    minimum_size_for_multipart_upload
        Bytes from which an object is uploaded in parts.
    """

    concurrency: StorageConcurrencySettings | None = None
    retries: StorageRetriesSettings | None = None
    unsafe_use_conditional_create: bool | None = None
    unsafe_use_conditional_update: bool | None = None
    unsafe_use_metadata: bool | None = None
    storage_class: str | None = None
    metadata_storage_class: str | None = None
    chunks_storage_class: str | None = None
    minimum_size_for_multipart_upload: U64 | None = field(default=None, repr=False)


def in_memory_storage_defaults() -> StorageSettings:
    """Settings of the in-memory storage: five requests of any size, no repetitions."""
    return StorageSettings(StorageConcurrencySettings(5, 1), StorageRetriesSettings(1, 0, 0))


def local_filesystem_storage_defaults() -> StorageSettings:
    """Settings of a local directory: five requests of 4 KiB, no repetitions, no object metadata."""
    return StorageSettings(
        StorageConcurrencySettings(5, 4096), StorageRetriesSettings(1, 0, 0), unsafe_use_metadata=False
    )


@overload
def merge(base: C, over: C) -> C: ...
@overload
def merge(base: C | None, over: C | None) -> C | None: ...
def merge(base: C | None, over: C | None) -> C | None:
    """What `over` sets wins, field by field and recursively; the rest is from `base`. The result shares nothing.

    Classes with ``merges_whole`` are replaced, not merged.
    """
    if base is None or over is None or over.merges_whole:
        return copy.deepcopy(base if over is None else over)
    merged = copy.deepcopy(base)
    for name in field_types(type(over)):
        value = getattr(over, name)
        if isinstance(value, Checked):
            setattr(merged, name, merge(getattr(base, name), value))
        elif value is not None:
            setattr(merged, name, copy.deepcopy(value))
    return merged


@dataclass(frozen=True, slots=True)
class EffectiveCaching:
    """Capacities in force; units as in `CachingConfig`."""

    num_snapshot_nodes: int = 500_000
    num_chunk_refs: int = 15_000_000
    num_transaction_changes: int = 0
    num_bytes_attributes: int = 0
    num_bytes_chunks: int = 0


@dataclass(frozen=True, slots=True)
class EffectiveStorage:
    """Storage settings in force; sizes in bytes, pauses in milliseconds. The storage classes may be ``None``."""

    max_concurrent_requests_for_object: int = 18
    ideal_concurrent_request_size: int = 12 * 2**20
    max_tries: int = 10
    initial_backoff_ms: int = 100
    max_backoff_ms: int = 180_000
    unsafe_use_conditional_create: bool = True
    unsafe_use_conditional_update: bool = True
    unsafe_use_metadata: bool = True
    metadata_storage_class: str | None = None
    chunks_storage_class: str | None = None
    minimum_size_for_multipart_upload: int = 100 * 2**20


def _set_fields(*settings: Checked | None) -> dict[str, object]:
    return {
        name: value
        for part in settings
        if part is not None
        for name in field_types(type(part))
        if (value := getattr(part, name)) is not None and not isinstance(value, Checked)
    }


def effective_compression_level(config: CompressionConfig | None) -> int:
    """Zstandard level in force, at most 22, the strongest there is."""
    return 3 if config is None or config.level is None else min(config.level, 22)


def effective_caching(config: CachingConfig | None) -> EffectiveCaching:
    """Cache capacities in force."""
    return EffectiveCaching(**_set_fields(config))  # type: ignore[arg-type]  # the names and types are those of the fields


def effective_merging(reads: MergedReads | None) -> Merging | None:
    """How reads are merged, ``None``: not at all."""
    reads = reads or MergedReads()
    if reads.enabled is False:
        return None
    limits = Merging()
    if reads.max_overread_percent is not None:
        limits = replace(limits, max_overread=min(reads.max_overread_percent, _MOST_OVERREAD) / 100)
    return limits if reads.buffer_bytes is None else replace(limits, buffer_bytes=reads.buffer_bytes)


def effective_storage(settings: StorageSettings | None, defaults: StorageSettings | None = None) -> EffectiveStorage:
    """Storage settings in force: the user's, then the storage's own `defaults`, then the general ones."""
    merged = merge(defaults, settings)
    if merged is None:
        return EffectiveStorage()
    fields = _set_fields(merged, merged.concurrency, merged.retries)
    for_all = fields.pop("storage_class", None)
    fields.setdefault("metadata_storage_class", for_all)
    fields.setdefault("chunks_storage_class", for_all)
    return EffectiveStorage(**fields)  # type: ignore[arg-type]  # the names and types are those of the fields


_MOST_PARTS, _MOST_TRIES, _LONGEST_BACKOFF_MS = 256, 100, 180_000


def bounded_for_references(settings: EffectiveStorage) -> EffectiveStorage:
    """The settings for requests to servers that references lead to, within what is decent there.

    Settings may be those of a stranger's repository, and the servers are not his.
    """
    return replace(
        settings,
        max_concurrent_requests_for_object=min(settings.max_concurrent_requests_for_object, _MOST_PARTS),
        max_tries=min(settings.max_tries, _MOST_TRIES),
        initial_backoff_ms=min(settings.initial_backoff_ms, _LONGEST_BACKOFF_MS),
        max_backoff_ms=min(settings.max_backoff_ms, _LONGEST_BACKOFF_MS),
    )
