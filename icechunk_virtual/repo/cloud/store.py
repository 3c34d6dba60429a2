"""A repository's objects at a provider: what all clouds have in common. Providers are values, see `Place`."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import obstore
from obstore import exceptions as foreign

from icechunk_virtual.containers.retry import Patience, Retries
from icechunk_virtual.containers.troubles import Trouble
from icechunk_virtual.errors import (
    ObjectNotFound,
    OutcomeUnknown,
    PermissionDenied,
    PreconditionFailed,
    ReadOnlyError,
    StorageError,
    TransientStorageError,
)
from icechunk_virtual.repo.foreign_errors import (
    diagnose,
    refuses_credentials,
    translate,
    unknown_outcome,
    without_debug_text,
)
from icechunk_virtual.repo.object_store import PartPolicy, Version, part_ranges
from icechunk_virtual.repo.obstore_store import ObstoreStore, Role
from icechunk_virtual.repo.settings import EffectiveStorage, StorageSettings

if TYPE_CHECKING:
    from obstore import Attributes, ObjectMeta, PutMode, PutResult
    from obstore.store import ObjectStore as ForeignStore

    from icechunk_virtual.repo.format.envelope import FileType

    MakeClient = Callable[[Role], ForeignStore]

_CHUNKS = "chunks/"
_CONFIG = "config.yaml"
_NO_UPLOAD = "<Code>NoSuchUpload</Code>"
_BUSY = "ConditionalRequestConflict"  # S3's word for a write that met another one, and has not landed
_SMALLEST_PART = 5 * 2**20  # of an upload in parts; only the last may be smaller


@dataclass(frozen=True, slots=True)
class Traits:
    """What providers differ in.

    Attributes
    ----------
    escaped
        Whether keys are percent-encoded.
    by_generation
        Whether conditional writes compare generations, not entity tags.
    bare_etags
        Whether entity tags are sent back without quotation marks.
    in_parts
        Whether large objects are uploaded in parts.
    writable
        Whether the storage may be written to.
    """

    escaped: bool = True
    by_generation: bool = False
    bare_etags: bool = False
    in_parts: bool = False
    writable: bool = True


class Place(ABC):
    """Where the objects are and who asks for them. A frozen value that pickles and hashes; its repr has no secrets."""

    __slots__ = ()

    @property
    @abstractmethod
    def url(self) -> str:
        """The place in one text, for messages."""

    @abstractmethod
    def clients(self, settings: EffectiveStorage) -> MakeClient:
        """Return what makes the clients. They share what is asked for once, such as fresh credentials."""

    @property
    def named_servers(self) -> tuple[str, ...]:
        """URLs of servers that the user named; none where they are the provider's own."""
        return ()

    @property
    def traits(self) -> Traits:
        """What is particular to it."""
        return Traits()

    def renew(self) -> bool:
        """Forget credentials that a function returned, for clients made from now on. False: there is no function."""
        return False

    def remedy(self, trouble: Trouble, region: str | None = None) -> str | None:  # noqa: ARG002  # places have some
        """What to do about a trouble with a storage here: sentences and code; `region`: where the bucket is."""
        return None

    async def bucket_region(self) -> str | None:
        """Where the bucket is, asked from the server; None if that is not known."""
        return None

    def default_settings(self) -> StorageSettings:
        """Return what holds where the user sets nothing."""
        return StorageSettings()

    def open(self, settings: EffectiveStorage) -> CloudStore:
        """Return the objects. Sends no request yet."""
        return CloudStore(self, settings)


