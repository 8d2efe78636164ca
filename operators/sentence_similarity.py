"""Score a long caption against its picture sentence by sentence, since a CLIP-like text tower reads no more than one or two.

Reads    `column`                string; and the picture
Writes   `column`_similarity     list<float32>, cosine of picture and each sentence; null without a caption
         `column`_worst          float32, the lowest of them: `select` can judge by it
Refuses  nothing
Source   score filters that truncate at the tower's length say nothing of a long caption's end
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pyarrow as pa
from PIL import Image

from operators.base import Operator, Outcome, keep
from operators.needs import Need, open_clip_model
from operators.picture_text import encoder
from operators.validators import sentences


class SentenceSimilarity(Operator):
    column: str
    model: str = "ViT-B-16-SigLIP2"
    pretrained: str = "webli"
    device: str = "auto"

    version: ClassVar[int] = 1
    needs_image: ClassVar[bool] = True

    @property
    def reads(self) -> pa.Schema:
        return pa.schema([(self.column, pa.string())])

    @property
    def writes(self) -> pa.Schema:
        return pa.schema([(f"{self.column}_similarity", pa.list_(pa.float32())), (f"{self.column}_worst", pa.float32())])

    def needs(self) -> list[Need]:
        return open_clip_model(self.model, self.pretrained)

    def setup(self) -> None:
        encoder(self.model, self.pretrained, self.device)

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        assert images is not None
        encode = encoder(self.model, self.pretrained, self.device)
        scores: list[list[float] | None] = []
        for text, image in zip(batch[self.column].to_pylist(), images, strict=True):
            parts = sentences.split(text) if text else []
            scores.append((encode.texts(parts) @ encode.pictures([image])[0]).tolist() if parts else None)
        columns = {
            f"{self.column}_similarity": pa.array(scores, pa.list_(pa.float32())),
            f"{self.column}_worst": pa.array([min(found) if found else None for found in scores], pa.float32()),
        }
        return keep(batch.select(["uid"]), columns)
