"""Run the benchmarks: `python -m bench [NAME...] [--repeats N] [--json FILE] [--list] [--check]`.

A benchmark is a module `bench/bench_NAME.py` with a function `benches()` that returns `Pair`s and `Figure`s.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from bench.harness import Figure, Pair, Result, report, run_figure, run_pair, table

HERE = Path(__file__).parent


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="which ones, e.g. refs; all by default")
    parser.add_argument(
        "--repeats", type=int, help="runs of each side that count (default: what the benchmark says, or 5)"
    )
    parser.add_argument("--json", type=Path, default=HERE / "results" / "latest.json", help="where the numbers go")
    parser.add_argument("--list", action="store_true", help="only say which there are")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a goal is missed")
    options = parser.parse_args(argv)

    known = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    if options.list:
        print(*known, sep="\n")
        return 0
    unknown = sorted(set(options.names) - set(known))
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(known) or 'none'}")

    results: list[Result] = []
    for name in options.names or known:
        for bench in importlib.import_module(f"bench.bench_{name}").benches():
            print(f"running {name}: {bench.name} ...", file=sys.stderr, flush=True)
            results.append(measure(bench, options.repeats))
    print(table(results))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report(results), indent=1) + "\n")
    print(f"\nnumbers: {options.json}")
    return int(options.check and any(result.met is False for result in results))


def measure(bench: Pair | Figure, repeats: int | None) -> Result:
    return run_pair(bench, repeats) if isinstance(bench, Pair) else run_figure(bench)


if __name__ == "__main__":
    sys.exit(main())
