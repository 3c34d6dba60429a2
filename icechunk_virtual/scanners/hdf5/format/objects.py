"""Objects of a file - groups, datasets, committed types - with all that their headers say, and how to read them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypeVar

from icechunk_virtual.scanners.hdf5.format.attributes import Attribute, read_attributes, read_type
from icechunk_virtual.scanners.hdf5.format.chunks import Chunks, read_chunks
from icechunk_virtual.scanners.hdf5.format.context import Context
from icechunk_virtual.scanners.hdf5.format.cursor import Cursor
from icechunk_virtual.scanners.hdf5.format.damage import Damaged, NotHandled
from icechunk_virtual.scanners.hdf5.format.dataspace import Dataspace, parse_dataspace
from icechunk_virtual.scanners.hdf5.format.datatype import Datatype
from icechunk_virtual.scanners.hdf5.format.groups import is_group, read_links
from icechunk_virtual.scanners.hdf5.format.header import Header, Kind, Message, read_header
from icechunk_virtual.scanners.hdf5.format.heaps import read_local_heap
from icechunk_virtual.scanners.hdf5.format.layout import Chunked, Layout, parse_layout
from icechunk_virtual.scanners.hdf5.format.links import Hard, Link
from icechunk_virtual.scanners.hdf5.format.messages import (
    FillValue,
    FilterStep,
    parse_btree_ks,
    parse_external_files,
    parse_fill_value,
    parse_filters,
    parse_modification_time,
    parse_old_fill_value,
    parse_old_modification_time,
)
from icechunk_virtual.scanners.hdf5.format.steps import Step, Together, both
from icechunk_virtual.scanners.hdf5.format.superblock import find_superblock

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """A group: its links in the order of the file."""

    address: int
    attributes: list[Attribute]
    links: list[Link]
    modified: int | None = None


@dataclass(frozen=True, slots=True)
class ExternalPiece:
    """Bytes of another file: its name, position, number of bytes (``None``: up to its end)."""

    name: bytes
    offset: int
    size: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A dataset.

    Attributes
    ----------
    filters
        In the order of writing.
    chunks
        Of a chunked layout.
    external
        Files that hold the elements; none: they are in this one.
    modified
        Seconds since 1970-01-01 UTC.
    """

    address: int
    attributes: list[Attribute]
    type: Datatype
    space: Dataspace
    layout: Layout
    fill: FillValue
    filters: tuple[FilterStep, ...]
    chunks: Chunks | None
    external: tuple[ExternalPiece, ...] = ()
    modified: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class CommittedType:
    """A type with a name."""

    address: int
    attributes: list[Attribute]
    type: Datatype


Object: TypeAlias = "Group | Dataset | CommittedType"


@dataclass(frozen=True, slots=True, eq=False)
class File:
    """All objects that hard links lead to from the root group.

    Attributes
    ----------
    base : int
        Bytes of the user block.
    root : int
        Address of the root group.
    objects : dict
        By address.
    """

    base: int
    root: int
    objects: dict[int, Object] = field(default_factory=dict)

    def walk(self) -> Iterator[tuple[bytes, Object]]:
        """Every object once, with the first path that leads to it."""
        seen, todo = set[int](), [(b"/", self.root)]
        while todo:
            path, address = todo.pop()
            if address in seen:
                continue
            seen.add(address)
            found = self.objects[address]
            yield path, found
            if isinstance(found, Group):
                inside = path if path.endswith(b"/") else path + b"/"
                todo += [
                    (inside + link.name, link.target.address)
                    for link in reversed(found.links)
                    if isinstance(link.target, Hard)
                ]


def read_file(file_size: int) -> Step[File]:
    """Read everything but the elements of datasets."""
    superblock = yield from find_superblock(file_size)
    context = Context(superblock, file_size)
    if superblock.extension is not None:
        extension = yield from read_header(context, superblock.extension)
        ks = extension.first(Kind.BTREE_KS)
        if ks is not None:
            context.superblock = superblock.with_ks(*_parse(context, ks, parse_btree_ks))
    file = File(superblock.base, superblock.root)
    seen = {superblock.root}
    yield from _read_below(context, file, superblock.root, seen)
    context.verify()
    return file


