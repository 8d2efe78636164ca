"""BoxClass-CN's COCO file: images, categories, annotations with bbox x, y, width, height in pixels.

A region's expression is its category's name, which also stands as the picture's short caption, since a sample without a text is none.
The file is read whole (the published one has 66,258 boxes).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from pipelines.durable import sha256_file
from pipelines.imports.base import BadRow, Piece, Reader, Row, region_of, text_in
from pipelines.sources.base import SourceError
from pipelines.sources.cleaning import number_of


class BoxClassCnReader(Reader):
    name: ClassVar[str] = "boxclass-cn"
    pattern: ClassVar[str] = "jsonfile/*.json"

    def pieces(self, path: Path, shard_size: int) -> tuple[str, list[Piece]]:
        digest = sha256_file(path)
        count = len(_read(str(path), digest)[0])
        return digest, [Piece(first, min(shard_size, count - first)) for first in range(0, count, shard_size)]

    def rows(self, path: Path, digest: str, piece: Piece) -> Iterator[Row | tuple[int, BadRow]]:
        images, names, boxes = _read(str(path), digest)
        for number in range(piece.first_row, piece.first_row + piece.rows):
            try:
                yield self._row(number, images[number], names, boxes)
            except BadRow as bad:
                yield number, bad

    @staticmethod
    def _row(number: int, image: Any, names: dict[str, str], boxes: dict[str, list[dict[str, Any]]]) -> Row:
        if not isinstance(image, dict):
            raise BadRow("bad_row", f"{type(image).__name__} instead of an object")
        width, height = number_of(image.get("width")), number_of(image.get("height"))
        row = Row(number, str(image.get("file_name") or ""), "zh")
        for i, entry in enumerate(boxes.get(str(image.get("id")), [])):
            try:
                if not width or not height or width <= 0 or height <= 0:
                    raise BadRow("bad_box", "the picture's width and height are not stated")
                corners = [number_of(value) for value in entry["bbox"]] if isinstance(entry.get("bbox"), list) else []
                if len(corners) != 4 or None in corners:
                    raise BadRow("bad_box", f"{str(entry.get('bbox'))[:60]}: not four numbers")
                x, y, w, h = (float(c) for c in corners if c is not None)
                name = names.get(str(entry.get("category_id")), "")
                row.regions.append(region_of([x / width, y / height, (x + w) / width, (y + h) / height], name, name, "zh"))
                row.negatives.append([])
            except BadRow as bad:
                row.items.append((f"regions[{i}]", bad.reason, bad.detail))
        row.captions = list(dict.fromkeys(region["short"] for region in row.regions))
        if not row.captions:
            raise BadRow("no_text", "no usable box")
        return row


def _name(raw: Any) -> str:
    """A category's name; "" for one that is no text, so that its boxes alone are refused and not the whole file."""
    try:
        return text_in(raw)
    except BadRow:
        return ""


@lru_cache(1)
def _read(path: str, digest: str) -> tuple[list[Any], dict[str, str], dict[str, list[dict[str, Any]]]]:
    """Images, category id → name, image id → annotations. `digest` is in the cache's key, so that a changed file is read again."""
    try:
        with open(path, encoding="utf-8") as file:
            raw = json.load(file)
        images, categories, annotations = (raw[key] for key in ("images", "categories", "annotations"))
        names = {str(category["id"]): _name(category["name"]) for category in categories}
        boxes: dict[str, list[dict[str, Any]]] = {}
        for entry in annotations:
            boxes.setdefault(str(entry["image_id"]), []).append(entry)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SourceError(
            f"{path}: not a COCO file with images, categories and annotations: {type(error).__name__}: {error}"
        ) from error
    return list(images), names, boxes
