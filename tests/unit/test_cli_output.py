"""What is printed is aligned, safe for terminals, and JSON where asked for."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime, timedelta

import pytest

from icechunk_virtual.cli.output import Table, clean, command, fields, first_line, plain_lines, short_time, write
from icechunk_virtual.cli.parsing import Parser, when
from icechunk_virtual.errors import NodeNotFound


def test_tables_are_aligned() -> None:
    lines = plain_lines(Table(("name", "n"), [("a", "1"), ("bcdef", "1,000")], right=frozenset({1})))
    assert lines == ["name       n", "a          1", "bcdef  1,000"]


def test_nothing_can_take_over_the_terminal() -> None:
    assert clean("\x1b[2J\x07\u202eé\u3000x\n") == "\\x1b[2J\\x07\\u202eé\u3000x\\n"
    assert clean("\ud800") == "\\ud800"
    assert plain_lines(Table(("\x1b",), [("\x9b",)])) == ["\\x1b", "\\x9b"]


def test_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(("name", "n"), [("[red]x[/red]\x1b[2J", "1")])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    write(table)
    out = capsys.readouterr().out
    assert "[red]x[/red]\\x1b[2J" in out
    assert "\x1b[2J" not in out


def test_encodings_without_the_letter(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(type(sys.stdout), "encoding", "ascii", raising=False)
    write("é")
    write(Table(("ü",), []))
    assert capsys.readouterr().out == "\\xe9\n\\xfc\n"


def test_small_texts() -> None:
    assert fields(("a", "1"), ("bcd", ""), ("efgh", "2")) == ["a     1", "efgh  2"]
    assert short_time("2024-05-01T12:00:00.123456Z") == "2024-05-01 12:00:00"
    assert [first_line(text) for text in ("a", "a\n", "a\nb", "")] == ["a", "a", "a ...", ""]


def test_json_of_a_result_and_of_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: argparse.Namespace) -> dict[str, object]:
        raise NodeNotFound("no\nnode", path="/a")

    options = argparse.Namespace(json=True)
    command(lambda _: {"a": "é"}, lambda _: [])(options)
    assert json.loads(capsys.readouterr().out) == {"a": "é"}
    with pytest.raises(NodeNotFound):
        command(fail, lambda _: [])(options)
    error = {"type": "NodeNotFound", "message": "no node", "differences": []}
    assert json.loads(capsys.readouterr().out) == {"error": error}


def test_moments_and_ages() -> None:
    assert when("2024-05-01") == datetime(2024, 5, 1, tzinfo=UTC)
    assert when("2024-05-01T12:00+02:00") == datetime(2024, 5, 1, 10, tzinfo=UTC)
    for text, age in (("90s", 90), ("15min", 900), ("2h", 7200), ("30d", 30 * 86400), ("1w", 7 * 86400)):
        assert abs(datetime.now(UTC) - timedelta(seconds=age) - when(text)) < timedelta(seconds=60)
    for text in ("", "d", "-3d", "3m", "3 d", "99999999999d", "yesterday", "2024-13-01"):
        with pytest.raises(argparse.ArgumentTypeError, match="30d"):
            when(text)


def test_options_anywhere() -> None:
    parser = Parser()
    parser.add_argument("a")
    parser.add_argument("b", nargs="?")
    parser.add_argument("--number", type=int)
    for line in ("x y --number 3", "x --number 3 y", "--number 3 x y"):
        assert vars(parser.parse_args(line.split())) == {"a": "x", "b": "y", "number": 3}
    assert parser.parse_args(["x"]).b is None
    assert parser.parse_args(["--", "-x"]).a == "-x"
    with pytest.raises(SystemExit):
        parser.parse_args(["x", "--num", "3"])
