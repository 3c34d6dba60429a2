"""The reader that merges: who gets what, from how few requests, and who notices what goes wrong."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icechunk_virtual.containers.authorize import Authorization, Grant
from icechunk_virtual.containers.coalesce import Merging, Meter, Pace
from icechunk_virtual.containers.container import VirtualChunkContainer, http_store
from icechunk_virtual.containers.failures import failed
from icechunk_virtual.containers.merged import MergingReader, Shared
from icechunk_virtual.containers.url import Location, check_location
from icechunk_virtual.errors import VirtualReadError
from icechunk_virtual.model.chunk_refs import ChunkRefs, VirtualChunk
from icechunk_virtual.model.locations import Locations

PREFIX, CLOSED = "https://host/open/", "https://host/closed/"
FILE = PREFIX + "f"
CONTENT = np.random.default_rng(0).integers(0, 256, 3_000_000, np.uint8).tobytes()
SIZE = 1000
LARGE = 2**17
CONTAINERS = {prefix: VirtualChunkContainer(prefix, http_store()) for prefix in (PREFIX, CLOSED)}
AUTHORIZATION = Authorization(CONTAINERS, {PREFIX: None})


class Steady(Meter):
    """Knows the pace and does not measure."""

    __slots__ = ()

    def record(self, size: int, seconds: float) -> None:
        pass


class Clock:
    """Stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeClient:
    """Reads `CONTENT`, whatever the object, and writes down what it is asked for."""

    def __init__(self) -> None:
        self.log: list[VirtualChunk] = []
        self.ranges: list[tuple[int, int]] = []
        self.bad: set[int] = set()  # bytes that cannot be read
        self.end = self.most = len(CONTENT)
        self.cancelled = self.fetched = 0
        self.gates: dict[asyncio.AbstractEventLoop, asyncio.Event] = {}
        self.closed = False

    async def read(self, grant: Grant, location: Location, chunk: VirtualChunk, offset: int, length: int) -> memoryview:
        assert grant.authorized
        self.log.append(chunk)
        self.ranges.append((offset, offset + length))
        try:
            await asyncio.sleep(0)
            if self.closed:
                await self.gates.setdefault(asyncio.get_running_loop(), asyncio.Event()).wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.bad & set(range(offset, offset + length)) or offset + length > self.end:
            raise failed(grant, location, chunk, "it is broken")
        self.fetched += length
        return memoryview(CONTENT)[offset : offset + min(length, self.most)]

    def open(self) -> None:
        """Let those go that wait on this event loop."""
        self.closed = False
        self.gates[asyncio.get_running_loop()].set()

    async def asked(self) -> None:
        """Until the first request."""
        await asyncio.wait_for(self._asked(), 30)

    async def _asked(self) -> None:
        while not self.log:  # noqa: ASYNC110  # an event would belong to one event loop
            await asyncio.sleep(0)


@dataclass
class Line:
    """Neighbours in an array of one axis."""

    refs: ChunkRefs
    coord: tuple[int, ...]
    array: str = "a"
    grid: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.grid = (int(self.refs.coords[-1, 0]) + 1,)

    def references(self, coords: np.ndarray[Any, Any]) -> tuple[ChunkRefs, int]:
        rows = self.refs.find(coords)
        return self.refs.take(rows[rows >= 0]), len(coords)


