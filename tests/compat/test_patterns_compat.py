"""Patterns of the configuration against the real icechunk: the same names match."""

from __future__ import annotations

from typing import Any

import pytest

from icechunk_virtual.repo.patterns import search

pytestmark = pytest.mark.compat

ic: Any = pytest.importorskip("icechunk")
zarr: Any = pytest.importorskip("zarr")

PATTERNS = {
    # plain text, anchors, alternatives
    "b": ["abc", "ac"],
    "": ["abc"],
    "^a": ["ab", "ba"],
    "b$": ["ab", "ba", "b\n"],
    "^$": ["a"],
    "a|": ["b"],
    "x|y|c": ["abc", "ab"],
    r"\Aa\z": ["a", "ab"],
    r"a\Z": ["a"],
    # repetition
    "^ab*c$": ["ac", "abbbc", "abb"],
    "^ab+?c$": ["ac", "abbbc"],
    "^(ab){2}$": ["ab", "abab", "ababab"],
    "^a{2,3}$": ["a", "aa", "aaa", "aaaa"],
    "^a{2,}$": ["a", "aaaaa"],
    "^a{,2}$": ["aa", "aaa", "a{,2}"],
    "^a{2, 3}$": ["aa", "a{2, 3}"],
    "^a{ 2 }$": ["aa"],
    "^a{2 ,}$": ["aaa"],
    "^a{2}{2}$": ["aa", "aaaa"],
    "^a{0}b$": ["b", "ab"],
    "a{}": ["a", "a{}"],
    "(?i)\u03c3": ["\u03a3"],
    r"^[\d--5]+$": ["12", "15"],
    r"^[^\W\d]+$": ["ab_", "a1"],
    "^[a-z&&b-y&&[^c]]+$": ["bd", "bc", "az"],
    "[a-c-e]": ["-", "d"],
    "[--b]": ["-", "a", "5"],
    "[&&a]": ["a", "&"],
    "[a&&]": ["a", "&"],
    "[a[b]c]": ["b", "["],
    "[]": ["]"],
    "[^]": ["a"],
    r"[\b]": ["b"],
    r"[\]]": ["]"],
    "(?m)^b$": ["a\nb"],
    "(|a)b": ["b"],
    "(?:a|b)*c": ["ababc"],
    "a||b": ["c"],
    "(?x)[a b]": [" ", "b"],
    "(?x)a{2 }": ["aa"],
    "a{2": ["aa", "a{2"],
    "a{3,2}": ["aaa"],
    "^a++b$": ["aab", "b"],
    "^a**$": ["aa", "b"],
    "^(a+)+$": ["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!", "aaa"],
    "*a": ["a", "*a"],
    "()*a": ["a"],
    "(?:){5}a": ["a"],
    "^*a": ["a"],
    "(a{500}){500}": ["a"],
    # what the dialect has not
    "a(?=b)": ["ab"],
    "a(?!b)": ["ac"],
    "(?<=a)b": ["ab"],
    "(?<!a)b": ["cb"],
    r"(a)\1": ["aa"],
    "(?P<x>a)(?P=x)": ["aa"],
    "(?>a)b": ["ab"],
    "(?#comment)a": ["a"],
    # groups and flags
    "(?P<name>a)b": ["ab"],
    "(?<name>a)b": ["ab"],
    "(?<n>a)(?<n>b)": ["ab"],
    "(a": ["a", "(a"],
    "a)": ["a", "a)"],
    "(?i)AbC": ["xaBcx", "ab"],
    "(?i:A)b": ["ab", "aB"],
    "(?i)a(?-i)b": ["Ab", "AB"],
    "(?x) a b # c": ["ab", "a b"],
    "(?s)a.b": ["a.b"],
    "(?U)a+b": ["aab"],
    "(?ii)a": ["a"],
    "(?)a": ["a"],
    "(?i-)a": ["a"],
    "(?z)a": ["a"],
    "((?i)a)b": ["Ab", "AB"],
    "(?i)[^a]": ["A", "aA", "ab"],
    "(?i)k": ["\u212a"],
    # classes
    "^[a-c]+$": ["abc", "abd"],
    "^[^a-c]+$": ["xyz", "xbz"],
    "[]a]": ["]", "a", "b"],
    "[^]a]": ["]", "b"],
    "^[-a]+$": ["a-", "b"],
    "^[a-]+$": ["a-", "b"],
    "[a": ["a", "[a"],
    "[z-a]": ["b"],
    "^[a-z&&[^aeiou]]+$": ["xyz", "xaz"],
    "^[a-z--[aeiou]]+$": ["xyz", "xaz"],
    "^[a-c~~b-d]+$": ["ad", "abd"],
    "^[[:alpha:]_]+$": ["ab_", "ab1"],
    "^[[:^alpha:]]+$": ["123", "a12"],
    "[:alpha:]": ["a", ":", "z"],
    "^[[:foo:]]+$": [":", "f", "z"],
    r"^\d+$": ["123", "12a", "\u0663"],
    r"^\D+$": ["123", "abc"],
    r"^\w+$": ["a_1", "a-1", "\u00e9"],
    r"(?-u)^\w+$": ["a_1", "\u00e9"],
    r"^[\w-]+$": ["a-1", "a.1"],
    r"a\sb": ["a b", "ab"],
    r"^\pL+$": ["ab\u00e9", "a1"],
    r"^\p{Lu}+$": ["AB", "Ab"],
    r"^\p{Uppercase_Letter}+$": ["AB", "Ab"],
    r"^\P{L}+$": ["12", "1a"],
    r"^\p{gc=Nd}+$": ["12", "1a"],
    r"^\p{nonsense}+$": ["a"],
    # escapes and boundaries
    r"a\.b": ["a.b", "axb"],
    "a.b": ["axb", "ab"],
    r"\x41": ["A", "x41"],
    r"\x{41}B": ["AB"],
    r"\u0041": ["A"],
    r"\U0001F600": ["\U0001f600"],
    r"\u{1F600}": ["\U0001f600"],
    r"a\-b\_c\%": ["a-b_c%"],
    r"\e": ["e"],
    r"\q": ["q"],
    "a\\": ["a"],
    r"\bfoo\b": ["foo bar", "foobar", "a-foo"],
    r"o\Bo": ["foo"],
    r"\b{start}b": ["a b", "ab"],
    r"\<b": ["a b", "ab", "<b"],
    "\u00e9": ["caf\u00e9", "cafe"],
    # those of the default preload condition
    r"^\bt\b$|^(time|min|hour|day|week|month|year)[0-9]*$": ["t", "time", "time2", "times"],
    "^y?(nav_lat|lat|gphi)[a-z0-9]*$": ["lat", "ylat2", "plat"],
}


def test_same_names_match() -> None:
    """Every pattern splits the manifests of one group's arrays: two manifests where it matches, else one."""
    condition, everywhere = ic.ManifestSplitCondition, ic.ManifestSplitDimCondition.Any()
    rules = [
        (condition.and_conditions([condition.path_matches(f"^/g{i}/"), condition.name_matches(p)]), [(everywhere, 1)])
        for i, p in enumerate(PATTERNS)
    ]
    config = ic.RepositoryConfig(manifest=ic.ManifestConfig(splitting=ic.ManifestSplittingConfig(rules)))
    repository = ic.Repository.create(ic.in_memory_storage(), config)
    manifests = 0
    wrong = []
    for i, (pattern, names) in enumerate(PATTERNS.items()):
        for name in names:
            session = repository.writable_session("main")
            array = zarr.create_array(
                session.store, name=f"g{i}/{name}", shape=(2,), chunks=(1,), dtype="i1", fill_value=0
            )
            array[:] = 1
            count = len(repository.lookup_snapshot(session.commit("array")).manifests)
            expected = count - manifests == 2
            manifests = count
            if search(pattern, name) != expected:
                wrong.append((pattern, name, expected))
    assert not wrong
