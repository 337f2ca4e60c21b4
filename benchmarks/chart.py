"""The server's CPU time per request, as an SVG bar chart."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Final

from .contenders import CONTENDERS
from .results import Results
from .scenarios import COROUTINE, ECHO, SCENARIOS, SYNCHRONOUS

_COLOURS: Final = {"ours": "#1a7f5a", "reference": "#8a94a6", "peer": "#c9b27c"}
_LEGEND: Final = {"ours": "this project", "reference": "reference", "peer": "peer"}
_WIDTH, _NAMES, _BAR, _GAP, _HEAD = 820, 240, 16, 6, 44
_CHARTED: Final = (SYNCHRONOUS, COROUTINE, ECHO)


def svg(results: Results) -> str:
    """Return the chart: one group of bars for each of the main scenarios, the shortest on top."""
    body: list[str] = []
    y = 34
    for key in _CHARTED:
        bars = _bars(results, key)
        if bars:
            body += _group(key, bars, y)
            y += _HEAD + len(bars) * (_BAR + _GAP) + 14
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" width="{_WIDTH}"'
        f' height="{y}" font-family="system-ui, sans-serif" font-size="12" role="img">'
    )
    return "\n".join(
        [
            head,
            "<title>Server CPU time per request; shorter is better</title>",
            f'<rect width="{_WIDTH}" height="{y}" fill="#ffffff"/>',
            *_legend(),
            *body,
            "</svg>\n",
        ]
    )


def _bars(results: Results, scenario: str) -> list[tuple[float, str, str]]:
    """Return value, name and colour of each bar."""
    kinds = {contender.name: contender.kind for contender in CONTENDERS}
    found = []
    for name in results.contenders(scenario):
        value = results.median(name, scenario, "cpu")
        if value is not None:
            found.append((value, name, _COLOURS[kinds.get(name, "peer")]))
    return sorted(found)


def _legend() -> Iterator[str]:
    x = 16
    for kind, text in _LEGEND.items():
        yield f'<rect x="{x}" y="12" width="12" height="12" fill="{_COLOURS[kind]}"/>'
        yield f'<text x="{x + 18}" y="22" fill="#333">{text}</text>'
        x += 120


def _group(scenario: str, bars: list[tuple[float, str, str]], y: int) -> Iterator[str]:
    title = next(one for one in SCENARIOS if one.key == scenario)
    unit = title.metrics[0].title
    yield (
        f'<text x="16" y="{y + 26}" font-size="15" font-weight="600" fill="#111">'
        f"{escape(title.title)}: {escape(unit)}</text>"
    )
    scale = (_WIDTH - _NAMES - 80) / bars[-1][0]
    for row, (value, name, colour) in enumerate(bars):
        top = y + _HEAD + row * (_BAR + _GAP)
        middle = top + _BAR - 4
        yield f'<text x="{_NAMES - 8}" y="{middle}" text-anchor="end">{escape(name)}</text>'
        yield (
            f'<rect x="{_NAMES}" y="{top}" width="{value * scale:.1f}" height="{_BAR}"'
            f' fill="{colour}"/>'
        )
        yield f'<text x="{_NAMES + value * scale + 6:.1f}" y="{middle}">{value:,.0f}</text>'
