"""Syntax of Rust's `regex` crate (regex-syntax 0.8), as far as the question "does it occur?" needs it.

Text to syntax tree. Greediness and captures do not matter to that question and are not kept. Not supported, hence
invalid: Unicode scripts and other properties besides general categories. Source: docs.rs/regex, section "Syntax".
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NoReturn, TypeAlias

from icechunk_virtual.repo.pattern_characters import (
    ASCII_CLASSES,
    PERL,
    Test,
    any_of,
    category,
    combine,
    everything,
    ignoring_case,
    is_ascii_word,
    is_space,
    is_word,
    negate,
    one_of,
)


class InvalidPattern(Exception):
    """Not a pattern of the dialect."""


@dataclass(frozen=True, slots=True, eq=False)
class Characters:
    """One character that passes the test."""

    accepts: Test


@dataclass(frozen=True, slots=True, eq=False)
class Assertion:
    """A condition on a position, which takes no character."""

    holds: Callable[[str, int], bool]


@dataclass(frozen=True, slots=True, eq=False)
class Concatenation:
    """One after the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Alternation:
    """Any of them."""

    branches: tuple[Node, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Repetition:
    """From `low` to `high` times; `high` ``None``: without limit."""

    part: Node
    low: int
    high: int | None


Node: TypeAlias = Characters | Assertion | Concatenation | Alternation | Repetition

_MAX_DEPTH = 64
_MAX_LENGTH = 10_000
_MAX_REPEAT = 1_000

_CONTROL = {"a": "\a", "f": "\f", "t": "\t", "n": "\n", "r": "\r", "v": "\v"}


@dataclass(frozen=True, slots=True)
class _Flags:
    ignore_case: bool = False
    multi_line: bool = False
    dot_newline: bool = False
    swap_greed: bool = False
    unicode: bool = True
    crlf: bool = False
    verbose: bool = False


_FLAG_NAMES = {
    "i": "ignore_case", "m": "multi_line", "s": "dot_newline", "U": "swap_greed", "u": "unicode", "R": "crlf",
    "x": "verbose",
}  # fmt: skip


def parse(text: str) -> Node:
    """The syntax tree of a pattern.

    Raises
    ------
    InvalidPattern
        Not of the dialect, or beyond the limits of length, nesting and repetition.
    """
    if len(text) > _MAX_LENGTH:
        raise InvalidPattern("the pattern is too long")
    return _Parser(text).pattern()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._flags = _Flags()
        self._depth = 0
        self._names: set[str] = set()

    def pattern(self) -> Node:
        node = self._alternation()
        if self._at < len(self._text):
            self._fail("unopened group")
        return node

    # reading

    def _fail(self, reason: str) -> NoReturn:
        raise InvalidPattern(f"{reason} at character {self._at} of {self._text!r}")

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        if self._at >= len(self._text):
            self._fail("unexpected end")
        self._at += 1
        return self._text[self._at - 1]

    def _take(self, expected: str) -> bool:
        if self._text.startswith(expected, self._at):
            self._at += len(expected)
            return True
        return False

    def _until(self, end: str) -> str:
        stop = self._text.find(end, self._at)
        if stop < 0:
            self._fail(f"{end!r} is missing")
        found, self._at = self._text[self._at : stop], stop + len(end)
        return found

    def _skip_blanks(self) -> None:
        """In verbose mode: white space and comments."""
        while self._flags.verbose and self._at < len(self._text):
            if is_space(self._peek()):
                self._at += 1
            elif self._peek() == "#":
                stop = self._text.find("\n", self._at)
                self._at = len(self._text) if stop < 0 else stop + 1
            else:
                return

    # structure

    def _alternation(self) -> Node:
        branches: list[Node] = []
        parts: list[Node] = []
        flags = self._flags
        while True:
            self._skip_blanks()
            char = self._peek()
            if char in ("", ")"):
                break
            if self._take("|"):
                branches.append(Concatenation(tuple(parts)))
                parts = []
            elif char in "*+?" or (char == "{"):
                self._repeat(parts)
            else:
                part = self._group() if char == "(" else self._single()
                if part is not None:
                    parts.append(part)
        self._flags = flags
        last = Concatenation(tuple(parts))
        return Alternation((*branches, last)) if branches else last

    def _repeat(self, parts: list[Node]) -> None:
        if not parts:
            self._fail("nothing to repeat")
        if _stacked(parts[-1]) > _MAX_DEPTH:
            self._fail("too deeply nested")
        low, high = self._repeat_counts()
        self._take("?")  # laziness
        parts[-1] = Repetition(parts[-1], low, high)

    def _repeat_counts(self) -> tuple[int, int | None]:
        char = self._next()
        if char != "{":
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[char]
        first, comma, last = (part.strip() for part in self._until("}").partition(","))
        low = self._number(first)
        if not comma:
            return low, low
        high = self._number(last) if last else None
        if high is not None and high < low:
            self._fail("repetition from more to less")
        return low, high

    def _number(self, digits: str) -> int:
        if not (digits.isascii() and digits.isdecimal()):
            self._fail("a repetition count is needed")
        if len(digits) > 9 or int(digits) > _MAX_REPEAT:
            self._fail("too many repetitions")
        return int(digits)

    def _group(self) -> Node | None:
        """A group; ``None`` for one that only sets flags."""
        self._at += 1
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            self._fail("too deeply nested")
        outer = self._flags
        if self._take("?P<") or (self._text[self._at : self._at + 3] not in ("?<=", "?<!") and self._take("?<")):
            self._group_name(self._until(">"))
        elif self._take("?"):
            self._flags = self._read_flags()
            if self._take(")"):
                self._depth -= 1
                return None
            if not self._take(":"):
                self._fail("look-around and the like are not supported")
        node = self._alternation()
        if not self._take(")"):
            self._fail("unclosed group")
        self._flags = outer
        self._depth -= 1
        # A group is one thing to repeat, even when empty.
        return node

    def _group_name(self, name: str) -> None:
        first = name[:1]
        legal = first == "_" or first.isalpha()
        if not legal or any(not (c.isalnum() or c in "_.[]") for c in name) or name in self._names:
            self._fail("bad group name")
        self._names.add(name)

    def _read_flags(self) -> _Flags:
        flags, value, seen = self._flags, True, set[str]()
        while self._peek() not in (")", ":", ""):
            char = self._next()
            if char == "-" and value:
                value = False
            elif char in _FLAG_NAMES and char not in seen:
                flags = replace(flags, **{_FLAG_NAMES[char]: value})
            else:
                self._fail("bad flag")
            seen.add(char)
        if (not seen and self._peek() == ")") or (not value and self._text[self._at - 1] == "-"):
            self._fail("flags are missing")
        return flags

    # single characters and positions

    def _characters(self, test: Test) -> Characters:
        return Characters(functools.lru_cache(256)(ignoring_case(test) if self._flags.ignore_case else test))

    def _single(self) -> Node:
        char = self._next()
        if char == "[":
            return self._characters(self._bracket())
        if char == "\\":
            return self._escape()
        if char == ".":
            return self._dot()
        if char in "^$":
            return self._line_edge(start=char == "^")
        return self._characters(one_of(char))

    def _dot(self) -> Characters:
        if self._flags.dot_newline:
            return Characters(everything)
        return Characters(negate(one_of("\r\n" if self._flags.crlf else "\n")))

    def _line_edge(self, *, start: bool) -> Assertion:
        if not self._flags.multi_line:
            return Assertion(_at_start if start else _at_end)
        if self._flags.crlf:
            return Assertion(_after_crlf if start else _before_crlf)
        return Assertion(_after_newline if start else _before_newline)

    def _escape(self) -> Node:
        char = self._next()
        if char in "bB":
            return Assertion(self._word_boundary(char))
        if char in "<>":
            return Assertion(self._word_boundary("b{start}" if char == "<" else "b{end}"))
        if char in "Az":
            return Assertion(_at_start if char == "A" else _at_end)
        test = self._class_escape(char)
        return self._characters(test if test is not None else one_of(self._literal_escape(char)))

    def _word_boundary(self, kind: str) -> Callable[[str, int], bool]:
        if kind == "b" and self._peek() == "{":
            for name in ("start", "end", "start-half", "end-half"):
                if self._take("{" + name + "}"):
                    kind = "b{" + name + "}"
        inside = is_word if self._flags.unicode else is_ascii_word

        def holds(text: str, position: int) -> bool:
            before = position > 0 and inside(text[position - 1])
            after = position < len(text) and inside(text[position])
            return {
                "b": before != after,
                "B": before == after,
                "b{start}": after and not before,
                "b{end}": before and not after,
                "b{start-half}": not before,
                "b{end-half}": not after,
            }[kind]

        return holds

    def _class_escape(self, char: str) -> Test | None:
        """Of the letters d, s, w, p and their capitals."""
        if char.lower() in PERL:
            test = PERL[char.lower()][0 if self._flags.unicode else 1]
            return negate(test) if char.isupper() else test
        if char in "pP":
            if not self._flags.unicode:
                self._fail("Unicode classes are switched off")
            test = self._property(self._until("}") if self._take("{") else self._next())
            return negate(test) if char == "P" else test
        return None

    def _property(self, name: str) -> Test:
        negated = name.startswith("^")
        for separator in ("!=", "=", ":"):
            key, found, value = name.partition(separator)
            if found:
                if key.removeprefix("^").lower().replace("_", "") not in ("gc", "generalcategory"):
                    self._fail("unsupported Unicode property")
                name, negated = value, negated != (separator == "!=")
                break
        words = name.removeprefix("^").strip().lower().replace(" ", "_").replace("-", "_")
        if words == "any":
            return negate(everything) if negated else everything
        if words == "ascii":
            return negate(str.isascii) if negated else str.isascii
        test = category(words)
        if test is None:
            self._fail("unsupported Unicode property")
        return negate(test) if negated else test

    def _literal_escape(self, char: str) -> str:
        if char in _CONTROL:
            return _CONTROL[char]
        if char in "xuU":
            digits = self._until("}") if self._take("{") else self._fixed({"x": 2, "u": 4, "U": 8}[char])
            if not digits or len(digits) > 8 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
                self._fail("bad hexadecimal escape")
            code = int(digits, 16)
            if code > 0x10FFFF or 0xD800 <= code < 0xE000:
                self._fail("not a character")
            return chr(code)
        if not char.isascii() or char.isalnum() or char in "<>\b":
            self._fail("unknown escape (back-references are not supported)")
        return char

    def _fixed(self, count: int) -> str:
        return "".join(self._next() for _ in range(count))

    # bracketed classes

    def _bracket(self) -> Test:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            self._fail("too deeply nested")
        negated = self._take("^")
        items: list[Test] = []
        self._skip_blanks()
        while self._take("-"):  # leading hyphens are literal
            items.append(one_of("-"))
        if not items and self._take("]"):
            items.append(one_of("]"))
        left: Test | None = None
        operator = ""
        while True:
            self._skip_blanks()
            if self._take("]"):
                break
            found = next((sign for sign in ("&&", "--", "~~") if self._take(sign)), None)
            if found is None:
                items.append(self._bracket_item())
                continue
            left, operator, items = combine(left, operator, any_of(items)), found, []
        test = combine(left, operator, any_of(items))
        self._depth -= 1
        if self._flags.ignore_case:
            test = ignoring_case(test)
        return negate(test) if negated else test

    def _bracket_item(self) -> Test:
        if self._peek() == "[":
            named = self._named_class()
            if named is not None:
                return named
            self._at += 1
            return self._bracket()
        first = self._bracket_character()
        self._skip_blanks()
        if not isinstance(first, str):
            return first
        following = self._text[self._at + 1 : self._at + 2]
        if self._peek() != "-" or following in ("]", "-", ""):
            return one_of(first)
        self._at += 1
        self._skip_blanks()
        last = self._bracket_character()
        if not isinstance(last, str) or last < first:
            self._fail("bad range")
        return lambda char: first <= char <= last

    def _bracket_character(self) -> str | Test:
        char = self._next()
        if char != "\\":
            return char
        char = self._next()
        test = self._class_escape(char)
        return test if test is not None else self._literal_escape(char)

    def _named_class(self) -> Test | None:
        if not self._text.startswith("[:", self._at):
            return None
        stop = self._text.find(":]", self._at)
        name = self._text[self._at + 2 : stop] if stop > 0 else ""
        negated, name = name.startswith("^"), name.removeprefix("^")
        if name not in ASCII_CLASSES:
            return None
        self._at = stop + 2
        member = ASCII_CLASSES[name]

        def test(char: str) -> bool:
            return (char.isascii() and member(char)) != negated

        return test


def _stacked(node: Node) -> int:
    """How many repetitions stand directly on each other, as in ``a**``."""
    depth = 0
    while isinstance(node, Repetition):
        node, depth = node.part, depth + 1
    return depth


def _at_start(_text: str, position: int) -> bool:
    return position == 0


def _at_end(text: str, position: int) -> bool:
    return position == len(text)


def _after_newline(text: str, position: int) -> bool:
    return position == 0 or text[position - 1] == "\n"


def _before_newline(text: str, position: int) -> bool:
    return position == len(text) or text[position] == "\n"


def _after_crlf(text: str, position: int) -> bool:
    if position == 0 or text[position - 1] == "\n":
        return True
    return text[position - 1] == "\r" and text[position : position + 1] != "\n"


def _before_crlf(text: str, position: int) -> bool:
    if position == len(text) or text[position] == "\r":
        return True
    return text[position] == "\n" and text[position - 1 : position] != "\r"
