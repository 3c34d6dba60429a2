"""Classes of characters in Rust's `regex` crate, as tests of single characters.

Unicode classes follow the tables of this Python, which may be of another Unicode version. Knows no syntax.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import TypeAlias

Test: TypeAlias = Callable[[str], bool]

_CATEGORIES = {
    "letter": "L", "cased_letter": "LC", "uppercase_letter": "Lu", "lowercase_letter": "Ll", "titlecase_letter": "Lt",
    "modifier_letter": "Lm", "other_letter": "Lo", "mark": "M", "nonspacing_mark": "Mn", "spacing_mark": "Mc",
    "enclosing_mark": "Me", "number": "N", "decimal_number": "Nd", "letter_number": "Nl", "other_number": "No",
    "punctuation": "P", "connector_punctuation": "Pc", "dash_punctuation": "Pd", "open_punctuation": "Ps",
    "close_punctuation": "Pe", "initial_punctuation": "Pi", "final_punctuation": "Pf", "other_punctuation": "Po",
    "symbol": "S", "math_symbol": "Sm", "currency_symbol": "Sc", "modifier_symbol": "Sk", "other_symbol": "So",
    "separator": "Z", "space_separator": "Zs", "line_separator": "Zl", "paragraph_separator": "Zp", "other": "C",
    "control": "Cc", "format": "Cf", "surrogate": "Cs", "private_use": "Co", "unassigned": "Cn",
}  # fmt: skip
_SHORT_CATEGORIES = {short.lower(): short for short in _CATEGORIES.values()}


def is_word(char: str) -> bool:
    """Letters, marks, decimal digits, connectors and joiners."""
    category = unicodedata.category(char)
    return category[0] in "LM" or category in ("Nd", "Nl", "Pc") or char in "\u200c\u200d"


def is_ascii_word(char: str) -> bool:
    """ASCII letters, digits and the underscore."""
    return char.isascii() and (char.isalnum() or char == "_")


def is_space(char: str) -> bool:
    """White space of Unicode."""
    return char.isspace() and char not in "\x1c\x1d\x1e\x1f"


def _is_digit(char: str) -> bool:
    return char.isdecimal()


def everything(_char: str) -> bool:
    """Any character."""
    return True


def one_of(chars: str) -> Test:
    """One of these."""
    return lambda char: char in chars


PERL: dict[str, tuple[Test, Test]] = {  # letter: (Unicode, ASCII)
    "d": (_is_digit, one_of("0123456789")),
    "s": (is_space, one_of(" \t\n\v\f\r")),
    "w": (is_word, is_ascii_word),
}
ASCII_CLASSES: dict[str, Test] = {
    "alnum": str.isalnum, "alpha": str.isalpha, "ascii": str.isascii, "blank": one_of(" \t"),
    "cntrl": lambda c: c < " " or c == "\x7f", "digit": str.isdecimal, "graph": lambda c: "!" <= c <= "~",
    "lower": str.islower, "print": lambda c: " " <= c <= "~",
    "punct": lambda c: "!" <= c <= "~" and not c.isalnum(), "space": one_of(" \t\n\v\f\r"), "upper": str.isupper,
    "word": lambda c: c.isalnum() or c == "_", "xdigit": one_of("0123456789abcdefABCDEF"),
}  # fmt: skip


def negate(test: Test) -> Test:
    """What the test refuses."""
    return lambda char: not test(char)


def any_of(tests: list[Test]) -> Test:
    """What one of the tests accepts."""
    return lambda char: any(test(char) for test in tests)


def ignoring_case(test: Test) -> Test:
    """What the test accepts, in either case."""

    def folded(char: str) -> bool:
        others = {char, char.lower(), char.upper(), char.casefold(), *_SAME_FOLD.get(char, "")}
        return any(len(other) == 1 and test(other) for other in others)

    return folded


_SAME_FOLD = {"k": "\u212a", "K": "\u212a", "s": "\u017f", "S": "\u017f", "\u00e5": "\u212b", "\u00c5": "\u212b"}
"""Characters whose fold is reached from the other side only: Kelvin sign, long s, Angstrom sign."""


def category(name: str) -> Test | None:
    """Characters of a Unicode general category, by its short or long name in lower case with underscores."""
    short = _CATEGORIES.get(name) or _SHORT_CATEGORIES.get(name)
    if short is None:
        return None
    members = ("Lu", "Ll", "Lt") if short == "LC" else (short,)
    return lambda char: unicodedata.category(char).startswith(members)


def combine(left: Test | None, operator: str, right: Test) -> Test:
    """Intersection ``&&``, difference ``--`` or symmetric difference ``~~`` of two classes."""
    if left is None:
        return right
    if operator == "&&":
        return lambda char: left(char) and right(char)
    if operator == "--":
        return lambda char: left(char) and not right(char)
    return lambda char: left(char) != right(char)
