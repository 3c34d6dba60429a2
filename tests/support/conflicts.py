"""What two sessions can do to one repository at the same time, told once for either library."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import zarr

Act = Callable[[zarr.Group], Any]
_numbers = itertools.count()


_made: dict[str, tuple[Any, str]] = {}


def base(engine: Any) -> tuple[Any, str]:
    """A repository in memory and the version where both sessions start; made once, every race has its own branch."""
    if engine.name not in _made:
        repo = engine.create(None)
        session = repo.writable_session("main")
        fill(session.store)
        _made[engine.name] = repo, session.commit("base")
    return _made[engine.name]


def fill(store: Any) -> None:
    """Arrays ``a``, ``s``, ``g/b``, ``g/h/c`` of 4 x 4 chunks, groups ``g``, ``g/h``, ``h``."""
    root = zarr.create_group(store)
    for name in ("a", "s", "g/b", "g/h/c"):
        array = root.create_array(name, shape=(4, 4), chunks=(1, 1), dtype="i4", fill_value=-1, compressors=None)
        array[...] = 1
    root.create_group("h")


def set_chunk(path: str, *coord: int, value: int = 7) -> Act:
    def act(root: zarr.Group) -> None:
        root[path][coord] = value

    return act


def attrs(path: str, **values: Any) -> Act:
    def act(root: zarr.Group) -> None:
        (root[path] if path else root).attrs.update(values or {"x": 1})

    return act


def delete(path: str) -> Act:
    def act(root: zarr.Group) -> None:
        del root[path]

    return act


def delete_chunk(path: str, *coord: int) -> Act:
    def act(root: zarr.Group) -> None:
        from zarr.core.sync import sync

        sync(root.store.delete("/".join([path, "c", *map(str, coord)])))

    return act


def resize(path: str, *shape: int) -> Act:
    def act(root: zarr.Group) -> None:
        root[path].resize(shape)

    return act


def group(path: str) -> Act:
    return lambda root: root.create_group(path)


def bare_group(path: str) -> Act:
    """A group whose parents nobody looks at, as another writer leaves them."""

    def act(root: zarr.Group) -> None:
        from zarr.core.buffer import default_buffer_prototype
        from zarr.core.sync import sync

        document = b'{"zarr_format":3,"node_type":"group","attributes":{}}'
        sync(root.store.set(f"{path}/zarr.json", default_buffer_prototype().buffer.from_bytes(document)))

    return act


def array(path: str, shape: tuple[int, ...] = (2,)) -> Act:
    def act(root: zarr.Group) -> None:
        root.create_array(path, shape=shape, chunks=(1,) * len(shape), dtype="i4", compressors=None)[...] = 3

    return act


def both(*acts: Act) -> Act:
    def act(root: zarr.Group) -> None:
        for one in acts:
            one(root)

    return act


@dataclass(frozen=True)
class Pair:
    """What was committed first, what is mine, and what comes of it.

    `detected`: conflicts as text; `solved`: whether the basic solver solves them; `deviation`: what the original does
    differently, by its name in `engines.DEVIATIONS`.
    """

    name: str
    theirs: Act
    mine: Act
    detected: list[str] = field(default_factory=list)
    solved: bool = True
    deviation: str | None = None

    def __str__(self) -> str:
        return self.name


def no(name: str, theirs: Act, mine: Act, *detected: str, deviation: str | None = None) -> Pair:
    return Pair(name, theirs, mine, list(detected), solved=False, deviation=deviation)


def ok(name: str, theirs: Act, mine: Act, *detected: str, deviation: str | None = None) -> Pair:
    return Pair(name, theirs, mine, list(detected), deviation=deviation)


_EXISTS, _DOUBLE, _CHUNK = "New node conflicts with existing node", "Zarr metadata double update", "Chunk double update"
_GONE = "/a: Delete of updated array"
_IN_UPDATED, _IN_DELETED = "Chunks updated in updated array", "Chunks updated in deleted array"

PAIRS = [
    ok("other chunks", set_chunk("a", 0, 0), set_chunk("a", 0, 1)),
    ok("other arrays", set_chunk("a", 0, 0), set_chunk("s", 0, 0)),
    ok("same chunk", set_chunk("a", 0, 0), set_chunk("a", 0, 0, value=8), f"/a: {_CHUNK} [[0, 0]]"),
    ok("chunk, deleted chunk", set_chunk("a", 1, 0), delete_chunk("a", 1, 0), f"/a: {_CHUNK} [[1, 0]]"),
    ok("deleted chunk, chunk", delete_chunk("a", 1, 0), set_chunk("a", 1, 0), f"/a: {_CHUNK} [[1, 0]]"),
    ok(
        "some chunks the same",
        set_chunk("a", slice(0, 2), slice(1, 3)),  # type: ignore[arg-type]
        set_chunk("a", slice(1, 4), slice(0, 2), value=8),  # type: ignore[arg-type]
        f"/a: {_CHUNK} [[1, 1]]",
    ),
    no("array attrs twice", attrs("a"), attrs("a", y=1), f"/a: {_DOUBLE}"),
    no("array attrs twice, the same", attrs("a"), attrs("a"), f"/a: {_DOUBLE}"),
    no("group attrs twice", attrs("g"), attrs("g", y=1), f"/g: {_DOUBLE}"),
    no("root attrs twice", attrs(""), attrs("", y=1), f"/: {_DOUBLE}"),
    ok("chunk, delete array", set_chunk("a", 0, 0), delete("a"), "/a: Delete of updated array"),
    ok("attrs, delete array", attrs("a"), delete("a"), "/a: Delete of updated array"),
    ok("attrs, delete group", attrs("g"), delete("g"), "/g: Delete of updated group"),
    ok("chunk below, delete group", set_chunk("g/h/c", 0, 0), delete("g"), "/g/h/c: Delete of updated array"),
    ok("new array below, delete group", array("g/new"), delete("g")),
    ok("delete group, new array below", delete("g"), array("g/new")),
    no("delete array, chunk", delete("a"), set_chunk("a", 0, 0), f"/a: {_IN_DELETED}"),
    no("delete array, attrs", delete("a"), attrs("a"), "/a: Zarr metadata update of deleted array"),
    no("delete group, attrs", delete("g"), attrs("g"), "/g: Zarr metadata update of deleted group"),
    no(
        "delete array, attrs and chunk",
        delete("a"),
        both(attrs("a"), set_chunk("a", 0, 0)),
        "/a: Zarr metadata update of deleted array",
        f"/a: {_IN_DELETED}",
    ),
    ok("delete twice", delete("a"), delete("a")),
    ok("delete group twice", delete("g"), delete("g")),
    ok("delete array, delete its group", delete("g/b"), delete("g")),
    no("new array twice", array("b"), array("b"), f"/b: {_EXISTS}"),
    no("new group, new array", group("b"), array("b"), f"/b: {_EXISTS}"),
    no("new array, new group", array("b"), group("b"), f"/b: {_EXISTS}"),
    no("new group twice", group("b"), group("b"), f"/b: {_EXISTS}"),
    ok("different new arrays", array("b"), array("c")),
    no("new array, new below it", array("b"), bare_group("b/c"), "/b: New node in invalid group"),
    no("attrs, chunk", attrs("a"), set_chunk("a", 0, 0), f"/a: {_IN_UPDATED}"),
    no("resize, chunk", resize("a", 6, 6), set_chunk("a", 0, 0), f"/a: {_IN_UPDATED}"),
    no(
        "attrs and chunk, chunk",
        both(attrs("a"), set_chunk("a", 0, 0)),
        set_chunk("a", 0, 0),
        f"/a: {_IN_UPDATED}",
        f"/a: {_CHUNK} [[0, 0]]",
    ),
    ok("chunk, attrs", set_chunk("a", 0, 0), attrs("a")),
    ok("chunk, grow", set_chunk("a", 3, 3), resize("a", 6, 6)),
    ok("new node, group attrs", array("g/new"), attrs("g")),
    ok("group attrs, new node", attrs("g"), array("g/new")),
    ok("unrelated, overwritten", set_chunk("s", 0, 0), both(delete("a"), array("a")), deviation="overwriting"),
    ok(
        "unrelated, overwritten by a group",
        set_chunk("s", 0, 0),
        both(delete("a"), group("a")),
        deviation="overwriting",
    ),
    no(
        "chunk, overwritten and attrs",
        both(set_chunk("a", 0, 0), attrs("g")),
        both(delete("a"), attrs("g", y=2)),
        f"/g: {_DOUBLE}",
        "/a: Delete of updated array",
    ),
    no(
        "overwritten twice",
        both(delete("a"), array("a")),
        both(delete("a"), array("a")),
        f"/a: {_EXISTS}",
        _GONE,
        deviation="overwriting twice",
    ),
    ok("overwritten, deleted", both(delete("a"), array("a")), delete("a"), _GONE),
    ok("overwritten by a group, deleted", both(delete("a"), group("a")), delete("a")),
    ok(
        "new array and chunks elsewhere", both(array("n"), set_chunk("s", 2, 2)), both(array("m"), set_chunk("s", 1, 1))
    ),
]


def told(conflicts: list[Any]) -> list[str]:
    """Conflicts as text, with the chunks, if there are any."""
    return [str(c) + (f" {c.conflicted_chunks}" if c.conflicted_chunks is not None else "") for c in conflicts]


def race(engine: Any, pair: Pair) -> tuple[Any, Any, str]:
    """A repository, my session on a branch where theirs is committed, not yet rebased, and the id of theirs."""
    repo, start = base(engine)
    branch = f"race {next(_numbers)}"
    repo.create_branch(branch, start)
    first, mine = repo.writable_session(branch), repo.writable_session(branch)
    pair.theirs(zarr.open_group(first.store, mode="r+"))
    theirs = first.commit("theirs")
    pair.mine(zarr.open_group(mine.store, mode="r+"))
    return repo, mine, theirs


def values(store: Any) -> dict[str, Any]:
    """Attributes of every node, and the values of arrays."""
    root = zarr.open_group(store, mode="r")
    found: dict[str, Any] = {"": dict(root.attrs)}
    for path, node in root.members(max_depth=None):
        found[path] = (dict(node.attrs), node[...].tolist() if isinstance(node, zarr.Array) else None)
    return found


def stored_keys(repo: Any) -> list[str]:
    """Keys of all objects of a repository of ours."""

    async def keys() -> list[str]:
        return [info.key async for page in repo._opened.assets.objects.list("") for info in page]

    return asyncio.run(keys())
