"""Figures for a data set card, from files that `benchmarks.quality --json` and `fineloom review import --json` write."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from pipelines.config import ConfigError
from pipelines.counted import counted

Figure = tuple[str, str, str, str]


def read_quality(file: Path) -> tuple[Figure, ...]:
    """(section, figure, value, cases and interval). ConfigError for a file of another form.

    Two forms: verdicts of reviewers, {"verdicts": {"accept": n, …}, "kappas": [[who, who, κ, pairs]]}; or sections of
    figures, {section: {figure: {"value", "interval": [low, high], "n"}}}.
    """
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--quality {file}: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"--quality {file}: expected an object, found a {type(raw).__name__}")
    try:
        found = _verdicts(raw) if "verdicts" in raw else _sections(raw)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ConfigError(f"--quality {file}: {type(error).__name__}: {error}") from None
    if not found:
        raise ConfigError(
            f"--quality {file}: no figure in it. Sections of {{value, interval, n}} are expected, or reviewers' verdicts"
        )
    return tuple(found)


def wilson(hits: float, n: int) -> tuple[float, float]:
    """95 % interval of a share."""
    z, p = 1.96, hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def _verdicts(raw: dict[str, Any]) -> list[Figure]:
    verdicts = {str(name): int(n) for name, n in raw["verdicts"].items()}
    n = sum(verdicts.values())
    found: list[Figure] = []
    for name, hits in verdicts.items() if n else ():
        low, high = wilson(hits, n)
        found.append(("people's verdicts", name, f"{hits / n:.1%}", f"{counted(n, 'pair')}, {low:.1%} to {high:.1%}"))
    for first, second, kappa, both in raw.get("kappas", []):
        shown = "not defined" if kappa is None else f"{kappa:.2f}"
        found.append(
            ("people's verdicts", f"Cohen's κ of {first} and {second}", shown, f"{counted(both, 'pair')} judged by both")
        )
    return found


def _sections(raw: dict[str, Any]) -> list[Figure]:
    found: list[Figure] = []
    for section, figures in raw.items():
        for name, figure in figures.items() if isinstance(figures, dict) else ():
            if isinstance(figure, dict) and figure.get("value") is not None:
                n, interval = figure.get("n"), figure.get("interval")
                share = interval is not None
                value = f"{figure['value']:.1%}" if share else f"{figure['value']:g}"
                rests = [f"{n:,} cases"] if n is not None else []
                rests += [f"{interval[0]:.1%} to {interval[1]:.1%}"] if interval is not None else []
                found.append((section, name, value, ", ".join(rests) or "no interval"))
    return found
