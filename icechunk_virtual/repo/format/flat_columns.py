"""Reading many flatbuffers tables at once as numpy columns, whatever their layout (section 4.1).

A million tables are a million positions. Writers lay tables out regularly, so positions are kept as a pattern that
repeats every `step` bytes where they can be, and facts that hold for one period are checked once; positions without
a pattern are one long period. Every read is checked against the buffer; nothing here knows what the slots mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.repo.format.flat import Buffer

_MIN_PERIODIC = 64  # fewer rows are not worth a pattern
_MIN_REPEATS = 4  # nor is a pattern that repeats less often
_LONGEST_PERIOD = 1 << 14


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """`n` positions: place ``b * B + k`` is at ``first[k] + b * step``, where `B` is the length of `first`."""

    buffer: Buffer
    first: NDArray[np.int64]
    step: int
    n: int

    @classmethod
    def at(cls, buffer: Buffer, positions: NDArray[np.int64]) -> Places:
        """From positions in no particular order."""
        return cls(buffer, positions, 0, len(positions))

    @classmethod
    def pointed_at(cls, buffer: Buffer, start: int, count: int) -> Places:
        """The targets of the `count` u32 offsets from `start` on, with the pattern that they follow, if any.

        The offsets themselves are inside the buffer and aligned.
        """
        offsets = buffer.view("<u4")[start // 4 : start // 4 + count]
        known = min(count, _LONGEST_PERIOD + 1)
        head = np.arange(start, start + 4 * known, 4, dtype=np.int64) + offsets[:known]
        period = _period(head) if count >= _MIN_PERIODIC else 0
        if period and period * _MIN_REPEATS <= count:
            step = int(head[period] - head[0])
            growth = np.uint32((step - 4 * period) % 2**32)  # of the offsets from one period to the next
            if bool((offsets[period:] - offsets[:-period] == growth).all()):
                return cls(buffer, head[:period], step, count)
        return cls.at(buffer, np.arange(start, start + 4 * count, 4, dtype=np.int64) + offsets)

    @property
    def blocks(self) -> int:
        """How often the pattern repeats, the incomplete last time included."""
        return -(-self.n // len(self.first)) if self.n else 0

    def positions(self) -> NDArray[np.int64]:
        """All positions, int64 (n,)."""
        if self.blocks <= 1:
            return self.first[: self.n]
        starts = np.arange(self.blocks, dtype=np.int64) * self.step
        return (starts[:, None] + self.first).reshape(-1)[: self.n]

    def scattered(self) -> Places:
        """The same places without a pattern."""
        return Places.at(self.buffer, self.positions())

    def take(self, rows: NDArray[Any]) -> Places:
        """Some of the places (row numbers or a mask)."""
        return Places.at(self.buffer, self.positions()[rows])

    def moved(self, by: NDArray[Any] | int) -> Places:
        """Every place further on; `by` is one value or one per place of the pattern."""
        return Places(self.buffer, self.first + by, self.step, self.n)

    def spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """One value per place of the pattern -> one per place."""
        if self.blocks <= 1:
            return np.array(values[: self.n])
        return np.tile(values, self.blocks)[: self.n]

    def check(self, size: int, align: int, what: str) -> bool:
        """Whether the pattern is aligned and inside the buffer; without a pattern: it is, or an error."""
        if not self.n:
            return True
        low = int(self.first.min())
        high = int(self.first.max()) + max(0, self.blocks - 1) * self.step + size
        aligned = align == 1 or (not (self.first & (align - 1)).any() and (self.blocks == 1 or not self.step % align))
        if low >= 0 and high <= self.buffer.size and self.step >= 0 and aligned:
            return True
        if self.blocks > 1:
            return False
        if low >= 0 and high <= self.buffer.size:
            bad = int(self.first[np.argmax(self.first & (align - 1) != 0)])
            raise self.buffer.corrupt(f"{what} is not aligned to {align} bytes", bad)
        raise self.buffer.corrupt(
            f"{what} reaches outside the {self.buffer.size} bytes of the file", low if low < 0 else high - size
        )

    def read(self, dtype: str, what: str, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """The numbers at the places, (n,), aligned to their size; into `out`, if given, which is contiguous.

        Raises
        ------
        CorruptFile
            A place is outside the buffer or not aligned.
        """
        size = np.dtype(dtype).itemsize
        if not self.check(size, size, what):
            return self.scattered().read(dtype, what, out)
        view, shift = self.buffer.view(dtype), size.bit_length() - 1
        if out is None:
            out = np.empty(self.n, view.dtype)
        if self.blocks <= 1:
            if self.n:
                np.take(view, self.first >> shift, out=out, mode="clip")
            return out
        if len(self.first) == 1:
            out[:] = view[int(self.first[0]) >> shift :: self.step >> shift][: self.n]
            return out
        low, width = int(self.first.min()) >> shift, self.step >> shift
        columns = (self.first >> shift) - low
        if int(columns.max()) >= width:
            return self.scattered().read(dtype, what, out)
        whole = self.n // len(self.first)
        whole -= whole == self.blocks  # the last block may end with the buffer
        done = whole * len(self.first)
        grid = view[low : low + whole * width].reshape(whole, width)
        np.take(grid, columns, axis=1, out=out[:done].reshape(whole, -1), mode="clip")
        last = (self.first[: self.n - done] >> shift) + whole * width
        np.take(view, last, out=out[done:], mode="clip")
        return out

    def pattern(self, dtype: str, what: str) -> NDArray[Any] | None:
        """The numbers at the places of the pattern, (B,), if they are the same every time; else ``None``."""
        return self.repeated(self.read(dtype, what))

    def repeated(self, values: NDArray[Any]) -> NDArray[Any] | None:
        """Of one value per place those of the pattern, (B,), if they are the same every time; else ``None``."""
        if self.blocks <= 1:
            return values
        period = len(self.first)
        whole = self.n // period * period
        head = values[:period]
        same = (values[:whole].reshape(-1, period) == head).all() and (values[whole:] == head[: self.n - whole]).all()
        return head if same else None

    def read_bytes(self, size: int, what: str) -> NDArray[np.uint8]:
        """`size` bytes at each place, uint8 (n, size)."""
        places = self.scattered()
        places.check(size, 1, what)
        if not self.n:
            return np.empty((0, size), np.uint8)
        windows = np.ndarray((self.buffer.size - size + 1,), f"V{size}", self.buffer.data, 0, (1,))
        return windows[places.first].view(np.uint8).reshape(self.n, size)


def _period(positions: NDArray[np.int64]) -> int:
    """Length of the run of equal steps at the beginning, which is a candidate for a pattern; 0: none."""
    steps = np.diff(positions)
    other = np.flatnonzero(steps != steps[0])
    period = int(other[0]) + 1 if len(other) else 1
    return period if positions[period] > positions[0] else 0


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """`n` tables: their places, and per slot the field offsets of the pattern (0 = absent)."""

    places: Places
    offsets: tuple[NDArray[np.int64], ...]

    @classmethod
    def at(cls, places: Places, slots: int, what: str) -> Tables:
        """Read the vtables.

        Raises
        ------
        CorruptFile
            A table or vtable is outside the buffer or not aligned, or a vtable has an impossible length.
        """
        found = cls._patterned(places, slots, what)
        return found if found is not None else cls._patterned(places.scattered(), slots, what)  # type: ignore[return-value]

    @classmethod
    def _patterned(cls, places: Places, slots: int, what: str) -> Tables | None:
        distance = places.pattern("<i4", what)
        if distance is None:
            return None
        vtables = places.moved(-distance.astype(np.int64))
        if vtables.blocks <= 1 and len(vtables.first) and (vtables.first == vtables.first[0]).all():
            vtables = Places.at(places.buffer, vtables.first[:1])  # one vtable for all
        what = f"the vtable of {what}"
        lengths = vtables.pattern("<u2", what)
        if lengths is None:
            return None
        lengths = lengths.astype(np.int64)
        bad = (lengths < 4) | (lengths % 2 == 1)
        if bad.any():
            row = int(np.argmax(bad))
            raise places.buffer.corrupt(f"{what} has {lengths[row]} bytes", int(vtables.first[row]))
        vtables.moved(lengths - 2).read("<u2", what)  # all of each vtable is inside
        offsets = []
        for slot in range(slots):
            inside = lengths >= 6 + 2 * slot
            entry = np.where(inside, 4 + 2 * slot, 0)
            offset = vtables.moved(entry).pattern("<u2", what)
            if offset is None:
                return None
            offsets.append(np.where(inside, offset, 0).astype(np.int64))
        if len(vtables.first) < len(places.first):
            offsets = [np.broadcast_to(offset, places.first.shape) for offset in offsets]
        return cls(places, tuple(offsets))

    def __len__(self) -> int:
        return self.places.n

    def take(self, rows: NDArray[Any]) -> Tables:
        """Some of the tables (row numbers or a mask)."""
        return Tables(self.places.take(rows), tuple(self.places.spread(offset)[rows] for offset in self.offsets))

    def has(self, slot: int) -> NDArray[np.bool_]:
        """Which tables of the pattern have a field, bool (B,)."""
        has: NDArray[np.bool_] = self.offsets[slot] != 0
        return has

    def rows(self, slot: int) -> NDArray[np.bool_]:
        """Which tables have a field, bool (n,)."""
        return self.places.spread(self.has(slot))

    def field(self, slot: int, what: str) -> Places:
        """Places of a field that all tables must have."""
        has = self.has(slot)
        if not has.all():
            bad = int(self.places.first[np.argmin(has)])
            raise self.places.buffer.corrupt(f"{what} is missing", bad)
        return self.places.moved(self.offsets[slot])

    def numbers(self, slot: int, dtype: str, what: str) -> NDArray[Any]:
        """A number per table, (n,); 0 where it is absent."""
        has = self.has(slot)
        if has.all():
            return self.field(slot, what).read(dtype, what)
        values = np.zeros(len(self), dtype)
        if has.any():
            rows = self.places.spread(has)
            values[rows] = self.take(rows).field(slot, what).read(dtype, what)
        return values

    def follow(self, slot: int, what: str) -> Places:
        """Places that an offset, which all tables must have, points at."""
        fields = self.field(slot, what)
        values = fields.read("<u4", what)
        pattern = fields.repeated(values)
        if pattern is not None:
            return fields.moved(pattern)
        return Places.at(fields.buffer, fields.positions() + values)

    def follow_each(self, slot: int, what: str) -> NDArray[np.int64]:
        """Positions that an offset points at, int64 (n,), where its values are not expected to follow a pattern."""
        fields = self.field(slot, what)
        targets: NDArray[np.int64] = fields.positions() + fields.read("<u4", what)
        return targets

    def vectors(self, slot: int, itemsize: int, what: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Position of the first element and number of elements of a vector that all tables must have, int64 (n,)."""
        places = self.follow(slot, what)
        counts = places.read("<u4", what).astype(np.int64)
        starts = places.positions() + 4
        Places.at(places.buffer, starts + itemsize * counts).check(0, 1, what)
        return starts, counts
