"""Configurations as people and programs see them: what is set, without nulls and without secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from icechunk_virtual.containers.container import SECRET_OPTION
from icechunk_virtual.errors import CorruptFile
from icechunk_virtual.repo.config import RepositoryConfig
from icechunk_virtual.repo.format import yaml_nodes
from icechunk_virtual.repo.format.config_yaml import decode_config, encode_config
from icechunk_virtual.repo.format.yaml_nodes import Entries, Items, Node, Tagged, Token

_FREE_OPTIONS = frozenset({"gcs", "azure", "http"})
"""Tags of stores whose options are free texts, among which a careless user may have put a key."""
_HIDDEN = "***"
_BOOLEANS = {"true": True, "false": False}


def read_config(file: Path) -> RepositoryConfig:
    """The configuration in a YAML file.

    Raises
    ------
    ValueError
        It is none, or was printed by `as_yaml` and lacks its secrets; the message names the file.
    """
    text = file.read_bytes()
    if f'"{_HIDDEN}"'.encode() in text:
        raise ValueError(f'{file}: "{_HIDDEN}" stands for a secret that was not shown; put it in')
    return parse_config(text, str(file))


def parse_config(text: bytes, what: str) -> RepositoryConfig:
    """The configuration in YAML text; `what` names the text in errors (``ValueError``)."""
    try:
        return decode_config(text, file=what)
    except CorruptFile as error:
        reason = error.message.partition("deserialization: ")[2].partition(". Restore the file")[0]
        raise ValueError(f"{what}: {reason or error.message}") from None


def as_yaml(config: RepositoryConfig) -> str:
    """What is set, in the words of ``config.yaml``; empty if nothing is."""
    content = _content(config)
    return yaml_nodes.emit(content) if content else ""


def as_json(config: RepositoryConfig) -> dict[str, Any]:
    """What is set, as JSON values; a value behind a tag becomes ``{"!tag": value}``."""
    plain: dict[str, Any] = _plain(_content(config))
    return plain


def _content(config: RepositoryConfig) -> dict[str | Token, Any]:
    root = yaml_nodes.parse(encode_config(config).decode())
    content = None if root is None else _set_only(root)
    return content if isinstance(content, dict) else {}


def _set_only(node: Node) -> Any:
    """The value of a node for `yaml_nodes.emit`, ``None`` if nothing in it is set."""
    value: Any
    if isinstance(node, Items):
        value = [_set_only(item) for item in node.items]
    elif isinstance(node, Entries):
        hide = node.tag in _FREE_OPTIONS
        items = (
            (key, _HIDDEN if hide and SECRET_OPTION.search(key) else _set_only(v)) for key, v in node.entries.items()
        )
        value = {Token(key) if key.isidentifier() else key: v for key, v in items if v is not None}
        if not value and node.tag is None:
            return None
    elif node.plain:
        value = None if node.text in {"null", ""} else Token(node.text)
    else:
        value = node.text
    return value if node.tag is None else Tagged(node.tag, value)


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {key.text if isinstance(key, Token) else key: _plain(v) for key, v in value.items()}
        case list():
            return [_plain(item) for item in value]
        case Tagged(tag, content):
            return {f"!{tag}": _plain(content)}
        case Token(text):
            return _BOOLEANS[text] if text in _BOOLEANS else int(text) if text.isdigit() else text
    return value
