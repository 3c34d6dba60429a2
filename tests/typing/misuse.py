"""Mistakes that mypy finds for users. Never run: an error that mypy ceases to find is an unused ``ignore`` for it."""

from __future__ import annotations

import icechunk_virtual as icechunk


def opening() -> None:
    """What `Repository` is given, and what it gives."""
    icechunk.Repository.create("folder")  # type: ignore[arg-type]
    icechunk.Repository.create(icechunk.in_memory_storage(), {})  # type: ignore[arg-type]
    icechunk.Repository.open(icechunk.in_memory_storage(), authorise=None)  # type: ignore[call-arg]
    repo = icechunk.Repository.open_or_create(icechunk.in_memory_storage())
    repo.writeable_session("main")  # type: ignore[attr-defined]
    repo.config = icechunk.RepositoryConfig()  # type: ignore[misc]
    icechunk.RepositoryConfig(inline_chunk_threshold_bytes="512")  # type: ignore[arg-type]


async def forgotten_await(storage: icechunk.Storage) -> str:
    """Coroutines are not their results."""
    repo = icechunk.Repository.open_async(storage)
    repo.list_branches()  # type: ignore[attr-defined]
    opened = await repo
    opened.save_config_async()  # type: ignore[unused-coroutine]
    return opened.lookup_branch_async("main")  # type: ignore[return-value]


def versions(repo: icechunk.Repository) -> int:
    """Versions are named by keyword, and ids are text."""
    repo.ancestry("main")  # type: ignore[call-arg]
    repo.create_tag("v1", 1)  # type: ignore[arg-type]
    for info in repo.ancestry(branch="main"):
        info.message = "another"  # type: ignore[misc]
    info = repo.lookup_snapshot("1CECHNKREP0F1RSTCMT0")
    len(info.parent_id)  # type: ignore[arg-type]
    return repo.lookup_branch("main")  # type: ignore[return-value]


def sessions(session: icechunk.Session, fork: icechunk.ForkSession) -> None:
    """Forks are merged, and solvers solve."""
    session.merge(session)  # type: ignore[arg-type]
    session.merge(fork)
    session.rebase(icechunk.ConflictDetector)  # type: ignore[arg-type]
    icechunk.BasicConflictSolver(on_chunk_conflict="ours")  # type: ignore[arg-type]
    session.commit(b"message")  # type: ignore[arg-type]
    session.commit("message", rebase_with=True)  # type: ignore[arg-type]


def references(store: icechunk.IcechunkStore) -> None:
    """References name a place and its bytes."""
    store.set_virtual_ref("a/c/0", "file:///data/a")  # type: ignore[call-arg]
    store.set_virtual_refs("a", [("file:///data/a", 0, 1)])  # type: ignore[list-item]
    icechunk.VirtualChunkSpec([0], "file:///data/a", "0", 1)  # type: ignore[arg-type]
