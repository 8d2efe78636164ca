"""FG-OVD: one positive and (mostly) ten negatives per box, as JSON lines beside a folder of COCO pictures.

One line: img_path, bbox (x, y, width, height in pixels), pos_expression [1], neg_expression [≤ 10], width, height. Official protocol:
box walk, boxes pooled from the dense map, a hit where the positive ties the maximum; groups with fewer negatives count as they are.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from fgclip2_train.data.collate import BAD_PICTURE
from fgclip2_train.data.images import decode
from fgclip2_train.evaluation.encode import Encoder
from fgclip2_train.evaluation.scores import picks_positive


def evaluate_fgovd(encoder: Encoder, file: Path, pictures: Path) -> dict[str, Any]:
    """Accuracy in all and by `test_type`. Pictures that are missing or damaged are counted, and refused if none is left."""
    by_picture: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
                by_picture[row["img_path"]].append(row)
            except (ValueError, KeyError) as error:
                raise ValueError(f"{file}:{number}: not an FG-OVD row ({error!r})") from error
    hits: dict[str, list[bool]] = defaultdict(list)
    counts: Counter[str] = Counter()
    for name, rows in by_picture.items():
        try:
            picture = decode((pictures / name).read_bytes())
        except BAD_PICTURE as error:
            counts["picture missing" if isinstance(error, FileNotFoundError) else "picture cannot be decoded"] += len(rows)
            continue
        _, (vectors,) = encoder.pictures([picture], [[_fractions(row) for row in rows]])
        for vector, row in zip(vectors, rows, strict=True):
            texts = encoder.words([*row["pos_expression"][:1], *row["neg_expression"]], "box")
            hit = bool(picks_positive(vector[None], texts[None]).item())
            hits["all"].append(hit)
            hits[row.get("test_type", "unnamed")].append(hit)
    if not hits:
        raise ValueError(f"{file}: none of its {len(by_picture)} pictures is readable under {pictures}: {dict(counts)}")
    return {
        "accuracy": {name: sum(found) / len(found) for name, found in hits.items()},
        "groups": len(hits["all"]),
        "skipped": dict(counts),
    }


def _fractions(row: dict[str, Any]) -> list[float]:
    x, y, width, height = row["bbox"]
    across, down = row["width"], row["height"]
    edges = [x / across, y / down, (x + width) / across, (y + height) / down]
    return [min(1.0, max(0.0, edge)) for edge in edges]
