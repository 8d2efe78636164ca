"""Judge a picture by the score that its source gave it for nudity and the like. (`onnx_score` runs a model of yours.)

Reads    source_nsfw       string: a number, or LAION's words UNLIKELY, UNSURE, NSFW
Writes   nsfw              float32, 0 harmless to 1; null where the source says nothing that is understood
Refuses  "nsfw"            above `max_score`
         "nsfw_unknown"    no score, with `unknown: refuse`
Source   LAION-5B's tables: `punsafe` as a number, LAION-400M's NSFW as words
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import pyarrow as pa
from PIL import Image
from pydantic import Field

from operators.base import Operator, Outcome, keep, schema

WORDS = {"unlikely": 0.0, "unsure": 0.5, "nsfw": 1.0, "false": 0.0, "true": 1.0}


def score_of(text: str | None) -> float | None:
    word = (text or "")[:40].strip().lower()
    if word in WORDS:
        return WORDS[word]
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value <= 1 else None


class Nsfw(Operator):
    max_score: float | None = Field(0.5, ge=0, le=1)
    unknown: Literal["keep", "refuse"] = "keep"

    version: ClassVar[int] = 1
    reasons: ClassVar[dict[str, str]] = {"nsfw": "the score is above the limit", "nsfw_unknown": "the source gives no score"}

    @property
    def reads(self) -> pa.Schema:
        return schema(source_nsfw=pa.string())

    @property
    def writes(self) -> pa.Schema:
        return schema(nsfw=pa.float32())

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        said = batch["source_nsfw"].to_pylist()
        scores = [score_of(text) for text in said]
        limit = 1.0 if self.max_score is None else self.max_score
        return keep(
            batch,
            {"nsfw": pa.array(scores, pa.float32())},
            unless={
                "nsfw": ([score is not None and score > limit for score in scores], lambda i: f"{scores[i]} > {limit}"),
                "nsfw_unknown": (
                    [score is None and self.unknown == "refuse" for score in scores],
                    lambda i: f"source says {said[i]!r:.60}",
                ),
            },
        )
