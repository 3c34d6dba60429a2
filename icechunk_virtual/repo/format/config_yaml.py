"""``config.yaml``: the configuration as YAML 1.2 with tags (format version 1, section 5).

Records are read and written by the annotations of their fields, unions by the tables below. Unset fields are written
as ``null``; missing ones are unset, unknown ones are ignored. Pure functions without I/O.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from icechunk_virtual.containers.container import ObjectStoreConfig, S3Options, VirtualChunkContainer
from icechunk_virtual.errors import CorruptFile
from icechunk_virtual.model.checked import Checked, FieldType, IntRange, field_types
from icechunk_virtual.repo.conditions import (
    ManifestPreloadCondition,
    ManifestSplitCondition,
    ManifestSplitDimCondition,
    SplitSizes,
)
from icechunk_virtual.repo.config import CHUNK_COUNT, ManifestSplittingConfig, RepositoryConfig
from icechunk_virtual.repo.format import yaml_nodes
from icechunk_virtual.repo.format.yaml_nodes import (
    Entries,
    Items,
    MalformedYaml,
    Node,
    Scalar,
    Tagged,
    Token,
    malformed,
)
from icechunk_virtual.repo.settings import CompressionAlgorithm

T = TypeVar("T")

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"\+?(?:(0|[1-9][0-9]*)|0x([0-9a-fA-F]+)|0o([0-7]+)|0b([01]+))")
_COUNT = IntRange(0, 2**32 - 1)
_CONTAINERS = "virtual_chunk_containers"
_MERGED_READS = "merged_reads"


def encode_config(config: RepositoryConfig) -> bytes:
    """Content of the file.

    Raises
    ------
    ValueError
        A text cannot be written as UTF-8.
    """
    return yaml_nodes.emit(_encode(config)).encode()


def decode_config(data: bytes, *, file: str = "config.yaml") -> RepositoryConfig:
    """The configuration in a file's content; everything unset for an empty one.

    Containers are taken as they are, see `config.usable_containers`.

    Raises
    ------
    CorruptFile
        Not YAML, not of the schema, or a value outside its range; with the position in bytes.
    """
    if len(data) > yaml_nodes.MAX_BYTES:
        raise _corrupt(f"larger than {yaml_nodes.MAX_BYTES} bytes", file, None)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _corrupt(f"not UTF-8: {error.reason}", file, error.start) from None
    try:
        root = yaml_nodes.parse(text)
        return RepositoryConfig() if root is None else _decode_repository(root)
    except MalformedYaml as error:
        skipped = len(data) - len(text.encode())  # a byte order mark
        position = None if error.at is None else skipped + len(text[: error.at].encode())
        raise _corrupt(error.reason, file, position) from None


def _corrupt(reason: str, file: str, position: int | None) -> CorruptFile:
    return CorruptFile(f"error in config deserialization: {reason}", file=file, kind="config", position=position)


# Scalars


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.plain and node.tag is None and node.text in _NULL


def _untagged(node: Node, cls: type[T], what: str) -> T:
    if node.tag is not None:
        malformed(f"{what} without a tag is needed, not !{node.tag}", node)
    if not isinstance(node, cls):
        malformed(f"{what} is needed", node)
    return node


def _text(node: Node) -> str:
    return _untagged(node, Scalar, "a text").text


def _integer(node: Node) -> int:
    scalar = _untagged(node, Scalar, "an integer")
    match = _INTEGER.fullmatch(scalar.text) if scalar.plain and len(scalar.text) < 100 else None
    if match is None:
        malformed(f"an integer is needed, not {scalar.text[:100]!r}", node)
    return next(int(digits, base) for digits, base in zip(match.groups(), (10, 16, 8, 2), strict=True) if digits)


def _boolean(node: Node) -> bool:
    scalar = _untagged(node, Scalar, "true or false")
    if not scalar.plain or scalar.text not in _BOOLEANS:
        malformed(f"true or false is needed, not {scalar.text[:100]!r}", node)
    return _BOOLEANS[scalar.text]


# Records


def _decode_record(cls: type[T], node: Node) -> T:
    """An instance of a `Checked` dataclass from a mapping with its fields' names."""
    values = _decode_fields(cls, _untagged(node, Entries, "a mapping").entries)
    return _made(node, lambda: cls(**values))


def _decode_fields(cls: type[Any], entries: dict[str, Node]) -> dict[str, Any]:
    return {
        name: _in_field(name, entries[name], partial(_decode_field, field))
        for name, field in field_types(cls).items()
        if not name.startswith("_") and name in entries and not (field.optional and _is_null(entries[name]))
    }


