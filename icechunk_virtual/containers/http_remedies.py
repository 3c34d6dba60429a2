"""What to do when a web server wants to know who is asking: the lines that repair it.

Pure texts. What a repository says is foreign: prefixes are quoted as literals.
"""

from __future__ import annotations

import json

from icechunk_virtual.containers.http_addresses import Origin
from icechunk_virtual.containers.http_credentials import HttpAuth, HttpCredentials
from icechunk_virtual.containers.url import Location

INSTALL = 'pip install "icechunk-virtual[http]"'


def code_with_credentials(prefix: Location, arguments: str) -> str:
    """The call that opens a repository and grants a container to web credentials made of those arguments."""
    grants = f"{{{json.dumps(prefix.text)}: icechunk_virtual.http_credentials({arguments})}}"
    return (
        "    icechunk_virtual.Repository.open(storage, authorize_virtual_chunk_access="
        f"icechunk_virtual.containers_credentials({grants}))"
    )


def of_refusal(prefix: Location, credentials: HttpCredentials, home: Origin, asked: Origin) -> str:
    """What to do after a 401 or 403, or a page to log in.

    Parameters
    ----------
    prefix
        Of the container.
    credentials
        That were granted.
    home, asked
        Origins of the container, and of the server that refused.
    """
    if credentials.auth is None and not credentials.headers:
        return (
            "If you may read there, say who you are when you open the repository:\n"
            f"{code_with_credentials(prefix, 'netrc=True')}\n"
            "which takes name and password from ~/.netrc; or with bearer_token=..., or username=..., password=...."
        )
    if isinstance(credentials.auth, HttpAuth.Netrc):
        return (
            f"It goes by the line `machine {asked.host} login NAME password SECRET` in ~/.netrc: add or correct it. If "
            "it is right, look whether your account may read there: some data centres want their application to be "
            "approved, or a licence to be accepted, on their website."
        )
    if asked != home:
        return (
            f"The credentials that you gave are for {home} and are not sent to {asked}. If that is where one logs in, "
            f"give name and password for it in ~/.netrc:\n{code_with_credentials(prefix, 'netrc=True')}"
        )
    return f"Give credentials that may read there:\n{code_with_credentials(prefix, _KIND[type(credentials.auth)])}"


_KIND = {
    HttpAuth.Bearer: "bearer_token=...",
    HttpAuth.Basic: "username=..., password=...",
    HttpAuth.Refreshable: "get_credentials=...",
    type(None): "headers=...",
}


def of_another_host(prefix: Location, host: str) -> str:
    """What to do if a redirect leads to an address that is not public."""
    arguments = f"redirect_hosts=[{json.dumps(host)}]"
    return f"If you trust the server that far, allow it:\n{code_with_credentials(prefix, arguments)}"
