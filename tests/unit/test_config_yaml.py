"""config.yaml: how it looks, what it refuses and where."""

from __future__ import annotations

import pytest

from icechunk_virtual.containers.container import VirtualChunkContainer, local_filesystem_store
from icechunk_virtual.errors import CorruptFile
from icechunk_virtual.repo.conditions import ManifestPreloadCondition
from icechunk_virtual.repo.config import RepositoryConfig
from icechunk_virtual.repo.format import yaml_nodes
from icechunk_virtual.repo.format.config_yaml import decode_config, encode_config
from icechunk_virtual.repo.settings import MergedReads
from tests.support.configs import full_config

WRITTEN_BY_ORIGINAL = b"""\
inline_chunk_threshold_bytes: 1024
get_partial_values_concurrency: 20
compression:
  algorithm: zstd
  level: 5
max_concurrent_requests: 64
caching:
  num_snapshot_nodes: 1
  num_chunk_refs: 2
  num_transaction_changes: 3
  num_bytes_attributes: 4
  num_bytes_chunks: 18446744073709551615
storage:
  concurrency:
    max_concurrent_requests_for_object: 7
    ideal_concurrent_request_size: 8388608
  retries:
    max_tries: 3
    initial_backoff_ms: 50
    max_backoff_ms: 1000
  unsafe_use_conditional_update: false
  unsafe_use_conditional_create: true
  unsafe_use_metadata: false
  storage_class: STANDARD
  metadata_storage_class: STANDARD_IA
  chunks_storage_class: yes
  minimum_size_for_multipart_upload: 5000000
virtual_chunk_containers:
  s3://bucket-a/:
    name: null
    url_prefix: s3://bucket-a/
    store: !s3
      region: us-east-1
      endpoint_url: null
      anonymous: false
      allow_http: false
      force_path_style: false
      network_stream_timeout_seconds: 60
      requester_pays: false
  s3://bucket-b/pre fix/:
    name: null
    url_prefix: s3://bucket-b/pre fix/
    store: !s3_compatible
      region: us-east-1
      endpoint_url: http://localhost:9000
      anonymous: true
      allow_http: true
      force_path_style: true
      network_stream_timeout_seconds: 33
      requester_pays: true
  tigris://bucket-t/:
    name: null
    url_prefix: tigris://bucket-t/
    store: !tigris
      region: iad
      endpoint_url: null
      anonymous: false
      allow_http: false
      force_path_style: false
      network_stream_timeout_seconds: null
      requester_pays: false
  gcs://bucket-c/:
    name: null
    url_prefix: gcs://bucket-c/
    store: !gcs
      google_service_account: x
  gs://bucket-c2/:
    name: null
    url_prefix: gs://bucket-c2/
    store: !gcs {}
  az://cont/:
    name: null
    url_prefix: az://cont/
    store: !azure
      account: acct
  http://example.com/:
    name: null
    url_prefix: http://example.com/
    store: !http
      allow_http: 'true'
      timeout: '30'
  https://example.com/data/:
    name: null
    url_prefix: https://example.com/data/
    store: !http {}
  file:///data/x/:
    name: null
    url_prefix: file:///data/x/
    store: !local_file_system /data/x
manifest:
  preload:
    max_total_refs: 1000
    preload_if: !or
    - !and
      - !name_matches
        regex: ^lat$
      - !num_refs
        from: Unbounded
        to: !Excluded 100
    - !path_matches
      regex: '/a/.*: "x"'
    - !num_refs
      from: !Included 5
      to: !Excluded 10
    - !num_refs
      from: !Included 7
      to: Unbounded
    - 'true'
    - 'false'
  splitting:
    split_sizes:
    - - !or
        - !and
          - !name_matches
            regex: t
          - !path_matches
            regex: .*
        - any_array
      - - condition: !Axis 0
          num_chunks: 10
        - condition: !DimensionName lat.*
          num_chunks: 5
        - condition: Any
          num_chunks: 4294967295
    - - !name_matches
        regex: '1e3'
      - - condition: Any
          num_chunks: 3
"""

WRITTEN_BY_US = b"""\
inline_chunk_threshold_bytes: null
get_partial_values_concurrency: null
compression: null
max_concurrent_requests: 5
caching: null
storage: null
manifest: null
virtual_chunk_containers:
  "file:///d \\u00e9/":
    url_prefix: "file:///d \\u00e9/"
    store: !local_file_system "/d \\u00e9"
    name: null
"""


def test_reads_what_the_original_writes() -> None:
    assert decode_config(WRITTEN_BY_ORIGINAL) == full_config()


def test_writes_every_key_and_quotes_every_text() -> None:
    config = RepositoryConfig(max_concurrent_requests=5)
    config.set_virtual_chunk_container(VirtualChunkContainer("file:///d é/", local_filesystem_store("/d é")))
    assert encode_config(config) == WRITTEN_BY_US