def _in_field(name: str, node: Node, decode: Callable[[Node], T]) -> T:
    """Decode with the field's name in front of what goes wrong."""
    try:
        return decode(node)
    except MalformedYaml as error:
        raise MalformedYaml(f"{name}: {error.reason}", error.at) from None


def _made(node: Node, make: Callable[[], T]) -> T:
    """What `make` returns; what it refuses is at fault in the file."""
    try:
        return make()
    except (TypeError, ValueError, OverflowError) as error:
        malformed(str(error), node)


def _decode_field(field: FieldType, node: Node) -> Any:
    value = _DECODERS[field.type](node) if field.type in _DECODERS else _decode_record(field.type, node)
    if field.convert is None:
        return value
    convert = field.convert
    return _made(node, lambda: convert(value))


def _encode(value: Any) -> Any:
    encode = next((encode for cls, encode in _ENCODERS.items() if isinstance(value, cls)), None)
    if encode is not None:
        return encode(value)
    if isinstance(value, Checked):
        return {Token(name): _encode(getattr(value, name)) for name in field_types(type(value))}
    return value


def _decode_repository(node: Node) -> RepositoryConfig:
    entries = _untagged(node, Entries, "a mapping").entries
    fields = _decode_fields(RepositoryConfig, entries)
    if _CONTAINERS in entries and not _is_null(entries[_CONTAINERS]):
        fields[_CONTAINERS] = _in_field(_CONTAINERS, entries[_CONTAINERS], _decode_containers)
    return RepositoryConfig(**fields)


def _encode_repository(config: RepositoryConfig) -> dict[Token, Any]:
    encoded = {
        Token(name): _encode(getattr(config, name))
        for name in field_types(RepositoryConfig)
        if not name.startswith("_")
    }
    if config.merged_reads is None:  # the original has no such field, and files are to be the same
        del encoded[Token(_MERGED_READS)]
    containers = config.virtual_chunk_containers
    encoded[Token(_CONTAINERS)] = containers and {name: _encode(value) for name, value in containers.items()}
    return encoded


def _decode_containers(node: Node) -> dict[str, VirtualChunkContainer]:
    entries = _untagged(node, Entries, "a mapping of containers").entries
    return {name: _in_field(repr(name), container, _decode_container) for name, container in entries.items()}


def _decode_container(node: Node) -> VirtualChunkContainer:
    entries = _untagged(node, Entries, "a mapping").entries
    container = VirtualChunkContainer(_field(node, "url_prefix", _text), _field(node, "store", _decode_store))
    if "name" in entries and not _is_null(entries["name"]):
        container.name = _in_field("name", entries["name"], _text)
    return container


def _encode_container(container: VirtualChunkContainer) -> dict[Token, Any]:
    fields = ("url_prefix", "store", "name")  # not where it is from
    return {Token(name): _encode(getattr(container, name)) for name in fields}


# Stores


def _decode_store(node: Node) -> ObjectStoreConfig:
    return _decode_union(node, _STORE_TAGS, _STORE_WORDS)


def _decode_s3_options(node: Node) -> S3Options:
    options = _decode_record(S3Options, node)
    for name in ("anonymous", "allow_http"):
        if isinstance(node, Entries) and name not in node.entries:
            malformed(f"{name} is missing", node)
    return options


def _decode_options(node: Node) -> dict[str, str]:
    entries = _untagged(node, Entries, "a mapping of texts").entries
    return {name: _in_field(name, value, _text) for name, value in entries.items()}


_STORE_TAGS: dict[str, Callable[[Node], ObjectStoreConfig]] = {
    "s3": lambda node: ObjectStoreConfig.S3(_decode_s3_options(node)),
    "s3_compatible": lambda node: ObjectStoreConfig.S3Compatible(_decode_s3_options(node)),
    "tigris": lambda node: ObjectStoreConfig.Tigris(_decode_s3_options(node)),
    "gcs": lambda node: ObjectStoreConfig.Gcs(_decode_options(node)),
    "azure": lambda node: ObjectStoreConfig.Azure(_decode_options(node)),
    "http": lambda node: ObjectStoreConfig.Http(_decode_options(node)),
    "local_file_system": lambda node: ObjectStoreConfig.LocalFileSystem(_text(node)),  # type: ignore[arg-type]  # converted
}

_STORE_WORDS: dict[str, Callable[[], ObjectStoreConfig]] = {"in_memory": ObjectStoreConfig.InMemory}


def _encode_store(store: ObjectStoreConfig) -> Any:
    if isinstance(store, ObjectStoreConfig.InMemory):
        return Token("in_memory")
    if isinstance(store, ObjectStoreConfig.LocalFileSystem):
        return Tagged("local_file_system", str(store._0))
    tag, options = next((tag, store._0) for tag, cls in _STORE_CLASSES.items() if isinstance(store, cls))
    return Tagged(tag, _encode(options))


