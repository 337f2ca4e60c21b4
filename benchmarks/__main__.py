"""Runs the benchmarks: ``python -m benchmarks``, or with ``--quick`` in under three minutes."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import chart, contenders, load, machine, report, scenarios
from .contenders import CONTENDERS, Contender
from .results import Results
from .scenarios import SCENARIOS, Scenario, Settings
from .server_process import ServerProcess, free_port, module, processors

_HERE = Path(__file__).resolve().parent
_QUICK = Settings(rounds=1, seconds=1, size=1 << 28, sockets=500, broadcasts=5)


def main() -> None:
    """Measure, and write the report."""
    options = _parse()
    # So that the servers are ended, too, when the run is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.report:
        results = Results.load((options.output or _HERE) / "results.json")
    else:
        results = _run(options)
    # A part must not replace the results that are checked in.
    partial = options.quick or options.contender or options.scenario
    output = options.output or (None if partial else _HERE)
    if output is None:
        print(report.markdown(results))
        return
    output.mkdir(parents=True, exist_ok=True)
    results.save(output / "results.json")
    (output / "RESULTS.md").write_text(report.markdown(results))
    (output / "results.svg").write_text(chart.svg(results))
    print("\n".join(report.goal_table(results)))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only what the goals need, briefly")
    parser.add_argument("--rounds", type=int, help="each contender's turns; medians are reported")
    parser.add_argument("--seconds", type=float, help="seconds of each load")
    parser.add_argument("--size", type=int, help="MiB of the download and of the upload")
    parser.add_argument("--contender", action="append", help="part of a name; may be repeated")
    parser.add_argument(
        "--scenario", action="append", choices=[one.key for one in SCENARIOS], help="repeatable"
    )
    parser.add_argument("--output", type=Path, help="where to write; a part is printed without it")
    parser.add_argument("--report", action="store_true", help="write the report anew, that is all")
    return parser.parse_args()


def _run(options: argparse.Namespace) -> Results:
    settings = _QUICK if options.quick else Settings()
    settings = Settings(
        rounds=options.rounds or settings.rounds,
        seconds=options.seconds or settings.seconds,
        size=options.size << 20 if options.size else settings.size,
        sockets=settings.sockets,
        broadcasts=settings.broadcasts,
    )
    load.allow_many_files()
    load_cpus, server_cpus = processors()
    os.sched_setaffinity(0, load_cpus)
    results = Results(machine.describe(settings))
    chosen = [one for one in CONTENDERS if _is_wanted(one, options, results)]
    wanted = options.scenario or (scenarios.QUICK if options.quick else [s.key for s in SCENARIOS])
    with _surroundings(settings, load_cpus) as environment:
        for number in range(settings.rounds):
            _say(f"round {number + 1} of {settings.rounds}")
            if scenarios.SYNCHRONOUS in wanted:
                results.hot_loop.append(_hot_loop(server_cpus))
            for contender in chosen:
                turn = _Turn(contender, results, settings, server_cpus, environment)
                turn.take([one for one in SCENARIOS if one.key in wanted])
    return results


def _is_wanted(contender: Contender, options: argparse.Namespace, results: Results) -> bool:
    if options.contender and not any(part in contender.name for part in options.contender):
        return False
    if options.quick and not options.contender and contender.name not in contenders.QUICK:
        return False
    missing = contender.missing()
    if missing:
        results.skipped[contender.name] = f"not installed: {', '.join(missing)}"
    return not missing


class _Turn:
    """One contender's turn in a round."""

    def __init__(
        self,
        contender: Contender,
        results: Results,
        settings: Settings,
        cpus: set[int],
        environment: dict[str, str],
    ) -> None:
        self._contender = contender
        self._results = results
        self._settings = settings
        self._cpus = cpus
        self._environment = environment

    def take(self, wanted: list[Scenario]) -> None:
        """Measure all scenarios that the contender has a part in."""
        todo = [one for one in wanted if one.key in self._contender.scenarios]
        for scenario in todo:
            if scenario.needs_new_process:
                self._measure([scenario])
        self._measure([one for one in todo if not one.needs_new_process])

    def _measure(self, todo: list[Scenario]) -> None:
        """Measure scenarios on one server; one that fails leaves the rest to a new server."""
        todo = list(todo)
        while todo:
            try:
                with self._server() as server:
                    while todo:
                        self._one(server, todo.pop(0))
            except (OSError, RuntimeError, TimeoutError, EOFError) as error:
                _say(f"    {type(error).__name__}: {error}")
                if not isinstance(error, _ScenarioFailed):
                    self._results.skipped[self._contender.name] = _first_line(error)
                    return

    def _one(self, server: ServerProcess, scenario: Scenario) -> None:
        name = self._contender.name
        start = time.monotonic()
        try:
            if not scenario.needs_new_process:
                scenarios.settle(server, self._contender.first_path)
            figures = scenario.run(server, self._settings)
        except Exception as error:
            self._results.skipped[f"{name}, {scenario.title}"] = _first_line(error)
            raise _ScenarioFailed(f"{name}, {scenario.key}: {error!r}\n{server.log()}") from error
        self._results.add(name, scenario.key, figures)
        shown = ", ".join(f"{key} {value:,.2f}" for key, value in figures.items())
        _say(f"  {name}, {scenario.key}: {shown} ({time.monotonic() - start:.1f} s)")

    def _server(self) -> ServerProcess:
        port = free_port()
        return ServerProcess(
            self._contender.command(port),
            port=port,
            cpus=self._cpus,
            environment=self._environment,
            first_path=self._contender.first_path,
        )


class _ScenarioFailed(RuntimeError):
    """A scenario failed, for which the rest of the turn is not to blame."""


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


@contextmanager
def _surroundings(settings: Settings, cpus: set[int]) -> Iterator[dict[str, str]]:
    """Provide the file that is downloaded and the upstream that is called, by their names."""
    port = free_port()
    upstream = ServerProcess(
        module("benchmarks.serve", "upstream", f"--port={port}"),
        port=port,
        cpus=cpus,
        environment={},
        first_path="/",
    )
    with upstream, tempfile.NamedTemporaryFile(suffix=".bin") as file:
        file.truncate(settings.size)
        while file.read(1 << 20):  # It comes from memory for everybody.
            pass
        yield {
            "BENCHMARK_FILE": file.name,
            "BENCHMARK_UPSTREAM": f"http://127.0.0.1:{port}/",
        }


def _hot_loop(cpus: set[int]) -> float:
    """Return the microseconds that Flask takes when it is called over and over."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)  # Inherited.
    try:
        output = subprocess.run(
            module("benchmarks.hot_loop"),
            capture_output=True,
            text=True,
            check=True,
            cwd=_HERE.parent,
        ).stdout
    finally:
        os.sched_setaffinity(0, own)
    return float(output) * 1e6


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
