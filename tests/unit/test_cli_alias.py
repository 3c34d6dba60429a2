"""Aliases: the file that is shared with the original's program, and the command line that uses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from icechunk_virtual.cli import main
from icechunk_virtual.cli.alias_file import AliasFile, alias_path
from icechunk_virtual.opening import open_repository


class Shell:
    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.file, self.capture = folder / "config" / "icechunk" / "cli-config.yaml", capture

    def __call__(self, line: str, code: int = 0) -> str:
        assert main(line.split()) == code
        out, err = self.capture.readouterr()
        assert bool(err) == bool(code)
        return out + err


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr("sys.platform", "linux")
    return Shell(tmp_path, capsys)


def test_a_repository_by_its_alias(shell: Shell, tmp_path: Path) -> None:
    assert shell("alias list") == f"no aliases in {shell.file}\n"
    assert shell("alias add loc data/r") == f"loc stands for {tmp_path}/data/r\n"
    assert shell("create loc").startswith(f"created {tmp_path}/data/r, branch main")
    assert json.loads(shell("log loc --json"))["repository"] == f"{tmp_path}/data/r"
    assert shell("log data/r") == shell("log loc")
    assert shell("alias list").splitlines() == ["alias  repository", f"loc    {tmp_path}/data/r"]
    assert shell("alias remove loc") == f"loc does not stand for {tmp_path}/data/r any more\n"
    assert "there is no repository at loc" in shell("log loc", 1)


def test_names_are_not_taken_away_or_mistaken(shell: Shell, tmp_path: Path) -> None:
    shell("alias add loc a")
    shell("alias add loc a")
    assert "stands for" in shell("alias add loc b", 1)
    shell("alias add loc b --force")
    assert json.loads(shell("alias list --json"))["aliases"] == {"loc": f"{tmp_path}/b"}
    assert "there is no alias x, only: loc" in shell("alias remove loc x", 1)
    assert json.loads(shell("alias list --json"))["aliases"] == {"loc": f"{tmp_path}/b"}
    (tmp_path / "loc").mkdir()
    assert "for the path write ./loc" in shell("log loc", 2)
    assert "there is no repository at ./loc" in shell("log ./loc", 1)
    for name in ("a/b", "s3://b", ".", "-", "a b"):
        assert main(["alias", "add", "--", name, "r"]) == 2
    assert "ftp://" in (shell.capture.readouterr().err and shell("alias add x ftp://host/r", 1))
    assert main(["alias", "add", "nothing", ""]) == 1
    assert "a path is empty" in shell.capture.readouterr().err


URLS = [
    "s3://bucket/pre%20fix?region=eu-central-1&endpoint_url=http%3A%2F%2Fhost%3A1&allow_http=true&force_path_style=true",
    "s3://bucket/?anonymous=true",
    "tigris://bucket/p?region=fra",
    "gs://bucket/p",
    "gs://bucket/p?anonymous=true",
    "az://container/p?account=me",
]


@pytest.mark.parametrize("url", URLS)
def test_urls_come_back(url: str, shell: Shell) -> None:
    shell(f"alias add one {url}")
    assert json.loads(shell("alias list --json"))["aliases"] == {"one": url}


def test_the_file_holds_values_and_not_their_spelling(shell: Shell) -> None:
    shell("alias add one s3://b/p?anonymous=1&force_path_style=1&region=7&endpoint_url=http%3A%2F%2Fhost")
    text = shell.file.read_text()
    assert "force_path_style: true" in text
    assert "allow_http: true" in text  # what the endpoint means for us, said for the original
    assert 'region: "7"' in text
    assert ": anonymous" in text


@pytest.mark.parametrize("url", ["r2://bucket/p?account_id=x", "tigris://b/p?use_weak_consistency=true"])
def test_urls_that_the_file_has_no_words_for(url: str, shell: Shell) -> None:
    assert "alias" in shell(f"alias add one {url}", 1)
    assert not shell.file.exists()


def test_other_entries_stay_as_they_are(shell: Shell) -> None:
    shell.file.parent.mkdir(parents=True)
    other = 'repos:\n  "odd":  !Moon\n    crater: "7"\n    depth: [1, ~, yes]\n  "half": !S3\n    location: {}\n'
    shell.file.write_text(other)
    shell("alias add loc a")
    assert AliasFile(shell.file).names() == ["half", "loc", "odd"]
    assert '!Moon\n    crater: "7"\n    depth:\n      - 1\n      - ~\n      - yes\n' in shell.file.read_text()
    assert "odd    (not understood)" in shell("alias list")
    assert "the entry half cannot be understood" in shell("log half", 2)
    shell("alias remove odd half")
    assert AliasFile(shell.file).names() == ["loc"]


@pytest.mark.parametrize("content", [b"repos: [", b"other: 1\n", b"\xff\xfe"])
def test_a_file_that_cannot_be_understood_is_not_overwritten(content: bytes, shell: Shell, tmp_path: Path) -> None:
    shell.file.parent.mkdir(parents=True)
    shell.file.write_bytes(content)
    assert "cannot be understood" in shell("alias add loc a", 1)
    assert "cannot be understood" in shell("log loc", 2)
    assert shell.file.read_bytes() == content
    shell("create ./r")
    shell("log r")  # a path that is there needs no aliases


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    file = "icechunk/cli-config.yaml"
    assert alias_path({}, "linux") == Path("/home/me/.config", file)
    assert alias_path({"XDG_CONFIG_HOME": "/x"}, "linux") == Path("/x", file)
    assert alias_path({"XDG_CONFIG_HOME": "relative"}, "linux") == Path("/home/me/.config", file)
    assert alias_path({}, "darwin") == Path("/home/me/Library/Application Support", file)
    assert alias_path({"APPDATA": "/roaming"}, "win32") == Path("/roaming", file)


def test_aliases_are_for_the_command_line_only(shell: Shell, tmp_path: Path) -> None:
    shell("alias add loc data/r")
    with pytest.raises(Exception, match="doesn't exist"):
        open_repository("loc")