def test_our_own_setting_is_written_only_where_it_is_set() -> None:
    config = RepositoryConfig(merged_reads=MergedReads(enabled=True, buffer_bytes=5))
    written = encode_config(config)
    assert b"\nmerged_reads:\n  enabled: true\n  max_overread_percent: null\n  buffer_bytes: 5\n" in written
    assert decode_config(written) == config
    assert b"merged_reads" not in encode_config(RepositoryConfig(max_concurrent_requests=5))


def test_exclusive_and_inclusive_bounds() -> None:
    text = "manifest: {preload: {preload_if: !num_refs {from: !Excluded 4, to: !Included 9}}}"
    config = decode_config(text.encode())
    limit, condition = config.effective_preload
    assert limit == 10_000
    assert [count for count in range(20) if condition.matches("/a", count)] == [5, 6, 7, 8, 9]


def test_bounds_at_the_end_of_the_range() -> None:
    text = "manifest: {preload: {preload_if: !num_refs {from: !Excluded 4294967295, to: !Included 4294967295}}}"
    _, condition = decode_config(text.encode()).effective_preload
    assert condition == ManifestPreloadCondition.num_refs(2**32 - 1, None)


@pytest.mark.parametrize(
    ("content", "position", "reason"),
    [
        (b"a: 1\nmax_concurrent_requests: 65536\n", 30, "max_concurrent_requests: 65536 is out of range"),
        (b"# \xc3\xa9\nmax_concurrent_requests: x\n", 30, "max_concurrent_requests: an integer is needed, not 'x'"),
        (b"\xef\xbb\xbfa: [\n", 8, ""),
        (b"storage:\n  retries:\n    max_tries: 0\n", 35, "storage: retries: max_tries: invalid zero value"),
        (b"a: 1\na: 2\n", 5, "duplicate key 'a'"),
        (b"a: 1\n\xff", 5, "not UTF-8"),
        (b"a: 1\n---\nb: 1\n", 5, "one document only"),
        (b"caching: {num_chunk_refs: 1}\n--- \n- 1", 29, "one document only"),
        (b"null\n", 0, "a mapping is needed"),
        (b"a: *x\n", 3, "alias"),
        (b"? [1]\n: 1\n", 2, "a key must be a scalar"),
        (b"caching: !x {}\n", 9, "caching: a mapping without a tag is needed, not !x"),
        (b"a: !<tag:example.com,2000:x> 1\n", 3, "unknown tag"),
        (
            b"manifest: {splitting: {split_sizes: [[any_array, [{condition: Any, num_chunks: 0}]]]}}",
            79,
            "manifest: splitting: split_sizes: num_chunks: invalid zero value",
        ),
        (
            b"virtual_chunk_containers: {a: {url_prefix: b, store: !ftp {}}}",
            53,
            "virtual_chunk_containers: 'a': store: one of !s3, ",
        ),
    ],
)
def test_damage_is_located(content: bytes, position: int, reason: str) -> None:
    with pytest.raises(CorruptFile, match="error in config deserialization") as caught:
        decode_config(content, file="config.yaml")
    assert reason in str(caught.value)
    assert (caught.value.kind, caught.value.file, caught.value.position) == ("config", "config.yaml", position)


def laughs(count: int) -> bytes:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, count)]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (laughs(12), "too many values"),
        (b"manifest: {preload: {preload_if: " + b"!or [" * 70 + b"]" * 70 + b"}}", "too deeply nested"),
        (b"a: " + b"[" * 100_000, "too deeply nested"),
        (b"- " * 100_000, "too deeply nested"),
        (b"a: &a [*a]", "alias"),
        (b"x" * (yaml_nodes.MAX_BYTES + 1), "larger than"),
        (b"max_concurrent_requests: " + b"9" * 100_000, "an integer is needed"),
    ],
)
def test_hostile_content_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(CorruptFile, match=reason):
        decode_config(content)


def test_aliases_stand_for_what_they_name() -> None:
    config = decode_config(b"x: &c {num_chunk_refs: 7}\ncaching: *c\n")
    assert config.caching is not None
    assert config.caching.num_chunk_refs == 7


def test_both_parsers_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML may come without its C parser."""
    monkeypatch.setattr(yaml_nodes, "_LOADER", yaml_nodes.yaml.SafeLoader)
    assert decode_config(WRITTEN_BY_ORIGINAL) == full_config()
    assert decode_config(encode_config(full_config())) == full_config()
    with pytest.raises(CorruptFile) as caught:
        decode_config(b"a: 1\nb: [\n")
    assert caught.value.position == 10


def test_half_a_surrogate_pair_cannot_be_written() -> None:
    config = RepositoryConfig()
    config.storage = decode_config(b"storage: {storage_class: x}").storage
    assert config.storage is not None
    config.storage.storage_class = "\ud800"
    with pytest.raises(ValueError, match="surrogate"):
        encode_config(config)
