"""Reading what scanners found, without the engine: a Zarr memory store whose chunks are fetched from the files."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote, urlsplit

import zarr
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

from icechunk_virtual.model.chunk_refs import InlineChunk, VirtualChunk
from icechunk_virtual.scanners.dataset import Scanned, VirtualArray, VirtualGroup


def memory_store(scanned: Scanned | VirtualGroup) -> MemoryStore:
    """All nodes and chunks of a scan; virtual chunks are read with plain file access."""
    root = scanned.root if isinstance(scanned, Scanned) else scanned
    content = {}
    for path, group in root.walk():
        document = {"zarr_format": 3, "node_type": "group", "attributes": group.attributes}
        content[_key(path, "zarr.json")] = json.dumps(document).encode()
    for path, array in root.walk_arrays():
        content[_key(path, "zarr.json")] = json.dumps(array.document).encode()
        for key, data in _chunks(array).items():
            content[_key(path, key)] = data
    return MemoryStore({key: cpu.Buffer.from_bytes(data) for key, data in content.items()}, read_only=True)


def open_group(scanned: Scanned | VirtualGroup) -> zarr.Group:
    return zarr.open_group(memory_store(scanned), mode="r")


def _chunks(array: VirtualArray) -> dict[str, bytes]:
    found = {}
    for i in range(array.nrefs):
        match array.refs.row(i):
            case VirtualChunk(url=url, offset=offset, length=length):
                with Path(unquote(urlsplit(url).path)).open("rb") as file:
                    file.seek(offset)
                    data = file.read(length)
                assert len(data) == length
            case InlineChunk(data=data):
                pass
        found["/".join(["c", *map(str, array.refs.coords[i].tolist())])] = data
    return found


def _key(path: str, name: str) -> str:
    return f"{path.strip('/')}/{name}".lstrip("/")
