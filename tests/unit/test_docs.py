"""What the documentation shows works: its commands and Python blocks run, page by page, from top to bottom."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import zarr

from icechunk_virtual.cli.main import build_parser, main
from icechunk_virtual.model.chunk_refs import ChunkRefs
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.opening import open_repository
from tests.support.archives import write_days
from tests.support.source import ROOT

SCAN = ("scan", "/data/ocean.nc", "--repo", "ocean.repo")
BEFORE: dict[str, list[tuple[str, ...]]] = {
    "README.md": [],
    "docs/tutorial/first-repository.md": [],
    "docs/how-to/combine-files.md": [],
    "docs/how-to/append.md": [],
    "docs/how-to/authorise.md": [SCAN],
    "docs/how-to/credentials.md": [SCAN],
    "docs/how-to/read-versions.md": [SCAN],
    "docs/how-to/changed-files.md": [SCAN],
    "docs/how-to/clean-up.md": [SCAN],
    "docs/how-to/cloud-storage.md": [],
    "docs/how-to/fast-reads.md": [],
    "docs/how-to/large-arrays.md": [],
    "docs/how-to/logging.md": [],
    "docs/how-to/solve-conflicts.md": [SCAN],
    "docs/how-to/web-servers.md": [SCAN],
    "docs/how-to/write-a-scanner.md": [],
    "docs/how-to/write-with-dask.md": [],
    "docs/explanation/merged-reads.md": [],
    "docs/reference/command-line.md": [SCAN],
}
"""Pages with code, and the commands that they take for granted."""


class Block(NamedTuple):
    language: str
    text: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield Block(match[1], match[2], text.count("\n", 0, match.start()) + 2)


def pages() -> list[str]:
    return ["README.md", *(str(p.relative_to(ROOT)) for p in sorted((ROOT / "docs").rglob("*.md")))]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the pages call /data; the current folder is empty."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_days(folder / "ocean.nc", 0, 10)
    for i, name in enumerate(("2024-01", "2024-02", "2025-01", "2025-02", "2026-01")):
        write_days(folder / f"ocean-{name}.nc", 10 * i, 10)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    return folder


@pytest.fixture(autouse=True)
def zarr_settings() -> Iterator[None]:
    """Pages may set what zarr has one of in a process."""
    name = "async.concurrency"
    with zarr.config.set({name: zarr.config.get(name)}):
        yield


def run_command(line: str, capture: pytest.CaptureFixture[str]) -> None:
    command, _, comment = line.removeprefix("$ ").partition("    # exit code ")
    name, *arguments = shlex.split(command)
    assert name == "icechunk-virtual"
    code = main(arguments)
    assert code == int(comment or 0), f"{line}\n{capture.readouterr().err}"


def pages_with_code() -> list[str]:
    def runs(block: Block) -> bool:
        return block.language == "python" or (block.language == "console" and "$ icechunk-virtual" in block.text)

    return [name for name in pages() if any(map(runs, blocks(ROOT / name)))]


@pytest.mark.parametrize("name", pages_with_code())
@pytest.mark.filterwarnings("ignore:Numcodecs codecs")
def test_page(name: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def here(text: str) -> str:
        return re.sub(r"(?<![\w.])/data\b", str(data), text)

    for command in BEFORE[name]:
        assert main([here(part) for part in command]) == 0
    if BEFORE[name]:
        repo = open_repository("ocean.repo")
        repo.create_tag("v1", repo.lookup_branch("main"))
    columns = {"coords": np.zeros((1, 2)), "offsets": np.array([0]), "lengths": np.array([4])}
    namespace: dict[str, Any] = {"ChunkRefs": ChunkRefs, **columns}
    namespace["source"] = type("Source", (), {"locations": Locations.of(["file:///data/x"])})
    if BEFORE[name]:
        namespace |= {"repo": repo, "storage": repo.storage}
    exec("import icechunk_virtual as icv", namespace)
    for block in blocks(ROOT / name):
        if block.language == "console":
            for line in here(block.text).splitlines():
                if line.startswith("$ icechunk-virtual"):
                    run_command(line, capsys)
        elif block.language == "python":
            code = compile("\n" * (block.line - 1) + here(block.text), str(ROOT / name), "exec")
            exec(code, namespace)


@pytest.mark.parametrize("name", pages())
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Those without commands of their own."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from commands(command)
            return
    yield parser


@pytest.mark.parametrize("command", list(commands(build_parser())), ids=lambda command: command.prog.partition(" ")[2])
def test_every_command_and_option_is_in_the_reference(command: argparse.ArgumentParser) -> None:
    reference = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    name = command.prog.partition(" ")[2]
    section = next(
        s for s in re.split(r"^## ", reference, flags=re.MULTILINE) if f"`{name.split()[0]}`" in s.split("\n")[0]
    )
    assert f"`{name}" in section
    options = {option for action in command._actions for option in action.option_strings} - {"-h", "--help"}
    shared = {"--json", "--branch", "--tag", "--snapshot", "--as-of"}
    missing = {o for o in options if not re.search(rf"`(?:[a-z-]+ )*(?:[A-Z]+ )*{o}[ `]", section)}
    assert not missing - shared
    assert all(f"`{option}" in reference for option in options & shared)


def test_pages_with_code_are_all_run() -> None:
    assert set(pages_with_code()) == set(BEFORE)