class Bench:
    """A reader, what it reads through, and what it shares."""

    def __init__(self, max_overread: float = 1.0, buffer_bytes: int = 2**20) -> None:
        self.client, self.clock = FakeClient(), Clock()
        self.shared = Shared(Merging(max_overread, buffer_bytes), self.clock)
        steady = self.shared.meters[PREFIX] = Steady()
        steady.pace = Pace(0.02, LARGE * 4 / 0.02)
        self.reader = MergingReader(self.client, AUTHORIZATION, self.shared)

    async def read(self, offset: int, length: int = SIZE, near: Line | None = None, **chunk: Any) -> bytes:
        wanted = VirtualChunk(**{"url": FILE, "offset": offset, "length": length, **chunk})
        grant, location = AUTHORIZATION.readable(wanted.url), check_location(wanted.url)
        data = await self.reader.read(grant, location, wanted, offset, length, near)
        assert bytes(data) == CONTENT[offset : offset + length]
        return bytes(data)

    async def sweep(self, refs: ChunkRefs, order: Iterable[int], at_once: int = 10) -> None:
        """As zarr reads: so many at a time, the next as soon as one is done."""
        limit = asyncio.Semaphore(at_once)

        async def one(row: int) -> None:
            async with limit:
                chunk = refs.row(row)
                assert isinstance(chunk, VirtualChunk)
                near = Line(refs, tuple(refs.coords[row].tolist()))
                await self.read(chunk.offset, chunk.length, near, url=chunk.url)

        await asyncio.gather(*map(one, order))
        self.check()

    def check(self) -> None:
        """What holds at every moment; and nothing is under way."""
        assert not self.shared.flights
        assert not self.shared.unasked
        assert self.client.fetched == self.shared.fetched <= (1 + self.shared.max_overread) * self.shared.asked
        assert self.shared.buffer.held == sum(len(piece) for piece in self.shared.buffer) <= self.shared.buffer_bytes


def adjacent(count: int, **checksums: Any) -> ChunkRefs:
    return ChunkRefs.virtual(
        np.arange(count)[:, None], Locations.of([FILE], **checksums), 0, np.arange(count) * SIZE, SIZE
    )


# -- windows -----------------------------------------------------------------------------------------------------


def test_neighbours_are_read_at_once_and_not_copied() -> None:
    bench = Bench()

    async def main() -> list[bytes | memoryview]:
        grant, location = AUTHORIZATION.readable(FILE), check_location(FILE)
        chunks = [VirtualChunk(FILE, i * SIZE, SIZE) for i in (3, 1, 0, 2)]
        return await asyncio.gather(
            *(bench.reader.read(grant, location, chunk, chunk.offset, SIZE) for chunk in chunks)
        )

    found = asyncio.run(main())
    assert [bytes(data) for data in found] == [CONTENT[i * SIZE : (i + 1) * SIZE] for i in (3, 1, 0, 2)]
    assert all(isinstance(data, memoryview) and data.obj is CONTENT for data in found)
    assert bench.client.log == [VirtualChunk(FILE, 0, 4 * SIZE)]
    assert not list(bench.shared.buffer)


def test_what_is_not_the_same_state_of_an_object_is_not_merged() -> None:
    bench = Bench()
    kinds: list[dict[str, Any]] = [
        {}, {"etag": "a"}, {"etag": "b"}, {"last_modified": 5}, {"last_modified": 6}, {"url": FILE + "2"},
    ]  # fmt: skip

    async def main() -> None:
        await asyncio.gather(*(bench.read(i * SIZE, **kind) for kind in kinds for i in range(2)))

    asyncio.run(main())
    expected = [VirtualChunk(**{"url": FILE, "offset": 0, "length": 2 * SIZE, **kind}) for kind in kinds]
    assert bench.client.log == expected


def test_the_same_chunk_is_read_once() -> None:
    bench = Bench()

    async def main() -> None:
        bench.client.closed = True
        first = [asyncio.create_task(bench.read(0)) for _ in range(3)]
        await bench.client.asked()
        late = asyncio.create_task(bench.read(100, 50))
        await asyncio.sleep(0.01)
        bench.client.open()
        await asyncio.gather(*first, late)

    asyncio.run(main())
    assert bench.client.ranges == [(0, SIZE)]


