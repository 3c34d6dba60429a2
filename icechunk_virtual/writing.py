"""From a scanned tree to the nodes and references of a session: new groups, appended arrays, regions.

Everything is checked before the first change, so that a dataset that does not fit leaves the session as it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import zarr
from numpy.typing import NDArray

from icechunk_virtual._sync import run
from icechunk_virtual.errors import InconsistentFiles, NoContainer, NodeExists, NodeNotFound
from icechunk_virtual.model.chunk_refs import ChunkRefs
from icechunk_virtual.model.nodes import ArrayNode, GroupNode
from icechunk_virtual.repo import chunks, tree
from icechunk_virtual.repo.keys import child_path, parent_path, parse_path
from icechunk_virtual.scanners.compare import difference, is_stored, value_difference
from icechunk_virtual.scanners.dataset import VirtualArray, VirtualGroup
from icechunk_virtual.scanners.native import decode_array
from icechunk_virtual.scanners.time_units import convert, parse_units
from icechunk_virtual.session import Session

Mode: TypeAlias = Literal["w", "w-", "a", "r+"]
Region: TypeAlias = Mapping[str, slice]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a piece goes along the one dimension that it is shifted in.

    Attributes
    ----------
    axis
        Of the array.
    start
        First element of the piece.
    length
        Of the array along the axis after the piece is written.
    """

    axis: int
    start: int
    length: int


Action: TypeAlias = Callable[[], None]


class Writer:
    """Writes one scanned tree into a group of a session.

    Parameters
    ----------
    session
        Writable.
    group
        Path of the group that the tree's root becomes.
    """

    def __init__(self, session: Session, group: str | None) -> None:
        self._session = session
        self._ws = session._workspace
        self._ws.check_writable()
        self._group = parse_path(group or "")
        self._actions: list[Action] = []

    def write(self, root: VirtualGroup, *, mode: Mode, append_dim: str | None, region: Region | None) -> None:
        """Check everything, then do it."""
        self._check_containers(root)
        if region is not None or append_dim is not None:
            self._plan_pieces(root, append_dim, region)
        else:
            self._plan_groups(root, mode)
        for action in self._actions:
            action()

    def _check_containers(self, root: VirtualGroup) -> None:
        for path, array in root.walk_arrays():
            fits = chunks.check_containers(self._ws, array.refs)
            if not fits.all():
                row = int(np.argmin(fits))
                url = array.refs.locations.urls[int(array.refs.source[row])]
                try:
                    self._ws.authorization.container_for(url)
                except NoContainer as error:
                    raise NoContainer(f"array `{path}`: {error.message}", location=url) from None

    # -- new groups and arrays ---------------------------------------------------------------------------------

    def _plan_groups(self, root: VirtualGroup, mode: Mode) -> None:
        existing = tree.find_node(self._ws, self._group)
        inhabited = isinstance(existing, ArrayNode) or bool(tree.children(self._ws, self._group))
        if mode == "r+":
            raise ValueError("mode='r+' only changes what exists: it needs a region or append_dim")
        if mode == "w-" and inhabited:
            raise NodeExists(
                f"there is something at `{self._group}` already. Use mode='a' to add to it, mode='w' to replace it, "
                "append_dim=... to append, or group=... to write beside it.",
                path=self._group,
            )
        if mode == "w" and (existing is not None or inhabited):
            self._actions.append(lambda: tree.delete_node(self._ws, self._group))
        self._plan_parents()
        for path, group in root.walk(self._group):
            self._plan_group(path, group, mode)

    def _plan_parents(self) -> None:
        path, missing = self._group, []
        while path != "/":
            path = parent_path(path)
            node = tree.find_node(self._ws, path)
            if isinstance(node, ArrayNode):
                raise NodeExists(f"`{path}` is an array, so nothing can be below it", path=path)
            if node is None:
                missing.append(path)
        self._actions += [self._setting(path, _group_document({})) for path in reversed(missing)]

    def _plan_group(self, path: str, group: VirtualGroup, mode: Mode) -> None:
        attributes = group.attributes
        existing = tree.find_node(self._ws, path) if mode == "a" else None
        if isinstance(existing, ArrayNode):
            raise NodeExists(f"`{path}` is an array, and a group of that name was scanned", path=path)
        if existing is not None:
            attributes = {**json.loads(existing.document).get("attributes", {}), **attributes}
        self._actions.append(self._setting(path, _group_document(attributes)))
        for name, array in group.arrays.items():
            at = child_path(path, name)
            found = tree.find_node(self._ws, at) if mode == "a" else None
            if isinstance(found, GroupNode):
                raise NodeExists(f"`{at}` is a group, and an array of that name was scanned", path=at)
            if found is not None:
                self._actions.append(self._deleting(at))
            self._actions += [self._setting(at, _encode(array.document)), self._referring(at, array.refs)]

    # -- pieces of existing arrays -----------------------------------------------------------------------------

    def _plan_pieces(self, root: VirtualGroup, append_dim: str | None, region: Region | None) -> None:
        found = False
        for path, group in root.walk(self._group):
            for name, array in group.arrays.items():
                at = child_path(path, name)
                node = tree.find_node(self._ws, at)
                if not isinstance(node, ArrayNode):
                    raise NodeNotFound(
                        f"there is no array `{at}` to write into. Arrays are added with mode='a' and neither append_dim "
                        "nor region.",
                        path=at,
                    )
                place = _placement(array, node, append_dim, region)
                found = found or place is not None
                self._plan_piece(at, array, node, place)
        if not found:
            wanted = append_dim or ", ".join(region or ())
            raise ValueError(f"no array of the dataset has the dimension {wanted!r}")

    def _plan_piece(self, path: str, array: VirtualArray, node: ArrayNode, place: Placement | None) -> None:
        document = json.loads(node.document)
        present = VirtualArray(document, ChunkRefs.empty(node.layout.ndim))
        stored = is_stored(array)
        ignore = _REENCODED if stored else ()
        axis = None if place is None else place.axis
        differs = difference(present, array, axis, ignore=ignore)
        if differs is not None:
            raise _misfit(path, differs.replace("in the first file", "in the repository"))
        if place is None:
            self._check_static(path, array, node)
            return
        if place.length > node.layout.shape[place.axis]:
            document["shape"][place.axis] = place.length
            self._actions.append(self._setting(path, _encode(document)))
        if stored:
            self._actions.append(self._assigning(path, _in_units_of(present, array), place))
            return
        chunk = node.layout.chunk_shape[place.axis]
        end = place.start + array.shape[place.axis]
        if place.start % chunk or (end % chunk and end < place.length):
            raise _misfit(
                path,
                f"elements {place.start} to {end} along `{array.dimension_names[place.axis]}` do not begin and end "
                f"with the chunks of {chunk} in the repository, so their references do not line up with its grid",
            )
        offsets = [0] * array.ndim
        offsets[place.axis] = place.start // chunk
        self._actions.append(self._referring(path, array.refs.shift(offsets)))

    def _check_static(self, path: str, array: VirtualArray, node: ArrayNode) -> None:
        """An array without the dimension has to be the one in the repository."""
        if is_stored(array):
            there = zarr.open_array(store=self._session.store, path=path[1:], mode="r")[...]
            here = decode_array(array)
            if not _equal(np.asarray(there), here):
                raise _misfit(path, "it does not have the dimension, and its values are not those in the repository")
            return
        present = VirtualArray(json.loads(node.document), _present_refs(self._session, node))
        differs = value_difference(present, array)
        if differs is not None:
            raise _misfit(path, differs.replace("in the first file", "in the repository"))

    # -- actions -----------------------------------------------------------------------------------------------

    def _setting(self, path: str, document: bytes) -> Action:
        return lambda: tree.set_document(self._ws, path, document)

    def _deleting(self, path: str) -> Action:
        return lambda: tree.delete_node(self._ws, path)

    def _referring(self, path: str, refs: ChunkRefs) -> Action:
        return lambda: _set(self._session, path, refs)

    def _assigning(self, path: str, values: NDArray[Any], place: Placement) -> Action:
        where = [slice(None)] * values.ndim
        where[place.axis] = slice(place.start, place.start + values.shape[place.axis])

        def assign() -> None:
            zarr.open_array(store=self._session.store, path=path[1:], mode="r+")[tuple(where)] = values

        return assign


