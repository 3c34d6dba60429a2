"""Listing, measuring and deleting what is below a prefix. Cost goes with the answer, not with the repository."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np

from icechunk_virtual.errors import IcechunkError, InvalidKey
from icechunk_virtual.model.chunk_refs import ChunkRefs, Extents
from icechunk_virtual.model.nodes import ROOT, ArrayNode
from icechunk_virtual.repo import chunks, tree
from icechunk_virtual.repo.keys import CHUNKS, DOCUMENT, chunk_prefix, document_key, parse_path
from icechunk_virtual.repo.workspace import Workspace


async def keys_below(ws: Workspace, prefix: str) -> AsyncIterator[str]:
    """Keys of a node and all below it: documents first, then chunks."""
    path = _node_path(ws, prefix)
    arrays = []
    for node in tree.walk(ws, path):
        yield document_key(node.path)
        if isinstance(node, ArrayNode):
            arrays.append(node)
    for array in arrays:
        start = chunk_prefix(array.path)
        async for refs in chunks.existing_refs(ws, array):
            for coord in refs.coords.tolist():
                yield "/".join([start, *map(str, coord)])


async def total_size(ws: Workspace, prefix: str) -> int:
    """Bytes of the documents and chunks of a node and all below it; 0 when there is none."""
    path = parse_path(prefix)
    total = 0
    for node in tree.walk(ws, path):
        total += len(node.document)
        if isinstance(node, ArrayNode):
            async for refs in chunks.existing_refs(ws, node):
                total += int(refs.length.sum())
    if not total:
        async for _, _, refs in _chunks_below(ws, path):
            total += int(refs.length.sum())
    return total


async def names_in(ws: Workspace, prefix: str) -> AsyncIterator[str]:
    """Names directly below a prefix: of nodes, of an array's parts, or of chunk index directories."""
    path = parse_path(prefix)
    node = tree.find_node(ws, path)
    names = dict.fromkeys(tree.children(ws, path))
    if node is not None:
        names[DOCUMENT] = None
    if isinstance(node, ArrayNode):
        names[CHUNKS] = None
    if not names:
        async for array, given, refs in _chunks_below(ws, path):
            if given < array.layout.ndim:
                names.update(dict.fromkeys(map(str, np.unique(refs.coords[:, given]).tolist())))
    for name in names:
        yield name


async def is_empty(ws: Workspace, prefix: str) -> bool:
    """Whether there is neither a node at or below a prefix nor, for chunk prefixes, a chunk."""
    path = parse_path(prefix)
    if tree.is_directory(ws, path):
        return False
    async for _ in names_in(ws, prefix):
        return False
    return True


async def delete_below(ws: Workspace, prefix: str) -> None:
    """Delete a node and all below it, or the chunks below a chunk prefix; anything else is left alone."""
    try:
        path = parse_path(prefix)
    except InvalidKey:
        return
    if tree.is_directory(ws, path):
        tree.delete_node(ws, path)
        return
    found = [(array.path, refs.coords) async for array, _, refs in _chunks_below(ws, path)]
    for array_path, coords in found:
        chunks.delete_refs(ws, array_path, coords)


def _node_path(ws: Workspace, prefix: str) -> str:
    try:
        path = parse_path(prefix)
    except InvalidKey as error:
        raise IcechunkError(f"bad key prefix ({prefix}): Cannot convert to a path: {error.message}") from None
    if path != ROOT and not tree.is_directory(ws, path):
        raise IcechunkError(
            f"bad key prefix ({prefix}): Only prefixes pointing to a group or array are allowed, and nothing is there"
        )
    return path


async def _chunks_below(ws: Workspace, path: str) -> AsyncIterator[tuple[ArrayNode, int, ChunkRefs]]:
    """What is below a chunk prefix such as ``/a/c/0``: the array, how many indices are given, references in batches."""
    found = _chunk_prefix(ws, path)
    if found is not None:
        array, given = found
        async for refs in chunks.existing_refs(ws, array, _box(array, given)):
            yield array, len(given), refs


def _chunk_prefix(ws: Workspace, path: str) -> tuple[ArrayNode, list[int]] | None:
    """The array and the leading chunk indices that a path such as ``/a/c/0`` stands for."""
    parts = path[1:].split("/")
    at = len(parts)
    while at and parts[at - 1].isascii() and parts[at - 1].isdigit():
        at -= 1
    if not at or parts[at - 1] != CHUNKS:
        return None
    node = tree.find_node(ws, "/" + "/".join(parts[: at - 1]))
    given = [int(part) for part in parts[at:]]
    return (node, given) if isinstance(node, ArrayNode) and len(given) <= node.layout.ndim else None


def _box(node: ArrayNode, given: list[int]) -> Extents:
    """The box of all chunks whose first indices are the given ones."""
    return (*((i, i + 1) for i in given), *((0, n) for n in node.layout.grid_shape[len(given) :]))
