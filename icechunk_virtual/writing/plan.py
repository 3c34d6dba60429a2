"""A list of changes to a session, made while everything is checked, carried out as a whole or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from icechunk_virtual._sync import run
from icechunk_virtual.model.chunk_refs import ChunkKind, ChunkRefs, Extents
from icechunk_virtual.model.nodes import ArrayNode, Node, parse_document
from icechunk_virtual.repo import chunks, tree
from icechunk_virtual.session import Session

_MOST_VALUES = 1 << 27  # elements that are read from the repository to be compared
_MOST_CHUNKS = 10_000


class Plan:
    """What is to be done to a session, and a view of what is there.

    Parameters
    ----------
    session
        Writable.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.workspace = session._workspace
        self._steps: list[Callable[[], object]] = []

    # -- what is there -----------------------------------------------------------------------------------------

    def node(self, path: str) -> Node | None:
        """The node at a path."""
        return tree.find_node(self.workspace, path)

    def children(self, path: str) -> list[str]:
        """Names of the nodes directly below a path."""
        return tree.children(self.workspace, path)

    def refs(self, node: ArrayNode, box: Extents | None = None) -> ChunkRefs:
        """References of the chunks of an array that exist, in a box of its grid."""

        async def collect() -> list[ChunkRefs]:
            return [refs async for refs in chunks.existing_refs(self.workspace, node, box)]

        return ChunkRefs.concat([ChunkRefs.empty(node.layout.ndim), *run(collect())])

    def values(self, node: ArrayNode) -> NDArray[Any]:
        """The values of an array, decoded."""
        array = zarr.open_array(store=self._session.store, path=node.path[1:], mode="r")
        return np.asarray(array[...])

    def stored_values(self, node: ArrayNode) -> NDArray[Any] | None:
        """As `values`; ``None`` if some are virtual, or there are too many to be looked at."""
        if math.prod(node.layout.shape) > _MOST_VALUES:
            return None
        refs = self.refs(node)
        if len(refs) > _MOST_CHUNKS or (refs.kind == ChunkKind.VIRTUAL).any():
            return None
        return self.values(node)

    # -- what is to be done ------------------------------------------------------------------------------------

    def set_document(self, path: str, document: Mapping[str, Any]) -> None:
        """Create or change a node.

        Raises
        ------
        InvalidMetadata
            At once.
        """
        data = json.dumps(document, ensure_ascii=False).encode()  # NaN in attributes as zarr writes it
        parse_document(data, path)
        self._steps.append(lambda: tree.set_document(self.workspace, path, data))

    def set_group(self, path: str, attributes: Mapping[str, Any]) -> None:
        """Create or change a group."""
        self.set_document(path, {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)})

    def delete(self, path: str) -> None:
        """Delete a node with everything below."""
        self._steps.append(lambda: tree.delete_node(self.workspace, path))

    def set_refs(self, path: str, refs: ChunkRefs) -> None:
        """Set chunks of an array."""
        if len(refs):
            self._steps.append(lambda: self._session.store.set_chunk_refs(path, refs))

    def delete_chunks(self, path: str, coords: NDArray[np.uint32]) -> None:
        """Delete chunks of an array, uint32 (n, ndim)."""
        if len(coords):
            self._steps.append(lambda: chunks.delete_refs(self.workspace, path, coords))

    def assign(self, path: str, where: tuple[slice, ...], values: NDArray[Any]) -> None:
        """Write values into an array, as zarr does."""

        def step() -> None:
            zarr.open_array(store=self._session.store, path=path[1:], mode="r+")[where] = values

        self._steps.append(step)

    def apply(self) -> None:
        """Do it. After an error the session is as it was before."""
        with self.workspace.lock:
            before = self.workspace.changes.copy()
        try:
            for step in self._steps:
                step()
        except BaseException:
            with self.workspace.lock:
                self.workspace.changes = before
            raise
