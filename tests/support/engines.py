"""One face for both libraries, ours and the original, and pictures of what a repository shows through either.

The public names are the same, so an `Engine` is hardly more than the module. A picture is plain data: two are equal
if nothing that can be seen differs. Where the two libraries differ on purpose, `DEVIATIONS` says so, and nowhere else.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterable, Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import _collect_aiterator, sync

from tests.support.clouds import Bucket

PROTOTYPE = default_buffer_prototype()


@dataclass(frozen=True)
class Deviation:
    """Something that the original does differently, from one release of it on and before another."""

    text: str
    since: str | None = None
    until: str | None = None


DEVIATIONS = {
    "locations": Deviation(
        "virtual locations are kept as given; the original rewrites them and then cannot read what it escaped"
    ),
    "siblings": Deviation(
        "the original loses the children of `/g` in listings and deletions beside a sibling such as `/g-x`",
        until="1.1.21",
    ),
    "resurrection": Deviation(
        "a chunk written, cut off and grown back in a session is gone; the original shows committed bytes"
    ),
    "leftover": Deviation(
        "create with chunks, update and delete in one session: nothing is left; the original stays dirty"
    ),
    "indices": Deviation("chunk keys with too many or too few indices are refused; the original stores them"),
    "no such chunk": Deviation(
        "deleting a chunk outside the grid is no error, as zarr expects of stores; the original refuses"
    ),
    "letter c": Deviation("chunk keys are cut at a component `c`, not at the letter"),
    "read-only": Deviation(
        "`delete` and `clear` on a read-only session are refused; the original changes what it shows"
    ),
    "ranges": Deviation(
        "byte ranges are Python slices; the original panics, or returns other bytes, when they leave the value"
    ),
    "missing": Deviation("`get_partial_values` gives None for what is missing; the original fails"),
    "doubles": Deviation(
        "`chunk_coordinates` gives every chunk once; the original repeats those written in the session"
    ),
    "overlaps": Deviation(
        "one manifest per box of the splitting; the original leaves overlapping ones after a change of sizes"
    ),
    "times": Deviation("any aware datetime is a moment; the original takes `datetime.timezone.utc` only"),
    "names": Deviation("refs with names that need escapes have the names that they were given"),
    "all or nothing": Deviation(
        "`set_virtual_refs` with an index outside the grid sets nothing; the original keeps those before"
    ),
    "discarded sizes": Deviation("`discard_changes` forgets a resize; the original then panics at chunks outside it"),
    "without parent": Deviation(
        "a path without node, but with nodes below it, can be listed and deleted as a directory"
    ),
    "cut off": Deviation(
        "committed chunks outside a smaller shape are gone at once; the original lists them until the commit"
    ),
    "overwriting": Deviation(
        "a node deleted and made anew is no conflict with commits elsewhere; the original cannot rebase it",
        until="1.1.20",
    ),
    "overwriting twice": Deviation(
        "two nodes made anew at one path are in conflict; the original lets the later one replace the other",
        since="1.1.20",
    ),
    "servers": Deviation(
        "servers that only a stored container names, and its proxies and certificates, are not used; the original "
        "sends requests there"
    ),
    "containers": Deviation(
        "containers given to `open` are added to the stored ones; the original forgets the stored ones",
        since="1.1.18",
    ),
}
"""What differs on purpose. Tests that step around one of these name it."""


def deviates(name: str) -> bool:
    """Whether the installed release of the original differs from us in this."""
    deviation, judge = DEVIATIONS[name], _release(version("icechunk"))
    too_old = deviation.since is not None and judge < _release(deviation.since)
    return not too_old and (deviation.until is None or judge < _release(deviation.until))


def _release(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


Place: TypeAlias = Path | Bucket | None
"""Where a repository is; ``None``: in memory."""


@dataclass(frozen=True)
class Engine:
    """A library with icechunk's interface."""

    name: str
    ic: Any

    def __repr__(self) -> str:
        return self.name

    def config(
        self,
        prefixes: Iterable[str] = (),
        *,
        threshold: int | None = None,
        splits: dict[str, int] | None = None,
    ) -> Any:
        """Configuration with file containers, inline threshold, and chunks per manifest by name of the array."""
        ic = self.ic
        manifest = None
        if splits:
            sizes = {
                ic.ManifestSplitCondition.name_matches(f"^{name}$"): {ic.ManifestSplitDimCondition.Any(): size}
                for name, size in splits.items()
            }
            manifest = ic.ManifestConfig(splitting=ic.ManifestSplittingConfig.from_dict(sizes))
        config = ic.RepositoryConfig(inline_chunk_threshold_bytes=threshold, manifest=manifest)
        for prefix in prefixes:
            store = ic.local_filesystem_store(prefix.removeprefix("file://"))
            config.set_virtual_chunk_container(ic.VirtualChunkContainer(prefix, store))
        return config

    def storage(self, root: Place) -> Any:
        """A directory, a bucket, or memory."""
        if isinstance(root, Bucket):
            return root.storage(self.ic)
        return self.ic.in_memory_storage() if root is None else self.ic.local_filesystem_storage(str(root))

    def create(self, root: Place, config: Any = None, granted: Iterable[str] = ()) -> Any:
        return self.ic.Repository.create(self.storage(root), config, authorize(granted))

    def open(self, root: Place, config: Any = None, granted: Iterable[str] = ()) -> Any:
        return self.ic.Repository.open(self.storage(root), config, authorize(granted))


