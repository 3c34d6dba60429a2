"""Walks over a remote file that start at many places at once, so that a long file does not take a request per message.

All of it is a guess about what will be looked at, which `Ahead` keeps: a walk may begin at bytes that only look like
a message, and nothing but a few requests is lost. See `messages`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial

from icechunk_virtual.codecs.grib_sections import END, MARK
from icechunk_virtual.scanners.grib.ahead import Ahead
from icechunk_virtual.scanners.grib.messages import find_message, is_message, message_length

_WHOLE = 1 << 22
"""A remote file up to this size is read as a whole, in one request."""
_STEPS = 25
"""Messages that one chain is meant to pass: each chain reads about one message in vain, to find its first."""
_MOST_CHAINS = 128
_MOST_ROUNDS = 4096
_SMALL, _SMALL_WINDOW = 1 << 15, 1 << 18
"""Messages shorter than this are read several at a time, in windows of that size."""
_SEARCH = (1 << 16, 1 << 20)


@dataclass(slots=True)
class _Chain:
    """A walk from `position` up to `stop`; `synced`: it has found a message."""

    position: int
    stop: int
    synced: bool


def look_ahead(ahead: Ahead) -> None:
    """Read what a walk over the messages of a remote file will need, in few rounds of requests."""
    size = ahead.source.size
    if not ahead.remote:
        return
    if size <= _WHOLE:
        ahead.fetch([(0, size)])
        return
    head = ahead.at(0, 16)
    if not is_message(head):
        return
    typical = max(16, min(message_length(ahead.at), size))
    if typical < _SMALL:
        ahead.window = _SMALL_WINDOW
    count = max(1, min(_MOST_CHAINS, size // typical // _STEPS))
    bounds = [size * i // count for i in range(count + 1)]
    chains = [_Chain(a, b, synced=a == 0) for a, b in itertools.pairwise(bounds)]
    search = min(max(typical // 2, _SEARCH[0]), _SEARCH[1])
    for _ in range(_MOST_ROUNDS):
        chains = [chain for chain in chains if _advance(chain, ahead, search)]
        if not chains:
            return
        ahead.fetch((chain.position, ahead.window if chain.synced else search) for chain in chains)


def _advance(chain: _Chain, ahead: Ahead, search: int) -> bool:
    """Go as far as the known bytes lead; whether more are needed."""
    while chain.position < chain.stop:
        if not chain.synced:
            data = ahead.known(chain.position, search)
            if data is None:
                return True
            at = find_message(data, END + MARK)
            chain.synced = at >= 0
            chain.position += at if at >= 0 else max(len(data) - 11, 1)
            continue
        after = ahead.known(chain.position, len(END) + 16)
        if after is None:
            return True
        # The end of the message before is looked at too: a window begins there.
        start = chain.position + (len(END) if chain.position and after.startswith(END) else 0)
        if not is_message(after[start - chain.position :][:16]):
            return False
        length = message_length(partial(_within, ahead, start))
        if length < 16 or start + length > ahead.source.size:
            return False
        chain.position = start + length - len(END)
    return False


def _within(ahead: Ahead, start: int, offset: int, length: int) -> bytes:
    """Bytes of the message at `start`."""
    return ahead.at(start + offset, length)
