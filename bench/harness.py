"""Paired measurements: ours and theirs in turns, in one run, on one machine.

A time alone says more about the machine than about the code; the ratio of two times taken side by side does not.
So each `Pair` is run as ours, theirs, theirs, ours, ... and judged by the median of the ratios of neighbours, shown
with the smallest and the largest. Peak memory is measured in a process of its own.
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 5
PEERS = ("icechunk", "zarr", "numpy", "obstore", "h5py", "xarray")


@dataclass(frozen=True)
class Pair:
    """Two ways to the same result.

    Attributes
    ----------
    name
        What is measured, e.g. ``write 1,000,000 references``.
    ours, theirs
        The timed part. Called with what `setup` returned.
    setup
        Called before every run, not timed; its result is handed over. By default nothing.
    teardown
        Called after every run with the same value, not timed.
    count, unit
        How many things one run handles, for the rates.
    at_least
        The goal: ours must be this many times as fast as theirs (1.0: not slower). ``None``: reported only.
    slack
        How much below the goal still counts as met, as a fraction: noise of a pair on a shared machine.
    repeats
        Runs of each side that count; ``None``: as many as asked for.
    clock
        `time.process_time` measures the CPU time of all threads, which says more on a busy machine.
    """

    name: str
    ours: Callable[[Any], object]
    theirs: Callable[[Any], object]
    setup: Callable[[], Any] = lambda: None
    teardown: Callable[[Any], object] = lambda _: None
    count: int = 1
    unit: str = "runs"
    at_least: float | None = None
    slack: float = 0.0
    repeats: int | None = None
    clock: Callable[[], float] = time.perf_counter


@dataclass(frozen=True)
class Figure:
    """A number that has a limit but no rival: bytes per reference, megabytes at the peak, requests.

    `measure` returns the value; `at_most` is the goal, or ``None``.
    """

    name: str
    measure: Callable[[], float]
    unit: str
    at_most: float | None = None


@dataclass(frozen=True)
class Result:
    """What came out; `ratio` is how many times faster ours is: (median, smallest, largest)."""

    name: str
    unit: str
    ours: list[float]
    theirs: list[float] = field(default_factory=list)
    count: int = 1
    ratio: tuple[float, float, float] | None = None
    goal: str = ""
    met: bool | None = None


def run_pair(pair: Pair, repeats: int | None = None, *, clock: Callable[[], float] | None = None) -> Result:
    """Time both in turns; the first run of each is a warm-up and does not count.

    `repeats` goes before what the pair says, and that before `REPEATS`.
    """
    ours: list[float] = []
    theirs: list[float] = []
    repeats = repeats or pair.repeats or REPEATS
    for turn in range(repeats + 1):
        order = [(pair.ours, ours), (pair.theirs, theirs)]
        for run, times in order if turn % 2 else reversed(order):
            times.append(_time(run, pair, clock or pair.clock))
    ours, theirs = ours[1:], theirs[1:]
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    ratio = (statistics.median(ratios), min(ratios), max(ratios))
    met = None if pair.at_least is None else ratio[0] >= pair.at_least * (1 - pair.slack)
    goal = "" if pair.at_least is None else f">= {pair.at_least:g}x"
    return Result(pair.name, pair.unit, ours, theirs, pair.count, ratio, goal, met)


def _time(run: Callable[[Any], object], pair: Pair, clock: Callable[[], float]) -> float:
    value = pair.setup()
    gc.collect()
    try:
        start = clock()
        run(value)
        return clock() - start
    finally:
        pair.teardown(value)


def run_figure(figure: Figure) -> Result:
    """Measure once: such numbers do not depend on the load of the machine."""
    value = figure.measure()
    met = None if figure.at_most is None else value <= figure.at_most
    goal = "" if figure.at_most is None else f"<= {figure.at_most:g}"
    return Result(figure.name, figure.unit, [value], goal=goal, met=met)


def peak_memory(target: str, *args: object, imports: Iterable[str] = ("numpy",)) -> float:
    """Megabytes that a call takes at its peak, above an interpreter that has only loaded `imports`.

    Parameters
    ----------
    target
        ``package.module:function``, called with `args` in a process of its own. The module itself, what it imports
        and what the call allocates all count.
    args
        Anything that JSON can carry.
    imports
        What the interpreter has loaded when counting starts.

    Notes
    -----
    The resident set's high-water mark (``VmHWM`` of ``/proc/self/status``; elsewhere ``ru_maxrss``).
    """
    command = [sys.executable, "-m", "bench.harness", target, json.dumps(args), json.dumps(list(imports))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment, cwd=ROOT)
    return float(done.stdout.splitlines()[-1])


def _high_water_mb() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    resource = importlib.import_module("resource")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) / (1024**2 if sys.platform == "darwin" else 1024)


def _measure_peak(target: str, args: str, imports: str) -> None:
    """The other side of `peak_memory`."""
    for name in json.loads(imports):
        importlib.import_module(name)
    before = _high_water_mb()
    module, _, function = target.partition(":")
    getattr(importlib.import_module(module), function)(*json.loads(args))
    print(_high_water_mb() - before)


# -- showing ---------------------------------------------------------------------------------------------------


def table(results: Iterable[Result]) -> str:
    """One line per result: times, rates, the ratio, and whether the goal is met."""
    head = ("measure", "ours", "theirs", "ours per s", "faster (min .. max)", "n", "goal", "met")
    rows = [head, *(_row(result) for result in results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def _row(result: Result) -> tuple[str, ...]:
    met = {None: "", True: "yes", False: "NO"}[result.met]
    if result.ratio is None:
        return result.name, f"{result.ours[0]:.4g} {result.unit}", "", "", "", "1", result.goal, met
    ours, theirs = statistics.median(result.ours), statistics.median(result.theirs)
    rate = f"{result.count / ours:,.0f} {result.unit}" if ours else ""
    median, low, high = result.ratio
    ratio = f"{median:.2f}x ({low:.2f} .. {high:.2f})"
    return result.name, _seconds(ours), _seconds(theirs), rate, ratio, str(len(result.ours)), result.goal, met


def _seconds(value: float) -> str:
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def report(results: Iterable[Result]) -> dict[str, Any]:
    """Results and circumstances as JSON values."""
    versions = {}
    for name in ("icechunk-virtual", *PEERS):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    machine = {"python": platform.python_version(), "system": platform.platform(), "cpus": os.cpu_count()}
    return {"machine": machine, "versions": versions, "results": [asdict(result) for result in results]}


if __name__ == "__main__":
    _measure_peak(*sys.argv[1:])
