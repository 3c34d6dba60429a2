"""What is in a repository file, as JSON text for people and programs."""

from __future__ import annotations

import json
from typing import Any

from icechunk_virtual.model.ids import encode_id
from icechunk_virtual.model.nodes import ArrayNode, Node
from icechunk_virtual.repo.format.snapshot import Snapshot
from icechunk_virtual.repo.info import utc_from_us


def snapshot_json(snapshot: Snapshot, *, pretty: bool) -> str:
    """A snapshot with its manifests and nodes."""
    content: dict[str, Any] = {"id": encode_id(snapshot.id)}
    if snapshot.parent_id is not None:
        content["parent_id"] = encode_id(snapshot.parent_id)
    content["flushed_at"] = _moment(snapshot.flushed_at_us)
    content["commit_message"] = snapshot.message
    content["metadata"] = snapshot.metadata
    content["manifests"] = [
        {"id": encode_id(f.id), "size_bytes": f.size_bytes, "num_chunk_refs": f.num_chunk_refs}
        for f in snapshot.manifest_files
    ]
    content["nodes"] = [_describe(node) for node in snapshot.nodes()]
    return json.dumps(content, indent=2 if pretty else None, ensure_ascii=False)


def _moment(microseconds: int) -> str:
    """RFC 3339 in UTC, with three or six digits behind the second, or none, as the original writes it."""
    fraction = microseconds % 1_000_000
    digits = "" if not fraction else f".{fraction // 1000:03}" if fraction % 1000 == 0 else f".{fraction:06}"
    return f"{utc_from_us(microseconds):%Y-%m-%dT%H:%M:%S}{digits}Z"


def _describe(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = {"id": encode_id(node.id), "path": node.path, "node_type": "group"}
    if isinstance(node, ArrayNode):
        found["node_type"] = "array"
        found["manifest_refs"] = [
            {"id": encode_id(ref.id), "extents": [list(extent) for extent in ref.stored]} for ref in node.manifests
        ]
    return found
