"""``inspect``: what is in a snapshot file or a manifest file, as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from icechunk_virtual._sync import run
from icechunk_virtual.cli.messages import UsageError
from icechunk_virtual.cli.output import Part, Report, command
from icechunk_virtual.cli.parsing import add_command
from icechunk_virtual.cli.versions import add_version, names_version, open_repo, snapshot_of
from icechunk_virtual.errors import IcechunkError, ObjectNotFound
from icechunk_virtual.model.chunk_refs import ChunkKind, ChunkRefs
from icechunk_virtual.model.ids import ManifestId, decode_id, encode_id
from icechunk_virtual.repo.format.manifest import Manifest


def add_parser(commands: Any) -> None:
    """Add the command to the program's parser."""
    parser = add_command(commands, "inspect", help="print what is in a snapshot or a manifest, as JSON")
    add_version(parser)
    parser.add_argument("--manifest", metavar="ID", help="a manifest instead of a snapshot")
    parser.add_argument("--refs", action="store_true", help="with --manifest: every reference in it")
    parser.set_defaults(run=command(inspect, show_content))


def inspect(options: argparse.Namespace) -> Report:
    """The content of a file."""
    if options.manifest is not None and names_version(options):
        raise UsageError("name a version or a manifest, not both")
    if options.refs and options.manifest is None:
        raise UsageError("--refs needs --manifest ID")
    repo = open_repo(options)
    if options.manifest is None:
        content: Report = json.loads(repo.inspect_snapshot(snapshot_of(repo, options)))
        return content
    try:
        id = ManifestId(decode_id(options.manifest))
        manifest = run(repo._opened.assets.fetch_manifest(id))
    except (ValueError, ObjectNotFound):
        raise IcechunkError(f"there is no manifest {options.manifest} in {options.repo}") from None
    return describe_manifest(manifest, with_refs=options.refs)


def describe_manifest(manifest: Manifest, *, with_refs: bool) -> Report:
    """A manifest as JSON values."""
    arrays = [
        {"node_id": encode_id(node)} | _describe(refs, with_refs=with_refs)
        for node in manifest.nodes
        for refs in manifest.parts(node)
    ]
    return {"id": encode_id(manifest.id), "num_chunk_refs": manifest.num_refs, "arrays": arrays}


def _describe(refs: ChunkRefs, *, with_refs: bool) -> Report:
    found: Report = {"num_chunk_refs": len(refs)}
    if len(refs):
        found["extents"] = [list(extent) for extent in refs.extents()]
    for kind in ChunkKind:
        rows = refs.kind == kind
        if rows.any():
            found[kind.name.lower()] = {"chunks": int(np.count_nonzero(rows)), "bytes": int(refs.length[rows].sum())}
    locations = refs.locations
    if len(locations):
        found["locations"] = list(locations.urls)
    if with_refs:
        found["refs"] = [_reference(refs, row) for row in range(len(refs))]
    return found


def _reference(refs: ChunkRefs, row: int) -> Report:
    """One reference; of inline chunks not the bytes."""
    kind, source = ChunkKind(int(refs.kind[row])), int(refs.source[row])
    found: Report = {"coord": refs.coords[row].tolist(), "kind": kind.name.lower(), "length": int(refs.length[row])}
    if kind is ChunkKind.VIRTUAL:
        found |= {"url": refs.locations.urls[source], "offset": int(refs.offset[row])}
    elif kind is ChunkKind.NATIVE:
        found |= {"chunk_id": encode_id(refs.chunk_ids[source].tobytes()), "offset": int(refs.offset[row])}
    return found


def show_content(report: Report) -> Iterable[Part]:
    """For people, who get JSON too."""
    return json.dumps(report, indent=2).split("\n")
