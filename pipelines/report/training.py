"""Curves of `metrics.jsonl` and tables of evaluation files, whatever keys they hold.

metrics.jsonl     one JSON object a line; `step` and numbers, nested objects allowed ({"losses": {"global": 0.7}})
evaluation JSON   an object of numbers, nested; an estimate with its interval is {"value": 0.5, "low": 0.4, "high": 0.6}
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipelines.report import charts

MAX_LINES = 1_000_000
MAX_PANELS = 24
NOT_CURVES = (
    "step",
    "epoch",
    "time",
    "seconds",
    "wall",
    "timestamp",
    "elapsed",
    "rank",
    "world_size",
    "stage",
    "samples",
    "tokens",
)
MIDDLE = ("value", "mean", "estimate")
LOW, HIGH = ("low", "lower", "ci_low"), ("high", "upper", "ci_high")


@dataclass
class Training:
    names: list[str]
    panels: list[tuple[str, Markup]]
    last: list[dict[str, Any]]  # name, steps, last loss
    faults: list[str]


@dataclass
class Evaluation:
    """rows: metric and one shown value per column, "" where a file lacks it."""

    columns: list[str]
    rows: list[tuple[str, list[str]]]
    faults: list[str]


def training(folders: Sequence[Path]) -> Training | None:
    """The curves of several trainings in common panels, the loss first."""
    if not folders:
        return None
    faults: list[str] = []
    curves: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(dict)
    names, last = [], []
    for name, folder in zip(_names(folders), folders, strict=True):
        path = folder / "metrics.jsonl" if folder.is_dir() else folder
        mine: dict[str, list[tuple[float, float]]] = defaultdict(list)
        step = 0.0
        try:
            for i, record in enumerate(_lines(path, faults)):
                step = float(record.get("step", record.get("global_step", i)))
                for key, value in flatten(record):
                    if key.rpartition(".")[2] not in NOT_CURVES and math.isfinite(value):
                        mine[key].append((step, value))
        except OSError as error:
            faults.append(f"{path}: {error.strerror or error}")
            continue
        names.append(name)
        for key, points in mine.items():
            curves[key][name] = points
        loss = next((mine[key] for key in ("loss", "loss.total", "total_loss", "losses.total") if key in mine), [])
        last.append(
            {"name": name, "steps": int(step), "first": loss[0][1] if loss else None, "loss": loss[-1][1] if loss else None}
        )
    moving = {key: by for key, by in curves.items() if any(len({y for _, y in points}) > 1 for points in by.values())}
    panels = []
    for key in sorted(moving, key=_rank)[:MAX_PANELS]:
        in_order = {name: moving[key].get(name, []) for name in names}
        panels.append((key, charts.lines(in_order, "step", key)))
    return Training(names, panels, last, faults)


def evaluations(files: Sequence[Path]) -> Evaluation | None:
    """One table of all files side by side."""
    if not files:
        return None
    faults: list[str] = []
    columns: list[str] = []
    found: dict[str, dict[str, str]] = {}
    for name, path in zip(_names(files), files, strict=True):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            faults.append(f"{path.name}: cannot be read: {error}")
            continue
        columns.append(name)
        for metric, shown in _shown(content):
            found.setdefault(metric, {})[name] = shown
    return Evaluation(columns, [(metric, [by.get(name, "") for name in columns]) for metric, by in found.items()], faults)


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Dotted key and value of every number in nested objects; truth values and lists are no measurements."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield prefix, float(value)


def _shown(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        middle = next((value[key] for key in MIDDLE if _is_number(value.get(key))), None)
        low, high = (next((value[key] for key in keys if _is_number(value.get(key))), None) for keys in (LOW, HIGH))
        if low is None and isinstance(value.get("interval"), list) and len(value["interval"]) == 2:
            low, high = value["interval"]
        if middle is not None and low is not None and high is not None:
            yield prefix or "value", f"{_value(middle)} ({_value(low)} – {_value(high)})"
            return
        for key, inner in value.items():
            yield from _shown(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list):
        if value and all(_is_number(item) for item in value) and len(value) <= 8:
            yield prefix, " · ".join(map(_value, value))
        elif all(isinstance(item, dict) for item in value):
            for i, item in enumerate(value):
                label = next((str(item[key]) for key in ("name", "task", "metric", "dataset") if key in item), str(i))
                yield from _shown(item, f"{prefix}.{label}" if prefix else label)
    elif value is not None:
        yield prefix, _value(value) if _is_number(value) else str(value)[:200]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _value(value: Any) -> str:
    if not _is_number(value):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if math.isfinite(value) else str(value)


def _rank(key: str) -> tuple[int, str]:
    """The loss, its terms, what the optimiser does, the scales, then the machine."""
    leaf = key.lower()
    if leaf in ("loss", "total_loss", "loss.total", "losses.total"):
        return (0, key)
    last = ("lr", "grad", "logit", "threshold", "norm", "per_s", "wait", "seconds", "memory", "bad")
    return (next((2 + i for i, word in enumerate(last) if word in leaf), 1), key)


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest endings of the paths that tell them apart."""
    whole = [path.resolve().with_suffix("") if path.suffix == ".json" else path.resolve() for path in paths]
    for length in range(1, max(len(path.parts) for path in whole) + 1):
        names = ["/".join(path.parts[-length:]) for path in whole]
        if len(set(names)) == len(set(whole)):
            return names
    return [str(path) for path in whole]


def _lines(path: Path, faults: list[str]) -> Iterator[dict[str, Any]]:
    bad = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for i, line in enumerate(file):
            if i >= MAX_LINES:
                faults.append(f"{path.name}: only the first {MAX_LINES:,} lines are shown")
                break
            try:
                record = json.loads(line)
            except ValueError:
                bad += bool(line.strip())
                continue
            if isinstance(record, dict):
                yield record
            else:
                bad += 1
    if bad > 1:  # one torn last line is what a kill leaves
        faults.append(f"{path.name}: {bad} lines are no JSON objects")
