"""Amazon S3, services with its protocol, Tigris and R2: how they are reached.

Reads the environment only where the user leaves something to it: endpoint and profile (see `aws_profile`); the
library reads the rest.
"""

from __future__ import annotations

import copy
import enum
import ipaddress
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import obstore.store

from icechunk_virtual.containers.container import S3Options
from icechunk_virtual.containers.credentials import AnyS3Credential, S3Credentials, S3StaticCredentials
from icechunk_virtual.containers.refreshable import Fresh
from icechunk_virtual.containers.remedies import remedy
from icechunk_virtual.containers.snippets import arguments, s3_arguments
from icechunk_virtual.containers.url import without_user_info
from icechunk_virtual.errors import StorageError
from icechunk_virtual.repo.cloud.aws_profile import profile_key, profile_region
from icechunk_virtual.repo.cloud.clients import Manner, client_options, retry_config
from icechunk_virtual.repo.cloud.regions import region_of
from icechunk_virtual.repo.cloud.repair import StorageSubject, call
from icechunk_virtual.repo.cloud.store import Place, Traits
from icechunk_virtual.repo.cloud.tokens import s3_key
from icechunk_virtual.repo.object_store import check_prefix_parts, spell_prefix
from icechunk_virtual.repo.obstore_store import Role
from icechunk_virtual.repo.settings import EffectiveStorage

if TYPE_CHECKING:
    from obstore.store import S3Config, S3CredentialProvider

    from icechunk_virtual.containers.troubles import Trouble
    from icechunk_virtual.repo.cloud.store import MakeClient

_AMAZON = "https://s3.amazonaws.com"
TIGRIS_ENDPOINT = "https://t3.storage.dev"
_TIGRIS_HOSTS = ("t3.storage.dev", "fly.storage.tigris.dev")
_DNS_LABEL = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class S3Kind(enum.Enum):
    """Dialects of the protocol."""

    S3 = "S3"
    S3_OBJECT_STORE = "S3, keys escaped"  # repositories of `s3_object_store_storage`
    TIGRIS = "Tigris"
    TIGRIS_WEAK = "Tigris, weakly consistent"


_FUNCTIONS = {
    S3Kind.S3: "s3_storage",
    S3Kind.S3_OBJECT_STORE: "storage.s3_object_store_storage",
    S3Kind.TIGRIS: "tigris_storage",
    S3Kind.TIGRIS_WEAK: "tigris_storage",
}
"""What makes storages of a dialect."""


@dataclass(frozen=True, slots=True, repr=False)
class S3Place(Place):
    """A prefix of a bucket.

    Parameters
    ----------
    options
        How the service is reached. Not to be changed any more.
    prefix
        Without slashes at its ends.
    """

    bucket: str
    prefix: str
    options: S3Options = field(hash=False)
    credentials: AnyS3Credential = field(default_factory=S3Credentials.FromEnv)
    kind: S3Kind = S3Kind.S3
    fresh: Fresh[S3StaticCredentials] | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        fresh = (
            Fresh(self.credentials, endless=True) if isinstance(self.credentials, S3Credentials.Refreshable) else None
        )
        object.__setattr__(self, "fresh", fresh)

    def __repr__(self) -> str:
        return f"{self.kind.value} at {self.url}, {self.options!r}"

    @property
    def url(self) -> str:
        """The place in one text."""
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def named_servers(self) -> tuple[str, ...]:
        """URLs of servers that the user named."""
        return (self.options.endpoint_url,) if self.options.endpoint_url else ()

    @property
    def traits(self) -> Traits:
        """What is particular to it."""
        escaped = self.kind is S3Kind.S3_OBJECT_STORE
        return Traits(
            escaped=escaped, bare_etags=True, in_parts=not escaped, writable=self.kind is not S3Kind.TIGRIS_WEAK
        )

    def renew(self) -> bool:
        """Forget what the user's function returned."""
        return self.fresh is not None and self.fresh.forget()

    def clients(self, settings: EffectiveStorage) -> MakeClient:
        """Return what makes the clients."""
        manner, config, provider = self._manner(), self._config(), self._provider()

        def make(role: Role) -> obstore.store.S3Store:
            return obstore.store.S3Store(
                self.bucket,
                prefix=self.prefix or None,
                config=config,
                client_options=client_options(role, manner, settings),
                retry_config=retry_config(role, settings),
                credential_provider=provider,
            )

        return make

    def remedy(self, trouble: Trouble, region: str | None = None) -> str | None:
        """What to do about a trouble."""
        return remedy(trouble, StorageSubject("s3", self.options, self.credentials, self._code), region)

    def _code(self, options: S3Options, credentials: str) -> str:
        where: dict[str, object] = {"bucket": self.bucket, "prefix": self.prefix or None, **s3_arguments(options)}
        function = _FUNCTIONS[self.kind]
        if function == "tigris_storage":
            where = {name: value for name, value in where.items() if name not in {"force_path_style", "requester_pays"}}
        if self.kind is S3Kind.TIGRIS_WEAK:
            where["use_weak_consistency"] = True
        where.pop("anonymous", None)
        return call(function, arguments(where), "anonymous=True" if options.anonymous else credentials)

    async def bucket_region(self) -> str | None:
        """Where the bucket is, asked from the server."""
        config = self._config()
        endpoint = config.get("aws_endpoint_url_s3")
        if endpoint is not None and config.get("virtual_hosted_style_request"):
            return await region_of(endpoint)
        return await region_of(f"{endpoint or _AMAZON}/{self.bucket}")

    def _manner(self) -> Manner:
        stall = self.options.network_stream_timeout_seconds
        headers, read_headers = {}, {}
        if self.kind is S3Kind.TIGRIS:
            headers = {"X-Tigris-Regions": self.options.region or "", "X-Tigris-Consistent": "true"}
            read_headers = {"Cache-Control": "no-cache"}
        return Manner(self.options.allow_http, 60 if stall is None else stall, headers, read_headers)

    def _config(self) -> S3Config:
        environment = os.environ
        endpoint = self.options.endpoint_url or (
            environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
        )
        hosted = not self.options.force_path_style and _fits_host_name(self.bucket, endpoint)
        config: S3Config = {
            "conditional_put": "etag",
            "request_payer": self.options.requester_pays,
            "skip_signature": self.options.anonymous or isinstance(self.credentials, S3Credentials.Anonymous),
            "virtual_hosted_style_request": hosted,
        }
        if endpoint is not None:
            config["aws_endpoint_url_s3"] = _with_bucket(endpoint, self.bucket) if hosted else endpoint
        region = self.options.region or _region_of(environment)
        if region is not None:
            config["region"] = region
        return config

    def _provider(self) -> S3CredentialProvider | None:
        fresh, credentials = self.fresh, self.credentials
        if fresh is not None:
            return lambda: s3_key(*fresh())
        if isinstance(credentials, S3Credentials.Static):
            key = credentials._0
            return lambda: s3_key(key)
        if isinstance(credentials, S3Credentials.FromEnv) and not self.options.anonymous:
            profile = profile_key(os.environ)
            return None if profile is None else lambda: s3_key(profile)
        return None


