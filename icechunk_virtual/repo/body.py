"""The body of an answer to the obstore library, whatever its server says about the length.

The library sets aside as much memory as an answer says that it has, and ends the process where there is not so much:
any server that a reference leads to could do that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from obstore import GetResult

_BELIEVED = 2**30
"""Bytes that are set aside before they come."""


async def body_of(found: GetResult) -> memoryview:
    """All bytes of an answer. Of larger ones than a gibibyte only what has come is held."""
    start, stop = found.range
    if stop - start <= _BELIEVED:
        return memoryview(await found.bytes_async())
    return memoryview(b"".join([memoryview(part) async for part in found.stream()]))
