"""One node of a snapshot: its tables as bytes, and back (section 4.3).

All tables of a node that we write are one blob that holds only distances within itself, so a later snapshot takes
over the blobs of unchanged nodes as they are. A blob, starting and ending at multiples of 8::

     0  u32 mark, u32 size of the blob       ours, not part of the format: says that the blob may be copied
     8  vtable of NodeSnapshot, 14
    24  NodeSnapshot, 28                     what the vector of nodes points at
    52  vtable of the data, 10
    64  ArrayNodeData, 16, or GroupNodeData, 4
        vectors, tables of manifests and dimension names, strings
"""

from __future__ import annotations

import functools
import struct

from icechunk_virtual.errors import InvalidMetadata
from icechunk_virtual.model.ids import NODE_ID_SIZE, OBJECT_ID_SIZE, ManifestId, NodeId
from icechunk_virtual.model.nodes import ArrayLayout, ArrayNode, GroupNode, ManifestRef, Node, parse_document
from icechunk_virtual.repo.format.flat import Table

BLOB_MARK = 0x314E5649  # "IVN1"
NODE_AT = 24  # of the node's table in its blob

# Slots of NodeSnapshot, ArrayNodeData, ManifestRef
ID, PATH, USER_DATA, DATA_TYPE, DATA = range(5)
_SHAPE, _DIMENSION_NAMES, _MANIFESTS = range(3)
_ARRAY, _GROUP = 1, 2
_RANGE_SIZE, _DIMENSION_SIZE = 8, 16
_MOST_RANGES = 255  # of a box that is of another rank than its array

# vtables: size, size of the table, field offsets
_NODE_VTABLE = struct.pack("<7H", 14, 28, 4, 12, 16, 20, 24)
_GROUP_VTABLE = struct.pack("<2H", 4, 4)
_ARRAY_VTABLE = struct.pack("<5H", 10, 16, 4, 8, 12)
_UNNAMED_ARRAY_VTABLE = struct.pack("<5H", 10, 16, 4, 0, 12)
_MANIFEST_VTABLE = struct.pack("<4H", 8, 20, 4, 16)
_NAME_VTABLE = struct.pack("<3H", 6, 8, 4)
_NO_NAME_VTABLE = struct.pack("<2H", 4, 4)

_HEAD = struct.Struct("<II 14s2x i8sIIBxxxI")  # mark and size, vtable, table
_GROUP_HEAD = struct.Struct("<II 14s2x i8sIIBxxxI 4sii")  # and the data of a group: vtable, table; the path's length
_TO_GROUP_PATH = _GROUP_HEAD.size - 4 - (NODE_AT + 12)
_ID_AT = NODE_AT + 4
_REMEMBERED_BYTES = 4096
_U32 = struct.Struct("<I")
_MANIFEST = struct.Struct("<i12sI")


class _Blob(bytearray):
    """Bytes that grow, with the offsets that are known only later."""

    def pad(self, align: int = 4) -> int:
        self.extend(bytes(-len(self) % align))
        return len(self)

    def point(self, field: int, target: int) -> None:
        """Store the offset from a field to its target."""
        _U32.pack_into(self, field, target - field)

    def vector(self, count: int, content: bytes, align: int = 4) -> int:
        """Append a vector whose elements are aligned; returns its position."""
        self.pad(4)
        if (len(self) + 4) % align:
            self.extend(bytes(4))
        position = len(self)
        self += _U32.pack(count) + content
        return position

    def text(self, content: str) -> int:
        """Append a string; returns its position."""
        encoded = content.encode("utf-8")
        return self.vector(len(encoded), encoded + b"\0")


def encode_node(node: Node) -> bytes:
    """The blob of a node.

    Raises
    ------
    ValueError
        An id of a wrong length, or a box of chunks that does not fit the array.
    """
    if len(node.id) != NODE_ID_SIZE:
        raise ValueError(f"a node id has {NODE_ID_SIZE} bytes, got {len(node.id)}")
    if isinstance(node, GroupNode):
        return _encode_group(node)
    blob = _Blob(_HEAD.size)
    _HEAD.pack_into(blob, 0, BLOB_MARK, 0, _NODE_VTABLE, 16, node.id, 0, 0, _ARRAY, 0)
    _append_array(blob, node)
    blob.point(NODE_AT + 12, blob.text(node.path))
    blob.point(NODE_AT + 16, blob.vector(len(node.document), node.document))
    _U32.pack_into(blob, 4, blob.pad(8))
    return bytes(blob)


def _encode_group(node: GroupNode) -> bytes:
    path = node.path.encode("utf-8")
    frame = _group_frame if len(node.document) <= _REMEMBERED_BYTES else _group_frame.__wrapped__
    before, between, behind = frame(len(path), node.document)
    return b"".join((before, node.id, between, path, behind))


@functools.lru_cache(maxsize=256)
def _group_frame(path_length: int, document: bytes) -> tuple[bytes, bytes, bytes]:
    """The bytes of a group's blob around its id and its path: alike for very many groups, or quickly made."""
    gap = 4 - path_length % 4  # a string ends with a zero
    document_at = _GROUP_HEAD.size + path_length + gap
    end = document_at + 4 + len(document)
    size = end + -end % 8
    head = _GROUP_HEAD.pack(
        *(BLOB_MARK, size, _NODE_VTABLE, 16, bytes(NODE_ID_SIZE), _TO_GROUP_PATH, document_at - NODE_AT - 16),
        *(_GROUP, 8, _GROUP_VTABLE, 4, path_length),
    )
    behind = bytes(gap) + _U32.pack(len(document)) + document + bytes(size - end)
    return head[:_ID_AT], head[_ID_AT + NODE_ID_SIZE :], behind


