"""Shares with their intervals, and the lines that a report is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Share:
    """hits of n, with Wilson's 95 % interval."""

    hits: float
    n: int

    @property
    def value(self) -> float:
        return self.hits / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        if not self.n:
            return math.nan, math.nan
        z, p = 1.96, self.value
        middle = (p + z * z / (2 * self.n)) / (1 + z * z / self.n)
        half = z / (1 + z * z / self.n) * math.sqrt(p * (1 - p) / self.n + z * z / (4 * self.n * self.n))
        return max(0.0, middle - half), min(1.0, middle + half)

    def __str__(self) -> str:
        if not self.n:
            return "   –     n = 0"
        low, high = self.interval
        return f"{self.value:6.1%}  [{low:.1%}, {high:.1%}]  n = {self.n:,}"


@dataclass
class Report:
    """Sections of named figures; printed as they come, and kept for `--json`."""

    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    _title: str = ""

    def section(self, title: str) -> None:
        self._title = title
        self.sections[title] = {}
        print(f"\n{title}", flush=True)

    def share(self, name: str, hits: float, n: int, goal: str = "") -> Share:
        share = Share(hits, n)
        self.sections[self._title][name] = {
            "value": share.value if n else None,
            "interval": share.interval if n else None,
            "n": n,
        }
        print(f"  {name:<58} {share}{f'   goal {goal}' if goal else ''}", flush=True)
        return share

    def note(self, name: str, value: Any) -> None:
        self.sections[self._title][name] = value
        print(f"  {name:<58} {value}", flush=True)
