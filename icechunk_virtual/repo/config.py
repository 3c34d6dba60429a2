"""The configuration of a repository: fields, merging, and the values in force where they are unset.

Values only: reading and writing ``config.yaml`` is `format.config_yaml`'s business.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from icechunk_virtual.containers.coalesce import Merging
from icechunk_virtual.containers.container import VirtualChunkContainer, check_container
from icechunk_virtual.model.checked import U16, U32, Checked, IntRange
from icechunk_virtual.repo.conditions import (
    DEFAULT_PRELOAD_CONDITION,
    ManifestPreloadCondition,
    ManifestSplitCondition,
    ManifestSplitDimCondition,
    SplitRule,
    SplitSizes,
)
from icechunk_virtual.repo.settings import (
    CachingConfig,
    CompressionConfig,
    EffectiveCaching,
    EffectiveStorage,
    MergedReads,
    StorageSettings,
    effective_caching,
    effective_compression_level,
    effective_merging,
    effective_storage,
    merge,
)


@dataclass(slots=True)
class ManifestPreloadConfig(Checked):
    """Which manifests are fetched in the background when a session is opened.

    Parameters
    ----------
    max_total_refs
        No further manifest is fetched that would bring the total above; default 10 000.
    preload_if
        Default: up to 1000 references of arrays that are named like coordinates.
    """

    merges_whole: ClassVar[bool] = True

    max_total_refs: U32 | None = None
    preload_if: ManifestPreloadCondition | None = None


CHUNK_COUNT = IntRange(1, 2**32 - 1)
"""Chunks that one manifest may span along an axis."""
_AxisRules = list[tuple[ManifestSplitDimCondition, int]]


def _split_sizes(value: Any) -> list[tuple[ManifestSplitCondition, _AxisRules]]:
    return [(_instance(condition, ManifestSplitCondition), _axis_rules(rules)) for condition, rules in _pairs(value)]


def _axis_rules(value: Any) -> _AxisRules:
    return [(_instance(axis, ManifestSplitDimCondition), CHUNK_COUNT(count)) for axis, count in _pairs(value)]


def _pairs(value: Any) -> Sequence[tuple[Any, Any]]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"a list of pairs is needed, not {type(value).__name__}")
    for pair in value:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"a pair is needed, not {pair!r}")
    return value


def _instance(value: Any, cls: Any) -> Any:
    if not isinstance(value, cls):
        raise TypeError(f"a {cls.__name__} is needed, not {type(value).__name__}")
    return value


@dataclass(slots=True)
class ManifestSplittingConfig(Checked):
    """Into how many manifests the references of an array go.

    Conditions are gone through in order. For every one that the array fulfils, each axis that is not settled yet is
    settled by the first of its axis rules that fits: one manifest then spans `num_chunks` chunks along it.

    Parameters
    ----------
    split_sizes
        List of pairs (`ManifestSplitCondition`, list of pairs (`ManifestSplitDimCondition`, `num_chunks`)).
        Default: none. Arrays that fulfil no condition have one manifest, and those of more than about a million
        references one per million, cut along the axis named like time or else the first.
    """

    merges_whole: ClassVar[bool] = True

    split_sizes: Annotated[SplitSizes, _split_sizes] | None = None

    @staticmethod
    def from_dict(
        split_sizes: Mapping[ManifestSplitCondition, Mapping[Any, int]],
    ) -> ManifestSplittingConfig:
        """From nested dictionaries instead of lists of pairs.

        Parameters
        ----------
        split_sizes
            The inner keys are `ManifestSplitDimCondition`. That they are typed ``Any`` lets type checkers accept
            dictionaries of each of its kinds and of their union, as keys of mappings are invariant.
        """
        return ManifestSplittingConfig(
            [(condition, list(rules.items())) for condition, rules in split_sizes.items()],
        )

    def to_dict(self) -> dict[ManifestSplitCondition, dict[ManifestSplitDimCondition, int]]:
        """As nested dictionaries; of rules with equal conditions the first one, which decides, is kept."""
        split_sizes: dict[ManifestSplitCondition, dict[ManifestSplitDimCondition, int]] = {}
        for condition, rules in self.split_sizes or ():
            axes = split_sizes.setdefault(condition, {})
            for axis, num_chunks in rules:
                axes.setdefault(axis, num_chunks)
        return split_sizes

    def rule(self, path: str, dimension_names: Sequence[str | None] | None) -> SplitRule | None:
        """For an array, the function from an axis to the chunks that one manifest spans along it (``None``: all).

        ``None`` instead of a function: no condition fits the array.
        """
        applying = [rules for condition, rules in self.split_sizes or () if condition.matches(path)]

        def chunks_along(axis: int) -> int | None:
            name = dimension_names[axis] if dimension_names is not None else None
            for rules in applying:
                for condition, num_chunks in rules:
                    if condition.matches(axis, name):
                        return num_chunks
            return None

        return chunks_along if applying else None


@dataclass(slots=True)
class ManifestConfig(Checked):
    """Loading and splitting of manifests.

    Parameters
    ----------
    preload, splitting
        See their classes.
    """

    preload: ManifestPreloadConfig | None = None
    splitting: ManifestSplittingConfig | None = None


def _container_mapping(value: Any) -> dict[str, VirtualChunkContainer]:
    if not isinstance(value, Mapping):
        raise TypeError(f"a mapping of containers is needed, not {type(value).__name__}")
    return {_instance(name, str): _instance(container, VirtualChunkContainer) for name, container in value.items()}


@dataclass(slots=True, init=False)
class RepositoryConfig(Checked):
    """Configuration of a repository. Everything is optional; ``None`` is unset and means the default.

    Parameters
    ----------
    inline_chunk_threshold_bytes
        Chunks of up to this many bytes are kept in the manifest; default 512.
    get_partial_values_concurrency
        Keys read at a time by one call; default 10.
    compression, caching, storage, manifest
        See their classes. The objects stay live: changing them changes this configuration.
    max_concurrent_requests
        Of one repository object to its storage; default 256.
    virtual_chunk_containers
        By name; `set_virtual_chunk_container` uses the URL prefix as name.
    merged_reads
        See its class. The original does not know it, and drops it when it saves a configuration.
    """

    inline_chunk_threshold_bytes: U16 | None
    get_partial_values_concurrency: U16 | None
    compression: CompressionConfig | None
    max_concurrent_requests: U16 | None = field(repr=False)
    caching: CachingConfig | None
    storage: StorageSettings | None
    _containers: Annotated[dict[str, VirtualChunkContainer], _container_mapping] | None = field(repr=False)
    _containers_cleared: bool = field(repr=False, compare=False)
    manifest: ManifestConfig | None
    merged_reads: MergedReads | None = field(repr=False)

    def __init__(
        self,
        inline_chunk_threshold_bytes: int | None = None,
        get_partial_values_concurrency: int | None = None,
        compression: CompressionConfig | None = None,
        max_concurrent_requests: int | None = None,
        caching: CachingConfig | None = None,
        storage: StorageSettings | None = None,
        virtual_chunk_containers: Mapping[str, VirtualChunkContainer] | None = None,
        manifest: ManifestConfig | None = None,
        *,
        merged_reads: MergedReads | None = None,
    ) -> None:
        self.inline_chunk_threshold_bytes = inline_chunk_threshold_bytes
        self.get_partial_values_concurrency = get_partial_values_concurrency
        self.compression = compression
        self.max_concurrent_requests = max_concurrent_requests
        self.caching = caching
        self.storage = storage
        self._containers = virtual_chunk_containers  # type: ignore[assignment]  # converted when set
        self._containers_cleared = False
        self.manifest = manifest
        self.merged_reads = merged_reads

    @staticmethod
    def default() -> RepositoryConfig:
        """Everything unset."""
        return RepositoryConfig()

    @property
    def virtual_chunk_containers(self) -> dict[str, VirtualChunkContainer] | None:
        """The containers by name, in a new dictionary. Change them with `set_virtual_chunk_container`."""
        return None if self._containers is None else dict(self._containers)

    def set_virtual_chunk_container(self, cont: VirtualChunkContainer) -> None:
        """Add a container under its URL prefix, or replace the one there.

        Raises
        ------
        ValueError
            The container cannot work; see `check_container`.
        """
        check_container(_instance(cont, VirtualChunkContainer))
        self._containers = {**(self._containers or {}), cont.url_prefix: copy.deepcopy(cont)}

    def get_virtual_chunk_container(self, name: str) -> VirtualChunkContainer | None:
        """The container of that name (its URL prefix), or ``None``."""
        return (self._containers or {}).get(name)

    def clear_virtual_chunk_containers(self) -> None:
        """Remove all containers, also those that this configuration will be merged over."""
        self._containers = {}
        self._containers_cleared = True

    def merge(self, other: RepositoryConfig) -> RepositoryConfig:
        """A new configuration in which what `other` sets wins over what this one sets.

        Nested settings merge field by field, but `manifest.preload` and `manifest.splitting` are taken whole.
        Containers are united, unless `other` was cleared.
        """
        merged = merge(self, other)
        if not other._containers_cleared and self._containers:
            merged._containers = copy.deepcopy({**self._containers, **(other._containers or {})})
        merged._containers_cleared = self._containers_cleared or other._containers_cleared
        return merged

    @property
    def effective_inline_threshold(self) -> int:
        """Largest inline chunk in bytes."""
        return 512 if self.inline_chunk_threshold_bytes is None else self.inline_chunk_threshold_bytes

    @property
    def effective_get_partial_values_concurrency(self) -> int:
        """Keys read at a time, at least 1."""
        return max(1, 10 if self.get_partial_values_concurrency is None else self.get_partial_values_concurrency)

    @property
    def effective_max_concurrent_requests(self) -> int:
        """Requests under way at a time, at least 1."""
        return max(1, 256 if self.max_concurrent_requests is None else self.max_concurrent_requests)

    @property
    def effective_merging(self) -> Merging | None:
        """How reads of virtual chunks are merged, ``None``: not at all."""
        return effective_merging(self.merged_reads)

    @property
    def effective_compression_level(self) -> int:
        """Zstandard level."""
        return effective_compression_level(self.compression)

    @property
    def effective_caching(self) -> EffectiveCaching:
        """Cache capacities."""
        return effective_caching(self.caching)

    def effective_storage(self, defaults: StorageSettings | None = None) -> EffectiveStorage:
        """Storage settings, over the storage's own `defaults`."""
        return effective_storage(self.storage, defaults)

    @property
    def effective_preload(self) -> tuple[int, ManifestPreloadCondition]:
        """Most references to preload, and of which manifests."""
        preload = (self.manifest and self.manifest.preload) or ManifestPreloadConfig()
        limit = 10_000 if preload.max_total_refs is None else preload.max_total_refs
        return limit, preload.preload_if or DEFAULT_PRELOAD_CONDITION

    def split_rule(self, path: str, dimension_names: Sequence[str | None] | None) -> SplitRule | None:
        """How the references of an array are split, see `ManifestSplittingConfig.rule`; ``None``: nothing is said."""
        splitting = (self.manifest and self.manifest.splitting) or ManifestSplittingConfig()
        return splitting.rule(path, dimension_names)


