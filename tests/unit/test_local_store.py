"""The local disk: locks, temporaries, crashes, forks, durability."""

from __future__ import annotations

import asyncio
import errno
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from icechunk_virtual.errors import (
    ObjectNotFound,
    OutcomeUnknown,
    PermissionDenied,
    PreconditionFailed,
    StorageError,
    TransientStorageError,
)
from icechunk_virtual.repo import file_lock, file_sync, files
from icechunk_virtual.repo.file_lock import LOCK_FILE, locked
from icechunk_virtual.repo.local_store import LocalStore, Pace
from icechunk_virtual.repo.obstore_store import Role

T = TypeVar("T")
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # forks, on purpose
posix = pytest.mark.skipif(os.name == "nt", reason="forks and signals")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "repo"))


async def keys(store: LocalStore, prefix: str = "") -> list[str]:
    return sorted([info.key async for page in store.list(prefix) for info in page])


# -- many writers ------------------------------------------------------------------------------------------------


def _count_up(root: str, who: int, times: int, start: Any, results: Any) -> None:
    store = LocalStore(root)
    done = []

    async def work() -> None:
        while len(done) < times:
            data, version = await store.get_versioned("refs/branch.main/ref.json")
            number = int(data.split(b" ")[0])
            try:
                await store.put_if_match("refs/branch.main/ref.json", b"%d by %d" % (number + 1, who), version)
            except PreconditionFailed:
                continue
            done.append(number + 1)

    start.wait()
    run(work())
    results.put(done)


def test_eight_processes_update_one_object(store: LocalStore, tmp_path: Path) -> None:
    """Every update that reported success is there, exactly once."""
    run(store.put_new("refs/branch.main/ref.json", b"0"))
    context = multiprocessing.get_context("spawn" if os.name == "nt" else "fork")
    start, results = context.Event(), context.Queue()
    root = str(tmp_path / "repo")
    workers = [context.Process(target=_count_up, args=(root, i, 20, start, results)) for i in range(8)]
    for worker in workers:
        worker.start()
    start.set()
    landed = [number for _ in workers for number in results.get(timeout=60)]
    for worker in workers:
        worker.join()
    assert sorted(landed) == list(range(1, 161))
    assert run(store.get("refs/branch.main/ref.json")).split(b" ")[0] == b"160"
    assert run(keys(store)) == ["refs/branch.main/ref.json"]
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["ref.json"]


def test_threads_update_one_object(store: LocalStore) -> None:
    run(store.put_new("k", b"0"))

    def work() -> None:
        for _ in range(10):
            while True:
                data, version = run(store.get_versioned("k"))
                try:
                    run(store.put_if_match("k", b"%d" % (int(data) + 1), version))
                except PreconditionFailed:
                    continue
                break

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert run(store.get("k")) == b"60"


def test_delete_and_update_exclude_each_other(store: LocalStore, tmp_path: Path) -> None:
    async def work() -> None:
        for _ in range(50):
            version = await store.put_new("a/k", b"1")
            updated, _deleted = await asyncio.gather(
                store.put_if_match("a/k", b"2", version), store.delete(["a/k"]), return_exceptions=True
            )
            assert isinstance(updated, PreconditionFailed) or updated.etag
            assert not (tmp_path / "repo/a/k").exists(), "an update brought a deleted object back"

    run(work())


# -- the lock ----------------------------------------------------------------------------------------------------


def test_lock_excludes(tmp_path: Path) -> None:
    held = pytest.raises(TransientStorageError, match="held the lock")
    with locked(str(tmp_path)), held, locked(str(tmp_path), timeout=0.05):
        pass
    with locked(str(tmp_path), timeout=0.05):
        pass
    assert list(tmp_path.iterdir()) == []


def test_lock_is_freed_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(str(tmp_path)):
        raise ZeroDivisionError
    with locked(str(tmp_path), timeout=0.05):
        pass


def test_lock_of_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locked(str(tmp_path / "none")):
        pass


