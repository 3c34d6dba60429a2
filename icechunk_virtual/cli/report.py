"""What a scan reports: facts for programs, text for people, and the code that opens what was committed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from icechunk_virtual.cli.versions import MAIN
from icechunk_virtual.model.nodes import ArrayNode, Node
from icechunk_virtual.model.paths import is_below, parent_path
from icechunk_virtual.scanners.dataset import count, human_bytes
from icechunk_virtual.virtual import VirtualDataset


def describe(dataset: VirtualDataset) -> dict[str, Any]:
    """What was found."""
    return {
        "files": len(dataset.sources),
        "format": dataset.format,
        "groups": sum(1 for _ in dataset.root.walk()) - 1,
        "arrays": sum(1 for _ in dataset.root.walk_arrays()),
        "chunks": dataset.nrefs,
        "bytes_virtual": dataset.nbytes_virtual,
        "bytes_stored": dataset.nbytes_stored,
        "stored": [asdict(item) for item in dataset.stored],
        "warnings": list(dataset.warnings),
    }


def as_text(report: dict[str, Any]) -> str:
    """What was done and what to do next, for people."""
    lines = [
        f"scanned     {count(report['files'], 'file')} ({report['format']})",
        f"found       {count(report['arrays'], 'array')}, {count(report['chunks'], 'chunk')}",
        f"referenced  {human_bytes(report['bytes_virtual'])}, which stay where they are",
        f"stored      {human_bytes(report['bytes_stored'])}" + (":" if report["stored"] else ""),
        *(f"  {item['path']}  {human_bytes(item['nbytes'])}, {item['reason']}" for item in report["stored"]),
        *(f"note        {warning}" for warning in report["warnings"]),
    ]
    if report["repository"] is None:
        return "\n".join([*lines, "dry run     it fits; nothing was written"])
    verb = "created" if report["created"] else "committed"
    lines.append(f"{verb:<12}{report['repository']}, branch {report['branch']}, snapshot {report['snapshot']}")
    return "\n".join([*lines, "", "open it in Python:", "", *(f"    {line}" for line in report["open"])])


def how_to_open(
    repo: str, group: str | None, branch: str, authorize: Mapping[str, str], nodes: Iterable[Node]
) -> list[str]:
    """The code that opens a group.

    Parameters
    ----------
    repo, group, branch
        As the user named them.
    authorize
        URL prefixes that have to be authorised, and code for the credentials that each needs.
    nodes
        The group and everything below it.
    """
    where = repo if "://" in repo else str(Path(repo).absolute())
    arguments = [repr(where), "engine='icechunk-virtual'"]
    if group:
        arguments.append(f"group={group!r}")
    if branch != MAIN:
        arguments.append(f"branch={branch!r}")
    imports = ["import xarray as xr"]
    if set(authorize.values()) <= {"None"}:
        arguments.append(f"authorize={list(authorize)!r}")
    else:
        granted = ", ".join(f"{prefix!r}: {code}" for prefix, code in authorize.items())
        arguments.append(f"authorize={{{granted}}}")
        imports.insert(0, "import icechunk_virtual")
    name, function = _opener(list(nodes))
    return [*imports, f"{name} = xr.{function}({', '.join(arguments)})"]


def _opener(nodes: list[Node]) -> tuple[str, str]:
    """A dataset without groups below; a tree if xarray can align the groups; otherwise groups one by one."""
    lengths: dict[str, dict[str, int]] = {}
    own: set[tuple[str, str]] = set()
    groups = [node.path for node in nodes if not isinstance(node, ArrayNode)]
    for node in nodes:
        if isinstance(node, ArrayNode):
            at = parent_path(node.path)
            names = node.layout.dimension_names or ()
            lengths.setdefault(at, {}).update({n: k for n, k in zip(names, node.layout.shape, strict=False) if n})
            own.add((at, node.path.rsplit("/", 1)[1]))
    if len(groups) < 2:
        return "ds", "open_dataset"
    for below in groups:
        for above in groups:
            if is_below(below, above):
                both = lengths.get(below, {}).keys() & lengths.get(above, {}).keys()
                if any(lengths[below][d] != lengths[above][d] or {(below, d), (above, d)} <= own for d in both):
                    return "groups", "open_groups"
    return "tree", "open_datatree"