def test_gaps_are_read_if_they_are_cheap() -> None:
    async def main(bench: Bench, *offsets: int) -> list[tuple[int, int]]:
        await asyncio.gather(*map(bench.read, offsets))
        bench.check()
        return bench.client.ranges

    assert asyncio.run(main(Bench(), 0, 1500)) == [(0, 2500)]
    assert asyncio.run(main(Bench(max_overread=0.2), 0, 1500)) == [(0, 1000), (1500, 2500)]
    assert asyncio.run(main(Bench(max_overread=100), 0, 700_000)) == [(0, 1000), (700_000, 701_000)]


def test_large_ranges_pass_at_once() -> None:
    bench = Bench()
    large = LARGE
    chunk = VirtualChunk(FILE, 0, large)
    read = bench.reader.read(AUTHORIZATION.readable(FILE), check_location(FILE), chunk, 0, large)
    read.send(None)  # no event loop is there to wait for
    assert bench.client.log == [chunk]
    read.close()

    async def main() -> None:
        await asyncio.gather(*(bench.read(i * large, large) for i in range(4)))

    asyncio.run(main())
    assert bench.client.ranges[1:] == [(i * large, (i + 1) * large) for i in range(4)]


# -- cancelling and failing --------------------------------------------------------------------------------------


def test_who_is_cancelled_takes_nothing_from_others() -> None:
    bench = Bench()

    async def main() -> None:
        bench.client.closed = True
        tasks = [asyncio.create_task(bench.read(i * SIZE)) for i in range(3)]
        await asyncio.sleep(0)
        tasks[2].cancel()  # in the window
        await bench.client.asked()
        tasks[0].cancel()  # in flight
        await asyncio.sleep(0)
        bench.client.open()
        assert await tasks[1] == CONTENT[SIZE : 2 * SIZE]
        assert [task.cancelled() for task in tasks] == [True, False, True]

    asyncio.run(main())
    assert bench.client.ranges == [(0, 2 * SIZE)]
    assert not bench.client.cancelled


def test_what_nobody_waits_for_is_cancelled() -> None:
    bench = Bench()

    async def main() -> None:
        bench.client.closed = True
        tasks = [asyncio.create_task(bench.read(i * SIZE)) for i in range(3)]
        await bench.client.asked()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)
        bench.client.closed = False
        await bench.read(0)

    asyncio.run(main())
    assert bench.client.cancelled == 1
    assert not bench.shared.flights


def test_only_the_chunk_at_fault_fails() -> None:
    bench = Bench()
    bench.client.bad = {2500}

    async def main() -> list[bytes | BaseException]:
        return await asyncio.gather(*(bench.read(i * SIZE) for i in range(5)), return_exceptions=True)

    found = asyncio.run(main())
    assert [isinstance(one, bytes) for one in found] == [True, True, False, True, True]
    error = found[2]
    assert isinstance(error, VirtualReadError)
    assert (error.offset, error.length) == (2 * SIZE, SIZE)
    assert bench.client.ranges == [(0, 5 * SIZE), *((i * SIZE, (i + 1) * SIZE) for i in range(5))]


def test_a_request_of_its_own_is_not_repeated() -> None:
    bench = Bench()
    bench.client.bad = {0}
    with pytest.raises(VirtualReadError):
        asyncio.run(bench.read(0))
    assert len(bench.client.log) == 1


def test_a_client_that_gives_too_little_is_not_believed() -> None:
    bench = Bench()
    bench.client.most = SIZE + 5

    async def main() -> None:
        await asyncio.gather(*(bench.read(i * SIZE) for i in range(3)))

    asyncio.run(main())
    assert len(bench.client.ranges) == 4


# -- going ahead -------------------------------------------------------------------------------------------------


def test_a_sweep_takes_few_requests() -> None:
    bench = Bench()
    refs = adjacent(2000)
    asyncio.run(bench.sweep(refs, range(2000)))
    assert len(bench.client.ranges) <= 20
    assert bench.client.fetched == 2000 * SIZE
    assert not list(bench.shared.buffer), "what was used is forgotten"


