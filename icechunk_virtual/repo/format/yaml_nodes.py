"""The subset of YAML 1.2 that configurations need: bytes to a bounded tree of nodes, and plain values to bytes.

Nodes keep the raw text of scalars; what a scalar means depends on the schema and is not decided here, so that the
implicit types of YAML 1.1 (``yes``, ``1:30``, dates) cannot interfere. Foreign bytes can neither hang nor exhaust
memory: size, nesting and what aliases expand to are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import yaml

MAX_BYTES = 4 * 2**20
MAX_DEPTH = 64
MAX_NODES = 1_000_000
"""Largest document, deepest nesting, and most nodes, each alias counted as what it stands for."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STANDARD_TAG = "tag:yaml.org,2002:"
_LONGEST_KEY = 1000  # parsers see no key in more than 1024 characters unless told
_TEXT_TAGS = ("!", _STANDARD_TAG + "str")


class MalformedYaml(Exception):
    """Not a document of the subset, or not one of the schema. ``at``: index of the character in the text."""

    def __init__(self, reason: str, at: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.at = at


@dataclass(frozen=True, slots=True)
class Scalar:
    """Raw text; `plain` if it stood there without quotes. `tag` without its ``!``."""

    text: str
    plain: bool
    tag: str | None
    at: int


@dataclass(frozen=True, slots=True)
class Items:
    """A sequence."""

    items: tuple[Node, ...]
    tag: str | None
    at: int


@dataclass(frozen=True, slots=True)
class Entries:
    """A mapping with unique text keys."""

    entries: dict[str, Node]
    tag: str | None
    at: int


Node: TypeAlias = Scalar | Items | Entries


def parse(text: str) -> Node | None:
    """The node tree of a document, ``None`` for a text without one.

    Raises
    ------
    MalformedYaml
        A syntax error, a duplicate or non-scalar key, several documents, or beyond the limits.
    """
    try:
        return _Composer(yaml.parse(text, Loader=_LOADER)).document()
    except yaml.MarkedYAMLError as error:
        mark: Any = error.problem_mark or error.context_mark
        reason = " ".join(filter(None, (error.context, error.problem)))
        raise MalformedYaml(reason, None if mark is None else mark.index) from None
    except yaml.reader.ReaderError as error:
        raise MalformedYaml(str(error.reason), error.position) from None
    except yaml.YAMLError as error:
        raise MalformedYaml(str(error)) from None


class _Composer:
    """Nodes from the events of a parser."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._count = 0

    def document(self) -> Node | None:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    raise MalformedYaml("there must be one document only", _at(event))
                root = self._node(next(self._events), 0)
        return root

    def _node(self, event: Any, depth: int) -> Node:
        at = _at(event)
        if depth > MAX_DEPTH:
            raise MalformedYaml("too deeply nested", at)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise MalformedYaml("an alias refers to nothing before it", at)
            node, size = self._anchors[event.anchor]
            self._add(size, at)
            return node
        before = self._count
        self._add(1, at)
        tag = _tag(event.tag, at)
        node = self._content(event, depth, tag, at)
        if event.anchor is not None:
            self._anchors[event.anchor] = node, self._count - before
        return node

    def _add(self, nodes: int, at: int) -> None:
        self._count += nodes
        if self._count > MAX_NODES:
            raise MalformedYaml("too many values", at)

    def _content(self, event: Any, depth: int, tag: str | None, at: int) -> Node:
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(event.value, not event.style and event.tag not in _TEXT_TAGS, tag, at)
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
                items.append(self._node(event, depth + 1))
            return Items(tuple(items), tag, at)
        entries: dict[str, Node] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            if not isinstance(key, Scalar):
                raise MalformedYaml("a key must be a scalar", key.at)
            if key.text in entries:
                raise MalformedYaml(f"duplicate key {key.text[:100]!r}", key.at)
            entries[key.text] = self._node(next(self._events), depth + 1)
        return Entries(entries, tag, at)


def _at(event: Any) -> int:
    return int(event.start_mark.index)


def _tag(tag: str | None, at: int) -> str | None:
    """Without its ``!``; the standard types' tags and the empty one say nothing that the schema does not."""
    if tag is None or tag == "!" or tag.startswith(_STANDARD_TAG):
        return None
    if not tag.startswith("!"):
        raise MalformedYaml(f"unknown tag {tag[:100]!r}", at)
    return tag[1:]


@dataclass(frozen=True, slots=True)
class Token:
    """Text to be written without quotes."""

    text: str


@dataclass(frozen=True, slots=True)
class Tagged:
    """A value behind a tag."""

    tag: str
    value: Any


def as_value(node: Node) -> Any:
    """What `emit` writes as this node: dictionary, list, text, `Token` for what had no quotes, `Tagged`."""
    value: Any
    if isinstance(node, Entries):
        value = {_key(key): as_value(item) for key, item in node.entries.items()}
    elif isinstance(node, Items):
        value = [as_value(item) for item in node.items]
    else:
        value = Token(node.text or "null") if node.plain else node.text
    return value if node.tag is None else Tagged(node.tag, value)


def _key(key: str) -> str | Token:
    return Token(key) if key.isidentifier() else key


def emit(entries: dict[Any, Any]) -> str:
    """A document in block style.

    Values are dictionaries, lists, texts (always quoted), integers, booleans, ``None``, `Token` and `Tagged`.

    Raises
    ------
    ValueError
        A text holds half a surrogate pair.
    """
    return "\n".join([*_lines(entries), ""])


def _lines(value: Any) -> list[str]:
    """Of a dictionary or list that is not empty, not indented."""
    lines: list[str] = []
    items = value.items() if isinstance(value, dict) else ((None, item) for item in value)
    for key, item in items:
        head = "-" if key is None else f"{_scalar(key)}:"
        if len(head) > _LONGEST_KEY:
            lines.append(f"? {head[:-1]}")
            head = ":"
        tag, content = (f" !{item.tag}", item.value) if isinstance(item, Tagged) else ("", item)
        if not isinstance(content, (dict, list)) or not content:
            lines.append(f"{head}{tag} {_scalar(content)}")
            continue
        nested = [f"  {line}" for line in _lines(content)]
        if key is None and not tag:
            nested[0] = "- " + nested[0][2:]  # compact: the item begins beside its dash
        else:
            lines.append(head + tag)
        lines += nested
    return lines


def _scalar(value: Any) -> str:
    if isinstance(value, Token):
        return value.text
    if isinstance(value, str):
        return _quote(value)
    if isinstance(value, (dict, list)):
        return "{}" if isinstance(value, dict) else "[]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(int(value))


def _quote(text: str) -> str:
    return '"' + re.sub(r'[^ -~]|["\\]', _escape, text) + '"'


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    code = ord(char)
    if char in '"\\':
        return "\\" + char
    if 0xD800 <= code < 0xE000:
        raise ValueError("half a surrogate pair cannot be written to a configuration")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def malformed(reason: str, node: Node) -> NoReturn:
    """Refuse what stands at a node."""
    raise MalformedYaml(reason, node.at)
