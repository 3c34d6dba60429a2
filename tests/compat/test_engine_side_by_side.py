"""Random edits and commits, by both libraries side by side, and by both in turns on one repository.

What the two do differently on purpose is stepped around; the names in comments are those of `DEVIATIONS`.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from zarr.core.sync import sync

import icechunk_virtual
from tests.support.engines import (
    Engine,
    apart,
    changes,
    contents,
    described,
    get,
    inspected,
    kinds_of,
    put,
    without_chance,
)
from tests.support.histories import array_document, group_document

icechunk: Any = pytest.importorskip("icechunk", reason="the judge, icechunk 1.x, is not installed")
pytestmark = pytest.mark.compat

OURS = Engine("ours", icechunk_virtual)
THEIRS = Engine("theirs", icechunk)
BOTH = [OURS, THEIRS]
PREFIX = "file:///data/"
ELSEWHERE = "file:///elsewhere/"
NAMES = ["a", "b", "é", "c", "0", "d d"]  # none is the beginning of another: siblings
SIZES = st.integers(0, 6)
SHAPES = st.lists(st.tuples(SIZES, st.integers(1, 3)), max_size=2)
DATA = st.binary(min_size=0, max_size=12)  # from 9 bytes on, chunks are objects

Grid = tuple[int, ...]


def grid_of(sizes: list[tuple[int, int]]) -> Grid:
    return tuple(max(1, math.ceil(n / chunk)) for n, chunk in sizes)


def outside(coord: Grid, grid: Grid) -> bool:
    return any(i >= n for i, n in zip(coord, grid, strict=True))


class Editing(RuleBasedStateMachine):
    """Edits of sessions that must stay alike. Subclasses say which sessions there are, and what a commit is."""

    sessions: list[tuple[Engine, Any]]

    def __init__(self) -> None:
        super().__init__()
        self.branch = "main"
        self.ids: list[list[str]] = []  # of each commit, by library
        self.tips: dict[str, dict[str, Any]] = {}  # nodes by branch
        self.turn = 0
        self.begin()

    def begin(self) -> None:
        """Facts of the session; the nodes are those of the tip."""
        self.nodes: dict[str, list[tuple[int, int]] | None] = dict(self.tips.get(self.branch, {}))
        self.fresh: set[str] = set()
        self.updated: set[str] = set()
        self.written: dict[str, set[Grid]] = {}
        self.overwritten: set[str] = set()  # arrays with chunks written and cut off
        self.cut = False
        self.resized = False
        self.leftover = False

    # -- what subclasses do ----------------------------------------------------------------------------------

    def check_commit(self, message: str) -> None:
        raise NotImplementedError

    def renew(self) -> None:
        """Open sessions on the branch."""
        raise NotImplementedError

    # -- helpers ---------------------------------------------------------------------------------------------

    def everywhere(self, act: Callable[[Engine, Any], Any]) -> Any:
        """Do something in all sessions; it must come to the same."""
        try:
            found = [act(engine, session) for engine, session in self.sessions]
        except BaseException as error:
            if type(error).__name__ != "PanicException":
                raise
            raise RuntimeError("the original panicked") from error  # for Hypothesis, which gives up at a panic
        found = [None if result == () else result for result in found]  # its calls without result give ()
        assert apart(found[0], found[-1]) == []
        return found[0]

    def new_path(self, data: st.DataObject) -> str | None:
        groups = [path for path, sizes in self.nodes.items() if sizes is None and path.count("/") < 3]
        if not groups:
            return None
        group = data.draw(st.sampled_from(sorted(groups)), "group")
        path = f"{group}/{data.draw(st.sampled_from(NAMES), 'name')}".replace("//", "/")
        return None if path in self.nodes else path

    def pick(self, data: st.DataObject, *, arrays: bool) -> str:
        paths = [path for path, sizes in self.nodes.items() if (sizes is not None) is arrays]
        return data.draw(st.sampled_from(sorted(paths)), "node")

    def coord(self, data: st.DataObject, path: str) -> Grid:
        sizes = self.nodes[path]
        assert sizes is not None
        return tuple(data.draw(st.integers(0, n - 1)) for n in grid_of(sizes))

    def write(self, path: str, document: bytes, *, new: bool) -> None:
        self.turn += 1
        self.everywhere(lambda engine, session: put(session.store, f"{path}/zarr.json".lstrip("/"), document))
        (self.fresh if new else self.updated).add(path)

    def has_arrays(self) -> bool:
        return any(sizes is not None for sizes in self.nodes.values())

    def has_groups(self) -> bool:
        return any(sizes is None for sizes in self.nodes.values())

    # -- nodes -----------------------------------------------------------------------------------------------

    @rule(data=st.data())
    @precondition(lambda self: "/" not in self.nodes)
    def make_root(self, data: st.DataObject) -> None:
        self.write("/", group_document(turn=self.turn), new=True)
        self.nodes["/"] = None

    @rule(data=st.data())
    @precondition(has_groups)
    def make_group(self, data: st.DataObject) -> None:
        path = self.new_path(data)
        if path is not None:
            self.write(path, group_document(turn=self.turn), new=True)
            self.nodes[path] = None

    @rule(data=st.data(), sizes=SHAPES)
    @precondition(has_groups)
    def make_array(self, data: st.DataObject, sizes: list[tuple[int, int]]) -> None:
        path = self.new_path(data)
        if path is not None:
            self.write(path, self.array(sizes), new=True)
            self.nodes[path] = sizes

    def array(self, sizes: list[tuple[int, int]]) -> bytes:
        names = [None, "é"][: len(sizes)] if self.turn % 2 else None
        shape, chunks = tuple(n for n, _ in sizes), tuple(chunk for _, chunk in sizes)
        return array_document(shape, chunks, attributes={"turn": self.turn}, names=names)

    @rule(data=st.data())
    @precondition(has_groups)
    def update_group(self, data: st.DataObject) -> None:
        self.write(self.pick(data, arrays=False), group_document(turn=self.turn), new=False)

    @rule(data=st.data(), changed=st.lists(st.tuples(SIZES, st.none() | st.integers(1, 3)), min_size=2, max_size=2))
    @precondition(has_arrays)
    def update_array(self, data: st.DataObject, changed: list[tuple[int, int | None]]) -> None:
        path = self.pick(data, arrays=True)
        sizes = self.nodes[path]
        assert sizes is not None
        if data.draw(st.booleans(), "another shape"):
            self.resized = True
            old = grid_of(sizes)
            sizes = [(n, new or chunk) for (n, new), (_, chunk) in zip(changed, sizes, strict=False)]
            new = grid_of(sizes)
            if path in self.overwritten and outside(tuple(n - 1 for n in new), old):
                return  # resurrection
            self.cut |= path not in self.fresh and outside(tuple(n - 1 for n in old), new)  # cut off
            lost = {coord for coord in self.written.get(path, ()) if outside(coord, new)}
            if lost:
                self.written[path] -= lost
                self.overwritten.add(path)
        self.write(path, self.array(sizes), new=False)
        self.nodes[path] = sizes

    @rule(data=st.data(), arrays=st.booleans(), as_dir=st.booleans())
    @precondition(lambda self: self.nodes)
    def delete_node(self, data: st.DataObject, arrays: bool, as_dir: bool) -> None:
        if not (self.has_arrays() if arrays else self.has_groups()):
            return
        path = self.pick(data, arrays=arrays)
        if path == "/" and data.draw(st.integers(0, 3)):
            return

        async def delete(engine: Engine, session: Any) -> None:
            if as_dir:
                await session.store.delete_dir(path.strip("/"))
            else:
                await session.store.delete(f"{path}/zarr.json".lstrip("/"))

        self.everywhere(lambda engine, session: sync(delete(engine, session)))
        for gone in [p for p in self.nodes if p == path or p.startswith(path.rstrip("/") + "/")]:
            self.leftover |= gone in self.fresh and gone in self.updated and bool(self.nodes[gone] is not None)
            del self.nodes[gone]
            self.fresh.discard(gone)
            self.updated.discard(gone)
            self.overwritten.discard(gone)
            self.written.pop(gone, None)

    # -- chunks ----------------------------------------------------------------------------------------------

    @rule(data=st.data(), content=DATA)
    @precondition(has_arrays)
    def set_chunk(self, data: st.DataObject, content: bytes) -> None:
        path = self.pick(data, arrays=True)
        coord = self.coord(data, path)
        key = "/".join([f"{path[1:]}/c", *map(str, coord)])
        self.everywhere(lambda engine, session: put(session.store, key, content))
        self.written.setdefault(path, set()).add(coord)

    @rule(data=st.data())
    @precondition(has_arrays)
    def delete_chunk(self, data: st.DataObject) -> None:
        path = self.pick(data, arrays=True)
        coord = self.coord(data, path)
        key = "/".join([f"{path[1:]}/c", *map(str, coord)])
        self.everywhere(lambda engine, session: sync(session.store.delete(key)))
        self.written.get(path, set()).discard(coord)

    @rule(data=st.data(), depth=st.integers(0, 2))
    @precondition(lambda self: self.has_arrays() and not self.cut)  # cut off
    def delete_chunks(self, data: st.DataObject, depth: int) -> None:
        path = self.pick(data, arrays=True)
        prefix = "/".join([f"{path[1:]}/c", *map(str, self.coord(data, path)[:depth])])
        if prefix.strip("/").count("/") and any(f"/{prefix}" == p for p in self.nodes):
            return
        self.everywhere(lambda engine, session: sync(session.store.delete_dir(prefix)))

    @rule(data=st.data(), numbers=st.lists(st.integers(0, 2**40), min_size=1, max_size=5), validate=st.booleans())
    @precondition(has_arrays)
    def set_virtual(self, data: st.DataObject, numbers: list[int], validate: bool) -> None:
        path = self.pick(data, arrays=True)
        coords = [self.coord(data, path) for _ in numbers]
        places = [f"{ELSEWHERE if n % 5 == 4 else PREFIX}{n % 3}.bin" for n in numbers]
        etags = [f"tag{n}" if n % 4 == 1 else None for n in numbers]

        def act(engine: Engine, session: Any) -> Any:
            specs = [
                engine.ic.VirtualChunkSpec(list(coord), url, n, n % 1000, tag)
                for coord, url, n, tag in zip(coords, places, numbers, etags, strict=True)
            ]
            return session.store.set_virtual_refs(path, specs, validate_containers=validate)

        self.everywhere(act)
        stored = [c for c, url in zip(coords, places, strict=True) if not validate or url.startswith(PREFIX)]
        self.written.setdefault(path, set()).update(stored)

    # -- versions --------------------------------------------------------------------------------------------

    @rule(message=st.text("aé \n\U0001f600", max_size=5))
    def commit(self, message: str) -> None:
        status = self.everywhere(lambda engine, session: changes(session.status()))
        dirty = any(status.values())
        if not self.leftover:
            assert self.everywhere(lambda engine, session: session.has_uncommitted_changes) is dirty
        if not dirty:
            for engine, session in self.sessions:
                if not self.leftover:
                    assert kinds_of(engine, lambda s=session: s.commit("empty")) == {"IcechunkError"}
                session.discard_changes()
            self.begin()
            return
        shown = None if self.cut else self.everywhere(lambda engine, session: contents_unread(session))
        self.check_commit(message)
        self.tips[self.branch] = dict(self.nodes)
        self.begin()
        self.renew()
        again = self.everywhere(lambda engine, session: contents_unread(session))
        assert shown is None or apart(shown, again) == []

    @rule()
    def discard(self) -> None:
        for _, session in self.sessions:
            session.discard_changes()
            assert not session.has_uncommitted_changes
        if self.resized:
            self.renew()  # discarded sizes
        self.begin()
        self.everywhere(lambda engine, session: changes(session.status()))


def contents_unread(session: Any) -> dict[str, Any]:
    """What a session shows, but for the bytes of virtual chunks: the files are none."""
    store = session.store
    virtual = bool(session.all_virtual_chunk_locations())
    if not virtual:
        return contents(session)

    class Store:
        """The store, answering with the text of the refusal when a virtual chunk is read."""

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def get(self, key: str, prototype: Any) -> Any:
            try:
                return await store.get(key, prototype)
            except Exception as error:  # noqa: BLE001 - that of either library
                text = " ".join(str(error).split())
                reason = next(word for word in ("edit the repository configuration", "authorize") if word in text)
                return prototype.buffer.from_bytes(reason.encode())

    class Seen:
        def __getattr__(self, name: str) -> Any:
            return getattr(session, name)

    seen = Seen()
    seen.store = Store()  # type: ignore[attr-defined]
    return contents(seen)


def version(repo: Any, before: str, id: str) -> dict[str, Any]:
    """A commit as `picture` has it."""
    first = "1CECHNKREP0F1RSTCMT0"
    pairs = {(before, id), (first, id)}
    return {
        "refs": {"branches": {name: repo.lookup_branch(name) for name in repo.list_branches()}},
        "histories": {"": [described(s) for s in repo.ancestry(snapshot_id=id)][:2]},
        "inspected": {id: inspected(repo, id)},
        "contents": {id: contents_unread(repo.readonly_session(snapshot_id=id))},
        "differences": {f"{a} {b}": changes(repo.diff(from_snapshot_id=a, to_snapshot_id=b)) for a, b in pairs},
    }


class SideBySide(Editing):
    """Two repositories, in memory, one by each library."""

    def __init__(self) -> None:
        super().__init__()
        self.repos = [e.create(None, e.config([PREFIX], threshold=8, splits={"a": 2, "é": 1})) for e in BOTH]
        self.renew()

    def renew(self) -> None:
        self.sessions = [(e, repo.writable_session(self.branch)) for e, repo in zip(BOTH, self.repos, strict=True)]

    @initialize(data=st.data())
    def start(self, data: st.DataObject) -> None:
        self.make_root(data)

    def check_commit(self, message: str) -> None:
        before = [session.snapshot_id for _, session in self.sessions]
        self.ids.append([session.commit(message, {"n": len(self.ids)}) for _, session in self.sessions])
        seen = []
        for n, repo in enumerate(self.repos):
            ids = [pair[n] for pair in self.ids]
            seen.append(without_chance(version(repo, before[n], ids[-1]), ids))
        assert apart(*seen) == []

    @rule(name=st.sampled_from(["main", "b1", "b2"]))
    def switch(self, name: str) -> None:
        """To another branch, made here if there is none."""
        for _, session in self.sessions:
            session.discard_changes()
        if name not in self.tips:
            for (_, session), repo in zip(self.sessions, self.repos, strict=True):
                if name not in repo.list_branches():
                    repo.create_branch(name, session.snapshot_id)
            if name != "main":
                self.tips[name] = dict(self.tips.get(self.branch, {}))
        self.branch = name
        self.begin()
        self.renew()


class InTurns(Editing):
    """One repository on disk; every session is by either library, and both look at what it committed."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        OURS.create(self.folder / "repo", OURS.config([PREFIX], threshold=8, splits={"a": 2, "é": 1}))
        self.next = OURS
        self.renew()

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @initialize(data=st.data(), theirs=st.booleans())
    def start(self, data: st.DataObject, theirs: bool) -> None:
        self.take(theirs)
        self.make_root(data)

    def renew(self) -> None:
        self.sessions = [(self.next, self.next.open(self.folder / "repo").writable_session(self.branch))]

    def check_commit(self, message: str) -> None:
        [(_, session)] = self.sessions
        before, status = session.snapshot_id, changes(session.status())
        id = session.commit(message, {"n": len(self.ids)})
        self.ids.append([id])
        seen = [version(engine.open(self.folder / "repo"), before, id) for engine in BOTH]
        assert apart(*seen) == []
        assert apart(seen[0]["differences"][f"{before} {id}"], status) == []
        self.next = BOTH[self.turn % 2]

    @rule(theirs=st.booleans())
    def take(self, theirs: bool) -> None:
        """The session of the other library, from here on."""
        self.next = THEIRS if theirs else OURS
        for _, session in self.sessions:
            session.discard_changes()
        self.begin()
        self.renew()


def test_document_survives() -> None:
    """The helpers see what they claim to see."""
    repo = OURS.create(None)
    session = repo.writable_session("main")
    put(session.store, "zarr.json", group_document(a=1))
    assert get(session.store, "zarr.json") == group_document(a=1)
    assert contents(session)["values"] == {"zarr.json": group_document(a=1)}


TestSideBySide = SideBySide.TestCase
TestSideBySide.settings = settings(max_examples=30, stateful_step_count=40)
TestInTurns = InTurns.TestCase
TestInTurns.settings = settings(max_examples=15, stateful_step_count=30)
