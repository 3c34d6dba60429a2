"""A repository against `tests.support.model`: sessions, refs, rebase, forks, flush, expiration and collection.

The machine does everything twice, to the repository and to the model, and compares what both show.
"""

from __future__ import annotations

import asyncio
import itertools
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from zarr.core.sync import sync

from icechunk_virtual import (
    BasicConflictSolver,
    ChunkRefs,
    ConflictDetector,
    ConflictError,
    IcechunkError,
    ManifestConfig,
    ManifestSplitCondition,
    ManifestSplitDimCondition,
    ManifestSplittingConfig,
    RebaseFailedError,
    Repository,
    RepositoryConfig,
    Session,
    Storage,
    VersionSelection,
    in_memory_storage,
    local_filesystem_storage,
)
from icechunk_virtual.errors import InvalidChunkIndex, NodeExists, NothingToCommit, RefExists, RefNotFound
from tests.support.clouds import Bucket
from tests.support.engines import changes
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
from tests.support.model import Choice, Draft, Model, Node, Version, content, described, is_at_or_below, key_of
from tests.support.proxy import Proxy

PATHS = ["", "a", "a-x", "a.x", "a/b", "a/b/d", "a/c", "z"]  # siblings that sort around the slash; a node called `c`
SHAPES = [(), (0,), (1,), (3,), (5,), (2, 3), (3, 2), (4, 4)]
BRANCHES = ["main", "dev", "new"]
TAGS = ["v1", "v2"]
SLOT = st.sampled_from([0, 0, 0, 1])  # mostly one session, so that steps build on each other
SIZES = st.sampled_from([None, 1, 2, 3])
SOLVERS: dict[Choice, Any] = {
    Choice("fail", deletions_fail=True): ConflictDetector(),
    Choice("ours", deletions_fail=False): BasicConflictSolver(),
    Choice("theirs", deletions_fail=True): BasicConflictSolver(
        on_chunk_conflict=VersionSelection.UseTheirs,
        fail_on_delete_of_updated_array=True,
        fail_on_delete_of_updated_group=True,
    ),
}
CHOICE = st.sampled_from(list(SOLVERS))
Coord = tuple[int, ...]


@dataclass
class Slot:
    """A session and what it should show."""

    session: Session
    branch: str
    draft: Draft


def split_config(size: int | None) -> ManifestConfig:
    sizes = {} if size is None else {ManifestSplitCondition.AnyArray(): {ManifestSplitDimCondition.Any(): size}}
    return ManifestConfig(splitting=ManifestSplittingConfig.from_dict(sizes))