# -- helpers ---------------------------------------------------------------------------------------------------

_REENCODED = ("codecs", "chunk shape", "byte order", "fill value", "attribute units")


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, allow_nan=False).encode()


def _group_document(attributes: Mapping[str, Any]) -> bytes:
    return _encode({"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)})


def _misfit(path: str, fact: str) -> InconsistentFiles:
    return InconsistentFiles(f"`{path}` does not fit what is in the repository: {fact}", differences=(f"{path}: {fact}",))


def _set(session: Session, path: str, refs: ChunkRefs) -> None:
    session.store.set_chunk_refs(path, refs)


def _present_refs(session: Session, node: ArrayNode) -> ChunkRefs:
    """All references of an array that exist."""

    async def collect() -> list[ChunkRefs]:
        return [refs async for refs in chunks.existing_refs(session._workspace, node)]

    return ChunkRefs.concat([ChunkRefs.empty(node.layout.ndim), *run(collect())])


def _placement(
    array: VirtualArray, node: ArrayNode, append_dim: str | None, region: Region | None
) -> Placement | None:
    """Where a piece goes; ``None`` for an array that has none of the dimensions."""
    names, there = array.dimension_names, node.layout.shape
    if append_dim is not None:
        if append_dim not in names or len(there) != array.ndim:
            return None
        axis = names.index(append_dim)
        return Placement(axis, there[axis], there[axis] + array.shape[axis])
    axes = [names.index(dim) for dim in region or () if dim in names]
    if not axes:
        return None
    if len(axes) > 1:
        raise ValueError("a region may be given along one dimension of an array; write several pieces instead")
    axis = axes[0]
    start, stop, step = (region or {})[str(names[axis])].indices(there[axis])
    if step != 1 or stop - start != array.shape[axis]:
        raise ValueError(
            f"region {start}:{stop} along `{names[axis]}` (of {there[axis]}) does not fit the {array.shape[axis]} "
            "elements of the dataset"
        )
    return Placement(axis, start, there[axis])


def _in_units_of(present: VirtualArray, array: VirtualArray) -> NDArray[Any]:
    """Stored values in the time units of the array that they are written into."""
    values = decode_array(array)
    old, new = (a.attributes.get("units") for a in (array, present))
    if old == new:
        return values
    units = [parse_units(a.attributes.get("units"), a.attributes.get("calendar", "standard")) for a in (array, present)]
    moved = None if None in units else convert(values, *units)  # type: ignore[arg-type]  # neither is None
    if moved is None:
        raise _misfit("/".join(map(str, array.dimension_names)), f"units are {old!r}, in the repository {new!r}")
    return moved


def _equal(one: NDArray[Any], other: NDArray[Any]) -> bool:
    if one.shape != other.shape:
        return False
    equal = one == other
    if one.dtype.kind in "fc" and other.dtype.kind in "fc":
        equal |= (one != one) & (other != other)
    return bool(np.all(equal))
