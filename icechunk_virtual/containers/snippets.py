"""Lines of code that errors print, ready to be pasted: they make stores, put containers into a configuration, open.

What a repository says is foreign: it stands in them as quoted literals only, and secrets do not stand in them at all.
Values in, text out. `storage` is the reader's own variable in all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from icechunk_virtual.containers.container import ObjectStoreConfig, S3Options, shown_options
from icechunk_virtual.containers.url import Location

PACKAGE = "icechunk_virtual"
AZURE = frozenset({"az", "azure", "abfs"})
NEW_STORES = {
    "file": "local_filesystem_store({path})",
    "s3": 's3_store(region="us-east-1")',
    "tigris": 'ObjectStoreConfig.Tigris(icechunk_virtual.S3Options(region="auto"))',
    "gs": "gcs_store()",
    "gcs": "gcs_store()",
    "az": 'storage.azure_store(account="ACCOUNT")',
    "azure": 'storage.azure_store(account="ACCOUNT")',
    "abfs": 'storage.azure_store(account="ACCOUNT")',
    "http": "http_store()",
    "https": "http_store()",
}
"""What makes a store for a container of a scheme, by names of the package. Some values the reader has to change."""

_CHANGED_HERE = {"s3": "  # the region of the bucket", **dict.fromkeys(AZURE, "  # your storage account")}
_DEFAULT_OPTIONS = S3Options()


def literal(value: object) -> str:
    """A value as it stands in code: texts in double quotes, in ASCII."""
    return json.dumps(value) if isinstance(value, str) else repr(value)


def arguments(values: Mapping[str, object]) -> str:
    """Named arguments of a call."""
    return ", ".join(f"{name}={literal(value)}" for name, value in values.items())


def new_container_code(prefix: Location) -> str:
    """The line that adds a container to the variable `config`, for a prefix that has none."""
    store = NEW_STORES[prefix.scheme].format(path=literal(prefix.path))
    return container_code(prefix, f"{PACKAGE}.{store}") + _CHANGED_HERE.get(prefix.scheme, "")


def container_code(prefix: Location, store: str) -> str:
    """The line that puts a container into the variable `config`, for code that makes its store."""
    container = f"{PACKAGE}.VirtualChunkContainer({literal(prefix.text)}, {store})"
    return f"config.set_virtual_chunk_container({container})"


def opening_code(prefix: Location, addresses: Iterable[str] = (), credentials: str | None = None) -> str:
    """The call that opens a repository and authorises a container, and the addresses that its requests go to.

    Parameters
    ----------
    prefix
        Of the container.
    addresses
        Of servers.
    credentials
        Code of what is granted; None: what has to be, at least.
    """
    if credentials is None:
        credentials = f"{PACKAGE}.azure_from_env_credentials()" if prefix.scheme in AZURE else "None"
    granted = {prefix.text: credentials, **dict.fromkeys(addresses, "None")}
    grants = "{" + ", ".join(f"{literal(text)}: {value}" for text, value in granted.items()) + "}"
    if credentials != "None":
        grants = f"{PACKAGE}.containers_credentials({grants})"
    return f"{PACKAGE}.Repository.open(storage, authorize_virtual_chunk_access={grants})"


def with_config(opening: str) -> str:
    """The same `opening_code`, with the variable `config`."""
    return opening.replace("(storage, ", "(storage, config, ", 1)


def scanning_code(prefix: Location, *, store: str | None = None, credentials: str | None = None) -> str:
    """The call that scans the reader's `source`, for code that makes the store of its container, or credentials."""
    if store is not None:
        given = f"containers=[{PACKAGE}.VirtualChunkContainer({literal(prefix.text)}, {store})]"
    else:
        given = f"credentials={{{literal(prefix.text)}: {credentials}}}"
    return f"{PACKAGE}.scan(source, {given})"


def store_code(store: ObjectStoreConfig, **changes: object) -> str:
    """Code that makes a store like this one, with some of its options changed.

    Raises
    ------
    TypeError
        The store has no options.
    """
    options: Any = getattr(store, "_0", None)
    if isinstance(options, S3Options):
        return _s3_store_code(store, replace(options, **changes))  # type: ignore[arg-type]  # names of its fields
    if not isinstance(options, Mapping):
        raise TypeError(f"{type(store).__name__} has no options")
    shown = {**shown_options(options), **{name: str(value) for name, value in changes.items()}}
    if isinstance(store, ObjectStoreConfig.Azure):
        account = shown.pop("account", "ACCOUNT")
        config = f", config={json.dumps(shown)}" if shown else ""
        return f"{PACKAGE}.storage.azure_store(account={literal(account)}{config})"
    name = "gcs_store" if isinstance(store, ObjectStoreConfig.Gcs) else "http_store"
    return f"{PACKAGE}.{name}({json.dumps(shown) if shown else ''})"


def _s3_store_code(store: ObjectStoreConfig, options: S3Options) -> str:
    given = s3_arguments(options)
    if isinstance(store, ObjectStoreConfig.Tigris):
        return f"{PACKAGE}.ObjectStoreConfig.Tigris({PACKAGE}.S3Options({arguments(given)}))"
    if isinstance(store, ObjectStoreConfig.S3Compatible):
        given["s3_compatible"] = True
    return f"{PACKAGE}.s3_store({arguments(given)})"


def s3_arguments(options: S3Options) -> dict[str, object]:
    """The options that are not the default, by name."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    return {name: value for name, value in values.items() if value != getattr(_DEFAULT_OPTIONS, name)}
