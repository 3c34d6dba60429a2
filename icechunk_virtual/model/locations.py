"""The table of objects that virtual chunks point into: one row per file and checksum, never one per chunk.

Texts are kept verbatim; what a location means and whether it may be read is `containers`' business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icechunk_virtual.model.columns import as_unsigned, frozen, owned, rows_of
from icechunk_virtual.model.distinct import number_in_order
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
        Columns of different lengths, or moments outside the range of u32.
    """

    urls: Strings
    etags: Strings
    last_modified: NDArray[np.uint32]

    def __post_init__(self) -> None:
        if len(self.urls) != len(self.etags):
            raise ValueError(f"etags must have one row per location: {len(self.etags)} for {len(self.urls)}")
        column = rows_of(self.last_modified, np.uint32, "last_modified", len(self.urls))
        object.__setattr__(self, "last_modified", frozen(owned(column)))

    @classmethod
    def _trusted(cls, urls: Strings, etags: Strings, last_modified: NDArray[np.uint32]) -> Locations:
        """Without the checks, for results of operations on valid columns."""
        self = object.__new__(cls)
        object.__setattr__(self, "urls", urls)
        object.__setattr__(self, "etags", etags)
        object.__setattr__(self, "last_modified", frozen(last_modified))
        return self

    @classmethod
    def of(
        cls,
        urls: Iterable[str],
        *,
        etags: Iterable[str | None] | None = None,
        last_modified: Sequence[int | None] | NDArray[Any] | None = None,
    ) -> Locations:
        """From Python values.

        Parameters
        ----------
        urls
            Absolute URLs.
        etags, last_modified
            One per URL, ``None`` for URLs without; or ``None`` instead of all. `last_modified` is in seconds since
            1970-01-01 UTC.

        Raises
        ------
        ValueError
            Columns of different lengths, or moments outside the range of u32.
        """
        texts = urls if isinstance(urls, Strings) else Strings.of(urls)
        tags = Strings.repeated("", len(texts)) if etags is None else Strings.of(tag or "" for tag in etags)
        if last_modified is None:
            return cls(texts, tags, np.zeros(len(texts), np.uint32))
        if not isinstance(last_modified, np.ndarray):
            last_modified = np.array([second or 0 for second in last_modified])
        return cls(texts, tags, as_unsigned(last_modified, np.uint32, "last_modified"))

    @classmethod
    def concat(cls, parts: Iterable[Locations]) -> Locations:
        """All rows of all parts, repeats kept."""
        parts = list(parts)
        if len(parts) == 1:
            return parts[0]
        seconds = np.concatenate([np.zeros(0, np.uint32), *(p.last_modified for p in parts)])
        return cls._trusted(Strings.concat(p.urls for p in parts), Strings.concat(p.etags for p in parts), seconds)

    def __len__(self) -> int:
        return len(self.last_modified)

    def __reduce__(self) -> tuple[Any, ...]:
        return Locations._trusted, (self.urls, self.etags, self.last_modified)

    @property
    def nbytes(self) -> int:
        """Memory of the table in bytes."""
        return self.urls.nbytes + self.etags.nbytes + self.last_modified.nbytes

    def row(self, i: int) -> tuple[str, str | None, int | None]:
        """URL, etag and last modification of row `i`; ``None`` for no checksum."""
        return self.urls[i], self.etags[i] or None, self.last_modified.item(i) or None

    def equals(self, other: Locations) -> bool:
        """The same rows in the same order."""
        return (
            self.urls.equals(other.urls)
            and self.etags.equals(other.etags)
            and np.array_equal(self.last_modified, other.last_modified)
        )

    def take(self, rows: ArrayLike) -> Locations:
        """The given rows in that order; rows may repeat."""
        rows = np.asarray(rows, np.int64)
        return Locations._trusted(self.urls.take(rows), self.etags.take(rows), self.last_modified[rows])

    def unique(self) -> tuple[Locations, NDArray[np.int64]]:
        """Distinct rows in order of first appearance, and for each old row its new number, int64 (k,)."""
        if len(self) < 2:
            return self, np.zeros(len(self), np.int64)
        urls, number = self.urls.unique()
        if len(urls) == len(self):
            return self, number
        number = _refine(number, self.last_modified)
        if len(self.etags.data):
            number = _refine(number, self.etags.unique()[1])
        first, number = number_in_order(number)
        return (self if len(first) == len(self) else self.take(first)), number

    def relocate(self, old: str, new: str) -> Locations:
        """Exchange the prefix `old` by `new` in every URL that starts with it; checksums stay."""
        urls = Strings.of(new + url[len(old) :] if url.startswith(old) else url for url in self.urls)
        return Locations._trusted(urls, self.etags, self.last_modified)

    def with_checksums(
        self,
        *,
        etags: Iterable[str | None] | None = None,
        last_modified: Sequence[int | None] | NDArray[Any] | None = None,
    ) -> Locations:
        """The same URLs with other checksums (``None``: without)."""
        return Locations.of(self.urls, etags=etags, last_modified=last_modified)


def _refine(number: NDArray[np.int64], column: NDArray[Any]) -> NDArray[np.int64]:
    """Numbers that also tell rows apart by another column (values below 2**32)."""
    if (column == column[0]).all():
        return number
    # both factors are below 2**32 (the numbers are below the row count), so no product wraps
    combined = number.astype(np.uint64) * np.uint64(2**32) + column.astype(np.uint64)
    return number_in_order(combined)[1]
