"""Patterns against Python's `re`, on what both dialects mean the same by."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from icechunk_virtual.repo.pattern_syntax import InvalidPattern
from icechunk_virtual.repo.patterns import Pattern, search

pieces = st.sampled_from(["a", "b", "c", ".", "[ab]", "[^a]", "[a-b]", r"\d", r"\w", r"\b", "^", r"\A", "|"])
repeats = st.sampled_from(["", "", "", "*", "+", "?", "*?", "+?", "{2}", "{1,2}", "{2,}"])
flat = st.lists(st.tuples(pieces, repeats).map("".join), max_size=4).map("".join)
groups = st.tuples(st.sampled_from(["(", "(?:"]), flat, st.just(")"), repeats).map("".join)
pattern_texts = st.lists(flat | groups, max_size=4).map("".join)


@given(pattern_texts, st.text("abc1 ", max_size=8))
def test_like_re(pattern: str, text: str) -> None:
    try:
        ours, theirs = Pattern(pattern), re.compile(pattern)
    except (InvalidPattern, re.error):
        reject()  # which patterns are valid is judged by the original, in tests/compat
    assert ours.search(text) == (theirs.search(text) is not None)


@given(st.text("ab(|)[]{}*+?.^$\\-&~:<>=!i x1,pPdD", max_size=12), st.text("ab1 ", max_size=6))
def test_any_text_is_a_pattern_or_matches_nothing(pattern: str, text: str) -> None:
    assert search(pattern, text) in (False, True)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$", "(a|a)*b", "(a*)*b", "((((a*)*)*)*)*b", "(a?){50}a{50}$", "(((){1000}){1000}){1000}",
        "(a{1000}){1000}",
        "(" * 5000, "[" * 5000, "a" + "*" * 9000, "(?i)" * 2000, "a|" * 4000, "(a|" * 4000, "[a-b" * 2000, "a" * 20_000,
        "(.*.*.*.*=.*){5}$", "\\", "(?P<", "[[:", "\\p{", "\\x{", "{", "a{1,", "(?", "[a&&", "(?x)#",
    ],
)  # fmt: skip
def test_hostile_patterns_neither_hang_nor_crash(pattern: str) -> None:
    assert search(pattern, "a" * 200 + "!") in (False, True)  # an exponential search would not come back