def _read_below(context: Context, file: File, address: int, seen: set[int]) -> Step[None]:
    """Read an object, and all below if it is a group."""
    found = yield from _read_object(context, address)
    file.objects[address] = found
    if isinstance(found, Group):
        below = []
        for link in found.links:
            if isinstance(link.target, Hard) and link.target.address not in seen:
                seen.add(link.target.address)
                below.append(_read_below(context, file, link.target.address, seen))
        yield Together(below)  # also a single one: groups may lie deeper than Python can nest generators


def _read_object(context: Context, address: int) -> Step[Object]:
    header = yield from read_header(context, address)
    if is_group(header):
        attributes, links = yield from both(read_attributes(context, header), read_links(context, header))
        return Group(address, attributes, links, _modified(context, header))
    if header.first(Kind.LAYOUT) is not None:
        attributes, dataset = yield from both(read_attributes(context, header), _read_dataset(context, header))
        return replace(dataset, attributes=attributes)
    if header.first(Kind.DATATYPE) is not None and header.first(Kind.DATASPACE) is None:
        message = _needed(context, header, Kind.DATATYPE)
        attributes, kind = yield from both(read_attributes(context, header), read_type(context, message))
        return CommittedType(address, attributes, kind)
    raise Damaged(context.place(address), "object header: neither a group nor a dataset nor a type")


def _read_dataset(context: Context, header: Header) -> Step[Dataset]:
    kind = yield from read_type(context, _needed(context, header, Kind.DATATYPE))
    space = _parse(context, _needed(context, header, Kind.DATASPACE), parse_dataspace)
    layout = _parse(context, _needed(context, header, Kind.LAYOUT), parse_layout)
    pipeline = header.first(Kind.FILTERS)
    filters = () if pipeline is None else _parse(context, pipeline, parse_filters)
    chunks, external = yield from both(
        _read_chunks(context, layout, space, filtered=bool(filters)), _read_external_files(context, header)
    )
    return Dataset(
        header.address,
        [],
        kind,
        space,
        layout,
        _fill_value(context, header),
        filters,
        chunks,
        external,
        _modified(context, header),
    )


def _read_chunks(context: Context, layout: Layout, space: Dataspace, *, filtered: bool) -> Step[Chunks | None]:
    if not isinstance(layout, Chunked):
        return None
    return (yield from read_chunks(context, layout, space, filtered=filtered))


def _read_external_files(context: Context, header: Header) -> Step[tuple[ExternalPiece, ...]]:
    message = header.first(Kind.EXTERNAL_FILES)
    if message is None:
        return ()
    address, pieces = _parse(context, message, parse_external_files)
    heap = yield from read_local_heap(context, address)
    return tuple(ExternalPiece(heap.text(piece.name_offset), piece.offset, piece.size) for piece in pieces)


def _fill_value(context: Context, header: Header) -> FillValue:
    new, old = header.first(Kind.FILL_VALUE), header.first(Kind.OLD_FILL_VALUE)
    if new is not None:
        return _parse(context, new, parse_fill_value)
    return FillValue() if old is None else _parse(context, old, parse_old_fill_value)


def _modified(context: Context, header: Header) -> int | None:
    new, old = header.first(Kind.MODIFICATION_TIME), header.first(Kind.OLD_MODIFICATION_TIME)
    if new is not None:
        return _parse(context, new, parse_modification_time)
    return None if old is None else _parse(context, old, parse_old_modification_time)


def _needed(context: Context, header: Header, kind: Kind) -> Message:
    message = header.first(kind)
    if message is None:
        raise Damaged(context.place(header.address), f"object header: it has no message {kind.name}")
    return message


def _parse(context: Context, message: Message, parse: Callable[[Cursor], T]) -> T:
    """Parse a message that only types share."""
    if message.shared:
        raise NotHandled(f"messages {Kind(message.kind).name} that objects share")
    return parse(context.cursor(message.data, message.address, f"message {Kind(message.kind).name}"))
