"""Conditions of the configuration: which manifests are loaded early, which arrays and axes are split.

Closed unions of frozen values, compared and hashed by value. Patterns are searched (unanchored) in the path, which
starts with ``/``, or in the name, the last component; see `patterns` for their dialect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, cast

from icechunk_virtual.model.checked import U32, U64, Union, Variant, member_of
from icechunk_virtual.repo import patterns


def _name(path: str) -> str | None:
    """Last component of a path; the root has none."""
    return path.rpartition("/")[2] or None


def _name_matches(regex: str, path: str) -> bool:
    name = _name(path)
    return name is not None and patterns.search(regex, name)


class ManifestPreloadCondition(Union):
    """Which manifests are fetched when a session is opened. Combine with ``|`` and ``&``."""

    __slots__ = ()

    Or: TypeAlias = "_PreloadOr"
    And: TypeAlias = "_PreloadAnd"
    PathMatches: TypeAlias = "_PreloadPathMatches"
    NameMatches: TypeAlias = "_PreloadNameMatches"
    NumRefs: TypeAlias = "_PreloadNumRefs"
    # The members True and False cannot be named in source text; `true` and `false` make them.

    @staticmethod
    def or_conditions(conditions: Iterable[ManifestPreloadCondition]) -> ManifestPreloadCondition:
        """At least one of them holds."""
        return _PreloadOr(_preload_conditions(conditions))

    @staticmethod
    def and_conditions(conditions: Iterable[ManifestPreloadCondition]) -> ManifestPreloadCondition:
        """All of them hold."""
        return _PreloadAnd(_preload_conditions(conditions))

    @staticmethod
    def path_matches(regex: str) -> ManifestPreloadCondition:
        """The pattern occurs in the array's path."""
        return _PreloadPathMatches(regex)

    @staticmethod
    def name_matches(regex: str) -> ManifestPreloadCondition:
        """The pattern occurs in the array's name."""
        return _PreloadNameMatches(regex)

    @staticmethod
    def num_refs(from_refs: int | None, to_refs: int | None, /) -> ManifestPreloadCondition:
        """The manifest holds at least `from_refs` and less than `to_refs` references; ``None``: no limit."""
        return _PreloadNumRefs(from_refs, to_refs)

    @staticmethod
    def true() -> ManifestPreloadCondition:
        """Always."""
        return _PreloadTrue()

    @staticmethod
    def false() -> ManifestPreloadCondition:
        """Never."""
        return _PreloadFalse()

    def __or__(self, other: ManifestPreloadCondition) -> ManifestPreloadCondition:
        return _PreloadOr((self, other))

    def __and__(self, other: ManifestPreloadCondition) -> ManifestPreloadCondition:
        return _PreloadAnd((self, other))

    def matches(self, path: str, num_refs: int) -> bool:
        """Whether a manifest of `num_refs` references that belongs to the array at `path` fulfils the condition."""
        match self:
            case _PreloadOr(conditions):
                return any(condition.matches(path, num_refs) for condition in conditions)
            case _PreloadAnd(conditions):
                return all(condition.matches(path, num_refs) for condition in conditions)
            case _PreloadPathMatches(regex):
                return patterns.search(regex, path)
            case _PreloadNameMatches(regex):
                return _name_matches(regex, path)
            case _PreloadNumRefs(low, high):
                return (low is None or low <= num_refs) and (high is None or num_refs < high)
        return isinstance(self, _PreloadTrue)


def _preload_conditions(conditions: Any) -> tuple[ManifestPreloadCondition, ...]:
    return cast("tuple[ManifestPreloadCondition, ...]", _members(conditions, ManifestPreloadCondition))


def _members(values: Any, of: type) -> tuple[Any, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"a list of conditions is needed, not {type(values).__name__}")
    members = tuple(values)
    for member in members:
        if not isinstance(member, of):
            raise TypeError(f"a {of.__name__} is needed, not {type(member).__name__}")
    return members


PreloadConditions = Annotated[tuple[ManifestPreloadCondition, ...], _preload_conditions]


@member_of(ManifestPreloadCondition, "Or")
@dataclass(frozen=True, slots=True)
class _PreloadOr(Variant, ManifestPreloadCondition):
    _0: PreloadConditions


@member_of(ManifestPreloadCondition, "And")
@dataclass(frozen=True, slots=True)
class _PreloadAnd(Variant, ManifestPreloadCondition):
    _0: PreloadConditions


@member_of(ManifestPreloadCondition, "PathMatches")
@dataclass(frozen=True, slots=True)
class _PreloadPathMatches(Variant, ManifestPreloadCondition):
    regex: str


@member_of(ManifestPreloadCondition, "NameMatches")
@dataclass(frozen=True, slots=True)
class _PreloadNameMatches(Variant, ManifestPreloadCondition):
    regex: str


@member_of(ManifestPreloadCondition, "NumRefs")
@dataclass(frozen=True, slots=True)
class _PreloadNumRefs(Variant, ManifestPreloadCondition):
    """`from_refs` is included, `to` is not; also readable as ``from``, which is no name in source text."""

    from_refs: U32 | None
    to: U32 | None


setattr(_PreloadNumRefs, "from", property(lambda condition: condition.from_refs))


@member_of(ManifestPreloadCondition, "True")
@dataclass(frozen=True, slots=True)
class _PreloadTrue(Variant, ManifestPreloadCondition):
    """Always."""


@member_of(ManifestPreloadCondition, "False")
@dataclass(frozen=True, slots=True)
class _PreloadFalse(Variant, ManifestPreloadCondition):
    """Never."""


