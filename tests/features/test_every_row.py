"""Every row of the feature table, F001 to F123, has its proof in this folder, under its name."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

ROWS = [f"F{number:03}" for number in range(1, 124)]
NAMED = re.compile(r"test_(F\d{3})_\w+")


def proofs() -> dict[str, list[ast.FunctionDef]]:
    """Test functions by row."""
    found: dict[str, list[ast.FunctionDef]] = defaultdict(list)
    for path in sorted(Path(__file__).parent.glob("test_*_rows.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = NAMED.fullmatch(node.name) if isinstance(node, ast.FunctionDef) else None
            if named is not None and isinstance(node, ast.FunctionDef):
                found[named[1]].append(node)
    return found


PROOFS = proofs()


def test_every_row_has_a_proof() -> None:
    assert sorted(PROOFS) == ROWS


def test_proofs_can_fail() -> None:
    """Each asserts something, or expects an error, and none is set aside."""
    for row, functions in PROOFS.items():
        for function in functions:
            text = ast.unparse(function)
            assert re.search(r"\bassert\b|pytest\.raises|\bcheck", text), f"{row}: {function.name}"
            assert not re.search(r"mark\.skip\b|mark\.xfail|pytest\.skip\(", text), f"{row}: {function.name}"