def test_chunks_one_after_the_other_are_a_sweep_too() -> None:
    bench = Bench()
    refs = adjacent(500)
    asyncio.run(bench.sweep(refs, range(500), at_once=1))
    assert len(bench.client.ranges) <= 20


def test_missing_chunks_are_never_asked_for() -> None:
    bench = Bench(max_overread=1.0)
    every = adjacent(2000)
    refs = every.take([i for i in range(2000) if i % 300 < 150])
    asyncio.run(bench.sweep(refs, range(len(refs))))
    assert len(bench.client.ranges) <= 40
    assert all(start % (300 * SIZE) < 150 * SIZE for start, _ in bench.client.ranges)


def test_chunks_scattered_over_many_objects() -> None:
    bench = Bench()
    dice = np.random.default_rng(1)
    places = dice.permutation(2000)
    locations = Locations.of([f"{PREFIX}{i}" for i in range(100)])
    refs = ChunkRefs.virtual(np.arange(2000)[:, None], locations, places // 20, places % 20 * SIZE, SIZE)
    asyncio.run(bench.sweep(refs, range(2000)))
    assert len(bench.client.ranges) < 1800


@pytest.mark.parametrize("merging", [{"buffer_bytes": 0}, {"max_overread": 0.0}])
def test_reading_ahead_can_be_switched_off(merging: dict[str, Any]) -> None:
    bench = Bench(**merging)
    asyncio.run(bench.sweep(adjacent(200), range(200)))
    assert bench.client.fetched == 200 * SIZE
    assert len(bench.client.ranges) == 20, "windows of ten"


def test_the_buffer_is_bounded() -> None:
    bench = Bench(buffer_bytes=40 * SIZE)
    asyncio.run(bench.sweep(adjacent(1000), range(1000)))
    assert max(stop - start for start, stop in bench.client.ranges) <= 50 * SIZE
    assert len(bench.client.ranges) > 20


def test_who_stops_leaves_at_most_the_cap_and_makes_room_for_others() -> None:
    bench = Bench(buffer_bytes=100 * SIZE)
    refs = adjacent(2500)
    for start in range(0, 2500, 500):
        asyncio.run(bench.sweep(refs, range(start, start + 60)))
        bench.clock.now += 10
    assert bench.client.fetched <= 2 * 5 * 60 * SIZE
    assert bench.shared.buffer.held > 0


def test_failed_reading_ahead_is_told_to_nobody() -> None:
    bench = Bench()
    bench.client.end = 100 * SIZE  # the references say more
    refs = adjacent(2000)
    asyncio.run(bench.sweep(refs, range(100)))
    assert any(stop > 100 * SIZE for _, stop in bench.client.ranges)
    with pytest.raises(VirtualReadError) as caught:
        asyncio.run(bench.sweep(refs, range(100, 101)))
    assert caught.value.offset == 100 * SIZE


def test_nothing_is_fetched_ahead_where_reading_is_not_authorised() -> None:
    bench = Bench()
    sources = np.arange(2000) // 50 % 2
    refs = ChunkRefs.virtual(
        np.arange(2000)[:, None], Locations.of([FILE, CLOSED + "f"]), sources, np.arange(2000) * SIZE, SIZE
    )
    asyncio.run(bench.sweep(refs, np.flatnonzero(sources == 0).tolist()))
    assert {chunk.url for chunk in bench.client.log} == {FILE}


@pytest.mark.parametrize(("pin", "again"), [({}, True), ({"etag": "e"}, False), ({"last_modified": 7}, False)])
def test_bytes_of_unknown_versions_grow_old(pin: dict[str, Any], again: bool) -> None:
    bench = Bench()
    refs = adjacent(500, etags=[pin.get("etag")], last_modified=[pin.get("last_modified")])

    async def read(row: int) -> None:
        await bench.read(row * SIZE, SIZE, Line(refs, (row,)), **pin)

    async def main() -> None:
        await asyncio.gather(*map(read, range(10)))
        bench.clock.now += 6
        before = len(bench.client.ranges)
        assert bench.shared.buffer.held
        await read(10)
        assert (len(bench.client.ranges) > before) == again

    asyncio.run(main())


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 299), max_size=150),
    st.lists(st.tuples(st.integers(0, 299), st.integers(1, 120)), max_size=4),
    st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    st.sampled_from([0, 20 * SIZE, 2**20]),
    st.integers(1, 30),
    st.permutations(range(3)),
)
def test_any_order_gives_the_right_bytes_within_the_limits(
    single: list[int], runs: list[tuple[int, int]], cap: float, buffer: int, at_once: int, order: list[int]
) -> None:
    bench = Bench(max_overread=cap, buffer_bytes=buffer)
    places = np.random.default_rng(len(single)).permutation(300)
    locations = Locations.of([FILE, FILE + "2", FILE + "3"])
    refs = ChunkRefs.virtual(
        np.arange(300)[:, None], locations, np.array(order)[places % 3], places * SIZE, np.arange(300) % SIZE + 1
    )
    rows = single + [row for start, count in runs for row in range(start, min(start + count, 300))]
    asyncio.run(bench.sweep(refs, rows, at_once))