_COORDINATE_NAMES = (
    r"^\bt\b$|^(time|min|hour|day|week|month|year)[0-9]*$",
    r"^(z|nav_lev|gdep|lv_|[o]*lev|bottom_top|sigma|h(ei)?ght|altitude|depth|isobaric|pres|isotherm)[a-z_]*[0-9]*$",
    r"^(y|j|nlat|rlat|nj)$",
    r"^y?(nav_lat|lat|gphi)[a-z0-9]*$",
    r"^x?(nav_lon|lon|glam)[a-z0-9]*$",
    r"^(x|i|nlon|rlon|ni)$",
)
"""Names of coordinate arrays; the patterns of cf_xarray's `guess_coord_axis`, as the original has them."""

DEFAULT_PRELOAD_CONDITION = ManifestPreloadCondition.and_conditions(
    [
        ManifestPreloadCondition.or_conditions([ManifestPreloadCondition.name_matches(r) for r in _COORDINATE_NAMES]),
        ManifestPreloadCondition.num_refs(None, 1001),
    ]
)
"""Small manifests of arrays that are named like coordinates."""


class ManifestSplitCondition(Union):
    """Which arrays have their references split over several manifests. Combine with ``|`` and ``&``."""

    __slots__ = ()

    Or: TypeAlias = "_SplitOr"
    And: TypeAlias = "_SplitAnd"
    PathMatches: TypeAlias = "_SplitPathMatches"
    NameMatches: TypeAlias = "_SplitNameMatches"
    AnyArray: TypeAlias = "_SplitAnyArray"

    @staticmethod
    def or_conditions(conditions: Iterable[ManifestSplitCondition]) -> ManifestSplitCondition:
        """At least one of them holds."""
        return _SplitOr(_split_conditions(conditions))

    @staticmethod
    def and_conditions(conditions: Iterable[ManifestSplitCondition]) -> ManifestSplitCondition:
        """All of them hold."""
        return _SplitAnd(_split_conditions(conditions))

    @staticmethod
    def path_matches(regex: str) -> ManifestSplitCondition:
        """The pattern occurs in the array's path."""
        return _SplitPathMatches(regex)

    @staticmethod
    def name_matches(regex: str) -> ManifestSplitCondition:
        """The pattern occurs in the array's name."""
        return _SplitNameMatches(regex)

    def __or__(self, other: ManifestSplitCondition) -> ManifestSplitCondition:
        return _SplitOr((self, other))

    def __and__(self, other: ManifestSplitCondition) -> ManifestSplitCondition:
        return _SplitAnd((self, other))

    def matches(self, path: str) -> bool:
        """Whether the array at `path` fulfils the condition."""
        match self:
            case _SplitOr(conditions):
                return any(condition.matches(path) for condition in conditions)
            case _SplitAnd(conditions):
                return all(condition.matches(path) for condition in conditions)
            case _SplitPathMatches(regex):
                return patterns.search(regex, path)
            case _SplitNameMatches(regex):
                return _name_matches(regex, path)
        return isinstance(self, _SplitAnyArray)


def _split_conditions(conditions: Any) -> tuple[ManifestSplitCondition, ...]:
    return cast("tuple[ManifestSplitCondition, ...]", _members(conditions, ManifestSplitCondition))


SplitConditions = Annotated[tuple[ManifestSplitCondition, ...], _split_conditions]


@member_of(ManifestSplitCondition, "Or")
@dataclass(frozen=True, slots=True)
class _SplitOr(Variant, ManifestSplitCondition):
    _0: SplitConditions


@member_of(ManifestSplitCondition, "And")
@dataclass(frozen=True, slots=True)
class _SplitAnd(Variant, ManifestSplitCondition):
    _0: SplitConditions


@member_of(ManifestSplitCondition, "PathMatches")
@dataclass(frozen=True, slots=True)
class _SplitPathMatches(Variant, ManifestSplitCondition):
    regex: str


@member_of(ManifestSplitCondition, "NameMatches")
@dataclass(frozen=True, slots=True)
class _SplitNameMatches(Variant, ManifestSplitCondition):
    regex: str


@member_of(ManifestSplitCondition, "AnyArray")
@dataclass(frozen=True, slots=True)
class _SplitAnyArray(Variant, ManifestSplitCondition):
    """Every array."""


class ManifestSplitDimCondition(Union):
    """Which axes of an array are split."""

    __slots__ = ()

    Axis: TypeAlias = "_SplitAxis"
    DimensionName: TypeAlias = "_SplitDimensionName"
    Any: TypeAlias = "_SplitAnyDimension"

    def matches(self, axis: int, dimension_name: str | None) -> bool:
        """Whether an axis, counted from 0, fulfils the condition."""
        match self:
            case _SplitAxis(number):
                return axis == number
            case _SplitDimensionName(regex):  # dimensions without name never match
                return dimension_name is not None and patterns.search(regex, dimension_name)
        return isinstance(self, _SplitAnyDimension)


@member_of(ManifestSplitDimCondition, "Axis")
@dataclass(frozen=True, slots=True)
class _SplitAxis(Variant, ManifestSplitDimCondition):
    """The axis of that number, counted from 0."""

    _0: U64


@member_of(ManifestSplitDimCondition, "DimensionName")
@dataclass(frozen=True, slots=True)
class _SplitDimensionName(Variant, ManifestSplitDimCondition):
    """The pattern occurs in the dimension's name; dimensions without name never match."""

    _0: str


@member_of(ManifestSplitDimCondition, "Any")
@dataclass(frozen=True, slots=True)
class _SplitAnyDimension(Variant, ManifestSplitDimCondition):
    """Every axis."""


SplitSizes = Sequence[tuple[ManifestSplitCondition, Sequence[tuple[ManifestSplitDimCondition, int]]]]
SplitRule = Callable[[int], int | None]
"""From an axis to the chunks that one manifest spans along it; ``None``: all."""
