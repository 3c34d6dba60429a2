"""Credentials in the form that the obstore library asks for: a function that it calls for fresh ones.

What is given this way wins over whatever the environment says. Knows no store and no request.
"""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from icechunk_virtual.containers.credentials import (
    AzureStaticCredentials,
    GcsBearerCredential,
    S3StaticCredentials,
)
from icechunk_virtual.model.world import REAL_WORLD, World

if TYPE_CHECKING:
    from obstore.store import AzureCredential, GCSCredential, S3Credential

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

T = TypeVar("T", S3StaticCredentials, GcsBearerCredential)
S = TypeVar("S", bound=str | None)
T_co = TypeVar("T_co", S3StaticCredentials, GcsBearerCredential, covariant=True)


class Refreshable(Protocol[T_co]):
    """Credentials that a function returns."""

    @property
    def current(self) -> T_co | None:
        """A result to start with."""
        ...

    def fetch(self) -> T_co:
        """Call the function."""
        ...


AHEAD = timedelta(minutes=2)
"""How long before their end credentials are replaced."""


class Fresh(Generic[T]):
    """The result of a user's function, asked for again before it ends. For any number of threads.

    A copy by pickling starts as this did.

    Parameters
    ----------
    credentials
        The function, and perhaps a result to start with.
    endless
        Whether a result that does not say when it ends is kept.
    """

    def __init__(self, credentials: Refreshable[T], *, endless: bool, world: World = REAL_WORLD) -> None:
        self._credentials: Refreshable[T] = credentials
        self._current: T | None = credentials.current
        self._endless, self._world = endless, world
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Fresh, endless=self._endless, world=self._world), (self._credentials,)

    def __call__(self) -> tuple[T, datetime | None]:
        """The credentials, and when to ask again (``None``: never)."""
        with self._lock:  # one call serves all who wait
            if self._current is None or self._is_over(self._current):
                self._current = self._credentials.fetch()
            return self._current, self._renewal(self._current)

    def _renewal(self, credentials: T) -> datetime | None:
        if credentials.expires_after is None:
            return None if self._endless else self._now() - AHEAD
        return credentials.expires_after.astimezone(UTC) - AHEAD

    def _is_over(self, credentials: T) -> bool:
        renewal = self._renewal(credentials)
        return renewal is not None and renewal <= self._now()

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._world.now_us() / 1_000_000, UTC)


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


def azure_secret(credentials: AzureStaticCredentials) -> AzureCredential:
    """A key, signature or token. ``ValueError`` if it has control characters."""
    if isinstance(credentials, AzureStaticCredentials.AccessKey):
        return {"access_key": _checked(credentials._0), "expires_at": None}
    if isinstance(credentials, AzureStaticCredentials.SasToken):
        return {"sas_token": _checked(credentials._0), "expires_at": None}
    if isinstance(credentials, AzureStaticCredentials.BearerToken):
        return {"token": _checked(credentials._0), "expires_at": None}
    raise TypeError(f"{type(credentials).__name__} is no kind of Azure credentials")
