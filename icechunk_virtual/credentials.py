"""Functions that make credentials from keyword arguments, under the names that the original library gives them.

The classes are defined in `containers.credentials` and exported from here too.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import NoReturn, TypeVar

from icechunk_virtual.containers.credentials import (
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
    S3Credentials,
    S3StaticCredentials,
)
from icechunk_virtual.containers.http.credentials import HttpAuth, HttpBearerCredential, HttpCredentials
from icechunk_virtual.containers.unverified import Unverified

__all__ = [
    "AnyAzureCredential",
    "AnyAzureRefreshableCredential",
    "AnyAzureStaticCredential",
    "AnyCredential",
    "AnyGcsCredential",
    "AnyGcsStaticCredential",
    "AnyS3Credential",
    "AzureCredentials",
    "AzureRefreshableCredential",
    "AzureStaticCredentials",
    "Credentials",
    "GcsBearerCredential",
    "GcsCredentials",
    "GcsStaticCredentials",
    "HttpAuth",
    "HttpBearerCredential",
    "HttpCredentials",
    "S3Credentials",
    "S3StaticCredentials",
    "Unverified",
    "azure_anonymous_credentials",
    "azure_credentials",
    "azure_from_env_credentials",
    "azure_refreshable_credentials",
    "azure_static_credentials",
    "containers_credentials",
    "gcs_anonymous_credentials",
    "gcs_credentials",
    "gcs_from_env_credentials",
    "gcs_refreshable_credentials",
    "gcs_static_credentials",
    "http_credentials",
    "s3_anonymous_credentials",
    "s3_credentials",
    "s3_from_env_credentials",
    "s3_refreshable_credentials",
    "s3_static_credentials",
    "unverified",
]


T = TypeVar("T")


def _conflict(function: str) -> NoReturn:
    raise ValueError(
        f"Conflicting arguments to {function} function: give one complete kind of credentials, "
        "or none at all for those of the environment"
    )


def _from_environment(function: str, from_env: bool | None, *others: bool) -> bool:
    """Whether the environment is to be asked: no other kind is given. Several kinds are an error, as are none."""
    kinds = sum(others)
    if kinds > 1 or (kinds == 1 and from_env) or (kinds == 0 and from_env is False):
        _conflict(function)
    return kinds == 0


def _only(function: str, given: Mapping[Callable[[str], T], str | None]) -> T:
    """Make the one kind whose text is given."""
    made = [make(text) for make, text in given.items() if text is not None]
    if len(made) != 1:
        _conflict(function)
    return made[0]


def _pickled(get_credentials: Callable[[], T], scatter: bool) -> tuple[bytes, T | None]:
    """A function as it travels, and its first result if that is to travel too."""
    return pickle.dumps(get_credentials), get_credentials() if scatter else None


def s3_refreshable_credentials(
    get_credentials: Callable[[], S3StaticCredentials], scatter_initial_credentials: bool = False
) -> S3Credentials.Refreshable:
    """Credentials that a function returns, called whenever fresh ones are needed.

    Parameters
    ----------
    get_credentials
        Without arguments. It is pickled now, so it must be importable where it is used (not a lambda).
    scatter_initial_credentials
        Call it now and let copies of the session, for instance those of parallel tasks, start with the result.
    """
    return S3Credentials.Refreshable(*_pickled(get_credentials, scatter_initial_credentials))


def s3_static_credentials(
    *,
    access_key_id: str,
    secret_access_key: str,
    session_token: str | None = None,
    expires_after: datetime | None = None,
) -> S3Credentials.Static:
    """A key pair. See `S3StaticCredentials`."""
    return S3Credentials.Static(
        S3StaticCredentials(access_key_id, secret_access_key, session_token, expires_after),
    )


def s3_anonymous_credentials() -> S3Credentials.Anonymous:
    """Unsigned requests."""
    return S3Credentials.Anonymous()


def s3_from_env_credentials() -> S3Credentials.FromEnv:
    """Whatever AWS's chain of environment, profile and instance metadata gives."""
    return S3Credentials.FromEnv()