def authorize(prefixes: Iterable[str]) -> dict[str, None]:
    return dict.fromkeys(prefixes)


def buffer(data: bytes) -> Any:
    return PROTOTYPE.buffer.from_bytes(data)


def get(store: Any, key: str) -> bytes | None:
    found = sync(store.get(key, PROTOTYPE))
    return None if found is None else found.to_bytes()


def put(store: Any, key: str, data: bytes) -> None:
    sync(store.set(key, buffer(data)))


def keys_of(store: Any, prefix: str = "") -> list[str]:
    return sorted(sync(_collect_aiterator(store.list_prefix(prefix))))


def names_of(store: Any, prefix: str) -> list[str]:
    return sorted(sync(_collect_aiterator(store.list_dir(prefix))))


def coordinates_of(session: Any, path: str) -> list[tuple[int, ...]]:
    return sorted(sync(_collect_aiterator(session.chunk_coordinates(path))))


def changes(diff: Any) -> dict[str, Any]:
    """A `Diff` as plain data."""
    kinds = ("new_groups", "new_arrays", "deleted_groups", "deleted_arrays", "updated_groups", "updated_arrays")
    found: dict[str, Any] = {kind: sorted(getattr(diff, kind)) for kind in kinds}
    found["updated_chunks"] = {path: [list(c) for c in coords] for path, coords in diff.updated_chunks.items()}
    return found


def paths_of(keys: Iterable[str]) -> list[str]:
    """Paths of the nodes whose documents are among the keys."""
    return sorted("/" + key.removesuffix("zarr.json").rstrip("/") for key in keys if key.endswith("zarr.json"))


def contents(session: Any) -> dict[str, Any]:
    """What the store of a session shows: every key with its size and bytes, every directory, every chunk."""
    return sync(_contents(session))


async def _contents(session: Any) -> dict[str, Any]:
    store = session.store
    keys = sorted([key async for key in store.list_prefix("")])
    paths = paths_of(keys)
    buffers, sizes, exist = await asyncio.gather(
        asyncio.gather(*(store.get(key, PROTOTYPE) for key in keys)),
        asyncio.gather(*(store.getsize(key) for key in keys)),
        asyncio.gather(*(store.exists(key) for key in keys)),
    )
    values = {key: None if found is None else found.to_bytes() for key, found in zip(keys, buffers, strict=True)}
    arrays = [path for path in paths if b'"array"' in (values[f"{path}/zarr.json".lstrip("/")] or b"")]
    places = {"", *(path.strip("/") for path in paths)}
    for key in keys:  # and every directory of chunks
        parts = key.split("/")
        places.update("/".join(parts[:n]) for n in range(1, len(parts)))
    below, names, coordinates = await asyncio.gather(
        asyncio.gather(*(_sorted(store.list_prefix(path.strip("/"))) for path in paths)),
        asyncio.gather(*(_sorted(store.list_dir(place)) for place in sorted(places))),
        asyncio.gather(*(_sorted(session.chunk_coordinates(path)) for path in arrays)),
    )
    return {
        "values": values,
        "repeated": sorted({key for key, count in Counter(keys).items() if count > 1}),
        "sizes": dict(zip(keys, sizes, strict=True)),
        "exist": all(exist),
        "below": dict(zip(paths, below, strict=True)),
        "names": dict(zip(sorted(places), names, strict=True)),
        "coordinates": {path: sorted(set(coords)) for path, coords in zip(arrays, coordinates, strict=True)},
        "locations": sorted(await session.all_virtual_chunk_locations_async()),
    }


async def _sorted(items: AsyncIterable[Any]) -> list[Any]:
    return sorted([item async for item in items])


def inspected(repo: Any, snapshot_id: str) -> dict[str, Any]:
    """`inspect_snapshot`, without the order that no one promises."""
    found: dict[str, Any] = json.loads(repo.inspect_snapshot(snapshot_id))
    found["manifests"].sort(key=lambda manifest: manifest["id"])
    for node in found["nodes"]:
        node.get("manifest_refs", []).sort(key=lambda ref: (ref["extents"], ref["id"]))
    return found


