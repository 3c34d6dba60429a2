"""Azure Blob Storage: how it is reached. What the user leaves to the environment is read by the library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import obstore.store

from icechunk_virtual.containers.addresses import VENDOR
from icechunk_virtual.containers.container import shown_options
from icechunk_virtual.containers.credentials import (
    AnyAzureCredential,
    AnyAzureRefreshableCredential,
    AzureCredentials,
)
from icechunk_virtual.containers.refreshable import Fresh
from icechunk_virtual.containers.remedies import remedy
from icechunk_virtual.containers.snippets import arguments
from icechunk_virtual.model.checked import text_mapping
from icechunk_virtual.repo.cloud.clients import connection
from icechunk_virtual.repo.cloud.repair import StorageSubject, call
from icechunk_virtual.repo.cloud.store import Place, Traits
from icechunk_virtual.repo.cloud.tokens import azure_fresh, azure_secret
from icechunk_virtual.repo.object_store import spell_prefix
from icechunk_virtual.repo.obstore_store import Role
from icechunk_virtual.repo.settings import EffectiveStorage

if TYPE_CHECKING:
    from obstore.store import AzureCredentialProvider

    from icechunk_virtual.containers.troubles import Trouble
    from icechunk_virtual.repo.cloud.store import MakeClient


@dataclass(frozen=True, slots=True, repr=False)
class AzurePlace(Place):
    """A prefix of a container of a storage account.

    Parameters
    ----------
    prefix
        Escaped, without slashes at its ends.
    config
        Options of the library, by name.
    """

    account: str
    container: str
    prefix: str
    credentials: AnyAzureCredential = field(default_factory=AzureCredentials.FromEnv)
    config: Mapping[str, str] = field(default_factory=dict, hash=False)
    fresh: Fresh[AnyAzureRefreshableCredential] | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        fresh = None
        if isinstance(self.credentials, AzureCredentials.Refreshable):
            fresh = Fresh(self.credentials, endless=True)
        object.__setattr__(self, "fresh", fresh)

    def __repr__(self) -> str:
        return f"Azure at {self.url}, account={self.account}, config={shown_options(self.config)}"

    @property
    def url(self) -> str:
        """The place in one text."""
        return f"az://{self.container}/{self.prefix}"

    @property
    def named_servers(self) -> tuple[str, ...]:
        """URLs of servers that the user named."""
        return tuple(value for name, value in self.config.items() if VENDOR.sub("", name.lower()) == "endpoint")

    def renew(self) -> bool:
        """Forget what the user's function returned."""
        return self.fresh is not None and self.fresh.forget()

    @property
    def traits(self) -> Traits:
        """What is particular to it."""
        return Traits(in_parts=True)

    def clients(self, settings: EffectiveStorage) -> MakeClient:
        """Return what makes the clients."""
        provider, config = self._provider(), {"account_name": self.account}
        if isinstance(self.credentials, AzureCredentials.Anonymous):
            config["skip_signature"] = "true"

        def make(role: Role) -> obstore.store.AzureStore:
            return obstore.store.AzureStore(
                self.container,
                prefix=self.prefix or None,
                credential_provider=provider,
                **connection(role, config, self.config, settings),
            )

        return make

    def remedy(self, trouble: Trouble, region: str | None = None) -> str | None:
        """What to do about a trouble."""
        return remedy(trouble, StorageSubject("azure", self.config, self.credentials, self._code), region)

    def _code(self, options: Mapping[str, object], credentials: str) -> str:
        config = dict(options)
        account = config.pop("account", self.account)
        where = {"account": account, "container": self.container, "prefix": self.prefix}
        return call("azure_storage", arguments(where | ({"config": config} if config else {})), credentials)

    def _provider(self) -> AzureCredentialProvider | None:
        fresh = self.fresh
        if fresh is not None:
            return lambda: azure_fresh(*fresh())
        if not isinstance(self.credentials, AzureCredentials.Static):
            return None
        secret = azure_secret(self.credentials._0)
        return lambda: secret


def azure_place(
    account: str,
    container: str,
    prefix: str,
    credentials: AnyAzureCredential | None = None,
    config: Mapping[str, str] | None = None,
) -> AzurePlace:
    """Return the place of a repository on Azure. `StorageError` if it cannot be addressed."""
    if not isinstance(prefix, str):
        raise TypeError(f"argument 'prefix': {type(prefix).__name__!r} object cannot be cast as 'str'")
    return AzurePlace(
        account, container, spell_prefix(prefix), credentials or AzureCredentials.FromEnv(), text_mapping(config or {})
    )