def s3_credentials(
    *,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    session_token: str | None = None,
    expires_after: datetime | None = None,
    anonymous: bool | None = None,
    from_env: bool | None = None,
    get_credentials: Callable[[], S3StaticCredentials] | None = None,
    scatter_initial_credentials: bool = False,
) -> AnyS3Credential:
    """Credentials for S3: from the environment, unless one other kind is given.

    Parameters
    ----------
    access_key_id, secret_access_key, session_token, expires_after
        See `s3_static_credentials`.
    anonymous
        See `s3_anonymous_credentials`.
    from_env
        See `s3_from_env_credentials`.
    get_credentials, scatter_initial_credentials
        See `s3_refreshable_credentials`.

    Raises
    ------
    ValueError
        Several kinds, an incomplete one, or none with ``from_env=False``.
    """
    static = (access_key_id, secret_access_key, session_token, expires_after) != (None,) * 4
    if _from_environment("s3_credentials", from_env, bool(anonymous), static, get_credentials is not None):
        return s3_from_env_credentials()
    if anonymous:
        return s3_anonymous_credentials()
    if get_credentials is not None:
        return s3_refreshable_credentials(get_credentials, scatter_initial_credentials)
    if access_key_id is None or secret_access_key is None:
        _conflict("s3_credentials")
    return s3_static_credentials(
        access_key_id=access_key_id,
        secret_access_key=secret_access_key,
        session_token=session_token,
        expires_after=expires_after,
    )


def gcs_refreshable_credentials(
    get_credentials: Callable[[], GcsBearerCredential], scatter_initial_credentials: bool = False
) -> GcsCredentials.Refreshable:
    """Credentials that a function returns. As `s3_refreshable_credentials`."""
    return GcsCredentials.Refreshable(*_pickled(get_credentials, scatter_initial_credentials))


def gcs_static_credentials(
    *,
    service_account_file: str | None = None,
    service_account_key: str | None = None,
    application_credentials: str | None = None,
    bearer_token: str | None = None,
) -> AnyGcsStaticCredential:
    """Fixed credentials for Google Cloud Storage; exactly one of them.

    Parameters
    ----------
    service_account_file, application_credentials
        Path of a file.
    service_account_key
        Content of a service account's key file.
    bearer_token
        A token.

    Raises
    ------
    ValueError
        None, or several.
    """
    kinds: dict[Callable[[str], AnyGcsStaticCredential], str | None] = {
        GcsStaticCredentials.ServiceAccount: service_account_file,
        GcsStaticCredentials.ServiceAccountKey: service_account_key,
        GcsStaticCredentials.ApplicationCredentials: application_credentials,
        GcsStaticCredentials.BearerToken: bearer_token,
    }
    return _only("gcs_static_credentials", kinds)


def gcs_anonymous_credentials() -> GcsCredentials.Anonymous:
    """Unsigned requests."""
    return GcsCredentials.Anonymous()


def gcs_from_env_credentials() -> GcsCredentials.FromEnv:
    """Whatever Google's environment variables and instance metadata give."""
    return GcsCredentials.FromEnv()


def gcs_credentials(
    *,
    service_account_file: str | None = None,
    service_account_key: str | None = None,
    application_credentials: str | None = None,
    bearer_token: str | None = None,
    from_env: bool | None = None,
    anonymous: bool | None = None,
    get_credentials: Callable[[], GcsBearerCredential] | None = None,
    scatter_initial_credentials: bool = False,
) -> AnyGcsCredential:
    """Credentials for Google Cloud Storage: from the environment, unless another kind is given.

    Parameters
    ----------
    service_account_file, service_account_key, application_credentials, bearer_token
        See `gcs_static_credentials`.
    from_env
        See `gcs_from_env_credentials`.
    anonymous
        See `gcs_anonymous_credentials`; wins over everything else.
    get_credentials, scatter_initial_credentials
        See `gcs_refreshable_credentials`.

    Raises
    ------
    ValueError
        Several kinds, or none with ``from_env=False``.
    """
    if anonymous:
        return gcs_anonymous_credentials()
    static = (service_account_file, service_account_key, application_credentials, bearer_token) != (None,) * 4
    if _from_environment("gcs_credentials", from_env, static, get_credentials is not None):
        return gcs_from_env_credentials()
    if get_credentials is not None:
        return gcs_refreshable_credentials(get_credentials, scatter_initial_credentials)
    return GcsCredentials.Static(
        gcs_static_credentials(
            service_account_file=service_account_file,
            service_account_key=service_account_key,
            application_credentials=application_credentials,
            bearer_token=bearer_token,
        )
    )


