"""Who is told who we are: the headers that go to each server, by what the opener of the repository granted.

Credentials go to the container's own origin only: same scheme, host and port. Passwords of the netrc file go to the
hosts that it names. Knows no connections.
"""

from __future__ import annotations

import asyncio
import base64
import netrc
import os
import threading
from collections.abc import Mapping
from pathlib import Path

from icechunk_virtual.containers.http.addresses import Origin, plain_host
from icechunk_virtual.containers.http.credentials import HttpAuth, HttpBearerCredential, HttpCredentials
from icechunk_virtual.containers.refreshable import Fresh

NOBODY = HttpCredentials()


class Identity:
    """What is shown to whom, for the container of one grant. For any number of threads.

    Parameters
    ----------
    home
        Origin of the container's prefix.
    credentials
        As granted.
    """

    def __init__(self, home: Origin, credentials: HttpCredentials = NOBODY) -> None:
        self.home = home
        self._auth = credentials.auth
        self._headers = dict(credentials.headers)
        self._trusted = {home.host, *map(plain_host, credentials.redirect_hosts)}
        self._passwords = Passwords() if isinstance(self._auth, HttpAuth.Netrc) else None
        self._fresh: Fresh[HttpBearerCredential] | None = None
        if isinstance(self._auth, HttpAuth.Refreshable):
            self._fresh = Fresh(self._auth, endless=True)

    @property
    def hosts(self) -> frozenset[str]:
        """Hosts that may have any address."""
        return frozenset(self._trusted)

    async def headers(self, origin: Origin) -> dict[str, str]:
        """What a request to a server says about us: nothing, for most.

        Raises
        ------
        TypeError, OSError, ...
            Of the user's function, or of the netrc file.
        """
        shown = dict(self._headers) if origin == self.home else {}
        authorization = await self._authorization(origin)
        return shown if authorization is None else {**shown, "Authorization": authorization}

    async def logs_in_at(self, origin: Origin) -> bool:
        """Whether a foreign server gets a password."""
        return origin != self.home and await self._password(origin) is not None

    @property
    def token(self) -> HttpBearerCredential | None:
        """The token that is shown at the moment, of those that can be renewed."""
        return None if self._fresh is None else self._fresh.held

    def renew(self, refused: HttpBearerCredential | None) -> bool:
        """Whether there may be another token than the one refused (None: the first one)."""
        if self._fresh is None:
            return False
        held = self._fresh.held
        if held is not None and (refused is None or refused is held):
            self._fresh.refuse(held)
        return True

    async def _authorization(self, origin: Origin) -> str | None:
        if self._passwords is not None:
            return await self._password(origin)
        if origin != self.home:
            return None
        if self._fresh is not None:
            held = self._fresh.held
            return _bearer(held or (await asyncio.to_thread(self._fresh))[0])  # the user's function may take its time
        if isinstance(self._auth, HttpAuth.Bearer):
            return f"Bearer {self._auth._0}"
        if isinstance(self._auth, HttpAuth.Basic):
            return basic(self._auth.username, self._auth.password)
        return None

    async def _password(self, origin: Origin) -> str | None:
        if self._passwords is None or (origin.scheme != "https" and origin.host not in self._trusted):
            return None
        known = self._passwords.found
        found = (await asyncio.to_thread(self._passwords) if known is None else known).get(origin.host)
        return None if found is None else basic(*found)


class Passwords:
    """Names and passwords of the netrc file by host, read once. Without its ``default`` entry: that names no host."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.found: dict[str, tuple[str, str]] | None = None

    def __call__(self) -> Mapping[str, tuple[str, str]]:
        """Read the file.

        Raises
        ------
        FileNotFoundError
        ValueError
            It is not well-formed.
        """
        with self._lock:
            if self.found is None:
                self.found = _read(netrc_path())
            return self.found


def netrc_path() -> Path:
    """The file that holds passwords: as curl and others find it."""
    named = os.environ.get("NETRC")
    if named:
        return Path(named).expanduser()
    usual = Path("~/.netrc").expanduser()
    windows = usual.with_name("_netrc")
    return windows if os.name == "nt" and not usual.exists() else usual


def _read(path: Path) -> dict[str, tuple[str, str]]:
    try:
        hosts = netrc.netrc(path).hosts
    except netrc.NetrcParseError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}") from None
    named = {host: entry for host, entry in hosts.items() if host != "default"}
    return {plain_host(host): (login, password or "") for host, (login, _, password) in named.items()}


def _bearer(credential: HttpBearerCredential) -> str:
    return f"Bearer {credential.bearer}"


def basic(user: str, password: str) -> str:
    """The header of basic authentication (RFC 7617).

    Examples
    --------
    >>> basic("me", "secret")
    'Basic bWU6c2VjcmV0'
    """
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