class RepositoryMachine(RuleBasedStateMachine):
    """Rules act on both, the repository and the model."""

    storage: Callable[[], Storage] = staticmethod(in_memory_storage)

    def __init__(self) -> None:
        super().__init__()
        self.counter = 0
        self.model = Model()

    @initialize(size=SIZES, threshold=st.sampled_from([0, 4, 512]))
    def create(self, size: int | None, threshold: int) -> None:
        self.threshold = threshold
        self.place = type(self).storage()
        config = RepositoryConfig(inline_chunk_threshold_bytes=threshold, manifest=split_config(size))
        self.repo: Repository = Repository.create(self.place, config)
        self.collector = self.repo
        first = self.repo.lookup_branch("main")
        self.model.begin(first, self.repo.lookup_snapshot(first).written_at)
        self.slots = [self.open_slot("main") for _ in range(2)]
        self.begin()

    def begin(self) -> None:
        """Something to change: siblings around the slash, arrays with all their chunks."""
        for path in ("", "a"):
            self.set_group(0, path, 0)
        for path, shape in (("a-x", (5,)), ("a/b", (2, 3)), ("a.x", ())):
            self.set_array(0, path, shape, 0)
            for coord in self.arrays(0)[path].coords:
                self.write(0, path, coord, self.payload(len(path)))
        self.commit(0, None, fresh=False)
        self.slots[1] = self.open_slot("main")

    def open_slot(self, branch: str) -> Slot:
        return Slot(self.repo.writable_session(branch), branch, self.model.draft(self.model.branches[branch]))

    def check(self, slot: Slot) -> None:
        """What a session shows, and says of itself, equals the model's."""
        log = self.model.log(slot.draft)
        assert slot.session.snapshot_id == slot.draft.base
        assert keys_of(slot.session.store) == sorted(content(slot.draft.tree))
        assert slot.session.has_uncommitted_changes is bool(log)
        trees = self.model.versions[slot.draft.base].tree, slot.draft.tree
        assert without_empty(changes(slot.session.status())) == described([log], trees)

    # -- nodes -------------------------------------------------------------------------------------------------

    def set_node(self, i: int, path: str, document: bytes, shape: tuple[int, ...] | None) -> None:
        slot = self.slots[i]
        node = slot.draft.tree.get(path)
        if node is not None and node.is_array is not (shape is not None):
            with pytest.raises(NodeExists):
                put(slot.session.store, key_of(path), document)
        else:
            put(slot.session.store, key_of(path), document)
            if node is None:
                slot.draft.tree[path] = Node(document, shape)
            else:
                node.put(document, shape)
        self.check(slot)

    @rule(i=SLOT, path=st.sampled_from(PATHS), n=st.integers(0, 3))
    def set_group(self, i: int, path: str, n: int) -> None:
        self.set_node(i, path, group_document(n=n), None)

    @rule(i=SLOT, path=st.sampled_from(PATHS), shape=st.sampled_from(SHAPES), n=st.integers(0, 1))
    def set_array(self, i: int, path: str, shape: tuple[int, ...], n: int) -> None:
        self.set_node(i, path, array_document(shape, attributes={"n": n}), shape)

    @rule(data=st.data(), i=SLOT)
    def resize(self, data: st.DataObject, i: int) -> None:
        drawn = self.draw_array(data, i)
        if drawn is not None:
            path, array = drawn
            shape = tuple(data.draw(st.integers(0, 5)) for _ in array.shape or ())
            self.set_node(i, path, array_document(shape), shape)

    @rule(data=st.data(), i=SLOT, as_dir=st.booleans())
    def delete_node(self, data: st.DataObject, i: int, as_dir: bool) -> None:
        slot = self.slots[i]
        path = data.draw(st.sampled_from([*slot.draft.tree, "nowhere"]))
        if as_dir:
            sync(slot.session.store.delete_dir(path))
        else:
            delete(slot.session.store, key_of(path))
        for other in [other for other in slot.draft.tree if is_at_or_below(other, path)]:
            del slot.draft.tree[other]
        self.check(slot)

    # -- chunks ------------------------------------------------------------------------------------------------

    def arrays(self, i: int) -> dict[str, Node]:
        return {path: node for path, node in sorted(self.slots[i].draft.tree.items()) if node.is_array}

    def draw_array(self, data: st.DataObject, i: int) -> tuple[str, Node] | None:
        arrays = self.arrays(i)
        return data.draw(st.sampled_from(list(arrays.items()))) if arrays else None

    def payload(self, size: int) -> bytes:
        """Bytes that occur once."""
        self.counter += 1
        return self.counter.to_bytes(3, "big") + bytes(size) if size else b""

    def write(self, i: int, path: str, coord: Coord, payload: bytes) -> None:
        put(self.slots[i].session.store, key_of(path, coord), payload)
        self.slots[i].draft.tree[path].edits[coord] = payload

    @rule(data=st.data(), i=SLOT, size=st.sampled_from([0, 1, 600]))
    def set_chunk(self, data: st.DataObject, i: int, size: int) -> None:
        drawn = self.draw_array(data, i)
        if drawn is not None:
            path, array = drawn
            self.write(i, path, data.draw(st.sampled_from(array.coords)), self.payload(size))
            self.check(self.slots[i])

    @rule(data=st.data(), i=SLOT)
    def delete_chunk(self, data: st.DataObject, i: int) -> None:
        drawn = self.draw_array(data, i)
        if drawn is not None:
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
        if any(other and is_at_or_below(other, prefix) for other in self.slots[i].draft.tree):
            return  # a node is called as the chunks are: then the node goes
        sync(self.slots[i].session.store.delete_dir(prefix))
        array.edits.update((c, None) for c in array.chunks if c[: len(given)] == given)
        self.check(self.slots[i])

    @rule(data=st.data(), i=SLOT, travels=st.booleans())
    def write_through_forks(self, data: st.DataObject, i: int, travels: bool) -> None:
        """Two forks write chunks, maybe the same; the later one stands."""
        slot = self.slots[i]
        if slot.session.has_uncommitted_changes or not self.arrays(i):
            return
        forks = [slot.session.fork() for _ in range(2)]
        for n, fork in enumerate(forks):
            path, array = data.draw(st.sampled_from(list(self.arrays(i).items())))
            for coord in data.draw(st.lists(st.sampled_from(array.coords), min_size=1, max_size=3, unique=True)):
                payload = self.payload(600)
                put(fork.store, key_of(path, coord), payload)
                array.edits[coord] = payload
            forks[n] = pickle.loads(pickle.dumps(fork)) if travels else fork
        slot.session.merge(*forks)
        self.check(slot)

    # -- versions ----------------------------------------------------------------------------------------------

    def land(self, id: str, slot: Slot) -> None:
        """The model follows a session that became a version."""
        info = self.repo.lookup_snapshot(id)
        before = self.model.versions[slot.draft.base]
        log = self.model.log(slot.draft)
        assert info.written_at > before.written_at
        assert info.parent_id == slot.draft.base
        self.model.add(id, slot.draft, info.written_at)
        found = changes(self.repo.diff(from_snapshot_id=slot.draft.base, to_snapshot_id=id))
        assert without_empty(found) == described([log], [before.tree, slot.draft.tree])
        assert (slot.session.read_only, slot.session.snapshot_id) == (True, id)
        self.check_manifests(info, self.model.versions[id])
        assert keys_of(slot.session.store) == sorted(content(self.model.versions[id].tree))

    def check_manifests(self, info: Any, version: Version) -> None:
        """The manifests of a version hold its chunks, and nothing else."""
        counts = [manifest.num_chunk_refs for manifest in info.manifests]
        assert all(counts)
        assert sum(counts) == sum(len(node.chunks) for node in version.tree.values())

    @rule(i=SLOT, choice=st.none() | CHOICE, fresh=st.booleans())
    def commit(self, i: int, choice: Choice | None, fresh: bool) -> None:
        slot = self.slots[i]
        self.counter += 1

        def act() -> str:
            id: str = slot.session.commit(f"commit {self.counter}", {"n": self.counter}, SOLVERS.get(choice))  # type: ignore[arg-type]
            return id

        tip = self.model.branches.get(slot.branch)
        if tip != slot.draft.base:
            if tip is None or choice is None:
                with pytest.raises(ConflictError) as caught:
                    act()
                assert (caught.value.expected_parent, caught.value.actual_parent) == (slot.draft.base, tip)
                self.check(slot)
                return
            if not self.passes(slot, choice, act, commits=True):
                return
        elif not self.changed(slot):
            with pytest.raises(NothingToCommit):
                act()
            return
        else:
            self.committed = act()
        self.land(self.committed, slot)
        self.model.branches[slot.branch] = self.committed
        assert self.repo.lookup_branch(slot.branch) == self.committed
        self.slots[i] = self.open_slot(slot.branch)
        self.read_version(self.committed, fresh)

    def changed(self, slot: Slot) -> bool:
        return bool(self.model.log(slot.draft)) or slot.draft.superseded

    def passes(self, slot: Slot, choice: Choice, act: Callable[[], Any], *, commits: bool) -> bool:
        """Do what rebases a session; whether it got through, as the model says it must."""
        tip = self.model.branches[slot.branch]
        if slot.draft.base not in self.model.history(tip):
            with pytest.raises(IcechunkError, match="not in the history"):
                act()
            self.check(slot)
            return False
        stuck = self.model.rebase(slot.draft, tip, choice)
        if stuck is not None:
            with pytest.raises(RebaseFailedError) as failed:
                act()
            assert failed.value.snapshot == stuck
            self.check(slot)
            return False
        if commits and not self.changed(slot):
            with pytest.raises(NothingToCommit):
                act()
            self.check(slot)
            return False
        self.committed = act()
        return True

    @rule(i=SLOT, choice=CHOICE)
    def rebase(self, i: int, choice: Choice) -> None:
        slot = self.slots[i]

        def move() -> None:
            slot.session.rebase(SOLVERS[choice])

        if slot.branch not in self.model.branches:
            with pytest.raises(RefNotFound):
                move()
            self.check(slot)
        elif self.passes(slot, choice, move, commits=False):
            self.check(slot)
            assert values_of(slot.session.store) == content(slot.draft.tree)

    @rule(data=st.data(), choice=CHOICE, commits=st.integers(1, 3), again=st.booleans())
    def race(self, data: st.DataObject, choice: Choice, commits: int, again: bool) -> None:
        """Others are faster, with changes of the same few things."""
        branch = self.slots[0].branch if self.slots[0].branch in self.model.branches else "main"
        self.slots[1] = self.open_slot(branch)
        path = data.draw(st.sampled_from([*self.arrays(1), "z"]))
        self.edit(data, 1, path)
        for _ in range(commits):
            self.slots.append(self.open_slot(branch))
            self.edit(data, 2, path)
            self.commit(2, None, fresh=False)
            self.slots.pop()
        self.rebase(1, choice)
        if again:
            self.edit(data, 1, path)
        self.commit(1, choice, fresh=True)

    def edit(self, data: st.DataObject, i: int, path: str) -> None:
        """A few changes of what is at a path, and of what is near."""
        acts = ["chunk", "chunk", "hole", "document", "size", "gone", "anew", "below", "elsewhere"]
        tree = self.slots[i].draft.tree
        for act in data.draw(st.lists(st.sampled_from(acts), min_size=1, max_size=3)):
            node = tree.get(path)
            if act == "elsewhere":
                self.set_group(i, data.draw(st.sampled_from(["", "a", "new"])), data.draw(st.integers(0, 3)))
            elif act == "below":
                self.set_group(i, f"{path}/sub", 0)
            elif node is None:
                shape = data.draw(st.sampled_from([None, (2,), (2, 2)]))
                self.set_node(i, path, group_document() if shape is None else array_document(shape), shape)
            elif act == "chunk" and node.is_array:
                coord = data.draw(st.sampled_from([node.coords[0], node.coords[-1]]))
                self.write(i, path, coord, self.payload(data.draw(st.sampled_from([1, 600]))))
            elif act == "hole" and node.is_array:
                delete(self.slots[i].session.store, key_of(path, node.coords[0]))
                node.edits[node.coords[0]] = None
            elif act in {"gone", "anew"}:
                delete(self.slots[i].session.store, key_of(path))
                for other in [other for other in tree if is_at_or_below(other, path)]:
                    del tree[other]
                if act == "anew":
                    shape = data.draw(st.sampled_from([node.shape, None]))
                    self.set_node(i, path, group_document() if shape is None else array_document(shape), shape)
            else:
                shape = node.shape
                if act == "size" and shape:
                    shape = data.draw(st.sampled_from([shape[:-1], (*shape, 2), (*shape[:-1], shape[-1] + 1)]))
                document = {"n": data.draw(st.integers(4, 9))}
                self.set_node(
                    i,
                    path,
                    group_document(**document) if shape is None else array_document(shape, attributes=document),
                    shape,
                )
            self.check(self.slots[i])

    @rule(i=SLOT)
    def flush(self, i: int) -> None:
        """A version that no ref leads to yet."""
        slot = self.slots[i]
        if not self.changed(slot):
            with pytest.raises(NothingToCommit):
                slot.session.flush("nothing")
            return
        branches = dict(self.model.branches)
        id = slot.session.flush("flushed")
        self.land(id, slot)
        assert {name: self.repo.lookup_branch(name) for name in self.repo.list_branches()} == branches
        self.slots[i] = self.open_slot(slot.branch if slot.branch in branches else "main")
        self.read_version(id, fresh=True)

    @rule(data=st.data())
    def rewrite_manifests(self, data: st.DataObject) -> None:
        branch = data.draw(st.sampled_from(sorted(self.model.branches)))
        draft = self.model.draft(self.model.branches[branch])
        id = self.repo.rewrite_manifests("anew", branch=branch)
        old, new = (self.repo.lookup_snapshot(version) for version in (draft.base, id))
        assert not {m.id for m in new.manifests} & {m.id for m in old.manifests}
        self.model.add(id, draft, new.written_at)  # type: ignore[arg-type]
        self.model.branches[branch] = id
        self.check_manifests(new, self.model.versions[id])
        self.read_version(id, fresh=True)

    @rule(i=SLOT, data=st.data())
    def open_session(self, i: int, data: st.DataObject) -> None:
        self.slots[i] = self.open_slot(data.draw(st.sampled_from(sorted(self.model.branches))))
        self.check(self.slots[i])

    @rule(i=SLOT)
    def discard(self, i: int) -> None:
        slot = self.slots[i]
        slot.session.discard_changes()
        slot.draft = self.model.draft(slot.draft.base)
        self.check(slot)

    @rule(data=st.data(), fresh=st.booleans())
    def look_back(self, data: st.DataObject, fresh: bool) -> None:
        versions = self.model.versions
        self.read_version(data.draw(st.sampled_from(list(versions))), fresh)
        branch = data.draw(st.sampled_from(sorted(self.model.branches)))
        line = self.model.history(self.model.branches[branch])
        assert [info.id for info in self.repo.ancestry(branch=branch)] == line
        moment = versions[data.draw(st.sampled_from(line))].written_at
        expected = next(id for id in line if versions[id].written_at <= moment)
        assert self.repo.readonly_session(branch, as_of=moment).snapshot_id == expected
        start, end = data.draw(st.integers(0, len(line) - 1)), data.draw(st.integers(0, len(line) - 1))
        if start > end:  # the newest is the first
            repo = Repository.open(self.place) if fresh else self.repo
            found = changes(repo.diff(from_snapshot_id=line[start], to_snapshot_id=line[end]))
            logs = [versions[id].log for id in line[end:start]]
            assert without_empty(found) == described(logs, [versions[line[k]].tree for k in (start, end)])

    def read_version(self, id: str, fresh: bool) -> None:
        repo = Repository.open(self.place) if fresh else self.repo
        session, tree = repo.readonly_session(snapshot_id=id), self.model.versions[id].tree
        assert values_of(session.store) == content(tree)
        for path, node in tree.items():
            if node.is_array:
                assert coordinates_of(session, f"/{path}") == sorted(node.chunks)
            below = {p[len(path) + 1 :] if path else p for p in tree if p != path and is_at_or_below(p, path)}
            own = {"zarr.json", "c"} if node.is_array else {"zarr.json"}
            assert names_of(session.store, path) == sorted(own | {p for p in below if p and "/" not in p})

    @rule(i=SLOT)
    def read_session(self, i: int) -> None:
        assert values_of(self.slots[i].session.store) == content(self.slots[i].draft.tree)

    @rule(size=SIZES)
    def reopen(self, size: int | None) -> None:
        """Without what was remembered, and with another splitting."""
        self.repo = Repository.open(self.place, RepositoryConfig(manifest=split_config(size)))
        self.check_refs()

    def check_refs(self) -> None:
        repo = self.repo
        assert {name: repo.lookup_branch(name) for name in repo.list_branches()} == self.model.branches
        assert {name: repo.lookup_tag(name) for name in repo.list_tags()} == self.model.tags
        for name in self.model.used_tags - self.model.tags.keys():
            with pytest.raises(RefNotFound):
                repo.lookup_tag(name)

    # -- refs --------------------------------------------------------------------------------------------------

    @rule(data=st.data(), name=st.sampled_from(BRANCHES), act=st.sampled_from(["create", "reset", "delete"]))
    def change_branch(self, data: st.DataObject, name: str, act: str) -> None:
        id = data.draw(st.sampled_from(list(self.model.versions)))
        branches = self.model.branches
        known = name in branches
        if act == "delete" and name == "main":
            with pytest.raises(IcechunkError, match="main branch cannot be deleted"):
                self.repo.delete_branch(name)
        elif act == "delete":
            with nullcontext() if known else pytest.raises(RefNotFound):
                self.repo.delete_branch(name)
            branches.pop(name, None)
        elif act == "create":
            with pytest.raises(RefExists) if known else nullcontext():
                self.repo.create_branch(name, id)
            branches.setdefault(name, id)
        elif not known:
            with pytest.raises(RefNotFound):
                self.repo.reset_branch(name, id)
        else:
            expected = data.draw(st.sampled_from([None, *self.model.versions]))
            refused = expected not in {None, branches[name]}
            with pytest.raises(RefExists) if refused else nullcontext():
                self.repo.reset_branch(name, id, from_snapshot_id=expected)
            branches[name] = branches[name] if refused else id
        self.check_refs()

    @rule(data=st.data(), name=st.sampled_from(TAGS), remove=st.booleans())
    def change_tag(self, data: st.DataObject, name: str, remove: bool) -> None:
        id = data.draw(st.sampled_from(list(self.model.versions)))
        tags = self.model.tags
        if remove:
            with nullcontext() if name in tags else pytest.raises(RefNotFound):
                self.repo.delete_tag(name)
            tags.pop(name, None)
        elif name in self.model.used_tags:
            with pytest.raises(RefExists):
                self.repo.create_tag(name, id)
        else:
            self.repo.create_tag(name, id)
            tags[name] = id
            self.model.used_tags.add(name)
        self.check_refs()

    # -- upkeep ------------------------------------------------------------------------------------------------

    @rule(data=st.data(), branches=st.booleans(), tags=st.booleans(), later=st.integers(0, 1))
    def expire(self, data: st.DataObject, branches: bool, tags: bool, later: int) -> None:
        """By somebody else: a collection by who knows the old histories comes to the same."""
        chosen = self.model.versions[data.draw(st.sampled_from(list(self.model.versions)))]
        moment = chosen.written_at + timedelta(microseconds=later)
        expected = self.model.expire(moment, branches=branches, tags=tags)
        found = Repository.open(self.place).expire_snapshots(
            moment, delete_expired_branches=branches, delete_expired_tags=tags
        )
        assert found == expected
        self.renew_repo()
        self.check_refs()
        for name, tip in self.model.branches.items():
            assert [info.id for info in self.repo.ancestry(branch=name)] == self.model.history(tip)

    def renew_repo(self) -> None:
        """What sessions and the repository remember of histories is old now."""
        self.collector, self.repo = self.repo, Repository.open(self.place, self.repo.config)
        self.slots = [
            self.open_slot(slot.branch if slot.branch in self.model.branches else "main") for slot in self.slots
        ]

    @rule(data=st.data(), now=st.booleans())
    def collect(self, data: st.DataObject, now: bool) -> None:
        stored = self.stored("snapshots/")
        moment = datetime.now(UTC)
        if not now:
            us = data.draw(st.sampled_from(sorted(stored.values()))) + data.draw(st.integers(0, 1))
            moment = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=us)
        limit = round((moment - datetime.fromtimestamp(0, UTC)) / timedelta(microseconds=1))
        kept = self.model.kept(id for id, us in stored.items() if us >= limit)
        plan = self.collector.garbage_collect(moment, dry_run=True)
        assert self.stored("snapshots/") == stored
        summary = self.collector.garbage_collect(moment)
        assert summary == plan
        assert self.stored("snapshots/").keys() == kept
        assert summary.snapshots_deleted == len(stored) - len(kept)
        self.model.forget(self.model.versions.keys() - kept)
        self.renew_repo()
        for id in kept:
            self.read_version(id, fresh=False)
        if now:
            self.check_nothing_is_left()

    def check_nothing_is_left(self) -> None:
        """Objects of all kinds are those that versions need."""
        infos = [self.repo.lookup_snapshot(id) for id in self.model.versions]
        assert self.stored("manifests/").keys() == {manifest.id for info in infos for manifest in info.manifests}
        assert self.stored("transactions/").keys() == {info.id for info in infos if info.parent_id is not None}
        chunks = {
            data for v in self.model.versions.values() for node in v.tree.values() for data in node.chunks.values()
        }
        assert self.chunk_objects() == sorted(data for data in chunks if len(data) > self.threshold)

    def stored(self, prefix: str) -> dict[str, int]:
        """Names and times of objects, as the storage has them."""

        async def pages() -> list[Any]:
            return [info async for page in self.place.object_store().list(prefix) for info in page]

        return {info.key.removeprefix(prefix): info.last_modified_us for info in asyncio.run(pages())}

    def chunk_objects(self) -> list[bytes]:
        async def read() -> list[bytes]:
            objects = self.place.object_store()
            keys = [info.key async for page in objects.list("chunks/") for info in page]
            return sorted([await objects.get(key) for key in keys])

        return asyncio.run(read())


