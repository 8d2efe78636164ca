"""One evaluation: a checkpoint, what it is tried on, and a JSON file that a report can read."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from fgclip2_train.data.shards import find_shards
from fgclip2_train.evaluation.encode import Encoder
from fgclip2_train.evaluation.fgovd import evaluate_fgovd
from fgclip2_train.evaluation.shards import evaluate_shards


def evaluate(
    checkpoint: str | Path,
    shards: str | list[str] | None = None,
    *,
    fgovd: Path | None = None,
    pictures: Path | None = None,
    patches: int | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """Everything measured, with what is needed to read it: checkpoint, data, resolution."""
    started = time.monotonic()
    encoder = Encoder.load(checkpoint, patches)
    result: dict[str, Any] = {
        "checkpoint": str(checkpoint),
        "parameters": sum(p.numel() for p in encoder.model.parameters()),
        "patches": encoder.patches,
        "device": str(encoder.model.device),
    }
    if shards:
        result |= {"shards": find_shards(shards), **evaluate_shards(encoder, shards, limit)}
    if fgovd:
        result["fgovd"] = {"file": str(fgovd), **evaluate_fgovd(encoder, fgovd, pictures or fgovd.parent)}
    if not shards and not fgovd:
        raise ValueError("nothing to evaluate on: give --shards 'DIR/*.tar' or --fgovd FILE")
    return result | {"seconds": time.monotonic() - started}


def write_json(result: dict[str, Any], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    hidden = file.with_name(f".{file.name}")
    hidden.write_text(json.dumps(result, indent=1, ensure_ascii=False))
    hidden.rename(file)


def table(result: dict[str, Any]) -> str:
    """The numbers for people, in percent."""
    lines = [
        f"{result['checkpoint']}  ({result.get('samples', 0)} samples, patches {result['patches']}, {result['seconds']:.0f} s)"
    ]
    for language, lengths in result.get("retrieval", {}).items():
        for length, score in lengths.items():
            lines.append(
                f"  retrieval {language} {length:<5}  R@1 {score['image_to_text']:6.1%} I→T  {score['text_to_image']:6.1%} T→I"
                f"   {score['pictures']} pictures, {score['texts']} texts, chance {score['chance']:.1%}"
            )
    for language, score in result.get("boxes", {}).items():
        lines.append(
            f"  boxes {language}            top-1 {score['top1']:6.1%}   {score['boxes']} boxes, {score['classes']} phrases, "
            f"chance {score['chance']:.1%}"
        )
    for language, score in result.get("hard_negatives", {}).items():
        families = ", ".join(f"{family} {share:.0%}" for family, share in score["by_family"].items())
        share, groups, chance = score["accuracy"], score["groups"], score["chance"]
        lines.append(f"  hard negatives {language}   {share:6.1%}   {groups} groups, chance {chance:.1%}; {families}")
    for name, share in result.get("fgovd", {}).get("accuracy", {}).items():
        lines.append(f"  FG-OVD {name:<14} {share:6.1%}")
    return "\n".join(lines)
