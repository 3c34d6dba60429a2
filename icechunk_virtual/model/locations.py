"""The table of objects that virtual chunks point into: one row per file and checksum, never one per chunk.

Texts are kept verbatim; what a location means and whether it may be read is `containers`' business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.model.strings import Strings


@dataclass(frozen=True, slots=True, eq=False)
class Locations:
    """`k` objects.

    Attributes
    ----------
    urls : Strings (k,)
        Absolute URLs, verbatim.
    etags : Strings (k,)
        Entity tag that the object must have; the empty text means none.
    last_modified : uint32 (k,)
        The object must not have changed after this moment, seconds since 1970-01-01 UTC; 0 means none.

    Raises
    ------
    ValueError
        Columns of different lengths.
    """

    urls: Strings
    etags: Strings
    last_modified: NDArray[np.uint32]

    def __post_init__(self) -> None:
        column = np.array(self.last_modified, np.uint32)
        if not len(self.urls) == len(self.etags) == len(column):
            raise ValueError("urls, etags and last_modified must have one row per location")
        column.flags.writeable = False
        object.__setattr__(self, "last_modified", column)

    @classmethod
    def of(
        cls,
        urls: Iterable[str],
        *,
        etags: Sequence[str | None] | None = None,
        last_modified: Sequence[int | None] | NDArray[Any] | None = None,
    ) -> Locations:
        """From Python values; ``None`` means no checksum."""
        texts = Strings.of(urls)
        tags = Strings.repeated("", len(texts)) if etags is None else Strings.of(tag or "" for tag in etags)
        if last_modified is None:
            seconds = np.zeros(len(texts), np.uint32)
        else:
            seconds = np.array([second or 0 for second in last_modified], np.uint32)
        return cls(texts, tags, seconds)

    @classmethod
    def concat(cls, parts: Iterable[Locations]) -> Locations:
        """All rows of all parts, repeats kept."""
        parts = list(parts)
        return cls(
            Strings.concat(p.urls for p in parts),
            Strings.concat(p.etags for p in parts),
            np.concatenate([np.zeros(0, np.uint32), *(p.last_modified for p in parts)]),
        )

    def __len__(self) -> int:
        return len(self.last_modified)

    def __reduce__(self) -> tuple[Any, ...]:
        return Locations, (self.urls, self.etags, np.array(self.last_modified))

    @property
    def nbytes(self) -> int:
        """Memory of the table in bytes."""
        return self.urls.nbytes + self.etags.nbytes + self.last_modified.nbytes

    def equals(self, other: Locations) -> bool:
        """The same rows in the same order."""
        return (
            self.urls.equals(other.urls)
            and self.etags.equals(other.etags)
            and np.array_equal(self.last_modified, other.last_modified)
        )

    def take(self, rows: NDArray[Any]) -> Locations:
        """The given rows in that order."""
        return Locations(self.urls.take(rows), self.etags.take(rows), self.last_modified[rows])

    def unique(self) -> tuple[Locations, NDArray[np.int64]]:
        """Distinct rows in order of first appearance, and for each old row its new number, int64 (k,)."""
        if len(self) < 2:
            return self, np.zeros(len(self), np.int64)
        key = self.urls.unique()[1]
        for column in (self.etags.unique()[1], self.last_modified.astype(np.int64)):
            key = np.unique(key * (int(column.max()) + 1) + column, return_inverse=True)[1]
        _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        if len(first) == len(self):
            return self, np.arange(len(self))
        order = np.argsort(first, kind="stable")
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        return self.take(first[order]), rank[inverse]

    def relocate(self, old: str, new: str) -> Locations:
        """Exchange the prefix `old` by `new` in every URL that starts with it; checksums stay."""
        urls = Strings.of(new + url[len(old) :] if url.startswith(old) else url for url in self.urls)
        return Locations(urls, self.etags, self.last_modified)

    def with_checksums(
        self, *, etags: Sequence[str | None] | None = None, last_modified: Sequence[int | None] | None = None
    ) -> Locations:
        """The same URLs with other checksums (``None``: without)."""
        return Locations.of(self.urls, etags=etags, last_modified=last_modified)