def check_containers(config: RepositoryConfig) -> None:
    """Refuse a user's configuration that holds a container that cannot work. ``ValueError``, see `check_container`."""
    for container in (config.virtual_chunk_containers or {}).values():
        check_container(container)


def usable_containers(config: RepositoryConfig) -> dict[str, VirtualChunkContainer]:
    """The containers of a stored configuration that can work, by URL prefix.

    Old repositories hold prefixes without the final ``/``, which is added, and prefixes that are no URLs: those are
    left out with a warning.
    """
    usable: dict[str, VirtualChunkContainer] = {}
    for container in (config.virtual_chunk_containers or {}).values():
        fixed = copy.deepcopy(container)
        fixed.url_prefix = container.url_prefix.removesuffix("/") + "/"
        try:
            check_container(fixed)
        except ValueError as error:
            warnings.warn(f"ignoring the virtual chunk container {container.url_prefix!r}: {error}", stacklevel=2)
        else:
            known = usable.get(fixed.url_prefix)
            if known is None or known.stored or not fixed.stored:  # the caller's container wins over a stored one
                usable[fixed.url_prefix] = fixed
    return usable


def mark_stored(config: RepositoryConfig) -> None:
    """Note at the containers of a configuration that a repository says this, not the caller."""
    for container in (config.virtual_chunk_containers or {}).values():
        container.stored = True
