"""Writing many flatbuffers tables at once, column by column, in a layout that compresses well.

Tables come in blocks of about a thousand rows. In a block the fields of one slot stand side by side instead of
table by table, so zstd sees columns; and everything that only depends on the row's number in its block (vtables,
offsets between tables, fields and vectors) has the same bytes in every block, so it costs nothing from the second
block on. One block, `B` rows::

    vtables         one per class of rows and phase (see below)
    tables          B * 4     the i32 distance to the vtable, nothing else
    field columns   B * size  one after the other, fields of 4, 8 or 12 bytes
    vectors         B * 4 * (1 + width)   a u32 vector of fixed width per row, reached through slot 0
    tail            strings, padded to the same size in every block

A field must be at a constant distance from its table. Tables are 4 bytes apart, so fields of 8 bytes are split into
a column for even and one for odd rows, fields of 12 bytes into three: row ``k = P * j + p`` has phase `p`, every
phase has its own vtable, and `P` phases advance by ``4 * P`` bytes in each column. Knows nothing of what slots mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_ROWS = 1020  # per block: a multiple of all numbers of phases; field offsets must stay below 2**16


def align(position: int, to: int) -> int:
    """The next multiple of a power of two."""
    return -(-position // to) * to


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """Where everything is within a block.

    Attributes
    ----------
    n, rows, blocks : int
        Tables altogether, tables per block, number of blocks.
    phases : int
    width : int
        Elements of each row's vector.
    sizes : dict
        Bytes of the field of each slot: 4, 8 or 12. Slot 0 is the vector's.
    classes : tuple
        For each class of rows the slots that it has.
    """

    n: int
    rows: int
    blocks: int
    phases: int
    width: int
    sizes: dict[int, int]
    classes: tuple[tuple[int, ...], ...]
    tables: int = field(init=False)
    columns: dict[int, int] = field(init=False)
    vectors: int = field(init=False)
    tail: int = field(init=False)

    def __post_init__(self) -> None:
        vtables = sum(self.vtable_size(c) for c in range(len(self.classes))) * self.phases
        position = align(vtables, 8)
        object.__setattr__(self, "tables", position)
        position += 4 * self.rows
        columns = {}
        for slot, size in sorted(self.sizes.items(), key=lambda item: (item[1], item[0])):
            position = align(position, 8 if size == 8 else 4)
            columns[slot] = position
            position += size * self.rows
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "vectors", position)
        object.__setattr__(self, "tail", align(position + 4 * (1 + self.width) * self.rows, 8))

    @classmethod
    def of(cls, n: int, width: int, sizes: dict[int, int], classes: tuple[tuple[int, ...], ...]) -> BlockLayout:
        """Layout for `n` rows: as few blocks as possible, of nearly equal size."""
        phases = 6 if 12 in sizes.values() else 2 if 8 in sizes.values() else 1
        blocks = max(1, -(-n // MAX_ROWS))
        rows = max(1, -(-n // (blocks * phases))) * phases
        return cls(n, rows, max(1, -(-n // rows)), phases, width, sizes, classes)

    def vtable_size(self, class_: int) -> int:
        """Bytes of the vtables of a class of rows."""
        return 6 + 2 * max(self.classes[class_])

    def vtable(self, class_: int, phase: int) -> int:
        """Position of a vtable in the block."""
        before = sum(self.vtable_size(c) for c in range(class_)) * self.phases
        return before + phase * self.vtable_size(class_)

    def fields(self, slot: int) -> NDArray[np.int64]:
        """Position in the block of each row's field, int64 (rows,)."""
        if self.phases == 1:
            return self.columns[slot] + 4 * np.arange(self.rows)
        _, per = self._units(slot)
        j, p = np.divmod(np.arange(self.rows), self.phases)
        within: NDArray[np.int64] = p // per * 4 * self.rows + 4 * self.phases * j + self.sizes[slot] * (p % per)
        return self.columns[slot] + within

    def _units(self, slot: int) -> tuple[int, int]:
        """Number of columns that a slot is split into, and of neighbouring phases in each."""
        units = self.sizes[slot] // 4
        return units, self.phases // units


