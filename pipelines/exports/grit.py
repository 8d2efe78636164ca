"""GRIT's layout: Parquet tables of addresses, captions, and boxes that point into the caption by characters.

    grit/NNNNN.parquet   key, url, caption, width, height, noun_chunks, ref_exps
    images/NNNNN/KEY.jpg

noun_chunks and ref_exps are lists of [start, end, x1, y1, x2, y2, score]: characters of the caption, box in fractions. The caption is
the text of the sample in which most of its expressions occur word for word; a box whose expression occurs in none is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.exports.base import Layout, Shard, emptied
from pipelines.exports.samples import Sample, upright
from pipelines.exports.tally import Tally
from pipelines.shard_format import Region

BOXES = pa.list_(pa.list_(pa.float64()))
TABLE = pa.schema(
    {
        "key": pa.string(),
        "url": pa.string(),
        "caption": pa.string(),
        "width": pa.int64(),
        "height": pa.int64(),
        "noun_chunks": BOXES,
        "ref_exps": BOXES,
    }
)


class Grit(Layout):
    name = "grit"
    about = "grit/*.parquet: url, caption, noun_chunks and ref_exps as [start, end, x1, y1, x2, y2, score]"
    languages = ("both", "en")
    tags = ("zero-shot-object-detection",)

    def part(self, shard: Shard, samples: Iterable[Sample], folder: Path, pieces: Path, tally: Tally) -> dict[str, Any]:
        pictures = folder / "images" / shard.name
        (folder / "grit").mkdir(exist_ok=True)
        if self.settings.pictures:
            emptied(pictures)
        rows: list[dict[str, Any]] = []
        for sample in samples:
            row = self._row(sample, tally)
            if row is None:
                continue
            rows.append(row)
            if self.settings.pictures:
                (pictures / f"{sample.uid}.jpg").write_bytes(upright(sample, tally))
        pq.write_table(pa.Table.from_pylist(rows, schema=TABLE), folder / "grit" / f"{shard.name}.parquet")
        return {"rows": len(rows)}

    def _row(self, sample: Sample, tally: Tally) -> dict[str, Any] | None:
        texts = [text for text in sample.record.texts if text.language in self.settings.languages]
        if not texts:
            tally.note("no text in the languages wanted: left out")
            return None
        regions = [region for region in sample.record.regions if region.language in self.settings.languages]
        best = max(texts, key=lambda text: sum(_spans(text.text, region) != [] for region in regions))
        chunks, expressions, taken = [], [], []
        for region in regions:
            spans = _spans(best.text, region)
            if not spans:
                tally.note("an expression that does not occur in the caption: its box is left out")
                continue
            place = [*region.box, 1.0 if region.score is None else region.score]
            chunks.append([*map(float, spans[0]), *place])
            expressions.append([*map(float, spans[-1]), *place])
            taken.append(region)
        tally.add(sample.record, [best], taken, negatives=False)
        record = sample.record
        row = {"key": sample.uid, "url": record.url, "caption": best.text, "width": record.width, "height": record.height}
        return row | {"noun_chunks": chunks, "ref_exps": expressions}


def _spans(caption: str, region: Region) -> list[tuple[int, int]]:
    """Where the short and the long expression stand in the caption, shortest first."""
    found = []
    for expression in dict.fromkeys((region.short, region.long)):
        words = re.escape(expression)
        if region.language == "en":  # "a car" is not in "a carpet"; Chinese has no blanks between words
            words = rf"(?<!\w){words}(?!\w)"
        if match := re.search(words, caption, re.IGNORECASE):
            found.append(match.span())
    return sorted(found, key=lambda span: span[1] - span[0])
