"""Google Cloud Storage: how it is reached. What the user leaves to the environment is read by the library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import obstore.store

from icechunk_virtual.containers.addresses import VENDOR
from icechunk_virtual.containers.container import shown_options
from icechunk_virtual.containers.credentials import (
    AnyGcsCredential,
    GcsBearerCredential,
    GcsCredentials,
    GcsStaticCredentials,
)
from icechunk_virtual.containers.refreshable import Fresh
from icechunk_virtual.containers.remedies import remedy
from icechunk_virtual.containers.snippets import arguments
from icechunk_virtual.model.checked import text_mapping
from icechunk_virtual.repo.cloud.clients import Manner, connection
from icechunk_virtual.repo.cloud.repair import StorageSubject, call
from icechunk_virtual.repo.cloud.store import Place, Traits
from icechunk_virtual.repo.cloud.tokens import gcs_token
from icechunk_virtual.repo.object_store import spell_prefix
from icechunk_virtual.repo.obstore_store import Role
from icechunk_virtual.repo.settings import EffectiveStorage

if TYPE_CHECKING:
    from obstore.store import GCSCredential, GCSCredentialProvider

    from icechunk_virtual.containers.troubles import Trouble
    from icechunk_virtual.repo.cloud.store import MakeClient

_FILES = {
    GcsStaticCredentials.ServiceAccount: "service_account",
    GcsStaticCredentials.ServiceAccountKey: "service_account_key",
    GcsStaticCredentials.ApplicationCredentials: "application_credentials",
}
"""Options of the library for credentials that it reads itself."""


@dataclass(frozen=True, slots=True, repr=False)
class GcsPlace(Place):
    """A prefix of a bucket.

    Parameters
    ----------
    prefix
        Escaped, without slashes at its ends.
    config
        Options of the library, by name, and ``user_project``: who pays for requests.
    """

    bucket: str
    prefix: str
    credentials: AnyGcsCredential = field(default_factory=GcsCredentials.FromEnv)
    config: Mapping[str, str] = field(default_factory=dict, hash=False)
    fresh: Fresh[GcsBearerCredential] | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        fresh = None
        if isinstance(self.credentials, GcsCredentials.Refreshable):
            fresh = Fresh(self.credentials, endless=self.credentials.current is not None)
        object.__setattr__(self, "fresh", fresh)

    def __repr__(self) -> str:
        return f"Google Cloud Storage at {self.url}, config={shown_options(self.config)}"

    @property
    def url(self) -> str:
        """The place in one text."""
        return f"gs://{self.bucket}/{self.prefix}"

    @property
    def named_servers(self) -> tuple[str, ...]:
        """URLs of servers that the user named."""
        return tuple(value for name, value in self.config.items() if VENDOR.sub("", name.lower()) == "base_url")

    @property
    def traits(self) -> Traits:
        """What is particular to it."""
        return Traits(by_generation=True, in_parts=True)

    def renew(self) -> bool:
        """Forget what the user's function returned."""
        return self.fresh is not None and self.fresh.forget()

    def clients(self, settings: EffectiveStorage) -> MakeClient:
        """Return what makes the clients."""
        config: dict[str, Any] = {"skip_signature": isinstance(self.credentials, GcsCredentials.Anonymous)}
        static: Any = self.credentials._0 if isinstance(self.credentials, GcsCredentials.Static) else None
        if type(static) in _FILES:
            config[_FILES[type(static)]] = static._0
        provider, (manner, given) = self._provider(), _manner(self.config)

        def make(role: Role) -> obstore.store.GCSStore:
            return obstore.store.GCSStore(
                self.bucket,
                prefix=self.prefix or None,
                credential_provider=provider,
                **connection(role, config, given, settings, manner),
            )

        return make

    def remedy(self, trouble: Trouble, region: str | None = None) -> str | None:
        """What to do about a trouble."""
        return remedy(trouble, StorageSubject("gcs", self.config, self.credentials, self._code), region)

    def _code(self, options: Mapping[str, object], credentials: str) -> str:
        where = {"bucket": self.bucket, "prefix": self.prefix or None, **({"config": options} if options else {})}
        return call("gcs_storage", arguments(where), credentials)

    def _provider(self) -> GCSCredentialProvider | None:
        fresh, credentials = self.fresh, self.credentials
        if fresh is not None:

            def token() -> GCSCredential:
                found, renewal = fresh()
                return gcs_token(found.bearer, renewal)

            return token
        if isinstance(credentials, GcsCredentials.Static) and isinstance(
            credentials._0, GcsStaticCredentials.BearerToken
        ):
            bearer = credentials._0._0
            return lambda: gcs_token(bearer)
        return None


def _manner(config: Mapping[str, str]) -> tuple[Manner, dict[str, str]]:
    """How requests say who pays for them, and the other options: the library knows no such one."""
    payers = {name: value for name, value in config.items() if VENDOR.sub("", name.lower()) == "user_project"}
    headers = {"x-goog-user-project": next(iter(payers.values()))} if payers else {}
    return Manner(headers=headers), {name: value for name, value in config.items() if name not in payers}


def gcs_place(
    bucket: str,
    prefix: str | None,
    credentials: AnyGcsCredential | None = None,
    config: Mapping[str, str] | None = None,
) -> GcsPlace:
    """Return the place of a repository on Google Cloud Storage. `StorageError` if it cannot be addressed."""
    return GcsPlace(
        bucket, spell_prefix(prefix or ""), credentials or GcsCredentials.FromEnv(), text_mapping(config or {})
    )
