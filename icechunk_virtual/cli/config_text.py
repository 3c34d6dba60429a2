"""Configurations as people and programs see them: what is set, without nulls and without secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from icechunk_virtual.containers.container import HIDDEN, is_secret
from icechunk_virtual.errors import CorruptFile
from icechunk_virtual.repo.config import RepositoryConfig
from icechunk_virtual.repo.format import yaml_nodes
from icechunk_virtual.repo.format.config_yaml import decode_config, encode_config
from icechunk_virtual.repo.format.yaml_nodes import Tagged, Token

_FREE_OPTIONS = frozenset({"gcs", "azure", "http"})
"""Tags of stores whose options are free texts, among which a careless user may have put a key."""
_BOOLEANS = {"true": True, "false": False}


def read_config(file: Path) -> RepositoryConfig:
    """The configuration in a YAML file.

    Raises
    ------
    ValueError
        It is none, or was printed by `as_yaml` and lacks its secrets; the message names the file.
    """
    text = file.read_bytes()
    if f'"{HIDDEN}"'.encode() in text:
        raise ValueError(f'{file}: "{HIDDEN}" stands for a secret that was not shown; put it in')
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
    content = None if root is None else _set_only(yaml_nodes.as_value(root))
    return content if isinstance(content, dict) else {}


def _set_only(value: Any) -> Any:
    """A value for `yaml_nodes.emit`, ``None`` if nothing in it is set."""
    match value:
        case Tagged(tag, dict() as options) if tag in _FREE_OPTIONS:
            return Tagged(tag, {key: HIDDEN if is_secret(_text(key), _text(v)) else v for key, v in options.items()})
        case Tagged(tag, content):
            return Tagged(tag, _set_only(content))
        case dict():
            return {key: v for key, item in value.items() if (v := _set_only(item)) is not None} or None
        case list():
            return [_set_only(item) for item in value]
        case Token("null"):
            return None
    return value


def _text(scalar: str | Token) -> str:
    return scalar.text if isinstance(scalar, Token) else scalar


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {_text(key): _plain(v) for key, v in value.items()}
        case list():
            return [_plain(item) for item in value]
        case Tagged(tag, content):
            return {f"!{tag}": _plain(content)}
        case Token(text):
            return _BOOLEANS[text] if text in _BOOLEANS else int(text) if text.isdigit() else text
    return value
