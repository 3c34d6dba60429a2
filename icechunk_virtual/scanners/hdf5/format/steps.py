"""Parsers that read: generators that yield a request and are resumed with its answer.

They never wait: whoever runs them (`driver`) collects what all of them want and reads that in one batch.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes of the file. The answer is `bytes` of that length."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Many pieces of equal length, such as the nodes of one level of an index.

    The answer is an array of uint8 (n, length). It is read for this request alone and not kept.
    """

    offsets: NDArray[np.uint64]
    length: int


@dataclass(frozen=True, slots=True, eq=False)
class Together:
    """Other steps that may go on at the same time. The answer is the list of their results."""

    steps: Sequence[Step[Any]]


Request: TypeAlias = "Range | Rows | Together"
Step: TypeAlias = Generator[Request, Any, T]


def together(steps: Sequence[Step[T]]) -> Step[list[T]]:
    """Run steps at the same time; their results in the same order."""
    if len(steps) == 1:
        return [(yield from steps[0])]
    results: list[T] = yield Together(steps)
    return results


def both(first: Step[T], second: Step[U]) -> Step[tuple[T, U]]:
    """Run two steps at the same time."""
    results: list[Any] = yield Together((first, second))
    return results[0], results[1]