@posix
def test_lock_falls_back_to_a_file_nobody_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = file_lock.fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112
            raise OSError(errno.EBADF, "as on a network file system")
        real(descriptor, operation)

    monkeypatch.setattr(file_lock.fcntl, "flock", flock)
    store = LocalStore(str(tmp_path))

    async def work() -> None:
        version = await store.put_new("refs/branch.main/ref.json", b"1")
        await store.put_if_match("refs/branch.main/ref.json", b"2", version)
        assert await keys(store) == ["refs/branch.main/ref.json"]

    run(work())
    assert (tmp_path / "refs/branch.main" / LOCK_FILE).exists()
    with locked(str(tmp_path)), pytest.raises(TransientStorageError), locked(str(tmp_path), timeout=0.05):
        pass


@posix
def test_a_child_forked_under_the_lock_does_not_keep_it(tmp_path: Path) -> None:
    with locked(str(tmp_path)):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
        forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        forked.start()
    try:
        with locked(str(tmp_path), timeout=1):
            pass
    finally:
        for process in (child, forked):
            process.kill()
        child.wait()
        forked.join()


def _hold(directory: str, inside: Any) -> None:
    with locked(directory):
        inside.set()
        time.sleep(60)


@posix
def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    inside = context.Event()
    holder = context.Process(target=_hold, args=(str(tmp_path), inside))
    holder.start()
    assert inside.wait(10)
    with pytest.raises(TransientStorageError), locked(str(tmp_path), timeout=0.05):
        pass
    holder.kill()
    holder.join()
    with locked(str(tmp_path), timeout=5):
        pass


def test_without_hard_links(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: str, target: str) -> None:
        raise OSError(errno.EPERM, "as on FAT")

    monkeypatch.setattr(files.os, "link", link)

    async def attempt(i: int) -> bool:
        try:
            await store.put_new("a/k", b"%d" % i)
        except PreconditionFailed:
            return False
        return True

    async def work() -> None:
        assert sum(await asyncio.gather(*(attempt(i) for i in range(10)))) == 1

    run(work())
    assert [p.name for p in Path(store._root).rglob("*") if p.is_file()] == ["k"]


# -- crashes and errors ------------------------------------------------------------------------------------------


def test_what_a_crash_leaves_is_no_object(store: LocalStore, tmp_path: Path) -> None:
    run(store.put("chunks/A", b"1"))
    root = tmp_path / "repo"
    (root / "chunks/B#17").write_bytes(b"half")
    (root / "chunks/A#9999").write_bytes(b"half")
    (root / "#3").write_bytes(b"half")
    (root / "refs/branch.x").mkdir(parents=True)
    (root / "refs/branch.x/ref.json#1").write_bytes(b"half")
    assert run(keys(store)) == ["chunks/A"]
    assert run(store.get("chunks/A")) == b"1"
    run(store.put_new("refs/branch.x/ref.json", b"2"))
    assert run(keys(store)) == ["chunks/A", "refs/branch.x/ref.json"]


@pytest.mark.parametrize("name", ["#", "a#", "a#b", "a#1b", "1", "a1", ".DS_Store", "a#1.txt"])
def test_what_is_an_object(store: LocalStore, tmp_path: Path, name: str) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / name).touch()
    assert len(run(keys(store))) == 1


@pytest.mark.parametrize(
    ("how", "fails"),
    [(how, fails) for how in ("put", "put_new", "put_if_match") for fails in ("write", "fsync")]
    + [("put", "replace"), ("put_if_match", "replace"), ("put_new", "link")],
)
def test_a_failed_write_changes_nothing(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, how: str, fails: str
) -> None:
    version = run(store.put_new("a/k", b"old"))

    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, fails, fail)
    write: Coroutine[Any, Any, Any] = {
        "put": lambda: store.put("a/k", b"new"),
        "put_new": lambda: store.put_new("a/l", b"new"),
        "put_if_match": lambda: store.put_if_match("a/k", b"new", version),
    }[how]()
    with pytest.raises(StorageError, match="no space left") as caught:
        run(write)
    assert not isinstance(caught.value, OutcomeUnknown | PreconditionFailed)
    monkeypatch.undo()
    assert [p.name for p in Path(store._root, "a").iterdir()] == ["k"]
    assert run(store.get("a/k")) == b"old"


