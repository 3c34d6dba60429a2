"""Print the oldest releases that pyproject.toml promises to work with: one `name==release` for each lower bound.

Usage: python tools/oldest.py EXTRA...   (of the package itself always; of the extras named, and those they include)
"""

import re
import sys
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
BOUND = re.compile(r"([\w-]+)(?:\[[\w,-]+\])?>=([\w.]+)$")
ITSELF = re.compile(rf"{PROJECT['name']}\[([\w,-]+)\]$")


def oldest(extras):
    """The pins, sorted. A requirement without a lower bound is an error: nobody could say what it promises."""
    extras, pins = list(extras), set()
    for requirement in PROJECT["dependencies"]:
        pins.add(pin(requirement))
    while extras:
        for requirement in PROJECT["optional-dependencies"][extras.pop()]:
            itself = ITSELF.match(requirement)
            if itself:
                extras += itself[1].split(",")
            else:
                pins.add(pin(requirement))
    return sorted(pins)


def pin(requirement):
    bound = BOUND.match(requirement)
    if bound is None:
        sys.exit(f"`{requirement}` in pyproject.toml has no plain lower bound `>=`")
    return f"{bound[1]}=={bound[2]}"


if __name__ == "__main__":
    print(*oldest(sys.argv[1:]))
