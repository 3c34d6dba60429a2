"""Credentials in the form that the obstore library asks for: a function that it calls for fresh ones.

What is given this way wins over whatever the environment says. Knows no store and no request.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from icechunk_virtual.containers.credentials import (
    AnyAzureRefreshableCredential,
    AzureRefreshableCredential,
    AzureStaticCredentials,
    S3StaticCredentials,
)

if TYPE_CHECKING:
    from obstore.store import AzureCredential, GCSCredential, S3Credential

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

S = TypeVar("S", bound=str | None)


def _checked(secret: S) -> S:
    """The same, unless no request can carry it: the library would panic, or the server say that the key is wrong."""
    if secret is not None and _CONTROL.search(secret):
        raise ValueError(
            "the credentials hold a line break or another control character: remove it, by .strip() for instance"
        )
    return secret


def s3_key(key: S3StaticCredentials, expires: datetime | None = None) -> S3Credential:
    """A key pair. ``ValueError`` if it has control characters."""
    return {
        "access_key_id": _checked(key.access_key_id),
        "secret_access_key": _checked(key.secret_access_key),
        "token": _checked(key.session_token),
        "expires_at": expires,
    }


def gcs_token(token: str, expires: datetime | None = None) -> GCSCredential:
    """A bearer token. ``ValueError`` if it has control characters."""
    return {"token": _checked(token), "expires_at": expires}


def azure_fresh(credentials: AnyAzureRefreshableCredential, expires: datetime | None = None) -> AzureCredential:
    """A key, signature or token of a function. ``ValueError`` if it has control characters."""
    match credentials:
        case AzureRefreshableCredential.AccessKey(key):
            return {"access_key": _checked(key), "expires_at": expires}
        case AzureRefreshableCredential.SasToken(token):
            return {"sas_token": _checked(token), "expires_at": expires}
        case AzureRefreshableCredential.BearerToken(bearer):
            return {"token": _checked(bearer), "expires_at": expires}


def azure_secret(credentials: AzureStaticCredentials) -> AzureCredential:
    """A key, signature or token. ``ValueError`` if it has control characters."""
    if isinstance(credentials, AzureStaticCredentials.AccessKey):
        return {"access_key": _checked(credentials._0), "expires_at": None}
    if isinstance(credentials, AzureStaticCredentials.SasToken):
        return {"sas_token": _checked(credentials._0), "expires_at": None}
    if isinstance(credentials, AzureStaticCredentials.BearerToken):
        return {"token": _checked(credentials._0), "expires_at": None}
    raise TypeError(f"{type(credentials).__name__} is no kind of Azure credentials")
