"""One versioned, cloud-native Zarr repository over archives of HDF5, NetCDF and other files, without copying them.

Two doors: `scan` turns files into a `VirtualDataset` of chunk references, and `Repository` keeps them, with whatever
is written beside them, in Icechunk's transactional format (version 1). The names of the `icechunk` library stand here
under the same names, so ``import icechunk_virtual as icechunk`` runs its users' code.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from icechunk_virtual.containers.container import (
    AnyObjectStoreConfig,
    ObjectStoreConfig,
    S3Options,
    VirtualChunkContainer,
    gcs_store,
    http_store,
    local_filesystem_store,
    s3_store,
)
from icechunk_virtual.credentials import (
    AnyAzureCredential,
    AnyAzureRefreshableCredential,
    AnyAzureStaticCredential,
    AnyCredential,
    AnyGcsCredential,
    AnyGcsStaticCredential,
    AnyS3Credential,
    AzureCredentials,
    AzureRefreshableCredential,
    AzureStaticCredentials,
    Credentials,
    GcsBearerCredential,
    GcsCredentials,
    GcsStaticCredentials,
    HttpAuth,
    HttpBearerCredential,
    HttpCredentials,
    S3Credentials,
    S3StaticCredentials,
    Unverified,
    azure_anonymous_credentials,
    azure_credentials,
    azure_from_env_credentials,
    azure_refreshable_credentials,
    azure_static_credentials,
    containers_credentials,
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
    unverified,
)
from icechunk_virtual.debug_info import print_debug_info
from icechunk_virtual.errors import ConflictError, IcechunkError, IcechunkVirtualError, RebaseFailedError
from icechunk_virtual.logs import initialize_logs, set_logs_filter
from icechunk_virtual.model.chunk_refs import ChunkKind, ChunkRefs
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.repo.conditions import (
    ManifestPreloadCondition,
    ManifestSplitCondition,
    ManifestSplitDimCondition,
)
from icechunk_virtual.repo.config import (
    ManifestConfig,
    ManifestPreloadConfig,
    ManifestSplittingConfig,
    RepositoryConfig,
)
from icechunk_virtual.repo.conflicts import (
    BasicConflictSolver,
    Conflict,
    ConflictDetector,
    ConflictSolver,
    ConflictType,
    VersionSelection,
)
from icechunk_virtual.repo.gc import GCSummary
from icechunk_virtual.repo.info import ChunkType, Diff, ManifestFileInfo, SnapshotInfo
from icechunk_virtual.repo.settings import (
    CachingConfig,
    CompressionAlgorithm,
    CompressionConfig,
    MergedReads,
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
)
from icechunk_virtual.repo.stats import ChunkStorageStats
from icechunk_virtual.repo.virtual_refs import VirtualChunkSpec
from icechunk_virtual.repository import Repository
from icechunk_virtual.scanners.spec import ScanOptions
from icechunk_virtual.session import ForkSession, Session
from icechunk_virtual.storage import (
    Storage,
    azure_storage,
    gcs_storage,
    in_memory_storage,
    local_filesystem_storage,
    r2_storage,
    s3_storage,
    tigris_storage,
)
from icechunk_virtual.store import IcechunkStore
from icechunk_virtual.virtual import VirtualDataset, scan

try:
    __version__ = version("icechunk-virtual")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0"


def spec_version() -> int:
    """Version of the on-disk format that is read and written."""
    return 1


__all__ = [
    "AnyAzureCredential",
    "AnyAzureRefreshableCredential",
    "AnyAzureStaticCredential",
    "AnyCredential",
    "AnyGcsCredential",
    "AnyGcsStaticCredential",
    "AnyObjectStoreConfig",
    "AnyS3Credential",
    "AzureCredentials",
    "AzureRefreshableCredential",
    "AzureStaticCredentials",
    "BasicConflictSolver",
    "CachingConfig",
    "ChunkKind",
    "ChunkRefs",
    "ChunkStorageStats",
    "ChunkType",
    "CompressionAlgorithm",
    "CompressionConfig",
    "Conflict",
    "ConflictDetector",
    "ConflictError",
    "ConflictSolver",
    "ConflictType",
    "Credentials",
    "Diff",
    "ForkSession",
    "GCSummary",
    "GcsBearerCredential",
    "GcsCredentials",
    "GcsStaticCredentials",
    "HttpAuth",
    "HttpBearerCredential",
    "HttpCredentials",
    "IcechunkError",
    "IcechunkStore",
    "IcechunkVirtualError",
    "Locations",
    "ManifestConfig",
    "ManifestFileInfo",
    "ManifestPreloadCondition",
    "ManifestPreloadConfig",
    "ManifestSplitCondition",
    "ManifestSplitDimCondition",
    "ManifestSplittingConfig",
    "MergedReads",
    "ObjectStoreConfig",
    "RebaseFailedError",
    "Repository",
    "RepositoryConfig",
    "S3Credentials",
    "S3Options",
    "S3StaticCredentials",
    "ScanOptions",
    "Session",
    "SnapshotInfo",
    "Storage",
    "StorageConcurrencySettings",
    "StorageRetriesSettings",
    "StorageSettings",
    "Unverified",
    "VersionSelection",
    "VirtualChunkContainer",
    "VirtualChunkSpec",
    "VirtualDataset",
    "__version__",
    "azure_anonymous_credentials",
    "azure_credentials",
    "azure_from_env_credentials",
    "azure_refreshable_credentials",
    "azure_static_credentials",
    "azure_storage",
    "containers_credentials",
    "gcs_credentials",
    "gcs_from_env_credentials",
    "gcs_refreshable_credentials",
    "gcs_static_credentials",
    "gcs_storage",
    "gcs_store",
    "http_credentials",
    "http_store",
    "in_memory_storage",
    "initialize_logs",
    "local_filesystem_storage",
    "local_filesystem_store",
    "print_debug_info",
    "r2_storage",
    "s3_anonymous_credentials",
    "s3_credentials",
    "s3_from_env_credentials",
    "s3_refreshable_credentials",
    "s3_static_credentials",
    "s3_storage",
    "s3_store",
    "scan",
    "set_logs_filter",
    "spec_version",
    "tigris_storage",
    "unverified",
]

initialize_logs()
