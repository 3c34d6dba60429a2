"""Which manifests an array has, asked through the public interface of either library."""

from __future__ import annotations

import json
from typing import Any


def manifests(repo: Any, snapshot: str, name: str) -> list[dict[str, Any]]:
    """Id and extents of the manifests of an array, and the number of references in each."""
    content = json.loads(repo.inspect_snapshot(snapshot))
    counts = {m["id"]: m["num_chunk_refs"] for m in content["manifests"]}
    (refs,) = [node["manifest_refs"] for node in content["nodes"] if node["path"] == f"/{name}"]
    return [{**ref, "count": counts[ref["id"]]} for ref in sorted(refs, key=lambda ref: ref["extents"])]


def ids(repo: Any, snapshot: str, name: str) -> set[str]:
    return {ref["id"] for ref in manifests(repo, snapshot, name)}
