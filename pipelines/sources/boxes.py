"""Boxes that come with a table (GRIT, COYO): `[start, end, x1, y1, x2, y2, score]` with characters of the raw caption."""

from __future__ import annotations

import json
from typing import Any

from pipelines.sources.cleaning import clean_text, number_of, text_of

Regions = tuple[list[dict[str, Any]], list[tuple[str, str, str]]]
"""Regions {box, text, score}, and refusals (reason, detail, item) of others."""
EDGE = 1e-3
"""How far a coordinate may lie outside the picture and still count as rounding; it is clipped."""


def check_box(box: list[Any]) -> tuple[list[float] | None, str]:
    """(normalised x1, y1, x2, y2, "") or (None, why not)."""
    numbers = [number_of(value) for value in box]
    shown = "[" + ", ".join("?" if n is None else f"{n:.4g}" for n in numbers) + "]"
    if len(numbers) != 4 or any(n is None for n in numbers):
        return None, f"{shown}: not four numbers"
    if any(n < -EDGE or n > 1 + EDGE for n in numbers if n is not None):
        return None, f"{shown}: outside the picture"
    x1, y1, x2, y2 = (min(max(n, 0.0), 1.0) for n in numbers if n is not None)
    if x1 >= x2 or y1 >= y2:
        return None, f"{shown}: inverted or empty"
    return [x1, y1, x2, y2], ""


def regions_of(cells: list[Any], caption: str | None) -> Regions:
    """Regions of one row from its region cells, and refusals.

    caption   the raw caption, before any cleaning: the spans count its characters
    """
    regions: list[dict[str, Any]] = []
    refused: list[tuple[str, str, str]] = []
    seen: set[tuple[float, ...]] = set()
    number = -1
    for cell in cells:
        entries, taken = _entries(cell), set(seen)
        for entry in entries:
            number += 1
            item = f"source_regions[{number}]"
            if not isinstance(entry, list | tuple) or len(entry) < 6:
                refused.append(("bad_box", f"{str(entry)[:80]}: not [start, end, x1, y1, x2, y2, score]", item))
                continue
            box, why = check_box(list(entry[2:6]))
            if box is None:
                refused.append(("bad_box", why, item))
                continue
            if tuple(box) in taken:
                continue
            text, why = _words(entry[0], entry[1], caption)
            if not text:
                refused.append(("bad_span", why, item))
                continue
            seen.add(tuple(box))
            score = number_of(entry[6]) if len(entry) > 6 else None
            regions.append({"box": box, "text": text, "score": score})
    return regions, refused


def _entries(cell: Any) -> list[Any]:
    cell = text_of(cell)
    if isinstance(cell, str):
        try:
            cell = json.loads(cell or "null")
        except (ValueError, RecursionError):
            return [cell]
    if cell is None or cell != cell:  # NaN
        return []
    return list(cell) if isinstance(cell, list | tuple) else [cell]


def _words(start: Any, end: Any, caption: str | None) -> tuple[str, str]:
    first, last = number_of(start), number_of(end)
    length = len(caption or "")
    if first is None or last is None or not 0 <= first < last <= length:
        return "", f"characters {start} to {end} of a caption of {length}"
    text = clean_text((caption or "")[int(first) : int(last)])
    return text, "" if text else f"characters {start} to {end} are blank"
