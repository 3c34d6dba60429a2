"""Credentials: what a caller shows to an object store, and which store takes which kind.

Values only, nothing is read from the environment here. Secrets travel in pickles and never show in ``repr``.
Nothing of this is ever written to a repository.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, TypeAlias, cast

from icechunk_virtual.containers.container import ObjectStoreConfig, VirtualChunkContainer
from icechunk_virtual.containers.http.credentials import HttpCredentials
from icechunk_virtual.containers.refreshable import PickledFunction
from icechunk_virtual.containers.unverified import Unverified, verified_credentials
from icechunk_virtual.containers.url import check_prefix
from icechunk_virtual.errors import ContainerError, InvalidLocation
from icechunk_virtual.model.checked import AwareDatetime, Checked, Union, Variant, member_of

logger = logging.getLogger(__name__)


@dataclass(slots=True, unsafe_hash=True)
class S3StaticCredentials(Checked):
    """A key pair for S3, perhaps temporary.

    Parameters
    ----------
    access_key_id, secret_access_key
        The pair.
    session_token
        Of temporary credentials.
    expires_after
        When they end, in any time zone; ``None``: never.
    """

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    expires_after: AwareDatetime | None = None


@dataclass(frozen=True, slots=True)
class GcsBearerCredential(Variant):
    """A bearer token for Google Cloud Storage.

    Parameters
    ----------
    bearer
        The token.
    expires_after
        When it ends, in any time zone; ``None``: unknown.
    """

    bearer: str = field(repr=False)
    _: KW_ONLY
    expires_after: AwareDatetime | None = None


@dataclass(frozen=True, slots=True)
class _Secret(Variant):
    """Base of the credentials that are one text, which is not shown."""

    _0: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _PathOfFile(Variant):
    """Base of the credentials that are in a file."""

    _0: str


class S3Credentials(Union):
    """Credentials for S3 and services with its protocol."""

    __slots__ = ()

    FromEnv: TypeAlias = "_S3FromEnv"
    Anonymous: TypeAlias = "_S3Anonymous"
    Static: TypeAlias = "_S3Static"
    Refreshable: TypeAlias = "_S3Refreshable"


@member_of(S3Credentials, "FromEnv")
@dataclass(frozen=True, slots=True)
class _S3FromEnv(Variant, S3Credentials):
    """Whatever AWS's chain of environment, profile and instance metadata gives."""


@member_of(S3Credentials, "Anonymous")
@dataclass(frozen=True, slots=True)
class _S3Anonymous(Variant, S3Credentials):
    """Unsigned requests."""


@member_of(S3Credentials, "Static")
@dataclass(frozen=True, slots=True)
class _S3Static(Variant, S3Credentials):
    """A key pair."""

    _0: S3StaticCredentials


@member_of(S3Credentials, "Refreshable")
@dataclass(frozen=True, slots=True)
class _S3Refreshable(PickledFunction, S3Credentials):
    """A key pair that a function returns, called again before it ends."""

    current: S3StaticCredentials | None = field(default=None, repr=False)

    def fetch(self) -> S3StaticCredentials:
        """Call the function. ``TypeError`` if it returns something else; what it raises passes through."""
        return self._fetch(S3StaticCredentials)


class GcsStaticCredentials(Union):
    """Fixed credentials for Google Cloud Storage."""

    __slots__ = ()

    ServiceAccount: TypeAlias = "_GcsServiceAccount"
    ServiceAccountKey: TypeAlias = "_GcsServiceAccountKey"
    ApplicationCredentials: TypeAlias = "_GcsApplicationCredentials"
    BearerToken: TypeAlias = "_GcsBearerToken"


@member_of(GcsStaticCredentials, "ServiceAccount")
class _GcsServiceAccount(_PathOfFile, GcsStaticCredentials):
    """Path of a service account's key file."""

    __slots__ = ()


@member_of(GcsStaticCredentials, "ServiceAccountKey")
class _GcsServiceAccountKey(_Secret, GcsStaticCredentials):
    """Content of a service account's key file."""

    __slots__ = ()


@member_of(GcsStaticCredentials, "ApplicationCredentials")
class _GcsApplicationCredentials(_PathOfFile, GcsStaticCredentials):
    """Path of an application default credentials file."""

    __slots__ = ()


@member_of(GcsStaticCredentials, "BearerToken")
class _GcsBearerToken(_Secret, GcsStaticCredentials):
    """A token."""

    __slots__ = ()


class GcsCredentials(Union):
    """Credentials for Google Cloud Storage."""

    __slots__ = ()

    Anonymous: TypeAlias = "_GcsAnonymous"
    FromEnv: TypeAlias = "_GcsFromEnv"
    Static: TypeAlias = "_GcsStatic"
    Refreshable: TypeAlias = "_GcsRefreshable"


