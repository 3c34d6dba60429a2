"""What to do about a `Trouble`: a sentence, and the code that repairs it, ready to be pasted.

The same for containers and for the storages of repositories, which are both a `Subject`. Values in, text out.
"""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import indent
from typing import Any, Protocol

from icechunk_virtual.containers.addresses import VENDOR, detours
from icechunk_virtual.containers.authorize import Grant
from icechunk_virtual.containers.container import ObjectStoreConfig, S3Options
from icechunk_virtual.containers.snippets import (
    PACKAGE,
    container_code,
    opening_code,
    scanning_code,
    store_code,
    with_config,
)
from icechunk_virtual.containers.troubles import Trouble

KEYS = {
    "s3": 'access_key_id="KEY_ID", secret_access_key="SECRET"',
    "gcs": 'service_account_file="/path/of/key.json"',
    "azure": 'access_key="ACCOUNT_KEY"',
    "http": 'username="NAME", password="PASSWORD"',
}
"""How credentials are given, as arguments of the functions of a service."""

_FRESH = {
    "s3": 'S3StaticCredentials("KEY_ID", "SECRET", "TOKEN", expires_after=end)',
    "gcs": 'GcsBearerCredential("TOKEN", expires_after=end)',
    "azure": 'AzureRefreshableCredential.BearerToken("TOKEN", expires_after=end)',
    "http": 'HttpBearerCredential("TOKEN", expires_after=end)',
}
"""What a function that gets credentials for a service returns."""

_PUBLIC = {"s3": "anonymous=True", "gcs": "anonymous=True", "azure": "anonymous=True"}
_ENDPOINTS = frozenset({"endpoint_url", "base_url", "endpoint"})


class Subject(Protocol):
    """What is to be repaired."""

    @property
    def service(self) -> str:
        """``s3``, ``gcs``, ``azure`` or ``http``: what names of functions begin with."""
        ...

    @property
    def options(self) -> S3Options | Mapping[str, str]:
        """How the service is reached."""
        ...

    @property
    def has_function(self) -> bool:
        """Whether the credentials come from a function of the user."""
        ...

    def changed(self, **options: object) -> str:
        """Code that makes it anew, with other options."""
        ...

    def with_credentials(self, arguments: str) -> str:
        """Code that makes it anew, with other credentials: arguments of a function of the service."""
        ...


class ContainerSubject:
    """A container and what was granted to it."""

    def __init__(self, grant: Grant) -> None:
        self._grant = grant

    @property
    def service(self) -> str:
        """What names of functions begin with."""
        store = self._grant.container.store
        if isinstance(store, ObjectStoreConfig.Gcs):
            return "gcs"
        if isinstance(store, ObjectStoreConfig.Azure):
            return "azure"
        return "http" if isinstance(store, ObjectStoreConfig.Http) else "s3"

    @property
    def options(self) -> S3Options | Mapping[str, str]:
        """How the service is reached."""
        store: Any = self._grant.container.store
        options: S3Options | Mapping[str, str] = store._0
        return options

    @property
    def has_function(self) -> bool:
        """Whether the credentials come from a function of the user."""
        credentials = getattr(self._grant.credentials, "_0", None)
        return any(hasattr(part, "pickled_function") for part in (credentials, getattr(credentials, "auth", None)))

    def changed(self, **options: object) -> str:
        """Code that replaces the container."""
        prefix, container = self._grant.prefix, self._grant.container
        if self._grant.scans:
            return scanning_code(prefix, store=store_code(container.store, **options))
        credentials = None if self._grant.credentials is None else "credentials"
        return (
            f"config = {PACKAGE}.RepositoryConfig()\n{container_code(prefix, store_code(container.store, **options))}\n"
            f"repo = {with_config(opening_code(prefix, credentials=credentials))}\nrepo.save_config()"
        )

    def with_credentials(self, arguments: str) -> str:
        """Code that opens the repository, or scans, with other credentials."""
        container = self._grant.container
        credentials = f"{PACKAGE}.{self.service}_credentials({arguments})"
        if self._grant.scans:
            return scanning_code(self._grant.prefix, credentials=credentials)
        elsewhere = detours(container) if container.stored else ()
        addresses = dict.fromkeys(d.address.root for d in elsewhere if d.address is not None)
        return f"repo = {opening_code(self._grant.prefix, addresses, credentials)}"


