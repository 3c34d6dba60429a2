"""How a virtual chunk container is reached: the place that its URL, its options and the granted credentials mean.

Options come with the repository and so from anybody: those that could misuse credentials or files are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from icechunk_virtual.containers.authorize import Grant
from icechunk_virtual.containers.container import ObjectStoreConfig
from icechunk_virtual.containers.credentials import GcsCredentials
from icechunk_virtual.containers.failures import cannot_be_opened
from icechunk_virtual.containers.url import Location
from icechunk_virtual.errors import StorageError
from icechunk_virtual.repo.cloud.azure import azure_place
from icechunk_virtual.repo.cloud.clients import CLIENT_OPTIONS
from icechunk_virtual.repo.cloud.gcs import gcs_place
from icechunk_virtual.repo.cloud.s3 import s3_place, tigris_place
from icechunk_virtual.repo.cloud.store import Place

_VENDOR = re.compile(r"\A(google|gcs|azure_storage|azure)_")
_GCS_OPTIONS = frozenset({"base_url", "service_account_key", "bearer_token", "skip_signature", "user_project"})
_AZURE_OPTIONS = frozenset(
    {
        "access_key",
        "account_key",
        "master_key",
        "sas_key",
        "sas_token",
        "token",
        "bearer_token",
        "endpoint",
        "use_emulator",
        "use_fabric_endpoint",
        "disable_tagging",
        "skip_signature",
    }
)
"""What containers may say about their stores, beside options of the HTTP client; without the vendor's name."""


def container_place(grant: Grant, location: Location) -> Place:
    """Where the objects of a location's bucket are, and who asks for them.

    Raises
    ------
    ContainerError
        What the container says about its store cannot be used.
    """
    try:
        return _PLACES[location.scheme](grant, location)
    except (StorageError, TypeError, ValueError) as error:
        reason = error.message if isinstance(error, StorageError) else str(error)
        raise cannot_be_opened(grant, location, reason) from error


def _s3(grant: Grant, location: Location) -> Place:
    options, credentials = options_of(grant), _credentials(grant)
    if isinstance(grant.container.store, ObjectStoreConfig.Tigris):
        return tigris_place(options, location.host, None, credentials, weak=True)
    return s3_place(options, location.host, None, credentials)


def _gcs(grant: Grant, location: Location) -> Place:
    credentials = _credentials(grant) or GcsCredentials.Anonymous()
    return gcs_place(location.host, None, credentials, _harmless(options_of(grant), _GCS_OPTIONS))


def _azure(grant: Grant, location: Location) -> Place:
    options = dict(options_of(grant))
    account = options.pop("account", None)
    if account is None:
        raise ValueError("azure store configuration must include an account")
    return azure_place(account, location.host, "", _credentials(grant), _harmless(options, _AZURE_OPTIONS))


def _harmless(options: Mapping[str, str], known: frozenset[str]) -> dict[str, str]:
    """The options of a container, which a repository and so anybody wrote.

    Others could have the reader's files and secrets sent anywhere, sign what was granted unsigned, or name another
    bucket. They are refused.
    """
    for name, value in options.items():
        plain = _VENDOR.sub("", name.lower())
        if plain not in known and plain not in CLIENT_OPTIONS:
            raise ValueError(
                f"the option {name!a} of a container is not used, since it could misuse the credentials of whoever "
                f"opens the repository. Remove it; there are {', '.join(sorted(known))} and those of the HTTP client"
            )
        if plain == "skip_signature" and value.lower() != "true":
            raise ValueError(f"the option {name!a} of a container can only be true: credentials come from the opener")
    return dict(options)


def options_of(grant: Grant) -> Any:
    """What the container says about its store: `S3Options`, or a mapping of texts."""
    store: Any = grant.container.store
    return store._0


def _credentials(grant: Grant) -> Any:
    """As the places take them: without the wrapper that says for which kind of store they are."""
    return None if grant.credentials is None else grant.credentials._0


_PLACES: dict[str, Callable[[Grant, Location], Place]] = {
    "s3": _s3,
    "tigris": _s3,
    "gs": _gcs,
    "gcs": _gcs,
    "az": _azure,
    "azure": _azure,
    "abfs": _azure,
}
CLOUD_SCHEMES = tuple(_PLACES)
"""URL schemes of object stores."""
