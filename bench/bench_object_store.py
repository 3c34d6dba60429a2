"""Native chunks in a bucket: small ones one by one and large ones, against S3 servers on this machine.

moto answers about as slowly as a real service. The other one keeps objects in memory and does nothing else, so that
what counts is the client.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import itertools
import subprocess
import sys
from contextlib import ExitStack
from typing import Any

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype

from bench.engines import SIDES, Side, engine, make_array
from bench.harness import Pair
from tests.support.s3_server import make_bucket, moto_server

SMALL, SMALL_ITEMS = 1000, 1000
LARGE, LARGE_ITEMS = 24, 2**20  # of eight bytes each
PROTOTYPE = default_buffer_prototype()
VALUES = [PROTOTYPE.buffer.from_bytes(bytes([i % 251]) * SMALL_ITEMS) for i in range(SMALL)]
_numbers = itertools.count()


@functools.cache
def large_data() -> Any:
    return np.random.default_rng(0).random((LARGE, LARGE_ITEMS))


def repository(side: Side, url: str, bucket: str) -> Any:
    """A new repository of native chunks in the bucket."""
    ic = engine(side)
    return ic.Repository.create(storage(side, url, bucket, f"{side}-{next(_numbers)}"), native(side))


def native(side: Side) -> Any:
    config = engine(side).RepositoryConfig.default()
    config.inline_chunk_threshold_bytes = 0
    return config


def storage(side: Side, url: str, bucket: str, prefix: str) -> Any:
    return engine(side).s3_storage(
        bucket=bucket,
        prefix=prefix,
        region="us-east-1",
        endpoint_url=url,
        allow_http=True,
        force_path_style=True,
        access_key_id="KEYID",
        secret_access_key="SECRET",
    )


def opened(url: str, bucket: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str) -> dict[Side, Any]:
    """A session of each library on an array of its own."""
    sessions = {}
    for side in SIDES:
        session = repository(side, url, bucket).writable_session("main")
        make_array(session.store, shape, chunks, dtype)
        sessions[side] = session
    return sessions


def write_small(session: Any) -> None:
    async def work() -> None:
        await asyncio.gather(*(session.store.set(f"a/c/{i}", value) for i, value in enumerate(VALUES)))

    asyncio.run(work())


def write_one_by_one(session: Any) -> None:
    async def work() -> None:
        for i, value in enumerate(VALUES):
            await session.store.set(f"a/c/{i}", value)

    asyncio.run(work())


def read_small(session: Any) -> None:
    async def work() -> None:
        await asyncio.gather(*(session.store.get(f"a/c/{i}", PROTOTYPE) for i in range(SMALL)))

    asyncio.run(work())


def write_large(session: Any) -> None:
    zarr.open_array(session.store, path="a")[:] = large_data()


def read_large(session: Any) -> None:
    zarr.open_array(session.store, path="a", mode="r")[:]


def quick_server() -> Any:
    """A server in a process of its own, that keeps objects in memory."""
    return subprocess.Popen([sys.executable, "-m", "bench.memory_s3"], stdout=subprocess.PIPE, text=True)


def benches() -> list[Pair]:
    stack = ExitStack()
    atexit.register(stack.close)
    moto = stack.enter_context(moto_server())
    process = stack.enter_context(quick_server())
    stack.callback(process.terminate)
    quick = process.stdout.readline().strip()
    make_bucket(moto, "bench")
    found = [_small(moto, "moto", write_small, "at once"), _small(moto, "moto", write_one_by_one, "one by one")]
    found += [_small(quick, "memory", write_small, "at once"), _small(quick, "memory", write_one_by_one, "one by one")]
    return [*found, _read_small(quick), *_large(quick)]


def _small(url: str, name: str, write: Any, how: str) -> Pair:
    return _pair(
        f"{name}: write 1,000 chunks of 1 kB from one event loop, {how}",
        write,
        lambda: opened(url, "bench", (SMALL * SMALL_ITEMS,), (SMALL_ITEMS,), "u1"),
        SMALL,
    )


def _read_small(url: str) -> Pair:
    def setup() -> dict[Side, Any]:
        sessions = opened(url, "bench", (SMALL * SMALL_ITEMS,), (SMALL_ITEMS,), "u1")
        for session in sessions.values():
            write_small(session)
        return sessions

    return _pair("memory: read 1,000 chunks of 1 kB from one event loop, at once", read_small, setup, SMALL)


def _large(url: str) -> list[Pair]:
    shape, chunks = (LARGE, LARGE_ITEMS), (1, LARGE_ITEMS)

    def written() -> dict[Side, Any]:
        sessions = opened(url, "bench", shape, chunks, "f8")
        for side, session in sessions.items():
            write_large(session)
            if not np.array_equal(zarr.open_array(session.store, path="a", mode="r")[:], large_data()):
                raise RuntimeError(f"{side} reads other values than it wrote")
        return sessions

    return [
        _pair("memory: write 24 chunks of 8 MB", write_large, lambda: opened(url, "bench", shape, chunks, "f8"), LARGE),
        _pair("memory: read 24 chunks of 8 MB", read_large, written, LARGE),
    ]


def _pair(name: str, run: Any, setup: Any, count: int) -> Pair:
    return Pair(
        name,
        ours=lambda sessions: run(sessions["ours"]),
        theirs=lambda sessions: run(sessions["theirs"]),
        setup=setup,
        count=count,
        unit="chunks",
        at_least=1.0,
        slack=0.05,
    )
