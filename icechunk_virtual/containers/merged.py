"""Reading many small ranges with few requests: neighbours are fetched together, and sweeps ahead of time.

Knows no transport: it decorates a client. What is merged is decided in `coalesce`, what is fetched ahead in `sweeps`;
here is who waits for what, on which event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual._after_fork import reset_after_fork
from icechunk_virtual._waiting import Waiter
from icechunk_virtual.containers.authorize import Authorization, Grant
from icechunk_virtual.containers.clients import Client, Neighbours
from icechunk_virtual.containers.coalesce import Merging, Meter, Pace, Range, leading_rows, plan_ranges
from icechunk_virtual.containers.read_buffer import Piece, ReadBuffer, State
from icechunk_virtual.containers.sweeps import Sweep, Sweeps
from icechunk_virtual.containers.url import Location, check_location
from icechunk_virtual.errors import ContainerError
from icechunk_virtual.model.chunk_refs import ChunkKind, ChunkRefs, VirtualChunk

_WINDOW_SECONDS = 0.001
_LOOK_SECONDS = 0.25  # so often is looked whether another event loop, which fetches, still runs
_IDLE_TICKS = 12  # turns of the event loop without a new request that end a window
_ARRAYS = 256  # whose sweeps are remembered
_MOST_CHUNKS = 4096  # of one step ahead
_MOST_AHEAD = 128  # requests ahead of time that are under way at once
_SHARE = 4  # part of the buffer that one sweep may have: a quarter


@dataclass(slots=True, eq=False)
class _Ask:
    """A request that waits: for a piece that is on its way, or for the end of its window."""

    grant: Grant
    location: Location
    chunk: VirtualChunk
    state: State
    start: int
    stop: int
    waiter: Waiter = field(default_factory=Waiter)
    piece: _Piece | None = None
    outcome: memoryview | Exception | None = None  # None: to be asked for alone


_Piece: TypeAlias = Piece[_Ask]
_Flight: TypeAlias = asyncio.Future[tuple[memoryview | Exception]]


@dataclass(frozen=True, slots=True)
class _Advance:
    """A sweep may go ahead from a chunk, in containers of a scheme."""

    near: Neighbours
    scheme: str
    pace: Pace
    stalled: bool


@dataclass(slots=True, eq=False)
class _Window:
    """What arrives on one event loop until it has nothing else to do. Used on that loop only."""

    end: float
    asks: list[_Ask] = field(default_factory=list)
    sweeps: dict[Sweep, _Advance] = field(default_factory=dict)
    seen: int = 0
    idle: int = 0


@dataclass(slots=True)
class _Group:
    """What is to be fetched of one object: first the ranges of `asks`, then ranges ahead of any."""

    grant: Grant
    location: Location
    asks: list[_Ask] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)


class Shared:
    """What the readers of a repository's containers have in common: the buffer, and the account of bytes.

    Parameters
    ----------
    merging
        The limits.
    timer
        Seconds of a monotonic clock.
    """

    def __init__(self, merging: Merging, timer: Callable[[], float] = time.perf_counter) -> None:
        self.max_overread = merging.max_overread
        self.buffer_bytes = merging.buffer_bytes
        self.timer = timer
        self.after_fork()
        reset_after_fork(self)

    def after_fork(self) -> None:
        """Begin anew: whoever fetches and waits is in the parent."""
        self.lock = threading.RLock()  # a coroutine that is thrown away may leave while its thread is in here
        self.buffer: ReadBuffer[_Ask] = ReadBuffer(self.buffer_bytes)
        self.asked = self.fetched = 0  # bytes, also those that are under way
        self.flights: dict[_Piece, _Flight] = {}  # requests under way; asyncio does not keep them alive
        self.unasked = 0  # how many of them nobody asked for
        self.sweeps: OrderedDict[Hashable, Sweeps] = OrderedDict()
        self.meters: dict[str, Meter] = {}

    @property
    def allowed(self) -> int:
        """Bytes that may be fetched in vain, all in all, and were not yet."""
        return int((1 + self.max_overread) * self.asked) - self.fetched

    def meter(self, prefix: str) -> Meter:
        """Of a container."""
        meter = self.meters.get(prefix)
        return self.meters.setdefault(prefix, Meter()) if meter is None else meter

    def sweep(self, near: Neighbours, size: int) -> Sweep | None:
        """The sweep that a request belongs to, if there is evidence for one."""
        sweeps = self.sweeps.pop(near.array, None) or Sweeps()
        self.sweeps[near.array] = sweeps
        if len(self.sweeps) > _ARRAYS:
            self.sweeps.popitem(last=False)
        return sweeps.follow(near.grid, near.coord, size)

    def most_ahead(self, now: float) -> int:
        """Bytes that one sweep may have ahead of it."""
        return min(self.buffer.room(now), self.buffer_bytes // _SHARE)


class MergingReader:
    """Client that merges what is read through another one. Usable from several event loops and threads.

    Requests of one object in one expected state that arrive until the event loop is idle, or for a millisecond, are
    sorted and merged (`plan_ranges`). Large ones pass at once.

    Parameters
    ----------
    client
        Fetches.
    authorization
        Says what may be fetched ahead.
    shared
        The same for all readers of a repository.
    """

    def __init__(self, client: Client, authorization: Authorization, shared: Shared) -> None:
        self._client = client
        self._authorization = authorization
        self._shared = shared
        self.after_fork()
        reset_after_fork(self)

    def after_fork(self) -> None:
        """Forget what was collected: who asked is in the parent."""
        self._windows: dict[asyncio.AbstractEventLoop, _Window] = {}

    async def read(
        self,
        grant: Grant,
        location: Location,
        chunk: VirtualChunk,
        offset: int,
        length: int,
        near: Neighbours | None = None,
    ) -> bytes | memoryview:
        """As `Client.read`.

        Parameters
        ----------
        near
            The chunk's place in its array, if all of it is asked for.
        """
        shared = self._shared
        if length >= shared.meter(grant.prefix.text).pace.large:
            return await self._read_alone(grant, location, chunk, offset, length)
        state = (grant.prefix.text, chunk.url, chunk.etag, chunk.last_modified)
        with shared.lock:
            found = self._find_or_ask(grant, location, chunk, state, offset, length, near)
        if not isinstance(found, _Ask):
            return found
        try:
            await self._wait(found)
        except BaseException:
            self._leave(found)
            raise
        if found.outcome is None:
            with shared.lock:
                shared.fetched += length
            return await self._read_alone(grant, location, chunk, offset, length)
        if isinstance(found.outcome, memoryview):
            return found.outcome
        try:
            raise found.outcome
        finally:
            del found  # the error holds this frame: no cycle should wait for the collector

    async def _wait(self, ask: _Ask) -> None:
        """Until there is an outcome, or whoever fetches will never tell."""
        loop, future = ask.waiter.loop, ask.waiter.future
        if ask.piece is None or ask.piece.loop is loop:
            await future
            return
        while not (await asyncio.wait({future}, timeout=_LOOK_SECONDS))[0]:
            if not ask.piece.loop.is_running():
                self._leave(ask)
                return

    async def _read_alone(
        self, grant: Grant, location: Location, chunk: VirtualChunk, offset: int, length: int
    ) -> bytes | memoryview:
        shared = self._shared
        begin = shared.timer()
        data = await self._client.read(grant, location, chunk, offset, length)
        shared.meter(grant.prefix.text).record(length, shared.timer() - begin)
        return data

    # -- asking, with the lock held --------------------------------------------------------------------------------

    def _find_or_ask(
        self,
        grant: Grant,
        location: Location,
        chunk: VirtualChunk,
        state: State,
        offset: int,
        length: int,
        near: Neighbours | None,
    ) -> memoryview | _Ask:
        shared = self._shared
        now = shared.timer()
        shared.asked += length
        piece = shared.buffer.find(state, offset, offset + length, now)
        expected = piece is not None and shared.buffer.take(piece, offset, now)
        if near is not None and shared.buffer_bytes:
            sweep = shared.sweep(near, length)
            if sweep is not None:
                if expected:
                    sweep.ahead = max(sweep.ahead - length, 0)
                stalled = piece is None or piece.data is None
                if stalled or self._chunks_due(sweep, now, stalled=False):
                    pace = shared.meter(state[0]).pace
                    self._window(now).sweeps[sweep] = _Advance(near, location.scheme, pace, stalled)
        if piece is None:
            ask = _Ask(grant, location, chunk, state, offset, offset + length)
            self._window(now).asks.append(ask)
            return ask
        data = piece.cut(offset, offset + length)
        if data is not None:
            return data
        ask = _Ask(grant, location, chunk, state, offset, offset + length, piece=piece)
        piece.waiting.append(ask)
        return ask

    def _chunks_due(self, sweep: Sweep, now: float, *, stalled: bool) -> int:
        shared = self._shared
        return sweep.due(shared.max_overread, shared.most_ahead(now), stalled=stalled)

    def _window(self, now: float) -> _Window:
        """The open window of the running event loop."""
        windows = self._windows
        loop = asyncio.get_running_loop()
        window = windows.get(loop)
        if window is None:
            for closed in [other for other in windows if other.is_closed()]:
                del windows[closed]
            window = windows[loop] = _Window(now + _WINDOW_SECONDS)
            loop.call_soon(self._tick, loop, window)
        return window

    def _leave(self, ask: _Ask) -> None:
        """Somebody waits no longer. The others do not notice."""
        with self._shared.lock:
            piece = ask.piece
            if piece is None:
                window = self._windows.get(ask.waiter.loop)
                if window is not None and ask in window.asks:
                    window.asks.remove(ask)
            elif ask in piece.waiting:
                piece.waiting.remove(ask)
                if not piece.waiting and not piece.expected:
                    self._give_up(piece)

    def _give_up(self, piece: _Piece) -> None:
        """Stop a request that nobody waits for."""
        flight = self._shared.flights.get(piece)
        if flight is not None:
            self._shared.buffer.remove(piece)
            with contextlib.suppress(RuntimeError):  # its event loop is closed
                piece.loop.call_soon_threadsafe(flight.cancel)

    # -- the end of a window ---------------------------------------------------------------------------------------

    def _tick(self, loop: asyncio.AbstractEventLoop, window: _Window) -> None:
        shared = self._shared
        size = len(window.asks)
        window.idle = window.idle + 1 if size == window.seen else 0
        window.seen = size
        now = shared.timer()
        if window.idle < _IDLE_TICKS and now < window.end:
            loop.call_soon(self._tick, loop, window)
            return
        try:
            with shared.lock:
                self._windows.pop(loop, None)
                self._fetch_all(self._groups(window, now), loop, now)
        finally:
            for ask in window.asks:
                if ask.piece is None:  # nobody fetches it: something went wrong here
                    ask.waiter.wake_here()

    def _groups(self, window: _Window, now: float) -> dict[State, _Group]:
        """By object, what was asked for in a window and what will be."""
        groups: dict[State, _Group] = {}
        for ask in window.asks:
            group = groups.get(ask.state)
            if group is None:
                group = groups[ask.state] = _Group(ask.grant, ask.location)
            group.asks.append(ask)
            group.spans.append((ask.start, ask.stop))
        left = self._shared.allowed - sum(ask.stop - ask.start for ask in window.asks)
        for sweep, advance in window.sweeps.items():
            left -= self._go_ahead(groups, sweep, advance, left, now)
        return groups

    def _go_ahead(self, groups: dict[State, _Group], sweep: Sweep, advance: _Advance, left: int, now: float) -> int:
        """Add what a sweep will ask for next, at most `left` bytes. Returns how many."""
        shared = self._shared
        count = min(self._chunks_due(sweep, now, stalled=advance.stalled), _MOST_CHUNKS)
        if not count:
            return 0
        coords = sweep.upcoming(count)
        refs, covered = advance.near.references(coords)
        rows = np.flatnonzero(refs.kind == ChunkKind.VIRTUAL)
        sources, offsets, lengths = refs.source[rows], refs.offset[rows], refs.length[rows]
        chosen = leading_rows(
            sources,
            offsets,
            lengths,
            gap=advance.pace.gap,
            most_ranges=_MOST_AHEAD - shared.unasked,
            most_bytes=min(left, shared.most_ahead(now)),
        )
        if chosen < len(rows):
            covered = int(np.flatnonzero((coords == refs.coords[rows[chosen]]).all(axis=1))[0])
        sweep.give_back(len(coords) - covered)
        places = self._places(refs, np.unique(sources[:chosen]), advance.scheme)
        added = 0
        for source, offset, length in zip(
            *(column[:chosen].tolist() for column in (sources, offsets, lengths)), strict=True
        ):
            if source not in places or shared.buffer.find(places[source][0], offset, offset + length, now):
                continue
            state, grant, location = places[source]
            if length < advance.pace.large:
                groups.setdefault(state, _Group(grant, location)).spans.append((offset, offset + length))
                added += length
        sweep.ahead += added
        return added

    def _places(
        self, refs: ChunkRefs, sources: NDArray[np.uint32], scheme: str
    ) -> dict[int, tuple[State, Grant, Location]]:
        """The objects in some rows of the table of locations, without those that may not be read, or not from here."""
        places = {}
        for source in sources.tolist():
            url, etag, last_modified = refs.locations.row(source)
            with contextlib.suppress(ContainerError):  # said when somebody asks for it
                location = check_location(url)
                if location.scheme == scheme:
                    grant = self._authorization.readable(url)
                    places[source] = ((grant.prefix.text, url, etag, last_modified), grant, location)
        return places

    # -- fetching --------------------------------------------------------------------------------------------------

    def _fetch_all(self, groups: dict[State, _Group], loop: asyncio.AbstractEventLoop, now: float) -> None:
        """Begin the requests; with the lock held."""
        shared = self._shared
        plans = [(state, group, self._plan(group, merging=True)) for state, group in groups.items()]
        if sum(len(planned) for _, _, plan in plans for planned in plan) > shared.allowed:
            plans = [(state, group, self._plan(group, merging=False)) for state, group in groups.items()]
        for state, group, plan in plans:
            for planned in plan:
                self._begin(state, group, planned, loop, now)

    def _plan(self, group: _Group, *, merging: bool) -> list[Range]:
        pace = self._shared.meter(group.grant.prefix.text).pace
        return plan_ranges(group.spans, gap=pace.gap * merging, part=pace.part, max_overread=self._shared.max_overread)

    def _begin(self, state: State, group: _Group, planned: Range, loop: asyncio.AbstractEventLoop, now: float) -> None:
        shared, count = self._shared, len(group.asks)
        asks = [group.asks[number] for number in planned.members if number < count]
        expected = {group.spans[number][0] for number in planned.members if number >= count}
        if expected and not shared.buffer.make_room(len(planned), now):
            if not asks:
                return
            expected.clear()
        piece = Piece(state, planned.start, planned.stop, expected, now, asks, loop)
        shared.buffer.add(piece)
        shared.fetched += len(planned)
        for ask in asks:
            ask.piece = piece
        chunk = asks[0].chunk if asks else VirtualChunk(state[1], planned.start, len(planned), state[2], state[3])
        if len(asks) > 1 or expected:
            chunk = VirtualChunk(state[1], planned.start, len(planned), state[2], state[3])
        shared.unasked += not asks
        # Unlike a task, what `gather` makes of one may be under way when the process ends.
        flight = asyncio.gather(self._fetch(group.grant, group.location, chunk, piece.start, len(piece)))
        flight.add_done_callback(functools.partial(self._land, piece, unasked=not asks))
        shared.flights[piece] = flight

    async def _fetch(
        self, grant: Grant, location: Location, chunk: VirtualChunk, start: int, size: int
    ) -> memoryview | Exception:
        try:
            return memoryview(await self._read_alone(grant, location, chunk, start, size))
        except Exception as error:  # noqa: BLE001  # whoever it concerns gets it
            return error

    def _land(self, piece: _Piece, flight: _Flight, *, unasked: bool) -> None:
        """Hand out what came. Whoever gets nothing asks alone: of what was merged only a part may be at fault."""
        shared = self._shared
        came: memoryview | Exception | None = None
        with contextlib.suppress(asyncio.CancelledError):
            came = flight.result()[0]
        with shared.lock:
            shared.flights.pop(piece, None)
            shared.unasked -= unasked
            waiting, piece.waiting = piece.waiting, []
            shared.fetched += (len(came) if isinstance(came, memoryview) else 0) - len(piece)
            if isinstance(came, memoryview) and len(came) == len(piece):
                piece.data = came
            if piece.data is None or not piece.expected:
                shared.buffer.remove(piece)
            for ask in waiting:
                if unasked or (ask.start, ask.stop) != (piece.start, piece.stop):
                    ask.outcome = piece.cut(ask.start, ask.stop)
                else:
                    ask.outcome = came
        for ask in waiting:
            ask.waiter.wake_here()
