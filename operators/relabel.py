"""Give a sample's regions other expressions: translated ones, or the names of their categories.

Reads    regions      REGIONS
         `texts`      list<string>, aligned with `regions`; null: there is none
Writes   regions      those with a text, in their order: `short` and `long` are the text, `language` the setting's
Refuses  single regions, "no_text"; or with min_regions whole samples, "too_few_regions"
Source   BoxClass-CN: a box is called by the Chinese name of its category
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import pyarrow as pa
from PIL import Image
from pydantic import Field

from operators.base import Operator, Outcome, Reject, keep, schema
from operators.columns import REGIONS


class Relabel(Operator):
    texts: str
    language: Literal["en", "zh"]
    min_regions: int = Field(0, ge=0)

    version: ClassVar[int] = 1
    reasons: ClassVar[dict[str, str]] = {
        "no_text": "the region has no usable new expression",
        "too_few_regions": "fewer regions with an expression than min_regions",
    }

    @property
    def reads(self) -> pa.Schema:
        return pa.schema([("regions", REGIONS), (self.texts, pa.list_(pa.string()))])

    @property
    def writes(self) -> pa.Schema:
        return schema(regions=REGIONS)

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        items: list[Reject] = []
        relabelled: list[list[dict[str, Any]]] = []
        columns = (batch[name].to_pylist() for name in ("uid", "regions", self.texts))
        for uid, regions, texts in zip(*columns, strict=True):
            regions, kept = regions or [], []
            # Lists of other lengths belong to other regions: none of them is used.
            aligned = texts if texts is not None and len(texts) == len(regions) else [None] * len(regions)
            for i, (region, text) in enumerate(zip(regions, aligned, strict=True)):
                clean = " ".join((text or "").split()).strip("。.")
                if clean:
                    kept.append({**region, "short": clean, "long": clean, "language": self.language})
                else:
                    items.append(Reject(uid, "no_text", f"of “{(region['short'] or '')[:80]}”", f"regions[{i}]"))
            relabelled.append(kept)
        few = [len(kept) < self.min_regions for kept in relabelled]
        refused: Any = {"too_few_regions": (few, lambda i: f"{len(relabelled[i])} < {self.min_regions}")}
        return keep(batch.select(["uid"]), {"regions": pa.array(relabelled, REGIONS)}, unless=refused, items=items)