def described(info: Any) -> dict[str, Any]:
    """A `SnapshotInfo` as plain data."""
    manifests = sorted((m.id, m.size_bytes, m.num_chunk_refs) for m in info.manifests)
    return {name: getattr(info, name) for name in ("id", "parent_id", "written_at", "message", "metadata")} | {
        "manifests": manifests
    }


def native_bytes(repo: Any) -> int:
    """Bytes of all chunk objects that are in use, asked for as the release of the original wants it."""
    if hasattr(repo, "chunk_storage_stats"):
        return int(repo.chunk_storage_stats().native_bytes)
    return int(repo.total_chunks_storage())


def refs_of(repo: Any) -> dict[str, dict[str, str]]:
    return {
        "branches": {name: repo.lookup_branch(name) for name in sorted(repo.list_branches())},
        "tags": {name: repo.lookup_tag(name) for name in sorted(repo.list_tags())},
    }


def picture(repo: Any) -> dict[str, Any]:
    """Everything that a repository shows: refs, histories, every version's content, all differences."""
    refs = refs_of(repo)
    histories = {name: [described(s) for s in repo.ancestry(branch=name)] for name in refs["branches"]}
    histories |= {f"tag {name}": [described(s) for s in repo.ancestry(tag=name)] for name in refs["tags"]}
    lines = [[s["id"] for s in history] for history in histories.values()]
    ids = sorted({id for line in lines for id in line})
    pairs = {(line[i + 1], line[i]) for line in lines for i in range(len(line) - 1)}
    pairs |= {(line[-1], id) for line in lines for id in line[:-1]}
    return {
        "refs": refs,
        "histories": histories,
        "lookups": {id: described(repo.lookup_snapshot(id)) for id in ids},
        "inspected": {id: inspected(repo, id) for id in ids},
        "contents": {id: contents(repo.readonly_session(snapshot_id=id)) for id in ids},
        "differences": {f"{a} {b}": changes(repo.diff(from_snapshot_id=a, to_snapshot_id=b)) for a, b in sorted(pairs)},
    }


def without_chance(seen: dict[str, Any], ids: list[str]) -> dict[str, Any]:
    """A picture without what depends on chance, clock and compression; snapshots are called by their turn."""
    names = {"1CECHNKREP0F1RSTCMT0": "first", **{id: f"commit {n}" for n, id in enumerate(ids)}}

    def info(snapshot: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": names[snapshot["id"]],
            "parent": names.get(snapshot["parent_id"]),
            "message": snapshot["message"],
            "metadata": snapshot["metadata"],
            "references": sorted(count for _, _, count in snapshot["manifests"]),
        }

    def nodes(content: dict[str, Any]) -> list[Any]:
        return [
            (node["path"], node["node_type"], [ref["extents"] for ref in node.get("manifest_refs", [])])
            for node in content["nodes"]
        ]

    return {
        "refs": {kind: {name: names[id] for name, id in refs.items()} for kind, refs in seen["refs"].items()},
        "histories": {name: [info(s) for s in history] for name, history in seen["histories"].items()},
        "nodes": {names[id]: nodes(content) for id, content in seen["inspected"].items()},
        "contents": {names[id]: content for id, content in seen["contents"].items()},
        "differences": {
            " to ".join(names[id] for id in pair.split()): found for pair, found in seen["differences"].items()
        },
    }


def kinds_of(engine: Engine, act: Callable[[], Any]) -> set[str]:
    """What an act ends in: the public classes that its exception belongs to, or nothing when it succeeds."""
    classes = {
        "IcechunkError": engine.ic.IcechunkError,
        "ConflictError": engine.ic.ConflictError,
        "KeyError": KeyError,
        "ValueError": ValueError,
        "TypeError": TypeError,
        "OverflowError": OverflowError,
    }
    try:
        act()
    except Exception as error:  # noqa: BLE001 - its class is the answer
        found = {name for name, cls in classes.items() if isinstance(error, cls)}
        return found or {type(error).__name__}
    return set()


def apart(one: Any, other: Any, at: str = "") -> list[str]:
    """Where two pieces of plain data differ, one line each; nothing for equal ones."""
    if one == other:
        return []
    if isinstance(one, dict) and isinstance(other, dict):
        missing = object()
        keys = sorted({*one, *other}, key=str)
        pairs = [(f"{at}[{key!r}]", one.get(key, missing), other.get(key, missing)) for key in keys]
        return [
            line
            for place, a, b in pairs
            for line in (
                [f"{place} only in the {'second' if a is missing else 'first'}"]
                if missing in (a, b)
                else apart(a, b, place)
            )
        ]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [line for n, (a, b) in enumerate(zip(one, other, strict=True)) for line in apart(a, b, f"{at}[{n}]")]
    return [f"{at}: {one!r} != {other!r}"]
