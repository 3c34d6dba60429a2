"""Conditions of the configuration: which manifests are loaded early, which arrays and axes are split.

Closed unions of frozen values, compared and hashed by value. Patterns are searched (unanchored) in the path, which
starts with ``/``, or in the name, the last component; see `patterns` for their dialect. Fields without a name of
their own are called ``_0``, as in the original.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self, TypeAlias, cast

from icechunk_virtual.model.checked import U32, U64, Union, Variant, member_of
from icechunk_virtual.repo import patterns


class _Conditions:
    """What both kinds of conditions on arrays have in common; the members are those of the union asked."""

    __slots__ = ()

    @classmethod
    def or_conditions(cls, conditions: Iterable[Self]) -> Self:
        """At least one of them holds."""
        return cls._member("Or", conditions)

    @classmethod
    def and_conditions(cls, conditions: Iterable[Self]) -> Self:
        """All of them hold."""
        return cls._member("And", conditions)

    @classmethod
    def path_matches(cls, regex: str) -> Self:
        """The pattern occurs in the array's path."""
        return cls._member("PathMatches", regex)

    @classmethod
    def name_matches(cls, regex: str) -> Self:
        """The pattern occurs in the array's name."""
        return cls._member("NameMatches", regex)

    def __or__(self, other: Self) -> Self:
        return self._member("Or", (self, other))

    def __and__(self, other: Self) -> Self:
        return self._member("And", (self, other))

    @classmethod
    def _member(cls, name: str, *fields: Any) -> Self:
        return cast("Self", getattr(cls, name)(*fields))


class ManifestPreloadCondition(_Conditions, Union):
    """Which manifests are fetched when a session is opened. Combine with ``|`` and ``&``."""

    __slots__ = ()

    Or: TypeAlias = "_PreloadOr"
    And: TypeAlias = "_PreloadAnd"
    PathMatches: TypeAlias = "_PreloadPathMatches"
    NameMatches: TypeAlias = "_PreloadNameMatches"
    NumRefs: TypeAlias = "_PreloadNumRefs"
    # The members True and False cannot be named in source text; `true` and `false` make them.

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

    @abstractmethod
    def matches(self, path: str, num_refs: int, /) -> bool:
        """Whether a manifest of `num_refs` references that belongs to the array at `path` fulfils the condition."""


class ManifestSplitCondition(_Conditions, Union):
    """Which arrays have their references split over several manifests. Combine with ``|`` and ``&``."""

    __slots__ = ()

    Or: TypeAlias = "_SplitOr"
    And: TypeAlias = "_SplitAnd"
    PathMatches: TypeAlias = "_SplitPathMatches"
    NameMatches: TypeAlias = "_SplitNameMatches"
    AnyArray: TypeAlias = "_SplitAnyArray"

    @abstractmethod
    def matches(self, path: str, /) -> bool:
        """Whether the array at `path` fulfils the condition."""


# -- members that both have ------------------------------------------------------------------------------------


def _conditions(values: Any) -> tuple[Any, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"a list of conditions is needed, not {type(values).__name__}")
    return tuple(values)


@dataclass(frozen=True, slots=True)
class _Combined(Variant):
    """Conditions of one union."""

    _0: Annotated[tuple[Any, ...], _conditions]

    def __post_init__(self) -> None:
        Variant.__post_init__(self)  # classes with slots are made twice, and `super` knows only the first
        union = ManifestPreloadCondition if isinstance(self, ManifestPreloadCondition) else ManifestSplitCondition
        for condition in self._0:
            if not isinstance(condition, union):
                raise TypeError(f"a {union.__name__} is needed, not {type(condition).__name__}")


class _AnyOf(_Combined):
    __slots__ = ()

    def matches(self, path: str, /, *num_refs: int) -> bool:
        return any(condition.matches(path, *num_refs) for condition in self._0)


class _AllOf(_Combined):
    __slots__ = ()

    def matches(self, path: str, /, *num_refs: int) -> bool:
        return all(condition.matches(path, *num_refs) for condition in self._0)


@dataclass(frozen=True, slots=True)
class _Pattern(Variant):
    regex: str


class _PatternInPath(_Pattern):
    __slots__ = ()

    def matches(self, path: str, /, *_: int) -> bool:
        return patterns.search(self.regex, path)


class _PatternInName(_Pattern):
    """Of the last component of the path; the root has no name and never matches."""

    __slots__ = ()

    def matches(self, path: str, /, *_: int) -> bool:
        name = path.rpartition("/")[2]
        return bool(name) and patterns.search(self.regex, name)


@dataclass(frozen=True, slots=True)
class _Always(Variant):
    def matches(self, _path: str, /, *_: int) -> bool:
        return True


# -- members of ManifestPreloadCondition -----------------------------------------------------------------------


@member_of(ManifestPreloadCondition, "Or")
class _PreloadOr(_AnyOf, ManifestPreloadCondition):
    __slots__ = ()


@member_of(ManifestPreloadCondition, "And")
class _PreloadAnd(_AllOf, ManifestPreloadCondition):
    __slots__ = ()


@member_of(ManifestPreloadCondition, "PathMatches")
class _PreloadPathMatches(_PatternInPath, ManifestPreloadCondition):
    __slots__ = ()


@member_of(ManifestPreloadCondition, "NameMatches")
class _PreloadNameMatches(_PatternInName, ManifestPreloadCondition):
    __slots__ = ()


@member_of(ManifestPreloadCondition, "NumRefs")
@dataclass(frozen=True, slots=True)
class _PreloadNumRefs(Variant, ManifestPreloadCondition):
    """`from_refs` is included, `to` is not; also readable as ``from``, which is no name in source text."""

    from_refs: U32 | None
    to: U32 | None

    def matches(self, _path: str, num_refs: int, /) -> bool:
        low, high = self.from_refs, self.to
        return (low is None or low <= num_refs) and (high is None or num_refs < high)


setattr(_PreloadNumRefs, "from", property(lambda condition: condition.from_refs))


@member_of(ManifestPreloadCondition, "True")
class _PreloadTrue(_Always, ManifestPreloadCondition):
    __slots__ = ()


@member_of(ManifestPreloadCondition, "False")
@dataclass(frozen=True, slots=True)
class _PreloadFalse(Variant, ManifestPreloadCondition):
    """Never."""

    def matches(self, _path: str, _num_refs: int, /) -> bool:
        return False


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


# -- members of ManifestSplitCondition -------------------------------------------------------------------------


@member_of(ManifestSplitCondition, "Or")
class _SplitOr(_AnyOf, ManifestSplitCondition):
    __slots__ = ()


@member_of(ManifestSplitCondition, "And")
class _SplitAnd(_AllOf, ManifestSplitCondition):
    __slots__ = ()


@member_of(ManifestSplitCondition, "PathMatches")
class _SplitPathMatches(_PatternInPath, ManifestSplitCondition):
    __slots__ = ()


@member_of(ManifestSplitCondition, "NameMatches")
class _SplitNameMatches(_PatternInName, ManifestSplitCondition):
    __slots__ = ()


@member_of(ManifestSplitCondition, "AnyArray")
class _SplitAnyArray(_Always, ManifestSplitCondition):
    __slots__ = ()


# -- axes ------------------------------------------------------------------------------------------------------


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
