"""Options that say how what is below a URL prefix is reached: for ``config add-container`` and ``scan``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from icechunk_virtual.cli.messages import UsageError
from icechunk_virtual.containers.container import ObjectStoreConfig, S3Options, VirtualChunkContainer, azure_store
from icechunk_virtual.credentials import (
    azure_anonymous_credentials,
    azure_from_env_credentials,
    gcs_anonymous_credentials,
    gcs_from_env_credentials,
    http_credentials,
)
from icechunk_virtual.sources import container_of


def add_container_options(parser: argparse.ArgumentParser) -> None:
    """Add what a container can be told."""
    parser.add_argument("--region", metavar="NAME", help="of an s3 bucket")
    parser.add_argument("--endpoint-url", metavar="URL", help="of a service with the protocol of S3")
    parser.add_argument("--anonymous", action="store_true", help="requests are not signed")
    parser.add_argument("--allow-http", action="store_true", help="s3: connections without TLS are allowed")
    parser.add_argument("--force-path-style", action="store_true", help="s3: the bucket is in the path of URLs")
    parser.add_argument("--requester-pays", action="store_true", help="s3: you agree to pay for requests")
    parser.add_argument("--account", metavar="NAME", help="az: the storage account")


def add_access_options(parser: argparse.ArgumentParser) -> None:
    """Add what else can be said about the reading of files."""
    add_container_options(parser)
    parser.add_argument("--netrc", action="store_true", help="http(s): names and passwords are in ~/.netrc")
    parser.add_argument(
        "--storage-option",
        action="append",
        default=[],
        type=_key_and_value,
        metavar="KEY=VALUE",
        help="read remote files through fsspec, with this option for its file system (JSON, or else text); may be "
        "repeated",
    )


def _key_and_value(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def container_as_said(options: argparse.Namespace, prefix: str) -> VirtualChunkContainer:
    """The container for a prefix, as the options say. They must all mean something for it."""
    scheme = _scheme(prefix)
    if scheme not in _STORES:
        raise UsageError(f"there are no {scheme}:// containers, only: {', '.join(f'{name}://' for name in _STORES)}")
    _refuse(options, [prefix], _CONTAINER)
    return _container(options, prefix)


def has_containers(scheme: str) -> bool:
    """Whether there are containers for URLs of a scheme."""
    return scheme in _STORES


def containers_as_said(options: argparse.Namespace, prefixes: Iterable[str]) -> list[VirtualChunkContainer]:
    """The containers for several prefixes, each as those of the options say that mean something for it."""
    return [_container(options, prefix) for prefix in prefixes]


def check_access(options: argparse.Namespace, urls: Sequence[str]) -> None:
    """Raise `UsageError` if an option means nothing for any of the files."""
    _refuse(options, urls, _ACCESS)


def credentials_as_said(options: argparse.Namespace, prefixes: Iterable[str]) -> dict[str, Any]:
    """With which credentials what is below the prefixes is read: those of the environment, or none."""
    return {prefix: make(options) for prefix in prefixes if (make := _CREDENTIALS.get(_scheme(prefix))) is not None}


def code_of_credentials(options: argparse.Namespace, prefix: str) -> str:
    """Code that makes the same credentials."""
    scheme = _scheme(prefix)
    if scheme in _GOOGLE and not options.anonymous:
        return "icechunk_virtual.gcs_from_env_credentials()"
    if scheme in _AZURE:
        kind = "anonymous" if options.anonymous else "from_env"
        return f"icechunk_virtual.azure_{kind}_credentials()"
    if scheme in _WEB and options.netrc:
        return "icechunk_virtual.http_credentials(netrc=True)"
    return "None"


def contradicted(options: argparse.Namespace, container: VirtualChunkContainer) -> list[str]:
    """Which of the options a container that exists says otherwise."""
    store: Any = container.store
    values = {field: getattr(store._0, field, None) for field in _CONTAINER} if hasattr(store, "_0") else {}
    if isinstance(store, ObjectStoreConfig.Azure):
        values["account"] = store._0.get("account")
    scheme = _scheme(container.url_prefix)
    said = {name: getattr(options, name) for name, schemes in _CONTAINER.items() if scheme in schemes}
    return [f"--{name.replace('_', '-')}" for name, value in said.items() if value and values[name] != value]


def _scheme(url: str) -> str:
    return url.partition(":")[0].lower()


def _refuse(options: argparse.Namespace, urls: Sequence[str], meaning: dict[str, frozenset[str]]) -> None:
    schemes = {_scheme(url) for url in urls}
    given = [name for name in meaning if getattr(options, name, None)]
    foreign = sorted(f"--{name.replace('_', '-')}" for name in given if not schemes & meaning[name])
    if foreign:
        known = ", ".join(f"{scheme}://" for scheme in sorted(schemes))
        raise UsageError(f"{', '.join(foreign)} has no meaning for {known} {_WHAT[meaning is _ACCESS]}")


def _container(options: argparse.Namespace, prefix: str) -> VirtualChunkContainer:
    scheme = _scheme(prefix)
    make = _STORES.get(scheme)
    if make is None:
        return container_of(prefix)
    names = (name for name, schemes in _CONTAINER.items() if scheme in schemes)
    return VirtualChunkContainer(prefix, make({name: value for name in names if (value := getattr(options, name))}))


def _s3(given: dict[str, Any]) -> ObjectStoreConfig:
    options = _s3_options(given)
    return ObjectStoreConfig.S3Compatible(options) if options.endpoint_url else ObjectStoreConfig.S3(options)


def _tigris(given: dict[str, Any]) -> ObjectStoreConfig:
    return ObjectStoreConfig.Tigris(_s3_options(given))


def _s3_options(given: dict[str, Any]) -> S3Options:
    if str(given.get("endpoint_url", "")).lower().startswith("http:"):
        given["allow_http"] = True  # by naming it
    return S3Options(network_stream_timeout_seconds=60, **given)


def _azure(given: dict[str, Any]) -> ObjectStoreConfig:
    if "account" not in given:
        raise UsageError("containers on Azure need --account NAME, the storage account")
    return azure_store(account=given["account"])


_S3 = frozenset({"s3", "tigris"})
_GOOGLE = frozenset({"gs", "gcs"})
_AZURE = frozenset({"az", "azure", "abfs"})
_WEB = frozenset({"http", "https"})

_STORES: dict[str, Callable[[dict[str, Any]], ObjectStoreConfig] | None] = {
    **dict.fromkeys(("file", "http", "https"), None),
    "s3": _s3,
    "tigris": _tigris,
    **dict.fromkeys(("gs", "gcs"), None),
    **dict.fromkeys(("az", "azure", "abfs"), _azure),
}
"""By URL scheme, what makes the store of its containers, where the URL alone does not."""

_CONTAINER: dict[str, frozenset[str]] = {
    **dict.fromkeys(("region", "endpoint_url", "anonymous", "force_path_style", "requester_pays"), _S3),
    "allow_http": _S3 | {"http"},  # the latter by naming it
    "account": _AZURE,
}
_ACCESS = {**_CONTAINER, "anonymous": _S3 | _GOOGLE | _AZURE, "netrc": _WEB}
"""Options, and the URL schemes that they mean something for: for what is saved, and for the reading of files."""
_WHAT = ("containers", "files")

_CREDENTIALS: dict[str, Callable[[argparse.Namespace], Any]] = {
    **dict.fromkeys(_GOOGLE, lambda o: gcs_anonymous_credentials() if o.anonymous else gcs_from_env_credentials()),
    **dict.fromkeys(_AZURE, lambda o: azure_anonymous_credentials() if o.anonymous else azure_from_env_credentials()),
    **dict.fromkeys(_WEB, lambda o: http_credentials(netrc=True) if o.netrc else None),
}
"""Where ``None`` would not mean the credentials of the environment, unless they are not wanted."""
