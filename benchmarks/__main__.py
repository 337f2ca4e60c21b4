"""Runs the benchmarks: ``python -m benchmarks``, or with ``--quick`` in under three minutes."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from . import chart, contenders, load, machine, report, scenarios
from .contenders import CONTENDERS, Contender
from .results import Results
from .scenarios import SCENARIOS, Scenario, Settings
from .server_process import ServerError, ServerProcess, free_port, module, processors

_HERE = Path(__file__).resolve().parent
_QUICK = Settings(rounds=1, seconds=1, size=1 << 28, sockets=500, broadcasts=5)


def main() -> None:
    """Measure, and write the report."""
    options = _parser().parse_args()
    if options.report:
        results = Results.load(options.output / "results.json")
    else:
        os.environ.setdefault("PYTHONHASHSEED", "0")
        settings = _settings(options)
        load.allow_many_files()
        load_cpus, server_cpus = processors()
        os.sched_setaffinity(0, load_cpus)
        results = Results(machine.describe(settings))
        chosen = _chosen(options, results)
        with _surroundings(settings, load_cpus) as environment:
            _measure(results, chosen, _wanted(options), settings, server_cpus, environment)
        results.save(options.output / "results.json")
    (options.output / "RESULTS.md").write_text(report.markdown(results))
    (options.output / "results.svg").write_text(chart.svg(results))
    print("\n".join(report.goal_table(results)))
    print(f"\nWritten to {options.output / 'RESULTS.md'}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only what the goals need, briefly")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of each load")
    parser.add_argument("--contender", action="append", help="part of a name; may be repeated")
    parser.add_argument(
        "--scenario",
        action="append",
        choices=[scenario.key for scenario in SCENARIOS],
        help="may be repeated",
    )
    parser.add_argument("--output", type=Path, help="directory of the report")
    parser.add_argument("--report", action="store_true", help="only write the report anew")
    parser.set_defaults(output=None)
    return _Parser(parser)


class _Parser(argparse.ArgumentParser):
    pass


if __name__ == "__main__":
    main()
