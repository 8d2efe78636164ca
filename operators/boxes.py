"""Box geometry: from the pixels a model answers in to fractions of the picture, and back; overlap; suppression.

Boxes are x1, y1, x2, y2. Fractions lie in [0, 1] of the upright picture. Since a picture is resized as a whole before it is
sent, pixels divided by the sent sides are exact fractions, whatever the picture's own size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from operators.base import Ask

Box = tuple[float, float, float, float]


class BadBox(ValueError):
    """Why a box cannot be used; `reason` is the machine word."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def numbers(value: Any) -> Box:
    """Four finite numbers from whatever the answer holds, or BadBox "not_a_box"."""
    if not isinstance(value, list | tuple) or len(value) != 4:
        raise BadBox("not_a_box", f"expected four numbers, got {str(value)[:60]}")
    for x in value:
        # bool is an int in Python, and JSON integers may exceed what a float holds.
        if isinstance(x, bool) or not isinstance(x, int | float) or abs(x) > 1e9 or not math.isfinite(x):
            raise BadBox("not_a_box", f"expected four numbers, got {str(value)[:60]}")
    x1, y1, x2, y2 = (float(x) for x in value)
    return x1, y1, x2, y2


def repair(box: Box, width: float = 1.0, height: float = 1.0) -> Box:
    """A usable box as fractions: swapped corners put right, overflow clipped.

    box             in the same units as width and height
    BadBox          "outside": less than half of it lies in the picture; "empty_box": it has no area
    """
    x1, x2 = sorted((box[0] / width, box[2] / width))
    y1, y2 = sorted((box[1] / height, box[3] / height))
    if x1 == x2 or y1 == y2:
        raise BadBox("empty_box", f"box {show(box)} has no area")
    clipped = (min(max(x1, 0.0), 1.0), min(max(y1, 0.0), 1.0), min(max(x2, 0.0), 1.0), min(max(y2, 0.0), 1.0))
    if area(clipped) < 0.5 * (x2 - x1) * (y2 - y1):
        raise BadBox("outside", f"box {show(box)} lies mostly outside {width:g} x {height:g}")
    return clipped


def sent_size(size: tuple[int, int], ask: Ask) -> tuple[int, int]:
    """Sides in pixels of a picture of this size as the model sees it: what `ask.sent_size` says, since the client holds the budget."""
    tell = getattr(ask, "sent_size", None)
    if tell is None:
        raise RuntimeError("this `ask` has no sent_size(size), so boxes in pixels of the sent picture cannot be mapped back")
    width, height = tell(size)
    return width, height


def to_pixels(box: Sequence[float], width: int, height: int) -> list[int]:
    """Fractions to whole pixels of a picture of this size, at least one pixel large."""
    x1, y1 = math.floor(box[0] * width + 0.5), math.floor(box[1] * height + 0.5)
    x1, y1 = min(x1, width - 1), min(y1, height - 1)
    return [x1, y1, max(x1 + 1, math.floor(box[2] * width + 0.5)), max(y1 + 1, math.floor(box[3] * height + 0.5))]


def area(box: Sequence[float]) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union, 0 for empty boxes."""
    common = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    union = area(a) + area(b) - common
    return common / union if union > 0 else 0.0


def suppress(boxes: Sequence[Sequence[float]], threshold: float) -> list[int | None]:
    """Non-maximum suppression, best box first: entry i is the index of the kept box that i repeats, or None if i is kept."""
    kept: list[int] = []
    loses_to: list[int | None] = []
    for i, box in enumerate(boxes):
        winner = next((k for k in kept if iou(boxes[k], box) > threshold), None)
        loses_to.append(winner)
        if winner is None:
            kept.append(i)
    return loses_to


def show(box: Sequence[float]) -> str:
    return "[" + ", ".join(f"{x:.4g}" for x in box) + "]"