def without_empty(found: dict[str, Any]) -> dict[str, Any]:
    """A difference without arrays that were touched, but in no chunk."""
    return found | {"updated_chunks": {path: coords for path, coords in found["updated_chunks"].items() if coords}}


def run(storage: Callable[[], Storage], examples: int, steps: int) -> None:
    class Machine(RepositoryMachine):
        pass

    Machine.storage = staticmethod(storage)
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    bounds: Any = settings(max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=slow)
    run_state_machine_as_test(Machine, settings=bounds)


@settings(max_examples=30)
@given(data=st.data(), size=SIZES, threshold=st.sampled_from([0, 512]))
def test_races(data: st.DataObject, size: int | None, threshold: int) -> None:
    """Nothing but races: with the other rules around they are too few to meet all conflicts."""
    machine = RepositoryMachine()
    machine.create(size, threshold)
    for _ in range(3):
        machine.race(data, data.draw(CHOICE), data.draw(st.integers(1, 3)), data.draw(st.booleans()))


@settings(max_examples=15)
@given(data=st.data(), size=SIZES)
def test_upkeep(data: st.DataObject, size: int | None) -> None:
    """Nothing but histories with refs, and their upkeep."""
    machine = RepositoryMachine()
    machine.create(size, 4)
    for _ in range(2):
        for _ in range(data.draw(st.integers(1, 4))):
            machine.open_session(0, data)
            machine.set_array(0, "a-x", (5,), 0)
            machine.write(0, "a-x", (0,), machine.payload(data.draw(st.sampled_from([1, 600]))))
            if data.draw(st.integers(0, 3)):
                machine.commit(0, None, fresh=False)
            else:
                machine.flush(0)
            machine.change_tag(data, data.draw(st.sampled_from(["v1", "v2", "v3", "v4"])), remove=False)
            machine.change_branch(data, data.draw(st.sampled_from(["dev", "new"])), "create")
        machine.collect(data, now=False)
        machine.expire(data, data.draw(st.booleans()), data.draw(st.booleans()), data.draw(st.integers(0, 1)))
        machine.collect(data, now=data.draw(st.booleans()))


def folders(root: Path) -> Callable[[], Storage]:
    numbers = itertools.count()
    return lambda: local_filesystem_storage(root / str(next(numbers)))


def test_in_memory() -> None:
    run(in_memory_storage, 30, 40)


def test_on_disk(tmp_path: Path) -> None:
    run(folders(tmp_path), 5, 30)


@pytest.mark.slow
def test_in_buckets(s3_server: str, s3_proxy: Proxy) -> None:
    run(lambda: Bucket(s3_server, s3_proxy).storage(), 5, 30)


@pytest.mark.slow
def test_in_memory_thoroughly() -> None:
    run(in_memory_storage, 500, 60)


@pytest.mark.slow
def test_on_disk_thoroughly(tmp_path: Path) -> None:
    run(folders(tmp_path), 50, 50)
