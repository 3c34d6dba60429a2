"""What a scan finds, as plain values: a tree of groups and arrays with their chunk references.

No I/O and no file format: scanners make these values, `combine` joins them, the public dataset writes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from icechunk_virtual.model.chunk_refs import ChunkKind, ChunkRefs
from icechunk_virtual.model.paths import child_path


@dataclass(frozen=True, slots=True, eq=False)
class VirtualArray:
    """One array: its Zarr v3 document and where the bytes of its chunks are.

    Attributes
    ----------
    document : dict
        Content of `zarr.json`, with ``attributes`` and ``dimension_names``. JSON-able.
    refs : ChunkRefs
        VIRTUAL rows point into the source. INLINE rows carry the encoded bytes of chunks that have to be stored; the
        writer decides whether as native or inline chunks. Chunks that do not exist are absent.

    Raises
    ------
    ValueError
        References of another rank than the array.
    """

    document: dict[str, Any]
    refs: ChunkRefs

    def __post_init__(self) -> None:
        if self.refs.ndim != len(self.shape):
            raise ValueError(f"references of rank {self.refs.ndim} for an array of shape {self.shape}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements per dimension."""
        return tuple(self.document["shape"])

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> str:
        """Zarr's name of the data type, with the length in bytes where it has one (``null_terminated_bytes[8]``)."""
        data_type = self.document["data_type"]
        if isinstance(data_type, str):
            return data_type
        length = data_type.get("configuration", {}).get("length_bytes")
        return str(data_type["name"]) + ("" if length is None else f"[{length}]")

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Elements per chunk and dimension."""
        return tuple(self.document["chunk_grid"]["configuration"]["chunk_shape"])

    @property
    def dimension_names(self) -> tuple[str | None, ...]:
        """One name per dimension; ``None`` for an unnamed one."""
        names = self.document.get("dimension_names")
        return (None,) * self.ndim if names is None else tuple(names)

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes as they stand in the document."""
        return dict(self.document.get("attributes", {}))

    @property
    def nrefs(self) -> int:
        """Number of chunks that exist."""
        return len(self.refs)

    @property
    def nbytes_virtual(self) -> int:
        """Encoded bytes that stay in the source."""
        return int(self.refs.length[self.refs.kind == ChunkKind.VIRTUAL].sum(dtype=np.uint64))

    @property
    def nbytes_stored(self) -> int:
        """Encoded bytes that have to be stored in the repository."""
        return int(self.refs.length[self.refs.kind != ChunkKind.VIRTUAL].sum(dtype=np.uint64))

    def __repr__(self) -> str:
        return f"VirtualArray{_describe(self)}"


@dataclass(frozen=True, slots=True, eq=False)
class VirtualGroup:
    """A group: attributes, arrays and groups below, by name."""

    attributes: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, VirtualArray] = field(default_factory=dict)
    groups: dict[str, VirtualGroup] = field(default_factory=dict)

    def walk(self, path: str = "/") -> Iterator[tuple[str, VirtualGroup]]:
        """Yield this group as `path` and all groups below, each with its absolute path, parents first."""
        yield path, self
        for name, group in self.groups.items():
            yield from group.walk(child_path(path, name))

    def walk_arrays(self) -> Iterator[tuple[str, VirtualArray]]:
        """All arrays, each with its absolute path."""
        for path, group in self.walk():
            for name, array in group.arrays.items():
                yield child_path(path, name), array

    @property
    def nrefs(self) -> int:
        """Number of chunks of all arrays."""
        return sum(array.nrefs for _, array in self.walk_arrays())

    @property
    def nbytes_virtual(self) -> int:
        """Encoded bytes that stay in the source."""
        return sum(array.nbytes_virtual for _, array in self.walk_arrays())

    @property
    def nbytes_stored(self) -> int:
        """Encoded bytes that have to be stored in the repository."""
        return sum(array.nbytes_stored for _, array in self.walk_arrays())

    def __repr__(self) -> str:
        return "\n".join(["VirtualGroup", *tree(self)])


@dataclass(frozen=True, slots=True)
class Stored:
    """Something that could not be (or had better not be) virtual, for the report.

    Attributes
    ----------
    path : str
        Of the array.
    reason : str
        Why its bytes are stored.
    nbytes : int
        Its price: encoded bytes that go into the repository.
    """

    path: str
    reason: str
    nbytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Scanned:
    """What a scanner returns.

    Attributes
    ----------
    root : VirtualGroup
    url : str
        Of the source.
    format : str
        Name of the file format, for people.
    stored : tuple of Stored
        All arrays with stored bytes.
    warnings : tuple of str
        Everything else in the file that is not in `root` as it stands in the file.
    """

    root: VirtualGroup
    url: str
    format: str
    stored: tuple[Stored, ...] = ()
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return overview(f"Scanned {self.url} ({self.format})", self.root, self.stored, self.warnings)


def human_bytes(n: int) -> str:
    """``1536`` -> ``1.5 KiB``."""
    if n < 1024:
        return f"{n} B"
    value = float(n)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        value /= 1024
        if value < 1024 or unit == "PiB":
            break
    return f"{value:.1f} {unit}"


def count(n: int, noun: str) -> str:
    """``1 file``, ``2 files``, ``12,345 files``."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


def overview(title: str, root: VirtualGroup, stored: Sequence[Stored], warnings: Sequence[str]) -> str:
    """What representations show: sizes, the tree, what is stored, and warnings."""
    sizes = f"{human_bytes(root.nbytes_virtual)} virtual, {human_bytes(root.nbytes_stored)} stored"
    lines = [title, f"{count(root.nrefs, 'chunk')}, {sizes}", *tree(root)]
    if stored:
        lines += ["stored:", *(f"  {s.path}: {s.reason} ({human_bytes(s.nbytes)})" for s in stored)]
    if warnings:
        lines += ["warnings:", *(f"  {warning}" for warning in warnings)]
    return "\n".join(lines)


def tree(group: VirtualGroup) -> list[str]:
    """Lines that show a group with everything below: the body of the representations."""
    lines = []
    for path, node in group.walk():
        depth = 0 if path == "/" else path.count("/")
        name = path.rsplit("/", 1)[1] or "/"
        pad = "  " * depth
        attributes = count(len(node.attributes), "attribute")
        lines.append(f"{pad}{name}" + (f"  ({attributes})" if node.attributes else ""))
        width = max(map(len, node.arrays), default=0)
        lines += [f"{pad}  {key:{width}} {_describe(array)}" for key, array in node.arrays.items()]
    return lines


def _describe(array: VirtualArray) -> str:
    """``(time: 24, y: 10) float32, chunks (24, 10), 1 ref, 960 B virtual``."""
    names = array.dimension_names
    dims = ", ".join(f"{name}: {n}" if name else str(n) for name, n in zip(names, array.shape, strict=True))
    facts = [f"({dims}) {array.dtype}"]
    if array.ndim:
        facts.append(f"chunks {array.chunk_shape}")
    facts.append(count(array.nrefs, "ref"))
    for nbytes, word in ((array.nbytes_virtual, "virtual"), (array.nbytes_stored, "stored")):
        if nbytes:
            facts.append(f"{human_bytes(nbytes)} {word}")
    return ", ".join(facts)
