"""Where a repository is kept: the public `Storage` and the functions that make one.

A `Storage` says where and how, and opens nothing by itself. Knows nothing of what is stored.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime

from icechunk_virtual.containers.container import (
    AnyObjectStoreConfig,
    ObjectStoreConfig,
    S3Options,
    azure_store,
    gcs_store,
    http_store,
    local_filesystem_store,
    s3_store,
)
from icechunk_virtual.credentials import (
    AnyAzureCredential,
    AnyAzureRefreshableCredential,
    AnyGcsCredential,
    AnyS3Credential,
    GcsBearerCredential,
    S3StaticCredentials,
    azure_credentials,
    gcs_credentials,
    s3_credentials,
)
from icechunk_virtual.repo.backends import Backend, MemoryBackend, local_backend
from icechunk_virtual.repo.cloud.azure import azure_place
from icechunk_virtual.repo.cloud.gcs import gcs_place
from icechunk_virtual.repo.cloud.s3 import r2_place, s3_place, tigris_place
from icechunk_virtual.repo.object_store import ObjectStore
from icechunk_virtual.repo.settings import EffectiveStorage, StorageSettings, effective_storage

__all__ = [
    "AnyObjectStoreConfig",
    "GcsBearerCredential",
    "ObjectStoreConfig",
    "S3Options",
    "S3StaticCredentials",
    "Storage",
    "azure_credentials",
    "azure_storage",
    "azure_store",
    "gcs_credentials",
    "gcs_storage",
    "gcs_store",
    "http_store",
    "in_memory_storage",
    "local_filesystem_storage",
    "local_filesystem_store",
    "r2_storage",
    "s3_credentials",
    "s3_object_store_storage",
    "s3_storage",
    "s3_store",
    "tigris_storage",
]


class Storage:
    """Where a repository is kept. Made by the functions of this module; pickles.

    In-memory storages can be unpickled only in the process that made them.
    """

    __slots__ = ("_backend", "_open")

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._open: dict[EffectiveStorage, ObjectStore] = {}  # so that connections are used again

    def __repr__(self) -> str:
        return f"<icechunk_virtual.Storage: {self._backend!r}>"

    def __eq__(self, other: object) -> bool:
        return self._backend == other._backend if isinstance(other, Storage) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._backend)

    def __reduce__(self) -> tuple[type[Storage], tuple[Backend]]:
        return Storage, (self._backend,)

    def default_settings(self) -> StorageSettings:
        """Return the settings that hold for this storage where the configuration sets none."""
        return self._backend.default_settings()

    def object_store(self, settings: StorageSettings | None = None) -> ObjectStore:
        """Open the objects; sends no request yet.

        Parameters
        ----------
        settings
            Merged over the storage's own defaults, field by field.
        """
        effective = effective_storage(settings, self.default_settings())
        if effective not in self._open:
            self._open[effective] = self._backend.open(effective)
        return self._open[effective]

    # -- for programs that bring a configuration value; the functions below read better ---------------------------

    @classmethod
    def new_in_memory(cls) -> Storage:
        """Return an `in_memory_storage`."""
        return cls(MemoryBackend())

    @classmethod
    def new_local_filesystem(cls, path: str | os.PathLike[str]) -> Storage:
        """Return a `local_filesystem_storage`."""
        return cls(local_backend(path))

    @classmethod
    def new_s3(
        cls, config: S3Options, bucket: str, prefix: str | None, credentials: AnyS3Credential | None = None
    ) -> Storage:
        """Return an `s3_storage`. Credentials: by default those of the environment."""
        return cls(s3_place(config, bucket, prefix, credentials))

    @classmethod
    def new_s3_object_store(
        cls, config: S3Options, bucket: str, prefix: str | None, credentials: AnyS3Credential | None = None
    ) -> Storage:
        """Return an `s3_object_store_storage`. Credentials: by default those of the environment."""
        return cls(s3_place(config, bucket, prefix, credentials, escaped=True))

    @classmethod
    def new_tigris(
        cls,
        config: S3Options,
        bucket: str,
        prefix: str | None,
        use_weak_consistency: bool,
        credentials: AnyS3Credential | None = None,
    ) -> Storage:
        """Return a `tigris_storage`. Credentials: by default those of the environment."""
        return cls(tigris_place(config, bucket, prefix, credentials, weak=use_weak_consistency))

    @classmethod
    def new_r2(
        cls,
        config: S3Options,
        bucket: str | None = None,
        prefix: str | None = None,
        account_id: str | None = None,
        credentials: AnyS3Credential | None = None,
    ) -> Storage:
        """Return an `r2_storage`. Credentials: by default those of the environment."""
        return cls(r2_place(config, bucket, prefix, account_id, credentials))

    @classmethod
    def new_gcs(
        cls,
        bucket: str,
        prefix: str | None,
        credentials: AnyGcsCredential | None = None,
        *,
        config: dict[str, str] | None = None,
    ) -> Storage:
        """Return a `gcs_storage`. Credentials: by default those of the environment."""
        return cls(gcs_place(bucket, prefix, credentials, config))

    @classmethod
    def new_azure_blob(
        cls,
        account: str,
        container: str,
        prefix: str,
        credentials: AnyAzureCredential | None = None,
        *,
        config: dict[str, str] | None = None,
    ) -> Storage:
        """Return an `azure_storage`. Credentials: by default those of the environment."""
        return cls(azure_place(account, container, prefix, credentials, config))


def in_memory_storage() -> Storage:
    """Keep a repository in the memory of this process.

    It is shared by everything made from the returned object, and gone when the last of that is gone.
    """
    return Storage.new_in_memory()


def local_filesystem_storage(path: str | os.PathLike[str]) -> Storage:
    """Keep a repository in a directory of this machine.

    Commits of several threads and processes to it are safe.

    Parameters
    ----------
    path
        The directory; created at the first write. ``~`` is not expanded. A relative path means one below the
        current directory of now, not of the time of use.
    """
    return Storage.new_local_filesystem(path)


def s3_storage(
    *,
    bucket: str,
    prefix: str | None,
    region: str | None = None,
    endpoint_url: str | None = None,
    allow_http: bool = False,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    session_token: str | None = None,
    expires_after: datetime | None = None,
    anonymous: bool | None = None,
    from_env: bool | None = None,
    get_credentials: Callable[[], S3StaticCredentials] | None = None,
    scatter_initial_credentials: bool = False,
    force_path_style: bool = False,
    network_stream_timeout_seconds: int = 60,
    requester_pays: bool = False,
) -> Storage:
    """Keep a repository on Amazon S3 or a service with its protocol, such as MinIO or Ceph.

    Parameters
    ----------
    bucket, prefix
        Where. ``None``: the whole bucket.
    region
        By default from the environment, else ``us-east-1``, which services with an endpoint of their own ignore.
    endpoint_url
        URL of the service; by default from the environment, else that of AWS.
    allow_http
        Whether the endpoint may be plain http.
    access_key_id, secret_access_key, session_token, expires_after, anonymous, from_env
        See `s3_credentials`; by default those of the environment.
    get_credentials, scatter_initial_credentials
        A function that returns credentials, called before their first use and two minutes before they end. See
        `s3_refreshable_credentials`.
    force_path_style
        Put the bucket into the URL's path, not in front of its host name.
    network_stream_timeout_seconds
        How long a connection may be silent before the request is repeated; 0: for ever. An upload may take this long
        and in addition the time that the largest single request takes at 100 kB/s.
    requester_pays
        Agree to pay for requests.

    Raises
    ------
    ValueError
        Several kinds of credentials, or an incomplete one.
    StorageError
        The endpoint is Tigris, which has a function of its own, or the prefix has empty parts.
    """
    credentials = s3_credentials(
        access_key_id=access_key_id,
        secret_access_key=secret_access_key,
        session_token=session_token,
        expires_after=expires_after,
        anonymous=anonymous,
        from_env=from_env,
        get_credentials=get_credentials,
        scatter_initial_credentials=scatter_initial_credentials,
    )
    options = S3Options(
        region=region,
        endpoint_url=endpoint_url,
        allow_http=allow_http,
        force_path_style=force_path_style,
        network_stream_timeout_seconds=network_stream_timeout_seconds,
        requester_pays=requester_pays,
    )
    return Storage.new_s3(options, bucket, prefix, credentials)


def s3_object_store_storage(
    *,
    bucket: str,
    prefix: str | None,
    region: str | None = None,
    endpoint_url: str | None = None,
    allow_http: bool = False,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    session_token: str | None = None,
    expires_after: datetime | None = None,
    anonymous: bool | None = None,
    from_env: bool | None = None,
    force_path_style: bool = False,
) -> Storage:
    """Keep a repository on S3 with the names of objects as Google and Azure need them, and uploads in one piece.

    It differs from `s3_storage`, whose parameters see, for branches and tags with unusual characters only.
    """
    credentials = s3_credentials(
        access_key_id=access_key_id,
        secret_access_key=secret_access_key,
        session_token=session_token,
        expires_after=expires_after,
        anonymous=anonymous,
        from_env=from_env,
    )
    options = S3Options(
        region=region, endpoint_url=endpoint_url, allow_http=allow_http, force_path_style=force_path_style
    )
    return Storage.new_s3_object_store(options, bucket, prefix, credentials)


def tigris_storage(
    *,
    bucket: str,
    prefix: str | None,
    region: str | None = None,
    endpoint_url: str | None = None,
    use_weak_consistency: bool = False,
    allow_http: bool = False,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    session_token: str | None = None,
    expires_after: datetime | None = None,
    anonymous: bool | None = None,
    from_env: bool | None = None,
    get_credentials: Callable[[], S3StaticCredentials] | None = None,
    scatter_initial_credentials: bool = False,
    network_stream_timeout_seconds: int = 60,
) -> Storage:
    """Keep a repository on Tigris.

    Parameters
    ----------
    region
        Of the bucket. Needed for full consistency: reads and writes then meet the same copy.
    endpoint_url
        By default ``https://t3.storage.dev``.
    use_weak_consistency
        Read the nearest copy, which may be behind. Such a storage is read-only.
    bucket, prefix, allow_http, access_key_id, secret_access_key, session_token, expires_after, anonymous, from_env, \
    get_credentials, scatter_initial_credentials, network_stream_timeout_seconds
        See `s3_storage`.

    Raises
    ------
    StorageError
        No region, although full consistency is wanted.
    """
    credentials = s3_credentials(
        access_key_id=access_key_id,
        secret_access_key=secret_access_key,
        session_token=session_token,
        expires_after=expires_after,
        anonymous=anonymous,
        from_env=from_env,
        get_credentials=get_credentials,
        scatter_initial_credentials=scatter_initial_credentials,
    )
    options = S3Options(
        region=region,
        endpoint_url=endpoint_url,
        allow_http=allow_http,
        network_stream_timeout_seconds=network_stream_timeout_seconds,
    )
    return Storage.new_tigris(options, bucket, prefix, use_weak_consistency, credentials)


def r2_storage(
    *,
    bucket: str | None = None,
    prefix: str | None = None,
    account_id: str | None = None,
    endpoint_url: str | None = None,
    region: str | None = None,
    allow_http: bool = False,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    session_token: str | None = None,
    expires_after: datetime | None = None,
    anonymous: bool | None = None,
    from_env: bool | None = None,
    get_credentials: Callable[[], S3StaticCredentials] | None = None,
    scatter_initial_credentials: bool = False,
    network_stream_timeout_seconds: int = 60,
) -> Storage:
    """Keep a repository on Cloudflare's R2.

    Parameters
    ----------
    bucket
        By default the first part of `prefix`.
    account_id, endpoint_url
        Of Cloudflare; the endpoint is by default that of the account.
    region
        By default ``auto``.
    prefix, allow_http, access_key_id, secret_access_key, session_token, expires_after, anonymous, from_env, \
    get_credentials, scatter_initial_credentials, network_stream_timeout_seconds
        See `s3_storage`.

    Raises
    ------
    StorageError
        Neither bucket nor prefix, or neither endpoint nor account.
    """
    credentials = s3_credentials(
        access_key_id=access_key_id,
        secret_access_key=secret_access_key,
        session_token=session_token,
        expires_after=expires_after,
        anonymous=anonymous,
        from_env=from_env,
        get_credentials=get_credentials,
        scatter_initial_credentials=scatter_initial_credentials,
    )
    options = S3Options(
        region=region,
        endpoint_url=endpoint_url,
        allow_http=allow_http,
        network_stream_timeout_seconds=network_stream_timeout_seconds,
    )
    return Storage.new_r2(options, bucket, prefix, account_id, credentials)


def gcs_storage(
    *,
    bucket: str,
    prefix: str | None,
    service_account_file: str | None = None,
    service_account_key: str | None = None,
    application_credentials: str | None = None,
    bearer_token: str | None = None,
    anonymous: bool | None = None,
    from_env: bool | None = None,
    config: dict[str, str] | None = None,
    get_credentials: Callable[[], GcsBearerCredential] | None = None,
    scatter_initial_credentials: bool = False,
) -> Storage:
    """Keep a repository on Google Cloud Storage.

    Parameters
    ----------
    bucket, prefix
        Where. ``None``: the whole bucket.
    service_account_file, service_account_key, application_credentials, bearer_token, anonymous, from_env
        See `gcs_credentials`; by default those of the environment.
    config
        Options of the object_store library, such as ``{"google_base_url": ..., "allow_http": "true"}``. An unknown one
        makes the first request fail.
    get_credentials, scatter_initial_credentials
        A function that returns a token, called before its first use and two minutes before it ends; for every request
        if it does not say when. See `gcs_refreshable_credentials`.
    """
    credentials = gcs_credentials(
        service_account_file=service_account_file,
        service_account_key=service_account_key,
        application_credentials=application_credentials,
        bearer_token=bearer_token,
        from_env=from_env,
        anonymous=anonymous,
        get_credentials=get_credentials,
        scatter_initial_credentials=scatter_initial_credentials,
    )
    return Storage.new_gcs(bucket, prefix, credentials, config=config)


def azure_storage(
    *,
    account: str,
    container: str,
    prefix: str,
    access_key: str | None = None,
    sas_token: str | None = None,
    bearer_token: str | None = None,
    from_env: bool | None = None,
    config: dict[str, str] | None = None,
    anonymous: bool | None = None,
    get_credentials: Callable[[], AnyAzureRefreshableCredential] | None = None,
    scatter_initial_credentials: bool = False,
) -> Storage:
    """Keep a repository on Azure Blob Storage.

    Parameters
    ----------
    account, container, prefix
        Where. An empty prefix: the whole container.
    access_key, sas_token, bearer_token, from_env, anonymous, get_credentials, scatter_initial_credentials
        See `azure_credentials`; by default those of the environment.
    config
        Options of the object_store library, such as ``{"azure_storage_use_emulator": "true"}``. An unknown one makes
        the first request fail.
    """
    credentials = azure_credentials(
        access_key=access_key,
        sas_token=sas_token,
        bearer_token=bearer_token,
        from_env=from_env,
        anonymous=anonymous,
        get_credentials=get_credentials,
        scatter_initial_credentials=scatter_initial_credentials,
    )
    return Storage.new_azure_blob(account, container, prefix, credentials, config=config)
