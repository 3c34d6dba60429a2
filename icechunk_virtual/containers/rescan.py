"""The command that renews the references to a file which changed, spelt out with what is known of the way to it."""

from __future__ import annotations

import shlex
from typing import Any

from icechunk_virtual.containers.authorize import Grant
from icechunk_virtual.containers.container import ObjectStoreConfig, S3Options
from icechunk_virtual.containers.credentials import AzureCredentials, GcsCredentials, S3Credentials
from icechunk_virtual.containers.http.credentials import HttpAuth, HttpCredentials
from icechunk_virtual.containers.url import Location, local_path, without_user_info

_ANONYMOUS = (S3Credentials.Anonymous, GcsCredentials.Anonymous, AzureCredentials.Anonymous)
_FLAGS = ("force_path_style", "requester_pays")


def rescan_command(grant: Grant, location: Location) -> str:
    """The command as a line to be pasted. Everything in it may be foreign: it is quoted for the shell.

    Only the repository, and its group, is left to be filled in, and what would not look like what it is. Keys and
    tokens are never named: the program takes them from the environment.
    """
    file = local_path(location) if location.scheme == "file" else location.text
    command = ["icechunk-virtual", "scan", file, "--repo", "REPO", "--mode", "r+", *_options(grant)]
    return shlex.join(part if part.isprintable() else "..." for part in command)


def _options(grant: Grant) -> list[str]:
    """How the container is reached, in the options of the command."""
    store = grant.container.store
    given: Any = getattr(store, "_0", None)
    credentials = getattr(grant.credentials, "_0", None)
    options: list[str] = []
    anonymous = isinstance(credentials, _ANONYMOUS)
    if isinstance(given, S3Options):
        anonymous = anonymous or given.anonymous
        if given.region is not None:
            options += ["--region", given.region]
        if given.endpoint_url is not None:
            options += ["--endpoint-url", without_user_info(given.endpoint_url)]
        options += [f"--{name.replace('_', '-')}" for name in _FLAGS if getattr(given, name)]
    elif isinstance(store, ObjectStoreConfig.Azure):
        options += ["--account", given.get("account", "ACCOUNT")]
    elif isinstance(store, ObjectStoreConfig.Gcs):
        anonymous = anonymous or credentials is None  # where the program would take those of the environment
    elif isinstance(credentials, HttpCredentials) and isinstance(credentials.auth, HttpAuth.Netrc):
        options.append("--netrc")
    return [*options, "--anonymous"] if anonymous else options
