"""Chunks of a session: finding their references, reading and storing their bytes, setting references in bulk.

Knows nodes and references, not store keys; the store above translates.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.containers.clients import Neighbours
from icechunk_virtual.errors import InvalidChunkIndex
from icechunk_virtual.model.chunk_refs import (
    Chunk,
    ChunkKind,
    ChunkRefs,
    Extents,
    InlineChunk,
    NativeChunk,
    VirtualChunk,
)
from icechunk_virtual.model.ids import OBJECT_ID_SIZE
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.model.nodes import ArrayNode, ManifestRef
from icechunk_virtual.repo.chunk_edits import Mark, Overlay
from icechunk_virtual.repo.format.manifest import Manifest
from icechunk_virtual.repo.split import first_holding, overlaps
from icechunk_virtual.repo.tree import get_array
from icechunk_virtual.repo.workspace import Workspace


def in_grid(node: ArrayNode, coord: Sequence[int]) -> bool:
    """Whether a chunk is inside the grid of an array."""
    grid = node.layout.grid_shape
    return len(coord) == len(grid) and all(0 <= i < n for i, n in zip(coord, grid, strict=True))


def check_index(node: ArrayNode, coord: Sequence[int]) -> None:
    """Raise `InvalidChunkIndex` unless a chunk is inside the grid of an array."""
    if not in_grid(node, coord):
        raise InvalidChunkIndex(
            f"invalid chunk index: coordinates ChunkIndices({list(coord)}) are not valid for array at {node.path}, "
            f"whose grid has {list(node.layout.grid_shape)} chunks"
        )


# -- one chunk -------------------------------------------------------------------------------------------------


def chunk_at_hand(ws: Workspace, node: ArrayNode, coord: tuple[int, ...]) -> Chunk | ManifestRef | None:
    """As `find_chunk`; or the manifest that has to be read first."""
    if not in_grid(node, coord):
        return None
    edits = ws.changes.chunks(node.path)
    if edits is not None:
        chunk = edits.get(coord)
        if chunk is Mark.DELETED:
            return None
        if chunk is not Mark.UNTOUCHED:
            return chunk
    ref = first_holding(node.manifests, coord)
    manifest = None if ref is None else ws.assets.manifest_in_memory(ref.id)
    if manifest is None:
        return ref
    if not manifest.decoded:
        return manifest.look_up(node.id, coord) or ref
    return _in_decoded(manifest, node, coord)


async def find_chunk(ws: Workspace, node: ArrayNode, coord: tuple[int, ...]) -> Chunk | None:
    """Reference of a chunk; ``None`` when it does not exist or is outside the grid."""
    found = chunk_at_hand(ws, node, coord)
    if not isinstance(found, ManifestRef):
        return found
    manifest = await fetch_manifest(ws, found)
    if not manifest.decoded:
        chunk = manifest.look_up(node.id, coord)
        if chunk is not None:
            return chunk
        await ws.assets.decoded(manifest)
    return _in_decoded(manifest, node, coord)


def _in_decoded(manifest: Manifest, node: ArrayNode, coord: tuple[int, ...]) -> Chunk | None:
    refs = manifest.refs(node.id, node.layout.ndim)
    return None if refs is None else refs.lookup(coord)


async def manifest_refs(ws: Workspace, node: ArrayNode, ref: ManifestRef) -> ChunkRefs:
    """The references of an array in a manifest, inside the manifest's box: readers look for no others there."""
    manifest = await ws.assets.decoded(await fetch_manifest(ws, ref))
    refs = manifest.refs(node.id, node.layout.ndim)
    return ChunkRefs.empty(node.layout.ndim) if refs is None else refs.within(ref.extents)


async def fetch_manifest(ws: Workspace, ref: ManifestRef) -> Manifest:
    """A manifest of the base snapshot."""
    manifest = ws.assets.manifest_in_memory(ref.id)  # once per chunk that is read
    if manifest is None:
        file = ws.snapshot.manifest_file(ref.id)
        manifest = await ws.assets.fetch_manifest(ref.id, 0 if file is None else file.size_bytes)
    return manifest


async def read_chunk(
    ws: Workspace, chunk: Chunk, start: int, stop: int, near: Neighbours | None = None
) -> bytes | memoryview:
    """Bytes ``[start, stop)`` of a chunk, wherever they are; ``0 <= start <= stop <= chunk.length``.

    With `near`, the chunk's place in its array, virtual chunks that are likely to be next are fetched ahead.
    """
    match chunk:
        case InlineChunk(data):
            return data if stop - start == len(data) else data[start:stop]
        case NativeChunk(id, offset):
            return b"" if start == stop else await ws.assets.fetch_chunk(id, offset + start, offset + stop)
        case VirtualChunk():
            return await ws.fetcher.fetch(chunk, start, stop, near)


async def write_chunk(
    ws: Workspace, path: str, coord: tuple[int, ...], data: bytes | memoryview, *, only_new: bool = False
) -> None:
    """Store the bytes of a chunk, inline or as an object of their own, and refer to it.

    Parameters
    ----------
    only_new
        Leave the chunk to whoever set it meanwhile.
    """
    chunk: Chunk | None = inline_chunk(ws, path, coord, data)
    if chunk is None:
        chunk = NativeChunk(await ws.assets.store_chunk(data), 0, len(data))
    set_chunk(ws, path, coord, chunk, only_new=only_new)