def _region_of(environment: Any) -> str | None:
    return environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or profile_region(environment)


def _fits_host_name(bucket: str, endpoint: str | None) -> bool:
    """Whether the bucket can stand in front of the host's name."""
    url = urlsplit(endpoint or "https://s3.amazonaws.com")
    try:
        ipaddress.ip_address(url.hostname or "")
    except ValueError:
        dotted_with_tls = "." in bucket and url.scheme == "https"  # the wildcard of a certificate covers no dot
        return _DNS_LABEL.fullmatch(bucket) is not None and not dotted_with_tls
    return False


def _with_bucket(endpoint: str, bucket: str) -> str:
    url = urlsplit(endpoint)
    return urlunsplit(url._replace(netloc=f"{bucket}.{url.netloc}"))


def s3_place(
    options: S3Options,
    bucket: str,
    prefix: str | None,
    credentials: AnyS3Credential | None = None,
    *,
    escaped: bool = False,
) -> S3Place:
    """Return the place of a repository on S3 or a service with its protocol.

    Raises
    ------
    StorageError
        Tigris, which has a function of its own, or a prefix that cannot be addressed.
    """
    if any(host in (options.endpoint_url or "") for host in _TIGRIS_HOSTS):
        raise StorageError(
            "storage error: Tigris Storage is not S3 compatible, use the Tigris specific constructor instead"
        )
    kind = S3Kind.S3_OBJECT_STORE if escaped else S3Kind.S3
    return _place(options, bucket, prefix, credentials, kind)


def tigris_place(
    options: S3Options,
    bucket: str,
    prefix: str | None,
    credentials: AnyS3Credential | None = None,
    *,
    weak: bool,
) -> S3Place:
    """Return the place of a repository on Tigris. `StorageError` without region, unless `weak`."""
    if options.region is None and not weak:
        raise StorageError(
            "storage error: Tigris storage requires a region to provide full consistency. Either set the region for "
            "the bucket or use the read-only, eventually consistent storage by passing `use_weak_consistency=True` "
            "(experts only)"
        )
    options = copy.copy(options)
    options.endpoint_url = options.endpoint_url or TIGRIS_ENDPOINT
    return _place(options, bucket, prefix, credentials, S3Kind.TIGRIS_WEAK if weak else S3Kind.TIGRIS)


def r2_place(
    options: S3Options,
    bucket: str | None,
    prefix: str | None,
    account_id: str | None,
    credentials: AnyS3Credential | None = None,
) -> S3Place:
    """Return the place of a repository on R2. `StorageError` if it does not say which bucket or account."""
    if bucket is None:
        bucket, _, prefix = (prefix or "").partition("/")
    if not bucket:
        raise StorageError("storage configuration error: Either bucket or prefix must be provided.")
    if options.endpoint_url is None and account_id is None:
        raise StorageError("storage configuration error: Either endpoint_url or account_id must be provided.")
    options = copy.copy(options)
    options.endpoint_url = options.endpoint_url or f"https://{account_id}.r2.cloudflarestorage.com"
    options.region = options.region or "auto"
    options.force_path_style = True
    return _place(options, bucket, prefix, credentials, S3Kind.S3)


def _place(
    options: S3Options, bucket: str, prefix: str | None, credentials: AnyS3Credential | None, kind: S3Kind
) -> S3Place:
    if without_user_info(options.endpoint_url or "") != (options.endpoint_url or ""):
        raise StorageError(
            "storage error: the endpoint_url has a name or password in front of its host, which requests cannot use. "
            "Leave it out, and give credentials by their own arguments."
        )
    if kind is S3Kind.S3_OBJECT_STORE:
        spelt = spell_prefix(prefix or "")
    else:  # the one dialect that keeps what it is given
        spelt = (prefix or "").removesuffix("/")
        check_prefix_parts(spelt, spelt.split("/") if spelt else [])
    return S3Place(bucket, spelt, copy.copy(options), credentials or S3Credentials.FromEnv(), kind)
