"""Virtual chunk containers of every scheme, in front of one server on the loopback interface."""

from __future__ import annotations

import json
from typing import Any

import icechunk_virtual as icv
from icechunk_virtual.containers.container import ObjectStoreConfig, azure_store

SCHEMES = ("http", "s3", "tigris", "gs", "gcs", "az", "azure", "abfs")
_AZURE = {"az", "azure", "abfs"}


def prefix_of(scheme: str, url: str) -> str:
    """Of a container: the server's own address, or a bucket that the server has below its root."""
    return f"{url}/" if scheme == "http" else f"{scheme}://bucket/"


def credentials_for(scheme: str) -> Any:
    """What has to be granted at least."""
    return icv.azure_credentials(access_key="a2V5") if scheme in _AZURE else None


def store_of(scheme: str, url: str, **more: Any) -> Any:
    if scheme == "http":
        return icv.http_store({"allow_http": "true"})
    if scheme in {"gs", "gcs"}:
        key = {"gcs_base_url": url, "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
        return icv.gcs_store({"service_account_key": json.dumps(key), "allow_http": "true"})
    if scheme in _AZURE:
        return azure_store(account="me", config={"endpoint": url, "allow_http": "true"})
    options = icv.S3Options(region="r", endpoint_url=url, allow_http=True, force_path_style=True, **more)
    return ObjectStoreConfig.Tigris(options) if scheme == "tigris" else ObjectStoreConfig.S3Compatible(options)
