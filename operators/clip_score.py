"""Score how well a picture and its captions go together, and how good it looks, with a CLIP-like model of open_clip.

Reads    the picture; `column`    list<string> or string (`captions` by default)
Writes   clip_score    float32, cosine of the picture and the caption that fits it best; null without a caption
         aesthetic     float32, `aesthetic_head` applied to the picture's vector, about 1 to 10; null without a head
Refuses  "low_clip_score"   below `min_clip_score`
         "low_aesthetic"    below `min_aesthetic`
Source   CLIP score: LAION-400M keeps pairs from 0.3 on (ViT-B/32). Aesthetic head: LAION's linear predictor, one row of
         weights and a bias over the unit picture vector of ViT-L/14 (`sa_0_4_vit_l_14_linear`), as a .safetensors file with
         `weight` [1, D] and `bias` [1]

Weights are the user's: `model: local-dir:FOLDER`, or a name with `pretrained: FILE`. A caption beyond the tower's length is cut:
`sentence_similarity` is for long ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import Field, PrivateAttr, model_validator

from operators.base import Operator, Outcome, keep, schema
from operators.columns import BASE
from operators.needs import Need, open_clip_model
from operators.picture_text import encoder


class ClipScore(Operator):
    column: str = "captions"
    model: str = "ViT-B-16-SigLIP2"
    pretrained: str = "webli"
    device: str = "auto"
    aesthetic_head: str | None = Field(None, exclude=True)
    min_clip_score: float | None = None
    min_aesthetic: float | None = None
    content: str = Field("", description="filled in: SHA-256 of the head's file")

    _weight: tuple[float, ...] = PrivateAttr(default=())
    _bias: float = PrivateAttr(default=0.0)

    version: ClassVar[int] = 1
    needs_image: ClassVar[bool] = True
    reasons: ClassVar[dict[str, str]] = {
        "low_clip_score": "no caption fits the picture well enough",
        "low_aesthetic": "the picture looks too poor",
    }

    @model_validator(mode="after")
    def _read(self) -> Self:
        if self.min_aesthetic is not None and self.aesthetic_head is None:
            raise ValueError("min_aesthetic: needs an aesthetic_head")
        if self.aesthetic_head is None:
            return self
        from safetensors.numpy import load

        try:
            data = Path(self.aesthetic_head).read_bytes()
            tensors = load(data)
            weight, bias = tensors["weight"], tensors["bias"]
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"aesthetic_head: {self.aesthetic_head}: {type(error).__name__}: {error}") from None
        except Exception as error:  # safetensors has an error type of its own
            raise ValueError(f"aesthetic_head: {self.aesthetic_head} is no safetensors file: {error}") from None
        self._weight = tuple(np.asarray(weight, np.float64).reshape(-1).tolist())
        self._bias = float(np.asarray(bias).reshape(-1)[0])
        object.__setattr__(self, "content", sha256(data).hexdigest())
        return self

    @property
    def reads(self) -> pa.Schema:
        return pa.schema([(self.column, BASE.field(self.column).type if self.column in BASE.names else pa.string())])

    @property
    def writes(self) -> pa.Schema:
        return schema(clip_score=pa.float32(), aesthetic=pa.float32())

    def needs(self) -> list[Need]:
        return open_clip_model(self.model, self.pretrained)

    def setup(self) -> None:
        encoder(self.model, self.pretrained, self.device)

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        encode = encoder(self.model, self.pretrained, self.device)
        scores: list[float | None] = []
        looks: list[float | None] = []
        for value, image in zip(batch[self.column].to_pylist(), images or [], strict=True):
            texts = [text for text in (value if isinstance(value, list) else [value]) if text and text.strip()]
            if not texts and not self._weight:
                scores.append(None)
                looks.append(None)
                continue
            vector = encode.pictures([image])[0]
            # One text at a time: a vector must not depend on its neighbours' lengths, and a sample not on its batch.
            scores.append(max((float(encode.texts([text])[0] @ vector) for text in texts), default=None))
            looks.append(self._look(vector))
        low = [s is not None and self.min_clip_score is not None and s < self.min_clip_score for s in scores]
        poor = [s is not None and self.min_aesthetic is not None and s < self.min_aesthetic for s in looks]
        return keep(
            batch,
            {"clip_score": pa.array(scores, pa.float32()), "aesthetic": pa.array(looks, pa.float32())},
            unless={
                "low_clip_score": (low, lambda i: f"{scores[i]:.3f} < {self.min_clip_score}"),
                "low_aesthetic": (poor, lambda i: f"{looks[i]:.2f} < {self.min_aesthetic}"),
            },
        )

    def _look(self, vector: np.ndarray) -> float | None:
        if not self._weight:
            return None
        if len(self._weight) != len(vector):
            raise ValueError(f"aesthetic_head: has {len(self._weight)} weights, the model's vectors have {len(vector)} numbers")
        return float(np.dot(self._weight, vector.astype(np.float64))) + self._bias
