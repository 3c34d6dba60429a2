"""Hypothesis strategies of configurations, and one that uses every field."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from icechunk_virtual.containers.container import ObjectStoreConfig, S3Options, VirtualChunkContainer, s3_store
from icechunk_virtual.repo.conditions import (
    ManifestPreloadCondition,
    ManifestSplitCondition,
    ManifestSplitDimCondition,
)
from icechunk_virtual.repo.config import (
    ManifestConfig,
    ManifestPreloadConfig,
    ManifestSplittingConfig,
    RepositoryConfig,
)
from icechunk_virtual.repo.settings import (
    CachingConfig,
    CompressionAlgorithm,
    CompressionConfig,
    MergedReads,
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
)

AWKWARD = [
    "", " ", "yes", "on", "NO", "null", "~", "true", "1_000", "1:30", "2001-01-01", "=", "<<", "1e3", "0o17", "0x1f",
    ".5", "- a", "a: b", "# c", "!tag", "&a", "*a", "'", '"', "\\", "a\nb", "\t", "%", "@", "`", "{}", "[", "\u00e9",
    "\U0001f600", "\ufeff", "\x7f", "\x85", "\u2028", " lead", "trail ", "---", "...", "?", "|", ">", "k" * 2000,
]  # fmt: skip
"""Texts that YAML could take for something else."""

texts = st.sampled_from(AWKWARD) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20
)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def unsigned(bits: int, low: int = 0) -> st.SearchStrategy[int]:
    return st.integers(low, 2**bits - 1)


options = st.builds(
    S3Options,
    region=maybe(texts),
    endpoint_url=maybe(texts),
    allow_http=st.booleans(),
    anonymous=st.booleans(),
    force_path_style=st.booleans(),
    network_stream_timeout_seconds=maybe(unsigned(32)),
    requester_pays=st.booleans(),
)
mappings = st.dictionaries(texts, texts, max_size=3)
stores = st.one_of(
    options.map(ObjectStoreConfig.S3),
    options.map(ObjectStoreConfig.S3Compatible),
    options.map(ObjectStoreConfig.Tigris),
    mappings.map(ObjectStoreConfig.Gcs),
    mappings.map(ObjectStoreConfig.Azure),
    mappings.map(ObjectStoreConfig.Http),
    st.sampled_from(["/data", "/a b/\u00e9", "x"]).map(ObjectStoreConfig.LocalFileSystem),
    st.builds(ObjectStoreConfig.InMemory),
)
containers = st.dictionaries(texts, st.builds(VirtualChunkContainer, texts, stores), max_size=3)

preload_conditions = st.recursive(
    st.one_of(
        st.builds(ManifestPreloadCondition.true),
        st.builds(ManifestPreloadCondition.false),
        texts.map(ManifestPreloadCondition.path_matches),
        texts.map(ManifestPreloadCondition.name_matches),
        st.builds(ManifestPreloadCondition.num_refs, maybe(unsigned(32)), maybe(unsigned(32))),
    ),
    lambda inner: (
        st.lists(inner, max_size=3).map(ManifestPreloadCondition.or_conditions)
        | st.lists(inner, max_size=3).map(ManifestPreloadCondition.and_conditions)
    ),
    max_leaves=6,
)
split_conditions = st.recursive(
    st.one_of(
        st.builds(ManifestSplitCondition.AnyArray),
        texts.map(ManifestSplitCondition.path_matches),
        texts.map(ManifestSplitCondition.name_matches),
    ),
    lambda inner: (
        st.lists(inner, max_size=3).map(ManifestSplitCondition.or_conditions)
        | st.lists(inner, max_size=3).map(ManifestSplitCondition.and_conditions)
    ),
    max_leaves=6,
)
axis_conditions = st.one_of(
    st.builds(ManifestSplitDimCondition.Any),
    unsigned(64).map(ManifestSplitDimCondition.Axis),
    texts.map(ManifestSplitDimCondition.DimensionName),
)
split_sizes = st.lists(
    st.tuples(split_conditions, st.lists(st.tuples(axis_conditions, unsigned(32, 1)), max_size=3)), max_size=3
)
storage_settings = st.builds(
    StorageSettings,
    concurrency=maybe(st.builds(StorageConcurrencySettings, maybe(unsigned(16, 1)), maybe(unsigned(64, 1)))),
    retries=maybe(st.builds(StorageRetriesSettings, maybe(unsigned(16, 1)), maybe(unsigned(32)), maybe(unsigned(32)))),
    unsafe_use_conditional_create=maybe(st.booleans()),
    unsafe_use_conditional_update=maybe(st.booleans()),
    unsafe_use_metadata=maybe(st.booleans()),
    storage_class=maybe(texts),
    metadata_storage_class=maybe(texts),
    chunks_storage_class=maybe(texts),
    minimum_size_for_multipart_upload=maybe(unsigned(64)),
)
compressions = st.builds(CompressionConfig, maybe(st.just(CompressionAlgorithm.Zstd)), maybe(unsigned(8)))
configs = st.builds(
    RepositoryConfig,
    inline_chunk_threshold_bytes=maybe(unsigned(16)),
    get_partial_values_concurrency=maybe(unsigned(16)),
    compression=maybe(compressions),
    max_concurrent_requests=maybe(unsigned(16)),
    caching=maybe(st.builds(CachingConfig, *[maybe(unsigned(64))] * 5)),
    storage=maybe(storage_settings),
    virtual_chunk_containers=maybe(containers),
    manifest=maybe(
        st.builds(
            ManifestConfig,
            preload=maybe(st.builds(ManifestPreloadConfig, maybe(unsigned(32)), maybe(preload_conditions))),
            splitting=maybe(st.builds(ManifestSplittingConfig, maybe(split_sizes))),
        )
    ),
    merged_reads=maybe(st.builds(MergedReads, maybe(st.booleans()), maybe(unsigned(16)), maybe(unsigned(64)))),
)

S3_OPTIONS = S3Options("us-east-1", "http://localhost:9000", True, True, True, 33, True)
STORES: dict[str, ObjectStoreConfig] = {
    "s3://bucket-a/": s3_store(region="us-east-1"),
    "s3://bucket-b/pre fix/": ObjectStoreConfig.S3Compatible(S3_OPTIONS),
    "tigris://bucket-t/": ObjectStoreConfig.Tigris(S3Options(region="iad")),
    "gcs://bucket-c/": ObjectStoreConfig.Gcs({"google_service_account": "x"}),
    "gs://bucket-c2/": ObjectStoreConfig.Gcs({}),
    "az://cont/": ObjectStoreConfig.Azure({"account": "acct"}),
    "http://example.com/": ObjectStoreConfig.Http({"allow_http": "true", "timeout": "30"}),
    "https://example.com/data/": ObjectStoreConfig.Http({}),
    "file:///data/x/": ObjectStoreConfig.LocalFileSystem("/data/x"),
}
"""A store of every kind that a container can have, by URL prefix."""


def full_config() -> RepositoryConfig:
    """Every field set, every kind of store and condition used."""
    preload, split, axis = ManifestPreloadCondition, ManifestSplitCondition, ManifestSplitDimCondition
    small_latitudes = preload.name_matches("^lat$") & preload.num_refs(None, 100)
    others = [preload.path_matches('/a/.*: "x"'), preload.num_refs(5, 10), preload.num_refs(7, None)]
    config = RepositoryConfig(
        inline_chunk_threshold_bytes=1024,
        get_partial_values_concurrency=20,
        compression=CompressionConfig(CompressionAlgorithm.Zstd, 5),
        max_concurrent_requests=64,
        caching=CachingConfig(1, 2, 3, 4, 2**64 - 1),
        storage=StorageSettings(
            StorageConcurrencySettings(7, 8388608),
            StorageRetriesSettings(3, 50, 1000),
            unsafe_use_conditional_create=True,
            unsafe_use_conditional_update=False,
            unsafe_use_metadata=False,
            storage_class="STANDARD",
            metadata_storage_class="STANDARD_IA",
            chunks_storage_class="yes",
            minimum_size_for_multipart_upload=5000000,
        ),
        manifest=ManifestConfig(
            ManifestPreloadConfig(
                1000, preload.or_conditions([small_latitudes, *others, preload.true(), preload.false()])
            ),
            ManifestSplittingConfig(
                [
                    (
                        split.name_matches("t") & split.path_matches(".*") | split.AnyArray(),
                        [(axis.Axis(0), 10), (axis.DimensionName("lat.*"), 5), (axis.Any(), 2**32 - 1)],
                    ),
                    (split.name_matches("1e3"), [(axis.Any(), 3)]),
                ]
            ),
        ),
    )
    for prefix, store in STORES.items():
        config.set_virtual_chunk_container(VirtualChunkContainer(prefix, store))
    return config
