"""What a page shows of one sample, from the columns that its stages wrote."""

from __future__ import annotations

from typing import Any

from operators.columns import BASE, IMAGE
from pipelines.pack import TEXTS, language_of
from pipelines.public_url import public

PLACES = {*IMAGE.names, *BASE.names, "shard_offset", "shard_size", "duplicate_of"}
NAMES = {
    "captions": "caption",
    "long_captions": "long caption",
    "long_caption_en": "long caption",
    "long_caption_zh": "long caption",
    "translation_zh": "translation",
}


def record(columns: dict[str, Any]) -> dict[str, Any]:
    """uid, texts by language, regions with what was made of them, and numbers. Any column may be missing or null."""
    return {
        **{key: columns.get(key) for key in ("uid", "source", "license", "sha256", "image_format", "width", "height")},
        "url": public(columns.get("url")),
        "has_picture": columns.get("image_offset") is not None,
        "texts": _texts(columns),
        "regions": _regions(columns),
        "long_negatives": _written(columns.get("long_negatives")),
        "scores": {
            name: value
            for name, value in columns.items()
            if isinstance(value, int | float) and name not in PLACES and not name.endswith("_chars")
        },
    }


def _texts(columns: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """ "en", "zh" and "" (unknown) → the texts, in the order of the record."""
    spoken = columns.get("language") or columns.get("caption_language")
    found: dict[str, list[dict[str, Any]]] = {"en": [], "zh": [], "": []}
    for name, kind in TEXTS.items():
        # What reviewers wrote stands in a column beside the machine's.
        for column, origin in ((name, kind.origin), (f"{name}_human", "human")):
            value = columns.get(column)
            for text in value if isinstance(value, list) else [value]:
                if text:
                    language = kind.language or language_of(columns, text) or spoken
                    told = {"text": text, "language": language, "name": NAMES.get(name, name), "origin": origin, "by": column}
                    found[language if language in found else ""].append(told)
    return found


def _regions(columns: dict[str, Any]) -> list[dict[str, Any]]:
    regions = columns.get("regions")
    if regions is None:
        regions = [
            {
                **region,
                "short": region["text"],
                "long": None,
                "language": language_of(columns, region["text"] or ""),
                "origin": "source",
            }
            for region in columns.get("source_regions") or []
        ]
    beside = {name: columns.get(name) or [] for name in ("negatives", "positives")}
    return [
        {**region, **{name: _written(values[i]) if i < len(values) else [] for name, values in beside.items()}}
        for i, region in enumerate(regions)
        if region and region.get("box")
    ]


def _written(entries: list[dict[str, Any] | None] | None) -> list[dict[str, Any]]:
    """Those that have a text, with the span that was changed in it."""
    return [{**e, "start": e.get("start") or 0, "end": e.get("end") or 0} for e in entries or [] if e and e.get("text")]
