"""Score each region's expression and its ten negatives against the picture inside its box with a CLIP model.

Reads    regions     REGIONS
         negatives   NEGATIVES, aligned with `regions`
Writes   positive_scores   list<float32>, aligned with `regions`: cosine of the box's picture and the expression; null without a group
         negative_scores   list<list<float32>>: the same of the ten negatives
Refuses  nothing
Source   OpenCLIP; FineHARD keeps regions above 0.15. Thresholds are `verify_negatives`' business

Such a model hardly tells attributes apart, so its scores decide only plain cases: an expression that has nothing to do with its box, a
negative that fits it far better than the expression does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

import pyarrow as pa
from PIL import Image
from pydantic import Field

from operators import boxes
from operators.base import Operator, Outcome, keep, schema
from operators.columns import NEGATIVES, REGIONS

SCORES = pa.list_(pa.float32())


class ScoreNegatives(Operator):
    model: str = "xlm-roberta-base-ViT-B-32"
    """OpenCLIP's name of the model, which reads both languages; or "local-dir:PATH" of one on the disk."""
    pretrained: str | None = "laion5b_s13b_b90k"
    """OpenCLIP's name of the weights, or a file; none for a local-dir."""
    context: float = Field(0.1, ge=0, le=1)
    """How much of its sides a box is widened by: attributes are seen beside something."""
    device: str = "auto"
    texts_at_once: int = Field(128, ge=1)

    version: ClassVar[int] = 1
    needs_image: ClassVar[bool] = True
    reasons: ClassVar[dict[str, str]] = {}

    @property
    def reads(self) -> pa.Schema:
        return schema(regions=REGIONS, negatives=NEGATIVES)

    @property
    def writes(self) -> pa.Schema:
        return schema(positive_scores=SCORES, negative_scores=pa.list_(SCORES))

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        assert images is not None
        positives: list[list[float | None]] = []
        negatives: list[list[list[float]]] = []
        for found, groups, image in zip(batch["regions"].to_pylist(), batch["negatives"].to_pylist(), images, strict=True):
            scores = []
            for r, region in enumerate(found or []):
                group = groups[r] if groups and r < len(groups) else []
                scored = bool(group) and region["short"] and _usable(region["box"])
                scores.append(self._scores(image, region, group) if scored else [])
            positives.append([of_region[0] if of_region else None for of_region in scores])
            negatives.append([of_region[1:] for of_region in scores])
        columns = {"positive_scores": pa.array(positives, SCORES), "negative_scores": pa.array(negatives, pa.list_(SCORES))}
        return keep(batch, columns)

    def _scores(self, image: Image.Image, region: dict[str, Any], group: list[dict[str, Any]]) -> list[float]:
        """Of the expression and of its negatives."""
        import torch

        model, transform, tokenizer, device = load(self.model, self.pretrained, self.device)
        texts = [region["short"], *(negative["text"] or "" for negative in group)]
        with torch.inference_mode():
            picture = model.encode_image(transform(self._part(image, region["box"]))[None].to(device), normalize=True)
            parts = [
                model.encode_text(tokenizer(texts[i : i + self.texts_at_once]).to(device), normalize=True)
                for i in range(0, len(texts), self.texts_at_once)
            ]
            return [float(score) for score in torch.cat(parts) @ picture[0]]

    def _part(self, image: Image.Image, box: Sequence[float]) -> Image.Image:
        wide, high = (box[2] - box[0]) * self.context, (box[3] - box[1]) * self.context
        wider = max(0.0, box[0] - wide), max(0.0, box[1] - high), min(1.0, box[2] + wide), min(1.0, box[3] + high)
        x1, y1, x2, y2 = boxes.to_pixels(wider, *image.size)
        return image.crop((x1, y1, min(x2, image.width), min(y2, image.height)))


def _usable(box: Sequence[float] | None) -> bool:
    return (
        box is not None and all(value is not None and 0 <= value <= 1 for value in box) and box[0] < box[2] and box[1] < box[3]
    )


@lru_cache(maxsize=1)
def load(name: str, pretrained: str | None, device: str) -> tuple[Any, Any, Any, str]:
    """Model, picture transform, tokenizer and device; once per process."""
    import open_clip
    import torch

    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    model, _, transform = open_clip.create_model_and_transforms(name, pretrained=pretrained, device=where)
    return model.eval(), transform, open_clip.get_tokenizer(name), where