# Unions


def _decode_union(node: Node, tagged: Mapping[str, Callable[[Node], T]], bare: Mapping[str, Callable[[], T]]) -> T:
    """A member of a union: with payload behind a tag, without as a word (or as a tag with nothing behind it)."""
    if node.tag is not None and node.tag in tagged:
        return _in_field(f"!{node.tag}", replace(node, tag=None), tagged[node.tag])
    word = None
    if isinstance(node, Scalar):
        word = node.text if node.tag is None else node.tag if node.text in _NULL else None
    if word is None or word not in bare:
        known = ", ".join([*(f"!{tag}" for tag in tagged), *bare])
        malformed(f"one of {known} is needed", node)
    return bare[word]()


def _items(decode: Callable[[Node], T]) -> Callable[[Node], list[T]]:
    return lambda node: [decode(item) for item in _untagged(node, Items, "a list").items]


def _regex(node: Node) -> str:
    return _field(node, "regex", _text)


def _field(node: Node, name: str, decode: Callable[[Node], T]) -> T:
    """A field of a mapping that must be there."""
    entries = _untagged(node, Entries, "a mapping").entries
    if name not in entries:
        malformed(f"{name} is missing", node)
    return _in_field(name, entries[name], decode)


# Conditions


def _decode_preload_condition(node: Node) -> ManifestPreloadCondition:
    return _decode_union(node, _PRELOAD_TAGS, _PRELOAD_WORDS)


def _decode_num_refs(node: Node) -> ManifestPreloadCondition:
    return _made(node, lambda: ManifestPreloadCondition.num_refs(_bound(node, "from"), _bound(node, "to")))


def _bound(node: Node, name: str) -> int | None:
    """Of a range of integers: its start, included, or its end, excluded."""
    beyond = name == "to"
    tags: dict[str, Callable[[Node], int | None]] = {
        "Included": partial(_limit, beyond=beyond),
        "Excluded": partial(_limit, beyond=not beyond),
    }
    words: dict[str, Callable[[], int | None]] = {"Unbounded": lambda: None}
    limit = _field(node, name, lambda node: _decode_union(node, tags, words))
    if limit is not None and limit > _COUNT.high:
        return None if name == "to" else _COUNT.high
    return limit


def _limit(node: Node, *, beyond: bool) -> int:
    return _made(node, lambda: _COUNT(_integer(node))) + beyond


_PRELOAD_TAGS: dict[str, Callable[[Node], ManifestPreloadCondition]] = {
    "or": lambda node: ManifestPreloadCondition.or_conditions(_items(_decode_preload_condition)(node)),
    "and": lambda node: ManifestPreloadCondition.and_conditions(_items(_decode_preload_condition)(node)),
    "path_matches": lambda node: ManifestPreloadCondition.path_matches(_regex(node)),
    "name_matches": lambda node: ManifestPreloadCondition.name_matches(_regex(node)),
    "num_refs": _decode_num_refs,
}
_PRELOAD_WORDS = {"true": ManifestPreloadCondition.true, "false": ManifestPreloadCondition.false}


def _encode_preload_condition(condition: ManifestPreloadCondition) -> Any:
    if isinstance(condition, ManifestPreloadCondition.NumRefs):
        low, high = condition.from_refs, condition.to
        return Tagged(
            "num_refs",
            {
                Token("from"): Token("Unbounded") if low is None else Tagged("Included", low),
                Token("to"): Token("Unbounded") if high is None else Tagged("Excluded", high),
            },
        )
    if condition == ManifestPreloadCondition.true() or condition == ManifestPreloadCondition.false():
        return "true" if condition == ManifestPreloadCondition.true() else "false"
    return _encode_condition(condition)


def _encode_condition(condition: Any) -> Any:
    """What preload and split conditions have in common."""
    match condition:
        case ManifestPreloadCondition.Or(parts) | ManifestSplitCondition.Or(parts):
            return Tagged("or", [_encode(part) for part in parts])
        case ManifestPreloadCondition.And(parts) | ManifestSplitCondition.And(parts):
            return Tagged("and", [_encode(part) for part in parts])
        case ManifestPreloadCondition.PathMatches(regex) | ManifestSplitCondition.PathMatches(regex):
            return Tagged("path_matches", {Token("regex"): regex})
    return Tagged("name_matches", {Token("regex"): condition.regex})


def _decode_split_condition(node: Node) -> ManifestSplitCondition:
    return _decode_union(node, _SPLIT_TAGS, _SPLIT_WORDS)