def remedy(trouble: Trouble, subject: Subject, region: str | None = None) -> str:
    """Sentences, and lines of code after a colon, that repair a trouble.

    Parameters
    ----------
    trouble, subject
        What is wrong, and with what.
    region
        Where the bucket is, if that is known.
    """
    service, options = subject.service, subject.options
    match trouble:
        case Trouble.NO_CREDENTIALS:
            public = _PUBLIC.get(service)
            without = (
                "" if public is None else f"\nor, if the data is public, none:{_code(subject.with_credentials(public))}"
            )
            return f"Give credentials:{_code(subject.with_credentials(KEYS[service]))}{without}"
        case Trouble.WRONG_CREDENTIALS:
            return _other_credentials(subject, "Give valid credentials:")
        case Trouble.EXPIRED:
            return _other_credentials(subject, "Give new credentials; best a function that returns them:", fresh=True)
        case Trouble.DENIED:
            more = " If who reads has to pay, say so by requester_pays=True." if _may_have_to_pay(options) else ""
            return _other_credentials(subject, f"Have access granted.{more} Or give other credentials:")
        case Trouble.NO_ANSWER_OF_FUNCTION:
            return "Correct the function that was given as get_credentials, and open the repository again."
        case Trouble.PAYER if isinstance(options, S3Options):
            return f"Agree to pay for requests:{_code(subject.changed(requester_pays=True))}"
        case Trouble.PAYER if service == "gcs":
            return f"Name the project that pays for requests:{_code(subject.changed(user_project='PROJECT'))}"
        case Trouble.WRONG_REGION if isinstance(options, S3Options):
            return f"Name the region of the bucket:{_code(subject.changed(region=region or 'REGION'))}"
        case Trouble.NO_BUCKET | Trouble.NO_HOST:
            elsewhere = _elsewhere(subject)
            if not elsewhere:
                return "Correct the name of the bucket, or of the server."
            return f"Correct its name, or say where it is served:{_code(subject.changed(**elsewhere))}"
        case Trouble.CLOCK:
            return f"Set the clock of this machine, for instance:{_code('sudo timedatectl set-ntp true')}"
        case Trouble.UNTRUSTED:
            return (
                "If you trust the server, name the file with the certificate of its authority, before the first "
                f"request of the program:{_code('import os')}{_code(_CERTIFICATE)}"
            )
        case Trouble.NO_TLS | Trouble.PLAIN_HTTP:
            changed = subject.changed(**_plain_http(options))
            return f"Allow plain http, which everybody on the way can read:{_code(changed)}"
    return "Copy the data to a place that can be read."  # pragma: no cover


_CERTIFICATE = 'os.environ["SSL_CERT_FILE"] = "/path/of/authority.pem"'


def _code(lines: str) -> str:
    return "\n" + indent(lines, "    ")


def _other_credentials(subject: Subject, sentence: str, *, fresh: bool = False) -> str:
    service = subject.service
    if subject.has_function:
        return "Have the function that was given as get_credentials return others, and open the repository again."
    if not fresh:
        return f"{sentence}{_code(subject.with_credentials(KEYS[service]))}"
    function = (
        "from datetime import UTC, datetime, timedelta\n"
        "def new_credentials():\n"
        "    end = datetime.now(UTC) + timedelta(hours=1)\n"
        f"    return {PACKAGE}.{_FRESH[service]}"
    )
    return f"{sentence}{_code(function)}{_code(subject.with_credentials('get_credentials=new_credentials'))}"


def _may_have_to_pay(options: S3Options | Mapping[str, str]) -> bool:
    return isinstance(options, S3Options) and not options.requester_pays


def _elsewhere(subject: Subject) -> dict[str, object]:
    """Options that say where something is, to be filled in."""
    if subject.service == "s3":
        return {"endpoint_url": "https://ENDPOINT"}
    return {"account": "ACCOUNT"} if subject.service == "azure" else {}


def _plain_http(options: S3Options | Mapping[str, str]) -> dict[str, object]:
    """Options by which requests go without TLS."""
    if isinstance(options, S3Options):
        endpoint = options.endpoint_url
        return {"allow_http": True} | ({} if endpoint is None else {"endpoint_url": _http(endpoint)})
    plain = {name: _http(text) for name, text in options.items() if VENDOR.sub("", name.lower()) in _ENDPOINTS}
    return {"allow_http": "true", **plain}


def _http(url: str) -> str:
    return url.replace("https://", "http://", 1)