@member_of(GcsCredentials, "Anonymous")
@dataclass(frozen=True, slots=True)
class _GcsAnonymous(Variant, GcsCredentials):
    """Unsigned requests."""


@member_of(GcsCredentials, "FromEnv")
@dataclass(frozen=True, slots=True)
class _GcsFromEnv(Variant, GcsCredentials):
    """Whatever Google's environment variables and instance metadata give."""


@member_of(GcsCredentials, "Static")
@dataclass(frozen=True, slots=True)
class _GcsStatic(Variant, GcsCredentials):
    """Fixed credentials."""

    _0: GcsStaticCredentials


@member_of(GcsCredentials, "Refreshable")
@dataclass(frozen=True, slots=True)
class _GcsRefreshable(PickledFunction, GcsCredentials):
    """A token that a function returns, called again before it ends."""

    current: GcsBearerCredential | None = field(default=None, repr=False)

    def fetch(self) -> GcsBearerCredential:
        """Call the function. ``TypeError`` if it returns something else; what it raises passes through."""
        return self._fetch(GcsBearerCredential)


class AzureStaticCredentials(Union):
    """Fixed credentials for Azure Blob Storage."""

    __slots__ = ()

    AccessKey: TypeAlias = "_AzureAccessKey"
    SasToken: TypeAlias = "_AzureSasToken"
    BearerToken: TypeAlias = "_AzureBearerToken"


@member_of(AzureStaticCredentials, "AccessKey")
class _AzureAccessKey(_Secret, AzureStaticCredentials):
    """A storage account's key."""

    __slots__ = ()


@member_of(AzureStaticCredentials, "SasToken")
class _AzureSasToken(_Secret, AzureStaticCredentials):
    """A shared access signature."""

    __slots__ = ()


@member_of(AzureStaticCredentials, "BearerToken")
class _AzureBearerToken(_Secret, AzureStaticCredentials):
    """A token."""

    __slots__ = ()


class AzureRefreshableCredential(Union):
    """What a function that gets credentials for Azure Blob Storage returns."""

    __slots__ = ()

    AccessKey: TypeAlias = "_AzureFreshKey"
    SasToken: TypeAlias = "_AzureFreshSas"
    BearerToken: TypeAlias = "_AzureFreshToken"


@member_of(AzureRefreshableCredential, "AccessKey")
@dataclass(frozen=True, slots=True)
class _AzureFreshKey(Variant, AzureRefreshableCredential):
    """A storage account's key, and when it ends (in any time zone; ``None``: never)."""

    key: str = field(repr=False)
    expires_after: AwareDatetime | None = None


@member_of(AzureRefreshableCredential, "SasToken")
@dataclass(frozen=True, slots=True)
class _AzureFreshSas(Variant, AzureRefreshableCredential):
    """A shared access signature, and when it ends (in any time zone; ``None``: never)."""

    token: str = field(repr=False)
    expires_after: AwareDatetime | None = None


@member_of(AzureRefreshableCredential, "BearerToken")
@dataclass(frozen=True, slots=True)
class _AzureFreshToken(Variant, AzureRefreshableCredential):
    """A token, and when it ends (in any time zone; ``None``: never)."""

    bearer: str = field(repr=False)
    expires_after: AwareDatetime | None = None


AnyAzureRefreshableCredential = _AzureFreshKey | _AzureFreshSas | _AzureFreshToken


class AzureCredentials(Union):
    """Credentials for Azure Blob Storage."""

    __slots__ = ()

    Anonymous: TypeAlias = "_AzureAnonymous"
    FromEnv: TypeAlias = "_AzureFromEnv"
    Static: TypeAlias = "_AzureStatic"
    Refreshable: TypeAlias = "_AzureRefreshable"


@member_of(AzureCredentials, "Anonymous")
@dataclass(frozen=True, slots=True)
class _AzureAnonymous(Variant, AzureCredentials):
    """Unsigned requests."""


@member_of(AzureCredentials, "FromEnv")
@dataclass(frozen=True, slots=True)
class _AzureFromEnv(Variant, AzureCredentials):
    """Whatever Azure's environment variables and instance metadata give."""


@member_of(AzureCredentials, "Static")
@dataclass(frozen=True, slots=True)
class _AzureStatic(Variant, AzureCredentials):
    """Fixed credentials."""

    _0: AzureStaticCredentials


@member_of(AzureCredentials, "Refreshable")
@dataclass(frozen=True, slots=True)
class _AzureRefreshable(PickledFunction, AzureCredentials):
    """A key, signature or token that a function returns, called again before it ends."""

    current: AnyAzureRefreshableCredential | None = field(default=None, repr=False)

    def fetch(self) -> AnyAzureRefreshableCredential:
        """Call the function. ``TypeError`` if it returns something else; what it raises passes through."""
        return cast("AnyAzureRefreshableCredential", self._fetch(AzureRefreshableCredential))


