"""Errors that leave a public method say which one, and with which arguments: `naming_operations`.

A note (PEP 678) of the error, which tracebacks and `logging` show; the message stays what it is. Knows no class.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from datetime import datetime
from pathlib import PurePath
from typing import Any, TypeVar

from icechunk_virtual.errors import IcechunkVirtualError

C = TypeVar("C", bound=type)

_PLAIN = (str, int, float, datetime, PurePath)  # what is shown as it is; credentials and configurations are not
_LONGEST = 80


def naming_operations(cls: C) -> C:
    """Let the errors of the package that leave a public method of `cls` carry its name and arguments.

    A class decorator. Methods that are inherited belong to the class that defines them.
    """
    for name, member in list(vars(cls).items()):
        kind = next((k for k in (classmethod, staticmethod) if isinstance(member, k)), None)
        function = member if kind is None else member.__func__
        if not name.startswith("_") and inspect.isfunction(function):
            named = _named(function, cls if kind is staticmethod else None)
            setattr(cls, name, named if kind is None else kind(named))
    return cls


def _named(function: Callable[..., Any], owner: type | None) -> Callable[..., Any]:
    """The function, or coroutine function, with notes on its errors; without `owner`, its first argument tells it."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            try:
                return await function(*args, **kwargs)
            except IcechunkVirtualError as error:
                _note(error, owner, function.__name__, args, kwargs)
                raise

        return coroutine

    @functools.wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except IcechunkVirtualError as error:
            _note(error, owner, function.__name__, args, kwargs)
            raise

    return plain


def _note(
    error: IcechunkVirtualError, owner: type | None, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    if owner is None:
        first, args = args[0], args[1:]
        owner = first if isinstance(first, type) else type(first)
    given = [*map(_shown, args), *(f"{key}={_shown(value)}" for key, value in kwargs.items())]
    note = f"in {owner.__name__}.{name}({', '.join(given)})"
    if note not in getattr(error, "__notes__", ()):  # readers who waited for the same answer share its error
        error.add_note(note)


def _shown(value: object) -> str:
    text = repr(value) if value is None or isinstance(value, _PLAIN) else f"<{type(value).__name__}>"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