def test_a_lost_directory_sync_is_an_unknown_outcome(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    version = run(store.put_new("a/k", b"1"))

    def fail(path: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(file_sync, "sync_directory", fail)
    with pytest.raises(OutcomeUnknown, match="may or may not have landed"):
        run(store.put_if_match("a/k", b"2", version))
    with pytest.raises(OutcomeUnknown):
        run(store.put_new("a/l", b"2"))
    assert run(store.get("a/k")) == b"2"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may do anything")
def test_permissions(store: LocalStore, tmp_path: Path) -> None:
    run(store.put("a/k", b"1"))
    (tmp_path / "repo/a").chmod(0)
    try:
        with pytest.raises(PermissionDenied):
            run(store.get("a/k"))
    finally:
        (tmp_path / "repo/a").chmod(0o700)


def test_a_directory_is_no_object(store: LocalStore) -> None:
    run(store.put("a/b/k", b"1"))
    with pytest.raises(ObjectNotFound):
        run(store.get("a/b"))
    with pytest.raises(ObjectNotFound):
        run(store.get("a/b/k/l"))


@posix
def test_a_pipe_in_a_repository_does_not_hang(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "repo/chunks").mkdir(parents=True)
    os.mkfifo(tmp_path / "repo/chunks/P")
    with pytest.raises(ObjectNotFound):
        run(store.get("chunks/P"))


def test_names_too_long(store: LocalStore) -> None:
    with pytest.raises(StorageError, match="cannot hold a name"):
        run(store.put("refs/branch." + "x" * 300 + "/ref.json", b"1"))


def test_a_file_that_shrinks_while_it_is_read(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    run(store.put("k", b"0123456789"))
    parts = iter([b"0123", b""])
    monkeypatch.setattr(files.os, "read", lambda descriptor, length: next(parts))
    with pytest.raises(StorageError, match="k has 4 bytes"):
        run(store.get("k", start=0, stop=10))


# -- listing -----------------------------------------------------------------------------------------------------


def test_nothing_is_made_by_reading(store: LocalStore, tmp_path: Path) -> None:
    run(keys(store))
    with pytest.raises(ObjectNotFound):
        run(store.get("k"))
    with pytest.raises(PreconditionFailed):
        run(store.put_if_match("a/k", b"", run(LocalStore(str(tmp_path / "x")).put_new("k", b""))))
    run(store.delete(["a/k"]))
    assert not (tmp_path / "repo").exists()


@posix
def test_symbolic_links(store: LocalStore, tmp_path: Path) -> None:
    run(store.put("chunks/A", b"1"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "M").write_bytes(b"22")
    (tmp_path / "repo/manifests").symlink_to(elsewhere)
    (tmp_path / "repo/dangling").symlink_to(tmp_path / "none")
    assert run(keys(store)) == ["chunks/A", "manifests/M"]
    assert run(store.get("manifests/M")) == b"22"
    (tmp_path / "repo/loop").symlink_to(tmp_path / "repo")
    with pytest.raises(StorageError, match="loop"):
        run(keys(store))


def test_what_vanishes_during_a_listing(store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("A", "B", "C"):
        run(store.put(f"chunks/{name}", b""))

    async def work() -> None:
        listing = store.list("")
        (tmp_path / "repo/chunks/B").unlink()
        assert sorted([info.key async for page in listing for info in page]) == ["chunks/A", "chunks/C"]

    run(work())


@posix
def test_odd_file_names_are_listed(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "%zz%41%C3").touch()
    assert run(keys(store)) == ["%zz%41%C3"]
    Path(os.fsdecode(os.fsencode(tmp_path / "repo") + b"/\xff")).touch()
    with pytest.raises(StorageError, match="cannot hold a name"):
        run(keys(store))


# -- durability --------------------------------------------------------------------------------------------------


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths given to fsync, in order."""
    paths: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115
        real(descriptor)

    monkeypatch.setattr(file_sync.os, "fsync", fsync)
    return paths


linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@linux
def test_durable_writes_sync_file_then_directory(store: LocalStore, synced: list[str], tmp_path: Path) -> None:
    run(store.put("a/k", b"1"))
    assert synced[-2].startswith(str(tmp_path / "repo/a/k#"))
    assert synced[-1] == str(tmp_path / "repo/a")
    assert {str(tmp_path), str(tmp_path / "repo")} <= set(synced), "new directories are names in their parents"
    synced.clear()
    version = run(store.put_new("a/l", b"1"))
    assert [Path(path).name.partition("#")[0] for path in synced] == ["l", "a"]
    synced.clear()
    run(store.put_if_match("a/l", b"1", version))
    assert [Path(path).name.partition("#")[0] for path in synced] == ["l", "a"]


@linux
@pytest.mark.parametrize("number", [1, 10, 40])
def test_chunks_are_synced_when_asked(
    store: LocalStore, synced: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(file_sync, "_unwritten_bytes", lambda: 2**40)
    names = [f"chunks/{i}" for i in range(number)]
    for name in names:
        run(store.put(name, b"1", durable=False))
    assert not [path for path in synced if Path(path).name[0].isdigit()]
    synced.clear()
    run(store.sync(names))
    assert sorted(synced) == sorted([str(tmp_path / "repo/chunks"), *(str(tmp_path / "repo" / name) for name in names)])
    run(store.sync([]))
    with pytest.raises(ObjectNotFound):
        run(store.sync(["chunks/none"]))


@linux
@pytest.mark.parametrize("unwritten", [0, 2**40])
def test_what_a_reference_leads_to_is_durable_first(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unwritten: int
) -> None:
    """Contents and names, the new reference included; then the reference takes its place, and that is durable too."""
    names = ["chunks/1", "manifests/2", "snapshots/3"]
    for name in names:
        run(store.put(name, b"1", durable=False))
    version = run(store.put_new("refs/k", b"old"))
    events: list[str] = []

    def noting(module: Any, name: str) -> None:
        real = getattr(module, name)

        def call(path: str, *more: Any) -> Any:
            events.append(f"{name} {Path(path).relative_to(tmp_path / 'repo')}".partition("#")[0])
            return real(path, *more)

        monkeypatch.setattr(module, name, call)

    monkeypatch.setattr(file_sync, "_unwritten_bytes", lambda: unwritten)
    for name in ("sync_file", "sync_directory", "sync_file_system"):
        noting(file_sync, name)
    noting(files, "replace")
    run(store.put_if_match("refs/k", b"new", version, after=names))
    assert run(store.get("refs/k")) == b"new"
    everything = {f"sync_file {name}" for name in [*names, "refs/k"]}
    for folder in ("chunks", "manifests", "snapshots"):
        everything |= {f"sync_directory {folder}", f"sync_file {folder}"}  # the one calls the other
    replaced = events.index("replace refs/k")
    assert set(events[1:replaced]) == (everything if unwritten else set())
    assert events[0] == "sync_file_system ."
    assert events[replaced + 1 :] == ["sync_directory refs", "sync_file refs"]
    with pytest.raises(PreconditionFailed):
        run(store.put_if_match("refs/k", b"late", version, after=names))
    assert len(events) == replaced + 3, "whoever is late does not wait for the disk"
    assert [path.name for path in (tmp_path / "repo/refs").iterdir()] == ["k"]


@linux
def test_many_chunks_are_synced_at_once_when_little_else_is_unwritten(
    store: LocalStore, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_sync, "_unwritten_bytes", lambda: 0)
    names = [f"{folder}/{i}" for i in range(20) for folder in ("chunks", "manifests")]
    for name in names:
        run(store.put(name, b"1", durable=False))
    synced.clear()
    run(store.sync(names))
    assert synced == []
    run(store.sync(names[:10]))
    assert synced == []
    run(store.sync(names[:2]))
    assert len(synced) == 4, "few files are cheaper one by one"


@linux
def test_a_file_system_that_fails_to_sync(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def syncfs(_: int) -> int:
        file_sync.ctypes.set_errno(errno.EIO)
        return -1

    monkeypatch.setattr(file_sync, "_unwritten_bytes", lambda: 0)
    monkeypatch.setattr(file_sync, "_c_function", {"syncfs": syncfs}.get)
    names = [f"chunks/{i}" for i in range(20)]
    for name in names:
        run(store.put(name, b"1", durable=False))
    with pytest.raises(StorageError, match="Input/output error"):
        run(store.sync(names))


@linux
def test_unwritten_bytes_are_known() -> None:
    assert 0 <= file_sync._unwritten_bytes() < 2**45


# -- forks, pace -------------------------------------------------------------------------------------------------


@posix
def test_a_forked_child_reads_and_writes(store: LocalStore) -> None:
    run(store.put("k", b"1"))

    def child() -> None:
        version = run(store.get_versioned("k"))[1]
        run(store.put_if_match("k", b"2", version))
        run(store.put("l", b"3"))

    process = multiprocessing.get_context("fork").Process(target=child, daemon=True)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert run(store.get("k")) + run(store.get("l")) == b"23"


def test_slow_calls_move_to_threads_and_back() -> None:
    pace = Pace(limit=1e-3, probe_every=4)
    pause = [0.005]

    def call() -> threading.Thread:
        time.sleep(pause[0])
        return threading.current_thread()

    async def work() -> None:
        here = threading.current_thread()
        first = [await pace.run(call) for _ in range(10)]
        assert first[0] is here
        assert sum(thread is not here for thread in first) >= 5
        pause[0] = 0.0
        for _ in range(200):
            last = await pace.run(call)
        assert last is here

    run(work())


def test_pace_passes_errors_on() -> None:
    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        run(Pace().run(fail))


LARGE = bytes(range(256)) * 2048


def test_large_objects_go_through_the_library(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Role] = []
    client = store._client

    def noted(role: Role) -> Any:
        asked.append(role)
        return client(role)

    monkeypatch.setattr(store, "_client", noted)

    async def work() -> None:
        await store.put("chunks/small", b"1", durable=False)
        await store.put("chunks/large", memoryview(LARGE), durable=False)
        assert await store.get("chunks/small") == b"1"
        assert await store.get("chunks/large") == LARGE
        assert await store.get("chunks/large", start=1, stop=400_000) == LARGE[1:400_000]
        assert await store.get("chunks/large", start=5, stop=9) == LARGE[5:9]
        assert await store.delete(["chunks/small", "chunks/none", "chunks/large"]) == 3
        assert await keys(store) == []

    run(work())
    assert asked == [Role.WRITE, Role.READ, Role.READ]


@posix
def test_a_forked_child_reads_and_writes_large_objects(store: LocalStore) -> None:
    """There the library, whose threads stayed in the parent, would never answer."""
    run(store.put("chunks/A", LARGE, durable=False))
    assert run(store.get("chunks/A")) == LARGE

    def child() -> None:
        assert run(store.get("chunks/A")) == LARGE
        run(store.put("chunks/B", LARGE, durable=False))
        run(store.delete(["chunks/A", "chunks/none"]))

    process = multiprocessing.get_context("fork").Process(target=child, daemon=True)
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert run(keys(store)) == ["chunks/B"]
    assert run(store.get("chunks/B")) == LARGE


@posix
def test_a_forked_child_lists(store: LocalStore) -> None:
    run(store.put("k", b"1"))
    assert run(keys(store)) == ["k"]

    def child() -> None:
        assert run(keys(store)) == ["k"]

    process = multiprocessing.get_context("fork").Process(target=child, daemon=True)
    process.start()
    process.join(30)
    assert process.exitcode == 0


def test_small_writes_to_a_slow_disk_go_through_the_library(store: LocalStore, tmp_path: Path) -> None:
    """Which does not block the event loop, and leaves what the next reader expects."""
    run(store.put("chunks/first", b"1", durable=False))
    store._writes = Pace(limit=-1.0)  # every call is slow
    direct: list[str] = []
    real = store._put_quickly

    def put_quickly(key: str, data: bytes | memoryview) -> None:
        direct.append(key)
        real(key, data)

    store._put_quickly = put_quickly  # type: ignore[method-assign]
    names = [f"{directory}/a#{i}" for i in range(20) for directory in ("chunks", "manifests")]

    async def work() -> None:
        for name in names:
            await store.put(name, name.encode(), durable=False)
        await store.put(names[-1], b"again", durable=False)
        await store.sync(names)
        assert await keys(store) == sorted(["chunks/first", *names])
        assert await store.get(names[0]) == names[0].encode()
        assert await store.get(names[-1]) == b"again"

    run(work())
    assert 4 <= len(direct) < 10
    assert [path.name for path in tmp_path.rglob("*#*")] == []


@posix
def test_a_forked_child_writes_to_a_slow_disk(store: LocalStore) -> None:
    store._writes = Pace(limit=-1.0)
    for i in range(10):
        run(store.put(f"chunks/{i}", b"1", durable=False))

    def child() -> None:
        for i in range(10, 20):
            run(store.put(f"chunks/{i}", b"2", durable=False))

    process = multiprocessing.get_context("fork").Process(target=child, daemon=True)
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert len(run(keys(store))) == 20