class Credentials(Union):
    """Credentials of any store, as a repository's opener grants them to its virtual chunk containers."""

    __slots__ = ()

    S3: TypeAlias = "_S3"
    Gcs: TypeAlias = "_Gcs"
    Azure: TypeAlias = "_Azure"
    Http: TypeAlias = "_Http"


@member_of(Credentials, "S3")
@dataclass(frozen=True, slots=True)
class _S3(Variant, Credentials):
    """For S3, services with its protocol, and Tigris."""

    _0: S3Credentials


@member_of(Credentials, "Gcs")
@dataclass(frozen=True, slots=True)
class _Gcs(Variant, Credentials):
    """For Google Cloud Storage."""

    _0: GcsCredentials


@member_of(Credentials, "Azure")
@dataclass(frozen=True, slots=True)
class _Azure(Variant, Credentials):
    """For Azure Blob Storage."""

    _0: AzureCredentials


@member_of(Credentials, "Http")
@dataclass(frozen=True, slots=True)
class _Http(Variant, Credentials):
    """For web servers."""

    _0: HttpCredentials


AnyS3Credential = _S3Static | _S3Anonymous | _S3FromEnv | _S3Refreshable
AnyGcsStaticCredential = _GcsServiceAccount | _GcsServiceAccountKey | _GcsApplicationCredentials | _GcsBearerToken
AnyGcsCredential = _GcsAnonymous | _GcsFromEnv | _GcsStatic | _GcsRefreshable
AnyAzureStaticCredential = _AzureAccessKey | _AzureSasToken | _AzureBearerToken
AnyAzureCredential = _AzureAnonymous | _AzureFromEnv | _AzureStatic | _AzureRefreshable
AnyCredential = _S3 | _Gcs | _Azure | _Http


_ACCEPTED: tuple[tuple[tuple[type[ObjectStoreConfig], ...], type[Credentials] | None, str], ...] = (
    ((ObjectStoreConfig.S3, ObjectStoreConfig.S3Compatible, ObjectStoreConfig.Tigris), _S3, "S3"),
    ((ObjectStoreConfig.Gcs,), _Gcs, "GCS"),
    ((ObjectStoreConfig.Azure,), _Azure, "Azure"),
    ((ObjectStoreConfig.Http,), _Http, "http"),
    ((ObjectStoreConfig.LocalFileSystem, ObjectStoreConfig.InMemory), None, "local file"),
)
"""Stores, the credentials that they take, and their name. ``None`` may be granted to all of them but Azure."""


def check_grants(
    containers: Mapping[str, VirtualChunkContainer], granted: Mapping[str, Any] | None
) -> dict[str, AnyCredential | Unverified | None]:
    """What the opener of a repository grants, with a final ``/`` at every key.

    Parameters
    ----------
    containers
        Of the configuration, by URL prefix.
    granted
        URL prefix to credentials, or ``None``: from the environment or without, as the store does. Keys that mean
        no container's prefix are kept and grant nothing.

    Raises
    ------
    TypeError
        Something else than `Credentials`.
    ContainerError
        Credentials of a kind that the container's store does not take.
    """
    by_meaning = {_meaning(prefix): container for prefix, container in containers.items()}
    checked: dict[str, AnyCredential | Unverified | None] = {}
    for key, value in (granted or {}).items():
        credentials, verified = verified_credentials(value)
        if credentials is not None and not isinstance(credentials, AnyCredential):
            raise TypeError(
                f"{type(credentials).__name__!r} object cannot be cast as 'Credentials': "
                "wrap the mapping with containers_credentials()"
            )
        prefix = key if key.endswith("/") else key + "/"
        checked[prefix] = value
        if not verified:
            logger.warning("checksums of virtual chunks below %s are not compared, as whoever opened it wants", prefix)
        container = by_meaning.get(_meaning(prefix))
        if container is not None:
            _check_kind(container, credentials)
    return checked


def _meaning(prefix: str) -> str:
    """Equal for prefixes that mean the same place; those that mean none are themselves."""
    try:
        return check_prefix(prefix).canonical
    except InvalidLocation:
        return prefix


def _check_kind(container: VirtualChunkContainer, credentials: AnyCredential | None) -> None:
    for stores, accepted, name in _ACCEPTED:
        if not isinstance(container.store, stores):
            continue
        if credentials is None and name == "Azure":
            reason = f"{name} containers need explicit credentials, for instance azure_from_env_credentials()"
        elif credentials is None or (accepted is not None and isinstance(credentials, accepted)):
            return
        elif accepted is None:
            reason = f"{name} containers do not accept credentials, grant them with None"
        else:
            reason = f"{name} containers do not accept {type(credentials).__qualname__}"
        raise ContainerError(f"storage error: {reason} (container {container.url_prefix})", prefix=container.url_prefix)
