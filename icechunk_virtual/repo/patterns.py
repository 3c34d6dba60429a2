"""Regular expressions of the configuration: the dialect of Rust's `regex` crate, searched in linear time.

A configuration comes with a repository that anybody may have written, so a pattern must neither hang nor exhaust
memory: patterns are compiled to a set-of-states automaton of bounded size; there is no backtracking. What the dialect
lacks (look-around, back-references) is invalid, and an invalid pattern matches nothing. Knows nothing of conditions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from icechunk_virtual.repo.pattern_syntax import (
    Alternation,
    Assertion,
    Characters,
    Concatenation,
    InvalidPattern,
    Node,
    Repetition,
    parse,
)

_MAX_STATES = 2_000
_MAX_STEPS = 20_000
"""Size of a compiled pattern and effort to build it; beyond them a pattern is invalid."""

_SPLIT, _CHARACTERS, _ASSERTION, _MATCH = range(4)


@dataclass(slots=True)
class _State:
    kind: int
    test: Characters | Assertion | None = None
    next: list[int] = field(default_factory=list)


class Pattern:
    """A compiled pattern.

    Raises
    ------
    InvalidPattern
        Not a pattern of the dialect, or too large.
    """

    def __init__(self, text: str) -> None:
        self._states: list[_State] = []
        self._steps = 0
        start, ends = self._build(parse(text))
        match = self._add(_State(_MATCH))
        self._patch(ends, match)
        self._start = start if start is not None else match

    def search(self, text: str) -> bool:
        """Whether the pattern occurs anywhere in `text`. Time: number of states times characters."""
        current: set[int] = set()
        for position in range(len(text) + 1):
            current.add(self._start)
            closed = self._closure(current, text, position)
            if closed is None:
                return True
            if position == len(text):
                return False
            char = text[position]
            current = set()
            for state in closed:
                if state.test is not None and state.test.accepts(char):  # type: ignore[union-attr]  # only Characters
                    current.update(state.next)
        return False

    def _closure(self, numbers: set[int], text: str, position: int) -> list[_State] | None:
        """States that want a character, reachable without one; ``None`` if the match is among them."""
        seen = set(numbers)
        stack = list(numbers)
        found = []
        while stack:
            state = self._states[stack.pop()]
            if state.kind == _MATCH:
                return None
            if state.kind == _CHARACTERS:
                found.append(state)
                continue
            if isinstance(state.test, Assertion) and not state.test.holds(text, position):
                continue
            for number in state.next:
                if number not in seen:
                    seen.add(number)
                    stack.append(number)
        return found

    # Thompson's construction. A fragment is (first state or None if empty, states whose way out is still open).

    def _add(self, state: _State) -> int:
        if len(self._states) >= _MAX_STATES:
            raise InvalidPattern("the compiled pattern is too large")
        self._states.append(state)
        return len(self._states) - 1

    def _patch(self, ends: list[int], target: int) -> None:
        for end in ends:
            self._states[end].next.append(target)

    def _build(self, node: Node) -> tuple[int | None, list[int]]:
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise InvalidPattern("the pattern repeats too much")
        if isinstance(node, Characters):
            number = self._add(_State(_CHARACTERS, node))
            return number, [number]
        if isinstance(node, Assertion):
            number = self._add(_State(_ASSERTION, node))
            return number, [number]
        if isinstance(node, Concatenation):
            return self._chain(functools.partial(self._build, part) for part in node.parts)
        if isinstance(node, Alternation):
            return self._build_alternation(node)
        return self._build_repetition(node)

    def _chain(self, builders: Iterator[Callable[[], tuple[int | None, list[int]]]]) -> tuple[int | None, list[int]]:
        first: int | None = None
        ends: list[int] = []
        for build in builders:
            start, new_ends = build()
            if start is None:
                continue
            if first is None:
                first = start
            else:
                self._patch(ends, start)
            ends = new_ends
        return first, ends

    def _build_alternation(self, node: Alternation) -> tuple[int, list[int]]:
        split = self._add(_State(_SPLIT))
        ends: list[int] = []
        for branch in node.branches:
            start, new_ends = self._build(branch)
            if start is None:
                start = self._add(_State(_SPLIT))
                new_ends = [start]
            self._states[split].next.append(start)
            ends += new_ends
        return split, ends

    def _build_repetition(self, node: Repetition) -> tuple[int | None, list[int]]:
        def optional() -> tuple[int | None, list[int]]:
            split = self._add(_State(_SPLIT))
            start, ends = self._build(node.part)
            if start is not None:
                self._states[split].next.append(start)
            return split, [split, *ends]

        def loop() -> tuple[int | None, list[int]]:
            split = self._add(_State(_SPLIT))
            start, ends = self._build(node.part)
            if start is not None:
                self._states[split].next.append(start)
                self._patch(ends, split)
            return split, [split]

        def builders() -> Iterator[Callable[[], tuple[int | None, list[int]]]]:
            for _ in range(node.low):
                yield functools.partial(self._build, node.part)
            if node.high is None:
                yield loop
            else:
                for _ in range(node.high - node.low):
                    yield optional

        return self._chain(builders())


@functools.lru_cache(maxsize=256)
def _compile(text: str) -> Pattern | None:
    try:
        return Pattern(text)
    except InvalidPattern:
        return None


@functools.lru_cache(maxsize=4096)  # each session that is opened asks the same about the names of its arrays
def search(pattern: str, text: str) -> bool:
    """Whether `pattern` occurs anywhere in `text`; an invalid pattern occurs nowhere."""
    compiled = _compile(pattern)
    return compiled is not None and compiled.search(text)
