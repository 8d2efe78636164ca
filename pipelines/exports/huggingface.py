"""A folder that `datasets.load_dataset` loads and the hub shows: Parquet with the pictures inside, a second table of regions, a data
set card, and Croissant beside it.

    data/NNNNN.parquet      configuration "default": a row per sample
    regions/NNNNN.parquet   configuration "regions": a row per box
    README.md, croissant.json

Pictures turned by EXIF are written upright, as their boxes are: not every reader looks at EXIF. sha256 is that of the downloaded file.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.exports import tables
from pipelines.exports.base import Layout, Shard
from pipelines.exports.samples import Sample, upright
from pipelines.exports.tally import Tally

ROWS = 64
"""Samples per row group: what a reader holds at a time, and this writer."""


class HuggingFace(Layout):
    name = "huggingface"
    about = "Parquet that `datasets` loads, with data set card and croissant.json"
    tags = ("image-to-text", "zero-shot-object-detection")
    with_pictures = True

    @property
    def schema(self) -> pa.Schema:
        if not (self.with_pictures and self.settings.pictures):
            return tables.SAMPLE
        return tables.SAMPLE.insert(1, pa.field("image", tables.IMAGE))

    def part(self, shard: Shard, samples: Iterable[Sample], folder: Path, pieces: Path, tally: Tally) -> dict[str, Any]:
        paths = [folder / kind / f"{shard.name}.parquet" for kind in ("data", "regions")]
        for path in paths:
            path.parent.mkdir(exist_ok=True)
        schema = self.schema
        rows: list[dict[str, Any]] = []
        boxes: list[dict[str, Any]] = []
        with pq.ParquetWriter(paths[0], schema) as data, pq.ParquetWriter(paths[1], tables.REGION) as regions:

            def flush() -> None:
                for file, held in ((data, rows), (regions, boxes)):
                    if held:  # `datasets` reads a file without row groups, and fails at a row group without rows
                        file.write_table(pa.Table.from_pylist(held, schema=file.schema))
                        held.clear()

            for sample in samples:
                row = tables.sample_row(sample)
                if "image" in schema.names:
                    row["image"] = {"bytes": upright(sample, tally), "path": f"{sample.uid}.jpg"}
                rows.append(row)
                boxes += tables.region_rows(sample)
                tally.add(sample.record)
                if len(rows) == ROWS:
                    flush()
            flush()
        return {}
