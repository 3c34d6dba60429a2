"""What the engine asks of an object store, as one Protocol, and how keys are spelt where a store restricts names.

Implementations live in modules of their own. Nothing here knows the files of a repository or any storage library.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from icechunk_virtual.errors import StorageError

if TYPE_CHECKING:
    from icechunk_virtual.repo.format.envelope import FileType

PAGE_SIZE = 1000
"""Objects per page of a listing."""


@dataclass(frozen=True, slots=True)
class Version:
    """State of an object at the moment it was read or written; what a conditional write compares with.

    Attributes
    ----------
    etag
        Entity tag as the store gave it.
    generation
        Generation or version id, where the store has one.
    """

    etag: str | None
    generation: str | None = None


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object of a listing; `size` in bytes, `last_modified_us` in microseconds since 1970-01-01 UTC."""

    key: str
    size: int
    last_modified_us: int


@dataclass(frozen=True, slots=True)
class PartPolicy:
    """When one large object is fetched as several concurrent ranges.

    Attributes
    ----------
    max_parts
        At most that many requests for one object.
    ideal_size
        Bytes per request.
    """

    max_parts: int
    ideal_size: int


WHOLE = PartPolicy(max_parts=1, ideal_size=1)
"""One request per object: what is best where a request costs nothing."""


class ObjectStore(Protocol):
    """Objects under keys relative to the root of the repository.

    Usable from several event loops and threads at once. Every failure is an error of the package's own family:
    `ObjectNotFound`, `PermissionDenied`, `TransientStorageError`, `StorageError`, and for conditional writes
    `PreconditionFailed` (certainly not landed) and `OutcomeUnknown`.

    Attributes
    ----------
    writable
        Whether writes are possible at all.
    parts
        How large objects are best fetched.
    """

    @property
    def writable(self) -> bool: ...  # noqa: D102  # see the class
    @property
    def parts(self) -> PartPolicy: ...  # noqa: D102  # see the class

    async def get(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes | memoryview:
        """Bytes ``[start, stop)`` of an object, to its end without `stop`. The exact length, or `StorageError`.

        Large ones come as a view of the library's memory, so that nobody need copy them.
        """
        ...

    async def get_versioned(self, key: str) -> tuple[bytes, Version]:
        """A whole object, and the state it was read in."""
        ...

    async def put(
        self, key: str, data: bytes | memoryview, *, file_type: FileType | None = None, durable: bool = True
    ) -> None:
        """Write an object whether or not it exists. Readers see all of it or nothing, if `durable`.

        Parameters
        ----------
        data
            Bytes, or a contiguous view of them, which the caller leaves as they are until this returns.
        file_type
            Attached as metadata, where the store has such.
        durable
            Survive a power cut when this returns. Without it, `sync` does so later.
        """
        ...

    async def put_new(self, key: str, data: bytes) -> Version:
        """Create an object. `PreconditionFailed` if it exists. Durable."""
        ...

    async def put_if_match(self, key: str, data: bytes, version: Version, *, after: Collection[str] = ()) -> Version:
        """Replace an object if it is still in the state `version`, else `PreconditionFailed`. Durable.

        Parameters
        ----------
        after
            Keys of objects that were written with ``durable=False``: they survive a power cut before the new state can
            be seen. As `sync` before, but in fewer steps.
        """
        ...

    async def head(self, key: str) -> ObjectInfo:
        """Size and time of an object."""
        ...

    def list(self, prefix: str) -> AsyncIterator[list[ObjectInfo]]:
        """All objects below a prefix, in pages, in no particular order. `prefix` is empty or ends with ``/``."""
        ...

    async def delete(self, keys: Iterable[str]) -> int:
        """Delete objects; those that do not exist are no error. Returns how many keys were given."""
        ...

    async def sync(self, keys: Iterable[str]) -> None:
        """Make objects that were written with ``durable=False``, by whatever process, survive a power cut."""
        ...


@runtime_checkable
class BlockingStore(Protocol):
    """What an object store has besides if its answers come at once: memory and disks, but no network."""

    def get_now(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes | memoryview:
        """As `ObjectStore.get`, in the calling thread."""
        ...

    def put_now(self, key: str, data: bytes | memoryview) -> None:
        """As `ObjectStore.put` with ``durable=False``, in the calling thread."""
        ...


def part_ranges(start: int, stop: int, policy: PartPolicy) -> list[tuple[int, int]]:
    """Cut a byte range into the ranges to fetch concurrently (format version 1, section 11.4).

    Part sizes differ by at most one byte, larger ones first.

    Examples
    --------
    >>> part_ranges(0, 10, PartPolicy(max_parts=3, ideal_size=4))
    [(0, 4), (4, 7), (7, 10)]
    """
    size = stop - start
    parts = min(max(-(-size // policy.ideal_size), 1), policy.max_parts)
    small, larger = divmod(size, parts)
    edges = [start + i * small + min(i, larger) for i in range(parts + 1)]
    return list(pairwise(edges))


# -- spelling of keys (format version 1, section 11.3) -----------------------------------------------------------

_ESCAPED = re.compile(r'[^ -~]|["#%*<>?\[\\\]^`{|}~]')
_PERCENT = re.compile(r"((?:%[0-9A-Fa-f]{2})+)")


def escape_key(key: str) -> str:
    r"""Spell a key for stores that restrict names: local directories, Google and Azure storage.

    Control characters, all non-ASCII bytes and the characters ``"#%*<>?[\]^`{|}~`` are percent-encoded.
    """
    return _ESCAPED.sub(
        lambda found: "".join(f"%{byte:02X}" for byte in found.group().encode(errors="surrogatepass")), key
    )


def spell_prefix(prefix: str) -> str:
    """Spell the prefix of a repository for such a store: slashes that separate nothing vanish.

    Examples
    --------
    >>> spell_prefix("/a//b#/")
    'a/b%23'
    """
    parts = [escape_key(part) for part in prefix.split("/") if part]
    check_prefix_parts(prefix, parts)
    return "/".join(parts)


def check_prefix_parts(prefix: str, parts: list[str]) -> None:
    """Raise `StorageError` unless the library can address a prefix of these parts."""
    if not {"", ".", ".."}.isdisjoint(parts):
        raise StorageError(
            f"storage error: the prefix {prefix!r} has an empty part, `.` or `..`, which cannot be addressed. "
            "Choose another one, or copy the repository to one."
        )


def unescape_key(spelt: str) -> str:
    """Invert `escape_key`. What does not decode stays as it is."""

    def decode(found: re.Match[str]) -> str:
        try:
            return bytes.fromhex(found.group().replace("%", "")).decode()
        except UnicodeDecodeError:
            return found.group()

    return _PERCENT.sub(decode, spelt) if "%" in spelt else spelt
