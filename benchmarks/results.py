"""The figures of a run: every round's kept, medians reported."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Results:
    """What a run has found."""

    #: Date, machine, versions and settings, as they are shown.
    about: dict[str, str] = field(default_factory=dict)
    #: By contender, scenario and metric: one value per round.
    values: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    #: Contender, or contender and scenario, to the reason why figures are missing.
    skipped: dict[str, str] = field(default_factory=dict)
    #: Seconds for one call of Flask in process, one value per round.
    hot_loop: list[float] = field(default_factory=list)

    def add(self, contender: str, scenario: str, figures: dict[str, float]) -> None:
        """Add the figures of one round."""
        metrics = self.values.setdefault(contender, {}).setdefault(scenario, {})
        for metric, value in figures.items():
            metrics.setdefault(metric, []).append(value)

    def median(self, contender: str, scenario: str, metric: str) -> float | None:
        """Return the median over the rounds, or ``None`` if it was not measured."""
        found = self.values.get(contender, {}).get(scenario, {}).get(metric)
        return statistics.median(found) if found else None

    def contenders(self, scenario: str) -> list[str]:
        """Return those that have figures for a scenario."""
        return [name for name, scenarios in self.values.items() if scenario in scenarios]

    def save(self, path: Path) -> None:
        """Write everything to a JSON file."""
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what :meth:`save` has written."""
        return cls(**json.loads(path.read_text()))
