"""Writing a tree as pieces of arrays that exist: appended along a dimension, or into regions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from icechunk_virtual.errors import InconsistentFiles, NodeNotFound
from icechunk_virtual.model.chunk_refs import ChunkKind, ChunkRefs
from icechunk_virtual.model.nodes import ArrayNode
from icechunk_virtual.model.paths import child_path, parent_path
from icechunk_virtual.scanners.compare import ENCODING, can_decode, difference, equal_values, show, value_difference
from icechunk_virtual.scanners.dataset import VirtualArray, VirtualGroup
from icechunk_virtual.scanners.harmonise import harmonise_times
from icechunk_virtual.scanners.join import JoinedLocations, align, join_virtual
from icechunk_virtual.scanners.native import decode_array
from icechunk_virtual.scanners.order import overlaps
from icechunk_virtual.writing.places import Place, Region, behind, find, inside
from icechunk_virtual.writing.plan import Plan

_SHOWN = 10
_HERE = "the repository"  # what messages call the place of the arrays that exist


@dataclass(frozen=True, slots=True)
class _Member:
    """An array of the dataset and the one in the repository that it belongs to.

    Attributes
    ----------
    node
        In the repository.
    present
        The same as a scanned array, without references.
    piece
        Of the dataset.
    """

    node: ArrayNode
    present: VirtualArray
    piece: VirtualArray

    @property
    def path(self) -> str:
        return self.node.path


def plan_pieces(plan: Plan, root: VirtualGroup, at: str, append_dim: str | None, region: Region | None) -> None:
    """Plan to write `root` into what exists at a path.

    Raises
    ------
    NodeNotFound
        An array does not exist.
    InconsistentFiles
        Arrays differ in type, packing or encoding, or chunks do not line up with the grid; names all of them.
    ValueError
        A region of the wrong length, or a dimension that no array has.
    """
    pieces = _Pieces(plan, append_dim, region)
    known = {name for _, array in root.walk_arrays() for name in array.dimension_names}
    missing = sorted(({append_dim} if append_dim is not None else pieces.dims) - known)
    if missing:
        raise ValueError(f"no array of the dataset has the dimension `{missing[0]}`")
    for path, group in root.walk(at):
        pieces.group(path, group)
    pieces.finish()


class _Pieces:
    """One dataset on its way into a repository, and what does not fit."""

    def __init__(self, plan: Plan, append_dim: str | None, region: Region | None) -> None:
        self.plan, self.append_dim, self.region = plan, append_dim, region
        self.faults: list[str] = []
        self.written = False
        self.slices: dict[str, dict[str, slice]] = {}  # path of the group -> where its dimensions go
        self.dims: set[str] = set() if region is None or region == "auto" else set(region)

    def group(self, path: str, group: VirtualGroup) -> None:
        """Plan the arrays of one group."""
        members = {name: self.member(child_path(path, name), array) for name, array in group.arrays.items()}
        versions, faults = harmonise_times({n: [m.present, m.piece] for n, m in members.items()}, called=_HERE)
        self.faults += [f"`{members[name].path}`: {reason}" for _, name, reason in faults]
        wrong = {name for _, name, _ in faults}
        members = {name: replace(m, piece=versions[name][1]) for name, m in members.items() if name not in wrong}
        if self.append_dim is not None:
            self.check_complete(path, group, self.append_dim)
            self.check_coordinate(members.get(self.append_dim), self.append_dim)
        if self.region is not None:
            self.slices[path] = {**self.slices.get(parent_path(path), {}), **self.find_slices(members)}
        for member in members.values():
            self.array(path, member)

    def member(self, path: str, piece: VirtualArray) -> _Member:
        node = self.plan.node(path)
        if not isinstance(node, ArrayNode):
            raise NodeNotFound(
                f"there is no array `{path}` to write into. Write the dataset without append_dim and region first; to "
                "add single arrays, use mode='a'.",
                path=path,
            )
        return _Member(node, VirtualArray(json.loads(node.document), ChunkRefs.empty(node.layout.ndim)), piece)

    def check_complete(self, path: str, group: VirtualGroup, dim: str) -> None:
        """Arrays that would stay shorter than their neighbours."""
        for name in self.plan.children(path):
            node = None if name in group.arrays else self.plan.node(child_path(path, name))
            if isinstance(node, ArrayNode) and dim in (node.layout.dimension_names or ()):
                self.faults.append(f"`{node.path}`: it has the dimension `{dim}`, and the dataset has no such array")

    def check_coordinate(self, member: _Member | None, dim: str) -> None:
        """No value of the coordinate may be there twice."""
        if member is None or member.piece.dimension_names != (dim,) or not can_decode([member.piece]):
            return
        there, here = self.plan.stored_values(member.node), decode_array(member.piece)
        if there is None or there.ndim != 1 or there.dtype.kind != here.dtype.kind:
            return
        for _, _, value in overlaps([there, here]):
            units = member.present.attributes.get("units")
            last = f", which ends at {show(there[-1])}" if len(there) else ""
            self.faults.append(
                f"`{member.path}`: value {show(value)}{f' ({units})' if units else ''} is in the range of the "
                f"repository's{last}; was it appended before?"
            )

    # -- regions -----------------------------------------------------------------------------------------------

    def find_slices(self, members: Mapping[str, _Member]) -> dict[str, slice]:
        """Where the dimensions go whose coordinates are in this group, or that were given."""
        found: dict[str, slice] = {}
        for dim, member in members.items():
            if member.piece.dimension_names == (dim,) and self.is_automatic(dim):
                there = self.plan.stored_values(member.node)
                here = decode_array(member.piece) if can_decode([member.piece]) else None
                if there is None or here is None:
                    raise ValueError(f"the coordinate `{member.path}` is not stored; give its region as a slice")
                place = find(here, there)
                if place is None:
                    values = f"{show(here[0])} to {show(here[-1])}" if len(here) else "none"
                    self.faults.append(
                        f"`{member.path}`: its values ({values}) are not found in one place of the repository's"
                    )
                    place = slice(0, len(here))
                found[dim] = place
        if self.region is not None and self.region != "auto":
            found |= {dim: part for dim, part in self.region.items() if isinstance(part, slice)}
        return found

    def is_automatic(self, dim: str) -> bool:
        return self.region == "auto" or (self.region is not None and self.region.get(dim) == "auto")

    def place(self, path: str, member: _Member) -> Place | None:
        """Where a piece goes; ``None`` if it has none of the dimensions."""
        names, there = member.piece.dimension_names, member.node.layout.shape
        if self.append_dim is not None:
            return behind(self.append_dim, names, member.piece.shape, there)
        slices = self.slices[path]
        missing = [n for n in names if n in self.dims and n not in slices]
        if missing:
            raise ValueError(f"region {missing[0]}='auto' needs a coordinate `{missing[0]}` in the dataset")
        return inside(slices, names, member.piece.shape, there)

    # -- arrays ------------------------------------------------------------------------------------------------

    def array(self, path: str, member: _Member) -> None:
        """Plan one array, or note why it does not fit."""
        if member.piece.ndim != member.present.ndim:
            fact = difference(member.present, member.piece, None, called=_HERE)
        else:
            place = self.place(path, member)
            self.written |= place is not None
            fact = self.static(member) if place is None else self.piece(member, place)
        if fact is not None:
            self.faults.append(f"`{member.path}`: {fact}")

    def piece(self, member: _Member, place: Place) -> str | None:
        """Plan to fill a box; or why not."""
        names = member.piece.dimension_names
        ignore = [f"length along `{names[axis] or axis}`" for axis in place.axes]
        if can_decode([member.piece]):
            fact = difference(member.present, member.piece, None, ignore=(*ignore, *ENCODING), called=_HERE)
            if fact is None:
                self.grow(member, place)
                self.plan.assign(member.path, place.slices, decode_array(member.piece))
            return fact
        fact = difference(member.present, member.piece, None, ignore=(*ignore, "chunk shape"), called=_HERE)
        if fact is not None:
            return fact
        piece = _on_grid(member, place)
        if isinstance(piece, str):
            return piece
        axis = place.unaligned(member.present.chunk_shape)
        if axis is not None:
            end = place.start[axis] + place.shape[axis]
            return (
                f"elements {place.start[axis]} to {end} along `{names[axis]}` do not begin and end with the chunks of "
                f"{member.present.chunk_shape[axis]} in the repository, so references cannot fill them"
            )
        self.grow(member, place)
        box = place.chunk_box(member.present.chunk_shape)
        refs = piece.refs.shift([first for first, _ in box])
        self.set_refs(member, self.plan.refs(member.node, box), refs)
        return None

    def grow(self, member: _Member, place: Place) -> None:
        if place.grown != member.node.layout.shape:
            self.plan.set_document(member.path, {**member.present.document, "shape": list(place.grown)})

    def static(self, member: _Member) -> str | None:
        """How an array without the dimensions differs from the one in the repository.

        In a region, references to the same file are renewed instead: it is the file that changed.
        """
        stored = can_decode([member.piece])
        fact = difference(member.present, member.piece, None, ignore=ENCODING if stored else (), called=_HERE)
        if fact is None and stored:
            there, here = self.plan.values(member.node), decode_array(member.piece)
            if there.shape != here.shape or not equal_values(there, here).all():
                fact = "its values are not those in the repository, and it has no dimension that is written along"
        elif fact is None:
            present = VirtualArray(member.present.document, self.plan.refs(member.node))
            if self.region is not None and _of_the_same_files(present.refs, member.piece.refs):
                self.set_refs(member, present.refs, member.piece.refs)
            else:
                fact = value_difference(present, member.piece, called=_HERE)
        return fact

    def set_refs(self, member: _Member, before: ChunkRefs, refs: ChunkRefs) -> None:
        """Plan to replace references by others."""
        self.plan.delete_chunks(member.path, before.without(refs.coords).coords)
        self.plan.set_refs(member.path, refs)
        self.written = True

    def finish(self) -> None:
        """Raise what was found."""
        if self.faults:
            more = f"\n  and {len(self.faults) - _SHOWN} more" if len(self.faults) > _SHOWN else ""
            raise InconsistentFiles(
                "the dataset does not fit what is in the repository:\n  "
                + "\n  ".join(self.faults[:_SHOWN])
                + f"{more}\nWrite it to a group of its own (group=...), or scan without the variables that differ "
                "(drop_variables).",
                differences=tuple(self.faults),
            )
        if not self.written:  # only possible where the dimensions were to be found
            raise ValueError(
                "region='auto' found neither a coordinate of the dataset in the repository nor references to its "
                "files; give slices"
            )


def _of_the_same_files(present: ChunkRefs, refs: ChunkRefs) -> bool:
    """Whether all chunks of an array are in files that others are in, too."""
    if not len(present) or (present.kind != ChunkKind.VIRTUAL).any():
        return False
    return set(present.locations.take(np.unique(present.source)).urls) <= set(refs.locations.urls)


def _on_grid(member: _Member, place: Place) -> VirtualArray | str:
    """The piece with the chunks of the repository, if its own can be cut; or why not."""
    piece, chunks = member.piece, member.present.chunk_shape
    for axis in range(piece.ndim):
        if piece.chunk_shape[axis] == chunks[axis] or not piece.shape[axis]:
            continue
        name = piece.dimension_names[axis] or axis
        before = _of_length(member.present, axis, place.start[axis] + chunks[axis])
        chunk, faults = align([before, _of_length(piece, axis, piece.shape[axis])], axis, str(name))
        if faults or chunk != chunks[axis] or axis not in place.axes:
            return (
                f"chunk length along `{name}` is {piece.chunk_shape[axis]}, but {chunks[axis]} in the repository. Scan "
                "all files together, or write to a new group"
            )
        piece = join_virtual([piece], axis, chunk, JoinedLocations())
    return piece


def _of_length(array: VirtualArray, axis: int, length: int) -> VirtualArray:
    """An array of another length along an axis, without its references."""
    shape: list[Any] = list(array.shape)
    shape[axis] = length
    return VirtualArray({**array.document, "shape": shape}, ChunkRefs.empty(array.ndim))
