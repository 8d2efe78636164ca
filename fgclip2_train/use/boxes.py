"""Boxes of a phrase in a picture, out of the dense map.

The map of the phrase (`dense.py`) is cut into "more like the phrase" and "less" by Otsu's threshold, and what lies above once more,
since the first cut often only parts things from background; the box is the rectangle of patches whose sum above the cut is largest,
the next box the same with that rectangle taken away. Each box then gets the similarity of its region vector, pooled as in training.

This is no detector: it knows nothing of objects, two things of a kind that touch are one box, edges lie on the grid of patches (more
`patches`, finer edges), and there is always a best box, for a phrase that is not in the picture too. Judge by `similarity`, against
other phrases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from fgclip2_train.use.dense import dense_maps
from fgclip2_train.use.towers import Towers

APART = 0.2
"""Second cut: the two groups' distance as a share of the first cut's. On drawn scenes 0 to 0.2 gave the best boxes."""
WEAK = 0.5
"""A further box must hold this share of the first one's mean height above the threshold."""


@dataclass(frozen=True)
class Box:
    """box: x1, y1, x2, y2 as fractions of the upright picture. similarity: cosine of its region vector with the phrase. contrast: mean
    of the map inside minus outside."""

    box: list[float]
    similarity: float
    contrast: float

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def find_boxes(
    towers: Towers, picture: Image.Image, phrases: Sequence[str], *, most: int = 3, patches: int | None = None
) -> list[list[Box]]:
    """Up to `most` boxes of each phrase, the strongest first."""
    maps = dense_maps(towers, picture, phrases, patches)
    found = [rectangles(values, most) for values in maps]
    rows, columns = maps.shape[1:]
    fractions = [[[x1 / columns, y1 / rows, x2 / columns, y2 / rows] for y1, x1, y2, x2 in each] for each in found]
    encoder = replace(towers.encoder, patches=patches or towers.encoder.patches)
    _, (vectors,) = encoder.pictures([picture], [[box for each in fractions for box in each]])
    words = encoder.words(phrases, "box")
    similar = iter(vectors)
    return [
        [Box(box, float(next(similar) @ word), _contrast(values, place)) for box, place in zip(own, places, strict=True)]
        for own, places, values, word in zip(fractions, found, maps, words, strict=True)
    ]


def rectangles(values: np.ndarray, most: int) -> list[tuple[int, int, int, int]]:
    """y1, x1, y2, x2 in patches (ends exclusive) of up to `most` rectangles that do not overlap, of a map [rows, columns]."""
    above = values - cut(values)
    found: list[tuple[int, int, int, int]] = []
    strongest = 0.0
    while len(found) < most:
        y1, x1, y2, x2 = best_rectangle(above)
        mean = float(above[y1:y2, x1:x2].mean())
        if mean <= 0 or mean < WEAK * strongest:
            break
        strongest = max(strongest, mean)
        found.append((y1, x1, y2, x2))
        above = above.copy()
        above[y1:y2, x1:x2] = min(-1.0, float(above.min()) * above.size)
    return found or [(0, 0, *values.shape)]


def best_rectangle(weights: np.ndarray) -> tuple[int, int, int, int]:
    """The rectangle of largest sum, by Kadane's way along columns for every pair of rows at once. O(rows² · columns)"""
    rows, columns = weights.shape
    down = np.vstack([np.zeros((1, columns)), weights.cumsum(0, dtype=np.float64)])
    top, bottom = np.triu_indices(rows + 1, 1)
    strips = down[bottom] - down[top]
    best, run = np.full(len(top), -np.inf), np.zeros(len(top))
    start = np.zeros(len(top), dtype=np.int64)
    left, right = start.copy(), start.copy()
    for column in range(columns):
        fresh = run <= 0
        run = np.where(fresh, 0, run) + strips[:, column]
        start = np.where(fresh, column, start)
        better = run > best
        best, left, right = np.where(better, run, best), np.where(better, start, left), np.where(better, column + 1, right)
    pair = int(best.argmax())
    return int(top[pair]), int(left[pair]), int(bottom[pair]), int(right[pair])


def cut(values: np.ndarray) -> float:
    """Otsu's threshold, or that of the values above it, if those fall into two groups that lie apart."""
    first = otsu(values)
    upper, lower = values[values > first], values[values <= first]
    if not len(upper):
        return first
    second = otsu(upper)
    best, next_best = upper[upper > second], upper[upper <= second]
    if not len(best) or best.mean() - next_best.mean() < APART * (upper.mean() - lower.mean()):
        return first
    return second


def otsu(values: np.ndarray) -> float:
    """The cut that leaves the largest variance between what lies below and above it."""
    ordered = np.sort(values, axis=None).astype(np.float64)
    if ordered[0] == ordered[-1]:
        return float(ordered[0])
    below = np.arange(1, len(ordered))
    sums = ordered.cumsum()[:-1]
    gap = (ordered.sum() - sums) / (len(ordered) - below) - sums / below
    cut = int((below * (len(ordered) - below) * gap**2).argmax())
    return float((ordered[cut] + ordered[cut + 1]) / 2)


def _contrast(values: np.ndarray, place: tuple[int, int, int, int]) -> float:
    y1, x1, y2, x2 = place
    inside = values[y1:y2, x1:x2]
    outside = values.size - inside.size
    return float(inside.mean() - (values.sum() - inside.sum()) / outside) if outside else 0.0