def azure_static_credentials(
    *, access_key: str | None = None, sas_token: str | None = None, bearer_token: str | None = None
) -> AnyAzureStaticCredential:
    """Fixed credentials for Azure Blob Storage; exactly one of them.

    Parameters
    ----------
    access_key
        A storage account's key.
    sas_token
        A shared access signature.
    bearer_token
        A token.

    Raises
    ------
    ValueError
        None, or several.
    """
    kinds: dict[Callable[[str], AnyAzureStaticCredential], str | None] = {
        AzureStaticCredentials.AccessKey: access_key,
        AzureStaticCredentials.SasToken: sas_token,
        AzureStaticCredentials.BearerToken: bearer_token,
    }
    return _only("azure_static_credentials", kinds)


def azure_refreshable_credentials(
    get_credentials: Callable[[], AnyAzureRefreshableCredential], scatter_initial_credentials: bool = False
) -> AzureCredentials.Refreshable:
    """Credentials that a function returns, as an `AzureRefreshableCredential`. As `s3_refreshable_credentials`."""
    return AzureCredentials.Refreshable(*_pickled(get_credentials, scatter_initial_credentials))


def azure_anonymous_credentials() -> AzureCredentials.Anonymous:
    """Unsigned requests."""
    return AzureCredentials.Anonymous()


def azure_from_env_credentials() -> AzureCredentials.FromEnv:
    """Whatever Azure's environment variables and instance metadata give."""
    return AzureCredentials.FromEnv()


def azure_credentials(
    *,
    access_key: str | None = None,
    sas_token: str | None = None,
    bearer_token: str | None = None,
    from_env: bool | None = None,
    anonymous: bool | None = None,
    get_credentials: Callable[[], AnyAzureRefreshableCredential] | None = None,
    scatter_initial_credentials: bool = False,
) -> AnyAzureCredential:
    """Credentials for Azure Blob Storage: from the environment, unless another kind is given.

    Parameters
    ----------
    access_key, sas_token, bearer_token
        See `azure_static_credentials`.
    from_env
        See `azure_from_env_credentials`.
    anonymous
        See `azure_anonymous_credentials`.
    get_credentials, scatter_initial_credentials
        See `azure_refreshable_credentials`.

    Raises
    ------
    ValueError
        Several kinds, or none with ``from_env=False``.
    """
    static = (access_key, sas_token, bearer_token) != (None,) * 3
    if _from_environment("azure_credentials", from_env, bool(anonymous), static, get_credentials is not None):
        return azure_from_env_credentials()
    if anonymous:
        return azure_anonymous_credentials()
    if get_credentials is not None:
        return azure_refreshable_credentials(get_credentials, scatter_initial_credentials)
    return AzureCredentials.Static(
        azure_static_credentials(access_key=access_key, sas_token=sas_token, bearer_token=bearer_token)
    )


