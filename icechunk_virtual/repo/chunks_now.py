"""Chunks for callers that block: as in `chunks`, but in the calling thread wherever no request is needed.

An event loop costs more than a small chunk of a local disk. What does take a request goes over the background loop.
"""

from __future__ import annotations

from icechunk_virtual._sync import run
from icechunk_virtual.model.chunk_refs import Chunk, InlineChunk, NativeChunk
from icechunk_virtual.model.nodes import ArrayNode, ManifestRef
from icechunk_virtual.repo import chunks
from icechunk_virtual.repo.workspace import Workspace


def gains(ws: Workspace) -> bool:
    """Whether blocking calls are the quick ones: neither the repository nor a virtual chunk is behind a network."""
    return ws.assets.at_once and all(grant.prefix.scheme == "file" for grant in ws.authorization.grants)


def find_chunk(ws: Workspace, node: ArrayNode, coord: tuple[int, ...]) -> Chunk | None:
    """As `chunks.find_chunk`."""
    found = chunks.chunk_at_hand(ws, node, coord)
    return run(chunks.find_chunk(ws, node, coord)) if isinstance(found, ManifestRef) else found


def read_chunk(ws: Workspace, chunk: Chunk, start: int, stop: int) -> bytes | memoryview:
    """As `chunks.read_chunk`."""
    found: bytes | memoryview | None
    match chunk:
        case InlineChunk(data):
            return data[start:stop]
        case NativeChunk(id, offset):
            found = b"" if start == stop else ws.assets.fetch_chunk_now(id, offset + start, offset + stop)
        case _:
            found = ws.fetcher.fetch_now(chunk, start, stop)
    return run(chunks.read_chunk(ws, chunk, start, stop)) if found is None else found


def write_chunk(ws: Workspace, path: str, coord: tuple[int, ...], data: bytes | memoryview) -> None:
    """As `chunks.write_chunk`."""
    chunk: Chunk | None = chunks.inline_chunk(ws, path, coord, data)
    if chunk is None:
        id = ws.assets.store_chunk_now(data)
        chunk = NativeChunk(run(ws.assets.store_chunk(data)) if id is None else id, 0, len(data))
    chunks.set_chunk(ws, path, coord, chunk)
