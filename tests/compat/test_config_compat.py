"""``config.yaml`` against the real icechunk: what one writes, the other reads, field by field."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

import icechunk_virtual.containers.container as our_containers
import icechunk_virtual.repo.conditions as our_conditions
import icechunk_virtual.repo.config as our_config
import icechunk_virtual.repo.settings as our_settings
from icechunk_virtual.errors import CorruptFile
from icechunk_virtual.model.checked import Checked, Variant, field_types
from icechunk_virtual.repo.config import RepositoryConfig, usable_containers
from icechunk_virtual.repo.format.config_yaml import decode_config, encode_config
from tests.support.configs import AWKWARD, configs, full_config

pytestmark = pytest.mark.compat

ic: Any = pytest.importorskip("icechunk")


class Place:
    """A repository of the original on the local disk whose configuration we write and read."""

    def __init__(self, path: Path) -> None:
        self.storage = ic.local_filesystem_storage(str(path))
        self.file = path / "config.yaml"
        ic.Repository.create(self.storage)

    def read(self, data: bytes) -> Any:
        """What the original reads from these bytes."""
        self.file.write_bytes(data)
        return ic.Repository.fetch_config(self.storage)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("repository"))


def written_by_original(config: Any, path: Path) -> bytes:
    ic.Repository.create(ic.local_filesystem_storage(str(path)), config)
    return (path / "config.yaml").read_bytes()


OURS = {"merged_reads"}
"""Settings that the original does not have, and does not mind."""
FIELDS = [name for name in field_types(RepositoryConfig) if not name.startswith("_") and name not in OURS]


def as_original(value: Any) -> Any:
    """The original's object with the same content, made through its public constructors."""
    if isinstance(value, RepositoryConfig):
        containers = value.virtual_chunk_containers
        return ic.RepositoryConfig(
            **{name: as_original(getattr(value, name)) for name in FIELDS},
            virtual_chunk_containers=containers and {k: as_original(c) for k, c in containers.items()},
        )
    if isinstance(value, our_containers.VirtualChunkContainer):
        return ic.VirtualChunkContainer(value.url_prefix, as_original(value.store))
    if isinstance(value, our_settings.CompressionAlgorithm):
        return ic.CompressionAlgorithm.Zstd
    if isinstance(value, Variant):
        union, _, member = type(value).__qualname__.partition(".")
        fields = {name: as_original(getattr(value, name)) for name in field_types(type(value))}
        return getattr(getattr(ic, union), member)(*fields.values())
    if isinstance(value, Checked):
        fields = {name: as_original(getattr(value, name)) for name in field_types(type(value))}
        return getattr(ic, type(value).__name__)(**fields)
    if isinstance(value, list | tuple):
        return type(value)(map(as_original, value))
    return value


def assert_same(theirs: Any, ours: RepositoryConfig) -> None:
    """Equal, containers one by one: the original compares option mappings by texts of random order."""
    expected = as_original(ours)
    found, wanted = theirs.virtual_chunk_containers, expected.virtual_chunk_containers
    assert (found and found.keys()) == (wanted and wanted.keys())
    for name, container in (found or {}).items():
        assert container.url_prefix == wanted[name].url_prefix
        assert container.store == wanted[name].store
    for name in FIELDS:
        assert getattr(theirs, name) == getattr(expected, name)


def test_original_reads_ours(place: Place) -> None:
    config = full_config()
    assert_same(place.read(encode_config(config)), config)


def test_we_read_originals(tmp_path: Path) -> None:
    config = full_config()
    assert decode_config(written_by_original(as_original(config), tmp_path / "repository")) == config


def test_default(place: Place, tmp_path: Path) -> None:
    assert place.read(encode_config(RepositoryConfig())) == ic.RepositoryConfig()
    saved = ic.Repository.create(ic.local_filesystem_storage(str(tmp_path)))
    saved.save_config()
    assert decode_config((tmp_path / "config.yaml").read_bytes()) == RepositoryConfig()


