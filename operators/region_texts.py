"""Lay the expressions of a sample's regions out as a list of texts, so that operators for texts can work on them.

Reads    regions          REGIONS
Writes   region_texts     list<string>, aligned with `regions`: the short expression, or the long one by `which`
Refuses  nothing
Source   FineRegion-CN, translated: expressions are translated one by one
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import pyarrow as pa
from PIL import Image

from operators.base import Operator, Outcome, keep, schema
from operators.columns import REGIONS


class RegionTexts(Operator):
    which: Literal["short", "long"] = "short"

    version: ClassVar[int] = 1

    @property
    def reads(self) -> pa.Schema:
        return schema(regions=REGIONS)

    @property
    def writes(self) -> pa.Schema:
        return schema(region_texts=pa.list_(pa.string()))

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        texts = [[region[self.which] for region in regions or []] for regions in batch["regions"].to_pylist()]
        return keep(batch.select(["uid"]), {"region_texts": pa.array(texts, pa.list_(pa.string()))})
