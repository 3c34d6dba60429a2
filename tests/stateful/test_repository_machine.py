"""A repository against a model of dictionaries: two sessions, branches, tags, resets, and every version read back.

The model of an array is what its base holds and what the session did to it; everything else is plain copying.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from zarr.core.sync import sync

from icechunk_virtual import (
    ChunkRefs,
    ConflictError,
    IcechunkError,
    ManifestConfig,
    ManifestSplitCondition,
    ManifestSplitDimCondition,
    ManifestSplittingConfig,
    Repository,
    RepositoryConfig,
    Session,
    Storage,
    in_memory_storage,
    local_filesystem_storage,
)
from icechunk_virtual.errors import InvalidChunkIndex, NodeExists, NothingToCommit, RefExists, RefNotFound
from tests.support.hierarchies import (
    array_document,
    coordinates_of,
    delete,
    get,
    group_document,
    keys_of,
    names_of,
    put,
    values_of,
)

PATHS = ["", "a", "a-x", "a.x", "a/b", "a/b/d", "a/c", "z"]  # siblings that sort around the slash; a node called `c`
SHAPES = [(), (0,), (1,), (3,), (5,), (2, 3), (3, 2), (4, 4)]
BRANCHES = ["main", "dev", "new"]
TAGS = ["v1", "v2"]
SLOT = st.sampled_from([0, 0, 0, 1])  # mostly one session, so that steps build on each other
Coord = tuple[int, ...]


@dataclass
class Array:
    """Document, grid, chunks of the base, and what the session did (``None``: deleted)."""

    document: bytes
    shape: tuple[int, ...]
    base: dict[Coord, bytes] = field(default_factory=dict)
    edits: dict[Coord, bytes | None] = field(default_factory=dict)

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple(max(1, n) for n in self.shape)

    @property
    def coords(self) -> list[Coord]:
        return list(itertools.product(*map(range, self.grid)))

    @property
    def chunks(self) -> dict[Coord, bytes]:
        found = {coord: self.edits.get(coord, self.base.get(coord)) for coord in self.coords}
        return {coord: data for coord, data in found.items() if data is not None}

    def resize(self, document: bytes, shape: tuple[int, ...]) -> None:
        self.document = document
        if len(shape) != len(self.shape):
            self.base, self.edits = {}, {}
        self.shape = shape
        inside = set(self.coords)
        self.edits = {coord: data if coord in inside else None for coord, data in self.edits.items()}

    def committed(self) -> Array:
        return Array(self.document, self.shape, self.chunks)


Tree = dict[str, bytes | Array]  # path without slashes -> document of a group, or an array


def key_of(path: str, coord: Coord | None = None) -> str:
    if coord is None:
        return f"{path}/zarr.json".lstrip("/")
    return "/".join([*([path] if path else []), "c", *map(str, coord)])


def content(tree: Tree) -> dict[str, bytes]:
    found = {}
    for path, node in tree.items():
        found[key_of(path)] = node.document if isinstance(node, Array) else node
        if isinstance(node, Array):
            found.update((key_of(path, coord), data) for coord, data in node.chunks.items())
    return found


@dataclass
class Slot:
    """A session and what it should show."""

    session: Session
    branch: str
    base: str
    tree: Tree


class RepositoryMachine(RuleBasedStateMachine):
    """Rules act on both, the repository and the model."""

    storage: Callable[[], Storage]

    def __init__(self) -> None:
        super().__init__()
        self.counter = 0

    @initialize(split=st.sampled_from([None, 1, 2]), threshold=st.sampled_from([0, 4, 512]))
    def create(self, split: int | None, threshold: int) -> None:
        config = RepositoryConfig(inline_chunk_threshold_bytes=threshold)
        if split is not None:
            sizes = {ManifestSplitCondition.AnyArray(): {ManifestSplitDimCondition.Any(): split}}
            config.manifest = ManifestConfig(splitting=ManifestSplittingConfig.from_dict(sizes))
        self.place = type(self).storage()
        self.repo: Repository = Repository.create(self.place, config)
        first = self.repo.lookup_branch("main")
        self.commits: dict[str, Tree] = {first: {}}
        self.parents: dict[str, str | None] = {first: None}
        self.branches = {"main": first}
        self.tags: dict[str, str] = {}
        self.used_tags: set[str] = set()
        self.slots = [self.open_slot("main") for _ in range(2)]
        self.begin()

    def begin(self) -> None:
        """Something to change: siblings around the slash, arrays with all their chunks."""
        for path in ("", "a"):
            self.set_group(0, path, 0)
        for path, shape in (("a-x", (5,)), ("a/b", (2, 3)), ("a.x", ())):
            self.set_array(0, path, shape, 0)
            array = self.arrays(0)[path]
            for coord in array.coords:
                array.edits[coord] = self.payload(len(path))
                put(self.slots[0].session.store, key_of(path, coord), array.edits[coord] or b"")
        self.commit(0, False)
        self.slots[1] = self.open_slot("main")

    def open_slot(self, branch: str) -> Slot:
        base = self.branches[branch]
        return Slot(self.repo.writable_session(branch), branch, base, deepcopy(self.commits[base]))

    def check(self, slot: Slot) -> None:
        """Listings of a session equal the model's."""
        expected = content(slot.tree)
        assert keys_of(slot.session.store) == sorted(expected)
        if expected != content(self.commits[slot.base]):
            assert slot.session.has_uncommitted_changes

    # -- nodes -------------------------------------------------------------------------------------------------

    @rule(i=SLOT, path=st.sampled_from(PATHS), n=st.integers(0, 3))
    def set_group(self, i: int, path: str, n: int) -> None:
        slot, document = self.slots[i], group_document(n=n)
        if isinstance(slot.tree.get(path), Array):
            with pytest.raises(NodeExists):
                put(slot.session.store, key_of(path), document)
        else:
            put(slot.session.store, key_of(path), document)
            slot.tree[path] = document
        self.check(slot)

    @rule(i=SLOT, path=st.sampled_from(PATHS), shape=st.sampled_from(SHAPES), n=st.integers(0, 1))
    def set_array(self, i: int, path: str, shape: tuple[int, ...], n: int) -> None:
        slot, document = self.slots[i], array_document(shape, attributes={"n": n})
        node = slot.tree.get(path)
        if isinstance(node, bytes):
            with pytest.raises(NodeExists):
                put(slot.session.store, key_of(path), document)
        else:
            put(slot.session.store, key_of(path), document)
            if node is None:
                slot.tree[path] = Array(document, shape)
            else:
                node.resize(document, shape)
        self.check(slot)

    @rule(data=st.data(), i=SLOT)
    def resize(self, data: st.DataObject, i: int) -> None:
        drawn = self.draw_array(data, i)
        if drawn is None:
            return
        path, array = drawn
        shape = tuple(data.draw(st.integers(0, 5)) for _ in array.shape)
        document = array_document(shape)
        put(self.slots[i].session.store, key_of(path), document)
        array.resize(document, shape)
        self.check(self.slots[i])

    @rule(data=st.data(), i=SLOT, as_dir=st.booleans())
    def delete_node(self, data: st.DataObject, i: int, as_dir: bool) -> None:
        slot = self.slots[i]
        path = data.draw(st.sampled_from([*slot.tree, "nowhere"]))
        if as_dir:
            sync(slot.session.store.delete_dir(path))
        else:
            delete(slot.session.store, key_of(path))
        for other in list(slot.tree):
            if not path or other == path or other.startswith(path + "/"):
                del slot.tree[other]
        self.check(slot)

    # -- chunks ------------------------------------------------------------------------------------------------

    def arrays(self, i: int) -> dict[str, Array]:
        return {path: node for path, node in self.slots[i].tree.items() if isinstance(node, Array)}

    def draw_array(self, data: st.DataObject, i: int) -> tuple[str, Array] | None:
        arrays = self.arrays(i)
        return data.draw(st.sampled_from(sorted(arrays.items(), key=lambda item: item[0]))) if arrays else None

    def payload(self, size: int) -> bytes:
        """Bytes that occur once."""
        self.counter += 1
        return self.counter.to_bytes(3, "big") + bytes(size) if size else b""

    @rule(data=st.data(), i=SLOT, size=st.sampled_from([0, 1, 600]))
    def set_chunk(self, data: st.DataObject, i: int, size: int) -> None:
        drawn = self.draw_array(data, i)
        if drawn is None:
            return
        path, array = drawn
        coord = data.draw(st.sampled_from(array.coords))
        array.edits[coord] = self.payload(size)
        put(self.slots[i].session.store, key_of(path, coord), array.edits[coord] or b"")
        self.check(self.slots[i])

    @rule(data=st.data(), i=SLOT)
    def delete_chunk(self, data: st.DataObject, i: int) -> None:
        drawn = self.draw_array(data, i)
        if drawn is None:
            return
        path, array = drawn
        coord = data.draw(st.sampled_from(array.coords))
        delete(self.slots[i].session.store, key_of(path, coord))
        array.edits[coord] = None
        self.check(self.slots[i])

    @rule(data=st.data(), i=SLOT)
    def chunk_outside(self, data: st.DataObject, i: int) -> None:
        drawn = self.draw_array(data, i)
        if drawn is None:
            return
        path, array = drawn
        axis = data.draw(st.integers(0, len(array.grid)))
        coord = (
            array.grid if axis == len(array.grid) else tuple(n if k == axis else 0 for k, n in enumerate(array.grid))
        )
        coord = coord or (0,)
        with pytest.raises(InvalidChunkIndex):
            put(self.slots[i].session.store, key_of(path, coord), b"x")
        assert get(self.slots[i].session.store, key_of(path, coord)) is None
        self.check(self.slots[i])

    @rule(data=st.data(), i=SLOT, size=st.sampled_from([1, 600]))
    def set_many_chunks(self, data: st.DataObject, i: int, size: int) -> None:
        drawn = self.draw_array(data, i)
        if drawn is None:
            return
        path, array = drawn
        coords = data.draw(st.lists(st.sampled_from(array.coords), min_size=1, unique=True))
        payloads = [self.payload(size) for _ in coords]
        refs = ChunkRefs.inline(np.array(coords, np.uint32).reshape(len(coords), len(array.grid)), payloads)
        assert self.slots[i].session.store.set_chunk_refs(path, refs) is None
        array.edits.update(zip(coords, payloads, strict=True))
        self.check(self.slots[i])

    @rule(data=st.data(), i=SLOT)
    def delete_chunks_below(self, data: st.DataObject, i: int) -> None:
        drawn = self.draw_array(data, i)
        if drawn is None:
            return
        path, array = drawn
        coord = data.draw(st.sampled_from(array.coords))
        given = coord[: data.draw(st.integers(0, len(coord)))]
        prefix = key_of(path, given)
        if any(other == prefix or other.startswith(prefix + "/") for other in self.slots[i].tree):
            return  # a node is called as the chunks are: then the node goes
        sync(self.slots[i].session.store.delete_dir(prefix))
        array.edits.update((c, None) for c in array.chunks if c[: len(given)] == given)
        self.check(self.slots[i])

    # -- versions ----------------------------------------------------------------------------------------------

    @rule(i=SLOT, fresh=st.booleans())
    def commit(self, i: int, fresh: bool) -> None:
        slot = self.slots[i]
        tip = self.branches.get(slot.branch)
        dirty, status = slot.session.has_uncommitted_changes, slot.session.status()
        if tip != slot.base:
            with pytest.raises(ConflictError) as caught:
                slot.session.commit("lost")
            assert (caught.value.expected_parent, caught.value.actual_parent) == (slot.base, tip)
            self.check(slot)
            return
        if not dirty:
            with pytest.raises(NothingToCommit):
                slot.session.commit("nothing")
            return
        id = slot.session.commit(f"commit {self.counter}", {"n": self.counter})
        committed: Tree = {p: n.committed() if isinstance(n, Array) else n for p, n in slot.tree.items()}
        self.commits[id], self.parents[id] = committed, slot.base
        self.branches[slot.branch] = id
        assert self.repo.lookup_branch(slot.branch) == id
        assert self.repo.diff(from_snapshot_id=slot.base, to_snapshot_id=id) == status
        assert keys_of(slot.session.store) == sorted(content(committed))
        self.slots[i] = self.open_slot(slot.branch)
        self.read_version(id, fresh)

    @rule(i=SLOT, data=st.data())
    def open_session(self, i: int, data: st.DataObject) -> None:
        self.slots[i] = self.open_slot(data.draw(st.sampled_from(sorted(self.branches))))
        self.check(self.slots[i])

    @rule(i=SLOT)
    def discard(self, i: int) -> None:
        slot = self.slots[i]
        slot.session.discard_changes()
        slot.tree = deepcopy(self.commits[slot.base])
        assert not slot.session.has_uncommitted_changes
        self.check(slot)

    @rule(data=st.data(), fresh=st.booleans())
    def look_back(self, data: st.DataObject, fresh: bool) -> None:
        self.read_version(data.draw(st.sampled_from(list(self.commits))), fresh)
        branch = data.draw(st.sampled_from(sorted(self.branches)))
        expected, id = [], self.branches[branch]
        while id is not None:
            expected.append(id)
            id = self.parents[id]  # type: ignore[assignment]
        assert [info.id for info in self.repo.ancestry(branch=branch)] == expected

    def read_version(self, id: str, fresh: bool) -> None:
        repo = Repository.open(self.place) if fresh else self.repo
        session = repo.readonly_session(snapshot_id=id)
        assert values_of(session.store) == content(self.commits[id])
        for path, node in self.commits[id].items():
            if isinstance(node, Array):
                assert coordinates_of(session, f"/{path}") == sorted(node.chunks)
            below = {
                p[len(path) + 1 :] if path else p for p in self.commits[id] if p.startswith(path + "/" * bool(path))
            }
            children = {p for p in below if p and "/" not in p}
            own = {"zarr.json", "c"} if isinstance(node, Array) else {"zarr.json"}
            assert names_of(session.store, path) == sorted(children | own)

    @rule(i=SLOT)
    def read_session(self, i: int) -> None:
        assert values_of(self.slots[i].session.store) == content(self.slots[i].tree)

    @rule()
    def reopen(self) -> None:
        self.repo = Repository.open(self.place)
        assert {name: self.repo.lookup_branch(name) for name in self.repo.list_branches()} == self.branches
        assert {name: self.repo.lookup_tag(name) for name in self.repo.list_tags()} == self.tags

    # -- refs --------------------------------------------------------------------------------------------------

    @rule(data=st.data(), name=st.sampled_from(BRANCHES), act=st.sampled_from(["create", "reset", "delete"]))
    def change_branch(self, data: st.DataObject, name: str, act: str) -> None:
        id = data.draw(st.sampled_from(list(self.commits)))
        known = name in self.branches
        if act == "delete" and name == "main":
            with pytest.raises(IcechunkError, match="main branch cannot be deleted"):
                self.repo.delete_branch(name)
        elif act == "delete":
            with nullcontext() if known else pytest.raises(RefNotFound):
                self.repo.delete_branch(name)
            self.branches.pop(name, None)
        elif act == "create":
            with pytest.raises(RefExists) if known else nullcontext():
                self.repo.create_branch(name, id)
            self.branches.setdefault(name, id)
        else:
            with nullcontext() if known else pytest.raises(RefNotFound):
                self.repo.reset_branch(name, id)
            if known:
                self.branches[name] = id

    @rule(data=st.data(), name=st.sampled_from(TAGS), remove=st.booleans())
    def change_tag(self, data: st.DataObject, name: str, remove: bool) -> None:
        id = data.draw(st.sampled_from(list(self.commits)))
        if remove:
            with nullcontext() if name in self.tags else pytest.raises(RefNotFound):
                self.repo.delete_tag(name)
            self.tags.pop(name, None)
        elif name in self.used_tags:
            with pytest.raises(RefExists):
                self.repo.create_tag(name, id)
        else:
            self.repo.create_tag(name, id)
            self.tags[name] = id
            self.used_tags.add(name)


def run(storage: Callable[[], Storage], examples: int, steps: int) -> None:
    class Machine(RepositoryMachine):
        pass

    Machine.storage = staticmethod(storage)
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    bounds: Any = settings(max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=slow)
    run_state_machine_as_test(Machine, settings=bounds)


def folders(root: Path) -> Callable[[], Storage]:
    numbers = itertools.count()
    return lambda: local_filesystem_storage(root / str(next(numbers)))


def test_in_memory() -> None:
    run(in_memory_storage, 60, 40)


def test_on_disk(tmp_path: Path) -> None:
    run(folders(tmp_path), 10, 30)


@pytest.mark.slow
def test_in_memory_thoroughly() -> None:
    run(in_memory_storage, 500, 60)


@pytest.mark.slow
def test_on_disk_thoroughly(tmp_path: Path) -> None:
    run(folders(tmp_path), 50, 50)