def _append_array(blob: _Blob, node: ArrayNode) -> None:
    names = node.layout.dimension_names
    vtable = len(blob)
    blob += _ARRAY_VTABLE if names is not None else _UNNAMED_ARRAY_VTABLE
    table = blob.pad(4)
    blob.point(NODE_AT + 24, table)
    blob += struct.pack("<iIII", table - vtable, 0, 0, 0)
    shape = [n for pair in zip(node.layout.shape, node.layout.chunk_shape, strict=True) for n in pair]
    blob.point(table + 4, blob.vector(node.layout.ndim, struct.pack(f"<{len(shape)}Q", *shape), 8))
    blob.point(table + 12, _append_manifests(blob, node.manifests, node.layout.ndim))
    if names is not None:
        blob.point(table + 8, _append_names(blob, names))


def _append_manifests(blob: _Blob, manifests: tuple[ManifestRef, ...], ndim: int) -> int:
    vector = blob.vector(len(manifests), bytes(4 * len(manifests)))
    if not manifests:
        return vector
    vtable = len(blob)
    blob += _MANIFEST_VTABLE
    for i, ref in enumerate(manifests):
        if len(ref.extents) != ndim or len(ref.id) != OBJECT_ID_SIZE:  # what is foreign goes back as it came
            raise ValueError(
                f"a reference to a manifest with an id of {len(ref.id)} bytes and {len(ref.extents)} ranges"
            )
        table = len(blob)
        blob.point(vector + 4 + 4 * i, table)
        blob += _MANIFEST.pack(table - vtable, ref.id, 4)
        ranges = [n for pair in ref.stored for n in pair]
        blob += struct.pack(f"<{1 + len(ranges)}I", len(ref.stored), *ranges)
    return vector


def _append_names(blob: _Blob, names: tuple[str | None, ...]) -> int:
    vector = blob.vector(len(names), bytes(4 * len(names)))
    named = len(blob)
    blob += _NAME_VTABLE
    unnamed = len(blob)
    blob += _NO_NAME_VTABLE
    tables = []
    for i, name in enumerate(names):
        table = blob.pad(4)
        blob.point(vector + 4 + 4 * i, table)
        blob += struct.pack("<i", table - unnamed) if not name else struct.pack("<iI", table - named, 0)
        tables.append(table)
    for table, name in zip(tables, names, strict=True):
        if name:
            blob.point(table + 4, blob.text(name))
    return vector


def node_path(table: Table) -> bytes:
    """UTF-8 bytes of a node's path."""
    return table.bytes(PATH, "a node's path")


def decode_node(table: Table) -> Node:
    """The node of a table.

    Raises
    ------
    CorruptFile
        Something is missing, outside the file or contradicts the node's document.
    """
    buffer = table.buffer
    id = NodeId(table.struct(ID, NODE_ID_SIZE, "a node's id"))
    path = table.text(PATH, "a node's path")
    document = table.bytes(USER_DATA, "a node's document")
    data = buffer.table(table.follow(DATA, "a node's data"))
    kind = table.scalar(DATA_TYPE, "B", "a node's type")
    if kind not in (_ARRAY, _GROUP):
        raise buffer.corrupt(f"node `{path}` is of type {kind}, neither array nor group", table.position)
    try:
        layout = parse_document(document, path)
    except InvalidMetadata as error:
        raise buffer.corrupt(error.message, table.position) from None
    if (layout is not None) != (kind == _ARRAY):
        raise buffer.corrupt(f"the document of node `{path}` is for the other type of node", table.position)
    if layout is None:
        return GroupNode(id, path, document)
    return ArrayNode(id, path, document, layout, _manifests(data, layout))


def _manifests(data: Table, layout: ArrayLayout) -> tuple[ManifestRef, ...]:
    """References to manifests; those with a box of another rank than the array come last.

    icechunk stores chunks of the wrong rank, and then the box is of the rank of one of them (section 12, Q8). It holds
    for the dimensions that both have, so that a chunk of the right rank is found behind it.
    """
    refs, foreign = [], []
    for table in data.tables(_MANIFESTS, "an array's manifests"):
        id = ManifestId(table.struct(0, OBJECT_ID_SIZE, "a manifest's id"))
        start, count = table.vector(1, _RANGE_SIZE, 4, "a manifest's extents")
        if count > max(layout.ndim, _MOST_RANGES):
            raise data.buffer.corrupt(f"a box of {count} ranges", start)
        numbers = struct.unpack_from(f"<{2 * count}I", data.buffer.data, start) if count else ()
        box = tuple(zip(numbers[::2], numbers[1::2], strict=True))
        if count == layout.ndim:
            refs.append(ManifestRef(id, box))
        else:
            rest = tuple((0, n) for n in layout.grid_shape[count:])
            foreign.append(ManifestRef(id, (*box[: layout.ndim], *rest), box))
    return (*refs, *foreign)