def http_credentials(
    *,
    bearer_token: str | None = None,
    username: str | None = None,
    password: str | None = None,
    netrc: bool = False,
    get_credentials: Callable[[], HttpBearerCredential] | None = None,
    scatter_initial_credentials: bool = False,
    headers: Mapping[str, str] | None = None,
    redirect_hosts: str | Iterable[str] = (),
) -> HttpCredentials:
    """Credentials for web servers: at most one kind.

    They are sent to the container's own server only (same scheme, host and port): where redirects lead elsewhere,
    requests go without them. The original library has nothing like this.

    Parameters
    ----------
    bearer_token
        Sent as ``Authorization: Bearer ...``.
    username, password
        Basic authentication.
    netrc
        Take names and passwords from the file that the environment variable ``NETRC`` names, or else ``~/.netrc``.
        An entry is sent to the host that it names and to no other, also when redirects lead there to log in; over
        plain http only if that host is the container's own or one of `redirect_hosts`. The ``default`` entry is not
        used. Parallel tasks read the file of their machine.
    get_credentials
        A function that returns a bearer token, called before the last one ends or when the server refuses it. It is
        pickled now, so it must be importable where it is used (not a lambda).
    scatter_initial_credentials
        Call it now and let copies of the session, for instance those of parallel tasks, start with the result.
    headers
        Names and values of further headers, also with other credentials; they may be secret.
    redirect_hosts
        Names or addresses of hosts that redirects may lead to although their addresses are private, loopback or
        otherwise special.

    Raises
    ------
    ValueError
        Several kinds, one of `username` and `password`, or something that no request can carry.

    Examples
    --------
    >>> http_credentials(username="me", password="secret")
    HttpCredentials(auth=HttpAuth.Basic(username='me'), redirect_hosts=())
    """
    basic = username is not None or password is not None
    if sum((bearer_token is not None, basic, netrc, get_credentials is not None)) > 1:
        _conflict("http_credentials")
    auth: HttpAuth | None = None
    if bearer_token is not None:
        auth = HttpAuth.Bearer(bearer_token)
    elif basic:
        if username is None or password is None:
            _conflict("http_credentials")
        auth = HttpAuth.Basic(username, password)
    elif netrc:
        auth = HttpAuth.Netrc()
    elif get_credentials is not None:
        auth = HttpAuth.Refreshable(*_pickled(get_credentials, scatter_initial_credentials))
    hosts = (redirect_hosts,) if isinstance(redirect_hosts, str) else tuple(redirect_hosts)
    return HttpCredentials(auth, headers=tuple((headers or {}).items()), redirect_hosts=hosts)


def containers_credentials(
    m: Mapping[str, AnyS3Credential | AnyGcsCredential | AnyAzureCredential | HttpCredentials | Unverified | None],
) -> dict[str, AnyCredential | Unverified | None]:
    """What to give as ``authorize_virtual_chunk_access`` when a repository is opened.

    Parameters
    ----------
    m
        URL prefix of a container to its credentials. ``None`` authorises it without explicit ones: S3 takes those of
        the environment; Google Cloud Storage and web servers get requests of nobody in particular; files take none.

    Raises
    ------
    ValueError
        Something else than credentials.
    """
    return {prefix: _granted(credentials) for prefix, credentials in m.items()}


def unverified(
    credentials: AnyS3Credential
    | AnyGcsCredential
    | AnyAzureCredential
    | HttpCredentials
    | AnyCredential
    | None = None,
) -> Unverified:
    """Grant a container, but do not compare the checksums of its virtual chunks.

    An object that changed after it was referenced is then read all the same: if its chunks are elsewhere now, the
    values are wrong, and nothing says so. For objects that were only touched or moved. The original library has
    nothing like this.

    Parameters
    ----------
    credentials
        As `containers_credentials` takes them.

    Examples
    --------
    >>> containers_credentials({"s3://bucket/archive/": unverified(s3_anonymous_credentials())})
    {'s3://bucket/archive/': Unverified(credentials=Credentials.S3(_0=S3Credentials.Anonymous()))}
    """
    return Unverified(None if credentials is None else _wrap(credentials))


def _granted(credentials: object) -> AnyCredential | Unverified | None:
    return credentials if credentials is None or isinstance(credentials, Unverified) else _wrap(credentials)


def _wrap(credentials: object) -> AnyCredential:
    if isinstance(credentials, AnyCredential):
        return credentials
    if isinstance(credentials, S3Credentials):
        return Credentials.S3(credentials)
    if isinstance(credentials, GcsCredentials):
        return Credentials.Gcs(credentials)
    if isinstance(credentials, AzureCredentials):
        return Credentials.Azure(credentials)
    if isinstance(credentials, HttpCredentials):
        return Credentials.Http(credentials)
    raise ValueError(f"Unknown credential type {type(credentials)}")
