"""Every numbered line of the threat model has its test in this folder, under its number; and every test its line."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

from tests.support.source import ROOT

PAGE = ROOT / "docs" / "explanation" / "threat-model.md"
LINE = re.compile(r"^\* \*\*(T\d{2})\*\* (\S.*)$", re.MULTILINE)
NAMED = re.compile(r"test_(T\d{2})_\w+")


def proofs() -> dict[str, list[ast.FunctionDef]]:
    """Test functions by line."""
    found: dict[str, list[ast.FunctionDef]] = defaultdict(list)
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (named := NAMED.fullmatch(node.name)) is not None:
                found[named[1]].append(node)
    return found


LINES = [number for number, _ in LINE.findall(PAGE.read_text(encoding="utf-8"))]
TESTS = proofs()


def test_lines_are_numbered_in_order() -> None:
    assert len(LINES) > 50
    assert sorted(set(LINES)) == LINES


def test_every_line_has_a_test_and_every_test_a_line() -> None:
    assert sorted(TESTS) == LINES


def test_all_tests_here_are_named_by_a_line() -> None:
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path != Path(__file__):
            names = re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert [name for name in names if not NAMED.fullmatch(name)] == [], path.name


def test_tests_can_fail() -> None:
    """Each asserts something, or expects an error, and none is set aside."""
    for line, functions in TESTS.items():
        for function in functions:
            text = ast.unparse(function)
            assert re.search(r"\bassert\b|pytest\.raises|\bcheck\(", text), f"{line}: {function.name}"
            assert not re.search(r"mark\.skip\b|mark\.xfail|pytest\.skip\(", text), f"{line}: {function.name}"
