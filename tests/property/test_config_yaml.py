"""Laws of config.yaml: what is written is read back, and foreign bytes give a configuration or `CorruptFile`."""

from __future__ import annotations

from typing import Any

import pytest
import ruamel.yaml
from hypothesis import example, given
from hypothesis import strategies as st

from icechunk_virtual.errors import CorruptFile
from icechunk_virtual.repo.config import RepositoryConfig
from icechunk_virtual.repo.format import yaml_nodes
from icechunk_virtual.repo.format.config_yaml import decode_config, encode_config
from tests.support.configs import AWKWARD, configs, full_config, texts


@given(configs)
@example(full_config())
def test_round_trip(config: RepositoryConfig) -> None:
    data = encode_config(config)
    assert data.isascii()
    assert decode_config(data) == config
    assert encode_config(decode_config(data)) == data


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_texts_survive(text: str) -> None:
    node = yaml_nodes.parse(yaml_nodes.emit({text: text}))
    assert isinstance(node, yaml_nodes.Entries)
    value = node.entries[text]
    assert isinstance(value, yaml_nodes.Scalar)
    assert (value.text, value.plain) == (text, False)


@given(st.dictionaries(texts, texts | st.lists(texts, max_size=3), max_size=3))
def test_another_parser_of_yaml_1_2_reads_the_same(value: dict[str, Any]) -> None:
    judge = ruamel.yaml.YAML(typ="safe", pure=True)
    assert judge.load(yaml_nodes.emit({yaml_nodes.Token("top"): value})) == {"top": value}


@given(st.binary(max_size=200))
def test_garbage(data: bytes) -> None:
    check_foreign(data)


@given(st.data())
def test_damage(data: st.DataObject) -> None:
    content = bytearray(encode_config(full_config()))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        replacement = data.draw(st.binary(max_size=2) | st.sampled_from([b"", b"\n", b": ", b"- ", b"&a ", b"*a "]))
        content[position : position + data.draw(st.integers(0, 3))] = replacement
    check_foreign(bytes(content))


@given(
    st.lists(st.sampled_from(["a", ":", " ", "\n", "-", "!s3", "[", "]", "{", "}", "&x", "*x", '"', "? ", "null", "1"]))
)
def test_yaml_soup(parts: list[str]) -> None:
    check_foreign("".join(parts).encode())


@given(texts)
def test_unknown_keys_are_ignored(key: str) -> None:
    text = yaml_nodes.emit({f"x{key}": {"a": [key, None, 1]}, yaml_nodes.Token("max_concurrent_requests"): 3})
    assert decode_config(text.encode()) == RepositoryConfig(max_concurrent_requests=3)


def check_foreign(data: bytes) -> None:
    error = None
    try:
        config = decode_config(data, file="config.yaml")
    except CorruptFile as refused:
        error = refused
    if error is not None:
        assert (error.file, error.kind) == ("config.yaml", "config")
        assert error.position is None or 0 <= error.position <= len(data)
    else:
        assert decode_config(encode_config(config)) == config
