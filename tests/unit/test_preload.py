"""Background work of an opened session: it gives way, ends with the process and does not come along in a fork."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import subprocess
import sys
import threading

import pytest
import zarr

from icechunk_virtual import ManifestConfig, ManifestPreloadCondition, ManifestPreloadConfig, RepositoryConfig, _sync
from icechunk_virtual.repo import preload
from tests.support.faulty import Script, faulty
from tests.support.hierarchies import get, new_repository, tip, writable

EVERYTHING = RepositoryConfig(
    manifest=ManifestConfig(preload=ManifestPreloadConfig(preload_if=ManifestPreloadCondition.true()))
)


def test_what_is_started_runs_on_the_background_loop() -> None:
    async def where(fail: bool) -> str:
        await asyncio.sleep(0)
        if fail:
            raise KeyError("on purpose")
        return threading.current_thread().name

    begun = _sync.start(where(False))
    assert begun.result(10) == "icechunk-virtual"
    with pytest.raises(KeyError):
        _sync.start(where(True)).result(10)
    assert begun not in _sync._background, "what has ended is not kept"


def test_only_the_first_fifty_arrays_are_looked_at() -> None:
    repo = new_repository(config=EVERYTHING)
    session = writable(repo)
    group = zarr.create_group(session.store)
    for number in range(60):
        group.create_array(f"a{number:02}", shape=(1,), chunks=(1,), dtype="i1")[:] = 1
    session.commit("many")
    opened = type(repo).open(repo.storage, EVERYTHING)
    snapshot = tip(opened)._workspace.snapshot
    concurrent.futures.wait(list(_sync._background))
    assets = opened._opened.assets
    held = [
        node.path
        for node in snapshot.nodes()
        for ref in getattr(node, "manifests", ())
        if assets.manifest_in_memory(ref.id)
    ]
    assert held == [f"/a{number:02}" for number in range(50)]


def test_nothing_is_started_without_manifests() -> None:
    repo = new_repository(config=EVERYTHING)
    opened = repo._opened
    assert preload.begin(opened.assets, opened.config, tip(repo)._workspace.snapshot) is None


def test_a_failure_is_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    repo = new_repository()
    session = writable(repo)
    zarr.create_array(session.store, name="time", shape=(2,), chunks=(1,), dtype="i1")[:] = 1
    session.commit("time")
    script = Script()
    nothing = RepositoryConfig(manifest=ManifestConfig(preload=ManifestPreloadConfig(max_total_refs=0)))
    snapshot = tip(type(repo).open(repo.storage, nothing))._workspace.snapshot
    opened = type(repo).open(faulty(repo.storage, script))._opened
    script.restart(fail_at=1, times=100)
    begun = preload.begin(opened.assets, opened.config, snapshot)
    assert begun is not None
    with caplog.at_level(logging.INFO, "icechunk_virtual.repo.preload"):
        assert begun.result(10) is None
    (record,) = (record for record in caplog.records if record.name.endswith("preload"))
    assert "preloading manifests failed" in record.getMessage()


def test_opening_does_not_wait_for_it() -> None:
    """The store is blocked until the session is there."""
    repo = new_repository()
    session = writable(repo)
    zarr.create_array(session.store, name="time", shape=(2,), chunks=(1,), dtype="i1", compressors=None)[:] = 1
    session.commit("time")
    entered, gate = threading.Event(), threading.Event()

    class Blocking(Script):
        def next(self, operation: str, key: str) -> bool:
            if key.startswith("manifests/") and not gate.is_set():
                entered.set()
                gate.wait(10)
            return super().next(operation, key)

    script = Blocking()
    opened = type(repo).open(faulty(repo.storage, script))
    session = tip(opened)
    gate.set()
    assert get(session.store, "time/c/0") == b"\x01"
    concurrent.futures.wait(list(_sync._background))
    assert len([key for _, key in script.calls if key.startswith("manifests/")]) == 1, "fetched once for both"


PROGRAM = """
import asyncio, os, sys
import icechunk_virtual as icv
from icechunk_virtual import _sync

async def for_ever():
    await asyncio.Event().wait()

begun = _sync.start(for_ever())
if sys.argv[1] == "fork":
    child = os.fork()
    if not child:
        icv.Repository.create(icv.in_memory_storage()).readonly_session("main")
        print("child", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
print("end", flush=True)
"""


@pytest.mark.parametrize(
    "how", ["exit", pytest.param("fork", marks=pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork"))]
)
def test_work_under_way_holds_up_neither_the_end_nor_a_fork(how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, how], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == (["child", "end"] if how == "fork" else ["end"])
    assert done.stderr == ""
