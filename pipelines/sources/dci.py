"""Densely Captioned Images: a folder with one JSON file per picture.

    image, short_caption, extra_caption, mask_data {key: {bounds {topLeft {x, y}, bottomRight}, label, caption, mask_quality}}

The long caption is the short one followed by the extra one, as the authors' own "extended" caption; a short one without a full stop
gets one, or it would run into the next sentence once both are on one line. Masks become regions with the mask's caption (its label
where annotators marked the mask poor), in fractions of the picture that lies in `image_folder`; masks marked unusable are left out.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from typing import Any, Literal

import pyarrow as pa
from PIL import Image

from operators.base import Reject
from pipelines.sources.base import Columns, Slice, Source, SourceError, TableIndex, changed
from pipelines.sources.boxes import Regions, check_box
from pipelines.sources.cleaning import clean_text, json_of, number_of
from pipelines.sources.rows import build, inside

MAX_FILE = 64 << 20
"""Bytes of one JSON file: masks are base64 pictures."""


class DciSource(Source):
    format: Literal["dci"]
    columns: Columns = Columns(image="image", captions=["short_caption"], long_captions=["extended_caption"])
    """Fixed by the data set's own layout."""

    def matches(self, path: str) -> bool:
        return os.path.isdir(path)

    def index(self, path: str, shard_size: int) -> TableIndex:
        names = _names(self, path)
        whole = hashlib.sha256()
        slices = []
        for first in range(0, len(names), shard_size):
            part = names[first : first + shard_size]
            crc = 0
            for name in part:
                data = _load(os.path.join(path, name))
                whole.update(f"{name}\0".encode() + hashlib.sha256(data).digest())
                crc = zlib.crc32(data, zlib.crc32(name.encode(), crc))
            slices.append(Slice(first_row=first, rows=len(part), offset=first, end=first + len(part), check=f"{crc:08x}"))
        return TableIndex(whole.hexdigest(), len(names), slices)

    def read(self, path: str, digest: str, piece: Slice) -> tuple[pa.Table, list[Reject]]:
        cells: dict[str, list[Any]] = {"image": [], "short_caption": [], "extended_caption": []}
        regions: list[Regions] = []
        bad: dict[int, tuple[str, str]] = {}
        crc = 0
        for i, name in enumerate(_names(self, path)[piece["offset"] : piece["end"]]):
            data = _load(os.path.join(path, name))
            crc = zlib.crc32(data, zlib.crc32(name.encode(), crc))
            row: Any = {}
            try:
                row = json_of(data.decode("utf-8-sig", "replace"))
            except (ValueError, RecursionError) as error:
                bad[i] = ("bad_json", f"{name}: {error}")
            if not isinstance(row, dict):
                row, bad[i] = {}, ("bad_row", f"{name}: {type(row).__name__} instead of an object")
            short, extra = (row.get(k) for k in ("short_caption", "extra_caption"))
            cells["image"].append(row.get("image"))
            cells["short_caption"].append(short)
            cells["extended_caption"].append(_extended(short, extra))
            regions.append(self._regions(row))
        if f"{crc:08x}" != piece["check"]:
            raise changed(self, path, piece, "other files")
        return build(self, digest, piece["first_row"], piece["rows"], cells, bad, regions=regions)

    def _regions(self, row: dict[str, Any]) -> Regions:
        masks = row.get("mask_data")
        ref, _ = inside(self, row.get("image"))
        if not masks or ref is None:
            return [], []
        if not isinstance(masks, dict):
            return [], [("bad_box", f"mask_data: {type(masks).__name__} instead of an object", "source_regions")]
        try:
            with Image.open(ref.removeprefix("file:")) as picture:
                width, height = picture.size
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError):
            return [], []  # the download stage refuses the picture and says why
        except Exception as error:  # Pillow's readers raise many kinds on broken bytes, which the download stage refuses, too
            if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno):
                raise  # not the picture's fault: tried again it has its boxes
            return [], []
        found: list[dict[str, Any]] = []
        refused: list[tuple[str, str, str]] = []
        for key, mask in masks.items():
            quality = mask.get("mask_quality") if isinstance(mask, dict) else None
            if quality == 2:
                continue
            box, why = _box(mask, (width, height))
            text = (_text(mask, "caption") if quality in (0, None) else "") or _text(mask, "label")
            if box is not None and text:
                found.append({"box": box, "text": text, "score": None})
            else:
                reason, why = ("bad_box", why) if box is None else ("bad_span", "neither caption nor label is a text")
                refused.append((reason, f"mask {key[:40]}: {why}", f"source_regions[{len(found) + len(refused)}]"))
        return found, refused


def _extended(short: Any, extra: Any) -> Any:
    if not isinstance(short, str) or not isinstance(extra, str) or not short.strip() or not extra.strip():
        return extra
    short = short.rstrip()
    return f"{short}{'.' if short[-1].isalnum() else ''}\n{extra}"


def _box(mask: Any, size: tuple[int, int]) -> tuple[list[float] | None, str]:
    """A mask's box in fractions of a picture of this width and height, clipped to it; or None, and why."""
    bounds = mask.get("bounds") if isinstance(mask, dict) else None
    corners = [bounds.get(name) for name in ("topLeft", "bottomRight")] if isinstance(bounds, dict) else [None, None]
    numbers = [number_of(corner.get(axis)) if isinstance(corner, dict) else None for corner in corners for axis in ("x", "y")]
    return check_box([None if n is None else min(max(n / side, 0.0), 1.0) for n, side in zip(numbers, size * 2, strict=True)])


def _text(mask: Any, key: str) -> str:
    found = mask.get(key) if isinstance(mask, dict) else None
    return clean_text(found) if isinstance(found, str) else ""


def _names(source: Source, path: str) -> list[str]:
    names = sorted(name for name in os.listdir(path) if name.endswith(".json"))
    if not names:
        raise SourceError(f"source {source.name}: {path}: no .json files in it")
    return names


def _load(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(MAX_FILE)
