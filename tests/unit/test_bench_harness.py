from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from bench.__main__ import main
from bench.harness import Figure, Pair, peak_memory, report, run_figure, run_pair, table


class Clock:
    """Time that passes only when somebody works."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, seconds: float) -> Callable[[object], None]:
        def run(_: object) -> None:
            self.log.append(name)
            self.now += seconds

        return run


def test_pairs_take_turns_and_the_warm_up_does_not_count() -> None:
    clock = Clock()
    pair = Pair("sleep", clock.work("ours", 2.0), clock.work("theirs", 6.0), count=10, at_least=3.0)
    result = run_pair(pair, 3, clock=clock)
    assert clock.log == ["theirs", "ours", "ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert result.ours == [2.0] * 3
    assert result.theirs == [6.0] * 3
    assert result.ratio == (3.0, 3.0, 3.0)
    assert result.met is True


def test_setup_and_teardown_are_not_timed() -> None:
    clock = Clock()
    seen: list[object] = []

    def setup() -> int:
        clock.now += 100
        return 7

    pair = Pair("x", clock.work("ours", 1.0), clock.work("theirs", 1.0), setup=setup, teardown=seen.append)
    assert run_pair(pair, 2, clock=clock).ours == [1.0, 1.0]
    assert seen == [7] * 6


@pytest.mark.parametrize(("slack", "met"), [(0.0, False), (0.5, True)])
def test_a_missed_goal_is_a_missed_goal(slack: float, met: bool) -> None:
    clock = Clock()
    pair = Pair("x", clock.work("ours", 1.0), clock.work("theirs", 1.5), at_least=2.0, slack=slack)
    result = run_pair(pair, 1, clock=clock)
    assert result.met is met
    assert ("NO" in table([result])) is not met


def test_figures_have_limits() -> None:
    result = run_figure(Figure("bytes per reference", lambda: 16.0, "B", at_most=15))
    assert result.met is False
    assert "<= 15" in table([result])
    assert json.loads(json.dumps(report([result])))["results"][0]["ours"] == [16.0]


def test_peak_memory_counts_what_the_call_allocates() -> None:
    base = peak_memory("builtins:len", "")
    taken = peak_memory("numpy:ones", 10_000_000)  # 80 MB of float64
    assert 70 < taken - base < 120


def test_the_program_names_unknown_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["no-such-thing"])
    assert "no such benchmark: no-such-thing" in capsys.readouterr().err
