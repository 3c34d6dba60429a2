"""``list``: the groups and arrays of a version."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from icechunk_virtual._sync import run
from icechunk_virtual.cli.output import Part, Report, Table, command
from icechunk_virtual.cli.parsing import add_command
from icechunk_virtual.cli.versions import add_version, open_repo, snapshot_of
from icechunk_virtual.errors import NodeNotFound
from icechunk_virtual.model.chunk_refs import ChunkKind
from icechunk_virtual.model.nodes import ArrayNode, Node
from icechunk_virtual.repo import chunks, tree
from icechunk_virtual.repo.bounded import for_each
from icechunk_virtual.repo.keys import parse_path
from icechunk_virtual.repo.workspace import Workspace
from icechunk_virtual.scanners.dataset import count, human_bytes

_KINDS = {"virtual": ChunkKind.VIRTUAL, "native": ChunkKind.NATIVE, "inline": ChunkKind.INLINE}
_ARRAYS_AT_ONCE = 20
_FIRST_NUMBER = 5  # column


def add_parser(commands: Any) -> None:
    """Add the command to the program's parser."""
    parser = add_command(commands, "list", help="list the groups and arrays of a version")
    add_version(parser)
    parser.add_argument("--path", default="/", metavar="PATH", help="only this node and what is below it")
    parser.add_argument(
        "--refs", action="store_true", help="also count references and their bytes by kind (reads the manifests)"
    )
    parser.set_defaults(run=command(list_nodes, show_nodes))


def list_nodes(options: argparse.Namespace) -> Report:
    """The nodes of a version."""
    repo = open_repo(options)
    id = snapshot_of(repo, options)
    workspace = repo.readonly_session(snapshot_id=id)._workspace
    path = parse_path(options.path)
    nodes = list(tree.walk(workspace, path))
    if not nodes and path != "/":
        raise NodeNotFound(f"there is no group or array at {path} in snapshot {id}", path=path)
    described = {node.path: _describe(node) for node in nodes}
    if options.refs:
        counts = run(_count_refs(workspace, [node for node in nodes if isinstance(node, ArrayNode)]))
        for found, refs in counts.items():
            described[found]["refs"] = refs
    return {"repository": options.repo, "snapshot": id, "nodes": list(described.values())}


def _describe(node: Node) -> Report:
    if not isinstance(node, ArrayNode):
        return {"path": node.path, "type": "group"}
    layout = node.layout
    return {
        "path": node.path,
        "type": "array",
        "dtype": _dtype(node.document),
        "shape": list(layout.shape),
        "chunk_shape": list(layout.chunk_shape),
        "dimension_names": None if layout.dimension_names is None else list(layout.dimension_names),
    }


def _dtype(document: bytes) -> str:
    """Name of the data type; those with parameters are objects."""
    found = json.loads(document).get("data_type")
    return str(found.get("name")) if isinstance(found, dict) else str(found)


async def _count_refs(workspace: Workspace, arrays: list[ArrayNode]) -> dict[str, Report]:
    counts: dict[str, Report] = {}

    async def work(node: ArrayNode) -> None:
        found = {kind: {"chunks": 0, "bytes": 0} for kind in _KINDS}
        async for refs in chunks.existing_refs(workspace, node):
            for kind, code in _KINDS.items():
                rows = refs.kind == code
                found[kind]["chunks"] += int(np.count_nonzero(rows))
                found[kind]["bytes"] += int(refs.length[rows].sum())
        counts[node.path] = found

    await for_each(arrays, work, at_once=_ARRAYS_AT_ONCE)
    return counts


def show_nodes(report: Report) -> Iterable[Part]:
    """For people."""
    nodes = report["nodes"]
    arrays = [node for node in nodes if node["type"] == "array"]
    kinds = [kind for kind in _KINDS if any(array.get("refs", {}).get(kind, {}).get("chunks") for array in arrays)]
    titles = ["path", "dtype", "shape", "chunks", "dimensions", *kinds]
    if nodes:
        right = frozenset(range(_FIRST_NUMBER, _FIRST_NUMBER + len(kinds)))
        yield Table(titles, [_row(node, kinds) for node in nodes], right)
    totals = ", ".join([count(len(nodes) - len(arrays), "group"), count(len(arrays), "array")])
    yield f"{totals} in snapshot {report['snapshot']}"


def _row(node: Report, kinds: list[str]) -> list[str]:
    if node["type"] == "group":
        return [node["path"].rstrip("/") + "/", *[""] * (_FIRST_NUMBER - 1 + len(kinds))]
    names = node["dimension_names"] or []
    return [
        node["path"],
        node["dtype"],
        _numbers(node["shape"]),
        _numbers(node["chunk_shape"]),
        " ".join(name or "-" for name in names),
        *(_amount(node["refs"][kind]) for kind in kinds),
    ]


def _numbers(shape: list[int]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _amount(refs: dict[str, int]) -> str:
    return f"{refs['chunks']:,} ({human_bytes(refs['bytes'])})" if refs["chunks"] else "-"
