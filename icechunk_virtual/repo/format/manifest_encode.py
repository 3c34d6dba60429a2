"""Writing manifests (section 4.4): columns of references -> file, without a step per chunk.

The layout of the tables is that of `flat_blocks`; each distinct location is one string (or one per block that uses
it, where that is short: then the offsets to it repeat and compress away).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.errors import TooLargeForFormat
from icechunk_virtual.model.chunk_refs import ChunkKind, ChunkRefs
from icechunk_virtual.model.ids import OBJECT_ID_SIZE, ManifestId, NodeId
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.model.strings import Strings
from icechunk_virtual.repo.format.envelope import MAX_FLATBUFFER
from icechunk_virtual.repo.format.flat import FILE_IDENTIFIER
from icechunk_virtual.repo.format.flat_blocks import BlockLayout, BlockWriter, align
from icechunk_virtual.repo.format.flat_texts import copy_ranges

# Slots of ChunkRef
INDEX, INLINE, OFFSET, LENGTH, CHUNK_ID, LOCATION, ETAG, LAST_MODIFIED = range(8)
_SIZES = {INDEX: 4, INLINE: 4, OFFSET: 8, LENGTH: 8, CHUNK_ID: 12, LOCATION: 4, ETAG: 4, LAST_MODIFIED: 4}

# Classes of rows: which slots are present
_PLAIN, _ETAG, _MODIFIED, _NATIVE, _INLINE = range(5)
_CLASSES = (
    (INDEX, OFFSET, LENGTH, LOCATION),
    (INDEX, OFFSET, LENGTH, LOCATION, ETAG),
    (INDEX, OFFSET, LENGTH, LOCATION, LAST_MODIFIED),
    (INDEX, OFFSET, LENGTH, CHUNK_ID),
    (INDEX, INLINE),
)

MAX_APPARENT_SIZE = 2**31
"""Readers add up the bytes of everything they reach, shared things once per use, and refuse more than this."""
MAX_TABLES = 50_000_000
"""Arrays plus references per manifest that icechunk 1.1.13 reads."""
_APPARENT = np.array([74, 88, 86, 90, 42], np.int64)  # per row of each class, without coordinates and texts
_KIND_NATIVE, _KIND_INLINE, _KIND_VIRTUAL = int(ChunkKind.NATIVE), int(ChunkKind.INLINE), int(ChunkKind.VIRTUAL)
_NO_TEXTS, _NO_ROWS = Strings.of(()), np.zeros(0, np.int64)
_LOCAL_BYTES = 4  # of strings per row of a block, when only some blocks keep their own


def apparent_size(refs: ChunkRefs) -> int:
    """Upper bound of what references count towards `MAX_APPARENT_SIZE`, in bytes; plus 100 per array and manifest.

    A caller that splits an array over manifests keeps the sum per manifest below the limit.
    """
    classes = _classes(refs)
    total = int(_APPARENT[classes].sum()) if isinstance(classes, np.ndarray) else int(_APPARENT[classes]) * len(refs)
    total += 4 * refs.ndim * len(refs)
    total += int(refs.length[refs.kind == _KIND_INLINE].sum())
    if len(refs.locations):
        uses = np.bincount(refs.source[refs.kind == _KIND_VIRTUAL], minlength=len(refs.locations))
        total += int((uses * (refs.locations.urls.lengths + refs.locations.etags.lengths)).sum())
    return total


def encode_flatbuffer(id: ManifestId, arrays: Sequence[tuple[NodeId, ChunkRefs]]) -> NDArray[np.uint8]:
    """The content of a manifest file before compression, uint8; arrays ascend by id.

    Raises
    ------
    TooLargeForFormat
    """
    nodes = [node for node, _ in arrays]
    _check_limits([refs for _, refs in arrays])

    # Plan: positions of everything.
    head = _Head(len(arrays))
    counts = np.array([len(refs) for _, refs in arrays], np.int64)
    vectors = head.size + np.concatenate([[0], np.cumsum(4 * (counts + 1))]).astype(np.int64)
    position = align(int(vectors[-1]), 8)
    groups = []
    for ndim in sorted({refs.ndim for _, refs in arrays if len(refs)}):
        members = [i for i, (_, refs) in enumerate(arrays) if refs.ndim == ndim and len(refs)]
        group = _Group.of([arrays[i][1] for i in members], members, position)
        groups.append(group)
        position = group.end
    if position > MAX_FLATBUFFER:
        raise TooLargeForFormat(f"a manifest of {position} bytes; readers take at most {MAX_FLATBUFFER}.{_ADVICE}")

    # Carry out.
    out = np.zeros(position, np.uint8)
    head.write(out, id, nodes, vectors[:-1])
    words = out[: position // 4 * 4].view("<u4")
    words[vectors[:-1] // 4] = counts
    for group in groups:
        tables, row = group.write(out), 0
        for member in group.members:
            count, first = int(counts[member]), int(vectors[member]) + 4
            values = tables[row : row + count]
            values -= np.arange(first, first + 4 * count, 4)
            words[first // 4 : first // 4 + count] = values
            row += count
    return out


_ADVICE = " Split the array over more manifests (manifest splitting in the configuration)."


def _check_limits(refs: list[ChunkRefs]) -> None:
    tables = 1 + len(refs) + sum(len(r) for r in refs)
    if tables > MAX_TABLES:
        raise TooLargeForFormat(f"a manifest of {tables} tables; readers take at most {MAX_TABLES}.{_ADVICE}")
    size = 100 + sum(100 + apparent_size(r) for r in refs)
    if size > MAX_APPARENT_SIZE:
        raise TooLargeForFormat(
            f"a manifest of {size} bytes as its readers count them; they take at most {MAX_APPARENT_SIZE}.{_ADVICE}"
        )


class _Head:
    """Root, Manifest table, vector of arrays, ArrayManifest tables; the vectors of references follow."""

    # root offset, identifier, vtables of Manifest and ArrayManifest, table, id, distance to the vector, its length
    _START = struct.Struct("<I4s4H4Hi12sII")
    _TABLE = 24
    _VECTOR = _TABLE + 20
    _ARRAY = np.dtype([("vtable", "<i4"), ("node", "V8"), ("refs", "<u4")])

    def __init__(self, arrays: int) -> None:
        self.arrays = self._START.size + 4 * arrays
        self.size = self.arrays + self._ARRAY.itemsize * arrays

    def write(self, out: NDArray[np.uint8], id: bytes, nodes: list[NodeId], vectors: NDArray[np.int64]) -> None:
        count, table = len(nodes), self._TABLE
        vtables = (8, 20, 4, 16), (8, 16, 4, 12)
        self._START.pack_into(
            out.data,
            0,
            table,
            FILE_IDENTIFIER,
            *vtables[0],
            *vtables[1],
            table - 8,
            id,
            self._VECTOR - table - 16,
            count,
        )
        tables = self.arrays + self._ARRAY.itemsize * np.arange(count)
        out[self._START.size : self.arrays].view("<u4")[:] = tables - (self._START.size + 4 * np.arange(count))
        records = out[self.arrays : self.size].view(self._ARRAY)
        records["vtable"] = tables - 16
        records["node"] = np.frombuffer(b"".join(nodes), "V8")
        records["refs"] = vectors - (tables + 12)


def _classes(refs: ChunkRefs) -> NDArray[np.uint8] | int:
    """The class of each row, or the one of all."""
    kind = refs.kind
    same = bool(len(kind)) and bool((kind == kind[0]).all())
    if same and kind[0] != _KIND_VIRTUAL:
        return _NATIVE if kind[0] == _KIND_NATIVE else _INLINE
    of_location = np.where(
        refs.locations.etags.lengths > 0, _ETAG, np.where(refs.locations.last_modified > 0, _MODIFIED, _PLAIN)
    ).astype(np.uint8)
    if same:
        if (of_location == of_location[0]).all():
            return int(of_location[0])
        return of_location[refs.source]
    classes = np.where(kind == _KIND_NATIVE, _NATIVE, _INLINE).astype(np.uint8)
    virtual = kind == _KIND_VIRTUAL
    classes[virtual] = of_location[refs.source[virtual]]
    return classes


@dataclass
class _Group:
    """All references of one rank, and where they go.

    `members` are the numbers of the arrays, `columns` their joined references; `texts` are the distinct urls and
    etags, `targets` the position of each row's string (-1: none) per slot, `copies` which text goes where,
    `payloads` the position of each inline row's vector.
    """

    members: list[int]
    refs: ChunkRefs
    class_: NDArray[np.uint8] | None
    start: int
    layout: BlockLayout
    stride: int
    texts: Strings
    targets: dict[int, NDArray[np.int64]]
    copies: tuple[NDArray[np.int64], NDArray[np.int64]]
    payloads: NDArray[np.int64]
    end: int

    @classmethod
    def of(cls, parts: list[ChunkRefs], members: list[int], start: int) -> _Group:
        refs = parts[0] if len(parts) == 1 else _join(parts)
        classes = _classes(refs)
        used = [classes] if isinstance(classes, int) else np.unique(classes).tolist()
        class_ = None if isinstance(classes, int) or len(used) == 1 else np.searchsorted(used, classes).astype(np.uint8)
        slots = sorted({slot for c in used for slot in _CLASSES[c]})
        layout = BlockLayout.of(
            len(refs), refs.ndim, {slot: _SIZES[slot] for slot in slots}, tuple(_CLASSES[c] for c in used)
        )
        texts, uses = _texts(refs, slots)
        stride, targets, copies, end = _place_texts(layout, start, texts, uses)
        payloads, end = _place_payloads(refs, end)
        return cls(members, refs, class_, start, layout, stride, texts, targets, copies, payloads, end)

    def write(self, out: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Write everything; returns the positions of the tables."""
        refs, writer = self.refs, BlockWriter(out, self.layout, self.start, self.stride)
        writer.tables(self.class_)
        writer.vectors(refs.coords)
        for slot, targets in self.targets.items():
            writer.pointers(slot, targets)
        sizes, inline = self.layout.sizes, refs.kind == _KIND_INLINE
        some_inline = bool(inline.any())
        if OFFSET in sizes:
            writer.column(OFFSET, np.where(inline, np.uint64(0), refs.offset) if some_inline else refs.offset)
            writer.column(LENGTH, np.where(inline, np.uint64(0), refs.length) if some_inline else refs.length)
        if CHUNK_ID in sizes:
            ids = np.zeros((len(refs), OBJECT_ID_SIZE), np.uint8)
            native = refs.kind == _KIND_NATIVE
            ids[native] = refs.chunk_ids[refs.source[native]]
            writer.column(CHUNK_ID, ids.view(f"V{OBJECT_ID_SIZE}")[:, 0])
        if LAST_MODIFIED in sizes:
            seconds = np.zeros(len(refs), "<u4")
            virtual = refs.kind == _KIND_VIRTUAL
            seconds[virtual] = refs.locations.last_modified[refs.source[virtual]]
            writer.column(LAST_MODIFIED, seconds)
        self._write_texts(out)
        if some_inline:
            targets = np.full(len(refs), -1, np.int64)
            targets[inline] = self.payloads
            writer.pointers(INLINE, targets)
            self._write_payloads(out, inline)
        return writer.table_positions()

    def _write_texts(self, out: NDArray[np.uint8]) -> None:
        rows, positions = self.copies
        if not len(rows):
            return
        lengths = self.texts.lengths[rows]
        out[: len(out) // 4 * 4].view("<u4")[positions // 4] = lengths
        copy_ranges(out, positions + 4, self.texts.data, self.texts.bounds[rows], lengths)

    def _write_payloads(self, out: NDArray[np.uint8], inline: NDArray[np.bool_]) -> None:
        lengths = self.refs.length[inline].astype(np.int64)
        out[: len(out) // 4 * 4].view("<u4")[self.payloads // 4] = lengths
        heap = np.frombuffer(self.refs.heap, np.uint8)
        copy_ranges(out, self.payloads + 4, heap, self.refs.offset[inline].astype(np.int64), lengths)


def _join(parts: list[ChunkRefs]) -> ChunkRefs:
    """References of several arrays one after the other over joined tables; only the order within each is kept."""
    sources, offsets, location0, id0, heap0 = [], [], 0, 0, 0
    for part in parts:
        source, offset = part.source.astype(np.int64), part.offset.copy()
        source[part.kind == _KIND_VIRTUAL] += location0
        source[part.kind == _KIND_NATIVE] += id0
        offset[part.kind == _KIND_INLINE] += np.uint64(heap0)
        sources.append(source.astype(np.uint32))
        offsets.append(offset)
        location0, id0, heap0 = location0 + len(part.locations), id0 + len(part.chunk_ids), heap0 + len(part.heap)
    return ChunkRefs._trusted(
        np.concatenate([p.coords for p in parts]),
        np.concatenate([p.kind for p in parts]),
        np.concatenate(sources),
        np.concatenate(offsets),
        np.concatenate([p.length for p in parts]),
        Locations.concat(p.locations for p in parts),
        np.concatenate([p.chunk_ids for p in parts]),
        b"".join(p.heap for p in parts),
    )


def _texts(refs: ChunkRefs, slots: list[int]) -> tuple[Strings, dict[int, NDArray[np.int64]]]:
    """The distinct texts, and per slot which text each row uses (-1: none)."""
    uses: dict[int, NDArray[np.int64]] = {}
    if LOCATION not in slots:
        return _NO_TEXTS, uses
    urls, url_of = refs.locations.urls.unique()
    texts = urls
    tables = {LOCATION: url_of}
    if ETAG in slots:
        etags, etag_of = refs.locations.etags.unique()
        texts = Strings.concat([urls, etags])
        tables[ETAG] = np.where(refs.locations.etags.lengths > 0, etag_of + len(urls), -1)
    virtual = refs.kind == _KIND_VIRTUAL
    all_virtual = bool(virtual.all())
    for slot, table in tables.items():
        if all_virtual:
            uses[slot] = table[refs.source]
        else:
            uses[slot] = np.full(len(refs), -1, np.int64)
            uses[slot][virtual] = table[refs.source[virtual]]
    return texts, uses


def _place_texts(
    layout: BlockLayout, start: int, texts: Strings, uses: dict[int, NDArray[np.int64]]
) -> tuple[int, dict[int, NDArray[np.int64]], tuple[NDArray[np.int64], NDArray[np.int64]], int]:
    """Where the texts go: stride of the blocks, position per row and slot, (text, position) of each copy, end."""
    if not uses:
        return layout.tail, {}, (_NO_ROWS, _NO_ROWS), start + layout.blocks * layout.tail
    k = len(texts)
    sizes = (texts.lengths + 5 + 3) // 4 * 4  # u32 length, bytes, NUL, padding
    runs = {slot: _runs(use, layout.rows) for slot, use in uses.items()}
    keys = [heads // layout.rows * (k + 1) + uses[slot][heads] + 1 for slot, heads in runs.items()]
    pairs, numbers = np.unique(np.concatenate([np.zeros(0, np.int64), *keys]), return_inverse=True)
    block, text = pairs // (k + 1), pairs % (k + 1) - 1
    size = np.where(text < 0, 0, sizes[text]) if k else np.zeros(len(pairs), np.int64)

    need = np.bincount(block, size, layout.blocks).astype(np.int64)
    total = int(sizes[np.unique(text[text >= 0])].sum()) if k else 0
    local = np.ones(layout.blocks, bool)
    if int(need.max()) * layout.blocks > 2 * total + _LOCAL_BYTES * layout.n:
        local = need <= _LOCAL_BYTES * layout.rows
    tail = align(int(need[local].max()), 8) if local.any() else 0
    stride = layout.tail + tail

    before = np.cumsum(size) - size
    first = np.searchsorted(block, np.arange(layout.blocks))
    within = before - before[np.minimum(first[block], max(len(before) - 1, 0))] if len(pairs) else before
    position = start + block * stride + layout.tail + within
    end = start + layout.blocks * stride
    far = ~local[block] & (text >= 0)
    shared = np.unique(text[far])
    shared_position = end + np.cumsum(sizes[shared]) - sizes[shared] if k else np.zeros(0, np.int64)
    position[far] = shared_position[np.searchsorted(shared, text[far])]
    position[text < 0] = -1
    end = align(end + int(sizes[shared].sum()) if k else end, 8)

    targets, row = {}, 0
    for slot, heads in runs.items():
        each = position[numbers[row : row + len(heads)]]
        targets[slot] = np.repeat(each, np.diff(heads, append=layout.n))
        row += len(heads)
    near = ~far & (text >= 0)
    copies = (np.concatenate([text[near], shared]), np.concatenate([position[near], shared_position]))
    return stride, targets, copies, end


def _runs(use: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """First rows of the runs of equal values, cut at the blocks."""
    head = np.empty(len(use), bool)
    np.not_equal(use[1:], use[:-1], out=head[1:])
    head[::rows] = True
    return np.flatnonzero(head)


def _place_payloads(refs: ChunkRefs, start: int) -> tuple[NDArray[np.int64], int]:
    """Positions of the vectors of the inline rows, and the end."""
    sizes = (refs.length[refs.kind == _KIND_INLINE].astype(np.int64) + 4 + 3) // 4 * 4
    ends = start + np.cumsum(sizes)
    return ends - sizes, align(int(ends[-1]) if len(ends) else start, 8)