class BlockWriter:
    """Writes the rows of one layout into a zeroed file.

    Parameters
    ----------
    out : uint8 array
        The whole file.
    start : int
        Position of the first block, a multiple of 8.
    stride : int
        Bytes per block including its tail, a multiple of 8.
    """

    def __init__(self, out: NDArray[np.uint8], layout: BlockLayout, start: int, stride: int) -> None:
        self.out, self.layout, self.start, self.stride = out, layout, start, stride

    def _view(self, dtype: str, position: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> NDArray[Any]:
        return np.ndarray(
            (self.layout.blocks, *shape), dtype, self.out.data, self.start + position, (self.stride, *strides)
        )

    def _fill(self, view: NDArray[Any], values: NDArray[Any]) -> None:
        """Values for all rows, or for the rows of one block: then the same in every block."""
        rows = self.layout.rows
        if len(values) == rows:
            view[:] = values.reshape(view.shape[1:])
            return
        whole = len(values) // rows
        view[:whole] = values[: whole * rows].reshape(whole, *view.shape[1:])
        if whole * rows < len(values):
            last = np.zeros(rows, values.dtype)
            last[: len(values) - whole * rows] = values[whole * rows :]
            view[whole] = last.reshape(view.shape[1:])

    def tables(self, class_: NDArray[np.uint8] | None) -> None:
        """Vtables, and the tables themselves with the class of each row (``None``: all of the first)."""
        layout = self.layout
        fields = {slot: layout.fields(slot) for slot in layout.sizes}
        for number, slots in enumerate(layout.classes):
            for phase in range(layout.phases):
                vtable = np.zeros(layout.vtable_size(number) // 2, "<u2")
                vtable[0], vtable[1] = vtable.nbytes, 4
                for slot in slots:
                    vtable[2 + slot] = fields[slot][phase] - layout.tables - 4 * phase
                self._view("<u2", layout.vtable(number, phase), vtable.shape, (2,))[:] = vtable
        k = np.arange(layout.rows)
        if layout.phases == len(layout.classes) == 1:
            self._fill(self._view("<i4", layout.tables, (layout.rows,), (4,)), layout.tables + 4 * k)
            return
        starts = np.array(
            [[layout.vtable(c, p) for p in range(layout.phases)] for c in range(len(layout.classes))], np.int32
        )
        distances = (layout.tables + 4 * k - starts[:, k % layout.phases]).astype("<i4")  # (classes, rows)
        values = distances[0]
        if class_ is not None:
            values = distances[class_, np.arange(layout.n) % layout.rows]
        self._fill(self._view("<i4", layout.tables, (layout.rows,), (4,)), values)

    def column(self, slot: int, values: NDArray[Any]) -> None:
        """The fields of a slot, (n,), little-endian and of the slot's size."""
        layout = self.layout
        units, per = layout._units(slot)
        size = layout.sizes[slot]
        shape = (layout.rows // layout.phases, units, per)
        strides = (4 * layout.phases, 4 * layout.rows, size)
        self._fill(self._view(values.dtype.str, layout.columns[slot], shape, strides), values)

    def vectors(self, elements: NDArray[np.uint32]) -> None:
        """The vector of each row, uint32 (n, width), and slot 0."""
        layout = self.layout
        bytes_each = 4 * (1 + layout.width)
        k = np.arange(layout.rows)
        self.column(0, (layout.vectors + bytes_each * k - layout.fields(0)).astype("<u4"))
        self._view("<u4", layout.vectors, (layout.rows,), (bytes_each,))[:] = layout.width
        for axis in range(layout.width):
            view = self._view("<u4", layout.vectors + 4 * (1 + axis), (layout.rows,), (bytes_each,))
            self._fill(view, elements[:, axis])

    def positions(self, within: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions in the file of something that each row has at ``within[k]`` of its block, int64 (n,)."""
        if self.layout.blocks == 1:
            return (self.start + within)[: self.layout.n]
        starts = self.start + self.stride * np.arange(self.layout.blocks)
        return (starts[:, None] + within).reshape(-1)[: self.layout.n]

    def pointers(self, slot: int, targets: NDArray[np.int64]) -> None:
        """Offsets from the fields of a slot to positions in the file, int64 (n,); negative: row without."""
        values = targets - self.positions(self.layout.fields(slot))
        values[targets < 0] = 0
        self.column(slot, values.astype("<u4"))

    def table_positions(self) -> NDArray[np.int64]:
        """Position of each table, int64 (n,)."""
        return self.positions(self.layout.tables + 4 * np.arange(self.layout.rows, dtype=np.int64))