_SPLIT_TAGS: dict[str, Callable[[Node], ManifestSplitCondition]] = {
    "or": lambda node: ManifestSplitCondition.or_conditions(_items(_decode_split_condition)(node)),
    "and": lambda node: ManifestSplitCondition.and_conditions(_items(_decode_split_condition)(node)),
    "path_matches": lambda node: ManifestSplitCondition.path_matches(_regex(node)),
    "name_matches": lambda node: ManifestSplitCondition.name_matches(_regex(node)),
}

_SPLIT_WORDS: dict[str, Callable[[], ManifestSplitCondition]] = {"any_array": ManifestSplitCondition.AnyArray}


def _encode_split_condition(condition: ManifestSplitCondition) -> Any:
    return (
        Token("any_array") if isinstance(condition, ManifestSplitCondition.AnyArray) else _encode_condition(condition)
    )


_AXIS_TAGS: dict[str, Callable[[Node], ManifestSplitDimCondition]] = {
    "Axis": lambda node: ManifestSplitDimCondition.Axis(_integer(node)),
    "DimensionName": lambda node: ManifestSplitDimCondition.DimensionName(_text(node)),
}

_AXIS_WORDS: dict[str, Callable[[], ManifestSplitDimCondition]] = {"Any": ManifestSplitDimCondition.Any}


def _decode_axis_condition(node: Node) -> ManifestSplitDimCondition:
    return _made(node, lambda: _decode_union(node, _AXIS_TAGS, _AXIS_WORDS))


def _encode_axis_condition(condition: ManifestSplitDimCondition) -> Any:
    match condition:
        case ManifestSplitDimCondition.Axis(number):
            return Tagged("Axis", number)
        case ManifestSplitDimCondition.DimensionName(regex):
            return Tagged("DimensionName", regex)
    return Token("Any")


def _decode_split_sizes(node: Node) -> Any:
    return _items(_decode_split_entry)(node)


def _decode_split_entry(node: Node) -> tuple[ManifestSplitCondition, list[tuple[ManifestSplitDimCondition, int]]]:
    pair = _untagged(node, Items, "a list").items
    if len(pair) != 2:
        malformed("a pair of a condition and a list of axis rules is needed", node)
    return _decode_split_condition(pair[0]), _items(_decode_axis_rule)(pair[1])


def _decode_axis_rule(node: Node) -> tuple[ManifestSplitDimCondition, int]:
    return _field(node, "condition", _decode_axis_condition), _field(node, "num_chunks", _chunk_count)


def _chunk_count(node: Node) -> int:
    return _made(node, lambda: CHUNK_COUNT(_integer(node)))


def _encode_splitting(config: ManifestSplittingConfig) -> dict[Token, Any]:
    if config.split_sizes is None:
        return {Token("split_sizes"): None}
    entries = [
        [_encode(condition), [_encode_axis_rule(*rule) for rule in rules]] for condition, rules in config.split_sizes
    ]
    return {Token("split_sizes"): entries}


def _encode_axis_rule(condition: ManifestSplitDimCondition, num_chunks: int) -> dict[Token, Any]:
    return {Token("condition"): _encode(condition), Token("num_chunks"): num_chunks}


def _decode_algorithm(node: Node) -> CompressionAlgorithm:
    return _decode_union(node, {}, {"zstd": CompressionAlgorithm.default})


_STORE_CLASSES: dict[str, type[Any]] = {
    "s3": ObjectStoreConfig.S3,
    "s3_compatible": ObjectStoreConfig.S3Compatible,
    "tigris": ObjectStoreConfig.Tigris,
    "gcs": ObjectStoreConfig.Gcs,
    "azure": ObjectStoreConfig.Azure,
    "http": ObjectStoreConfig.Http,
}

_DECODERS: dict[Any, Callable[[Node], Any]] = {
    int: _integer,
    str: _text,
    bool: _boolean,
    CompressionAlgorithm: _decode_algorithm,
    ManifestPreloadCondition: _decode_preload_condition,
    SplitSizes: _decode_split_sizes,
}
"""By the type of a field; all others are records."""

_ENCODERS: dict[type[Any], Callable[[Any], Any]] = {
    CompressionAlgorithm: lambda algorithm: Token(algorithm.name.lower()),
    ObjectStoreConfig: _encode_store,
    ManifestPreloadCondition: _encode_preload_condition,
    ManifestSplitCondition: _encode_split_condition,
    ManifestSplitDimCondition: _encode_axis_condition,
    ManifestSplittingConfig: _encode_splitting,
    RepositoryConfig: _encode_repository,
    VirtualChunkContainer: _encode_container,
}
"""By the class of a value; other records by their fields, everything else as it is."""
