"""Manifests and transaction logs chunk by chunk with the `flatbuffers` library: what the columnar code must equal.

The writer can lay tables out in every way that the format allows.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field

import flatbuffers
from flatbuffers.number_types import UOffsetTFlags
from flatbuffers.table import Table

from icechunk_virtual.model.chunk_refs import Chunk, InlineChunk, NativeChunk, VirtualChunk
from icechunk_virtual.model.nodes import ArrayNode, Node
from icechunk_virtual.repo.format.envelope import FileType, wrap

Arrays = dict[bytes, list[tuple[tuple[int, ...], Chunk]]]


@dataclass
class Style:
    """How the writer lays things out; `seed` decides what is left to chance."""

    shuffle_fields: bool = False
    explicit_defaults: bool = False
    unknown_slots: bool = False
    own_vtables: bool = False
    share_strings: bool = False
    junk: bool = False
    both_checksums: bool = False
    spare_inline: bool = False  # virtual and native rows carry an inline vector too, which readers ignore
    seed: int = 0
    random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)


class PlainWriter:
    """Builds one flatbuffer."""

    def __init__(self, style: Style) -> None:
        self.style = style
        self.builder = flatbuffers.Builder(64)

    def junk(self) -> None:
        if self.style.junk and self.style.random.random() < 0.3:
            self.builder.CreateByteVector(self.style.random.randbytes(self.style.random.randrange(9)))

    def text(self, text: str) -> int:
        self.junk()
        if self.style.share_strings:
            return self.builder.CreateSharedString(text)
        return self.builder.CreateString(text)

    def u32_vector(self, numbers: tuple[int, ...]) -> int:
        self.junk()
        self.builder.StartVector(4, len(numbers), 4)
        for number in reversed(numbers):
            self.builder.PrependUint32(number)
        return self.builder.EndVector()

    def id_vector(self, ids: list[bytes]) -> int:
        self.builder.StartVector(8, len(ids), 1)
        for id in reversed(ids):
            self._raw(id, 1)
        return self.builder.EndVector()

    def offsets(self, tables: list[int]) -> int:
        self.builder.StartVector(4, len(tables), 4)
        for table in reversed(tables):
            self.builder.PrependUOffsetTRelative(table)
        return self.builder.EndVector()

    def _raw(self, data: bytes, align: int) -> int:
        self.builder.Prep(align, len(data))
        for byte in reversed(data):
            self.builder.Place(byte, flatbuffers.number_types.Uint8Flags)
        return self.builder.Offset()

    def table(self, fields: dict[int, tuple[str, object]]) -> int:
        """A table of ``slot: (type, value)``; types: u8, u32, u64, offset, struct."""
        if self.style.unknown_slots and self.style.random.random() < 0.5:
            fields = {**fields, 8 + self.style.random.randrange(4): ("u32", self.style.random.randrange(1, 2**32))}
        items = list(fields.items())
        if self.style.shuffle_fields:
            self.style.random.shuffle(items)
        builder = self.builder
        builder.StartObject(max(fields, default=-1) + 1)
        if self.style.explicit_defaults:
            builder.ForceDefaults(True)
        for slot, (kind, value) in items:
            match kind:
                case "u8":
                    builder.PrependUint8Slot(slot, value, 0)
                case "u32":
                    builder.PrependUint32Slot(slot, value, 0)
                case "u64":
                    builder.PrependUint64Slot(slot, value, 0)
                case "offset":
                    builder.PrependUOffsetTRelativeSlot(slot, value, 0)
                case "struct":
                    builder.PrependStructSlot(slot, self._raw(value, 1), 0)
        table = builder.EndObject()
        if self.style.own_vtables:
            builder.vtables = {}
        return table

    def finish(self, root: int) -> bytes:
        self.builder.Finish(root, file_identifier=b"Ichk")
        return bytes(self.builder.Output())


def plain_manifest(id: bytes, arrays: Arrays, style: Style | None = None, *, level: int = 1) -> bytes:
    """A manifest file; rows are written in the order given, arrays sorted by node id."""
    writer = PlainWriter(style or Style())
    tables = []
    for node in sorted(arrays):
        refs = writer.offsets([_chunk_ref(writer, coord, chunk) for coord, chunk in arrays[node]])
        tables.append(writer.table({0: ("struct", node), 1: ("offset", refs)}))
    root = writer.table({0: ("struct", id), 1: ("offset", writer.offsets(tables))})
    return wrap(FileType.MANIFEST, writer.finish(root), level=level)


def _chunk_ref(writer: PlainWriter, coord: tuple[int, ...], chunk: Chunk) -> int:
    fields: dict[int, tuple[str, object]] = {0: ("offset", writer.u32_vector(coord))}
    if isinstance(chunk, InlineChunk) or writer.style.spare_inline:
        data = chunk.data if isinstance(chunk, InlineChunk) else b"spare"
        fields[1] = ("offset", writer.builder.CreateByteVector(data))
    if not isinstance(chunk, InlineChunk):
        fields |= {2: ("u64", chunk.offset), 3: ("u64", chunk.length)}
    if isinstance(chunk, NativeChunk):
        fields[4] = ("struct", chunk.id)
    if isinstance(chunk, VirtualChunk):
        fields[5] = ("offset", writer.text(chunk.url))
        if chunk.etag is not None:
            fields[6] = ("offset", writer.text(chunk.etag))
            if writer.style.both_checksums:
                fields[7] = ("u32", 77)
        elif chunk.last_modified is not None or writer.style.explicit_defaults:
            fields[7] = ("u32", chunk.last_modified or 0)
    return writer.table(fields)


def read_plain_manifest(flatbuffer: bytes) -> tuple[bytes, Arrays]:
    """Id and arrays of the content of a manifest file."""
    root = Table(flatbuffer, int.from_bytes(flatbuffer[:4], "little"))
    arrays: Arrays = {}
    for array in _tables(root, 1):
        arrays[_struct(array, 0, 8)] = [_read_chunk_ref(ref) for ref in _tables(array, 1)]
    return _struct(root, 0, 12), arrays


def _read_chunk_ref(ref: Table) -> tuple[tuple[int, ...], Chunk]:
    coord = _u32s(ref, 0)
    offset = ref.GetSlot(8, 0, flatbuffers.number_types.Uint64Flags)
    length = ref.GetSlot(10, 0, flatbuffers.number_types.Uint64Flags)
    if _has(ref, 4):
        return coord, NativeChunk(_struct(ref, 4, 12), offset, length)
    if _has(ref, 5):
        etag = ref.String(ref.Pos + ref.Offset(16)).decode() if _has(ref, 6) else None
        modified = ref.GetSlot(18, 0, flatbuffers.number_types.Uint32Flags) or None
        url = ref.String(ref.Pos + ref.Offset(14)).decode()
        return coord, VirtualChunk(url, offset, length, etag, None if etag else modified)
    start = ref.Vector(ref.Offset(6))
    return coord, InlineChunk(bytes(ref.Bytes[start : start + ref.VectorLen(ref.Offset(6))]))


def plain_log(id: bytes, groups: list[list[bytes]], updated: dict[bytes, list[tuple[int, ...]]], style: Style) -> bytes:
    """A transaction log file: ids of slots 1 to 6, and chunks in the order given."""
    writer = PlainWriter(style)
    tables = []
    for node in sorted(updated):
        chunks = writer.offsets([writer.table({0: ("offset", writer.u32_vector(c))}) for c in updated[node]])
        tables.append(writer.table({0: ("struct", node), 1: ("offset", chunks)}))
    fields: dict[int, tuple[str, object]] = {0: ("struct", id)}
    fields |= {1 + i: ("offset", writer.id_vector(ids)) for i, ids in enumerate(groups)}
    fields[7] = ("offset", writer.offsets(tables))
    return wrap(FileType.TRANSACTION_LOG, writer.finish(writer.table(fields)), level=1)


def plain_snapshot(nodes: list[Node], style: Style, *, metadata: dict[str, bytes], files: bytes = b"") -> bytes:
    """A snapshot file without parent, its nodes in the order given; `files`: bytes of ManifestFileInfo structs."""
    writer = PlainWriter(style)
    tables = [_node(writer, node) for node in nodes]
    items = []
    for name, value in metadata.items():
        fields = {0: ("offset", writer.text(name)), 1: ("offset", writer.builder.CreateByteVector(value))}
        items.append(writer.table(fields))
    writer.builder.StartVector(32, len(files) // 32, 8)
    writer._raw(files, 1)
    infos = writer.builder.EndVector()
    root = {
        0: ("struct", b"snapshot-id!"),
        2: ("offset", writer.offsets(tables)),
        3: ("u64", 2**50),
        4: ("offset", writer.text("message")),
        5: ("offset", writer.offsets(items)),
        6: ("offset", infos),
    }
    return wrap(FileType.SNAPSHOT, writer.finish(writer.table(root)), level=1)


def _node(writer: PlainWriter, node: Node) -> int:
    builder = writer.builder
    data: dict[int, tuple[str, object]] = {}
    if isinstance(node, ArrayNode):
        shape = b"".join(
            struct.pack("<QQ", *pair) for pair in zip(node.layout.shape, node.layout.chunk_shape, strict=True)
        )
        builder.StartVector(16, node.layout.ndim, 8)
        writer._raw(shape, 1)
        data[0] = ("offset", builder.EndVector())
        if node.layout.dimension_names is not None:
            names = [
                writer.table({0: ("offset", writer.text(name))} if name else {}) for name in node.layout.dimension_names
            ]
            data[1] = ("offset", writer.offsets(names))
        manifests = []
        for ref in node.manifests:
            builder.StartVector(8, len(ref.extents), 4)
            writer._raw(b"".join(struct.pack("<II", *pair) for pair in ref.extents), 1)
            manifests.append(writer.table({0: ("struct", ref.id), 1: ("offset", builder.EndVector())}))
        data[2] = ("offset", writer.offsets(manifests))
    table = writer.table(data)
    fields = {
        0: ("struct", node.id),
        1: ("offset", writer.text(node.path)),
        2: ("offset", builder.CreateByteVector(node.document)),
        3: ("u8", 1 if isinstance(node, ArrayNode) else 2),
        4: ("offset", table),
    }
    return writer.table(fields)


def read_plain_log(flatbuffer: bytes) -> tuple[bytes, list[list[bytes]], dict[bytes, list[tuple[int, ...]]]]:
    """The arguments of `plain_log`, from the content of a file."""
    root = Table(flatbuffer, int.from_bytes(flatbuffer[:4], "little"))
    groups = []
    for slot in range(1, 7):
        start, count = root.Vector(root.Offset(4 + 2 * slot)), root.VectorLen(root.Offset(4 + 2 * slot))
        groups.append([bytes(flatbuffer[start + 8 * i : start + 8 * i + 8]) for i in range(count)])
    updated = {_struct(a, 0, 8): [_u32s(c, 0) for c in _tables(a, 1)] for a in _tables(root, 7)}
    return _struct(root, 0, 12), groups, updated


def _has(table: Table, slot: int) -> bool:
    return table.Offset(4 + 2 * slot) != 0


def _struct(table: Table, slot: int, size: int) -> bytes:
    start = table.Pos + table.Offset(4 + 2 * slot)
    return bytes(table.Bytes[start : start + size])


def _tables(table: Table, slot: int) -> list[Table]:
    field_ = table.Offset(4 + 2 * slot)
    start = table.Vector(field_)
    return [Table(table.Bytes, table.Indirect(start + 4 * i)) for i in range(table.VectorLen(field_))]


def _u32s(table: Table, slot: int) -> tuple[int, ...]:
    field_ = table.Offset(4 + 2 * slot)
    start = table.Vector(field_)
    return tuple(table.Get(UOffsetTFlags, start + 4 * i) for i in range(table.VectorLen(field_)))
