"""The results as Markdown: goals first, then a table for each scenario."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence

from .goals import GOALS, SUBJECTS, Goal
from .results import Results
from .scenarios import SCENARIOS, SYNCHRONOUS, Scenario

_LESS_IS_BETTER = frozenset({"cpu", "seconds", "memory", "ratio"})


def markdown(results: Results) -> str:
    """Return the report."""
    return "\n".join(_lines(results)) + "\n"


def goal_table(results: Results) -> Iterator[str]:
    """Yield the lines of the table of the goals."""
    subjects = [name for name in SUBJECTS if name in results.values]
    yield from table(
        ["goal", "bound", *(name.removeprefix("flask-aio, ") for name in subjects)],
        (
            [goal.title, _bound(goal), *(_judged(goal, results, name) for name in subjects)]
            for goal in GOALS
        ),
    )


def _lines(results: Results) -> Iterator[str]:
    yield from head("Results", "make bench", results)
    yield "![Server CPU time per request](results.svg)"
    yield ""
    yield "## Goals"
    yield ""
    yield "Each is compared with the reference on the same event loop."
    yield ""
    # The page on performance of the documentation includes what is between these two.
    yield "<!-- goals -->"
    yield ""
    yield from goal_table(results)
    yield ""
    yield "<!-- /goals -->"
    for scenario in SCENARIOS:
        if results.contenders(scenario.key):
            yield ""
            yield from _scenario(results, scenario)
    yield from not_measured(results)


def head(title: str, command: str, results: Results) -> Iterator[str]:
    """Yield how a report begins: how it was made, when and on what."""
    yield f"# {title}"
    yield ""
    yield f"Written by `{command}`; [README.md](README.md) says what is measured and how."
    yield "Medians of one run on one machine: compare them with each other, not with another run's."
    yield ""
    for name, text in results.about.items():
        yield f"- {name}: {text}"
    yield ""


def not_measured(results: Results) -> Iterator[str]:
    """Yield what was left out, and why."""
    if results.skipped:
        yield ""
        yield "## Not measured"
        yield ""
        for name, reason in results.skipped.items():
            yield f"- {name}: {reason}"


def _scenario(results: Results, scenario: Scenario) -> Iterator[str]:
    first = scenario.metrics[0].key

    def order(name: str) -> float:
        value = results.median(name, scenario.key, first) or 0.0
        return value if first in _LESS_IS_BETTER else -value

    yield f"## {scenario.title}"
    yield ""
    yield scenario.text
    yield ""
    yield from table(
        ["contender", *(metric.title for metric in scenario.metrics)],
        (
            [name, *_figures(results, scenario, name)]
            for name in sorted(results.contenders(scenario.key), key=order)
        ),
    )
    if scenario.key == SYNCHRONOUS and results.hot_loop:
        yield ""
        yield (
            f"Flask called in process in a hot loop takes {statistics.median(results.hot_loop):.0f}"
            " µs. That is no server's figure and belongs into no comparison: with the caches of a"
            " live server the same call costs 1.5 to 2 times as much."
        )


def _figures(results: Results, scenario: Scenario, name: str) -> Iterator[str]:
    for metric in scenario.metrics:
        value = results.median(name, scenario.key, metric.key)
        yield "-" if value is None else f"{value:,.{metric.digits}f}"


def _bound(goal: Goal) -> str:
    sign = {"<=": "≤", ">=": "≥"}.get(goal.relation, goal.relation)
    return f"{sign} {goal.bound:g}{goal.unit}"


def _judged(goal: Goal, results: Results, subject: str) -> str:
    value = goal.value(results, subject)
    if value is None:
        return "-"
    return f"{value:.2f}{goal.unit}, {'met' if goal.is_met(value) else '**not met**'}"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table."""
    yield f"| {' | '.join(titles)} |"
    yield f"|{' --- |' * len(titles)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
