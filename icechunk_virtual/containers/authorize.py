"""Who may read what: the containers of a repository and what its opener granted.

This is a security boundary. A repository is foreign data: neither its references nor the containers of its stored
configuration open anything by themselves. Only `granted`, which comes from the caller, does: prefixes, and the
addresses of servers that a stored container may have requests sent to. Judged on meanings (`url.Location.canonical`),
never on texts. Does no I/O; symbolic links are the business of `local_files`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.containers.addresses import Detour, detours, web_prefixes
from icechunk_virtual.containers.container import VirtualChunkContainer
from icechunk_virtual.containers.prefixes import match_prefixes
from icechunk_virtual.containers.snippets import NEW_STORES, new_container_code, opening_code, with_config
from icechunk_virtual.containers.unverified import verified_credentials
from icechunk_virtual.containers.url import Location, check_location, check_prefix
from icechunk_virtual.errors import InvalidLocation, NoContainer, NotAuthorized
from icechunk_virtual.model.locations import Locations

_REMEMBERED = 4096  # locations whose container is kept at hand


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
    detours : tuple of Detour
        By what a stored container would have requests sent elsewhere, which the opener has not allowed: while there
        is any, nothing is read through it.
    verified : bool
        Whether checksums are compared.
    scans : bool
        Whether it is for the scan of files, which no repository has granted anybody.
    """

    prefix: Location
    container: VirtualChunkContainer
    authorized: bool
    credentials: Any = None
    detours: tuple[Detour, ...] = ()
    verified: bool = True
    scans: bool = False

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
        URL prefix of a container (a missing final ``/`` is added) to its credentials, or None. A key that is a web
        address also allows stored containers to have requests sent there.
    addresses
        Further web addresses that stored containers may have requests sent to.

    Notes
    -----
    The container with the longest prefix is responsible for a location, and of several with that prefix one that the
    caller gave. If it is not authorised, the location cannot be read, even if a shorter prefix is.
    """

    __slots__ = ("_addresses", "_containers", "_granted", "_remembered", "granted_prefixes", "grants")

    grants: tuple[Grant, ...]
    granted_prefixes: frozenset[str]

    def __init__(
        self,
        containers: Mapping[str, VirtualChunkContainer],
        granted: Mapping[str, Any] | None = None,
        addresses: Iterable[str] = (),
    ) -> None:
        self._containers = dict(containers)
        self._addresses = tuple(addresses)
        self._granted = {key if key.endswith("/") else key + "/": value for key, value in (granted or {}).items()}
        self._remembered: dict[str, Grant] = {}
        self.granted_prefixes = frozenset(self._granted)
        by_meaning = {p.canonical: value for key, value in self._granted.items() if (p := _prefix(key)) is not None}
        allowed = web_prefixes((*self._granted, *self._addresses))
        grants = []
        for container in self._containers.values():
            prefix = _prefix(container.url_prefix)
            if prefix is not None:
                canonical = prefix.canonical
                elsewhere = tuple(d for d in detours(container) if not d.is_below(allowed)) if container.stored else ()
                credentials, verified = verified_credentials(by_meaning.get(canonical))
                grants.append(Grant(prefix, container, canonical in by_meaning, credentials, elsewhere, verified))
        grants.sort(key=lambda g: (-len(g.prefix.canonical), g.container.stored, g.prefix.text))
        self.grants = tuple(grants)

    def __reduce__(self) -> tuple[Any, ...]:
        return Authorization, (self._containers, self._granted, self._addresses)

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
        if not grant.authorized or grant.detours:
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


def _no_container_text(location: Location) -> str:
    text = (
        f"invalid chunk location, no matching virtual chunk container: `{location}`: no virtual chunk container can "
        f"handle the chunk location ({location}), edit the repository configuration adding a virtual chunk container "
        "for the chunk references"
    )
    if location.scheme not in NEW_STORES:
        return f"{text}. There are no containers for `{location.scheme}` URLs."
    prefix = dataclasses.replace(
        location,
        text=location.text[: location.text.rfind("/") + 1],
        path=location.path[: location.path.rfind("/") + 1],
    )
    return (
        f"{text}:\n    config = icechunk_virtual.RepositoryConfig()\n    {new_container_code(prefix)}\n"
        f"    repo = {with_config(opening_code(prefix))}\n    repo.save_config()"
    )


def _not_authorized_text(location: str, grant: Grant, granted: frozenset[str]) -> str:
    prefix = grant.prefix
    known = ", ".join(map(repr, sorted(granted))) or "none"
    start = f"a virtual chunk in this repository ({location}) resolves to the url prefix {prefix}, "
    if not grant.authorized:
        start += (
            "to be able to fetch the chunk you need to authorize the virtual chunk container when you open/create the "
            f"repository (authorised so far: {known})."
        )
    else:
        start += f"which you authorised (with {known}), but nothing is sent yet."
    return f"{start}{_where_else(grant)} {_remedy(grant)}"


def _where_else(grant: Grant) -> str:
    """Sentences about what the repository asks for beside reading below the prefix."""
    places = [f"{d.address.root!a} (option {d.option!a})" for d in grant.detours if d.address is not None]
    others = [f"{d.option}={d.shown}" for d in grant.detours if d.address is None]
    text = ""
    if places:
        text += (
            f" The repository has its requests, with what you grant, sent to {', '.join(places)}: that is not "
            f"{grant.detours[0].provider} own address, nor one that you named."
        )
    if others:
        text += (
            f" The repository asks for {', '.join(map(ascii, others))}, by which what you grant could go elsewhere or "
            "be overheard: that counts only in a container that you pass yourself."
        )
    return text


def _remedy(grant: Grant) -> str:
    prefix = grant.prefix
    credentials = None if grant.credentials is None else "credentials"  # the variable of who gave them
    if any(d.address is None for d in grant.detours):
        return (
            "If you trust this repository to read there, say yourself how the objects are reached:\n"
            f"    config = icechunk_virtual.RepositoryConfig()\n    {new_container_code(prefix)}\n"
            f"    repo = {with_config(opening_code(prefix, credentials=credentials))}"
        )
    addresses = tuple(dict.fromkeys(d.address.root for d in grant.detours if d.address is not None))
    return (
        f"If you trust this repository to read there, pass authorize={json.dumps([prefix.text, *addresses])} to "
        f"xarray.open_dataset, or elsewhere:\n    repo = {opening_code(prefix, addresses, credentials)}"
    )
