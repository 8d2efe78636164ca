"""BoxClass-CN's COCO file: images, categories, annotations with bbox x, y, width, height in pixels.

A region's expression is its category's name, which also stands as the picture's short caption, since a sample without a text is none.
Its rows are the images, and behind them the annotations that belong to no image of the file: each of these is refused.
The file is read whole (the published one has 66,258 boxes).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from pipelines.durable import sha256_file
from pipelines.imports.base import BadRow, Piece, Reader, Row, no_text, region_of, text_in
from pipelines.sources.base import SourceError, refuse_unreadable
from pipelines.sources.cleaning import json_of, number_of


@dataclass(frozen=True)
class _Coco:
    """names     category's id → its name, "" where that is no text, or the category has two
    boxes     image's id → its annotations
    strays    why an annotation belongs to no image
    """

    images: list[Any]
    names: dict[str, str]
    boxes: dict[str, list[dict[str, Any]]]
    strays: list[str]

    @property
    def rows(self) -> int:
        return len(self.images) + len(self.strays)


class BoxClassCnReader(Reader):
    name: ClassVar[str] = "boxclass-cn"
    version: ClassVar[int] = 2
    pattern: ClassVar[str] = "jsonfile/*.json"

    def pieces(self, path: Path, shard_size: int) -> tuple[str, list[Piece]]:
        digest = sha256_file(path)
        count = _read(path, digest).rows
        return digest, [Piece(first, min(shard_size, count - first)) for first in range(0, count, shard_size)]

    def rows(self, path: Path, digest: str, piece: Piece) -> Iterator[Row | tuple[int, BadRow]]:
        coco = _read(path, digest)
        for number in range(piece.first_row, piece.first_row + piece.rows):
            try:
                yield self._row(number, coco)
            except BadRow as bad:
                yield number, bad

    @staticmethod
    def _row(number: int, coco: _Coco) -> Row:
        if number >= len(coco.images):
            raise BadRow("bad_annotation", coco.strays[number - len(coco.images)])
        image = coco.images[number]
        if not isinstance(image, dict):
            raise BadRow("bad_row", f"{type(image).__name__} instead of an object")
        width, height = number_of(image.get("width")), number_of(image.get("height"))
        row = Row(number, str(image.get("file_name") or ""), "zh")
        for i, entry in enumerate(coco.boxes.get(_id(image.get("id")), [])):
            try:
                if not width or not height or width <= 0 or height <= 0:
                    raise BadRow("bad_box", "the picture's width and height are not stated")
                corners = [number_of(value) for value in entry["bbox"]] if isinstance(entry.get("bbox"), list) else []
                if len(corners) != 4 or None in corners:
                    raise BadRow("bad_box", f"{str(entry.get('bbox'))[:60]}: not four numbers")
                x, y, w, h = (float(c) for c in corners if c is not None)
                name = coco.names.get(_id(entry.get("category_id")), "")
                if not name:
                    raise BadRow("bad_text", f"category {str(entry.get('category_id'))[:60]} has no usable name")
                row.regions.append(region_of([x / width, y / height, (x + w) / width, (y + h) / height], name, name, "zh"))
                row.negatives.append([])
            except BadRow as bad:
                row.items.append((f"regions[{i}]", bad.reason, bad.detail))
        row.captions = list(dict.fromkeys(region["short"] for region in row.regions))
        if not row.captions:
            raise no_text("no usable box", row)
        return row


def _id(raw: Any) -> str:
    """1, 1.0 and "1" are one id; "" is none."""
    if isinstance(raw, float) and raw.is_integer():
        raw = int(raw)
    return str(raw) if isinstance(raw, int | str) and not isinstance(raw, bool) else ""


def _name(raw: Any) -> str:
    """A category's name; "" for one that is no text, so that its boxes alone are refused and not the whole file."""
    try:
        return text_in(raw)
    except BadRow:
        return ""


@lru_cache(1)
def _read(path: Path, digest: str) -> _Coco:
    """`digest` is in the cache's key, so that a changed file is read again."""
    data = path.read_bytes()
    refuse_unreadable(str(path), data)
    try:
        raw = json_of(data.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: not JSON: {error}") from error
    images, categories, annotations = (_list(path, raw, key) for key in ("images", "categories", "annotations"))
    names: dict[str, str] = {}
    for category in categories:
        if isinstance(category, dict) and (number := _id(category.get("id"))):
            name = _name(category.get("name"))
            names[number] = name if names.get(number, name) == name else ""
    times = Counter(_id(image.get("id")) for image in images if isinstance(image, dict))
    boxes: dict[str, list[dict[str, Any]]] = {}
    strays: list[str] = []
    for i, entry in enumerate(annotations):
        image = _id(entry.get("image_id")) if isinstance(entry, dict) else ""
        if image and times[image] == 1:
            boxes.setdefault(image, []).append(entry)
        elif isinstance(entry, dict):
            strays.append(
                f"annotations[{i}]: {times[image] if image else 0} images have the id {str(entry.get('image_id'))[:60]}"
            )
        else:
            strays.append(f"annotations[{i}]: {type(entry).__name__} instead of an object")
    return _Coco(images, names, boxes, strays)


def _list(path: Path, raw: Any, key: str) -> list[Any]:
    if not isinstance(raw, dict):
        raise SourceError(f"{path}: not a COCO file: a {type(raw).__name__} instead of an object")
    if not isinstance(raw.get(key), list):
        raise SourceError(
            f"{path}: not a COCO file: {key!r} is not a list" if key in raw else f"{path}: not a COCO file: no {key!r}"
        )
    return list(raw[key])