class CloudStore(ObstoreStore):
    """Objects at a place, used by these settings. Sends nothing and opens no client before it is used."""

    def __init__(self, place: Place, settings: EffectiveStorage) -> None:
        traits = place.traits
        super().__init__(
            parts=PartPolicy(settings.max_concurrent_requests_for_object, settings.ideal_concurrent_request_size),
            escaped=traits.escaped,
            metadata=settings.unsafe_use_metadata,
            writable=traits.writable,
            retries=Retries(settings.max_tries, settings.initial_backoff_ms, settings.max_backoff_ms),
        )
        self._place, self._settings, self._traits = place, settings, traits
        self._make: MakeClient | None = None
        self._clients: dict[Role, ForeignStore] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"CloudStore({self._place.url})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CloudStore):
            return NotImplemented
        return (self._place, self._settings) == (other._place, other._settings)

    def __hash__(self) -> int:
        return hash((self._place, self._settings))

    def __reduce__(self) -> tuple[type[CloudStore], tuple[Place, EffectiveStorage]]:
        return CloudStore, (self._place, self._settings)

    @property
    def named_servers(self) -> tuple[str, ...]:
        """URLs of servers that the user named; none where they are the provider's own."""
        return self._place.named_servers

    def _client(self, role: Role) -> ForeignStore:
        if role is not Role.READ and not self.writable:
            raise ReadOnlyError(f"the storage at {self._place.url} is read-only")
        with self._lock:
            if role not in self._clients:
                self._clients[role] = self._new_client(role)
            return self._clients[role]

    def _new_client(self, role: Role) -> ForeignStore:
        try:
            self._make = self._make or self._place.clients(self._settings)
            return self._make(role)
        except (foreign.BaseError, OSError, ValueError) as error:
            reason = without_debug_text(error)
            raise StorageError(
                f"storage error: {self._place.url} cannot be opened: {reason}. Check the credentials and options that "
                "the storage was made with."
            ) from reason

    async def _meta(self, spelt: str) -> ObjectMeta:
        try:
            return await super()._meta(spelt)
        except (foreign.GenericError, foreign.PermissionDeniedError) as error:
            if diagnose(error)[1].status not in {400, 403}:
                raise
            # Answers to HEAD have no body that says why: this one has.
            found = await obstore.get_async(self._foreign(Role.READ), spelt, options={"range": (0, 1)})
            return found.meta

    async def _told(self, error: Exception, key: str) -> StorageError:
        """Our error, with the storage and what to do in it."""
        told, (_, diagnosis) = translate(error, key), diagnose(error)
        if diagnosis.trouble is None:
            return told
        region = diagnosis.region
        if diagnosis.trouble is Trouble.WRONG_REGION and region is None:
            region = await self._place.bucket_region()
        what_to_do = self._place.remedy(diagnosis.trouble, region)
        return type(told)(
            f"{told.message.rstrip('.')}, in the storage {self._place.url}. {what_to_do or ''}".rstrip(),
            key=key,
            status=diagnosis.status,
        )

    def _clients_now(self) -> object:
        return self._clients

    def _renewed(self, error: PermissionDenied, used: object) -> bool:
        if used is None or not refuses_credentials(error):
            return False
        with self._lock:
            if self._clients is used:  # else somebody was here already
                if not self._place.renew():
                    return False
                self._clients, self._make = {}, None
            return True

    # -- what is sent along ------------------------------------------------------------------------------------

    def _attributes(self, key: str, file_type: FileType | None) -> Attributes:
        chunk = key.startswith(_CHUNKS)
        attributes = super()._attributes(key, file_type)
        if self._metadata:
            attributes["Content-Type"] = "application/yaml" if key == _CONFIG else "application/octet-stream"
        storage_class = self._settings.chunks_storage_class if chunk else self._settings.metadata_storage_class
        if storage_class is not None:
            attributes["Storage-Class"] = storage_class
        return attributes

    async def _write(self, spelt: str, data: bytes | memoryview, mode: PutMode, attributes: Attributes) -> PutResult:
        size = len(data)
        if not self._traits.in_parts or mode != "overwrite" or size < self._settings.minimum_size_for_multipart_upload:
            return await super()._write(spelt, data, mode, attributes)
        try:
            return await obstore.put_async(
                self._foreign(Role.UPLOAD),
                spelt,
                data,
                attributes=attributes,
                use_multipart=True,
                chunk_size=max(-(-size // len(part_ranges(0, size, self.parts))), _SMALLEST_PART),
                max_concurrency=self.parts.max_parts,
            )
        except FileNotFoundError as error:
            if _NO_UPLOAD not in str(error):
                raise
            # The answer to the last request was lost, so the library took back what had landed.
            raise ConnectionError("the answer to the end of the upload was lost") from without_debug_text(error)

    # -- conditional writes ------------------------------------------------------------------------------------

    async def put_new(self, key: str, data: bytes) -> Version:  # noqa: D102  # Protocol
        if not self._settings.unsafe_use_conditional_create:
            return await self._put_unguarded(key, data, None)
        return await super().put_new(key, data)

    async def put_if_match(  # noqa: D102  # Protocol
        self, key: str, data: bytes, version: Version, *, after: Collection[str] = ()
    ) -> Version:
        if not self._settings.unsafe_use_conditional_update:
            return await self._put_unguarded(key, data, version)
        return await super().put_if_match(key, data, self._compared(version), after=after)

    def _compared(self, version: Version) -> Version:
        """Return what the provider compares."""
        if self._traits.by_generation:
            return Version(None, version.generation)
        if self._traits.bare_etags and version.etag is not None:
            return Version(version.etag.strip('"'))
        return Version(version.etag)

    async def _put_unguarded(self, key: str, data: bytes, expected: Version | None) -> Version:
        """Look before the write instead of letting the store compare: a writer in between goes unnoticed."""
        found = await self._find(key)
        actual = None if found is None else self._compared(found[1])
        if actual != (None if expected is None else self._compared(expected)):
            raise PreconditionFailed(
                f"object store error: {key} is not in the state that the write asks for. Nothing was written.", key=key
            )
        return await super()._put_conditionally(key, data, "overwrite")

    async def _put_conditionally(self, key: str, data: bytes, mode: PutMode) -> Version:
        """Repeat a write whose answer was lost, and tell its own first landing from somebody else's."""
        patience, lost, used = Patience(self._retries), False, self._clients_now()
        while True:
            try:
                return await super()._put_conditionally(key, data, mode)
            except PermissionDenied as error:
                if not self._renewed(error, used):
                    raise
                used = None
            except PreconditionFailed as error:
                landed = await self._landed(key, data) if lost else None
                if landed is not None:
                    return landed
                if _BUSY not in error.message or not await patience.again():
                    raise
            except OutcomeUnknown:
                lost = True
                if not await patience.again():
                    raise

    async def _landed(self, key: str, data: bytes) -> Version | None:
        """State of an object if it holds these bytes."""
        try:
            found = await self._find(key)
        except TransientStorageError as error:
            raise unknown_outcome(error, key) from error
        return found[1] if found is not None and found[0] == data else None

    async def _find(self, key: str) -> tuple[bytes, Version] | None:
        try:
            return await self.get_versioned(key)
        except ObjectNotFound:
            return None
