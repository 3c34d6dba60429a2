"""What to do when a web server wants to know who is asking, or sends us where we do not go: the lines that repair it.

Pure texts, beside those of `remedies`, which are for every store.
"""

from __future__ import annotations

import json

from icechunk_virtual.containers.authorize import Grant
from icechunk_virtual.containers.http.addresses import Origin
from icechunk_virtual.containers.http.credentials import HttpAuth, HttpCredentials
from icechunk_virtual.containers.remedies import ContainerSubject

_KINDS = {
    HttpAuth.Bearer: 'bearer_token="TOKEN"',
    HttpAuth.Basic: 'username="NAME", password="PASSWORD"',
    type(None): 'headers={"NAME": "VALUE"}',
}


def of_refusal(grant: Grant, credentials: HttpCredentials, home: Origin, asked: Origin) -> str:
    """What to do after a 401 or 403, or a page to log in.

    Parameters
    ----------
    grant, credentials
        The container, and what was granted to it.
    home, asked
        Origins of the container, and of the server that refused.
    """
    from_file = _code(grant, "netrc=True")
    if credentials.auth is None and not credentials.headers:
        return (
            f"If you may read there, say who you are, for instance by name and password in ~/.netrc:\n{from_file}\n"
            "or by bearer_token=..., or username=... and password=...."
        )
    if isinstance(credentials.auth, HttpAuth.Netrc):
        return (
            f"Name and password come from the line `machine {asked.host} login NAME password PASSWORD` in ~/.netrc: "
            "add or correct it. If it is right, see on the website of the data whether your account may read there: "
            "some have to approve an application or accept a licence first."
        )
    if asked != home:
        return (
            f"What you gave is for {home} and is not sent to {asked}. If that is where one logs in, have name and "
            f"password for it in ~/.netrc:\n{from_file}"
        )
    if isinstance(credentials.auth, HttpAuth.Refreshable):
        return "Have the function that was given as get_credentials return others, and open the repository again."
    return f"Give credentials that may read there:\n{_code(grant, _KINDS[type(credentials.auth)])}"


def of_special_address(grant: Grant, credentials: HttpCredentials, host: str) -> str:
    """What to do if a redirect leads to an address that is not public."""
    hosts = [*credentials.redirect_hosts, host]
    return (
        "If you trust the server that far, allow it, beside the credentials that you give:\n"
        f"{_code(grant, f'redirect_hosts={json.dumps(hosts)}')}"
    )


def _code(grant: Grant, arguments: str) -> str:
    return f"    {ContainerSubject(grant).with_credentials(arguments)}"
