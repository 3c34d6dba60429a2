"""Value classes whose fields are checked against their annotations: type and range.

`Checked` is the base of the mutable configuration classes (checked whenever a field is set), `Variant` that of the
frozen members of a closed union (checked once). Neither knows what the fields mean.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import types
import typing
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeVar, cast

T = TypeVar("T", bound=type)


@dataclass(frozen=True, slots=True)
class IntRange:
    """Integers from `low` to `high`, both included.

    Calling it converts a value: ``TypeError`` for what is no integer, ``OverflowError`` outside the range, and
    ``ValueError`` for a zero where the range starts at one.
    """

    low: int
    high: int

    def __call__(self, value: Any) -> int:
        """The value as an ``int`` inside the range."""
        number = operator.index(value)
        if number == 0 and self.low == 1:
            raise ValueError("invalid zero value")
        if not self.low <= number <= self.high:
            raise OverflowError(f"{number} is out of range, it must be from {self.low} to {self.high}")
        return number


U8 = Annotated[int, IntRange(0, 2**8 - 1)]
U16 = Annotated[int, IntRange(0, 2**16 - 1)]
U32 = Annotated[int, IntRange(0, 2**32 - 1)]
U64 = Annotated[int, IntRange(0, 2**64 - 1)]
NonZeroU16 = Annotated[int, IntRange(1, 2**16 - 1)]
NonZeroU64 = Annotated[int, IntRange(1, 2**64 - 1)]


def text_mapping(value: Any) -> dict[str, str]:
    """A new dictionary of texts. ``TypeError`` for anything else."""
    if not isinstance(value, Mapping):
        raise TypeError(f"a mapping of texts is needed, not {type(value).__name__}")
    for text in (*value.keys(), *value.values()):
        if not isinstance(text, str):
            raise TypeError(f"keys and values must be texts, not {type(text).__name__}")
    return dict(value)


def aware_datetime(value: Any) -> datetime:
    """A datetime with any time zone. ``TypeError`` for one without."""
    if not isinstance(value, datetime):
        raise TypeError(f"a datetime is needed, not {type(value).__name__}")
    if value.utcoffset() is None:
        raise TypeError("a datetime with a time zone is needed (for instance tzinfo=datetime.timezone.utc)")
    return value


AwareDatetime = Annotated[datetime, aware_datetime]


@dataclass(frozen=True, slots=True)
class FieldType:
    """What a field may hold: ``convert`` for annotated types, else an instance of ``type``; perhaps ``None``."""

    type: Any
    convert: Callable[[Any], Any] | None
    optional: bool

    def check(self, name: str, value: Any) -> Any:
        """The value as it is to be stored. The errors name the field."""
        if value is None and self.optional:
            return None
        if self.convert is None:
            if not isinstance(value, self.type):
                kinds = self.type if isinstance(self.type, tuple) else (self.type,)
                wanted = " or ".join(kind.__name__ for kind in kinds)
                raise TypeError(f"argument '{name}': {type(value).__name__!r} object is not {wanted!r}")
            return value
        try:
            return self.convert(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise type(error)(f"argument '{name}': {error}") from None


def _field_type(hint: Any) -> FieldType:
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        optional = len(members) < len(typing.get_args(hint))
        if len(members) > 1:
            return FieldType(tuple(members), None, optional)
        hint = members[0]
    if typing.get_origin(hint) is Annotated:
        return FieldType(hint.__origin__, hint.__metadata__[0], optional)
    return FieldType(hint, None, optional)


def field_types(cls: type) -> dict[str, FieldType]:
    """The checked fields of a `Checked` or `Variant` dataclass, in order."""
    return _field_types(cast("Hashable", cls))


@functools.cache
def _field_types(cls: Any) -> dict[str, FieldType]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: _field_type(hints[field.name]) for field in dataclasses.fields(cls)}


class Checked:
    """Base of mutable dataclasses: every assignment is checked against the field's annotation."""

    __slots__ = ()

    merges_whole: ClassVar[bool] = False
    """Merging configurations replaces a value of this class instead of merging field by field."""

    if not TYPE_CHECKING:  # a type checker would take it as leave to assign any attribute

        def __setattr__(self, name, value):
            field = field_types(type(self)).get(name)
            object.__setattr__(self, name, value if field is None else field.check(name, value))


class Variant:
    """Base of frozen dataclasses that are members of a union: checked when they are made."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for name, field in field_types(type(self)).items():
            object.__setattr__(self, name, field.check(name, getattr(self, name)))


class Union:
    """Base of a closed union: cannot be instantiated itself, its members are attributes of the class."""

    __slots__ = ()

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self:
        """Refuse the union itself."""
        if Union in cls.__bases__:
            raise TypeError(f"cannot create '{cls.__name__}' instances, use one of its members")
        return super().__new__(cls)


def member_of(union: type, name: str) -> Callable[[T], T]:
    """Make a class reachable (also for pickle) as attribute `name` of its union."""

    def decorate(cls: T) -> T:
        cls.__name__, cls.__qualname__ = name, f"{union.__qualname__}.{name}"
        setattr(union, name, cls)
        return cls

    return decorate