@settings(max_examples=20)
@given(config=configs)
def test_original_reads_any_of_ours(place: Place, config: RepositoryConfig) -> None:
    assert_same(place.read(encode_config(config)), config)


@settings(max_examples=15)
@given(config=configs)
def test_we_read_any_of_originals(tmp_path_factory: pytest.TempPathFactory, config: RepositoryConfig) -> None:
    config.storage = None  # its settings would be used to write the file
    config.max_concurrent_requests = config.max_concurrent_requests or None  # with 0 the original waits forever
    config = RepositoryConfig(
        **{name: getattr(config, name) for name in FIELDS},
        virtual_chunk_containers=usable(config),
    )
    if config == RepositoryConfig():
        return  # the original writes no file
    path = tmp_path_factory.mktemp("original")
    assert decode_config(written_by_original(as_original(config), path)) == config


def usable(config: RepositoryConfig) -> dict[str, Any] | None:
    """Containers with prefixes that the original lets pass, under the names and with the stores of the others."""
    containers = config.virtual_chunk_containers
    if containers is None:
        return None
    by_store = {type(container.store): prefix for prefix, container in usable_containers(full_config()).items()}
    return {
        name: our_containers.VirtualChunkContainer(by_store[type(container.store)], container.store)
        for name, container in containers.items()
        if type(container.store) in by_store
    }


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_texts_both_ways(place: Place, tmp_path: Path, text: str) -> None:
    condition = our_conditions.ManifestPreloadCondition.name_matches(text)
    config = RepositoryConfig(
        manifest=our_config.ManifestConfig(preload=our_config.ManifestPreloadConfig(preload_if=condition))
    )
    assert_same(place.read(encode_config(config)), config)
    assert decode_config(written_by_original(as_original(config), tmp_path / "repository")) == config


