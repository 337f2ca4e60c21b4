"""Where and with what a run was made."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from .scenarios import Settings

_DISTRIBUTIONS: Final = (
    "flask-aio-core",
    "flask",
    "werkzeug",
    "aiohttp",
    "greenlet",
    "uvloop",
    "httptools",
    "quart",
    "uvicorn",
    "hypercorn",
    "gunicorn",
    "gevent",
    "granian",
    "a2wsgi",
    "flask-sock",
    "starlette",
)


def describe(settings: Settings, *distributions: str) -> dict[str, str]:
    """Return what is written at the head of the report.

    :param distributions: more of those whose versions matter.
    """
    return {
        "Date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "Machine": f"{_processor()}, {os.cpu_count()} processors, {platform.system()}"
        f" {platform.release()}",
        "Python": f"{platform.python_implementation()} {sys.version.split()[0]}",
        "Versions": ", ".join(_versions(*_DISTRIBUTIONS, *distributions)),
        "Run": f"{settings.rounds} rounds, {settings.seconds:g} s for each load,"
        f" {settings.size / (1 << 30):g} GiB down and up",
        "Load average before": f"{os.getloadavg()[0]:.2f}",
    }


def _versions(*distributions: str) -> list[str]:
    found = []
    for name in distributions:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