# -- several event loops, threads and processes --------------------------------------------------------------------


def test_threads_share_what_is_in_flight_and_what_came() -> None:
    bench = Bench()
    refs = adjacent(2000)
    failures: list[Exception] = []

    def work() -> None:
        async def main() -> None:
            limit = asyncio.Semaphore(10)

            async def one(row: int) -> None:
                async with limit:
                    await bench.read(row * SIZE, SIZE, Line(refs, (row,)))

            await asyncio.gather(*map(one, range(2000)))

        try:
            asyncio.run(main())
        except Exception as error:  # noqa: BLE001  # shown by the test
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert bench.client.fetched <= bench.shared.asked
    assert not bench.shared.flights


def test_an_event_loop_that_ends_takes_nobody_with_it() -> None:
    """What one loop fetches, another waits for; the first stops without ever going on."""
    bench = Bench()
    first = asyncio.new_event_loop()
    bench.client.closed = True

    async def begin() -> None:
        first.create_task(bench.read(0)).add_done_callback(lambda task: task.cancelled() or task.exception())
        await bench.client.asked()

    async def other() -> None:
        task = asyncio.create_task(bench.read(0))
        await asyncio.sleep(0.01)
        assert len(bench.client.log) == 1, "it waits"
        bench.client.closed = False
        await task

    first.run_until_complete(begin())
    thread = threading.Thread(target=lambda: asyncio.run(other()))
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert bench.client.ranges == [(0, SIZE)] * 2
    for task in asyncio.all_tasks(first):
        task.cancel()
    first.run_until_complete(asyncio.sleep(0.01))
    first.close()


def test_a_loop_that_is_shut_down_cancels_what_it_fetched() -> None:
    bench = Bench()

    async def main() -> None:
        bench.client.closed = True
        asyncio.get_running_loop().create_task(bench.read(0))
        await asyncio.sleep(0)

    asyncio.run(main())
    bench.client.closed = False
    asyncio.run(bench.read(0))
    assert not bench.shared.flights


def test_a_forked_child_begins_anew() -> None:
    bench = Bench()
    refs = adjacent(500)
    asyncio.run(bench.sweep(refs, range(100)))
    assert list(bench.shared.buffer)
    bench.shared.lock.acquire()  # by a thread of the parent that is not in the child
    bench.shared.after_fork()
    bench.reader.after_fork()
    assert not list(bench.shared.buffer)
    bench.shared.meters[PREFIX] = Steady()
    bench.client.fetched = 0
    asyncio.run(bench.sweep(refs, range(100, 200)))
