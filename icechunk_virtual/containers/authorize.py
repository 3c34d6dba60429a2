"""Who may read what: the containers of a repository and what its opener granted.

This is a security boundary. A repository is foreign data: neither its references nor the containers of its stored
configuration open anything by themselves. Only `granted`, which comes from the caller, does. Judged on meanings
(`url.Location.canonical`), never on texts. Does no I/O; symbolic links are the business of `local_files`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.containers.container import S3Options, VirtualChunkContainer, shown_options
from icechunk_virtual.containers.prefixes import match_prefixes
from icechunk_virtual.containers.url import Location, check_location, check_prefix
from icechunk_virtual.errors import InvalidLocation, NoContainer, NotAuthorized
from icechunk_virtual.model.locations import Locations

_REMEMBERED = 4096  # locations whose container is kept at hand
_STORES = {  # code that makes a store for a container of a scheme
    "file": "local_filesystem_store({path})",
    "s3": "s3_store(region=...)",
    "tigris": "ObjectStoreConfig.Tigris(icechunk_virtual.S3Options(region=...))",
    "gs": "gcs_store()",
    "gcs": "gcs_store()",
    "az": "storage.azure_store(account=...)",
    "azure": "storage.azure_store(account=...)",
    "abfs": "storage.azure_store(account=...)",
    "http": "http_store()",
    "https": "http_store()",
}
_AZURE = frozenset({"az", "azure", "abfs"})


@dataclass(frozen=True, slots=True)
class Grant:
    """A container and what the opener of the repository said about it.

    Attributes
    ----------
    prefix : Location
        Its URL prefix, understood.
    container : VirtualChunkContainer
    authorized : bool
    credentials : Credentials or None
        As granted; None without authorisation too.
    """

    prefix: Location
    container: VirtualChunkContainer
    authorized: bool
    credentials: Any = None

    def __repr__(self) -> str:  # never shows credentials
        return f"Grant({self.prefix.text!r}, authorized={self.authorized})"


class Authorization:
    """The containers of a configuration, together with what the opener of the repository granted.

    Frozen, and picklable if the credentials are.

    Parameters
    ----------
    containers
        Containers of the configuration; the keys are their prefixes. One whose prefix is not a URL prefix
        matches nothing.
    granted
        URL prefix of a container (a missing final ``/`` is added) to its credentials, or None.

    Notes
    -----
    The container with the longest prefix is responsible for a location. If that one is not authorised, the
    location cannot be read, even if a shorter prefix is.
    """

    __slots__ = ("_containers", "_granted", "_remembered", "granted_prefixes", "grants")

    grants: tuple[Grant, ...]
    granted_prefixes: frozenset[str]

    def __init__(
        self, containers: Mapping[str, VirtualChunkContainer], granted: Mapping[str, Any] | None = None
    ) -> None:
        self._containers = dict(containers)
        self._granted = {key if key.endswith("/") else key + "/": value for key, value in (granted or {}).items()}
        self._remembered: dict[str, Grant] = {}
        self.granted_prefixes = frozenset(self._granted)
        by_meaning = {p.canonical: value for key, value in self._granted.items() if (p := _prefix(key)) is not None}
        grants = []
        for container in self._containers.values():
            prefix = _prefix(container.url_prefix)
            if prefix is not None:
                canonical = prefix.canonical
                grants.append(Grant(prefix, container, canonical in by_meaning, by_meaning.get(canonical)))
        grants.sort(key=lambda g: (-len(g.prefix.canonical), g.prefix.text))
        self.grants = tuple(grants)

    def __reduce__(self) -> tuple[Any, ...]:
        return Authorization, (self._containers, self._granted)

    def __repr__(self) -> str:
        return f"Authorization({list(self.grants)})"

    def container_for(self, location: str) -> VirtualChunkContainer:
        """The container that is responsible for a location, authorised or not.

        Raises
        ------
        InvalidLocation
        NoContainer
        """
        return self._grant_for(location).container

    def check_write(self, locations: Locations) -> NDArray[np.bool_]:
        """Judge the locations of references that are to be set. Needs containers, but no authorisation.

        Parameters
        ----------
        locations : Locations (k,)

        Returns
        -------
        bool (k,)
            Whether a container is responsible.

        Raises
        ------
        InvalidLocation
            Of the first location that is no legal one.
        """
        return match_prefixes(locations.urls, [grant.prefix for grant in self.grants])

    def readable(self, location: str) -> Grant:
        """The container to read a location through, with its credentials.

        Raises
        ------
        InvalidLocation
        NoContainer
        NotAuthorized
            Names the prefix, the reason, and the line of code that grants it.
        """
        grant = self._grant_for(location)
        if not grant.authorized:
            text = _not_authorized_text(location, grant, self.granted_prefixes)
            raise NotAuthorized(text, location=location, prefix=grant.prefix.text)
        return grant

    def _grant_for(self, location: str) -> Grant:
        grant = self._remembered.get(location)
        if grant is None:
            understood = check_location(location)
            grant = self._find(understood)
            if grant is None:
                raise NoContainer(_no_container_text(understood), location=location)
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            self._remembered[location] = grant
        return grant

    def _find(self, location: Location) -> Grant | None:
        canonical = location.canonical
        return next((grant for grant in self.grants if canonical.startswith(grant.prefix.canonical)), None)


def _prefix(text: str) -> Location | None:
    try:
        return check_prefix(text)
    except InvalidLocation:
        return None


def code_that_authorizes(prefix: Location) -> str:
    """The argument of ``Repository.open`` that authorises a container. The prefix is foreign: quoted as a literal."""
    literal = json.dumps(prefix.text)
    if prefix.scheme in _AZURE:
        grant = f"icechunk_virtual.containers_credentials({{{literal}: icechunk_virtual.azure_from_env_credentials()}})"
    else:
        grant = f"{{{literal}: None}}"
    return f"icechunk_virtual.Repository.open(storage, authorize_virtual_chunk_access={grant})"


def _no_container_text(location: Location) -> str:
    prefix = location.text[: location.text.rfind("/") + 1]
    store = _STORES.get(location.scheme)
    text = (
        f"invalid chunk location, no matching virtual chunk container: `{location}`: no virtual chunk container can "
        f"handle the chunk location ({location}), edit the repository configuration adding a virtual chunk container "
        "for the chunk references"
    )
    if store is None:
        return f"{text}. There are no containers for `{location.scheme}` URLs."
    code = store.format(path=json.dumps(location.path[: location.path.rfind("/") + 1]))
    return (
        f"{text}:\n    config.set_virtual_chunk_container(icechunk_virtual.VirtualChunkContainer("
        f"{json.dumps(prefix)}, icechunk_virtual.{code}))\n    repo = icechunk_virtual.Repository.open(storage, config)"
        "\n    repo.save_config()"
    )


def _other_addresses(container: VirtualChunkContainer) -> str:
    """A sentence about where requests go, with the credentials granted, if the repository says another place."""
    options: Any = getattr(container.store, "_0", None)
    given = {"endpoint_url": options.endpoint_url or ""} if isinstance(options, S3Options) else options
    if not isinstance(given, Mapping):
        return ""
    shown = shown_options(given)
    there = [ascii(text) for name, text in shown.items() if text and ("url" in name or "endpoint" in name)]
    return f" The repository has its requests, with what you grant, sent to {', '.join(there)}." if there else ""


def _not_authorized_text(location: str, grant: Grant, granted: frozenset[str]) -> str:
    prefix = grant.prefix
    known = ", ".join(map(repr, sorted(granted))) or "none"
    return (
        f"a virtual chunk in this repository ({location}) resolves to the url prefix {prefix}, to be able to fetch the "
        "chunk you need to authorize the virtual chunk container when you open/create the repository "
        f"(authorised so far: {known}).{_other_addresses(grant.container)} If you trust this repository to read there, "
        f"pass authorize=[{json.dumps(prefix.text)}] to xarray.open_dataset, or elsewhere:\n"
        f"    {code_that_authorizes(prefix)}"
    )
