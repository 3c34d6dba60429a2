"""Configuration values: ranges, merging, live parts, what holds where nothing is set, splitting and preloading."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given

from icechunk_virtual.containers.coalesce import Merging
from icechunk_virtual.containers.container import (
    ObjectStoreConfig,
    S3Options,
    VirtualChunkContainer,
    gcs_store,
    s3_store,
)
from icechunk_virtual.repo.conditions import (
    DEFAULT_PRELOAD_CONDITION,
    ManifestPreloadCondition,
    ManifestSplitCondition,
    ManifestSplitDimCondition,
)
from icechunk_virtual.repo.config import (
    ManifestConfig,
    ManifestPreloadConfig,
    ManifestSplittingConfig,
    RepositoryConfig,
    check_containers,
    usable_containers,
)
from icechunk_virtual.repo.settings import (
    CachingConfig,
    CompressionAlgorithm,
    CompressionConfig,
    EffectiveCaching,
    EffectiveStorage,
    MergedReads,
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
    effective_storage,
    in_memory_storage_defaults,
    local_filesystem_storage_defaults,
)
from tests.support.configs import configs, full_config

ANY_ARRAY = ManifestSplitCondition.AnyArray()
ANY_AXIS = ManifestSplitDimCondition.Any()


@pytest.mark.parametrize(
    ("cls", "field", "low", "high"),
    [
        (RepositoryConfig, "inline_chunk_threshold_bytes", 0, 2**16 - 1),
        (RepositoryConfig, "get_partial_values_concurrency", 0, 2**16 - 1),
        (RepositoryConfig, "max_concurrent_requests", 0, 2**16 - 1),
        (CompressionConfig, "level", 0, 2**8 - 1),
        (CachingConfig, "num_snapshot_nodes", 0, 2**64 - 1),
        (CachingConfig, "num_chunk_refs", 0, 2**64 - 1),
        (StorageConcurrencySettings, "max_concurrent_requests_for_object", 1, 2**16 - 1),
        (StorageConcurrencySettings, "ideal_concurrent_request_size", 1, 2**64 - 1),
        (StorageRetriesSettings, "max_tries", 1, 2**16 - 1),
        (StorageRetriesSettings, "initial_backoff_ms", 0, 2**32 - 1),
        (StorageRetriesSettings, "max_backoff_ms", 0, 2**32 - 1),
        (StorageSettings, "minimum_size_for_multipart_upload", 0, 2**64 - 1),
        (ManifestPreloadConfig, "max_total_refs", 0, 2**32 - 1),
        (S3Options, "network_stream_timeout_seconds", 0, 2**32 - 1),
    ],
)
def test_ranges(cls: Any, field: str, low: int, high: int) -> None:
    for value in (None, low, high):
        assert getattr(cls(**{field: value}), field) == value
    outside = {high + 1: OverflowError, -1: OverflowError, "1": TypeError, 1.0: TypeError}
    if low == 1:
        outside[0] = ValueError
    for value, error in outside.items():
        with pytest.raises(error, match=field):
            cls(**{field: value})
        config = cls()
        with pytest.raises(error, match=field):
            setattr(config, field, value)
        assert getattr(config, field) is None


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: StorageSettings(unsafe_use_metadata=1), "unsafe_use_metadata"),
        (lambda: StorageSettings(storage_class=1), "storage_class"),
        (lambda: RepositoryConfig(compression=3), "compression"),
        (lambda: RepositoryConfig(virtual_chunk_containers={"a": 1}), "containers"),
        (lambda: RepositoryConfig(virtual_chunk_containers=[]), "containers"),
        (lambda: VirtualChunkContainer("s3://b/", None), "store"),
        (lambda: ObjectStoreConfig.Gcs({"a": 1}), "texts"),
        (lambda: ManifestSplitCondition.name_matches(3), "regex"),
        (lambda: ManifestSplitCondition.or_conditions(3), "conditions"),
        (lambda: ManifestSplitCondition.or_conditions([ANY_AXIS]), "ManifestSplitCondition"),
        (lambda: ANY_ARRAY | 3, "ManifestSplitCondition"),
        (lambda: ManifestPreloadCondition.true() & ANY_ARRAY, "ManifestPreloadCondition"),
        (lambda: ManifestSplittingConfig([(ANY_ARRAY, 3)]), "pairs"),
        (lambda: ManifestSplittingConfig([(ANY_ARRAY, [(ANY_AXIS,)])]), "pair"),
        (lambda: ManifestSplittingConfig("ab"), "pairs"),
    ],
)
def test_wrong_types(make: Any, field: str) -> None:
    with pytest.raises(TypeError, match=field):
        make()


def test_split_sizes_range() -> None:
    with pytest.raises(ValueError, match="zero"):
        ManifestSplittingConfig([(ANY_ARRAY, [(ANY_AXIS, 0)])])
    with pytest.raises(OverflowError):
        ManifestSplittingConfig([(ANY_ARRAY, [(ANY_AXIS, 2**32)])])
    with pytest.raises(OverflowError):
        ManifestSplitDimCondition.Axis(-1)


def test_unknown_attributes() -> None:
    with pytest.raises(AttributeError):
        RepositoryConfig().inline_chunk_threshold_byte = 1
    with pytest.raises(AttributeError):
        RepositoryConfig().virtual_chunk_containers = {}


def test_unions_cannot_be_made_themselves() -> None:
    for union in (ManifestSplitCondition, ManifestSplitDimCondition, ManifestPreloadCondition, ObjectStoreConfig):
        with pytest.raises(TypeError, match=union.__name__):
            union()


def test_members_without_a_name() -> None:
    assert isinstance(ManifestPreloadCondition.true(), getattr(ManifestPreloadCondition, "True"))
    assert isinstance(ManifestPreloadCondition.false(), getattr(ManifestPreloadCondition, "False"))
    condition = ManifestPreloadCondition.num_refs(1, 2)
    assert (getattr(condition, "from"), condition.to) == (1, 2)


@given(configs)
def test_copies_are_equal_and_share_nothing(config: RepositoryConfig) -> None:
    for other in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config), RepositoryConfig().merge(config)):
        assert other == config
        other.compression = CompressionConfig(level=77)
        other.set_virtual_chunk_container(VirtualChunkContainer("gs://other/", gcs_store()))
        assert other != config


@given(configs)
def test_merging_with_nothing_or_itself_changes_nothing(config: RepositoryConfig) -> None:
    assert config.merge(RepositoryConfig()) == config
    assert config.merge(config) == config


def test_parts_are_live() -> None:
    config = RepositoryConfig(compression=CompressionConfig())
    assert config.compression is not None
    config.compression.level = 9
    assert config.effective_compression_level == 9
    merged = RepositoryConfig().merge(config)
    config.compression.level = 5
    assert merged.effective_compression_level == 9


def test_merge_field_by_field() -> None:
    base = RepositoryConfig(
        inline_chunk_threshold_bytes=1,
        compression=CompressionConfig(level=2),
        caching=CachingConfig(num_chunk_refs=3, num_bytes_chunks=4),
        storage=StorageSettings(StorageConcurrencySettings(5, 6), storage_class="a"),
        manifest=ManifestConfig(
            ManifestPreloadConfig(7, ManifestPreloadCondition.true()),
            ManifestSplittingConfig([(ANY_ARRAY, [(ANY_AXIS, 8)])]),
        ),
    )
    over = RepositoryConfig(
        max_concurrent_requests=9,
        compression=CompressionConfig(CompressionAlgorithm.Zstd),
        caching=CachingConfig(num_chunk_refs=10),
        storage=StorageSettings(StorageConcurrencySettings(11), StorageRetriesSettings(12)),
        manifest=ManifestConfig(ManifestPreloadConfig(13)),
    )
    assert base.merge(over) == RepositoryConfig(
        inline_chunk_threshold_bytes=1,
        max_concurrent_requests=9,
        compression=CompressionConfig(CompressionAlgorithm.Zstd, 2),
        caching=CachingConfig(num_chunk_refs=10, num_bytes_chunks=4),
        storage=StorageSettings(StorageConcurrencySettings(11, 6), StorageRetriesSettings(12), storage_class="a"),
        manifest=ManifestConfig(
            ManifestPreloadConfig(13),  # taken whole: the condition of the base is gone
            ManifestSplittingConfig([(ANY_ARRAY, [(ANY_AXIS, 8)])]),
        ),
    )


def container(prefix: str, region: str | None = None) -> VirtualChunkContainer:
    return VirtualChunkContainer(prefix, s3_store(region=region))


def test_merge_unites_containers() -> None:
    base, over = RepositoryConfig(), RepositoryConfig()
    for config, prefix, region in ((base, "s3://a/", "x"), (base, "s3://b/", "x"), (over, "s3://b/", "y")):
        config.set_virtual_chunk_container(container(prefix, region))
    merged = base.merge(over)
    assert merged.virtual_chunk_containers == {
        "s3://a/": container("s3://a/", "x"),
        "s3://b/": container("s3://b/", "y"),
    }
    assert base.merge(RepositoryConfig(virtual_chunk_containers={})) == base


def test_cleared_containers_stay_away() -> None:
    base, over = RepositoryConfig(), RepositoryConfig()
    for prefix in ("s3://a/", "s3://b/"):
        base.set_virtual_chunk_container(container(prefix))
    over.clear_virtual_chunk_containers()
    over.set_virtual_chunk_container(container("s3://c/"))
    assert list(base.merge(over).virtual_chunk_containers or ()) == ["s3://c/"]
    assert list(base.merge(pickle.loads(pickle.dumps(over))).virtual_chunk_containers or ()) == ["s3://c/"]


def test_containers_are_copied_in_and_out() -> None:
    config, mine = RepositoryConfig(), container("s3://a/")
    config.set_virtual_chunk_container(mine)
    mine.url_prefix = "s3://b/"
    assert config.get_virtual_chunk_container("s3://a/") == container("s3://a/")
    assert config.get_virtual_chunk_container("s3://a") is None
    assert config.virtual_chunk_containers is not None
    config.virtual_chunk_containers.clear()
    assert list(config.virtual_chunk_containers) == ["s3://a/"]


def test_containers_of_a_users_configuration_are_checked() -> None:
    config = RepositoryConfig(virtual_chunk_containers={"old": container("s3://a")})
    with pytest.raises(ValueError, match="must end in a /"):
        check_containers(config)
    with pytest.raises(ValueError, match="must end in a /"):
        config.set_virtual_chunk_container(container("s3://a"))


def test_containers_of_a_stored_configuration_are_mended_or_ignored() -> None:
    stored = {"old": container("s3://a"), "older": container("s3"), "s3://b/": container("s3://b/")}
    config = RepositoryConfig(virtual_chunk_containers=stored)
    with pytest.warns(UserWarning, match="ignoring the virtual chunk container 's3'"):
        usable = usable_containers(config)
    assert usable == {"s3://a/": container("s3://a/"), "s3://b/": container("s3://b/")}
    assert config.virtual_chunk_containers == stored


def test_what_holds_where_nothing_is_set() -> None:
    config = RepositoryConfig()
    assert config.effective_inline_threshold == 512
    assert config.effective_get_partial_values_concurrency == 10
    assert config.effective_max_concurrent_requests == 256
    assert config.effective_compression_level == 3
    assert config.effective_caching == EffectiveCaching(500_000, 15_000_000, 0, 0, 0)
    assert config.effective_storage() == EffectiveStorage(
        18, 12 * 2**20, 10, 100, 180_000, True, True, True, None, None, 100 * 2**20
    )
    assert config.effective_preload == (10_000, DEFAULT_PRELOAD_CONDITION)


def test_what_is_set_holds() -> None:
    config = full_config()
    assert config.effective_inline_threshold == 1024
    assert config.effective_caching == EffectiveCaching(1, 2, 3, 4, 2**64 - 1)
    assert config.effective_storage() == EffectiveStorage(
        7, 8388608, 3, 50, 1000, True, False, False, "STANDARD_IA", "yes", 5000000
    )
    assert RepositoryConfig(compression=CompressionConfig(level=255)).effective_compression_level == 22
    assert RepositoryConfig(inline_chunk_threshold_bytes=0).effective_inline_threshold == 0
    assert RepositoryConfig(max_concurrent_requests=0).effective_max_concurrent_requests == 1


def test_how_reads_are_merged() -> None:
    def effective(**fields: Any) -> Merging | None:
        return RepositoryConfig(merged_reads=MergedReads(**fields)).effective_merging

    assert RepositoryConfig().effective_merging == effective() == effective(enabled=True) == Merging(1.0, 64 * 2**20)
    assert effective(enabled=False) is None
    assert effective(max_overread_percent=25, buffer_bytes=0) == Merging(0.25, 0)
    assert effective(max_overread_percent=65535) == Merging(10.0, 64 * 2**20), "whatever a repository says"
    base = RepositoryConfig(merged_reads=MergedReads(max_overread_percent=5))
    merged = base.merge(RepositoryConfig(merged_reads=MergedReads(buffer_bytes=7)))
    assert merged.effective_merging == Merging(0.05, 7)


def test_storage_settings_lie_over_the_storages_own() -> None:
    effective = effective_storage(
        StorageSettings(StorageConcurrencySettings(9), storage_class="x", chunks_storage_class="y"),
        local_filesystem_storage_defaults(),
    )
    assert (effective.max_concurrent_requests_for_object, effective.ideal_concurrent_request_size) == (9, 4096)
    assert (effective.max_tries, effective.unsafe_use_metadata) == (1, False)
    assert (effective.metadata_storage_class, effective.chunks_storage_class) == ("x", "y")
    assert effective_storage(None, in_memory_storage_defaults()).ideal_concurrent_request_size == 1


def test_repr_shows_fields_but_no_secrets() -> None:
    assert repr(RepositoryConfig()) == (
        "RepositoryConfig(inline_chunk_threshold_bytes=None, get_partial_values_concurrency=None, compression=None, "
        "caching=None, storage=None, manifest=None)"
    )
    assert repr(CompressionConfig(CompressionAlgorithm.Zstd)) == (
        "CompressionConfig(algorithm=CompressionAlgorithm.Zstd, level=None)"
    )
    store = ObjectStoreConfig.Azure({"account": "acct", "azure_storage_account_key": "hidden", "sas_token": "hidden"})
    assert "acct" in repr(store)
    assert "hidden" not in repr(store)


# Conditions


@pytest.mark.parametrize(
    ("path", "num_refs", "loaded"),
    [
        ("/time", 1000, True), ("/time", 1001, False), ("/a/lat", 1, True), ("/depth", 1, True), ("/y", 1, True),
        ("/t", 1, True), ("/temperature", 1, False), ("/foo_time", 1, False), ("/longitude_2", 1, False),
        ("/time/data", 1, False), ("/", 1, False), ("/nav_lon", 1, True), ("/nlat", 1, True), ("/olev2", 1, True),
    ],
)  # fmt: skip
def test_default_preload_condition(path: str, num_refs: int, loaded: bool) -> None:
    assert DEFAULT_PRELOAD_CONDITION.matches(path, num_refs) is loaded


def test_preload_conditions() -> None:
    cond = ManifestPreloadCondition
    assert cond.num_refs(2, 4).matches("/a", 2)
    assert not cond.num_refs(2, 4).matches("/a", 4)
    assert cond.num_refs(None, None).matches("/a", 0)
    assert (cond.false() | cond.path_matches("^/a/")).matches("/a/b", 1)
    assert not (cond.true() & cond.name_matches("^a")).matches("/a/b", 1)
    assert not cond.or_conditions([]).matches("/a", 1)
    assert cond.and_conditions([]).matches("/a", 1)
    assert not cond.name_matches("").matches("/", 1)  # the root has no name


def test_split_conditions() -> None:
    cond = ManifestSplitCondition
    assert cond.path_matches("a/b").matches("/xa/bx")
    assert cond.name_matches("b").matches("/a/xbx")
    assert not cond.name_matches("a").matches("/a/b")
    assert not cond.path_matches("(").matches("/(")
    assert not cond.path_matches("a(?=b)").matches("/ab")
    assert (cond.path_matches("x") | cond.AnyArray()).matches("/a")
    assert not (cond.path_matches("x") & cond.AnyArray()).matches("/a")


def test_conditions_compare_by_value() -> None:
    one, other = ManifestSplitCondition.name_matches("a"), ManifestSplitCondition.path_matches("a")
    assert one == ManifestSplitCondition.name_matches("a")
    assert one != other
    assert len({one | other, one | other, other | one}) == 2
    assert pickle.loads(pickle.dumps(one & other)) == one & other
    assert ManifestSplitDimCondition.Axis(1) != ManifestSplitDimCondition.Axis(2)


def test_split_rule() -> None:
    config = RepositoryConfig(
        manifest=ManifestConfig(
            splitting=ManifestSplittingConfig(
                [
                    (ManifestSplitCondition.name_matches("^x$"), [(ManifestSplitDimCondition.Axis(9), 99)]),
                    (ManifestSplitCondition.name_matches("^a$"), [(ManifestSplitDimCondition.DimensionName("la"), 2)]),
                    (
                        ManifestSplitCondition.AnyArray(),
                        [
                            (ManifestSplitDimCondition.Axis(0), 3),
                            (ManifestSplitDimCondition.Axis(0), 4),
                            (ManifestSplitDimCondition.DimensionName("^$"), 7),
                        ],
                    ),
                    (ManifestSplitCondition.path_matches("/g/"), [(ManifestSplitDimCondition.Any(), 5)]),
                ]
            )
        )
    )

    def steps(path: str, names: list[str | None] | None, ndim: int) -> list[int | None]:
        rule = config.split_rule(path, names)
        assert rule is not None
        return [rule(axis) for axis in range(ndim)]

    assert steps("/a", ["lat", "lon"], 2) == [2, None]
    assert steps("/a", ["time", "lat"], 2) == [3, 2]
    assert steps("/g/a", ["time", "lat", None], 3) == [3, 2, 5]
    assert steps("/b", None, 2) == [3, None]
    assert steps("/b", [None, ""], 2) == [3, 7]
    assert RepositoryConfig().split_rule("/a", None) is None, "nothing is said about this array"


def test_splitting_from_and_to_dict() -> None:
    axis = ManifestSplitDimCondition
    sizes = {ANY_ARRAY: {axis.Axis(0): 3, axis.Any(): 4}, ManifestSplitCondition.name_matches("a"): {axis.Any(): 5}}
    config = ManifestSplittingConfig.from_dict(sizes)
    assert config.to_dict() == sizes
    assert config == ManifestSplittingConfig(
        (
            (ANY_ARRAY, ((axis.Axis(0), 3), (axis.Any(), 4))),
            (ManifestSplitCondition.name_matches("a"), [(axis.Any(), 5)]),
        )
    )
    assert ManifestSplittingConfig().to_dict() == {}
    repeated = ManifestSplittingConfig([(ANY_ARRAY, [(ANY_AXIS, 1), (ANY_AXIS, 2)]), (ANY_ARRAY, [(ANY_AXIS, 3)])])
    assert repeated.to_dict() == {ANY_ARRAY: {ANY_AXIS: 1}}  # the first rule decides
