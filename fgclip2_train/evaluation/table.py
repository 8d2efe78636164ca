"""A result for people: one table per kind of set, laid out as the paper's, in percent; then what was left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

WIDTH = 112


def table(result: dict[str, Any]) -> str:
    about = [result["checkpoint"]]
    about += [f"{name} {result[name]}" for name in ("step", "stage", "preset") if result.get(name) is not None]
    about += [f"protocol {result['protocol']}", f"patches {result['patches']}", f"{result['ranks']} ranks"]
    lines = [" · ".join(about) + f" · {result['seconds']:.0f} s"]
    by_title: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for name, one in result["sets"].items():
        if "metrics" in one:
            by_title.setdefault(_title(one), []).append((name, one))
    for title, sets in by_title.items():
        lines.append("")
        if title == "shards":
            for name, one in sets:
                lines += [f"{name} ({one['metrics']['samples']} samples)", *_shards(one["metrics"])]
        else:
            lines += _columns(title, [(name, _cell(one["metrics"])) for name, one in sets])
    lines += [""] if any(_notes(result)) else []
    return "\n".join([*lines, *_notes(result)])


def _title(one: dict[str, Any]) -> str:
    if one["kind"] == "captions":
        return f"{one['settings']['length']} captions, R@1 I→T / T→I"
    return {
        "muge": "queries, R@1 / R@5 / R@10 T→I",
        "boxes": "boxes, top-1 / top-5",
        "fgovd": "hard negatives, accuracy",
        "classes": "classes, top-1 / top-5",
        "shards": "shards",
    }[one["kind"]]


def _cell(metrics: dict[str, Any]) -> str:
    if "accuracy" in metrics:
        values = [metrics["accuracy"]]
    elif "top1" in metrics:
        values = [metrics["top1"], metrics["top5"]]
    elif "image_to_text" in metrics:
        values = [metrics["image_to_text"], metrics["text_to_image"]]
    else:
        values = [metrics["text_to_image"], metrics["text_to_image_at_5"], metrics["text_to_image_at_10"]]
    return " / ".join(f"{100 * value:.1f}" for value in values)


def _columns(title: str, cells: list[tuple[str, str]]) -> Iterator[str]:
    """Names over values, as many beside each other as fit."""
    yield title
    row: list[tuple[str, str, int]] = []
    for name, value in [*cells, ("", "")]:
        width = max(len(name), len(value)) + 3
        if row and (not name or sum(one[2] for one in row) + width > WIDTH):
            yield "  " + "".join(one[0].ljust(one[2]) for one in row).rstrip()
            yield "  " + "".join(one[1].ljust(one[2]) for one in row).rstrip()
            row = []
        row.append((name, value, width))


def _shards(metrics: dict[str, Any]) -> Iterator[str]:
    for language, lengths in metrics["retrieval"].items():
        for length, score in lengths.items():
            yield (
                f"  retrieval {language} {length:<5}  R@1 {score['image_to_text']:6.1%} I→T  {score['text_to_image']:6.1%} T→I"
                f"   {score['pictures']} pictures, {score['texts']} texts, chance {score['chance']:.1%}"
            )
    for language, score in metrics["boxes"].items():
        yield (
            f"  boxes {language}            top-1 {score['top1']:6.1%}   {score['boxes']} boxes, {score['classes']} phrases, "
            f"chance {score['chance']:.1%}"
        )
    for language, score in metrics["hard_negatives"].items():
        families = ", ".join(f"{family} {share:.0%}" for family, share in score["by_family"].items())
        share, groups, chance = score["accuracy"], score["groups"], score["chance"]
        yield f"  hard negatives {language}   {share:6.1%}   {groups} groups, chance {chance:.1%}; {families}"


def _notes(result: dict[str, Any]) -> Iterator[str]:
    for name, one in result["sets"].items():
        if "error" in one:
            yield f"{name}: no result: {one['error']}"
        elif one["skipped"]:
            yield f"{name}: left out: " + ", ".join(f"{count} {reason}" for reason, count in one["skipped"].items())
    if result["absent"]:
        yield "not there: " + ", ".join(result["absent"])
