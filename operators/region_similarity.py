"""Keep the regions whose expression fits what is inside the box, by a CLIP-like model.

Reads    regions   REGIONS; and the picture
Writes   regions   those that fit
         region_similarity   list<float32>, aligned with the regions kept: cosine of cut-out and short expression
Refuses  single regions, "dissimilar"
Source   BoxClass-CN: region-text similarity above 0.15, by FG-CLIP. Cosines of different models are not comparable: set the
         threshold for yours
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pyarrow as pa
from PIL import Image
from pydantic import Field

from operators import boxes
from operators.base import Operator, Outcome, Reject, keep, schema
from operators.columns import REGIONS
from operators.needs import Need, open_clip_model
from operators.picture_text import encoder


class RegionSimilarity(Operator):
    model: str = "ViT-B-16-SigLIP2"
    pretrained: str = "webli"
    device: str = "auto"
    min_similarity: float = Field(0.15, ge=-1, le=1, description="a region is kept above it")
    context: float = Field(0.1, ge=0, le=1, description="share of the box's sides that is cut out around it")

    version: ClassVar[int] = 1
    needs_image: ClassVar[bool] = True
    reasons: ClassVar[dict[str, str]] = {"dissimilar": "the expression does not fit what is inside the box"}

    @property
    def reads(self) -> pa.Schema:
        return schema(regions=REGIONS)

    @property
    def writes(self) -> pa.Schema:
        return schema(regions=REGIONS, region_similarity=pa.list_(pa.float32()))

    def needs(self) -> list[Need]:
        return open_clip_model(self.model, self.pretrained)

    def setup(self) -> None:
        encoder(self.model, self.pretrained, self.device)

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        assert images is not None
        encode = encoder(self.model, self.pretrained, self.device)
        uids = batch["uid"].to_pylist()
        kept: list[list[dict[str, Any]]] = []
        similarities: list[list[float]] = []
        items: list[Reject] = []
        for uid, found, image in zip(uids, batch["regions"].to_pylist(), images, strict=True):
            regions = [region for region in found or [] if usable(region)]
            scores: list[float] = []
            if regions:
                cuts = encode.pictures([self.cut(image, region["box"]) for region in regions])
                texts = encode.texts([region["short"] for region in regions])
                scores = (cuts * texts).sum(axis=1).tolist()
            fits = [score > self.min_similarity for score in scores]
            for i, (score, fit) in enumerate(zip(scores, fits, strict=True)):
                if not fit:
                    detail = f"{score:.3f} <= {self.min_similarity:g} for “{regions[i]['short'][:80]}”"
                    items.append(Reject(uid, "dissimilar", detail, f"regions[{i}]"))
            kept.append([region for region, fit in zip(regions, fits, strict=True) if fit])
            similarities.append([score for score, fit in zip(scores, fits, strict=True) if fit])
        columns = {
            "regions": pa.array(kept, REGIONS),
            "region_similarity": pa.array(similarities, pa.list_(pa.float32())),
        }
        return keep(batch.select(["uid"]), columns, items=items)

    def cut(self, image: Image.Image, box: Sequence[float]) -> Image.Image:
        """The box and some of what is around it."""
        wide, high = self.context * (box[2] - box[0]), self.context * (box[3] - box[1])
        larger = (max(0.0, box[0] - wide), max(0.0, box[1] - high), min(1.0, box[2] + wide), min(1.0, box[3] + high))
        x1, y1, x2, y2 = boxes.to_pixels(larger, *image.size)
        return image.crop((x1, y1, x2, y2))


def usable(region: dict[str, Any]) -> bool:
    box = region.get("box")
    if not box or any(x is None or not 0 <= x <= 1 for x in box) or not region.get("short"):
        return False
    return box[0] < box[2] and box[1] < box[3]
