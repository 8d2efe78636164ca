"""Densely Captioned Images: a folder with one JSON file per picture.

    image, short_caption, extra_caption, mask_data {key: {bounds {topLeft {x, y}, bottomRight}, label, caption, mask_quality}}

The long caption is the short one followed by the extra one, as the authors' own "extended" caption. Masks become regions
with the mask's caption (its label where annotators marked the mask poor), in fractions of the picture that lies in
`image_folder`; masks marked unusable are left out.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from typing import Any, Literal

import pyarrow as pa
from PIL import Image

from operators.base import Reject
from pipelines.sources.base import Columns, Slice, Source, SourceError, TableIndex, changed
from pipelines.sources.boxes import check_box
from pipelines.sources.cleaning import clean_text, number_of
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
        regions: list[list[dict[str, Any]]] = []
        bad: dict[int, tuple[str, str]] = {}
        crc = 0
        for i, name in enumerate(_names(self, path)[piece["offset"] : piece["end"]]):
            data = _load(os.path.join(path, name))
            crc = zlib.crc32(data, zlib.crc32(name.encode(), crc))
            row: Any = {}
            try:
                row = json.loads(data.decode("utf-8-sig", "replace"), strict=False)
            except (ValueError, RecursionError) as error:
                bad[i] = ("bad_json", f"{name}: {error}")
            if not isinstance(row, dict):
                row, bad[i] = {}, ("bad_row", f"{name}: {type(row).__name__} instead of an object")
            short, extra = (str(row.get(k) or "") for k in ("short_caption", "extra_caption"))
            cells["image"].append(row.get("image"))
            cells["short_caption"].append(short)
            cells["extended_caption"].append(f"{short}\n{extra}" if extra.strip() else None)
            regions.append(self._regions(row))
        if f"{crc:08x}" != piece["check"]:
            raise changed(self, path, piece, "other files")
        return build(self, digest, piece["first_row"], piece["rows"], cells, bad, regions=regions)

    def _regions(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        masks = row.get("mask_data")
        ref, _ = inside(self, row.get("image"))
        if not isinstance(masks, dict) or not masks or ref is None:
            return []
        try:
            with Image.open(ref.removeprefix("file:")) as picture:
                width, height = picture.size
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError):
            return []  # the download stage refuses the picture and says why
        except Exception as error:  # Pillow's readers raise many kinds on broken bytes, which the download stage refuses, too
            if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno):
                raise  # not the picture's fault: tried again it has its boxes
            return []
        found = []
        for mask in masks.values():
            bounds = mask.get("bounds") if isinstance(mask, dict) else None
            if not isinstance(bounds, dict) or mask.get("mask_quality") == 2:
                continue
            corners = [number_of((bounds.get(c) or {}).get(a)) for c in ("topLeft", "bottomRight") for a in ("x", "y")]
            sides = (width, height, width, height)
            box, _ = check_box([None if n is None else min(max(n / s, 0.0), 1.0) for n, s in zip(corners, sides, strict=True)])
            text = clean_text(str(mask.get("caption") or "")) if mask.get("mask_quality") in (0, None) else ""
            text = text or clean_text(str(mask.get("label") or ""))
            if box is not None and text:
                found.append({"box": box, "text": text, "score": None})
        return found


def _names(source: Source, path: str) -> list[str]:
    names = sorted(name for name in os.listdir(path) if name.endswith(".json"))
    if not names:
        raise SourceError(f"source {source.name}: {path}: no .json files in it")
    return names


def _load(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(MAX_FILE)
