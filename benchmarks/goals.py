"""What this project sets out to reach, as ratios within one run on one machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from . import contenders as c
from . import scenarios as s
from .results import Results

#: Our contender, and the references on the same event loop: raw aiohttp and the floor.
SUBJECTS: Final[dict[str, tuple[str, str]]] = {
    c.AIO_RUN: (c.RAW, c.FLOOR),
    c.AIO_RUN_UVLOOP: (c.RAW_UVLOOP, c.FLOOR_UVLOOP),
    c.WORKER: (c.RAW, c.FLOOR),
    c.WORKER_UVLOOP: (c.RAW_UVLOOP, c.FLOOR_UVLOOP),
}
#: Stand for the reference on the same event loop in the goals below.
_RAW: Final = "RAW"
_FLOOR: Final = "FLOOR"

Figure = tuple[str, str]


@dataclass(frozen=True)
class Goal:
    """A bound for a figure of ours, or for its ratio to another contender's."""

    title: str
    relation: Literal["<=", ">=", "<"]
    bound: float
    #: Scenario and metric of ours.
    ours: Figure
    #: Whose figure it is divided by; nothing is divided without.
    other: str | None = None
    #: Scenario and metric of the other one, if they are not the same.
    theirs: Figure | None = None
    unit: str = ""

    def value(self, results: Results, subject: str) -> float | None:
        """Return the figure for one of ours, or ``None`` if it was not measured."""
        ours = results.median(subject, *self.ours)
        if ours is None or self.other is None:
            return ours
        raw, floor = SUBJECTS[subject]
        other = {_RAW: raw, _FLOOR: floor}.get(self.other, self.other)
        theirs = results.median(other, *(self.theirs or self.ours))
        return ours / theirs if theirs else None

    def is_met(self, value: float) -> bool:
        """Whether a figure reaches the goal."""
        compare: dict[str, Callable[[float, float], bool]] = {
            "<=": lambda one, other: one <= other,
            ">=": lambda one, other: one >= other,
            "<": lambda one, other: one < other,
        }
        return compare[self.relation](value, self.bound)


GOALS: Final[tuple[Goal, ...]] = (
    Goal(
        "Coroutine JSON view: CPU per request against the floor with a synchronous view",
        "<=",
        1.05,
        (s.COROUTINE, "cpu"),
        _FLOOR,
        (s.SYNCHRONOUS, "cpu"),
    ),
    Goal(
        "Synchronous JSON view, in its thread: CPU per request against the floor",
        "<=",
        1.30,
        (s.SYNCHRONOUS, "cpu"),
        _FLOOR,
    ),
    Goal(
        "Coroutine JSON view: requests per second against Quart on uvicorn",
        ">=",
        1.5,
        (s.COROUTINE, "rate"),
        c.QUART,
    ),
    Goal(
        "Synchronous JSON view: requests per second against gunicorn gthread",
        ">=",
        2.0,
        (s.SYNCHRONOUS, "rate"),
        c.GTHREAD,
    ),
    Goal(
        "Synchronous JSON view: requests per second against Granian",
        ">=",
        0.8,
        (s.SYNCHRONOUS, "rate"),
        c.GRANIAN,
    ),
    Goal(
        "1,000 connections that wait: requests per second against raw aiohttp",
        ">=",
        0.5,
        (s.WAIT, "rate"),
        _RAW,
    ),
    Goal(
        "1,000 connections that wait: requests per second against gthread with 32 threads",
        ">=",
        10,
        (s.WAIT, "rate"),
        c.GTHREAD,
    ),
    Goal(
        "WebSocket echo: messages per second against raw aiohttp",
        ">=",
        0.95,
        (s.ECHO, "rate"),
        _RAW,
    ),
    Goal("Memory per idle WebSocket against raw aiohttp", "<=", 1.3, (s.IDLE, "memory"), _RAW),
    Goal(
        "Download: MB per CPU second against aiohttp's FileResponse",
        ">=",
        0.9,
        (s.DOWNLOAD, "per_cpu"),
        _RAW,
    ),
    Goal(
        "Upload: peak memory growth",
        "<",
        20,
        (s.UPLOAD, "growth"),
        unit=" MB",
    ),
    Goal(
        "Upload: MB per CPU second against raw aiohttp",
        ">=",
        0.6,
        (s.UPLOAD, "per_cpu"),
        _RAW,
    ),
    Goal(
        "p99 of a coroutine view beside busy synchronous ones, against without them",
        "<=",
        3,
        (s.MIXED, "ratio"),
    ),
)
