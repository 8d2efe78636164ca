"""Samples to look at: chosen by seed over all shards, read by offset, so that a run of any size costs about the same.

A sample is here the JSON object of docs/shard-format.md. Packed samples are read from their shard; of a run without a pack
stage, or one that has not come so far, the same object is made of the columns there are.
"""

from __future__ import annotations

import base64
import io
import json
import random
import tarfile
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from operators.columns import BASE, IMAGE
from operators.pictures import decode
from pipelines.chain import Chain
from pipelines.durable import Ranges, read_table
from pipelines.pack import TEXTS, language_of
from pipelines.public_url import public
from pipelines.report.way import Way
from pipelines.view import View, read_columns
from pipelines.worker import PictureReader

SHARDS = 200
RECORDS = 4000
SHEET = 24
THUMBNAIL = 480  # pixels, longer side
BLOCK = 512

Chosen = list[tuple[View, list[int]]]
"""Rows of views, in order."""


def choose(way: Way, seed: int = 0, shards: int = SHARDS, records: int = RECORDS) -> Chosen:
    """At most `records` rows of at most `shards` shards, drawn evenly; of shards that are through, unless none is."""
    ends = [view for view, through in way.ends if through] or [view for view, _ in way.ends]
    draw = random.Random(seed)
    views = sorted(draw.sample(ends, min(shards, len(ends))), key=lambda view: view.shard)
    starts, total = [], 0
    for view in views:
        starts.append(total)
        total += view.rows
    rows = sorted(draw.sample(range(total), min(records, total)))
    chosen: Chosen = []
    at = 0
    for view, start in zip(views, starts, strict=True):
        mine = []
        while at < len(rows) and rows[at] < start + view.rows:
            mine.append(rows[at] - start)
            at += 1
        if mine:
            chosen.append((view, mine))
    return chosen


def sheet(chosen: Chosen, seed: int = 0, count: int = SHEET) -> Chosen:
    """`count` of the chosen rows, for the contact sheet."""
    flat = [(i, row) for i, (_, rows) in enumerate(chosen) for row in rows]
    picked = sorted(random.Random(seed + 1).sample(flat, min(count, len(flat))))
    return [(chosen[i][0], [row for j, row in picked if j == i]) for i in sorted({i for i, _ in picked})]


def read(chain: Chain, way: Way, chosen: Chosen, pictures: bool = False) -> Iterator[tuple[dict[str, Any], bytes | None]]:
    """The chosen samples and, if asked for, the bytes of their pictures. What cannot be read is a fault of the run, and said."""
    pack = next((stage.name for stage in chain.recipe.stages if stage.kind == "pack"), "")
    for view, rows in chosen:
        try:
            yield from (
                _packed(chain, view, pack, rows, pictures) if pack in view.entries else _loose(chain, view, rows, pictures)
            )
        except (OSError, ValueError, KeyError, tarfile.TarError) as error:
            way.fault(f"shard {view.shard}: its samples cannot be read: {error}")


def thumbnail(data: bytes, side: int = THUMBNAIL) -> tuple[str, int, int]:
    """Data URL of a small upright JPEG, and its size. ValueError for what is no picture or too large a one."""
    picture = decode(data)
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=80, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}", *picture.size


def _packed(
    chain: Chain, view: View, pack: str, rows: list[int], pictures: bool
) -> Iterator[tuple[dict[str, Any], bytes | None]]:
    entry = chain.ledger.get(pack, view.entries[pack], view.shard)
    if entry is None:
        raise KeyError(f"no ledger entry of stage {pack}")
    places = read_table(chain.run / entry.files["data"].path, columns=["shard_offset", "shard_size"]).take(rows)
    with Ranges(chain.run / entry.files["shard"].path) as read:
        for place in places.to_pylist():
            members = _members(read, place["shard_offset"], place["shard_offset"] + place["shard_size"])
            yield json.loads(read(*members["json"])), read(*members["jpg"]) if pictures else None


def _members(read: Ranges, start: int, end: int) -> dict[str, tuple[int, int]]:
    """Extension → offset and size of the members whose headers lie between start and end, without reading their content."""
    found = {}
    while start < end:
        member = tarfile.TarInfo.frombuf(read(start, BLOCK), "utf-8", "surrogateescape")
        found[member.name.rpartition(".")[2]] = (start + BLOCK, member.size)
        start += BLOCK + -(-member.size // BLOCK) * BLOCK
    return found


def _loose(chain: Chain, view: View, rows: list[int], pictures: bool) -> Iterator[tuple[dict[str, Any], bytes | None]]:
    known = pa.schema([column for stage in chain.recipe.stages for column in stage.writes() if column.name in view.columns])
    wanted = {*BASE.names, *IMAGE.names, *TEXTS, "caption_language", "regions", "negatives", "positives"}
    table = read_columns(chain.run, view, pa.schema({c.name: c.type for c in known if c.name in wanted})).take(rows)
    provenance = chain.provenance(view)
    if not pictures or view.images is None:
        for row in table.to_pylist():
            yield _record(row, provenance), None
        return
    with PictureReader(chain.run / view.images) as picture:
        for row in table.to_pylist():
            yield _record(row, provenance), picture(row)


def _record(row: dict[str, Any], provenance: dict[str, Any]) -> dict[str, Any]:
    language = row.get("language") or row.get("caption_language")
    texts = []
    for name, kind in TEXTS.items():
        value = row.get(name)
        for text in value if isinstance(value, list) else [value] if value else []:
            texts.append(
                {
                    "text": text,
                    "language": kind.language or language_of(row, text) or language,
                    "length": kind.length,
                    "origin": kind.origin,
                    "by": row.get("source") if kind.origin == "source" else name,
                }
            )
    regions = row.get("regions")
    if regions is None:
        regions = [
            {**r, "short": r["text"], "long": r["text"], "language": language_of(row, r["text"] or ""), "origin": "source"}
            for r in row.get("source_regions") or []
        ]
    negatives, positives = (row.get(name) or [[]] * len(regions) for name in ("negatives", "positives"))
    return {
        **{key: row.get(key) for key in ("uid", "source", "license", "sha256", "image_format", "width", "height")},
        "url": public(row.get("url")),
        "texts": texts,
        "regions": [
            {
                **region,
                "negatives": [{**n, "span": [n["start"], n["end"]]} for n in against or []],
                "positives": list(also or []),
            }
            for region, against, also in zip(regions, negatives, positives, strict=False)
        ],
        "long_negatives": [],
        "scores": {},
        "provenance": provenance,
    }