def inline_chunk(ws: Workspace, path: str, coord: tuple[int, ...], data: bytes | memoryview) -> InlineChunk | None:
    """The chunk with its bytes if there are few; ``None`` when they go into an object of their own.

    Raises `ReadOnlyError`, `NodeNotFound` or `InvalidChunkIndex` if they cannot go anywhere.
    """
    ws.check_writable()
    check_index(get_array(ws, path), coord)
    return InlineChunk(bytes(data)) if len(data) <= ws.config.effective_inline_threshold else None


def set_chunk(ws: Workspace, path: str, coord: tuple[int, ...], chunk: Chunk | None, *, only_new: bool = False) -> None:
    """Refer to a chunk; ``None`` deletes it. With `only_new`, not if the session has set it already."""
    with ws.lock:
        ws.check_writable()
        node = get_array(ws, path)
        check_index(node, coord)
        edits = ws.changes.edit_chunks(node)
        if not only_new or isinstance(edits.get(coord), Mark):
            edits.set(coord, chunk)


# -- many chunks -----------------------------------------------------------------------------------------------


def set_refs(ws: Workspace, path: str, refs: ChunkRefs) -> None:
    """Set every reference of the columns; all or nothing.

    Raises
    ------
    InvalidChunkIndex
        Coordinates of the wrong rank or outside the grid.
    """
    with ws.lock:
        ws.check_writable()
        node = get_array(ws, path)
        if refs.ndim != node.layout.ndim:
            raise InvalidChunkIndex(
                f"invalid chunk index: {refs.ndim} coordinates per chunk for array at {path} with "
                f"{node.layout.ndim} dimensions"
            )
        if len(refs):
            check_index(node, [stop - 1 for _, stop in refs.extents()])
            ws.changes.edit_chunks(node).set_many(refs)


def delete_refs(ws: Workspace, path: str, coords: NDArray[np.uint32]) -> None:
    """Delete chunks of an array, uint32 (n, ndim)."""
    with ws.lock:
        ws.check_writable()
        ws.changes.edit_chunks(get_array(ws, path)).delete_many(coords)


async def store_large_inline(ws: Workspace, refs: ChunkRefs) -> ChunkRefs:
    """Upload inline chunks that are larger than the repository's threshold; refer to them as native."""
    large = np.flatnonzero((refs.kind == ChunkKind.INLINE) & (refs.length > ws.config.effective_inline_threshold))
    if not len(large):
        return refs
    heap = memoryview(refs.heap)
    ranges = zip(refs.offset[large].tolist(), refs.length[large].tolist(), strict=True)
    ids = [await ws.assets.store_chunk(bytes(heap[a : a + n])) for a, n in ranges]  # a step per stored object
    raw = np.frombuffer(b"".join(ids), np.uint8).reshape(-1, OBJECT_ID_SIZE)
    return refs.replace(ChunkRefs.native(refs.coords[large], raw, refs.length[large])).compact()


async def committed_refs(
    ws: Workspace, node: ArrayNode, manifests: Sequence[ManifestRef], box: Extents
) -> AsyncIterator[ChunkRefs]:
    """What readers find in some manifests of an array inside a box, a batch per manifest that has something.

    Of manifests whose boxes overlap, as in some repositories of others, the first counts.
    """
    seen: list[ManifestRef] = []
    for ref in manifests:
        if not overlaps(ref.extents, box):
            continue
        refs = (await manifest_refs(ws, node, ref)).within(box)
        for earlier in seen:
            if overlaps(earlier.extents, ref.extents):
                refs = refs.without(refs.within(earlier.extents).coords)
        seen.append(ref)
        if len(refs):
            yield refs


async def existing_refs(ws: Workspace, node: ArrayNode, box: Extents | None = None) -> AsyncIterator[ChunkRefs]:
    """References of all chunks that exist, inside a box if one is given, each once, in batches (one per manifest)."""
    grid: Extents = tuple((0, n) for n in node.layout.grid_shape)
    box = grid if box is None else tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(box, grid, strict=True))
    edits = ws.changes.chunks(node.path)
    overlay = None
    if edits is not None:
        with ws.lock:
            overlay = edits.columns().within(box)
    async for refs in committed_refs(ws, node, node.manifests, box):
        if overlay is not None:
            refs = refs.without(overlay.coords)
        if len(refs):
            yield refs
    if overlay is not None and len(overlay.refs):
        yield overlay.refs


def edits_in_grid(ws: Workspace, node: ArrayNode) -> Overlay:
    """The chunk edits of an array that its present grid can hold."""
    edits = ws.changes.chunks(node.path)
    if edits is None:
        return Overlay(ChunkRefs.empty(node.layout.ndim), ChunkRefs.empty(node.layout.ndim))
    with ws.lock:
        return edits.columns().within(tuple((0, n) for n in node.layout.grid_shape))


def check_containers(ws: Workspace, refs: ChunkRefs) -> NDArray[np.bool_]:
    """For every reference whether its location has a container, bool (n,); native and inline ones need none."""
    fits = ws.authorization.check_write(refs.locations)
    if fits.all():
        return np.ones(len(refs), bool)
    virtual = refs.kind == ChunkKind.VIRTUAL
    known: NDArray[np.bool_] = ~virtual
    known[virtual] = fits[refs.source[virtual]]
    return known


def locations_of(refs: ChunkRefs) -> Locations:
    """The location of every virtual reference, one row each."""
    return refs.locations.take(refs.source[refs.kind == ChunkKind.VIRTUAL])
