"""Measures SQLAlchemy under load: ``python -m benchmarks.databases``, in less than six minutes.

It starts a PostgreSQL cluster of its own from the installed programs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from . import load, machine
from .apps import database_model as model
from .contenders import gunicorn, uvicorn
from .report import head, not_measured, table
from .results import Results
from .scenarios import Settings, settle
from .server_process import ServerError, ServerProcess, free_port, module, processors

_HERE: Final = Path(__file__).resolve().parent
_CLUSTER: Final = _HERE.parent / "integration-tests" / "databases" / "postgresql.py"
_AT_ONCE: Final = (1, 50, 500)
#: Requests to the view beside the load.
_FAST_PER_SECOND: Final = 20
_METRICS: Final = (
    ("rate", "requests/s", 0),
    ("p99", "p99, ms", 0),
    ("cpu", "CPU/request, µs", 0),
    ("gap", "longest stall of the loop, ms", 0),
    ("fast", "p99 of the view beside it, ms", 0),
)


@dataclass(frozen=True)
class Contender:
    """A way to use the database in a server."""

    name: str
    driver: str
    command: Callable[[int], list[str]]
    #: The modules without which it is skipped.
    requires: tuple[str, ...]
    views: str = "coroutine"
    server: str = "asyncio"
    at_once: tuple[int, ...] = _AT_ONCE


def _aio_run(port: int) -> list[str]:
    return module("benchmarks.apps.database_flask", str(port))


CONTENDERS: Final = (
    Contender("flask-aio, coroutine views, asyncpg", "asyncpg", _aio_run, ("asyncpg",)),
    Contender("flask-aio, coroutine views, psycopg async", "psycopg_async", _aio_run, ()),
    Contender(
        "flask-aio, synchronous views, psycopg in threads",
        "psycopg",
        _aio_run,
        (),
        views="synchronous",
    ),
    Contender(
        "flask-aio, coroutine views, psycopg blocking (a mistake)",
        "psycopg",
        _aio_run,
        (),
        at_once=(1, 50),  # It serves one after the other: 500 would take too long.
    ),
    Contender(
        "Quart on uvicorn, SQLAlchemy's asyncio API, asyncpg",
        "asyncpg",
        uvicorn("database_quart"),
        ("quart", "uvicorn", "asyncpg"),
    ),
    Contender(
        "Flask on gunicorn gevent, psycopg",
        "psycopg",
        gunicorn("database_flask", "gevent"),
        ("gunicorn", "gevent"),
        views="synchronous",
        server="gevent",
    ),
)


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.databases", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="each contender's turns")
    parser.add_argument("--seconds", type=float, default=2, help="seconds of each load")
    parser.add_argument("--contender", help="part of a name: print its figures, write nothing")
    options = parser.parse_args()
    # So that the servers are ended, too, when the run is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    load.allow_many_files()
    load_cpus, server_cpus = processors()
    os.sched_setaffinity(0, load_cpus)  # PostgreSQL inherits it.
    about = machine.describe(Settings(), "sqlalchemy", "flask-sqlalchemy", "asyncpg", "psycopg")
    about["Run"] = f"{options.rounds} rounds, {options.seconds:g} s for each load"
    results = Results(about)
    postgresql = _cluster_module()
    folder = postgresql.binaries()
    if folder is None:
        sys.exit("PostgreSQL is not installed (Debian: apt-get install postgresql).")
    with postgresql.run_cluster(folder) as cluster:
        about["Versions"] += f", PostgreSQL {cluster.version()}"
        database = cluster.create_database()
        _fill(database.url("psycopg"))
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            for contender in CONTENDERS:
                if options.contender is None or options.contender in contender.name:
                    _measure(contender, database, server_cpus, options.seconds, results)
    report = "\n".join(_report(results)) + "\n"
    if options.contender is None:
        (_HERE / "DATABASES.md").write_text(report)
    print(report)


def _cluster_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("postgresql", _CLUSTER)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def _fill(url: str) -> None:
    engine = create_engine(url)
    model.Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all(model.Item(name=f"item {number}") for number in range(model.ROWS))
        session.commit()
    engine.dispose()


def _measure(
    contender: Contender, database: Any, cpus: set[int], seconds: float, results: Results
) -> None:
    """Measure one contender under each load; an error is noted, and ends its turn."""
    missing = [name for name in contender.requires if find_spec(name) is None]
    if missing:
        results.skipped[contender.name] = f"not installed: {', '.join(missing)}"
        return
    port = free_port()
    try:
        with ServerProcess(
            contender.command(port),
            port=port,
            cpus=cpus,
            environment={
                "BENCHMARK_DATABASE": database.url(contender.driver),
                "BENCHMARK_VIEWS": contender.views,
                "BENCHMARK_SERVER": contender.server,
            },
            first_path="/rows",
        ) as server:
            for at_once in contender.at_once:
                figures = _figures(server, at_once, seconds)
                results.add(contender.name, str(at_once), figures)
                shown = ", ".join(f"{key} {value:,.1f}" for key, value in figures.items())
                print(f"  {contender.name}, {at_once}: {shown}", file=sys.stderr)
    except (load.LoadError, ServerError, OSError) as error:
        results.skipped[contender.name] = str(error).splitlines()[0]
        print(f"  {contender.name}: {error}", file=sys.stderr)


def _figures(server: ServerProcess, at_once: int, seconds: float) -> dict[str, float]:
    load.requests(server.port, "/rows", seconds=1, connections=at_once)
    settle(server, "/rows")
    _gap(server)
    before = server.cpu_seconds()
    measured = load.requests(server.port, "/rows", seconds=seconds, connections=at_once)
    cpu = server.cpu_seconds() - before
    gap = _gap(server)
    with load.background(server.port, "/rows", connections=at_once):
        beside = load.paced(server.port, "/fast", seconds=seconds, per_second=_FAST_PER_SECOND)
    settle(server, "/rows")
    return {
        "rate": measured.count / measured.seconds,
        "p99": measured.p99 * 1e3,
        "cpu": cpu / measured.count * 1e6,
        "gap": gap * 1e3,
        "fast": beside.p99 * 1e3,
    }


def _gap(server: ServerProcess) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/gap", timeout=60) as answer:
        return float(json.load(answer)["gap"])


def _report(results: Results) -> Iterator[str]:
    yield from head("Databases", "make bench-databases", results)
    yield (
        f"Each request waits 10 ms in the database, then reads {model.PAGE} rows with SQLAlchemy's"
        f" ORM. All have the same pool, of {model.POOL['pool_size']} connections."
    )
    yield (
        "A stall is the longest time for which the event loop did not come round; the view beside"
        f" the load uses no database and is asked for {_FAST_PER_SECOND} times a second."
    )
    for at_once in map(str, _AT_ONCE):
        yield ""
        yield f"## Requests at once: {at_once}"
        yield ""
        yield from table(
            ["contender", *(title for _, title, _ in _METRICS)],
            (
                [name, *(_shown(results, name, at_once, key, d) for key, _, d in _METRICS)]
                for name in results.contenders(at_once)
            ),
        )
    yield from not_measured(results)


def _shown(results: Results, name: str, scenario: str, metric: str, digits: int) -> str:
    value = results.median(name, scenario, metric)
    return "-" if value is None else f"{value:,.{digits}f}"


if __name__ == "__main__":
    main()