RULE = b"manifest: {splitting: {split_sizes: [[any_array, [{num_chunks: 2, condition: "
STORE = b"virtual_chunk_containers: {x: {url_prefix: 's3://b/', store: "
DIALECT: dict[str, bytes] = {
    "empty": b"",
    "comments only": b"# nothing\n",
    "document start": b"---\nmax_concurrent_requests: 3\n",
    "document end": b"max_concurrent_requests: 3\n...\n",
    "json": b'{"max_concurrent_requests": 3, "caching": {"num_chunk_refs": 7}}',
    "byte order mark": b"\xef\xbb\xbfmax_concurrent_requests: 3\n",
    "anchor and alias": b"a: &x {num_chunk_refs: 7}\ncaching: *x\n",
    "unknown keys": b"foo: [1, {a: b}]\ncaching: {bar: !x 1, num_chunk_refs: 7}\n",
    "null fields": b"compression: ~\ncaching:\nstorage: NULL\nmanifest: Null\n",
    "hexadecimal": b"max_concurrent_requests: 0x1F\n",
    "octal": b"max_concurrent_requests: 0o17\n",
    "binary": b"max_concurrent_requests: 0b11\n",
    "plus": b"max_concurrent_requests: +3\n",
    "leading zero": b"max_concurrent_requests: 010\n",
    "underscore": b"max_concurrent_requests: 1_0\n",
    "sexagesimal": b"max_concurrent_requests: 1:30\n",
    "quoted integer": b"max_concurrent_requests: '3'\n",
    "float": b"max_concurrent_requests: 3.0\n",
    "too large": b"max_concurrent_requests: 65536\n",
    "negative": b"max_concurrent_requests: -1\n",
    "zero tries": b"storage: {retries: {max_tries: 0}}\n",
    "bool True": b"storage: {unsafe_use_metadata: True}\n",
    "bool yes": b"storage: {unsafe_use_metadata: yes}\n",
    "bool quoted": b"storage: {unsafe_use_metadata: 'true'}\n",
    "plain text yes": b"storage: {storage_class: yes}\n",
    "plain text number": b"storage: {storage_class: 012}\n",
    "plain text date": b"storage: {storage_class: 2001-01-01}\n",
    "quoted null text": b"storage: {storage_class: 'null'}\n",
    "folded text": b"storage:\n  storage_class: >-\n    a\n    b\n",
    "algorithm": b"compression: {algorithm: zstd}\n",
    "algorithm quoted": b"compression: {algorithm: 'zstd'}\n",
    "algorithm capital": b"compression: {algorithm: Zstd}\n",
    "null document": b"null\n",
    "list document": b"[]\n",
    "text document": b"hello\n",
    "duplicate key": b"max_concurrent_requests: 3\nmax_concurrent_requests: 4\n",
    "two documents": b"max_concurrent_requests: 3\n---\nmax_concurrent_requests: 4\n",
    "tab indentation": b"caching:\n\tnum_chunk_refs: 7\n",
    "not utf-8": b"storage: {storage_class: \xff}\n",
    "unclosed": b"caching: {num_chunk_refs: 7\n",
    "list for mapping": b"caching: [1]\n",
    "s3": STORE + b"!s3 {anonymous: false, allow_http: false}}}\n",
    "s3 without anonymous": STORE + b"!s3 {allow_http: false}}}\n",
    "s3 without allow_http": STORE + b"!s3 {anonymous: false}}}\n",
    "store as mapping": STORE + b"{s3: {anonymous: false, allow_http: false}}}}\n",
    "unknown store": STORE + b"!ftp {}}}\n",
    "in memory": STORE + b"in_memory}}\n",
    "http number": STORE + b"!http {timeout: 30, x: true}}}\n",
    "http null": STORE + b"!http {timeout: ~, x: null}}}\n",
    "container without store": b"virtual_chunk_containers: {x: {url_prefix: 's3://b/'}}\n",
    "container without prefix": b"virtual_chunk_containers: {x: {store: !gcs {}}}\n",
    "old container": b"virtual_chunk_containers: {s3: {name: s3, url_prefix: s3, store: !gcs {}}}\n",
    "preload plain true": b"manifest: {preload: {preload_if: true}}\n",
    "preload quoted": b"manifest: {preload: {preload_if: 'false'}}\n",
    "preload nested": b"manifest: {preload: {preload_if: !and ['true', !or [!name_matches {regex: x}]]}}\n",
    "preload list": b"manifest: {preload: {preload_if: ['true']}}\n",
    "preload unknown": b"manifest: {preload: {preload_if: !xor []}}\n",
    "num_refs open": b"manifest: {preload: {preload_if: !num_refs {from: Unbounded, to: Unbounded}}}\n",
    "num_refs no to": b"manifest: {preload: {preload_if: !num_refs {from: Unbounded}}}\n",
    "num_refs number": b"manifest: {preload: {preload_if: !num_refs {from: 1, to: 2}}}\n",
    "splitting": RULE + b"!Axis 0}]]]}}\n",
    "splitting quoted axis": RULE + b"!Axis '0'}]]]}}\n",
    "splitting numeric name": RULE + b"!DimensionName 1}]]]}}\n",
    "splitting lower any": RULE + b"any}]]]}}\n",
    "splitting triple": b"manifest: {splitting: {split_sizes: [[any_array, [], []]]}}\n",
    "splitting empty": b"manifest: {splitting: {split_sizes: []}}\n",
    "splitting null": b"manifest: {splitting: {split_sizes: null}}\n",
}  # fmt: skip


@pytest.mark.parametrize("name", DIALECT)
def test_dialect(place: Place, name: str) -> None:
    """The same hand-written files are read, with the same result, and the same are refused."""
    try:
        theirs = place.read(DIALECT[name])
    except ic.IcechunkError:
        theirs = None
    try:
        ours = decode_config(DIALECT[name])
    except CorruptFile:
        ours = None
    if ours is None or theirs is None:
        assert ours is theirs
    else:
        assert_same(theirs, ours)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    ic.set_logs_filter("error")
    yield
    ic.set_logs_filter(None)
