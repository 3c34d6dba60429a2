"""A repository as plain dictionaries: versions, what a session shows, what moves over what, and what is let go.

Knows no storage and no ids of nodes: a node gets a number when it is made, as it gets an id in the engine.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime

Coord = tuple[int, ...]
_numbers = itertools.count(1)


@dataclass
class Node:
    """A group (without shape) or an array with one byte per chunk.

    Attributes
    ----------
    base
        Chunks of the version that the session started from, those outside the present shape too.
    edits
        What the session did to chunks (``None``: deleted).
    updated, cleared
        The session gave it another document; and another number of dimensions, so that the chunks of `base` are gone.
    """

    document: bytes
    shape: tuple[int, ...] | None = None
    number: int = field(default_factory=lambda: next(_numbers))
    base: dict[Coord, bytes] = field(default_factory=dict)
    edits: dict[Coord, bytes | None] = field(default_factory=dict)
    updated: bool = False
    cleared: bool = False

    @property
    def is_array(self) -> bool:
        return self.shape is not None

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple(max(1, n) for n in self.shape or ())

    @property
    def coords(self) -> list[Coord]:
        return list(itertools.product(*map(range, self.grid))) if self.is_array else []

    @property
    def chunks(self) -> dict[Coord, bytes]:
        found = {coord: self.edits.get(coord, self.base.get(coord)) for coord in self.coords}
        return {coord: data for coord, data in found.items() if data is not None}

    def put(self, document: bytes, shape: tuple[int, ...] | None) -> None:
        """Another document of the same node."""
        if document == self.document:
            return
        self.document, self.updated = document, True
        if self.shape is None or shape is None:
            return
        if len(shape) != len(self.shape):
            self.cleared |= bool(self.base)
            self.base, self.edits = {}, {}
        self.shape = shape
        inside = set(self.coords)
        self.edits = {coord: data if coord in inside else None for coord, data in self.edits.items()}

    def committed(self) -> Node:
        return Node(self.document, self.shape, self.number, self.chunks)


Tree = dict[str, Node]  # by path without slashes at its ends


def key_of(path: str, coord: Coord | None = None) -> str:
    if coord is None:
        return f"{path}/zarr.json".lstrip("/")
    return "/".join([*([path] if path else []), "c", *map(str, coord)])


def is_at_or_below(path: str, top: str) -> bool:
    return not top or path == top or path.startswith(top + "/")


def content(tree: Tree) -> dict[str, bytes]:
    """Keys and bytes that a store shows."""
    found = {key_of(path): node.document for path, node in tree.items()}
    found |= {key_of(path, coord): data for path, node in tree.items() for coord, data in node.chunks.items()}
    return found


# -- what changed ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Log:
    """What a session or a commit did, by numbers of nodes; the values are paths."""

    new: Mapping[int, str]
    updated: Mapping[int, str]
    deleted: Mapping[int, str]
    edited: Mapping[int, frozenset[Coord]]

    def __bool__(self) -> bool:
        return bool(self.new or self.updated or self.deleted or self.edited)


def log_of(base: Tree, tree: Tree) -> Log:
    before = {node.number for node in base.values()}
    now = {node.number for node in tree.values()}
    return Log(
        new={node.number: path for path, node in tree.items() if node.number not in before},
        updated={n.number: path for path, n in tree.items() if n.number in before and n.updated},
        deleted={node.number: path for path, node in base.items() if node.number not in now},
        edited={n.number: frozenset(n.edits).intersection(n.coords) for n in tree.values() if n.edits},
    )


def described(logs: Iterable[Log], trees: Iterable[Tree]) -> dict[str, object]:
    """Logs as a difference shows them: by path in one of the versions; what neither of them has is left out."""
    nodes = {node.number: (path, node.is_array) for tree in trees for path, node in tree.items()}
    logs = list(logs)
    found: dict[str, object] = {}
    for kind in ("new", "deleted", "updated"):
        numbers = {number for log in logs for number in getattr(log, kind)} & nodes.keys()
        for what, is_array in (("groups", False), ("arrays", True)):
            found[f"{kind}_{what}"] = sorted("/" + nodes[n][0] for n in numbers if nodes[n][1] is is_array)
    chunks: dict[str, set[Coord]] = {}
    for log in logs:
        for number in log.edited.keys() & nodes.keys():
            chunks.setdefault("/" + nodes[number][0], set()).update(log.edited[number])
    found["updated_chunks"] = {path: [list(c) for c in sorted(coords)] for path, coords in chunks.items() if coords}
    return found


# -- versions ----------------------------------------------------------------------------------------------------


@dataclass
class Version:
    """A commit."""

    tree: Tree
    parent: str | None
    log: Log
    written_at: datetime


@dataclass
class Draft:
    """The changes of a session on a version."""

    base: str
    tree: Tree
    superseded: bool = False


@dataclass(frozen=True)
class Choice:
    """What a solver does."""

    chunks: str  # "fail", "ours" or "theirs"
    deletions_fail: bool


@dataclass
class Model:
    """A repository: versions by id, branches and tags."""

    versions: dict[str, Version] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    used_tags: set[str] = field(default_factory=set)

    def begin(self, id: str, written_at: datetime) -> None:
        """The version that every repository starts with."""
        self.versions[id] = Version({}, None, log_of({}, {}), written_at)
        self.branches["main"] = id

    def draft(self, base: str) -> Draft:
        return Draft(base, deepcopy(self.versions[base].tree))

    def log(self, draft: Draft) -> Log:
        return log_of(self.versions[draft.base].tree, draft.tree)

    def add(self, id: str, draft: Draft, written_at: datetime) -> None:
        """A draft becomes a version."""
        tree = {path: node.committed() for path, node in draft.tree.items()}
        self.versions[id] = Version(tree, draft.base, self.log(draft), written_at)

    def history(self, id: str) -> list[str]:
        """A version and those before it, the newest first."""
        found: list[str] = []
        at: str | None = id
        while at is not None:
            found.append(at)
            at = self.versions[at].parent
        return found

    # -- rebase --------------------------------------------------------------------------------------------------

    def rebase(self, draft: Draft, tip: str, choice: Choice) -> str | None:
        """Move a draft over the commits up to `tip`; the first that it cannot pass, if there is one."""
        start = self.log(draft)
        at_start = {node.number: node for node in self.versions[draft.base].tree.values()}
        dirty = bool(start) or draft.superseded
        history = self.history(tip)
        for id in reversed(history[: history.index(draft.base)]):
            ours = replace(self.log(draft), deleted=start.deleted)  # also what others deleted on the way
            taken = conflicts(ours, at_start, self.versions[id].log, self.versions[tip].tree, choice)
            if taken is None:
                return id
            for number, coords in taken:
                for node in draft.tree.values():
                    if node.number == number:
                        node.edits = {c: data for c, data in node.edits.items() if c not in coords}
            draft.tree = moved(self.log(draft), draft.tree, self.versions[id].tree)
            draft.base = id
            draft.superseded = dirty and not self.log(draft)
        return None

    # -- upkeep --------------------------------------------------------------------------------------------------

    def expire(self, moment: datetime, *, branches: bool, tags: bool) -> set[str]:
        """Histories lose what was written before a moment, but for their tips and the first version."""
        released: set[str] = set()
        for refs, doomed in ((self.tags, tags), (self.branches, branches)):
            for name, tip in sorted(refs.items()):
                line = self.history(tip)
                young = [id for id in line if self.versions[id].written_at >= moment]
                last = young[-1] if young else tip
                if self.versions[last].parent not in {None, line[-1]}:
                    released.update(set(line[:-1]) - set(young))
                    self.versions[last].parent = line[-1]
                if doomed and not (refs is self.branches and name == "main") and tip not in young:
                    del refs[name]
        return released

    def kept(self, young: Iterable[str]) -> set[str]:
        """Versions that refs or young versions lead to."""
        starts = {*self.branches.values(), *self.tags.values(), *young}
        return {id for start in starts for id in self.history(start)}

    def forget(self, ids: Iterable[str]) -> None:
        for id in ids:
            del self.versions[id]


def conflicts(
    ours: Log, base: Mapping[int, Node], theirs: Log, tip: Tree, choice: Choice
) -> list[tuple[int, frozenset[Coord]]] | None:
    """Chunks of ours that give way to a commit, by node; ``None`` when the commit cannot be passed."""
    at_tip = {path: node for path, node in tip.items() if node.number not in ours.deleted}
    for path in ours.new.values():
        if path in at_tip or any(a in at_tip and at_tip[a].is_array for a in _above(path)):
            return None
    if ours.updated.keys() & (theirs.updated.keys() | theirs.deleted.keys()):
        return None
    if ours.edited.keys() & (theirs.updated.keys() | theirs.deleted.keys()):
        return None
    for number, path in ours.deleted.items():
        now = tip.get(path)  # what they made anew there counts as well, if it is of the same kind
        same_kind = now is not None and now.is_array is base[number].is_array
        if now is not None and same_kind and choice.deletions_fail and now.number in {*theirs.updated, *theirs.edited}:
            return None
    both = [(n, ours.edited[n] & theirs.edited[n]) for n in ours.edited.keys() & theirs.edited.keys()]
    both = [(number, coords) for number, coords in both if coords]
    if both and choice.chunks == "fail":
        return None
    return both if choice.chunks == "theirs" else []


def _above(path: str) -> Iterator[str]:
    while path:
        path = path.rpartition("/")[0]
        yield path


def moved(ours: Log, tree: Tree, onto: Tree) -> Tree:
    """The tree of a session on another version, which its changes do not contradict."""
    found = {path: node.committed() for path, node in onto.items() if node.number not in ours.deleted}
    for path, node in tree.items():
        if node.number in ours.new:
            found[path] = node
        elif path in found and found[path].number == node.number:
            now = found[path]
            if node.updated:
                now.document, now.shape, now.updated, now.cleared = node.document, node.shape, True, node.cleared
                if node.cleared:
                    now.base = {}
            now.edits = node.edits
    return found
