"""Small charts as inline SVG: they need no script, scale with the page and take their colours from its style sheet.

Every function returns Markup; each text that goes in is escaped here. Colours are the style sheet's classes s0 … s5 (series).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

WIDTH, HEIGHT = 360, 190
RIGHT, TOP, BOTTOM = 10, 12, 40
SERIES = 6
LABEL = 30
"""Room that a label of the x axis takes."""
POINTS = 300
"""Points of a curve; a longer one is averaged down to them."""


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers that cover low … high, the first not above low, the last not below high."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def number(value: float) -> str:
    """As few characters as tell it: 1,200 · 0.25 · 1e-05."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value / 1e6:g} M"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """Ticks with as many digits as tell them apart."""
    step = min((b - a for a, b in itertools.pairwise(ticks)), default=1.0) or 1.0
    if max(map(abs, ticks)) < 0.01:
        return ["0" if tick == 0 else f"{tick:.1e}".replace(".0e", "e").replace("e-0", "e-") for tick in ticks]
    digits = max(0, math.ceil(-math.log10(step) - 1e-9))
    digits += round(step * 10**digits, 6) % 1 != 0  # steps of 2.5
    return [number(tick) if tick >= 1e6 else f"{tick:,.{digits}f}" for tick in ticks]


def histogram(values: Sequence[float], x_label: str, y_label: str, edges: Sequence[float], whole: bool = False) -> Markup:
    """Shares of `values` between the `edges`; what lies outside counts in the first and last bar, marked ≤ and ≥.

    whole: the values are counts, so each bar stands for its left edge and is labelled in its middle.
    """
    bins = len(edges) - 1
    counts = [0] * bins
    for value in values:
        at = next((i for i in range(bins) if value < edges[i + 1]), bins - 1)
        counts[at] += 1
    total = max(len(values), 1)
    shares = [100 * count / total for count in counts]
    ticks = nice_ticks(0, max(shares, default=1) or 1, 4)
    y = _scale(0, ticks[-1], HEIGHT - BOTTOM, TOP)
    axis, left = _y_axis(ticks, [f"{text} %" for text in tick_texts(ticks)], y, y_label)
    step = (WIDTH - left - RIGHT) / bins
    parts = [axis]
    beyond = any(value >= edges[-1] for value in values)
    every = math.ceil(LABEL / step)
    for i, share in enumerate(shares):
        x = left + i * step
        last = i == bins - 1 and beyond
        span = f"{number(edges[i])}" if whole else f"{number(edges[i])} – {number(edges[i + 1])}"
        span = f"≥ {number(edges[i])}" if last else span
        if counts[i]:
            parts.append(
                Markup('<rect class="bar" x="{}" y="{}" width="{}" height="{}"><title>{}: {} ({} %)</title></rect>').format(
                    _n(x + 1), _n(y(share)), _n(step - 2), _n(y(0) - y(share)), span, f"{counts[i]:,}", f"{share:.1f}"
                )
            )
        if whole and i % every == 0:
            parts.append(_x_tick(x + step / 2, f"{number(edges[i])}{'+' if last else ''}"))
        elif not whole and i % every == 0 and x < WIDTH - RIGHT - LABEL:
            parts.append(_x_tick(x, number(edges[i])))
    if not whole:
        parts.append(_x_tick(WIDTH - RIGHT, f"{number(edges[-1])}{'+' if beyond else ''}", "end"))
    parts.append(_x_label(x_label, left))
    return _svg(parts, f"{x_label}: histogram of {len(values):,} values")


def even_edges(values: Sequence[float], bins: int = 20) -> list[float]:
    """Round edges from about the least to the 99th percentile."""
    ordered = sorted(values) or [0.0, 1.0]
    ticks = nice_ticks(ordered[0], ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], bins)
    return ticks if len(ticks) > 2 else [ticks[0], (ticks[0] + ticks[-1]) / 2, ticks[-1]]


def lines(series: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str) -> Markup:
    """Curves over a common x axis; `series` maps a name to points (x, y). Its order gives the colours."""
    kept = {name: [p for p in points if all(map(math.isfinite, p))] for name, points in series.items()}
    every = [point for points in kept.values() for point in points]
    if not every:
        return Markup("")
    xs = [x for x, _ in every]
    ordered = sorted(y for _, y in every)
    # A few wild first steps must not flatten the rest of the curve.
    low, high = ordered[int(0.005 * (len(ordered) - 1))], ordered[math.ceil(0.995 * (len(ordered) - 1))]
    ticks = nice_ticks(low, high, 4)
    y = _scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)
    x_ticks = nice_ticks(min(xs), max(xs), 5)
    axis, left = _y_axis(ticks, tick_texts(ticks), y, y_label)
    x = _scale(min(xs), max(max(xs), min(xs) + 1), left, WIDTH - RIGHT)
    parts = [axis]
    for tick in x_ticks:
        if min(xs) <= tick <= max(xs):
            parts.append(_x_tick(x(tick), number(tick)))
    for i, points in enumerate(kept.values()):
        if not points:
            continue
        path = " ".join(f"{_n(x(px))},{_n(min(max(y(py), TOP), HEIGHT - BOTTOM))}" for px, py in thin(points))
        if len(points) == 1:
            px, py = path.split(",")
            parts.append(Markup('<circle class="dot s{}" cx="{}" cy="{}" r="3"/>').format(i % SERIES, px, py))
        else:
            parts.append(Markup('<polyline class="curve s{}" points="{}"/>').format(i % SERIES, path))
    parts.append(_x_label(x_label, left))
    return _svg(parts, f"{y_label} over {x_label}: {', '.join(series)}")


def thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most POINTS points: means over runs of neighbours."""
    if len(points) <= POINTS:
        return list(points)
    size = math.ceil(len(points) / POINTS)
    runs = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(p[0] for p in run) / len(run), sum(p[1] for p in run) / len(run)) for run in runs]


def _scale(low: float, high: float, at_low: float, at_high: float) -> Callable[[float], float]:
    return lambda value: at_low + (value - low) / ((high - low) or 1.0) * (at_high - at_low)


def _n(value: float) -> str:
    return f"{value:.1f}"


def _y_axis(ticks: Sequence[float], texts: Sequence[str], y: Callable[[float], float], label: str) -> tuple[Markup, float]:
    """The axis with its grid, and where the plot begins: longer numbers take more room."""
    left = 23 + 6 * max(map(len, texts))
    parts = []
    for tick, text in zip(ticks, texts, strict=True):
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(left, WIDTH - RIGHT, y=_n(y(tick)))
        )
        parts.append(Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(left - 5, _n(y(tick) + 3.5), text))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    name = Markup('<text class="axis" transform="translate(10 {}) rotate(-90)" text-anchor="middle">{}</text>')
    parts.append(name.format(middle, label))
    return Markup("").join(parts), left


def _x_tick(x: float, text: str, anchor: str = "middle") -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(_n(x), HEIGHT - BOTTOM + 14, anchor, text)


def _x_label(label: str, left: float) -> Markup:
    return Markup('<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>').format(
        (left + WIDTH - RIGHT) / 2, HEIGHT - 7, label
    )


def _svg(parts: Sequence[Markup], about: str) -> Markup:
    head = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, about)
    return head + Markup("").join(parts) + Markup("</svg>")


__all__ = ["SERIES", "even_edges", "histogram", "lines", "nice_ticks", "number", "thin"]
